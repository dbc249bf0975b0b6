//! A VirtualService's behaviour, carried to the donor's gateway: routes over subsets, timeouts, retries, faults,
//! headers.
//!
//! It means at the gateway what it means inside the mesh; where that is not possible, nothing is exposed. [`carry`] has
//! the fields.

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::api::Kind;
use crate::api::istio::{
    VirtualService, VirtualServiceHttp, VirtualServiceHttpMatch, VirtualServiceHttpMirror as Destination,
    VirtualServiceHttpMirrorPort as DestinationPort, VirtualServiceTcp, VirtualServiceTcpMatch, VirtualServiceTlsMatch,
};
use crate::model::{Host, Label, TlsMode};

use super::carry::{self, AtField, CarryBudget, FieldRefusal, NamedDestination, quote_shortened};
use super::expose::{ResolvedEntry, ResolvedPort};
use super::inventory::service_of;
use super::owners::istio_name;
use super::ports::{self, PortReading};
use super::problem::{Problem, ProblemReason, join_list};
use super::provider::ProviderRules;
use super::vouch;

pub(super) struct Behaviour<'a> {
    e: &'a ResolvedEntry<'a>,
    vs: &'a VirtualService,
}

/// The VirtualService that an entry names, if it names one.
pub(super) fn find_behaviour<'a>(e: &'a ResolvedEntry<'a>) -> Result<Option<Behaviour<'a>>, Problem> {
    let Some(name) = e.entry.virtual_service.as_deref() else { return Ok(None) };
    let namespace = &e.key.namespace;
    let vs = e.inventory.virtual_service(namespace.as_str(), name).ok_or_else(|| {
        let there = || join_list(e.inventory.virtual_service_names(namespace.as_str()));
        let cure = || format!("without its behaviour nothing is exposed; there are: {}", there());
        let what = (ProblemReason::VirtualServiceNotFound, "virtualService");
        e.inventory.build_absence_problem(Kind::VirtualService, (namespace.as_str(), name), what, cure)
    })?;
    if e.tls == TlsMode::Passthrough {
        let message = "with tls: Passthrough the gateway sees no requests to route";
        return Err(unusable_problem(message).cure("use tls: Cluster or tls: Workload"));
    }
    let host = Host::of_service(&e.service, namespace);
    let mut hosts = vs.spec.hosts.iter().flatten().map(|h| istio_name(&h.to_ascii_lowercase(), namespace.as_str()));
    if !hosts.any(|h| covers_host(&h, host.as_str())) {
        let there = join_list(vs.spec.hosts.iter().flatten().map(String::as_str));
        let problem = unusable_problem(format!("{name} is not about {}: its hosts are {there}", e.service));
        return Err(
            problem.cure(format!("give it the host {} or {host}: Istio completes no name with a dot in it", e.service))
        );
    }
    if !vs.is_for_mesh() {
        let message = format!("{name} is attached to gateways only, and says nothing about calls of {}", e.service);
        return Err(unusable_problem(message).cure("add mesh to its gateways"));
    }
    Ok(Some(Behaviour { e, vs }))
}

fn unusable_problem(message: impl Into<String>) -> Problem {
    Problem::new(ProblemReason::VirtualServiceUnusable, "virtualService", message)
}

fn covers_host(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

/// The place that a match of a route is for, as far as all kinds of matches are alike.
trait RoutePlace {
    fn gateways(&self) -> Option<&[String]>;
    fn port(&self) -> Option<i64>;
}

/// A match of an HTTP, or of a TCP route, as far as both are alike.
trait RouteMatch: RoutePlace + Default + PartialEq {
    /// Returns the conditions that are left when it is known what place the match is for.
    fn carry_match(&self, budget: &mut CarryBudget) -> Result<Self, FieldRefusal>;
}

macro_rules! route_place {
    ($($name:ty),+) => {$(
        impl RoutePlace for $name {
            fn gateways(&self) -> Option<&[String]> {
                self.gateways.as_deref()
            }
            fn port(&self) -> Option<i64> {
                self.port
            }
        }
    )+};
}
route_place!(VirtualServiceHttpMatch, VirtualServiceTcpMatch, VirtualServiceTlsMatch);

impl RouteMatch for VirtualServiceHttpMatch {
    fn carry_match(&self, budget: &mut CarryBudget) -> Result<VirtualServiceHttpMatch, FieldRefusal> {
        carry::carry_http_match(self, budget)
    }
}

impl RouteMatch for VirtualServiceTcpMatch {
    fn carry_match(&self, budget: &mut CarryBudget) -> Result<VirtualServiceTcpMatch, FieldRefusal> {
        carry::carry_tcp_match(self, budget)
    }
}

impl Behaviour<'_> {
    /// The routes for one HTTP port. None if the VirtualService says nothing about calls of it, as in the mesh, where
    /// such a port is left alone.
    pub fn build_http_routes(
        &self,
        port: &ResolvedPort,
        rules: &mut ProviderRules<'_>,
    ) -> Result<Option<Vec<VirtualServiceHttp>>, Problem> {
        let mut kept = Vec::new();
        for (i, route) in self.vs.spec.http.iter().flatten().enumerate() {
            let carried = self.http_route(route, port, rules).at_index("http", i);
            kept.extend(carried.map_err(|refusal| self.build_problem(refusal))?);
        }
        rules.budget.add_bytes(&kept).at("http").map_err(|refusal| self.build_problem(refusal))?;
        Ok((!kept.is_empty()).then_some(kept))
    }

    fn http_route(
        &self,
        route: &VirtualServiceHttp,
        port: &ResolvedPort,
        rules: &mut ProviderRules<'_>,
    ) -> Result<Option<VirtualServiceHttp>, FieldRefusal> {
        if !is_for(route.r#match.as_deref(), port) {
            return Ok(None);
        }
        let mut budget = std::mem::take(&mut rules.budget);
        budget.begin_route()?;
        let matches = carry_matches(route.r#match.as_deref(), port, &mut budget)?;
        self.check_redirect(route)?;
        let mut resolve = |destination: &Destination| self.resolve_destination(destination, port, rules);
        let carried = carry::carry_http_route(route, matches, &mut budget, &mut resolve)?;
        rules.budget = budget;
        Ok(Some(carried))
    }

    /// The routes for one TCP port. None if the VirtualService says nothing about calls of it.
    pub fn build_tcp_routes(
        &self,
        port: &ResolvedPort,
        gateway_port: i64,
        rules: &mut ProviderRules<'_>,
    ) -> Result<Option<Vec<VirtualServiceTcp>>, Problem> {
        if !follows_tcp(port) {
            return Ok(None);
        }
        let mut kept = Vec::new();
        for (i, route) in self.vs.spec.tcp.iter().flatten().enumerate() {
            let carried = self.tcp_route(route, port, gateway_port, rules).at_index("tcp", i);
            kept.extend(carried.map_err(|refusal| self.build_problem(refusal))?);
        }
        rules.budget.add_bytes(&kept).at("tcp").map_err(|refusal| self.build_problem(refusal))?;
        Ok((!kept.is_empty()).then_some(kept))
    }

    fn tcp_route(
        &self,
        route: &VirtualServiceTcp,
        port: &ResolvedPort,
        gateway_port: i64,
        rules: &mut ProviderRules<'_>,
    ) -> Result<Option<VirtualServiceTcp>, FieldRefusal> {
        if !is_for(route.r#match.as_deref(), port) {
            return Ok(None);
        }
        rules.budget.begin_route()?;
        carry_matches(route.r#match.as_deref(), port, &mut rules.budget)?;
        let mut resolve = |destination: &Destination| self.resolve_destination(destination, port, rules);
        let carried = carry::carry_tcp_route(route, &mut resolve)?;
        let here = VirtualServiceTcpMatch { port: Some(gateway_port), ..VirtualServiceTcpMatch::default() };
        Ok(Some(VirtualServiceTcp { r#match: Some(vec![here]), ..carried }))
    }

    /// Refuses what would be left out at the gateway without a word.
    pub fn check_ports(&self) -> Result<(), Problem> {
        for port in &self.e.ports {
            self.check_sniffed(port)
                .and_then(|()| self.check_tls(port))
                .map_err(|refusal| self.build_problem(refusal))?;
        }
        let concerned = |p: &ResolvedPort| {
            if self.e.is_http(p.port.protocol) { self.has_http(p) } else { follows_tcp(p) && self.has_tcp(p) }
        };
        if self.e.ports.iter().any(concerned) {
            return Ok(());
        }
        let numbers: Vec<String> = self.e.ports.iter().map(|p| p.port.number.to_string()).collect();
        let message = format!("no route is for calls of port {} inside the mesh", numbers.join(", "));
        Err(self.build_problem(FieldRefusal::new(message)))
    }

    fn has_http(&self, port: &ResolvedPort) -> bool {
        self.vs.spec.http.iter().flatten().any(|r| is_for(r.r#match.as_deref(), port))
    }

    fn has_tcp(&self, port: &ResolvedPort) -> bool {
        self.vs.spec.tcp.iter().flatten().any(|r| is_for(r.r#match.as_deref(), port))
    }

    /// Inside the mesh the proxies look at what is spoken at such a port, and follow these routes.
    fn check_sniffed(&self, port: &ResolvedPort) -> Result<(), FieldRefusal> {
        if port.port.reading != PortReading::Sniffed || !self.has_http(port) {
            return Ok(());
        }
        let number = port.port.number;
        let message =
            format!("port {number} of {} does not say what it speaks, so HTTP routes are lost", self.e.service);
        Err(FieldRefusal::new(message).cure("name the port http, http2 or grpc, or set its appProtocol").below("http"))
    }

    /// Sidecars follow TLS routes at ports that speak TLS, and at no others (istiod,
    /// `buildSidecarOutboundTLSFilterChainOpts`).
    fn check_tls(&self, port: &ResolvedPort) -> Result<(), FieldRefusal> {
        if port.port.reading != PortReading::Tls {
            return Ok(());
        }
        for (i, route) in self.vs.spec.tls.iter().flatten().enumerate() {
            if route.r#match.iter().any(|one| is_for_port(one, port)) {
                let message = "it is chosen by the name in a TLS handshake, which is the gateway's own there";
                let refusal = FieldRefusal::new(message).cure("give other clusters a VirtualService without it");
                return Err(refusal).at_index("tls", i);
            }
        }
        Ok(())
    }

    fn build_problem(&self, refusal: FieldRefusal) -> Problem {
        let name = self.vs.metadata.name.as_deref().unwrap_or_default();
        refusal.into_problem(ProblemReason::VirtualServiceUnusable, "virtualService", name)
    }

    /// Refuses a redirect to a name of this mesh, which callers of another cluster do not have.
    fn check_redirect(&self, route: &VirtualServiceHttp) -> Result<(), FieldRefusal> {
        let Some(authority) = route.redirect.as_ref().and_then(|r| r.authority.as_deref()) else { return Ok(()) };
        let host = authority.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        if !host.is_empty() && self.is_of_this_mesh(&host) {
            let message = format!("{host} is a name or address inside this cluster");
            let refusal = FieldRefusal::new(message).cure("name a host that callers of all clusters reach");
            return Err(refusal.below("authority").below("redirect"));
        }
        Ok(())
    }

    fn is_of_this_mesh(&self, host: &str) -> bool {
        let parts: Vec<&str> = host.split('.').collect();
        match parts[..] {
            [_] => true,
            [name, namespace] => {
                namespace == self.e.key.namespace.as_str() || self.e.inventory.service(namespace, name).is_some()
            }
            _ => {
                let is_address = parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_digit()));
                is_address || host.ends_with(".local") || host.ends_with(".svc")
            }
        }
    }

    /// Turns a destination into a full name with a port, and its subset into one of Wharf's own. The author of a policy
    /// decides about the Services of its own namespace, and no others.
    fn resolve_destination(
        &self,
        destination: &Destination,
        port: &ResolvedPort,
        rules: &mut ProviderRules<'_>,
    ) -> Result<Destination, FieldRefusal> {
        let named = NamedDestination::from(destination);
        let namespace = &self.e.key.namespace;
        let full = istio_name(named.host, namespace.as_str());
        let service = match service_of(&full) {
            Some((name, ns)) if ns == namespace.as_str() => name.parse::<Label>().ok(),
            _ => None,
        };
        let Some(service) = service else {
            let message = format!("{} is not a Service of the namespace {namespace}", quote_shortened(named.host));
            let refusal = FieldRefusal::new(message);
            return Err(match named.host.strip_suffix(&format!(".{namespace}")) {
                Some(name) => refusal.cure(format!(
                    "write {name} or {name}.{namespace}.svc.cluster.local: Istio completes no name with a dot in it"
                )),
                None => refusal.cure("a policy exposes what lies in its own namespace, and no more"),
            });
        };
        let Some(object) = self.e.inventory.service(namespace.as_str(), service.as_str()) else {
            let name = (namespace.as_str(), service.as_str());
            let what = (ProblemReason::VirtualServiceUnusable, "virtualService");
            return Err(self.e.inventory.build_absence_problem(Kind::Service, name, what, String::new).into());
        };
        if object.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            let message = format!("the Service {service} is another name of something outside (ExternalName)");
            return Err(FieldRefusal::new(message));
        }
        vouch::check_selector(service.as_str(), object, self.e.facts).map_err(FieldRefusal::from)?;
        vouch::check_visible(service.as_str(), object, namespace, self.e.facts).map_err(FieldRefusal::from)?;
        let number = self.port_of(&service, object, named.port, port)?;
        let subset = named.subset.map(|subset| rules.request_subset(&service, subset)).transpose();
        let subset = subset.map_err(FieldRefusal::from).at("subset")?;
        Ok(Destination { host: full, port: Some(DestinationPort { number: Some(number) }), subset })
    }

    fn port_of(
        &self,
        service: &Label,
        object: &Service,
        wanted: Option<i64>,
        port: &ResolvedPort,
    ) -> Result<i64, FieldRefusal> {
        let ports: Vec<&ServicePort> = object.spec.iter().flat_map(|s| s.ports.iter().flatten()).collect();
        // As istiod does (`GetDestinationCluster`): the only port, of whatever protocol, or the one that was called.
        let number = match (wanted, &ports[..]) {
            (Some(number), _) => number,
            (None, [only]) => only.port.into(),
            (None, _) => port.port.number.into(),
        };
        if !ports.iter().any(|p| i64::from(p.port) == number && ports::is_exposable(p)) {
            let refusal = FieldRefusal::new(format!("the Service {service} has no TCP port {number}"));
            return Err(if wanted.is_none() {
                refusal.cure("let the destination name a port that it has")
            } else {
                refusal
            });
        }
        Ok(number)
    }
}

/// Returns whether sidecars follow TCP routes at a port. They do not where it speaks TLS (istiod,
/// `buildSidecarOutboundTCPFilterChainOpts`).
fn follows_tcp(port: &ResolvedPort) -> bool {
    port.port.reading != PortReading::Tls
}

/// Returns whether a route is for calls of this port inside the mesh.
fn is_for<M: RoutePlace>(matches: Option<&[M]>, port: &ResolvedPort) -> bool {
    let matches = matches.unwrap_or_default();
    matches.is_empty() || matches.iter().any(|one| is_for_port(one, port))
}

fn is_for_port<M: RoutePlace>(one: &M, port: &ResolvedPort) -> bool {
    let of_mesh = one.gateways().is_none_or(|g| g.is_empty() || g.iter().any(|g| g == "mesh"));
    of_mesh && one.port().is_none_or(|p| p == 0 || p == i64::from(port.port.number))
}

/// Returns the matches that are for this port inside the mesh, without the fields that say so; None if the route takes
/// everything.
fn carry_matches<M: RouteMatch>(
    matches: Option<&[M]>,
    port: &ResolvedPort,
    budget: &mut CarryBudget,
) -> Result<Option<Vec<M>>, FieldRefusal> {
    let mut kept = Vec::new();
    for (i, one) in matches.unwrap_or_default().iter().enumerate() {
        if is_for_port(one, port) {
            kept.push(one.carry_match(budget).at_index("match", i)?);
        }
    }
    // A match that only names its place takes everything.
    let takes_all = kept.is_empty() || kept.contains(&M::default());
    Ok((!takes_all).then_some(kept))
}
