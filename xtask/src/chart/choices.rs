//! What a user of the chart may choose, as replacements in the plain manifests. Each names a line that
//! must be there; everything else of a manifest goes into the chart as it is.

use anyhow::{Context, Result};

use super::document::{begin, replace};

/// A choice: a line of a manifest, its indentation aside.
enum Choice {
    /// What takes its place, and that of what is indented below it.
    Instead(&'static str, &'static str),
    /// What comes first in the list that it begins.
    First(&'static str, &'static str),
}
use Choice::{First, Instead};

const CONTROLLER: &[Choice] = &[
    Instead("replicas: 2", "replicas: {{ .Values.controller.replicas }}"),
    Instead(
        "serviceAccountName: vm-crd-controller",
        "serviceAccountName: vm-crd-controller\n\
         {{- with .Values.imagePullSecrets }}\n\
         imagePullSecrets: {{- toYaml . | nindent 8 }}\n\
         {{- end }}",
    ),
    Instead(
        "priorityClassName: system-cluster-critical",
        "{{- with .Values.controller.priorityClassName }}\n\
         priorityClassName: {{ . }}\n\
         {{- end }}",
    ),
    Instead(
        "nodeSelector:",
        "nodeSelector: {{- toYaml .Values.controller.nodeSelector | nindent 8 }}\n\
         {{- with .Values.controller.tolerations }}\n\
         tolerations: {{- toYaml . | nindent 8 }}\n\
         {{- end }}",
    ),
    Instead(
        "image: kubevirt.local/controller:latest",
        "image: {{ include \"kubevirt.controllerImage\" . | quote }}",
    ),
    Instead(
        "imagePullPolicy: IfNotPresent",
        "imagePullPolicy: {{ .Values.controller.image.pullPolicy }}",
    ),
    Instead(
        "- --placeholder-image=kubevirt.local/node-installer:latest",
        "- --placeholder-image={{ include \"kubevirt.nodeImage\" . }}\n\
         {{- if ne .Values.controller.log.format \"json\" }}\n\
         - --log-format={{ .Values.controller.log.format }}\n\
         {{- end }}\n\
         {{- with .Values.traces.endpoint }}\n\
         - --otlp-endpoint={{ . }}\n\
         {{- end }}\n\
         {{- if .Values.traces.all }}\n\
         - --trace-all\n\
         {{- end }}\n\
         {{- range .Values.controller.extraArgs }}\n\
         - {{ . | quote }}\n\
         {{- end }}",
    ),
    First(
        "env:",
        "{{- with .Values.controller.log.level }}\n\
         - name: RUST_LOG\n  \
           value: {{ . | quote }}\n\
         {{- end }}",
    ),
    Instead(
        "resources:",
        "resources: {{- toYaml .Values.controller.resources | nindent 12 }}",
    ),
];

const NODE: &[Choice] = &[
    Instead(
        "serviceAccountName: kubevirt-node",
        "serviceAccountName: kubevirt-node\n\
         {{- with .Values.imagePullSecrets }}\n\
         imagePullSecrets: {{- toYaml . | nindent 8 }}\n\
         {{- end }}",
    ),
    Instead(
        "nodeSelector:",
        "nodeSelector: {{- toYaml .Values.node.nodeSelector | nindent 8 }}",
    ),
    Instead(
        "tolerations:",
        "{{- with .Values.node.tolerations }}\n\
         tolerations: {{- toYaml . | nindent 8 }}\n\
         {{- end }}",
    ),
    Instead(
        "priorityClassName: system-node-critical",
        "{{- with .Values.node.priorityClassName }}\n\
         priorityClassName: {{ . }}\n\
         {{- end }}",
    ),
    Instead(
        "image: kubevirt.local/node-installer:latest",
        "image: {{ include \"kubevirt.nodeImage\" . | quote }}",
    ),
    Instead(
        "imagePullPolicy: IfNotPresent",
        "imagePullPolicy: {{ .Values.node.image.pullPolicy }}",
    ),
    First(
        "env:",
        "{{- with .Values.node.log.level }}\n\
         - name: RUST_LOG\n  \
           value: {{ . | quote }}\n\
         {{- end }}",
    ),
    Instead(
        "resources:",
        "resources: {{- toYaml .Values.node.resources | nindent 12 }}",
    ),
    // Its name follows from its content, so that pods follow it.
    Instead(
        "configMap:",
        "configMap:\n  name: {{ include \"kubevirt.nodeConfigName\" . }}",
    ),
];

const RUNTIME_CLASS: &[Choice] = &[Instead(
    "memory: 128Mi",
    "memory: {{ include \"kubevirt.overhead\" . }}",
)];

/// The manifest of that kind and name, with the choices in it.
pub(super) fn put(kind: &str, name: &str, document: String) -> Result<String> {
    let choices = match (kind, name) {
        ("Deployment", "vm-crd-controller") => CONTROLLER,
        ("DaemonSet", "kubevirt-node") => NODE,
        ("RuntimeClass", "kubevirt") => RUNTIME_CLASS,
        _ => return Ok(document),
    };
    choices.iter().try_fold(document, |document, choice| {
        let chosen = match choice {
            Instead(line, with) => replace(&document, line, with),
            First(line, more) => begin(&document, line, more),
        };
        chosen.with_context(|| format!("{kind} {name}"))
    })
}
