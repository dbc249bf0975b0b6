//! `RemoteServiceBinding`: what an acceptor consumes.

use std::collections::BTreeSet;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{PortRef, empty_is_none, null_is_empty};
use super::{Condition, join_first_three, rules};

/// Which services of which clusters are used in this namespace.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multicluster.istio.io",
    version = "v1alpha1",
    kind = "RemoteServiceBinding",
    plural = "remoteservicebindings",
    shortname = "rsb",
    category = "wharf",
    namespaced,
    status = "BindingStatus",
    derive = "PartialEq",
    doc = "Says which services of other clusters are used in its namespace, and under which names. It is written in the \
           acceptor cluster, and is the claim to what a ServiceExpositionPolicy of the donor cluster exposes. With the \
           label `connection: potential` it is an offer, and nothing is configured until the label says `live`."
)]
#[serde(deny_unknown_fields)]
pub struct RemoteServiceBindingSpec {
    /// The clusters that services come from: at least one, each of them once.
    #[schemars(transform = rules::remote)]
    pub remote: Vec<Remote>,
}

/// Services of one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Remote {
    /// The donor, as the peers are named.
    #[schemars(transform = rules::cluster)]
    pub cluster: String,
    /// The services of it that are used here. One is told apart from the others by `name`, `namespace` and `alias`.
    #[serde(default, deserialize_with = "null_is_empty")]
    #[schemars(transform = rules::services)]
    pub services: Vec<RemoteService>,
}

/// One service of the donor, here, under one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::remote_service)]
pub struct RemoteService {
    /// The name as exposed: the policy's `alias`, or its `name`.
    #[schemars(transform = rules::service)]
    pub name: String,
    /// The namespace at the donor. Empty, or not given: the name of this binding's. The local name always is in the
    /// binding's own namespace.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::donor_namespace)]
    pub namespace: Option<String>,
    /// The local name: callers use `<alias>.<namespace>.svc.cluster.local`, and its short forms. Empty, or not given:
    /// `name`. Services of several clusters may have one local name, and then share its calls.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::alias)]
    pub alias: Option<String>,
    /// Of a service with one port: the local port. Of a service with several: the one that is bound. It goes on leading
    /// to the port of the donor that it led to first. 0 means not given. Default: the ports as exposed. Excludes `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::port)]
    pub port: Option<u16>,
    /// The ports that are bound, each by its number or name at the donor, and the local port that leads there. Default:
    /// the ports as exposed. Excludes `port`.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::remote_ports)]
    pub ports: Vec<RemotePort>,
    /// The share of calls among several clusters behind one local name, relative to the others. 0 takes the cluster out.
    /// Default: as 1, but then near addresses are preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::count)]
    pub weight: Option<u32>,
    /// Among several clusters behind one local name, those with the lowest number are used as long as they answer.
    /// Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::count)]
    pub priority: Option<u32>,
}

/// One port of the donor's service, and the local port that leads there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemotePort {
    /// The donor's port, by number or by name.
    #[schemars(transform = rules::port_ref)]
    pub port: PortRef,
    /// The port that callers use here; 0 means not given. Default: the donor's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::port)]
    pub local_port: Option<u16>,
}

/// What became of a binding. Written by the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingStatus {
    /// The metadata.generation that this was seen of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: it works, as far as this cluster can know. `Bound`: every service is exposed to this cluster, and bound.
    /// `Programmed`: all objects of the binding are in place. `PeerConnected`: every cluster of the binding is connected.
    /// `DataPlaneSupported`, only if it is not: the namespace is in Istio's ambient mode. `Reconciling` and `Stalled`, only
    /// while it is so: the agent is at work, or somebody has to act.
    #[serde(default)]
    #[schemars(transform = rules::conditions)]
    pub conditions: Vec<Condition>,
    /// One for each service of `spec.remote`, in its order. Empty for a potential binding.
    #[serde(default)]
    #[schemars(transform = rules::told)]
    pub services: Vec<ServiceStatus>,
    /// The binding in a few words, for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<BindingSummary>,
}

/// What became of one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The donor.
    pub cluster: String,
    /// `<namespace>/<name>` at the donor.
    pub exposition: String,
    /// The name that callers use here.
    pub local_host: String,
    /// The version of the exposition that is configured; absent if none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether it is bound.
    pub bound: bool,
    /// `Bound`, `Pending`, or in one word why not.
    pub reason: String,
    /// Why not, and what to do; else what should be known, such as where `clients` are enforced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `version`, `bound` or `reason` last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub last_changed: Option<String>,
    /// The local ports, and the donor's ports that they lead to. The agent reads it again after a restart: a local port
    /// never leads to another port of the donor because ports come and go there, and the local name keeps its ports while
    /// the donor exposes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::told)]
    pub ports: Vec<PortStatus>,
}

/// A local port, and the donor's port that it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The port that callers use here.
    #[schemars(transform = rules::port)]
    pub local_port: u16,
    /// The port at the donor. 0: it is not known, since the binding asks for other ports now.
    #[schemars(transform = rules::port)]
    pub port: u16,
    /// What it speaks: `HTTP`, `HTTP2`, `GRPC` or `TCP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Its name at the donor, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Why the donor is not behind the port now, in one word; absent if it is. The local name keeps the port: while no other
    /// donor is behind it, callers get 503 with the reason, and connections to TCP ports are closed at once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A binding in a few words: the first three of each, and how many more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingSummary {
    /// The clusters that the services come from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peers: String,
    /// The names that callers use here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local: String,
}

impl BindingSummary {
    /// Returns None if there is nothing to say; see [`super::PolicySummary::of`].
    pub fn of(spec: &RemoteServiceBindingSpec) -> Option<BindingSummary> {
        let services = spec.remote.iter().flat_map(|r| &r.services);
        let local: BTreeSet<&str> = services.map(|s| s.alias.as_deref().unwrap_or(&s.name)).collect();
        let summary = BindingSummary {
            peers: join_first_three(spec.remote.iter().map(|r| r.cluster.as_str())),
            local: join_first_three(local),
        };
        (summary != BindingSummary::default()).then_some(summary)
    }
}
