//! On an API server: it takes what is rendered, and admits the pods under its strictest rules.

use serde_json::{Value, json};

use super::render::kustomize;
use super::{ALL, CONFINED, FULL, MINIMAL, NAMESPACE, OWN, OWN_API, helm, one, path, rendered, text};
use crate::support::tools::built;
use crate::support::{Cluster, wait};

/// What a cluster has before the agent comes: namespaces, and the definitions of what the chart may make for others.
async fn prepare(cluster: &Cluster) {
    for namespace in ["istio-system", "mesh", "gateways", "egress", "team-a", "team-b", "wharf-gateways", "doors"] {
        cluster.make_namespace(namespace).await;
    }
    let restricted = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    cluster.apply(&restricted).await;
    for file in [
        "cert-manager.io_certificates.yaml",
        "monitoring.coreos.com_servicemonitors.yaml",
        "gateway.networking.k8s.io_gateways.yaml",
    ] {
        let file = built(file).display().to_string();
        cluster.kubectl(&["apply", "--server-side", "-f", &file]).ok();
    }
    // kubectl fails on a definition that has no conditions yet.
    wait::until("the definitions are in force", || async {
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).success.then_some(())
    })
    .await;
}

/// As a list, for `kubectl apply -f -`.
fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

const APPLY: &[&str] = &["apply", "--server-side", "--validate=strict", "-f", "-"];

#[tokio::test]
async fn an_api_server_takes_what_the_chart_renders() {
    let cluster = Cluster::new().await;
    prepare(&cluster).await;
    for values in [OWN, OWN_API].into_iter().chain(ALL) {
        let objects = list(&rendered(values, &["--include-crds"]));
        cluster.kubectl_with(&[APPLY, &["--dry-run=server"]].concat(), &objects).ok();
        let said = cluster.kubectl_with(APPLY, &objects);
        assert!(!said.stderr.contains("Warning"), "{values}: {}", said.stderr);
        said.ok();
    }
    let again = cluster.kubectl_with(&["diff", "--server-side", "-f", "-"], &list(&rendered(CONFINED, &[])));
    assert!(again.success, "what is there is what was rendered: {}", again.stdout);
}

#[tokio::test]
async fn an_api_server_takes_the_kustomization_in_one_go() {
    let cluster = Cluster::new().await;
    cluster.make_namespace("istio-system").await;
    let folder = path("kustomize/overlays/example").display().to_string();
    let said = cluster.kubectl(&["apply", "--server-side", "--validate=strict", "-k", &folder]);
    assert!(!said.stderr.contains("Warning"), "{}", said.stderr);
    said.ok();
    let deployment = one(&kustomize(&path("kustomize/overlays/example")), "Deployment").clone();
    assert!(cluster.get(&deployment).await.is_some());
    admitted(&cluster, &deployment).await;
}

/// A pod as the Deployment's controller would make it.
fn pod(deployment: &Value) -> Value {
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "wharf-0".into();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    pod
}

/// Makes sure that a namespace of the level `restricted` admits the Deployment's pods, and would not admit just any.
async fn admitted(cluster: &Cluster, deployment: &Value) {
    let mut pod = pod(deployment);
    let create = ["create", "--dry-run=server", "-f", "-"];
    cluster.kubectl_with(&create, &pod.to_string()).ok();
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
    let refused = cluster.kubectl_with(&create, &pod.to_string()).failed();
    assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
}

#[tokio::test]
async fn the_pods_are_admitted_where_only_restricted_ones_are() {
    let cluster = Cluster::new().await;
    prepare(&cluster).await;
    for values in [MINIMAL, FULL] {
        admitted(&cluster, one(&rendered(values, &[]), "Deployment")).await;
    }
}

/// `helm COMMAND wharf …` at this cluster; gives what it prints.
fn release(cluster: &Cluster, args: &[&str]) -> String {
    let kubeconfig = text(cluster.kubeconfig());
    helm(&[args, &["--namespace", NAMESPACE, "--kubeconfig", &kubeconfig]].concat()).ok()
}

/// The names of what the chart has made, in all namespaces.
fn made(cluster: &Cluster) -> String {
    let kinds = "deployments,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,roles,rolebindings,\
                 clusterroles,clusterrolebindings";
    let selector = "app.kubernetes.io/instance=wharf";
    cluster.kubectl(&["get", kinds, "-A", "-l", selector, "-o", "name"]).ok()
}

#[tokio::test]
async fn one_command_installs_it_one_upgrades_it_and_one_takes_it_away() {
    let cluster = Cluster::new().await;
    cluster.make_namespace("istio-system").await;
    let chart = text(path("chart"));
    let notes = release(&cluster, &["install", "wharf", &chart, "--create-namespace", "--set", "cluster=shore"]);
    assert!(made(&cluster).contains("deployment.apps/wharf\n"), "{}", made(&cluster));
    for wanted in ["wharf ca issue shore", "--from-file=shore.key", "rollout status deployment/wharf", "wharf-peering"]
    {
        assert!(notes.contains(wanted), "the notes say what to do next: {wanted}: {notes}");
    }
    assert!(notes.contains("image.repository"), "an image without a registry is told: {notes}");

    let managed = "image.repository=registry.example/w,service.enabled=false";
    let notes = release(&cluster, &["upgrade", "wharf", &chart, "--reset-then-reuse-values", "--set", managed]);
    assert!(notes.contains("can dial others") && !notes.contains("image.repository"), "{notes}");
    assert!(!made(&cluster).contains("service/wharf-peering"), "{}", made(&cluster));

    release(&cluster, &["uninstall", "wharf"]);
    assert_eq!(made(&cluster), "");
    let definitions = cluster.kubectl(&["get", "crds", "-o", "name"]).ok();
    assert!(definitions.contains("serviceexpositionpolicies"), "people's objects outlive the agent: {definitions}");
}

#[tokio::test]
async fn the_sample_that_requires_clusters_is_taken_and_refuses_an_entry_without() {
    let cluster = Cluster::new().await;
    cluster.make_namespace("shop").await;
    let file = path("policies/require-clusters.yaml").display().to_string();
    let said = cluster.kubectl(&["apply", "--server-side", "--validate=strict", "-f", &file]);
    assert!(!said.stderr.contains("Warning"), "{}", said.stderr);
    said.ok();
    let policy = |clusters: Value| {
        json!({
            "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
            "metadata": {"name": "reviews", "namespace": "shop"},
            "spec": {"exposed": [{"name": "ratings", "clusters": ["cluster2"]}, {"name": "reviews", "clusters": clusters}]},
        })
    };
    // The policy is in force a moment after it was taken.
    let refused = wait::until("a refusal", || async { cluster.try_apply(&policy(json!([]))).await.err() }).await;
    let told = refused.to_string();
    assert!(told.contains("without clusters: reviews") && !told.contains("ratings,"), "{told}");
    cluster.try_apply(&policy(json!(["cluster2"]))).await.unwrap();
}
