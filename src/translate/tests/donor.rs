use std::collections::BTreeMap;

use serde_json::json;

use super::build::*;
use crate::api::{Kind, ObjectKey};
use crate::model::{ClusterFacts, ExpositionKey, Style};
use crate::translate::{NameClaims, ProblemReason, expose_policy, policy_touches};

fn refused(entry: serde_json::Value) -> (ProblemReason, String) {
    let mut inventory = shop();
    inventory.set_object(routes(
        "shop",
        "elsewhere",
        json!({"hosts": ["till"], "http": [
        {"route": [{"destination": {"host": "vault.secrets.svc.cluster.local"}}]}]}),
    ));
    inventory.set_object(routes(
        "shop",
        "delegating",
        json!({"hosts": ["till"], "http": [{"delegate": {"name": "other"}}]}),
    ));
    inventory.set_object(routes(
        "shop",
        "by-source",
        json!({"hosts": ["till"], "http": [
        {"match": [{"sourceLabels": {"app": "web"}}], "route": [{"destination": {"host": "till"}}]}]}),
    ));
    inventory.set_object(routes(
        "shop",
        "other-port",
        json!({"hosts": ["till"], "http": [
        {"match": [{"port": 81}], "route": [{"destination": {"host": "till"}}]}]}),
    ));
    inventory.set_object(routes(
        "shop",
        "front",
        json!({"hosts": ["till"], "gateways": ["front"], "http": [
        {"route": [{"destination": {"host": "till"}}]}]}),
    ));
    let out = exposed(json!([entry, {"name": "ledger", "alias": "good", "port": 9000}]), &inventory, &harbor());
    let about = |o: &crate::api::Object| o.metadata().name.as_deref() != Some("istio-ingressgateway-good-shop");
    assert_eq!(out.offers.len(), 1, "the other entry works");
    assert!(out.objects.iter().filter(|o| o.kind() == Kind::Gateway).all(|o| !about(o)), "and this one has no gateway");
    let problem = out.entries[0].problem.clone().unwrap();
    assert!(problem.field.starts_with("spec.exposed[0]"), "{problem}");
    assert!(out.entries[0].status.host.is_empty());
    (problem.reason, problem.line())
}

#[test]
fn a_subset_nobody_defined_exposes_nothing() {
    let (reason, line) = refused(json!({"name": "till", "subset": "retired"}));
    assert_eq!(reason, ProblemReason::SubsetNotFound);
    assert!(line.contains("\"retired\" is not a subset of till") && line.contains("stable, canary"), "{line}");
    for tls in ["Workload", "Passthrough"] {
        assert_eq!(refused(json!({"name": "till", "subset": "retired", "tls": tls})).0, ProblemReason::SubsetNotFound);
    }
}

#[test]
fn behaviour_that_cannot_be_carried_exposes_nothing() {
    for (name, word) in [
        ("elsewhere", "vault.secrets"),
        ("delegating", "delegate"),
        ("by-source", "sourceLabels"),
        ("other-port", "no route"),
        ("front", "gateways only"),
    ] {
        let (reason, line) = refused(json!({"name": "till", "virtualService": name}));
        assert_eq!(reason, ProblemReason::VirtualServiceUnusable);
        assert!(line.contains(word), "{name}: {line}");
    }
    let (reason, _) = refused(json!({"name": "till", "virtualService": "elsewhere", "tls": "Passthrough"}));
    assert_eq!(reason, ProblemReason::VirtualServiceUnusable);
}

#[test]
fn an_entry_for_nobody_exposes_nothing() {
    assert_eq!(refused(json!({"name": "till", "clusters": ["stranger"]})).0, ProblemReason::NoConsumers);
    assert_eq!(refused(json!({"name": "till", "clusters": ["harbor"]})).0, ProblemReason::NoConsumers);
    let nobody = facts("harbor", Style::EgressIngress, &[]);
    for tls in ["Cluster", "Workload", "Passthrough"] {
        let out = exposed(json!([{"name": "till", "tls": tls}]), &shop(), &nobody);
        assert!(out.objects.is_empty() && out.offers.is_empty());
    }
}

/// A list of clients narrows the clusters, and what comes of that is said.
#[test]
fn a_cluster_without_a_client_is_told_and_so_is_a_list_that_leaves_nobody() {
    let office = json!([{"cluster": "isle", "namespace": "office"}]);
    let out = exposed(json!([{"name": "till", "clusters": ["isle", "reef"], "clients": office}]), &shop(), &harbor());
    assert_eq!(out.offers[0].to.keys().map(|c| c.as_str()).collect::<Vec<_>>(), ["isle"]);
    assert!(out.entries[0].notes.iter().any(|note| note.starts_with("reef may consume, but none of the clients")));
    for clusters in [json!(["isle", "stranger"]), json!([])] {
        let clients = json!([{"cluster": "stranger", "namespace": "office"}]);
        let (reason, line) = refused(json!({"name": "till", "clusters": clusters, "clients": clients}));
        assert_eq!(reason, ProblemReason::NoConsumers);
        assert!(line.contains("spec.exposed[0].clients: none of the clients") && line.contains("stranger"), "{line}");
        assert!(line.contains("name clients of isle") && !line.contains("no peer"), "{line}");
    }
}

/// The API server's rule for the names of objects knows no limit for the parts between dots.
#[test]
fn accounts_of_long_names_are_permitted() {
    let long = "a".repeat(253);
    let clients = json!([{"cluster": "isle", "namespace": "office", "serviceAccount": long}]);
    let out = exposed(json!([{"name": "till", "clients": clients}]), &shop(), &harbor());
    assert_eq!(out.offers[0].to[&cluster("isle")].clients[0].service_account.as_ref().unwrap().as_str(), long);
    for bad in ["", "a".repeat(254).as_str(), "a..b", ".a", "a.", "-a", "a.-b", "A", "a_b", "a b", "ä"] {
        let clients = json!([{"cluster": "isle", "namespace": "office", "serviceAccount": bad}]);
        assert_eq!(refused(json!({"name": "till", "clients": clients})).0, ProblemReason::Invalid, "{bad}");
    }
}

#[test]
fn the_gateway_admits_exactly_the_clusters_of_the_policy() {
    let out = exposed(json!([{"name": "till", "clusters": ["reef"]}]), &shop(), &harbor());
    let tls = &only(&out.objects, Kind::Gateway)["servers"][0]["tls"];
    assert_eq!(tls["subjectAltNames"], json!(["spiffe://wharf/cluster/reef"]));
    assert_eq!(out.offers[0].to.keys().map(|c| c.as_str()).collect::<Vec<_>>(), ["reef"]);
    let out = exposed(json!([{"name": "till"}]), &shop(), &harbor());
    let tls = &only(&out.objects, Kind::Gateway)["servers"][0]["tls"];
    assert_eq!(tls["subjectAltNames"], json!(["spiffe://wharf/cluster/isle", "spiffe://wharf/cluster/reef"]));
}

#[test]
fn a_pinned_identity_replaces_the_one_by_name() {
    let mut facts = harbor();
    facts.peers.get_mut(&cluster("isle")).unwrap().identity = "spiffe://corp.example/agents/isle".parse().unwrap();
    let out = exposed(json!([{"name": "till", "clusters": ["isle"]}]), &shop(), &facts);
    let tls = &only(&out.objects, Kind::Gateway)["servers"][0]["tls"];
    assert_eq!(tls["subjectAltNames"], json!(["spiffe://corp.example/agents/isle"]));
}

#[test]
fn a_permission_by_workload_is_in_the_filter_chains_of_its_own_names() {
    let clients = json!([{"cluster": "isle", "namespace": "office"}]);
    let entry = json!([{"name": "ledger", "ports": [9000, 5000], "tls": "Workload", "clients": clients}]);
    let out = exposed(entry, &shop(), &harbor());
    let spec = only(&out.objects, Kind::EnvoyFilter);
    assert_eq!(spec["workloadSelector"]["labels"], json!({"istio": "ingressgateway"}));
    let patches = spec["configPatches"].as_array().unwrap();
    assert_eq!(patches.len(), 2, "one for each port");
    let sni = |i: usize| patches[i]["match"]["listener"]["filterChain"]["sni"].clone();
    assert_eq!(
        (sni(0), sni(1)),
        ("p9000.ledger.shop.svc.cluster.local".into(), "p5000.ledger.shop.svc.cluster.local".into())
    );
    let rules = &patches[0]["patch"]["value"]["typed_config"]["rules"];
    let office = json!({"prefix": "spiffe://isle/ns/office/"});
    assert_eq!(rules["action"], "ALLOW");
    let permitted = json!([{"authenticated": {"principal_name": office}}]);
    assert_eq!(rules["policies"]["permitted"]["principals"], permitted);
    assert_eq!(out.objects[0].kind(), Kind::EnvoyFilter, "it stands before what it guards");
    assert!(!out.offers[0].to.contains_key(&cluster("reef")), "a cluster without a client gets nothing");
    assert!(out.entries[0].notes.iter().any(|n| n.contains("clients are enforced")));
}

#[test]
fn a_tcp_port_lets_in_nobody_whom_its_filter_does_not_add() {
    let entry = json!([{"name": "ledger", "ports": [9000, 5000], "tls": "Workload", "clusters": ["isle"]}]);
    let out = exposed(entry, &shop(), &harbor());
    let servers = only(&out.objects, Kind::Gateway)["servers"].clone();
    assert_eq!(servers[0]["tls"], json!({"mode": "ISTIO_MUTUAL"}), "HTTP: the first route refuses strangers");
    assert_eq!(servers[1]["tls"]["subjectAltNames"], json!(["spiffe://nobody.invalid/wharf"]));
    let patch = only(&out.objects, Kind::EnvoyFilter)["configPatches"][1].clone();
    assert_eq!((&patch["applyTo"], &patch["patch"]["operation"]), (&json!("FILTER_CHAIN"), &json!("MERGE")));
    let tls = &patch["patch"]["value"]["transport_socket"]["typed_config"]["common_tls_context"];
    let names = &tls["combined_validation_context"]["default_validation_context"]["match_subject_alt_names"];
    assert_eq!(*names, json!([{"prefix": "spiffe://isle/"}]));
    let versions = patch["match"]["proxy"]["proxyVersion"].as_str().unwrap();
    assert!(versions.starts_with('^'), "newer proxies may keep them elsewhere: {versions}");
    assert!(out.entries[0].notes.iter().any(|n| n.contains("port 5000 is TCP")));
}

#[test]
fn what_passes_through_is_permitted_at_the_providers_own_pods_by_the_name_that_is_called() {
    let entry = json!([{"name": "ledger", "ports": [9000, 5000], "tls": "Passthrough", "clusters": ["isle"]}]);
    let out = exposed(entry, &shop(), &harbor());
    let spec = only(&out.objects, Kind::AuthorizationPolicy);
    assert_eq!(spec["action"], "DENY");
    assert_eq!(spec["rules"][0]["from"][0]["source"]["notPrincipals"], json!(["isle/*"]));
    let hosts = json!(["p9000.ledger.shop.svc.cluster.local", "p5000.ledger.shop.svc.cluster.local"]);
    assert_eq!(spec["rules"][0]["when"][0], json!({"key": "connection.sni", "values": hosts}));
    assert_eq!(out.objects[0].kind(), Kind::AuthorizationPolicy, "it stands before what it guards");
    assert!(out.entries[0].notes.iter().any(|n| n.contains("all of the provider's pods")), "what it disturbs is said");
    assert!(out.entries[0].notes.iter().any(|n| n.contains("port 5000 is TCP") && n.contains("speaks first")));
}

#[test]
fn a_shared_trust_domain_is_said() {
    let mut facts = harbor();
    for peer in facts.peers.values_mut() {
        peer.trust_domain = "corp.example".parse().unwrap();
    }
    let out = exposed(json!([{"name": "till", "clusters": ["isle"], "tls": "Workload"}]), &shop(), &facts);
    assert!(
        out.entries[0].notes.join(";").contains("isle, reef share the trust domain corp.example"),
        "{:?}",
        out.entries[0]
    );
    let out = exposed(json!([{"name": "till", "clusters": ["isle"], "tls": "Cluster"}]), &shop(), &facts);
    assert!(out.entries[0].notes.is_empty(), "a cluster's own certificate tells them apart");
}

#[test]
fn other_users_of_the_gateway_go_on_finding_the_owners_subsets() {
    let out = exposed(json!([{"name": "till", "subset": "canary", "tls": "Passthrough"}]), &shop(), &harbor());
    let spec = only(&out.objects, Kind::DestinationRule);
    let names: Vec<_> = spec["subsets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["notls-till-canary", "stable", "canary"]);
    assert_eq!(spec["subsets"][0]["trafficPolicy"]["tls"]["mode"], "DISABLE");
    assert_eq!(spec["exportTo"], json!(["."]));
}

#[test]
fn what_passes_through_is_not_wrapped_for_ports_of_their_own_either() {
    let mut inventory = shop();
    let ports = json!([{"port": {"number": 8080}, "tls": {"mode": "ISTIO_MUTUAL"}}]);
    inventory.set_object(rule(
        "shop",
        "till",
        json!({"host": "till.shop.svc.cluster.local", "trafficPolicy": {"portLevelSettings": ports}}),
    ));
    let out = exposed(json!([{"name": "till", "tls": "Passthrough"}]), &inventory, &harbor());
    let subset = &only(&out.objects, Kind::DestinationRule)["subsets"][0];
    assert_eq!(subset["trafficPolicy"]["portLevelSettings"][0]["tls"]["mode"], "DISABLE");
}

#[test]
fn without_an_address_everything_is_in_place_and_nothing_is_offered() {
    let mut facts = harbor();
    let with = exposed(json!([{"name": "till"}]), &shop(), &facts);
    facts.ingress.addresses.clear();
    let without = exposed(json!([{"name": "till"}]), &shop(), &facts);
    assert_eq!(json_of(&with.objects), json_of(&without.objects));
    assert!(without.offers.is_empty());
    assert_eq!(without.entries[0].problem.as_ref().unwrap().reason, ProblemReason::NoGatewayAddress);
}

#[test]
fn of_two_policies_with_one_alias_the_older_has_it() {
    let mut newer = policy("aaa", json!([{"name": "ledger", "alias": "books", "port": 9000}]));
    let mut older = policy("zzz", json!([{"name": "till", "alias": "books"}]));
    newer.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-02-02T00:00:00Z")).unwrap());
    older.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let (inventory, facts) = (shop(), harbor());
    let mut claims = NameClaims::default();
    claims.insert_policy(&newer);
    assert!(expose_policy(&newer, &inventory, &claims, &facts).entries[0].problem.is_none(), "alone it has the name");
    assert_eq!(claims.insert_policy(&older).into_iter().collect::<Vec<_>>(), [("shop".to_owned(), "aaa".to_owned())]);
    let loser = expose_policy(&newer, &inventory, &claims, &facts);
    assert!(loser.objects.is_empty() && loser.offers.is_empty());
    let problem = loser.entries[0].problem.clone().unwrap();
    assert_eq!(problem.reason, ProblemReason::NameConflict);
    assert!(problem.message.contains("books") && problem.message.contains("shop/zzz"), "{problem}");
    assert!(expose_policy(&older, &inventory, &claims, &facts).entries[0].problem.is_none());
    assert_eq!(claims.remove_policy("shop", "zzz").len(), 1);
    assert!(expose_policy(&newer, &inventory, &claims, &facts).entries[0].problem.is_none(), "and has it again");
}

#[test]
fn ports_speak_what_the_service_says() {
    let ports = json!([{"name": "web", "port": 80, "appProtocol": "http"}, {"name": "grpc-web-x", "port": 81},
        {"name": "https", "port": 443}, {"name": "h2", "port": 82, "appProtocol": "kubernetes.io/h2c"}, {"name": "plain", "port": 83}]);
    let mut inventory = shop();
    inventory.set_object(service("shop", "many", ports));
    let out = exposed(json!([{"name": "many"}]), &inventory, &harbor());
    let offer = out.offers[0].to.values().next().unwrap();
    let spoken: BTreeMap<u16, &str> = offer.ports.iter().map(|p| (p.number, p.protocol.as_str())).collect();
    assert_eq!(spoken, BTreeMap::from([(80, "HTTP"), (81, "HTTP2"), (82, "HTTP2"), (83, "TCP"), (443, "TCP")]));
    assert!(out.entries[0].notes.iter().any(|n| n.contains("port 83")), "an undeclared port is said to be TCP");
    assert_eq!(offer.ports[0].host.as_str(), "p80.many.shop.svc.cluster.local");
    assert_eq!(offer.ports[1].host.as_str(), "p81.many.shop.svc.cluster.local");
}

#[test]
fn clients_are_told_to_their_own_cluster_only() {
    let clients = json!([{"cluster": "isle", "namespace": "office", "serviceAccount": "clerk"}, {"cluster": "reef", "namespace": "lab"}]);
    let out = exposed(json!([{"name": "till", "clients": clients}]), &shop(), &harbor());
    let to = &out.offers[0].to;
    assert_eq!(to[&cluster("isle")].clients.len(), 1);
    assert_eq!(to[&cluster("isle")].clients[0].namespace.as_str(), "office");
    assert_eq!(to[&cluster("reef")].clients[0].namespace.as_str(), "lab");
    assert_eq!(out.offers[0].key, ExpositionKey { namespace: label("shop"), name: label("till") });
}

#[test]
fn a_rule_for_the_whole_namespace_counts_and_wharfs_own_do_not() {
    let mut inventory = crate::translate::Inventory::default();
    inventory.set_object(service("shop", "till", json!([{"name": "http", "port": 8080}])));
    let subsets = json!([{"name": "stable", "labels": {"track": "stable"}}]);
    inventory.set_object(rule("shop", "all", json!({"host": "*.shop.svc.cluster.local", "subsets": subsets})));
    let out = exposed(json!([{"name": "till", "subset": "stable"}]), &inventory, &harbor());
    assert!(out.entries[0].problem.is_none());
    let mut ours = (*rule("shop", "all", json!({"host": "till", "subsets": subsets}))).clone();
    let labels = BTreeMap::from([
        (crate::api::MANAGED_BY.to_owned(), "wharf".to_owned()),
        (crate::api::OWNER.to_owned(), "policy.shop.x".to_owned()),
    ]);
    ours.metadata_mut().labels = Some(labels);
    inventory.set_object(ours.into()); // the same name: it takes the place of the user's
    let out = exposed(json!([{"name": "till", "subset": "stable"}]), &inventory, &harbor());
    assert_eq!(out.entries[0].problem.as_ref().unwrap().reason, ProblemReason::SubsetNotFound);
}

#[test]
fn a_policy_is_touched_by_what_it_looks_at() {
    let policy = policy("partners", json!([{"name": "till", "virtualService": "slow"}]));
    let key = |kind, namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
    assert!(policy_touches(&policy, &key(Kind::Service, "shop", "till"), &harbor()));
    assert!(policy_touches(&policy, &key(Kind::VirtualService, "shop", "slow"), &harbor()));
    assert!(policy_touches(&policy, &key(Kind::DestinationRule, "shop", "any"), &harbor()));
    assert!(!policy_touches(&policy, &key(Kind::VirtualService, "shop", "other"), &harbor()));
    assert!(!policy_touches(&policy, &key(Kind::Service, "office", "till"), &harbor()));
    assert!(!policy_touches(&policy, &key(Kind::DestinationRule, "office", "any"), &harbor()));
    assert!(
        policy_touches(&policy, &key(Kind::DestinationRule, "istio-system", "any"), &harbor()),
        "it is for everybody"
    );
    let apart = ClusterFacts { root_namespace: label("mesh-root"), ..harbor() };
    assert!(policy_touches(&policy, &key(Kind::DestinationRule, "mesh-root", "any"), &apart));
}

#[test]
fn what_passes_through_is_answered_by_the_service_accounts_that_istios_annotation_names() {
    let mut inventory = shop();
    let annotations = json!({"alpha.istio.io/kubernetes-serviceaccounts": "till-v2, till,not a name"});
    let metadata = json!({"name": "kiosk", "namespace": "shop", "annotations": annotations});
    let spec = json!({"selector": {"app": "kiosk"}, "ports": [{"name": "http", "port": 80}]});
    inventory.set_object(object(Kind::Service, json!({"metadata": metadata, "spec": spec})));
    let identities = |name: &str, tls: &str| {
        let out = exposed(json!([{"name": name, "port": 80, "tls": tls}]), &inventory, &harbor());
        let exposition = out.offers[0].to.values().next().unwrap().clone();
        exposition.identities.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        identities("kiosk", "Passthrough"),
        ["spiffe://harbor/ns/shop/sa/till", "spiffe://harbor/ns/shop/sa/till-v2"]
    );
    assert_eq!(identities("kiosk", "Cluster"), ["spiffe://wharf/cluster/harbor"]);
}
