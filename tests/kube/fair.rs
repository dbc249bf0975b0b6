//! One tenant's burst of writes does not hold up another's single change.

use serde_json::{Value, json};

use crate::support::objects::{kind_of, policy, service};
use crate::support::{Agent, Cluster, Pki, wait};

const ENTRIES: usize = 20;
const PORTS: usize = 64;

/// A policy that comes to more than a thousand objects, and its Service.
fn burst(namespace: &str) -> [Value; 2] {
    let ports: Vec<Value> = (0..PORTS).map(|i| json!({"name": format!("http-{i}"), "port": 8000 + i})).collect();
    let mut service = service(namespace, "wide");
    service["spec"]["ports"] = ports.into();
    let mut policy = policy(namespace, "wide", &["cluster2"]);
    let entry = |i| json!({"name": "wide", "alias": format!("wide-{i}"), "clusters": ["cluster2"]});
    policy["spec"]["exposed"] = (0..ENTRIES).map(entry).collect();
    [service, policy]
}

async fn routes(cluster: &Cluster) -> usize {
    cluster.list(&kind_of("networking.istio.io/v1", "VirtualService")).await.len()
}

#[tokio::test]
async fn a_single_change_overtakes_the_burst_of_another_namespace() {
    let cluster = Cluster::new().await;
    for namespace in ["wharf-system", "istio-system", "burst", "quiet"] {
        cluster.make_namespace(namespace).await;
    }
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0");
    agent.configure("limits: {portsPerNamespace: 10000}\n", &["{name: cluster2, consume: true}".to_owned()]);
    agent.started().await;
    cluster.apply(&service("quiet", "till")).await;
    for object in burst("burst") {
        cluster.apply(&object).await;
    }
    wait::until("a burst that is under way", || async { (routes(&cluster).await > 100).then_some(()) }).await;
    let change = policy("quiet", "till", &["cluster2"]);
    cluster.apply(&change).await;
    wait::until("a change that is in place", || async {
        let (status, _) = cluster.condition(&change, "Programmed").await?;
        (status == "True").then_some(())
    })
    .await;
    let written = routes(&cluster).await;
    assert!(written < ENTRIES * PORTS * 3 / 4, "the burst went on meanwhile, and was not waited for: {written}");
    wait::until("the burst is in place, too", || async {
        (routes(&cluster).await == ENTRIES * PORTS + 1).then_some(())
    })
    .await;
}
