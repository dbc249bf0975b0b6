//! Which DestinationRules Wharf's rule at the gateway repeats: those that the gateway found before, and no others.

use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::model::ClusterFacts;
use crate::translate::{Inventory, ProblemReason};

/// A till without rules.
fn till() -> Inventory {
    let mut inventory = Inventory::default();
    inventory.set_object(service("shop", "till", json!([{"name": "http", "port": 8080}])));
    inventory
}

fn with_rules(rules: &[(&str, &str, Value)]) -> Inventory {
    let mut inventory = till();
    for (namespace, name, spec) in rules {
        inventory.set_object(rule(namespace, name, spec.clone()));
    }
    inventory
}

fn subset(name: &str) -> Value {
    json!([{"name": name, "labels": {"track": name}}])
}

fn limit(connections: i64) -> Value {
    json!({"connectionPool": {"tcp": {"maxConnections": connections}}})
}

/// The rule that Wharf writes for an entry with the subset `stable`.
fn written(inventory: &Inventory, facts: &ClusterFacts) -> Value {
    let out = exposed(json!([{"name": "till", "subset": "stable"}]), inventory, facts);
    assert_eq!(out.entries[0].problem, None);
    only(&out.objects, Kind::DestinationRule)
}

fn refused(inventory: &Inventory) -> String {
    let out = exposed(json!([{"name": "till", "subset": "stable"}]), inventory, &harbor());
    let problem = out.entries[0].problem.clone().expect("it is refused");
    assert_eq!(problem.reason, ProblemReason::SubsetNotFound, "{problem}");
    problem.line()
}

fn names(rule: &Value) -> Vec<&str> {
    rule["subsets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect()
}

const FULL: &str = "till.shop.svc.cluster.local";

#[test]
fn a_rule_that_the_gateway_does_not_see_is_not_repeated_there() {
    let shown = ("shop", "a-shown", json!({"host": "till", "subsets": subset("stable")}));
    for hidden in [json!(["."]), json!(["shop"]), json!(["office"]), json!(["office", "lab"]), json!(["~"])] {
        let secret =
            json!({"host": "till", "exportTo": hidden, "trafficPolicy": limit(7), "subsets": subset("secret")});
        let rule = written(&with_rules(&[shown.clone(), ("shop", "b-hidden", secret)]), &harbor());
        assert_eq!(rule.get("trafficPolicy"), None, "{hidden}");
        assert_eq!(names(&rule), [names(&rule)[0], "stable"], "{hidden}");
    }
    for seen in [json!(["*"]), json!(["istio-system"]), json!([".", "istio-system"])] {
        let spec = json!({"host": "till", "exportTo": seen, "trafficPolicy": limit(7), "subsets": subset("stable")});
        assert_eq!(written(&with_rules(&[("shop", "till", spec)]), &harbor())["trafficPolicy"], limit(7), "{seen}");
    }
}

#[test]
fn rules_of_the_root_namespace_hold_where_the_owner_has_none() {
    let everybody = ("istio-system", "all", json!({"host": "*.svc.cluster.local", "trafficPolicy": limit(9)}));
    let private = ("shop", "till", json!({"host": "till", "exportTo": ["."], "subsets": subset("stable")}));
    let rule = written(&with_rules(&[everybody.clone(), private.clone()]), &harbor());
    assert_eq!(rule["trafficPolicy"], limit(9), "the gateway goes on finding what holds for all");
    let own = ("shop", "till", json!({"host": "till", "subsets": subset("stable")}));
    let rule = written(&with_rules(&[everybody, own.clone()]), &harbor());
    assert_eq!(rule.get("trafficPolicy"), None, "the owner's rule hides the root namespace's, as in the mesh");
    // The root namespace may be another one.
    let elsewhere = ClusterFacts { root_namespace: label("mesh-root"), ..harbor() };
    let root = ("mesh-root", "all", json!({"host": "*", "trafficPolicy": limit(9)}));
    assert_eq!(written(&with_rules(&[root, private]), &elsewhere)["trafficPolicy"], limit(9));
}

#[test]
fn rules_of_the_gateways_own_namespace_come_first() {
    let own = ("shop", "till", json!({"host": "till", "trafficPolicy": limit(1), "subsets": subset("stable")}));
    for (namespace, export, holds) in [
        ("istio-system", json!(["."]), 2),
        ("istio-system", json!(["istio-system"]), 2),
        ("istio-system", json!(["*"]), 1),
        ("istio-system", json!([]), 1),
        ("gates", json!(["."]), 2),
        ("gates", json!(["*"]), 2),
        ("gates", json!([]), 2),
        ("gates", json!(["office"]), 1),
    ] {
        let mut facts = harbor();
        facts.ingress.namespace = label(namespace);
        let theirs = json!({"host": FULL, "exportTo": export, "trafficPolicy": limit(2), "subsets": subset("other")});
        let inventory = with_rules(&[own.clone(), (namespace, "till", theirs)]);
        let rule = written(&inventory, &facts);
        assert_eq!(rule["trafficPolicy"], limit(holds), "{namespace} {export}");
        assert_eq!(rule["exportTo"], json!(["."]));
        // Istio merges rules of one namespace for one host if they are exported alike; else one of them counts for nothing.
        let out = exposed(json!([{"name": "till", "subset": "stable"}]), &inventory, &facts);
        let told = out.entries[0].status.message.contains("beside the gateway is exported otherwise");
        assert_eq!(told, holds == 2 && export != json!(["."]), "{namespace} {export}");
    }
}

#[test]
fn short_hosts_are_read_as_istiod_reads_them() {
    for host in ["till.shop", "till.shop.svc", "Till", "till.shop.svc.cluster.local."] {
        let told = refused(&with_rules(&[("shop", "till", json!({"host": host, "subsets": subset("stable")}))]));
        assert!(told.contains("till or till.shop.svc.cluster.local"), "{host}: {told}");
    }
    for host in ["till", FULL, "*.shop.svc.cluster.local", "*", "*ill.shop.svc.cluster.local", "*.local"] {
        written(&with_rules(&[("shop", "till", json!({"host": host, "subsets": subset("stable")}))]), &harbor());
    }
}

#[test]
fn the_most_specific_host_holds_alone() {
    let wide = ("shop", "a", json!({"host": "*.local", "trafficPolicy": limit(1), "subsets": subset("wide")}));
    let near = ("shop", "b", json!({"host": "*.shop.svc.cluster.local", "subsets": subset("stable")}));
    let rule = written(&with_rules(&[wide.clone(), near.clone()]), &harbor());
    assert_eq!((rule.get("trafficPolicy"), names(&rule).contains(&"wide")), (None, false));
    let exact = ("shop", "c", json!({"host": FULL, "subsets": subset("exact")}));
    let told = refused(&with_rules(&[wide, near, exact]));
    assert!(told.contains("shop/c defines: exact"), "{told}");
}

#[test]
fn several_rules_for_one_host_are_merged_as_istiod_merges_them() {
    let first = |export: Value| ("shop", "a", json!({"host": "till", "exportTo": export, "trafficPolicy": limit(1)}));
    let second = |export: Value| {
        (
            "shop",
            "b",
            json!({"host": "till", "exportTo": export, "trafficPolicy": limit(2), "subsets": subset("stable")}),
        )
    };
    // Exported alike, or the later one more widely: the first one's policy, and all subsets.
    for (a, b) in [
        (json!([]), json!([])),
        (json!(["*"]), json!(["*"])),
        (json!(["istio-system"]), json!(["istio-system", "lab"])),
    ] {
        assert_eq!(written(&with_rules(&[first(a), second(b)]), &harbor())["trafficPolicy"], limit(1));
    }
    // Else they stay apart, and the last one holds.
    let rule = written(&with_rules(&[first(json!(["*"])), second(json!([]))]), &harbor());
    assert_eq!(rule["trafficPolicy"], limit(2));
}

/// The policy is of the namespace where the rule is seen, so the subset is what its author means.
#[test]
fn a_subset_that_only_the_owners_namespace_sees_brings_its_rule_with_it() {
    let subsets =
        json!([{"name": "stable", "labels": {"track": "stable"}, "trafficPolicy": {"tls": {"mode": "DISABLE"}}}]);
    let spec = json!({"host": "till", "exportTo": ["."], "trafficPolicy": limit(3), "subsets": subsets});
    let rule = written(&with_rules(&[("shop", "till", spec)]), &harbor());
    assert_eq!(rule.get("trafficPolicy"), None, "others at the gateway go on without");
    let mut policy = limit(3);
    policy["tls"] = json!({"mode": "DISABLE"});
    assert_eq!(rule["subsets"][0]["trafficPolicy"], policy);
    assert_eq!(names(&rule).len(), 1);
}

#[test]
fn what_a_hidden_rule_sets_for_a_port_and_what_its_subset_sets_hold_together() {
    let of_port = |settings: &Value| {
        let mut port = json!({"port": {"number": 8080}});
        port.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        json!({"portLevelSettings": [port]})
    };
    let random = json!({"loadBalancer": {"simple": "RANDOM"}});
    let told = |of_rule: Value, of_subset: Value| {
        let subsets = json!([{"name": "stable", "labels": {"track": "stable"}, "trafficPolicy": of_subset}]);
        let spec = json!({"host": "till", "exportTo": ["."], "trafficPolicy": of_rule, "subsets": subsets});
        let rule = written(&with_rules(&[("shop", "till", spec)]), &harbor());
        rule["subsets"][0]["trafficPolicy"]["portLevelSettings"].clone()
    };
    let mut both = random.clone();
    both.as_object_mut().unwrap().extend(limit(5).as_object().unwrap().clone());
    assert_eq!(told(of_port(&random), limit(5)), of_port(&both)["portLevelSettings"], "the subset's field stays");
    // Settings of the subset for the port replace all that the rule has for it.
    assert_eq!(told(of_port(&random), of_port(&limit(5))), of_port(&limit(5))["portLevelSettings"]);
    assert_eq!(told(of_port(&random), json!({})), of_port(&random)["portLevelSettings"]);
}

/// Istio hands a rule with a selector to the workloads that it selects, and merges with it whatever of its namespace is
/// exported to that alone, as Wharf's rules are.
#[test]
fn a_rule_for_some_workloads_is_not_repeated_for_all_and_one_beside_the_gateway_is_told() {
    let own = ("shop", "a", json!({"host": "till", "trafficPolicy": limit(1), "subsets": subset("stable")}));
    let some = |host: &str| {
        let selector = json!({"matchLabels": {"app": "desk"}});
        json!({"host": host, "trafficPolicy": limit(2), "subsets": subset("other"), "workloadSelector": selector})
    };
    let rules = [own.clone(), ("shop", "b", some("till"))];
    assert_eq!(written(&with_rules(&rules), &harbor())["trafficPolicy"], limit(1));
    for (namespace, host, told) in [("istio-system", FULL, true), ("shop", "till", false), ("office", FULL, false)] {
        let inventory = with_rules(&[own.clone(), (namespace, "b", some(host))]);
        let out = exposed(json!([{"name": "till", "subset": "stable"}]), &inventory, &harbor());
        let message = &out.entries[0].status.message;
        assert_eq!(message.contains("beside the gateway"), told, "{namespace}: {message}");
    }
}
