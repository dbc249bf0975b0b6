//! Many peers attack one agent at once and from all sides, and others go on as if nothing were.
//!
//! A test program of its own, because the machine has to be its own: Cargo runs one program after the other.

// clippy.toml allows these in tests, but does not count the tests' helpers as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod good;
// Most of what the other tests of agents stand on is not needed here.
#[allow(dead_code)]
#[path = "../agents/support/mod.rs"]
mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf::peering::pb;

use good::GoodPeer;

use support::attacker::{Attacker, GET_PEER, HEALTH, LIST, REFLECT, SUBSCRIBE, Threads, attack};
use support::hostile::{HostileDonor, Says, changes, exposition, large_exposition, renamed};
use support::objects::{binding, policy, service, service_with_ports};
use support::{Cluster, Site};

const MIB: u64 = 1 << 20;
const HOSTILE: usize = 64;
const GOOD: usize = 20;
/// What the agent may take, whatever they do.
const MEMORY: u64 = 128 * MIB;
/// A build for tests is slower than a release by more than this, and its code alone takes twice the memory: it is not counted.
const IS_RELEASE: bool = cfg!(not(debug_assertions));
const SLOWNESS: f64 = if IS_RELEASE { 1.0 } else { 3.0 };

/// An attack goes on for so long, and for one change at least.
const ATTACK: Duration = Duration::from_secs(15);
/// Changes before it.
const CALM_ROUNDS: usize = 3;
/// A thread that waits for a processor for more than so many times what it runs may keep a PING waiting until the other end gives up.
const STARVED: f64 = 3.0;
/// Nobody waits longer for anything; a machine under load may need a part of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long things took.
#[derive(Default)]
struct Measured {
    /// From the agent's change to each good acceptor.
    told: Vec<Duration>,
    /// From a good donor's change to the objects of the agent.
    written: Vec<Duration>,
    probes: Vec<Duration>,
}

/// An agent, and peers that keep to the protocol: each is a donor to it, and consumes from it.
struct Installation {
    agent: Cluster,
    good: Vec<GoodPeer>,
    threads: Arc<Threads>,
    port: u16,
}

impl Installation {
    fn new(site: &Site, threads: &Arc<Threads>, name: &str, good: usize) -> Installation {
        let mut agent = site.cluster(name);
        let service = |n| format!("from-{n}");
        let mut good: Vec<_> = (0..good)
            .map(|n| GoodPeer::start(threads, site, &format!("good-{name}-{n}"), &service(n), &agent))
            .collect();
        agent.configure("", &good.iter().map(GoodPeer::as_peer).collect::<Vec<_>>());
        for (n, peer) in good.iter().enumerate() {
            agent.write(&format!("{}.yaml", service(n)), binding(&service(n), &peer.name, &[&service(n)]));
        }
        agent.start();
        let seen = site.try_until(PATIENCE, || (agent.get("/readyz")?.0 == 200).then_some(()));
        assert!(seen.is_some(), "{name} does not listen");
        good.iter_mut().for_each(|peer| peer.subscribe(threads, site, agent.peering));
        Installation { agent, good, threads: threads.clone(), port: 1000 }
    }

    /// Exposes the service of which all good peers hear, with another port.
    fn expose(&mut self) {
        self.port += 1;
        let names: Vec<_> = self.good.iter().map(|peer| peer.name.as_str()).collect();
        self.agent.write("reviews.yaml", service("reviews", self.port) + &policy("reviews", &names));
    }

    /// Changes something at the agent and at every good donor, and sees it arrive everywhere.
    fn change(&mut self, site: &Site, measured: &mut Measured) {
        let begun = Instant::now();
        self.expose();
        let port = self.port;
        for peer in &mut self.good {
            let heard = peer.hears(&self.threads, port, PATIENCE);
            let heard = heard.unwrap_or_else(|| panic!("{} did not hear of port {port}", peer.name));
            measured.told.push(heard.saturating_duration_since(begun));
        }
        let begun = Instant::now();
        self.good.iter().for_each(|peer| peer.offer(port));
        let mut missing: Vec<_> =
            (0..self.good.len()).map(|n| format!("istio/service_default_from-{n}.yaml")).collect();
        let is_there = |file: &String| {
            let text = std::fs::read_to_string(self.agent.store.join(file));
            text.is_ok_and(|text| text.contains(&format!("{port}")))
        };
        let seen = site.try_until(PATIENCE, || {
            let before = missing.len();
            missing.retain(|file| !is_there(file));
            measured.written.extend(vec![begun.elapsed(); before - missing.len()]);
            missing.is_empty().then_some(())
        });
        assert!(seen.is_some(), "port {port} is not written in {missing:?}");
        for path in ["/healthz", "/readyz"].into_iter().cycle().take(20) {
            let asked = Instant::now();
            assert_eq!(self.agent.get(path).map(|(code, _)| code), Some(200), "{path}");
            measured.probes.push(asked.elapsed());
        }
    }
}

/// The agent gets its hostile peers: they offer to it, and it exposes much to them.
fn begin_hostile_donors(site: &Site, threads: &Arc<Threads>, victim: &Installation) -> Vec<HostileDonor> {
    let agent = &victim.agent;
    let names: Vec<_> = (0..HOSTILE).map(hostile_name).collect();
    let hostile: Vec<&str> = names.iter().map(String::as_str).collect();
    for n in 0..8 {
        let name = format!("many-{n}");
        agent.write(&format!("{name}.yaml"), service_with_ports(&name, 60) + &policy(&name, &hostile));
    }
    for (n, name) in names.iter().enumerate().filter(|(n, _)| n % DONOR_ATTACKS == FLAPPING) {
        agent.write(&format!("till-{n}.yaml"), binding(&format!("till-{n}"), name, &[&format!("till-{n}")]));
    }
    let donors: Vec<_> = (0..HOSTILE).map(|n| hostile_donor(threads, site, n)).collect();
    let entry = |d: &HostileDonor| format!("{{name: {}, endpoint: \"{}\", consume: true}}", d.name, d.address);
    let peers: Vec<_> = victim.good.iter().map(GoodPeer::as_peer).chain(donors.iter().map(entry)).collect();
    agent.configure("", &peers);
    let all = victim.good.len() + HOSTILE;
    let seen = site.try_until(PATIENCE, || (agent.status()?.peers.len() == all).then_some(()));
    assert!(seen.is_some(), "the agent does not know all its peers");
    donors
}

fn hostile_name(n: usize) -> String {
    format!("evil-{n:02}")
}

const DONOR_ATTACKS: usize = 6;
const FLAPPING: usize = 3;

/// What a donor does to whoever consumes from it.
fn hostile_donor(threads: &Arc<Threads>, site: &Site, n: usize) -> HostileDonor {
    let name = hostile_name(n);
    let cluster = name.clone();
    let start =
        |script: Box<dyn Fn(pb::Hello) -> Says + Send + Sync>| HostileDonor::start_on(threads, site, &name, script);
    match n % DONOR_ATTACKS {
        // A message that never ends.
        0 => HostileDonor::start_half(threads, site, &name, 390 << 10),
        // As many rejected names as may be, with the longest sentences.
        1 => start(Box::new(|_| {
            let nameless = |k: usize| pb::Exposition {
                namespace: "d".into(),
                name: format!("y{k:08x}{}", "a".repeat(54)),
                version: "v".repeat(3000),
                ..pb::Exposition::default()
            };
            Box::new(
                (0..19).map(move |k| changes((k * 100..(k + 1) * 100).map(nameless).collect(), k as u64 + 1, true)),
            )
        })),
        // The largest expositions that are valid.
        2 => start(Box::new(move |_| {
            let large = large_exposition(&cluster, "s");
            Box::new((0..120).map(move |k| changes(vec![renamed(&large, &format!("s{k}"))], k + 1, true)))
        })),
        // A bound service that changes with each message, for ever.
        FLAPPING => start(Box::new(move |_| {
            let (cluster, service) = (cluster.clone(), format!("till-{n}"));
            Box::new((1..).map(move |k: u64| {
                let address = format!("192.0.2.{}", k % 250 + 1);
                changes(vec![exposition(&cluster, &service, &address, &format!("v{k}"))], k, true)
            }))
        })),
        // As many names as are held, with new versions again and again.
        4 => start(Box::new(move |_| {
            let cluster = cluster.clone();
            Box::new((0..).map(move |k: u64| {
                let one = |n: u64| exposition(&cluster, &format!("s{n}"), "192.0.2.1", &format!("v{k}"));
                changes(((k % 10) * 200..(k % 10 + 1) * 200).map(one).collect(), k + 1, true)
            }))
        })),
        // Nothing, until it is dialled again.
        _ => start(Box::new(|_| Box::new(std::iter::repeat_with(|| changes(Vec::new(), 1, true))))),
    }
}

/// What a peer does that calls.
fn calls_of(n: usize, attacker: &Attacker) -> Vec<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let a = || attacker.clone();
    let first: Pin<Box<dyn Future<Output = ()> + Send>> = match n % 8 {
        0 => Box::pin(a().send_halves(8, 8, SUBSCRIBE, 4 << 20)),
        1 => Box::pin(a().send_halves(8, 8, if n % 16 == 1 { HEALTH } else { GET_PEER }, 4000)),
        2 => Box::pin(a().send_hellos(8)),
        3 => Box::pin(a().send_acknowledgements(8, "many-0")),
        4 => Box::pin(a().reset_calls(8)),
        5 => Box::pin(a().read_nothing(8, 8)),
        6 => Box::pin(a().come_and_go(8)),
        _ => Box::pin(a().send_halves(8, 8, if n % 16 == 7 { REFLECT } else { LIST }, 4000)),
    };
    vec![first, Box::pin(a().send_half_handshakes(2))]
}

#[test]
fn sixty_four_hostile_peers_cost_an_agent_a_stated_amount_and_twenty_good_ones_nothing() {
    let site = Site::new();
    let good = Arc::new(Threads::new());
    let mut victim = Installation::new(&site, &good, "victim", GOOD);
    // The same machine, at the same time, without attackers.
    let mut beside = Installation::new(&site, &good, "beside", 1);
    (0..2).for_each(|_| victim.change(&site, &mut Measured::default())); // all are there
    let mut calm = Measured::default();
    (0..CALM_ROUNDS).for_each(|_| victim.change(&site, &mut calm));
    let before = victim.agent.peak_memory();

    let hostile = Arc::new(Threads::new());
    let _donors = begin_hostile_donors(&site, &hostile, &victim);
    let attackers: Vec<_> = (0..HOSTILE).map(|n| (n, Attacker::new(&site, &hostile_name(n), &victim.agent))).collect();
    let (lines, begun, idle) = (victim.agent.log().lines().count(), Instant::now(), victim.agent.processor_time());
    let attackers = attack(attackers.iter().flat_map(|(n, attacker)| calls_of(*n, attacker)).collect());
    let (mut attacked, mut control) = (Measured::default(), Measured::default());
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < ATTACK {
        victim.change(&site, &mut attacked);
        beside.change(&site, &mut control);
        rounds += 1;
    }
    let took = begun.elapsed();
    let starved = starvation(idle, victim.agent.processor_time());
    let (peak, code) = (victim.agent.peak_memory(), victim.agent.code_memory());
    drop(attackers);

    eprintln!(
        "memory {} MiB before, {} MiB at most, of it {} MiB code; {rounds} rounds in {took:?}; starved {starved:.1}",
        before / MIB,
        peak / MIB,
        code / MIB,
    );
    let taken = if IS_RELEASE { peak } else { peak - code };
    assert!(taken < MEMORY, "the agent took {} MiB", taken / MIB);
    let broken: Vec<_> = victim.good.iter().filter(|p| p.breaks() > 0).map(|p| p.name.clone()).collect();
    assert!(starved > STARVED || broken.is_empty(), "the streams of these good peers broke: {broken:?}");
    look_at_log(&victim.agent.log().lines().skip(lines).collect::<Vec<_>>(), took);
    look_at_times(&calm, &attacked, &control, starved);
}

/// A peer adds a line a second to the log, and to the audit trail what docs/reference/audit.md states.
fn look_at_log(lines: &[&str], took: Duration) {
    let seconds = took.as_secs() + 5;
    for name in (0..HOSTILE).map(hostile_name) {
        let of_peer = lines.iter().filter(|line| line.contains(&name));
        let (audited, said): (Vec<&&str>, Vec<&&str>) = of_peer.partition(|line| line.contains(" wharf::audit: "));
        assert!(said.len() as u64 <= seconds, "{} lines of {name} in {took:?}", said.len());
        let by_peer = audited.iter().filter(|line| !line.contains("event=offered side=donor")).count() as u64;
        // It offers anything, and there is one binding of it; it acknowledges one exposition.
        assert!(by_peer <= 32 + 2 * (8 + seconds / 10) + seconds, "{by_peer} audit lines of {name} in {took:?}");
    }
    let names_peer = |line: &&&str| line.contains("evil-") || line.contains("good-");
    let others = lines.iter().filter(|line| !names_peer(line)).count() as u64;
    eprintln!("{} lines of log, {others} of them about nobody", lines.len());
    // Strangers, and two or three parts of libraries, have a line a second each.
    assert!(others <= 5 * seconds, "{others} lines about nobody in {took:?}");
}

/// A second, and a tenth of one for a probe, are promised to an agent that has a processor when it needs one. What this build
/// costs is seen before the attack, and what others do on this machine at an agent that is not attacked.
fn look_at_times(calm: &Measured, attacked: &Measured, control: &Measured, starved: f64) {
    for (what, measured) in [("calm", calm), ("attacked", attacked), ("beside it", control)] {
        let [told, written, probes] = [&measured.told, &measured.written, &measured.probes]
            .map(|times| [50, 95, 99].map(|percent| percentile(times, percent)));
        eprintln!("{what} (p50, p95, p99): told {told:?}; written {written:?}; probes {probes:?}");
    }
    let within = |promised: u64, calm: &[Duration], control: &[Duration]| {
        let others = percentile(calm, 50).max(percentile(control, 50));
        Duration::from_millis(promised).mul_f64(SLOWNESS * starved) + 20 * others
    };
    for (what, times, bound) in [
        ("to be told", &attacked.told, within(1000, &calm.told, &control.told)),
        ("to be written", &attacked.written, within(1000, &calm.written, &control.written)),
        ("a probe", &attacked.probes, within(100, &calm.probes, &control.probes)),
    ] {
        let middle = percentile(times, 50);
        assert!(middle < bound, "{what} took {middle:?}, and {bound:?} are allowed");
    }
}

/// How many times as long as it ran a busy thread took, because it waited for a processor.
fn starvation(before: Option<(Duration, Duration)>, after: Option<(Duration, Duration)>) -> f64 {
    let (Some(before), Some(after)) = (before, after) else { return 1.0 };
    let ran = after.0.saturating_sub(before.0).max(Duration::from_millis(1));
    let waited = after.1.saturating_sub(before.1);
    1.0 + waited.as_secs_f64() / ran.as_secs_f64()
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[(times.len() - 1) * percent / 100]
}
