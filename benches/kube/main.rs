//! What a change costs in real clusters: from the policy at the donor's API server to the ServiceEntry at the acceptor's.
//!
//!     tests/lab/lab.py setup --only kube     builds the API servers, once
//!     cargo bench --bench kube               everything, about five minutes
//!     cargo bench --bench kube -- change     one part: `change` or `many`
//!     cargo bench --bench kube -- many 100   with another number than 1,000
//!
//! Two API servers and two agents as processes, on one machine. Machines are noisy, and most of the time is the API
//! servers': each figure stands beside a floor that was measured in the same run, a relay that does nothing but watch
//! policies and write one object for each, or the same objects applied by nobody but the benchmark.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a benchmark that cannot go on has no figure

mod eye;
mod figures;
mod floor;
mod relay;
mod site;
#[allow(unused_imports)] // the tests use more of it
#[path = "../../tests/kube/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use figures::{Usage, ms, percentile, row, sort};
use floor::Bare;
use relay::Relay;
use site::{Side, Site};

const SAMPLES: usize = 200;
/// Rounds that are not counted: connections are made, caches fill.
const WARM: usize = 20;
/// Bursts, each beside a floor of its own: the machine's speed changes while they are measured.
const ROUNDS: usize = 3;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (numbers, words): (Vec<_>, Vec<_>) = words.into_iter().partition(|w| w.parse::<usize>().is_ok());
    let count = numbers.first().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let wanted = |name: &str| words.is_empty() || words.iter().any(|w| w == name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if wanted("change") {
            change().await;
        }
        if wanted("many") {
            many(count).await;
        }
    });
}

/// A policy is applied; its ServiceEntry appears. Relay and Wharf take turns.
async fn change() {
    let mut site = Site::new().await;
    // What the relay lives on is none of Wharf's business, and the other way round.
    site.configure("store: {kube: {namespaces: [shop]}}\n");
    site.services("shop", 0..WARM + SAMPLES + 1).await;
    site.bindings("shop", 0..WARM + SAMPLES + 1).await;
    site.start().await;
    let mut eye = site.eye(Side::Acceptor, "ServiceEntry").await;
    site.policies("shop", WARM + SAMPLES..WARM + SAMPLES + 1).await; // the pattern of what the relay writes
    eye.see(1).await;
    let relay = Relay::start(&site).await;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for round in 0..WARM + SAMPLES {
        for (namespace, samples) in [("floor", &mut floor), ("shop", &mut ours)] {
            let policy = site::policy(namespace, round);
            let begun = Instant::now();
            let applied = site.donor.apply(&policy);
            let (_, seen) = tokio::join!(applied, eye.see(1));
            if round >= WARM {
                samples.push(ms(seen - begun));
            }
            tokio::time::sleep(Duration::from_millis(250)).await; // statuses and acknowledgements are written
        }
    }
    drop(relay);
    let (floor, ours) = (sort(floor), sort(ours));
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (f, o) = (percentile(&floor, share), percentile(&ours, share));
        row(
            &format!("policy applied → ServiceEntry seen, {what} of {SAMPLES}"),
            &format!("{o:.1} ms, relay {f:.1} ms, {:.2} times", o / f),
        );
    }
}

/// So many policies and bindings at once, what becomes of them on a restart, and what they cost when nothing happens.
async fn many(count: usize) {
    let mut site = Site::new().await;
    site.configure("");
    site.services("shop", 0..count + 1).await;
    site.start().await;
    let pattern = site.pattern(count).await;
    let few = settled(&site).await;
    site.stop();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            site.clear(&pattern).await;
            site.stop();
        }
        let bare = floor::measure(&site, &pattern, count).await;
        site.start().await;
        times.push((bare, burst(&site, &pattern, 0..count).await));
    }
    tell(&pattern, count, &times);
    let after = settled(&site).await;
    site.tell_requests().await;
    idle(&site, count).await;
    for side in [Side::Acceptor, Side::Donor] {
        restart(&mut site, side, count).await;
    }
    let fresh = settled(&site).await;
    site.services("shop", count + 1..2 * count + 1).await;
    site.at_rest().await;
    burst(&site, &pattern, count + 1..2 * count + 1).await;
    let more = settled(&site).await;
    for (i, name) in ["donor", "acceptor"].into_iter().enumerate() {
        row(
            &format!("memory of the {name}: with one, {count}, {count} after a restart, twice as many"),
            &format!(
                "{:.1}, {:.1}, {:.1}, {:.1} MB: {:.1} MB for each {count}",
                few[i].resident,
                after[i].resident,
                fresh[i].resident,
                more[i].resident,
                more[i].resident - fresh[i].resident
            ),
        );
    }
}

/// How long bursts took, beside what was measured before each without Wharf.
fn tell(pattern: &site::Pattern, count: usize, times: &[(Bare, Burst)]) {
    let (at_donor, at_acceptor) = (pattern.at(Side::Donor).len(), pattern.at(Side::Acceptor).len());
    let spread = |of: &dyn Fn(&(Bare, Burst)) -> f64| {
        let all = sort(times.iter().map(of).collect());
        format!("{:.2} ({:.2} to {:.2})", percentile(&all, 0.5), all[0], all[all.len() - 1])
    };
    row(
        &format!("{count} policies and as many bindings applied at once → all statuses say Ready, {ROUNDS} rounds"),
        &format!(
            "{} s: {} objects at the donor, {} at the acceptor, there after {} s",
            spread(&|(_, ours)| ours.told.as_secs_f64()),
            count * at_donor,
            count * at_acceptor,
            spread(&|(_, ours)| ours.there.as_secs_f64()),
        ),
    );
    row(
        &format!("the same without Wharf: {} applies", count * (at_donor + at_acceptor + 4)),
        &format!(
            "{} s: {} s policies and bindings, {} s objects, {} s a status of each policy and binding",
            spread(&|(bare, _)| bare.sum().as_secs_f64()),
            spread(&|(bare, _)| bare.inputs.as_secs_f64()),
            spread(&|(bare, _)| bare.objects.as_secs_f64()),
            spread(&|(bare, _)| bare.statuses.as_secs_f64()),
        ),
    );
    row(
        "the last object there → every status final, boundBy included",
        &format!("{} s", spread(&|(_, ours)| ours.settled.as_secs_f64())),
    );
    row(
        "Wharf's time, times that of the same round; of it the agents' own computing, of both cores",
        &format!(
            "{}; {} %",
            spread(&|(bare, ours)| ours.told.as_secs_f64() / bare.sum().as_secs_f64()),
            spread(&|(_, ours)| 50.0 * ours.computed.as_secs_f64() / ours.told.as_secs_f64()),
        ),
    );
}

struct Burst {
    there: Duration,
    told: Duration,
    /// From the last object until every status is final, `boundBy` included.
    settled: Duration,
    /// By the agents.
    computed: Duration,
}

/// Applies so many at once; waits until all that Wharf makes of them is there, and is told. How long did both take?
async fn burst(site: &Site, pattern: &site::Pattern, which: std::ops::Range<usize>) -> Burst {
    let count = which.len();
    let mut eyes = site.eyes(pattern, count).await;
    let mut statuses = site.eyes_for_ready().await;
    let mut bound = site.eye_for_bound().await;
    let ran = || site.agents().iter().map(|agent| Usage::of(agent.id()).ran).sum::<Duration>();
    let (begun, before) = (Instant::now(), ran());
    tokio::join!(site.policies("shop", which.clone()), site.bindings("shop", which));
    let applied = begun.elapsed();
    let last = site::all_seen(&mut eyes, begun).await;
    let mut told = last;
    for eye in &mut statuses {
        told = told.max(eye.see(count).await);
    }
    let computed = ran() - before;
    let settled = bound.see(count).await.max(told);
    let burst = Burst { there: last - begun, told: told - begun, settled: settled - last, computed };
    let seconds = [applied, burst.there, burst.told, burst.settled, burst.computed].map(|d| d.as_secs_f64());
    let [applied, there, told, settled, computed] = seconds;
    eprintln!(
        "applied {applied:.2} s, all there {there:.2} s, told {told:.2} s, every status final {settled:.2} s after the last object, \
         agents computed {computed:.2} s"
    );
    burst
}

/// What both agents use once they write nothing any more.
async fn settled(site: &Site) -> [Usage; 2] {
    site.at_rest().await;
    site.agents().map(|agent| Usage::of(agent.id()))
}

async fn idle(site: &Site, count: usize) {
    let watched = Duration::from_secs(30);
    let before = site.agents().map(|agent| Usage::of(agent.id()));
    tokio::time::sleep(watched).await;
    for (agent, before) in site.agents().into_iter().zip(before) {
        let now = Usage::of(agent.id());
        let share = (now.ran - before.ran).as_secs_f64() / watched.as_secs_f64();
        row(
            &format!("idle {} with {count}", agent.cluster),
            &format!(
                "{:.2} % of a core; {:.1} MB resident, of which {:.1} MB are files",
                share * 100.0,
                now.resident,
                now.files
            ),
        );
    }
}

async fn restart(site: &mut Site, side: Side, count: usize) {
    let before = [site.donor.server.etcd.snapshot(), site.acceptor.server.etcd.snapshot()];
    site.agent(side).stop();
    let begun = Instant::now();
    site.agent(side).start();
    let ready = loop {
        match site.agent(side).http("/readyz") {
            Some((200, _)) => break begun.elapsed(),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    while !site.in_step() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let in_step = begun.elapsed();
    site.at_rest().await;
    tokio::time::sleep(Duration::from_secs(40)).await; // so long others are waited for
    let after = [site.donor.server.etcd.snapshot(), site.acceptor.server.etcd.snapshot()];
    let mut writes = std::collections::BTreeMap::<String, usize>::new();
    for (name, (before, after)) in ["donor", "acceptor"].into_iter().zip(before.iter().zip(&after)) {
        for key in figures::changed(before, after) {
            if writes.is_empty() {
                eprintln!("{key}, from {} to {}", figures::text_of(before, &key), figures::text_of(after, &key));
            }
            let kind = key.trim_start_matches(support::etcd::PREFIX).rsplit('/').nth(2).unwrap_or(&key).to_owned();
            *writes.entry(format!("{kind} at the {name}")).or_default() += 1;
        }
    }
    let told: Vec<_> = writes.iter().map(|(what, count)| format!("{count} {what}")).collect();
    row(
        &format!("{} started with {count} in place → ready, in step; writes", site.agent(side).cluster),
        &format!(
            "{:.2} s, {:.2} s; {}",
            ready.as_secs_f64(),
            in_step.as_secs_f64(),
            if told.is_empty() { "0".to_owned() } else { told.join(", ") }
        ),
    );
}
