use proptest::prelude::*;

use super::*;
use crate::model::{ExposedPort, GatewayAddress, Protocol, SpiffeId, TlsMode};
use crate::peering::convert::HeldList;

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn key(name: &str) -> ExpositionKey {
    convert::key_from_wire("default", name).unwrap()
}

fn exposition(name: &str, port: u16) -> Arc<Exposition> {
    let key = key(name);
    let host = key.host();
    Arc::new(Exposition {
        ports: vec![ExposedPort { number: port, name: "http".into(), protocol: Protocol::Http, host: host.clone() }],
        key,
        host,
        tls: TlsMode::Cluster,
        identities: vec![SpiffeId::of_cluster(&cluster("donor"))],
        gateways: vec![GatewayAddress { address: "192.0.2.1".parse().unwrap(), port: 15443, locality: None }],
        clients: Vec::new(),
        host_is_withheld: false,
    })
}

fn board(limits: Limits) -> Board {
    let board = Board::new(Arc::new(limits));
    board.open();
    board
}

fn offer(board: &Board, name: &str, port: u16, to: &[&str]) -> u64 {
    let exposition = exposition(name, port);
    board.set_offers(&key(name), &to.iter().map(|c| (cluster(c), exposition.clone())).collect()).unwrap()
}

/// What the batches up to the one that is in step come to.
fn drain(subscription: &mut BoardSubscription) -> (Vec<String>, Vec<String>, usize) {
    let (mut changed, mut withdrawn, mut batches) = (Vec::new(), Vec::new(), 0);
    while let Some(batch) = subscription.read_batch() {
        changed.extend(batch.changed.iter().map(|o| o.exposition.key.name.to_string()));
        withdrawn.extend(batch.withdrawn.iter().map(|k| k.name.to_string()));
        batches += 1;
    }
    (changed, withdrawn, batches)
}

fn held(board: &Board, to: &str) -> BTreeMap<ExpositionKey, Arc<str>> {
    board.list_offers(&cluster(to)).0.into_iter().map(|o| (o.exposition.key.clone(), o.version)).collect()
}

#[test]
fn only_differences_to_what_is_held_are_read() {
    let board = board(Limits::default());
    for name in ["a", "b", "c"] {
        offer(&board, name, 80, &["x"]);
    }
    let mut held = held(&board, "x");
    held.insert(key("gone"), "1".into());
    offer(&board, "b", 81, &["x"]);
    board.remove_offers(&key("c"));
    let mut subscription = board.subscribe(&cluster("x"), held.into_iter().collect());
    let (changed, mut withdrawn, batches) = drain(&mut subscription);
    withdrawn.sort();
    assert_eq!((changed, withdrawn, batches), (vec!["b".into()], vec!["c".into(), "gone".into()], 1));
}

#[test]
fn a_subscriber_in_step_is_told_so_once() {
    let board = board(Limits::default());
    let mut subscription = board.subscribe(&cluster("x"), HeldList::default());
    assert!(subscription.read_batch().is_some_and(|b| b.in_step && b.changed.is_empty()));
    assert!(subscription.read_batch().is_none());
}

#[test]
fn nothing_is_told_before_the_board_is_open() {
    let board = Board::new(Arc::default());
    let mut subscription = board.subscribe(&cluster("x"), [(key("a"), "1")].into_iter().collect());
    assert!(subscription.read_batch().is_none());
    offer(&board, "b", 80, &["x"]);
    assert!(subscription.read_batch().is_none());
    board.open();
    assert_eq!(drain(&mut subscription), (vec!["b".into()], vec!["a".into()], 1));
}

#[test]
fn names_offered_to_others_are_never_told() {
    let board = board(Limits::default());
    let mut x = board.subscribe(&cluster("x"), HeldList::default());
    drain(&mut x);
    offer(&board, "secret", 80, &["y"]);
    board.remove_offers(&key("secret"));
    offer(&board, "both", 80, &["x", "y"]);
    offer(&board, "both", 80, &["y"]);
    offer(&board, "both", 80, &["x"]);
    assert_eq!(drain(&mut x), (vec!["both".into()], vec![], 1));
    assert_eq!(board.offered_count(&cluster("y")), 0);
}

#[test]
fn a_slow_reader_reads_the_newest_and_nothing_between() {
    let board = board(Limits::default());
    let mut subscription = board.subscribe(&cluster("x"), HeldList::default());
    drain(&mut subscription);
    for port in 1..1000 {
        offer(&board, "a", port, &["x"]);
        offer(&board, &format!("passing-{port}"), 80, &["x"]);
        board.remove_offers(&key(&format!("passing-{port}")));
    }
    assert_eq!(subscription.view.sizes(), (1, 1, 0), "what came and went unread has left nothing");
    let batch = subscription.read_batch().unwrap();
    assert_eq!(batch.changed.len(), 1);
    assert_eq!(batch.changed[0].exposition.ports[0].number, 999);
    assert!(batch.withdrawn.is_empty() && batch.in_step);
}

#[test]
fn tombstones_are_forgotten_when_every_reader_has_passed() {
    let board = board(Limits::default());
    offer(&board, "a", 80, &["x"]);
    let mut one = board.subscribe(&cluster("x"), HeldList::default());
    let mut two = board.subscribe(&cluster("x"), HeldList::default());
    drain(&mut one);
    drain(&mut two);
    board.remove_offers(&key("a"));
    assert_eq!(one.view.sizes(), (1, 1, 1));
    assert_eq!(drain(&mut one).1, ["a"]);
    assert_eq!(one.view.sizes(), (1, 1, 1), "the other has not read it");
    drop(two);
    assert_eq!(one.view.sizes(), (0, 0, 0));
    drop(one);
    assert!(board.lock().views.is_empty(), "a view that nobody needs is forgotten");
}

#[test]
fn a_large_state_is_read_in_bounded_parts_of_which_only_the_last_is_in_step() {
    let board = board(Limits { max_batch: 10, ..Limits::default() });
    for n in 0..35 {
        offer(&board, &format!("s{n}"), 80, &["x"]);
    }
    let mut subscription = board.subscribe(&cluster("x"), HeldList::default());
    let mut sizes = Vec::new();
    while let Some(batch) = subscription.read_batch() {
        sizes.push((batch.changed.len(), batch.in_step));
    }
    assert_eq!(sizes, [(10, false), (10, false), (10, false), (5, true)]);

    let bytes = Board::new(Arc::new(Limits { max_batch_bytes: 1, ..Limits::default() }));
    bytes.open();
    for n in 0..3 {
        offer(&bytes, &format!("s{n}"), 80, &["x"]);
    }
    assert_eq!(drain(&mut bytes.subscribe(&cluster("x"), HeldList::default())).2, 3, "one always fits");
}

#[test]
fn the_same_again_is_no_change() {
    let board = board(Limits::default());
    assert_eq!(offer(&board, "a", 80, &["x"]), 1);
    assert_eq!(offer(&board, "a", 80, &["x"]), 1);
    assert_eq!(offer(&board, "a", 81, &["x"]), 2);
    assert_eq!(board.remove_offers(&key("none")), 2);
}

#[test]
fn what_acceptors_would_refuse_is_refused_here_and_changes_nothing() {
    let board = board(Limits { max_offered: 1, ..Limits::default() });
    offer(&board, "a", 80, &["x"]);
    let mut bad = (*exposition("a", 80)).clone();
    bad.ports.clear();
    let error = board.set_offers(&key("a"), &[(cluster("x"), Arc::new(bad))].into()).unwrap_err();
    assert_eq!(error.to_string(), "exposition default/a: ports: there must be at least one");
    let error = board.set_offers(&key("b"), &[(cluster("x"), exposition("b", 80))].into()).unwrap_err();
    assert!(matches!(error, BoardError::TooMany { .. }));
    assert_eq!((board.offered_count(&cluster("x")), board.revision()), (1, 1));
}

#[tokio::test]
async fn a_change_wakes_whom_it_concerns_and_no_other() {
    let board = board(Limits::default());
    let mut x = board.subscribe(&cluster("x"), HeldList::default());
    let mut y = board.subscribe(&cluster("y"), HeldList::default());
    drain(&mut x);
    drain(&mut y);
    offer(&board, "a", 80, &["x"]);
    x.wait_for_change().await;
    assert_eq!(drain(&mut x).0, ["a"]);
    assert!(futures::FutureExt::now_or_never(y.wait_for_change()).is_none());
}

proptest! {
    /// Whatever happens while it reads, a subscriber that is in step holds exactly what it is offered.
    #[test]
    fn any_history_ends_in_what_is_offered(
        before in proptest::collection::vec((0..6u16, 0..4u16), 0..8),
        history in proptest::collection::vec((0..6u16, 0..4u16, any::<bool>()), 0..60),
    ) {
        let board = Board::new(Arc::new(Limits { max_batch: 2, ..Limits::default() }));
        let x = cluster("x");
        let mut holds: BTreeMap<ExpositionKey, Arc<str>> = before
            .into_iter()
            .map(|(n, port)| (key(&format!("s{n}")), Arc::from(exposition(&format!("s{n}"), port + 1).version())))
            .collect();
        let mut subscription = board.subscribe(&x, holds.clone().into_iter().collect());
        let mut read = |subscription: &mut BoardSubscription| {
            let Some(batch) = subscription.read_batch() else { return false };
            for gone in &batch.withdrawn {
                assert!(holds.remove(gone).is_some());
            }
            for offer in &batch.changed {
                assert_ne!(holds.insert(offer.exposition.key.clone(), offer.version.clone()), Some(offer.version.clone()));
            }
            if batch.in_step {
                assert_eq!(holds, held(&board, "x"));
            }
            true
        };
        for (i, (n, port, look)) in history.into_iter().enumerate() {
            if i == 10 {
                board.open();
            }
            let name = format!("s{n}");
            if port == 0 { board.remove_offers(&key(&name)); } else { offer(&board, &name, port, &["x"]); }
            if look { read(&mut subscription); }
        }
        board.open();
        while read(&mut subscription) {}
        prop_assert_eq!(&holds, &held(&board, "x"));
        let (slots, log, tombs) = subscription.view.sizes();
        prop_assert_eq!((slots, log, tombs), (holds.len(), holds.len(), 0));
    }
}
