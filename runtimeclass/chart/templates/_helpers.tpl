{{/* A reference of an image: by its digest if there is one. */}}
{{- define "kubevirt.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}

{{- define "kubevirt.controllerImage" -}}
{{ include "kubevirt.image" .Values.controller.image }}
{{- end -}}

{{- define "kubevirt.nodeImage" -}}
{{ include "kubevirt.image" .Values.node.image }}
{{- end -}}

{{- define "kubevirt.nodeConfig" -}}
{{ .Values.node.config | default (.Files.Get "files/product/config.toml") }}
{{- end -}}

{{/* Another name for another content: the installers take it up one node after the other. */}}
{{- define "kubevirt.nodeConfigName" -}}
kubevirt-node-{{ include "kubevirt.nodeConfig" . | sha256sum | trunc 10 }}
{{- end -}}

{{- define "kubevirt.overhead" -}}
{{ ternary .Values.runtimeClass.overhead.emulation .Values.runtimeClass.overhead.kvm .Values.runtimeClass.emulation }}
{{- end -}}

{{- define "kubevirt.labels" -}}
app.kubernetes.io/part-of: kubevirt
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
