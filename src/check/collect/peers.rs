//! Dials the peers, as the agent does.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::watch;

use crate::check::peers::{Facts, Reach};
use crate::identity::Identity;
use crate::identity::tls::MinTls;
use crate::model::{ClusterName, Peer};
use crate::peering::Limits;
use crate::peering::client::{DialError, Own, SessionError, probe_under};

/// The agent's report on its connection to each peer, by name.
pub type Connected = BTreeMap<String, Result<(), String>>;

/// Dials all peers at once, so that one that does not answer costs no time of the others. The error says why there is
/// no identity to dial with.
pub async fn dial(
    peers: BTreeMap<ClusterName, Peer>,
    connected: &Connected,
    identity: Result<Arc<Identity>, String>,
    allow_tls12: bool,
) -> Vec<Facts> {
    let min_tls = if allow_tls12 { MinTls::Tls12 } else { MinTls::Tls13 };
    let own = identity.map(|identity| {
        let limits = Arc::new(Limits::default());
        Own { instance: "wharf-check".into(), identity: watch::channel(identity).1, min_tls, limits }
    });
    let facts = peers.into_values().map(|peer| async {
        let reach = match (&peer.endpoint, &own) {
            (None, _) => Reach::NotDialled,
            (Some(_), Err(why)) => Reach::NotTried(why.clone()),
            (Some(endpoint), Ok(own)) => {
                match probe_under(peer.ca_bundle.as_ref(), endpoint, &peer.identity, own).await {
                    Ok(probe) => Reach::Answered(Box::new(probe)),
                    Err(error) => failed(&error),
                }
            }
        };
        Facts { reach, connected: connected.get(peer.name.as_str()).cloned(), peer }
    });
    join_all(facts).await
}

fn failed(error: &SessionError) -> Reach {
    let way = matches!(
        error,
        SessionError::Dial(DialError::Resolve { .. } | DialError::Connect { .. } | DialError::Slow { .. })
    );
    if way { Reach::Unreachable(error.to_string()) } else { Reach::Refused(error.to_string()) }
}
