//! What one peer can make an agent hold by calling it, in bytes and in time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wharf::model::ExposedPort;
use wharf::peering::{Limits, pb};

use crate::peering_support::*;
use crate::support::pki::Ca;

const PEERING: &str = "/wharf.peering.v1.PeeringService";
const SUBSCRIBE: &str = "/wharf.peering.v1.PeeringService/Subscribe";

type Requests = StreamBody<std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;
type Client = SendRequest<Requests>;

/// HTTP/2 on a connection of its own, to send what no gRPC client would.
async fn client(donor: &Donor, ca: &Ca, name: &str) -> Client {
    let stream = tls(donor.address, config_of(&identity(ca, name))).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let (client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A call with these bytes as requests, and nothing after them.
async fn call(client: &mut Client, path: &str, bytes: Vec<u8>) -> Result<Response<Incoming>, hyper::Error> {
    let frames = bytes.chunks(16 << 10).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect::<Vec<_>>();
    let body = StreamBody::new(Box::pin(stream::iter(frames).chain(stream::pending())) as _);
    let uri: Uri = format!("https://localhost{path}").parse().unwrap();
    let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
    client.ready().await?;
    client.send_request(request.body(body).unwrap()).await
}

/// A message that says it is so long, of which only the beginning comes.
fn half(announced: usize, sent: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(announced).unwrap().to_be_bytes());
    bytes.extend(vec![0; sent]);
    bytes
}

fn status_of(headers: &HeaderMap) -> (String, String) {
    let text = |name| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default();
    (text("grpc-status"), text("grpc-message").replace("%20", " "))
}

/// The status of a call, wherever it stands.
async fn status(response: Response<Incoming>) -> (String, String) {
    if response.headers().contains_key("grpc-status") {
        return status_of(response.headers());
    }
    let trailers = response.into_body().collect().await.ok().and_then(|body| body.trailers().cloned());
    status_of(&trailers.unwrap_or_default())
}

fn quick() -> Limits {
    let time = Duration::from_millis(300);
    Limits { call_timeout: time, handshake_timeout: time, reflection_timeout: time, answer_timeout: time, ..limits() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_end_never_comes_is_given_up_in_time() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", false)], quick()).await;
    for (peer, path) in [
        ("b", SUBSCRIBE.to_owned()),
        ("b", format!("{PEERING}/ListExpositions")),
        ("c", format!("{PEERING}/GetPeer")),
        ("c", "/grpc.health.v1.Health/Check".into()),
    ] {
        let mut client = client(&donor, &ca, peer).await;
        let begun = Instant::now();
        let response = soon(call(&mut client, &path, half(3000, 2990))).await.unwrap();
        let (code, message) = soon(status(response)).await;
        assert_eq!(code, "4", "{path}: {message}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{path}: {:?}", begun.elapsed());
    }
    for version in ["v1", "v1alpha"] {
        let mut client = client(&donor, &ca, "c").await;
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let response = soon(call(&mut client, &path, half(3000, 2990))).await.unwrap();
        soon(status(response)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_announces_more_than_its_call_needs_is_refused_before_it_comes() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    for path in ["/grpc.health.v1.Health/Check", "/wharf.peering.v1.PeeringService/GetPeer"] {
        let mut client = client(&donor, &ca, "b").await;
        let response = soon(call(&mut client, path, half(4 << 20, 0))).await.unwrap();
        let (code, message) = soon(status(response)).await;
        assert!(["8", "11"].contains(&code.as_str()) && message.contains("too large"), "{path}: {code} {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_on_sending_halves_is_paused_and_the_others_are_served() {
    let ca = Ca::root("shared");
    let limits = Limits { max_received_per_peer: 1 << 20, handshake_timeout: Duration::from_secs(10), ..quick() };
    let donor = Donor::start(&ca, &[("b", true), ("greedy", true)], limits).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = client(&donor, &ca, "greedy").await;
        for _ in 0..4 {
            let mut client = client.clone();
            tokio::spawn(async move { call(&mut client, SUBSCRIBE, half(900 << 10, 800 << 10)).await.map(drop) });
        }
        clients.push(client);
    }
    let greedy = cluster("greedy");
    donor.knows(|s| s.pause_of(&greedy).is_some()).await;
    let why = donor.subscribers.pause_of(&greedy).unwrap().why;
    assert!(why.contains("more memory than one peer may use"), "{why}");
    let mut late = raw(&donor, &ca, "greedy").await;
    let status = late.get_peer(pb::GetPeerRequest {}).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("greedy is paused for"), "{status}");
    let answer = raw(&donor, &ca, "b").await.get_peer(pb::GetPeerRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.peer, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_is_smaller_than_a_hello_or_ends_its_stream() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let mut client = raw(&donor, &ca, "b").await;
    let message = "x".repeat(600 << 10);
    let outcome = pb::Outcome { message, ..pb::Outcome::default() };
    let ack = pb::Acknowledgement { revision: 1, outcomes: vec![outcome] };
    let ack = pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Acknowledgement(ack)) };
    let requests = stream::iter([hello("b", Vec::new()), ack]).chain(stream::pending());
    let mut responses = client.subscribe(requests).await.unwrap().into_inner();
    let status = soon(async {
        loop {
            if let Err(status) = responses.message().await {
                return status;
            }
        }
    })
    .await;
    assert!(status.message().contains("too large") && status.message().contains("524288"), "{status}");
}

/// An exposition that is large on the wire.
fn large(n: usize) -> wharf::model::Exposition {
    let mut exposition = exposition(&format!("s{n}"), 80);
    let host = exposition.host.clone();
    let port = |number: u16| ExposedPort {
        number,
        name: format!("http-{number}"),
        protocol: wharf::model::Protocol::Http,
        host: format!("p{number}.{host}").parse().unwrap(),
    };
    exposition.ports = (1..=64).map(port).collect();
    exposition
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_its_answers_loses_its_connection() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("lazy", true)], quick()).await;
    for n in 0..100 {
        donor.offer_exposition(large(n), &["b", "lazy"]);
    }
    let welcome = prost::Message::encode_to_vec(&hello("lazy", Vec::new()));
    let mut framed = half(welcome.len(), 0);
    framed.extend(welcome);
    for (path, request) in [("ListExpositions", half(0, 0)), ("Subscribe", framed)] {
        let mut client = client(&donor, &ca, "lazy").await;
        let unread = soon(call(&mut client, &format!("{PEERING}/{path}"), request)).await.unwrap();
        soon(async {
            while donor.counters.connections.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(unread);
    }
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced && b.held.len() == 100).await;
}

/// Opens connections from some addresses at a pace, sends the beginning of a handshake, and lets them stand.
async fn flood(to: SocketAddr, from: Vec<Ipv4Addr>, per_second: u32, first: &'static [u8]) {
    let mut standing = VecDeque::new();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        for n in 0..per_second / 100 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((from[n as usize % from.len()], 0))).unwrap();
            let Ok(Ok(mut tcp)) = tokio::time::timeout(Duration::from_secs(1), socket.connect(to)).await else {
                continue;
            };
            let _ = tcp.write_all(first).await;
            standing.push_back(tcp);
            if standing.len() > 600 {
                standing.pop_front();
            }
        }
    }
}

/// A way to the donor that takes a while in each direction, as between clusters: there with the first packet, and then
/// there and back for each answer.
async fn far_away(to: SocketAddr, one_way: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // The last packet of TCP's handshake and the first of TLS travel together.
                let _ = near.readable().await;
                tokio::time::sleep(one_way).await;
                let far = TcpStream::connect(to).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                let there = carry(near_read, far_write, Duration::ZERO);
                let back = carry(far_read, near_write, one_way * 2);
                tokio::join!(there, back);
            });
        }
    });
    address
}

async fn carry(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, one_way: Duration) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        tokio::time::sleep(one_way).await;
        if to.write_all(&bytes[..n]).await.is_err() {
            break;
        }
    }
}

/// How many of some handshakes from 60 ms away come to a call while strangers flood the donor.
async fn honest_handshakes(from: Vec<Ipv4Addr>, tries: usize) -> usize {
    let ca = Ca::root("shared");
    let few = Limits { max_handshakes: 64, ..limits() };
    let donor = Donor::start(&ca, &[("b", true)], few).await;
    let address = far_away(donor.address, Duration::from_millis(30)).await;
    let flooding = tokio::spawn(flood(donor.address, from, 2000, &[22, 3, 1, 2, 0, 1]));
    // Not before the flood has filled all places.
    soon(async {
        while donor.counters.handshakes_failed.load(Ordering::Relaxed) < 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut in_time = 0;
    for _ in 0..tries {
        let channel = channel(address, config_of(&identity(&ca, "b"))).await;
        let Ok(channel) = channel else { continue };
        let mut client = pb::peering_service_client::PeeringServiceClient::new(channel);
        in_time += usize::from(client.get_peer(pb::GetPeerRequest {}).await.is_ok());
    }
    flooding.abort();
    in_time
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_peers_get_in_during_a_flood_of_handshakes() {
    let elsewhere = (2..6).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
    assert_eq!(honest_handshakes(elsewhere, 10).await, 10);
}

/// Begins whole handshakes at a pace, as a stranger: each costs the donor what an honest one does.
async fn flood_handshakes(to: SocketAddr, stranger: Arc<rustls::ClientConfig>, per_second: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(1000 / per_second));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        tokio::spawn(tls(to, stranger.clone()));
    }
}

/// As behind a gateway, where all have its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_peers_get_in_although_a_stranger_goes_on_with_whole_handshakes_from_their_own_address() {
    let (ca, other_root) = (Ca::root("shared"), Ca::root("other"));
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let stranger = config_of(&identity(&other_root, "b"));
    let flooding = tokio::spawn(flood_handshakes(donor.address, stranger, 40));
    // Not before the address has used up what is its own.
    tokio::time::timeout(Duration::from_secs(60), async {
        while donor.counters.handshakes_failed.load(Ordering::Relaxed) < 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the flood never came");
    for _ in 0..5 {
        let mut client = raw(&donor, &ca, "b").await;
        client.get_peer(pb::GetPeerRequest {}).await.unwrap();
    }
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_peers_get_in_although_a_flood_comes_from_their_own_address() {
    assert_eq!(honest_handshakes(vec![Ipv4Addr::LOCALHOST], 10).await, 10);
}
