{{/* Names, labels, and the parts that the pods of both services share. */}}

{{- define "rollout-budget.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Of everything; `component` comes with the selector, below. */}}
{{- define "rollout-budget.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: rollout-budget
{{- end }}

{{/* What all pods of this release have in common. */}}
{{- define "rollout-budget.instance" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes (list . "allocator"). */}}
{{- define "rollout-budget.selector" -}}
{{ include "rollout-budget.instance" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Takes (list . IMAGE), where IMAGE has `repository` and `digest`. */}}
{{- define "rollout-budget.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $name := ternary $image.repository (printf "%s/%s" $root.Values.image.registry $image.repository) (empty $root.Values.image.registry) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest | quote -}}
{{- else -}}
{{- printf "%s:%s" $name (default $root.Chart.AppVersion $root.Values.image.tag) | quote -}}
{{- end -}}
{{- end }}

{{/* Environment variables; takes (list PREFIX MAP ...), where a later map wins. Lists and numbers are written as JSON. Not by
`merge`, which takes a false for nothing. */}}
{{- define "rollout-budget.settings" -}}
{{- $all := dict -}}
{{- range rest . -}}{{- range $name, $value := . -}}{{- $_ := set $all $name $value -}}{{- end -}}{{- end -}}
{{- range $name, $value := $all }}
- name: {{ printf "%s_%s" (first $) (upper $name) }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{/* A secret in a file, which no listing of processes or environments shows; takes (list PREFIX NAME ...). */}}
{{- define "rollout-budget.secretVariables" -}}
{{- range rest . }}
- name: {{ printf "%s_%s_FILE" (first $) (upper .) }}
  value: {{ printf "/run/secrets/rollout-budget/%s" . | quote }}
{{- end }}
{{- end }}

{{/* The volume of these files, named as the settings that they are; takes (list . URL-KEY (dict FILE KEY ...)). */}}
{{- define "rollout-budget.secretVolume" -}}
- name: secrets
  projected:
    defaultMode: 0440  # for the group of the pod
    sources:
      - secret:
          name: {{ include "rollout-budget.databaseSecret" (first .) | quote }}
          items: [{key: {{ index . 1 | quote }}, path: database_url}]
      - secret:
          name: {{ include "rollout-budget.secret" (first .) | quote }}
          items:
            {{- range $file, $key := index . 2 }}
            - {key: {{ $key | quote }}, path: {{ $file }}}
            {{- end }}
{{- end }}

{{- define "rollout-budget.secretMount" -}}
{name: secrets, mountPath: /run/secrets/rollout-budget, readOnly: true}
{{- end }}

{{- define "rollout-budget.allocatorSecrets" -}}
{{- $files := dict "pepper" "pepper" "admin_key" "admin-key" -}}
{{- if .Values.prior.enabled -}}{{- $_ := set $files "prior_key" "prior-key" -}}{{- end -}}
{{ include "rollout-budget.secretVolume" (list . .Values.database.allocatorUrlKey $files) }}
{{- end }}

{{- define "rollout-budget.databaseSecret" -}}
{{- required "database.existingSecret is empty: make a Secret with the URLs of PostgreSQL and name it (docs/kubernetes.md)" .Values.database.existingSecret -}}
{{- end }}

{{- define "rollout-budget.secret" -}}
{{- default (include "rollout-budget.fullname" .) .Values.secrets.existingSecret -}}
{{- end }}

{{- define "rollout-budget.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rollout-budget.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Of every pod. No service links: a Service of this chart would set ROLLOUT_BUDGET_..., which are no settings. */}}
{{- define "rollout-budget.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the pods of a service go; takes (list . "allocator" VALUES). */}}
{{- define "rollout-budget.placement" -}}
{{- $values := index . 2 -}}
{{- if $values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "rollout-budget.selector" (list (index $ 0) (index $ 1)) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $values $name }}
{{ $name }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment of the allocator and of its migrations. */}}
{{- define "rollout-budget.allocatorEnvironment" -}}
{{- $prefix := "ROLLOUT_BUDGET_ALLOCATOR" -}}
{{ include "rollout-budget.settings" (list $prefix (dict "host" "0.0.0.0") .Values.allocator.settings (dict "mode" "production" "port" 8100)) | trim }}
{{ include "rollout-budget.secretVariables" (list $prefix "database_url" "pepper" "admin_key") | trim }}
{{- if .Values.prior.enabled }}
- name: {{ $prefix }}_PRIOR_URL
  value: {{ printf "http://%s-prior:%v" (include "rollout-budget.fullname" .) .Values.prior.service.port | quote }}
{{ include "rollout-budget.secretVariables" (list $prefix "prior_key") | trim }}
{{- end }}
{{- with .Values.allocator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Rules of egress. */}}
{{- define "rollout-budget.dns" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  {{- with .Values.networkPolicy.dns.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "rollout-budget.dnsAndDatabase" -}}
{{ include "rollout-budget.dns" . }}
- ports: [{port: {{ .Values.networkPolicy.database.port }}, protocol: TCP}]
  {{- with .Values.networkPolicy.database.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
