//! AuthorizationPolicies at the provider that leave out the ingress gateway.

use serde_json::{Value, json};

use super::build::*;
use crate::api::{Kind, ObjectKey};
use crate::model::{Style, TlsMode};
use crate::translate::{Inventory, policy_touches};

fn with_policies(policies: &[(&str, Value)]) -> Inventory {
    let mut inventory = shop();
    for (i, (namespace, spec)) in policies.iter().enumerate() {
        let value = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("allow-{i}"), "namespace": namespace}, "spec": spec});
        inventory.set_object(object(Kind::AuthorizationPolicy, value));
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

fn deny(source: Value) -> Value {
    json!({"action": "DENY", "rules": [{"from": [{"source": source}]}]})
}

#[test]
fn policies_that_deny_the_ingress_gateway_whatever_it_asks_for_are_told() {
    for spec in [
        deny(json!({"namespaces": ["istio-system"]})),
        deny(json!({"principals": ["harbor/ns/istio-system/sa/istio-ingressgateway"]})),
        deny(json!({"principals": ["cluster.local/ns/istio-system/*"]})),
        deny(json!({"notNamespaces": ["shop"]})),
        deny(json!({"notPrincipals": ["harbor/ns/shop/*"]})),
        deny(json!({"notServiceAccounts": ["shop/web"]})),
        deny(json!({"trustDomains": ["harbor"]})),
        json!({"action": "DENY", "rules": [{}]}),
    ] {
        for allowing in [None, Some(("shop", json!({"rules": [{}]})))] {
            let policies: Vec<_> = std::iter::once(("shop", spec.clone())).chain(allowing).collect();
            let told = told(&policies, "Cluster").unwrap_or_else(|| panic!("{spec} is told"));
            assert!(told.contains("(allow-0) denies the ingress gateway"), "{told}");
        }
    }
    for spec in [
        deny(json!({"namespaces": ["office"]})),
        deny(json!({"notNamespaces": ["istio-*"]})),
        deny(json!({"notPrincipals": ["*/sa/istio-ingressgateway"]})),
        deny(json!({"ipBlocks": ["10.0.0.0/8"]})),
        deny(json!({"namespaces": ["istio-system"], "notRequestPrincipals": ["*"]})),
        json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["DELETE"]}}]}]}),
        json!({"action": "DENY", "rules": [{"when": [{"key": "request.headers[x-a]", "values": ["1"]}]}]}),
        json!({"action": "DENY", "rules": []}),
        json!({"action": "AUDIT", "rules": [{}]}),
    ] {
        assert_eq!(told(&[("shop", spec.clone())], "Cluster"), None, "{spec}");
    }
}

#[test]
fn an_allowance_that_leaves_the_ingress_gateway_out_by_name_is_told() {
    for source in [
        json!({"notNamespaces": ["istio-system"]}),
        json!({"notPrincipals": ["harbor/ns/istio-system/sa/istio-ingressgateway"]}),
        json!({"principals": ["*"], "notServiceAccounts": ["istio-system/istio-ingressgateway"]}),
        json!({"namespaces": ["*"], "notTrustDomains": ["cluster.local"]}),
    ] {
        let told = told(&[("shop", from(source.clone()))], "Cluster").unwrap_or_else(|| panic!("{source} is told"));
        assert!(told.contains("lets in the ingress gateway"), "{told}");
    }
    assert_eq!(told(&[("shop", from(json!({"notNamespaces": ["office"]})))], "Cluster"), None);
}

/// A policy for the whole mesh that allows nothing is the usual first step to zero trust, and holds at gateways too.
#[test]
fn a_gateway_at_which_nobody_is_allowed_is_told() {
    let nothing = ("istio-system", json!({}));
    let provider = ("shop", from(json!({"namespaces": ["istio-system"]})));
    for tls in ["Cluster", "Workload", "Passthrough"] {
        let told = told(&[nothing.clone(), provider.clone()], tls).unwrap_or_else(|| panic!("{tls}"));
        assert!(told.contains("at the ingress gateway") && !told.contains("allow-0"), "{told}");
    }
    let of_gateway = |labels: Value| ("istio-system", json!({"selector": {"matchLabels": labels}, "rules": [{}]}));
    assert_eq!(
        told(&[nothing.clone(), provider.clone(), of_gateway(json!({"istio": "ingressgateway"}))], "Cluster"),
        None
    );
    assert!(told(&[nothing, provider.clone(), of_gateway(json!({"istio": "other"}))], "Cluster").is_some());
    let others = ("istio-system", json!({"selector": {"matchLabels": {"app": "istiod"}}}));
    assert_eq!(told(&[others, provider], "Cluster"), None);
}

#[test]
fn an_egress_gateway_at_which_nobody_is_allowed_is_told_to_those_who_call_through_it() {
    let bound = |style, tls, policies: &[(&str, Value)]| {
        let sources = [source("harbor", "till", offered("harbor", "till", tls), |_| {})];
        let bound = super::build::bound(&sources, &with_policies(policies), &isle(style));
        bound.outcomes[0].notes.iter().any(|note| note.contains("allow nobody at the egress gateway"))
    };
    let nothing = ("istio-system", json!({}));
    let office = ("istio-system", from(json!({"namespaces": ["office"]})));
    assert!(bound(Style::EgressIngress, TlsMode::Cluster, std::slice::from_ref(&nothing)));
    assert!(!bound(Style::EgressIngress, TlsMode::Cluster, &[nothing.clone(), office]));
    assert!(!bound(Style::DirectIngress, TlsMode::Workload, &[nothing]));
    assert!(!bound(Style::EgressIngress, TlsMode::Cluster, &[("office", json!({}))]));
}
