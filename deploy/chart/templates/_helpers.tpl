{{/* Names and labels. */}}

{{- define "wharf.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "wharf.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "wharf.selector" -}}
app.kubernetes.io/name: {{ include "wharf.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "wharf.labels" -}}
{{ include "wharf.selector" . }}
app.kubernetes.io/part-of: wharf
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "wharf.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "wharf.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the service account that is there already, or let the chart make one (serviceAccount.create)" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "wharf.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The gateways' namespaces, each once, as a JSON list. */}}
{{- define "wharf.gatewayNamespaces" -}}
{{- list (include "wharf.ingress" . | fromJson).namespace (include "wharf.egress" . | fromJson).namespace | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Where gateways present the cluster's certificate: without an egress gateway, one does. */}}
{{- define "wharf.credentialNamespaces" -}}
{{- if eq .Values.style "DIRECT_INGRESS" }}
{{- list (include "wharf.ingress" . | fromJson).namespace | toJson }}
{{- else }}
{{- include "wharf.gatewayNamespaces" . }}
{{- end }}
{{- end }}

{{/* The ConfigMap of the mesh's settings, and where it is. */}}
{{- define "wharf.meshConfig" -}}
{{- default "istio" .Values.istiod.meshConfig }}
{{- end }}

{{- define "wharf.meshNamespace" -}}
{{- default "istio-system" .Values.istiod.rootNamespace }}
{{- end }}

{{- define "wharf.spiffeId" -}}
{{- default (printf "spiffe://wharf/cluster/%s" .Values.cluster) .Values.identity.certManager.spiffeId }}
{{- end }}
