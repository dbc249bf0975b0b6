//! `RemoteServiceBinding`: what an acceptor consumes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// Consumes services of other clusters in this namespace.
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
    derive = "PartialEq"
)]
#[serde(deny_unknown_fields)]
pub struct RemoteServiceBindingSpec {
    /// The clusters that services come from: at least one.
    pub remote: Vec<Remote>,
}

/// Services of one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Remote {
    /// The donor, as the peers are named.
    pub cluster: String,
    #[serde(default, deserialize_with = "super::policy::null_is_empty")]
    pub services: Vec<RemoteService>,
}

/// One service of the donor, here, under one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteService {
    /// The name as exposed.
    pub name: String,
    /// The donor's namespace. Default: this binding's. The local name is always in the binding's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The local name. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The local port of a service with one port, by number; of a service with several, the one that is bound.
    /// 0 means not given. Default: the ports as exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The share of calls among several clusters behind one local name, relative to the others. Default: 1;
    /// 0 takes the cluster out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Among several clusters behind one local name, those with the lowest number are used as long as they answer.
    /// Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

/// What became of a binding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// One for each service of `spec.remote`, in its order.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    pub cluster: String,
    /// `<namespace>/<name>` at the donor.
    pub exposition: String,
    /// The name that callers use here.
    pub local_host: String,
    /// The version of the exposition that is configured; empty if none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    pub bound: bool,
    /// `Bound`, or why not: `NotExposed`, `NotPermitted`, `PeerUnknown`, `PeerUnreachable`, `NameConflict`, …
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
