{{- /* What the schema cannot say: values that do not fit each other. Each message says what to do. */ -}}
{{- define "millpond.check" -}}
{{- $config := include "millpond.config" . | fromYaml -}}
{{- range $section := list "registry" "admin" -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" (get $config $section).listen -}}
{{- fail (printf "config.%s.listen: %s is reached from inside the pod only; write 0.0.0.0:<port>, or leave it out" $section (get $config $section).listen) -}}
{{- end -}}
{{- end -}}
{{- if ne $config.cache.directory "/var/lib/millpond" -}}
{{- fail (printf "config.cache.directory: %s is not where the chart mounts the cache; leave it out" $config.cache.directory) -}}
{{- end -}}
{{- $grace := default 25 $config.registry.grace_period | toString | lower | nospace -}}
{{- $seconds := 0 -}}
{{- range regexFindAll "[0-9.]+[a-z]*" $grace -1 -}}
{{- $unit := get (dict "ms" 0.001 "s" 1 "m" 60 "h" 3600 "d" 86400 "w" 604800) (default "s" (regexFind "[a-z]+" .)) -}}
{{- $seconds = addf $seconds (mulf (regexFind "[0-9.]+" . | float64) $unit) -}}
{{- end -}}
{{- $least := add 10 (ceil $seconds | int) -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "terminationGracePeriodSeconds: %v cuts off what config.registry.grace_period (%s) grants; write %d or more" .Values.terminationGracePeriodSeconds $grace $least) -}}
{{- end -}}
{{- $access := default dict $config.access -}}
{{- if and (include "millpond.hasHaproxy" .) (or $access.networks $access.max_pulls) (not $access.trusted_forwarders) -}}
{{- fail "config.access.trusted_forwarders: to access.networks and access.max_pulls every client has HAProxy's address; name the cluster's range of pod addresses, which the NetworkPolicy lets nobody but HAProxy use" -}}
{{- end -}}
{{- include "millpond.checkSecrets" . -}}
{{- include "millpond.checkTls" . -}}
{{- include "millpond.checkMode" . -}}
{{- end -}}

{{- define "millpond.checkSecrets" -}}
{{- $mounted := list -}}
{{- range .Values.existingSecrets -}}{{- $mounted = append $mounted .name -}}{{- end -}}
{{- range regexFindAll "/run/secrets/millpond/[^/\"\\s]+" (toJson .Values.config) -1 -}}
{{- $name := trimPrefix "/run/secrets/millpond/" . -}}
{{- if not (has $name $mounted) -}}
{{- fail (printf "config: names a file in %s, but existingSecrets does not have %s; add {name: %s}" . $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "millpond.checkTls" -}}
{{- $tls := .Values.tls -}}
{{- if (default dict .Values.config.registry).tls -}}
{{- fail "config.registry.tls: the chart writes it, and HAProxy, the node mirror and helm test have to know; set tls.enabled and tls.existingSecret in its place" -}}
{{- end -}}
{{- if and $tls.enabled (not $tls.existingSecret) (not $tls.certManager.enabled) -}}
{{- fail "tls.enabled: there is no certificate; set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $tls.certManager.enabled (or (not $tls.enabled) (not $tls.certManager.issuerRef.name)) -}}
{{- fail "tls.certManager.enabled: needs tls.enabled and tls.certManager.issuerRef.name as well" -}}
{{- end -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- fail "tls.existingSecret: tls.certManager makes the Secret; keep one of them" -}}
{{- end -}}
{{- if and $tls.clientCaSecret (not $tls.enabled) -}}
{{- fail "tls.clientCaSecret: clients show certificates over TLS only; set tls.enabled" -}}
{{- end -}}
{{- if and $tls.clientCaSecret .Values.nodeMirror.enabled -}}
{{- fail "nodeMirror.enabled: the hosts.toml that it writes has no client certificate; leave tls.clientCaSecret out, or write the nodes' files yourself" -}}
{{- end -}}
{{- end -}}

{{- define "millpond.checkMode" -}}
{{- if eq .Values.mode "node" -}}
{{- if eq .Values.autoscaling.kind "hpa" -}}
{{- fail "autoscaling.kind: hpa counts instances, but mode node has one on every node; write none or vpa" -}}
{{- end -}}
{{- range list "ingress" "httpRoute" -}}
{{- if (get $.Values .).enabled -}}
{{- fail (printf "%s.enabled: mode node serves its own node; use mode central for clients from outside" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $upstream := default dict .Values.config.upstreams -}}
{{- if and $.Values.node.parent $upstream (or $upstream.username $upstream.auth) (not $upstream.url) -}}
{{- fail (printf "config.upstreams.%s: with node.parent the credential belongs to the parent's configuration; remove it here" $name) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if .Values.node.parent -}}
{{- fail "node.parent: is for mode node only; leave it empty" -}}
{{- end -}}
{{- if and (not .Values.haproxy.enabled) (gt (include "millpond.maxReplicas" . | int) 1) -}}
{{- if not .Values.haproxy.ownBalancer -}}
{{- fail "haproxy.enabled: without HAProxy a blob has no home, and every instance fetches every blob; set central.replicas to 1, or haproxy.ownBalancer when a balancer of yours hashes as files/haproxy.cfg.tpl does" -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "hpa") (gt (int .Values.autoscaling.hpa.minReplicas) (int .Values.autoscaling.hpa.maxReplicas)) -}}
{{- fail "autoscaling.hpa.minReplicas: more than maxReplicas; exchange them" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host, or leave ingress.enabled off" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the gateway that the route attaches to" -}}
{{- end -}}
{{- if and .Values.nodeMirror.enabled (not (include "millpond.nodeAddress" .)) -}}
{{- fail "nodeMirror.address: nodes do not know the cluster's DNS names; write a URL that every node reaches, or set service.clusterIP or service.type NodePort with service.nodePort" -}}
{{- end -}}
{{- end -}}
