{{/* The pod of one rank, the same for every kind of workload: (dict "root" $ "host" ENV-EXPRESSION "once" BOOL). `host` names the pod as its
     peers look it up in the headless service. */}}
{{- define "espalier.workerPod" -}}
{{- $root := .root -}}
{{- $v := .root.Values.worker -}}
{{- $part := dict "root" $root "part" "worker" "values" $v -}}
{{- $secrets := dict "root" $root "tls" "client" "auth" $root.Values.auth.tokensSecret "otlp" true -}}
metadata:
  labels: {{- include "espalier.labels" $part | nindent 4 }}
spec:
  {{- include "espalier.podBasics" $part | nindent 2 }}
  {{- if .once }}
  subdomain: {{ include "espalier.name" $part }}
  restartPolicy: OnFailure
  {{- end }}
  {{- with $v.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if or $v.affinity (and (eq $v.data.accessMode "ReadWriteOnce") (not $v.data.existingClaim)) }}
  affinity:
    {{- if $v.affinity }}
    {{- toYaml $v.affinity | nindent 4 }}
    {{- else }}
    # The volume can be on one node only, so the workers must be as well.
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "espalier.selector" $part | nindent 14 }}
    {{- end }}
  {{- end }}
  {{- if $v.topologySpread.topologyKey }}
  topologySpreadConstraints:
    - topologyKey: {{ $v.topologySpread.topologyKey }}
      maxSkew: {{ $v.topologySpread.maxSkew }}
      whenUnsatisfiable: {{ $v.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels: {{- include "espalier.selector" $part | nindent 10 }}
  {{- end }}
  # A stopped worker leaves its run in good order.
  terminationGracePeriodSeconds: 60
  containers:
    - name: worker
      image: {{ include "espalier.image" (dict "root" $root "program" (printf "worker-%s" $v.device)) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- if .once }}
        - name: POD_INDEX
          valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        {{- end }}
        {{- range $name, $value := $v.nccl }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      args:
        - --coordinator={{ include "espalier.coordinatorAddress" $root }}
        - --reward={{ include "espalier.rewardAddress" $root }}
        - --listen-links=0.0.0.0:{{ $v.linkPort }}
        - --advertise={{ .host }}.{{ include "espalier.name" $part }}.{{ $root.Release.Namespace }}.svc:{{ $v.linkPort }}
        - --metrics-listen=0.0.0.0:9090
        - --data-root=/var/lib/espalier
        - --device={{ $v.device }}
        - --threads={{ $v.threads }}
        {{- if .once }}
        - --once
        {{- end }}
        {{- if $v.energyPrice }}
        - --energy-price={{ $v.energyPrice }}
        {{- end }}
        {{- if $v.gridGco2 }}
        - --grid-gco2={{ $v.gridGco2 }}
        {{- end }}
        {{- include "espalier.clientArgs" (dict "root" $root "token" "worker") | nindent 8 }}
        {{- include "espalier.traceArgs" $root | nindent 8 }}
      ports:
        - {name: links, containerPort: {{ $v.linkPort }}}
        - {name: metrics, containerPort: 9090}
      # A worker serves no gRPC; its metrics port answers as long as the process is well.
      startupProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 2
        failureThreshold: 60
      readinessProbe:
        tcpSocket: {port: metrics}
        periodSeconds: 10
      livenessProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 30
        timeoutSeconds: 10
        failureThreshold: 10
      resources:
        {{- if eq $v.device "cuda" }}
        {{- $gpu := dict $v.gpu.resource "1" }}
        {{- toYaml (dict "requests" (merge (dict) $gpu $v.resources.requests) "limits" (merge (dict) $gpu $v.resources.limits)) | nindent 8 }}
        {{- else }}
        {{- toYaml $v.resources | nindent 8 }}
        {{- end }}
      securityContext: {{- include "espalier.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /var/lib/espalier}
        # A small corpus for first runs and for `helm test`: sample/corpus.txt.
        - {name: sample, mountPath: /var/lib/espalier/sample, readOnly: true}
        - {name: shm, mountPath: /dev/shm}
        {{- include "espalier.secretMounts" $secrets | nindent 8 }}
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: {{ default (printf "%s-data" (include "espalier.name" $part)) $v.data.existingClaim }}}
    - name: sample
      configMap: {name: {{ include "espalier.name" (dict "root" $root "part" "sample") }}}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $v.sharedMemory }}}
    {{- include "espalier.secretVolumes" $secrets | nindent 4 }}
{{- end -}}
