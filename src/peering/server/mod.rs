//! The donor's end of the wire: accepts connections, identifies the peer, and serves the board to peers that may read
//! it.
//!
//! A connection passes three gates. TLS ([`connection`]): a certificate under the shared root, in time. Identity
//! ([`gate`]), in front of every service: one SPIFFE ID, of a peer. Subscription ([`donor`]): a peer that may consume,
//! under a name that no other cluster uses. A stream ends later for the same reasons that would not let it begin now:
//! the peer is no longer trusted, or its certificate has expired or was revoked.

mod body;
mod callers;
mod connection;
mod deadlines;
mod donor;
mod feed;
mod gate;
mod ingress;
mod oversight;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig as TlsConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::donor::DonorService;
use self::gate::ServiceRoutes;
use self::ingress::{HandshakePaces, IngressPaces, ingress_paces};
use self::oversight::{CallerOversight, LogSubject};
use super::fair::FairPool;
use super::limits::{MAX_REFUSED_CONNECTIONS, MAX_REFUSED_CONNECTIONS_PER_SOURCE, UNREAD_GRACE};
use super::pb::peering_service_server::SERVICE_NAME;
use super::{Board, Limits, PeerTable, Subscribers};
use crate::identity::tls::{MinTls, server_config_with};
use crate::identity::{Identity, IdentityError};
use crate::model::{ClusterName, SpiffeId};

/// The parts that a server is made of.
#[derive(Clone)]
pub struct ServerParts {
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
pub struct ServerCounters {
    /// Open now, with the handshake done.
    pub connections: AtomicU64,
    pub accepted: AtomicU64,
    /// Handshakes that failed, were too slow, or were given up for newer ones.
    pub handshakes_failed: AtomicU64,
    /// Refused, or closed for others, because there were too many.
    pub connections_refused: AtomicU64,
    /// Calls that the gate refused.
    pub calls_refused: AtomicU64,
}

impl ServerCounters {
    fn add_one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The reason why a server cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the description of the peering protocol cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The peering server of one cluster, ready to serve.
pub struct PeeringServer {
    shared: Arc<ServerState>,
    health: HealthReporter,
    tls: ServerTls,
}

/// State that all connections share.
struct ServerState {
    parts: ServerParts,
    routes: ServiceRoutes,
    counters: Arc<ServerCounters>,
    oversight: Arc<CallerOversight>,
    /// Connections that have not sent the first message of TLS in full.
    silent: Arc<FairPool<ConnectionSource>>,
    /// TLS handshakes after the first message.
    handshakes: Arc<FairPool<ConnectionSource>>,
    /// Paces of TLS handshakes: they cost the agent more computation than the source.
    handshake_paces: HandshakePaces<ConnectionSource>,
    /// Pace of the bytes that each identity may send.
    ingress_paces: Arc<IngressPaces>,
    /// Connections with a certificate that may be a peer's.
    connections: Arc<FairPool<SpiffeId>>,
    /// Connections that stay open until the reason of their refusal is sent.
    refused: Arc<FairPool<ConnectionSource>>,
    /// Bytes of requests that are not complete, or are worked on.
    received: Arc<FairPool<ClusterName>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl PeeringServer {
    pub fn new(parts: ServerParts) -> Result<PeeringServer, ServerError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let limits = parts.limits.clone();
        let unread = build_pool(limits.max_unread, limits.max_unread_per_peer, UNREAD_GRACE);
        let routes = ServiceRoutes::new(DonorService::new(&parts, unread), health_service, &limits)?;
        let tls = ServerTls::new(parts.identity.clone(), parts.peers.clone(), parts.min_tls)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let oversight = CallerOversight::new(&limits, parts.subscribers.clone(), tasks.clone(), stop.clone());
        let at_once = Duration::ZERO;
        let shared = ServerState {
            routes,
            counters: Arc::default(),
            oversight: Arc::new(oversight),
            // One source has at most half, so that others need not wait until it gives something up.
            silent: build_pool(limits.max_silent, limits.max_silent.div_ceil(2), at_once),
            handshakes: build_pool(limits.max_handshakes, limits.max_handshakes.div_ceil(2), at_once),
            handshake_paces: HandshakePaces::new(limits.max_peers, std::time::Instant::now()),
            ingress_paces: ingress_paces(limits.max_peers),
            connections: build_pool(limits.max_connections, limits.max_connections_per_peer, at_once),
            refused: build_pool(MAX_REFUSED_CONNECTIONS, MAX_REFUSED_CONNECTIONS_PER_SOURCE, at_once),
            received: build_pool(limits.max_received, limits.max_received_per_peer, at_once),
            tasks,
            stop,
            parts,
        };
        Ok(PeeringServer { shared: Arc::new(shared), health, tls })
    }

    pub fn counters(&self) -> Arc<ServerCounters> {
        self.shared.counters.clone()
    }

    /// Serves until `stop`, then lets streams end: they get a status, the time `Limits::drain`, and are cut.
    pub async fn serve(mut self, listener: TcpListener, stop: CancellationToken) {
        let mut opened = self.shared.parts.board.watch_opened();
        let open = *opened.borrow_and_update();
        self.report_health(open).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = opened.changed() => {
                    let open = *opened.borrow_and_update();
                    self.report_health(open).await;
                }
                accepted = listener.accept() => match accepted {
                    Ok((tcp, from)) => {
                        tracing::trace!(%from, "connection accepted");
                        self.start_connection(tcp, from.ip());
                    }
                    Err(error) => self.pause_accepting(&error).await,
                }
            }
        }
        drop(listener); // who connects now is refused, and tries another replica
        self.report_health(false).await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await; // each ends within the drain time by itself
    }

    fn start_connection(&mut self, tcp: TcpStream, from: IpAddr) {
        ServerCounters::add_one(&self.shared.counters.accepted);
        let connection = connection::serve_connection(
            tcp,
            ConnectionSource::from_address(from),
            self.tls.current_config(),
            self.shared.clone(),
        );
        self.shared.tasks.spawn(connection);
    }

    /// Waits before accepting again. The cause is most often a lack of file descriptors: accepting again at once would
    /// only spin.
    async fn pause_accepting(&self, error: &io::Error) {
        let write = |left_out| tracing::warn!(%error, left_out, "a connection could not be accepted");
        self.shared.oversight.log_line(LogSubject::Listener, write);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Reports whether the agent as a whole, and its peering service, can answer.
    async fn report_health(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status("", status).await;
        self.health.set_service_status(SERVICE_NAME, status).await;
    }
}

fn build_pool<K: Ord + Clone>(max: usize, max_per_holder: usize, min_age: Duration) -> Arc<FairPool<K>> {
    Arc::new(FairPool::new(max, max_per_holder, min_age))
}

/// The source of a connection, as far as one sender can choose it: an IPv4 address, or an IPv6 network of 64 bits,
/// which is what one host is given (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ConnectionSource(IpAddr);

impl ConnectionSource {
    fn from_address(address: IpAddr) -> ConnectionSource {
        match address.to_canonical() {
            IpAddr::V6(v6) => ConnectionSource(IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into())),
            v4 @ IpAddr::V4(_) => ConnectionSource(v4),
        }
    }
}

/// The TLS configuration of the identity in force, made once for each.
struct ServerTls {
    identity: watch::Receiver<Arc<Identity>>,
    peers: watch::Receiver<Arc<PeerTable>>,
    min: MinTls,
    config: Arc<TlsConfig>,
}

impl ServerTls {
    fn new(
        mut identity: watch::Receiver<Arc<Identity>>,
        mut peers: watch::Receiver<Arc<PeerTable>>,
        min: MinTls,
    ) -> Result<ServerTls, IdentityError> {
        let config = server_config_with(&identity.borrow_and_update(), peers.borrow_and_update().bundles(), min)?;
        Ok(ServerTls { identity, peers, min, config })
    }

    fn current_config(&mut self) -> Arc<TlsConfig> {
        if self.identity.has_changed().unwrap_or(false) || self.peers.has_changed().unwrap_or(false) {
            let (identity, peers) = (self.identity.borrow_and_update(), self.peers.borrow_and_update());
            match server_config_with(&identity, peers.bundles(), self.min) {
                Ok(config) => self.config = config,
                Err(error) => tracing::error!(%error, "the new identity cannot be served; the previous one stays"),
            }
        }
        self.config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network_of_64_bits() {
        let source = |text: &str| ConnectionSource::from_address(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::3"), source("2001:db8:1:2:ffff::1"));
        assert_ne!(source("2001:db8:1:2::3"), source("2001:db8:1:3::3"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
