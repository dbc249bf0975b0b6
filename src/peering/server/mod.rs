//! The donor's end of the wire: accepts connections, finds out who is there, and serves the board to those who may
//! read it.
//!
//! A connection passes three gates. TLS ([`connection`]): a certificate under the shared root, in time. Identity
//! ([`gate`]), in front of every service: one SPIFFE ID, of a peer. Subscription ([`donor`]): a peer that may consume,
//! under a name that no other cluster uses. What ends a stream later is whatever would not let it begin now: the peer
//! is no longer trusted, or its certificate has expired or was revoked.

mod connection;
mod donor;
mod feed;
mod gate;
mod handshakes;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig as TlsConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::donor::Donor;
use self::gate::Routes;
use self::handshakes::Handshakes;
use super::pb::peering_service_server::SERVICE_NAME;
use super::{Board, Limits, PeerTable, Subscribers};
use crate::identity::tls::{MinTls, server_config};
use crate::identity::{Identity, IdentityError};
use crate::model::SpiffeId;

/// What a server is made of.
#[derive(Clone)]
pub struct Parts {
    /// This cluster's instance.
    pub instance: String,
    pub board: Board,
    pub subscribers: Subscribers,
    pub peers: watch::Receiver<Arc<PeerTable>>,
    pub identity: watch::Receiver<Arc<Identity>>,
    pub min_tls: MinTls,
    pub limits: Arc<Limits>,
}

/// Counts for metrics. Each only grows, but `connections`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Open now, with the handshake done.
    pub connections: AtomicU64,
    pub accepted: AtomicU64,
    /// Handshakes that failed, were too slow, or were given up for newer ones.
    pub handshakes_failed: AtomicU64,
    /// Closed at once, because there were too many.
    pub connections_refused: AtomicU64,
    /// Calls that the gate refused.
    pub calls_refused: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a server cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the description of the peering protocol cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The peering server of one cluster, ready to serve.
pub struct Server {
    shared: Arc<Shared>,
    health: HealthReporter,
    tls: Tls,
}

/// What all connections share.
struct Shared {
    parts: Parts,
    routes: Routes,
    counters: Arc<Counters>,
    connections: Arc<Semaphore>,
    by_identity: Mutex<BTreeMap<SpiffeId, usize>>,
    handshakes: Handshakes,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    pub fn new(parts: Parts) -> Result<Server, ServerError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = Routes::new(Donor::new(&parts), health_service, parts.limits.max_message)?;
        let tls = Tls::new(parts.identity.clone(), parts.min_tls)?;
        let shared = Shared {
            routes,
            counters: Arc::default(),
            connections: Arc::new(Semaphore::new(parts.limits.max_connections)),
            by_identity: Mutex::default(),
            handshakes: Handshakes::new(parts.limits.max_handshakes),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            parts,
        };
        Ok(Server { shared: Arc::new(shared), health, tls })
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Serves until `stop`, then lets streams end: they are told, given `Limits::drain`, and cut.
    pub async fn serve(mut self, listener: TcpListener, stop: CancellationToken) {
        let mut opened = self.shared.parts.board.opened();
        let open = *opened.borrow_and_update();
        self.report(open).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = opened.changed() => {
                    let open = *opened.borrow_and_update();
                    self.report(open).await;
                }
                accepted = listener.accept() => match accepted {
                    Ok((tcp, from)) => {
                        tracing::trace!(%from, "connection accepted");
                        self.start(tcp);
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
        drop(listener); // who connects now is refused, and tries another replica
        self.report(false).await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await; // each ends within the drain time by itself
    }

    fn start(&mut self, tcp: TcpStream) {
        Counters::add(&self.shared.counters.accepted);
        let Ok(permit) = self.shared.connections.clone().try_acquire_owned() else {
            Counters::add(&self.shared.counters.connections_refused);
            tracing::warn!(limit = self.shared.parts.limits.max_connections, "too many connections: one was refused");
            return;
        };
        let tls = self.tls.current();
        let connection = connection::serve(tcp, tls, self.shared.clone());
        self.shared.tasks.spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    /// Whether the agent as a whole, and its peering service, can answer.
    async fn report(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
        self.health.set_service_status(SERVICE_NAME, status).await;
    }
}

impl Shared {
    /// One more connection of an identity; None if it has too many.
    fn enter(self: &Arc<Self>, id: &SpiffeId) -> Option<Entered> {
        let mut by_identity = self.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_identity.entry(id.clone()).or_insert(0);
        if *count >= self.parts.limits.max_connections_per_peer {
            return None;
        }
        *count += 1;
        Some(Entered { shared: self.clone(), id: id.clone() })
    }
}

/// Counts one connection of an identity until it is dropped.
struct Entered {
    shared: Arc<Shared>,
    id: SpiffeId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut by_identity = self.shared.by_identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_identity.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                by_identity.remove(&self.id);
            }
        }
    }
}

/// Out of file descriptors, most often: accepting again at once would only spin.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// The TLS configuration of the identity in force, made once for each.
struct Tls {
    identity: watch::Receiver<Arc<Identity>>,
    min: MinTls,
    config: Arc<TlsConfig>,
}

impl Tls {
    fn new(mut identity: watch::Receiver<Arc<Identity>>, min: MinTls) -> Result<Tls, IdentityError> {
        let config = server_config(&identity.borrow_and_update(), min)?;
        Ok(Tls { identity, min, config })
    }

    fn current(&mut self) -> Arc<TlsConfig> {
        if self.identity.has_changed().unwrap_or(false) {
            match server_config(&self.identity.borrow_and_update(), self.min) {
                Ok(config) => self.config = config,
                Err(error) => tracing::error!(%error, "the new identity cannot be served; the one before is"),
            }
        }
        self.config.clone()
    }
}
