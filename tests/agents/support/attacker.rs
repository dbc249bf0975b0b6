//! A peer that calls an agent as no agent would, with the certificate of a cluster.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use wharf::identity::tls::{MinTls, client_config};
use wharf::model::{ClusterName, SpiffeId};
use wharf::peering::pb;
use wharf::peering::pb::subscribe_request::Message;

use super::{Cluster, Site};

pub const SUBSCRIBE: &str = "/wharf.peering.v1.PeeringService/Subscribe";
pub const LIST: &str = "/wharf.peering.v1.PeeringService/ListExpositions";
pub const GET_PEER: &str = "/wharf.peering.v1.PeeringService/GetPeer";
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";
pub const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Client = SendRequest<StreamBody<Frames>>;

/// All that attackers do together is paced by this, so that they leave the agent something of the machine's two cores.
const PART: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(2);

/// The certificate of a cluster, and whom it attacks.
#[derive(Clone)]
pub struct Attacker {
    /// Each has an address of its own, as clusters have.
    from: SocketAddr,
    to: SocketAddr,
    config: Arc<rustls::ClientConfig>,
}

impl Attacker {
    pub fn new(site: &Site, name: &str, to: &Cluster) -> Attacker {
        let identity = site.identity(name);
        let donor: ClusterName = to.name.parse().expect("a name");
        let config =
            client_config(&identity, &SpiffeId::of_cluster(&donor), MinTls::default()).expect("a configuration");
        Attacker { from: own_address(name), to: to.peering, config }
    }

    async fn open(&self) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(self.from).ok()?;
        socket.connect(self.to).await.ok()
    }

    /// A connection over which nothing more is read than what the windows let through.
    async fn connect(&self) -> Option<Client> {
        let tcp = self.open().await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(self.config.clone()).connect(name, tcp).await.ok()?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let (client, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// On each of some connections, on each of some streams: a message of which the end never comes. For ever.
    pub async fn send_halves(self, connections: usize, streams: usize, path: &'static str, announced: usize) {
        let mut half = vec![0];
        half.extend(u32::try_from(announced).expect("a length").to_be_bytes());
        half.resize(5 + announced - 10, 0);
        let half = Bytes::from(half);
        self.on_each(connections, move |client| {
            let half = half.clone();
            async move {
                let calls =
                    (0..streams).map(|_| call(client.clone(), path, paced(half.clone()).chain(stream::pending())));
                futures::future::join_all(calls).await;
            }
        })
        .await;
    }

    /// One hello after the other, as large as it may be.
    pub async fn send_hellos(self, connections: usize) {
        let held = |n: usize| pb::Held { namespace: "n".into(), name: format!("s{n}"), version: "1".into() };
        let hello = request(Message::Hello(pb::Hello {
            instance: "attacker".into(),
            protocol_version: 1,
            held: (0..180_000).map(held).collect(),
        }));
        self.on_each(connections, move |client| {
            let hello = hello.clone();
            async move { drop(call(client, SUBSCRIBE, paced(hello)).await) }
        })
        .await;
    }

    /// Acknowledgements without end that contradict each other.
    pub async fn send_acknowledgements(self, connections: usize, service: &'static str) {
        let hello = pb::Hello { instance: "attacker".into(), protocol_version: 1, held: Vec::new() };
        let outcome = |state: pb::outcome::State| pb::Outcome {
            exposition: Some(pb::ExpositionName { namespace: "default".into(), name: service.into() }),
            state: state.into(),
            reason: "Reason".into(),
            message: "m".repeat(400),
        };
        let acknowledge = |state| {
            let outcomes = vec![outcome(state); 200];
            request(Message::Acknowledgement(pb::Acknowledgement { revision: 1, outcomes }))
        };
        let both = [acknowledge(pb::outcome::State::Bound), acknowledge(pb::outcome::State::Rejected)];
        let hello = request(Message::Hello(hello));
        self.on_each(connections, move |client| {
            let (hello, both) = (hello.clone(), both.clone());
            async move {
                let acknowledgements = stream::iter(both.into_iter().cycle()).flat_map(paced);
                let Ok(response) = call(client, SUBSCRIBE, paced(hello).chain(acknowledgements)).await else { return };
                let mut body = response.into_body();
                while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
            }
        })
        .await;
    }

    /// Calls that are given up as soon as they are made.
    pub async fn reset_calls(self, connections: usize) {
        self.on_each(connections, |client| async move {
            for _ in 0..200 {
                let given_up = call(client.clone(), GET_PEER, stream::pending());
                let _ = tokio::time::timeout(PAUSE, given_up).await;
            }
        })
        .await;
    }

    /// Lists and subscriptions of which nothing is read.
    pub async fn read_nothing(self, connections: usize, streams: usize) {
        let hello = pb::Hello { instance: "attacker".into(), protocol_version: 1, held: Vec::new() };
        let hello = request(Message::Hello(hello));
        let empty = Bytes::from_static(&[0; 5]);
        self.on_each(connections, move |client| {
            let (hello, empty) = (hello.clone(), empty.clone());
            async move {
                let mut unread = Vec::new();
                for n in 0..streams {
                    let (path, body) = if n % 2 == 0 { (LIST, empty.clone()) } else { (SUBSCRIBE, hello.clone()) };
                    unread.extend(call(client.clone(), path, paced(body).chain(stream::pending())).await);
                }
                while !client.is_closed() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await;
    }

    /// Subscriptions that end as soon as they began, with their connections.
    pub async fn come_and_go(self, connections: usize) {
        let hello = pb::Hello { instance: "attacker".into(), protocol_version: 1, held: Vec::new() };
        let hello = request(Message::Hello(hello));
        self.on_each(connections, move |client| {
            let hello = hello.clone();
            async move { drop(call(client, SUBSCRIBE, paced(hello).chain(stream::pending())).await) }
        })
        .await;
    }

    /// Connections whose first message of TLS never ends.
    pub async fn send_half_handshakes(self, connections: usize) {
        let mut half = vec![22, 3, 1, 0x40, 0, 1, 0, 0xf0, 0]; // a record of 16 KiB, and a ClientHello of 60 KiB
        half.resize(5 + (16 << 10), 0);
        half.extend([22, 3, 1, 0x40, 0]);
        half.resize(9 + (31 << 10), 0);
        let each = (0..connections).map(|_| async {
            loop {
                if let Some(mut tcp) = self.open().await {
                    let _ = tcp.write_all(&half).await;
                    let _ = tcp.read(&mut [0; 64]).await; // until the agent ends it
                }
                tokio::time::sleep(PAUSE * 5).await;
            }
        });
        futures::future::join_all(each).await;
    }

    /// Does something over each of some connections, and again over a new one when it is done.
    async fn on_each<F>(self, connections: usize, act: impl Fn(Client) -> F)
    where
        F: Future<Output = ()>,
    {
        let each = (0..connections).map(|_| async {
            loop {
                if let Some(client) = self.connect().await {
                    act(client).await;
                }
                tokio::time::sleep(PAUSE * 5).await;
            }
        });
        futures::future::join_all(each).await;
    }
}

/// A thread of attackers, until it is dropped.
pub fn attack(attacks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) -> Threads {
    let threads = Threads::new();
    attacks.into_iter().for_each(|attack| drop(threads.spawn(attack)));
    threads
}

/// A thread for tasks that never end by themselves. They end with it, and nothing waits for them.
pub struct Threads(Option<Runtime>);

impl Threads {
    pub fn new() -> Threads {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Threads(Some(builder.worker_threads(1).enable_all().build().expect("a thread")))
    }
}

impl Deref for Threads {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// All of 127.0.0.0/8 is this machine on Linux.
fn own_address(name: &str) -> SocketAddr {
    let sum = name.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let [a, b] = sum.to_be_bytes();
    let ip = if cfg!(target_os = "linux") { Ipv4Addr::new(127, 99, a, b) } else { Ipv4Addr::LOCALHOST };
    SocketAddr::new(ip.into(), 0)
}

async fn call(
    mut client: Client,
    path: &str,
    frames: impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
) -> hyper::Result<Response<Incoming>> {
    client.ready().await?;
    let request = Request::post(format!("https://localhost{path}")).header("content-type", "application/grpc");
    let frames: Frames = Box::pin(frames);
    client.send_request(request.body(StreamBody::new(frames)).expect("a request")).await
}

/// Some bytes, part by part with a pause after each.
fn paced(bytes: Bytes) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<> {
    stream::unfold(bytes, |mut bytes| async move {
        if bytes.is_empty() {
            return None;
        }
        let part = bytes.split_to(bytes.len().min(PART));
        tokio::time::sleep(PAUSE).await;
        Some((Ok(Frame::data(part)), bytes))
    })
}

fn request(message: Message) -> Bytes {
    let message = pb::SubscribeRequest { message: Some(message) }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).expect("a length").to_be_bytes());
    framed.extend(message);
    framed.into()
}
