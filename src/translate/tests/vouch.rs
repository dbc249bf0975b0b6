//! What nobody can see is exposed only if the operator vouches for it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::model::{Assurance, ClusterFacts, ExposureRules};
use crate::translate::{Inventory, ProblemReason};

fn vouched(sidecars: Assurance, endpoints: Assurance) -> ClusterFacts {
    ClusterFacts { exposure: ExposureRules { sidecars, endpoints, quota: None }, ..harbor() }
}

fn strict() -> ClusterFacts {
    vouched(Assurance::Missing, Assurance::Missing)
}

/// The shop, with a Service of another content.
fn shop_with(metadata: Value, spec: Value) -> Inventory {
    let mut inventory = shop();
    let mut object_metadata = json!({"name": "kiosk", "namespace": "shop"});
    object_metadata.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    let mut object_spec = json!({"ports": [{"name": "http", "port": 8080}]});
    object_spec.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    inventory.set_object(object(Kind::Service, json!({"metadata": object_metadata, "spec": object_spec})));
    inventory
}

/// Why an entry is refused, with nothing written for it.
fn refusal(entry: Value, inventory: &Inventory, facts: &ClusterFacts) -> (ProblemReason, String) {
    let out = exposed(json!([entry]), inventory, facts);
    assert!(out.objects.is_empty() && out.offers.is_empty(), "nothing is written or offered");
    let problem = out.entries[0].problem.clone().expect("it is refused");
    (problem.reason, problem.line())
}

fn notes(entry: Value, inventory: &Inventory, facts: &ClusterFacts) -> String {
    let out = exposed(json!([entry]), inventory, facts);
    assert_eq!(out.offers.len(), 1, "{:?}", out.entries[0].problem);
    out.entries[0].notes.join("\n")
}

#[test]
fn passthrough_is_exposed_only_if_the_operator_vouches_for_the_sidecars() {
    let entry = json!({"name": "till", "tls": "Passthrough"});
    let (reason, line) = refusal(entry.clone(), &shop(), &strict());
    assert_eq!(reason, ProblemReason::SidecarsMissing);
    assert!(line.contains("spec.exposed[0].tls") && line.contains("passthrough.trustSidecars"), "{line}");
    let trusting = vouched(Assurance::Operator, Assurance::Missing);
    assert!(notes(entry.clone(), &shop(), &trusting).contains("relies on a sidecar in every pod of till"));
    let later = vouched(Assurance::Later, Assurance::Missing);
    assert!(notes(entry, &shop(), &later).contains("an agent refuses it unless passthrough.trustSidecars is set"));
    for tls in ["Cluster", "Workload"] {
        assert!(!notes(json!({"name": "till", "tls": tls}), &shop(), &strict()).contains("sidecar in every pod"));
    }
}

#[test]
fn passthrough_by_default_of_the_configuration_is_checked_alike() {
    let facts = ClusterFacts { tls: crate::model::TlsMode::Passthrough, ..strict() };
    assert_eq!(refusal(json!({"name": "till"}), &shop(), &facts).0, ProblemReason::SidecarsMissing);
}

#[test]
fn passthrough_is_never_exposed_where_pods_are_known_to_lack_a_sidecar() {
    let entry = json!({"name": "till", "tls": "Passthrough"});
    for facts in [vouched(Assurance::Operator, Assurance::Missing), vouched(Assurance::Later, Assurance::Missing)] {
        for of in [None, Some("shop".to_owned())] {
            let mut inventory = shop();
            inventory.learn_ambient(of.clone(), BTreeSet::from(["shop".to_owned()]));
            let (reason, line) = refusal(entry.clone(), &inventory, &facts);
            assert_eq!(reason, ProblemReason::SidecarsMissing);
            assert!(line.contains("namespace shop are in ambient mode") && line.contains("tls: Cluster"), "{line}");
            assert!(!notes(json!({"name": "till"}), &inventory, &facts).contains("ambient"), "other modes work");
            inventory.learn_ambient(of, BTreeSet::new());
            notes(entry.clone(), &inventory, &facts);
        }
        for (label, value) in [("istio.io/dataplane-mode", "ambient"), ("sidecar.istio.io/inject", "false")] {
            let inventory = shop_with(json!({}), json!({"selector": {"app": "kiosk", label: value}}));
            let (reason, line) = refusal(json!({"name": "kiosk", "tls": "Passthrough"}), &inventory, &facts);
            assert_eq!(reason, ProblemReason::SidecarsMissing);
            assert!(line.contains(label), "{line}");
        }
    }
}

#[test]
fn a_service_without_a_selector_is_exposed_only_if_the_operator_vouches_for_its_endpoints() {
    let trusting = vouched(Assurance::Operator, Assurance::Operator);
    for spec in [json!({}), json!({"selector": {}}), json!({"selector": null}), json!({"clusterIP": "None"})] {
        let inventory = shop_with(json!({}), spec);
        for tls in ["Cluster", "Workload", "Passthrough"] {
            let (reason, line) = refusal(json!({"name": "kiosk", "tls": tls}), &inventory, &strict());
            assert_eq!(reason, ProblemReason::ServiceWithoutSelector);
            assert!(line.contains("kiosk") && line.contains("services.allowWithoutSelector"), "{line}");
        }
        let said = notes(json!({"name": "kiosk"}), &inventory, &trusting);
        assert!(said.contains("wherever its EndpointSlices say (services.allowWithoutSelector)"), "{said}");
        let later = vouched(Assurance::Missing, Assurance::Later);
        assert!(notes(json!({"name": "kiosk"}), &inventory, &later).contains("an agent refuses it unless services."));
        let (reason, _) = refusal(json!({"name": "kiosk", "tls": "Passthrough"}), &inventory, &trusting);
        assert_eq!(reason, ProblemReason::Unsupported, "nobody could refuse strangers");
    }
}

#[test]
fn a_service_that_names_something_outside_is_refused_whoever_vouches() {
    let inventory = shop_with(json!({}), json!({"type": "ExternalName", "externalName": "vault.secrets.svc"}));
    for facts in [strict(), vouched(Assurance::Operator, Assurance::Operator)] {
        assert_eq!(refusal(json!({"name": "kiosk"}), &inventory, &facts).0, ProblemReason::Unsupported);
    }
}

#[test]
fn the_routes_of_a_virtual_service_lead_to_no_service_without_a_selector() {
    let leads = |place: &str| {
        let mut inventory = shop_with(json!({}), json!({}));
        let to = |host: &str| json!({"destination": {"host": host, "port": {"number": 8080}}});
        let route = match place {
            "route" => json!({"route": [to("kiosk")]}),
            "mirror" => json!({"route": [to("till")], "mirror": to("kiosk")["destination"]}),
            _ => json!({"route": [to("till")], "mirrors": [to("kiosk")]}),
        };
        inventory.set_object(routes("shop", "aside", json!({"hosts": ["till"], "http": [route]})));
        inventory
    };
    let entry = json!({"name": "till", "virtualService": "aside"});
    for place in ["route", "mirror", "mirrors"] {
        let (reason, line) = refusal(entry.clone(), &leads(place), &strict());
        assert_eq!(reason, ProblemReason::ServiceWithoutSelector, "{place}");
        assert!(line.contains("kiosk has no selector") && line.contains("services.allowWithoutSelector"), "{line}");
        notes(entry.clone(), &leads(place), &vouched(Assurance::Missing, Assurance::Operator));
    }
}

#[test]
fn a_subset_is_refused_where_the_gateway_hands_over_to_a_waypoint() {
    let mut inventory = shop_with(
        json!({"labels": {"istio.io/use-waypoint": "own", "istio.io/ingress-use-waypoint": "true"}}),
        json!({"selector": {"app": "kiosk"}}),
    );
    let subsets = json!([{"name": "stable", "labels": {"track": "stable"}}]);
    inventory.set_object(rule("shop", "kiosk", json!({"host": "kiosk", "subsets": subsets})));
    let route = json!({"route": [{"destination": {"host": "kiosk", "subset": "stable"}}]});
    inventory.set_object(routes("shop", "stable", json!({"hosts": ["kiosk"], "http": [route]})));
    let (_, line) = refusal(json!({"name": "kiosk", "subset": "stable"}), &inventory, &strict());
    assert!(line.contains("spec.exposed[0].subset") && line.contains("waypoint"), "{line}");
    let (_, line) = refusal(json!({"name": "kiosk", "virtualService": "stable"}), &inventory, &strict());
    assert!(line.contains("waypoint"), "{line}");
    assert!(!notes(json!({"name": "kiosk"}), &inventory, &strict()).contains("waypoint"));
}

#[test]
fn a_waypoint_whose_rules_do_not_hold_for_peers_is_told() {
    for (waypoint, told) in [("own", true), ("none", false)] {
        let labels = json!({"labels": {"istio.io/use-waypoint": waypoint}});
        let said =
            notes(json!({"name": "kiosk"}), &shop_with(labels, json!({"selector": {"app": "kiosk"}})), &strict());
        assert_eq!(said.contains("the rules at the waypoint own do not hold for peers"), told, "{said}");
    }
}

#[test]
fn a_service_that_the_gateway_does_not_see_is_not_exposed() {
    let annotated = |to: &str| {
        shop_with(json!({"annotations": {"networking.istio.io/exportTo": to}}), json!({"selector": {"app": "kiosk"}}))
    };
    for hidden in [".", "shop", "office", "office, lab", "~", "istio-system,~", "ISTIO-SYSTEM", ","] {
        let (reason, line) = refusal(json!({"name": "kiosk"}), &annotated(hidden), &harbor());
        assert_eq!(reason, ProblemReason::Unsupported, "{hidden}");
        assert!(line.contains("spec.exposed[0].name") && line.contains("add istio-system"), "{line}");
    }
    for seen in ["", "*", "office,*", "~,*", "istio-system", "., istio-system ", " *"] {
        notes(json!({"name": "kiosk"}), &annotated(seen), &harbor());
    }
    // Beside the gateway, its own namespace is enough.
    let mut facts = harbor();
    facts.ingress.namespace = label("shop");
    notes(json!({"name": "kiosk"}), &annotated("."), &facts);
}

#[test]
fn a_route_to_a_service_that_the_gateway_does_not_see_is_refused() {
    let mut inventory =
        shop_with(json!({"annotations": {"networking.istio.io/exportTo": "."}}), json!({"selector": {"app": "kiosk"}}));
    let to = |host: &str| json!([{"destination": {"host": host}}]);
    for http in [json!([{"route": to("kiosk")}]), json!([{"route": to("till"), "mirror": {"host": "kiosk"}}])] {
        inventory.set_object(routes("shop", "calls", json!({"hosts": ["till"], "http": http})));
        let (reason, line) = refusal(json!({"name": "till", "virtualService": "calls"}), &inventory, &harbor());
        assert_eq!(reason, ProblemReason::Unsupported);
        assert!(line.contains("does not see the Service kiosk"), "{line}");
    }
}
