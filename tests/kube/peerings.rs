//! Statuses of peerings: an object that cannot be used says why, whenever it comes.

use serde_json::{Value, json};

use crate::support::{Agent, Cluster, Pki, wait};

fn peering(name: &str, spec: Value) -> Value {
    let api = "multicluster.istio.io/v1alpha1";
    json!({"apiVersion": api, "kind": "ClusterPeering", "metadata": {"name": name}, "spec": spec})
}

async fn is(cluster: &Cluster, peering: &Value, type_: &str, wanted: Option<(&str, &str)>) {
    let wanted = wanted.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    wait::until_or_show(&format!("{} {type_}: {wanted:?}", peering["metadata"]["name"]), || async {
        let object = cluster.get(peering).await.unwrap_or_default();
        let of_newest = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let found = cluster.condition(peering, type_).await;
        if of_newest && found == wanted { Ok(()) } else { Err(format!("{:#}", object["status"])) }
    })
    .await;
}

async fn agent(cluster: &Cluster) -> Agent {
    for namespace in ["wharf-system", "istio-system"] {
        cluster.make_namespace(namespace).await;
    }
    let mut agent = Agent::new(cluster, &Pki::new(), "cluster1", "wharf-0");
    agent.configure("", &[]);
    agent.started().await;
    agent
}

#[tokio::test]
async fn a_peering_that_cannot_be_used_says_so_although_it_comes_while_the_agent_runs() {
    let cluster = Cluster::new().await;
    let mut agent = agent(&cluster).await;
    let invalid = Some(("False", "Invalid"));
    let of_another = peering("cluster3", json!({"consume": true, "identity": "spiffe://wharf/cluster/cluster2"}));
    cluster.apply(&of_another).await;
    is(&cluster, &of_another, "Accepted", invalid).await;
    is(&cluster, &of_another, "Ready", invalid).await;
    let itself = peering("cluster1", json!({"consume": true}));
    cluster.apply(&itself).await;
    is(&cluster, &itself, "Accepted", invalid).await;
    // Another fault in its place, and then none.
    let still = peering("cluster3", json!({"consume": true, "identity": "spiffe://wharf/cluster/cluster4"}));
    cluster.apply(&still).await;
    is(&cluster, &still, "Accepted", invalid).await;
    let mended = peering("cluster3", json!({"consume": true}));
    cluster.apply(&mended).await;
    is(&cluster, &mended, "Accepted", None).await;
    is(&cluster, &mended, "Ready", Some(("False", "NotSubscribed"))).await;
    assert!(agent.stop().0.success());
}

#[tokio::test]
async fn peerings_that_share_an_identity_say_so_until_each_has_its_own() {
    let cluster = Cluster::new().await;
    let mut agent = agent(&cluster).await;
    let spec = json!({"consume": true, "identity": "spiffe://example/somebody"});
    let [first, second] = ["cluster2", "cluster3"].map(|name| peering(name, spec.clone()));
    cluster.apply(&first).await;
    is(&cluster, &first, "Subscribed", Some(("False", "NotSubscribed"))).await;
    cluster.apply(&second).await;
    for peering in [&first, &second] {
        is(&cluster, peering, "Subscribed", Some(("False", "IdentityShared"))).await;
        is(&cluster, peering, "Ready", Some(("False", "IdentityShared"))).await;
    }
    cluster.delete(&second).await;
    is(&cluster, &first, "Subscribed", Some(("False", "NotSubscribed"))).await;
    assert!(agent.stop().0.success());
}
