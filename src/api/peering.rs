//! `ClusterPeering`: another cluster, and what is allowed between it and this one.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::model::{ClusterName, ConnectionMode, Endpoint, GatewayAddress, InvalidName, Peer};

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

impl ClusterPeeringSpec {
    /// The peer that this describes. The error begins with the field, as in `endpoint: …`.
    pub fn to_peer(&self, name: ClusterName) -> Result<Peer, String> {
        fn read<T: std::str::FromStr<Err = InvalidName>>(field: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|e| format!("{field}: {e}"))
        }
        let default = Peer::named(name);
        let gateway = self.gateway.iter().enumerate().map(|(i, text)| {
            let at: Endpoint = read(&format!("gateway[{i}]"), text)?;
            Ok(GatewayAddress { address: at.host, port: at.port, locality: None })
        });
        let or = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        Ok(Peer {
            endpoint: or(&self.endpoint).map(|t| read("endpoint", &t)).transpose()?,
            consume: self.consume,
            identity: or(&self.identity).map_or(Ok(default.identity), |t| read("identity", &t))?,
            connection_mode: self.connection_mode.unwrap_or_default(),
            namespace: or(&self.namespace).map(|t| read("namespace", &t)).transpose()?,
            gateway: gateway.collect::<Result<_, String>>()?,
            gateway_hint: Vec::new(),
            trust_domain: or(&self.trust_domain).map_or(Ok(default.trust_domain), |t| read("trustDomain", &t))?,
            name: default.name,
        })
    }
}
