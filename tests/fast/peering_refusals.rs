//! Who is not let in, and what they and the operators are told.

use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use wharf::identity::Identity;
use wharf::identity::tls::MinTls;
use wharf::model::SpiffeId;
use wharf::peering::client::{AcceptorContext, probe_agent};
use wharf::peering::pb;
use wharf::peering::pb::peering_service_client::PeeringServiceClient;

use crate::peering_support::*;
use crate::support::pki::{Ca, Leaf};

/// What a call of somebody with this certificate comes to.
async fn call(donor: &Donor, identity: &Identity) -> Result<pb::GetPeerResponse, String> {
    let channel = channel(donor.address, config_of(identity)).await.map_err(|e| chain(&e))?;
    let answer = soon(PeeringServiceClient::new(channel).get_peer(pb::GetPeerRequest {})).await;
    answer.map(tonic::Response::into_inner).map_err(|status| format!("{:?}: {}", status.code(), chain(&status)))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What an acceptor with this certificate gives as the reason why it has no stream.
async fn reason(donor: &Donor, leaf: &Leaf, roots: &Ca) -> String {
    Acceptor::start(Arc::new(trusted(leaf, roots)), donor.address, limits()).reason().await
}

/// After whatever was tried, the donor serves its peers.
async fn still_serves(donor: &Donor, ca: &Ca) {
    let answer = call(donor, &identity(ca, "b")).await.unwrap();
    assert_eq!(answer.peer, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_is_refused() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // In TLS 1.3 the client learns it with the first byte it reads.
    let mut stream = tls(donor.address, Arc::new(config)).await.unwrap();
    let error = soon(stream.read_u8()).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    still_serves(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_tls_refuses_are_refused_with_a_reason_at_the_acceptor() {
    let (ca, other) = (Ca::root("shared"), Ca::root("another"));
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let now = OffsetDateTime::now_utc();
    let b = &["spiffe://wharf/cluster/b"][..];
    let cases = [
        ("not under the peer's root", other.cluster("b")),
        ("has expired", ca.leaf_with(b, |p| p.not_after = now - Duration::from_secs(60))),
        ("not valid yet", ca.leaf_with(b, |p| p.not_before = now + Duration::from_secs(3600))),
        ("refuses", ca.leaf_with(b, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("refuses", ca.cluster("b").issue(b)),
    ];
    for (word, leaf) in cases {
        let reason = reason(&donor, &leaf, &ca).await;
        assert!(reason.contains(word) && reason.contains("this cluster's certificate"), "{word}: {reason}");
    }
    still_serves(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_spiffe_refuses_are_told_why() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let none = call(&donor, &trusted(&ca.leaf(&[]), &ca)).await.unwrap_err();
    assert!(none.starts_with("Unauthenticated: ") && none.contains("names no cluster"), "{none}");
    let two = ca.leaf(&["spiffe://wharf/cluster/b", "spiffe://wharf/cluster/c"]);
    let two = reason(&donor, &two, &ca).await;
    assert!(two.contains("spiffe://wharf/cluster/b") && two.contains("spiffe://wharf/cluster/c"), "{two}");
    still_serves(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_under_the_right_root_that_is_no_peer_is_told_what_its_donor_has_to_do() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let stranger = call(&donor, &identity(&ca, "stranger")).await.unwrap_err();
    assert!(stranger.starts_with("PermissionDenied: "), "{stranger}");
    assert!(stranger.contains("spiffe://wharf/cluster/stranger is not a peer of donor"), "{stranger}");
    assert!(stranger.contains("as stranger"), "{stranger}");
    let seen = reason(&donor, &ca.cluster("stranger"), &ca).await;
    assert!(seen.contains("is not a peer of donor"), "{seen}");
    // Not even health and reflection answer it.
    let channel = channel(donor.address, config_of(&identity(&ca, "stranger"))).await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    still_serves(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_may_not_consume_may_ask_who_it_is_and_no_more() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", false)], limits()).await;
    donor.offer("reviews", 80, &["b"]);
    let answer = call(&donor, &identity(&ca, "c")).await.unwrap();
    assert_eq!((answer.peer.as_str(), answer.may_consume), ("c", false));
    let mut client = raw(&donor, &ca, "c").await;
    let refused = |status: Status| assert!(status.message().contains("`consume: true`"), "{status}");
    refused(client.list_expositions(pb::ListExpositionsRequest {}).await.unwrap_err());
    refused(subscribe(&mut client, hello("c", Vec::new())).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_may_look_at_its_own_agent() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer("reviews", 80, &["b"]);
    let mut client = raw(&donor, &ca, "donor").await;
    let peer = client.get_peer(pb::GetPeerRequest {}).await.unwrap().into_inner();
    assert_eq!((peer.peer.as_str(), peer.may_consume), ("donor", false));
    assert!(client.list_expositions(pb::ListExpositionsRequest {}).await.unwrap().into_inner().expositions.is_empty());
    let status = subscribe(&mut client, hello("donor", Vec::new())).await.unwrap_err();
    assert_eq!(status.message(), "donor does not subscribe to itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_acceptor_refuses_whoever_is_not_the_donor() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.identity.send_replace(identity(&ca, "impostor"));
    let reason = reason(&donor, &ca.cluster("b"), &ca).await;
    assert!(reason.contains("the peer is spiffe://wharf/cluster/impostor"), "{reason}");
    donor.identity.send_replace(Arc::new(trusted(&Ca::root("another").cluster("donor"), &ca)));
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    assert!(b.reason().await.contains("TLS with"), "{:?}", b.reasons);
    donor.identity.send_replace(Arc::new(trusted(&donor_leaf(&ca), &ca)));
    b.until(|b| b.synced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_of_one_name_are_told_apart_and_both_operators_see_it() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer("reviews", 80, &["b"]);
    let first = Acceptor::start_as("first", watch(identity(&ca, "b")), donor.address, limits());
    let mut replica = Acceptor::start_as("first", watch(identity(&ca, "b")), donor.address, limits());
    replica.until(|b| b.synced).await;
    donor.knows(|s| s.get(&cluster("b")).is_some_and(|b| b.subscriptions == 2)).await;
    let mut second = Acceptor::start_as("second", watch(identity(&ca, "b")), donor.address, limits());
    let reason = second.reason().await;
    assert!(reason.contains("the name b is taken") && reason.contains("AlreadyExists"), "{reason}");
    assert!(second.held.is_empty());
    donor.knows(|s| s.get(&cluster("b")).is_some_and(|b| b.clash.is_some())).await;
    let b = donor.subscribers.get(&cluster("b")).unwrap();
    assert_eq!((b.instance.as_str(), b.clash.unwrap().refused.as_str(), b.subscriptions), ("first", "second", 2));
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_reaches_its_own_instance_is_told() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let mut b = Acceptor::start_as("donor-instance", watch(identity(&ca, "b")), donor.address, limits());
    let reason = b.reason().await;
    assert!(reason.contains("dialled itself"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_none_is_refused_by_field() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let mut client = raw(&donor, &ca, "b").await;
    let held =
        |name: &str, version: &str| pb::Held { namespace: "d".into(), name: name.into(), version: version.into() };
    let mut old = hello("b", Vec::new());
    if let Some(pb::subscribe_request::Message::Hello(hello)) = &mut old.message {
        hello.protocol_version = 0;
    }
    let acknowledgement = pb::subscribe_request::Message::Acknowledgement(pb::Acknowledgement::default());
    let cases = [
        ("hello.instance", hello("", Vec::new())),
        ("hello.instance", hello(&"x".repeat(129), Vec::new())),
        ("hello.held[1]", hello("b", vec![held("a", "1"), held("A b", "1")])),
        ("hello.held[0]", hello("b", vec![held("a", "")])),
        ("hello.protocol_version", old),
        ("must be a hello", pb::SubscribeRequest { message: Some(acknowledgement) }),
        ("must be a hello", pb::SubscribeRequest { message: None }),
    ];
    for (word, request) in cases {
        let status = subscribe(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    assert_eq!(donor.subscribers.get(&cluster("b")), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_http1_and_garbage_are_shut_out_and_the_others_served() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let plain = "GET / HTTP/1.1\r\nHost: donor\r\n\r\n".as_bytes().to_vec();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let garbage: Vec<u8> = (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [plain.clone(), preface, garbage.clone()] {
        let mut tcp = TcpStream::connect(donor.address).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(tcp.read_to_end(&mut answer)).await; // closed, or reset
        assert!(answer.len() < 64, "at most a TLS alert, and not {answer:?}");
    }
    // Over TLS, with a good certificate, but not HTTP/2.
    for (protocol, bytes) in [(&b"http/1.1"[..], &plain), (b"", &plain), (b"h2", &garbage)] {
        let mut config = (*config_of(&identity(&ca, "b"))).clone();
        config.alpn_protocols = if protocol.is_empty() { Vec::new() } else { vec![protocol.to_vec()] };
        if let Ok(mut stream) = tls(donor.address, Arc::new(config)).await {
            let _ = stream.write_all(bytes).await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        }
    }
    still_serves(&donor, &ca).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dials_what_is_no_agent_is_told_so() {
    let ca = Ca::root("shared");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
        listener // so that nobody else gets the port
    });
    let own = AcceptorContext {
        instance: "b".into(),
        identity: watch(identity(&ca, "b")),
        min_tls: MinTls::default(),
        limits: Arc::new(limits()),
    };
    let donor = SpiffeId::of_cluster(&cluster("donor"));
    let error = probe_agent(&address.to_string().parse().unwrap(), &donor, &own).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    drop(server.await.unwrap());
    let error = probe_agent(&address.to_string().parse().unwrap(), &donor, &own).await.unwrap_err();
    assert!(error.to_string().contains("is the peer's agent running"), "{error}");
    let donor_agent = Donor::start(&ca, &[("b", true)], limits()).await;
    let probe = probe_agent(&donor_agent.address.to_string().parse().unwrap(), &donor, &own).await.unwrap();
    assert_eq!((probe.answer.cluster.as_str(), probe.certificate.spiffe_id), ("donor", donor));
    let said = probe.date.as_deref().and_then(wharf::check::clock::http_date).unwrap();
    assert!((said - probe.answered).abs() < time::Duration::seconds(5), "{said}");
}
