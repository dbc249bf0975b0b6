//! What peers said last: ConfigMaps in the agent's namespace, some for each peer.
//!
//! A peer that does not answer after a restart of this agent is remembered by them, and `kubectl wharf offers` reads them.
//! They are written some time after a change, by the replica that leads; to lose the last of it costs a transfer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc};

use super::Inner;
use super::content::MANAGER;
use super::error::{code, explain, store_error};
use super::lease::Lead;
use crate::api::{MANAGED_BY, PEER};
use crate::model::{ClusterName, ExpositionKey};
use crate::store::{Change, Known, StoreError};

/// A ConfigMap has room for 1 MiB, and an exposition takes some hundred bytes.
const SHARDS: u8 = 8;
/// How long changes are collected, and while objects are written: a burst rewrites everything again and again.
const DELAY: Duration = Duration::from_secs(2);
const DELAYS: usize = 5;
const RETRY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
const PLACE: &str = "API server, memory of peers";

type Shard = (ClusterName, u8);

#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    shards: HashMap<Shard, BTreeMap<String, Box<str>>>,
    stale: BTreeSet<Shard>,
}

fn shard_of(key: &ExpositionKey) -> u8 {
    Sha256::digest(key.to_string().as_bytes())[0] % SHARDS
}

fn name_of((peer, shard): &Shard) -> String {
    format!("wharf-peer-{peer}-{shard}")
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn remember(&self, peer: &ClusterName, key: &ExpositionKey, known: Option<&Known>) {
        let shard = (peer.clone(), shard_of(key));
        let entry = format!("{}.{}", key.namespace, key.name);
        let text = known.map(|k| serde_json::to_string(k).unwrap_or_default().into_boxed_str()); // plain data cannot fail
        let mut state = self.state();
        let entries = state.shards.entry(shard.clone()).or_default();
        let same = entries.get(&entry) == text.as_ref();
        match text {
            Some(text) => drop(entries.insert(entry, text)),
            None => drop(entries.remove(&entry)),
        }
        if !same {
            state.stale.insert(shard);
            drop(state);
            self.news.notify_one();
        }
    }

    /// Reads what is there.
    pub async fn recall(&self, inner: &Inner) -> Result<Vec<(ClusterName, Known)>, StoreError> {
        let params = ListParams::default().labels(PEER);
        let maps = inner.config_maps().list(&params).await.map_err(|e| store_error(PLACE, &e))?;
        let mut all = Vec::new();
        let mut state = self.state();
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
            for (entry, text) in map.data.unwrap_or_default() {
                match serde_json::from_str::<Known>(&text) {
                    Ok(known) => all.push((peer.clone(), known)),
                    // It is only a memory: the peer says it again.
                    Err(error) => {
                        tracing::warn!(config_map = %name, %entry, %error, "what a peer said last cannot be read")
                    }
                }
                state.shards.entry(shard.clone()).or_default().insert(entry, text.into_boxed_str());
            }
        }
        Ok(all)
    }

    /// Writes what is stale. Returns why not, if not.
    async fn flush(&self, inner: &Inner) -> Result<(), String> {
        let stale = std::mem::take(&mut self.state().stale);
        let mut problem = None;
        for shard in stale {
            let entries = self.state().shards.get(&shard).cloned().unwrap_or_default();
            if let Err(e) = put(&inner.config_maps(), &shard, &entries).await {
                problem = Some(format!("ConfigMap {}: {e}", name_of(&shard)));
                self.state().stale.insert(shard);
            }
        }
        problem.map_or(Ok(()), Err)
    }
}

async fn put(api: &Api<ConfigMap>, shard: &Shard, entries: &BTreeMap<String, Box<str>>) -> Result<(), String> {
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
                Err(e) if code(&e) != Some(404) => Err(e),
                _ => Ok(()),
            }
        } else {
            api.patch(&name, &params, &patch).await.map(drop)
        }
    };
    match tokio::time::timeout(PATIENCE, write).await {
        Err(_) => Err("the API server does not answer".to_owned()),
        Ok(result) => result.map_err(|e| explain(&e)),
    }
}

/// Writes the memory as it changes, as long as this process leads.
pub async fn write(inner: Arc<Inner>, lead: Lead, changes: mpsc::Sender<Change>) {
    let mut leading = lead.watch();
    let mut told = false;
    loop {
        tokio::select! {
            () = inner.memory.news.notified() => {}
            Ok(()) = leading.changed() => {}
        }
        loop {
            tokio::time::sleep(if told { RETRY } else { DELAY }).await;
            for _ in 1..DELAYS {
                if !inner.writes_objects() {
                    break;
                }
                tokio::time::sleep(DELAY).await;
            }
            if !lead.may_write() {
                break;
            }
            let result = inner.memory.flush(&inner).await;
            let over = result.is_ok();
            let change = match result {
                Ok(()) if told => Some(Change::Solved { place: PLACE.into() }),
                Err(message) if !told => Some(Change::problem(PLACE, message)),
                _ => None,
            };
            told = !over;
            if let Some(change) = change {
                let _ = changes.send(change).await; // the agent stops
            }
            if over {
                break;
            }
        }
    }
}

/// Writes at once what is still to be written.
pub async fn close(inner: &Inner) {
    if let Err(why) = inner.memory.flush(inner).await {
        tracing::warn!(%why, "what peers said last is not remembered");
    }
}
