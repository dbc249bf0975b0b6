//! The service of the donor that a host or an SNI stands for.

use std::collections::BTreeMap;

use crate::api::istio::VirtualServiceHttpMirror;
use crate::api::{MESH_GATEWAY, Object};
use crate::model::{ExpositionKey, Label};
use crate::translate::{names, service_of};

use super::ClusterObjects;
use super::nearby::{destinations, full_name, route_hosts};

/// A service of the donor, as far as the acceptor's objects tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DonorTarget {
    pub service: ExpositionKey,
    pub subset: Option<Label>,
    /// The port of the Service at the donor; none: it is not known.
    pub port: Option<u16>,
    /// The reason why it may be another one, if so.
    pub doubt: Option<String>,
}

impl DonorTarget {
    /// Returns the name that the service is exposed under: a subset has one of its own.
    pub(super) fn exposed_name(&self) -> Label {
        exposed_name(&self.service.name, self.subset.as_ref())
    }
}

/// Returns the name that a service, or a subset of it, is exposed under.
pub(super) fn exposed_name(service: &Label, subset: Option<&Label>) -> Label {
    let Some(subset) = subset else { return service.clone() };
    // A bounded name is a label always.
    names::bounded_name(&format!("{service}-{subset}")).parse().unwrap_or_else(|_| service.clone())
}

/// Reads an SNI as Istio makes it for gateways with `AUTO_PASSTHROUGH`: `outbound_.<port>_.<subset or _>_.<host>`
/// (istio/istio, `BuildDNSSrvSubsetKey`; without a subset its place is empty).
pub(super) fn parse_istio_sni(sni: &str) -> Option<DonorTarget> {
    let (port, rest) = sni.strip_prefix("outbound_.")?.split_once("_.")?;
    let (subset, host) = rest.split_once("_.")?;
    let (name, namespace) = parse_service_host(host)?;
    let service = ExpositionKey { name, namespace: namespace? };
    let subset = match subset {
        "" | "_" => None,
        named => Some(named.parse().ok()?),
    };
    let port = port.parse().ok().filter(|p| *p != 0)?;
    Some(DonorTarget { service, subset, port: Some(port), doubt: None })
}

/// Returns name and namespace of the service that a host names by its form: `<name>.<namespace>.svc`, with whatever
/// behind it, `<name>.<namespace>.global` or `<name>.global`.
pub(super) fn parse_service_host(host: &str) -> Option<(Label, Option<Label>)> {
    let parts: Vec<&str> = host.split('.').collect();
    let (name, namespace) = match parts[..] {
        [name, "global"] => (name, None),
        [name, namespace, "svc", ..] => (name, Some(namespace)),
        [name, namespace, .., "global"] => (name, Some(namespace)),
        _ => return None,
    };
    let namespace = match namespace {
        Some(namespace) => Some(namespace.parse().ok()?),
        None => None,
    };
    Some((name.parse().ok()?, namespace))
}

/// Returns name and namespace if a host is one of this cluster's own Services: `<name>.<namespace>.svc.cluster.local`.
pub(super) fn parse_local_host(host: &str) -> Option<(Label, Label)> {
    let (name, namespace) = service_of(host)?;
    Some((name.parse().ok()?, namespace.parse().ok()?))
}

/// Finds the service that a host of a ServiceEntry of `namespace` stands for at the donor.
pub(super) fn find_target(
    sni: Option<&str>,
    host: &str,
    namespace: &Label,
    routes: &DonorRoutes,
) -> Option<DonorTarget> {
    if let Some(target) = sni.and_then(parse_istio_sni) {
        return Some(target);
    }
    if let Some(target) = routes.find_only(sni.unwrap_or(host)) {
        return Some(target);
    }
    for (text, place) in [(sni.unwrap_or_default(), "the SNI"), (host, "the host")] {
        let Some((name, named)) = parse_service_host(text) else { continue };
        let doubt = match &named {
            Some(_) => format!("{place} {text} names it, and how the donor's gateway reads that is not known here"),
            None => format!("{place} {text} names no namespace: that of the ServiceEntry is taken"),
        };
        let service = ExpositionKey { name, namespace: named.unwrap_or_else(|| namespace.clone()) };
        return Some(DonorTarget { service, subset: None, port: None, doubt: Some(doubt) });
    }
    let name = host.split('.').next()?.parse().ok()?;
    let doubt = format!("the host {host} names no service: its first part and the ServiceEntry's namespace are taken");
    let service = ExpositionKey { name, namespace: namespace.clone() };
    Some(DonorTarget { service, subset: None, port: None, doubt: Some(doubt) })
}

/// The names that a donor's gateways answer to, and the services that each leads to.
#[derive(Debug, Default)]
pub(super) struct DonorRoutes {
    by_name: BTreeMap<String, Vec<DonorTarget>>,
}

impl DonorRoutes {
    pub(super) fn of_cluster(donor: &ClusterObjects) -> DonorRoutes {
        let mut routes = DonorRoutes::default();
        for object in donor.sorted() {
            let Object::VirtualService(vs) = object else { continue };
            if !vs.spec.gateways.iter().flatten().any(|g| g != MESH_GATEWAY) {
                continue;
            }
            let home = object.key().namespace;
            let targets: Vec<_> = destinations(vs).filter_map(|d| routed_target(d, &home)).collect();
            for name in route_hosts(vs) {
                let known = routes.by_name.entry(name.to_ascii_lowercase()).or_default();
                for target in &targets {
                    // Two are enough to know that it is not one.
                    if known.len() < 2 && !known.contains(target) {
                        known.push(target.clone());
                    }
                }
            }
        }
        routes
    }

    /// Finds the only service that a name leads to. Several, as with shares of calls, are no single service.
    fn find_only(&self, name: &str) -> Option<DonorTarget> {
        match self.by_name.get(&name.to_ascii_lowercase()).map(Vec::as_slice) {
            Some([only]) => Some(only.clone()),
            _ => None,
        }
    }
}

fn routed_target(destination: &VirtualServiceHttpMirror, home: &str) -> Option<DonorTarget> {
    let (name, namespace) = parse_local_host(&full_name(&destination.host, home))?;
    let subset = destination.subset.as_deref().map(str::parse).transpose().ok()?;
    let port = destination.port.as_ref().and_then(|p| p.number).and_then(|n| u16::try_from(n).ok());
    Some(DonorTarget { service: ExpositionKey { name, namespace }, subset, port, doubt: None })
}
