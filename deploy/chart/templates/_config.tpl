{{/* The agent's configuration. Only what is set is written, so that defaults stand in one place, the agent. */}}

{{- define "wharf.address" -}}
{{- if contains ":" .address }}[{{ .address }}]{{ else }}{{ .address }}{{ end }}:{{ .port }}
{{- end }}

{{/* All but the peers: what takes effect at the next start only. */}}
{{- define "wharf.config.fixed" -}}
{{- $values := .Values }}
{{- $kube := dict }}
{{- with $values.namespaces }}
{{- $kube = dict "namespaces" . }}
{{- end }}
{{- $config := dict
      "cluster" (required "cluster: every cluster needs a name of its own, a DNS label: --set cluster=cluster1" $values.cluster)
      "listen" (include "wharf.address" (dict "address" $values.listenAddress "port" 7443))
      "admin" (include "wharf.address" (dict "address" $values.listenAddress "port" $values.metrics.port))
      "identity" (dict "secret" $values.identity.secret)
      "store" (dict "kube" $kube)
      "ingress" $values.ingress
      "egress" $values.egress
      "credential" $values.credential }}
{{- range $key := list "style" "tls" "trustDomain" "allowTls12" "allowedGateways" }}
{{- with index $values $key }}
{{- $_ := set $config $key . }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}
