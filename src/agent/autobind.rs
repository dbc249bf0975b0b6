//! Self-made bindings: `<peer>-services` follows a peer's offers, if its `connectionMode` says so.
//!
//! The object belongs to people as much as to Wharf: a label `connection: live`, an alias, a port or a weight that
//! somebody wrote stay. Only the list of services follows the peer.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{
    CONNECTION, MANAGED_BY, PROVENANCE, Remote, RemoteService, RemoteServiceBinding, RemoteServiceBindingSpec,
};
use crate::model::{ClusterName, ConnectionMode, ExpositionKey, Peer};
use crate::store::NamedKey;

/// Namespace of self-made bindings, unless the peering names another. A donor never chooses it.
const NAMESPACE: &str = "default";
const SUFFIX: &str = "-services";

/// Returns the key of the binding that a peer's offers make.
pub fn binding_key(peer: &Peer) -> NamedKey {
    NamedKey {
        namespace: peer.namespace.as_ref().map_or(NAMESPACE, |n| n.as_str()).to_owned(),
        name: format!("{}{SUFFIX}", peer.name),
    }
}

/// Returns whether this is the name of the binding that a peer's offers make, in any namespace.
pub fn is_binding_of(key: &NamedKey, cluster: &ClusterName) -> bool {
    key.name.strip_suffix(SUFFIX) == Some(cluster.as_str())
}

/// Returns whether a peer's offers make a binding.
pub fn is_wanted(peer: &Peer) -> bool {
    peer.endpoint.is_some() && peer.connection_mode != ConnectionMode::None
}

/// Returns whether Wharf made this binding, and so may change and remove it.
pub fn is_ours(binding: &RemoteServiceBinding) -> bool {
    binding.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == "wharf")
}

/// Builds the binding that a peer's offers make. None if there must be none. It names no ports, so that it follows the
/// offers. Each offer has the number of its port if it has only one, because Wharf 0.1 wrote that number into the
/// binding.
pub fn build_proposal(
    peer: &Peer,
    offers: &[(&ExpositionKey, Option<u16>)],
    existing: Option<&RemoteServiceBinding>,
) -> Option<RemoteServiceBinding> {
    let connection = match peer.connection_mode {
        ConnectionMode::Live => "live",
        ConnectionMode::Potential => "potential",
        ConnectionMode::None => return None,
    };
    let kept = existing.map(services_by_key).unwrap_or_default();
    let offers: BTreeMap<_, _> = offers.iter().copied().collect();
    let mut taken: BTreeSet<String> =
        offers.keys().filter_map(|k| kept.get(*k)).map(|s| s.alias.clone().unwrap_or_else(|| s.name.clone())).collect();
    let mut entries = Vec::with_capacity(offers.len());
    for (key, port) in offers {
        entries.push(match kept.get(key) {
            Some(service) => RemoteService { port: service.port.filter(|p| Some(*p) != port), ..service.clone() },
            None => new_service(key, &mut taken),
        });
    }
    if entries.is_empty() {
        return None;
    }
    let key = binding_key(peer);
    let mut metadata = existing.map(|b| b.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        labels: Some(BTreeMap::from([(CONNECTION.to_owned(), connection.to_owned())])),
        ..ObjectMeta::default()
    });
    metadata.labels.get_or_insert_default().insert(MANAGED_BY.into(), "wharf".into());
    metadata.annotations.get_or_insert_default().insert(PROVENANCE.into(), "wharf".into());
    metadata.namespace = Some(key.namespace);
    metadata.name = Some(key.name);
    let remote = vec![Remote { cluster: peer.name.to_string(), services: entries }];
    Some(RemoteServiceBinding { metadata, spec: RemoteServiceBindingSpec { remote }, status: None })
}

fn services_by_key(binding: &RemoteServiceBinding) -> BTreeMap<ExpositionKey, RemoteService> {
    let own = binding.metadata.namespace.clone().unwrap_or_else(|| NAMESPACE.into());
    let all = binding.spec.remote.iter().flat_map(|r| &r.services);
    let keyed = all.filter_map(|s| {
        let namespace = s.namespace.as_ref().unwrap_or(&own).parse().ok()?;
        Some((ExpositionKey { namespace, name: s.name.parse().ok()? }, s.clone()))
    });
    keyed.collect()
}

/// Builds a new entry. Two namespaces of a donor may expose one name; the second is called `<name>-<namespace>` here.
fn new_service(key: &ExpositionKey, taken: &mut BTreeSet<String>) -> RemoteService {
    let mut alias = key.name.to_string();
    if !taken.insert(alias.clone()) {
        alias = crate::translate::names::build_name(key.name.as_str(), &[key.namespace.as_str()]);
        taken.insert(alias.clone());
    }
    RemoteService {
        name: key.name.to_string(),
        namespace: Some(key.namespace.to_string()),
        alias: (alias != key.name.as_str()).then_some(alias),
        ..RemoteService::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn peer(mode: ConnectionMode) -> Peer {
        Peer { connection_mode: mode, ..Peer::with_name("isle".parse().unwrap()) }
    }

    fn exposed(namespace: &str, name: &str) -> ExpositionKey {
        ExpositionKey { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() }
    }

    fn proposed(
        mode: ConnectionMode,
        offers: &[ExpositionKey],
        existing: Option<&RemoteServiceBinding>,
    ) -> Option<RemoteServiceBinding> {
        let offers: Vec<_> = offers.iter().map(|key| (key, Some(9080))).collect();
        build_proposal(&peer(mode), &offers, existing)
    }

    #[test]
    fn what_somebody_wrote_into_the_binding_stays() {
        let offers = [exposed("shop", "cart"), exposed("shop", "till")];
        let mut made = proposed(ConnectionMode::Potential, &offers, None).unwrap();
        assert_eq!(made.metadata.labels.as_ref().unwrap()[CONNECTION], "potential");
        made.metadata.labels.as_mut().unwrap().insert(CONNECTION.into(), "live".into());
        made.spec.remote[0].services[0].alias = Some("basket".into());
        let again = proposed(ConnectionMode::Potential, &offers[..1], Some(&made)).unwrap();
        assert_eq!(again.metadata.labels.as_ref().unwrap()[CONNECTION], "live");
        assert_eq!(again.spec.remote[0].services.len(), 1, "what is offered no longer is gone");
        assert_eq!(again.spec.remote[0].services[0].alias.as_deref(), Some("basket"));
    }

    #[test]
    fn a_binding_that_makes_itself_names_no_port() {
        let offers = [exposed("shop", "cart")];
        let mut made = proposed(ConnectionMode::Live, &offers, None).unwrap();
        assert_eq!(made.spec.remote[0].services[0].port, None);
        made.spec.remote[0].services[0].port = Some(9080);
        let again = proposed(ConnectionMode::Live, &offers, Some(&made)).unwrap();
        assert_eq!(again.spec.remote[0].services[0].port, None, "the offer's own port, as Wharf 0.1 wrote it");
        made.spec.remote[0].services[0].port = Some(80);
        let again = proposed(ConnectionMode::Live, &offers, Some(&made)).unwrap();
        assert_eq!(again.spec.remote[0].services[0].port, Some(80), "somebody wrote it");
    }

    #[test]
    fn one_name_in_two_namespaces_of_the_donor_gets_two_local_names() {
        let offers = [exposed("east", "cart"), exposed("west", "cart")];
        let made = proposed(ConnectionMode::Live, &offers, None).unwrap();
        let services = &made.spec.remote[0].services;
        assert_eq!((services[0].alias.as_deref(), services[1].alias.as_deref()), (None, Some("cart-west")));
        assert_eq!(made.metadata.namespace.as_deref(), Some("default"), "the donor does not choose where it goes");
    }

    #[test]
    fn nothing_offered_makes_no_binding() {
        assert_eq!(proposed(ConnectionMode::Live, &[], None), None);
        assert_eq!(proposed(ConnectionMode::None, &[exposed("a", "b")], None), None);
    }
}
