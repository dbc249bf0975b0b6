//! `ClusterPeering`: another cluster, and what is allowed between it and this one.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::model::ConnectionMode;

/// Another cluster. The object's name is the peer's.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multicluster.istio.io",
    version = "v1alpha1",
    kind = "ClusterPeering",
    plural = "clusterpeerings",
    shortname = "cp",
    category = "wharf",
    status = "PeeringStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPeeringSpec {
    /// `host:port` of the peer's agent. It is dialled, and watched as a donor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The peer is trusted as an acceptor. Default: false.
    #[serde(default)]
    pub consume: bool,
    /// The SPIFFE ID of the peer's certificate. Default: `spiffe://wharf/cluster/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether, and how, the peer's expositions become bindings by themselves. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_mode: Option<ConnectionMode>,
    /// Where those bindings are put; a donor never chooses it. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Overrides the gateway address that the peer advertises: `host:port`, or several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
    /// The trust domain of the peer's mesh, for the TLS modes `Workload` and `Passthrough`. Default: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
}

/// What became of a peering.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeeringStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Connected` (we are subscribed to it) and `Subscribed` (it is subscribed to us), as far as they apply.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// When we last were in step with it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<String>,
    /// The donor's revision that we hold.
    #[serde(default)]
    pub revision: u64,
    /// How many expositions it offers to us.
    #[serde(default)]
    pub offered: u32,
    /// How many of them a binding uses.
    #[serde(default)]
    pub bound: u32,
    /// How many of ours are offered to it.
    #[serde(default)]
    pub exposed: u32,
    /// When its certificate expires, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
}
