//! The objects of one exposition at the donor's ingress gateway.

use crate::api::Object;
use crate::api::istio::{
    AuthorizationPolicy, AuthorizationPolicyAction, AuthorizationPolicyRules, AuthorizationPolicyRulesFrom,
    AuthorizationPolicyRulesFromSource, AuthorizationPolicyRulesWhen, AuthorizationPolicySelector,
    AuthorizationPolicySpec, Gateway, GatewayServers, GatewayServersPort, GatewayServersTls, GatewayServersTlsMode,
    GatewaySpec, VirtualService, VirtualServiceHttp, VirtualServiceHttpMirror as Destination,
    VirtualServiceHttpMirrorPort as DestinationPort, VirtualServiceHttpRoute, VirtualServiceSpec, VirtualServiceTcp,
    VirtualServiceTcpMatch, VirtualServiceTcpRoute, VirtualServiceTls, VirtualServiceTlsMatch,
};
use crate::model::{Host, Label, TlsMode};

use std::collections::BTreeMap;

use super::behaviour::{self, Behaviour};
use super::expose::{ResolvedEntry, ResolvedPort};
use super::guard::{self, GuardedName};
use super::names::{self, OwnerMarks};
use super::permit;
use super::problem::{Problem, ProblemReason};
use super::provider::ProviderRules;

/// The objects, and what should be known about them.
pub(super) fn build_donor_objects(e: &ResolvedEntry<'_>) -> Result<(Vec<Object>, Vec<String>), Problem> {
    let mut rules = ProviderRules::new(e);
    let behaviour = behaviour::find_behaviour(e)?;
    if let Some(behaviour) = &behaviour {
        behaviour.check_ports()?;
    }
    let mut objects: Vec<Object> = Vec::new();
    let subset = match (&e.entry.subset, e.tls) {
        (Some(subset), TlsMode::Passthrough) => Some(rules.without_tls(Some(subset))?),
        (None, TlsMode::Passthrough) => Some(rules.without_tls(None)?),
        (Some(subset), _) => Some(rules.request_subset(&e.service, subset)?),
        (None, _) => None,
    };
    let gateway = build_gateway(e);
    for port in &e.ports {
        objects.push(build_routes(e, port, subset.as_deref(), behaviour.as_ref(), &mut rules)?.into());
    }
    objects.extend(build_permission(e)?);
    objects.push(gateway.into());
    let (rules, mut notes) = rules.into_objects()?;
    objects.extend(rules);
    notes.extend(e.mode_notes());
    Ok((objects, notes))
}

fn object_name(e: &ResolvedEntry<'_>, prefix: &str, port: Option<&ResolvedPort>) -> String {
    let (alias, namespace) = (e.key.name.as_str(), e.key.namespace.as_str());
    match port.filter(|_| e.ports.len() > 1) {
        None => names::build_name(prefix, &[alias, namespace]),
        Some(p) => names::build_name(prefix, &[alias, namespace, &format!("p{}", p.port.number)]),
    }
}

fn build_gateway(e: &ResolvedEntry<'_>) -> Gateway {
    let ingress = &e.facts.ingress;
    let server = |(p, host): (&ResolvedPort, &Host)| {
        let protocol = if e.is_http(p.port.protocol) { "HTTPS" } else { "TLS" };
        let kind = protocol.to_ascii_lowercase();
        GatewayServers {
            // Only VirtualServices of the gateway's own namespace may attach.
            hosts: vec![format!("./{host}")],
            port: GatewayServersPort {
                name: if *host == p.host { format!("{kind}-{}", p.port.number) } else { kind },
                number: ingress.port.into(),
                protocol: protocol.to_owned(),
                target_port: None,
            },
            tls: Some(server_tls(e, p)),
            ..GatewayServers::default()
        }
    };
    let (namespace, name) = (ingress.namespace.as_str(), object_name(e, "istio-ingressgateway", None));
    Gateway {
        metadata: match e.tls {
            TlsMode::Cluster => e.marks.build_metadata_without(names::ONE_CERTIFICATE, namespace, name),
            TlsMode::Workload | TlsMode::Passthrough => e.marks.build_metadata(namespace, name),
        },
        spec: GatewaySpec {
            selector: Some(ingress.selector.clone()),
            servers: Some(e.ports.iter().flat_map(|p| p.hosts().map(move |host| (p, host))).map(server).collect()),
        },
    }
}

fn server_tls(e: &ResolvedEntry<'_>, port: &ResolvedPort) -> GatewayServersTls {
    match e.tls {
        TlsMode::Cluster => GatewayServersTls {
            mode: Some(GatewayServersTlsMode::Mutual),
            credential_name: Some(e.facts.credential.to_string()),
            // In the Gateway itself, so that there is no moment without; an empty list would admit every certificate
            // under the root, and an entry without consumers never comes here.
            subject_alt_names: Some(e.consumers.identities()),
            ..GatewayServersTls::default()
        },
        TlsMode::Workload => {
            let nobody = (!e.is_http(port.port.protocol)).then(|| vec![guard::NOBODY.to_owned()]);
            GatewayServersTls {
                mode: Some(GatewayServersTlsMode::IstioMutual),
                subject_alt_names: nobody,
                ..GatewayServersTls::default()
            }
        }
        TlsMode::Passthrough => {
            GatewayServersTls { mode: Some(GatewayServersTlsMode::Passthrough), ..GatewayServersTls::default() }
        }
    }
}

fn build_routes(
    e: &ResolvedEntry<'_>,
    port: &ResolvedPort,
    subset: Option<&str>,
    behaviour: Option<&Behaviour<'_>>,
    rules: &mut ProviderRules<'_>,
) -> Result<VirtualService, Problem> {
    let gateway_port = i64::from(e.facts.ingress.port);
    let destination = || Destination {
        host: Host::of_service(&e.service, &e.key.namespace).to_string(),
        port: Some(DestinationPort { number: Some(port.port.number.into()) }),
        subset: subset.map(str::to_owned),
    };
    let mut spec = VirtualServiceSpec {
        hosts: Some(port.hosts().map(ToString::to_string).collect()),
        export_to: Some(vec![".".to_owned()]),
        gateways: Some(vec![object_name(e, "istio-ingressgateway", None)]),
        ..VirtualServiceSpec::default()
    };
    if e.is_http(port.port.protocol) {
        let plain = || {
            let route = VirtualServiceHttpRoute { destination: destination(), ..VirtualServiceHttpRoute::default() };
            vec![VirtualServiceHttp { route: Some(vec![route]), ..VirtualServiceHttp::default() }]
        };
        let owners = behaviour.map(|b| b.build_http_routes(port, rules)).transpose()?.flatten();
        spec.http =
            Some(std::iter::once(permit::refusal_of_strangers(e)?).chain(owners.unwrap_or_else(plain)).collect());
        for route in spec.http.iter_mut().flatten().filter(|route| route.route.is_some()) {
            // The provider sees the exposed name, by whichever of the port's names it was called.
            route.rewrite.get_or_insert_default().authority.get_or_insert_with(|| e.key.host().to_string());
        }
    } else {
        let plain = vec![VirtualServiceTcpRoute { destination: destination(), weight: None }];
        if e.tls == TlsMode::Passthrough {
            let matches = VirtualServiceTlsMatch {
                port: Some(gateway_port),
                sni_hosts: port.hosts().map(ToString::to_string).collect(),
                ..VirtualServiceTlsMatch::default()
            };
            spec.tls = Some(vec![VirtualServiceTls { r#match: vec![matches], route: Some(plain) }]);
        } else {
            let owners = behaviour.map(|b| b.build_tcp_routes(port, gateway_port, rules)).transpose()?.flatten();
            spec.tcp = Some(owners.unwrap_or_else(|| {
                let matches = VirtualServiceTcpMatch { port: Some(gateway_port), ..VirtualServiceTcpMatch::default() };
                vec![VirtualServiceTcp { r#match: Some(vec![matches]), route: Some(plain) }]
            }));
        }
    }
    let name = object_name(e, "ingressgateway-to", Some(port));
    Ok(VirtualService { metadata: e.marks.build_metadata(e.facts.ingress.namespace.as_str(), name), spec })
}

/// Builds the permission where the Gateway itself does not say who may enter.
fn build_permission(e: &ResolvedEntry<'_>) -> Result<Option<Object>, Problem> {
    let name = object_name(e, "wharf", None);
    let principals = e.consumers.principals();
    match e.tls {
        TlsMode::Cluster => Ok(None),
        TlsMode::Workload => {
            let guarded = |(p, host): (&ResolvedPort, &Host)| GuardedName {
                host: host.to_string(),
                http: e.is_http(p.port.protocol),
            };
            let hosts = e.ports.iter().flat_map(|p| p.hosts().map(move |host| (p, host)));
            let guarded: Vec<GuardedName> = hosts.map(guarded).collect();
            let (namespace, selector) = (e.facts.ingress.namespace.as_str(), e.facts.ingress.selector.clone());
            Ok(Some(guard::permit_only(e.marks, namespace, name, selector, &principals, &guarded).into()))
        }
        TlsMode::Passthrough => {
            let hosts = e.ports.iter().flat_map(ResolvedPort::hosts).map(ToString::to_string).collect();
            Ok(Some(deny_others(e.marks, &e.key.namespace, name, provider_selector(e)?, principals, hosts).into()))
        }
    }
}

/// An AuthorizationPolicy that denies connections to `hosts` (by SNI) from everybody but `principals`. Calls of other
/// names are not touched. It is for the provider's own pods, where one filter chain serves all callers: what they have
/// open there ends with the drain whenever it changes.
fn deny_others(
    marks: &OwnerMarks,
    namespace: &Label,
    name: String,
    selector: BTreeMap<String, String>,
    principals: Vec<String>,
    hosts: Vec<String>,
) -> AuthorizationPolicy {
    let source = AuthorizationPolicyRulesFromSource {
        not_principals: Some(principals),
        ..AuthorizationPolicyRulesFromSource::default()
    };
    let when = AuthorizationPolicyRulesWhen { key: "connection.sni".to_owned(), values: Some(hosts), not_values: None };
    let rule = AuthorizationPolicyRules {
        from: Some(vec![AuthorizationPolicyRulesFrom { source: Some(source) }]),
        when: Some(vec![when]),
        to: None,
    };
    AuthorizationPolicy {
        metadata: marks.build_metadata(namespace.as_str(), name),
        spec: AuthorizationPolicySpec {
            selector: Some(AuthorizationPolicySelector { match_labels: Some(selector) }),
            action: Some(AuthorizationPolicyAction::Deny),
            rules: Some(vec![rule]),
            ..AuthorizationPolicySpec::default()
        },
    }
}

/// The labels of the pods that answer. Without any, the permission would be for the whole namespace, or for nobody.
fn provider_selector(e: &ResolvedEntry<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let selector = e.object.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    if selector.is_empty() {
        let message = format!("the Service {} selects no pods, so that nobody could refuse strangers", e.service);
        return Err(Problem::new(ProblemReason::Unsupported, "tls", message).cure("use tls: Cluster or tls: Workload"));
    }
    // By the Service's selector alone: a subset's pods are among them, and the name that is called tells them apart.
    Ok(selector)
}
