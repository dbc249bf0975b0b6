//! Given what somebody wrote by hand, or what a mesh shares: the policies, the bindings, and what a person has to know.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{ClusterPeering, Kind};
use crate::model::Style;
use crate::store::{Input, manifest};
use crate::translate::tests::build::{cluster, facts};

/// The objects of a stream of YAML, and the peers in it.
fn read(text: &str) -> (ClusterObjects, PeerBook) {
    let (mut objects, mut peers) = (ClusterObjects::default(), PeerBook::default());
    for document in manifest::read_manifest("given", text.as_bytes()) {
        match document.unwrap().input {
            Input::Object(object) => objects.add_object(object),
            Input::Peering(peering) => peers.add_peer(peer_of(&peering)),
            other => panic!("{other:?}"),
        }
    }
    (objects, peers)
}

/// The donor, with these objects.
fn harbor_with(manifests: &str) -> DonorObjects {
    DonorObjects { name: cluster("harbor"), objects: read(manifests).0 }
}

fn peer_of(peering: &ClusterPeering) -> crate::model::Peer {
    peering.spec.to_peer(peering.metadata.name.as_deref().unwrap().parse().unwrap()).unwrap()
}

fn with_request<T>(peers: PeerBook, services: &[&str], work: impl FnOnce(&ImportRequest<'_>) -> T) -> T {
    let (acceptor, facts) = (cluster("isle"), facts("isle", Style::EgressIngress, &[]));
    let services = services.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    work(&ImportRequest { acceptor: &acceptor, peers, namespace: None, services, facts: &facts })
}

fn import(text: &str, hints: &[&str]) -> ImportResult {
    let (objects, mut peers) = read(text);
    hints.iter().for_each(|hint| peers.add_hint(hint.parse().unwrap()));
    with_request(peers, &[], |request| import_service_entries(request, &objects, None))
}

fn policies(result: &ImportResult) -> Value {
    let policy = |(donor, p): &(ClusterName, ServiceExpositionPolicy)| {
        json!([
            donor.as_str(),
            format!("{}/{}", p.metadata.namespace.as_deref().unwrap(), p.metadata.name.as_deref().unwrap()),
            p.spec.exposed
        ])
    };
    result.policies.iter().map(policy).collect()
}

fn bindings(result: &ImportResult) -> Value {
    let binding = |b: &RemoteServiceBinding| {
        json!([
            format!("{}/{}", b.metadata.namespace.as_deref().unwrap(), b.metadata.name.as_deref().unwrap()),
            b.spec.remote
        ])
    };
    result.bindings.iter().map(binding).collect()
}

fn told(result: &ImportResult) -> String {
    let lines = result
        .notes
        .list()
        .0
        .iter()
        .map(|n| format!("{}: {}: {}\n", if n.is_error { "error" } else { "note" }, n.place, n.message));
    lines.collect()
}

fn errors(result: &ImportResult) -> Vec<String> {
    let errors = result.notes.list().0.iter().filter(|n| n.is_error);
    errors.map(|n| format!("{}: {}", n.place, n.message)).collect()
}

const HARBOR: &str = "
apiVersion: multicluster.istio.io/v1alpha1
kind: ClusterPeering
metadata: {name: harbor}
spec: {endpoint: 'harbor.example:7443', gateway: ['198.51.100.7:15443']}
---
";

/// An entry as a person writes it for gateways with AUTO_PASSTHROUGH.
const REVIEWS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: office}
spec:
  hosts: [reviews.shop.global]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.7, ports: {http: 15443}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: office}
spec:
  host: reviews.shop.global
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: outbound_.9080_._.reviews.shop.svc.cluster.local}}
---
";

#[test]
fn an_sni_of_istio_names_the_donors_service_and_port() {
    let result = import(&format!("{HARBOR}{REVIEWS}"), &[]);
    assert_eq!(
        policies(&result),
        json!([["harbor", "shop/reviews-for-isle", [{"name": "reviews", "ports": [9080], "clusters": ["isle"]}]]])
    );
    assert_eq!(
        bindings(&result),
        json!([["office/reviews-from-harbor", [{"cluster": "harbor", "services": [
            {"name": "reviews", "namespace": "shop", "ports": [{"port": 9080, "localPort": 80}]}
        ]}]]])
    );
    assert_eq!(errors(&result), [""; 0], "{}", told(&result));
    assert!(!told(&result).contains("is taken for"), "nothing is guessed: {}", told(&result));
    assert!(
        told(&result).contains("callers of reviews.shop.global go on as they do until they call reviews.office"),
        "{}",
        told(&result)
    );
}

#[test]
fn a_subset_in_an_sni_is_an_entry_of_its_own() {
    let result = import(&format!("{HARBOR}{}", REVIEWS.replace("9080_._", "9080_.v2_")), &[]);
    assert_eq!(
        policies(&result)[0][2],
        json!([{"name": "reviews", "alias": "reviews-v2", "ports": [9080], "subset": "v2", "clusters": ["isle"]}])
    );
    assert_eq!(bindings(&result)[0][1][0]["services"][0]["name"], "reviews-v2");
}

#[test]
fn an_address_without_an_owner_is_an_error_that_names_the_field() {
    let result = import(REVIEWS, &[]);
    assert_eq!((policies(&result), bindings(&result)), (json!([]), json!([])));
    let error = errors(&result).join("\n");
    assert!(
        error.contains(
            "ServiceEntry office/reviews: spec.endpoints[0].address: 198.51.100.7 belongs to no ClusterPeering"
        ),
        "{error}"
    );
    assert!(error.contains("--peer NAME=198.51.100.7"), "{error}");
}

#[test]
fn a_person_may_say_whose_an_address_is() {
    for hint in ["harbor", "harbor=198.51.100.7"] {
        let result = import(REVIEWS, &[hint]);
        assert_eq!(policies(&result)[0][0], "harbor", "{hint}: {}", told(&result));
        assert!(told(&result).contains("ClusterPeering harbor: none was read"), "{}", told(&result));
    }
}

#[test]
fn an_address_that_two_peers_may_have_is_nobodys_until_somebody_says_it() {
    let peers = "
apiVersion: multicluster.istio.io/v1alpha1
kind: ClusterPeering
metadata: {name: harbor}
spec: {endpoint: 'harbor.example:7443', allowedGateways: [198.51.100.0/24]}
---
apiVersion: multicluster.istio.io/v1alpha1
kind: ClusterPeering
metadata: {name: wharf}
spec: {endpoint: 'wharf.example:7443', allowedGateways: [198.51.0.0/16]}
---
";
    let result = import(&format!("{peers}{REVIEWS}"), &[]);
    assert_eq!(policies(&result), json!([]));
    assert!(errors(&result).join("\n").contains("may belong to harbor or wharf"), "{}", told(&result));
    // A word about all others may not have meant this one.
    let result = import(&format!("{peers}{REVIEWS}"), &["lagoon"]);
    assert!(errors(&result).join("\n").contains("may belong to harbor or lagoon or wharf"), "{}", told(&result));
    let result = import(&format!("{peers}{REVIEWS}"), &["wharf=198.51.100.7"]);
    assert_eq!(policies(&result)[0][0], "wharf");
}

#[test]
fn a_host_that_only_looks_like_a_service_is_told_as_an_assumption() {
    let without_rule = REVIEWS.split("---").next().unwrap();
    for (host, service) in [
        ("reviews.shop.svc.cluster2.example", "shop/reviews"),
        ("reviews.shop.global", "shop/reviews"),
        ("reviews.global", "office/reviews"),
        ("reviews.harbor.example", "office/reviews"),
    ] {
        let result = import(&format!("{HARBOR}{}", without_rule.replace("reviews.shop.global", host)), &[]);
        assert!(policies(&result)[0][1].as_str().unwrap().starts_with(service), "{host}: {}", policies(&result));
        let text = told(&result);
        assert!(text.contains(&format!("taken for the donor's Service {service}")), "{host}: {text}");
        assert!(text.contains("spec.ports[0]: it is taken for port 80 of the donor's Service"), "{host}: {text}");
    }
}

#[test]
fn the_donors_gateway_routes_say_what_a_name_leads_to() {
    let own_sni = REVIEWS.replace("outbound_.9080_._.reviews.shop.svc.cluster.local", "books.harbor.example");
    let (here, peers) = read(&format!("{HARBOR}{own_sni}"));
    let donor = harbor_with(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: books, namespace: shop}
spec:
  hosts: [books.harbor.example]
  gateways: [istio-system/public]
  http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
",
    );
    let result = with_request(peers, &[], |request| import_service_entries(request, &here, Some(&donor)));
    assert_eq!(policies(&result)[0][2], json!([{"name": "reviews", "ports": [9080], "clusters": ["isle"]}]));
    assert!(!told(&result).contains("is taken for"), "{}", told(&result));
}

#[test]
fn a_policy_that_the_donor_would_refuse_is_an_error() {
    let (here, peers) = read(&format!("{HARBOR}{REVIEWS}"));
    let donor = harbor_with(
        "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 8080}]}
",
    );
    let result = with_request(peers, &[], |request| import_service_entries(request, &here, Some(&donor)));
    let error = errors(&result).join("\n");
    assert!(
        error.contains("ServiceExpositionPolicy shop/reviews-for-isle for harbor: spec.exposed[0].ports[0]"),
        "{error}"
    );
    assert_eq!(result.policies.len(), 1, "it is printed all the same");
}

#[test]
fn rules_that_tell_callers_apart_are_named_before_callers_are_led_away() {
    let (here, peers) = read(&format!("{HARBOR}{REVIEWS}"));
    let donor = harbor_with(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {rules: [{from: [{source: {principals: [isle/ns/office/sa/desk]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: paths, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
",
    );
    let result = with_request(peers, &[], |request| import_service_entries(request, &here, Some(&donor)));
    let text = told(&result);
    assert!(text.contains("AuthorizationPolicy shop/callers: spec.rules: it tells callers apart"), "{text}");
    assert!(!text.contains("shop/paths"), "{text}");
}

#[test]
fn every_host_of_an_entry_is_named_with_the_new_one() {
    let two = REVIEWS
        .replace("hosts: [reviews.shop.global]", "hosts: [reviews.shop.global, ratings.old.example]")
        .replace("protocol: HTTP", "protocol: TLS");
    let text = told(&import(&format!("{HARBOR}{}", two.replace("host: reviews.shop.global", "host: '*'")), &[]));
    assert!(text.contains("callers of ratings.old.example, reviews.shop.global go on"), "{text}");
    assert!(text.contains("spec.ports[0]: callers speak TLS of their own"), "{text}");
}

#[test]
fn a_name_that_is_in_use_here_is_not_taken_over() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: office}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
";
    let result = import(&format!("{HARBOR}{REVIEWS}---{service}"), &[]);
    let bound = &bindings(&result)[0];
    assert_eq!(
        (&bound[0], &bound[1][0]["services"][0]["alias"]),
        (&json!("office/reviews-harbor-from-harbor"), &json!("reviews-harbor"))
    );
    assert!(
        told(&result).contains("office/reviews is in use here: there is a Service office/reviews that is not Wharf's"),
        "{}",
        told(&result)
    );
    // A host of this cluster's own form is held by the ServiceEntry itself.
    let own = REVIEWS.replace("reviews.shop.global", "reviews.office.svc.cluster.local");
    let result = import(&format!("{HARBOR}{own}"), &[]);
    assert_eq!(bindings(&result)[0][1][0]["services"][0]["alias"], "reviews-harbor", "{}", told(&result));
}

#[test]
fn several_donors_behind_one_host_share_its_calls_by_their_weights() {
    let two = REVIEWS.replace(
        "endpoints: [{address: 198.51.100.7, ports: {http: 15443}}]",
        "endpoints: [{address: 198.51.100.7, ports: {http: 15443}, weight: 60}, {address: 198.51.100.8, ports: {http: 15443}, weight: 20}, {address: 203.0.113.9, ports: {http: 15443}, weight: 20}]",
    );
    let result = import(&format!("{HARBOR}{two}"), &["harbor=198.51.100.8", "lagoon=203.0.113.9"]);
    let donors: Vec<&str> = result.policies.iter().map(|(donor, _)| donor.as_str()).collect();
    assert_eq!(donors, ["harbor", "lagoon"]);
    let bound = &bindings(&result)[0];
    assert_eq!(bound[0], "office/reviews-from-peers");
    let weights: Vec<_> =
        bound[1].as_array().unwrap().iter().map(|r| (&r["cluster"], &r["services"][0]["weight"])).collect();
    assert_eq!(weights, [(&json!("harbor"), &json!(80)), (&json!("lagoon"), &json!(20))]);
}

#[test]
fn what_is_not_carried_is_told_by_object_and_field() {
    let more = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: office}
spec:
  host: '*.global'
  trafficPolicy:
    tls: {mode: MUTUAL, credentialName: harbor-client}
    outlierDetection: {consecutive5xxErrors: 3}
    portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: office}
spec:
  hosts: [reviews]
  http:
  - timeout: 3s
    route:
    - {destination: {host: reviews.shop.global}, weight: 90}
    - {destination: {host: reviews-old}, weight: 10}
";
    let entry = REVIEWS
        .split("---")
        .next()
        .unwrap()
        .replace("resolution: STATIC", "resolution: STATIC\n  exportTo: ['.']\n  addresses: [240.0.0.1]");
    let text = told(&import(&format!("{HARBOR}{entry}---{more}"), &[]));
    for expected in [
        "ServiceEntry office/reviews: spec.addresses: not carried",
        "ServiceEntry office/reviews: spec.exportTo: not carried",
        "DestinationRule office/reviews: spec.trafficPolicy.outlierDetection: not carried",
        "DestinationRule office/reviews: spec.trafficPolicy.portLevelSettings[0].loadBalancer: not carried",
        "DestinationRule office/reviews: spec.subsets: not carried",
        "DestinationRule office/reviews: spec.host: it is for other hosts than reviews.shop.global, too",
        "the Secret harbor-client",
        "VirtualService office/reviews: spec.http[0].timeout: not carried",
        "VirtualService office/reviews: spec: it leads to reviews-old, too",
        "VirtualService office/reviews: spec.hosts: callers of reviews come to reviews.shop.global by it",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn entries_for_the_world_outside_are_left_alone() {
    let website = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: office}
spec:
  hosts: [api.pay.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
---
";
    let result = import(&format!("{HARBOR}{website}{REVIEWS}"), &["harbor"]);
    assert_eq!(result.policies.len(), 1);
    assert_eq!(errors(&result), [""; 0]);
    assert!(told(&result).contains("ServiceEntry office/pay: left alone"), "{}", told(&result));
    let nothing = import(website, &[]);
    assert!(errors(&nothing).join("\n").contains("no ServiceEntry was read that leads to another cluster"));
}

#[test]
fn no_error_is_lost_among_any_number_of_notes() {
    let mut notes = ImportNotes::default();
    for i in 0..=MAX_NOTES {
        notes.add_note(format!("note {i}"), "so it is");
    }
    notes.add_error("one object", "it cannot be read");
    let (list, left_out) = notes.list();
    assert!(list.iter().any(|note| note.is_error) && notes.has_errors());
    assert_eq!((list.len(), left_out), (MAX_NOTES + 1, 1));
}

#[test]
fn one_bad_host_or_port_costs_nothing_else() {
    let bad = REVIEWS
        .replace("hosts: [reviews.shop.global]", "hosts: ['*.global', reviews.shop.global, 'Böse_.shop.global']")
        .replace("ports: [{number: 80, name: http, protocol: HTTP}]", "ports: [{number: 80, name: http, protocol: HTTP}, {number: 99999, name: big}, {number: 53, name: dns, protocol: UDP}]");
    let result = import(&format!("{HARBOR}{bad}"), &[]);
    assert_eq!(policies(&result)[0][1], "shop/reviews-for-isle", "{}", told(&result));
    let error = errors(&result).join("\n");
    for expected in
        ["spec.hosts[0]: *.global stands for any number", "spec.ports[1]: 99999 is not a port", "spec.ports[2]: UDP"]
    {
        assert!(error.contains(expected), "{expected} is not in\n{error}");
    }
}

const SHARED: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: admin, port: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {ports: [{name: https, port: 443}]}
---
";

#[test]
fn a_service_of_both_clusters_is_bound_under_a_name_of_its_own_first() {
    let (here, peers) = read(&format!("{HARBOR}{SHARED}"));
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: cross-network-gateway, namespace: istio-system}
spec:
  selector: {istio: eastwestgateway}
  servers: [{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.local']}]
";
    let donor = harbor_with(&format!("{}{gateway}", SHARED.replace(", {name: admin, port: 9090}", "")));
    let secrets = ["harbor".to_owned()];
    let result = with_request(peers, &[], |request| import_shared_services(request, &here, &donor, Some(&secrets)));
    assert_eq!(
        policies(&result),
        json!([["harbor", "shop/reviews-for-isle", [{"name": "reviews", "ports": [9080], "clusters": ["isle"]}]]])
    );
    assert_eq!(
        bindings(&result),
        json!([["shop/reviews-harbor-from-harbor", [{"cluster": "harbor", "services": [
            {"name": "reviews", "alias": "reviews-harbor", "ports": [{"port": 9080}]}
        ]}]]])
    );
    let text = told(&result);
    for expected in [
        "Gateway istio-system/cross-network-gateway: spec.servers: it opens every Service of harbor",
        "remote secrets: the one for harbor goes last",
        "Service shop/reviews: spec.ports: harbor's Service has no TCP port 9090",
        "Service shop/reviews: spec.selector: pods of this cluster",
        "callers of reviews.shop.svc.cluster.local go on as they do until they call reviews-harbor.shop",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert_eq!(errors(&result), [""; 0]);
}

#[test]
fn signs_of_a_shared_mesh_that_are_missing_are_told() {
    let (here, peers) = read(SHARED);
    let donor = harbor_with(SHARED);
    let result = with_request(peers, &["reviews"], |request| import_shared_services(request, &here, &donor, Some(&[])));
    let text = told(&result);
    assert!(
        text.contains("remote secrets: there is none here") && text.contains("none with AUTO_PASSTHROUGH was read"),
        "{text}"
    );
    let (here, peers) = read(SHARED);
    let none = with_request(peers, &["rev"], |request| import_shared_services(request, &here, &donor, None));
    assert!(
        errors(&none).join("\n").contains("no Service was read that this cluster and harbor have"),
        "{}",
        told(&none)
    );
}

/// A document with values of all kinds in the places that are read.
fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("reviews.shop.global".to_owned()),
        Just("outbound_.80_._.a.b.svc.cluster.local".to_owned()),
        Just("outbound_._._.".to_owned()),
        Just("*".to_owned()),
        Just(".svc.".to_owned()),
        Just("198.51.100.7".to_owned()),
        Just(format!("{0}.{0}.global", "a".repeat(63))),
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn whatever_an_entry_holds_the_run_ends_and_what_is_printed_is_readable(
        hosts in proptest::collection::vec(hostile_text(), 1..4),
        sni in hostile_text(), address in hostile_text(), rule_host in hostile_text(),
        number in any::<i64>(), weight in any::<i64>(), port in any::<i64>(),
    ) {
        let entry = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "e", "namespace": "office"},
            "spec": {"hosts": hosts, "ports": [{"number": number, "name": "a"}, {"number": 80, "name": "b"}],
                     "endpoints": [{"address": address, "ports": {"a": port}, "weight": weight}]},
        });
        let rule = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "r", "namespace": "office"},
            "spec": {"host": rule_host, "trafficPolicy": {"tls": {"sni": sni}}},
        });
        let mut objects = ClusterObjects::default();
        objects.add_object(Arc::new(Object::from_json(Kind::ServiceEntry, &entry).unwrap()));
        objects.add_object(Arc::new(Object::from_json(Kind::DestinationRule, &rule).unwrap()));
        let mut peers = PeerBook::default();
        peers.add_hint("harbor".parse().unwrap());
        let result = with_request(peers, &[], |request| import_service_entries(request, &objects, None));
        let printed = result.policies.iter().map(|(_, p)| serde_json::to_value(p).unwrap());
        for value in printed.chain(result.bindings.iter().map(|b| serde_json::to_value(b).unwrap())) {
            let read = manifest::read_value("printed", value.clone());
            prop_assert!(matches!(read, Some(Ok(_))), "{value}");
        }
    }
}
