//! From the definitions of version 0.1, which checked types only, to today's.

use std::path::Path;

use serde_json::{Value, json};

use super::{binding, create, made, peering, policy};
use crate::support::objects::service;
use crate::support::tools::{WHARF, run};
use crate::support::{Agent, Cluster, Pki, wait};

const OLD: &str = include_str!("../data/crds-v0.1.yaml");

/// What the old definitions let in, and the new ones do not.
fn nonsense() -> [Value; 3] {
    [policy("p", &json!([])), binding("b", &json!([])), peering("c", &json!({"endpoint": "x"}))]
}

/// Replaces the definitions by those of version 0.1, as on a cluster that has had them all along.
async fn downgrade(cluster: &Cluster) {
    for name in ["serviceexpositionpolicies", "remoteservicebindings", "clusterpeerings"] {
        let name = format!("{name}.multicluster.istio.io");
        let metadata = json!({"name": name});
        let crd =
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata});
        cluster.delete(&crd).await;
    }
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], OLD).ok();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).ok();
    for nonsense in nonsense() {
        wait::until("the old definitions", || async { create(cluster, &nonsense).await.ok() }).await;
    }
}

async fn upgrade(cluster: &Cluster) {
    let new = run(Path::new(WHARF), &["crds"], &[], "").ok();
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &new).ok();
    for nonsense in nonsense() {
        wait::until("the new definitions", || async { create(cluster, &nonsense).await.err() }).await;
    }
}

fn apply(cluster: &Cluster, who: &str, object: &Value) {
    let manager = format!("--field-manager={who}");
    cluster.kubectl_with(&["apply", "--server-side", &manager, "-f", "-"], &object.to_string()).ok();
}

#[tokio::test]
async fn objects_of_before_are_read_changed_and_shared_after_an_upgrade() {
    let cluster = Cluster::new().await;
    downgrade(&cluster).await;
    let reviews = policy(
        "reviews",
        &json!([{"name": "reviews", "alias": null, "clusters": ["c2"]}, {"name": "reviews", "alias": "v1"}]),
    );
    made(&cluster, &reviews);
    let shared = policy("shared", &json!([{"name": "reviews", "clusters": ["c2"]}]));
    apply(&cluster, "owner", &shared);
    let stars = binding(
        "stars",
        &json!([{"cluster": "c1", "services": [{"name": "ratings", "weight": null}, {"name": "a", "alias": "b"}]}]),
    );
    made(&cluster, &stars);
    let peer = peering("c1", &json!({"endpoint": "c1.example:7443", "trustDomain": null}));
    made(&cluster, &peer);
    let ready = json!({"type": "Exposed", "status": "True", "reason": "Exposed", "message": ""});
    cluster
        .merge_status(&reviews, &json!({"conditions": [ready], "exposed": [{"name": "reviews", "boundBy": ["c2"]}]}))
        .await;
    upgrade(&cluster).await;

    let read = cluster.get(&reviews).await.unwrap();
    let entries = json!([{"name": "reviews", "alias": "", "clusters": ["c2"]}, {"name": "reviews", "alias": "v1"}]);
    assert_eq!(read["spec"]["exposed"], entries);
    assert_eq!(read["status"]["exposed"][0]["boundBy"], json!(["c2"]));
    assert_eq!(read["metadata"]["generation"], 1, "an upgrade is no change");
    let changed = cluster.merge(&reviews, &json!({"spec": {"exposed": [{"name": "reviews", "port": 9080}]}})).await;
    assert_eq!(changed["spec"]["exposed"], json!([{"name": "reviews", "alias": "", "port": 9080}]));
    assert_eq!(changed["status"], read["status"]);

    let services = &cluster.get(&stars).await.unwrap()["spec"]["remote"][0]["services"];
    assert_eq!(services[0]["name"], "ratings");
    assert_eq!((&services[0]["alias"], &services[1]["alias"]), (&json!(""), &json!("b")));
    cluster.merge(&stars, &json!({"metadata": {"labels": {"connection": "potential"}}})).await;
    cluster.merge_status(&stars, &json!({"services": [], "summary": {"local": "ratings"}})).await;
    let peer = cluster.merge(&peer, &json!({"spec": {"consume": true}})).await;
    assert_eq!(peer["spec"]["connectionMode"], "none");

    // Its list was one thing, owned as a whole; now entries have owners.
    apply(&cluster, "owner", &shared);
    apply(&cluster, "guest", &policy("shared", &json!([{"name": "ratings"}])));
    apply(&cluster, "owner", &policy("shared", &json!([{"name": "reviews", "clusters": ["c3"]}])));
    let both = json!([{"name": "reviews", "alias": "", "clusters": ["c3"]}, {"name": "ratings", "alias": ""}]);
    assert_eq!(cluster.get(&shared).await.unwrap()["spec"]["exposed"], both);
}

#[tokio::test]
async fn what_could_be_written_before_does_not_stand_in_the_way_of_what_is_right() {
    let cluster = Cluster::new().await;
    downgrade(&cluster).await;
    let bad = policy("bad", &json!([{"name": "a_b"}, {"name": "reviews"}]));
    let twins = policy("twins", &json!([{"name": "reviews"}, {"name": "reviews"}]));
    let cluster_twice = binding("twice", &json!([{"cluster": "c"}, {"cluster": "c"}]));
    let peer = peering("cluster1.myorg", &json!({"endpoint": "nowhere"}));
    for object in [&bad, &twins, &cluster_twice, &peer] {
        made(&cluster, object);
    }
    upgrade(&cluster).await;
    // Statuses and labels can be written, whatever the spec is; so can what is right beside what is not.
    for object in [&bad, &twins, &cluster_twice, &peer] {
        cluster.merge_status(object, &json!({"observedGeneration": 1})).await;
        cluster.merge(object, &json!({"metadata": {"labels": {"seen": "yes"}}})).await;
    }
    let more = json!([{"name": "a_b"}, {"name": "reviews"}, {"name": "ratings"}]);
    cluster.merge(&bad, &json!({"spec": {"exposed": more}})).await;
    cluster.merge(&peer, &json!({"spec": {"consume": true}})).await;
    // What is touched has to be right.
    let patch = json!({"spec": {"endpoint": "elsewhere"}}).to_string();
    let said = cluster.kubectl(&["patch", "cp", "cluster1.myorg", "--type=merge", "-p", &patch]).failed();
    assert!(said.contains("is not host:port"), "{said}");
    let patch = json!({"spec": {"exposed": [{"name": "c_d"}]}}).to_string();
    let said = cluster.kubectl(&["patch", "sep", "bad", "--type=merge", "-p", &patch]).failed();
    assert!(said.contains("is not the name of a Service"), "{said}");
    cluster.kubectl(&["delete", "wharf", "--all"]).ok();
}

/// The agent reads what version 0.1 wrote of rejections, and writes it as today; nobody is in the other's way.
#[tokio::test]
async fn rejections_that_version_0_1_wrote_are_read_and_written_as_objects() {
    let cluster = Cluster::new().await;
    for namespace in ["wharf-system", "istio-system"] {
        cluster.make_namespace(namespace).await;
    }
    downgrade(&cluster).await;
    cluster.apply(&service("default", "reviews")).await;
    let reviews = policy("reviews", &json!([{"name": "reviews", "clusters": ["c2"]}]));
    apply(&cluster, "owner", &reviews);
    let prose = ["c2: NameConflict: in use: there"];
    let old = json!({"exposed": [{"name": "reviews", "offeredTo": ["c2"], "rejectedBy": prose}]});
    cluster.merge_status(&reviews, &old).await;
    upgrade(&cluster).await;
    assert_eq!(cluster.get(&reviews).await.unwrap()["status"]["exposed"][0]["rejectedBy"], json!(prose));

    let mut agent = Agent::new(&cluster, &Pki::new(), "c1", "wharf-0");
    agent.configure("", &["{name: c2, consume: true}".to_owned()]);
    agent.started().await;
    let rejection = json!([{"cluster": "c2", "reason": "NameConflict", "message": "in use: there"}]);
    wait::until("the rejection as an object", || async {
        let status = cluster.get(&reviews).await?["status"].take();
        (status["exposed"][0]["rejectedBy"] == rejection && status["summary"]["rejectedBy"] == "c2").then_some(())
    })
    .await;
    assert_eq!(cluster.condition(&reviews, "Ready").await, Some(("False".to_owned(), "RejectedByPeer".to_owned())));
    let more = policy("reviews", &json!([{"name": "reviews", "clusters": ["c2", "c3"]}]));
    apply(&cluster, "owner", &more); // and its owner goes on applying it
    assert!(agent.stop().0.success());
}
