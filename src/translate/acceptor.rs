//! The objects of one local name at the acceptor: the name itself, the donors behind it, and the way there.
//!
//! | way | mesh VirtualService leads to | and from there |
//! |---|---|---|
//! | shared (HTTP, EGRESS_INGRESS) | the egress gateway's one listener, by authority | the donors' ServiceEntry |
//! | own chain (TCP, or for certain clients) | the egress gateway, by SNI | the donors' ServiceEntry |
//! | passthrough (EGRESS_INGRESS) | a ServiceEntry that stands for the egress gateway, with the donor's SNI | the donors' ServiceEntry |
//! | direct (DIRECT_INGRESS) | the donors' ServiceEntry | |
//!
//! Ports that no donor serves are in [`unserved`](super::unserved).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use sha2::{Digest as _, Sha256};

use crate::api::istio::{
    DestinationRule, DestinationRuleSpec, DestinationRuleSubsets as Subset,
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyPortLevelSettings as PortSettings,
    DestinationRuleTrafficPolicyPortLevelSettingsPort as SettingsPort, DestinationRuleTrafficPolicyTls as Tls,
    DestinationRuleTrafficPolicyTlsMode as ClientTlsMode, ServiceEntry, ServiceEntryEndpoints, ServiceEntryLocation,
    ServiceEntryPorts, ServiceEntryResolution, ServiceEntrySpec, VirtualService, VirtualServiceHttp,
    VirtualServiceHttpHeaders, VirtualServiceHttpHeadersRequest, VirtualServiceHttpMatch,
    VirtualServiceHttpMirror as Destination, VirtualServiceHttpMirrorPort as DestinationPort,
    VirtualServiceHttpRewrite, VirtualServiceHttpRoute, VirtualServiceSpec, VirtualServiceTcp, VirtualServiceTcpMatch,
    VirtualServiceTcpRoute,
};
use crate::api::{EXPORT_TO, MESH_GATEWAY, Object};
use crate::model::{Protocol, TlsMode};

use super::inventory::Inventory;
use super::names::{self, OwnerMarks};
use super::plan::{DonorGroup, LocalPlan, LocalPort, PlanEndpoint, PortWay};
use super::sources::LocalName;
use super::traffic::{self, RouteUpstream};
use super::{EVERYWHERE, HERE, egress, export_list, unserved};

pub use super::egress::shared_egress;

/// The subset that speaks HTTP/1.1.
const HTTP1: &str = "http1";

pub(super) fn build_acceptor_objects(plan: &LocalPlan<'_>, marks: &OwnerMarks, inventory: &Inventory) -> Vec<Object> {
    let mut objects: Vec<Object> = vec![build_stub_service(plan.local, &plan.all_ports(), marks).into()];
    if plan.uses_egress() {
        egress::build_egress_objects(plan, marks, inventory, &mut objects);
    } else {
        build_direct_objects(plan, marks, &mut objects);
    }
    objects
}

/// A Service without a selector: only so that the name resolves, for callers of every namespace.
pub(super) fn build_stub_service(local: &LocalName, ports: &[&LocalPort], marks: &OwnerMarks) -> Service {
    let port = |p: &&LocalPort| ServicePort {
        name: Some(p.name.clone()),
        port: p.number.into(),
        app_protocol: p.app_protocol(),
        ..ServicePort::default()
    };
    let ports = ports.iter().map(port).collect();
    let mut metadata =
        marks.build_metadata_without(names::OWN_ANNOTATIONS, local.namespace.as_str(), local.name.to_string());
    metadata.annotations.get_or_insert_default().insert(EXPORT_TO.to_owned(), EVERYWHERE.to_owned());
    Service { metadata, spec: Some(ServiceSpec { ports: Some(ports), ..ServiceSpec::default() }), ..Service::default() }
}

fn build_direct_objects(plan: &LocalPlan<'_>, marks: &OwnerMarks, objects: &mut Vec<Object>) {
    let namespace = plan.local.namespace.as_str();
    let host = direct_host(plan);
    let leg = DonorLeg { plan, marks, namespace, host: &host, private: false, endpoints: None, opaque: false };
    objects.push(leg.service_entry("service-entry").into());
    objects.push(leg.destination_rule("dest-rule", |group, port| Some(to_donor(plan, group, port))).into());
    objects.push(leg.mesh_routes().into());
}

/// The name that stands for the donors: the local name, or another one where that cannot. istiod merges a Service with
/// a ServiceEntry of its name well only for HTTP, and where addresses need no resolving.
pub(super) fn direct_host(plan: &LocalPlan<'_>) -> String {
    if plan.needs_dns() || plan.all_ports().iter().any(|p| p.protocol == Protocol::Tcp) {
        return format!("{}.{}.remote", plan.local.name, plan.local.namespace);
    }
    plan.local.host().to_string()
}

pub(super) fn object_name(plan: &LocalPlan<'_>, prefix: &str, port: Option<u16>) -> String {
    named_after(plan.local, prefix, port)
}

fn named_after(local: &LocalName, prefix: &str, port: Option<u16>) -> String {
    let (name, namespace) = (local.name.as_str(), local.namespace.as_str());
    match port {
        None => names::build_name(prefix, &[name, namespace]),
        Some(number) => names::build_name(prefix, &[name, namespace, &format!("p{number}")]),
    }
}

/// TLS to the donors' gateways (or, passing them, to the provider), as a group of donors wants it.
pub(super) fn to_donor(plan: &LocalPlan<'_>, group: &DonorGroup, port: usize) -> Tls {
    let sni = group.ways.get(port).and_then(|way| way.as_ref()).map(|way| way.host.to_string());
    let subject_alt_names = (!group.identities.is_empty()).then(|| group.identities.clone());
    let tls = Tls { sni, subject_alt_names, ..Tls::default() };
    match plan.tls {
        TlsMode::Cluster => {
            Tls { mode: Some(ClientTlsMode::Mutual), credential_name: Some(plan.facts.credential.to_string()), ..tls }
        }
        TlsMode::Workload | TlsMode::Passthrough => Tls { mode: Some(ClientTlsMode::IstioMutual), ..tls },
    }
}

/// A leg of the way: a ServiceEntry under a host of its own, its DestinationRule, and the routes that lead there.
pub(super) struct DonorLeg<'a> {
    pub plan: &'a LocalPlan<'a>,
    pub marks: &'a OwnerMarks,
    pub namespace: &'a str,
    pub host: &'a str,
    /// Seen in its own namespace only.
    pub private: bool,
    /// Other endpoints than the donors' gateways.
    pub endpoints: Option<&'a [PlanEndpoint]>,
    /// Carried as TCP, whatever it is.
    pub opaque: bool,
}

impl DonorLeg<'_> {
    fn endpoints(&self) -> &[PlanEndpoint] {
        self.endpoints.unwrap_or(&self.plan.endpoints)
    }

    fn protocol(&self, port: &LocalPort) -> Protocol {
        if self.opaque { Protocol::Tcp } else { port.protocol }
    }

    fn export_to(&self) -> Option<Vec<String>> {
        Some(export_list(if self.private { HERE } else { EVERYWHERE }))
    }

    pub fn service_entry(&self, prefix: &str) -> ServiceEntry {
        let ports = &self.plan.ports;
        let port = |p: &LocalPort| ServiceEntryPorts {
            number: p.number.into(),
            name: p.name.clone(),
            protocol: Some(self.protocol(p).as_str().to_owned()),
            target_port: None,
        };
        let endpoint = |e: &PlanEndpoint| ServiceEntryEndpoints {
            address: Some(e.gateway.address.to_string()),
            ports: Some(ports.iter().map(|p| (p.name.clone(), e.gateway.port.into())).collect()),
            labels: (!e.labels.is_empty()).then(|| e.labels.clone()),
            locality: e.gateway.locality.clone(),
            weight: e.weight.map(Into::into),
            ..ServiceEntryEndpoints::default()
        };
        let named = |e: &PlanEndpoint| matches!(e.gateway.address, crate::model::Address::Name(_));
        let dns = self.endpoints().iter().any(named);
        let spec = ServiceEntrySpec {
            hosts: vec![self.host.to_owned()],
            addresses: ports.iter().any(|p| self.protocol(p) == Protocol::Tcp).then(|| unused_addresses(self.host)),
            export_to: self.export_to(),
            location: Some(ServiceEntryLocation::MeshExternal),
            resolution: Some(if dns { ServiceEntryResolution::Dns } else { ServiceEntryResolution::Static }),
            ports: Some(ports.iter().map(port).collect()),
            endpoints: Some(self.endpoints().iter().map(endpoint).collect()),
            ..ServiceEntrySpec::default()
        };
        ServiceEntry { metadata: self.marks.build_metadata(self.namespace, object_name(self.plan, prefix, None)), spec }
    }

    /// Builds the DestinationRule: the first port's settings on top, the others' by port (which inherit nothing), and a
    /// subset for each group of donors, for those of a group that have a port, and for HTTP/1.1.
    pub fn destination_rule(&self, prefix: &str, tls: impl Fn(&DonorGroup, usize) -> Option<Tls>) -> DestinationRule {
        let plan = self.plan;
        let policy = |group: &DonorGroup, i: usize, port: &LocalPort| {
            traffic::between_clusters(plan.facts, self.protocol(port), tls(group, i), plan.balance.clone())
        };
        let by_port = |group: &DonorGroup, only: Option<usize>, http1: bool| -> Option<Vec<PortSettings>> {
            let others = plan.ports.iter().enumerate().skip(1);
            // Where a group has no way, another's settings stand: nothing is led there, and there is no port without
            // TLS.
            let reached = |i: usize| match group.ways.get(i) {
                Some(Some(_)) => Some(group),
                _ if only.is_some() || http1 => None,
                _ => plan.ways_of_port(i).next().map(|(other, _)| other),
            };
            let one = |(i, port): (usize, &LocalPort)| {
                let full = policy(reached(i).filter(|_| only.is_none_or(|o| o == i))?, i, port);
                let pool = if http1 { traffic::http1_policy(None).connection_pool } else { full.connection_pool };
                Some(PortSettings {
                    port: Some(SettingsPort { number: Some(port.number.into()) }),
                    connection_pool: pool,
                    outlier_detection: full.outlier_detection,
                    load_balancer: full.load_balancer,
                    tls: full.tls,
                })
            };
            (plan.ports.len() > 1).then(|| others.filter_map(one).collect())
        };
        let top = plan.ways_of_port(0).next().zip(plan.ports.first()).map(|((group, _), port)| TrafficPolicy {
            port_level_settings: by_port(group, None, false),
            ..policy(group, 0, port)
        });
        let http1 = self.has_http1();
        let mut subsets = Vec::new();
        for part in plan.group_parts() {
            let labels = Some(part.group.labels(part.only.and_then(|i| plan.ports.get(i)))).filter(|l| !l.is_empty());
            let first = part.only.is_none_or(|i| i == 0);
            let own_tls = || tls(part.group, 0).filter(|_| first && matches!(part.group.ways.first(), Some(Some(_))));
            if let Some(name) = &part.subset {
                let own = TrafficPolicy {
                    tls: own_tls(),
                    port_level_settings: by_port(part.group, part.only, false),
                    ..TrafficPolicy::default()
                };
                subsets.push(Subset { name: name.clone(), labels: labels.clone(), traffic_policy: Some(own) });
            }
            if http1 {
                // Without a group of its own, it takes everything but the pool from above, for each port.
                let alone = part.subset.is_none();
                let own = TrafficPolicy {
                    port_level_settings: if alone { None } else { by_port(part.group, part.only, true) },
                    ..traffic::http1_policy(if alone { None } else { own_tls() })
                };
                let name = http1_subset(part.subset.as_deref());
                subsets.push(Subset { name, labels, traffic_policy: Some(own) });
            }
        }
        let spec = DestinationRuleSpec {
            host: self.host.to_owned(),
            export_to: self.export_to(),
            traffic_policy: top,
            subsets: (!subsets.is_empty()).then_some(subsets),
            workload_selector: None,
        };
        let name = object_name(self.plan, prefix, None);
        let metadata = match plan.tls {
            TlsMode::Cluster => self.marks.build_metadata_without(names::ROOT_IN_SECRET, self.namespace, name),
            TlsMode::Workload | TlsMode::Passthrough => self.marks.build_metadata(self.namespace, name),
        };
        DestinationRule { metadata, spec }
    }

    fn has_http1(&self) -> bool {
        !self.opaque && self.plan.ports.iter().any(|p| p.protocol == Protocol::Http)
    }

    fn build_destination(&self, way: &PortWay, port: &LocalPort, upstream: &RouteUpstream) -> Destination {
        let subset = match upstream {
            RouteUpstream::WebSocket => Some(http1_subset(way.subset.as_deref())),
            RouteUpstream::Other => way.subset.clone(),
        };
        Destination {
            host: self.host.to_owned(),
            port: Some(DestinationPort { number: Some(port.number.into()) }),
            subset,
        }
    }

    /// Builds the routes of one HTTP port over this leg. With `rename`, requests carry the exposed name, by which the
    /// donors' gateways choose.
    pub fn build_http_routes(
        &self,
        i: usize,
        port: &LocalPort,
        matches: &VirtualServiceHttpMatch,
        rename: bool,
    ) -> Vec<VirtualServiceHttp> {
        let authority = |way: &PortWay| rename.then(|| way.host.to_string());
        let ways: Vec<&PortWay> = self.plan.ways_of_port(i).map(|(_, way)| way).collect();
        traffic::http_routes(port.protocol, matches, |upstream| match &ways[..] {
            [only] => {
                let destination = self.build_destination(only, port, upstream);
                let route = VirtualServiceHttpRoute { destination, ..VirtualServiceHttpRoute::default() };
                let rewrite = authority(only).map(rewrite_authority);
                VirtualServiceHttp { route: Some(vec![route]), rewrite, ..VirtualServiceHttp::default() }
            }
            ways => {
                let one = |way: &&PortWay| VirtualServiceHttpRoute {
                    destination: self.build_destination(way, port, upstream),
                    weight: i32::try_from(way.weight).ok(),
                    headers: authority(way).map(set_authority),
                };
                VirtualServiceHttp { route: Some(ways.iter().map(one).collect()), ..VirtualServiceHttp::default() }
            }
        })
    }

    /// The destinations of one TCP port over this leg, in the order of the port's ways.
    pub fn tcp_routes(&self, i: usize, port: &LocalPort) -> Vec<VirtualServiceTcpRoute> {
        let several = self.plan.ways_of_port(i).nth(1).is_some();
        let one = |way: &PortWay| VirtualServiceTcpRoute {
            destination: self.build_destination(way, port, &RouteUpstream::Other),
            weight: if several { i32::try_from(way.weight).ok() } else { None },
        };
        self.plan.ways_of_port(i).map(|(_, way)| one(way)).collect()
    }

    /// The mesh's routes straight to this leg.
    pub fn mesh_routes(&self) -> VirtualService {
        let plan = self.plan;
        let several = plan.has_several_ports();
        let (mut http, mut tcp) = (unserved::build_unserved_routes(plan.local, &plan.unserved, several), Vec::new());
        for (i, port) in plan.ports.iter().enumerate() {
            let number = several.then(|| port.number.into());
            if port.protocol.is_http() {
                let matches = VirtualServiceHttpMatch { port: number, ..VirtualServiceHttpMatch::default() };
                http.extend(self.build_http_routes(i, port, &matches, plan.tls != TlsMode::Passthrough));
            } else {
                let matches =
                    number.map(|n| vec![VirtualServiceTcpMatch { port: Some(n), ..VirtualServiceTcpMatch::default() }]);
                tcp.push(VirtualServiceTcp { r#match: matches, route: Some(self.tcp_routes(i, port)) });
            }
        }
        mesh_virtual_service(plan.local, self.marks, http, tcp)
    }
}

/// The VirtualService of the local name in the mesh. Routes at a gateway are objects of the gateway's namespace.
pub(super) fn mesh_virtual_service(
    local: &LocalName,
    marks: &OwnerMarks,
    http: Vec<VirtualServiceHttp>,
    tcp: Vec<VirtualServiceTcp>,
) -> VirtualService {
    let spec = VirtualServiceSpec {
        hosts: Some(vec![local.host().to_string()]),
        export_to: Some(export_list(EVERYWHERE)),
        gateways: Some(vec![MESH_GATEWAY.to_owned()]),
        http: (!http.is_empty()).then_some(http),
        tcp: (!tcp.is_empty()).then_some(tcp),
        ..VirtualServiceSpec::default()
    };
    let (namespace, name) = (local.namespace.as_str(), named_after(local, "wharf", None));
    VirtualService { metadata: marks.build_metadata(namespace, name), spec }
}

pub(super) fn rewrite_authority(host: String) -> VirtualServiceHttpRewrite {
    VirtualServiceHttpRewrite { authority: Some(host), ..VirtualServiceHttpRewrite::default() }
}

/// A route with several destinations names each of them in its own way.
fn set_authority(host: String) -> VirtualServiceHttpHeaders {
    let set = BTreeMap::from([(":authority".to_owned(), host)]);
    let request = VirtualServiceHttpHeadersRequest { set: Some(set), ..VirtualServiceHttpHeadersRequest::default() };
    VirtualServiceHttpHeaders { request: Some(request), response: None }
}

fn http1_subset(subset: Option<&str>) -> String {
    match subset {
        None => HTTP1.to_owned(),
        Some(name) => names::build_name(HTTP1, &[name]),
    }
}

/// Returns addresses that no caller uses. Without any, a TCP port of a ServiceEntry is a listener on 0.0.0.0 in every
/// sidecar, which takes what is meant for others; the name itself is only called through routes. The addresses come
/// from the ranges that are reserved (RFC 1112, section 4) and for benchmarks (RFC 5180), beside those that Istio
/// allocates from.
fn unused_addresses(host: &str) -> Vec<String> {
    let hash = Sha256::digest(host.as_bytes());
    let [a, b, c, d] = [hash[0], hash[1], hash[2], hash[3]];
    vec![format!("240.241.{a}.{b}"), format!("2001:2:0:f1::{c:x}:{d:x}")]
}
