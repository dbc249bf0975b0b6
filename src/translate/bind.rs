//! Translates one local name at the acceptor.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::api::Object;
use crate::model::ClusterFacts;

use super::acceptor;
use super::claims::{ObjectAge, PassthroughHosts};
use super::inventory::Inventory;
use super::memory::PortMemory;
use super::merge;
use super::names::OwnerMarks;
use super::problem::Problem;
use super::sources::{LocalName, Source, WantedService};
use super::unserved;

/// Result of translating one local name.
#[derive(Debug, Clone, Default)]
pub struct LocalTranslation {
    /// Stand in the order in which they are to be written.
    pub objects: Vec<Object>,
    /// True if the objects need those of [`shared_egress`](super::shared_egress).
    pub shared: bool,
    /// One for each source, sorted by binding and place.
    pub outcomes: Vec<SourceOutcome>,
    /// Names another claimant of the local name, although the name stands.
    pub contest: Option<Problem>,
    /// An object of another namespace that takes some of its calls away.
    taker: Option<String>,
}

impl LocalTranslation {
    /// Objects of other namespaces that are in the way of this name, for the cluster's operator.
    pub fn culprit(&self) -> Option<&str> {
        let problems = self.outcomes.iter().filter_map(|o| o.problem.as_ref());
        self.contest.iter().chain(problems).find_map(|p| p.culprit.as_deref()).or(self.taker.as_deref())
    }
}

#[derive(Debug, Clone)]
pub struct SourceOutcome {
    pub wanted: Arc<WantedService>,
    /// The reason why the source feeds nothing, if so; its field is a path in the binding.
    pub problem: Option<Problem>,
    /// Names another claimant of the local name. The source feeds the name all the same, since the name is older.
    pub contest: Option<Problem>,
    /// The part of the wanted ports that is missing, although the source feeds the name.
    pub lacking: Option<Problem>,
    /// Facts about the source that people should know.
    pub notes: Vec<String>,
    /// The answer that callers get from its ports that no donor serves.
    pub refusal: Option<String>,
    /// The state to be remembered for the next translation.
    pub memory: PortMemory,
}

impl SourceOutcome {
    pub(super) fn from_source(source: &Source) -> SourceOutcome {
        SourceOutcome {
            wanted: source.wanted.clone(),
            problem: None,
            contest: None,
            lacking: None,
            notes: Vec::new(),
            refusal: None,
            memory: source.memory.clone(),
        }
    }
}

/// Translates what feeds one local name. Each source fails alone; expositions have passed
/// [`validate_exposition`](super::validate_exposition).
///
/// `standing`: Wharf's objects of this name are in the store already. Then they stay, even if others lay claim to the
/// name by now; a name that is new has to be free.
pub fn bind_local_name(
    local: &LocalName,
    sources: &[Source],
    inventory: &Inventory,
    passthroughs: &PassthroughHosts,
    facts: &ClusterFacts,
    standing: bool,
) -> LocalTranslation {
    let mut sorted: Vec<&Source> = sources.iter().collect();
    sorted.sort_by(|a, b| holders_first(a, b));
    let merged = merge::merge_sources(local, &sorted, inventory, passthroughs, facts, standing);
    let mut bound = LocalTranslation {
        outcomes: merged.outcomes,
        contest: merged.contest,
        taker: merged.culprit,
        ..LocalTranslation::default()
    };
    bound.outcomes.sort_by(|a, b| a.wanted.place().cmp(&b.wanted.place()));
    if merged.plan.is_some() || !merged.unserved.is_empty() {
        let mut bindings: Vec<String> = Vec::new();
        let has_ports = |o: &&SourceOutcome| o.problem.is_none() || o.refusal.is_some();
        for wanted in bound.outcomes.iter().filter(has_ports).map(|o| &o.wanted) {
            let name = format!("{}.{}", wanted.binding.namespace, wanted.binding.name);
            if bindings.last() != Some(&name) {
                bindings.push(name);
            }
        }
        bindings.sort_unstable();
        bindings.dedup();
        let marks = OwnerMarks::of_local_name(local.namespace.as_str(), local.name.as_str(), &bindings);
        bound.objects = match &merged.plan {
            Some(plan) => acceptor::build_acceptor_objects(plan, &marks, inventory),
            None => unserved::build_unserved_objects(local, &merged.unserved, &marks),
        };
        bound.objects.sort_by_cached_key(Object::write_order);
        bound.shared = merged.plan.is_some_and(|plan| plan.has_shared_ports());
    }
    bound
}

/// Orders sources by their right to the name: those that feed it already (first those that are as they were), then
/// those that fed it before, and last those that take no calls; then the older binding, and in one binding the order
/// that its author chose.
fn holders_first(a: &Source, b: &Source) -> Ordering {
    fn holder_rank(s: &Source) -> (u8, &ObjectAge, (&str, &str, usize, usize)) {
        let held = match &s.memory.version {
            _ if s.wanted.weight == Some(0) => 4,
            Some(version) if *version == s.version => 0,
            Some(_) => 1,
            None if s.memory.has_name() => 2,
            None => 3,
        };
        (held, &s.wanted.age, s.wanted.place())
    }
    holder_rank(a).cmp(&holder_rank(b))
}
