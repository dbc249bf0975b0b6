//! What every store promises, on an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt as _};
use kube::api::{Api, DynamicObject, ListParams, ResourceExt as _, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use wharf::api::{Kind, Object, ObjectKey};
use wharf::model::ClusterName;
use wharf::store::kube::{KubeOptions, KubeStore};
use wharf::store::{ExpositionMemory as _, KnownExposition, Leadership as _, NamedKey, ObjectStore as _};

use crate::store_contract::{World, exposition, object, owner, promises};
use crate::support::Cluster;

const NAMESPACE: &str = "wharf-system";

struct Server(Cluster);

impl World for Server {
    type Store = KubeStore;

    async fn new() -> Server {
        let cluster = Cluster::new().await;
        cluster.make_namespace(NAMESPACE).await;
        Server(cluster)
    }
    /// As after a start of the agent in the same pod: it is the one that writes.
    async fn open(&self) -> KubeStore {
        let options = KubeOptions {
            pod_uid: None,
            namespace: NAMESPACE.to_owned(),
            holder: "wharf-0".to_owned(),
            namespaces: None,
            gateways: BTreeSet::from(["istio-system".to_owned()]),
            mesh: None,
            ingress: ("istio-system".to_owned(), "istio-ingressgateway".to_owned()),
        };
        let store = KubeStore::open(self.0.client(), options);
        store.watch_leading().wait_for(|leading| *leading).await.expect("a lease");
        store
    }
    async fn put(&self, object: &Value) {
        self.0.apply(object).await;
    }
    async fn delete(&self, object: &Value) {
        self.0.delete(object).await;
    }
    async fn tamper(&self, key: &ObjectKey) {
        self.0.merge(&named(key), &json!({"spec": {"exportTo": ["*"]}})).await;
    }
    async fn destroy(&self, key: &ObjectKey) {
        self.0.delete(&named(key)).await;
    }
    async fn get(&self, key: &ObjectKey) -> Option<Value> {
        let mut object = self.0.get(&named(key)).await?;
        // What the API server counts, whatever is in the object.
        let metadata = object["metadata"].as_object_mut().expect("an object");
        for field in ["resourceVersion", "generation", "managedFields", "creationTimestamp", "uid"] {
            metadata.remove(field);
        }
        Some(object)
    }
    async fn status(&self, key: &NamedKey) -> Option<Value> {
        let metadata = json!({"name": key.name, "namespace": key.namespace});
        let policy = json!({
            "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy", "metadata": metadata,
        });
        self.0.get(&policy).await?.get("status").cloned()
    }
}

impl Server {
    /// What happens from now on to the objects of a kind.
    async fn follow(&self, group: &str, kind: Kind) -> impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind.as_str()));
        let api = Api::namespaced_with(self.0.client(), "default", &resource);
        let now = api.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
        api.watch(&WatchParams::default(), &now).await.expect("a watch")
    }
}

fn named(key: &ObjectKey) -> Value {
    let group = key.kind.group();
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let metadata = json!({"name": key.name, "namespace": key.namespace});
    json!({"apiVersion": version, "kind": key.kind.as_str(), "metadata": metadata})
}

promises!(Server);

/// Connections to the pods outlive the way to them, by what gateways give them to drain.
#[tokio::test]
async fn a_permission_that_goes_lets_nobody_in_before_the_way_to_its_pods_goes() {
    let server = Server::new().await;
    let store = server.open().await;
    let metadata = json!({"name": "guard", "namespace": "default"});
    let rule = json!({
        "from": [{"source": {"notPrincipals": ["peer/ns/shop/sa/web"]}}],
        "when": [{"key": "connection.sni", "values": ["a.default.svc.cluster.local"]}],
    });
    let guard = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata,
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "action": "DENY", "rules": [rule]},
    });
    let guard = Object::from_json(Kind::AuthorizationPolicy, &guard).expect("a permission");
    let objects = vec![guard.clone(), object(Kind::Gateway, "way")];
    store.apply_objects(&owner("a"), objects).await.unwrap();
    let mut permissions = pin!(server.follow("security.istio.io", Kind::AuthorizationPolicy).await);
    let mut ways = pin!(server.follow("networking.istio.io", Kind::Gateway).await);

    assert_eq!(store.apply_objects(&owner("a"), Vec::new()).await.unwrap().removed, 2);

    let (shut, way, gone) = (permissions.try_next().await, ways.try_next().await, permissions.try_next().await);
    let (Ok(Some(WatchEvent::Modified(shut))), Ok(Some(WatchEvent::Deleted(way))), Ok(Some(WatchEvent::Deleted(gone)))) =
        (&shut, &way, &gone)
    else {
        panic!("{shut:?}, {way:?}, {gone:?}")
    };
    let rule = &shut.data["spec"]["rules"][0];
    assert_eq!(rule["from"], json!([{"source": {"notPrincipals": ["nobody.invalid/wharf"]}}]));
    assert_eq!(rule["when"][0]["values"], json!(["a.default.svc.cluster.local"]));
    let order = [shut, way, gone].map(|o| o.resource_version().expect("a version").parse::<u64>().expect("a number"));
    assert!(order.is_sorted(), "{order:?}");
}

/// A donor that changes without end, as its acceptor's store is told of it.
#[tokio::test]
async fn a_churn_of_a_peer_costs_the_api_server_a_bounded_number_of_writes_and_small_config_maps() {
    const UNUSED: u16 = 3_000;
    let world = Server::new().await;
    let store = world.open().await;
    let peer: ClusterName = "far".parse().expect("a name");
    let known = |name: &str, port, version: String| {
        let exposition = exposition(name, port);
        (exposition.key.clone(), KnownExposition { version, exposition })
    };
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let maps = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "", "namespace": NAMESPACE}});
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(25) {
        round += 1;
        let (key, used) = known("till", round, round.to_string());
        store.remember_exposition(&peer, &key, Some(&used), true).await.expect("a memory");
        for n in 0..UNUSED {
            let (key, unused) = known(&format!("s{n}"), 80, round.to_string());
            store.remember_exposition(&peer, &key, Some(&unused), false).await.expect("a memory");
        }
        for map in world.0.list(&maps).await {
            let text = |field: &str| map["metadata"][field].as_str().unwrap_or_default().to_owned();
            if text("name").starts_with("wharf-peer-far-") {
                versions.entry(text("name")).or_default().insert(text("resourceVersion"));
                let size = map["data"].to_string().len();
                assert!(size < 300 << 10, "{} has {size} bytes", text("name"));
            }
        }
    }
    assert!(versions.len() > 4, "{versions:?}");
    let most = versions.values().map(BTreeSet::len).max().expect("some");
    assert!(most <= 4, "{round} changes were written: {versions:?}");
    store.close_store().await;
    let remembered = world.open().await.recall_expositions().await.expect("a memory");
    let till = remembered.iter().find(|(_, known)| known.exposition.key.name.as_str() == "till");
    assert_eq!(till.map(|(_, known)| known.exposition.ports[0].number), Some(round), "the last is there after a stop");
    assert!(remembered.len() < 1_000, "{} are remembered", remembered.len());
}
