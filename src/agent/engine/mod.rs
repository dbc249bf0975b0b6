//! The engine: the one task that owns the agent's state.
//!
//! All events arrive here, one after the other: changes of the store, donors' offers, acceptors' acknowledgements,
//! changes of the configuration, results of writes. Each event marks the keys that it touches; then the marked policies
//! and local names are evaluated, and the resulting objects are handed to the writer. So a change costs what it
//! touches, the order of events does not matter, and nobody else needs a lock.

mod accounts;
mod begin;
mod gateways;
mod intake;
mod memory;
mod mesh;
mod names;
mod owners;
mod paced;
mod proposals;
mod recall;
mod reconcile;
mod revoked;
mod shared;
mod status_queue;
mod tell;
#[cfg(test)]
mod tests;
mod trail;
mod unread;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::gateways::ReportedRefusals;
use self::memory::PeerMemory;
use self::owners::OwnerBook;
use self::paced::PacedPeers;
use self::proposals::SelfMadeBindings;
use self::shared::SharedUse;
use self::status_queue::StatusQueue;
use self::unread::UnreadState;
use super::acceptor::AcceptorSide;
use super::accounts::AccountAnswers;
use super::admin::EngineQuery;
use super::audit::AuditLog;
use super::donor::DonorSide;
use super::istiod::GatewayWatch;
use super::links::DonorLinks;
use super::lookup::{LookupAnswer, LookupQuestion};
use super::metrics::AgentMetrics;
use super::names::GatewayNames;
use super::pace::{DEFAULT_BURST, WriteRates};
use super::peers::PeerRegistry;
use super::writer::OwnerWriter;
use crate::config::Config;
use crate::identity::Identity;
use crate::model::{Address, ClusterFacts, ClusterName};
use crate::peering::client::DonorEvent;
use crate::peering::server::ServerCounters;
use crate::peering::{Board, Limits, PeerTable, Subscribers};
use crate::store::{Change, NamedKey, Store};
use crate::telemetry::CountedLog;
use crate::translate::Inventory;

/// Time for which a peer may be gone before each binding from it reports that: an agent is replaced within this time.
/// Its peering reports it at once.
const AWAY: Duration = Duration::from_secs(10);
/// Grace period before objects with no known owner are deleted; their policy or binding may still arrive.
const GRACE: Duration = Duration::from_secs(1);
/// Time for acceptors to come back after a start: a little more than the longest of their pauses.
const PATIENCE: Duration = Duration::from_secs(35);
/// Most events that are taken in before the state is reconciled, and most marked keys that are evaluated before other
/// events.
const BURST: usize = 512;
/// Longest evaluation of keys before other events.
const ROUND: Duration = Duration::from_millis(20);
/// Longest handling of donors' events before other events.
const DONORS_TURN: Duration = Duration::from_millis(10);
/// Peers whose rejected expositions are logged separately, once in [`REJECTIONS_LINE`].
const REJECTING_PEERS: usize = 256;
const REJECTIONS_LINE: Duration = Duration::from_secs(1);

/// The sources of the engine's events.
pub struct EngineInlets {
    pub store: mpsc::Receiver<Change>,
    /// Problems of others than the store: [`Change::Problem`] and [`Change::Solved`] only.
    pub problems: mpsc::Receiver<Change>,
    pub donors: mpsc::Receiver<DonorEvent>,
    pub lookups: mpsc::Receiver<LookupAnswer>,
    pub queries: mpsc::Receiver<EngineQuery>,
    pub config: mpsc::Receiver<Result<Box<Config>, String>>,
    pub identity: watch::Receiver<Arc<Identity>>,
    pub identity_problem: watch::Receiver<Option<String>>,
    pub gateways: watch::Receiver<GatewayWatch>,
    pub accounts: watch::Receiver<AccountAnswers>,
}

pub struct Engine<S: Store> {
    pub(in crate::agent) store: S,
    pub(in crate::agent) instance: String,
    pub(in crate::agent) config: Config,
    pub(in crate::agent) facts: ClusterFacts,
    pub(in crate::agent) identity: Arc<Identity>,
    pub(in crate::agent) inventory: Inventory,
    pub(in crate::agent) donor: DonorSide,
    pub(in crate::agent) acceptor: AcceptorSide,
    pub(in crate::agent) peers: PeerRegistry,
    pub(in crate::agent) links: DonorLinks,
    /// The names of peers' gateways, with their addresses.
    names: GatewayNames,
    lookups: mpsc::Sender<LookupQuestion>,
    writer: OwnerWriter<S>,
    board: Board,
    table: watch::Sender<Arc<PeerTable>>,
    pub(in crate::agent) subscribers: Subscribers,
    pub(in crate::agent) counters: Arc<ServerCounters>,
    pub(in crate::agent) synced: bool,
    /// The store has reported all its inputs; its memory is still to be read.
    told: bool,
    /// This replica leads: it is the one of several that dials donors, and writes.
    pub(in crate::agent) leading: bool,
    /// Addresses of the nodes of the cluster, if the store reports them.
    nodes: Vec<Address>,
    /// The refusals of the gateways, if istiod is asked.
    pub(in crate::agent) gateways: ReportedRefusals,
    /// Deadline for acceptors from before this process to come back.
    patient_until: Option<tokio::time::Instant>,
    /// Peers that were connected until a moment ago, and the time until which they are awaited.
    missed: BTreeMap<ClusterName, tokio::time::Instant>,
    /// Policies that must be evaluated before the board opens.
    opening: Option<BTreeSet<NamedKey>>,
    owners: OwnerBook,
    shared: SharedUse,
    unread: UnreadState,
    statuses: StatusQueue,
    pub(in crate::agent) problems: BTreeMap<String, String>,
    pub(in crate::agent) conditions: HashMap<String, Vec<crate::api::Condition>>,
    memory: PeerMemory,
    self_made: SelfMadeBindings,
    /// Peers whose last certificate is revoked now, and the time until which they may show another.
    suspects: BTreeMap<ClusterName, tokio::time::Instant>,
    pub(in crate::agent) metrics: AgentMetrics,
    pub(in crate::agent) limits: Arc<Limits>,
    rejections: CountedLog<ClusterName>,
    audit: AuditLog,
    rates: WriteRates,
    paced_statuses: PacedPeers,
}

/// The parts that the engine is built from.
pub struct EngineParts<S> {
    pub store: S,
    pub parallel: usize,
    pub instance: String,
    pub config: Config,
    pub identity: Arc<Identity>,
    pub board: Board,
    pub table: watch::Sender<Arc<PeerTable>>,
    pub subscribers: Subscribers,
    pub counters: Arc<ServerCounters>,
    pub links: DonorLinks,
    /// Queue of the names to look up.
    pub lookups: mpsc::Sender<LookupQuestion>,
    pub limits: Arc<Limits>,
}

impl<S: Store> Engine<S> {
    pub fn new(parts: EngineParts<S>) -> Engine<S> {
        let facts = parts.config.cluster_facts(parts.identity.spiffe_id.clone());
        let rates = WriteRates::of_burst(parts.config.limits.change_burst.unwrap_or(DEFAULT_BURST));
        let mut peers = PeerRegistry::default();
        peers.set_configured(parts.config.peers.clone());
        Engine {
            writer: OwnerWriter::new(parts.store.clone(), parts.parallel),
            metrics: AgentMetrics::new(facts.cluster.as_str()),
            store: parts.store,
            instance: parts.instance,
            config: parts.config,
            facts,
            identity: parts.identity,
            inventory: Inventory::default(),
            donor: DonorSide::default(),
            acceptor: AcceptorSide::paced_by(rates),
            peers,
            links: parts.links,
            names: GatewayNames::default(),
            lookups: parts.lookups,
            board: parts.board,
            table: parts.table,
            subscribers: parts.subscribers,
            counters: parts.counters,
            synced: false,
            told: false,
            leading: false,
            nodes: Vec::new(),
            gateways: ReportedRefusals::default(),
            patient_until: None,
            missed: BTreeMap::new(),
            opening: None,
            owners: OwnerBook::default(),
            shared: SharedUse::default(),
            unread: UnreadState::default(),
            statuses: StatusQueue::default(),
            problems: BTreeMap::new(),
            conditions: HashMap::new(),
            memory: PeerMemory::default(),
            self_made: SelfMadeBindings::default(),
            suspects: BTreeMap::new(),
            limits: parts.limits,
            rejections: CountedLog::new(REJECTIONS_LINE, REJECTING_PEERS),
            audit: AuditLog::default(),
            rates,
            paced_statuses: PacedPeers::default(),
        }
    }

    /// Runs until `stop`. Finishes what is in progress by then, so that no set of objects is left half-written.
    pub async fn run(mut self, mut inlets: EngineInlets, stop: CancellationToken) {
        let mut leading = self.store.watch_leading();
        self.leading = *leading.borrow_and_update();
        self.handle_accounts(&inlets.accounts.borrow_and_update().clone());
        let mut more = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = leading.changed() => {
                    let leading = *leading.borrow_and_update();
                    self.handle_leading(leading).await;
                }
                () = std::future::ready(()), if more => {}
                change = inlets.store.recv() => match change {
                    Some(change) => {
                        self.handle_store_change(change);
                        drain_inlet(&mut inlets.store, |change| self.handle_store_change(change));
                    }
                    None => break, // the store's task has ended: the process is going down
                },
                Some(change) = inlets.problems.recv() => self.handle_store_change(change),
                Some(event) = inlets.donors.recv() => {
                    let begun = Instant::now();
                    self.handle_donor(event).await;
                    while begun.elapsed() < DONORS_TURN && let Ok(event) = inlets.donors.try_recv() {
                        self.handle_donor(event).await;
                    }
                }
                Some(answer) = inlets.lookups.recv() => self.handle_answer(answer).await,
                outcome = self.writer.next() => self.handle_outcome(outcome),
                changed = self.subscribers.wait_for_changes() => self.handle_subscribers(changed),
                Some(config) = inlets.config.recv() => self.handle_config(config),
                Ok(()) = inlets.identity.changed() => self.handle_identity(&mut inlets.identity),
                Ok(()) = inlets.identity_problem.changed() => {
                    let problem = inlets.identity_problem.borrow_and_update().clone();
                    self.note_problem("identity", problem);
                }
                Ok(()) = inlets.gateways.changed() => {
                    let watch = inlets.gateways.borrow_and_update().clone();
                    self.handle_gateways(watch);
                }
                Ok(()) = inlets.accounts.changed() => {
                    let answers = inlets.accounts.borrow_and_update().clone();
                    self.handle_accounts(&answers);
                }
                Some(query) = inlets.queries.recv() => self.answer_query(query),
                () = wait_until_due(self.statuses.next_due()) => self.write_statuses().await,
                () = wait_until_due(self.memory.next_due()) => self.write_due_memory().await,
                () = wait_until_due(self.owners.next_due()) => self.remove_orphans(),
                () = wait_until_due(self.unread.next_review()) => self.review_kept(),
                () = wait_until_due(self.missed.values().min().copied()) => self.mark_away_peers(),
                () = wait_until_due(paced::next_due(&self.acceptor, [&self.paced_statuses, &self.self_made.paced])) => {
                    self.release_paced();
                }
                () = wait_until_due(self.suspects.values().min().copied()) => self.condemn_suspects(),
                () = wait_until_due(self.names.next_due()) => self.look_up_names().await,
                () = wait_until_due(self.memory.next_recall()) => {
                    self.recall_peers().await;
                    self.adopt_remembered();
                }
            }
            if std::mem::take(&mut self.told) {
                self.recall().await;
                self.store_synced();
            }
            if self.synced {
                for (cluster, key) in self.memory.take_forgotten() {
                    self.remember_exposition(&cluster, &key, None).await;
                }
                more = self.reconcile();
                self.mark_flapping();
                self.propose_bindings().await;
                self.send_verdicts();
                self.send_holdings();
                if !more {
                    self.remember_use().await;
                }
            }
        }
        self.links.stop().await;
        while !self.writer.is_idle() {
            let outcome = tokio::time::timeout(Duration::from_secs(5), self.writer.next()).await;
            let Ok(outcome) = outcome else { break };
            self.handle_outcome(outcome);
        }
        self.write_statuses().await;
        self.close_memory().await;
        self.store.close_store().await;
    }
}

fn may_consume(facts: &ClusterFacts, name: &ClusterName) -> bool {
    facts.peers.get(name).is_some_and(|p| p.consume)
}

/// Takes the events that are available now, up to a bound.
fn drain_inlet<T>(inlet: &mut mpsc::Receiver<T>, mut take: impl FnMut(T)) {
    for _ in 0..BURST {
        match inlet.try_recv() {
            Ok(event) => take(event),
            Err(_) => return,
        }
    }
}

/// Removes the keys whose time has come, and returns them.
fn drain_due<K: Ord + Clone>(times: &mut BTreeMap<K, tokio::time::Instant>, now: tokio::time::Instant) -> Vec<K> {
    let over: Vec<K> = times.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
    times.retain(|_, due| *due > now);
    over
}

async fn wait_until_due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
