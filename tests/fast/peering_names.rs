//! The server names that peers send, and gateways that go by them: real TLS, through something that reads the name and
//! passes the rest on unopened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wharf::peering::convert::ExpositionChecks;
use wharf::peering::{Limits, SERVER_NAME};

use crate::peering_support::*;
use crate::support::pki::Ca;

/// Says how a gateway ends a connection with a server name that leads nowhere.
#[derive(Clone, Copy)]
enum OtherNames {
    Closed,
    Unanswered,
    LedTo(SocketAddr),
}

/// A gateway that leads one server name to an address.
async fn gateway(name: &'static str, to: SocketAddr, others: OtherNames) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            tokio::spawn(carry(near, name, to, others));
        }
    });
    address
}

async fn carry(mut near: TcpStream, name: &str, to: SocketAddr, others: OtherNames) {
    let Some((sent, hello)) = read_hello(&mut near).await else { return };
    let to = match others {
        _ if sent.as_deref() == Some(name) => to,
        OtherNames::LedTo(other) => other,
        OtherNames::Closed => return,
        OtherNames::Unanswered => {
            let _ = near.read_to_end(&mut Vec::new()).await;
            return;
        }
    };
    let mut far = TcpStream::connect(to).await.unwrap();
    far.write_all(&hello).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

/// The server name of a client, and what it has sent so far.
async fn read_hello(near: &mut TcpStream) -> Option<(Option<String>, Vec<u8>)> {
    let (mut acceptor, mut hello) = (rustls::server::Acceptor::default(), Vec::new());
    loop {
        let mut part = [0; 4096];
        let n = near.read(&mut part).await.ok().filter(|n| *n > 0)?;
        hello.extend(&part[..n]);
        acceptor.read_tls(&mut &part[..n]).unwrap();
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some((accepted.client_hello().server_name().map(str::to_owned), hello));
        }
    }
}

fn acceptor(ca: &Ca, endpoint: &str, limits: Limits) -> Acceptor {
    let (checks, held) = (ExpositionChecks::default(), BTreeMap::new());
    Acceptor::start_at("acceptor-instance", watch(identity(ca, "b")), endpoint, limits, checks, held)
}

#[tokio::test]
async fn a_gateway_that_passes_tls_through_leads_peers_to_the_agent_by_one_server_name() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer("web", 80, &["b"]);
    let gateway = gateway(SERVER_NAME, donor.address, OtherNames::Closed).await;
    for endpoint in [gateway.to_string(), format!("localhost:{}", gateway.port())] {
        let mut b = acceptor(&ca, &endpoint, limits());
        b.until(|b| b.synced && b.held.len() == 1).await;
        assert!(b.reasons.is_empty(), "at once: {:?}", b.reasons);
    }
}

#[tokio::test]
async fn an_endpoint_behind_something_that_goes_by_the_endpoints_own_name_works_as_before() {
    let (ca, other_root) = (Ca::root("shared"), Ca::root("other"));
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let another = Donor::start(&other_root, &[], limits()).await;
    let quick = Limits { handshake_timeout: Duration::from_secs(4), ..limits() };
    for others in [OtherNames::Closed, OtherNames::LedTo(another.address), OtherNames::Unanswered] {
        let gateway = gateway("localhost", donor.address, others).await;
        let mut b = acceptor(&ca, &format!("localhost:{}", gateway.port()), quick.clone());
        b.until(|b| b.synced).await;
    }
}

#[tokio::test]
async fn a_gateway_that_leads_peers_nowhere_is_told_with_the_name_that_it_lacks() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let gateway = gateway("shop.example", donor.address, OtherNames::Closed).await;
    let reason = acceptor(&ca, &gateway.to_string(), limits()).reason().await;
    assert!(reason.contains("ingress gateway") && reason.contains(SERVER_NAME), "{reason}");
}

#[tokio::test]
async fn what_the_agent_behind_a_gateway_shows_is_told_and_not_what_the_gateway_does_with_other_names() {
    let (ca, other_root) = (Ca::root("shared"), Ca::root("other"));
    let another = Donor::start(&other_root, &[("b", true)], limits()).await;
    let gateway = gateway(SERVER_NAME, another.address, OtherNames::Closed).await;
    let reason = acceptor(&ca, &gateway.to_string(), limits()).reason().await;
    assert!(reason.contains("the peer's certificate is refused"), "{reason}");
}
