//! What every store promises, whatever it is made of. A store passes these by a [`World`] and the macro [`promises`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // of helpers, too

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf::api::{Condition, Kind, Object, ObjectKey, PROVENANCE, PolicyStatus};
use wharf::model::{ClusterName, Exposition, ExpositionKey};
use wharf::store::{
    ApplyResult, Change, ExpositionMemory as _, HeldNames, HeldPort, Input, InputKey, KnownExposition, Leadership as _,
    NamedKey, ObjectStatus, ObjectStore as _, Owner, StatusSink as _, Store,
};

/// A place with a store in it, and the people who use it besides Wharf.
pub trait World: Sized {
    type Store: Store;

    fn new() -> impl Future<Output = Self>;
    /// A store on what is there: as after a start of the agent.
    fn open(&self) -> impl Future<Output = Self::Store>;
    /// Somebody writes an object, or writes over it.
    fn put(&self, object: &Value) -> impl Future<Output = ()>;
    /// Somebody removes an object that they wrote.
    fn delete(&self, object: &Value) -> impl Future<Output = ()>;
    /// Somebody changes an object of Wharf's.
    fn tamper(&self, key: &ObjectKey) -> impl Future<Output = ()>;
    /// Somebody removes an object of Wharf's.
    fn destroy(&self, key: &ObjectKey) -> impl Future<Output = ()>;
    /// The object of this name, as anybody sees it.
    fn get(&self, key: &ObjectKey) -> impl Future<Output = Option<Value>>;
    /// The status of a policy.
    fn status(&self, key: &NamedKey) -> impl Future<Output = Option<Value>>;
}

/// Hears a store, and keeps it. Nothing here waits for a time to pass, only for the next change.
pub struct Ear {
    changes: mpsc::Receiver<Change>,
    /// What came last, to be shown when nothing comes.
    heard: VecDeque<String>,
    _store: Box<dyn Any>,
}

impl Ear {
    /// Listens, and gives what there was at the start.
    pub async fn new(store: &impl Store) -> (Ear, Vec<Change>) {
        let changes = store.watch_changes().await.expect("changes");
        let mut ear = Ear { changes, heard: VecDeque::new(), _store: Box::new(store.clone()) };
        let start = ear.until(|change| matches!(change, Change::Synced)).await;
        (ear, start)
    }

    /// Listens; what was there at the start is of no interest.
    pub async fn synced(store: &impl Store) -> Ear {
        Ear::new(store).await.0
    }

    pub async fn next(&mut self) -> Change {
        let next = self.try_next().await;
        next.unwrap_or_else(|| panic!("nothing came for twenty seconds, after {:?}", self.heard))
    }

    /// None: nothing came for very long.
    pub async fn try_next(&mut self) -> Option<Change> {
        let mut next;
        loop {
            next = tokio::time::timeout(Duration::from_secs(20), self.changes.recv()).await.ok()?;
            if !next.as_ref().is_some_and(is_of_the_cluster) {
                break;
            }
        }
        let next = next.expect("the store ended");
        self.heard.extend(short(std::slice::from_ref(&next)));
        self.heard.drain(..self.heard.len().saturating_sub(20));
        Some(next)
    }

    /// All changes up to the first of this kind, which is the last in the list.
    pub async fn until(&mut self, wanted: impl Fn(&Change) -> bool) -> Vec<Change> {
        let mut heard = Vec::new();
        loop {
            let change = self.next().await;
            let last = wanted(&change);
            heard.push(change);
            if last {
                return heard;
            }
        }
    }

    /// All changes up to news of the object of this name.
    pub async fn until_key(&mut self, key: &InputKey) -> Vec<Change> {
        self.until(|change| matches!(change, Change::Set(k, _) | Change::Gone(k) if k == key)).await
    }

    pub async fn until_drift(&mut self, owner: &Owner) -> Vec<Change> {
        self.until(|change| matches!(change, Change::Drift(o) if o == owner)).await
    }
}

/// Each API server makes a Service for itself, and makes it again. And it has namespaces, whose labels it tells, and definitions of
/// which it tells the fields that they lack.
fn is_of_the_cluster(change: &Change) -> bool {
    matches!(change, Change::Set(InputKey::Object(key), _) if key.name == "kubernetes")
        || matches!(change, Change::Ambient { .. } | Change::AbsentFields(_) | Change::Mesh(_))
}

/// Looks until there is something to be seen: a store need not write at once what nobody waits for.
async fn soon<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let seen = async {
        loop {
            match look().await {
                Some(seen) => return seen,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("nothing was seen for twenty seconds")
}

/// Applies again as often as it is told to, until that comes to what is expected. A store may tell more often than it
/// must: somebody who writes slowly disturbs an object more than once.
pub async fn reapply(
    ear: &mut Ear,
    store: &impl Store,
    owner: &Owner,
    objects: &[Object],
    expected: impl Fn(&ApplyResult) -> bool,
) {
    loop {
        ear.until_drift(owner).await;
        if expected(&store.apply_objects(owner, objects.to_vec()).await.unwrap()) {
            return;
        }
    }
}

/// The changes in short, to be compared: `set Service default/a`.
pub fn short(changes: &[Change]) -> Vec<String> {
    let text = |change: &Change| match change {
        Change::Set(key, input) => {
            assert_eq!(*key, input.key());
            format!("set {key}")
        }
        Change::Gone(key) => format!("gone {key}"),
        Change::Problem { place, .. } => format!("problem {place}"),
        Change::Solved { place } => format!("solved {place}"),
        Change::Drift(owner) => format!("drift {}", owner.0),
        Change::Synced => "synced".to_owned(),
        Change::Replica(name, _) => format!("replica {name}"),
        Change::Nodes(nodes) => format!("nodes {}", nodes.len()),
        Change::Ambient { namespaces, .. } => format!("ambient {}", namespaces.len()),
        Change::AbsentFields(fields) => format!("absent fields {}", fields.len()),
        Change::Mesh(settings) => format!("mesh {}", settings.is_some()),
    };
    changes.iter().map(text).collect()
}

pub fn policy(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"exposed": [{"name": name, "port": port}]},
    })
}

pub fn policy_key(name: &str) -> InputKey {
    InputKey::Policy(NamedKey { namespace: "default".into(), name: name.into() })
}

pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 9080}]},
    })
}

pub fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: "default".into(), name: name.into() }
}

pub fn owner(name: &str) -> Owner {
    Owner(name.into())
}

/// An object as translation makes it.
pub fn object(kind: Kind, name: &str) -> Object {
    let (api_version, spec) = match kind {
        Kind::AuthorizationPolicy => ("security.istio.io/v1", json!({"action": "ALLOW"})),
        Kind::EnvoyFilter => ("networking.istio.io/v1alpha3", json!({"configPatches": []})),
        Kind::DestinationRule => ("networking.istio.io/v1", json!({"host": name})),
        Kind::ServiceEntry => {
            ("networking.istio.io/v1", json!({"hosts": [format!("{name}.default.svc.cluster.local")]}))
        }
        Kind::Gateway => ("networking.istio.io/v1", json!({"selector": {"istio": "ingressgateway"}})),
        Kind::VirtualService => ("networking.istio.io/v1", json!({"hosts": [name]})),
        Kind::Service => ("v1", json!({"ports": [{"port": 9080}]})),
    };
    let value = json!({
        "apiVersion": api_version, "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    });
    Object::from_json(kind, &value).expect("a valid object")
}

pub async fn what_is_there_is_told_and_then_that_it_was_all<W: World>() {
    let world = W::new().await;
    world.put(&policy("reviews", 9080)).await;
    world.put(&service("reviews")).await;
    let store = world.open().await;
    let (_ear, start) = Ear::new(&store).await;
    let mut told = short(&start);
    assert_eq!(told.pop().as_deref(), Some("synced"));
    told.sort();
    assert_eq!(told, ["set Service default/reviews", "set ServiceExpositionPolicy default/reviews"]);
}

pub async fn a_new_object_a_change_and_a_removal_are_told<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let mut ear = Ear::synced(&store).await;
    for port in [9080, 9081] {
        world.put(&policy("reviews", port)).await;
        let told = ear.until_key(&policy_key("reviews")).await;
        let Some(Change::Set(_, Input::Policy(told))) = told.last() else { panic!("{told:?}") };
        assert_eq!(told.spec.exposed[0].port, Some(port));
    }
    world.delete(&policy("reviews", 9081)).await;
    let told = ear.until_key(&policy_key("reviews")).await;
    assert_eq!(short(&told), ["gone ServiceExpositionPolicy default/reviews"]);
}

pub async fn applied_objects_are_there_and_what_is_not_wanted_any_more_is_removed<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let both = vec![object(Kind::Gateway, "a"), object(Kind::ServiceEntry, "b")];
    let applied = store.apply_objects(&owner("x"), both.clone()).await.unwrap();
    assert_eq!((applied.written, applied.unchanged, applied.removed), (2, 0, 0));
    let seen = world.get(&key(Kind::Gateway, "a")).await.expect("written");
    assert_eq!(seen["spec"]["selector"]["istio"], "ingressgateway");
    assert_eq!(seen["metadata"]["labels"]["app.kubernetes.io/managed-by"], "wharf");

    let applied = store.apply_objects(&owner("x"), both).await.unwrap();
    assert_eq!((applied.written, applied.unchanged, applied.removed), (0, 2, 0));

    let applied = store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "b")]).await.unwrap();
    assert_eq!((applied.written, applied.unchanged, applied.removed), (0, 1, 1));
    assert_eq!(world.get(&key(Kind::Gateway, "a")).await, None);
    assert!(world.get(&key(Kind::ServiceEntry, "b")).await.is_some());
}

/// Istio tells a setting without values from none: `outlierDetection: {}` switches it on.
pub async fn a_setting_that_loses_its_values_stays_and_goes_when_it_is_not_wanted<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let rule = |traffic: Value| {
        let value = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"host": "a", "trafficPolicy": traffic},
        });
        Object::from_json(Kind::DestinationRule, &value).expect("a valid object")
    };
    let policies = [
        json!({"outlierDetection": {"consecutive5xxErrors": 7}, "connectionPool": {"http": {"maxRetries": 3}}}),
        json!({"outlierDetection": {}, "connectionPool": {"http": {}}}),
        json!({"connectionPool": {}}),
        json!({"outlierDetection": {"consecutive5xxErrors": 7}}),
        json!({}),
    ];
    for policy in policies {
        store.apply_objects(&owner("x"), vec![rule(policy.clone())]).await.unwrap();
        let seen = world.get(&key(Kind::DestinationRule, "a")).await.expect("written");
        assert_eq!(seen["spec"]["trafficPolicy"], policy);
    }
}

pub async fn an_object_of_somebody_else_is_in_the_way_and_stays_as_it_is<W: World>() {
    let world = W::new().await;
    world.put(&service("reviews")).await;
    let before = world.get(&key(Kind::Service, "reviews")).await;
    let store = world.open().await;
    let mut ear = Ear::synced(&store).await;
    let wanted = vec![object(Kind::Service, "reviews"), object(Kind::ServiceEntry, "reviews")];
    let applied = store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    assert_eq!((applied.written, applied.conflicts), (1, vec![key(Kind::Service, "reviews")]));
    assert_eq!(world.get(&key(Kind::Service, "reviews")).await, before);
    store.apply_objects(&owner("x"), vec![]).await.unwrap();
    assert!(world.get(&key(Kind::Service, "reviews")).await.is_some());

    store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    world.delete(&service("reviews")).await;
    // The way is free.
    reapply(&mut ear, &store, &owner("x"), &wanted, |a| a.written == 1 && a.conflicts.is_empty()).await;
}

pub async fn an_object_of_another_owner_is_in_the_way<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    let applied = store.apply_objects(&owner("y"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    assert_eq!((applied.written, applied.conflicts), (0, vec![key(Kind::ServiceEntry, "a")]));
    store.apply_objects(&owner("y"), vec![]).await.unwrap();
    assert!(world.get(&key(Kind::ServiceEntry, "a")).await.is_some());
}

pub async fn who_holds_which_name_is_known_after_a_restart<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let gateway = json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"selector": {"istio": "egressgateway"}, "servers": [
        {"hosts": ["./books.shop.svc.cluster.local"], "port": {"name": "tls", "number": 15443, "protocol": "TLS"}, "tls": {"mode": "PASSTHROUGH"}}]}});
    let gateway = Object::from_json(Kind::Gateway, &gateway).unwrap();
    store.apply_objects(&owner("x"), vec![gateway]).await.unwrap();
    let mut service = object(Kind::Service, "b");
    let provenance = BTreeMap::from([(PROVENANCE.to_owned(), "shop.books,shop.more.books".to_owned())]);
    service.metadata_mut().annotations = Some(provenance);
    store.apply_objects(&owner("y"), vec![service, object(Kind::ServiceEntry, "b")]).await.unwrap();
    let binding = |name: &str| NamedKey { namespace: "shop".into(), name: name.into() };
    let names = |of: &str, name: &str| BTreeMap::from([(owner(of), BTreeSet::from([name.parse().unwrap()]))]);
    let held = HeldNames {
        gateways: names("x", "books.shop.svc.cluster.local"),
        services: names("y", "b.default.svc.cluster.local"),
        bindings: BTreeMap::from([(owner("y"), BTreeSet::from([binding("books"), binding("more.books")]))]),
        ports: BTreeMap::from([(owner("y"), vec![HeldPort { number: 9080, name: String::new(), app_protocol: None }])]),
    };
    assert_eq!(store.held_names().await.unwrap(), held);
    drop(store);
    let store = world.open().await;
    assert_eq!(store.held_names().await.unwrap(), held);
    store.apply_objects(&owner("x"), vec![]).await.unwrap();
    assert!(store.held_names().await.unwrap().gateways.is_empty());
}

pub async fn who_owns_what_is_known_after_a_restart<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    store.apply_objects(&owner("y"), vec![object(Kind::ServiceEntry, "b")]).await.unwrap();
    drop(store);
    let store = world.open().await;
    let mut owners = store.list_owners().await.unwrap();
    owners.sort();
    assert_eq!(owners, [owner("x"), owner("y")]);
    let applied = store.apply_objects(&owner("x"), vec![object(Kind::ServiceEntry, "a")]).await.unwrap();
    assert_eq!((applied.written, applied.unchanged), (0, 1));
    let applied = store.apply_objects(&owner("y"), vec![]).await.unwrap();
    assert_eq!(applied.removed, 1);
    assert_eq!(world.get(&key(Kind::ServiceEntry, "b")).await, None);
    assert_eq!(store.list_owners().await.unwrap(), [owner("x")]);
}

pub async fn an_object_that_somebody_changed_or_removed_is_repaired<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let mut ear = Ear::synced(&store).await;
    let wanted = vec![object(Kind::ServiceEntry, "a")];
    store.apply_objects(&owner("x"), wanted.clone()).await.unwrap();
    let original = world.get(&key(Kind::ServiceEntry, "a")).await;
    for change in ["tamper", "destroy"] {
        match change {
            "tamper" => world.tamper(&key(Kind::ServiceEntry, "a")).await,
            _ => world.destroy(&key(Kind::ServiceEntry, "a")).await,
        }
        assert_ne!(world.get(&key(Kind::ServiceEntry, "a")).await, original);
        reapply(&mut ear, &store, &owner("x"), &wanted, |applied| applied.written == 1).await;
        assert_eq!(world.get(&key(Kind::ServiceEntry, "a")).await, original);
    }
}

pub async fn what_wharf_writes_itself_is_no_news<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let mut ear = Ear::synced(&store).await;
    let all: Vec<_> = Kind::ALL.into_iter().map(|kind| object(kind, "a")).collect();
    store.apply_objects(&owner("x"), all).await.unwrap();
    store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap();
    world.put(&policy("marker", 1)).await;
    assert_eq!(short(&ear.until_key(&policy_key("marker")).await), ["set ServiceExpositionPolicy default/marker"]);
}

pub async fn what_wharf_wrote_is_no_input_after_a_restart<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    store.apply_objects(&owner("x"), vec![object(Kind::Service, "a")]).await.unwrap();
    drop(store);
    let (_ear, start) = Ear::new(&world.open().await).await;
    assert_eq!(short(&start), ["synced"]);
}

pub async fn the_instance_is_kept_for_ever<W: World>() {
    let world = W::new().await;
    let instance = world.open().await.read_instance().await.unwrap();
    assert!(!instance.is_empty());
    assert_eq!(world.open().await.read_instance().await.unwrap(), instance);
    assert_ne!(W::new().await.open().await.read_instance().await.unwrap(), instance);
}

pub async fn a_status_is_written_and_goes_with_its_object<W: World>() {
    let world = W::new().await;
    world.put(&policy("reviews", 9080)).await;
    let store = world.open().await;
    let _ear = Ear::synced(&store).await;
    let InputKey::Policy(named) = policy_key("reviews") else { unreachable!() };
    let status = PolicyStatus {
        conditions: vec![Condition::new("Exposed", true, "Exposed", "to cluster2")],
        ..PolicyStatus::default()
    };
    store.set_status(ObjectStatus::Policy(named.clone(), status.clone())).await.unwrap();
    store.set_status(ObjectStatus::Policy(named.clone(), status)).await.unwrap();
    let seen = soon(|| world.status(&named)).await;
    assert_eq!(seen["conditions"][0]["message"], "to cluster2");
    world.delete(&policy("reviews", 9080)).await;
    store.set_status(ObjectStatus::Gone(policy_key("reviews"))).await.unwrap();
    soon(|| async { world.status(&named).await.is_none().then_some(()) }).await;
}

pub fn exposition(name: &str, port: u16) -> Exposition {
    serde_json::from_value(json!({
        "namespace": "default", "name": name, "host": format!("{name}.default.svc.cluster.local"),
        "ports": [{"number": port, "name": "http", "protocol": "HTTP", "host": format!("{name}.default.svc.cluster.local")}],
        "tls": "Cluster", "gateways": [{"address": "192.0.2.1", "port": 15443}],
    }))
    .expect("a valid exposition")
}

pub async fn what_peers_said_last_outlives_a_restart<W: World>() {
    let world = W::new().await;
    let store = world.open().await;
    let [near, far]: [ClusterName; 2] = ["near".parse().unwrap(), "far".parse().unwrap()];
    let known = |name, port| {
        let exposition = exposition(name, port);
        (exposition.key.clone(), KnownExposition { version: exposition.version(), exposition })
    };
    let remember = async |peer: &ClusterName, key: &ExpositionKey, known: Option<&KnownExposition>| {
        store.remember_exposition(peer, key, known, true).await.unwrap();
    };
    let (a, b) = (known("a", 1), known("b", 2));
    remember(&near, &a.0, Some(&a.1)).await;
    remember(&near, &b.0, Some(&b.1)).await;
    remember(&far, &b.0, Some(&b.1)).await;
    remember(&near, &b.0, None).await;
    remember(&far, &a.0, None).await; // never known
    let a = known("a", 3);
    remember(&near, &a.0, Some(&a.1)).await;
    store.close_store().await;
    let mut remembered = world.open().await.recall_expositions().await.unwrap();
    remembered.sort_by(|x, y| x.0.cmp(&y.0));
    assert_eq!(remembered, [(far, b.1), (near, a.1)]);
}

/// Makes a test of each promise.
macro_rules! promises {
    ($world:ty: $($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::store_contract::$name::<$world>().await;
        })*
    };
    ($world:ty) => {
        $crate::store_contract::promises! { $world:
            what_is_there_is_told_and_then_that_it_was_all
            a_new_object_a_change_and_a_removal_are_told
            applied_objects_are_there_and_what_is_not_wanted_any_more_is_removed
            a_setting_that_loses_its_values_stays_and_goes_when_it_is_not_wanted
            an_object_of_somebody_else_is_in_the_way_and_stays_as_it_is
            an_object_of_another_owner_is_in_the_way
            who_owns_what_is_known_after_a_restart
            who_holds_which_name_is_known_after_a_restart
            an_object_that_somebody_changed_or_removed_is_repaired
            what_wharf_writes_itself_is_no_news
            what_wharf_wrote_is_no_input_after_a_restart
            the_instance_is_kept_for_ever
            a_status_is_written_and_goes_with_its_object
            what_peers_said_last_outlives_a_restart
        }
    };
}
pub(crate) use promises;
