{{/*
What an agent may write, beyond what roles can say: docs/reference/rbac.md. The expressions are in CEL; each concerns one kind, and holds
for an object as it is written. A field that others added to an object of Wharf's may stay as it was, so that the agent can repair it.
*/}}

{{/* Whether there is a policy: as asked for, or where the API server has the kind. */}}
{{- define "wharf.admission.enabled" -}}
{{- $enabled := toString .Values.admissionPolicy.enabled }}
{{- if eq $enabled "true" }}true
{{- else if eq $enabled "auto" }}
{{- $known := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" }}
{{- if or $known (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "wharf.admission.name" -}}
{{ include "wharf.fullname" . }}-agent
{{- end }}

{{/* The namespaces that have a gateway for Wharf, as a list of CEL. */}}
{{- define "wharf.admission.gatewayNamespaces" -}}
{{ include "wharf.credentialNamespaces" . | fromJsonArray | toJson }}
{{- end }}

{{/* The labels of a gateway's pods as the agent has them. Called with: gateway, istio. */}}
{{- define "wharf.admission.selector" -}}
{{- $gateway := .gateway }}
{{- if $gateway.gateway }}{{ dict "gateway.networking.k8s.io/gateway-name" $gateway.gateway | toJson }}
{{- else if $gateway.selector }}{{ $gateway.selector | toJson }}
{{- else }}{{ dict "istio" .istio | toJson }}
{{- end }}
{{- end }}

{{/* The selectors of the gateways, as a list of CEL. */}}
{{- define "wharf.admission.selectors" -}}
{{- $ingress := include "wharf.admission.selector" (dict "gateway" (include "wharf.ingress" . | fromJson) "istio" "ingressgateway") }}
{{- $egress := include "wharf.admission.selector" (dict "gateway" (include "wharf.egress" . | fromJson) "istio" "egressgateway") }}
{{- if eq .Values.style "DIRECT_INGRESS" }}[{{ $ingress }}]{{ else }}[{{ $ingress }}, {{ $egress }}]{{ end }}
{{- end }}

{{/* The ports of Wharf's servers on the gateways, as a list of CEL. */}}
{{- define "wharf.admission.ports" -}}
{{- $ingress := include "wharf.gateways.port" (dict "root" . "side" "ingress") | int }}
{{- $egress := include "wharf.gateways.port" (dict "root" . "side" "egress") | int }}
{{- if eq .Values.style "DIRECT_INGRESS" }}[{{ $ingress }}]{{ else }}{{ list $ingress $egress | uniq | toJson }}{{ end }}
{{- end }}

{{/* The host of a gateway's Service. Called with: gateway, service. */}}
{{- define "wharf.admission.host" -}}
{{- $gateway := .gateway }}
{{- $service := default .service $gateway.service }}
{{- if $gateway.gateway }}{{ $service = printf "%s-istio" $gateway.gateway }}{{ end }}
{{- printf "%s.%s.svc.cluster.local" $service $gateway.namespace }}
{{- end }}

{{/* The hosts of the gateways, as a list of CEL. */}}
{{- define "wharf.admission.hosts" -}}
{{- $ingress := include "wharf.admission.host" (dict "gateway" (include "wharf.ingress" . | fromJson) "service" "istio-ingressgateway") }}
{{- $egress := include "wharf.admission.host" (dict "gateway" (include "wharf.egress" . | fromJson) "service" "istio-egressgateway") }}
{{- list $ingress $egress | uniq | toJson }}
{{- end }}

{{/* True where a field of the spec is not set, or is as it was. Called with: the field's path. */}}
{{- define "wharf.admission.unset" -}}
(!has(object.spec.{{ . }}) || (oldObject != null && has(oldObject.spec.{{ . }}) && object.spec.{{ . }} == oldObject.spec.{{ . }}))
{{- end }}

{{- define "wharf.admission.variables" -}}
- name: kind
  expression: request.resource.resource
# Nothing is asked of the content of an object that goes.
- name: goes
  expression: object == null
- name: isBesideGateway
  expression: request.namespace in {{ include "wharf.admission.gatewayNamespaces" . }}
- name: isOwn
  expression: request.namespace == {{ .Release.Namespace | toJson }}
- name: hasMark
  expression: >-
    object == null || (has(object.metadata.labels) &&
    object.metadata.labels[?'app.kubernetes.io/managed-by'].orValue('') == 'wharf')
- name: hadMark
  expression: >-
    oldObject == null || (has(oldObject.metadata.labels) &&
    oldObject.metadata.labels[?'app.kubernetes.io/managed-by'].orValue('') == 'wharf')
- name: name
  expression: "object == null ? oldObject.metadata.name : object.?metadata.?name.orValue('')"
- name: keepsFinalizers
  expression: >-
    object == null || object.metadata.?finalizers.orValue([]) ==
    (oldObject == null ? [] : oldObject.metadata.?finalizers.orValue([]))
- name: keepsOwners
  expression: >-
    object == null || object.metadata.?ownerReferences.orValue([]) ==
    (oldObject == null ? [] : oldObject.metadata.?ownerReferences.orValue([]))
# The pods of Wharf's gateways.
- name: selectors
  expression: {{ include "wharf.admission.selectors" . | squote }}
# The Services of the gateways themselves.
- name: gatewayHosts
  expression: {{ include "wharf.admission.hosts" . | squote }}
# Names of Wharf's Gateways, which its routes bind to.
- name: gatewayName
  expression: "'^(istio-ingressgateway-[-a-z0-9]+|istio-egressgateway-[-a-z0-9]+|wharf-egress)$'"
# Ends of the names that a namespace has for itself.
- name: localEnds
  expression: "['.svc.cluster.local', '.remote', '.egress'].map(end, '.' + request.namespace + end)"
# Where nothing of the mesh is shared: nobody's names are taken there.
- name: isSystem
  expression: variables.isOwn || request.namespace.startsWith('kube-')
{{- end }}

{{- define "wharf.admission.validations" -}}
{{- $unset := "wharf.admission.unset" -}}
- expression: variables.kind == 'leases' || (variables.hasMark && variables.hadMark)
  message: >-
    the agent may write and delete only what carries app.kubernetes.io/managed-by=wharf, before and after
  reason: Forbidden
- expression: variables.keepsFinalizers
  message: the agent sets no finalizers
  reason: Forbidden
- expression: >-
    variables.keepsOwners || (variables.kind == 'configmaps' &&
    object.metadata.?ownerReferences.orValue([]).all(owner, owner.kind == 'Pod'))
  message: the agent sets no owners, but a pod as the owner of its own ConfigMap
  reason: Forbidden
- expression: variables.kind != 'leases' || variables.goes || (variables.isOwn && variables.name == 'wharf')
  message: the agent's Lease is called wharf
  reason: Forbidden
- expression: >-
    variables.kind != 'configmaps' || (variables.isOwn && variables.name.matches('^wharf-(peer|replica)-'))
  message: the agent's ConfigMaps are in its own namespace, and called wharf-peer-… or wharf-replica-…
  reason: Forbidden
- expression: >-
    variables.kind != 'secrets' || (variables.isBesideGateway && variables.name == {{ .Values.credential | squote }} &&
    (variables.goes || object.type == 'kubernetes.io/tls'))
  message: the one Secret that the agent writes is the gateways' {{ .Values.credential }}
  reason: Forbidden
- expression: >-
    variables.goes || !variables.isSystem ||
    !(variables.kind in ['services', 'virtualservices', 'destinationrules', 'serviceentries', 'remoteservicebindings'])
  message: the agent takes no names in its own namespace and in those of Kubernetes
  reason: Forbidden
- expression: >-
    variables.kind != 'services' || variables.goes || ((object.spec.?type.orValue('ClusterIP') == 'ClusterIP' || {{ include $unset "type" }}) &&
    {{ include $unset "selector" }} && {{ include $unset "externalIPs" }} && {{ include $unset "externalName" }} &&
    {{ include $unset "loadBalancerIP" }})
  message: the agent's Services are names alone, without a selector, an external name or address, and of type ClusterIP
  reason: Forbidden
- expression: >-
    !(variables.kind in ['envoyfilters', 'gateways']) || variables.isBesideGateway
  message: EnvoyFilters and Gateways of the agent are beside the gateways
  reason: Forbidden
- expression: >-
    variables.kind != 'gateways' || variables.goes ||
    (variables.selectors.exists(s, s.all(k, object.spec.?selector[?k].orValue('') == s[k])) &&
    object.spec.?servers.orValue([]).all(server, has(server.tls) && server.port.number in {{ include "wharf.admission.ports" . }} &&
    server.port.protocol in ['HTTPS', 'TLS'] && !has(server.bind) &&
    server.tls.?mode.orValue('') in ['MUTUAL', 'ISTIO_MUTUAL', 'PASSTHROUGH'] &&
    server.tls.?credentialName.orValue({{ .Values.credential | squote }}) == {{ .Values.credential | squote }} &&
    !has(server.tls.credentialNames) && !has(server.tls.serverCertificate) && !has(server.tls.privateKey) &&
    !has(server.tls.caCertificates) && !has(server.tls.httpsRedirect) &&
    server.hosts.all(host, (host.startsWith('./') && host.endsWith('.svc.cluster.local') && !host.contains('*')) ||
    (host == './*' && variables.name == 'wharf-egress' && server.tls.?mode.orValue('') == 'ISTIO_MUTUAL'))))
  message: the agent's Gateways are servers of Wharf's port, with mutual TLS, for names of services and routes of their own namespace
  reason: Forbidden
- expression: >-
    variables.kind != 'envoyfilters' || variables.goes ||
    (variables.selectors.exists(s, s.all(k, object.spec.?workloadSelector.?labels[?k].orValue('') == s[k])) &&
    {{ include $unset "targetRefs" }} && {{ include $unset "priority" }} &&
    object.spec.?configPatches.orValue([]).all(p, p.?match.?context.orValue('') == 'GATEWAY' &&
    p.?match.?listener.?filterChain.?sni.orValue('*').endsWith('.svc.cluster.local') && !p.match.listener.filterChain.sni.contains('*') &&
    !has(p.match.routeConfiguration) && !has(p.match.cluster) && has(p.patch) && !has(p.patch.filterClass) && has(p.patch.value) &&
    ((p.applyTo == 'HTTP_FILTER' && p.patch.?operation.orValue('') == 'INSERT_FIRST' &&
    p.patch.value.all(k, k in ['name', 'typed_config']) && p.patch.value.?name.orValue('') == 'wharf.permit' &&
    p.patch.value.?typed_config.orValue({}).all(k, k in ['@type', 'rules']) &&
    p.patch.value.?typed_config[?'@type'].orValue('') == 'type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC') ||
    (p.applyTo == 'FILTER_CHAIN' && p.patch.?operation.orValue('') == 'MERGE' && p.patch.value.all(k, k == 'transport_socket') &&
    p.patch.value.?transport_socket.orValue({}).all(k, k in ['name', 'typed_config']) &&
    p.patch.value.?transport_socket.?typed_config.orValue({}).all(k, k in ['@type', 'common_tls_context']) &&
    p.patch.value.?transport_socket.?typed_config[?'@type'].orValue('') ==
    'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext' &&
    p.patch.value.?transport_socket.?typed_config.?common_tls_context.orValue({}).all(k, k == 'combined_validation_context') &&
    p.patch.value.?transport_socket.?typed_config.?common_tls_context.?combined_validation_context.orValue({}).all(k,
    k == 'default_validation_context') &&
    p.patch.value.?transport_socket.?typed_config.?common_tls_context.?combined_validation_context.?default_validation_context
    .orValue({}).all(k, k == 'match_subject_alt_names')))))
  message: the agent's EnvoyFilters say who may use a name of Wharf's at a gateway, and nothing else
  reason: Forbidden
- expression: >-
    variables.kind != 'virtualservices' || variables.goes ||
    (variables.isBesideGateway && object.spec.?exportTo.orValue([]) == ['.'] &&
    object.spec.?gateways.orValue([]).size() > 0 && object.spec.gateways.all(g, g.matches(variables.gatewayName)) &&
    object.spec.hosts.all(host, host.endsWith('.svc.cluster.local') && !host.contains('*'))) ||
    (object.spec.?exportTo.orValue([]) == ['*'] && object.spec.?gateways.orValue([]) == ['mesh'] &&
    object.spec.hosts.all(host, host.endsWith(variables.localEnds[0]) && !host.contains('*') && !(host in variables.gatewayHosts)))
  message: >-
    the agent's VirtualServices are routes of Wharf's Gateways, seen beside the gateways only, or of the mesh for names of their own
    namespace
  reason: Forbidden
- expression: >-
    variables.kind != 'destinationrules' || variables.goes || ({{ include $unset "workloadSelector" }} &&
    !object.spec.host.contains('*') &&
    ((variables.isBesideGateway && object.spec.?exportTo.orValue([]) == ['.'] && object.spec.host.endsWith('.svc.cluster.local')) ||
    (variables.isBesideGateway && object.spec.host in variables.gatewayHosts && {{ include $unset "trafficPolicy" }}) ||
    (variables.localEnds.exists(end, object.spec.host.endsWith(end)) && !(object.spec.host in variables.gatewayHosts))))
  message: >-
    the agent's DestinationRules are for names of their own namespace, or seen beside the gateways only
  reason: Forbidden
- expression: >-
    variables.kind != 'serviceentries' || variables.goes || ({{ include $unset "workloadSelector" }} &&
    object.spec.?location.orValue('') == 'MESH_EXTERNAL' && object.spec.?resolution.orValue('') in ['STATIC', 'DNS'] &&
    ({{ include $unset "addresses" }} ||
    object.spec.addresses.all(a, a.matches('^(240[.]241[.][.0-9]+|2001:2:0:f1::[:0-9a-f]+)$'))) &&
    object.spec.?endpoints.orValue([]).all(e, !e.?address.orValue('unix:').startsWith('unix:')) &&
    object.spec.hosts.all(host, !host.contains('*') && !(host in variables.gatewayHosts)) &&
    ((variables.isBesideGateway && object.spec.?exportTo.orValue([]) == ['.'] &&
    object.spec.hosts.all(host, host.startsWith('remote.') && host.endsWith('.svc.cluster.local'))) ||
    object.spec.hosts.all(host, variables.localEnds.exists(end, host.endsWith(end)))))
  message: >-
    the agent's ServiceEntries are for names of their own namespace, or seen beside the gateways only, and take no address of others
  reason: Forbidden
- expression: >-
    variables.kind != 'authorizationpolicies' || variables.goes || (object.spec.?action.orValue('ALLOW') == 'DENY' &&
    object.spec.?selector.?matchLabels.orValue({}).size() > 0 && {{ include $unset "provider" }} &&
    {{ include $unset "targetRef" }} && {{ include $unset "targetRefs" }} &&
    object.spec.?rules.orValue([]).size() > 0 && object.spec.rules.all(rule, has(rule.when) && has(rule.from) &&
    rule.when.exists(w, w.key == 'connection.sni' && w.?values.orValue([]).size() > 0 &&
    w.values.all(v, v.endsWith('.svc.cluster.local') && !v.contains('*'))) &&
    rule.from.size() > 0 && rule.from.all(f, f.?source.?notPrincipals.orValue([]).size() > 0)))
  message: >-
    the agent's AuthorizationPolicies deny connections by their SNI to all but named principals, and allow nothing
  reason: Forbidden
{{- end }}
