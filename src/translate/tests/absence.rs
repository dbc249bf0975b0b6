//! "There is no ..." is said only of what is known not to be there.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::build::{bound, exposed, harbor, isle, object, offered, routes, shop, source};
use crate::api::{Kind, MANAGED_BY, OWNER, ObjectKey};
use crate::model::{HiddenPeers, Style, TlsMode};
use crate::translate::{Inventory, Problem, ProblemReason, UnreadObjects};

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: "shop".to_owned(), name: name.to_owned() }
}

fn named(kind: Kind, name: &str) -> UnreadObjects {
    let named = BTreeSet::from([key(kind, name)]);
    UnreadObjects { reason: format!("{kind} shop/{name}: spec.fairness: unknown"), named, ..UnreadObjects::default() }
}

fn any(kind: Kind, namespace: Option<&str>) -> UnreadObjects {
    let kinds = BTreeSet::from([(kind, namespace.map(str::to_owned))]);
    UnreadObjects { reason: "it is forbidden".into(), kinds, ..UnreadObjects::default() }
}

fn problem(entry: Value, inventory: &Inventory) -> Problem {
    let exposed = exposed(json!([entry]), inventory, &harbor());
    exposed.entries[0].problem.clone().expect("nothing is exposed")
}

/// Entries that lack an object each: of what kind it is, its name, and what is missing if there is none.
fn lacking() -> Vec<(Value, Kind, &'static str, ProblemReason)> {
    let by_name = json!({"name": "kiosk"});
    let by_routes = json!({"name": "till", "virtualService": "till"});
    let by_destination = json!({"name": "till", "virtualService": "elsewhere"});
    vec![
        (by_name, Kind::Service, "kiosk", ProblemReason::ServiceNotFound),
        (by_routes, Kind::VirtualService, "till", ProblemReason::VirtualServiceNotFound),
        (by_destination, Kind::Service, "annex", ProblemReason::VirtualServiceUnusable),
    ]
}

fn town() -> Inventory {
    let mut inventory = shop();
    let route = json!([{"route": [{"destination": {"host": "annex"}}]}]);
    inventory.set_object(routes("shop", "elsewhere", json!({"hosts": ["till"], "http": route})));
    inventory
}

#[test]
fn what_cannot_be_read_is_not_told_as_missing() {
    for (entry, kind, name, reason) in lacking() {
        let mut inventory = town();
        let none = problem(entry.clone(), &inventory);
        assert_eq!(none.reason, reason);
        assert!(none.message.contains(&format!("there is no {kind} {name} in the namespace shop")), "{none}");

        inventory.record_unread("shop.yaml:7", Some(named(kind, name)));
        let unread = problem(entry.clone(), &inventory);
        assert_eq!(unread.reason, ProblemReason::Unreadable);
        assert!(!unread.message.contains("there is no"), "{unread}");
        let end =
            format!("the {kind} {name} in the namespace shop cannot be read: shop.yaml:7: spec.fairness: unknown");
        assert!(unread.message.ends_with(&end), "{unread}");

        inventory.record_unread("shop.yaml:7", None);
        assert_eq!(problem(entry, &inventory), none, "and is missing again when the file is gone");
    }
}

#[test]
fn what_may_be_among_things_that_cannot_be_read_is_not_known() {
    for (entry, kind, name, reason) in lacking() {
        let mut inventory = town();
        inventory.record_unread("API server, elsewhere", Some(any(kind, Some("office"))));
        inventory.record_unread("API server, others", Some(any(Kind::ServiceEntry, None)));
        assert_eq!(problem(entry.clone(), &inventory).reason, reason, "they are elsewhere, or of another kind");
        for namespace in [Some("shop"), None] {
            inventory.record_unread("API server, here", Some(any(kind, namespace)));
            let unknown = problem(entry.clone(), &inventory);
            assert_eq!(unknown.reason, ProblemReason::Unreadable);
            let text = &unknown.message;
            assert!(text.contains(&format!("it is not known whether there is a {kind} {name}")), "{text}");
            assert!(text.ends_with("API server, here: it is forbidden"), "{text}");
        }
    }
}

#[test]
fn what_is_wharfs_own_is_told_as_such() {
    let labels = json!({MANAGED_BY: "wharf", OWNER: "binding.shop.kiosk"});
    let metadata = json!({"name": "kiosk", "namespace": "shop", "labels": labels});
    let labelled = object(Kind::Service, json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}}));
    let by_label = |inventory: &mut Inventory, there: bool| match there {
        true => inventory.set_object(labelled.clone()),
        false => inventory.remove_object(&key(Kind::Service, "kiosk")),
    };
    let by_wish = |inventory: &mut Inventory, there: bool| {
        let owner: Arc<str> = "binding.shop.kiosk".into();
        let wanted = [key(Kind::Service, "kiosk")];
        let changed = inventory.record_own(&owner, wanted.iter().filter(|_| there));
        assert_eq!(changed.len(), 1);
        assert!(inventory.record_own(&owner, wanted.iter().filter(|_| there)).is_empty(), "no news");
    };
    for by_label_alone in [true, false] {
        let way = |inventory: &mut Inventory, there: bool| match by_label_alone {
            true => by_label(inventory, there),
            false => by_wish(inventory, there),
        };
        let mut inventory = town();
        let none = problem(json!({"name": "kiosk"}), &inventory);
        way(&mut inventory, true);
        let own = problem(json!({"name": "kiosk"}), &inventory);
        assert_eq!(own.reason, ProblemReason::Unsupported);
        assert!(own.message.contains("the Service kiosk in the namespace shop is Wharf's own"), "{own}");
        assert_eq!((own.lacks, own.is_lack()), (none.lacks, true), "it is looked at again when that changes");
        way(&mut inventory, false);
        assert_eq!(problem(json!({"name": "kiosk"}), &inventory), none);
    }
}

#[test]
fn a_subset_may_be_in_a_rule_that_cannot_be_read() {
    let entry = json!({"name": "till", "subset": "blue"});
    let mut inventory = town();
    assert_eq!(problem(entry.clone(), &inventory).reason, ProblemReason::SubsetNotFound);
    inventory.record_unread("rules.yaml", Some(named(Kind::DestinationRule, "till")));
    assert_eq!(
        problem(entry.clone(), &inventory).reason,
        ProblemReason::SubsetNotFound,
        "its last good content is known"
    );
    inventory.record_unread("rules.yaml", Some(named(Kind::DestinationRule, "blue")));
    let unread = problem(entry.clone(), &inventory);
    assert_eq!(unread.reason, ProblemReason::Unreadable);
    assert!(unread.message.contains("the DestinationRule shop/blue cannot be read: rules.yaml: "), "{unread}");

    let stable = exposed(json!([{"name": "till", "subset": "stable"}]), &inventory, &harbor());
    assert_eq!(stable.entries[0].status.reason, "Exposed", "what is known works");
    assert!(
        stable.entries[0].notes.iter().any(|n| n.contains("its settings are not carried")),
        "and says what may lack"
    );

    inventory.record_unread("rules.yaml", None);
    let elsewhere = ObjectKey { namespace: "istio-system".into(), ..key(Kind::DestinationRule, "secret-name") };
    let unread = UnreadObjects { named: BTreeSet::from([elsewhere]), ..named(Kind::DestinationRule, "x") };
    inventory.record_unread("DestinationRule istio-system/secret-name", Some(unread));
    let unread = problem(entry, &inventory);
    assert_eq!(unread.reason, ProblemReason::Unreadable);
    assert!(!unread.message.contains("secret-name"), "others' names are no tenant's business: {unread}");
}

#[test]
fn a_peer_that_cannot_be_read_is_not_told_as_unknown() {
    let mut facts = harbor();
    let entry = json!([{"name": "till", "clusters": ["skerry"]}]);
    let said = |facts: &_| exposed(entry.clone(), &shop(), facts).entries[0].problem.clone().expect("nobody consumes");
    assert_eq!(said(&facts).reason, ProblemReason::NoConsumers);
    facts.hidden_peers.named.insert("skerry".into(), "peers.yaml:3: torn".into());
    let unread = said(&facts);
    assert_eq!(unread.reason, ProblemReason::Unreadable);
    assert!(unread.message.contains("not known whether skerry is a peer") && unread.message.contains("peers.yaml:3"));

    let mut facts = isle(Style::EgressIngress);
    let said = |facts: &_| {
        let source = source("skerry", "till", offered("skerry", "till", TlsMode::Cluster), |_| {});
        let outcome = bound(&[source], &Inventory::default(), facts).outcomes.remove(0);
        outcome.problem.expect("it is no peer")
    };
    assert_eq!(said(&facts).reason, ProblemReason::PeerUnknown);
    facts.hidden_peers = HiddenPeers { any: Some("peers.yaml: torn".into()), ..HiddenPeers::default() };
    assert_eq!(said(&facts).reason, ProblemReason::Unreadable);
}
