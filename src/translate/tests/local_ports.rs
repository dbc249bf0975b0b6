//! A local name and port leads to the service and port that the binding's author meant, or nowhere.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::build::*;
use crate::api::{Kind, Object, PortRef};
use crate::model::{ExposedPort, Protocol, Style, TlsMode};
use crate::translate::{
    Inventory, LocalTranslation, PassthroughHosts, PortMemory, ProblemReason, Source, WantedPort, WantedPorts,
    bind_local_name, split_binding,
};

/// `shop/till` of a donor with these ports.
fn with_ports(donor: &str, ports: &[(u16, &str, Protocol)]) -> Offered {
    let mut offered = offered(donor, "till", TlsMode::Cluster);
    let host = offered.0.host.clone();
    let port = |(i, (number, name, protocol)): (usize, &(u16, &str, Protocol))| ExposedPort {
        number: *number,
        name: (*name).to_owned(),
        protocol: *protocol,
        host: if i == 0 { host.clone() } else { host.of_port(*number).unwrap() },
    };
    offered.0.ports = ports.iter().enumerate().map(port).collect();
    offered
}

fn http(donor: &str, numbers: &[u16]) -> Offered {
    with_ports(donor, &numbers.iter().map(|n| (*n, "", Protocol::Http)).collect::<Vec<_>>())
}

fn listed(ports: &[(PortRef, Option<u16>)]) -> WantedPorts {
    WantedPorts::Listed(ports.iter().map(|(port, local)| WantedPort { port: port.clone(), local: *local }).collect())
}

/// What is bound of one donor, with what is remembered; which is then what it came to.
fn next(offered: Offered, wanted: &WantedPorts, memory: &mut PortMemory) -> LocalTranslation {
    let version = offered.0.version();
    let source = source("harbor", "till", offered, |w| w.ports = wanted.clone());
    let bound = bound(
        &[Source { version, memory: memory.clone(), ..source }],
        &Inventory::default(),
        &isle(Style::EgressIngress),
    );
    *memory = bound.outcomes[0].memory.clone();
    bound
}

fn problem(bound: &LocalTranslation, i: usize) -> Option<ProblemReason> {
    bound.outcomes[i].problem.as_ref().map(|p| p.reason)
}

fn lacking(bound: &LocalTranslation, i: usize) -> Option<ProblemReason> {
    bound.outcomes[i].lacking.as_ref().map(|p| p.reason)
}

/// Where each local port leads: the names at donors' gateways, by port of the donors' ServiceEntry and the subset taken.
fn leads(objects: &[Object]) -> BTreeMap<u64, BTreeSet<String>> {
    let rules = objects.iter().filter(|o| o.kind() == Kind::DestinationRule).map(|o| serde_json::to_value(o).unwrap());
    let mut specs = rules.map(|r| r["spec"].clone());
    let Some(rule) = specs.find(|s| s["host"].as_str().unwrap().starts_with("remote.")) else { return BTreeMap::new() };
    let entry = only(objects, Kind::ServiceEntry);
    let ports: Vec<u64> = entry["ports"].as_array().unwrap().iter().map(|p| p["number"].as_u64().unwrap()).collect();
    let sni = |policy: &serde_json::Value, port: u64| {
        let by_port = policy["portLevelSettings"].as_array().into_iter().flatten();
        let own = by_port.into_iter().find(|s| s["port"]["number"] == port).map(|s| s["tls"]["sni"].clone());
        own.or_else(|| Some(policy["tls"]["sni"].clone()).filter(|_| port == ports[0]))
    };
    let mut found: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let routes = objects.iter().filter(|o| o.kind() == Kind::VirtualService && o.key().namespace == "istio-system");
    for route in routes {
        let spec = serde_json::to_value(route).unwrap()["spec"].clone();
        let all = spec["http"].as_array().into_iter().chain(spec["tcp"].as_array()).flatten();
        for destination in all.flat_map(|r| r["route"].as_array().unwrap()).map(|r| &r["destination"]) {
            let port = destination["port"]["number"].as_u64().unwrap();
            let subset = destination["subset"].as_str();
            let policy = |name: &str| {
                rule["subsets"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap()["trafficPolicy"].clone()
            };
            let own = subset.and_then(|s| sni(&policy(s), port)).filter(|sni| !sni.is_null());
            let sni = own.or_else(|| sni(&rule["trafficPolicy"], port)).unwrap();
            found.entry(port).or_default().insert(sni.as_str().unwrap().to_owned());
        }
    }
    found
}

/// The ports whose calls are answered in the mesh, and the reason that is said.
fn said_why(objects: &[Object]) -> BTreeMap<u64, String> {
    let mesh = objects.iter().find(|o| o.is_for_mesh()).map(|o| serde_json::to_value(o).unwrap()["spec"].clone());
    let service = objects.iter().find(|o| o.kind() == Kind::Service).map(|o| serde_json::to_value(o).unwrap());
    let only = service.and_then(|s| s["spec"]["ports"][0]["port"].as_u64());
    let routes = mesh.map(|spec| spec["http"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
    let answering = routes.iter().filter(|route| route["directResponse"]["status"] == 503);
    let why = |route: &serde_json::Value| {
        let reason = route["headers"]["response"]["set"]["x-wharf-reason"].as_str().unwrap().to_owned();
        (route["match"][0]["port"].as_u64().or(only).unwrap(), reason)
    };
    answering.map(why).collect()
}

/// Whether a local port was TCP when it was bound last.
fn is_tcp(bound: &LocalTranslation, port: u64) -> bool {
    let known = bound.outcomes.iter().flat_map(|o| &o.memory.ports);
    known.filter(|p| u64::from(p.local) == port).any(|p| p.protocol == Protocol::Tcp)
}

fn hosts(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| format!("{n}till.shop.svc.cluster.local")).collect()
}

#[test]
fn a_port_that_is_withdrawn_leads_to_no_other() {
    let (wanted, mut memory) = (WantedPorts::Single(9090), PortMemory::default());
    let before = next(http("harbor", &[8000, 9090]), &wanted, &mut memory);
    assert_eq!(leads(&before.objects), [(9090, hosts(&["p9090."]))].into());
    let after = next(http("harbor", &[8000]), &wanted, &mut memory);
    assert_eq!((problem(&after, 0), leads(&after.objects)), (Some(ProblemReason::PortNotExposed), BTreeMap::new()));
    assert!(after.outcomes[0].problem.as_ref().unwrap().line().contains("it exposes: 8000"));
    let back = next(http("harbor", &[9090]), &wanted, &mut memory);
    assert_eq!(problem(&back, 0), None, "it is the one that was meant");
}

#[test]
fn a_port_that_a_donor_adds_takes_nothing_away() {
    let (wanted, mut memory) = (WantedPorts::Single(80), PortMemory::default());
    let before = next(http("harbor", &[8080]), &wanted, &mut memory);
    assert_eq!(before.outcomes[0].notes, ["port 80 here is port 8080 of harbor"]);
    let after = next(http("harbor", &[8080, 9100]), &wanted, &mut memory);
    assert_eq!((problem(&after, 0), leads(&after.objects)), (None, [(80, hosts(&[""]))].into()));
    let gone = next(http("harbor", &[9100]), &wanted, &mut memory);
    assert_eq!(problem(&gone, 0), Some(ProblemReason::PortNotExposed), "nobody meant 9100");
    let read = PortMemory::from_status(&crate::api::ServiceStatus { ports: memory.to_status(), ..Default::default() });
    assert_eq!(read.ports, memory.ports, "a status keeps it");
    let fresh = next(http("harbor", &[8080, 9100]), &wanted, &mut PortMemory::default());
    assert_eq!(problem(&fresh, 0), Some(ProblemReason::PortNotExposed), "nobody said which");
}

#[test]
fn ports_are_bound_by_number_or_name_under_any_local_port() {
    let ports = [(8000, "http-admin", Protocol::Http), (9090, "api", Protocol::Grpc)];
    let wanted = listed(&[(PortRef::Name("api".into()), Some(80)), (PortRef::Number(8000), None)]);
    let mut memory = PortMemory::default();
    let bound = next(with_ports("harbor", &ports), &wanted, &mut memory);
    assert_eq!(leads(&bound.objects), [(80, hosts(&["p9090."])), (8000, hosts(&[""]))].into());
    let service = only(&bound.objects, Kind::Service);
    let told = json!([{"name": "api", "port": 80, "appProtocol": "grpc"}, {"name": "http-admin", "port": 8000}]);
    assert_eq!(service["ports"], told, "names survive, and say what is spoken");
    let renumbered = [(9091, "api", Protocol::Grpc)];
    let after = next(with_ports("harbor", &renumbered), &wanted, &mut memory);
    assert_eq!((problem(&after, 0), lacking(&after, 0)), (None, Some(ProblemReason::PortNotExposed)));
    assert_eq!(leads(&after.objects).keys().collect::<Vec<_>>(), [&80], "the name is the same port");
}

#[test]
fn what_cannot_be_told_apart_is_refused_alone() {
    let twice = [(1, "api", Protocol::Http), (2, "api", Protocol::Http), (3, "feed", Protocol::Tcp)];
    let by_name = |name: &str| (PortRef::Name(name.into()), None);
    let both = listed(&[by_name("api"), by_name("feed")]);
    let bound = next(with_ports("harbor", &twice), &both, &mut PortMemory::default());
    assert_eq!((problem(&bound, 0), lacking(&bound, 0)), (None, Some(ProblemReason::PortAmbiguous)));
    assert_eq!(leads(&bound.objects).keys().collect::<Vec<_>>(), [&3]);
    let meeting = listed(&[(PortRef::Number(1), Some(3)), (PortRef::Number(3), None)]);
    let bound = next(with_ports("harbor", &twice), &meeting, &mut PortMemory::default());
    assert_eq!(lacking(&bound, 0), Some(ProblemReason::PortAmbiguous));
    let one = |services: serde_json::Value| {
        let split = split_binding(&binding("suppliers", json!([{"cluster": "harbor", "services": [services]}])));
        split.entries[0].wanted.as_ref().err().map(|p| (p.reason, p.field.clone()))
    };
    let field = |name: &str| Some((ProblemReason::Invalid, format!("spec.remote[0].services[0].{name}")));
    assert_eq!(one(json!({"name": "till", "port": 1, "ports": [{"port": 2}]})), field("ports"));
    assert_eq!(
        one(json!({"name": "till", "ports": [{"port": 1, "localPort": 9}, {"port": 2, "localPort": 9}]})),
        field("ports")
    );
    assert_eq!(one(json!({"name": "till", "ports": [{"port": 0}]})), field("ports[0].port"));
}

#[test]
fn a_donor_that_lacks_a_port_is_left_out_for_that_port() {
    for style in [Style::EgressIngress, Style::DirectIngress] {
        let tls = if style == Style::EgressIngress { TlsMode::Cluster } else { TlsMode::Workload };
        let donor = |name: &str, n: usize, ports: &[u16]| {
            let mut offered = http(name, ports);
            (offered.0.tls, offered.0.identities) = (tls, super::build::offered(name, "till", tls).0.identities);
            source(name, "till", offered, |w| (w.remote, w.priority, w.shares) = (n, n as u32, true))
        };
        let all = [donor("harbor", 0, &[8080]), donor("reef", 1, &[8080, 9100])];
        let bound = bound(&all, &Inventory::default(), &isle(style));
        assert_eq!([0, 1].map(|i| problem(&bound, i)), [None, None], "priorities are kept");
        assert!(bound.outcomes[0].notes.iter().any(|n| n.contains("no port 9100")), "{:?}", bound.outcomes[0].notes);
        let entry = only(&bound.objects, Kind::ServiceEntry);
        let endpoints = entry["endpoints"].as_array().unwrap();
        let having: Vec<_> =
            endpoints.iter().filter(|e| e["labels"]["multicluster.istio.io/port-9100"] == "in").collect();
        assert_eq!(having.iter().map(|e| &e["address"]).collect::<Vec<_>>(), ["192.0.2.30"]);
        let rules = bound.objects.iter().filter(|o| o.kind() == Kind::DestinationRule);
        let rule =
            rules.map(|o| serde_json::to_value(o).unwrap()["spec"].clone()).find(|s| !s["trafficPolicy"].is_null());
        let rule = rule.unwrap();
        let subset = rule["subsets"].as_array().unwrap().iter().find(|s| s["name"] == "to-p9100").unwrap().clone();
        assert_eq!(subset["labels"], json!({"multicluster.istio.io/port-9100": "in"}));
        assert_eq!(subset["trafficPolicy"]["portLevelSettings"][0]["tls"]["sni"], "p9100.till.shop.svc.cluster.local");
        let routes = bound.objects.iter().filter(|o| o.kind() == Kind::VirtualService);
        let text: String = routes.map(|o| serde_json::to_string(o).unwrap()).collect();
        assert!(text.contains(r#""subset":"to-p9100""#), "{text}");
    }
}

#[test]
fn what_conflicts_is_decided_by_who_has_the_name_and_never_by_the_alphabet() {
    let facts = isle(Style::EgressIngress);
    let tcp = |donor: &str, n: usize| {
        source(donor, "till", with_ports(donor, &[(8080, "", Protocol::Tcp)]), |w| w.remote = n)
    };
    let web = |donor: &str, n: usize| source(donor, "till", http(donor, &[8080, 9090]), |w| w.remote = n);
    let fresh = bound(&[tcp("cove", 1), web("reef", 0)], &Inventory::default(), &facts);
    assert_eq!(
        (problem(&fresh, 0), problem(&fresh, 1)),
        (None, Some(ProblemReason::NameConflict)),
        "the author's order"
    );
    let message = &fresh.outcomes[1].problem.as_ref().unwrap().message;
    assert!(message.contains("port 8080 is TCP, and HTTP at shop/till of reef"), "{message}");
    let held = |mut source: Source, version: &str| {
        source.memory.version = Some(version.into());
        source.version = "2".into();
        source
    };
    let kept = bound(&[held(tcp("cove", 1), "2"), web("reef", 0)], &Inventory::default(), &facts);
    assert_eq!((problem(&kept, 0), problem(&kept, 1)), (None, None), "reef has another port, and keeps that");
    assert_eq!(lacking(&kept, 0), Some(ProblemReason::NameConflict), "the holder keeps the port");
    let changed = bound(&[held(tcp("cove", 1), "2"), held(web("reef", 0), "1")], &Inventory::default(), &facts);
    assert_eq!(lacking(&changed, 0), Some(ProblemReason::NameConflict), "who changes gives way");
}

#[test]
fn two_services_share_a_name_only_if_both_bindings_say_so() {
    let facts = isle(Style::EgressIngress);
    let holder =
        |shares: bool| source("harbor", "till", offered("harbor", "till", TlsMode::Cluster), |w| w.shares = shares);
    let other = |donor: &str, shares: bool| {
        source(donor, "till", offered(donor, "books", TlsMode::Cluster), |w| {
            (w.remote, w.shares, w.binding.name) = (1, shares, "zzz".into());
        })
    };
    for donor in ["cove", "harbor"] {
        for (a, b) in [(false, false), (true, false), (false, true)] {
            let bound = bound(&[holder(a), other(donor, b)], &Inventory::default(), &facts);
            assert_eq!((problem(&bound, 0), problem(&bound, 1)), (None, Some(ProblemReason::NameConflict)));
        }
    }
    let mine = source("cove", "till", offered("cove", "books", TlsMode::Cluster), |w| w.remote = 1);
    let one_author = bound(&[holder(true), mine], &Inventory::default(), &facts);
    assert_eq!(problem(&one_author, 1), None, "in one binding one weight says it");
    let shared = bound(&[holder(true), other("cove", true)], &Inventory::default(), &facts);
    assert_eq!((problem(&shared, 0), problem(&shared, 1)), (None, None));
    assert_eq!(shared.outcomes[0].notes, ["it shares till with shop/books of cove, and takes 1 of 2 calls"]);
    assert_eq!(shared.outcomes[1].notes, ["it shares till with shop/till of harbor, and takes 1 of 2 calls"]);
}

#[test]
fn names_that_no_service_can_have_or_that_meet_are_replaced() {
    let odd = [
        (1, "http-api", Protocol::Http),
        (2, "x", Protocol::Tcp),
        (3, "x", Protocol::Tcp),
        (4, "A_B", Protocol::Http),
        (5, "tcp-3", Protocol::Tcp),
    ];
    let bound = next(with_ports("harbor", &odd), &WantedPorts::AsExposed, &mut PortMemory::default());
    let service = only(&bound.objects, Kind::Service);
    let names: Vec<_> = service["ports"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["http-api", "tcp-2", "tcp-3-port", "http-4", "tcp-3"]);
}

/// One step of a history: which ports two donors have, by number and protocol; a donor may be away.
type Step = [Option<BTreeMap<u16, (Protocol, &'static str)>>; 2];

fn any_ports() -> impl Strategy<Value = BTreeMap<u16, (Protocol, &'static str)>> {
    let number = prop_oneof![Just(80u16), Just(8000), Just(8080), Just(9090)];
    let protocol = prop_oneof![3 => Just(Protocol::Http), 1 => Just(Protocol::Tcp)];
    let name = prop_oneof![Just("api"), Just("admin"), Just("")];
    prop::collection::btree_map(number, (protocol, name), 1..4)
}

fn any_wanted() -> impl Strategy<Value = WantedPorts> {
    let number = || prop_oneof![Just(80u16), Just(8000), Just(8080), Just(9090)];
    let port = prop_oneof![number().prop_map(PortRef::Number), Just(PortRef::Name("api".into()))];
    prop_oneof![
        1 => Just(WantedPorts::AsExposed),
        3 => number().prop_map(WantedPorts::Single),
        2 => prop::collection::vec((port, prop::option::of(number())), 1..3).prop_filter_map("one local port each", |ports| {
            let locals: Vec<u16> = ports.iter().filter_map(|(_, local)| *local).collect();
            (locals.iter().collect::<BTreeSet<_>>().len() == locals.len()).then(|| listed(&ports))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever two donors do, in whatever order: a local port leads to the port that was meant by name or number, and
    /// `port` to the one that it led to first.
    #[test]
    fn a_local_port_leads_where_it_was_meant_to_or_nowhere(
        wanted in any_wanted(),
        steps in prop::collection::vec((prop::option::weighted(0.8, any_ports()), prop::option::weighted(0.8, any_ports())), 1..8),
        restarts in any::<u8>(),
    ) {
        let facts = isle(Style::EgressIngress);
        let mut memories = [PortMemory::default(), PortMemory::default()];
        let mut first: BTreeMap<(usize, u16), u16> = BTreeMap::new();
        let mut ever: BTreeSet<u64> = BTreeSet::new();
        for (n, (a, b)) in steps.into_iter().enumerate() {
            let step: Step = [a, b];
            let list: Vec<Source> = ["harbor", "reef"].iter().enumerate().map(|(i, donor)| {
                let ports: Vec<_> = step[i].iter().flatten().map(|(n, (protocol, name))| (*n, *name, *protocol)).collect();
                let offered = with_ports(donor, &ports);
                let version = offered.0.version();
                let mut source = source(donor, "till", offered, |w| (w.ports, w.remote) = (wanted.clone(), i));
                if step[i].is_none() {
                    source.exposition = Err(crate::translate::MissingExposition::NotExposed);
                }
                (source.version, source.memory) = (version, memories[i].clone());
                if restarts >> n & 1 == 1 {
                    let status = crate::api::ServiceStatus {
                        version: source.memory.version.clone().unwrap_or_default(), ports: source.memory.to_status(), ..Default::default()
                    };
                    source.memory = PortMemory::from_status(&status);
                }
                source
            }).collect();
            let passthroughs = PassthroughHosts::default();
            let bound = bind_local_name(&local("till"), &list, &Inventory::default(), &passthroughs, &facts, n > 0);
            for (i, outcome) in bound.outcomes.iter().enumerate() {
                memories[i] = outcome.memory.clone();
                if outcome.problem.is_some() {
                    continue;
                }
                let Some(ports) = &step[i] else { panic!("it is not exposed") };
                let in_force = outcome.memory.ports.iter().filter(|p| p.gone.is_none() && ports.contains_key(&p.exposed));
                for port in in_force {
                    match &wanted {
                        WantedPorts::AsExposed => prop_assert_eq!(port.local, port.exposed),
                        WantedPorts::Single(local) => {
                            prop_assert_eq!(port.local, *local);
                            let meant = *first.entry((i, *local)).or_insert(port.exposed);
                            prop_assert_eq!(meant, port.exposed, "it never moves");
                        }
                        WantedPorts::Listed(listed) => {
                            let meant = listed.iter().any(|w| {
                            let named = match &w.port {
                                PortRef::Number(number) => *number == port.exposed,
                                PortRef::Name(name) => ports.get(&port.exposed).is_some_and(|(_, n)| n == name),
                            };
                                named && w.local.unwrap_or(port.exposed) == port.local
                            });
                            prop_assert!(meant || outcome.lacking.is_some());
                        }
                    }
                }
            }
            // The same again changes nothing.
            let again: Vec<Source> = list.iter().zip(&memories).map(|(source, memory)| Source { memory: memory.clone(), ..source.clone() }).collect();
            let again = bind_local_name(&local("till"), &again, &Inventory::default(), &passthroughs, &facts, n > 0);
            prop_assert_eq!(json_of(&bound.objects), json_of(&again.objects));
            prop_assert_eq!(memories.to_vec(), again.outcomes.iter().map(|o| o.memory.clone()).collect::<Vec<_>>());
            // The name keeps every port that it ever had, and each of them leads somewhere, or says why it does not.
            let service = bound.objects.iter().find(|o| o.kind() == Kind::Service).map(|o| serde_json::to_value(o).unwrap());
            let ports = service.map(|s| s["spec"]["ports"].as_array().unwrap().clone()).unwrap_or_default();
            let numbers: BTreeSet<u64> = ports.iter().map(|p| p["port"].as_u64().unwrap()).collect();
            prop_assert!(ever.is_subset(&numbers), "{ever:?} of {numbers:?}");
            ever.extend(&numbers);
            let led: BTreeSet<u64> = leads(&bound.objects).into_keys().collect();
            for port in &numbers {
                prop_assert!(led.contains(port) != said_why(&bound.objects).contains_key(port) || is_tcp(&bound, *port), "{port}");
                prop_assert!(!led.contains(port) || !said_why(&bound.objects).contains_key(port), "{port} says both");
            }
            // What is written leads to hosts that one of the donors has for a port that is remembered.
            if !bound.objects.is_empty() {
                for (port, hosts) in leads(&bound.objects) {
                    let meant: BTreeSet<String> = bound.outcomes.iter().enumerate().filter(|(_, o)| o.problem.is_none()).flat_map(|(i, o)| {
                        let e = list[i].exposition.clone().unwrap();
                        let exposed: BTreeSet<u16> = o.memory.ports.iter().filter(|p| u64::from(p.local) == port).map(|p| p.exposed).collect();
                        let hosts: Vec<String> = e.ports.iter().filter(|p| exposed.contains(&p.number)).map(|p| p.host.to_string()).collect();
                        hosts
                    }).collect();
                    prop_assert!(hosts.is_subset(&meant), "{port}: {hosts:?} of {meant:?}");
                }
            }
        }
    }
}

#[test]
fn an_entry_that_says_nothing_of_ports_has_all_of_them_as_exposed() {
    let asked =
        split_binding(&binding("suppliers", json!([{"cluster": "harbor", "services": [{"name": "till", "port": 0}]}])));
    assert_eq!(asked.wanted().next().unwrap().ports, WantedPorts::AsExposed);
}
