//! Objects of a newer version than the agent's, as during an upgrade or after a rollback: they lose nothing, also when the
//! agent is started meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::support::objects::{binding, kind_of, policy, rights, rights_without};
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

/// Its list is refused, so nobody knows what is there: neither at a start nor later is that taken for nothing.
#[tokio::test]
async fn a_kind_that_is_forbidden_takes_nothing_away_over_a_restart() {
    let mut pair = Pair::new(&["reviews"]).await;
    let before = pair.contents().await;
    for plural in ["virtualservices", "destinationrules"] {
        for side in [&mut pair.donor, &mut pair.acceptor] {
            side.cluster.allow(&side.account, &rights_without(plural)).await;
            side.agent.stop();
            side.agent.start();
        }
        for side in [&pair.donor, &pair.acceptor] {
            wait::until("a complaint", || async { side.complains(plural).then_some(()) }).await;
        }
        wait::stays("all objects", WHILE, || async { pair.contents().await == before }).await;
        for side in [&pair.donor, &pair.acceptor] {
            side.cluster.allow(&side.account, &rights()).await;
        }
        for side in [&pair.donor, &pair.acceptor] {
            side.agent.ready().await;
            side.content().await;
        }
        pair.in_step().await;
        assert_eq!(pair.contents().await, before);
    }
    pair.recovers().await;
}

/// One object that its storage has damaged makes the list of its kind fail with an internal error.
#[tokio::test]
async fn a_list_that_fails_takes_nothing_away_over_a_restart() {
    let mut pair = Pair::new(&["reviews"]).await;
    let before = pair.contents().await;
    for (kind, plural) in
        [("ServiceExpositionPolicy", "serviceexpositionpolicies"), ("RemoteServiceBinding", "remoteservicebindings")]
    {
        let is_policy = kind == "ServiceExpositionPolicy";
        let side = if is_policy { &mut pair.donor } else { &mut pair.acceptor };
        let resource = format!("multicluster.istio.io/{plural}");
        side.cluster.spoil(&resource);
        let all = kind_of("multicluster.istio.io/v1alpha1", kind);
        wait::until("a list that fails", || async { side.cluster.try_list(&all).await.err() }).await;
        side.agent.stop();
        side.agent.start();
        wait::until("a complaint", || async { side.complains(plural).then_some(()) }).await;
        wait::stays("all objects", WHILE, || async { pair.contents().await == before }).await;
        let side = if is_policy { &pair.donor } else { &pair.acceptor };
        side.cluster.mend(&resource);
        side.agent.ready().await;
        side.content().await;
        pair.in_step().await;
        assert_eq!(pair.contents().await, before);
    }
    pair.recovers().await;
}

#[tokio::test]
async fn what_may_be_among_objects_of_a_forbidden_kind_is_not_told_as_missing() {
    let mut pair = Pair::new(&["reviews", "ratings"]).await;
    let mut wish = policy("default", "ratings", &["acceptor"]);
    wish["spec"]["exposed"][0]["virtualService"] = json!("elsewhere");
    pair.donor.cluster.apply(&wish).await;
    let says = async |pair: &Pair, reason: &str| {
        wait::until(reason, || async {
            let there = pair.donor.cluster.get(&wish).await?;
            let entry = &there["status"]["exposed"][0];
            (entry["reason"] == reason).then(|| entry["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    };
    let message = says(&pair, "VirtualServiceNotFound").await;
    assert!(message.contains("there is no VirtualService elsewhere"), "{message}");
    pair.donor.cluster.allow(&pair.donor.account, &rights_without("virtualservices")).await;
    pair.donor.cluster.expire_watches();
    let message = says(&pair, "Unreadable").await;
    assert!(message.contains("it is not known whether there is a VirtualService elsewhere"), "{message}");
    assert!(message.contains("API server, virtualservices") && message.contains("forbidden"), "{message}");
    pair.donor.cluster.allow(&pair.donor.account, &rights()).await;
    says(&pair, "VirtualServiceNotFound").await;
    pair.donor.cluster.apply(&policy("default", "ratings", &["acceptor"])).await;
    pair.recovers().await;
}
