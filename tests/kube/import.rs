//! `kubectl wharf import` on real API servers: what it prints is taken by both, and the donor's objects are looked at.

use serde_json::{Value, json};

use crate::support::tools::{self, Said, WHARF};
use crate::support::{Cluster, objects};

/// Runs the program with a kubeconfig that has both clusters as contexts.
fn import(clusters: &[(&str, &Cluster)], args: &[&str]) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let mut merged = json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []});
    for (name, cluster) in clusters {
        let text = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
        let one: Value = serde_saphyr::from_str(&text).expect("YAML");
        let mut push = |list: &str, field: &str| {
            let value = one[list][0][field].clone();
            merged[list].as_array_mut().expect("a list").push(json!({"name": name, field: value}));
        };
        push("clusters", "cluster");
        push("users", "user");
        merged["contexts"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": name, "context": {"cluster": name, "user": name}}));
    }
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, merged.to_string()).expect("a file");
    let home = folder.path().as_os_str();
    let args = [&["import"][..], args].concat();
    tools::run(std::path::Path::new(WHARF), &args, &[("HOME", home), ("KUBECONFIG", path.as_os_str())], "")
}

fn entry(address: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"hosts": ["reviews.default.global"], "resolution": "STATIC", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                 "endpoints": [{"address": address, "ports": {"http": 15443}}]},
    })
}

fn rule() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"host": "reviews.default.global",
                 "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": "outbound_.9080_._.reviews.default.svc.cluster.local"}}},
    })
}

#[tokio::test]
async fn what_import_prints_of_a_cluster_is_taken_by_both_api_servers() {
    let [donor, acceptor] = Cluster::several().await;
    donor.apply(&objects::service("default", "reviews")).await;
    acceptor.apply(&entry("198.51.100.7")).await;
    acceptor.apply(&rule()).await;
    let peering = json!({
        "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ClusterPeering", "metadata": {"name": "donor"},
        "spec": {"endpoint": "donor.example:7443", "gateway": ["198.51.100.7:15443"]},
    });
    acceptor.apply(&peering).await;
    let both = [("donor", &donor), ("acceptor", &acceptor)];
    let args = ["--acceptor", "acceptor", "--context", "acceptor", "--donor-context", "donor", "--peer", "donor"];
    for (name, cluster, kind) in
        [("donor", &donor, "serviceexpositionpolicy"), ("acceptor", &acceptor, "remoteservicebinding")]
    {
        let printed = import(&both, &[&args[..], &["--for", name]].concat()).ok();
        let applied =
            cluster.kubectl_with(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], &printed).ok();
        assert!(applied.starts_with(kind), "{applied}");
    }
    // Of a port that the donor's Service does not have.
    let mut wrong = rule();
    wrong["spec"]["trafficPolicy"]["tls"]["sni"] = "outbound_.9999_._.reviews.default.svc.cluster.local".into();
    acceptor.apply(&wrong).await;
    let told = import(&both, &args);
    assert!(!told.success, "{}", told.stdout);
    assert!(
        told.stderr.contains(
            "error: ServiceExpositionPolicy default/reviews-for-acceptor for donor: spec.exposed[0].ports[0]"
        ),
        "{}",
        told.stderr
    );
}
