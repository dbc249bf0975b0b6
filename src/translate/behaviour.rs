//! A VirtualService's behaviour, carried to the donor's gateway: routes over subsets, timeouts, retries, faults, headers.
//!
//! What it means inside the mesh must be what it means at the gateway. Where that cannot be, nothing is exposed.

use std::collections::BTreeMap;

use crate::api::istio::{
    VirtualService, VirtualServiceHttp, VirtualServiceHttpMatch, VirtualServiceHttpMirror as Destination,
    VirtualServiceHttpMirrorPort as DestinationPort, VirtualServiceTcp, VirtualServiceTcpMatch,
};
use crate::model::{Host, Label, TlsMode};

use super::expose::{Resolved, ResolvedPort};
use super::inventory::{full_name, service_of};
use super::permit;
use super::problem::{Problem, Reason, listed};
use super::provider::Rules;

pub(super) struct Behaviour<'a> {
    e: &'a Resolved<'a>,
    vs: &'a VirtualService,
}

/// The VirtualService that an entry names, if it names one.
pub(super) fn find<'a>(e: &'a Resolved<'a>) -> Result<Option<Behaviour<'a>>, Problem> {
    let Some(name) = e.entry.virtual_service.as_deref() else { return Ok(None) };
    let namespace = &e.key.namespace;
    let vs = e.inventory.virtual_service(namespace.as_str(), name).ok_or_else(|| {
        let message = format!("there is no VirtualService {name} in the namespace {namespace}");
        Problem::new(Reason::VirtualServiceNotFound, "virtualService", message)
            .cure("without its behaviour nothing is exposed")
    })?;
    if e.tls == TlsMode::Passthrough {
        let message = "with tls: Passthrough the gateway sees no requests to route";
        return Err(unusable(message).cure("use tls: Cluster or tls: Workload"));
    }
    let host = Host::of_service(&e.service, namespace);
    let mut hosts = vs.spec.hosts.iter().flatten().map(|h| full_name(h, namespace.as_str()));
    if !hosts.any(|h| covers(&h, host.as_str())) {
        let there = listed(vs.spec.hosts.iter().flatten().map(String::as_str));
        return Err(unusable(format!("{name} is not about {}: its hosts are {there}", e.service)));
    }
    if !vs.is_for_mesh() {
        let message = format!("{name} is attached to gateways only, and says nothing about calls of {}", e.service);
        return Err(unusable(message).cure("add mesh to its gateways"));
    }
    if vs.spec.tls.as_ref().is_some_and(|t| !t.is_empty()) {
        return Err(unusable(format!("{name} has tls routes, which a gateway that ends TLS cannot follow")));
    }
    Ok(Some(Behaviour { e, vs }))
}

fn unusable(message: impl Into<String>) -> Problem {
    Problem::new(Reason::VirtualServiceUnusable, "virtualService", message)
}

fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

/// A match of an HTTP, or of a TCP route, as far as both are alike.
trait Match: Clone + Default + PartialEq {
    fn gateways(&mut self) -> Option<Vec<String>>;
    fn port(&mut self) -> Option<i64>;
    /// A condition that means something else at the gateway, or nothing.
    fn foreign(&self) -> Option<&'static str>;
}

impl Match for VirtualServiceHttpMatch {
    fn gateways(&mut self) -> Option<Vec<String>> {
        self.gateways.take()
    }
    fn port(&mut self) -> Option<i64> {
        self.port.take()
    }
    fn foreign(&self) -> Option<&'static str> {
        if self.source_labels.as_ref().is_some_and(|l| !l.is_empty()) {
            Some("sourceLabels")
        } else if self.source_namespace.as_ref().is_some_and(|n| !n.is_empty()) {
            Some("sourceNamespace")
        } else if self.authority.is_some() {
            Some("authority")
        } else if self.headers.iter().chain(&self.without_headers).any(names_the_caller) {
            Some(permit::HEADER)
        } else {
            None
        }
    }
}

/// The gateway tells there whose certificate the caller has, and Wharf's own condition looks at it.
fn names_the_caller<T>(headers: &BTreeMap<String, T>) -> bool {
    headers.keys().any(|name| name.eq_ignore_ascii_case(permit::HEADER))
}

impl Match for VirtualServiceTcpMatch {
    fn gateways(&mut self) -> Option<Vec<String>> {
        self.gateways.take()
    }
    fn port(&mut self) -> Option<i64> {
        self.port.take()
    }
    fn foreign(&self) -> Option<&'static str> {
        if self.source_labels.as_ref().is_some_and(|l| !l.is_empty()) {
            Some("sourceLabels")
        } else if self.source_namespace.as_ref().is_some_and(|n| !n.is_empty()) {
            Some("sourceNamespace")
        } else if self.source_subnet.as_ref().is_some_and(|s| !s.is_empty()) {
            Some("sourceSubnet")
        } else if self.destination_subnets.as_ref().is_some_and(|s| !s.is_empty()) {
            Some("destinationSubnets")
        } else {
            None
        }
    }
}

impl Behaviour<'_> {
    /// The routes for one HTTP port; None if the VirtualService leaves HTTP alone.
    pub fn http(&self, port: &ResolvedPort, rules: &mut Rules<'_>) -> Result<Option<Vec<VirtualServiceHttp>>, Problem> {
        let Some(all) = self.vs.spec.http.as_ref().filter(|h| !h.is_empty()) else { return Ok(None) };
        let mut kept = Vec::new();
        for (i, route) in all.iter().enumerate() {
            let at = |p: Problem| self.at(&format!("http[{i}]"), p);
            let Some(matches) = self.matches(route.r#match.as_deref(), port).map_err(at)? else { continue };
            let mut route = VirtualServiceHttp { r#match: matches, ..route.clone() };
            if route.delegate.is_some() {
                return Err(at(unusable("delegate leads to another VirtualService")));
            }
            for destination in http_destinations(&mut route) {
                self.resolve(destination, port, rules).map_err(at)?;
            }
            kept.push(route);
        }
        self.not_empty(kept, "http", port).map(Some)
    }

    /// The routes for one TCP port; None if the VirtualService leaves TCP alone.
    pub fn tcp(
        &self,
        port: &ResolvedPort,
        gateway_port: i64,
        rules: &mut Rules<'_>,
    ) -> Result<Option<Vec<VirtualServiceTcp>>, Problem> {
        let Some(all) = self.vs.spec.tcp.as_ref().filter(|t| !t.is_empty()) else { return Ok(None) };
        let mut kept = Vec::new();
        for (i, route) in all.iter().enumerate() {
            let at = |p: Problem| self.at(&format!("tcp[{i}]"), p);
            if self.matches(route.r#match.as_deref(), port).map_err(at)?.is_none() {
                continue;
            }
            let mut route = route.clone();
            let here = VirtualServiceTcpMatch { port: Some(gateway_port), ..VirtualServiceTcpMatch::default() };
            route.r#match = Some(vec![here]);
            for destination in route.route.iter_mut().flatten().map(|r| &mut r.destination) {
                self.resolve(destination, port, rules).map_err(at)?;
            }
            kept.push(route);
        }
        self.not_empty(kept, "tcp", port).map(Some)
    }

    fn at(&self, place: &str, mut problem: Problem) -> Problem {
        let name = self.vs.metadata.name.as_deref().unwrap_or_default();
        problem.field = "virtualService".to_owned();
        problem.message = format!("{name}: {place}: {}", problem.message);
        problem
    }

    fn not_empty<T>(&self, kept: Vec<T>, what: &str, port: &ResolvedPort) -> Result<Vec<T>, Problem> {
        if kept.is_empty() {
            let number = port.port.number;
            return Err(self.at(what, unusable(format!("no route is for calls of port {number} inside the mesh"))));
        }
        Ok(kept)
    }

    /// The matches that are for this port inside the mesh, without the fields that say so. None: the route is not for it;
    /// Some(None): it is for everything.
    fn matches<M: Match>(&self, all: Option<&[M]>, port: &ResolvedPort) -> Result<Option<Option<Vec<M>>>, Problem> {
        let Some(all) = all.filter(|m| !m.is_empty()) else { return Ok(Some(None)) };
        let mut kept = Vec::new();
        for one in all {
            let mut one = one.clone();
            if one.gateways().is_some_and(|g| !g.is_empty() && !g.iter().any(|g| g == "mesh")) {
                continue;
            }
            if one.port().is_some_and(|p| p != 0 && p != i64::from(port.port.number)) {
                continue;
            }
            if let Some(field) = one.foreign() {
                let message = format!("{field} in a match means something else for callers of another cluster");
                return Err(unusable(message).cure("give others a VirtualService without it"));
            }
            kept.push(one);
        }
        // What is left of a match that only said where it is for takes everything.
        if kept.iter().any(|m| *m == M::default()) {
            return Ok(Some(None));
        }
        Ok((!kept.is_empty()).then_some(Some(kept)))
    }

    /// Makes a destination a full name with a port, and its subset one of Wharf's own. Whoever writes policies in a
    /// namespace decides about what is there, and no more.
    fn resolve(&self, to: &mut Destination, port: &ResolvedPort, rules: &mut Rules<'_>) -> Result<(), Problem> {
        let namespace = &self.e.key.namespace;
        let full = full_name(&to.host, namespace.as_str());
        let service = match service_of(&full) {
            Some((name, ns)) if ns == namespace.as_str() => name.parse::<Label>().ok(),
            _ => None,
        };
        let Some(service) = service else {
            let message = format!("{} is not a Service of the namespace {namespace}", to.host);
            return Err(unusable(message).cure("a policy exposes what lies in its own namespace, and no more"));
        };
        let Some(object) = self.e.inventory.service(namespace.as_str(), service.as_str()) else {
            return Err(unusable(format!("there is no Service {service} in the namespace {namespace}")));
        };
        if object.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            return Err(unusable(format!("the Service {service} is another name of something outside (ExternalName)")));
        }
        let there: Vec<i64> =
            object.spec.iter().flat_map(|s| s.ports.iter().flatten()).map(|p| p.port.into()).collect();
        let number = match (to.port.as_ref().and_then(|p| p.number), &there[..]) {
            (Some(number), _) => number,
            (None, _) if service == self.e.service => port.port.number.into(),
            (None, [only]) => *only,
            (None, _) => {
                let message = format!("the Service {service} has several ports, and the destination names none");
                return Err(unusable(message));
            }
        };
        if !there.contains(&number) {
            return Err(unusable(format!("the Service {service} has no port {number}")));
        }
        if let Some(subset) = to.subset.as_deref().filter(|s| !s.is_empty()) {
            to.subset = Some(rules.subset(&service, subset)?);
        }
        to.host = full;
        to.port = Some(DestinationPort { number: Some(number) });
        Ok(())
    }
}

fn http_destinations(route: &mut VirtualServiceHttp) -> impl Iterator<Item = &mut Destination> {
    let routes = route.route.iter_mut().flatten().map(|r| &mut r.destination);
    let mirrors = route.mirrors.iter_mut().flatten().map(|m| &mut m.destination);
    routes.chain(mirrors).chain(route.mirror.as_mut())
}
