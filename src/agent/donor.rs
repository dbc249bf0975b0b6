//! The donor's half of the state: policies, and the objects and offers that follow from them.
//!
//! Holds no I/O. [`DonorSide::evaluate`] returns the objects of a policy; the engine writes them and reports the result to
//! [`DonorSide::handle_write_result`], which returns what may be offered. An exposition whose objects could not be written, or conflict
//! with somebody else's, is not newly offered. Where writes take long, an exposition is offered while its objects are
//! written ([`crate::store::ObjectStore::EARLY`]), so that Istio in both clusters learns of it at about the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::api::{
    Condition, ExposedStatus, ExpositionRejection, Object, ObjectKey, PolicyStatus, PolicySummary,
    ServiceExpositionPolicy, set_condition,
};
use crate::model::{ClusterFacts, ClusterName, Exposition, ExpositionKey, GatewayDoubt, OwnGateway, TlsMode};
use crate::peering::convert::{ExpositionOutcome, OutcomeState};
use crate::store::{HeldNames, NamedKey, Owner};
use crate::translate::{self, EntryOutcome, Inventory, NameClaims, OwnMark, PolicyTranslation, ProblemReason};

use super::ambient;
use super::fair::FairQueue;
use super::gateway;
use super::quota::QuotaLedger;

/// Builds the message of a policy whose entries are all exposed. It says when a withdrawn permission ends: for new
/// requests at once, and for open ones with the gateway's old listeners.
fn exposed_message(drain: Duration) -> String {
    let mut bound = format!("within {} s", drain.as_secs_f64());
    if drain == OwnGateway::DRAIN {
        bound.push_str(", unless its pods have another drainDuration (the configuration's ingress.drain tells it)");
    }
    format!(
        "every entry is exposed; when a permission is taken away, new requests are refused at once, and what is open ends when the ingress gateway has drained: {bound}"
    )
}

/// A change for the board: the clusters that an exposition is offered to from now on. None: it is withdrawn.
pub type BoardChange = (ExpositionKey, BTreeMap<ClusterName, Arc<Exposition>>);

/// The outcome that a cluster reports of an exposition.
pub type ReportedOutcome = (ClusterName, ExpositionKey, ExpositionOutcome);

fn outcomes_from_status(key: &NamedKey, policy: &ServiceExpositionPolicy) -> Vec<ReportedOutcome> {
    let mut said = Vec::new();
    for entry in policy.status.iter().flat_map(|s| &s.exposed) {
        let Some(exposition) = key.exposition_key(&entry.name) else { continue };
        for cluster in entry.bound_by.iter().filter_map(|c| c.parse().ok()) {
            said.push((cluster, exposition.clone(), ExpositionOutcome::bound()));
        }
        for ExpositionRejection { cluster, reason, message } in &entry.rejected_by {
            if let Ok(cluster) = cluster.parse() {
                said.push((cluster, exposition.clone(), ExpositionOutcome::rejected(reason, message)));
            }
        }
    }
    said
}

/// Returns the name under which an entry is exposed.
fn exposed_name(entry: &crate::api::Exposed) -> String {
    entry.alias.as_ref().unwrap_or(&entry.name).clone()
}

struct PolicyState {
    object: Arc<ServiceExpositionPolicy>,
    exposed: PolicyTranslation,
    /// Drain time of the ingress gateway.
    drain: Duration,
    /// Expositions of this policy on the board. A list: most policies have one entry, and a tree of one costs a
    /// kilobyte.
    offered: Vec<(ExpositionKey, Vec<ClusterName>)>,
    write: WriteState,
    conditions: Vec<Condition>,
}

/// The state of the objects of a policy or binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteState {
    #[default]
    Pending,
    Done,
    /// Objects of somebody else are in the way.
    Conflict(Vec<ObjectKey>),
    Failed(String),
    /// The objects stay as they were before this process: their policy or binding is in a place that cannot be read.
    Held(String),
}

/// The result of evaluating a policy.
pub enum PolicyEvaluation {
    Objects(Vec<Object>),
    /// The result is unknown because of a place that cannot be read. The objects stay as they are.
    Held(String),
}

#[derive(Default)]
pub struct DonorSide {
    policies: BTreeMap<NamedKey, PolicyState>,
    claims: NameClaims,
    /// The policy that each exposition comes from.
    origin: HashMap<ExpositionKey, NamedKey>,
    dirty: FairQueue<NamedKey>,
    quotas: QuotaLedger,
    /// Policies that lack something, each with the objects that it names and that do not exist.
    lacking: BTreeMap<NamedKey, Vec<OwnMark>>,
    /// The same, by object.
    lacking_of: HashMap<OwnMark, BTreeSet<NamedKey>>,
}

impl DonorSide {
    /// Takes in a policy. Returns the acceptors' outcomes in its status from before this process: they hold until the
    /// acceptors report themselves.
    pub fn set_policy(&mut self, key: NamedKey, mut object: Arc<ServiceExpositionPolicy>) -> Vec<ReportedOutcome> {
        let said = if self.policies.contains_key(&key) { Vec::new() } else { outcomes_from_status(&key, &object) };
        for entry in object.status.iter().flat_map(|s| &s.exposed) {
            if let (Some(exposition), Some(port)) = (key.exposition_key(&entry.name), entry.host_port) {
                self.claims.record_port_of_host(&exposition, port);
            }
        }
        self.claim_hosts(&key, Some(&object));
        self.quotas.claim_entries(&object, &key.namespace);
        let conditions = object.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
        if object.status.is_some() {
            Arc::make_mut(&mut object).status = None; // only its initial content matters
        }
        match self.policies.get_mut(&key) {
            Some(policy) => policy.object = object,
            None => {
                let policy = PolicyState {
                    object,
                    exposed: PolicyTranslation::default(),
                    drain: OwnGateway::DRAIN,
                    offered: Vec::new(),
                    write: WriteState::Pending,
                    conditions,
                };
                self.policies.insert(key.clone(), policy);
            }
        }
        self.dirty.push(key);
        said
    }

    /// Forgets a policy. Returns the offers to withdraw.
    pub fn remove_policy(&mut self, key: &NamedKey) -> Vec<BoardChange> {
        self.claim_hosts(key, None);
        self.dirty.remove(key);
        let promoted = self.quotas.settle_policy(key, &BTreeSet::new());
        self.touch_policies(&key.namespace, promoted);
        self.note_lacks(key, None);
        let Some(policy) = self.policies.remove(key) else { return Vec::new() };
        policy.offered.into_iter().filter_map(|(e, _)| self.withdraw_exposition(key, e)).collect()
    }

    /// Renews the hosts that a policy claims. Marks other policies that claim one of them.
    fn claim_hosts(&mut self, key: &NamedKey, object: Option<&ServiceExpositionPolicy>) {
        let touched = match object {
            Some(object) => self.claims.insert_policy(object),
            None => self.claims.remove_policy(&key.namespace, &key.name),
        };
        self.dirty.extend(touched.into_iter().map(|(namespace, name)| NamedKey { namespace, name }));
        if object.is_none() {
            self.dirty.remove(key);
        }
    }

    /// Takes over which policies held which names before this process.
    pub fn adopt_holdings(&mut self, holdings: &HeldNames) {
        let all = holdings.gateways.iter().flat_map(|(owner, hosts)| hosts.iter().map(move |host| (&*owner.0, host)));
        self.claims.restore_holders(all);
        self.quotas.adopt_holdings(&holdings.gateways);
    }

    fn withdraw_exposition(&mut self, policy: &NamedKey, exposition: ExpositionKey) -> Option<BoardChange> {
        // Another policy may have taken the name over in the meantime.
        if self.origin.get(&exposition) != Some(policy) {
            return None;
        }
        self.origin.remove(&exposition);
        Some((exposition, BTreeMap::new()))
    }

    /// Marks the policies that may refer to a changed object.
    pub fn touch_object(&mut self, object: &ObjectKey, facts: &ClusterFacts) {
        if translate::is_for_all_policies(object, facts) {
            return self.touch_all();
        }
        let from = NamedKey { namespace: object.namespace.clone(), name: String::new() };
        let in_namespace = self.policies.range(from..).take_while(|(key, _)| key.namespace == object.namespace);
        let touched = in_namespace
            .filter(|(_, p)| translate::policy_touches(&p.object, object, facts))
            .map(|(key, _)| key.clone());
        self.dirty.extend(touched);
    }

    /// Marks the policies that lack something, after a change of what can be read: they may have it now, or report
    /// another reason.
    pub fn touch_lacking(&mut self) {
        self.dirty.extend(self.lacking.keys().cloned());
    }

    /// Marks the policies that lack one of these objects, which became Wharf's or ceased to be.
    pub fn touch_lacking_of(&mut self, marks: &BTreeSet<OwnMark>) {
        if self.lacking_of.is_empty() {
            return;
        }
        self.dirty.extend(marks.iter().filter_map(|mark| self.lacking_of.get(mark)).flatten().cloned());
    }

    /// Replaces the list of objects that a policy lacks.
    fn note_lacks(&mut self, key: &NamedKey, exposed: Option<&PolicyTranslation>) {
        for mark in self.lacking.remove(key).into_iter().flatten() {
            if let Some(policies) = self.lacking_of.get_mut(&mark) {
                policies.remove(key);
                if policies.is_empty() {
                    self.lacking_of.remove(&mark);
                }
            }
        }
        let problems = || exposed.iter().flat_map(|e| &e.entries).filter_map(|e| e.problem.as_ref());
        if !problems().any(|p| p.is_lack() || p.reason == ProblemReason::NoConsumers) {
            return;
        }
        let marks: Vec<OwnMark> = problems().filter_map(|p| p.lacks).collect();
        for mark in &marks {
            self.lacking_of.entry(*mark).or_default().insert(key.clone());
        }
        self.lacking.insert(key.clone(), marks);
    }

    /// Marks all policies of a namespace, after a change that concerns them all.
    pub fn touch_namespace(&mut self, namespace: &str) {
        let from = NamedKey { namespace: namespace.to_owned(), name: String::new() };
        let there = self.policies.range(from..).map(|(key, _)| key).take_while(|key| key.namespace == namespace);
        self.dirty.extend(there.cloned().collect::<Vec<_>>());
    }

    pub fn touch_all(&mut self) {
        self.dirty.extend(self.policies.keys().cloned());
    }

    pub fn get(&self, key: &NamedKey) -> Option<&Arc<ServiceExpositionPolicy>> {
        self.policies.get(key).map(|policy| &policy.object)
    }

    pub fn has_policy(&self, key: &NamedKey) -> bool {
        self.policies.contains_key(key)
    }

    /// Marks one policy. False if it does not exist.
    pub fn touch_policy(&mut self, key: &NamedKey) -> bool {
        let there = self.policies.contains_key(key);
        if there {
            self.dirty.push(key.clone());
        }
        there
    }

    /// Returns whether the objects of a policy are about to be written.
    pub fn is_pending(&self, key: &NamedKey) -> bool {
        self.policies.get(key).is_some_and(|p| p.write == WriteState::Pending)
    }

    /// Returns the next policy to evaluate, of a namespace that may have a turn.
    pub fn next_dirty(&mut self, may: impl Fn(&str) -> bool) -> Option<NamedKey> {
        self.dirty.pop(may)
    }

    /// Translates a policy, as far as its namespace has room at the gateway.
    fn expose_within_quota(
        &mut self,
        key: &NamedKey,
        inventory: &Inventory,
        facts: &ClusterFacts,
    ) -> Option<PolicyTranslation> {
        let object = self.policies.get(key)?.object.clone();
        self.quotas.set_limit(facts.exposure.quota);
        let policies = &self.policies;
        self.quotas.admit_fresh(&key.namespace, |policy, entry| {
            translate::exposed_ports(&policies.get(policy)?.object, entry, inventory)
        });
        let (quotas, mut asked) = (&mut self.quotas, BTreeSet::new());
        let mut room = |entry: usize, ports: usize| {
            asked.extend(object.spec.exposed.get(entry).map(exposed_name));
            quotas.ask_place(&object, &key.namespace, entry, ports)
        };
        let exposed = translate::expose_within(&object, inventory, &self.claims, facts, &mut room);
        let promoted = self.quotas.settle_policy(key, &asked);
        self.touch_policies(&key.namespace, promoted);
        Some(exposed)
    }

    fn touch_policies(&mut self, namespace: &str, names: BTreeSet<String>) {
        self.dirty.extend(names.into_iter().map(|name| NamedKey { namespace: namespace.to_owned(), name }));
    }

    /// Evaluates a policy. Returns the objects to write. `unknown` returns the reason why the result is uncertain, if
    /// it is.
    pub fn evaluate(
        &mut self,
        policy_key: &NamedKey,
        inventory: &Inventory,
        facts: &ClusterFacts,
        unknown: impl Fn(&ServiceExpositionPolicy, &PolicyTranslation) -> Option<String>,
    ) -> Option<PolicyEvaluation> {
        let mut exposed = self.expose_within_quota(policy_key, inventory, facts)?;
        self.note_lacks(policy_key, Some(&exposed));
        let policy = self.policies.get_mut(policy_key)?;
        if let Some(place) = unknown(&policy.object, &exposed) {
            exposed.objects = Vec::new();
            policy.exposed = exposed;
            policy.write = WriteState::Held(place.clone());
            return Some(PolicyEvaluation::Held(place));
        }
        let held = std::mem::take(&mut exposed.held);
        for (exposition, port) in std::mem::take(&mut exposed.served_hosts) {
            self.claims.record_port_of_host(&exposition, port);
        }
        let touched = self.claims.set_held_names(&policy_key.namespace, &policy_key.name, &held);
        self.dirty.extend(touched.into_iter().map(|(namespace, name)| NamedKey { namespace, name }));
        let policy = self.policies.get_mut(policy_key)?;
        policy.exposed = exposed;
        policy.drain = facts.ingress.drain;
        policy.write.begin_write();
        Some(PolicyEvaluation::Objects(std::mem::take(&mut policy.exposed.objects)))
    }

    /// Reserves names for owners whose policies cannot be read. Nobody else gets these names.
    pub fn reserve_names(&mut self, names: BTreeMap<ExpositionKey, Owner>) {
        let touched = self.claims.reserve_names(names.into_iter().map(|(key, owner)| (key, owner.0)).collect());
        self.dirty.extend(touched.into_iter().map(|(namespace, name)| NamedKey { namespace, name }));
    }

    /// Takes in the result of writing a policy's objects. Returns the changes of the board, which is `opened` or not.
    pub fn handle_write_result(&mut self, key: &NamedKey, write: WriteState, opened: bool) -> Vec<BoardChange> {
        match self.policies.get_mut(key) {
            Some(policy) => policy.write = write,
            None => return Vec::new(),
        }
        self.update_offers(key, opened)
    }

    /// Returns the changes of the board that follow from the state of a policy's objects.
    pub fn update_offers(&mut self, key: &NamedKey, opened: bool) -> Vec<BoardChange> {
        let Some(policy) = self.policies.get_mut(key) else { return Vec::new() };
        let offer = |o: &translate::PolicyOffer| (o.key.clone(), o.to.clone());
        let all = policy.exposed.offers.iter();
        let offers: BTreeMap<_, _> = match &policy.write {
            WriteState::Done | WriteState::Pending => all.map(offer).collect(),
            // Entries whose objects are all in place work.
            WriteState::Conflict(keys) => {
                all.filter(|o| !o.objects.iter().any(|k| keys.contains(k))).map(offer).collect()
            }
            // Objects from before this process most likely still exist: acceptors must not lose them because of a full
            // disk.
            _ if !opened => all.map(offer).collect(),
            // Nothing new is offered that may not work. Withdrawn permissions take effect all the same.
            _ => all.filter_map(|o| narrow_offer(o, policy.offered_to(&o.key)?)).collect(),
        };
        let before = std::mem::take(&mut policy.offered);
        policy.offered = offers.iter().map(|(key, to)| (key.clone(), to.keys().cloned().collect())).collect();
        let gone: Vec<_> = before.into_iter().map(|(e, _)| e).filter(|e| !offers.contains_key(e)).collect();
        let mut changes: Vec<_> = gone.into_iter().filter_map(|e| self.withdraw_exposition(key, e)).collect();
        for (exposition, to) in offers {
            self.origin.insert(exposition.clone(), key.clone());
            changes.push((exposition, to));
        }
        changes
    }

    /// Returns the names that a policy asks for, and whether somebody else holds them.
    pub fn contested_names(&self, key: &NamedKey) -> BTreeMap<ExpositionKey, bool> {
        let entries = self.policies.get(key).into_iter().flat_map(|policy| &policy.exposed.entries);
        let conflicts = |e: &EntryOutcome| e.problem.as_ref().is_some_and(|p| p.reason == ProblemReason::NameConflict);
        let mut contested = BTreeMap::new();
        for entry in entries {
            if let Some(exposition) = key.exposition_key(&entry.status.name) {
                *contested.entry(exposition).or_default() |= conflicts(entry);
            }
        }
        contested
    }

    /// Returns the policy that an exposition comes from.
    pub fn policy_of(&self, exposition: &ExpositionKey) -> Option<&NamedKey> {
        self.origin.get(exposition)
    }

    pub fn policy_keys(&self) -> impl Iterator<Item = &NamedKey> {
        self.policies.keys()
    }

    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Returns the number of expositions that are offered to a cluster.
    pub fn offered_to(&self, cluster: &ClusterName) -> usize {
        self.policies.values().flat_map(|p| &p.offered).filter(|(_, to)| to.contains(cluster)).count()
    }

    /// Returns the last reported conditions of each policy.
    pub fn policy_conditions(&self) -> impl Iterator<Item = (&NamedKey, &[Condition])> {
        self.policies.iter().map(|(key, policy)| (key, policy.conditions.as_slice()))
    }

    /// Keeps the conditions of a finished status, for the times of their last change.
    pub fn keep_conditions(&mut self, key: &NamedKey, conditions: &[Condition]) {
        if let Some(policy) = self.policies.get_mut(key) {
            conditions.clone_into(&mut policy.conditions);
        }
    }

    /// Builds the status. `ambient`: the namespace is in ambient mode, if that is known. `outcomes` returns the
    /// acceptors' outcomes of an exposition.
    pub fn build_status(
        &mut self,
        key: &NamedKey,
        facts: &ClusterFacts,
        ambient: Option<bool>,
        now: &str,
        outcomes: impl Fn(&ExpositionKey) -> BTreeMap<ClusterName, ExpositionOutcome>,
    ) -> Option<PolicyStatus> {
        let policy = self.policies.get_mut(key)?;
        let generation = policy.object.metadata.generation;
        let mut exposed: Vec<ExposedStatus> = Vec::with_capacity(policy.exposed.entries.len());
        for entry in &policy.exposed.entries {
            let mut status = entry.status.clone();
            status.offered_to.clear(); // translation lists who would be offered it; the status lists who is
            let exposition = key.exposition_key(&status.name);
            status.host_port = exposition.as_ref().and_then(|exposition| self.claims.port_of_host(exposition));
            let exposition = exposition.filter(|_| entry.problem.is_none());
            let offered = exposition.as_ref().and_then(|exposition| policy.offered_to(exposition));
            if exposition.is_some() && offered.is_none() {
                // The entry's objects are not in place.
                let condition = policy.write.programmed_condition();
                (status.reason, status.message) = (condition.reason, condition.message);
            }
            if let Some(exposition) = exposition
                && let Some(to) = offered
            {
                status.offered_to = to.iter().map(ToString::to_string).collect();
                for (cluster, outcome) in outcomes(&exposition).into_iter().filter(|(c, _)| to.contains(c)) {
                    match outcome.state {
                        OutcomeState::Bound => status.bound_by.push(cluster.to_string()),
                        OutcomeState::Rejected => {
                            let (cluster, reason, message) = (cluster.to_string(), outcome.reason, outcome.message);
                            status.rejected_by.push(ExpositionRejection { cluster, reason, message });
                        }
                        OutcomeState::Offered => {}
                    }
                }
            }
            exposed.push(status);
        }
        for condition in policy.judge_conditions() {
            set_condition(&mut policy.conditions, condition, generation, now);
        }
        let unsupported = || ambient::of_policy(&key.namespace, &policy.object.spec, facts.tls);
        ambient::set_ambient_condition(&mut policy.conditions, ambient, unsupported, generation, now);
        let doubt = policy.gateway_doubt(facts).cloned();
        gateway::set_doubt_condition(&mut policy.conditions, doubt.as_ref(), generation, now);
        let (conditions, summary) = (policy.conditions.clone(), PolicySummary::of(&exposed));
        Some(PolicyStatus { observed_generation: generation, conditions, exposed, summary })
    }
}

fn narrow_offer(offer: &translate::PolicyOffer, before: &[ClusterName]) -> Option<BoardChange> {
    let to: BTreeMap<_, _> =
        offer.to.iter().filter(|(c, _)| before.contains(*c)).map(|(c, e)| (c.clone(), e.clone())).collect();
    (!to.is_empty()).then(|| (offer.key.clone(), to))
}

impl PolicyState {
    fn offered_to(&self, exposition: &ExpositionKey) -> Option<&[ClusterName]> {
        self.offered.iter().find(|(key, _)| key == exposition).map(|(_, to)| to.as_slice())
    }

    /// Returns the known reason why the gateway cannot serve what is exposed. A missing address is reported by the
    /// entries instead.
    fn gateway_doubt<'a>(&self, facts: &'a ClusterFacts) -> Option<&'a GatewayDoubt> {
        let shown = |e: &crate::api::Exposed| e.tls.unwrap_or(facts.tls) == TlsMode::Cluster;
        let shows = self.object.spec.exposed.iter().any(shown);
        let unreached = facts.doubts.ingress.as_ref().filter(|_| !facts.ingress.addresses.is_empty());
        let credential = facts.doubts.identity.as_ref().or(facts.doubts.ingress_credential.as_ref());
        unreached.or(credential.filter(|_| shows))
    }

    /// Judges two conditions. `Exposed`: every entry is offered to somebody. `Programmed`: something is, and the
    /// gateway is configured for all that is.
    fn judge_conditions(&self) -> [Condition; 2] {
        let of_entries = self.exposed.entries.iter().filter_map(|e| e.problem.as_ref().or(e.shortfall.as_ref()));
        let problems: Vec<_> = self.exposed.problems.iter().chain(of_entries).collect();
        let exposed = match problems.first() {
            None => Condition::new("Exposed", true, "Exposed", exposed_message(self.drain)),
            Some(first) => {
                let all: Vec<_> = problems.iter().map(|p| p.line()).collect();
                Condition::new("Exposed", false, first.reason.as_str(), all.join("; "))
            }
        };
        let nothing = self.exposed.entries.iter().all(|e| e.problem.is_some());
        let programmed = match problems.first() {
            Some(first) if nothing && self.write == WriteState::Done => {
                let message = format!("nothing is exposed: {}", first.line());
                Condition::new("Programmed", false, first.reason.as_str(), message)
            }
            _ => self.write.programmed_condition(),
        };
        [exposed, programmed]
    }
}

impl WriteState {
    /// Starts a new write. A previous failure stays visible until the new result is known.
    pub fn begin_write(&mut self) {
        if !matches!(self, WriteState::Failed(_) | WriteState::Conflict(_)) {
            *self = WriteState::Pending;
        }
    }

    /// Returns the condition `Programmed`.
    pub fn programmed_condition(&self) -> Condition {
        match self {
            WriteState::Pending => {
                Condition::new("Programmed", false, "Pending", "the objects are about to be written")
            }
            WriteState::Done => Condition::new("Programmed", true, "Programmed", "all objects are in place"),
            WriteState::Conflict(keys) => {
                let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                let message = format!(
                    "not Wharf's and in the way, so left alone: {}; rename or remove them, or choose another alias",
                    keys.join(", ")
                );
                Condition::new("Programmed", false, "NameConflict", message)
            }
            WriteState::Held(place) => {
                let message = format!(
                    "the objects stay as they were, since what they come from may be in what cannot be read ({place}); \
                     correct that"
                );
                Condition::new("Programmed", false, "Held", message)
            }
            WriteState::Failed(why) => {
                Condition::new("Programmed", false, "WriteFailed", format!("{why}; trying again"))
            }
        }
    }
}
