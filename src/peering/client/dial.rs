//! Dials an endpoint, up to HTTP/2 with the right peer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, select_ok};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::{DnsName, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::identity::tls::{client_config_under, explain_tls_error};
use crate::identity::{Identity, IdentityError, PeerCertificate, ShownCertificates, peer_certificate};
use crate::model::{Address, CaBundle, Endpoint, SpiffeId};
use crate::peering::client::AcceptorContext;
use crate::peering::tasks::ConnectionTasks;
use crate::peering::{Limits, SERVER_NAME};

/// The reason why no peer, or the wrong one, was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{host} has no address: {source}; look at the peer's endpoint and at DNS")]
    Resolve { host: String, source: io::Error },
    #[error("{endpoint} cannot be reached: {source}; is the peer's agent running, and is its peering port open?")]
    Connect { endpoint: Endpoint, source: io::Error },
    #[error("TLS with {endpoint} failed: {reason}")]
    Tls { endpoint: Endpoint, reason: String },
    #[error("{endpoint} did not answer in {} s", .after.as_secs_f32())]
    Slow { endpoint: Endpoint, after: Duration },
    #[error("HTTP/2 with {endpoint} failed: {reason}")]
    Http { endpoint: Endpoint, reason: String },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A connection to the right peer.
pub(super) struct DialledConnection {
    pub(super) http: HttpChannel,
    /// The peer's certificate.
    pub(super) certificate: PeerCertificate,
    /// The peer's certificate with the chain that led to a root.
    pub(super) shown: ShownCertificates,
    /// The reason why the connection broke, once it has.
    pub(super) broken: BreakReason,
}

/// Dials `endpoint` and makes sure that `expected` answers.
pub(super) async fn dial_peer(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    bundle: Option<&CaBundle>,
    own: &AcceptorContext,
    tasks: ConnectionTasks,
) -> Result<DialledConnection, DialError> {
    let after = own.limits.handshake_timeout;
    let identity = own.identity.borrow().clone();
    match tokio::time::timeout(after, open_connection(endpoint, expected, bundle, &identity, own, tasks)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Slow { endpoint: endpoint.clone(), after }),
    }
}

async fn open_connection(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    bundle: Option<&CaBundle>,
    identity: &Identity,
    own: &AcceptorContext,
    tasks: ConnectionTasks,
) -> Result<DialledConnection, DialError> {
    let tls = TlsConnector::from(client_config_under(bundle, identity, expected, own.min_tls)?);
    let addresses = resolve_endpoint(endpoint).await?;
    let failed = |reason: String| DialError::Tls { endpoint: endpoint.clone(), reason };
    let stream = open_tls(&endpoint.host, &addresses, &tls, &own.limits).await.map_err(|failure| match failure {
        TlsFailure::Connect(source) => DialError::Connect { endpoint: endpoint.clone(), source },
        TlsFailure::Name => failed("its name is no host name".into()),
        TlsFailure::Handshake(error) => failed(describe_handshake_error(&error)),
    })?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(b"h2") {
        return Err(failed("it does not speak HTTP/2; is this the peering port of a Wharf agent?".into()));
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let certificate = peer_certificate(chain).map_err(|problem| failed(problem.to_string()))?;
    let shown = ShownCertificates::from_chain(chain);
    let broken = BreakReason::default();
    let io = TokioIo::new(WatchedStream { stream, broken: broken.clone() });
    let (http, connection) = http_builder(&own.limits, tasks.clone()).handshake(io).await.map_err(|error| {
        let reason = broken.reason().unwrap_or_else(|| error.to_string());
        DialError::Http { endpoint: endpoint.clone(), reason }
    })?;
    hyper::rt::Executor::execute(&tasks, async {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a donor broke");
        }
    });
    Ok(DialledConnection { http: HttpChannel(http), certificate, shown, broken })
}

fn http_builder(limits: &Limits, tasks: ConnectionTasks) -> http2::Builder<ConnectionTasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.donor_window)
        .initial_connection_window_size(limits.donor_window)
        .max_header_list_size(limits.max_header_list)
        .max_send_buf_size(limits.max_send_buffer)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .keep_alive_while_idle(true);
    builder
}

/// Resolves an endpoint. Called for each attempt: a name may move.
async fn resolve_endpoint(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, DialError> {
    match &endpoint.host {
        Address::Ip(ip) => Ok(vec![SocketAddr::new(*ip, endpoint.port)]),
        Address::Name(host) => tokio::net::lookup_host((host.as_str(), endpoint.port))
            .await
            .map(Iterator::collect)
            .map_err(|source| DialError::Resolve { host: host.to_string(), source }),
    }
}

/// The reason why there is no TLS with an endpoint.
enum TlsFailure {
    Connect(io::Error),
    Name,
    Handshake(io::Error),
}

/// Opens TLS under [`SERVER_NAME`], and under the endpoint's own name or address if that fails or takes long.
///
/// An agent takes any name. The second is for what stands in front of an agent of 0.1 and goes by the name that 0.1
/// sent: it may close a connection with another name, lead it elsewhere, or leave it unanswered.
async fn open_tls(
    host: &Address,
    addresses: &[SocketAddr],
    tls: &TlsConnector,
    limits: &Limits,
) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let common = ServerName::try_from(SERVER_NAME).map_err(|_| TlsFailure::Name)?;
    let own = server_name(host).ok_or(TlsFailure::Name)?;
    let next_after = limits.next_address_after;
    let mut first: BoxFuture<'_, _> = begin_tls(addresses, tls, common, next_after).boxed();
    let second: BoxFuture<'_, _> = begin_tls(addresses, tls, own, next_after).boxed();
    let half = limits.handshake_timeout / 2;
    match tokio::time::timeout(half, &mut first).await {
        Ok(Err(TlsFailure::Handshake(refusal))) => match tokio::time::timeout(half, second).await {
            Ok(Ok(stream)) => Ok(stream),
            // An answer tells more than a connection that was closed.
            Ok(Err(TlsFailure::Handshake(error))) if explain_tls_error(&refusal).is_none() => {
                Err(TlsFailure::Handshake(error))
            }
            Ok(Err(_)) | Err(_) => Err(TlsFailure::Handshake(refusal)),
        },
        Ok(done) => done,
        Err(_) => select_ok([first, second]).await.map(|(stream, _)| stream),
    }
}

async fn begin_tls(
    addresses: &[SocketAddr],
    tls: &TlsConnector,
    name: ServerName<'static>,
    next_after: Duration,
) -> Result<TlsStream<TcpStream>, TlsFailure> {
    let tcp = connect_first(addresses, next_after).await.map_err(TlsFailure::Connect)?;
    tls.connect(name, tcp).await.map_err(TlsFailure::Handshake)
}

/// Describes why a handshake failed. Envoy closes a connection whose server name leads nowhere, without an alert.
fn describe_handshake_error(error: &io::Error) -> String {
    explain_tls_error(error).unwrap_or_else(|| {
        format!(
            "{error}; if an ingress gateway is there, look whether it leads the server name {SERVER_NAME} to its agent"
        )
    })
}

fn server_name(host: &Address) -> Option<ServerName<'static>> {
    match host {
        Address::Ip(ip) => Some(ServerName::from(*ip)),
        Address::Name(host) => DnsName::try_from(host.to_string()).ok().map(ServerName::from),
    }
}

/// Connects to the first address that answers. The next one is begun when one fails, or has not answered for a while,
/// so that a dead address costs a moment and not the whole attempt (RFC 8305, without its preference of families).
async fn connect_first(addresses: &[SocketAddr], next_after: Duration) -> io::Result<TcpStream> {
    let mut rest = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match rest.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let more = rest.len() > 0;
        let result = tokio::select! {
            result = attempts.next() => result,
            () = tokio::time::sleep(next_after), if more => None,
        };
        match result {
            Some(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

/// HTTP/2 over one connection, as tonic wants it: no pool, no reconnecting, nothing in between.
#[derive(Clone)]
pub(super) struct HttpChannel(http2::SendRequest<Body>);

impl Service<Request<Body>> for HttpChannel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

/// Keeps the reason of a broken connection. In TLS 1.3 a server refuses the client's certificate when the client
/// believes the handshake done (RFC 8446, section 4.4.2.4), and HTTP/2 forgets all about an error but its kind.
#[derive(Clone, Default)]
pub(super) struct BreakReason(Arc<Mutex<Option<String>>>);

impl BreakReason {
    pub(super) fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record_error<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            let reason = explain_tls_error(error).unwrap_or_else(|| error.to_string());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        }
        result
    }
}

struct WatchedStream {
    stream: TlsStream<TcpStream>,
    broken: BreakReason,
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.broken.record_error(result)
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.broken.record_error(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.broken.record_error(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.broken.record_error(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
