//! Maps the identity of a verified certificate to the permissions of its holder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tonic::Status;

use crate::model::{CaBundle, ClusterFacts, ClusterName, SpiffeId};

/// The peers that may call, by the configuration. Built again with each change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTable {
    /// This cluster.
    pub cluster: ClusterName,
    own: SpiffeId,
    /// The clusters that an identity stands for; more than one is a mistake of the configuration.
    by_identity: BTreeMap<SpiffeId, Vec<ClusterName>>,
    peers: BTreeMap<ClusterName, bool>,
    /// Roots of the peers whose entries name some.
    bundles: BTreeMap<ClusterName, CaBundle>,
    trust_any: bool,
    /// Peers whose entries cannot be read.
    unread: Option<UnreadPeers>,
}

/// Peers that there may be, though their entries cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadPeers {
    /// Any cluster may be one.
    pub any: bool,
    pub names: BTreeSet<ClusterName>,
}

impl UnreadPeers {
    /// The value before anything was read.
    pub fn any() -> UnreadPeers {
        UnreadPeers { any: true, names: BTreeSet::new() }
    }
}

/// A caller with permission to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub cluster: ClusterName,
    /// It may consume: subscribe, and list its offers.
    pub consume: bool,
    /// It is this cluster itself, looking at its own agent.
    pub own: bool,
}

/// The reason why a caller may not call. Its text says what the operator of this cluster has to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallerRefusal {
    #[error(
        "{id} is not a peer of {cluster}; if it should be, add it to the peers of {cluster} (a ClusterPeering, or \
         `peers` in the agent's configuration){}", IdentityHint(.id)
    )]
    Unknown { id: SpiffeId, cluster: ClusterName },
    #[error(
        "it is not known whether {id} is a peer of {cluster}: not all entries there can be read yet; see its agent's problems"
    )]
    Unread { id: SpiffeId, cluster: ClusterName },
    #[error("{id} is the identity of more than one peer of {cluster} ({}); each needs its own", ClusterNames(.peers))]
    Ambiguous { id: SpiffeId, cluster: ClusterName, peers: Vec<ClusterName> },
    #[error(
        "{peer} may not consume what {cluster} exposes; if it should, set `consume: true` in its peer entry at \
         {cluster}"
    )]
    MayNotConsume { peer: ClusterName, cluster: ClusterName },
    #[error("{cluster} does not subscribe to itself")]
    Itself { cluster: ClusterName },
}

impl CallerRefusal {
    /// Returns the status for the caller. A denial takes from the caller all that it was offered: it is sent only if it
    /// is certain.
    pub fn to_status(&self) -> Status {
        match self {
            CallerRefusal::Unread { .. } => Status::unavailable(self.to_string()),
            _ => Status::permission_denied(self.to_string()),
        }
    }
}

struct IdentityHint<'a>(&'a SpiffeId);

impl fmt::Display for IdentityHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.cluster() {
            Some(cluster) => write!(f, " as {cluster}"),
            None => write!(f, " with this `identity`"),
        }
    }
}

struct ClusterNames<'a>(&'a [ClusterName]);

impl fmt::Display for ClusterNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(ClusterName::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

impl From<&ClusterFacts> for PeerTable {
    fn from(facts: &ClusterFacts) -> PeerTable {
        let mut by_identity: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for peer in facts.peers.values() {
            by_identity.entry(peer.identity.clone()).or_default().push(peer.name.clone());
        }
        PeerTable {
            cluster: facts.cluster.clone(),
            own: facts.identity.clone(),
            by_identity,
            peers: facts.peers.values().map(|p| (p.name.clone(), p.consume || facts.trust_any)).collect(),
            bundles: facts.peers.values().filter_map(|p| Some((p.name.clone(), p.ca_bundle.clone()?))).collect(),
            trust_any: facts.trust_any,
            unread: None,
        }
    }
}

impl PeerTable {
    /// Returns the same table, while the entries of some peers cannot be read.
    pub fn with_unread(self, unread: Option<UnreadPeers>) -> PeerTable {
        PeerTable { unread, ..self }
    }

    fn refuse_unknown(&self, id: &SpiffeId) -> CallerRefusal {
        let (id, cluster) = (id.clone(), self.cluster.clone());
        let may_be = |unread: &UnreadPeers| unread.any || id.cluster().is_none_or(|name| unread.names.contains(&name));
        if self.unread.as_ref().is_some_and(may_be) {
            return CallerRefusal::Unread { id, cluster };
        }
        CallerRefusal::Unknown { id, cluster }
    }

    /// Returns the caller with this identity of a verified certificate.
    pub fn find_caller(&self, id: &SpiffeId) -> Result<Caller, CallerRefusal> {
        if *id == self.own {
            return Ok(Caller { cluster: self.cluster.clone(), consume: false, own: true });
        }
        match self.by_identity.get(id).map(Vec::as_slice) {
            Some([cluster]) => {
                let consume = self.peers.get(cluster).copied().unwrap_or(false);
                Ok(Caller { cluster: cluster.clone(), consume, own: false })
            }
            Some(peers) if !peers.is_empty() => {
                let (id, cluster, peers) = (id.clone(), self.cluster.clone(), peers.to_vec());
                Err(CallerRefusal::Ambiguous { id, cluster, peers })
            }
            _ => self.find_any_caller(id).ok_or_else(|| self.refuse_unknown(id)),
        }
    }

    /// Admits callers by the original's `TrustedPeers: ["*"]`: any name under the root, but none that is pinned to
    /// another identity.
    fn find_any_caller(&self, id: &SpiffeId) -> Option<Caller> {
        let cluster = id.cluster().filter(|_| self.trust_any)?;
        let taken = cluster == self.cluster || self.peers.contains_key(&cluster);
        (!taken).then_some(Caller { cluster, consume: true, own: false })
    }

    /// Returns the caller, if it may consume.
    pub fn find_consumer(&self, id: &SpiffeId) -> Result<Caller, CallerRefusal> {
        let caller = self.find_caller(id)?;
        let cluster = self.cluster.clone();
        match caller {
            Caller { own: true, .. } => Err(CallerRefusal::Itself { cluster }),
            Caller { consume: false, cluster: peer, .. } => Err(CallerRefusal::MayNotConsume { peer, cluster }),
            caller => Ok(caller),
        }
    }

    /// Returns the roots of all peers whose entries name some.
    pub fn bundles(&self) -> impl Iterator<Item = &CaBundle> {
        self.bundles.values()
    }

    /// Returns the roots that the chain of this identity has to lead to; None: the shared ones.
    pub fn bundle_of(&self, id: &SpiffeId) -> Option<&CaBundle> {
        match self.by_identity.get(id).map(Vec::as_slice) {
            Some([cluster]) => self.bundles.get(cluster),
            _ => None,
        }
    }

    /// Returns whether a cluster may still be a subscriber.
    pub fn knows_cluster(&self, cluster: &ClusterName) -> bool {
        self.trust_any || self.peers.contains_key(cluster)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{AllowedGateways, OwnGateway, Peer, Style, TlsMode};

    fn table(trust_any: bool, peers: &[(&str, bool, &str)]) -> PeerTable {
        let gateway = || OwnGateway {
            namespace: "istio-system".parse().unwrap(),
            service: "gateway".parse().unwrap(),
            selector: BTreeMap::new(),
            port: 15443,
            service_account: "gateway".into(),
            account_configured: false,
            locality: None,
            addresses: Vec::new(),
            drain: OwnGateway::DRAIN,
        };
        let peer = |(name, consume, identity): &(&str, bool, &str)| {
            let name: ClusterName = name.parse().unwrap();
            let identity = identity.parse().unwrap();
            (name.clone(), Peer { consume: *consume, identity, ..Peer::with_name(name) })
        };
        let cluster: ClusterName = "donor".parse().unwrap();
        PeerTable::from(&ClusterFacts {
            identity: SpiffeId::of_cluster(&cluster),
            cluster,
            style: Style::default(),
            tls: TlsMode::Cluster,
            trust_domain: "donor".parse().unwrap(),
            ingress: gateway(),
            egress: gateway(),
            credential: "wharf-identity".parse().unwrap(),
            peers: peers.iter().map(peer).collect(),
            hidden_peers: Default::default(),
            trust_any,
            revoked: BTreeSet::new(),
            allowed_gateways: AllowedGateways::default(),
            absent_fields: BTreeSet::new(),
            root_namespace: "istio-system".parse().unwrap(),
            mesh: None,
            exposure: Default::default(),
            doubts: Default::default(),
        })
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_pinned_identity_replaces_the_default_one() {
        let table = table(false, &[("b", true, "spiffe://b.example/ns/istio-system/sa/agent")]);
        let caller = table.find_consumer(&id("spiffe://b.example/ns/istio-system/sa/agent")).unwrap();
        assert_eq!(caller.cluster.as_str(), "b");
        let refusal = table.find_caller(&id("spiffe://wharf/cluster/b")).unwrap_err();
        assert!(refusal.to_string().contains("add it to the peers of donor"), "{refusal}");
    }

    #[test]
    fn trusting_any_peer_does_not_lend_a_pinned_name_to_another() {
        let table = table(true, &[("b", false, "spiffe://b.example/agent")]);
        assert!(table.find_consumer(&id("spiffe://wharf/cluster/c")).is_ok());
        assert!(table.find_consumer(&id("spiffe://b.example/agent")).is_ok());
        assert!(table.find_caller(&id("spiffe://wharf/cluster/b")).is_err());
    }

    #[test]
    fn an_identity_of_two_peers_is_nobodys() {
        let table = table(false, &[("b", true, "spiffe://x/y"), ("c", true, "spiffe://x/y")]);
        let refusal = table.find_caller(&id("spiffe://x/y")).unwrap_err();
        assert!(refusal.to_string().contains("(b, c)"), "{refusal}");
    }

    #[test]
    fn a_peer_that_may_not_consume_is_told_what_is_missing() {
        let table = table(false, &[("b", false, "spiffe://wharf/cluster/b")]);
        assert!(table.find_caller(&id("spiffe://wharf/cluster/b")).is_ok());
        let refusal = table.find_consumer(&id("spiffe://wharf/cluster/b")).unwrap_err();
        assert!(refusal.to_string().contains("`consume: true`"), "{refusal}");
        assert!(table.find_consumer(&id("spiffe://wharf/cluster/donor")).is_err(), "itself");
    }
}
