//! The definitions of Wharf's kinds, on a real API server.

mod refusals;
mod upgrade;
mod use_of;

use http::Method;
use serde_json::{Value, json};

use crate::support::Cluster;

fn policy(name: &str, exposed: &Value) -> Value {
    object("ServiceExpositionPolicy", name, &json!({"exposed": exposed}))
}

fn binding(name: &str, remote: &Value) -> Value {
    object("RemoteServiceBinding", name, &json!({"remote": remote}))
}

fn peering(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ClusterPeering", "metadata": {"name": name},
        "spec": spec,
    })
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "multicluster.istio.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

/// What would be there if this was created; or why it cannot be, as a client is told.
async fn create(cluster: &Cluster, object: &Value) -> Result<Value, String> {
    let kind = match object["kind"].as_str() {
        Some("ServiceExpositionPolicy") => "namespaces/default/serviceexpositionpolicies",
        Some("RemoteServiceBinding") => "namespaces/default/remoteservicebindings",
        _ => "clusterpeerings",
    };
    let path = format!("/apis/multicluster.istio.io/v1alpha1/{kind}?dryRun=All&fieldValidation=Strict");
    let request = http::Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    let request = request.body(object.to_string().into_bytes()).expect("a request");
    match cluster.client().request(request).await {
        Ok(made) => Ok(made),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(e) => panic!("{e}"),
    }
}

/// Creates it.
fn made(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["create", "-f", "-"], &object.to_string()).ok();
}
