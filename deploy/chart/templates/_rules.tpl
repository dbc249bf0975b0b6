{{/*
The agent's rights: docs/reference/rbac.md says why it needs each. The agent writes by server-side apply: what is new takes `create`
and `patch`, what changes takes `patch`.
*/}}

{{/* In each namespace whose policies and bindings the agent looks at. */}}
{{- define "wharf.rules.namespace" -}}
- apiGroups: [multicluster.istio.io]
  resources: [serviceexpositionpolicies]
  verbs: [list, watch]
- apiGroups: [multicluster.istio.io]
  resources: [remoteservicebindings]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [multicluster.istio.io]
  resources: [serviceexpositionpolicies/status, remoteservicebindings/status]
  verbs: [patch]
# A name for each service that is bound.
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch, delete]
# Beside the pods that are exposed with tls Passthrough.
- apiGroups: [security.istio.io]
  resources: [authorizationpolicies]
  verbs: [list, watch, create, patch, delete]
{{ include "wharf.rules.events" . }}
{{ include "wharf.rules.objects" . }}
{{- end }}

{{/* Also in the gateways' namespaces. */}}
{{- define "wharf.rules.objects" -}}
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [networking.istio.io]
  resources: [gateways, envoyfilters]
  verbs: [list, watch]
- apiGroups: [networking.istio.io]
  resources: [virtualservices, serviceentries, destinationrules]
  verbs: [list, watch, create, patch, delete]
{{- end }}

{{- define "wharf.rules.events" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* Of the cluster, also where the agent is confined to namespaces. */}}
{{- define "wharf.rules.cluster" -}}
- apiGroups: [multicluster.istio.io]
  resources: [clusterpeerings]
  verbs: [list, watch]
- apiGroups: [multicluster.istio.io]
  resources: [clusterpeerings/status]
  verbs: [patch]
# Its UID tells clusters apart.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
# Whether they are in Istio's ambient mode: statuses say it.
- apiGroups: [""]
  resources: [namespaces]
  {{- with .Values.namespaces }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [list, watch]
{{- if include "wharf.nodes" . }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{/* In the agent's own namespace. */}}
{{- define "wharf.rules.own" -}}
# What is created has no name yet to tell it by.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [wharf]
  verbs: [get, list, watch, update]
# What was last heard of each peer, and what replicas tell each other. Named after peers and pods, so no name can stand here.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ .Values.identity.secret | quote }}]
  verbs: [list, watch]
{{- end }}

{{/* In the mesh's root namespace: which trust domains the mesh accepts. */}}
{{- define "wharf.rules.mesh" -}}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ include "wharf.meshConfig" . | quote }}]
  verbs: [list, watch]
{{- end }}

{{/* Where a gateway is: these kinds are written beside it, and nowhere else. */}}
{{- define "wharf.rules.gateway" -}}
- apiGroups: [networking.istio.io]
  resources: [gateways, envoyfilters]
  verbs: [create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ .Values.credential | quote }}]
  verbs: [list, watch, create, patch]
# Whether istiod hands that Secret to the gateway's account.
- apiGroups: [authorization.k8s.io]
  resources: [localsubjectaccessreviews]
  verbs: [create]
{{- with include "wharf.assumedAccounts" . | fromJsonArray }}
# Whether the gateway has one of the accounts that Istio's installations give it.
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: {{ toJson . }}
  verbs: [get]
{{- end }}
{{- end }}

{{/* The names that Istio's Helm chart and istioctl give to the accounts of gateways, where the values name no account. */}}
{{- define "wharf.assumedAccounts" -}}
{{- $gateways := list (dict "gateway" (include "wharf.ingress" . | fromJson) "service" "istio-ingressgateway") }}
{{- if ne .Values.style "DIRECT_INGRESS" }}
{{- $gateways = append $gateways (dict "gateway" (include "wharf.egress" . | fromJson) "service" "istio-egressgateway") }}
{{- end }}
{{- $names := list }}
{{- range $gateways }}
{{- if not .gateway.serviceAccount }}
{{- $service := default .service .gateway.service }}
{{- if .gateway.gateway }}{{ $service = printf "%s-istio" .gateway.gateway }}{{ end }}
{{- $names = concat $names (list $service (printf "%s-service-account" $service)) }}
{{- end }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}

{{/* A role and its binding. Called with: root, name, rules; and namespace, or none for the whole cluster. */}}
{{- define "wharf.role" }}
{{- $kind := ternary "Role" "ClusterRole" (hasKey . "namespace") }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "wharf.labels" .root | nindent 4 }}
rules:
{{ include .rules .root }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "wharf.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ include "wharf.serviceAccount" .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end }}
