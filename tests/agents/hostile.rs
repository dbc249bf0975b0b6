//! A peer that calls an agent as no agent would costs it a bounded amount, and nobody else anything.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::support::attacker::{Attacker, GET_PEER, HEALTH, LIST, SUBSCRIBE, attack};
use super::support::objects::{binding, policy, service, service_with_ports};
use super::support::{Cluster, Site};

const MIB: u64 = 1 << 20;

/// Changes of a policy that the good peer has to see during an attack.
const CHANGES: u16 = 5;
/// An attack goes on for at least so long.
const ATTACK: Duration = Duration::from_secs(4);

/// An agent with a good peer, which consumes from it, and with two bad ones: `evil` may consume, `mute` may not.
struct Stage {
    site: Site,
    agent: Cluster,
    good: Cluster,
}

impl Stage {
    fn new() -> Stage {
        let site = Site::new();
        let (mut agent, mut good) = (site.cluster("agent"), site.cluster("good"));
        let bad = ["{name: evil, consume: true}".to_owned(), "{name: mute}".to_owned()];
        agent.configure("", &[&[good.as_consumer()][..], &bad].concat());
        good.configure("", &[agent.as_donor()]);
        agent.write("reviews.yaml", service("reviews", 9080) + &policy("reviews", &["good", "evil"]));
        for n in 0..20 {
            let name = format!("many-{n}");
            agent.write(&format!("{name}.yaml"), service_with_ports(&name, 60) + &policy(&name, &["evil"]));
        }
        good.write("reviews.yaml", binding("reviews", "agent", &["reviews"]));
        agent.start();
        good.start();
        site.until("the good peer has bound", || good.bound("reviews").then_some(()));
        Stage { site, agent, good }
    }

    fn bad(&self, name: &str) -> Attacker {
        Attacker::new(&self.site, name, &self.agent)
    }

    /// While somebody attacks: the agent answers its probe, the good peer sees changes, and memory grows by at most so
    /// much. Then the agent is as it was before.
    fn withstands(&self, attacks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>, memory: u64) {
        let (before, lines) = (self.agent.memory(), self.agent.log().lines().count());
        let begun = Instant::now();
        let attackers = attack(attacks);
        let (mut changes, mut probes) = (Vec::new(), Vec::new());
        let mut port = 1000;
        while port < 1000 + CHANGES || begun.elapsed() < ATTACK {
            port += 1;
            changes.push(self.change(port));
            for _ in 0..10 {
                let asked = Instant::now();
                assert_eq!(self.agent.get("/healthz").map(|(code, _)| code), Some(200));
                probes.push(asked.elapsed());
            }
        }
        let took = begun.elapsed();
        let grown = self.agent.peak_memory().saturating_sub(before);
        drop(attackers);
        let (change, probe) = (median(changes), median(probes));
        let lines = self.agent.log().lines().count() - lines;
        eprintln!("grown by {} MiB, change {change:?}, probe {probe:?}, {lines} lines in {took:?}", grown / MIB);
        assert!(grown < memory, "the agent's memory grew by {} MiB", grown / MIB);
        assert!(change < Duration::from_secs(1), "a change took {change:?}");
        assert!(probe < Duration::from_millis(100), "a probe took {probe:?}");
        let kinds = 4; // strangers, those that are no peers, and the two bad peers
        assert!(lines as u64 <= (took.as_secs() + 2) * kinds + u64::from(port), "{lines} lines in {took:?}");
        assert_eq!(
            self.agent.metric("wharf_peer_subscriptions{peer=\"good\"}"),
            Some(1.0),
            "its stream is the first one"
        );
    }

    /// How long it takes until a change at the agent is written at the good peer.
    fn change(&self, port: u16) -> Duration {
        let begun = Instant::now();
        self.agent.write("reviews.yaml", service("reviews", port) + &policy("reviews", &["good", "evil"]));
        let there = || !self.good.find("ServiceEntry", &format!("\"number\":{port}")).is_empty();
        self.site.until("the change is at the good peer", || there().then_some(()));
        begun.elapsed()
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn half_sent_messages_cost_an_agent_a_bounded_amount_whoever_sends_them() {
    let stage = Stage::new();
    let (evil, mute) = (stage.bad("evil"), stage.bad("mute"));
    stage.withstands(
        vec![
            Box::pin(evil.clone().send_halves(8, 16, SUBSCRIBE, 4 << 20)),
            Box::pin(evil.send_halves(8, 16, LIST, 4000)),
            Box::pin(mute.clone().send_halves(8, 16, HEALTH, 4000)),
            Box::pin(mute.send_halves(8, 16, GET_PEER, 4000)),
        ],
        40 * MIB,
    );
    let _goes_on = attack(vec![Box::pin(stage.bad("evil").send_halves(8, 16, SUBSCRIBE, 4 << 20))]);
    let said = |name: &str| stage.agent.peer_condition(name, "Subscribed").map(|(reason, _)| reason);
    let both = || (said("evil").as_deref() == Some("Misbehaving")).then_some(());
    stage.site.until("the peering says so", both);
}

#[test]
fn floods_of_hellos_and_acknowledgements_cost_an_agent_a_bounded_amount() {
    let stage = Stage::new();
    let evil = stage.bad("evil");
    stage.withstands(
        vec![Box::pin(evil.clone().send_hellos(4)), Box::pin(evil.send_acknowledgements(4, "reviews"))],
        40 * MIB,
    );
}

#[test]
fn calls_that_are_given_up_at_once_cost_an_agent_nothing_that_stays() {
    let stage = Stage::new();
    stage.withstands(
        vec![Box::pin(stage.bad("evil").reset_calls(8)), Box::pin(stage.bad("mute").reset_calls(8))],
        40 * MIB,
    );
}

#[test]
fn a_peer_that_reads_no_answer_costs_an_agent_a_bounded_amount() {
    let stage = Stage::new();
    stage.withstands(vec![Box::pin(stage.bad("evil").read_nothing(8, 8))], 40 * MIB);
}
