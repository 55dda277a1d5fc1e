{{- /* The pod of an instance; StatefulSet and DaemonSet share it. */ -}}
{{- define "millpond.pod" -}}
metadata:
  labels:
    {{- include "millpond.labels" (list . "cache") | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Millpond reads its configuration once: a new one is a new pod.
    checksum/config: {{ include "millpond.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "millpond.serviceAccountName" . }}
  # Millpond never asks Kubernetes anything. IRSA and Pod Identity mount tokens of their own.
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    # Without this, every start would walk the whole cache.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $tolerations := .Values.tolerations }}
  {{- if and (eq .Values.mode "node") .Values.node.tolerateAll }}
  {{- $tolerations = append $tolerations (dict "operator" "Exists") }}
  {{- end }}
  {{- with $tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.mode "central" }}
  topologySpreadConstraints:
    {{- include "millpond.spread" (list . .Values.topologySpreadConstraints "cache") | nindent 4 }}
  {{- else }}
  initContainers:
    # The kubelet makes a hostPath directory for root. This gives it, and nothing in it, to Millpond's user.
    - name: directory
      image: {{ include "millpond.image" (list . .Values.image .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python, -c, "import os; os.chown('/var/lib/millpond', 65532, 65532)"]
      securityContext:
        runAsNonRoot: false
        runAsUser: 0
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL], add: [CHOWN]}
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 64Mi}
      volumeMounts:
        - {name: cache, mountPath: /var/lib/millpond}
  {{- end }}
  containers:
    - name: millpond
      image: {{ include "millpond.image" (list . .Values.image .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        - {name: MILLPOND_CONFIG, value: /etc/millpond/millpond.yaml}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: registry
          containerPort: {{ include "millpond.registryPort" . }}
          {{- if eq .Values.mode "node" }}
          hostPort: {{ .Values.node.hostPort }}
          {{- with .Values.node.hostIP }}
          hostIP: {{ . }}
          {{- end }}
          {{- end }}
        - name: metrics
          containerPort: {{ include "millpond.adminPort" . }}
      securityContext:
        {{- include "millpond.containerSecurity" . | nindent 8 }}
      # At the first start the ledger of a large, old cache directory may have to be made anew.
      startupProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      lifecycle:
        # Those who balance learn that this pod goes, before its port closes.
        preStop: {sleep: {seconds: 5}}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/millpond, readOnly: true}
        - {name: cache, mountPath: /var/lib/millpond}
        - {name: tmp, mountPath: /tmp}
        {{- range .Values.existingSecrets }}
        - {name: {{ printf "secret-%s" .name | trunc 63 | trimSuffix "-" | replace "." "-" }}, mountPath: /run/secrets/millpond/{{ .name }}, readOnly: true}
        {{- end }}
        {{- if and .Values.tls.enabled (not (include "millpond.hasHaproxy" .)) }}
        - {name: tls, mountPath: /run/secrets/millpond-tls, readOnly: true}
        {{- if .Values.tls.clientCaSecret }}
        - {name: client-ca, mountPath: /run/secrets/millpond-client-ca, readOnly: true}
        {{- end }}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "millpond.fullname" . }}}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if eq .Values.mode "node" }}
    - name: cache
      hostPath: {path: {{ .Values.node.hostPath }}, type: DirectoryOrCreate}
    {{- else if not .Values.central.persistence.enabled }}
    - name: cache
      emptyDir: {sizeLimit: {{ .Values.central.persistence.size }}}
    {{- end }}
    {{- range .Values.existingSecrets }}
    - name: {{ printf "secret-%s" .name | trunc 63 | trimSuffix "-" | replace "." "-" }}
      secret: {secretName: {{ .name }}, defaultMode: 0440}
    {{- end }}
    {{- if and .Values.tls.enabled (not (include "millpond.hasHaproxy" .)) }}
    - name: tls
      secret: {secretName: {{ include "millpond.tlsSecret" . }}, defaultMode: 0440}
    {{- with .Values.tls.clientCaSecret }}
    - name: client-ca
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
