//! A local name belongs to its binding: it stays, and says why no donor is behind it.

use serde_json::{Value, json};

use super::build::*;
use crate::api::{Kind, Object, PortStatus, ServiceStatus};
use crate::model::{ExposedPort, Protocol, Style, TlsMode};
use crate::translate::{
    Inventory, LocalTranslation, MissingExposition, PassthroughHosts, PortMemory, ProblemReason, Source, WantedPorts,
    bind_local_name,
};

const WAYS: [(Style, TlsMode); 5] = [
    (Style::EgressIngress, TlsMode::Cluster),
    (Style::EgressIngress, TlsMode::Workload),
    (Style::EgressIngress, TlsMode::Passthrough),
    (Style::DirectIngress, TlsMode::Workload),
    (Style::DirectIngress, TlsMode::Passthrough),
];

/// `shop/till` of a donor with these ports.
fn till(donor: &str, tls: TlsMode, ports: &[(u16, &str, Protocol)]) -> Offered {
    let mut offered = offered(donor, "till", tls);
    let port = |(number, name, protocol): &(u16, &str, Protocol)| ExposedPort {
        number: *number,
        name: (*name).to_owned(),
        protocol: *protocol,
        host: offered.0.host.of_port(*number).unwrap(),
    };
    offered.0.ports = ports.iter().map(port).collect();
    offered
}

/// A binding's life with some donors: who is there, and what is remembered.
struct Life {
    style: Style,
    sources: Vec<Source>,
    standing: bool,
}

impl Life {
    fn new(style: Style, sources: Vec<Source>) -> Life {
        Life { style, sources, standing: false }
    }

    /// What it comes to now, which is then remembered as a status keeps it.
    fn now(&mut self) -> LocalTranslation {
        for source in &mut self.sources {
            source.version = source.exposition.as_ref().map(|e| e.version()).unwrap_or_default();
        }
        let passthroughs = PassthroughHosts::default();
        let (name, facts) = (self.sources[0].wanted.local.clone(), isle(self.style));
        let bound = bind_local_name(&name, &self.sources, &Inventory::default(), &passthroughs, &facts, self.standing);
        for (source, outcome) in self.sources.iter_mut().zip(&bound.outcomes) {
            let version = outcome.memory.version.clone().unwrap_or_default();
            let status = ServiceStatus { version, ports: outcome.memory.to_status(), ..ServiceStatus::default() };
            source.memory = PortMemory::from_status(&status);
            assert_eq!(source.memory, outcome.memory, "a status keeps it");
        }
        self.standing = !bound.objects.is_empty();
        bound
    }

    fn lose(&mut self, n: usize, why: MissingExposition) -> LocalTranslation {
        self.sources[n].exposition = Err(why);
        self.now()
    }

    fn have(&mut self, n: usize, offered: Offered) -> LocalTranslation {
        self.sources[n].exposition = Ok(offered.0.into());
        self.now()
    }
}

fn kinds(bound: &LocalTranslation) -> Vec<Kind> {
    bound.objects.iter().map(Object::kind).collect()
}

/// The routes of the mesh that answer by themselves: for which port, with which status, header and body.
fn answers(bound: &LocalTranslation) -> Vec<(Option<u64>, u64, String, String)> {
    let mesh = bound.objects.iter().find(|o| o.is_for_mesh()).map(|o| serde_json::to_value(o).unwrap());
    let routes = mesh.map(|vs| vs["spec"]["http"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
    let answering = routes.iter().filter(|route| !route["directResponse"].is_null());
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let one = |route: &Value| {
        let response = &route["directResponse"];
        let header = text(&route["headers"]["response"]["set"]["x-wharf-reason"]);
        let port = route["match"][0]["port"].as_u64();
        (port, response["status"].as_u64().unwrap(), header, text(&response["body"]["string"]))
    };
    answering.map(one).collect()
}

#[test]
fn a_name_stays_with_its_ports_and_says_who_exposes_it_no_more() {
    for (style, tls) in WAYS {
        let ports = [(8080, "http", Protocol::Http), (9000, "api", Protocol::Grpc), (7000, "feed", Protocol::Tcp)];
        let mut life = Life::new(style, vec![source("harbor", "till", till("harbor", tls, &ports), |_| {})]);
        let before = life.now();
        let after = life.lose(0, MissingExposition::NotExposed);
        assert_eq!(kinds(&after), [Kind::VirtualService, Kind::Service], "{style} {tls}: the ways there are gone");
        assert_eq!(only(&after.objects, Kind::Service), only(&before.objects, Kind::Service), "{style} {tls}");
        assert!(!after.shared);
        let said = |port: u64| {
            let why = "NotExposed by harbor";
            let body = format!("nothing is behind port {port} of till.office.svc.cluster.local: {why}");
            (Some(port), 503, why.to_owned(), body)
        };
        assert_eq!(answers(&after), [said(8080), said(9000)]);
        let refusal = after.outcomes[0].refusal.as_deref();
        let told =
            "calls of port 8080, 9000 are answered with 503 here, connections to port 7000 are closed at once here";
        assert_eq!(refusal, Some(told));
        let gone = after.outcomes[0].memory.to_status();
        assert!(gone.iter().all(|port| port.reason == "NotExposed") && gone.len() == 3, "{gone:?}");
        let again = life.now();
        assert_eq!(json_of(&again.objects), json_of(&after.objects), "it stays so");
        let back = life.have(0, till("harbor", tls, &ports));
        assert_eq!(json_of(&back.objects), json_of(&before.objects), "{style} {tls}: nothing is left of it");
        assert_eq!(
            (back.outcomes[0].refusal.as_ref(), back.outcomes[0].notes.len()),
            (None, before.outcomes[0].notes.len())
        );
    }
}

#[test]
fn a_name_of_tcp_ports_alone_stays_as_a_service_without_routes() {
    for (style, tls) in WAYS {
        let offered = till("harbor", tls, &[(7000, "feed", Protocol::Tcp)]);
        let mut life = Life::new(style, vec![source("harbor", "till", offered, |_| {})]);
        let before = life.now();
        let after = life.lose(0, MissingExposition::NotExposed);
        assert_eq!(kinds(&after), [Kind::Service], "{style} {tls}: no endpoints, and no route to any");
        assert_eq!(only(&after.objects, Kind::Service), only(&before.objects, Kind::Service));
    }
}

#[test]
fn a_name_that_was_never_granted_is_not_there() {
    let mut life =
        Life::new(Style::EgressIngress, vec![source("harbor", "till", till("harbor", TlsMode::Cluster, &[]), |_| {})]);
    for why in
        [MissingExposition::NotExposed, MissingExposition::PeerUnknown, MissingExposition::NotPermitted("no".into())]
    {
        let bound = life.lose(0, why);
        assert!(bound.objects.is_empty() && bound.outcomes[0].refusal.is_none(), "nobody knows its ports");
    }
}

#[test]
fn every_reason_for_which_nothing_is_behind_a_name_is_said_to_callers() {
    let ports = [(80, "http", Protocol::Http)];
    let reasons = [
        (MissingExposition::NotExposed, "NotExposed by harbor"),
        (MissingExposition::NotPermitted("%REQ(x)% <b>\r\nx: y".into()), "NotPermitted by harbor"),
        (MissingExposition::PeerUnknown, "PeerUnknown for harbor"),
        (MissingExposition::PeerUnreachable("%s".into()), "PeerUnreachable for harbor"),
        (MissingExposition::Rejected("%%\u{7f}".into()), "Rejected for harbor"),
    ];
    for (why, said) in reasons {
        let offered = till("harbor", TlsMode::Cluster, &ports);
        let mut life = Life::new(Style::EgressIngress, vec![source("harbor", "till", offered, |_| {})]);
        life.now();
        let after = life.lose(0, why);
        let body = format!("nothing is behind port 80 of till.office.svc.cluster.local: {said}");
        assert_eq!(answers(&after), [(None, 503, said.to_owned(), body)], "words of others are in neither");
    }
}

#[test]
fn a_port_that_goes_alone_says_why_and_the_others_work() {
    for (style, tls) in WAYS {
        let all = [(8080, "http", Protocol::Http), (9090, "http-admin", Protocol::Http), (7000, "feed", Protocol::Tcp)];
        let mut life = Life::new(style, vec![source("harbor", "till", till("harbor", tls, &all), |_| {})]);
        let before = life.now();
        let after = life.have(0, till("harbor", tls, &all[..1]));
        let outcome = &after.outcomes[0];
        assert_eq!(
            (outcome.problem.as_ref(), outcome.lacking.as_ref()),
            (None, None),
            "as exposed is what is asked for"
        );
        assert_eq!(only(&after.objects, Kind::Service), only(&before.objects, Kind::Service), "{style} {tls}");
        let why = "PortNotExposed by harbor";
        let said: Vec<_> =
            answers(&after).into_iter().map(|(port, status, header, _)| (port, status, header)).collect();
        assert_eq!(said, [(Some(9090), 503, why.to_owned())], "{style} {tls}");
        assert!(outcome.notes.contains(&"port 7000, 9090 is not exposed any more".to_owned()), "{:?}", outcome.notes);
        let mesh = after.objects.iter().find(|o| o.is_for_mesh()).map(|o| serde_json::to_value(o).unwrap()).unwrap();
        let led: Vec<&Value> =
            mesh["spec"]["http"].as_array().unwrap().iter().filter(|route| !route["route"].is_null()).collect();
        let led_from = |route: &&Value| route["match"].as_array().unwrap().iter().all(|m| m["port"] == 8080);
        assert!(!led.is_empty() && led.iter().all(led_from), "{style} {tls}: no other port is led there");
        assert!(mesh["spec"]["tcp"].is_null(), "{style} {tls}");
        let entry = after.objects.iter().find(|o| o.kind() == Kind::ServiceEntry).unwrap();
        let entry = serde_json::to_value(entry).unwrap();
        assert_eq!(entry["spec"]["ports"].as_array().unwrap().len(), 1, "{style} {tls}");
        let back = life.have(0, till("harbor", tls, &all));
        assert_eq!(json_of(&back.objects), json_of(&before.objects), "{style} {tls}");
    }
}

#[test]
fn of_several_donors_the_last_one_closes_a_port() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let (web, both) = ([(80, "http", Protocol::Http)], [(80, "http", Protocol::Http), (81, "more", Protocol::Http)]);
    let first = source("harbor", "till", till("harbor", tls, &both), |_| {});
    let second = source("reef", "till", till("reef", tls, &web), |w| w.remote = 1);
    let mut life = Life::new(style, vec![first, second]);
    assert!(answers(&life.now()).is_empty());
    let one_left = life.lose(0, MissingExposition::NotExposed);
    let said =
        |bound: &LocalTranslation| answers(bound).into_iter().map(|(port, _, why, _)| (port, why)).collect::<Vec<_>>();
    assert_eq!(said(&one_left), [(Some(81), "NotExposed by harbor".to_owned())]);
    assert_eq!(one_left.outcomes[0].refusal.as_deref(), Some("calls of port 81 are answered with 503 here"));
    let none_left = life.lose(1, MissingExposition::PeerUnknown);
    let of_both = "NotExposed by harbor, PeerUnknown for reef".to_owned();
    assert_eq!(said(&none_left), [(Some(80), of_both), (Some(81), "NotExposed by harbor".to_owned())]);
    let back = life.have(1, till("reef", tls, &web));
    assert_eq!(json_of(&back.objects), json_of(&one_left.objects));
}

#[test]
fn a_name_without_a_donor_is_not_given_to_another_service() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let ports = [(80, "http", Protocol::Http)];
    let holder = source("harbor", "till", till("harbor", tls, &ports), |_| {});
    let other = source("cove", "till", offered("cove", "books", tls), |w| {
        (w.remote, w.binding.name) = (1, "aaa".into());
    });
    let mut life = Life::new(style, vec![other, holder]);
    let reason = |bound: &LocalTranslation, n: usize| bound.outcomes[n].problem.as_ref().map(|p| p.reason);
    life.sources[1].memory = Life::new(style, vec![life.sources[1].clone()]).now().outcomes[0].memory.clone();
    let held = life.now();
    assert_eq!([0, 1].map(|n| reason(&held, n)), [Some(ProblemReason::NameConflict), None]);
    let lost = life.lose(1, MissingExposition::NotExposed);
    assert_eq!([0, 1].map(|n| reason(&lost, n)), [Some(ProblemReason::NameConflict), Some(ProblemReason::NotExposed)]);
    assert_eq!(answers(&lost)[0].2, "NotExposed by harbor", "callers meant that one");
    let message = &lost.outcomes[0].problem.as_ref().unwrap().message;
    assert!(message.contains("shop/till of harbor, which has the name here"), "{message}");
    let provenance = lost.objects[0].metadata().annotations.clone().unwrap();
    assert!(provenance.values().any(|value| value == "office.suppliers"), "{provenance:?}");
    life.sources.remove(1);
    let alone = life.now();
    assert_eq!(reason(&alone, 0), None, "the other binding is gone, and so is its claim");
}

#[test]
fn a_donor_that_takes_no_calls_keeps_the_name() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let offered = || till("harbor", tls, &[(80, "http", Protocol::Http)]);
    let drained = source("harbor", "till", offered(), |w| (w.weight, w.shares) = (Some(0), true));
    let mut life = Life::new(style, vec![source("harbor", "till", offered(), |_| {})]);
    let before = life.now();
    life.sources[0].wanted = drained.wanted;
    let after = life.now();
    assert_eq!(only(&after.objects, Kind::Service), only(&before.objects, Kind::Service));
    assert_eq!(answers(&after)[0].2, "WeightZero for harbor");
    let problem = after.outcomes[0].problem.as_ref().map(|problem| problem.reason);
    assert_eq!(problem, Some(ProblemReason::WeightZero), "a status is not green while every call fails");
}

#[test]
fn a_binding_that_asks_for_other_ports_keeps_its_address_until_it_has_one_of_them() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let offered = || till("harbor", tls, &[(8080, "http", Protocol::Http), (9090, "more", Protocol::Http)]);
    let asking = |port: u16| source("harbor", "till", offered(), |w| w.ports = WantedPorts::Single(port));
    let mut life = Life::new(style, vec![asking(8080)]);
    life.now();
    life.lose(0, MissingExposition::NotExposed);
    let memory = life.sources[0].memory.clone().of_other_ports();
    life.sources[0] = Source { memory, exposition: Err(MissingExposition::NotExposed), ..asking(9090) };
    let waiting = life.now();
    let numbers = |bound: &LocalTranslation| {
        let ports = only(&bound.objects, Kind::Service)["ports"].as_array().unwrap().clone();
        ports.iter().map(|port| port["port"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&waiting), [8080], "what it speaks on the other is not known yet");
    assert_eq!(waiting.outcomes[0].memory.to_status()[0].port, 0, "where the author meant it to lead is forgotten");
    assert_eq!(numbers(&life.have(0, offered())), [9090]);
    let pinned = life.sources[0].memory.clone().of_other_ports();
    life.sources[0] = Source { memory: pinned, ..asking(8080) };
    assert_eq!(numbers(&life.now()), [8080]);
}

#[test]
fn a_donor_that_changes_its_ports_without_end_fills_no_status() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let first = source("harbor", "till", till("harbor", tls, &[(1, "", Protocol::Http)]), |_| {});
    let mut life = Life::new(style, vec![first]);
    let mut most = 0;
    for n in 0..100_u16 {
        let ports: Vec<_> = (1..=8).map(|i| (n * 8 + i, "", Protocol::Http)).collect();
        let bound = life.have(0, till("harbor", tls, &ports));
        let known = bound.outcomes[0].memory.ports.len();
        most = most.max(known);
        let live = bound.outcomes[0].memory.ports.iter().filter(|port| port.gone.is_none()).count();
        assert_eq!(live, 8, "what is exposed now goes first");
    }
    assert_eq!(most, 64);
}

#[test]
fn an_answer_names_some_donors_and_counts_the_others() {
    let (style, tls) = (Style::EgressIngress, TlsMode::Cluster);
    let mut facts = isle(style);
    let names: Vec<String> = (0..9).map(|n| format!("d{n}")).collect();
    let ports = || vec![PortStatus { local_port: 80, port: 80, protocol: "HTTP".into(), ..PortStatus::default() }];
    let sources = names.iter().enumerate().map(|(n, name)| {
        facts.peers.insert(cluster(name), crate::model::Peer::with_name(cluster(name)));
        let mut source = source(name, "till", till(name, tls, &[]), |w| w.remote = n);
        source.exposition = Err(MissingExposition::NotExposed);
        source.memory = PortMemory::from_status(&ServiceStatus { ports: ports(), ..ServiceStatus::default() });
        source
    });
    let bound = bound(&sources.collect::<Vec<_>>(), &Inventory::default(), &facts);
    assert_eq!(answers(&bound)[0].2, "NotExposed by d0, NotExposed by d1, NotExposed by d2 and 6 more");
}

#[test]
fn a_status_that_somebody_edited_makes_no_name_that_no_service_can_have() {
    let port = |local: u16, name: &str| PortStatus {
        local_port: local,
        port: local,
        protocol: "HTTP".into(),
        name: name.into(),
        reason: "%x%\r\n".into(),
    };
    let ports = vec![
        port(80, "A\nB"),
        port(80, "twice"),
        port(0, "zero"),
        PortStatus { protocol: "SCTP".into(), ..port(7, "x") },
    ];
    let mut source = source("harbor", "till", till("harbor", TlsMode::Cluster, &[]), |_| {});
    source.exposition = Err(MissingExposition::NotExposed);
    source.memory = PortMemory::from_status(&ServiceStatus { ports, ..ServiceStatus::default() });
    let bound = bound(&[source], &Inventory::default(), &isle(Style::EgressIngress));
    assert_eq!(only(&bound.objects, Kind::Service)["ports"], json!([{"name": "http", "port": 80}]));
    assert_eq!(answers(&bound)[0].2, "NotExposed by harbor");
}
