//! `limits`: bounds on what others may ask of this agent. Holds only what is set; the defaults belong to the limited
//! parts.

use serde::Deserialize;

use crate::model::NamespaceQuota;

/// Limits that the configuration sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Most expositions that are held of one peer.
    pub peer_expositions: Option<usize>,
    /// Memory for what is held of one peer, in bytes.
    pub peer_bytes: Option<usize>,
    /// Memory for what is held of all peers together, in bytes.
    pub all_peers_bytes: Option<usize>,
    /// Most connections of all calling peers together.
    pub connections: Option<usize>,
    /// Changes of one local name by a peer that are written without delay.
    pub change_burst: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLimits {
    peer_expositions: Option<usize>,
    peer_bytes: Option<usize>,
    all_peers_bytes: Option<usize>,
    connections: Option<usize>,
    change_burst: Option<u32>,
    expositions_per_namespace: Option<usize>,
    ports_per_namespace: Option<usize>,
}

/// Smallest limit in bytes: below it there is no room even for a few names.
const MIN_BYTES: usize = 64 << 10;
/// Largest limits. Larger numbers are mistakes: the agent would be larger than any pod.
const MAX_EXPOSITIONS: usize = 1_000_000;
const MAX_BYTES: usize = 64 << 30;
const MAX_BURST: usize = 1_000_000;
/// Bounds of the connections: those of two peers, and more than the system has file descriptors for.
const MIN_CONNECTIONS: usize = 16;
const MAX_CONNECTIONS: usize = 100_000;

impl RawLimits {
    pub(super) fn check(self) -> Result<(LimitSettings, NamespaceQuota), String> {
        let RawLimits { peer_expositions, peer_bytes, all_peers_bytes, connections, change_burst, .. } = self;
        let (expositions, ports) = (self.expositions_per_namespace, self.ports_per_namespace);
        check_range("limits.peerExpositions", peer_expositions, 1, MAX_EXPOSITIONS)?;
        check_range("limits.peerBytes", peer_bytes, MIN_BYTES, MAX_BYTES)?;
        check_range("limits.allPeersBytes", all_peers_bytes, MIN_BYTES, MAX_BYTES)?;
        check_range("limits.connections", connections, MIN_CONNECTIONS, MAX_CONNECTIONS)?;
        check_range("limits.changeBurst", change_burst.map(|n| n as usize), 1, MAX_BURST)?;
        check_range("limits.expositionsPerNamespace", expositions, 1, MAX_EXPOSITIONS)?;
        check_range("limits.portsPerNamespace", ports, 1, MAX_EXPOSITIONS)?;
        let default = NamespaceQuota::default();
        let quota = NamespaceQuota {
            expositions: expositions.unwrap_or(default.expositions),
            ports: ports.unwrap_or(default.ports),
        };
        Ok((LimitSettings { peer_expositions, peer_bytes, all_peers_bytes, connections, change_burst }, quota))
    }
}

fn check_range(field: &str, value: Option<usize>, min: usize, max: usize) -> Result<(), String> {
    match value {
        Some(n) if !(min..=max).contains(&n) => Err(format!("{field}: expected a number from {min} to {max}, not {n}")),
        _ => Ok(()),
    }
}
