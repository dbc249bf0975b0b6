//! One watch: all objects of one kind, in one namespace or in all. Its events go into the ledger, and changes to the
//! agent.
//!
//! Memory is bounded by the names and digests of the objects: an object is read, reported, and dropped.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::content::{self, MANAGER};
use super::error::{explain_watch, is_expired};
use super::kinds::WatchedKind;
use super::lean::SlimObject;
use super::ledger::ObservedObject;
use super::{KubeShared, status};
use crate::api::{EXPORT_TO, Kind, MANAGED_BY, OWNER, ObjectKey, PROVENANCE, SERVICE_ACCOUNTS};
use crate::model::Host;
use crate::store::manifest::{self, Digest};
use crate::store::{Change, HeldPort, HiddenInputs, Input, InputKey, InputKind, NamedKey, Owner};

/// Objects that are listed at a time: the memory that a start needs beside what it keeps.
const PAGE: u32 = 50;
/// Seconds after which the API server ends a watch, so that it begins again.
pub(super) const RENEW: u32 = 270;
/// The pauses after failures: the first, and the longest.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The annotation in which `kubectl apply` keeps the object's text once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Time that a watch that was begun again may be quiet until a list request checks it.
pub(super) const QUIET: Duration = Duration::from_secs(2);

pub struct KindWatch {
    pub inner: Arc<KubeShared>,
    pub of: WatchedKind,
    /// None: all namespaces.
    pub namespace: Option<String>,
    pub changes: mpsc::Sender<Change>,
    /// Notified once everything that was there at the start is reported, or if there can be nothing.
    pub first: Option<oneshot::Sender<()>>,
    /// The objects that were reported to the agent, and not withdrawn.
    told: HashMap<InputKey, Digest>,
    /// The objects that could not be read, by place.
    unreadable: BTreeSet<String>,
    /// Names of the list that is under way.
    listed: Option<HashSet<NamePair>>,
    trouble: Option<String>,
}

type NamePair = (String, String);

impl KindWatch {
    pub fn new(
        inner: Arc<KubeShared>,
        of: WatchedKind,
        namespace: Option<String>,
        changes: mpsc::Sender<Change>,
        first: oneshot::Sender<()>,
    ) -> KindWatch {
        KindWatch {
            inner,
            of,
            namespace,
            changes,
            first: Some(first),
            told: HashMap::new(),
            unreadable: BTreeSet::new(),
            listed: None,
            trouble: None,
        }
    }

    /// Runs until the agent stops.
    pub async fn run(mut self) {
        let api = self.watched_api();
        let config = watcher::Config::default().page_size(PAGE).timeout(RENEW);
        let mut events = std::pin::pin!(watcher(api.clone(), config));
        let mut failures = 0;
        loop {
            let event = match &self.trouble {
                None => events.next().await,
                Some(_) => match tokio::time::timeout(QUIET, events.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        self.ask_whether_well(&api).await;
                        continue;
                    }
                },
            };
            let alive = match event {
                Some(Ok(event)) => {
                    failures = 0;
                    self.report_solved().await && self.handle_event(event).await
                }
                Some(Err(e)) => {
                    failures += 1;
                    let alive = self.handle_failure(&e).await;
                    tokio::time::sleep(retry_pause(failures)).await;
                    alive
                }
                None => false,
            };
            if !alive {
                return;
            }
        }
    }

    fn watched_api(&self) -> Api<SlimObject> {
        let (client, resource) = (self.inner.client.clone(), self.of.resource());
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    fn place(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("API server, {} in {namespace}", self.of.plural()),
            None => format!("API server, {}", self.of.plural()),
        }
    }

    /// Checks a watch that goes on again without events, which proves nothing: a list request shows whether it works.
    async fn ask_whether_well(&mut self, api: &Api<SlimObject>) {
        let params = ListParams::default().limit(1);
        if let Ok(Ok(_)) = tokio::time::timeout(PAUSE.1, api.list_metadata(&params)).await {
            self.report_solved().await;
        }
    }

    async fn report_solved(&mut self) -> bool {
        match self.trouble.take() {
            Some(_) => self.send_change(Change::Solved { place: self.place() }).await,
            None => true,
        }
    }

    async fn handle_failure(&mut self, error: &watcher::Error) -> bool {
        if is_expired(error) {
            return true;
        }
        let (message, code) = explain_watch(error);
        if matches!(error, watcher::Error::WatchFailed(_)) && self.trouble.is_none() {
            return true; // a connection ended, and is made anew: if that fails, it is told
        }
        self.listed = None;
        // A kind that is not installed has no objects. For Wharf's own kinds that is no state to act upon.
        if code == Some(404) && !self.of.is_own() {
            self.notify_first();
        }
        if self.trouble.as_ref() == Some(&message) {
            return true;
        }
        self.trouble = Some(message.clone());
        let hidden = match code {
            None => HiddenInputs::default(), // the API server is away: what it told last counts until it is back
            Some(404) if !self.of.is_own() => HiddenInputs::default(),
            Some(_) => self.hidden_inputs(),
        };
        self.send_change(Change::Problem { place: self.place(), message, hidden }).await
    }

    /// Returns the inputs that may be there while the API server refuses to list them.
    fn hidden_inputs(&self) -> HiddenInputs {
        let (kind, objects) = match self.of {
            WatchedKind::Policy => (InputKind::Policy, BTreeSet::new()),
            WatchedKind::Binding => (InputKind::Binding, BTreeSet::new()),
            WatchedKind::Peering => (InputKind::Peering, BTreeSet::new()),
            WatchedKind::Object(kind) => (InputKind::Object, BTreeSet::from([(kind, self.namespace.clone())])),
        };
        HiddenInputs { keys: BTreeSet::new(), kinds: BTreeSet::from([kind]), objects }
    }

    fn notify_first(&mut self) {
        if let Some(first) = self.first.take() {
            let _ = first.send(()); // nobody waits any more: the agent stops
        }
    }

    async fn send_change(&self, change: Change) -> bool {
        self.changes.send(change).await.is_ok()
    }

    async fn send_drift(&self, owners: BTreeSet<Owner>) -> bool {
        self.inner.ledger_changed();
        for owner in owners {
            if !self.send_change(Change::Drift(owner)).await {
                return false;
            }
        }
        true
    }

    async fn handle_event(&mut self, event: Event<SlimObject>) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                true
            }
            Event::InitApply(SlimObject(object)) => {
                let name = name_of(&object);
                if let Some(listed) = &mut self.listed {
                    listed.insert(name);
                }
                self.handle_object(object).await
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let alive = self.forget_all_but(&listed).await;
                self.notify_first();
                alive
            }
            Event::Apply(SlimObject(object)) => self.handle_object(object).await,
            Event::Delete(SlimObject(object)) => self.handle_gone(name_of(&object), resource_version(&object)).await,
        }
    }

    /// Removes objects that a new list does not show.
    async fn forget_all_but(&mut self, listed: &HashSet<NamePair>) -> bool {
        let mut gone: HashSet<NamePair> = self.told.keys().map(name_of_key).filter(|n| !listed.contains(n)).collect();
        if let WatchedKind::Object(kind) = self.of {
            let within = |namespace: &str| self.namespace.as_deref().is_none_or(|own| own == namespace);
            let known = self.inner.lock_ledger().of_kind(kind, within);
            gone.extend(known.into_iter().map(|k| (k.namespace, k.name)).filter(|n| !listed.contains(n)));
        }
        for name in gone {
            if !self.handle_gone(name, u64::MAX).await {
                return false;
            }
        }
        true
    }

    async fn handle_object(&mut self, object: DynamicObject) -> bool {
        let name = name_of(&object);
        match self.of {
            WatchedKind::Object(kind) => {
                let key = ObjectKey { kind, namespace: name.0, name: name.1 };
                let seen = observe_object(kind, &object);
                let theirs = seen.owner.is_none();
                let touched = self.inner.lock_ledger().record_seen(&key, seen);
                if kind == Kind::Service && object.data["spec"]["type"] == "NodePort" && self.inner.is_ingress(&key) {
                    self.inner.nodes_wanted.notify_one();
                }
                // While the first list is read, no owner has wanted anything yet.
                let told = self.first.is_some() || self.send_drift(touched).await;
                let matters = kind.is_read_by_translation();
                let key = InputKey::Object(key);
                told && match (matters, theirs) {
                    (false, _) => true,
                    (true, true) => self.set_input(key, object).await,
                    (true, false) => self.withdraw_input(&key).await,
                }
            }
            WatchedKind::Policy | WatchedKind::Binding => {
                let key = NamedKey { namespace: name.0, name: name.1 };
                let own = if self.of == WatchedKind::Policy { InputKey::Policy(key) } else { InputKey::Binding(key) };
                self.set_input(own, object).await
            }
            WatchedKind::Peering => self.set_input(InputKey::Peering(name.1), object).await,
        }
    }

    async fn handle_gone(&mut self, (namespace, name): NamePair, version: u64) -> bool {
        let key = match self.of {
            WatchedKind::Policy => InputKey::Policy(NamedKey { namespace, name }),
            WatchedKind::Binding => InputKey::Binding(NamedKey { namespace, name }),
            WatchedKind::Peering => InputKey::Peering(name),
            WatchedKind::Object(kind) => {
                let key = ObjectKey { kind, namespace, name };
                let touched = self.inner.lock_ledger().record_gone(&key, version);
                if !self.send_drift(touched).await {
                    return false;
                }
                InputKey::Object(key)
            }
        };
        self.inner.statuses.record_gone(&key);
        let place = key.to_string();
        if self.unreadable.remove(&place) && !self.send_change(Change::Solved { place }).await {
            return false;
        }
        self.withdraw_input(&key).await
    }

    async fn withdraw_input(&mut self, key: &InputKey) -> bool {
        match self.told.remove(key) {
            Some(_) => self.send_change(Change::Gone(key.clone())).await,
            None => true,
        }
    }

    /// Reports an object, if anything in it is new.
    async fn set_input(&mut self, key: InputKey, object: DynamicObject) -> bool {
        if self.of.is_own() {
            self.inner.statuses.record_seen(&key, &object);
        }
        let place = key.to_string();
        let generation = object.metadata.generation;
        let mut value = slim_object(self.of, object);
        let follows = self.of == WatchedKind::Binding && !self.inner.lead.may_write();
        let digest = content::json_digest(&reported_parts(self.of, &value, follows));
        if self.told.get(&key) == Some(&digest) {
            return true;
        }
        let status = if self.of.is_own() { value["status"].take() } else { Value::Null };
        match manifest::read_value(&place, value) {
            Some(Ok(mut document)) => {
                restore_status(&mut document.input, status);
                self.told.insert(key.clone(), digest);
                if self.unreadable.remove(&place) && !self.send_change(Change::Solved { place }).await {
                    return false;
                }
                self.send_change(Change::Set(key, document.input)).await
            }
            Some(Err(e)) => {
                let message = e.reason.to_string();
                if self.of.is_own() {
                    self.inner.statuses.put_status(key.clone(), status::invalid_status(generation, &message));
                }
                self.unreadable.insert(place.clone());
                self.send_change(Change::Problem { place, message, hidden: HiddenInputs::of_key(key) }).await
            }
            None => true,
        }
    }
}

/// Restores the status of an object: the next one continues its times and acknowledgements. A status that cannot be
/// read is none.
fn restore_status(input: &mut Input, status: Value) {
    match input {
        Input::Policy(policy) => Arc::make_mut(policy).status = serde_json::from_value(status).unwrap_or_default(),
        Input::Binding(binding) => Arc::make_mut(binding).status = serde_json::from_value(status).unwrap_or_default(),
        Input::Peering(_) | Input::Object(_) => {}
    }
}

fn name_of(object: &DynamicObject) -> NamePair {
    let m = &object.metadata;
    (m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
}

fn name_of_key(key: &InputKey) -> NamePair {
    match key {
        InputKey::Policy(k) | InputKey::Binding(k) => (k.namespace.clone(), k.name.clone()),
        InputKey::Peering(name) => (String::new(), name.clone()),
        InputKey::Object(k) => (k.namespace.clone(), k.name.clone()),
    }
}

/// Returns the resource version of an object; 0 if it has none that can be read, so that every other is newer.
fn resource_version(object: &DynamicObject) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Describes an object for the ledger. An object is Wharf's if it carries Wharf's label and was applied by Wharf:
/// labels alone are copied along with an object. Removing that label takes the object over; the label that names the
/// owner is repaired.
pub fn observe_object(kind: Kind, object: &DynamicObject) -> ObservedObject {
    let m = &object.metadata;
    let label = |name: &str| m.labels.as_ref().and_then(|l| l.get(name)).map(String::as_str);
    let annotation = |name: &str| m.annotations.as_ref().and_then(|a| a.get(name)).map_or("", String::as_str);
    let applied = m.managed_fields.iter().flatten().any(|f| f.manager.as_deref() == Some(MANAGER));
    let ours = applied && label(MANAGED_BY) == Some(MANAGER);
    ObservedObject {
        owner: ours.then(|| Owner(label(OWNER).unwrap_or_default().into())),
        uid: m.uid.clone().unwrap_or_default().into(),
        version: resource_version(object),
        content: content::object_digest(kind, m, object.data.get("spec")),
        hosts: if ours && kind == Kind::Gateway { gateway_hosts(&object.data) } else { Box::default() },
        provenance: if ours && kind == Kind::Service { annotation(PROVENANCE).into() } else { Box::default() },
        ports: if ours && kind == Kind::Service { HeldPort::of_service(&object.data).into() } else { Box::default() },
    }
}

/// Returns the hosts of a Gateway's servers, without the namespace of their routes.
fn gateway_hosts(gateway: &Value) -> Box<[Host]> {
    let servers = gateway["spec"]["servers"].as_array().into_iter().flatten();
    let hosts = servers.flat_map(|s| s["hosts"].as_array().into_iter().flatten()).filter_map(Value::as_str);
    hosts.filter_map(|h| h.split_once('/').map_or(h, |(_, host)| host).parse().ok()).collect()
}

/// Returns the object as JSON, without the parts that the agent does not use and would have to keep.
fn slim_object(of: WatchedKind, mut object: DynamicObject) -> Value {
    let m = &mut object.metadata;
    m.managed_fields = if of.is_own() { last_writer(m) } else { None };
    m.owner_references = None;
    m.finalizers = None;
    m.self_link = None;
    slim_annotations(of, m);
    let mut value = json!({"apiVersion": of.resource().api_version, "kind": of.kind(), "metadata": m});
    if let (Some(all), Value::Object(data)) = (value.as_object_mut(), object.data) {
        all.extend(data);
        if of == WatchedKind::Object(Kind::Service) {
            slim_service(all);
        } else if !of.is_own() {
            all.remove("status");
        }
        if of == WatchedKind::Object(Kind::ServiceEntry)
            && let Some(spec) = all.get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.retain(|key, _| matches!(key.as_str(), "hosts" | "exportTo"));
        }
    }
    value
}

/// Returns the last writer of an object, besides its status: no more than the name.
fn last_writer(m: &ObjectMeta) -> Option<Vec<ManagedFieldsEntry>> {
    let writers = m.managed_fields.iter().flatten().filter(|entry| entry.subresource.is_none());
    let last = writers.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    Some(vec![ManagedFieldsEntry { manager: last.manager.clone(), ..ManagedFieldsEntry::default() }])
}

/// Removes annotations: of foreign objects, translation reads two annotations of Services.
fn slim_annotations(of: WatchedKind, m: &mut ObjectMeta) {
    let Some(annotations) = &mut m.annotations else { return };
    match of {
        WatchedKind::Object(Kind::Service) => {
            annotations.retain(|name, _| name == EXPORT_TO || name == SERVICE_ACCOUNTS)
        }
        WatchedKind::Object(_) => annotations.clear(),
        _ => annotations.retain(|name, _| name != LAST_APPLIED),
    }
    if annotations.is_empty() {
        m.annotations = None;
    }
}

fn slim_service(service: &mut serde_json::Map<String, Value>) {
    let balancer = service.get_mut("status").and_then(|s| s.get_mut("loadBalancer")).map(Value::take);
    match balancer.filter(|b| b.get("ingress").is_some()) {
        Some(balancer) => service.insert("status".into(), json!({"loadBalancer": balancer})),
        None => service.remove("status"),
    };
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|key, _| matches!(key.as_str(), "ports" | "type" | "externalName" | "clusterIP" | "selector"));
    }
}

/// Returns the parts of an object whose change is reported: Wharf's own statuses come back as changes, too. `follows`:
/// another replica writes them, and this one has to know the ports of local names that they remember.
fn reported_parts(of: WatchedKind, value: &Value, follows: bool) -> Value {
    let m = &value["metadata"];
    let status = match of {
        WatchedKind::Object(Kind::Service) => &value["status"],
        _ if follows => &value["status"]["services"],
        _ => &Value::Null,
    };
    json!({
        "uid": m["uid"], "generation": m["generation"], "labels": m["labels"], "annotations": m["annotations"],
        "spec": value["spec"], "status": status,
    })
}

pub(super) fn retry_pause(failures: u32) -> Duration {
    let ceiling = PAUSE.0.saturating_mul(1 << failures.min(8)).min(PAUSE.1);
    ceiling.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotations_of_a_service_that_translation_reads_are_kept_and_no_others() {
        let metadata = json!({"name": "till", "namespace": "shop",
            "annotations": {EXPORT_TO: "shop", SERVICE_ACCOUNTS: "till", "example.com/large": "text"}});
        let kept = |kind: Kind| {
            let SlimObject(object) = serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap();
            slim_object(WatchedKind::Object(kind), object)["metadata"]["annotations"].clone()
        };
        assert_eq!(kept(Kind::Service), json!({EXPORT_TO: "shop", SERVICE_ACCOUNTS: "till"}));
        assert_eq!(kept(Kind::VirtualService), Value::Null);
    }
}
