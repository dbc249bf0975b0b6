{{/*
Gateways of Wharf's own (gateways.create), and the agent's `ingress` and `egress` as they follow from them. Templates ask for
"wharf.ingress" and "wharf.egress", never for the values.
*/}}

{{/* The sides that the chart makes a gateway for, as a JSON list. */}}
{{- define "wharf.gateways.own" -}}
{{- $sides := list }}
{{- /* Releases that keep the values of an older chart have none of these. */}}
{{- if (.Values.gateways).create }}
{{- if .Values.gateways.ingress.enabled }}
{{- $sides = append $sides "ingress" }}
{{- end }}
{{- if and .Values.gateways.egress.enabled (ne .Values.style "DIRECT_INGRESS") }}
{{- $sides = append $sides "egress" }}
{{- end }}
{{- end }}
{{- toJson $sides }}
{{- end }}

{{/* The name of an own gateway. Called with: root, side. */}}
{{- define "wharf.gateways.name" -}}
{{ include "wharf.fullname" .root }}-{{ .side }}gateway
{{- end }}

{{/* The name of its Service, Deployment and account: Istio names those of a Gateway after its class. Called with: root, side. */}}
{{- define "wharf.gateways.service" -}}
{{ include "wharf.gateways.name" . }}{{ if eq .root.Values.gateways.create "GatewayAPI" }}-istio{{ end }}
{{- end }}

{{/* The agent's configuration of a gateway, as JSON. Called with: root, side. */}}
{{- define "wharf.gateways.config" -}}
{{- $gateway := index .root.Values .side }}
{{- if has .side (include "wharf.gateways.own" .root | fromJsonArray) }}
{{- $name := include "wharf.gateways.name" . }}
{{- $own := dict "namespace" .root.Values.gateways.namespace }}
{{- if eq .root.Values.gateways.create "GatewayAPI" }}
{{- $_ := set $own "gateway" $name }}
{{- else }}
{{- $_ := set $own "service" $name }}
{{- $_ := set $own "selector" (dict "istio" $name) }}
{{- end }}
{{- if eq .side "ingress" }}
{{- $_ := set $own "drain" (printf "%ds" (int .root.Values.gateways.drainSeconds)) }}
{{- if include "wharf.peering.byGateway" .root }}
{{- $_ := set $own "peering" true }}
{{- end }}
{{- end }}
{{- $_ := set $own "serviceAccount" (include "wharf.gateways.service" .) }}
{{- $gateway = merge $own (omit $gateway "namespace") }}
{{- end }}
{{- toJson $gateway }}
{{- end }}

{{- define "wharf.ingress" -}}
{{ include "wharf.gateways.config" (dict "root" . "side" "ingress") }}
{{- end }}

{{- define "wharf.egress" -}}
{{ include "wharf.gateways.config" (dict "root" . "side" "egress") }}
{{- end }}

{{/* The port of Wharf's servers on a gateway. Called with: root, side. */}}
{{- define "wharf.gateways.port" -}}
{{ default 15443 (index .root.Values .side).port | int }}
{{- end }}

{{/* True where peers dial the agent through the ingress gateway. */}}
{{- define "wharf.peering.byGateway" -}}
{{- if .Values.service.enabled }}
{{- if has "ingress" (include "wharf.gateways.own" . | fromJsonArray) }}
{{- /* Values that are reused from before this one was there have none. */}}
{{- if ne (toString .Values.gateways.ingress.peering) "false" }}true{{ end }}
{{- else if .Values.ingress.peering }}true{{ end }}
{{- end }}
{{- end }}

{{/* The labels of the pods of the gateway where other clusters come in, as JSON. */}}
{{- define "wharf.ingress.selector" -}}
{{ include "wharf.admission.selector" (dict "gateway" (include "wharf.ingress" . | fromJson) "istio" "ingressgateway") }}
{{- end }}

{{/* The server name that peers send: SERVER_NAME in src/peering. */}}
{{- define "wharf.peering.serverName" -}}
peering.wharf.invalid
{{- end }}

{{/* The type of the agent's Service. One that peers may dial already is not taken away by a default; `helm template` sees none. */}}
{{- define "wharf.peering.serviceType" -}}
{{- if .Values.service.type }}
{{- .Values.service.type }}
{{- else if include "wharf.peering.byGateway" . }}
{{- $there := lookup "v1" "Service" .Release.Namespace (printf "%s-peering" (include "wharf.fullname" .)) }}
{{- if eq (dig "spec" "type" "" $there) "LoadBalancer" }}LoadBalancer{{ else }}ClusterIP{{ end }}
{{- else }}LoadBalancer
{{- end }}
{{- end }}

{{/* True where nobody but the ingress gateway's pods dials the agent. */}}
{{- define "wharf.peering.gatewayOnly" -}}
{{- if and (include "wharf.peering.byGateway" .) (not .Values.service.type) (eq (include "wharf.peering.serviceType" .) "ClusterIP") }}true{{ end }}
{{- end }}

{{/* Contradictions between gateways.create and the values that describe gateways of others. */}}
{{- define "wharf.gateways.check" -}}
{{- range $side := include "wharf.gateways.own" . | fromJsonArray }}
{{- $namespace := $.Values.gateways.namespace }}
{{- $gateway := index $.Values $side }}
{{- range $key := list "gateway" "service" "selector" "serviceAccount" "drain" "peering" }}
{{- if hasKey $gateway $key }}
{{- fail (printf "%s.%s: gateways.create makes this gateway, and sets it; leave it out, or set gateways.%s.enabled=false" $side $key $side) }}
{{- end }}
{{- end }}
{{- if not (has $gateway.namespace (list "istio-system" $namespace)) }}
{{- fail (printf "%s.namespace: gateways.create puts this gateway into gateways.namespace, %s; leave it out, or set gateways.%s.enabled=false" $side $namespace $side) }}
{{- end }}
{{- if or (eq $namespace $.Release.Namespace) (hasPrefix "kube-" $namespace) }}
{{- fail (printf "gateways.namespace: the gateways' accounts may read every Secret in it, and the agent takes no names in %s; name another namespace, such as wharf-gateways" $namespace) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels that tell the pods of one gateway from all others. Called with: root, side. */}}
{{- define "wharf.gateways.selector" -}}
app.kubernetes.io/name: {{ include "wharf.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .side }}gateway
{{- end }}

{{/* Called with: root, side. */}}
{{- define "wharf.gateways.labels" -}}
{{ include "wharf.gateways.selector" . }}
app.kubernetes.io/part-of: wharf
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* How long Envoy lets connections end, when a listener changes and when the pod ends. The agent's ingress.drain says the same. */}}
{{- define "wharf.gateways.proxyConfig" -}}
{{- $drain := printf "%ds" (int .Values.gateways.drainSeconds) }}
{{- dict "drainDuration" $drain "terminationDrainDuration" $drain | toYaml }}
{{- end }}

{{/* Envoy drains first, then ends. */}}
{{- define "wharf.gateways.grace" -}}
{{ add (int .Values.gateways.drainSeconds) 15 }}
{{- end }}

{{/* The spec of a gateway's pods as far as both ways share it. Called with: root, side, selector. */}}
{{- define "wharf.gateways.pod" -}}
{{- $values := .root.Values.gateways -}}
# istiod hands a gateway its certificates: it asks no API server.
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "wharf.gateways.grace" .root }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpread }}
topologySpreadConstraints:
{{- range . }}
- maxSkew: {{ default 1 .maxSkew }}
  topologyKey: {{ .topologyKey }}
  whenUnsatisfiable: {{ default "ScheduleAnyway" .whenUnsatisfiable }}
  labelSelector:
    matchLabels: {{- $.selector | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}
{{- end }}

{{/* The spec of a gateway's Service beside ports and selector. Called with: the values of the Service. */}}
{{- define "wharf.gateways.exposure" -}}
type: {{ .type }}
{{- if ne .type "ClusterIP" }}
{{- with .externalTrafficPolicy }}
externalTrafficPolicy: {{ . }}
{{- end }}
{{- end }}
{{- if eq .type "LoadBalancer" }}
{{- with .loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with .loadBalancerSourceRanges }}
loadBalancerSourceRanges: {{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The values of a gateway's Service; the egress gateway's is called from inside. Called with: root, side. */}}
{{- define "wharf.gateways.serviceValues" -}}
{{- if eq .side "ingress" }}
{{- toJson .root.Values.gateways.ingress.service }}
{{- else }}
{{- dict "type" "ClusterIP" | toJson }}
{{- end }}
{{- end }}

{{/* True where other clusters reach the ingress gateway at the nodes. */}}
{{- define "wharf.nodes" -}}
{{- $own := has "ingress" (include "wharf.gateways.own" . | fromJsonArray) }}
{{- if or .Values.rbac.nodes (and $own (eq .Values.gateways.ingress.service.type "NodePort")) }}true{{ end }}
{{- end }}
