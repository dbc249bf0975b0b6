//! The last expositions of peers: ConfigMaps in the agent's namespace, some for each peer.
//!
//! Expositions that bindings use are remembered: they represent a peer that does not answer after a restart of this
//! agent. Those that no binding uses are there for `kubectl wharf offers`, as far as a small budget goes. The replica
//! that leads writes, and each ConfigMap at most once a minute: a peer decides how often it changes, and etcd keeps
//! each change for a while. To lose the last of it costs a transfer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::KubeShared;
use super::content::MANAGER;
use super::error::{explain_error, status_code, store_error};
use super::lease::LeadHandle;
use crate::api::{MANAGED_BY, PEER};
use crate::model::{ClusterName, Exposition, ExpositionKey};
use crate::store::{Change, KnownExposition, StoreError};

const SHARDS: u8 = 8;
/// Bytes of one ConfigMap, which has room for 1 MiB: of all that it holds, and of what no binding uses.
const MAX_SHARD: usize = 256 << 10;
const MAX_UNUSED: usize = 32 << 10;
/// Writes of one ConfigMap: so many at once, and one more each interval.
const BURST: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(60);
/// Time for which changes are collected, and the number of such times while objects are written: a burst rewrites
/// everything again and again.
const DELAY: Duration = Duration::from_secs(2);
const DELAYS: usize = 5;
const RETRY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
const PLACE: &str = "API server, memory of peers";

type ShardName = (ClusterName, u8);

#[derive(Default)]
pub struct StoredMemory {
    shards: Mutex<HashMap<ShardName, MemoryShard>>,
    news: Notify,
}

/// The content of one ConfigMap.
#[derive(Default)]
struct MemoryShard {
    entries: BTreeMap<String, MemoryEntry>,
    /// Some entry differs from the last write.
    stale: bool,
    /// Earliest time of the next write, since it was written often.
    not_before: Option<Instant>,
    paid: Option<Instant>,
    /// Names that bindings use and that found no room when it was written last.
    left_out: usize,
}

struct MemoryEntry {
    text: Box<str>,
    exposition: Exposition,
    used: bool,
}

fn shard_of(key: &ExpositionKey) -> u8 {
    Sha256::digest(key.to_string().as_bytes())[0] % SHARDS
}

fn name_of((peer, shard): &ShardName) -> String {
    format!("wharf-peer-{peer}-{shard}")
}

impl MemoryShard {
    /// Sets an entry. Returns whether the ConfigMap has to be written for it. A new version alone is no reason: it goes
    /// with the next write.
    fn set_entry(&mut self, entry: String, known: Option<&KnownExposition>, used: bool) -> bool {
        let Some(known) = known else { return self.entries.remove(&entry).is_some() };
        let text = serde_json::to_string(known).unwrap_or_default().into_boxed_str(); // plain data cannot fail
        let fresh = MemoryEntry { text, exposition: known.exposition.clone(), used };
        let before = self.entries.insert(entry, fresh);
        before.is_none_or(|before| before.exposition != known.exposition || before.used != used)
    }

    /// Returns the entries that fit: first those that bindings use, then the rest. Counts those of the former that do
    /// not fit.
    fn fitting_content(&mut self) -> BTreeMap<String, String> {
        let mut content = BTreeMap::new();
        let mut size = 0;
        self.left_out = 0;
        for (used, max) in [(true, MAX_SHARD), (false, MAX_UNUSED)] {
            let max = max.min(MAX_SHARD - size);
            let mut taken = 0;
            for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.used == used) {
                let bytes = name.len() + entry.text.len();
                if taken + bytes > max {
                    self.left_out += usize::from(used);
                    continue;
                }
                taken += bytes;
                content.insert(name.clone(), entry.text.to_string());
            }
            size += taken;
        }
        content
    }

    /// Records a write (the generic cell rate algorithm, ATM Forum TM 4.0).
    fn record_write(&mut self, now: Instant) {
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + INTERVAL;
        self.paid = Some(paid);
        self.not_before = paid.checked_sub(INTERVAL * (BURST - 1)).filter(|time| *time > now);
        self.stale = false;
    }

    fn is_due(&self, now: Instant) -> bool {
        self.stale && self.not_before.is_none_or(|time| time <= now)
    }
}

impl StoredMemory {
    fn lock_shards(&self) -> MutexGuard<'_, HashMap<ShardName, MemoryShard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn remember_exposition(
        &self,
        peer: &ClusterName,
        key: &ExpositionKey,
        known: Option<&KnownExposition>,
        used: bool,
    ) {
        let entry = format!("{}.{}", key.namespace, key.name);
        let mut shards = self.lock_shards();
        let shard = shards.entry((peer.clone(), shard_of(key))).or_default();
        if shard.set_entry(entry, known, used) {
            shard.stale = true;
            drop(shards);
            self.news.notify_one();
        }
    }

    /// Reads the ConfigMaps.
    pub async fn recall_expositions(
        &self,
        inner: &KubeShared,
    ) -> Result<Vec<(ClusterName, KnownExposition)>, StoreError> {
        let params = ListParams::default().labels(PEER);
        let maps = inner.config_maps().list(&params).await.map_err(|e| store_error(PLACE, &e))?;
        let mut all = Vec::new();
        let mut shards = self.lock_shards();
        for map in maps {
            let name = map.name_any();
            let labels = map.labels();
            let peer = labels.get(PEER).and_then(|p| p.parse::<ClusterName>().ok());
            let number = name.rsplit_once('-').and_then(|(_, n)| n.parse::<u8>().ok());
            let (Some(peer), Some(number)) = (peer, number) else { continue };
            let shard = (peer.clone(), number);
            if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) || name != name_of(&shard) {
                continue; // somebody else's
            }
            let held = shards.entry(shard).or_default();
            for (entry, text) in map.data.unwrap_or_default() {
                match serde_json::from_str::<KnownExposition>(&text) {
                    Ok(known) => {
                        held.set_entry(entry, Some(&known), false);
                        all.push((peer.clone(), known));
                    }
                    // It is only a memory: the peer sends it again.
                    Err(error) => {
                        tracing::warn!(config_map = %name, %entry, %error, "a peer's last exposition cannot be read");
                        held.stale = true;
                    }
                }
            }
        }
        Ok(all)
    }

    /// Returns the time when the next stale ConfigMap is due.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        self.lock_shards().values().filter(|shard| shard.stale).map(|shard| shard.not_before.unwrap_or(now)).min()
    }

    /// Writes the ConfigMaps that are due, or all that are stale. Fails with the entries that are not remembered, and
    /// the reason.
    async fn flush_shards(&self, inner: &KubeShared, all: bool) -> Result<(), String> {
        let now = Instant::now();
        let is_due = |(_, shard): &(&ShardName, &MemoryShard)| shard.is_due(now) || (all && shard.stale);
        let due: Vec<ShardName> = self.lock_shards().iter().filter(is_due).map(|(name, _)| name.clone()).collect();
        let mut problem = None;
        for name in due {
            let content = self.lock_shards().get_mut(&name).map(|shard| {
                shard.record_write(now);
                shard.fitting_content()
            });
            if let Err(e) = put_shard(&inner.config_maps(), &name, &content.unwrap_or_default()).await {
                problem = Some(format!("ConfigMap {}: {e}", name_of(&name)));
                if let Some(shard) = self.lock_shards().get_mut(&name) {
                    (shard.stale, shard.not_before) = (true, Some(now + RETRY));
                }
            }
        }
        problem.or_else(|| self.left_out()).map_or(Ok(()), Err)
    }

    fn left_out(&self) -> Option<String> {
        let shards = self.lock_shards();
        let (name, shard) = shards.iter().filter(|(_, shard)| shard.left_out > 0).min_by_key(|(name, _)| *name)?;
        Some(format!(
            "{} services of {} that bindings use are not remembered, because ConfigMap {} takes {} KiB at most: while its \
             agent is away, a restart here does not know them; bind fewer of its services",
            shard.left_out,
            name.0,
            name_of(name),
            MAX_SHARD >> 10
        ))
    }
}

async fn put_shard(api: &Api<ConfigMap>, shard: &ShardName, entries: &BTreeMap<String, String>) -> Result<(), String> {
    let name = name_of(shard);
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {MANAGED_BY: MANAGER, PEER: shard.0.as_str()}},
        "data": entries,
    });
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&body);
    let write = async {
        if entries.is_empty() {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(e) if status_code(&e) != Some(404) => Err(e),
                _ => Ok(()),
            }
        } else {
            api.patch(&name, &params, &patch).await.map(drop)
        }
    };
    match tokio::time::timeout(PATIENCE, write).await {
        Err(_) => Err("the API server does not answer".to_owned()),
        Ok(result) => result.map_err(|e| explain_error(&e)),
    }
}

/// Writes the memory as it changes, as long as this process leads.
pub async fn write_memory(inner: Arc<KubeShared>, lead: LeadHandle, changes: mpsc::Sender<Change>) {
    let mut leading = lead.watch_leading();
    let mut told: Option<String> = None;
    loop {
        let due = inner.memory.next_due(Instant::now()).filter(|_| lead.may_write());
        tokio::select! {
            () = inner.memory.news.notified() => {}
            Ok(()) = leading.changed() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        for _ in 0..DELAYS {
            tokio::time::sleep(DELAY).await;
            if !inner.writes_objects() {
                break;
            }
        }
        if !lead.may_write() {
            continue;
        }
        let problem = inner.memory.flush_shards(&inner, false).await.err();
        if problem != told {
            let change = match &problem {
                Some(message) => Change::problem(PLACE, message.clone()),
                None => Change::Solved { place: PLACE.into() },
            };
            told = problem;
            let _ = changes.send(change).await; // the agent stops
        }
    }
}

/// Writes all pending changes at once.
pub async fn flush_at_end(inner: &KubeShared) {
    if let Err(why) = inner.memory.flush_shards(inner, true).await {
        tracing::warn!(%why, "the last expositions of peers could not be stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, port: u16, version: &str) -> KnownExposition {
        let host = format!("{name}.shop.svc.cluster.local");
        let exposition = serde_json::from_value(json!({
            "namespace": "shop", "name": name, "host": host,
            "ports": [{"number": port, "name": "http", "protocol": "HTTP", "host": host}],
            "tls": "Cluster", "gateways": [{"address": "192.0.2.1", "port": 15443}],
        }));
        KnownExposition { version: version.into(), exposition: exposition.unwrap() }
    }

    #[test]
    fn a_config_map_is_small_and_has_first_what_bindings_use() {
        let mut shard = MemoryShard::default();
        for n in 0..3_000 {
            let name = format!("s{n}");
            assert!(shard.set_entry(name.clone(), Some(&known(&name, 80, "1")), n >= 2_000));
        }
        let content = shard.fitting_content();
        let size: usize = content.iter().map(|(name, text)| name.len() + text.len()).sum();
        assert!(size <= MAX_SHARD, "{size}");
        let (used, unused): (Vec<_>, Vec<_>) =
            content.keys().partition(|name| name.trim_start_matches('s').parse::<usize>().unwrap() >= 2_000);
        assert_eq!(used.len() + shard.left_out, 1_000);
        assert!(used.len() > 500 && unused.len() <= MAX_UNUSED / 200, "{} and {}", used.len(), unused.len());
    }

    #[test]
    fn a_version_alone_is_no_reason_to_write_and_a_churn_is_written_once_a_minute() {
        let (mut shard, start) = (MemoryShard::default(), Instant::now());
        assert!(shard.set_entry("a".into(), Some(&known("a", 80, "1")), true));
        assert!(!shard.set_entry("a".into(), Some(&known("a", 80, "2")), true));
        let mut writes = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            shard.stale |= shard.set_entry("a".into(), Some(&known("a", (second % 9 + 1) as u16, "3")), true);
            if shard.is_due(now) {
                shard.record_write(now);
                writes += 1;
            }
        }
        assert_eq!(writes, BURST + 9);
    }
}
