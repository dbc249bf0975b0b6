//! One connection: from TCP to its end. HTTP/2 is driven here rather than by a framework, so that the connection
//! belongs to a task that somebody waits for, and can be ended in time whatever the peer does.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig as TlsConfig;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::deadlines::AnswerDeadlines;
use super::ingress::{ConnectionIngress, MeteredTcp};
use super::oversight::LogSubject;
use super::{ConnectionSource, ServerCounters, ServerState};
use crate::identity::{
    PeerCertificate, ShownCertificates, format_moment, is_under, peer_certificate, tls, wait_until_revoked,
};
use crate::model::SpiffeId;
use crate::peering::fair::PoolShare;
use crate::peering::peers::Caller;
use crate::peering::tasks::ConnectionTasks;
use crate::peering::{Limits, PeerTable};

/// Longest sleep of a timer before it is set again: a suspended machine's timers stand still, and its clock does not.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Time, and bytes, that a refused client may go on before it is cut.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// The other end, for as long as its connection lives.
pub(super) struct ServedConnection {
    /// The identity in its certificate, or the reason why it has none.
    pub(super) certificate: Result<PeerCertificate, Status>,
    /// The certificate with the chain that led to a root.
    pub(super) shown: ShownCertificates,
    chain: Vec<CertificateDer<'static>>,
    /// Set when the connection ends, with the status for its streams.
    pub(super) end: watch::Sender<Option<Status>>,
    /// Calls so far, and calls that are open.
    pub(super) calls: AtomicU64,
    pub(super) open: AtomicU64,
    /// Deadlines for its answers to be read.
    pub(super) answers: AnswerDeadlines,
    /// Its incoming side.
    pub(super) ingress: Arc<ConnectionIngress>,
    /// Ends the connection at once: others need what it holds.
    pub(super) cut: CancellationToken,
    /// Cancelled when the connection is over.
    pub(super) ended: CancellationToken,
}

pub(super) async fn serve_connection(
    tcp: TcpStream,
    source: ConnectionSource,
    config: Arc<TlsConfig>,
    shared: Arc<ServerState>,
) {
    let from = tcp.peer_addr().map(|a| a.to_string()).unwrap_or_default();
    let ingress = ConnectionIngress::new();
    let stream = match complete_handshake(tcp, source, config, &ingress, &shared).await {
        Ok(stream) => stream,
        Err(reason) => {
            ServerCounters::add_one(&shared.counters.handshakes_failed);
            let write = |left_out| tracing::info!(%from, %reason, left_out, "a TLS handshake was not completed");
            shared.oversight.log_line(LogSubject::Stranger, write);
            return;
        }
    };
    let cut = CancellationToken::new();
    let (certificate, _entered) = identify_peer(&stream, &cut, &shared);
    let refused = match &certificate {
        Ok(certificate) => {
            tracing::debug!(%from, peer = %certificate.spiffe_id, "connected");
            None
        }
        Err(status) => {
            let write = |left_out| tracing::info!(%from, reason = status.message(), left_out, "a client is refused");
            shared.oversight.log_line(LogSubject::NoPeer, write);
            Some(shared.refused.enter_share(source, cut.clone(), std::time::Instant::now()))
        }
    };
    let id = certificate.as_ref().ok().map(|certificate| certificate.spiffe_id.clone());
    ingress.set_sender(id, &shared.ingress_paces);
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    let shown = ShownCertificates::from_chain(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let revoked = wait_until_revoked(shared.parts.identity.clone(), shown.clone());
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let connection = Arc::new(ServedConnection {
        certificate,
        shown,
        chain,
        end: watch::Sender::new(None),
        calls: AtomicU64::new(0),
        open: AtomicU64::new(0),
        answers: AnswerDeadlines::default(),
        ingress,
        cut,
        ended: CancellationToken::new(),
    });
    let _ended = connection.ended.clone().drop_guard();
    drive_http(stream, connection, &shared, &from, revoked).await;
    shared.counters.connections.fetch_sub(1, Ordering::Relaxed);
    drop(refused);
}

/// Has two steps, because the first message of TLS arrives with the connection: a client that has not sent it is not an
/// honest one that is far away. So a flood of such connections pushes out itself, and no client that is half a round
/// trip further.
async fn complete_handshake(
    tcp: TcpStream,
    source: ConnectionSource,
    config: Arc<TlsConfig>,
    ingress: &Arc<ConnectionIngress>,
    shared: &ServerState,
) -> Result<TlsStream<MeteredTcp>, String> {
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let end = Instant::now() + shared.parts.limits.handshake_timeout;
    let begun = {
        let given_up = CancellationToken::new();
        let _place = shared.silent.enter_share(source, given_up.clone(), std::time::Instant::now());
        in_time(begin_handshake(MeteredTcp::new(tcp, ingress.clone())), end, &given_up, shared).await?
    };
    let given_up = CancellationToken::new();
    let (now, longest) = (std::time::Instant::now(), shared.parts.limits.handshake_timeout / 2);
    let wait = shared.handshake_paces.take_handshake(&source, longest, now);
    let wait = wait.ok_or_else(|| "its source begins more TLS handshakes than one source may".to_owned())?;
    let _place = shared.handshakes.enter_share(source, given_up.clone(), std::time::Instant::now());
    let finish = async {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        finish_handshake(begun, config).await
    };
    in_time(finish, end, &given_up, shared).await
}

async fn in_time<T>(
    step: impl Future<Output = Result<T, String>>,
    end: Instant,
    given_up: &CancellationToken,
    shared: &ServerState,
) -> Result<T, String> {
    tokio::select! {
        done = timeout_at(end, step) => {
            done.unwrap_or_else(|_| Err("it did not finish the TLS handshake in time".into()))
        }
        () = given_up.cancelled() => Err("its TLS handshake was given up for newer ones".into()),
        () = shared.stop.cancelled() => Err("the agent is shutting down".into()),
    }
}

async fn begin_handshake(tcp: MeteredTcp) -> Result<StartHandshake<MeteredTcp>, String> {
    let mut hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
    match (&mut hello).await {
        Ok(begun) => Ok(begun),
        Err(error) => Err(refuse_handshake(&error, hello.take_io()).await),
    }
}

async fn finish_handshake(
    begun: StartHandshake<MeteredTcp>,
    config: Arc<TlsConfig>,
) -> Result<TlsStream<MeteredTcp>, String> {
    match begun.into_stream(config).into_fallible().await {
        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Ok(stream),
        Ok(_) => Err("it does not offer HTTP/2 (ALPN h2), which gRPC needs".into()),
        Err((error, tcp)) => Err(refuse_handshake(&error, Some(tcp)).await),
    }
}

async fn refuse_handshake(error: &std::io::Error, tcp: Option<MeteredTcp>) -> String {
    if let Some(tcp) = tcp {
        linger_after_alert(tcp.into_inner()).await;
    }
    tls::explain_tls_error(error).unwrap_or_else(|| error.to_string())
}

/// Closes so that the alert arrives. A client of TLS 1.3 has sent more by the time it is refused, and unread data on a
/// socket that is closed makes the kernel reset the connection, alert and all (RFC 2525, section 2.17).
async fn linger_after_alert(mut tcp: TcpStream) {
    if tcp.shutdown().await.is_ok() {
        let mut rest = tcp.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

/// Returns the identity of the other end, and its place among the connections of its identity; or the reason why it is
/// refused.
fn identify_peer(
    stream: &TlsStream<MeteredTcp>,
    cut: &CancellationToken,
    shared: &ServerState,
) -> (Result<PeerCertificate, Status>, Option<PoolShare<SpiffeId>>) {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = peer_certificate(chain)
        .map_err(|problem| Status::unauthenticated(format!("the certificate is refused: {problem}")))
        .and_then(|certificate| check_roots(chain, &certificate, shared).map(|()| certificate));
    let certificate = match certificate {
        Ok(certificate) => certificate,
        Err(status) => return (Err(status), None),
    };
    let place = shared.connections.begin_share(certificate.spiffe_id.clone(), cut.clone());
    if place.resize(1).is_err() {
        ServerCounters::add_one(&shared.counters.connections_refused);
        let (limit, id) = (shared.parts.limits.max_connections_per_peer, &certificate.spiffe_id);
        let why = format!("{id} has {limit} connections already, the limit for one peer");
        return (Err(Status::resource_exhausted(why)), None);
    }
    (Ok(certificate), Some(place))
}

/// Checks the roots of the peer's own entry: TLS takes the roots of any peer.
fn check_roots(
    chain: &[CertificateDer<'_>],
    certificate: &PeerCertificate,
    shared: &ServerState,
) -> Result<(), Status> {
    let id = &certificate.spiffe_id;
    let table = shared.parts.peers.borrow().clone();
    let identity = shared.parts.identity.borrow().clone();
    is_under(chain, table.bundle_of(id), &identity, OffsetDateTime::now_utc()).map_err(|why| {
        let roots = if table.bundle_of(id).is_some() { "the caBundle of its entry" } else { "the shared roots" };
        Status::unauthenticated(format!("the certificate of {id} is refused under {roots} at {}: {why}", table.cluster))
    })
}

async fn drive_http(
    stream: TlsStream<MeteredTcp>,
    connection: Arc<ServedConnection>,
    shared: &Arc<ServerState>,
    from: &str,
    revoked: impl Future<Output = String>,
) {
    let service = {
        let (connection, shared) = (connection.clone(), shared.clone());
        service_fn(move |request| {
            let (connection, shared) = (connection.clone(), shared.clone());
            async move { Ok::<_, Infallible>(shared.routes.answer_call(request, &connection, &shared).await) }
        })
    };
    let limits = &shared.parts.limits;
    let (tasks, _guard) = ConnectionTasks::new(shared.tasks.clone());
    let mut http = pin!(http_builder(limits, tasks).serve_connection(TokioIo::new(stream), service));
    let reason = tokio::select! {
        result = &mut http => {
            if let Err(error) = result {
                tracing::debug!(%from, %error, "a connection broke");
            }
            return;
        }
        reason = wait_until_ended(&connection, shared) => reason,
        reason = revoked => Status::unauthenticated(reason),
        () = wait_until_idle(&connection, limits) => Status::unavailable("the connection was idle"),
        () = connection.cut.cancelled() => {
            ServerCounters::add_one(&shared.counters.connections_refused);
            tracing::debug!(%from, "a connection is closed to free its place");
            return;
        }
        () = connection.answers.wait_until_passed() => {
            strike_slow_reader(&connection, shared);
            return;
        }
    };
    tracing::debug!(%from, reason = reason.message(), "a connection is ended");
    connection.end.send_replace(Some(reason));
    http.as_mut().graceful_shutdown();
    // A peer that does not read its answers is cut.
    let _ = timeout(limits.drain, http).await;
}

/// Records a breach by a peer that leaves its answers unread: it holds the memory that they take.
fn strike_slow_reader(connection: &ServedConnection, shared: &ServerState) {
    let Ok(certificate) = &connection.certificate else { return };
    let caller = shared.parts.peers.borrow().find_caller(&certificate.spiffe_id);
    if let Ok(caller) = caller {
        shared.oversight.add_strike(&caller.cluster, "it did not read its answers in time");
    }
}

fn http_builder(limits: &Limits, tasks: ConnectionTasks) -> http2::Builder<ConnectionTasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .initial_stream_window_size(limits.window)
        .initial_connection_window_size(limits.window)
        .max_send_buf_size(limits.max_send_buffer)
        .max_header_list_size(limits.max_header_list)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_error_resets)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// Waits until the connection has to end, and returns the reason.
async fn wait_until_ended(connection: &ServedConnection, shared: &ServerState) -> Status {
    let Ok(certificate) = &connection.certificate else {
        shared.stop.cancelled().await;
        return draining_status();
    };
    tokio::select! {
        () = shared.stop.cancelled() => draining_status(),
        status = wait_until_untrusted(certificate, shared.parts.peers.clone()) => status,
        status = wait_until_rootless(connection, certificate, shared) => status,
        () = wait_until_expired(certificate) => Status::unauthenticated(format!(
            "the certificate of this connection expired on {}; connect again with a renewed one",
            format_moment(certificate.not_after)
        )),
    }
}

fn draining_status() -> Status {
    Status::unavailable("the agent is shutting down")
}

/// Waits until the peer may do less than before.
async fn wait_until_untrusted(certificate: &PeerCertificate, mut peers: watch::Receiver<Arc<PeerTable>>) -> Status {
    let id = &certificate.spiffe_id;
    let mut before: Option<Caller> = peers.borrow_and_update().find_caller(id).ok();
    loop {
        if peers.changed().await.is_err() {
            return std::future::pending().await; // nobody can change it any more
        }
        let table = peers.borrow_and_update().clone();
        let now = table.find_caller(id);
        if let Some(before) = &before {
            match &now {
                Err(refusal) => return refusal.to_status(),
                Ok(now) if now.cluster != before.cluster => {
                    return Status::permission_denied(format!("{id} is {} now, not {}", now.cluster, before.cluster));
                }
                Ok(now) if before.consume && !now.consume => {
                    let refusal = table.find_consumer(id).err().map(|r| r.to_string());
                    return Status::permission_denied(refusal.unwrap_or_default());
                }
                Ok(_) => {}
            }
        }
        before = now.ok();
    }
}

/// Waits until the roots of the peer's entry do not vouch for its chain any more.
async fn wait_until_rootless(
    connection: &ServedConnection,
    certificate: &PeerCertificate,
    shared: &ServerState,
) -> Status {
    let mut peers = shared.parts.peers.clone();
    let mut before = None;
    loop {
        let bundle = peers.borrow_and_update().bundle_of(&certificate.spiffe_id).cloned();
        if before.as_ref() != Some(&bundle)
            && let Err(status) = check_roots(&connection.chain, certificate, shared)
        {
            return status;
        }
        before = Some(bundle);
        if peers.changed().await.is_err() {
            return std::future::pending().await; // nobody can change it any more
        }
    }
}

async fn wait_until_expired(certificate: &PeerCertificate) {
    loop {
        let left = Duration::try_from(certificate.not_after - OffsetDateTime::now_utc()).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Waits until there was no call for a while. A refused client gets less time.
fn wait_until_idle(connection: &ServedConnection, limits: &Limits) -> impl Future<Output = ()> {
    let period = if connection.certificate.is_ok() {
        limits.idle_timeout
    } else {
        limits.handshake_timeout.min(limits.idle_timeout)
    };
    async move {
        let mut seen = connection.calls.load(Ordering::Relaxed);
        let mut next = Instant::now();
        loop {
            next += period;
            tokio::time::sleep_until(next).await;
            let calls = connection.calls.load(Ordering::Relaxed);
            if calls == seen && connection.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = calls;
        }
    }
}
