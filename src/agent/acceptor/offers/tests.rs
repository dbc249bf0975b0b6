use std::collections::BTreeSet;

use super::*;
use crate::model::{Client, GatewayAddress, SpiffeId};

fn key(name: &str) -> ExpositionKey {
    ExpositionKey { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

/// One with so many callers, and so of a size.
fn exposition(name: &str, clients: usize) -> Arc<Exposition> {
    let key = key(name);
    let host = key.host();
    let client = |n: usize| Client { namespace: format!("team-{n}").parse().unwrap(), service_account: None };
    Arc::new(Exposition {
        ports: vec![ExposedPort { number: 80, name: "http".into(), protocol: Protocol::Http, host: host.clone() }],
        key,
        host,
        tls: TlsMode::Workload,
        identities: vec!["spiffe://isle/ns/a/sa/b".parse::<SpiffeId>().unwrap()],
        gateways: vec![GatewayAddress { address: "192.0.2.1".parse().unwrap(), port: 15443, locality: None }],
        clients: (0..clients).map(client).collect(),
        host_is_withheld: false,
    })
}

fn bad() -> UnfitReason {
    "port 0 is none".to_owned().into()
}

struct Story {
    offers: PeerOffers,
    used: BTreeSet<ExpositionKey>,
    gone: Vec<ExpositionKey>,
    budget: usize,
}

impl Story {
    fn new(budget: usize, used: &[&str]) -> Story {
        let used = used.iter().map(|n| key(n)).collect();
        Story { offers: PeerOffers::default(), used, gone: Vec::new(), budget }
    }

    fn heard(&mut self, name: &str, clients: usize) -> OfferPlacement {
        let Story { offers, used, gone, budget } = self;
        let e = exposition(name, clients);
        let placed = offers.place_offer(&key(name), "v1", e, *budget, |k| used.contains(k), gone);
        assert!(offers.held_bytes() <= *budget, "{} of {budget}", offers.held_bytes());
        let counted: usize = offers.known.iter().map(|(k, o)| o.memory_bytes(k)).sum();
        assert_eq!(offers.held_bytes(), counted);
        placed
    }

    fn is_whole(&self, name: &str) -> Option<bool> {
        self.offers.get(&key(name)).map(|o| o.exposition().is_some())
    }
}

#[test]
fn beyond_the_budget_contents_are_left_out_and_then_names() {
    let mut story = Story::new(20_000, &[]);
    let placed: Vec<_> = (0..80).map(|n| story.heard(&format!("s{n}"), 20)).collect();
    let count = |wanted| placed.iter().filter(|p| **p == wanted).count();
    assert!(
        count(OfferPlacement::Full) > 3 && count(OfferPlacement::Summary) > 3 && count(OfferPlacement::LeftOut) > 3,
        "{placed:?}"
    );
    assert_eq!(story.offers.len(), count(OfferPlacement::Full) + count(OfferPlacement::Summary));
    assert_eq!(story.is_whole("s0"), Some(false), "the content of one went for the names of others");
    let summary = story.offers.known_offers().find(|(_, o)| o.exposition().is_none()).unwrap().1.to_summary();
    assert_eq!((summary.tls, &*summary.ports), (TlsMode::Workload, &[(80, Protocol::Http)][..]));
}

#[test]
fn what_a_binding_uses_takes_the_place_of_what_none_does() {
    let mut story = Story::new(20_000, &["used"]);
    for n in 0..80 {
        story.heard(&format!("s{n}"), 20);
    }
    assert_eq!(story.heard("used", 20), OfferPlacement::Full);
    assert!(!story.gone.is_empty(), "names went");
    let names = story.offers.len();
    assert_eq!(story.heard("used", 100), OfferPlacement::Full);
    assert!(story.offers.len() < names, "more names went");
    assert_eq!(story.heard("used", 400), OfferPlacement::NoRoom);
    assert_eq!(story.is_whole("used"), Some(true), "the last that fit stays");
}

#[test]
fn a_withdrawal_gives_back_all_that_was_counted() {
    let mut story = Story::new(50_000, &[]);
    for n in 0..20 {
        story.heard(&format!("s{n}"), n);
        story.offers.reject_offer(&key(&format!("s{n}")), "x".repeat(1000).into(), false);
    }
    (0..20).for_each(|n| assert!(story.offers.withdraw_offer(&key(&format!("s{n}")))));
    assert_eq!((story.offers.held_bytes(), story.offers.len()), (0, 0));
}

#[test]
fn a_smaller_budget_takes_contents_first_and_nothing_that_is_used() {
    let mut story = Story::new(200_000, &["used"]);
    story.heard("used", 200);
    for n in 0..50 {
        story.heard(&format!("s{n}"), 20);
    }
    let Story { offers, used, gone, .. } = &mut story;
    let budget = 50 * (name_bytes(&key("s00"), "v1") + summary_bytes(1))
        + offers.get(&key("used")).unwrap().memory_bytes(&key("used"));
    offers.shrink_to(budget, |k| used.contains(k), gone);
    assert!(gone.is_empty() && offers.held_bytes() <= budget && offers.len() == 51);
    offers.shrink_to(0, |k| used.contains(k), gone);
    assert_eq!((gone.len(), offers.len()), (50, 1));
}

#[test]
fn of_a_flood_of_rejected_names_few_are_kept_and_those_that_are_used() {
    let mut story = Story::new(1 << 20, &["used"]);
    for n in 0..10_000 {
        story.offers.reject_offer(&key(&format!("s{n}")), bad(), false);
    }
    assert!(story.offers.reject_offer(&key("used"), bad(), true));
    assert_eq!(story.offers.refused_names().count(), MAX_REJECTED_NAMES + 1);
    assert_eq!(story.offers.tally, OfferTally { rejected: 10_001, left_out: 0 });
    assert_eq!(story.offers.len(), 0, "a rejected name is not offered");
    assert_eq!(story.offers.rejection_of(&key("used")), Some(&bad()));
}

#[test]
fn a_refused_name_that_a_new_stream_does_not_tell_is_forgotten() {
    let mut offers = PeerOffers::default();
    offers.reject_offer(&key("old"), bad(), false);
    offers.reject_offer(&key("still"), bad(), false);
    offers.begin_stream();
    offers.reject_offer(&key("still"), bad(), false);
    assert_eq!(offers.drop_unconfirmed(), [key("old")]);
    assert_eq!(offers.refused_names().map(|(k, _)| k.clone()).collect::<Vec<_>>(), [key("still")]);
}
