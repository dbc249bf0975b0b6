//! The store of objects. The agent reads the inputs that people wrote from a store, and makes the store hold the
//! objects that follow from them.
//!
//! A store is level-triggered: it reports every object that matters, then every change; and it takes, owner by owner,
//! the objects that there should be. It never touches an object that Wharf does not own.

pub mod dir;
mod hidden;
pub mod kube;
pub mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, watch};

pub use hidden::{HiddenInputs, InputKind};

use crate::api::{
    BindingStatus, ClusterPeering, Kind, Object, ObjectKey, PeeringStatus, PolicyStatus, RemoteServiceBinding,
    ServiceExpositionPolicy,
};
use crate::identity::ShownCertificates;
use crate::model::{Address, ClusterName, Exposition, ExpositionKey, Host, MeshSettings, NewerField};

/// `<namespace>/<name>` of a policy or binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedKey {
    pub namespace: String,
    pub name: String,
}

impl NamedKey {
    /// Returns the exposition of this name in this namespace.
    pub fn exposition_key(&self, name: &str) -> Option<ExpositionKey> {
        Some(ExpositionKey { namespace: self.namespace.parse().ok()?, name: name.parse().ok()? })
    }
}

impl std::fmt::Display for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Returns the present time in RFC 3339, to the second, as Kubernetes writes times.
pub fn current_timestamp() -> String {
    format_rfc3339(OffsetDateTime::now_utc())
}

/// Formats a time by RFC 3339, to the second.
pub fn format_rfc3339(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_default()
}

/// An input that people wrote, as a store reports it.
#[derive(Debug, Clone)]
pub enum Input {
    Policy(Arc<ServiceExpositionPolicy>),
    Binding(Arc<RemoteServiceBinding>),
    Peering(Arc<ClusterPeering>),
    /// An object that is not Wharf's, of a [kind that is told](crate::api::Kind::is_read_by_translation).
    Object(Arc<Object>),
}

/// Names an [`Input`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKey {
    Policy(NamedKey),
    Binding(NamedKey),
    Peering(String),
    Object(ObjectKey),
}

impl Input {
    pub fn key(&self) -> InputKey {
        let named = |m: &ObjectMeta| NamedKey {
            namespace: m.namespace.clone().unwrap_or_else(|| manifest::DEFAULT_NAMESPACE.to_owned()),
            name: m.name.clone().unwrap_or_default(),
        };
        match self {
            Input::Policy(o) => InputKey::Policy(named(&o.metadata)),
            Input::Binding(o) => InputKey::Binding(named(&o.metadata)),
            Input::Peering(o) => InputKey::Peering(o.metadata.name.clone().unwrap_or_default()),
            Input::Object(o) => InputKey::Object(o.key()),
        }
    }
}

impl Change {
    /// Makes a problem that hides no inputs.
    pub fn problem(place: impl Into<String>, message: impl Into<String>) -> Change {
        Change::Problem { place: place.into(), message: message.into(), hidden: HiddenInputs::default() }
    }
}

impl std::fmt::Display for InputKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            InputKey::Policy(key) => write!(f, "ServiceExpositionPolicy {key}"),
            InputKey::Binding(key) => write!(f, "RemoteServiceBinding {key}"),
            InputKey::Peering(name) => write!(f, "ClusterPeering {name}"),
            InputKey::Object(key) => key.fmt(f),
        }
    }
}

/// A message of a store to its agent.
#[derive(Debug, Clone)]
pub enum Change {
    /// An input that is new, or changed.
    Set(InputKey, Input),
    Gone(InputKey),
    /// Something cannot be read; the objects that were good there before stay in force. Sent once per problem.
    Problem {
        place: String,
        message: String,
        /// Inputs that may be there and are not reported because of it.
        hidden: HiddenInputs,
    },
    /// An earlier problem of this place is solved.
    Solved {
        place: String,
    },
    /// Objects of this owner were changed or removed by others: apply again.
    Drift(Owner),
    /// Everything that was there at the start is reported.
    Synced,
    /// Addresses of the cluster's nodes, if its ingress gateway is reached through them.
    Nodes(Vec<Address>),
    /// The namespaces in Istio's ambient mode: all of them, or whether the one is that was asked for (`of`). A store
    /// that does not know sends nothing.
    Ambient {
        of: Option<String>,
        namespaces: BTreeSet<String>,
    },
    /// The report of another replica of this agent about its acceptors.
    Replica(String, ReplicaReport),
    /// The fields that the installed definitions of Istio do not declare, all of them. A store without definitions
    /// sends nothing.
    AbsentFields(BTreeSet<NewerField>),
    /// The settings of the cluster's own mesh; None: they cannot be known. A store that does not know says nothing.
    Mesh(Option<Arc<MeshSettings>>),
}

/// Groups the objects that are made and removed together: the value of their owner label (at most 63 characters,
/// a valid label value; see [`crate::translate::names`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub Arc<str>);

impl Owner {
    /// Returns the namespace whose policies or bindings it stands for (see [`crate::translate::names`]), or as much of
    /// it as a label holds: tenants share the API server fairly by it.
    pub fn tenant(&self) -> &str {
        self.0.split('.').nth(1).unwrap_or(&self.0)
    }
}

/// The names that owners hold by objects in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldNames {
    /// Hosts that an owner's Gateways take.
    pub gateways: BTreeMap<Owner, BTreeSet<Host>>,
    /// Hosts of an owner's Services.
    pub services: BTreeMap<Owner, BTreeSet<Host>>,
    /// The bindings that an owner's Services come from, by their own annotation.
    pub bindings: BTreeMap<Owner, BTreeSet<NamedKey>>,
    /// Ports of an owner's Services.
    pub ports: BTreeMap<Owner, Vec<HeldPort>>,
}

/// Port of a Service in the store, as far as it says where calls of it lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldPort {
    pub number: u16,
    pub name: String,
    pub app_protocol: Option<String>,
}

impl HeldPort {
    /// Reads the ports of a Service in its JSON form.
    pub fn of_service(service: &serde_json::Value) -> Vec<HeldPort> {
        let text = |port: &serde_json::Value, field: &str| port[field].as_str().map(str::to_owned);
        let read = |port: &serde_json::Value| {
            let number = port["port"].as_u64().and_then(|number| number.try_into().ok())?;
            Some(HeldPort {
                number,
                name: text(port, "name").unwrap_or_default(),
                app_protocol: text(port, "appProtocol"),
            })
        };
        service["spec"]["ports"].as_array().into_iter().flatten().filter_map(read).collect()
    }
}

impl HeldNames {
    /// Adds an object of an owner. `hosts` are those of a Gateway.
    pub fn add_object(&mut self, owner: &Owner, key: &ObjectKey, hosts: impl IntoIterator<Item = Host>) {
        let service = format!("{}.{}.svc.cluster.local", key.name, key.namespace);
        match key.kind {
            Kind::Service => self.services.entry(owner.clone()).or_default().extend(service.parse::<Host>()),
            Kind::Gateway => {
                self.gateways.entry(owner.clone()).or_default().extend(hosts.into_iter().map(|h| h.without_port()))
            }
            _ => {}
        }
    }

    /// Adds the ports of a Service of an owner.
    pub fn note_ports(&mut self, owner: &Owner, ports: impl IntoIterator<Item = HeldPort>) {
        self.ports.entry(owner.clone()).or_default().extend(ports);
    }

    /// Adds the bindings that a Service of an owner comes from: the value of its annotation
    /// [`PROVENANCE`](crate::api::PROVENANCE).
    pub fn add_provenance(&mut self, owner: &Owner, provenance: &str) {
        let named = |text: &str| {
            let (namespace, name) = text.split_once('.')?;
            Some(NamedKey { namespace: namespace.to_owned(), name: name.to_owned() })
        };
        let bindings: BTreeSet<_> = provenance.split(',').filter_map(named).collect();
        if !bindings.is_empty() {
            self.bindings.entry(owner.clone()).or_default().extend(bindings);
        }
    }
}

/// The result of an [`ObjectStore::apply_objects`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyResult {
    pub written: usize,
    pub unchanged: usize,
    pub removed: usize,
    /// Objects of others (or of another owner) that are in the way. They were not touched.
    pub conflicts: Vec<ObjectKey>,
    /// Not everything is as wanted, and another replica writes: [`Change::Drift`] says when to look again.
    pub waiting: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct StoreError {
    /// The file or object.
    pub place: String,
    pub message: String,
    /// True if trying again may help.
    pub transient: bool,
}

/// The status of one object of Wharf's own kinds.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectStatus {
    Policy(NamedKey, PolicyStatus),
    Binding(NamedKey, BindingStatus),
    Peering(String, PeeringStatus),
    /// The object is gone, and so is its status.
    Gone(InputKey),
}

/// An exposition of a peer as it was last heard: last known good across restarts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownExposition {
    pub version: String,
    pub exposition: Exposition,
}

/// The report of a replica about the acceptors that are subscribed at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    pub clusters: BTreeMap<ClusterName, AcceptorReport>,
}

/// One acceptor's subscriptions and outcomes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptorReport {
    pub subscriptions: usize,
    /// Time when its certificate expires, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// The certificates that it showed last.
    #[serde(default, skip_serializing_if = "ShownCertificates::is_empty")]
    pub shown: ShownCertificates,
    /// Outcomes by exposition, `<namespace>/<name>`. Expositions that are only offered are left out.
    pub outcomes: BTreeMap<String, AcceptorOutcome>,
}

/// An acceptor's outcome of an exposition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceptorOutcome {
    Bound,
    Rejected { reason: String, message: String },
}

/// A place for everything that an agent keeps.
pub trait Store: ObjectStore + StatusSink + ExpositionMemory + Leadership {}

impl<S: ObjectStore + StatusSink + ExpositionMemory + Leadership> Store for S {}

/// Reads the objects that people write, and holds the objects of owners. Implementations are cheap to clone and share
/// what they hold.
pub trait ObjectStore: Clone + Send + Sync + 'static {
    /// True if expositions are offered to acceptors while their objects are still being written. That suits a store
    /// whose writes take about as long as the peer needs to react, and seldom fail.
    const EARLY: bool;

    /// Returns this cluster's instance: random, made once, kept for ever.
    fn read_instance(&self) -> impl Future<Output = Result<String, StoreError>> + Send;

    /// Reports every object that matters, then [`Change::Synced`], then every change, as it happens. Called once.
    fn watch_changes(&self) -> impl Future<Output = Result<mpsc::Receiver<Change>, StoreError>> + Send;

    /// Returns the owners whose objects the store holds: after a start, those without a policy or binding are applied
    /// empty.
    fn list_owners(&self) -> impl Future<Output = Result<Vec<Owner>, StoreError>> + Send;

    /// Returns the names that each owner holds by its objects: after a start, the holder of a name keeps it.
    fn held_names(&self) -> impl Future<Output = Result<HeldNames, StoreError>> + Send;

    /// Makes what `owner` owns exactly `objects`, in their order ([`crate::api::Kind`]); removes the rest in reverse.
    /// An object that is already so is not written. Objects of others are reported, never touched.
    fn apply_objects(
        &self,
        owner: &Owner,
        objects: Vec<Object>,
    ) -> impl Future<Output = Result<ApplyResult, StoreError>> + Send;

    /// Puts a binding that Wharf makes by itself among the inputs, or removes it (`None`). It comes back as a change.
    /// One of another owner under this name is not touched.
    fn propose_binding(
        &self,
        key: &NamedKey,
        binding: Option<&RemoteServiceBinding>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Shows people and other replicas how things stand.
pub trait StatusSink {
    /// Writes a status, unless it is already so.
    fn set_status(&self, status: ObjectStatus) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reports to the leading replica what this one hears. A store of a single agent has no such replica.
    fn report_replica(&self, report: ReplicaReport);
}

/// Remembers over a restart which expositions peers have offered.
pub trait ExpositionMemory {
    /// Returns the last known expositions of all peers.
    fn recall_expositions(
        &self,
    ) -> impl Future<Output = Result<Vec<(ClusterName, KnownExposition)>, StoreError>> + Send;

    /// Remembers one exposition of a peer, or forgets it. One that no binding uses may be left out where room is short.
    fn remember_exposition(
        &self,
        peer: &ClusterName,
        key: &ExpositionKey,
        known: Option<&KnownExposition>,
        used: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Lets one of several replicas write.
pub trait Leadership {
    /// Reports whether this process is the one that writes: of several replicas only one does. Writes that are left to
    /// another are [`ApplyResult::waiting`].
    fn watch_leading(&self) -> watch::Receiver<bool>;

    /// Writes all pending changes, and lets another replica take over at once. Nothing is written afterwards.
    fn close_store(&self) -> impl Future<Output = ()> + Send;
}
