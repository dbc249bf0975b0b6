//! A host at the donor's gateway means one port, from its first offer on.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::model::Host;
use crate::translate::{Inventory, NameClaims, PolicyTranslation, expose_policy};

/// A Service `ledger` with these ports, and what exposing it with `more` comes to.
fn exposed_with(ports: &[u16], more: &Value, claims: &mut NameClaims) -> PolicyTranslation {
    let mut inventory = Inventory::default();
    let ports: Vec<Value> = ports.iter().map(|n| json!({"name": format!("http-{n}"), "port": n})).collect();
    inventory.set_object(service("shop", "ledger", json!(ports)));
    let mut entry = json!({"name": "ledger", "clusters": ["isle"]});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let policy = policy("partners", json!([entry]));
    claims.insert_policy(&policy);
    let exposed = expose_policy(&policy, &inventory, claims, &harbor());
    for (key, port) in &exposed.served_hosts {
        claims.record_port_of_host(key, *port);
    }
    exposed
}

/// The port that each host at the gateway leads to; every host has a server, and every server a route.
fn meant(exposed: &PolicyTranslation) -> BTreeMap<String, u64> {
    let mut meant = BTreeMap::new();
    let mut served = BTreeSet::new();
    for object in &exposed.objects {
        let spec = serde_json::to_value(object).unwrap()["spec"].clone();
        match object.kind() {
            Kind::VirtualService => {
                let route = spec["http"].as_array().unwrap().last().unwrap();
                let port = route["route"][0]["destination"]["port"]["number"].as_u64().unwrap();
                for host in spec["hosts"].as_array().unwrap() {
                    assert!(meant.insert(host.as_str().unwrap().to_owned(), port).is_none(), "one host, one route");
                }
            }
            Kind::Gateway => {
                let names = spec["servers"].as_array().unwrap();
                let hosts = names.iter().flat_map(|s| s["hosts"].as_array().unwrap());
                served.extend(hosts.map(|h| h.as_str().unwrap().trim_start_matches("./").to_owned()));
            }
            _ => {}
        }
    }
    assert_eq!(served, meant.keys().cloned().collect());
    meant
}

const HOST: &str = "ledger.shop.svc.cluster.local";

fn by_port(port: u64) -> (String, u64) {
    (format!("p{port}.{HOST}"), port)
}

#[test]
fn a_port_that_is_added_takes_no_host_from_another() {
    let mut claims = NameClaims::default();
    let before = exposed_with(&[8080], &json!({}), &mut claims);
    assert_eq!(meant(&before), [by_port(8080), (HOST.to_owned(), 8080)].into());
    let offer = before.offers[0].to.values().next().unwrap().clone();
    assert_eq!((offer.ports[0].host.as_str(), offer.serves_host()), (by_port(8080).0.as_str(), true));
    let after = exposed_with(&[8080, 8000], &json!({}), &mut claims);
    assert_eq!(meant(&after), [by_port(8080), by_port(8000)].into(), "the host itself leads nowhere now");
    let other = exposed_with(&[8000], &json!({}), &mut claims);
    assert_eq!(meant(&other), [by_port(8000)].into(), "it meant 8080");
    assert!(
        other.entries[0].notes.iter().any(|n| n.contains("meant another port before")),
        "{:?}",
        other.entries[0].notes
    );
    assert!(!other.offers[0].to.values().next().unwrap().serves_host());
    let back = exposed_with(&[8080], &json!({}), &mut claims);
    assert_eq!(meant(&back), meant(&before));
}

#[test]
fn a_name_is_known_by_the_hosts_of_its_ports_after_a_restart() {
    let host: Host = HOST.parse().unwrap();
    assert_eq!(host.of_port(8080).unwrap().without_port(), host);
    for other in [HOST, "p8080.shop.svc.cluster.local", "p99999.ledger.shop.svc.cluster.local", "p80.example.com"] {
        assert_eq!(other.parse::<Host>().unwrap().without_port().as_str(), other);
    }
}

#[test]
fn what_is_left_out_is_told() {
    let mut inventory = Inventory::default();
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "tcp-dns", "port": 53}, {"name": "x", "port": 99, "protocol": "SCTP"}]);
    let headless = json!({"metadata": {"name": "ledger", "namespace": "shop"}, "spec": {"selector": {"app": "ledger"}, "clusterIP": "None", "ports": ports}});
    inventory.set_object(object(Kind::Service, headless));
    let told = exposed(json!([{"name": "ledger"}]), &inventory, &harbor()).entries[0].notes.join("; ");
    assert!(told.contains("53 (UDP), 99 (SCTP)") && told.contains("ledger is headless"), "{told}");
    let chosen = exposed(json!([{"name": "ledger", "port": 53}]), &inventory, &harbor()).entries[0].notes.join("; ");
    assert!(!chosen.contains("left out"), "{chosen}");
}

#[test]
fn an_alias_that_no_service_may_have_is_refused() {
    let refused = exposed(json!([{"name": "till", "alias": "2fa"}]), &shop(), &harbor());
    let problem = refused.entries[0].problem.clone().unwrap();
    assert_eq!(problem.field, "spec.exposed[0].alias");
    assert!(problem.message.contains("must begin with a letter") && refused.objects.is_empty(), "{}", problem.message);
    let split = crate::translate::split_binding(&binding(
        "suppliers",
        json!([{"cluster": "harbor", "services": [
        {"name": "2fa"}, {"name": "till", "alias": "2fa"}, {"name": "till"}]}]),
    ));
    let fields: Vec<_> = split.entries.iter().map(|e| e.wanted.as_ref().err().map(|p| p.field.clone())).collect();
    let at = |i: usize, field: &str| Some(format!("spec.remote[0].services[{i}].{field}"));
    assert_eq!(fields, [at(0, "name"), at(1, "alias"), None]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Ports added, removed, chosen in another order, over restarts that keep what statuses keep.
    #[test]
    fn a_host_means_one_port_over_any_history(
        steps in prop::collection::vec(
            (prop::collection::btree_set(prop_oneof![Just(80u16), Just(8000), Just(8080), Just(9090)], 1..4), 0..4usize, any::<bool>()),
            1..10,
        ),
    ) {
        let mut claims = NameClaims::default();
        let mut ever: BTreeMap<String, u64> = BTreeMap::new();
        for (ports, choice, restart) in steps {
            let ports: Vec<u16> = ports.into_iter().collect();
            let chosen: Vec<u16> = ports.iter().rev().take(choice).copied().collect();
            let more = if chosen.is_empty() { json!({}) } else { json!({"ports": chosen}) };
            let exposed = exposed_with(&ports, &more, &mut claims);
            let now = meant(&exposed);
            let offered = &exposed.offers[0].to.values().next().unwrap().ports;
            prop_assert_eq!(now.contains_key(HOST), offered.len() == 1 && now.get(HOST) == ever.get(HOST).or(now.get(HOST)));
            for port in offered {
                prop_assert_eq!(now.get(port.host.as_str()), Some(&u64::from(port.number)), "what is offered is served");
            }
            for (host, port) in now {
                prop_assert_eq!(*ever.entry(host.clone()).or_insert(port), port, "{} means another port", host);
            }
            if restart {
                let key = exposed.offers[0].key.clone();
                let told = claims.port_of_host(&key);
                claims = NameClaims::default();
                told.into_iter().for_each(|port| claims.record_port_of_host(&key, port));
            }
        }
    }
}
