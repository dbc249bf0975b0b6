//! Figures, and where they are read.

use std::fs;
use std::time::Duration;

use crate::support::etcd::Snapshot;

pub fn row(what: &str, figures: &str) {
    println!("| {what} | {figures} |");
}

pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// The value below which a share of the sorted samples lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    sorted[((last as f64) * share).round() as usize]
}

pub fn sort(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_by(f64::total_cmp);
    samples
}

/// What a process uses. Memory in MB (10^6).
#[derive(Clone, Copy)]
pub struct Usage {
    pub resident: f64,
    pub files: f64,
    pub ran: Duration,
}

impl Usage {
    pub fn of(pid: u32) -> Usage {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of Linux");
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name)).expect("the field");
            let number: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
            number * 1024.0 / 1e6
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process of Linux");
        let after_name = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
        // User and system time, in hundredths of a second: those of threads that have ended are among it.
        let ticks: u64 = after_name.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Usage { resident: field("VmRSS:"), files: field("RssFile:"), ran: Duration::from_millis(ticks * 10) }
    }
}

/// The keys of what is stored otherwise now, without Leases: those are renewed by whoever lives.
pub fn changed(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut keys: Vec<_> = after
        .iter()
        .filter(|(key, (revision, _))| before.get(*key).map(|b| &b.0) != Some(revision))
        .map(|(key, _)| key)
        .collect();
    keys.extend(before.keys().filter(|key| !after.contains_key(*key)));
    let names = keys.into_iter().map(|key| String::from_utf8_lossy(key).into_owned());
    names.filter(|key| !key.contains("leases/")).collect()
}

/// Returns the value of a key in etcd.
pub fn text_of(snapshot: &Snapshot, key: &str) -> String {
    let value = snapshot.get(key.as_bytes()).map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    value.unwrap_or_else(|| "nothing".into())
}
