//! Dials the peers, as the agent does.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::watch;

use crate::check::peers::{DialResult, PeerFacts};
use crate::identity::Identity;
use crate::identity::tls::MinTls;
use crate::model::{ClusterName, Peer};
use crate::peering::Limits;
use crate::peering::client::{AcceptorContext, DialError, SessionError, probe_under};

/// The agent's report on its connection to each peer, by name.
pub type PeerConnections = BTreeMap<String, Result<(), String>>;

/// Dials all peers at once, so that one that does not answer costs no time of the others. The error says why there is
/// no identity to dial with.
pub async fn dial_peers(
    peers: BTreeMap<ClusterName, Peer>,
    connected: &PeerConnections,
    identity: Result<Arc<Identity>, String>,
    allow_tls12: bool,
) -> Vec<PeerFacts> {
    let min_tls = if allow_tls12 { MinTls::Tls12 } else { MinTls::Tls13 };
    let own = identity.map(|identity| {
        let limits = Arc::new(Limits::default());
        AcceptorContext { instance: "wharf-check".into(), identity: watch::channel(identity).1, min_tls, limits }
    });
    let facts = peers.into_values().map(|peer| async {
        let reach = match (&peer.endpoint, &own) {
            (None, _) => DialResult::NotDialled,
            (Some(_), Err(why)) => DialResult::NotTried(why.clone()),
            (Some(endpoint), Ok(own)) => {
                match probe_under(peer.ca_bundle.as_ref(), endpoint, &peer.identity, own).await {
                    Ok(probe) => DialResult::Answered(Box::new(probe)),
                    Err(error) => failed_dial(&error),
                }
            }
        };
        PeerFacts { reach, connected: connected.get(peer.name.as_str()).cloned(), peer }
    });
    join_all(facts).await
}

fn failed_dial(error: &SessionError) -> DialResult {
    let way = matches!(
        error,
        SessionError::Dial(DialError::Resolve { .. } | DialError::Connect { .. } | DialError::Slow { .. })
    );
    if way { DialResult::Unreachable(error.to_string()) } else { DialResult::Refused(error.to_string()) }
}
