//! Lists what the removal of a peering withdraws, before it happens, from the statuses of objects.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::autobind;
use super::view::AgentView;
use crate::model::ClusterName;
use crate::store::NamedKey;

/// Everything that the deletion of one cluster's peering withdraws.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeeringWithdrawal {
    pub peer: String,
    /// Services of the peer that this cluster consumes.
    pub consumed: Vec<ConsumedService>,
    /// Services that this cluster exposes to the peer.
    pub exposed: Vec<ExposedTo>,
}

/// A service of the peer, behind a local name.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumedService {
    pub namespace: String,
    pub binding: String,
    pub local_host: String,
    /// `<namespace>/<name>` at the peer.
    pub exposition: String,
    /// Calls of this cluster are led to the service now.
    pub bound: bool,
    /// The other clusters behind the local name. None: its calls are answered with 503.
    pub remaining: Vec<String>,
    /// The binding is deleted too, with its local name: Wharf made it from the peer's offers.
    pub self_made: bool,
}

/// A service of this cluster.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposedTo {
    pub namespace: String,
    pub policy: String,
    pub host: String,
    /// The peer reports that the service is used there.
    pub bound: bool,
}

impl PeeringWithdrawal {
    /// Builds the list. `view` must hold all namespaces.
    pub fn from_view(view: &AgentView, peer: &str) -> PeeringWithdrawal {
        PeeringWithdrawal {
            peer: peer.to_owned(),
            consumed: consumed_services(view, peer),
            exposed: exposed_services(view, peer),
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.consumed.is_empty() && self.exposed.is_empty()
    }
}

fn consumed_services(view: &AgentView, peer: &str) -> Vec<ConsumedService> {
    let cluster = peer.parse::<ClusterName>().ok();
    let services = || view.bindings.iter().flat_map(|b| b.status.services.iter().map(move |s| (b, s)));
    let mut behind: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (b, s) in services().filter(|(_, s)| s.bound && s.cluster != peer) {
        behind.entry((&b.namespace, &s.local_host)).or_default().insert(&s.cluster);
    }
    let of_peer = services().filter(|(b, s)| s.cluster == peer && b.connection != "potential");
    let lost = of_peer.map(|(b, s)| {
        let key = NamedKey { namespace: b.namespace.clone(), name: b.name.clone() };
        let remaining = behind.get(&(b.namespace.as_str(), s.local_host.as_str()));
        ConsumedService {
            namespace: b.namespace.clone(),
            binding: b.name.clone(),
            local_host: s.local_host.clone(),
            exposition: s.exposition.clone(),
            bound: s.bound,
            remaining: remaining.into_iter().flatten().map(|c| (*c).to_owned()).collect(),
            self_made: cluster.as_ref().is_some_and(|c| autobind::is_binding_of(&key, c)),
        }
    });
    lost.collect()
}

fn exposed_services(view: &AgentView, peer: &str) -> Vec<ExposedTo> {
    let entries = view.policies.iter().flat_map(|p| p.status.exposed.iter().map(move |e| (p, e)));
    let names = |list: &[String]| list.iter().any(|c| c == peer);
    let offered = entries.filter(|(_, e)| names(&e.offered_to) || names(&e.bound_by));
    let lost = offered.map(|(p, e)| ExposedTo {
        namespace: p.namespace.clone(),
        policy: p.name.clone(),
        host: if e.host.is_empty() { e.name.clone() } else { e.host.clone() },
        bound: names(&e.bound_by),
    });
    lost.collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::{BindingView, PolicyView};
    use super::*;
    use crate::api::{BindingStatus, ExposedStatus, PolicyStatus, ServiceStatus};

    fn binding(name: &str, services: &[(&str, &str, bool)]) -> BindingView {
        let services = services.iter().map(|(cluster, host, bound)| ServiceStatus {
            cluster: (*cluster).into(),
            exposition: "default/reviews".into(),
            local_host: (*host).into(),
            bound: *bound,
            ..ServiceStatus::default()
        });
        let status = BindingStatus { services: services.collect(), ..BindingStatus::default() };
        BindingView {
            namespace: "default".into(),
            name: name.into(),
            connection: "live".into(),
            status,
            ..BindingView::default()
        }
    }

    fn policy(offered: &[&str], bound: &[&str]) -> PolicyView {
        let names = |list: &[&str]| list.iter().map(|c| (*c).to_owned()).collect();
        let entry = ExposedStatus {
            name: "books".into(),
            host: "books.shop.svc.cluster.local".into(),
            offered_to: names(offered),
            bound_by: names(bound),
            ..ExposedStatus::default()
        };
        let status = PolicyStatus { exposed: vec![entry], ..PolicyStatus::default() };
        PolicyView { namespace: "shop".into(), name: "books".into(), status, ..PolicyView::default() }
    }

    #[test]
    fn a_local_name_loses_its_only_source_and_stays_with_another() {
        let alone = binding("alone", &[("east", "reviews", true)]);
        let shared = binding("shared", &[("east", "ratings", true), ("west", "ratings", true)]);
        let waiting = binding("waiting", &[("east", "books", false), ("west", "books", false)]);
        let view = AgentView { bindings: vec![alone, shared, waiting], ..AgentView::default() };
        let lost = PeeringWithdrawal::from_view(&view, "east").consumed;
        let told: Vec<_> = lost.iter().map(|c| (&*c.local_host, c.bound, c.remaining.join(","))).collect();
        let [none, west] = [String::new(), "west".to_owned()];
        assert_eq!(told, [("reviews", true, none.clone()), ("ratings", true, west), ("books", false, none)]);
    }

    #[test]
    fn another_binding_of_the_same_name_keeps_it() {
        let one = binding("one", &[("east", "reviews", true)]);
        let other = binding("other", &[("west", "reviews", true)]);
        let elsewhere = BindingView { namespace: "shop".into(), ..binding("x", &[("north", "reviews", true)]) };
        let view = AgentView { bindings: vec![one, other, elsewhere], ..AgentView::default() };
        assert_eq!(PeeringWithdrawal::from_view(&view, "east").consumed[0].remaining, ["west"]);
    }

    #[test]
    fn a_binding_that_makes_itself_goes_and_a_potential_one_loses_nothing() {
        let made = binding("east-services", &[("east", "reviews", true)]);
        let potential = BindingView { connection: "potential".into(), ..binding("b", &[("east", "books", false)]) };
        let view = AgentView { bindings: vec![made, potential], ..AgentView::default() };
        let lost = PeeringWithdrawal::from_view(&view, "east").consumed;
        assert!(lost.len() == 1 && lost[0].self_made, "{lost:?}");
    }

    #[test]
    fn what_is_offered_to_the_peer_is_told_with_whether_it_is_used() {
        let view = AgentView { policies: vec![policy(&["east", "west"], &["west"])], ..AgentView::default() };
        let told = |peer| PeeringWithdrawal::from_view(&view, peer).exposed.first().map(|e| e.bound);
        assert_eq!((told("east"), told("west"), told("north")), (Some(false), Some(true), None));
        assert!(PeeringWithdrawal::from_view(&view, "north").is_nothing());
    }
}
