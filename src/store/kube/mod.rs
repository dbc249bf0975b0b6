//! The store in a cluster's API server.
//!
//! | task | owns | file |
//! |---|---|---|
//! | a watch for each kind, and each namespace if the agent is confined to some | what it told | [`watch`] |
//! | candidate | the Lease, which says whether this replica writes | [`lease`] |
//! | statuses, Events, memory | what waits to be written | [`status`], [`events`], [`memory`] |
//! | what acceptors say to other replicas | | [`replica`] |
//! | nodes, if the gateway is reached through them | their addresses | [`nodes`] |
//! | namespaces in ambient mode; as for the kinds, one for each if it is confined | their names | [`ambient`] |
//! | the fields that Istio's definitions declare | those that are absent | [`definitions`] |
//! | the settings of the cluster's own mesh | what matters of them | [`mesh`] |
//!
//! Objects are written by the caller of [`ObjectStore::apply_objects`] ([`write`]), against the [`ledger`] of known objects, which
//! the watches keep. So nothing is read before a write, nothing is written that is already so, and after a start with
//! everything in place there is no write at all.

mod ambient;
mod calm_pace;
pub mod client;
mod content;
pub mod credential;
pub mod definitions;
mod error;
mod events;
pub mod kinds;
mod lean;
mod lease;
mod ledger;
mod memory;
mod mesh;
mod nodes;
mod replica;
pub mod review;
pub mod secret;
mod single;
mod status;
mod turns;
mod watch;
mod write;

#[cfg(test)]
pub(crate) use status::invalid_status;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc, oneshot, watch as channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::content::MANAGER;
use self::error::{status_code, store_error};
use self::kinds::WatchedKind;
use self::lease::{LeadHandle, LeaseCandidate};
use self::ledger::KubeLedger;
use self::memory::StoredMemory;
use self::status::StatusWriter;
use self::turns::FairTurns;
use self::watch::KindWatch;
use super::{
    ApplyResult, Change, ExpositionMemory, HeldNames, KnownExposition, Leadership, NamedKey, ObjectStatus, ObjectStore,
    Owner, ReplicaReport, StatusSink, StoreError,
};
use crate::api::{Object, ObjectKey, RemoteServiceBinding};
use crate::model::{ClusterName, ExpositionKey};

/// Changes that wait for the agent. When it is slow the watches wait, and the API server holds the events.
const CHANGES: usize = 256;
/// Time that the API server may take to identify the cluster, and interval of the tries until it does.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for statuses and the like at the end.
const LAST: Duration = Duration::from_secs(3);

/// The store's knowledge about its agent.
#[derive(Debug, Clone)]
pub struct KubeOptions {
    /// The agent's own namespace: Lease, memory.
    pub namespace: String,
    /// Name of this process in the Lease: its pod, if it is in one.
    pub holder: String,
    /// UID of its pod, which owns the objects that are only this process's.
    pub pod_uid: Option<String>,
    /// The only namespaces whose policies and bindings are watched; None: all.
    pub namespaces: Option<BTreeSet<String>>,
    /// Namespaces of gateways, which are watched in any case.
    pub gateways: BTreeSet<String>,
    /// Namespace and name of the ingress gateway's Service: if it is reached through the nodes, those are watched.
    pub ingress: (String, String),
    /// The ConfigMap that holds the mesh's settings; None: they are not looked at.
    pub mesh: Option<NamedKey>,
}

/// The namespace of the agent, if its configuration does not say.
const NAMESPACE: &str = "wharf-system";
/// The file in which a pod finds its own namespace.
const IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Returns the agent's own namespace: the pod's, if it is one.
pub fn own_namespace() -> String {
    let named = std::env::var("POD_NAMESPACE").ok().or_else(|| std::fs::read_to_string(IN_POD).ok());
    named.map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).unwrap_or_else(|| NAMESPACE.to_owned())
}

/// Returns the name of this process: the pod's, else host and process.
pub fn own_name() -> String {
    let pod = std::env::var("POD_NAME").ok().filter(|n| !n.is_empty());
    pod.unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        format!("{host}-{}", std::process::id())
    })
}

/// An API server as a [`Store`](super::Store).
#[derive(Clone)]
pub struct KubeStore {
    inner: Arc<KubeShared>,
    lead: LeadHandle,
    running: Arc<RunningTasks>,
}

/// State that all tasks share.
struct KubeShared {
    client: Client,
    options: KubeOptions,
    ledger: Mutex<KubeLedger>,
    /// Notified when the ledger changes.
    changed: Notify,
    /// True when the ledger holds everything that was there at the start.
    read: channel::Sender<bool>,
    /// Requests that write at the same time: the API server's connections are not free.
    turns: FairTurns,
    lead: LeadHandle,
    statuses: StatusWriter,
    memory: StoredMemory,
    telling: replica::ReplicaReportWriter,
    /// The ingress gateway is reached through the nodes.
    nodes_wanted: Arc<Notify>,
    /// An object was refused: definitions may be others than they were.
    refused: Arc<Notify>,
}

struct RunningTasks {
    changes: Mutex<Option<mpsc::Receiver<Change>>>,
    stop: CancellationToken,
    /// Gives the Lease back, and ends by itself.
    candidate: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Aborted with the store.
    _tasks: JoinSet<()>,
}

impl KubeShared {
    fn lock_ledger(&self) -> MutexGuard<'_, KubeLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_changed(&self) {
        self.changed.notify_waiters();
    }

    fn is_ingress(&self, key: &ObjectKey) -> bool {
        let (namespace, name) = &self.options.ingress;
        key.namespace == *namespace && key.name == *name
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.options.namespace)
    }

    /// Returns whether objects are being written. Reports on them can wait a little.
    fn writes_objects(&self) -> bool {
        self.turns.free_turns() < write::TURNS
    }

    /// Returns whether objects or statuses wait for their turn.
    fn is_busy(&self) -> bool {
        self.writes_objects() || !self.statuses.is_calm()
    }

    /// Waits until everything that was there at the start is known.
    async fn wait_until_synced(&self) {
        let _ = self.read.subscribe().wait_for(|read| *read).await; // the sender is in here
    }
}

impl KubeStore {
    /// Begins to watch. It needs a Tokio runtime and never fails: a kind that cannot be read is reported as a problem,
    /// and tried again.
    pub fn open(client: Client, options: KubeOptions) -> KubeStore {
        let (sender, changes) = mpsc::channel(CHANGES);
        let stop = CancellationToken::new();
        let (candidate, lead) =
            LeaseCandidate::new(client.clone(), &options.namespace, options.holder.clone(), sender.clone());
        let (read, _) = channel::channel(false);
        let inner = Arc::new(KubeShared {
            client: client.clone(),
            ledger: Mutex::default(),
            changed: Notify::new(),
            read,
            turns: FairTurns::new(write::TURNS),
            lead: lead.clone(),
            statuses: StatusWriter::default(),
            memory: StoredMemory::default(),
            telling: replica::ReplicaReportWriter::default(),
            nodes_wanted: Arc::default(),
            refused: Arc::default(),
            options,
        });
        let mut tasks = JoinSet::new();
        let mut firsts = watch_all(&inner, &sender, &mut tasks);
        let (asked, first) = oneshot::channel();
        firsts.push(first);
        tasks.spawn(definitions::follow_definitions(client.clone(), inner.refused.clone(), sender.clone(), asked));
        for namespace in watched_namespaces(&inner.options) {
            let (first, told) = oneshot::channel();
            firsts.push(told);
            tasks.spawn(ambient::AmbientWatch::new(namespace, sender.clone(), first).run(client.clone()));
        }
        if let Some(key) = inner.options.mesh.clone() {
            let (first, told) = oneshot::channel();
            firsts.push(told);
            tasks.spawn(mesh::MeshWatch::new(key, sender.clone(), first).run(client.clone()));
        }
        tasks.spawn(report_synced(inner.clone(), firsts, sender.clone()));
        let events = events::EventQueue::default();
        tasks.spawn(nodes::watch_nodes(client, inner.nodes_wanted.clone(), sender.clone()));
        tasks.spawn(events::write_events(inner.clone(), lead.clone(), events.clone(), sender.clone()));
        tasks.spawn(status::write_statuses(inner.clone(), lead.clone(), events, sender.clone()));
        tasks.spawn(replica::watch_replicas(inner.clone(), sender.clone()));
        tasks.spawn(replica::write_reports(inner.clone(), lead.clone()));
        tasks.spawn(memory::write_memory(inner.clone(), lead.clone(), sender));
        let candidate = tokio::spawn(candidate.run(stop.clone()));
        let running = RunningTasks {
            changes: Mutex::new(Some(changes)),
            stop,
            candidate: tokio::sync::Mutex::new(Some(candidate)),
            _tasks: tasks,
        };
        KubeStore { inner, lead, running: Arc::new(running) }
    }
}

/// Returns each namespace that is watched; None: all of them.
fn watched_namespaces(options: &KubeOptions) -> Vec<Option<String>> {
    match &options.namespaces {
        None => vec![None],
        Some(named) => named.iter().cloned().map(Some).collect(),
    }
}

/// Starts a watch for each kind, in each namespace that is watched.
fn watch_all(
    inner: &Arc<KubeShared>,
    changes: &mpsc::Sender<Change>,
    tasks: &mut JoinSet<()>,
) -> Vec<oneshot::Receiver<()>> {
    let mut firsts = Vec::new();
    for of in WatchedKind::ALL {
        let namespaces: Vec<Option<String>> = match &inner.options.namespaces {
            _ if of == WatchedKind::Peering => vec![None],
            // A permission for pods is beside the pods, never beside a gateway.
            Some(named) if !of.is_own() && of != WatchedKind::Object(crate::api::Kind::AuthorizationPolicy) => {
                named.union(&inner.options.gateways).cloned().map(Some).collect()
            }
            _ => watched_namespaces(&inner.options),
        };
        for namespace in namespaces {
            let (first, told) = oneshot::channel();
            firsts.push(told);
            tasks.spawn(KindWatch::new(inner.clone(), of, namespace, changes.clone(), first).run());
        }
    }
    firsts
}

async fn report_synced(inner: Arc<KubeShared>, firsts: Vec<oneshot::Receiver<()>>, changes: mpsc::Sender<Change>) {
    for first in firsts {
        if first.await.is_err() {
            return; // the agent stops
        }
    }
    inner.read.send_replace(true);
    let _ = changes.send(Change::Synced).await;
}

impl ObjectStore for KubeStore {
    const EARLY: bool = true;

    /// Returns the UID of the namespace `kube-system`: there is one in each cluster, and it lives as long as the
    /// cluster.
    async fn read_instance(&self) -> Result<String, StoreError> {
        let api: Api<Namespace> = Api::all(self.inner.client.clone());
        let place = "Namespace kube-system";
        let error = |message: String| StoreError { place: place.into(), message, transient: true };
        match tokio::time::timeout(PATIENCE, api.get("kube-system")).await {
            Err(_) => Err(error(format!("the API server did not answer within {} s", PATIENCE.as_secs()))),
            Ok(Err(e)) => Err(store_error(place, &e)),
            Ok(Ok(namespace)) => namespace.metadata.uid.ok_or_else(|| error("it has no UID".into())),
        }
    }

    async fn watch_changes(&self) -> Result<mpsc::Receiver<Change>, StoreError> {
        let changes = self.running.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        changes.ok_or_else(|| StoreError {
            place: "API server".into(),
            message: "its changes are told to somebody already".into(),
            transient: false,
        })
    }

    async fn list_owners(&self) -> Result<Vec<Owner>, StoreError> {
        self.inner.wait_until_synced().await;
        Ok(self.inner.lock_ledger().owners())
    }

    async fn held_names(&self) -> Result<HeldNames, StoreError> {
        self.inner.wait_until_synced().await;
        Ok(self.inner.lock_ledger().held_names())
    }

    async fn apply_objects(&self, owner: &Owner, objects: Vec<Object>) -> Result<ApplyResult, StoreError> {
        self.inner.wait_until_synced().await;
        self.inner.apply_objects(owner, objects).await
    }

    async fn propose_binding(&self, key: &NamedKey, binding: Option<&RemoteServiceBinding>) -> Result<(), StoreError> {
        if !self.lead.may_write() {
            return Ok(()); // the replica that leads proposes the same
        }
        let api: Api<RemoteServiceBinding> = Api::namespaced(self.inner.client.clone(), &key.namespace);
        let result = match binding {
            Some(binding) => {
                let mut binding = binding.clone();
                binding.metadata.managed_fields = None;
                binding.metadata.resource_version = None;
                binding.status = None;
                let params = PatchParams::apply(MANAGER).force();
                api.patch(&key.name, &params, &Patch::Apply(&binding)).await.map(drop)
            }
            None => match api.delete(&key.name, &DeleteParams::default()).await {
                Err(e) if status_code(&e) != Some(404) => Err(e),
                _ => Ok(()),
            },
        };
        result.map_err(|e| store_error(format!("RemoteServiceBinding {key}"), &e))
    }
}

impl StatusSink for KubeStore {
    async fn set_status(&self, status: ObjectStatus) -> Result<(), StoreError> {
        self.inner.statuses.set_status(status);
        Ok(())
    }

    fn report_replica(&self, report: ReplicaReport) {
        self.inner.telling.set_report(report);
    }
}

impl ExpositionMemory for KubeStore {
    async fn recall_expositions(&self) -> Result<Vec<(ClusterName, KnownExposition)>, StoreError> {
        self.inner.memory.recall_expositions(&self.inner).await
    }

    async fn remember_exposition(
        &self,
        peer: &ClusterName,
        key: &ExpositionKey,
        known: Option<&KnownExposition>,
        used: bool,
    ) -> Result<(), StoreError> {
        self.inner.memory.remember_exposition(peer, key, known, used);
        Ok(())
    }
}

impl Leadership for KubeStore {
    fn watch_leading(&self) -> channel::Receiver<bool> {
        self.lead.watch_leading()
    }

    async fn close_store(&self) {
        if !self.lead.may_write() {
            replica::remove_report(&self.inner).await;
        } else {
            memory::flush_at_end(&self.inner).await;
            let idle = async {
                while !self.inner.statuses.is_idle() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = tokio::time::timeout(LAST, idle).await;
        }
        self.running.stop.cancel();
        if let Some(candidate) = self.running.candidate.lock().await.take() {
            let _ = candidate.await; // a panic has ended the process
        }
    }
}
