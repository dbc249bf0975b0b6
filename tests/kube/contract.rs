//! What every store promises, on an API server.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf::api::ObjectKey;
use wharf::store::kube::{KubeStore, Options};
use wharf::store::{NamedKey, Store as _};

use crate::store_contract::{World, promises};
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
        let options = Options {
            pod_uid: None,
            namespace: NAMESPACE.to_owned(),
            holder: "wharf-0".to_owned(),
            namespaces: None,
            gateways: BTreeSet::from(["istio-system".to_owned()]),
            ingress: ("istio-system".to_owned(), "istio-ingressgateway".to_owned()),
        };
        let store = KubeStore::open(self.0.client(), options);
        store.leading().wait_for(|leading| *leading).await.expect("a lease");
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

fn named(key: &ObjectKey) -> Value {
    let group = key.kind.group();
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let metadata = json!({"name": key.name, "namespace": key.namespace});
    json!({"apiVersion": version, "kind": key.kind.as_str(), "metadata": metadata})
}

promises!(Server);
