//! Whoever holds a name keeps it: nothing that comes later takes away what works, and no order of names decides.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::build::*;
use crate::api::{Object, ServiceExpositionPolicy};
use crate::model::{ClusterFacts, Host, Style, TlsMode};
use crate::translate::{
    AffectedNames, Inventory, LocalName, LocalTranslation, NameClaims, PassthroughHosts, PolicyTranslation,
    ProblemReason, Source, bind_local_name, expose_policy, names,
};

const TILL: &str = "till.office.svc.cluster.local";

fn bound_as(standing: bool, inventory: &Inventory) -> LocalTranslation {
    let facts = isle(Style::EgressIngress);
    let sources = [source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |_| {})];
    bind_local_name(&local("till"), &sources, inventory, &PassthroughHosts::default(), &facts, standing)
}

fn with_route(namespace: &str, mut spec: Value) -> Inventory {
    let mut inventory = Inventory::default();
    spec["http"] = json!([{"directResponse": {"status": 418}}]);
    inventory.set_object(routes(namespace, "mine", spec));
    inventory
}

/// VirtualServices that callers in `office` do not follow when they call `till`.
fn others() -> Vec<(&'static str, Value)> {
    vec![
        ("lab", json!({"hosts": [TILL], "exportTo": ["."]})),
        ("lab", json!({"hosts": [TILL], "exportTo": ["lab", "shop"]})),
        ("lab", json!({"hosts": [TILL], "exportTo": ["~"]})),
        ("lab", json!({"hosts": ["*"], "exportTo": ["."]})),
        ("istio-system", json!({"hosts": ["*.office.svc.cluster.local"], "exportTo": ["."]})),
        ("lab", json!({"hosts": [TILL], "gateways": ["istio-system/wharf-egress"]})),
        ("lab", json!({"hosts": ["*.lab.svc.cluster.local", "other.office.svc.cluster.local", "till"]})),
        ("lab", json!({"hosts": ["*till.shop.svc.cluster.local"]})),
    ]
}

/// Those that they do, or may, follow.
fn rivals() -> Vec<(&'static str, Value)> {
    vec![
        ("office", json!({"hosts": ["till"], "exportTo": ["."]})),
        ("office", json!({"hosts": [TILL], "gateways": []})),
        ("lab", json!({"hosts": [TILL]})),
        ("lab", json!({"hosts": ["till.office"], "exportTo": ["*"]})),
        ("lab", json!({"hosts": [TILL.to_uppercase()], "exportTo": ["office"]})),
        ("lab", json!({"hosts": [TILL], "gateways": ["own", "mesh"]})),
        ("lab", json!({"hosts": ["*.office.svc.cluster.local"]})),
        ("lab", json!({"hosts": ["*ill.office.svc.cluster.local"]})),
        ("istio-system", json!({"hosts": ["*"]})),
    ]
}

#[test]
fn a_route_that_callers_of_the_name_do_not_see_is_no_conflict() {
    let free = bound_as(false, &Inventory::default());
    for (namespace, spec) in others() {
        let inventory = with_route(namespace, spec.clone());
        for standing in [false, true] {
            let bound = bound_as(standing, &inventory);
            assert_eq!(json_of(&bound.objects), json_of(&free.objects), "{namespace}: {spec}");
            assert!(bound.outcomes[0].problem.is_none() && bound.outcomes[0].contest.is_none(), "{namespace}: {spec}");
        }
    }
}

#[test]
fn a_route_that_they_see_keeps_a_new_name_out_and_takes_nothing_from_one_that_stands() {
    let free = bound_as(false, &Inventory::default());
    for (namespace, spec) in rivals() {
        let inventory = with_route(namespace, spec.clone());
        let new = bound_as(false, &inventory);
        assert!(new.objects.is_empty(), "{namespace}: {spec}");
        assert_eq!(new.outcomes[0].problem.as_ref().map(|p| p.reason), Some(ProblemReason::NameConflict));
        let standing = bound_as(true, &inventory);
        assert_eq!(json_of(&standing.objects), json_of(&free.objects), "{namespace}: {spec}");
        let outcome = &standing.outcomes[0];
        assert_eq!(outcome.problem, None);
        assert_eq!(
            outcome.contest.as_ref().map(|p| p.reason),
            Some(ProblemReason::NameConflict),
            "{namespace}: {spec}"
        );
    }
}

#[test]
fn a_service_of_somebody_else_takes_nothing_from_a_name_that_stands() {
    let mut inventory = Inventory::default();
    inventory.set_object(service("office", "till", json!([{"name": "http", "port": 80}])));
    let standing = bound_as(true, &inventory);
    assert_eq!(json_of(&standing.objects), json_of(&bound_as(false, &Inventory::default()).objects));
    assert_eq!(standing.outcomes[0].contest.as_ref().map(|p| p.reason), Some(ProblemReason::NameConflict));
}

#[test]
fn a_status_names_no_object_of_another_namespace_and_no_other_peer() {
    for (namespace, spec) in rivals().into_iter().filter(|(namespace, _)| *namespace != "office") {
        let inventory = with_route(namespace, spec);
        for bound in [bound_as(false, &inventory), bound_as(true, &inventory)] {
            let problem = bound.outcomes[0].problem.as_ref().or(bound.outcomes[0].contest.as_ref()).unwrap();
            let told = problem.line();
            assert!(!told.contains("mine") && !told.contains("lab") && !told.contains("istio-system"), "{told}");
            let culprit = format!("VirtualService {namespace}/mine");
            assert_eq!(bound.culprit(), Some(culprit.as_str()), "the operator is told");
        }
    }
    let stranger = source("stranger", "till", offered("harbor", "till", TlsMode::Cluster), |_| {});
    let unknown = bound(&[stranger], &Inventory::default(), &isle(Style::EgressIngress));
    let told = unknown.outcomes[0].problem.as_ref().unwrap().line();
    assert!(!["harbor", "reef", "cove"].iter().any(|peer| told.contains(peer)), "{told}");
}

#[test]
fn a_change_of_a_route_concerns_the_names_whose_callers_see_it() {
    let names = [("office", "till"), ("office", "books"), ("shop", "till")];
    let name = |(ns, name): (&str, &str)| LocalName { namespace: label(ns), name: label(name) };
    let concerned = |namespace: &str, spec: Value| {
        let affected = with_route(namespace, spec).bears_on(&routes(namespace, "mine", json!({})).key());
        let covers = |n: &&(&str, &str)| affected.iter().any(|a: &AffectedNames| a.covers_name(&name(**n)));
        names.iter().filter(covers).map(|(ns, name)| format!("{ns}/{name}")).collect::<Vec<_>>()
    };
    assert_eq!(concerned("lab", json!({"hosts": [TILL]})), ["office/till"]);
    assert_eq!(concerned("lab", json!({"hosts": ["*"]})), ["office/till", "office/books", "shop/till"]);
    assert_eq!(concerned("lab", json!({"hosts": ["*"], "exportTo": ["shop"]})), ["shop/till"]);
    assert_eq!(concerned("office", json!({"hosts": ["*.office.svc.cluster.local"]})), ["office/till", "office/books"]);
    assert!(concerned("lab", json!({"hosts": [TILL, "*"], "exportTo": ["."]})).is_empty());
}

// ---------------------------------------------------------------- histories

/// What may happen to policies or bindings, by number.
#[derive(Debug, Clone)]
enum Deed {
    /// Comes, or is changed. Its age, and (of a binding) to which donor it leads.
    Set(usize, Option<u8>, usize),
    Remove(usize),
    /// The agent starts again: it knows what is in the store, and no more.
    Restart,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        5 => (0..4usize, prop::option::of(0..2u8), 0..2usize).prop_map(|(n, age, donor)| Deed::Set(n, age, donor)),
        2 => (0..4usize).prop_map(Deed::Remove),
        1 => Just(Deed::Restart),
    ];
    prop::collection::vec(deed, 1..30)
}

/// A donor whose policies all want the name `books`.
#[derive(Default)]
struct Shop {
    policies: BTreeMap<usize, ServiceExpositionPolicy>,
    claims: NameClaims,
    objects: BTreeMap<usize, Vec<Object>>,
}

impl Shop {
    fn act(&mut self, deed: &Deed) {
        let mut touched = BTreeSet::new();
        match deed {
            Deed::Set(n, age, _) => {
                let mut policy = policy(&format!("policy-{n}"), json!([{"name": "till", "alias": "books"}]));
                let time = age.map(|a| json!(format!("2026-01-0{}T00:00:00Z", a + 1)));
                policy.metadata.creation_timestamp = time.map(|t| serde_json::from_value(t).unwrap());
                touched = self.claims.insert_policy(&policy);
                self.policies.insert(*n, policy);
                touched.insert(("shop".to_owned(), format!("policy-{n}")));
            }
            Deed::Remove(n) => {
                touched.extend(self.claims.remove_policy("shop", &format!("policy-{n}")));
                self.policies.remove(n);
                self.objects.remove(n);
            }
            Deed::Restart => {
                self.claims = NameClaims::default();
                self.policies.values().for_each(|policy| drop(self.claims.insert_policy(policy)));
                let held = self.objects.iter().flat_map(|(n, objects)| {
                    let owner = names::policy_owner("shop", &format!("policy-{n}"));
                    hosts(objects).into_iter().map(move |host| (owner.clone(), host))
                });
                let held: Vec<_> = held.collect();
                self.claims.restore_holders(held.iter().map(|(owner, host)| (owner.as_str(), host)));
                touched = self.policies.keys().map(|n| ("shop".to_owned(), format!("policy-{n}"))).collect();
            }
        }
        let (inventory, facts) = (shop(), harbor());
        for (n, policy) in &self.policies {
            let name = format!("policy-{n}");
            if touched.contains(&("shop".to_owned(), name.clone())) {
                let exposed: PolicyTranslation = expose_policy(policy, &inventory, &self.claims, &facts);
                assert!(self.claims.set_held_names("shop", &name, &exposed.held).is_empty(), "nobody lost it");
                self.objects.insert(*n, exposed.objects);
            }
        }
    }

    fn holders(&self) -> BTreeSet<usize> {
        self.objects.iter().filter(|(_, objects)| !objects.is_empty()).map(|(n, _)| *n).collect()
    }
}

fn hosts(objects: &[Object]) -> Vec<Host> {
    objects.iter().flat_map(Object::gateway_hosts).map(|host| host.parse().unwrap()).collect()
}

/// An acceptor whose bindings pass through to `shop/till`, of one donor or the other.
struct Office {
    facts: ClusterFacts,
    sources: BTreeMap<usize, Vec<Source>>,
    passthroughs: PassthroughHosts,
    objects: BTreeMap<usize, Vec<Object>>,
}

const DONORS: [&str; 2] = ["harbor", "reef"];

impl Office {
    fn name(n: usize) -> LocalName {
        local(&format!("name-{n}"))
    }

    fn act(&mut self, deed: &Deed) {
        let mut touched = BTreeSet::new();
        match deed {
            Deed::Set(n, age, donor) => {
                let of = offered(DONORS[*donor], "till", TlsMode::Passthrough);
                let sources = vec![source_aged(DONORS[*donor], &format!("name-{n}"), of, *age)];
                touched = self.passthroughs.update_sources(&Office::name(*n), &sources);
                self.sources.insert(*n, sources);
                touched.insert(Office::name(*n));
            }
            Deed::Remove(n) => {
                touched.extend(self.passthroughs.update_sources(&Office::name(*n), &[]));
                touched.extend(self.passthroughs.forget_remembered(&Office::name(*n)));
                self.sources.remove(n);
                self.objects.remove(n);
            }
            Deed::Restart => {
                self.passthroughs = PassthroughHosts::default();
                let held = self.objects.iter().flat_map(|(n, o)| hosts(o).into_iter().map(|h| (Office::name(*n), h)));
                self.passthroughs.restore_holders(held.collect::<Vec<_>>());
                for (n, sources) in &self.sources {
                    self.passthroughs.update_sources(&Office::name(*n), sources);
                    touched.insert(Office::name(*n));
                }
            }
        }
        while let Some(name) = touched.pop_first() {
            let Some((n, sources)) = self.sources.iter().find(|(n, _)| Office::name(**n) == name) else { continue };
            touched.extend(self.passthroughs.update_sources(&name, sources));
            let bound = bind_local_name(&name, sources, &Inventory::default(), &self.passthroughs, &self.facts, true);
            let got: BTreeSet<Host> = if bound.objects.is_empty() { BTreeSet::new() } else { till() };
            touched.extend(self.passthroughs.set_held_hosts(&name, &got));
            self.objects.insert(*n, bound.objects);
        }
    }

    /// Which names have the host, and where they lead.
    fn holders(&self) -> BTreeMap<usize, String> {
        let has = self.objects.iter().filter(|(_, objects)| !objects.is_empty());
        has.map(|(n, _)| (*n, self.sources[n][0].wanted.cluster.to_string())).collect()
    }
}

fn till() -> BTreeSet<Host> {
    BTreeSet::from(["till.shop.svc.cluster.local".parse().unwrap()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_holds_an_exposed_name_keeps_it_over_any_history(history in deeds()) {
        let mut shop = Shop::default();
        for deed in &history {
            let before = shop.holders();
            shop.act(deed);
            let after = shop.holders();
            prop_assert_eq!(after.len(), usize::from(!shop.policies.is_empty()), "one has the name");
            for holder in &before {
                prop_assert!(after.contains(holder) || !shop.policies.contains_key(holder), "{} lost it to {:?}", holder, after);
            }
        }
    }

    #[test]
    fn whoever_holds_a_host_that_passes_through_keeps_it_over_any_history(history in deeds()) {
        let facts = isle(Style::EgressIngress);
        let mut office = Office { facts, sources: BTreeMap::new(), passthroughs: PassthroughHosts::default(), objects: BTreeMap::new() };
        for deed in &history {
            let before = office.holders();
            office.act(deed);
            let after = office.holders();
            let led: BTreeSet<_> = after.values().collect();
            prop_assert_eq!(led.len(), usize::from(!office.sources.is_empty()), "it leads to one donor: {:?}", after);
            for (holder, donor) in &before {
                let same = office.sources.get(holder).is_some_and(|s| s[0].wanted.cluster.as_str() == donor);
                prop_assert!(!same || after.contains_key(holder), "{} lost it to {:?}", holder, after);
            }
        }
    }
}

#[test]
fn of_names_that_come_at_once_the_older_one_passes_through_whatever_it_is_called() {
    let mut passthroughs = PassthroughHosts::default();
    let of = |donor: &str| offered(donor, "till", TlsMode::Passthrough);
    let younger = [source_aged("harbor", "aaa", of("harbor"), Some(1))];
    let older = [source_aged("reef", "zzz", of("reef"), Some(0))];
    passthroughs.update_sources(&local("aaa"), &younger);
    passthroughs.update_sources(&local("zzz"), &older);
    let facts = isle(Style::EgressIngress);
    let got = |name: &str, sources: &[Source]| {
        let bound = bind_local_name(&local(name), sources, &Inventory::default(), &passthroughs, &facts, false);
        bound.outcomes[0].problem.as_ref().map(|p| p.reason)
    };
    assert_eq!((got("aaa", &younger), got("zzz", &older)), (Some(ProblemReason::NameConflict), None));
}

#[test]
fn a_name_whose_donor_is_not_heard_yet_keeps_what_it_passes_through() {
    let mut passthroughs = PassthroughHosts::default();
    passthroughs.restore_holders(till().into_iter().map(|host| (local("zzz"), host)));
    let newcomer = [source("harbor", "aaa", offered("harbor", "till", TlsMode::Passthrough), |_| {})];
    passthroughs.update_sources(&local("aaa"), &newcomer);
    let facts = isle(Style::EgressIngress);
    let refused = |passthroughs: &PassthroughHosts| {
        let bound = bind_local_name(&local("aaa"), &newcomer, &Inventory::default(), passthroughs, &facts, false);
        bound.outcomes[0].problem.is_some()
    };
    assert!(refused(&passthroughs));
    assert_eq!(
        passthroughs.set_held_hosts(&local("zzz"), &BTreeSet::new()).into_iter().collect::<Vec<_>>(),
        [local("aaa")]
    );
    assert!(!refused(&passthroughs), "it does not want it any more");
}
