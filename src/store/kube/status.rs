//! Statuses: written beside the objects, one request an object, and only if they differ from the stored ones.
//!
//! The caller that sets a status does not wait for it. Only the newest status of each object waits; one that cannot be
//! written is tried again, and never delays another's. A condition that changes becomes an Event, too. A status that
//! changes none, as the list of clusters that have bound something, waits for those that do, and so does one that only
//! a peer's answer changes: a peer decides how often. A burst of them is written at once when all else is done, and a
//! steady flow at a bounded rate.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::calm_pace::CalmPace;
use super::content::{self, MANAGER};
use super::error::{explain_error, status_code};
use super::events::{ConditionTransition, EventQueue};
use super::kinds::WatchedKind;
use super::{KubeShared, lease::LeadHandle};
use crate::api::{Condition, GROUP, VERSION};
use crate::store::manifest::Digest;
use crate::store::{Change, InputKey, ObjectStatus};

/// Statuses that are written at a time, and while objects are: those come first.
const PARALLEL: (usize, usize) = (4, 1);
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Time that the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PLACE: &str = "API server, statuses";
/// The reason of a policy that is ready but for a peer's answer.
const BY_PEER: &str = "RejectedByPeer";

/// A status that is to be written.
struct StatusJob {
    key: InputKey,
    value: Value,
    /// It changes a condition.
    urgent: bool,
    /// The stored status has to be emptied first.
    mend: bool,
}

/// The statuses to be written, and the known ones.
#[derive(Default)]
pub struct StatusWriter {
    state: Mutex<StatusWriterState>,
    news: Notify,
}

#[derive(Default)]
struct StatusWriterState {
    waiting: BTreeMap<InputKey, Value>,
    /// Those of the waiting that change a condition.
    urgent: BTreeSet<InputKey>,
    there: HashMap<InputKey, KnownStatus>,
    writing: usize,
}

/// The known status of an object.
#[derive(Default)]
struct KnownStatus {
    status: Option<Digest>,
    /// Type, status and reason of each condition, as this process found or wrote them.
    conditions: Box<[Digest]>,
    /// The same without what only a peer's answer changes.
    pressing: Option<Digest>,
    /// The generation of the object that the status is about.
    generation: Option<i64>,
    uid: Option<String>,
    /// It holds entries of version 0.1 that server-side apply does not take for today's.
    of_old: bool,
}

impl KnownStatus {
    /// Returns whether a new status changes anything that people and programs wait for.
    fn is_news(&self, value: &Value) -> bool {
        self.generation != observed_generation(value) || self.pressing != Some(pressing_digest(value))
    }
}

impl StatusWriter {
    fn lock_state(&self) -> MutexGuard<'_, StatusWriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an object that the watch shows.
    pub fn record_seen(&self, key: &InputKey, object: &DynamicObject) {
        let status = object.data.get("status");
        let digest = Some(content::json_digest(&lasting_parts(status.unwrap_or(&Value::Null))));
        let mut state = self.lock_state();
        let first = || {
            let status = status.unwrap_or(&Value::Null);
            KnownStatus {
                conditions: condition_digests(status),
                pressing: Some(pressing_digest(status)),
                generation: observed_generation(status),
                ..KnownStatus::default()
            }
        };
        let there = state.there.entry(key.clone()).or_insert_with(first);
        there.uid.clone_from(&object.metadata.uid);
        there.status = digest;
        there.of_old = status.is_some_and(is_of_old);
    }

    pub fn record_gone(&self, key: &InputKey) {
        let mut state = self.lock_state();
        state.there.remove(key);
        state.take_waiting(key);
    }

    /// Sets the status to be written.
    pub fn set_status(&self, status: ObjectStatus) {
        let (key, value) = match status {
            ObjectStatus::Policy(key, status) => (InputKey::Policy(key), json!(status)),
            ObjectStatus::Binding(key, status) => (InputKey::Binding(key), json!(status)),
            ObjectStatus::Peering(name, status) => (InputKey::Peering(name), json!(status)),
            ObjectStatus::Gone(key) => return self.record_gone(&key),
        };
        self.put_status(key, value);
    }

    /// Sets the status to be written, as JSON.
    pub fn put_status(&self, key: InputKey, value: Value) {
        let digest = content::json_digest(&lasting_parts(&value));
        let mut state = self.lock_state();
        // Peers of the configuration file have no object that could show a status.
        let Some(there) = state.there.get(&key) else { return };
        if there.status == Some(digest) {
            state.take_waiting(&key);
            return;
        }
        state.add_waiting(key, value);
        drop(state);
        self.news.notify_one();
    }

    /// Returns the next status to be written. One that changes no condition is returned only if it is the time for it.
    fn next_job(&self, time: bool) -> Option<StatusJob> {
        let mut state = self.lock_state();
        let urgent = state.urgent.first().cloned();
        let key = urgent.clone().or_else(|| state.waiting.keys().next().filter(|_| time).cloned())?;
        let value = state.take_waiting(&key)?;
        state.writing += 1;
        let mend = state.there.get(&key).is_some_and(|there| there.of_old);
        Some(StatusJob { key, value, urgent: urgent.is_some(), mend })
    }

    /// Returns whether nothing is to be written.
    pub fn is_idle(&self) -> bool {
        let state = self.lock_state();
        state.waiting.is_empty() && state.writing == 0
    }

    /// Returns whether a status waits that changes no condition.
    fn has_calm(&self) -> bool {
        let state = self.lock_state();
        state.waiting.len() > state.urgent.len()
    }

    /// Returns whether no status waits that changes a condition.
    pub fn is_calm(&self) -> bool {
        let state = self.lock_state();
        state.urgent.is_empty() && state.writing == 0
    }

    /// Records a written status. Returns the conditions that changed.
    fn record_written(&self, key: &InputKey, value: &Value) -> Vec<ConditionTransition> {
        let mut state = self.lock_state();
        state.writing -= 1;
        let Some(there) = state.there.get_mut(key) else { return Vec::new() };
        there.status = Some(content::json_digest(&lasting_parts(value)));
        there.generation = observed_generation(value);
        there.pressing = Some(pressing_digest(value));
        there.of_old = false;
        let before = std::mem::replace(&mut there.conditions, condition_digests(value));
        let now = value.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let now = now.filter_map(|c| serde_json::from_value::<Condition>(c.clone()).ok());
        let news = now.filter(|c| !before.contains(&condition_digest(&c.type_, &format!("{:?}", c.status), &c.reason)));
        let first = before.is_empty();
        news.filter_map(|c| ConditionTransition::for_condition(key, there.uid.clone(), c, first)).collect()
    }

    /// Records a status that could not be written: it waits again unless something newer does.
    fn record_failed(&self, key: InputKey, value: Value) {
        let mut state = self.lock_state();
        state.writing -= 1;
        if state.there.contains_key(&key) && !state.waiting.contains_key(&key) {
            state.add_waiting(key, value);
        }
    }

    fn record_dropped(&self) {
        self.lock_state().writing -= 1;
    }
}

impl StatusWriterState {
    fn add_waiting(&mut self, key: InputKey, value: Value) {
        if self.there.get(&key).is_some_and(|there| there.is_news(&value)) {
            self.urgent.insert(key.clone());
        } else {
            self.urgent.remove(&key);
        }
        self.waiting.insert(key, value);
    }

    fn take_waiting(&mut self, key: &InputKey) -> Option<Value> {
        self.urgent.remove(key);
        self.waiting.remove(key)
    }
}

/// Builds the status of an object that cannot be read.
pub fn invalid_status(generation: Option<i64>, message: &str) -> Value {
    // Fields that tools of kstatus read have to be there, too: without them they would take the object for done.
    let conditions = [("Ready", false), ("Accepted", false), ("Stalled", true)].map(|(type_, holds)| Condition {
        observed_generation: generation,
        last_transition_time: Some(crate::store::current_timestamp()),
        ..Condition::new(type_, holds, "Invalid", format!("{message}; what was good before stays in force"))
    });
    json!({"observedGeneration": generation, "conditions": conditions})
}

/// Returns a status without the fields that change all the time: they alone are no reason to write.
fn lasting_parts(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(map) = status.as_object_mut() {
        map.remove("lastSync");
        map.remove("revision");
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        // It follows from the rest.
        condition.as_object_mut().map(|c| c.remove("lastTransitionTime"));
    }
    for service in status.get_mut("services").and_then(Value::as_array_mut).into_iter().flatten() {
        service.as_object_mut().map(|s| s.remove("lastChanged"));
    }
    status
}

fn observed_generation(status: &Value) -> Option<i64> {
    status.get("observedGeneration").and_then(Value::as_i64)
}

fn condition_digests(status: &Value) -> Box<[Digest]> {
    let all = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    all.map(|c| condition_digest(&text(c, "type"), &text(c, "status"), &text(c, "reason"))).collect()
}

/// Returns a digest of the conditions that people and programs wait for, without those that only a peer's answer
/// changes.
fn pressing_digest(status: &Value) -> Digest {
    let all = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let said = all.map(|c| match text(c, "reason").as_str() {
        BY_PEER => format!("{} True", text(c, "type")),
        reason if text(c, "status") == "True" && reason == text(c, "type") => format!("{} True", text(c, "type")),
        reason => format!("{} {} {reason}", text(c, "type"), text(c, "status")),
    });
    Digest::of(said.collect::<Vec<_>>().join("\n").as_bytes())
}

/// Returns whether a status lists rejections as version 0.1 did: as texts.
fn is_of_old(status: &Value) -> bool {
    let entries = status.get("exposed").and_then(Value::as_array).into_iter().flatten();
    let rejections = entries.flat_map(|e| e.get("rejectedBy").and_then(Value::as_array).into_iter().flatten());
    rejections.into_iter().any(Value::is_string)
}

/// Returns the digest of a condition. There are thousands of conditions: their texts would be most of the memory for
/// statuses.
fn condition_digest(type_: &str, status: &str, reason: &str) -> Digest {
    Digest::of(format!("{type_} {status} {reason}").as_bytes())
}

/// Writes statuses as they come, as long as this process leads.
pub async fn write_statuses(
    inner: Arc<KubeShared>,
    lead: LeadHandle,
    events: EventQueue,
    changes: mpsc::Sender<Change>,
) {
    let mut jobs = FuturesUnordered::new();
    let mut failures = 0u32;
    let mut told = false;
    let mut leading = lead.watch_leading();
    let mut pace = CalmPace::new(Instant::now());
    loop {
        while jobs.len() < if inner.writes_objects() { PARALLEL.1 } else { PARALLEL.0 }
            && lead.may_write()
            && let now = Instant::now()
            && let Some(job) = inner.statuses.next_job(pace.is_due(now))
        {
            if job.urgent {
                pace.record_urgent(now);
            } else {
                pace.record_written(now);
            }
            jobs.push(write_one(&inner, job));
        }
        if inner.statuses.has_calm() {
            pace.record_waiting(Instant::now());
        }
        let waits = inner.statuses.is_calm() && !inner.statuses.is_idle() && lead.may_write();
        let done = tokio::select! {
            Some(done) = jobs.next(), if !jobs.is_empty() => done,
            () = inner.statuses.news.notified() => continue,
            () = sleep_until(pace.next_time()), if waits => continue,
            Ok(()) = leading.changed() => continue,
        };
        let (key, value, result) = done;
        match result {
            Ok(()) => {
                failures = 0;
                events.add(inner.statuses.record_written(&key, &value));
                if std::mem::take(&mut told) {
                    let _ = changes.send(Change::Solved { place: PLACE.into() }).await;
                }
            }
            Err(None) => inner.statuses.record_dropped(), // the object is gone
            Err(Some(message)) => {
                inner.statuses.record_failed(key, value);
                if !told {
                    told = true;
                    let _ = changes.send(Change::problem(PLACE, message)).await;
                }
                failures += 1;
                let pause = PAUSE.0.saturating_mul(1 << failures.min(8)).min(PAUSE.1);
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            }
        }
    }
}

async fn write_one(inner: &KubeShared, job: StatusJob) -> (InputKey, Value, Result<(), Option<String>>) {
    let StatusJob { key, value, mend, .. } = job;
    let (of, namespace, name) = match &key {
        InputKey::Policy(k) => (WatchedKind::Policy, Some(&k.namespace), &k.name),
        InputKey::Binding(k) => (WatchedKind::Binding, Some(&k.namespace), &k.name),
        InputKey::Peering(name) => (WatchedKind::Peering, None, name),
        InputKey::Object(_) => return (key, value, Err(None)),
    };
    let resource = of.resource();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(inner.client.clone(), namespace, &resource),
        None => Api::all_with(inner.client.clone(), &resource),
    };
    let body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": of.kind(), "metadata": {"name": name}, "status": value,
    });
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&body);
    let write = async {
        if mend {
            let room = json!({"status": {"exposed": null}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(&room)).await?;
        }
        api.patch_status(name, &params, &patch).await
    };
    let result = match tokio::time::timeout(PATIENCE, write).await {
        Err(_) => Err(Some("the API server does not answer".to_owned())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) if status_code(&e) == Some(404) => Err(None),
        Ok(Err(e)) => Err(Some(format!("{key}: {}", explain_error(&e)))),
    };
    (key, value, result)
}
