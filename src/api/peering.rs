//! `ClusterPeering`: another cluster, and the permissions between it and this one.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::null_is_empty;
use super::{Condition, rules};
use crate::model::{
    AllowedGateways, ClusterName, ConnectionMode, Endpoint, GatewayAddress, InvalidName, Peer, SpiffeId,
};

/// Where the peer's agent is, and what is allowed between it and this cluster.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multicluster.istio.io",
    version = "v1alpha1",
    kind = "ClusterPeering",
    plural = "clusterpeerings",
    shortname = "cp",
    category = "wharf-peers",
    status = "PeeringStatus",
    derive = "PartialEq",
    doc = "Another cluster: where its agent is, and what is allowed between it and this one. The object's name is the \
           peer's. Where the agent's configuration names the peer, too, the object counts. With neither `endpoint` nor \
           `consume` it is neither dialled nor served.",
    validation = rules::peering_name()
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPeeringSpec {
    /// `host:port` of the peer's agent; an IPv6 address in brackets. It is dialled, and watched as a donor. Default: none,
    /// and nothing is dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::endpoint)]
    pub endpoint: Option<String>,
    /// Whether the peer is trusted as an acceptor: it may subscribe. What it gets is said by the policies.
    /// Default: false.
    #[serde(default)]
    pub consume: bool,
    /// The SPIFFE ID that the peer's certificate must have, for certificates of another issuer, such as Istio's own CA.
    /// Default: `spiffe://wharf/cluster/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::spiffe_id)]
    pub identity: Option<String>,
    /// Whether, and how, what the peer offers becomes a binding by itself. `live`: it is bound. `potential`: the binding
    /// is an offer, and nothing is configured until it is labelled `connection: live`. `none`: operators write their own.
    /// Default: `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::connection_mode)]
    pub connection_mode: Option<ConnectionMode>,
    /// Where that binding is put; a donor never chooses it. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::binding_namespace)]
    pub namespace: Option<String>,
    /// Overrides the addresses of the peer's ingress gateway: `host:port`, or several. Default: what the peer advertises.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::gateways)]
    pub gateway: Vec<String>,
    /// The trust domain of the peer's mesh, for the TLS modes `Workload` and `Passthrough`. Default: the peer's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::trust_domain)]
    pub trust_domain: Option<String>,
    /// The only networks in which the peer's gateways may be, such as `10.0.0.0/8`, besides those that the agent's
    /// configuration allows for all peers. Default: public unicast addresses.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::networks)]
    pub allowed_gateways: Vec<String>,
    /// The only names that the peer's gateways may have, each with all that is below it, besides those that the agent's
    /// configuration allows for all peers. They are trusted without being looked up. Default: public names whose addresses
    /// are allowed.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::name_suffixes)]
    pub allowed_gateway_names: Vec<String>,
    /// The only CA certificates that the peer's certificate may lead to, in PEM. Default: the roots that this cluster's
    /// identity came with. Agents look at it; gateways do not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::ca_bundle)]
    pub ca_bundle: Option<String>,
}

/// What became of a peering. Written by the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeeringStatus {
    /// The metadata.generation that this was seen of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Connected`: this cluster is subscribed to the peer, and in step. `Subscribed`: the peer is subscribed to this
    /// cluster. `Ready`: each of them holds that is asked for. `Accepted`: only while the object cannot be used.
    /// `Reconciling` and `Stalled`, only while it is so: the agent is at work, or somebody has to act.
    #[serde(default)]
    #[schemars(transform = rules::conditions)]
    pub conditions: Vec<Condition>,
    /// When all that the peer offers was last known to be held, RFC 3339, as of the last change of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub last_sync: Option<String>,
    /// The donor's revision that is held. It means something within one stream only.
    #[serde(default)]
    #[schemars(transform = rules::revision)]
    pub revision: u64,
    /// How many expositions the peer offers to this cluster.
    #[serde(default)]
    #[schemars(transform = rules::count)]
    pub offered: u32,
    /// How many of them a binding uses.
    #[serde(default)]
    #[schemars(transform = rules::count)]
    pub bound: u32,
    /// How many expositions of this cluster are offered to the peer.
    #[serde(default)]
    #[schemars(transform = rules::count)]
    pub exposed: u32,
    /// When the certificate that the peer showed expires, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub certificate_expires: Option<String>,
    /// When the certificate that this cluster shows to the peer expires, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub own_certificate_expires: Option<String>,
    /// The version of the peering protocol that both agents agreed on. Absent: they never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::count)]
    pub protocol_version: Option<u32>,
}

impl ClusterPeeringSpec {
    /// Returns the peer that this describes. The error begins with the field, as in `endpoint: …`.
    pub fn to_peer(&self, name: ClusterName) -> Result<Peer, String> {
        fn read<T: std::str::FromStr<Err = InvalidName>>(field: &str, text: &str) -> Result<T, String> {
            text.parse().map_err(|e| format!("{field}: {e}"))
        }
        let default = Peer::with_name(name);
        if let Some(other) = self.identity.as_deref().and_then(|id| id.parse::<SpiffeId>().ok()?.cluster())
            && other != default.name
        {
            return Err(format!("identity: this is the identity of {other}, not of {}", default.name));
        }
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
            allowed_gateways: AllowedGateways::parse(&self.allowed_gateways, &self.allowed_gateway_names)?,
            ca_bundle: or(&self.ca_bundle).map(|t| read("caBundle", &t)).transpose()?,
            name: default.name,
        })
    }
}
