//! Limits how much of the shared ingress gateway the policies of one namespace use. Pure.
//!
//! An exposed entry keeps its place, whatever comes later. Waiting entries are admitted by age: the oldest policy
//! first, then by name, then by entry, and those that were exposed before this process ahead of all. So neither the
//! alphabet nor a newcomer takes a place from anybody.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::ServiceExpositionPolicy;
use crate::model::{Host, NamespaceQuota};
use crate::store::{NamedKey, Owner};
use crate::translate::names::policy_owner;
use crate::translate::{Problem, ProblemReason};

/// An entry, by the policy's name and the name that it exposes.
type EntryName = (String, String);

/// The order in which entries are admitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EntryAge {
    untimed: bool,
    created: Option<Time>,
    policy: String,
    entry: usize,
    name: String,
}

impl EntryAge {
    fn of_entry(policy: &ServiceExpositionPolicy, entry: usize) -> Option<EntryAge> {
        let created = policy.metadata.creation_timestamp.clone();
        let exposed = policy.spec.exposed.get(entry)?;
        Some(EntryAge {
            untimed: created.is_none(),
            created,
            policy: policy.metadata.name.clone().unwrap_or_default(),
            entry,
            name: exposed.alias.as_ref().unwrap_or(&exposed.name).clone(),
        })
    }

    fn entry_name(&self) -> EntryName {
        (self.policy.clone(), self.name.clone())
    }
}

#[derive(Debug, Default)]
struct NamespaceUse {
    /// Ports of each entry that has a place.
    admitted: BTreeMap<EntryName, usize>,
    ports: usize,
    /// Ports of each entry that has none.
    waiting: BTreeMap<EntryAge, usize>,
    ages: HashMap<EntryName, EntryAge>,
    /// Entries whose needs are not known yet.
    fresh: BTreeSet<EntryAge>,
}

impl NamespaceUse {
    fn has_room(&self, limit: &NamespaceQuota, ports: usize) -> bool {
        self.admitted.len() < limit.expositions && self.ports + ports <= limit.ports
    }

    fn admit_entry(&mut self, entry: EntryName, ports: usize) {
        self.ports += ports;
        self.admitted.insert(entry, ports);
    }

    /// Takes back an entry's place, or its place among those that wait.
    fn release_entry(&mut self, entry: &EntryName) {
        if let Some(ports) = self.admitted.remove(entry) {
            self.ports -= ports;
        }
        if let Some(age) = self.ages.remove(entry) {
            self.waiting.remove(&age);
        }
    }

    fn ask_place(&mut self, limit: &NamespaceQuota, age: EntryAge, ports: usize) -> Result<(), Problem> {
        let entry = age.entry_name();
        self.release_entry(&entry);
        if self.has_room(limit, ports) {
            self.admit_entry(entry, ports);
            return Ok(());
        }
        self.ages.insert(entry, age.clone());
        self.waiting.insert(age, ports);
        Err(self.quota_problem(limit, ports))
    }

    fn quota_problem(&self, limit: &NamespaceQuota, ports: usize) -> Problem {
        let message = format!(
            "it takes {ports} ports, and the policies of the namespace expose {} services with {} ports of {} and {} that they may",
            self.admitted.len(),
            self.ports,
            limit.expositions,
            limit.ports
        );
        Problem::new(ProblemReason::QuotaExceeded, "", message).cure(
            "it is exposed as soon as another entry of the namespace makes room; limits.expositionsPerNamespace and limits.portsPerNamespace in the agent's configuration set more",
        )
    }

    /// Gives free places to waiting entries. Returns the names of their policies.
    fn promote_waiting(&mut self, limit: &NamespaceQuota) -> BTreeSet<String> {
        let mut promoted = BTreeSet::new();
        let mut room = limit.expositions.saturating_sub(self.admitted.len());
        let mut chosen = Vec::new();
        let mut ports = self.ports;
        for (age, needed) in &self.waiting {
            if room == 0 || ports == limit.ports {
                break;
            }
            if ports + needed <= limit.ports {
                (room, ports) = (room - 1, ports + needed);
                chosen.push((age.entry_name(), *needed));
            }
        }
        for (entry, needed) in chosen {
            self.release_entry(&entry);
            promoted.insert(entry.0.clone());
            self.admit_entry(entry, needed);
        }
        promoted
    }

    fn is_empty(&self) -> bool {
        self.admitted.is_empty() && self.waiting.is_empty() && self.fresh.is_empty()
    }
}

/// The use of the gateway by all namespaces.
#[derive(Debug, Default)]
pub struct QuotaLedger {
    /// None: there is no limit, and nothing is counted.
    limit: Option<NamespaceQuota>,
    /// Hosts that a policy's Gateways had before this process.
    held: BTreeMap<Owner, BTreeSet<Host>>,
    namespaces: HashMap<String, NamespaceUse>,
}

impl QuotaLedger {
    pub fn set_limit(&mut self, limit: Option<NamespaceQuota>) {
        self.limit = limit;
    }

    /// Takes over which hosts owners held before this process: they are admitted ahead of all others.
    pub fn adopt_holdings(&mut self, held: &BTreeMap<Owner, BTreeSet<Host>>) {
        self.held.clone_from(held);
    }

    /// Takes in a policy, new or changed.
    pub fn claim_entries(&mut self, policy: &ServiceExpositionPolicy, namespace: &str) {
        let of = self.namespaces.entry(namespace.to_owned()).or_default();
        let ages = (0..policy.spec.exposed.len()).filter_map(|i| EntryAge::of_entry(policy, i));
        for age in ages {
            let entry = age.entry_name();
            if !of.admitted.contains_key(&entry) && !of.ages.contains_key(&entry) {
                of.fresh.insert(age);
            }
        }
    }

    /// Asks for places for all entries whose needs were not known, in order. `ports` returns the number of ports that
    /// an entry needs. None: nothing can be exposed for it now.
    pub fn admit_fresh(&mut self, namespace: &str, ports: impl Fn(&NamedKey, usize) -> Option<usize>) {
        let (Some(limit), Some(of)) = (self.limit, self.namespaces.get_mut(namespace)) else { return };
        let held = &self.held;
        let is_new = |age: &EntryAge| {
            let hosts = held.get(&Owner(policy_owner(namespace, &age.policy).into()));
            let host = format!("{}.{namespace}.svc.cluster.local", age.name);
            !hosts.is_some_and(|hosts| hosts.iter().any(|h| h.as_str() == host))
        };
        let mut fresh: Vec<(bool, EntryAge)> =
            std::mem::take(&mut of.fresh).into_iter().map(|a| (is_new(&a), a)).collect();
        fresh.sort();
        for (_, age) in fresh {
            let policy = NamedKey { namespace: namespace.to_owned(), name: age.policy.clone() };
            if let Some(ports) = ports(&policy, age.entry) {
                let _ = of.ask_place(&limit, age, ports); // its policy asks again when it is evaluated
            }
        }
    }

    /// Asks for a place for an entry with this number of ports. An entry that has a place keeps it as long as there is
    /// room for its present needs.
    pub fn ask_place(
        &mut self,
        policy: &ServiceExpositionPolicy,
        namespace: &str,
        entry: usize,
        ports: usize,
    ) -> Result<(), Problem> {
        let (Some(limit), Some(age)) = (self.limit, EntryAge::of_entry(policy, entry)) else { return Ok(()) };
        self.namespaces.entry(namespace.to_owned()).or_default().ask_place(&limit, age, ports)
    }

    /// Finishes the evaluation of a policy, or its removal: entries that did not ask give their places back. Returns
    /// the names of policies of the namespace that got one.
    pub fn settle_policy(&mut self, key: &NamedKey, asked: &BTreeSet<String>) -> BTreeSet<String> {
        let Some(of) = self.namespaces.get_mut(&key.namespace) else { return BTreeSet::new() };
        let mine = |entry: &&EntryName| entry.0 == key.name && !asked.contains(&entry.1);
        let from = (key.name.clone(), String::new());
        let admitted = of.admitted.range(from..).map(|(entry, _)| entry).take_while(|entry| entry.0 == key.name);
        let gone: Vec<EntryName> = admitted.filter(mine).chain(of.ages.keys().filter(mine)).cloned().collect();
        gone.iter().for_each(|entry| of.release_entry(entry));
        of.fresh.retain(|age| age.policy != key.name);
        let promoted = self.limit.map(|limit| of.promote_waiting(&limit)).unwrap_or_default();
        if of.is_empty() {
            self.namespaces.remove(&key.namespace);
        }
        promoted
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMIT: NamespaceQuota = NamespaceQuota { expositions: 3, ports: 10 };

    fn policy(name: &str, created: Option<&str>, entries: &[&str]) -> ServiceExpositionPolicy {
        let exposed: Vec<_> = entries.iter().map(|name| json!({"name": name})).collect();
        let metadata = json!({"name": name, "namespace": "shop", "creationTimestamp": created});
        serde_json::from_value(json!({
            "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
            "metadata": metadata, "spec": {"exposed": exposed},
        }))
        .unwrap()
    }

    /// The policies of one namespace, as a donor evaluates them.
    struct Shop {
        ledger: QuotaLedger,
        policies: BTreeMap<String, ServiceExpositionPolicy>,
        /// Ports of each Service; 1 if it is not here.
        ports: BTreeMap<&'static str, usize>,
    }

    impl Shop {
        fn new() -> Shop {
            let mut ledger = QuotaLedger::default();
            ledger.set_limit(Some(LIMIT));
            Shop { ledger, policies: BTreeMap::new(), ports: BTreeMap::new() }
        }

        /// `held`: the names that it has Gateways for in the store.
        fn set(&mut self, policy: ServiceExpositionPolicy, held: &[&str]) {
            let name = policy.metadata.name.clone().unwrap();
            let hosts = held.iter().map(|name| format!("{name}.shop.svc.cluster.local").parse().unwrap()).collect();
            self.ledger.held.insert(Owner(policy_owner("shop", &name).into()), hosts);
            self.ledger.claim_entries(&policy, "shop");
            self.policies.insert(name, policy);
        }

        /// Evaluates a policy: what it exposes, and who is to be looked at again.
        fn evaluate(&mut self, name: &str) -> (Vec<String>, Vec<String>) {
            let needs = |entry: &str| self.ports.get(entry).copied().unwrap_or(1);
            let policies = &self.policies;
            self.ledger.admit_fresh("shop", |key, i| Some(needs(&policies[&key.name].spec.exposed[i].name)));
            let (policy, mut asked, mut exposed) = (&self.policies[name], BTreeSet::new(), Vec::new());
            for (i, entry) in policy.spec.exposed.iter().enumerate() {
                asked.insert(entry.name.clone());
                match self.ledger.ask_place(policy, "shop", i, needs(&entry.name)) {
                    Ok(()) => exposed.push(entry.name.clone()),
                    Err(problem) => {
                        assert_eq!(problem.reason, ProblemReason::QuotaExceeded);
                        assert!(problem.line().contains("limits.expositionsPerNamespace"), "{problem}");
                    }
                }
            }
            let key = NamedKey { namespace: "shop".to_owned(), name: name.to_owned() };
            (exposed, self.ledger.settle_policy(&key, &asked).into_iter().collect())
        }

        fn exposed(&mut self, name: &str) -> String {
            self.evaluate(name).0.join(",")
        }

        fn remove(&mut self, name: &str) -> Vec<String> {
            self.policies.remove(name);
            let key = NamedKey { namespace: "shop".to_owned(), name: name.to_owned() };
            self.ledger.settle_policy(&key, &BTreeSet::new()).into_iter().collect()
        }
    }

    #[test]
    fn whoever_is_exposed_keeps_it_and_a_newcomer_waits_whatever_its_name() {
        let mut shop = Shop::new();
        shop.set(policy("m", None, &["one", "two"]), &[]);
        assert_eq!(shop.exposed("m"), "one,two");
        shop.set(policy("a", None, &["three", "four", "five"]), &[]);
        assert_eq!(shop.exposed("a"), "three");
        assert_eq!(shop.exposed("m"), "one,two");
        assert_eq!(shop.remove("m"), ["a"], "it is looked at again");
        assert_eq!(shop.exposed("a"), "three,four,five");
        assert!(shop.remove("a").is_empty() && shop.ledger.namespaces.is_empty(), "nothing is left of it");
    }

    #[test]
    fn after_a_start_the_oldest_are_first_and_not_those_whose_name_is() {
        let mut shop = Shop::new();
        shop.set(policy("a", Some("2026-03-01T00:00:00Z"), &["young", "younger"]), &[]);
        shop.set(policy("z", Some("2026-01-01T00:00:00Z"), &["old", "older"]), &[]);
        assert_eq!(shop.exposed("a"), "young");
        assert_eq!(shop.exposed("z"), "old,older");
    }

    #[test]
    fn after_a_start_what_was_exposed_before_is_first_whatever_its_age() {
        let mut shop = Shop::new();
        shop.set(policy("a", Some("2026-01-01T00:00:00Z"), &["new", "newer"]), &[]);
        shop.set(policy("z", Some("2026-03-01T00:00:00Z"), &["was", "waited", "also"]), &["was", "also"]);
        assert_eq!(shop.exposed("a"), "new");
        assert_eq!(shop.exposed("z"), "was,also");
    }

    #[test]
    fn ports_count_and_a_smaller_entry_passes_one_that_does_not_fit() {
        let mut shop = Shop::new();
        shop.ports = BTreeMap::from([("wide", 8), ("wider", 9), ("two", 2)]);
        shop.set(policy("a", None, &["wide", "wider", "two", "more"]), &[]);
        assert_eq!(shop.exposed("a"), "wide,two");
        shop.ports.insert("wide", 1);
        assert_eq!(shop.exposed("a"), "wide,two,more");
        shop.ports.insert("two", 10);
        assert_eq!(shop.exposed("a"), "wide,more", "one that grows beyond it loses its place");
    }

    #[test]
    fn places_of_entries_that_cannot_be_exposed_are_given_on() {
        let mut shop = Shop::new();
        shop.set(policy("a", None, &["one", "two", "three"]), &[]);
        shop.set(policy("b", None, &["four"]), &[]);
        assert_eq!((shop.exposed("a"), shop.exposed("b")), ("one,two,three".to_owned(), String::new()));
        let key = NamedKey { namespace: "shop".to_owned(), name: "a".to_owned() };
        let promoted = shop.ledger.settle_policy(&key, &BTreeSet::from(["one".to_owned(), "two".to_owned()]));
        assert_eq!(promoted, BTreeSet::from(["b".to_owned()]));
        assert_eq!(shop.exposed("b"), "four");
        assert_eq!(shop.exposed("a"), "one,two");
    }

    #[test]
    fn an_entry_of_a_policy_gets_the_place_that_another_one_gives_back() {
        let mut shop = Shop::new();
        shop.set(policy("a", None, &["one", "two", "three", "four"]), &[]);
        assert_eq!(shop.exposed("a"), "one,two,three");
        shop.set(policy("a", None, &["two", "three", "four"]), &[]);
        let (_, again) = shop.evaluate("a");
        assert_eq!(again, ["a"], "it is evaluated once more");
        assert_eq!(shop.evaluate("a"), (vec!["two".to_owned(), "three".to_owned(), "four".to_owned()], vec![]));
    }

    #[test]
    fn namespaces_do_not_count_for_each_other_and_without_a_limit_nothing_does() {
        let mut ledger = QuotaLedger::default();
        let wide = policy("a", None, &["one", "two", "three", "four"]);
        for i in 0..4 {
            assert_eq!(ledger.ask_place(&wide, "shop", i, 100), Ok(()));
        }
        ledger.set_limit(Some(LIMIT));
        for namespace in ["shop", "office"] {
            let admitted = (0..4).filter(|i| ledger.ask_place(&wide, namespace, *i, 2).is_ok());
            assert_eq!(admitted.count(), 3);
        }
    }
}
