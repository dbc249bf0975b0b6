//! A peer that calls an agent as no agent would, with the certificate of a cluster.

use std::convert::Infallible;
use std::net::SocketAddr;
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
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use wharf::identity::tls::{MinTls, client_config};
use wharf::identity::{Identity, IdentityFiles};
use wharf::model::{ClusterName, SpiffeId};
use wharf::peering::pb;
use wharf::peering::pb::subscribe_request::Message;

use super::{Cluster, Site};

pub const SUBSCRIBE: &str = "/wharf.peering.v1.PeeringService/Subscribe";
pub const LIST: &str = "/wharf.peering.v1.PeeringService/ListExpositions";
pub const GET_PEER: &str = "/wharf.peering.v1.PeeringService/GetPeer";
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Client = SendRequest<StreamBody<Frames>>;

/// All that attackers do together is paced by this, so that they leave the agent something of the machine's two cores.
const PART: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(2);

/// The certificate of a cluster, and whom it attacks.
#[derive(Clone)]
pub struct Attacker {
    to: SocketAddr,
    config: Arc<rustls::ClientConfig>,
}

impl Attacker {
    pub fn new(site: &Site, name: &str, to: &Cluster) -> Attacker {
        site.run(&["ca", "issue", name]);
        let file = |extension: &str| site.path().join(format!("{name}.{extension}"));
        let files =
            IdentityFiles { certificate: file("crt"), key: file("key"), root: site.path().join("ca.crt"), crl: None };
        let identity = Identity::load(&files).expect("an identity");
        let donor: ClusterName = to.name.parse().expect("a name");
        let config =
            client_config(&identity, &SpiffeId::of_cluster(&donor), MinTls::default()).expect("a configuration");
        Attacker { to: to.peering, config }
    }

    /// A connection over which nothing more is read than what the windows let through.
    async fn connect(&self) -> Option<Client> {
        let tcp = TcpStream::connect(self.to).await.ok()?;
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
pub fn attack(attacks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
    attacks.into_iter().for_each(|attack| drop(runtime.spawn(attack)));
    runtime
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
