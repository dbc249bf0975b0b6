//! Reports of replicas that do not write about their acceptors, for the one that does: a ConfigMap of each.
//!
//! Acceptors subscribe at any replica. Their acknowledgements belong into the statuses, which one replica writes; the
//! others put them here, each into a ConfigMap of its own, which goes with its pod.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use super::KubeShared;
use super::content::MANAGER;
use super::error::{explain_error, status_code};
use super::lease::LeadHandle;
use crate::api::MANAGED_BY;
use crate::store::{Change, ReplicaReport};

/// The label that names the replica of a ConfigMap.
const REPLICA: &str = "multicluster.istio.io/replica";
/// Time for which changes are collected.
const DELAY: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// A ConfigMap has room for 1 MiB.
const ROOM: usize = 900 * 1024;

/// This replica's report.
#[derive(Default)]
pub struct ReplicaReportWriter {
    report: Mutex<Option<ReplicaReport>>,
    news: Notify,
}

impl ReplicaReportWriter {
    pub fn set_report(&self, report: ReplicaReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        self.news.notify_one();
    }

    fn current_report(&self) -> Option<ReplicaReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn name_of(holder: &str) -> String {
    format!("wharf-replica-{holder}")
}

/// Reports what other replicas hear, as it changes.
pub async fn watch_replicas(inner: Arc<KubeShared>, changes: mpsc::Sender<Change>) {
    let config = watcher::Config::default().labels(REPLICA).page_size(50).timeout(270);
    let mut events = std::pin::pin!(watcher(inner.config_maps(), config).default_backoff());
    let mut listed: Option<BTreeMap<String, ()>> = None;
    let mut told: BTreeMap<String, ()> = BTreeMap::new();
    while let Some(event) = events.next().await {
        let mut news = Vec::new();
        match event {
            Ok(Event::Init) => listed = Some(BTreeMap::new()),
            Ok(Event::InitDone) => {
                let listed = listed.take().unwrap_or_default();
                news.extend(told.keys().filter(|r| !listed.contains_key(*r)).map(|r| (r.clone(), None)));
            }
            Ok(Event::Apply(map) | Event::InitApply(map)) => {
                let replica = map.labels().get(REPLICA).cloned().unwrap_or_default();
                if let Some(listed) = &mut listed {
                    listed.insert(replica.clone(), ());
                }
                news.extend(read_report(&map).map(|report| (replica, Some(report))));
            }
            Ok(Event::Delete(map)) => news.extend(map.labels().get(REPLICA).map(|r| (r.clone(), None))),
            Err(error) => tracing::debug!(%error, "the reports of other replicas cannot be watched now"),
        }
        for (replica, report) in news.into_iter().filter(|(r, _)| *r != inner.options.holder) {
            match report {
                Some(_) => drop(told.insert(replica.clone(), ())),
                None => drop(told.remove(&replica)),
            }
            if changes.send(Change::Replica(replica, report.unwrap_or_default())).await.is_err() {
                return;
            }
        }
    }
}

fn read_report(map: &ConfigMap) -> Option<ReplicaReport> {
    if map.labels().get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return None; // somebody else's
    }
    let clusters = map.data.iter().flatten().filter_map(|(cluster, text)| {
        let heard = serde_json::from_str(text).map_err(|error| {
            tracing::warn!(config_map = %map.name_any(), %cluster, %error, "a replica's report cannot be read");
        });
        Some((cluster.parse().ok()?, heard.ok()?))
    });
    Some(ReplicaReport { clusters: clusters.collect() })
}

/// Writes what this replica hears, while another leads.
pub async fn write_reports(inner: Arc<KubeShared>, lead: LeadHandle) {
    let mut leading = lead.watch_leading();
    let mut written: Option<BTreeMap<String, String>> = None;
    loop {
        tokio::select! {
            () = inner.telling.news.notified() => {}
            Ok(()) = leading.changed() => {}
        }
        loop {
            tokio::time::sleep(DELAY).await;
            let leads = *leading.borrow_and_update();
            let wanted = inner.telling.current_report().filter(|_| !leads).map(|r| report_data(&r)).unwrap_or_default();
            // A ConfigMap that an earlier process of this name left behind is not known before the first write.
            if written.as_ref() == Some(&wanted) {
                break;
            }
            match put_report(&inner, &wanted).await {
                Ok(()) => {
                    written = Some(wanted);
                    break;
                }
                Err(why) => {
                    tracing::warn!(%why, "the report to the leading replica could not be written");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn report_data(report: &ReplicaReport) -> BTreeMap<String, String> {
    let mut room = ROOM;
    let all = report.clusters.iter().filter_map(|(cluster, heard)| {
        let text = serde_json::to_string(heard).ok()?;
        room = room.checked_sub(text.len())?;
        Some((cluster.to_string(), text))
    });
    all.collect()
}

async fn put_report(inner: &KubeShared, data: &BTreeMap<String, String>) -> Result<(), String> {
    let name = name_of(&inner.options.holder);
    let api = inner.config_maps();
    let write = async {
        if data.is_empty() {
            return match api.delete(&name, &DeleteParams::default()).await {
                Err(e) if status_code(&e) != Some(404) => Err(e),
                _ => Ok(()),
            };
        }
        let mut metadata = json!({"name": name, "labels": {MANAGED_BY: MANAGER, REPLICA: inner.options.holder}});
        if let Some(uid) = &inner.options.pod_uid {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": inner.options.holder, "uid": uid}]);
        }
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await.map(drop)
    };
    match tokio::time::timeout(PATIENCE, write).await {
        Err(_) => Err("the API server does not answer".into()),
        Ok(result) => result.map_err(|e| format!("ConfigMap {name}: {}", explain_error(&e))),
    }
}

/// Removes the report at the end: its reader would take it for current.
pub async fn remove_report(inner: &KubeShared) {
    let _ = put_report(inner, &BTreeMap::new()).await; // it goes with the pod in any case
}
