//! The peering port is open to the world.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::share::pair;
use super::support::objects::{binding, policy};
use super::support::{Cluster, Site};

/// Sends something and gives what comes back until the other end closes.
fn send(to: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to.peering).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes); // it may be closed before all is sent
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn strangers_at_the_peering_port_get_nothing_and_disturb_nobody() {
    let site = Site::new();
    let (donor, acceptor) = pair(&site);
    let open = || donor.metric("wharf_peer_subscriptions{peer=\"acceptor\"}");
    site.until("subscribed", || (open() == Some(1.0)).then_some(()));
    let half_open: Vec<_> = (0..300).map(|_| TcpStream::connect(donor.peering).unwrap()).collect();
    let garbage: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let hello_and_nothing = [0x16, 3, 1, 0x40, 0]; // a handshake record of 16 KiB that never comes
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(donor.peering).unwrap();
            stream.write_all(&hello_and_nothing).unwrap();
            stream
        })
        .collect();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: donor\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n",
        &garbage,
        &[0xff; 70_000],
    ] {
        let answer = send(&donor, bytes);
        assert!(!answer.windows(4).any(|w| w == b"HTTP"), "{:?}", String::from_utf8_lossy(&answer));
    }
    donor.write("more.yaml", policy("ratings", &["acceptor"]));
    acceptor.write("more.yaml", binding("more", "donor", &["ratings"]));
    site.until("a change arrives all the same", || acceptor.bound("ratings").then_some(()));
    assert_eq!(open(), Some(1.0));
    assert_eq!(donor.metric("wharf_connections"), Some(1.0), "nobody but the acceptor is connected");
    assert!(donor.metric("wharf_handshakes_failed_total").is_some_and(|n| n >= 5.0));
    drop((half_open, waiting));
    assert_eq!(donor.problems(""), Vec::<String>::new());
}

#[test]
fn strangers_at_the_admin_port_get_an_answer_and_change_nothing() {
    let site = Site::new();
    let (donor, _acceptor) = pair(&site);
    let ask = |text: &str| {
        let mut stream = TcpStream::connect(donor.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    assert!(ask(&format!("POST /status HTTP/1.1\r\n{close}")).contains("405"));
    assert!(ask(&format!("DELETE / HTTP/1.1\r\n{close}")).contains("405"));
    assert!(ask(&format!("GET /../../etc/passwd HTTP/1.1\r\n{close}")).contains("404"));
    let long = ask(&format!("GET /{} HTTP/1.1\r\n{close}", "x".repeat(100_000)));
    assert!(!long.contains("200"), "{long}");
    assert_eq!(donor.get("/healthz").map(|(code, _)| code), Some(200));
}
