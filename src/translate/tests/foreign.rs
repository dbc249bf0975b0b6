//! DestinationRules and ServiceEntries of others that take calls of a local name away from Wharf's objects.

use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::model::{Protocol, Style, TlsMode};
use crate::translate::{
    AffectedNames, Inventory, LocalName, LocalTranslation, PassthroughHosts, ProblemReason, bind_local_name,
};

const TILL: &str = "till.office.svc.cluster.local";
const EGRESS: &str = "istio-egressgateway.istio-system.svc.cluster.local";

fn bound_as(standing: bool, style: Style, tls: TlsMode, inventory: &Inventory) -> LocalTranslation {
    let sources = [source("harbor", "till", offered("harbor", "till", tls), |_| {})];
    bind_local_name(&local("till"), &sources, inventory, &PassthroughHosts::default(), &isle(style), standing)
}

fn with_rule(namespace: &str, mut spec: Value) -> Inventory {
    let mut inventory = Inventory::default();
    spec["trafficPolicy"] = json!({"tls": {"mode": "DISABLE"}});
    inventory.set_object(rule(namespace, "leftover", spec));
    inventory
}

fn entry(namespace: &str, spec: Value) -> Inventory {
    let mut inventory = Inventory::default();
    let value = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "mine", "namespace": namespace}, "spec": spec});
    inventory.set_object(object(Kind::ServiceEntry, value));
    inventory
}

/// Keeps a new name out, and takes nothing from one that stands.
fn is_conflict(style: Style, tls: TlsMode, inventory: &Inventory, names: &str) {
    let free = bound_as(false, style, tls, &Inventory::default());
    let new = bound_as(false, style, tls, inventory);
    let problem = new.outcomes[0].problem.clone().unwrap_or_else(|| panic!("{names} is a conflict"));
    assert_eq!(problem.reason, ProblemReason::NameConflict);
    assert!(problem.message.contains(names) || new.culprit() == Some(names), "{problem}, {:?}", new.culprit());
    assert!(new.objects.is_empty());
    let standing = bound_as(true, style, tls, inventory);
    assert_eq!(json_of(&standing.objects), json_of(&free.objects));
    assert_eq!(standing.outcomes[0].contest.as_ref().map(|p| p.reason), Some(ProblemReason::NameConflict));
}

/// It is bound as if there were nothing; what is told of it.
fn is_bound(style: Style, tls: TlsMode, inventory: &Inventory) -> String {
    let free = bound_as(false, style, tls, &Inventory::default());
    for standing in [false, true] {
        let bound = bound_as(standing, style, tls, inventory);
        assert_eq!(json_of(&bound.objects), json_of(&free.objects));
        assert_eq!((&bound.outcomes[0].problem, &bound.outcomes[0].contest), (&None, &None));
    }
    bound_as(true, style, tls, inventory).outcomes[0].notes.join("; ")
}

#[test]
fn a_leftover_rule_for_the_local_name_is_a_conflict_where_wharf_has_one_too() {
    for host in [TILL, "till"] {
        for export in [json!([]), json!(["."]), json!(["*"]), json!(["lab"])] {
            let inventory = with_rule("office", json!({"host": host, "exportTo": export}));
            is_conflict(
                Style::DirectIngress,
                TlsMode::Workload,
                &inventory,
                "the DestinationRule leftover sets how calls of",
            );
            // Through the egress gateway nobody looks up rules for the name itself.
            assert_eq!(is_bound(Style::EgressIngress, TlsMode::Cluster, &inventory), "");
        }
    }
    let inner = with_rule("office", json!({"host": "till.office.egress"}));
    is_conflict(Style::EgressIngress, TlsMode::Passthrough, &inner, "the DestinationRule leftover");
    let inner = with_rule("istio-system", json!({"host": format!("remote.{TILL}")}));
    is_conflict(Style::EgressIngress, TlsMode::Cluster, &inner, "DestinationRule istio-system/leftover");
}

#[test]
fn rules_that_do_not_take_the_place_of_wharfs_are_no_conflict() {
    for spec in [
        json!({"host": "*.office.svc.cluster.local"}),
        json!({"host": "till.office"}),
        json!({"host": "till.shop.svc.cluster.local"}),
    ] {
        let told = is_bound(Style::DirectIngress, TlsMode::Workload, &with_rule("office", spec.clone()));
        assert!(!told.contains("leftover"), "{spec}: {told}");
    }
    let everywhere = with_rule("istio-system", json!({"host": "*.local"}));
    for (style, tls) in [(Style::DirectIngress, TlsMode::Workload), (Style::EgressIngress, TlsMode::Cluster)] {
        assert!(
            !is_bound(style, tls, &everywhere).contains("fail"),
            "the root namespace's rules are for who has no other"
        );
    }
}

#[test]
fn a_rule_in_a_callers_namespace_is_told_and_takes_nothing_away() {
    // In the caller's namespace any rule that covers the host takes the place of Wharf's.
    for host in [EGRESS, "*.local", "*", "*.istio-system.svc.cluster.local"] {
        for export in [json!([]), json!(["."]), json!(["office"])] {
            let told = is_bound(
                Style::EgressIngress,
                TlsMode::Cluster,
                &with_rule("office", json!({"host": host, "exportTo": export})),
            );
            assert!(told.contains("calls from this namespace fail: its DestinationRule leftover"), "{host}: {told}");
            assert!(told.contains("move it to istio-system"), "{told}");
        }
        let unseen = with_rule("office", json!({"host": host, "exportTo": ["lab"]}));
        assert_eq!(
            is_bound(Style::EgressIngress, TlsMode::Cluster, &unseen),
            "",
            "callers of office do not see it either"
        );
        // Statuses of all names would tell of it: the operator's log does, once.
        assert_eq!(is_bound(Style::EgressIngress, TlsMode::Cluster, &with_rule("lab", json!({"host": host}))), "");
    }
    let theirs = with_rule("lab", json!({"host": TILL}));
    let told = is_bound(Style::DirectIngress, TlsMode::Workload, &theirs);
    assert!(told.contains("calls from another namespace fail") && !told.contains("lab"), "{told}");
    let bound = bound_as(true, Style::DirectIngress, TlsMode::Workload, &theirs);
    assert_eq!(bound.culprit(), Some("DestinationRule lab/leftover"));
}

#[test]
fn rules_for_the_egress_gateway_that_istio_does_not_merge_with_wharfs_are_told() {
    let told = |inventory: &Inventory| {
        let bound = bound_as(true, Style::EgressIngress, TlsMode::Cluster, inventory);
        bound.outcomes[0].notes.iter().any(|note| note.contains("exported otherwise than Wharf's"))
    };
    for (export, apart) in [
        (json!(["office"]), true),
        (json!(["lab", "office"]), true),
        (json!(["lab"]), false),
        (json!(["*", "office"]), false),
        (json!(["*"]), false),
        (json!(["."]), false),
        (json!([]), false),
    ] {
        let inventory = with_rule("istio-system", json!({"host": EGRESS, "exportTo": export}));
        assert_eq!(told(&inventory), apart, "{export}");
    }
    // Beside one that leaves it to the mesh's default, Wharf's do, too.
    let mut both = with_rule("istio-system", json!({"host": EGRESS, "exportTo": ["*"]}));
    both.set_object(rule("istio-system", "by-default", json!({"host": EGRESS})));
    assert!(told(&both));
}

#[test]
fn a_service_entry_of_somebody_else_for_a_host_of_the_name_is_a_conflict() {
    let (egress, direct) = ((Style::EgressIngress, TlsMode::Cluster), (Style::DirectIngress, TlsMode::Workload));
    for (namespace, host, export, names) in [
        ("office", TILL, json!(["."]), "the ServiceEntry mine says where"),
        ("lab", TILL, json!([]), "ServiceEntry lab/mine"),
        ("lab", TILL, json!(["office"]), "ServiceEntry lab/mine"),
    ] {
        let inventory = entry(namespace, json!({"hosts": ["other.example", host], "exportTo": export}));
        for (style, tls) in [egress, direct] {
            is_conflict(style, tls, &inventory, names);
        }
    }
    let inner = entry("lab", json!({"hosts": [format!("remote.{TILL}")]}));
    is_conflict(egress.0, egress.1, &inner, "ServiceEntry lab/mine");
    for (namespace, host, export) in [
        ("lab", TILL, json!(["."])),
        ("lab", TILL, json!(["shop"])),
        ("lab", "till.example", json!([])),
        ("lab", "*.svc.cluster.local", json!([])),
    ] {
        assert_eq!(is_bound(egress.0, egress.1, &entry(namespace, json!({"hosts": [host], "exportTo": export}))), "");
    }
}

#[test]
fn a_change_of_others_rules_and_entries_concerns_the_names_that_go_by_their_hosts() {
    let concerned = |inventory: &Inventory, kind: Kind, namespace: &str, name: &str| {
        let key = crate::api::ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        let affected = inventory.bears_on(&key);
        let names = [("office", "till"), ("office", "books"), ("shop", "till")];
        let local = |(ns, name): (&str, &str)| LocalName { namespace: label(ns), name: label(name) };
        names.iter().filter(|n| affected.iter().any(|a: &AffectedNames| a.covers_name(&local(**n)))).count()
    };
    for (host, count) in [
        (TILL, 1),
        ("till", 1),
        ("remote.till.office.svc.cluster.local", 1),
        ("till.office.egress", 1),
        ("till.office.remote", 1),
        ("*.office.svc.cluster.local", 2),
        ("*.remote", 3),
        ("*", 3),
        ("books.example", 0),
    ] {
        let inventory = with_rule("office", json!({"host": host}));
        assert_eq!(concerned(&inventory, Kind::DestinationRule, "office", "leftover"), count, "{host}");
        if !host.starts_with('*') && host != "till" {
            let inventory = entry("lab", json!({"hosts": [host]}));
            assert_eq!(concerned(&inventory, Kind::ServiceEntry, "lab", "mine"), count, "{host}");
        }
    }
}

#[test]
fn names_with_tcp_ports_are_looked_up_under_the_name_of_their_donors() {
    let sources =
        [source("harbor", "till", offered("harbor", "till", TlsMode::Workload).protocol(Protocol::Tcp), |_| {})];
    let at = |inventory: &Inventory| {
        bind_local_name(
            &local("till"),
            &sources,
            inventory,
            &PassthroughHosts::default(),
            &isle(Style::DirectIngress),
            false,
        )
    };
    assert!(at(&with_rule("office", json!({"host": TILL}))).outcomes[0].problem.is_none());
    let taken = at(&with_rule("office", json!({"host": "till.office.remote"})));
    assert_eq!(taken.outcomes[0].problem.as_ref().map(|p| p.reason), Some(ProblemReason::NameConflict));
}

/// Only the workloads that it selects have such a rule, and the others of its namespace none at all: istiod looks for the
/// most specific host first.
#[test]
fn a_rule_for_some_workloads_takes_calls_as_any_other_does() {
    let some = |host: &str| json!({"host": host, "workloadSelector": {"matchLabels": {"app": "desk"}}});
    is_conflict(
        Style::DirectIngress,
        TlsMode::Workload,
        &with_rule("office", some("till")),
        "the DestinationRule leftover sets how calls of",
    );
    let inner = with_rule("istio-system", some(&format!("remote.{TILL}")));
    is_conflict(Style::EgressIngress, TlsMode::Cluster, &inner, "DestinationRule istio-system/leftover");
    for host in [EGRESS, "*.local"] {
        let told = is_bound(Style::EgressIngress, TlsMode::Cluster, &with_rule("office", some(host)));
        assert!(told.contains("calls from this namespace fail: its DestinationRule leftover"), "{host}: {told}");
    }
    // Callers in other namespaces never see it.
    let beside = with_rule("istio-system", some(EGRESS));
    assert_eq!(is_bound(Style::EgressIngress, TlsMode::Cluster, &beside), "");
}
