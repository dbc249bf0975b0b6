//! The way through the acceptor's egress gateway.

use std::collections::BTreeMap;

use crate::api::Object;
use crate::api::istio::{
    DestinationRule, DestinationRuleSpec, DestinationRuleSubsets as Subset,
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyConnectionPool as Pool,
    DestinationRuleTrafficPolicyConnectionPoolHttp as HttpPool,
    DestinationRuleTrafficPolicyConnectionPoolHttpH2UpgradePolicy as Upgrade, DestinationRuleTrafficPolicyTls as Tls,
    DestinationRuleTrafficPolicyTlsMode as ClientTlsMode, Gateway, GatewayServers, GatewayServersPort,
    GatewayServersTls, GatewayServersTlsMode, GatewaySpec, VirtualService, VirtualServiceHttp, VirtualServiceHttpMatch,
    VirtualServiceHttpMirror as Destination, VirtualServiceHttpMirrorPort as DestinationPort, VirtualServiceHttpRoute,
    VirtualServiceSpec, VirtualServiceTcp, VirtualServiceTcpMatch, VirtualServiceTcpRoute, VirtualServiceTls,
    VirtualServiceTlsMatch,
};
use crate::model::{Address, ClusterFacts, GatewayAddress, Host, Protocol, TlsMode};

use super::acceptor::{self, DonorLeg, object_name, rewrite_authority};
use super::consumers::client_principals;
use super::guard::{self, GuardedName};
use super::inventory::Inventory;
use super::names::OwnerMarks;
use super::plan::{DonorGroup, LocalPlan, LocalPort, PlanEndpoint};
use super::{EVERYWHERE, HERE, export_list, permit, traffic, unserved};

/// Name of the objects that all HTTP bindings share.
const SHARED: &str = "wharf-egress";
/// The subsets of the egress gateway that lead to its shared listener, for HTTP/1.1 and for what needs HTTP/2.
const SUBSET: &str = "wharf";
const SUBSET_HTTP2: &str = "wharf-http2";
/// The SNI of the shared listener. It matches no other server, and leads to the one that takes every name.
const SHARED_SNI: &str = "wharf.egress";

/// One listener of the egress gateway for all HTTP bindings, and the way there. It asks for a certificate of the mesh;
/// routes name the hosts, so that a binding changes no listener and drains nobody.
///
/// The listener takes any host, but routes of the gateway's own namespace only. With `*` every VirtualService of the
/// mesh could attach to it, and lead the requests of others, or calls of its own, wherever the gateway may go.
pub fn shared_egress(inventory: &Inventory, facts: &ClusterFacts) -> Vec<Object> {
    let marks = OwnerMarks::of_shared();
    let namespace = facts.egress.namespace.as_str();
    let server = build_server(facts, "https", "HTTPS", GatewayServersTlsMode::IstioMutual, "./*".to_owned());
    let subset = |name: &str, http2: bool| to_gateway(name, SHARED_SNI, http2);
    let rule = DestinationRuleSpec {
        host: facts.egress.host().to_string(),
        export_to: rule_export(inventory, facts),
        subsets: Some(vec![subset(SUBSET, false), subset(SUBSET_HTTP2, true)]),
        ..DestinationRuleSpec::default()
    };
    vec![
        DestinationRule { metadata: marks.build_metadata(namespace, SHARED.to_owned()), spec: rule }.into(),
        build_gateway(facts, &marks, SHARED.to_owned(), vec![server]).into(),
    ]
}

/// Returns the `exportTo` of Wharf's rules for the host of the egress gateway: everybody, whatever the mesh's default
/// is.
///
/// Istio merges rules for one host in one namespace only if they are exported alike; of rules that it does not merge,
/// one holds and the others count for nothing (istiod, `mergeDestinationRule`). So beside a rule of the gateway's owner
/// that leaves it to the default, Wharf's leave it to the default as well.
fn rule_export(inventory: &Inventory, facts: &ClusterFacts) -> Option<Vec<String>> {
    let beside = inventory.has_rule_by_default(facts.egress.host().as_str(), &facts.egress.namespace);
    (!beside).then(|| export_list(EVERYWHERE))
}

pub(super) fn build_egress_objects(
    plan: &LocalPlan<'_>,
    marks: &OwnerMarks,
    inventory: &Inventory,
    objects: &mut Vec<Object>,
) {
    let host = remote_host(plan);
    let namespace = plan.facts.egress.namespace.as_str();
    let passes = plan.tls == TlsMode::Passthrough;
    let leg = DonorLeg { plan, marks, namespace, host: &host, private: true, endpoints: None, opaque: passes };
    objects.push(leg.service_entry("service-entry").into());
    if passes {
        // What passes through is TLS already: the gateway must not wrap it.
        let off = || Tls { mode: Some(ClientTlsMode::Disable), ..Tls::default() };
        objects.push(leg.destination_rule("dest-rule", |_, _| Some(off())).into());
        build_passthrough(&leg, objects);
    } else {
        objects.push(leg.destination_rule("dest-rule", |group, i| Some(acceptor::to_donor(plan, group, i))).into());
        build_terminated(&leg, inventory, objects);
    }
}

/// The name that stands for the donors at the egress gateway, and is seen nowhere else.
///
/// The name is below the local name, where nobody else has a say. It is not outside the cluster's domain: for such a
/// host, `istioctl analyze` looks for a subset only in the namespace of the VirtualService, and would call every
/// binding an error (IST0101).
pub(super) fn remote_host(plan: &LocalPlan<'_>) -> String {
    format!("remote.{}", plan.local.host())
}

/// The name that a port has at the egress gateway: unique here, also for two donors' services of one name, and the same
/// whatever other ports there are. So a proxy that does not know the newest routes yet calls this port, or none.
///
/// No donor's name for what passes through has this form: those stand beside it at the gateway, told apart by SNI as
/// well.
fn own_name(plan: &LocalPlan<'_>, port: &LocalPort) -> String {
    format!("p{}.local.{}", port.number, plan.local.host())
}

/// Ports whose TLS the egress gateway ends, to open a TLS of its own to the donor.
fn build_terminated(leg: &DonorLeg<'_>, inventory: &Inventory, objects: &mut Vec<Object>) {
    let (plan, marks) = (leg.plan, leg.marks);
    let egress = &plan.facts.egress;
    let several = plan.has_several_ports();
    let (mut http, mut tcp) = (unserved::build_unserved_routes(plan.local, &plan.unserved, several), Vec::new());
    let mut chain = EgressChain::new(leg);
    for (i, port) in plan.ports.iter().enumerate() {
        let name = own_name(plan, port);
        let number = several.then(|| i64::from(port.number));
        let subset = if plan.shares_listener(port) {
            objects.push(at_shared_listener(leg, i, port, &name).into());
            shared_subset(port.protocol).to_owned()
        } else {
            chain.add_port(i, port, &name)
        };
        let destination = Destination {
            host: egress.host().to_string(),
            port: Some(DestinationPort { number: Some(egress.port.into()) }),
            subset: Some(subset),
        };
        if port.protocol.is_http() {
            let matches =
                number.map(|n| vec![VirtualServiceHttpMatch { port: Some(n), ..VirtualServiceHttpMatch::default() }]);
            http.push(VirtualServiceHttp {
                r#match: matches,
                rewrite: Some(rewrite_authority(name)),
                retries: Some(traffic::retries_inside()),
                route: Some(vec![VirtualServiceHttpRoute { destination, ..VirtualServiceHttpRoute::default() }]),
                ..VirtualServiceHttp::default()
            });
        } else {
            let matches =
                number.map(|n| vec![VirtualServiceTcpMatch { port: Some(n), ..VirtualServiceTcpMatch::default() }]);
            let route = Some(vec![VirtualServiceTcpRoute { destination, weight: None }]);
            tcp.push(VirtualServiceTcp { r#match: matches, route });
        }
    }
    objects.push(acceptor::mesh_virtual_service(plan.local, marks, http, tcp).into());
    chain.into_objects(rule_export(inventory, plan.facts), objects);
}

/// The subset of the egress gateway that leads to its shared listener.
fn shared_subset(protocol: Protocol) -> &'static str {
    if protocol == Protocol::Http { SUBSET } else { SUBSET_HTTP2 }
}

/// The routes of one port at the shared listener.
fn at_shared_listener(leg: &DonorLeg<'_>, i: usize, port: &LocalPort, name: &str) -> VirtualService {
    let spec = VirtualServiceSpec {
        hosts: Some(vec![name.to_owned()]),
        export_to: Some(export_list(HERE)),
        gateways: Some(vec![SHARED.to_owned()]),
        http: Some(leg.build_http_routes(i, port, &VirtualServiceHttpMatch::default(), true)),
        ..VirtualServiceSpec::default()
    };
    let name = object_name(leg.plan, "egressgateway-to", Some(port.number));
    VirtualService { metadata: leg.marks.build_metadata(leg.namespace, name), spec }
}

/// A way through the egress gateway that a local name has for itself: told apart by SNI.
struct EgressChain<'a> {
    leg: &'a DonorLeg<'a>,
    servers: Vec<GatewayServers>,
    subsets: Vec<Subset>,
    routes: Vec<VirtualService>,
    guarded: Vec<GuardedName>,
    /// The only callers that may use it; empty: all of the mesh.
    clients: Vec<String>,
}

impl<'a> EgressChain<'a> {
    fn new(leg: &'a DonorLeg<'a>) -> EgressChain<'a> {
        let clients = client_principals(leg.plan.facts.trust_domain.as_str(), &leg.plan.clients);
        EgressChain { leg, servers: Vec::new(), subsets: Vec::new(), routes: Vec::new(), guarded: Vec::new(), clients }
    }

    /// Adds a port. Returns the subset of the egress gateway that leads to this port's server.
    fn add_port(&mut self, i: usize, port: &LocalPort, name: &str) -> String {
        let (plan, facts) = (self.leg.plan, self.leg.plan.facts);
        let nth = Some(port.number);
        let http = port.protocol.is_http();
        let protocol = if http { "HTTPS" } else { "TLS" };
        let mode = GatewayServersTlsMode::IstioMutual;
        let mut server = build_server(facts, &server_name(protocol, nth), protocol, mode, format!("./{name}"));
        if let Some(tls) = server.tls.as_mut().filter(|_| !http && !self.clients.is_empty()) {
            tls.subject_alt_names = Some(vec![guard::NOBODY.to_owned()]);
        }
        self.servers.push(server);
        let subset = object_name(plan, "to", nth);
        self.subsets.push(to_gateway(&subset, name, matches!(port.protocol, Protocol::Http2 | Protocol::Grpc)));
        let mut spec = VirtualServiceSpec {
            hosts: Some(vec![name.to_owned()]),
            export_to: Some(export_list(HERE)),
            gateways: Some(vec![object_name(plan, "istio-egressgateway", None)]),
            ..VirtualServiceSpec::default()
        };
        if http {
            let refusal = (!self.clients.is_empty()).then(|| permit::refusal_of_others(name, &self.clients));
            let routes = self.leg.build_http_routes(i, port, &VirtualServiceHttpMatch::default(), true);
            spec.http = Some(refusal.into_iter().chain(routes).collect());
        } else {
            let here =
                VirtualServiceTcpMatch { port: Some(facts.egress.port.into()), ..VirtualServiceTcpMatch::default() };
            spec.tcp =
                Some(vec![VirtualServiceTcp { r#match: Some(vec![here]), route: Some(self.leg.tcp_routes(i, port)) }]);
        }
        let metadata = self.leg.marks.build_metadata(self.leg.namespace, object_name(plan, "egressgateway-to", nth));
        self.routes.push(VirtualService { metadata, spec });
        self.guarded.push(GuardedName { host: name.to_owned(), http });
        subset
    }

    fn into_objects(self, export_to: Option<Vec<String>>, objects: &mut Vec<Object>) {
        if self.servers.is_empty() {
            return;
        }
        let DonorLeg { plan, marks, namespace, .. } = *self.leg;
        let facts = plan.facts;
        if !self.clients.is_empty() {
            let (name, selector) = (object_name(plan, "egressgateway", None), facts.egress.selector.clone());
            objects.push(guard::permit_only(marks, namespace, name, selector, &self.clients, &self.guarded).into());
        }
        objects.push(build_gateway(facts, marks, object_name(plan, "istio-egressgateway", None), self.servers).into());
        // Istio merges the rules for one host in one namespace: each local name has its own, and disturbs no other.
        let spec = DestinationRuleSpec {
            host: facts.egress.host().to_string(),
            export_to,
            subsets: Some(self.subsets),
            ..DestinationRuleSpec::default()
        };
        let name = object_name(plan, "egressgateway-dest-rule", None);
        objects.push(DestinationRule { metadata: marks.build_metadata(namespace, name), spec }.into());
        objects.extend(self.routes.into_iter().map(Object::from));
    }
}

/// The name that stands for the egress gateway, for callers of one local name.
pub(super) fn passthrough_host(plan: &LocalPlan<'_>) -> String {
    format!("{}.{}.egress", plan.local.name, plan.local.namespace)
}

/// One TLS connection from the caller's sidecar to the provider, with the donor's SNI: the gateway only looks at that.
///
/// The sidecar must not take the egress gateway's own Service for the way: for `ISTIO_MUTUAL` without names to expect,
/// istiod fills in that Service's accounts, and the provider's certificate is none of them. So a ServiceEntry stands
/// for it.
fn build_passthrough(leg: &DonorLeg<'_>, objects: &mut Vec<Object>) {
    let (plan, marks) = (leg.plan, leg.marks);
    let egress = &plan.facts.egress;
    let host = passthrough_host(plan);
    let address = GatewayAddress { address: Address::Name(egress.host()), port: egress.port, locality: None };
    let endpoint = |group: &DonorGroup| PlanEndpoint {
        gateway: address.clone(),
        labels: plan.group_parts().iter().filter(|p| std::ptr::eq(p.group, group)).fold(
            BTreeMap::new(),
            |mut labels, part| {
                labels.extend(group.labels(part.only.and_then(|i| plan.ports.get(i))));
                labels
            },
        ),
        weight: None,
    };
    let endpoints: Vec<PlanEndpoint> = plan.groups.iter().map(endpoint).collect();
    let namespace = plan.local.namespace.as_str();
    let inside =
        DonorLeg { namespace, host: &host, private: false, endpoints: Some(&endpoints), opaque: false, ..*leg };
    objects.push(inside.service_entry("egress-service-entry").into());
    let tls = |group: &DonorGroup, i: usize| Some(acceptor::to_donor(plan, group, i));
    objects.push(inside.destination_rule("egress-dest-rule", tls).into());
    objects.push(inside.mesh_routes().into());

    let (mut servers, mut hosts, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for (i, port) in plan.ports.iter().enumerate() {
        for (n, ((_, way), route)) in plan.ways_of_port(i).zip(leg.tcp_routes(i, port)).enumerate() {
            let exposed = &way.host;
            if hosts.iter().any(|host: &String| *host == exposed.as_str()) {
                continue; // another local port leads there as well, and the donors behind it are the same
            }
            let name = server_name("TLS", Some(port.number));
            let name = if n > 0 { format!("{name}-{n}") } else { name };
            servers.push(build_server(
                plan.facts,
                &name,
                "TLS",
                GatewayServersTlsMode::Passthrough,
                format!("./{exposed}"),
            ));
            hosts.push(exposed.to_string());
            routes.push(sni_route(egress.port, exposed, VirtualServiceTcpRoute { weight: None, ..route }));
        }
    }
    let gateway_name = object_name(plan, "istio-egressgateway", None);
    let spec = VirtualServiceSpec {
        hosts: Some(hosts),
        export_to: Some(export_list(HERE)),
        gateways: Some(vec![gateway_name.clone()]),
        tls: Some(routes),
        ..VirtualServiceSpec::default()
    };
    objects.push(build_gateway(plan.facts, marks, gateway_name, servers).into());
    let name = object_name(plan, "egressgateway-to", None);
    objects.push(VirtualService { metadata: marks.build_metadata(leg.namespace, name), spec }.into());
}

fn sni_route(port: u16, host: &Host, route: VirtualServiceTcpRoute) -> VirtualServiceTls {
    let matches = VirtualServiceTlsMatch {
        port: Some(port.into()),
        sni_hosts: vec![host.to_string()],
        ..VirtualServiceTlsMatch::default()
    };
    VirtualServiceTls { r#match: vec![matches], route: Some(vec![route]) }
}

fn server_name(protocol: &str, port: Option<u16>) -> String {
    let word = protocol.to_ascii_lowercase();
    port.map_or_else(|| word.clone(), |number| format!("{word}-{number}"))
}

fn build_server(
    facts: &ClusterFacts,
    name: &str,
    protocol: &str,
    mode: GatewayServersTlsMode,
    host: String,
) -> GatewayServers {
    GatewayServers {
        hosts: vec![host],
        port: GatewayServersPort {
            name: name.to_owned(),
            number: facts.egress.port.into(),
            protocol: protocol.to_owned(),
            target_port: None,
        },
        tls: Some(GatewayServersTls { mode: Some(mode), ..GatewayServersTls::default() }),
        ..GatewayServers::default()
    }
}

fn build_gateway(facts: &ClusterFacts, marks: &OwnerMarks, name: String, servers: Vec<GatewayServers>) -> Gateway {
    Gateway {
        metadata: marks.build_metadata(facts.egress.namespace.as_str(), name),
        spec: GatewaySpec { selector: Some(facts.egress.selector.clone()), servers: Some(servers) },
    }
}

/// A subset of the egress gateway that leads to the server of one name.
fn to_gateway(name: &str, sni: &str, http2: bool) -> Subset {
    let tls = Tls { mode: Some(ClientTlsMode::IstioMutual), sni: Some(sni.to_owned()), ..Tls::default() };
    // The gateway's port may be named for any protocol: what needs HTTP/2 has to ask for it.
    let upgrade = HttpPool { h2_upgrade_policy: Some(Upgrade::Upgrade), ..HttpPool::default() };
    let pool = http2.then_some(Pool { http: Some(upgrade), tcp: None });
    let policy = TrafficPolicy { tls: Some(tls), connection_pool: pool, ..TrafficPolicy::default() };
    Subset { name: name.to_owned(), traffic_policy: Some(policy), labels: None }
}
