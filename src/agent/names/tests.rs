use super::*;
use crate::model::{ExposedPort, GatewayAddress, Peer, Protocol, TlsMode};

fn cluster() -> ClusterName {
    "reef".parse().unwrap()
}

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

fn exposition(gateway: &str) -> Exposition {
    let key = ExpositionKey { namespace: "shop".parse().unwrap(), name: "till".parse().unwrap() };
    Exposition {
        host: key.host(),
        ports: vec![ExposedPort { number: 80, name: "http".into(), protocol: Protocol::Http, host: key.host() }],
        key,
        tls: TlsMode::Cluster,
        identities: vec!["spiffe://wharf/cluster/reef".parse().unwrap()],
        gateways: vec![GatewayAddress { address: gateway.parse().unwrap(), port: 15443, locality: None }],
        clients: Vec::new(),
        host_is_withheld: false,
    }
}

fn answer(text: &str) -> NameAnswer {
    Ok(vec![text.parse().unwrap()])
}

fn rules() -> GatewayRules {
    GatewayRules::new(&Peer::with_name(cluster()), &crate::model::AllowedGateways::default())
}

#[test]
fn a_name_is_looked_up_at_once_and_again_every_minute_while_it_is_used() {
    let mut names = GatewayNames::default();
    let e = exposition("gw.reef.example");
    assert!(names.want_names(&cluster(), &[host("gw.reef.example")]));
    let now = Instant::now();
    assert!(names.next_due().is_some_and(|due| due <= now));
    assert_eq!(names.drain_due(&cluster(), [&e].into_iter(), now), [host("gw.reef.example")]);
    assert!(names.handle_answer(&cluster(), host("gw.reef.example"), answer("192.0.2.1"), now));
    assert_eq!(names.next_due(), Some(now + CHECK_AGAIN));
    assert!(names.drain_due(&cluster(), [&e].into_iter(), now).is_empty());
    let later = now + CHECK_AGAIN;
    assert_eq!(names.drain_due(&cluster(), [&e].into_iter(), later).len(), 1);
    assert!(!names.handle_answer(&cluster(), host("gw.reef.example"), answer("192.0.2.1"), later), "nothing new");
    assert!(names.handle_answer(&cluster(), host("gw.reef.example"), answer("10.0.0.1"), later), "it leads elsewhere");
    assert!(names.drain_due(&cluster(), std::iter::empty(), later + CHECK_AGAIN).is_empty(), "nobody uses it");
    assert_eq!(names.next_due(), None);
}

#[test]
fn an_answer_stays_while_the_resolver_is_away() {
    let mut names = GatewayNames::default();
    let now = Instant::now();
    names.want_names(&cluster(), &[host("gw.reef.example")]);
    names.handle_answer(&cluster(), host("gw.reef.example"), answer("192.0.2.1"), now);
    assert!(!names.handle_answer(&cluster(), host("gw.reef.example"), Err("away".into()), now));
    let NameAnswers::Known(answers) = names.answers_of(&cluster()) else { panic!("there are answers") };
    assert_eq!(answers[&host("gw.reef.example")], answer("192.0.2.1"));
    assert_eq!(names.next_due(), Some(now + ASK_AGAIN));
}

#[test]
fn a_name_without_an_answer_is_given_up_in_time_and_asked_again() {
    let mut names = GatewayNames::default();
    let e = exposition("gw.reef.example");
    names.want_names(&cluster(), &[host("gw.reef.example")]);
    let now = Instant::now();
    names.drain_due(&cluster(), [&e].into_iter(), now);
    assert!(names.drain_late(&cluster(), now).is_empty());
    assert_eq!(names.next_due(), Some(now + PATIENCE));
    assert_eq!(names.drain_late(&cluster(), now + PATIENCE), [host("gw.reef.example")]);
    assert!(names.handle_answer(&cluster(), host("gw.reef.example"), Err("late".into()), now + PATIENCE));
}

#[test]
fn one_peer_has_a_limited_number_of_names() {
    let mut names = GatewayNames::default();
    let many: Vec<_> = (0..=MAX_NAMES_PER_PEER).map(|i| host(&format!("gw{i}.reef.example"))).collect();
    assert!(!names.want_names(&cluster(), &many));
    assert!(names.want_names(&cluster(), &many[1..]));
    assert!(!names.want_names(&cluster(), &many[..1]));
    assert!(names.want_names(&"other".parse().unwrap(), &many[..1]), "another's are counted apart");
}

#[test]
fn what_was_refused_for_its_name_is_asked_for_again_when_the_name_leads_where_it_may() {
    let mut names = GatewayNames::default();
    let (e, name, now) = (exposition("gw.reef.example"), host("gw.reef.example"), Instant::now());
    names.want_names(&cluster(), std::slice::from_ref(&name));
    names.handle_answer(&cluster(), name.clone(), answer("10.0.0.1"), now);
    let refusal = rules().judge_answer(&name, &answer("10.0.0.1")).unwrap_err();
    names.note_refusal(&cluster(), &e, &ExpositionRefusal::Gateway { address: name.to_string(), refusal });
    assert!(!names.take_pardon(&cluster(), &rules()));
    names.handle_answer(&cluster(), name.clone(), answer("192.0.2.1"), now);
    assert!(names.take_pardon(&cluster(), &rules()));
    assert!(!names.take_pardon(&cluster(), &rules()), "once");
}

#[test]
fn a_peer_is_in_step_when_nothing_of_it_waits() {
    let mut names = GatewayNames::default();
    assert!(!names.delay_step(&cluster()));
    let e = exposition("gw.reef.example");
    assert!(names.keep_waiting(&cluster(), ReceivedExposition { version: "1".into(), exposition: e.clone() }, 1 << 20));
    assert!(names.delay_step(&cluster()) && !names.catch_up(&cluster()));
    assert!(names.take_waiting(&cluster(), &e.key).is_some());
    assert!(names.catch_up(&cluster()) && !names.catch_up(&cluster()));
}
