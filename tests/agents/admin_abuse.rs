//! Who reaches the admin listener and means no good: the probes are answered, and nothing grows.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::share::pair;
use super::support::objects::{policy_of, service};
use super::support::{Cluster, Site};

/// Of most probes. A single one may wait for a machine under load, but for less than any kubelet waits.
const PROMPT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    stream
}

/// Sends as much as the other side takes.
fn push(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes()); // it may be cut off meanwhile, or be full
}

/// Status code and head of the answer to one request, as it stands on the wire.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = connect(address);
    push(&mut stream, request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer); // a reset after the answer is none of the answer's business
    let text = String::from_utf8_lossy(&answer).into_owned();
    let code = text.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    (code, text)
}

/// So many connections that ask again and again, and never read.
fn flood(address: SocketAddr, path: &str, connections: usize) -> Vec<TcpStream> {
    let requests = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(2000);
    let streams = (0..connections).map(|_| connect(address));
    streams.map(|mut stream| (push(&mut stream, &requests), stream).1).collect()
}

fn assert_probes_are_prompt(cluster: &Cluster, when: &str) {
    for path in ["/healthz", "/readyz"] {
        let mut took = [Duration::ZERO; 5];
        for one in &mut took {
            let begun = Instant::now();
            assert_eq!(cluster.get(path), Some((200, "ok\n".to_owned())), "{path} {when}");
            *one = begun.elapsed();
        }
        took.sort_unstable();
        assert!(took[4] < PATIENCE && took[2] < PROMPT, "{path} took {took:?} {when}");
    }
}

#[test]
fn probes_are_answered_in_time_while_forty_connections_leave_their_replies_unread() {
    let site = Site::new();
    let (_donor, acceptor) = pair(&site);
    site.until("in step", || acceptor.in_step("donor").then_some(()));
    for path in ["/status", "/metrics", "/healthz", "/nothing"] {
        let unread = flood(acceptor.admin, path, 40);
        assert_probes_are_prompt(&acceptor, &format!("with {path} unread"));
        assert!(acceptor.status().is_some(), "who reads its answer gets it, with {path} unread");
        drop(unread);
    }
}

#[test]
fn probes_are_answered_in_time_while_silent_connections_fill_the_listener() {
    let site = Site::new();
    let (_donor, acceptor) = pair(&site);
    let silent: Vec<_> = (0..300).map(|_| connect(acceptor.admin)).collect();
    assert_probes_are_prompt(&acceptor, "with 300 silent connections");
    let mut half: Vec<_> = (0..100).map(|_| connect(acceptor.admin)).collect();
    half.iter_mut().for_each(|stream| push(stream, "GET /healthz HTTP/1.1\r\nHost: "));
    assert_probes_are_prompt(&acceptor, "with 100 halves of requests");
    drop((silent, half));
}

#[test]
fn a_connection_that_sends_its_request_too_slowly_is_closed() {
    let site = Site::new();
    let (_donor, acceptor) = pair(&site);
    let mut silent = connect(acceptor.admin);
    let mut slow = connect(acceptor.admin);
    push(&mut slow, "GET /status HTTP/1.1\r\n");
    slow.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let begun = Instant::now();
    loop {
        push(&mut slow, "X-Slow: loris\r\n");
        match slow.read(&mut [0; 4096]) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(n) if n > 0 => {} // told that it was too slow
            _ => break,
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "a header every half second keeps the connection");
    }
    let mut rest = Vec::new();
    let ended = silent.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "it is still open");
}

#[test]
fn one_connection_carries_one_request() {
    let site = Site::new();
    let (_donor, acceptor) = pair(&site);
    let one = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", acceptor.admin);
    let (code, text) = ask(acceptor.admin, &one);
    assert_eq!(code, 200);
    assert!(text.to_lowercase().contains("connection: close"), "the answer says it: {text}");
    let (_, text) = ask(acceptor.admin, &one.repeat(3));
    assert!(text.matches("HTTP/1.1 200").count() <= 1, "{text}");
}

#[test]
fn a_request_with_a_host_name_of_somebody_elses_is_refused() {
    let site = Site::new();
    let mut donor = site.cluster("donor");
    donor.configure("adminHosts: [Wharf-Metrics.wharf-system]\n", &[]);
    donor.start();
    site.until("it is ready", || (donor.get("/readyz")?.0 == 200).then_some(()));
    let admin = donor.admin;
    let code = |request: &str| ask(admin, request).0;
    for path in ["/status", "/metrics", "/readyz", "/healthz"] {
        for name in ["attacker.example", "attacker.example:7444", "127.0.0.1.attacker.example", ""] {
            assert_eq!(code(&format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")), 421, "{path} of {name:?}");
        }
        for name in [&admin.to_string(), "localhost", "[::1]:80", "wharf-metrics.wharf-system:7444"] {
            assert_eq!(code(&format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n")), 200, "{path} of {name:?}");
        }
    }
    let (_, told) = ask(admin, "GET /status HTTP/1.1\r\nHost: attacker.example\r\n\r\n");
    assert!(told.contains("adminHosts") && !told.contains("spiffe:"), "{told}");
    assert_eq!(code("GET http://attacker.example/status HTTP/1.1\r\nHost: localhost\r\n\r\n"), 421);
    assert_eq!(code("GET /status HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n"), 421);
    assert_eq!(code("GET /healthz HTTP/1.0\r\n\r\n"), 200, "a probe of HTTP/1.0 names no host");
}

/// Policies whose statuses together are longer than one answer may be: each entry has a word about what is missing.
fn write_many_policies(cluster: &Cluster) {
    for file in 0..40 {
        let mut text = String::new();
        for number in 0..10 {
            let name = format!("p{file:02}{number}{}", "x".repeat(50));
            let entries: Vec<_> = (0..100).map(|n| format!("{{name: {name}{n}, clusters: [acceptor]}}")).collect();
            let entries: Vec<_> = entries.iter().map(String::as_str).collect();
            write!(text, "{}", policy_of(&name, &entries)).unwrap();
        }
        cluster.write(&format!("policies-{file}.yaml"), text);
    }
}

#[test]
fn a_status_that_is_too_long_is_cut_says_so_and_is_let_go_when_nobody_reads_it() {
    let site = Site::new();
    let mut donor = site.cluster("donor");
    donor.configure("", &["{name: acceptor, consume: true}".to_owned()]);
    donor.write("services.yaml", service("reviews", 9080));
    write_many_policies(&donor);
    donor.start();
    site.until("all is read", || (donor.get("/readyz")?.0 == 200).then_some(()));
    let (code, text) = donor.get("/status").unwrap();
    let view: Value = serde_json::from_str(&text).unwrap();
    let listed = view["policies"].as_array().unwrap().len();
    assert_eq!(code, 200);
    assert!(text.len() < 9 << 20, "{} bytes", text.len());
    assert_eq!(listed as u64 + view["leftOut"]["policies"].as_u64().unwrap(), 400, "the rest is counted");
    assert!(listed > 10 && text.len() > 7 << 20, "{listed} policies, {} bytes", text.len());
    let peers = donor.get("/status?kind=peers").map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap()).unwrap();
    assert_eq!((&peers["peers"][0]["name"], &peers["policies"]), (&"acceptor".into(), &Value::Array(vec![])));
    assert!(peers.get("leftOut").is_none(), "{peers}");
    let elsewhere = donor.get("/status?namespace=shop").unwrap().1;
    assert!(!elsewhere.contains("leftOut") && elsewhere.contains("\"policies\":[]"), "{elsewhere}");
    assert_eq!(donor.get("/status?kind=secrets").map(|(code, _)| code), Some(400));
    let table = site.try_run(&["status", "--admin", &donor.admin.to_string()]);
    let note = String::from_utf8_lossy(&table.stderr).into_owned();
    assert!(table.status.code() == Some(1) && note.contains("left out") && note.contains("policies"), "{note}");

    let unread = flood(donor.admin, "/status", 1).remove(0);
    let begun = Instant::now();
    loop {
        match unread.take_error().unwrap() {
            Some(e) => break assert_eq!(e.kind(), ErrorKind::ConnectionReset),
            None => {
                assert!(begun.elapsed() < Duration::from_secs(45), "the connection is kept for as long as it likes")
            }
        }
        site.until("a moment", || Some(()));
        std::thread::sleep(Duration::from_millis(50)); // SO_ERROR cannot be waited for
    }
    assert_probes_are_prompt(&donor, "with all this");
}
