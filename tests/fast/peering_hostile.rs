//! Peers that mean harm, or are badly broken: bounded, told off, and nobody else's trouble.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status, Streaming};
use wharf::identity::tls::{MinTls, server_config};
use wharf::peering::convert::{ExpositionChecks, to_wire};
use wharf::peering::pb::peering_service_server::{PeeringService, PeeringServiceServer};
use wharf::peering::pb::subscribe_response::Message;
use wharf::peering::{Limits, pb};

use crate::peering_support::*;
use crate::support::pki::Ca;

/// A peer is served while something bad goes on.
async fn is_served(donor: &Donor, ca: &Ca) {
    let begun = Instant::now();
    let answer = raw(donor, ca, "b").await.get_peer(pb::GetPeerRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.peer, "b");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_handshakes_are_given_up_and_the_others_served() {
    let ca = Ca::root("shared");
    let few = Limits { max_handshakes: 16, handshake_timeout: Duration::from_millis(500), ..limits() };
    let donor = Donor::start(&ca, &[("b", true)], few).await;
    let mut stalled = Vec::new();
    for _ in 0..200 {
        stalled.push(TcpStream::connect(donor.address).await.unwrap());
    }
    is_served(&donor, &ca).await;
    // Half a hello of TLS is no better.
    let mut half = TcpStream::connect(donor.address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await.unwrap();
    stalled.push(half);
    for mut tcp in stalled {
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    }
    soon(async {
        while donor.counters.handshakes_failed.load(Ordering::Relaxed) < 201 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    is_served(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_for_each_peer() {
    let ca = Ca::root("shared");
    let few = Limits { max_connections_per_peer: 3, ..limits() };
    let donor = Donor::start(&ca, &[("b", true), ("greedy", true)], few).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = raw(&donor, &ca, "greedy").await;
        client.get_peer(pb::GetPeerRequest {}).await.unwrap();
        clients.push(client);
    }
    let mut fourth = raw(&donor, &ca, "greedy").await;
    let status = fourth.get_peer(pb::GetPeerRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("has 3 connections already"), "{status}");
    is_served(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_with_most_connections_gives_up_its_oldest_for_others() {
    let ca = Ca::root("shared");
    let few = Limits { max_connections: 4, max_connections_per_peer: 3, ..limits() };
    let donor = Donor::start(&ca, &[("b", true), ("c", true), ("greedy", true)], few).await;
    let mut c = Acceptor::start(identity(&ca, "c"), donor.address, limits());
    c.until(|c| c.synced).await;
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let mut client = raw(&donor, &ca, "greedy").await;
        client.get_peer(pb::GetPeerRequest {}).await.unwrap();
        greedy.push(client);
    }
    is_served(&donor, &ca).await;
    soon(async {
        while donor.counters.connections_refused.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    donor.offer("reviews", 80, &["c"]);
    c.until_port("reviews", 80).await;
    assert_eq!(c.connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_message_ends_its_stream_and_no_other() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    let mut c = Acceptor::start(identity(&ca, "c"), donor.address, limits());
    c.until(|c| c.synced).await;
    let mut client = raw(&donor, &ca, "b").await;
    let status = subscribe(&mut client, hello(&"x".repeat(5 << 20), Vec::new())).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    assert!(status.message().contains("too large"), "{status}");
    donor.offer("reviews", 80, &["c"]);
    c.until_port("reviews", 80).await;
    assert_eq!(c.connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_of_one_connection_wait_for_each_other_and_delay_nobody() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("greedy", true)], limits()).await;
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced).await;
    let client = raw(&donor, &ca, "greedy").await;
    let calls: Vec<_> = (0..10_000)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.subscribe(only(hello("greedy", Vec::new()))).await })
        })
        .collect();
    donor.knows(|s| s.get(&cluster("greedy")).is_some_and(|g| g.subscriptions == 8)).await;
    is_served(&donor, &ca).await;
    donor.offer("reviews", 80, &["b"]);
    b.until_port("reviews", 80).await;
    assert!(donor.subscribers.get(&cluster("greedy")).unwrap().subscriptions <= 8);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// HEADERS of a call, as bytes: what a client writes that keeps to no rule.
fn headers(stream: u32) -> Vec<u8> {
    let path = b"/wharf.peering.v1.PeeringService/Subscribe";
    let content = b"application/grpc";
    let mut block = vec![0x83, 0x87, 0x44, path.len() as u8]; // POST, https, :path
    block.extend(path);
    block.extend([0x41, 1, b'd', 0x5f, content.len() as u8]); // :authority, content-type
    block.extend(content);
    let mut frame = vec![0, 0, block.len() as u8, 1, 4];
    frame.extend(stream.to_be_bytes());
    frame.extend(block);
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_at_once_end_the_connection_that_opened_them() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("greedy", true)], limits()).await;
    for reset in [false, true] {
        let mut stream = tls(donor.address, config_of(&identity(&ca, "greedy"))).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let writer = tokio::spawn(async move {
            for n in 0..10_000u32 {
                let mut frames = headers(2 * n + 1);
                if reset {
                    frames.extend([0, 0, 4, 3, 0]);
                    frames.extend((2 * n + 1).to_be_bytes());
                    frames.extend(8u32.to_be_bytes()); // CANCEL
                }
                if write.write_all(&frames).await.is_err() {
                    break;
                }
            }
            let _ = write.flush().await;
            write
        });
        is_served(&donor, &ca).await;
        // Cut off: with GOAWAY, and then the end.
        let mut answer = Vec::new();
        let _ = soon(read.read_to_end(&mut answer)).await;
        drop(soon(writer).await.unwrap());
    }
    soon(async {
        while donor.counters.connections.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A donor that says whatever it was given to say, then nothing.
#[derive(Clone)]
struct Fake {
    says: Arc<Vec<Message>>,
    /// Says the last thing for ever, and counts how often.
    repeated: Option<Arc<AtomicUsize>>,
}

#[tonic::async_trait]
impl PeeringService for Fake {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<pb::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        _: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let response = |message| Ok(pb::SubscribeResponse { message: Some(message) });
        let says = tokio_stream::iter((*self.says).clone()).map(response);
        let Some(count) = self.repeated.clone() else {
            return Ok(Response::new(Box::pin(says.chain(tokio_stream::pending()))));
        };
        let last = self.says.last().cloned().unwrap();
        let repeated = futures::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            response(last.clone())
        });
        Ok(Response::new(Box::pin(says.chain(repeated))))
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

/// Serves a fake under the donor's own certificate.
async fn fake(ca: &Ca, says: Vec<Message>) -> SocketAddr {
    serve(ca, Fake { says: Arc::new(says), repeated: None }).await
}

async fn serve(ca: &Ca, fake: Fake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = server_config(&identity(ca, "donor"), MinTls::default()).unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, fake) = (TlsAcceptor::from(config.clone()), fake.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.unwrap();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let mut server = PeeringServiceServer::new(fake.clone());
                    async move {
                        let Ok(response) = server.call(request).await;
                        Ok::<_, Infallible>(response)
                    }
                });
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn welcome() -> Message {
    Message::Welcome(pb::Welcome { protocol_version: 1, instance: "fake".into(), heartbeat_seconds: 15 })
}

fn wire(name: &str, port: u16) -> pb::Exposition {
    to_wire(&exposition(name, port), "1")
}

fn batch(changed: Vec<pb::Exposition>, synced: bool) -> Message {
    Message::Changes(pb::Changes { changed, withdrawn: Vec::new(), revision: 1, synced })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_donor_sends_out_of_bounds_is_refused_alone_and_by_name() {
    let ca = Ca::root("shared");
    let bad = |change: fn(&mut pb::Exposition)| {
        let mut wire = wire("bad", 80);
        change(&mut wire);
        wire
    };
    let address = fake(
        &ca,
        vec![
            welcome(),
            batch(
                vec![
                    bad(|e| e.namespace = "../kube-system".into()),
                    bad(|e| e.name = "bad/../../reviews".into()),
                    bad(|e| e.host = "kubernetes.default.svc.cluster.local".into()),
                    bad(|e| e.ports[0].number = 70_000),
                    bad(|e| e.gateways[0].address = "169.254.169.254".into()),
                    bad(|e| e.gateways = vec![e.gateways[0].clone(); 5000]),
                    bad(|e| e.tls = 42),
                    wire("good", 80),
                ],
                true,
            ),
        ],
    )
    .await;
    let mut b = Acceptor::start(identity(&ca, "b"), address, limits());
    b.until(|b| b.synced).await;
    let fields: Vec<_> = b.rejected.iter().map(|r| r.field.as_str()).collect();
    let expected = ["namespace", "name", "host", "ports[0].number", "gateways[0].address", "gateways", "tls"];
    assert_eq!(fields, expected);
    assert_eq!(b.held.keys().collect::<Vec<_>>(), [&key("good")]);
    soon(b.handle.state.wait_for(|state| state.held == 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_offers_too_many_is_heard_up_to_the_limit() {
    let ca = Ca::root("shared");
    let changed = (0..20).map(|n| wire(&format!("s{n}"), 80)).collect();
    let address = fake(&ca, vec![welcome(), batch(changed, true)]).await;
    let mut b = Acceptor::start(identity(&ca, "b"), address, Limits { max_expositions: 15, ..limits() });
    b.until(|b| b.synced).await;
    assert_eq!((b.held.len(), b.rejected.len()), (15, 5));
    assert!(b.rejected[0].why.contains("more than 15"), "{}", b.rejected[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_removed_before_a_donor_says_that_it_told_all() {
    let ca = Ca::root("shared");
    let address = fake(&ca, vec![welcome(), batch(vec![wire("new", 80)], false)]).await;
    let held = BTreeMap::from([(key("old"), ("1".to_owned(), exposition("old", 80)))]);
    // Not mentioned in the hello, and so not confirmed by silence.
    let short = Limits { max_request_bytes: 0, ..limits() };
    let own = watch(identity(&ca, "b"));
    let mut b =
        Acceptor::start_with("b", own.clone(), address, short.clone(), ExpositionChecks::default(), held.clone());
    b.until(|b| b.held.len() == 2).await;
    assert!(!b.synced);

    let address = fake(&ca, vec![welcome(), batch(vec![wire("new", 80)], true)]).await;
    let mut b = Acceptor::start_with("b", own.clone(), address, short, ExpositionChecks::default(), held.clone());
    b.until(|b| b.synced).await;
    assert_eq!(b.held.keys().collect::<Vec<_>>(), [&key("new")]);

    let mut b = Acceptor::start_with("b", own, address, limits(), ExpositionChecks::default(), held);
    b.until(|b| b.synced).await;
    assert_eq!(b.held.len(), 2, "what the hello mentions is confirmed by not being withdrawn");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_breaks_the_protocol_is_left_with_the_reason() {
    let ca = Ca::root("shared");
    let of = |version, instance: &str| {
        Message::Welcome(pb::Welcome { protocol_version: version, instance: instance.into(), heartbeat_seconds: 15 })
    };
    let huge = (0..50_000).map(|n| wire(&format!("s{n}"), 80)).collect();
    let cases = [
        (vec![batch(Vec::new(), true)], "no welcome"),
        (vec![of(9, "fake")], "a version that was not offered"),
        (vec![of(0, "fake")], "a version that was not offered"),
        (vec![of(1, "")], "its instance"),
        (vec![of(1, "b")], "this cluster's own instance"),
        (vec![welcome(), batch(huge, true)], "too large"),
    ];
    for (says, word) in cases {
        let address = fake(&ca, says).await;
        let mut b = Acceptor::start_as("b", watch(identity(&ca, "b")), address, limits());
        let reason = b.reason().await;
        assert!(reason.contains(word), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_falls_silent_is_left_after_three_heartbeats() {
    let ca = Ca::root("shared");
    let brief = pb::Welcome { protocol_version: 1, instance: "fake".into(), heartbeat_seconds: 1 };
    let address = fake(&ca, vec![Message::Welcome(brief), batch(vec![wire("reviews", 80)], true)]).await;
    let mut b = Acceptor::start(identity(&ca, "b"), address, limits());
    b.until(|b| b.synced).await;
    let begun = Instant::now();
    let reason = b.reason().await;
    assert!(reason.contains("nothing was heard for 3 s"), "{reason}");
    assert!(begun.elapsed() > Duration::from_millis(2500), "{:?}", begun.elapsed());
    assert_eq!(b.held.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_never_stops_talking_is_held_back_by_a_slow_owner() {
    let ca = Ca::root("shared");
    let count = Arc::new(AtomicUsize::new(0));
    let many = (0..100).map(|n| wire(&format!("s{n}"), 80)).collect();
    let fake = Fake { says: Arc::new(vec![welcome(), batch(many, true)]), repeated: Some(count.clone()) };
    let address = serve(&ca, fake).await;
    let mut b = Acceptor::start(identity(&ca, "b"), address, limits());
    b.until(|b| b.synced).await;
    // Nobody takes in news now: the donor is stopped by flow control, with the windows and the channel full.
    let mut before = 0;
    soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = count.load(Ordering::Relaxed);
            if now == before {
                break;
            }
            before = now;
        }
    })
    .await;
    let bytes = before * prost::Message::encoded_len(&wire("s10", 80)) * 100;
    assert!(bytes < 16 << 20, "{bytes} bytes were taken off its hands");
    soon(b.handle.stop()).await;
}
