//! What is exposed travels, follows, and only ever as differences.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wharf::peering::Limits;
use wharf::peering::convert::{ExpositionChecks, ExpositionOutcome, OutcomeState};
use wharf::peering::pb;

use crate::peering_support::*;
use crate::support::pki::Ca;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exposition_travels_and_follows_and_is_withdrawn() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    donor.offer("reviews", 9080, &["b"]);
    donor.offer("ratings", 9080, &["b", "c"]);
    let mut b = Acceptor::start_as("b", watch(identity(&ca, "b")), donor.address, limits());
    let mut c = Acceptor::start_as("c", watch(identity(&ca, "c")), donor.address, limits());
    b.until(|b| b.synced).await;
    c.until(|c| c.synced).await;
    assert_eq!(b.held.keys().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["ratings", "reviews"]);
    assert_eq!(c.held.keys().map(|k| k.name.as_str()).collect::<Vec<_>>(), ["ratings"], "it never hears of reviews");
    donor.offer("reviews", 9081, &["b"]);
    b.until_port("reviews", 9081).await;
    donor.offer("ratings", 9080, &["c"]);
    b.until_gone("ratings").await;
    donor.board.remove_offers(&key("ratings"));
    c.until_gone("ratings").await;
    assert_eq!(c.travelled, 2);
    b.handle.stop().await;
    donor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_donor_only_differences_travel_and_nothing_is_lost_before() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer_many(0..50, 80, &["b"]);
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced && b.held.len() == 50).await;

    let address = donor.address;
    donor.stop().await;
    assert!(b.reason().await.contains("shutting down"));
    b.travelled = 0;
    let donor = Donor::start_at(address, &ca, &[("b", true)], limits()).await;
    donor.knows(|s| s.get(&cluster("b")).is_some_and(|b| b.subscriptions == 1)).await;
    donor.offer_many(1..50, 80, &["b"]);
    donor.offer("s7", 81, &["b"]);
    donor.offer("new", 80, &["b"]);
    b.until(|b| b.connections == 2).await;
    assert_eq!(b.held.len(), 50, "a donor that is not ready takes nothing away");
    donor.board.open();
    b.until_gone("s0").await;
    assert_eq!((b.travelled, b.held.len()), (3, 50), "one changed, one new, one gone");
    b.until_port("s7", 81).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptor_that_comes_back_says_what_it_holds() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer_many(0..1000, 80, &["b"]);
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced && b.held.len() == 1000).await;
    let mut held = std::mem::take(&mut b.held);
    drop(b);

    donor.offer_many(0..30, 81, &["b"]);
    donor.board.remove_offers(&key("s30"));
    held.insert(key("never-heard-of"), ("1".into(), exposition("never-heard-of", 80)));
    let start = |limits| {
        let identity = watch(identity(&ca, "b"));
        Acceptor::start_with(
            "acceptor-instance",
            identity,
            donor.address,
            limits,
            ExpositionChecks::default(),
            held.clone(),
        )
    };
    let mut b = start(limits());
    b.until(|b| b.synced).await;
    assert_eq!((b.travelled, b.held.len()), (32, 999));
    drop(b);

    // What does not fit the hello is told again, and what is told by nobody is gone all the same.
    let mut b = start(Limits { max_request_bytes: 2000, ..limits() });
    b.until(|b| b.synced).await;
    assert!(b.travelled > 32, "{}", b.travelled);
    assert_eq!(b.held.len(), 999);
    assert!(!b.held.contains_key(&key("never-heard-of")) && !b.held.contains_key(&key("s30")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_expositions_reach_a_new_subscriber_in_bounded_messages_within_a_second() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer_many(0..1000, 80, &["b"]);
    let begun = Instant::now();
    let mut client = raw(&donor, &ca, "b").await;
    let mut stream = subscribe(&mut client, hello("b", Vec::new())).await.unwrap();
    let mut batches = Vec::new();
    loop {
        let changes = changes(&mut stream).await;
        batches.push(changes.changed.len());
        if changes.synced {
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(batches.iter().sum::<usize>(), 1000);
    assert!((2..=4).contains(&batches.len()) && batches.iter().all(|n| *n <= 500), "{batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_acceptor_made_of_it_comes_back() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    let revision = donor.offer("reviews", 9080, &["b"]);
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced).await;
    b.handle
        .acknowledgements
        .report_outcome(&key("reviews"), ExpositionOutcome::rejected("NameConflict", "default/reviews is taken"));
    b.handle.acknowledgements.report_outcome(&key("nobody-offered-this"), ExpositionOutcome::bound());
    let of_b = cluster("b");
    donor.knows(|s| s.outcome_at(&of_b, &key("reviews")).is_some_and(|o| o.reason == "NameConflict")).await;
    donor.knows(|s| s.get(&of_b).is_some_and(|b| b.acknowledged == revision)).await;
    b.handle.acknowledgements.report_outcome(&key("reviews"), ExpositionOutcome::bound());
    donor.knows(|s| s.outcome_at(&of_b, &key("reviews")).is_some_and(|o| o.state == OutcomeState::Bound)).await;
    assert_eq!(donor.subscribers.get(&of_b).unwrap().outcomes, 1, "only what is offered has an outcome");
    donor.board.remove_offers(&key("reviews"));
    b.until_gone("reviews").await;
    donor.knows(|s| s.outcomes_by_cluster(&key("reviews")).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcomes_are_said_again_to_a_donor_that_was_started_anew() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer("reviews", 9080, &["b"]);
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced).await;
    b.handle.acknowledgements.report_outcome(&key("reviews"), ExpositionOutcome::bound());
    donor.knows(|s| s.outcome_at(&cluster("b"), &key("reviews")).is_some()).await;
    let address = donor.address;
    donor.stop().await;
    let donor = Donor::start_at(address, &ca, &[("b", true)], limits()).await;
    donor.offer("reviews", 9080, &["b"]);
    donor.board.open();
    b.until(|b| b.connections == 2 && b.synced).await;
    donor.knows(|s| s.outcome_at(&cluster("b"), &key("reviews")).is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_does_not_delay_the_others_and_reads_the_newest_when_it_wakes() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("slow", true)], limits()).await;
    let mut slow = raw(&donor, &ca, "slow").await;
    let mut stalled = subscribe(&mut slow, hello("slow", Vec::new())).await.unwrap(); // and nobody reads it
    let mut b = Acceptor::start(identity(&ca, "b"), donor.address, limits());
    b.until(|b| b.synced).await;
    const ROUNDS: u16 = 40;
    const NAMES: usize = 200;
    for round in 1..=ROUNDS {
        donor.offer_many(0..NAMES, round, &["b", "slow"]);
        b.until_port(&format!("s{}", NAMES - 1), round).await;
    }
    let mut read = 0;
    let mut ports = BTreeMap::new();
    loop {
        let changes = changes(&mut stalled).await;
        read += changes.changed.len();
        ports.extend(changes.changed.into_iter().map(|e| (e.name, e.ports[0].number)));
        if changes.synced && ports.len() == NAMES && ports.values().all(|p| *p == u32::from(ROUNDS)) {
            break;
        }
    }
    // What was under way when it stalled (the windows, the buffers of both kernels), then each name once.
    let all = usize::from(ROUNDS) * NAMES;
    assert!(read < all / 2, "{read} of {all} changes were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_is_listed_once_for_people() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    donor.offer("reviews", 9080, &["b"]);
    let list = async |name: &str| {
        let response = raw(&donor, &ca, name).await.list_expositions(pb::ListExpositionsRequest {}).await.unwrap();
        response.into_inner().expositions.into_iter().map(|e| e.host).collect::<Vec<_>>()
    };
    assert_eq!(list("b").await, ["reviews.default.svc.cluster.local"]);
    assert_eq!(list("c").await, Vec::<String>::new());
    let peer = raw(&donor, &ca, "b").await.get_peer(pb::GetPeerRequest {}).await.unwrap().into_inner();
    assert_eq!((peer.cluster.as_str(), peer.peer.as_str(), peer.offered), ("donor", "b", 1));
    assert_eq!((peer.spiffe_id.as_str(), peer.may_consume), ("spiffe://wharf/cluster/b", true));
}
