//! What a change costs, from the policy's file at the donor to the ServiceEntry's file at the acceptor.
//!
//!     cargo bench --bench agents              everything, about three minutes
//!     cargo bench --bench agents -- relay     the parts whose name contains a word
//!
//! Real agents as processes over real mutual TLS on loopback. Machines are noisy: each figure stands beside a floor that
//! was measured in the same run, a relay that does nothing but copy a file from one watched folder to another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a benchmark that cannot go on has no figure

mod cluster;
mod objects;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::{Eye, Site};

type Part = (&'static str, fn());

const PARTS: [Part; 7] = [
    ("change", change),
    ("burst", burst),
    ("newcomer", newcomer),
    ("scale", scale),
    ("killed", killed),
    ("idle", idle),
    ("translate", translate),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|w| name.contains(w.as_str())) {
            part();
        }
    }
}

fn row(what: &str, figures: &str) {
    println!("| {what} | {figures} |");
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// The value below which a share of the sorted samples lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    sorted[((last as f64) * share).round() as usize]
}

fn sort(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

fn is_entry(name: &str) -> bool {
    name.starts_with("serviceentry")
}

/// The least that any answer to a written file can cost: a watch, a read, a write, a rename.
struct Relay {
    from: PathBuf,
    _folder: tempfile::TempDir,
    eye: Eye,
    _watcher: notify::RecommendedWatcher,
}

impl Relay {
    fn start() -> Relay {
        use notify::Watcher as _;
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(&from).expect("a folder");
        fs::create_dir_all(&to).expect("a folder");
        let eye = Eye::new(&to);
        let closed = notify::EventKind::Access(notify::event::AccessKind::Close(notify::event::AccessMode::Write));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if event.kind != closed {
                return;
            }
            for path in event.paths {
                let text = fs::read(&path).expect("the file");
                let temporary = to.join(".new");
                fs::write(&temporary, text).expect("a file");
                fs::rename(&temporary, to.join(path.file_name().expect("a name"))).expect("a rename");
            }
        })
        .expect("inotify");
        watcher.watch(&from, notify::RecursiveMode::NonRecursive).expect("a folder to watch");
        Relay { from, _folder: folder, eye, _watcher: watcher }
    }

    fn once(&self, text: &str) -> f64 {
        self.eye.blink();
        let begun = Instant::now();
        fs::write(self.from.join("policy.yaml"), text).expect("a file");
        ms(self.eye.see(|name| name == "policy.yaml") - begun)
    }
}

fn entries_in(folder: &Path) -> usize {
    let files = fs::read_dir(folder).expect("a folder").flatten();
    files.filter(|file| is_entry(&file.file_name().to_string_lossy())).count()
}

/// A policy is written; its ServiceEntry appears.
fn change() {
    let relay = Relay::start();
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
    donor.write("services.yaml", &objects::services(10));
    donor.write("policies.yaml", &objects::policies(9));
    acceptor.write("binding.yaml", &objects::binding(10));
    donor.start();
    acceptor.start();
    let eye = acceptor.eye();
    eye.see_all(9, is_entry);
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    let text = objects::policy(9, 8080);
    for round in 0..520 {
        let relayed = relay.once(&text);
        eye.blink();
        let begun = Instant::now();
        donor.write("policy.yaml", &text);
        let took = ms(eye.see(is_entry) - begun);
        donor.remove("policy.yaml");
        // The removal has arrived when the entry and the memory of the exposition are gone.
        let (memory, entries) = (acceptor.store.join(".wharf/known/donor"), acceptor.store.join("istio"));
        let gone = || entries_in(&entries) < 10 && fs::read_dir(&memory).is_ok_and(|d| d.count() < 10);
        while !gone() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(2));
        if round >= 20 {
            floor.push(relayed);
            ours.push(took);
        }
    }
    let (floor, ours) = (sort(floor), sort(ours));
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (f, o) = (percentile(&floor, share), percentile(&ours, share));
        row(
            &format!("policy written → ServiceEntry there, {what} of 500"),
            &format!("{o:.2} ms, relay {f:.2} ms, above it {:.2} ms", o - f),
        );
    }
}

/// A thousand policies at once.
fn burst() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
    donor.write("services.yaml", &objects::services(1001));
    donor.write("first.yaml", &objects::policy(1000, 8080));
    acceptor.write("binding.yaml", &objects::binding(1001));
    donor.start();
    acceptor.start();
    let eye = acceptor.eye();
    eye.see_all(1, is_entry);
    let begun = Instant::now();
    for i in 0..1000 {
        donor.write(&format!("policy-{i}.yaml"), &objects::policy(i, 8080));
    }
    let took = eye.see_all(1001, is_entry) - begun;
    row(
        "1,000 policies written at once, one file each → all ServiceEntries there",
        &format!("{:.2} s", took.as_secs_f64()),
    );
}

/// A new acceptor meets a donor of a thousand expositions.
fn newcomer() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
    donor.write("services.yaml", &objects::services(1000));
    donor.write("policies.yaml", &objects::policies(1000));
    donor.start();
    donor.eye().see_all(1000, |name| name.starts_with("gateway"));
    acceptor.write("binding.yaml", &objects::binding(1000));
    let eye = acceptor.eye();
    let begun = Instant::now();
    acceptor.start();
    let took = eye.see_all(1000, is_entry) - begun;
    row("acceptor started → 1,000 ServiceEntries there", &format!("{:.2} s", took.as_secs_f64()));
}

/// The same change among few and among many.
fn scale() {
    let mut medians = Vec::new();
    for count in [10, 10_000] {
        let site = Site::new();
        let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
        donor.write("services.yaml", &objects::services(count));
        donor.write("policies.yaml", &objects::policies(count - 1));
        acceptor.write("binding.yaml", &objects::binding(count));
        donor.start();
        acceptor.start();
        let eye = acceptor.eye();
        eye.see_all(count - 1, is_entry);
        donor.write("last.yaml", &objects::policy(count - 1, 8080));
        eye.see_all(count, is_entry);
        let mut samples = Vec::new();
        for round in 0..120_u16 {
            let port = 8080 + (round + 1) % 2;
            std::thread::sleep(Duration::from_millis(5));
            eye.blink();
            let begun = Instant::now();
            donor.write("last.yaml", &objects::policy(count - 1, port));
            // The stub Service has the port; the ServiceEntry has the gateway's.
            samples.push(ms(eye.see(|name| name.starts_with("service_")) - begun));
        }
        medians.push(percentile(&sort(samples.split_off(20)), 0.5));
    }
    let [few, many] = medians[..] else { unreachable!("two sizes") };
    row(
        "a change among 10 → among 10,000 expositions, p50 of 100",
        &format!("{few:.2} ms → {many:.2} ms, {:.2} times", many / few),
    );
}

/// An acceptor is killed, things change, it comes back.
fn killed() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
    donor.write("services.yaml", &objects::services(1000));
    for i in 0..1000 {
        donor.write(&format!("policy-{i}.yaml"), &objects::policy(i, 8080));
    }
    acceptor.write("binding.yaml", &objects::binding(1000));
    donor.start();
    acceptor.start();
    let eye = acceptor.eye();
    eye.see_all(1000, is_entry);
    acceptor.kill();
    let gateways = donor.eye();
    for i in 0..30 {
        donor.write(&format!("policy-{i}.yaml"), &objects::policy(i, 8081));
    }
    gateways.see_all(30, |name| name.starts_with("virtualservice"));
    let eye = acceptor.eye();
    eye.blink();
    let begun = Instant::now();
    acceptor.start();
    let mut last = begun;
    for _ in 0..30 {
        last = eye.see(|name| name.starts_with("service_"));
    }
    row(
        "acceptor killed while 30 of 1,000 changed; started → in step again",
        &format!("{:.2} s", (last - begun).as_secs_f64()),
    );
}

/// What an agent is when nothing happens.
fn idle() {
    let site = Site::new();
    let (mut donor, mut acceptor) = (site.donor(), site.acceptor());
    donor.write("services.yaml", &objects::services(1000));
    donor.write("policies.yaml", &objects::policies(1000));
    acceptor.write("binding.yaml", &objects::binding(1000));
    donor.start();
    acceptor.start();
    acceptor.eye().see_all(1000, is_entry);
    std::thread::sleep(Duration::from_secs(5)); // statuses and acknowledgements settle
    let before = [wakeups(donor.pid()), wakeups(acceptor.pid())];
    let watched = Duration::from_secs(30);
    std::thread::sleep(watched);
    let after = [wakeups(donor.pid()), wakeups(acceptor.pid())];
    for (i, (name, pid)) in [("donor", donor.pid()), ("acceptor", acceptor.pid())].into_iter().enumerate() {
        let resident = status(pid, "VmRSS:") as f64 / 1024.0;
        let woken = after[i] - before[i];
        row(
            &format!("idle {name} with 1,000 expositions"),
            &format!("{resident:.1} MiB resident, {woken} context switches in {} s", watched.as_secs()),
        );
    }
}

fn status(pid: u32, field: &str) -> u64 {
    number(&format!("/proc/{pid}/status"), field)
}

fn number(path: &str, field: &str) -> u64 {
    let text = fs::read_to_string(path).expect("a process of Linux");
    let line = text.lines().find(|l| l.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// How often the threads of a process have waited and been woken.
fn wakeups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    tasks.map(|t| number(&format!("{}/status", t.path().display()), "voluntary_ctxt_switches:")).sum()
}

/// The pure part, on one core.
fn translate() {
    use std::sync::Arc;
    use wharf::translate::{Inventory, PassthroughHosts, Source, bind_local_name, split_binding};

    let config = wharf::config::Config::parse(
        "cluster: acceptor\npeers: [{name: donor, endpoint: \"donor.example:7443\"}]\n",
        "bench",
        std::path::Path::new("."),
    )
    .expect("a configuration");
    let identity = wharf::model::SpiffeId::of_cluster(&config.cluster);
    let facts = config.cluster_facts(identity);
    let documents = wharf::store::manifest::read_manifest("bench", objects::binding(1000).as_bytes());
    let bindings = documents.into_iter().filter_map(|d| match d.ok()?.input {
        wharf::store::Input::Binding(binding) => Some(binding),
        _ => None,
    });
    let wanted: Vec<_> = bindings.flat_map(|b| split_binding(&b).wanted().cloned().collect::<Vec<_>>()).collect();
    assert_eq!(wanted.len(), 1000);
    let offered: Vec<_> = wanted
        .iter()
        .map(|w| {
            let host = w.exposed.host();
            let port = wharf::model::ExposedPort {
                number: 8080,
                name: "http".into(),
                protocol: wharf::model::Protocol::Http,
                host: host.clone(),
            };
            let gateway = wharf::model::GatewayAddress {
                address: "192.0.2.1".parse().expect("an address"),
                port: 15443,
                locality: None,
            };
            Arc::new(wharf::model::Exposition {
                key: w.exposed.clone(),
                host,
                ports: vec![port],
                tls: wharf::model::TlsMode::Cluster,
                identities: vec![wharf::model::SpiffeId::of_cluster(&w.cluster)],
                gateways: vec![gateway],
                clients: Vec::new(),
                host_is_withheld: false,
            })
        })
        .collect();
    let (inventory, passthroughs) = (Inventory::default(), PassthroughHosts::default());
    let mut done = 0_u64;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        for (wanted, exposition) in wanted.iter().zip(&offered) {
            let source = Source::new(wanted.clone(), Ok(exposition.clone()));
            let bound = bind_local_name(&wanted.local, &[source], &inventory, &passthroughs, &facts, false);
            assert!(!bound.objects.is_empty());
            done += 1;
        }
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    row("bindings translated a second, one core", &format!("{rate:.0}"));
}
