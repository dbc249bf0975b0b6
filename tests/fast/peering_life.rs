//! What ends a stream, what does not, and how an end is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};
use wharf::peering::Limits;
use wharf::peering::pb::subscribe_response::Message;

use crate::peering_support::*;
use crate::support::pki::Ca;

/// The status that a stream ends with.
pub async fn end(stream: &mut tonic::Streaming<wharf::peering::pb::SubscribeResponse>) -> tonic::Status {
    loop {
        if let Err(status) = soon(stream.message()).await.transpose().expect("it ended without a status") {
            return status;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_no_longer_trusted_loses_its_stream_at_once_and_the_others_keep_theirs() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    let mut removed = raw(&donor, &ca, "b").await;
    let mut removed = subscribe(&mut removed, hello("b", Vec::new())).await.unwrap();
    let mut c = Acceptor::start(identity(&ca, "c"), donor.address, limits());
    c.until(|c| c.synced).await;

    donor.peers.send_replace(table("donor", &[("c", true)]));
    let status = end(&mut removed).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("spiffe://wharf/cluster/b is not a peer of donor"), "{status}");
    donor.offer("reviews", 80, &["c"]);
    c.until_port("reviews", 80).await;
    assert_eq!(c.connections, 1);

    donor.peers.send_replace(table("donor", &[("c", false)]));
    let reason = c.reason().await;
    assert!(reason.contains("`consume: true`"), "{reason}");
    donor.peers.send_replace(table("donor", &[("c", true)]));
    c.until(|c| c.synced && c.connections == 2).await;
    assert_eq!(c.held.len(), 1, "what it held stayed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_drops_no_stream_and_serves_the_next() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    let (renew, watched) = tokio::sync::watch::channel(identity(&ca, "b"));
    let mut b = Acceptor::start_as("b", watched, donor.address, limits());
    b.until(|b| b.synced).await;

    // Both ends are renewed, under a root that replaces the old one for the donor's next connections.
    let new = Ca::root("new");
    donor.identity.send_replace(Arc::new(donor_leaf(&new).unchecked(&[&new])));
    renew.send_replace(identity(&new, "b"));
    donor.offer("reviews", 80, &["b"]);
    b.until_port("reviews", 80).await;
    assert_eq!((b.connections, b.reasons.len()), (1, 0));
    let mut c = Acceptor::start_as("c", watch(identity(&new, "c")), donor.address, limits());
    c.until(|c| c.synced).await;
    let mut old = Acceptor::start_as("old", watch(identity(&ca, "c")), donor.address, limits());
    old.reason().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_tried_at_once() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let patient = Limits { backoff_min: Duration::from_secs(600), backoff_max: Duration::from_secs(600), ..limits() };
    let (renew, watched) = tokio::sync::watch::channel(identity(&Ca::root("another"), "b"));
    let mut b = Acceptor::start_as("b", watched, donor.address, patient);
    b.reason().await;
    renew.send_replace(identity(&ca, "b"));
    b.until(|b| b.synced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_does_not_outlive_its_certificate() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(2);
    let leaf = ca.leaf_with(&["spiffe://wharf/cluster/b"], |params| params.not_after = soon);
    let (renew, watched) = tokio::sync::watch::channel(Arc::new(trusted(&leaf, &ca)));
    let mut b = Acceptor::start_as("b", watched, donor.address, limits());
    b.until(|b| b.synced).await;
    renew.send_replace(identity(&ca, "b"));
    let reason = b.reason().await;
    assert!(reason.contains("expired on"), "{reason}");
    b.until(|b| b.synced).await;
    assert_eq!(b.connections, 2, "the renewed one was at hand");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_donor_tells_its_streams_and_waits_for_nobody_for_ever() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("slow", true)], limits()).await;
    let mut b = raw(&donor, &ca, "b").await;
    let mut b = subscribe(&mut b, hello("b", Vec::new())).await.unwrap();
    let mut slow = raw(&donor, &ca, "slow").await;
    let stalled = subscribe(&mut slow, hello("slow", Vec::new())).await.unwrap();
    for round in 1..50 {
        donor.offer_many(0..300, round, &["slow"]);
    }
    let counters = donor.counters.clone();
    let begun = Instant::now();
    let (status, ()) = tokio::join!(end(&mut b), donor.stop());
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the agent is shutting down"));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(counters.connections.load(Ordering::Relaxed), 0);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_stream_has_heartbeats_that_keep_it_in_step() {
    let ca = Ca::root("shared");
    let beats = Limits { heartbeat: Duration::from_millis(50), ..limits() };
    let donor = Donor::start(&ca, &[("b", true)], beats).await;
    let revision = donor.offer("reviews", 80, &["b"]);
    let mut client = raw(&donor, &ca, "b").await;
    let mut stream = subscribe(&mut client, hello("b", Vec::new())).await.unwrap();
    changes(&mut stream).await;
    for _ in 0..3 {
        let message = soon(stream.message()).await.unwrap().unwrap().message.unwrap();
        assert!(matches!(message, Message::Heartbeat(beat) if beat.revision == revision), "{message:?}");
    }
    let mut b = Acceptor::start_as("b", watch(identity(&ca, "b")), donor.address, limits());
    b.until(|b| b.synced).await;
    let first = b.handle.state.borrow_and_update().last_sync;
    soon(b.handle.state.wait_for(|state| state.last_sync > first)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_and_a_subscribed_one_is_not() {
    let ca = Ca::root("shared");
    let idle = Limits { idle_timeout: Duration::from_millis(100), ..limits() };
    let donor = Donor::start(&ca, &[("b", true)], idle).await;
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced).await;
    let mut idle = tls(donor.address, config_of(&identity(&ca, "b"))).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut idle, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest)).await;
    assert_eq!((b.connections, b.reasons.len()), (1, 0));
    donor.offer("reviews", 80, &["b"]);
    b.until_port("reviews", 80).await;
    assert_eq!(b.connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_whether_the_donor_is_ready() {
    let ca = Ca::root("shared");
    let donor = Donor::start_at("127.0.0.1:0".parse().unwrap(), &ca, &[("b", false)], limits()).await;
    let channel = channel(donor.address, config_of(&identity(&ca, "b"))).await.unwrap();
    let mut health = HealthClient::new(channel);
    let service = |name: &str| HealthCheckRequest { service: name.into() };
    let mut watched = health.watch(service("wharf.peering.v1.PeeringService")).await.unwrap().into_inner();
    assert_eq!(soon(watched.next()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    donor.board.open();
    assert_eq!(soon(watched.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(health.check(service("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
    donor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_reflection_list_and_describe_the_protocol() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let channel = channel(donor.address, config_of(&identity(&ca, "b"))).await.unwrap();

    use v1::server_reflection_request::MessageRequest;
    let ask = |message| v1::ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("wharf.peering.v1.PeeringService".into())),
    ]);
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let services = soon(answers.next()).await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(services) = services else {
        panic!("{services:?}");
    };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    assert!(
        names.contains(&"wharf.peering.v1.PeeringService") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );
    let file = soon(answers.next()).await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(file, v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_)), "{file:?}");

    use v1alpha::server_reflection_request::MessageRequest as Alpha;
    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Alpha::ListServices(String::new())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    soon(answers.next()).await.unwrap().unwrap();
}
