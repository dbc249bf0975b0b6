//! What operators write, and what Wharf makes of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Cluster;

const API: &str = "multicluster.istio.io/v1alpha1";
const ISTIO: [(&str, &str); 7] = [
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1", "Gateway"),
    ("networking.istio.io/v1", "VirtualService"),
    ("v1", "Service"),
];

/// Everything that an agent asks an API server for in all of a cluster, generously: the rules of a ClusterRole.
pub fn rights() -> Value {
    let own = ["serviceexpositionpolicies", "remoteservicebindings", "clusterpeerings"];
    let statuses = own.map(|plural| format!("{plural}/status"));
    let all = ["get", "list", "watch", "create", "update", "patch", "delete"];
    json!([
        {"apiGroups": ["multicluster.istio.io"], "resources": own, "verbs": all},
        {"apiGroups": ["multicluster.istio.io"], "resources": statuses, "verbs": ["patch"]},
        {"apiGroups": ["networking.istio.io", "security.istio.io"], "resources": ["*"], "verbs": all},
        {"apiGroups": [""], "resources": ["services", "configmaps", "secrets", "namespaces", "nodes"], "verbs": all},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": all},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["localsubjectaccessreviews"], "verbs": ["create"]},
    ])
}

/// The same, but for one kind of Istio's, by its plural.
pub fn rights_without(plural: &str) -> Value {
    let istio =
        ["destinationrules", "envoyfilters", "gateways", "serviceentries", "virtualservices", "authorizationpolicies"];
    let rest: Vec<_> = istio.into_iter().filter(|other| *other != plural).collect();
    let mut rights = rights();
    for rule in rights.as_array_mut().into_iter().flatten().filter(|rule| rule["resources"] == json!(["*"])) {
        rule["resources"] = json!(rest);
    }
    rights
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// A Service with one HTTP port.
pub fn service(namespace: &str, name: &str) -> Value {
    object(
        "v1",
        "Service",
        namespace,
        name,
        json!({"selector": {"app": name}, "ports": [{"name": "http", "port": 9080}]}),
    )
}

/// A policy of the same name that exposes a Service to some clusters.
pub fn policy(namespace: &str, name: &str, clusters: &[&str]) -> Value {
    let exposed = json!([{"name": name, "clusters": clusters}]);
    object(API, "ServiceExpositionPolicy", namespace, name, json!({"exposed": exposed}))
}

/// A binding of the same name as the service that it binds.
pub fn binding(namespace: &str, name: &str, cluster: &str) -> Value {
    let remote = json!([{"cluster": cluster, "services": [{"name": name}]}]);
    object(API, "RemoteServiceBinding", namespace, name, json!({"remote": remote}))
}

pub fn kind_of(api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind})
}

/// An object that Wharf wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The UID and the version: it is the same object, and nobody has written it since.
    pub version: String,
    /// What it says: labels, annotations and spec.
    pub content: Value,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `<namespace>/<name>`.
fn full_name(object: &Value) -> String {
    let m = &object["metadata"];
    format!("{}/{}", text(&m["namespace"]), text(&m["name"]))
}

impl Cluster {
    /// All objects that Wharf wrote, by kind, namespace and name. A kind that is not installed has none.
    pub async fn written(&self) -> BTreeMap<String, Written> {
        let mut all = BTreeMap::new();
        for (api_version, kind) in ISTIO {
            for object in self.written_of(api_version, kind).await {
                let m = &object["metadata"];
                let mut spec = object["spec"].clone();
                if let Some(spec) = spec.as_object_mut() {
                    spec.retain(|key, _| !key.starts_with("clusterIP")); // it is chosen anew for a new Service
                }
                let content = json!({"labels": m["labels"], "annotations": m["annotations"], "spec": spec});
                let version = format!("{} {}", text(&m["uid"]), text(&m["resourceVersion"]));
                all.insert(format!("{kind} {}", full_name(&object)), Written { version, content });
            }
        }
        all
    }

    async fn written_of(&self, api_version: &str, kind: &str) -> Vec<Value> {
        let mut objects = self.try_list(&kind_of(api_version, kind)).await.unwrap_or_default();
        objects.retain(|object| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "wharf");
        objects
    }

    /// The names of the objects of a kind that Wharf wrote, `<namespace>/<name>`.
    pub async fn written_names(&self, kind: &str) -> Vec<String> {
        let (api_version, _) = ISTIO.into_iter().find(|(_, known)| *known == kind).expect("a kind that Wharf writes");
        let mut names: Vec<_> = self.written_of(api_version, kind).await.iter().map(full_name).collect();
        names.sort();
        names
    }

    /// The status and reason of a condition of an object.
    pub async fn condition(&self, of: &Value, type_: &str) -> Option<(String, String)> {
        let object = self.get(of).await?;
        let conditions = object["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|c| c["type"] == type_)?;
        Some((found["status"].as_str()?.to_owned(), found["reason"].as_str()?.to_owned()))
    }
}
