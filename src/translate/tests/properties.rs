//! What always holds, whatever the input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::build::*;
use crate::api::{Object, ServiceExpositionPolicy};
use crate::model::{Exposition, GatewayAddress, Host, Protocol, Style, TlsMode};
use crate::translate::{
    Inventory, NameClaims, PassthroughHosts, Source, WantedPorts, WantedService, bind_local_name, expose_policy, names,
    shared_egress, split_binding,
};

fn is_label(s: &str) -> bool {
    s.parse::<crate::model::Label>().is_ok()
}

/// Every object has a name, a namespace and labels that an API server takes, and no two are the same.
fn sound(objects: &[Object]) {
    let mut keys = BTreeSet::new();
    for object in objects {
        let key = object.key();
        assert!(is_label(&key.name) && is_label(&key.namespace), "{key}");
        for value in object.metadata().labels.iter().flatten().map(|(_, v)| v) {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            assert!(value.len() <= 63 && edge(value.chars().next()) && edge(value.chars().last()), "{value:?}");
        }
        assert!(keys.insert(key.clone()), "{key} is there twice");
        assert!(object.owner().is_some(), "{key} says whose it is");
    }
    let kinds: Vec<_> = objects.iter().map(Object::kind).collect();
    assert!(kinds.is_sorted(), "in the order in which they are written");
    objects.iter().for_each(depends_on_no_default);
}

/// Listeners take routes of their own namespace only, and every object says itself who sees it.
fn depends_on_no_default(object: &Object) {
    let key = object.key();
    let value = serde_json::to_value(object).unwrap();
    let spec = &value["spec"];
    match object {
        Object::Gateway(gateway) => {
            let hosts = gateway.spec.servers.iter().flatten().flat_map(|s| &s.hosts);
            hosts.for_each(|h| assert!(h.starts_with("./"), "{key} takes routes of others: {h}"));
        }
        Object::VirtualService(vs) if vs.is_for_mesh() => {
            assert_eq!(spec["gateways"], json!(["mesh"]), "{key}: routes at a gateway are an object of their own");
            assert_eq!(spec["exportTo"], json!(["*"]), "{key}");
        }
        Object::VirtualService(_) => {
            assert_eq!(key.namespace, "istio-system", "{key}");
            let gateways = spec["gateways"].as_array().unwrap();
            assert!(gateways.iter().all(|g| !g.as_str().unwrap().contains('/')), "{key} is beside its gateway");
            assert_eq!(spec["exportTo"], json!(["."]), "{key}");
        }
        Object::ServiceEntry(_) | Object::DestinationRule(_) => {
            let to = &spec["exportTo"];
            assert!(*to == json!(["."]) && key.namespace == "istio-system" || *to == json!(["*"]), "{key}: {to}");
        }
        Object::Service(_) => {
            assert_eq!(value["metadata"]["annotations"]["networking.istio.io/exportTo"], "*", "{key}");
        }
        Object::AuthorizationPolicy(_) | Object::EnvoyFilter(_) => {}
    }
}

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}(-[a-c]{1,2}){0,2}", "[a-z][a-z0-9-]{50,61}[a-z0-9]"]
}

fn any_tls() -> impl Strategy<Value = TlsMode> {
    prop_oneof![Just(TlsMode::Cluster), Just(TlsMode::Workload), Just(TlsMode::Passthrough)]
}

fn any_style() -> impl Strategy<Value = Style> {
    prop_oneof![Just(Style::EgressIngress), Just(Style::DirectIngress)]
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Http), Just(Protocol::Http2), Just(Protocol::Grpc), Just(Protocol::Tcp)]
}

prop_compose! {
    fn any_source()(
        donor in prop_oneof![Just("harbor"), Just("reef"), Just("cove"), Just("stranger")],
        name in prop_oneof![Just("till"), Just("books")],
        tls in any_tls(),
        ports in prop::collection::btree_map(1..20_000u16, any_protocol(), 1..4),
        addresses in prop::collection::vec(prop_oneof![Just("192.0.2.1"), Just("192.0.2.2"), Just("gw.example.com"), Just("2001:db8::1")], 1..4),
        (port, weight, priority) in (prop::option::of(1..20_000u16), prop::option::of(0..200u32), 0..3u32),
        place in (0..4usize, 0..4usize),
        binding in prop_oneof![Just("suppliers"), Just("others")],
        clients in prop_oneof![8 => Just(vec![]), 1 => Just(vec!["office"])],
        missing in prop::bool::weighted(0.1),
    ) -> Source {
        let mut offered = offered(donor, name, tls).at(&addresses).clients(&clients);
        let host: Host = offered.0.host.clone();
        offered.0.ports = ports.into_iter().enumerate().map(|(i, (number, protocol))| crate::model::ExposedPort {
            number, protocol, name: String::new(),
            host: if i == 0 { host.clone() } else { host.of_port(number).unwrap() },
        }).collect();
        let mut source = source(donor, "till", offered, |w| {
            w.ports = port.map_or(WantedPorts::AsExposed, WantedPorts::Single);
            (w.weight, w.priority, w.remote, w.service) = (weight, priority, place.0, place.1);
            w.shares = weight.is_some() || priority > 0;
            w.binding.name = binding.to_owned();
        });
        if missing {
            source.exposition = Err(crate::translate::MissingExposition::NotExposed);
        }
        source
    }
}

/// A place in a binding is one source's.
fn distinct(sources: Vec<Source>) -> Vec<Source> {
    let mut seen = BTreeSet::new();
    let place = |w: &WantedService| (w.binding.clone(), w.remote, w.service);
    sources.into_iter().filter(|s| seen.insert(place(&s.wanted))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn different_parts_never_come_to_one_name(a in prop::collection::vec(any_label(), 1..4), b in prop::collection::vec(any_label(), 1..4)) {
        let name = |parts: &[String]| names::build_name("service-entry", &parts.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert!(is_label(&name(&a)) && is_label(&name(&b)));
        prop_assert_eq!(a == b, name(&a) == name(&b));
    }

    #[test]
    fn any_text_becomes_a_valid_name_and_owner(prefix in "[a-z]{1,5}", text in ".{0,80}", other in ".{0,80}") {
        prop_assert!(is_label(&names::build_name(&prefix, &[&text, &other])));
        for owner in [names::policy_owner(&text, &other), names::local_owner(&text, &other)] {
            prop_assert!(!owner.is_empty() && owner.len() <= 63 && owner.is_ascii());
        }
    }

    #[test]
    fn any_order_of_sources_gives_the_same_objects(
        list in prop::collection::vec(any_source(), 1..6).prop_map(distinct),
        style in any_style(),
        turn in 0..6usize,
    ) {
        let facts = isle(style);
        let inventory = Inventory::default();
        let bound = |list: &[Source]| {
            let mut passthroughs = PassthroughHosts::default();
            passthroughs.update_sources(&local("till"), list);
            bind_local_name(&local("till"), list, &inventory, &passthroughs, &facts, false)
        };
        let forth = bound(&list);
        sound(&forth.objects);
        shared_egress(&inventory, &facts).iter().for_each(depends_on_no_default);
        let mut turned = list.clone();
        turned.rotate_left(turn % list.len());
        turned.reverse();
        let back = bound(&turned);
        prop_assert_eq!(json_of(&forth.objects), json_of(&back.objects));
        let told = |b: &crate::translate::LocalTranslation| b.outcomes.iter().map(|o| (o.wanted.clone(), o.problem.clone())).collect::<Vec<_>>();
        prop_assert_eq!(told(&forth), told(&back));
        prop_assert_eq!(forth.outcomes.len(), list.len());
        // Something leads to other clusters if, and only if, a source is accepted that takes calls.
        let accepted = |b: &crate::translate::LocalTranslation| b.outcomes.iter().any(|o| o.problem.is_none() && o.wanted.weight != Some(0));
        let leads = forth.objects.iter().any(|o| o.kind() == crate::api::Kind::ServiceEntry);
        prop_assert_eq!(leads, accepted(&forth));
    }

    #[test]
    fn any_order_of_policies_gives_the_same_objects(
        entries in prop::collection::vec((0..3usize, any_entry()), 1..8),
        turn in 0..8usize,
    ) {
        let mut by_policy: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        for (policy, entry) in entries {
            by_policy.entry(policy).or_default().push(entry);
        }
        let mut policies: Vec<ServiceExpositionPolicy> =
            by_policy.into_iter().map(|(n, entries)| policy(&format!("policy-{n}"), entries.into())).collect();
        let (inventory, facts) = (shop(), harbor());
        let all = |policies: &[ServiceExpositionPolicy]| {
            let mut claims = NameClaims::default();
            policies.iter().for_each(|p| drop(claims.insert_policy(p)));
            let mut objects: Vec<Object> = policies.iter().flat_map(|p| expose_policy(p, &inventory, &claims, &facts).objects).collect();
            objects.sort_by_cached_key(Object::key);
            objects
        };
        let forth = all(&policies);
        sound(&forth);
        let turn = turn % policies.len();
        policies.rotate_left(turn);
        policies.reverse();
        prop_assert_eq!(json_of(&forth), json_of(&all(&policies)));
        // A gateway that would admit every certificate under the root is never made.
        for gateway in forth.iter().filter(|o| o.kind() == crate::api::Kind::Gateway) {
            let spec = serde_json::to_value(gateway).unwrap()["spec"].clone();
            for tls in spec["servers"].as_array().unwrap().iter().map(|s| &s["tls"]) {
                prop_assert!(tls["mode"] != "MUTUAL" || tls["subjectAltNames"].as_array().is_some_and(|s| !s.is_empty()));
            }
        }
    }

    #[test]
    fn no_text_in_a_policy_or_binding_is_too_odd(texts in prop::collection::vec(".{0,70}", 6), port in any::<u16>()) {
        let [a, b, c, d, e, f] = &texts[..] else { unreachable!() };
        let entry = json!({"name": a, "alias": b, "subset": c, "clusters": [d], "port": port,
            "clients": [{"cluster": d, "namespace": e, "serviceAccount": f}]});
        let with = json!({"name": "till", "alias": b, "virtualService": c, "ports": [port, e]});
        sound(&exposed(json!([entry, with]), &shop(), &harbor()).objects);
        let split = split_binding(&binding(a, json!([{"cluster": b, "services": [{"name": c, "namespace": d, "alias": e}]}])));
        prop_assert_eq!(split.entries.len(), 1);
    }

    #[test]
    fn no_number_of_addresses_or_weight_is_too_large(
        donors in prop::collection::vec((1..33usize, prop::option::of(any::<u32>())), 1..4),
    ) {
        let facts = isle(Style::DirectIngress);
        let one = |(i, (n, weight)): (usize, &(usize, Option<u32>))| {
            let donor = ["harbor", "reef", "cove"][i];
            let mut e: Exposition = offered(donor, "till", TlsMode::Workload).0;
            e.gateways = (0..*n).map(|k| GatewayAddress { address: format!("192.0.2.{k}").parse().unwrap(), port: 1, locality: None }).collect();
            let mut s = source(donor, "till", offered(donor, "till", TlsMode::Workload), |w| { w.remote = i; w.weight = *weight; });
            s.exposition = Ok(Arc::new(e));
            s
        };
        let list: Vec<Source> = donors.iter().enumerate().map(one).collect();
        let bound = bound(&list, &Inventory::default(), &facts);
        for object in &bound.objects {
            if let Object::ServiceEntry(entry) = object {
                let weights: Vec<i64> = entry.spec.endpoints.iter().flatten().filter_map(|e| e.weight).collect();
                prop_assert!(weights.iter().all(|w| *w > 0) && weights.iter().sum::<i64>() <= i64::from(u32::MAX));
            }
        }
    }
}

fn any_entry() -> impl Strategy<Value = Value> {
    let alias = prop::option::of(prop_oneof![Just("till"), Just("a-b"), Just("a"), Just("books")]);
    let rest = (any_tls(), any::<bool>(), prop::option::of(prop_oneof![Just("stable"), Just("gone")]));
    (prop_oneof![Just("till"), Just("ledger"), Just("ghost")], alias, rest).prop_map(
        |(name, alias, (tls, few, subset))| {
            let clusters = if few { json!(["isle", "stranger"]) } else { json!([]) };
            json!({"name": name, "alias": alias, "tls": tls, "clusters": clusters, "subset": subset})
        },
    )
}
