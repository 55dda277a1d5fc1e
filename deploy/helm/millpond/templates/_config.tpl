{{- /*
The configuration: .Values.config as it stands, and below it what the chart knows and the values leave open. As YAML.
  - addresses: probes and Prometheus come from outside the pod
  - the cache's directory; in mode central nearly the whole volume, in mode node a part of a disk that is not ours alone
  - registry.tls when Millpond ends TLS itself
  - several instances with ECR targets: ecr.balancer, so that what is pushed is read from the instance that has it. With
    TLS at HAProxy that is left to the values: only they know a name that its certificate has. With users in access, so
    are ecr.balancer_username and ecr.balancer_password_file: a Secret of existingSecrets has the password
  - in mode node with a parent: each upstream's URL, in containerd's path style, which keeps the registries apart
*/ -}}
{{- define "millpond.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $cache := dict "directory" "/var/lib/millpond" -}}
{{- if eq .Values.mode "node" -}}
{{- /* The kubelet removes images when a disk is 85 % full: stay out of its way. */ -}}
{{- $cache = merge $cache (dict "max_size" "20%" "min_free" "20%") -}}
{{- else if .Values.central.persistence.enabled -}}
{{- $cache = merge $cache (dict "max_size" "90%") -}}
{{- else -}}
{{- /* An emptyDir is on the node's disk, of which a percentage would be: beyond its sizeLimit the pod is evicted. */ -}}
{{- $size := .Values.central.persistence.size -}}
{{- $number := regexFind "^[0-9.]+" $size | float64 | mulf 0.9 -}}
{{- $cache = merge $cache (dict "max_size" (printf "%.2f%sB" $number (regexFind "[A-Za-z]*$" $size))) -}}
{{- end -}}
{{- $registry := dict "listen" "0.0.0.0:5000" -}}
{{- if and .Values.tls.enabled (not (include "millpond.hasHaproxy" .)) -}}
{{- $tls := dict "cert_file" "/run/secrets/millpond-tls/tls.crt" "key_file" "/run/secrets/millpond-tls/tls.key" -}}
{{- if .Values.tls.clientCaSecret -}}
{{- $_ := set $tls "client_ca_file" "/run/secrets/millpond-client-ca/ca.crt" -}}
{{- end -}}
{{- $_ := set $registry "tls" $tls -}}
{{- end -}}
{{- $own := dict "registry" $registry "admin" (dict "listen" "0.0.0.0:5001") "cache" $cache -}}
{{- range $section, $keys := $own -}}
{{- $_ := set $config $section (merge (deepCopy (default dict (get $config $section))) $keys) -}}
{{- end -}}
{{- $ecr := default dict $config.ecr -}}
{{- $several := and (include "millpond.hasHaproxy" .) (gt (int (include "millpond.maxReplicas" .)) 1) -}}
{{- if and $ecr.targets $several (not .Values.tls.enabled) (not (hasKey $ecr "balancer")) -}}
{{- $address := printf "http://%s:%v" (include "millpond.serviceHost" .) .Values.service.port -}}
{{- $_ := set $config "ecr" (merge (dict "balancer" $address) $ecr) -}}
{{- end -}}
{{- if and (eq .Values.mode "node") .Values.node.parent -}}
{{- $parent := trimSuffix "/" .Values.node.parent -}}
{{- $upstreams := default dict $config.upstreams -}}
{{- range include "millpond.upstreams" . | fromYamlArray -}}
{{- $upstream := default dict (get $upstreams .) -}}
{{- if not (hasKey $upstream "url") -}}
{{- $upstream = merge (dict "url" (printf "%s/%s" $parent .)) $upstream -}}
{{- end -}}
{{- $_ := set $upstreams . $upstream -}}
{{- end -}}
{{- $_ := set $config "upstreams" $upstreams -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* The names of all upstreams, as a YAML list: the built-in ones, without those set to null, and the configured. */ -}}
{{- define "millpond.upstreams" -}}
{{- $configured := default dict .Values.config.upstreams -}}
{{- $names := list -}}
{{- range list "docker.io" "ghcr.io" "registry.k8s.io" "quay.io" -}}
{{- if not (and (hasKey $configured .) (kindIs "invalid" (get $configured .))) -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- range keys $configured | sortAlpha -}}
{{- if not (kindIs "invalid" (get $configured .)) -}}
{{- $names = append $names . -}}
{{- end -}}
{{- end -}}
{{- uniq $names | toYaml -}}
{{- end -}}

{{- /* The port of "0.0.0.0:5000" or "[::]:5000". */ -}}
{{- define "millpond.registryPort" -}}
{{- $config := include "millpond.config" . | fromYaml -}}
{{- regexFind "[0-9]+$" $config.registry.listen -}}
{{- end -}}

{{- define "millpond.adminPort" -}}
{{- $config := include "millpond.config" . | fromYaml -}}
{{- regexFind "[0-9]+$" $config.admin.listen -}}
{{- end -}}
