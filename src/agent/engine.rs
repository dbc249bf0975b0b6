//! The engine: the one task that owns the agent's state.
//!
//! Everything that happens comes in here, one thing after the other: what the store tells, what donors offer, what
//! acceptors acknowledge, what the configuration says, what became of a write. Each marks the keys that it touches;
//! then the marked policies and local names are evaluated, and what they come to is handed to the writer. So a
//! change costs what it touches, the order of events does not matter, and nobody else needs a lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::acceptor::{Acceptor, Evaluation};
use super::admin::Query;
use super::donor::{Donor, Offering, Write};
use super::links::Links;
use super::metrics::{Metrics, PeerLabel};
use super::peers::{self, Peers};
use super::writer::{Outcome, Writer};
use super::{autobind, report};
use crate::api::{Kind, ObjectKey};
use crate::config::Config;
use crate::identity::Identity;
use crate::model::{ClusterFacts, ClusterName, Exposition, ExpositionKey, Label};
use crate::peering::client::{DonorEvent, DonorNews};
use crate::peering::convert::{Heard, Rejection};
use crate::peering::server::Counters;
use crate::peering::subscribers::Changed;
use crate::peering::{Board, PeerTable, Subscribers};
use crate::store::{Change, Input, InputKey, Known, NamedKey, Owner, Status, Store};
use crate::translate::{self, Inventory, LocalName};

/// Statuses are written this long after what they tell of, so that a burst of changes is one write each.
const STATUS_DELAY: Duration = Duration::from_millis(50);
/// Events that are taken in before the state is brought in line with them.
const BURST: usize = 512;

/// Where the engine's events come from.
pub struct Inlets {
    pub store: mpsc::Receiver<Change>,
    pub donors: mpsc::Receiver<DonorEvent>,
    pub queries: mpsc::Receiver<Query>,
    pub config: mpsc::Receiver<Result<Box<Config>, String>>,
    pub identity: watch::Receiver<Arc<Identity>>,
    pub identity_problem: watch::Receiver<Option<String>>,
}

/// What an owner's objects are for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    Policy(NamedKey),
    Local(LocalName),
    Shared,
}

pub struct Engine<S: Store> {
    pub(super) store: S,
    pub(super) instance: String,
    pub(super) config: Config,
    pub(super) facts: ClusterFacts,
    pub(super) identity: Arc<Identity>,
    inventory: Inventory,
    pub(super) donor: Donor,
    pub(super) acceptor: Acceptor,
    pub(super) peers: Peers,
    pub(super) links: Links,
    writer: Writer<S>,
    board: Board,
    table: watch::Sender<Arc<PeerTable>>,
    pub(super) subscribers: Subscribers,
    pub(super) counters: Arc<Counters>,
    pub(super) synced: bool,
    /// Owners of which the store holds objects, and those that were wanted since.
    held: HashSet<Owner>,
    purposes: HashMap<Owner, Purpose>,
    /// Local names that use the shared objects of the egress gateway.
    sharing: BTreeSet<LocalName>,
    pub(super) problems: BTreeMap<String, String>,
    stale: BTreeSet<InputKey>,
    status_due: Option<tokio::time::Instant>,
    pub(super) conditions: HashMap<String, Vec<crate::api::Condition>>,
    /// Peers whose self-made bindings are to be looked at.
    proposals: BTreeSet<ClusterName>,
    /// What the store remembers of peers, until it is known who they are.
    remembered: Vec<(ClusterName, Known)>,
    /// Expositions of peers that are peers no longer: the store's memory of them is to be cleared.
    forgotten: Vec<(ClusterName, ExpositionKey)>,
    pub(super) metrics: Metrics,
}

/// What the engine is made of.
pub struct Parts<S> {
    pub store: S,
    pub parallel: usize,
    pub instance: String,
    pub config: Config,
    pub identity: Arc<Identity>,
    pub board: Board,
    pub table: watch::Sender<Arc<PeerTable>>,
    pub subscribers: Subscribers,
    pub counters: Arc<Counters>,
    pub links: Links,
}

impl<S: Store> Engine<S> {
    pub fn new(parts: Parts<S>) -> Engine<S> {
        let facts = parts.config.facts(parts.identity.spiffe_id.clone());
        let mut peers = Peers::default();
        peers.configure(parts.config.peers.clone());
        Engine {
            writer: Writer::new(parts.store.clone(), parts.parallel),
            metrics: Metrics::new(facts.cluster.as_str()),
            store: parts.store,
            instance: parts.instance,
            config: parts.config,
            facts,
            identity: parts.identity,
            inventory: Inventory::default(),
            donor: Donor::default(),
            acceptor: Acceptor::default(),
            peers,
            links: parts.links,
            board: parts.board,
            table: parts.table,
            subscribers: parts.subscribers,
            counters: parts.counters,
            synced: false,
            held: HashSet::new(),
            purposes: HashMap::new(),
            sharing: BTreeSet::new(),
            problems: BTreeMap::new(),
            stale: BTreeSet::new(),
            status_due: None,
            conditions: HashMap::new(),
            proposals: BTreeSet::new(),
            remembered: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// Runs until `stop`. What was under way by then is finished, so that no set of objects is left half-written.
    pub async fn run(mut self, mut inlets: Inlets, stop: CancellationToken) {
        self.recall().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                change = inlets.store.recv() => match change {
                    Some(change) => {
                        self.take_store(change);
                        drain(&mut inlets.store, |change| self.take_store(change));
                    }
                    None => break, // the store's task ended: the process is going down
                },
                Some(event) = inlets.donors.recv() => {
                    self.take_donor(event).await;
                    let mut more = Vec::new();
                    drain(&mut inlets.donors, |event| more.push(event));
                    for event in more {
                        self.take_donor(event).await;
                    }
                }
                outcome = self.writer.next() => self.take_outcome(outcome),
                changed = self.subscribers.changed() => self.take_subscribers(changed),
                Some(config) = inlets.config.recv() => self.take_config(config),
                Ok(()) = inlets.identity.changed() => self.take_identity(&mut inlets.identity),
                Ok(()) = inlets.identity_problem.changed() => {
                    let problem = inlets.identity_problem.borrow_and_update().clone();
                    self.note_problem("identity", problem);
                }
                Some(query) = inlets.queries.recv() => self.answer(query),
                () = due(self.status_due) => self.write_statuses().await,
            }
            if self.synced {
                for (cluster, key) in std::mem::take(&mut self.forgotten) {
                    self.remember(&cluster, &key, None).await;
                }
                self.reconcile();
                self.propose_bindings().await;
                self.acknowledge();
            }
        }
        self.links.stop().await;
        while !self.writer.idle() {
            let outcome = tokio::time::timeout(Duration::from_secs(5), self.writer.next()).await;
            let Ok(outcome) = outcome else { break };
            self.take_outcome(outcome);
        }
        self.write_statuses().await;
    }

    /// Takes up what the store remembers of the time before this process.
    async fn recall(&mut self) {
        match self.store.owners().await {
            Ok(owners) => self.held.extend(owners),
            Err(e) => self.note_problem("store", Some(e.to_string())),
        }
        match self.store.known().await {
            Ok(known) => self.remembered = known,
            Err(e) => self.note_problem("store", Some(e.to_string())),
        }
    }

    /// What was fit to be used before this process may not be now: the peers and the configuration may be others.
    fn adopt_remembered(&mut self) {
        for (cluster, Known { version, exposition }) in std::mem::take(&mut self.remembered) {
            let key = exposition.key.clone();
            if self.facts.peers.get(&cluster).is_none_or(|p| p.endpoint.is_none()) {
                self.forgotten.push((cluster, key));
                continue;
            }
            match self.fit(&cluster, exposition) {
                Ok(exposition) => drop(self.acceptor.offer(&cluster, &key, &version, exposition)),
                Err(why) => self.acceptor.reject(&cluster, &key, why),
            }
        }
    }

    // ---------------------------------------------------------------- what comes in

    fn take_store(&mut self, change: Change) {
        match change {
            Change::Set(key, input) => self.take_input(key, input),
            Change::Gone(key) => self.take_gone(&key),
            Change::Problem { place, message } => {
                tracing::warn!(%place, %message, "cannot be read; what was good there stays in force");
                self.note_problem(&place, Some(message));
            }
            Change::Solved { place } => self.note_problem(&place, None),
            Change::Drift(owner) => self.repair(&owner),
            Change::Synced => self.store_synced(),
        }
    }

    fn take_input(&mut self, key: InputKey, input: Input) {
        match (key, input) {
            (InputKey::Policy(key), Input::Policy(policy)) => self.donor.set(key, policy),
            (InputKey::Binding(key), Input::Binding(binding)) => {
                for cluster in binding.spec.remote.iter().filter_map(|r| r.cluster.parse().ok()) {
                    self.proposals.insert(cluster);
                }
                self.acceptor.set(key.clone(), binding);
                self.mark_status(InputKey::Binding(key));
            }
            (InputKey::Peering(_), Input::Peering(peering)) => {
                self.peers.set(&self.facts.cluster, (*peering).clone());
                self.refresh_peers();
            }
            (InputKey::Object(key), Input::Object(object)) => {
                self.inventory.set(object);
                self.touch_object(&key);
            }
            (key, _) => tracing::error!(?key, "the store told an object under the wrong key"),
        }
    }

    fn take_gone(&mut self, key: &InputKey) {
        match key {
            InputKey::Policy(policy) => {
                let withdrawn = self.donor.remove(policy);
                self.publish(withdrawn);
                self.want(policy_owner(policy), Purpose::Policy(policy.clone()), Vec::new());
            }
            InputKey::Binding(binding) => {
                if let Some(object) = self.acceptor.get(binding) {
                    let clusters = object.spec.remote.iter().filter_map(|r| r.cluster.parse().ok());
                    self.proposals.extend(clusters.collect::<Vec<_>>());
                }
                self.acceptor.remove(binding);
            }
            InputKey::Peering(name) => {
                self.peers.remove(name);
                self.refresh_peers();
            }
            InputKey::Object(object) => {
                self.inventory.remove(object);
                self.touch_object(object);
            }
        }
        self.mark_status(key.clone());
    }

    fn touch_object(&mut self, key: &ObjectKey) {
        self.donor.touch(key);
        if key.kind == Kind::Service
            && let (Ok(namespace), Ok(name)) = (key.namespace.parse::<Label>(), key.name.parse::<Label>())
        {
            self.acceptor.touch_local(&LocalName { namespace, name });
        }
    }

    /// Somebody changed or removed an object of ours: what should be there is worked out and written again.
    fn repair(&mut self, owner: &Owner) {
        match self.purposes.get(owner).cloned() {
            Some(Purpose::Policy(key)) => self.donor.touch_one(&key),
            Some(Purpose::Local(name)) => self.acceptor.touch_local(&name),
            Some(Purpose::Shared) => self.want_shared(),
            None if self.synced => self.write(owner.clone(), Vec::new()),
            None => {}
        }
    }

    /// All that the store holds has been read: now it can be told what is missing, and what is left over.
    fn store_synced(&mut self) {
        self.refresh_peers();
        self.adopt_remembered();
        self.synced = true;
        self.refresh_peers(); // now with dialling
        self.donor.touch_all();
        self.acceptor.touch_all();
        self.reconcile();
        let orphans: Vec<_> = self.held.iter().filter(|o| !self.purposes.contains_key(*o)).cloned().collect();
        for owner in orphans {
            tracing::info!(owner = %owner.0, "nobody wants these objects any more");
            self.write(owner, Vec::new());
        }
        self.want_shared();
        self.board.open();
        tracing::info!(policies = self.donor.len(), bindings = self.acceptor.len(), "the store is read");
    }

    async fn take_donor(&mut self, event: DonorEvent) {
        let DonorEvent { cluster, news } = event;
        if self.links.state(&cluster).is_none() {
            return; // it was hung up while this was on its way
        }
        // Only this changes what the statuses of all bindings of the donor say; the rest is told local name by local name.
        let step = |e: &Self| e.acceptor.offers.get(&cluster).map(|o| (o.connected, o.synced, o.refused.clone()));
        let before = step(self);
        match news {
            DonorNews::Connected { .. } => {
                let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
                (offers.connected, offers.refused, offers.unreachable) = (true, None, None);
            }
            DonorNews::Batch { changed, gone, mark, synced } => {
                for heard in changed {
                    self.take_offer(&cluster, heard).await;
                }
                for key in gone {
                    self.forget(&cluster, &key).await;
                }
                if synced {
                    self.in_step(&cluster);
                }
                self.links.taken_in(&cluster, mark);
                self.proposals.insert(cluster.clone());
            }
            DonorNews::Disconnected { reason, refused: true, .. } => self.refused(&cluster, reason).await,
            DonorNews::Disconnected { reason, .. } => {
                let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
                offers.connected = false;
                offers.unreachable = Some(reason);
            }
        }
        if step(self) != before {
            for binding in self.acceptor.bindings_from(&cluster) {
                self.mark_status(InputKey::Binding(binding));
            }
        }
        self.mark_peer(&cluster);
    }

    fn in_step(&mut self, cluster: &ClusterName) {
        let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
        if !std::mem::replace(&mut offers.synced, true) {
            self.acceptor.touch_peer(cluster); // what is not offered now is known not to be
        }
    }

    async fn take_offer(&mut self, cluster: &ClusterName, heard: Result<Heard, Rejection>) {
        let (key, why) = match heard {
            Ok(Heard { version, exposition }) => {
                let key = exposition.key.clone();
                match self.fit(cluster, exposition) {
                    Ok(exposition) => {
                        let known = Known { version: version.clone(), exposition: (*exposition).clone() };
                        if self.acceptor.offer(cluster, &key, &version, exposition) {
                            self.remember(cluster, &key, Some(&known)).await;
                        }
                        return;
                    }
                    Err(why) => (Some(key), why),
                }
            }
            Err(rejection) => (rejection.key.clone(), rejection.to_string()),
        };
        tracing::warn!(%cluster, exposition = ?key, %why, "an exposition is rejected");
        self.metrics.expositions_rejected.get_or_create(&PeerLabel { peer: cluster.to_string() }).inc();
        if let Some(key) = key {
            self.acceptor.reject(cluster, &key, why);
        }
    }

    /// The exposition, if it may be configured here.
    fn fit(&self, cluster: &ClusterName, exposition: Exposition) -> Result<Arc<Exposition>, String> {
        translate::validate_exposition(cluster, &exposition, &self.facts).map_err(|e| e.to_string())?;
        Ok(Arc::new(exposition))
    }

    async fn forget(&mut self, cluster: &ClusterName, key: &ExpositionKey) {
        self.links.forget(cluster, key);
        if self.acceptor.withdraw(cluster, key) {
            self.remember(cluster, key, None).await;
        }
    }

    async fn remember(&mut self, cluster: &ClusterName, key: &ExpositionKey, known: Option<&Known>) {
        // Lost memory costs a transfer after the next start, and nothing else.
        let problem = self.store.remember(cluster, key, known).await.err().map(|e| e.to_string());
        self.note_problem("memory of peers", problem);
    }

    /// The donor itself says that it offers us nothing: the same as an empty list.
    async fn refused(&mut self, cluster: &ClusterName, reason: String) {
        let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
        (offers.connected, offers.synced, offers.refused) = (false, true, Some(reason));
        let gone: Vec<_> = offers.known.keys().cloned().collect();
        for key in gone {
            self.forget(cluster, &key).await;
        }
        self.acceptor.touch_peer(cluster);
        self.proposals.insert(cluster.clone());
    }

    /// Acceptors came, went, or said what they made of something.
    fn take_subscribers(&mut self, changed: Changed) {
        for (_, exposition) in changed.outcomes {
            if let Some(policy) = self.donor.origin(&exposition).cloned() {
                self.mark_status(InputKey::Policy(policy));
            }
        }
        for cluster in changed.clusters {
            self.mark_peer(&cluster);
        }
        if changed.everything {
            let policies: Vec<_> = self.donor.keys().cloned().collect();
            policies.into_iter().for_each(|key| self.mark_status(InputKey::Policy(key)));
            let peers: Vec<_> = self.facts.peers.keys().cloned().collect();
            peers.iter().for_each(|cluster| self.mark_peer(cluster));
        }
    }

    fn take_config(&mut self, config: Result<Box<Config>, String>) {
        match config {
            Err(problem) => {
                tracing::error!(%problem, "the configuration cannot be used; the last good one stays in force");
                self.note_problem("configuration", Some(problem));
            }
            Ok(config) => {
                self.note_problem("configuration", None);
                let rest =
                    Config { peers: self.config.peers.clone(), trust_any: self.config.trust_any, ..(*config).clone() };
                if rest != self.config {
                    tracing::warn!("the configuration has changes besides peers; they take effect at the next start");
                }
                self.peers.configure(config.peers.clone());
                self.config.peers = config.peers;
                self.config.trust_any = config.trust_any;
                self.facts.trust_any = config.trust_any;
                self.refresh_peers();
            }
        }
    }

    fn take_identity(&mut self, inlet: &mut watch::Receiver<Arc<Identity>>) {
        self.identity = inlet.borrow_and_update().clone();
        tracing::info!(expires = %self.identity.not_after, "a new certificate is in use");
        if self.facts.identity != self.identity.spiffe_id {
            self.facts.identity = self.identity.spiffe_id.clone();
            self.donor.touch_all();
            self.announce_peers();
        }
    }

    /// The peers may have changed: dials, hangs up, and looks again at all that names one of them.
    fn refresh_peers(&mut self) {
        let all = self.peers.all();
        let changed = peers::changed(&self.facts.peers, &all);
        let consumers =
            changed.iter().any(|name| consumes(&self.facts, name) || all.get(name).is_some_and(|p| p.consume));
        self.facts.peers = all;
        if consumers {
            self.donor.touch_all();
        }
        for cluster in &changed {
            if !self.facts.peers.contains_key(cluster) {
                self.subscribers.forget(cluster);
            }
            self.acceptor.touch_peer(cluster);
            self.proposals.insert(cluster.clone());
            self.mark_status(InputKey::Peering(cluster.to_string()));
        }
        self.announce_peers();
        if self.synced {
            let held = |cluster: &ClusterName| self.acceptor.held(cluster);
            for gone in self.links.follow(&self.facts, held) {
                for key in self.acceptor.drop_peer(&gone) {
                    self.forgotten.push((gone.clone(), key));
                }
                self.metrics.forget(gone.as_str());
            }
        }
    }

    fn announce_peers(&self) {
        self.table.send_if_modified(|table| {
            let new = Arc::new(PeerTable::from(&self.facts));
            let changed = **table != *new;
            *table = new;
            changed
        });
    }

    // ---------------------------------------------------------------- what comes of it

    fn reconcile(&mut self) {
        let begun = Instant::now();
        let mut evaluated = 0;
        while let Some(key) = self.donor.next_dirty() {
            evaluated += 1;
            if let Some(objects) = self.donor.evaluate(&key, &self.inventory, &self.facts) {
                self.want(policy_owner(&key), Purpose::Policy(key.clone()), objects);
                self.mark_status(InputKey::Policy(key));
            }
        }
        while let Some(name) = self.acceptor.next_dirty() {
            evaluated += 1;
            self.reconcile_local(name);
        }
        if evaluated > 0 {
            self.metrics.reconciles.inc_by(evaluated);
            self.metrics.reconcile_seconds.observe(begun.elapsed().as_secs_f64());
        }
    }

    fn reconcile_local(&mut self, name: LocalName) {
        let owner = local_owner(&name);
        let evaluation = self.acceptor.evaluate(&name, &self.inventory, &self.facts);
        for binding in self.acceptor.bindings_of(&name) {
            self.mark_status(InputKey::Binding(binding));
        }
        match evaluation {
            Evaluation::Hold if self.held.contains(&owner) => {
                // What is there may lean on the shared objects: they stay as well.
                self.sharing.insert(name.clone());
                self.purposes.insert(owner, Purpose::Local(name));
            }
            Evaluation::Hold => {}
            Evaluation::Objects { objects, shared } => {
                let before = self.sharing.is_empty();
                if shared {
                    self.sharing.insert(name.clone())
                } else {
                    self.sharing.remove(&name)
                };
                if before != self.sharing.is_empty() {
                    self.want_shared();
                }
                self.want(owner, Purpose::Local(name), objects);
            }
        }
    }

    /// The objects that all bindings of HTTP services share at the egress gateway.
    fn want_shared(&mut self) {
        let objects = if self.sharing.is_empty() { Vec::new() } else { translate::shared_egress(&self.facts) };
        self.want(Owner(translate::names::SHARED_OWNER.into()), Purpose::Shared, objects);
    }

    fn want(&mut self, owner: Owner, purpose: Purpose, objects: Vec<crate::api::Object>) {
        if objects.is_empty() && !self.held.contains(&owner) && !self.purposes.contains_key(&owner) {
            // There is nothing, and nothing is wanted: no write is needed to know that.
            self.settle(&purpose, Write::Done);
            return;
        }
        self.purposes.insert(owner.clone(), purpose);
        self.write(owner, objects);
    }

    fn write(&mut self, owner: Owner, objects: Vec<crate::api::Object>) {
        if objects.is_empty() {
            self.held.remove(&owner);
        } else {
            self.held.insert(owner.clone());
        }
        self.writer.want(owner, objects);
    }

    fn take_outcome(&mut self, Outcome { owner, result }: Outcome) {
        let write = match result {
            Ok(applied) => {
                self.metrics.objects_written.inc_by(applied.written as u64);
                self.metrics.objects_removed.inc_by(applied.removed as u64);
                self.note_problem(&format!("owner {}", owner.0), None);
                if applied.conflicts.is_empty() {
                    Write::Done
                } else {
                    self.metrics.object_conflicts.inc();
                    Write::Conflict(applied.conflicts)
                }
            }
            Err(e) => {
                tracing::error!(place = %e.place, message = %e.message, "objects could not be written");
                self.metrics.write_errors.inc();
                self.held.insert(owner.clone()); // some of them may be there
                self.note_problem(&format!("owner {}", owner.0), Some(e.to_string()));
                Write::Failed(e.to_string())
            }
        };
        let Some(purpose) = self.purposes.get(&owner).cloned() else {
            if let Write::Failed(_) = write {
                self.writer.want(owner, Vec::new()); // left over from before, and still to be removed
            }
            return;
        };
        let failed = matches!(write, Write::Failed(_));
        self.settle(&purpose, write);
        if failed {
            self.repair(&owner);
        } else if !self.held.contains(&owner) {
            self.purposes.remove(&owner);
        }
    }

    fn settle(&mut self, purpose: &Purpose, write: Write) {
        match purpose {
            Purpose::Policy(key) => {
                let offerings = self.donor.written(key, write);
                self.publish(offerings);
                self.mark_status(InputKey::Policy(key.clone()));
            }
            Purpose::Local(name) => {
                self.acceptor.written(name, write);
                for binding in self.acceptor.bindings_of(name) {
                    self.mark_status(InputKey::Binding(binding));
                }
            }
            Purpose::Shared => {}
        }
    }

    fn publish(&mut self, offerings: Vec<Offering>) {
        for (key, to) in offerings {
            let problem = self.board.set(&key, &to).err().map(|e| e.to_string());
            self.subscribers.retain(&key, |cluster| to.contains_key(cluster));
            if let Some(problem) = &problem {
                tracing::error!(exposition = %key, %problem, "it cannot be offered");
            }
            self.note_problem(&format!("exposition {key}"), problem);
        }
    }

    /// Tells donors what became of what they offer.
    fn acknowledge(&mut self) {
        for (cluster, key, verdict) in self.acceptor.verdicts() {
            self.links.acknowledge(&cluster, key, verdict);
        }
    }

    /// Brings the bindings that make themselves in line with what is offered.
    async fn propose_bindings(&mut self) {
        while let Some(cluster) = self.proposals.pop_first() {
            let Some(peer) = self.facts.peers.get(&cluster) else { continue };
            let synced = self.acceptor.offers.get(&cluster).is_some_and(|o| o.synced);
            let key = autobind::key(peer);
            let existing = self.acceptor.get(&key).cloned();
            if !synced || existing.as_ref().is_some_and(|b| !autobind::is_ours(b)) {
                continue;
            }
            let offers = self.acceptor.offers.get(&cluster).into_iter().flat_map(|o| o.known.values());
            let fit = offers.filter_map(|o| o.exposition.as_deref());
            let proposal = autobind::propose(peer, fit, existing.as_deref());
            let same = match (&proposal, &existing) {
                (Some(new), Some(old)) => new.spec == old.spec && new.metadata.labels == old.metadata.labels,
                (None, None) => true,
                _ => false,
            };
            if same {
                continue;
            }
            let problem = self.store.propose(&key, proposal.as_ref()).await.err().map(|e| e.to_string());
            self.note_problem(&format!("binding {key}"), problem);
        }
    }

    // ---------------------------------------------------------------- what is told of it

    fn note_problem(&mut self, place: &str, problem: Option<String>) {
        match problem {
            Some(message) => self.problems.insert(place.to_owned(), message),
            None => self.problems.remove(place),
        };
    }

    pub(super) fn mark_status(&mut self, key: InputKey) {
        self.stale.insert(key);
        self.status_due.get_or_insert_with(|| tokio::time::Instant::now() + STATUS_DELAY);
    }

    fn mark_peer(&mut self, cluster: &ClusterName) {
        self.mark_status(InputKey::Peering(cluster.to_string()));
    }

    async fn write_statuses(&mut self) {
        self.status_due = None;
        if !self.synced {
            return;
        }
        let now = report::now();
        for key in std::mem::take(&mut self.stale) {
            let status = match &key {
                InputKey::Policy(k) => {
                    self.donor.status(k, &now, |e| self.subscribers.outcomes(e)).map(|s| Status::Policy(k.clone(), s))
                }
                InputKey::Binding(k) => {
                    self.acceptor.status(k, &self.facts, &now).map(|s| Status::Binding(k.clone(), s))
                }
                InputKey::Peering(name) => self.peering_status(name, &now).map(|s| Status::Peering(name.clone(), s)),
                InputKey::Object(_) => None,
            };
            let gone = !matches!(key, InputKey::Object(_));
            let Some(status) = status.or_else(|| gone.then(|| Status::Gone(key.clone()))) else { continue };
            let problem = self.store.set_status(status).await.err().map(|e| e.to_string());
            self.note_problem("status", problem);
        }
    }
}

fn consumes(facts: &ClusterFacts, name: &ClusterName) -> bool {
    facts.peers.get(name).is_some_and(|p| p.consume)
}

fn policy_owner(key: &NamedKey) -> Owner {
    Owner(translate::names::policy_owner(&key.namespace, &key.name).into())
}

fn local_owner(name: &LocalName) -> Owner {
    Owner(name.owner().into())
}

/// Takes what is there at once, up to a bound.
fn drain<T>(inlet: &mut mpsc::Receiver<T>, mut take: impl FnMut(T)) {
    for _ in 0..BURST {
        match inlet.try_recv() {
            Ok(event) => take(event),
            Err(_) => return,
        }
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
