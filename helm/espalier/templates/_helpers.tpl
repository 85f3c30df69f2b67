{{- define "espalier.name" -}}
{{- printf "%s-%s" .release.Release.Name .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "espalier.image" -}}
{{- $prefix := ternary (printf "%s/" .root.Values.image.registry) "" (ne .root.Values.image.registry "") -}}
{{- printf "%sespalier-%s:%s" $prefix .part .root.Values.image.tag -}}
{{- end -}}

{{- define "espalier.labels" -}}
app.kubernetes.io/name: espalier
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "espalier.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "espalier.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
