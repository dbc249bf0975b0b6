use proptest::prelude::*;

use super::*;
use crate::model::{AllowedGateways, Peer};

fn good() -> pb::Exposition {
    let name = |n: &str| n.to_owned();
    pb::Exposition {
        namespace: name("default"),
        name: name("reviews"),
        host: name("reviews.default.svc.cluster.local"),
        ports: vec![
            pb::Port {
                number: 9080,
                name: name("http"),
                protocol: pb::Protocol::Http.into(),
                host: String::new(),
                by_number: false,
            },
            pb::Port {
                number: 9090,
                name: name("grpc"),
                protocol: pb::Protocol::Grpc.into(),
                host: name("p9090.reviews.default.svc.cluster.local"),
                by_number: true,
            },
        ],
        version: name("abc"),
        tls: pb::TlsMode::Cluster.into(),
        identities: vec![name("spiffe://wharf/cluster/cluster1")],
        gateways: vec![pb::GatewayAddress { address: name("192.0.2.7"), port: 15443, locality: name("eu/eu-1") }],
        clients: vec![pb::Client { namespace: name("front"), service_account: name("web") }],
    }
}

fn checks(allowed: &[&str]) -> ExpositionChecks {
    let networks: Vec<String> = allowed.iter().map(|&n| n.to_owned()).collect();
    let allowed = AllowedGateways::parse(&networks, &[]).unwrap();
    ExpositionChecks { gateways: Some(GatewayRules::new(&Peer::with_name("donor".parse().unwrap()), &allowed)) }
}

fn rejection(change: impl FnOnce(&mut pb::Exposition)) -> WireRejection {
    let mut wire = good();
    change(&mut wire);
    from_wire(&wire, &checks(&[])).unwrap_err()
}

#[test]
fn what_is_sent_is_what_is_heard() {
    let heard = from_wire(&good(), &checks(&[])).unwrap();
    assert_eq!(to_wire(&heard.exposition, &heard.version), good());
    assert_eq!(heard.exposition.ports[1].host.as_str(), "p9090.reviews.default.svc.cluster.local");
    check_exposition(&heard.exposition, "1").unwrap();
}

#[test]
fn each_port_goes_by_its_number_and_peers_of_0_1_by_what_they_know() {
    let mut wire = good();
    wire.ports.truncate(1);
    let host = |wire: &pb::Exposition| from_wire(wire, &checks(&[])).unwrap().exposition.ports[0].host.to_string();
    assert_eq!(host(&wire), "reviews.default.svc.cluster.local", "a donor of 0.1 serves no other");
    wire.ports[0].by_number = true;
    let heard = from_wire(&wire, &checks(&[])).unwrap().exposition;
    assert_eq!(heard.ports[0].host.as_str(), "p9080.reviews.default.svc.cluster.local");
    assert_eq!(to_wire(&heard, "abc"), wire, "the host of 0.1 is the exposition's, which is served beside it");
    let withheld = Exposition { host_is_withheld: true, ..heard.clone() };
    let sent = to_wire(&withheld, "abc");
    assert_eq!(sent.ports[0].host, heard.ports[0].host.as_str(), "0.1 refuses it, and calls nothing else by it");
    assert_eq!(from_wire(&sent, &checks(&[])).unwrap().exposition, withheld);
    let mut two = heard;
    two.ports.push(ExposedPort { number: 9090, host: two.host.of_port(9090).unwrap(), ..two.ports[0].clone() });
    let sent = to_wire(&two, "abc");
    assert!(sent.ports.iter().all(|p| p.host.starts_with('p') && p.by_number), "{:?}", sent.ports);
    assert_eq!(from_wire(&sent, &checks(&[])).unwrap().exposition, two);
}

#[test]
fn every_field_out_of_bounds_is_refused_by_name() {
    type Change = fn(&mut pb::Exposition);
    let cases: [(&str, Change); 31] = [
        ("namespace", |e| e.namespace = "../../etc".into()),
        ("name", |e| e.name = "a".repeat(64)),
        ("name", |e| e.name = String::new()),
        ("name", |e| e.name = "a.b".into()),
        ("version", |e| e.version = String::new()),
        ("version", |e| e.version = "v".repeat(65)),
        ("version", |e| e.version = "a\nb".into()),
        ("host", |e| e.host = "kubernetes.default.svc.cluster.local".into()),
        ("host", |e| e.host = "*.cluster.local".into()),
        ("ports", |e| e.ports.clear()),
        ("ports", |e| e.ports = vec![e.ports[0].clone(); 65]),
        ("ports[0].number", |e| e.ports[0].number = 0),
        ("ports[0].number", |e| e.ports[0].number = 65536),
        ("ports[1].number", |e| (e.ports[1].number, e.ports[1].host) = (9080, String::new())),
        ("ports[1].host", |e| (e.ports[1].host, e.ports[1].by_number) = (String::new(), false)),
        ("ports[1].host", |e| e.ports[1].host = "p1.reviews.default.svc.cluster.local".into()),
        ("ports[0].name", |e| e.ports[0].name = "a b".into()),
        ("ports[0].protocol", |e| e.ports[0].protocol = 0),
        ("ports[0].protocol", |e| e.ports[0].protocol = 77),
        ("tls", |e| e.tls = 0),
        ("tls", |e| e.tls = 4),
        ("identities", |e| e.identities.clear()),
        ("identities", |e| e.identities = vec![e.identities[0].clone(); 33]),
        ("identities[0]", |e| e.identities[0] = "https://wharf".into()),
        ("gateways", |e| e.gateways.clear()),
        ("gateways", |e| e.gateways = vec![e.gateways[0].clone(); 33]),
        ("gateways[0].port", |e| e.gateways[0].port = 70000),
        ("gateways[0].locality", |e| e.gateways[0].locality = "a/b/c/d".into()),
        ("clients", |e| e.clients = vec![e.clients[0].clone(); 257]),
        ("clients[0].namespace", |e| e.clients[0].namespace.clear()),
        ("clients[0].service_account", |e| e.clients[0].service_account = "*".into()),
    ];
    for (field, change) in cases {
        let rejection = rejection(change);
        assert_eq!(rejection.field, field, "{rejection}");
    }
}

#[test]
fn a_gateway_that_leads_home_is_refused() {
    let local = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "localhost"];
    let disguised = ["0x7f.1", "a.0x7f000001", "gateway", "x.svc.cluster.local", "metadata.google.internal"];
    for address in local.into_iter().chain(disguised) {
        let rejection = rejection(|e| e.gateways[0].address = address.into());
        assert_eq!(rejection.field, "gateways[0].address", "{rejection}");
    }
}

#[test]
fn only_allowed_networks_are_gateways_unless_the_operator_named_one() {
    let rejection = from_wire(&good(), &checks(&["198.51.100.0/24"])).unwrap_err();
    assert!(rejection.to_string().contains("192.0.2.7 is outside allowedGateways"), "{rejection}");
    from_wire(&good(), &ExpositionChecks { gateways: None }).unwrap();
}

#[test]
fn a_rejection_is_fit_for_a_terminal() {
    let rejection = rejection(|e| e.name = "\x1b[2Jreviews\n".into());
    assert_eq!(rejection.key, None);
    assert!(!rejection.to_string().contains(char::is_control), "{rejection:?}");
}

#[test]
fn an_outcome_of_a_newer_protocol_is_left_out() {
    let key = key_from_wire("default", "reviews").unwrap();
    let mut wire = ack_to_wire(&key, &ExpositionOutcome::rejected("No Such\u{7}", "because\nof this"));
    let (heard, outcome) = outcome_from_wire(&wire).unwrap();
    assert_eq!((heard, outcome.reason.as_str(), outcome.message.as_str()), (key, "NoSuch", "because of this"));
    wire.state = 99;
    assert_eq!(outcome_from_wire(&wire), None);
}

proptest! {
    #[test]
    fn whatever_comes_either_is_valid_or_names_its_field(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(wire) = <pb::Exposition as prost::Message>::decode(bytes.as_slice()) {
            match from_wire(&wire, &ExpositionChecks::default()) {
                Ok(heard) => prop_assert!(check_exposition(&heard.exposition, &heard.version).is_ok()),
                Err(rejection) => prop_assert!(!rejection.field.is_empty()),
            }
        }
    }

    #[test]
    fn no_change_of_one_text_makes_an_invalid_exposition_valid(text in ".{0,300}", field in 0..6usize) {
        let mut wire = good();
        match field {
            0 => wire.namespace = text,
            1 => wire.host = text,
            2 => wire.version = text,
            3 => wire.identities[0] = text,
            4 => wire.gateways[0].address = text,
            _ => wire.ports[0].name = text,
        }
        if let Ok(heard) = from_wire(&wire, &ExpositionChecks::default()) {
            let again = to_wire(&heard.exposition, &heard.version);
            prop_assert_eq!(from_wire(&again, &ExpositionChecks::default()).ok(), Some(heard));
        }
    }
}
