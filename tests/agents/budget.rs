//! A donor that sends more than any may costs its acceptors a bounded amount, and nobody else anything.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wharf::peering::pb;

use super::support::hostile::{HostileDonor, changes, exposition, large_exposition, renamed};
use super::support::objects::{binding, policy, service};
use super::support::{Cluster, Site};

const MIB: u64 = 1 << 20;

/// An agent with a good donor, which it consumes from, beside hostile ones.
struct Stage {
    site: Site,
    good: Cluster,
    acceptor: Cluster,
}

impl Stage {
    fn new(hostile: impl FnOnce(&Site) -> Vec<String>) -> Stage {
        Stage::configured("", hostile)
    }

    fn configured(more: &str, hostile: impl FnOnce(&Site) -> Vec<String>) -> Stage {
        let site = Site::new();
        let (mut good, mut acceptor) = (site.cluster("good"), site.cluster("acceptor"));
        let mut peers = hostile(&site);
        good.configure("", &[acceptor.as_consumer()]);
        peers.push(good.as_donor());
        acceptor.configure(more, &peers);
        good.write("reviews.yaml", service("reviews", 9080) + &policy("reviews", &["acceptor"]));
        acceptor.write("reviews.yaml", binding("reviews", "good", &["reviews"]));
        good.start();
        acceptor.start();
        site.until("the good donor's service is bound", || acceptor.bound("reviews").then_some(()));
        Stage { site, good, acceptor }
    }

    /// How long it takes until a change at the good donor is written at the acceptor.
    fn change_of_the_good_donor(&self, port: u16) -> Duration {
        let begun = Instant::now();
        self.good.write("reviews.yaml", service("reviews", port) + &policy("reviews", &["acceptor"]));
        let there = || !self.acceptor.find("ServiceEntry", &format!("\"number\":{port}")).is_empty();
        self.site.until("the good donor's change is there", || there().then_some(()));
        begun.elapsed()
    }
}

#[test]
fn a_flood_of_rejected_names_is_ended_told_and_not_kept() {
    const NAMES: usize = 400_000;
    let flood = |_: pb::Hello| {
        let nameless = |n: usize| pb::Exposition {
            namespace: "d".into(),
            name: format!("y{n:08x}{}", "a".repeat(54)),
            ..pb::Exposition::default()
        };
        let batch = move |k: usize| changes((k * 2_000..(k + 1) * 2_000).map(nameless).collect(), k as u64 + 1, false);
        Box::new((0..NAMES / 2_000).map(batch)) as Box<dyn Iterator<Item = _> + Send>
    };
    let mut hostile = None;
    let stage = Stage::new(|site| {
        let donor = HostileDonor::start(site, "evil", flood);
        let entry = donor.as_donor();
        hostile = Some(donor);
        vec![entry]
    });
    let Stage { site, acceptor, .. } = &stage;
    let begun = Instant::now();
    let (_, why) = site.until("the peer is said to misbehave", || {
        acceptor.peer_condition("evil", "Connected").filter(|(reason, _)| reason == "Misbehaving")
    });
    assert!(why.contains("were rejected within a minute"), "{why}");
    let asked = Instant::now();
    assert_eq!(acceptor.get("/healthz").map(|(code, _)| code), Some(200));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let took = stage.change_of_the_good_donor(9081);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let lines = acceptor.log().lines().filter(|l| l.contains("is rejected")).count() as u64;
    assert!(lines >= 1 && lines <= 2 + begun.elapsed().as_secs(), "{lines} lines in {:?}", begun.elapsed());
    assert!(acceptor.memory() < 64 * MIB, "{} MiB", acceptor.memory() / MIB);
    assert_eq!(acceptor.metric("wharf_peer_offered_expositions{peer=\"evil\"}"), Some(0.0));
    assert_eq!(acceptor.metric("wharf_peer_misbehaviours_total{peer=\"evil\"}"), Some(1.0));
    let view = acceptor.status().unwrap();
    assert!(view.offers.iter().filter(|o| o.cluster == "evil").count() <= 100);
    let hostile = hostile.unwrap();
    assert_eq!(hostile.streams.load(Ordering::Relaxed), 1, "the pause is the longest");
    assert!(hostile.sent.load(Ordering::Relaxed) < 50, "little of it was read");
}

#[test]
fn a_message_larger_than_any_donor_sends_is_misbehaviour() {
    let stage = Stage::new(|site| {
        let large = |_: pb::Hello| {
            let names = (0..20_000).map(|n| exposition("evil", &format!("s{n}"), "192.0.2.1", "1"));
            Box::new(std::iter::once(changes(names.collect(), 1, true))) as Box<dyn Iterator<Item = _> + Send>
        };
        let donor = HostileDonor::start(site, "evil", large);
        let entry = donor.as_donor();
        std::mem::forget(donor);
        vec![entry]
    });
    let (_, why) = stage.site.until("the peer is said to misbehave", || {
        stage.acceptor.peer_condition("evil", "Connected").filter(|(reason, _)| reason == "Misbehaving")
    });
    assert!(why.contains("too large"), "{why}");
}

#[test]
fn the_largest_valid_expositions_are_held_within_the_budget_and_fetched_again_for_a_binding() {
    const COUNT: usize = 120;
    let large = large_exposition("evil", "s");
    assert!((105_000..=131_072).contains(&prost::Message::encoded_len(&large)), "it is as large as it may be");
    let mut hostile = None;
    let mut stage = Stage::configured("limits: {peerExpositions: 80}\n", |site| {
        let flood = move |hello: pb::Hello| {
            let large = large.clone();
            let held: std::collections::BTreeSet<_> = hello.held.into_iter().map(|h| h.name).collect();
            let told = (0..COUNT).filter(move |n| !held.contains(&format!("s{n}")));
            let one = move |n: usize| changes(vec![renamed(&large, &format!("s{n}"))], n as u64 + 1, false);
            let end = std::iter::once(changes(Vec::new(), COUNT as u64 + 1, true));
            Box::new(told.map(one).chain(end)) as Box<dyn Iterator<Item = _> + Send>
        };
        let donor = HostileDonor::start(site, "evil", flood);
        let entry = donor.as_donor();
        hostile = Some(donor);
        vec![entry]
    });
    let (reason, why) = stage.site.until("all was heard", || {
        stage
            .acceptor
            .peer_condition("evil", "Connected")
            .filter(|(reason, _)| reason != "Syncing" && reason != "Connecting")
    });
    assert_eq!(reason, "Misbehaving", "{why}");
    assert!(why.contains("80 expositions are held") && why.contains("40 are left out"), "{why}");
    assert_eq!(stage.acceptor.metric("wharf_peer_offered_expositions{peer=\"evil\"}"), Some(80.0));
    assert_eq!(stage.acceptor.metric("wharf_peer_left_out_expositions{peer=\"evil\"}"), Some(40.0));
    assert!(stage.acceptor.memory() < 64 * MIB, "{} MiB", stage.acceptor.memory() / MIB);
    let held = stage.acceptor.metric("wharf_peer_held_bytes{peer=\"evil\"}").unwrap();
    assert!(held > 1e6 && held <= 4.0 * 1024.0 * 1024.0, "{held}");
    let (_, status) = stage.acceptor.get("/status").unwrap();
    assert!(status.len() < 2 << 20, "/status has {} bytes", status.len());

    // One whose content was dropped, and one that was left out: a binding has them told again.
    stage.acceptor.write("far.yaml", binding("far", "evil", &["s79", "s119"]));
    // That it is for certain callers, and which TLS mode it has, is known from the content alone.
    let is_judged = |acceptor: &Cluster| {
        let services = acceptor.binding("far")?.status.services;
        services.iter().all(|s| s.reason == "StyleCannotCarry").then_some(())
    };
    stage.site.until("the contents are there", || is_judged(&stage.acceptor));

    let remembered = || std::fs::read_dir(stage.acceptor.store.join(".wharf/known/evil")).map_or(0, Iterator::count);
    stage
        .site
        .until("what bindings use, and little else, is remembered", || (2..=5).contains(&remembered()).then_some(()));
    drop(hostile);
    stage.acceptor.kill();
    stage.acceptor.start();
    stage.site.until("it is back", || (stage.acceptor.get("/readyz")?.0 == 200).then_some(()));
    assert!(stage.acceptor.memory() < 64 * MIB, "{} MiB", stage.acceptor.memory() / MIB);
    stage.site.until("the contents that bindings use are remembered", || is_judged(&stage.acceptor));
}

#[test]
fn what_a_donor_changes_without_end_is_remembered_seldom_and_in_its_newest_form_when_the_agent_stops() {
    const CHANGES: u64 = 400;
    let churn = |hello: pb::Hello| {
        let begun = hello.held.is_empty();
        let address = |n: u64| if n == CHANGES { "192.0.2.251".to_owned() } else { format!("192.0.2.{}", n % 250 + 1) };
        let one = move |n: u64| {
            let version = format!("v{n}");
            let both =
                [exposition("evil", "till", &address(n), &version), exposition("evil", "loose", &address(n), &version)];
            changes(both.into(), n, true)
        };
        Box::new((1..=CHANGES).filter(move |_| begun).map(one)) as Box<dyn Iterator<Item = _> + Send>
    };
    let mut hostile = None;
    let mut stage = Stage::new(|site| {
        let donor = HostileDonor::start(site, "evil", churn);
        let entry = donor.as_donor();
        hostile = Some(donor);
        vec![entry]
    });
    stage.acceptor.write("till.yaml", binding("till", "evil", &["till"]));
    let folder = stage.acceptor.store.join(".wharf/known/evil");
    let (file, loose) = (folder.join("default.till.json"), folder.join("default.loose.json"));
    let mut written: [std::collections::BTreeSet<_>; 2] = Default::default();
    stage.site.until("the newest address is written", || {
        for (file, written) in [&file, &loose].into_iter().zip(&mut written) {
            written.extend(std::fs::metadata(file).and_then(|m| m.modified()).ok());
        }
        (!stage.acceptor.find("ServiceEntry", "192.0.2.251").is_empty()).then_some(())
    });
    let writes = written.map(|times| times.len());
    assert!(writes.iter().all(|n| (1..=2).contains(n)), "{writes:?} writes of {CHANGES} changes");
    stage.acceptor.stop();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("192.0.2.251"), "the newest is there after a stop: {text}");
    stage.good.kill();
}

#[test]
fn a_service_that_flaps_is_written_at_a_bounded_rate_and_ends_as_the_donor_said_last() {
    const CHANGES: u64 = 3_000;
    let flap = |hello: pb::Hello| {
        let begun = hello.held.is_empty();
        let address = |n: u64| if n == CHANGES { "192.0.2.251".to_owned() } else { format!("192.0.2.{}", n % 250 + 1) };
        let one = move |n: u64| changes(vec![exposition("evil", "till", &address(n), &format!("v{n}"))], n, true);
        Box::new((1..=CHANGES).filter(move |_| begun).map(one)) as Box<dyn Iterator<Item = _> + Send>
    };
    let mut hostile = None;
    let stage = Stage::new(|site| {
        let donor = HostileDonor::start(site, "evil", flap);
        let entry = donor.as_donor();
        hostile = Some(donor);
        vec![entry]
    });
    let Stage { site, acceptor, .. } = &stage;
    let written = || acceptor.metric("wharf_objects_written_total").expect("a number");
    let (before, begun) = (written(), Instant::now());
    acceptor.write("till.yaml", binding("till", "evil", &["till"]));
    site.until("the binding says that it flaps", || {
        let conditions = acceptor.binding("till")?.status.conditions;
        conditions.iter().any(|c| c.type_ == "Flapping").then_some(())
    });
    assert!(acceptor.peer_condition("evil", "Flapping").is_some());
    let took = stage.change_of_the_good_donor(9081);
    assert!(took < Duration::from_secs(2), "{took:?}");
    site.until("the newest address is written", || {
        (!acceptor.find("ServiceEntry", "192.0.2.251").is_empty()).then_some(())
    });
    let (count, seconds) = (written() - before, begun.elapsed().as_secs_f64());
    // Of a change one object differs; the first has all, and the good donor's has two.
    assert!(count <= 10.0 + 10.0 + seconds + 4.0, "{count} objects were written in {seconds} s");
    assert!(hostile.unwrap().sent.load(Ordering::Relaxed) as u64 > CHANGES);
    site.until("and then it does not any more", || {
        let conditions = acceptor.binding("till")?.status.conditions;
        (!conditions.iter().any(|c| c.type_ == "Flapping")).then_some(())
    });
}
