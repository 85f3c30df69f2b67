{{/* Name of a part of the release: RELEASE-PART. Takes (dict "root" $ "part" "worker"). */}}
{{- define "espalier.name" -}}
{{- printf "%s-%s" (.root.Release.Name | trunc 40 | trimSuffix "-") .part -}}
{{- end -}}

{{/* Labels that select a part's pods. */}}
{{- define "espalier.selector" -}}
app.kubernetes.io/name: espalier
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "espalier.labels" -}}
{{ include "espalier.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Image of a program: (dict "root" $ "program" "reward"). */}}
{{- define "espalier.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- printf "espalier-%s:%s" .program (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}

{{/* What every pod has, as Pod Security "restricted" wants it: (dict "root" $ "part" "worker" "values" .Values.worker). */}}
{{- define "espalier.podBasics" -}}
serviceAccountName: {{ include "espalier.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "espalier.priorityClass" .root }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "espalier.priorityClass" -}}
{{- if .Values.priorityClass.create -}}
{{ default (printf "%s-espalier" .Release.Name) .Values.priorityClass.name }}
{{- else -}}
{{ .Values.priorityClass.name }}
{{- end -}}
{{- end -}}

{{- define "espalier.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Secret with a part's certificate: coordinator, reward or client. */}}
{{- define "espalier.tlsSecret" -}}
{{- if .root.Values.tls.certManager.enabled -}}
{{ include "espalier.name" (dict "root" .root "part" (printf "%s-tls" .part)) }}
{{- else -}}
{{ index .root.Values.tls.secrets .part }}
{{- end -}}
{{- end -}}

{{/* How a server proves who it is, and asks of its callers: (dict "root" $ "part" "coordinator"). */}}
{{- define "espalier.serverArgs" -}}
{{- if .root.Values.tls.enabled }}
- --tls-cert=/etc/espalier/tls/tls.crt
- --tls-key=/etc/espalier/tls/tls.key
{{- if .root.Values.tls.mutual }}
- --tls-client-ca=/etc/espalier/tls/ca.crt
{{- end }}
{{- else }}
- --insecure
{{- end }}
{{- if .root.Values.auth.hashesSecret }}
- --tokens=/etc/espalier/auth/tokens
{{- end }}
{{- end -}}

{{/* How a client proves who it is: (dict "root" $ "token" "worker"). */}}
{{- define "espalier.clientArgs" -}}
{{- if .root.Values.tls.enabled }}
- --tls-ca=/etc/espalier/tls/ca.crt
{{- if .root.Values.tls.mutual }}
- --tls-client-cert=/etc/espalier/tls/tls.crt
- --tls-client-key=/etc/espalier/tls/tls.key
{{- end }}
{{- end }}
{{- if .root.Values.auth.tokensSecret }}
- --token-file=/etc/espalier/auth/{{ .token }}
{{- end }}
{{- end -}}

{{- define "espalier.traceArgs" -}}
{{- with .Values.tracing.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- if .Values.tracing.otlpCaSecret }}
- --otlp-ca=/etc/espalier/otlp/ca.crt
{{- end }}
{{- end -}}

{{/* Mounts and volumes of certificates, tokens and the collector's authority:
     (dict "root" $ "tls" "client" "auth" SECRET "otlp" true). */}}
{{- define "espalier.secretMounts" -}}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/espalier/tls, readOnly: true}
{{- end }}
{{- if .auth }}
- {name: auth, mountPath: /etc/espalier/auth, readOnly: true}
{{- end }}
{{- if and .otlp .root.Values.tracing.otlpCaSecret }}
- {name: otlp, mountPath: /etc/espalier/otlp, readOnly: true}
{{- end }}
{{- end -}}
{{- define "espalier.secretVolumes" -}}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "espalier.tlsSecret" (dict "root" .root "part" .tls) }}, defaultMode: 0440}
{{- end }}
{{- if .auth }}
- name: auth
  secret: {secretName: {{ .auth }}, defaultMode: 0440}
{{- end }}
{{- if and .otlp .root.Values.tracing.otlpCaSecret }}
- name: otlp
  secret: {secretName: {{ .root.Values.tracing.otlpCaSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Probes of a gRPC server: on the health port, which speaks plaintext and asks for no token. Readiness is gRPC's own word; liveness
     only that the port answers, for a full disk is no reason to start again and again. */}}
{{- define "espalier.serverProbes" -}}
startupProbe:
  tcpSocket: {port: health}
  periodSeconds: 2
  failureThreshold: 150
readinessProbe:
  grpc: {port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  tcpSocket: {port: health}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Addresses that clients call. */}}
{{- define "espalier.coordinatorAddress" -}}
{{ include "espalier.name" (dict "root" . "part" "coordinator") }}.{{ .Release.Namespace }}.svc:{{ .Values.coordinator.port }}
{{- end -}}
{{- define "espalier.rewardAddress" -}}
{{ include "espalier.name" (dict "root" . "part" "reward") }}.{{ .Release.Namespace }}.svc:{{ .Values.reward.port }}
{{- end -}}

{{/* Pod of the command line, for the hooks and the backup: (dict "root" $ "name" "submit" "token" "submitter" "args" (list …) "mounts" (list …) "volumes" (list …)). */}}
{{- define "espalier.clientPod" -}}
{{- $secrets := dict "root" .root "tls" "client" "auth" .root.Values.auth.tokensSecret "otlp" false -}}
{{- include "espalier.podBasics" (dict "root" .root "part" "client" "values" dict) }}
restartPolicy: {{ .restartPolicy }}
containers:
  - name: {{ .name }}
    image: {{ include "espalier.image" (dict "root" .root "program" "cli") }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args:
      - --coordinator={{ include "espalier.coordinatorAddress" .root }}
      - --reward={{ include "espalier.rewardAddress" .root }}
      {{- include "espalier.clientArgs" (dict "root" .root "token" .token) | nindent 6 }}
      {{- range .args }}
      - {{ . | quote }}
      {{- end }}
    resources:
      requests: {cpu: 50m, memory: 32Mi}
      limits: {cpu: 500m, memory: 256Mi}
    securityContext: {{- include "espalier.containerSecurity" . | nindent 6 }}
    {{- if or .mounts (include "espalier.secretMounts" $secrets | trim) }}
    volumeMounts:
      {{- include "espalier.secretMounts" $secrets | nindent 6 }}
      {{- with .mounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
{{- if or .volumes (include "espalier.secretVolumes" $secrets | trim) }}
volumes:
  {{- include "espalier.secretVolumes" $secrets | nindent 2 }}
  {{- with .volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What only holds between values. Every message names the value and the remedy. */}}
{{- define "espalier.validate" -}}
{{- $v := .Values -}}
{{- if and $v.tls.enabled (not $v.tls.certManager.enabled) -}}
{{- range list "coordinator" "reward" "client" -}}
{{- if not (index $v.tls.secrets .) -}}
{{- fail (printf "tls.secrets.%s: empty, but tls.enabled is true: name a Secret with tls.crt, tls.key and ca.crt, or set tls.certManager.enabled" .) -}}
{{- end -}}{{- end -}}{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.enabled) -}}
{{- fail "tls.certManager.enabled: true, but tls.enabled is false: set both" -}}
{{- end -}}
{{- if ne (empty $v.auth.hashesSecret) (empty $v.auth.tokensSecret) -}}
{{- fail "auth: hashesSecret and tokensSecret go together: the services would refuse the chart's own workers and jobs, or these would send tokens that nobody asks for; give both or neither" -}}
{{- end -}}
{{- if and $v.auth.hashesSecret (not $v.tls.enabled) -}}
{{- fail "auth.hashesSecret: tokens would travel in plaintext: set tls.enabled as well" -}}
{{- end -}}
{{- if and $v.worker.queueName (eq $v.worker.kind "StatefulSet") -}}
{{- fail (printf "worker.queueName: %q, but worker.kind is StatefulSet: Kueue queues a Job or JobSet" $v.worker.queueName) -}}
{{- end -}}
{{- if and $v.worker.nccl (ne $v.worker.device "cuda") -}}
{{- fail "worker.nccl: given, but worker.device is cpu: set worker.device to cuda, or leave it out" -}}
{{- end -}}
{{- if and $v.run.spec (not (hasKey $v.run.spec "name")) -}}
{{- fail "run.spec.name: missing: a run needs a name, such as first-run" -}}
{{- end -}}
{{- if $v.run.spec -}}
{{- $wanted := int (dig "workers" "count" 1 $v.run.spec) -}}
{{- if gt $wanted (int $v.worker.replicas) -}}
{{- fail (printf "run.spec.workers.count: %d, but worker.replicas is %d: the run would wait for ever; raise worker.replicas" $wanted (int $v.worker.replicas)) -}}
{{- end -}}{{- end -}}
{{- if and $v.reward.autoscaling.enabled (gt (int $v.reward.autoscaling.minReplicas) (int $v.reward.autoscaling.maxReplicas)) -}}
{{- fail (printf "reward.autoscaling.minReplicas: %d is above maxReplicas %d" (int $v.reward.autoscaling.minReplicas) (int $v.reward.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and $v.coordinator.restoreFrom (not $v.backup.enabled) -}}
{{- fail "coordinator.restoreFrom: given, but backup.enabled is false: backups lie on the volume that backup.enabled makes" -}}
{{- end -}}
{{- end -}}
