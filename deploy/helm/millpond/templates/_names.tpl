{{- define "millpond.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Pods, their volumes and DNS names get suffixes of up to 20 characters; a label has 63. */ -}}
{{- define "millpond.fullname" -}}
{{- $name := include "millpond.name" . -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $own .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Call with (list . "component"). Selectors never change between versions. */ -}}
{{- define "millpond.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "millpond.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "millpond.labels" -}}
{{- $root := index . 0 -}}
{{ include "millpond.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "millpond.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "millpond.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Call with (list . image-values default-tag). */ -}}
{{- define "millpond.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 2) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* Whether HAProxy stands before the instances: "true" or nothing. */ -}}
{{- define "millpond.hasHaproxy" -}}
{{- if and (eq .Values.mode "central") .Values.haproxy.enabled -}}true{{- end -}}
{{- end -}}

{{- /* The Secret with the certificate of whoever ends TLS. */ -}}
{{- define "millpond.tlsSecret" -}}
{{- default (printf "%s-tls" (include "millpond.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "millpond.scheme" -}}
{{- ternary "https" "http" .Values.tls.enabled -}}
{{- end -}}

{{- /* The whole DNS name of the service that clients use. */ -}}
{{- define "millpond.serviceHost" -}}
{{- printf "%s.%s.svc.%s" (include "millpond.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- /* An address as a URL has it. */ -}}
{{- define "millpond.inUrl" -}}
{{- if contains ":" . -}}[{{ . }}]{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{- /* Where a node reaches Millpond, as far as the values say it: a URL, or nothing. */ -}}
{{- define "millpond.nodeAddress" -}}
{{- $scheme := include "millpond.scheme" . -}}
{{- if .Values.nodeMirror.address -}}
{{- .Values.nodeMirror.address -}}
{{- else if eq .Values.mode "node" -}}
{{- printf "%s://%s:%v" $scheme (include "millpond.inUrl" (default "127.0.0.1" .Values.node.hostIP)) .Values.node.hostPort -}}
{{- else if and .Values.service.clusterIP (ne .Values.service.clusterIP "None") -}}
{{- printf "%s://%s:%v" $scheme (include "millpond.inUrl" .Values.service.clusterIP) .Values.service.port -}}
{{- else if and (eq .Values.service.type "NodePort") .Values.service.nodePort -}}
{{- printf "%s://127.0.0.1:%v" $scheme .Values.service.nodePort -}}
{{- end -}}
{{- end -}}

{{- /* The most instances that there can be. */ -}}
{{- define "millpond.maxReplicas" -}}
{{- if eq .Values.autoscaling.kind "hpa" -}}
{{- .Values.autoscaling.hpa.maxReplicas -}}
{{- else -}}
{{- .Values.central.replicas -}}
{{- end -}}
{{- end -}}

{{- /* Call with (list . constraints component): the given ones with our selector where they have none, else zones, then
       nodes. ScheduleAnyway: a cache that runs in the wrong zone is better than one that does not run. */ -}}
{{- define "millpond.spread" -}}
{{- $selector := dict "matchLabels" (include "millpond.selector" (list (index . 0) (index . 2)) | fromYaml) -}}
{{- $zone := dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway" -}}
{{- $host := dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway" -}}
{{- $out := list -}}
{{- range default (list $zone $host) (index . 1) -}}
{{- $out = append $out (hasKey . "labelSelector" | ternary . (merge (dict "labelSelector" $selector) .)) -}}
{{- end -}}
{{- toYaml $out -}}
{{- end -}}

{{- /* What PodSecurity "restricted" asks of every container. */ -}}
{{- define "millpond.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
