//! A local name belongs to its binding: its Service stays, with its address, while no donor is behind it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::objects::{binding, kind_of, service};
use crate::support::{Pair, wait};

const WHILE: Duration = Duration::from_secs(2);

/// The Service of a local name: its uid and its address.
async fn address(pair: &Pair, name: &str) -> Option<(Value, Value)> {
    let metadata = json!({"name": name, "namespace": "default"});
    let service =
        pair.acceptor.cluster.get(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata})).await?;
    Some((service["metadata"]["uid"].clone(), service["spec"]["clusterIP"].clone()))
}

/// The reason that callers of a local name read.
async fn said_to_callers(pair: &Pair, name: &str) -> Option<String> {
    let metadata = json!({"name": format!("wharf-{name}-default"), "namespace": "default"});
    let like = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata});
    let route = pair.acceptor.cluster.get(&like).await?["spec"]["http"][0].take();
    let answers = route["directResponse"]["status"] == 503;
    answers.then(|| route["headers"]["response"]["set"]["x-wharf-reason"].as_str().map(str::to_owned))?
}

async fn is_refused(pair: &Pair, name: &str) {
    let refused = || async { said_to_callers(pair, name).await.filter(|why| why == "NotExposed by donor") };
    wait::until("callers read why", refused).await;
}

#[tokio::test]
async fn a_name_keeps_its_service_and_its_address_over_withdrawals_and_restarts() {
    let mut pair = Pair::new(&["reviews"]).await;
    let before = address(&pair, "reviews").await;
    assert!(before.as_ref().is_some_and(|(_, ip)| ip.is_string()), "{before:?}");
    for restarted in [false, true] {
        pair.withdraw("reviews").await;
        is_refused(&pair, "reviews").await;
        pair.in_step().await;
        assert_eq!(address(&pair, "reviews").await, before, "it is the same Service");
        if restarted {
            pair.recovers().await;
        }
        pair.expose("reviews").await;
        pair.in_step().await;
        wait::until("calls are led to the donor", || async {
            said_to_callers(&pair, "reviews").await.is_none().then_some(())
        })
        .await;
        assert_eq!(address(&pair, "reviews").await, before, "it is the same Service");
    }
    pair.withdraw("reviews").await;
    is_refused(&pair, "reviews").await;
    pair.acceptor.cluster.delete(&binding("default", "reviews", "donor")).await;
    wait::until("the name goes with its binding", || async {
        pair.acceptor.cluster.written().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_takes_over_keeps_a_name_that_was_bound_and_withdrawn_before() {
    let mut replicas = crate::replicas::Replicas::new(&[]).await;
    replicas.pair.expose("reviews").await;
    replicas.pair.bind("reviews").await;
    replicas.pair.in_step().await;
    let before = address(&replicas.pair, "reviews").await;
    replicas.pair.withdraw("reviews").await;
    is_refused(&replicas.pair, "reviews").await;
    replicas.pair.in_step().await;
    replicas.pair.acceptor.agent.stop();
    replicas.taken_over().await;
    let there = || async { address(&replicas.pair, "reviews").await == before };
    wait::stays("the Service", WHILE, there).await;
    is_refused(&replicas.pair, "reviews").await;
    replicas.pair.expose("reviews").await;
    replicas.pair.in_step().await;
    assert_eq!(address(&replicas.pair, "reviews").await, before);
}

/// A Service of somebody else's under the name of a binding, as in a mesh of several clusters. The binding waits.
async fn standing_service(pair: &Pair, name: &str) -> Value {
    let mut service = service("default", name);
    service["spec"]["ports"][0]["targetPort"] = 8080.into();
    pair.acceptor.cluster.apply(&service).await;
    pair.bind(name).await;
    is_condition(pair, name, "False", "NameConflict").await;
    service
}

async fn is_condition(pair: &Pair, name: &str, status: &str, reason: &str) {
    let bound = binding("default", name, "donor");
    wait::until_or_show(&format!("Programmed is {status}, {reason}"), || async {
        match pair.acceptor.cluster.condition(&bound, "Programmed").await {
            Some((is, why)) if is == status && why == reason => Ok(()),
            _ => Err(format!("{:#?}", pair.acceptor.cluster.get(&bound).await.map(|o| o["status"].clone()))),
        }
    })
    .await;
}

/// docs/migrate-from-multi-primary.md has this command.
fn hand_over(pair: &Pair) {
    let labels =
        json!({"app.kubernetes.io/managed-by": "wharf", "multicluster.istio.io/owner": "binding.default.reviews"});
    let change = json!({"metadata": {"labels": labels}, "spec": {"selector": null}}).to_string();
    let patch =
        ["-n", "default", "patch", "service", "reviews", "--field-manager=wharf", "--type=merge", "-p", &change];
    pair.acceptor.cluster.kubectl(&patch).ok();
}

#[tokio::test]
async fn a_service_that_its_owner_hands_over_keeps_its_address() {
    let mut pair = Pair::new(&[]).await;
    pair.expose("reviews").await;
    let service = standing_service(&pair, "reviews").await;
    let before = address(&pair, "reviews").await;
    hand_over(&pair);
    is_condition(&pair, "reviews", "True", "Programmed").await;
    pair.in_step().await;
    assert_eq!(address(&pair, "reviews").await, before, "it is the same Service");
    // Its callers call all the time: the gateway has to know the way before they are led there.
    let route = kind_of("networking.istio.io/v1", "VirtualService");
    let made = |name: String, routes: &[Value]| {
        let found =
            routes.iter().find(|route| route["metadata"]["name"].as_str().is_some_and(|n| n.starts_with(&name)));
        found.map(|route| route["metadata"]["creationTimestamp"].as_str().unwrap().to_owned())
    };
    let routes = pair.acceptor.cluster.list(&route).await;
    let (gateway, mesh) = (made("egressgateway-to-reviews".into(), &routes), made("wharf-reviews".into(), &routes));
    assert!(gateway.is_some() && gateway < mesh, "{gateway:?} {mesh:?}");
    pair.recovers().await;
    assert_eq!(address(&pair, "reviews").await, before, "it is the same Service");
    let handed = pair.acceptor.cluster.get(&service).await.unwrap();
    assert_eq!(handed["spec"]["selector"], Value::Null, "{handed:#}");
    // And back: the labels go, and the selector is its owner's again.
    let labels = json!({"app.kubernetes.io/managed-by": null, "multicluster.istio.io/owner": null});
    let back = json!({"metadata": {"labels": labels}, "spec": {"selector": {"app": "reviews"}}});
    pair.acceptor.cluster.merge(&service, &back).await;
    pair.acceptor.cluster.delete(&binding("default", "reviews", "donor")).await;
    wait::until("the routes go with the binding", || async {
        pair.acceptor.cluster.written_names("VirtualService").await.is_empty().then_some(())
    })
    .await;
    assert_eq!(address(&pair, "reviews").await, before, "the Service is its owner's again");
}
