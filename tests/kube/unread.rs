//! Objects of a newer version than the agent's, as during an upgrade or after a rollback: they lose nothing, also when the
//! agent is started meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::support::objects::{binding, policy};
use crate::support::{Cluster, Pair, wait};

const WHILE: Duration = Duration::from_secs(2);

/// Gives the spec of a kind a field that this version does not know.
async fn learn_a_newer_field(cluster: &Cluster, definition: &str) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/fairness";
    let patch = json!([{"op": "add", "path": path, "value": {"type": "integer"}}]).to_string();
    let name = format!("{definition}.multicluster.istio.io");
    cluster.kubectl(&["patch", "crd", &name, "--type=json", "-p", &patch]).ok();
}

async fn is_held(pair: &Pair, owner: &str) {
    for side in [&pair.donor, &pair.acceptor] {
        if side.complains(owner) {
            return;
        }
    }
    wait::until("what is held is told", || async {
        (pair.donor.complains(owner) || pair.acceptor.complains(owner)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_object_of_a_newer_version_loses_nothing_over_a_restart() {
    let mut pair = Pair::new(&["reviews"]).await;
    let before = pair.contents().await;
    learn_a_newer_field(&pair.donor.cluster, "serviceexpositionpolicies").await;
    let newer = json!({"spec": {"fairness": 3}});
    let reviews = policy("default", "reviews", &["acceptor"]);
    let stored = || async { pair.donor.cluster.merge(&reviews, &newer).await["spec"].get("fairness").cloned() };
    wait::until("the newer field", stored).await;
    pair.donor.agent.stop();
    pair.donor.agent.started().await;
    is_held(&pair, "policy.default.reviews").await;
    wait::stays("all objects, without a policy", WHILE, || async { pair.contents().await == before }).await;

    learn_a_newer_field(&pair.acceptor.cluster, "remoteservicebindings").await;
    let bound = binding("default", "reviews", "donor");
    let stored = || async { pair.acceptor.cluster.merge(&bound, &newer).await["spec"].get("fairness").cloned() };
    wait::until("the newer field", stored).await;
    pair.acceptor.agent.stop();
    pair.acceptor.agent.started().await;
    is_held(&pair, "binding.default.reviews").await;
    wait::stays("all objects, without a binding", WHILE, || async { pair.contents().await == before }).await;

    let older = json!({"spec": {"fairness": null}});
    pair.donor.cluster.merge(&reviews, &older).await;
    pair.acceptor.cluster.merge(&bound, &older).await;
    pair.recovers().await;
    assert_eq!(pair.contents().await, before);
    // What is deleted while it cannot be read is gone.
    pair.donor.cluster.merge(&reviews, &newer).await;
    pair.donor.agent.stop();
    pair.donor.agent.started().await;
    is_held(&pair, "policy.default.reviews").await;
    pair.withdraw("reviews").await;
    pair.in_step().await;
}
