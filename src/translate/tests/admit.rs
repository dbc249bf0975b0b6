//! AuthorizationPolicies at the provider that leave out the ingress gateway.

use serde_json::{Value, json};

use super::build::*;
use crate::api::{Kind, ObjectKey};
use crate::translate::{Inventory, policy_touches};

fn with_policies(policies: &[(&str, Value)]) -> Inventory {
    let mut inventory = shop();
    for (i, (namespace, spec)) in policies.iter().enumerate() {
        let value = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("allow-{i}"), "namespace": namespace}, "spec": spec});
        inventory.set(object(Kind::AuthorizationPolicy, value));
    }
    inventory
}

/// What the status of the till says of these policies.
fn told(policies: &[(&str, Value)], tls: &str) -> Option<String> {
    let out = exposed(json!([{"name": "till", "tls": tls}]), &with_policies(policies), &harbor());
    assert_eq!(out.entries[0].problem, None);
    out.entries[0].notes.iter().find(|note| note.starts_with("calls get 403")).cloned()
}

fn from(source: Value) -> Value {
    json!({"action": "ALLOW", "rules": [{"from": [{"source": source}]}]})
}

#[test]
fn policies_that_let_in_nobody_from_the_ingress_gateway_are_told() {
    for spec in [
        from(json!({"principals": ["harbor/ns/shop/sa/web"]})),
        from(json!({"principals": ["harbor/ns/shop/*", "*/sa/web"]})),
        from(json!({"namespaces": ["shop", "office*"]})),
        from(json!({"serviceAccounts": ["shop/web", "istio-ingressgateway"]})),
        json!({"selector": {"matchLabels": {"app": "till"}}}),
        json!({"rules": []}),
    ] {
        let told = told(&[("shop", spec.clone())], "Cluster").unwrap_or_else(|| panic!("{spec} is told"));
        assert!(
            told.contains("(allow-0)") && told.contains("harbor/ns/istio-system/sa/istio-ingressgateway"),
            "{told}"
        );
    }
    let root = told(&[("istio-system", from(json!({"namespaces": ["shop"]})))], "Workload").unwrap();
    assert!(root.contains("one of the root namespace") && !root.contains("allow-0"), "{root}");
}

#[test]
fn policies_that_may_let_in_the_gateway_or_are_not_for_these_pods_are_not_told() {
    let refusing = ("shop", from(json!({"namespaces": ["shop"]})));
    for spec in [
        from(json!({"principals": ["harbor/ns/istio-system/sa/istio-ingressgateway"]})),
        from(json!({"principals": ["cluster.local/ns/istio-system/*"]})),
        from(json!({"principals": ["alias/ns/istio-system/sa/istio-ingressgateway"]})),
        from(json!({"principals": ["*/sa/istio-ingressgateway"]})),
        from(json!({"principals": ["*"]})),
        from(json!({"namespaces": ["istio-*"]})),
        from(json!({"serviceAccounts": ["istio-system/istio-ingressgateway"]})),
        from(json!({"requestPrincipals": ["*"]})),
        json!({"rules": [{}]}),
        json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
    ] {
        assert_eq!(
            told(&[refusing.clone(), ("shop", spec.clone())], "Cluster"),
            None,
            "one that lets in is enough: {spec}"
        );
    }
    let waypoint = json!([{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}]);
    for (namespace, spec) in [
        ("shop", json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["office"]}}]}]})),
        ("shop", json!({"selector": {"matchLabels": {"app": "other"}}, "rules": []})),
        ("shop", json!({"targetRefs": waypoint, "rules": []})),
        ("office", json!({"rules": []})),
    ] {
        assert_eq!(told(&[(namespace, spec.clone())], "Cluster"), None, "{spec}");
    }
    assert_eq!(told(&[refusing], "Passthrough"), None, "there the callers come themselves");
}

#[test]
fn a_policy_is_touched_by_permissions_of_its_namespace_and_of_the_root_namespace() {
    let policy = policy("partners", json!([{"name": "till"}]));
    for (namespace, touched) in [("shop", true), ("istio-system", true), ("office", false)] {
        let key = ObjectKey { kind: Kind::AuthorizationPolicy, namespace: namespace.into(), name: "allow".into() };
        assert_eq!(policy_touches(&policy, &key, &harbor()), touched, "{namespace}");
    }
}
