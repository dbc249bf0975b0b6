{{/* The agent's configuration. Only what is set is written, so that defaults stand in one place, the agent. */}}

{{- define "wharf.address" -}}
{{- if contains ":" .address }}[{{ .address }}]{{ else }}{{ .address }}{{ end }}:{{ .port }}
{{- end }}

{{/* What no schema can say, and the agent would say in a pod that does not start. */}}
{{- define "wharf.config.check" -}}
{{- $values := .Values }}
{{- include "wharf.gateways.check" . }}
{{- if and (eq $values.style "DIRECT_INGRESS") (eq $values.tls "Cluster") }}
{{- fail "tls: Cluster needs the egress gateway that shows the cluster's certificate, and style DIRECT_INGRESS has none: use style EGRESS_INGRESS, or tls Workload or Passthrough" }}
{{- end }}
{{- range $side := list "ingress" "egress" }}
{{- $gateway := index $values $side }}
{{- if and $gateway.gateway (or $gateway.service $gateway.selector) }}
{{- fail (printf "%s.gateway: stands for service and selector; leave those out" $side) }}
{{- end }}
{{- end }}
{{- $seen := dict }}
{{- range $values.peers }}
{{- if eq .name $values.cluster }}
{{- fail (printf "peers: %s is this cluster itself" .name) }}
{{- end }}
{{- if hasKey $seen .name }}
{{- fail (printf "peers: %s is listed twice" .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- end }}

{{/* The port of istiod's metrics: of the URL, or Istio's own. */}}
{{- define "wharf.istiod.port" -}}
{{- with .Values.istiod.metrics }}{{ regexFind ":[0-9]+" (urlParse .).host | trimPrefix ":" | default "80" }}{{ else }}15014{{ end }}
{{- end }}

{{/* All but the peers: what takes effect at the next start only. */}}
{{- define "wharf.config.fixed" -}}
{{- $values := .Values }}
{{- $kube := dict }}
{{- with $values.namespaces }}
{{- $kube = dict "namespaces" . }}
{{- end }}
{{- $name := required "cluster: every cluster needs a name of its own, a DNS label: --set cluster=cluster1" $values.cluster }}
{{- toYaml (dict "cluster" $name) }}
{{ $config := dict
      "listen" (include "wharf.address" (dict "address" $values.listenAddress "port" 7443))
      "admin" (include "wharf.address" (dict "address" $values.listenAddress "port" $values.metrics.port))
      "identity" (dict "secret" $values.identity.secret)
      "store" (dict "kube" $kube)
      "ingress" (include "wharf.ingress" . | fromJson)
      "egress" (include "wharf.egress" . | fromJson)
      "credential" $values.credential }}
{{- range $key := list "style" "tls" "trustDomain" "allowTls12" "allowedGateways" "allowedGatewayNames" "istiod" "passthrough" "services" "limits" }}
{{- with index $values $key }}
{{- $_ := set $config $key . }}
{{- end }}
{{- end }}
{{- with $values.metrics.hosts }}
{{- $_ := set $config "adminHosts" . }}
{{- end }}
{{- with $values.metrics.statusFrom }}
{{- $_ := set $config "adminStatusFrom" . }}
{{- end }}
{{- toYaml $config }}
{{- end }}
