//! A donor that says whatever a test has it say, in the real protocol over real mutual TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status, Streaming};
use wharf::identity::tls::{MinTls, server_config};
use wharf::peering::pb;
use wharf::peering::pb::peering_service_server::{PeeringService, PeeringServiceServer};
use wharf::peering::pb::subscribe_response::Message;

use super::Site;
use super::attacker::Threads;

pub type Says = Box<dyn Iterator<Item = Message> + Send>;
type Script = dyn Fn(pb::Hello) -> Says + Send + Sync;

/// Runs until it is dropped.
pub struct HostileDonor {
    pub name: String,
    pub address: SocketAddr,
    /// Messages that the acceptor took off its hands.
    pub sent: Arc<AtomicUsize>,
    pub streams: Arc<AtomicUsize>,
    _threads: Arc<Threads>,
}

impl HostileDonor {
    /// A donor with a certificate of the site, that answers each hello with a welcome and what the script says, as fast as
    /// it is read, and then with nothing.
    pub fn start(site: &Site, name: &str, script: impl Fn(pb::Hello) -> Says + Send + Sync + 'static) -> HostileDonor {
        HostileDonor::start_on(&Arc::new(Threads::new()), site, name, script)
    }

    /// The same on threads that several share.
    pub fn start_on(
        threads: &Arc<Threads>,
        site: &Site,
        name: &str,
        script: impl Fn(pb::Hello) -> Says + Send + Sync + 'static,
    ) -> HostileDonor {
        let (sent, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let script = Scripted { script: Arc::new(script), sent: sent.clone(), streams: streams.clone() };
        let address = serve(threads, site, name, move |request| {
            let mut server = PeeringServiceServer::new(script.clone()).max_encoding_message_size(usize::MAX);
            async move {
                let Ok(response) = server.call(request).await;
                response
            }
        });
        HostileDonor { name: name.to_owned(), address, sent, streams, _threads: threads.clone() }
    }

    /// A donor whose first message after the welcome never ends: it announces so many bytes, and sends all but a few.
    pub fn start_half(threads: &Arc<Threads>, site: &Site, name: &str, announced: usize) -> HostileDonor {
        let (sent, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let begun = streams.clone();
        let welcome = pb::Welcome { protocol_version: 1, instance: "hostile".into(), heartbeat_seconds: 300 };
        let welcome = pb::SubscribeResponse { message: Some(Message::Welcome(welcome)) }.encode_to_vec();
        let mut half = framed(welcome.len());
        half.extend(welcome);
        half.extend(framed(announced));
        half.resize(half.len() + announced - 10, 0);
        let half = Bytes::from(half);
        let address = serve(threads, site, name, move |request| {
            begun.fetch_add(1, Ordering::Relaxed);
            let first = stream::iter([Ok::<_, Status>(Frame::data(half.clone()))]);
            let body = StreamBody::new(futures::StreamExt::chain(first, stream::pending()));
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.body(Body::new(body)).expect("a response");
            let never =
                async move { futures::StreamExt::count(http_body_util::BodyStream::new(request.into_body())).await };
            tokio::spawn(never);
            async move { response }
        });
        HostileDonor { name: name.to_owned(), address, sent, streams, _threads: threads.clone() }
    }

    /// Its entry among the peers of an acceptor.
    pub fn as_donor(&self) -> String {
        format!("{{name: {}, endpoint: \"{}\", allowedGateways: [192.0.2.0/24]}}", self.name, self.address)
    }
}

/// Serves HTTP/2 with the certificate of a cluster, at an address of the site.
fn serve<F>(
    runtime: &Runtime,
    site: &Site,
    name: &str,
    answer: impl Fn(hyper::Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = http::Response<Body>> + Send + 'static,
{
    let config = server_config(&site.identity(name), MinTls::default()).expect("a configuration");
    let address = site.address();
    let listener = runtime.block_on(TcpListener::bind(address)).expect("a port");
    runtime.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let (acceptor, answer) = (TlsAcceptor::from(config.clone()), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let connection = http2::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// What stands in front of a message of gRPC.
fn framed(length: usize) -> Vec<u8> {
    let mut header = vec![0];
    header.extend(u32::try_from(length).expect("a length").to_be_bytes());
    header
}

#[derive(Clone)]
struct Scripted {
    script: Arc<Script>,
    sent: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl PeeringService for Scripted {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<pb::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|r| r.message);
        let Some(pb::subscribe_request::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        // Whoever does not read acknowledgements holds up the acceptor's end of the stream.
        tokio::spawn(async move { while let Ok(Some(_)) = requests.message().await {} });
        self.streams.fetch_add(1, Ordering::Relaxed);
        let welcome = pb::Welcome { protocol_version: 1, instance: "hostile".into(), heartbeat_seconds: 15 };
        let says = (self.script)(hello);
        let sent = self.sent.clone();
        let messages = std::iter::once(Message::Welcome(welcome)).chain(says).inspect(move |_| {
            sent.fetch_add(1, Ordering::Relaxed);
        });
        let response = |message| Ok(pb::SubscribeResponse { message: Some(message) });
        Ok(Response::new(Box::pin(stream::iter(messages.map(response)).chain(tokio_stream::pending()))))
    }

    async fn list_expositions(
        &self,
        _: Request<pb::ListExpositionsRequest>,
    ) -> Result<Response<pb::ListExpositionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_peer(&self, _: Request<pb::GetPeerRequest>) -> Result<Response<pb::GetPeerResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A message with these expositions.
pub fn changes(changed: Vec<pb::Exposition>, revision: u64, synced: bool) -> Message {
    Message::Changes(pb::Changes { changed, withdrawn: Vec::new(), revision, synced })
}

/// A valid exposition of `default/<name>`, of the cluster's own gateway.
pub fn exposition(cluster: &str, name: &str, address: &str, version: &str) -> pb::Exposition {
    pb::Exposition {
        namespace: "default".into(),
        name: name.into(),
        host: format!("{name}.default.svc.cluster.local"),
        ports: vec![pb::Port {
            number: 80,
            name: "http".into(),
            protocol: pb::Protocol::Http.into(),
            host: String::new(),
            by_number: false,
        }],
        version: version.into(),
        tls: pb::TlsMode::Cluster.into(),
        identities: vec![format!("spiffe://wharf/cluster/{cluster}")],
        gateways: vec![pb::GatewayAddress { address: address.into(), port: 15443, locality: String::new() }],
        clients: Vec::new(),
    }
}

/// A valid exposition with its fields at their limits, but for names that would have to be looked up: some 110,000 bytes.
pub fn large_exposition(cluster: &str, name: &str) -> pb::Exposition {
    let label = |n: usize, length: usize| format!("{n:0>length$}");
    let port = |n: u32| pb::Port {
        number: n + 1,
        name: format!("p{n:0>62}"),
        protocol: pb::Protocol::Http.into(),
        host: if n == 0 { String::new() } else { format!("p{}.{name}.default.svc.cluster.local", n + 1) },
        by_number: n > 0,
    };
    let path = (0..31).map(|n| format!("/{}", label(n, 63))).collect::<String>();
    pb::Exposition {
        ports: (0..64).map(port).collect(),
        tls: pb::TlsMode::Workload.into(),
        identities: (0..32).map(|n| format!("spiffe://{cluster}/{}{path}", label(n, 20))).collect(),
        gateways: (0..32)
            .map(|n| pb::GatewayAddress {
                address: format!("192.0.2.{}", n + 1),
                port: 15443,
                locality: format!("{0}/{0}/{0}", label(n, 63)),
            })
            .collect(),
        clients: (0..256).map(|n| pb::Client { namespace: label(n, 63), service_account: label(n, 63) }).collect(),
        ..exposition(cluster, name, "192.0.2.1", &format!("{:0>64}", 1))
    }
}

/// The same under another name.
pub fn renamed(exposition: &pb::Exposition, name: &str) -> pb::Exposition {
    let mut other = exposition.clone();
    (other.name, other.host) = (name.to_owned(), format!("{name}.default.svc.cluster.local"));
    for port in other.ports.iter_mut().skip(1) {
        port.host = format!("p{}.{}", port.number, other.host);
    }
    other
}
