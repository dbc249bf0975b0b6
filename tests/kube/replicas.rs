//! Several agents of one cluster: all are told what peers offer, one writes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::objects::{binding, rights};
use crate::support::{Account, Agent, Cluster, Pair, wait};

/// How long a leader that is not heard of stays the leader, and what a machine under load adds.
const LEASE: Duration = Duration::from_secs(15);
const LOAD: Duration = Duration::from_secs(10);
/// Time in which an agent handles the waiting events, and cannot learn whether it leads: less than it waits for an answer.
const HEARD: Duration = Duration::from_secs(2);

/// The name of the agent that leads, as the Lease has it.
async fn leader(cluster: &Cluster) -> Option<String> {
    let metadata = json!({"name": "wharf", "namespace": "wharf-system"});
    let lease =
        cluster.get(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})).await?;
    lease["spec"]["holderIdentity"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Fails unless the binding that the donor's offers make names so many services.
async fn follows_offers(cluster: &Cluster, services: usize) -> Result<(), String> {
    let object = cluster.get(&binding("imports", "donor-services", "donor")).await.unwrap_or_default();
    let named = object["spec"]["remote"][0]["services"].as_array().map_or(0, Vec::len);
    if named == services { Ok(()) } else { Err(object.to_string()) }
}

/// Two agents at the acceptor: the leader, and one that waits, with an account of its own.
pub struct Replicas {
    pub pair: Pair,
    other: Agent,
    account: Account,
}

impl Replicas {
    pub async fn new(services: &[&str]) -> Replicas {
        let pair = Pair::new(services).await;
        let cluster = &pair.acceptor.cluster;
        let account = cluster.account("wharf-system", "other").await;
        cluster.allow(&account, &rights()).await;
        let mut other = Agent::new(cluster, &pair.pki, "acceptor", "acceptor-1").with_account(&account);
        other.configure("", &[pair.donor.agent.as_donor()]);
        other.started().await;
        assert_eq!(leader(cluster).await.as_ref(), Some(&pair.acceptor.agent.pod));
        Replicas { pair, other, account }
    }

    /// Waits until the other one leads; gives how long it took.
    pub async fn taken_over(&self) -> Duration {
        let begun = Instant::now();
        wait::until("another leader", || async {
            (leader(&self.pair.acceptor.cluster).await.as_ref() == Some(&self.other.pod)).then_some(())
        })
        .await;
        begun.elapsed()
    }

    /// The requests by which an account changed anything but the Lease.
    fn writes_of(&self, account: &Account) -> Vec<Value> {
        let user = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
        let changes = |event: &Value| {
            let verb = ["create", "update", "patch", "delete"].iter().any(|verb| event["verb"] == *verb);
            // A question about an account is a `create` by its verb, and changes nothing.
            verb && event["objectRef"]["resource"] != "leases"
                && event["objectRef"]["apiGroup"] != "authorization.k8s.io"
        };
        let all = self.pair.acceptor.cluster.audit().into_iter();
        all.filter(|event| event["user"]["username"] == user.as_str() && changes(event)).collect()
    }
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_within_the_time_of_its_lease() {
    let mut replicas = Replicas::new(&["reviews", "ratings"]).await;
    replicas.pair.acceptor.agent.kill();
    replicas.pair.withdraw("ratings").await;
    replicas.pair.expose("details").await;
    replicas.pair.bind("details").await;
    let took = replicas.taken_over().await;
    assert!(took < LEASE + LOAD, "{took:?}");
    let Replicas { mut pair, other, .. } = replicas;
    pair.acceptor.agent = other;
    pair.recovers().await;
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_at_once_and_nothing_moves() {
    let replicas = Replicas::new(&["reviews"]).await;
    let Replicas { mut pair, other, account } = replicas;
    let before = pair.acceptor.cluster.written().await;
    pair.acceptor.agent.stop();
    let mut replicas = Replicas { pair, other, account };
    let took = replicas.taken_over().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    replicas.pair.expose("details").await;
    replicas.pair.bind("details").await;
    replicas.pair.in_step().await;
    let after = replicas.pair.acceptor.cluster.written().await;
    for (key, written) in before {
        assert_eq!(after.get(&key), Some(&written), "{key}");
    }
}

#[tokio::test]
async fn a_leader_that_was_frozen_writes_nothing_when_it_wakes() {
    let mut replicas = Replicas::new(&["reviews", "ratings"]).await;
    replicas.pair.acceptor.agent.freeze();
    replicas.pair.withdraw("ratings").await;
    replicas.pair.expose("details").await;
    replicas.pair.bind("details").await;
    let took = replicas.taken_over().await;
    assert!(took < LEASE + LOAD, "{took:?}");
    replicas.pair.in_step().await;
    let cluster = &replicas.pair.acceptor.cluster;
    let (before, frozen) = (cluster.written().await, replicas.writes_of(&replicas.pair.acceptor.account).len());
    replicas.pair.acceptor.agent.resume();
    wait::stays("what the new leader wrote", Duration::from_secs(8), || async { cluster.written().await == before })
        .await;
    let writes = replicas.writes_of(&replicas.pair.acceptor.account);
    assert_eq!(writes.len(), frozen, "{:?}", writes.last());
    assert_eq!(leader(cluster).await.as_ref(), Some(&replicas.other.pod));
    assert!(!replicas.writes_of(&replicas.account).is_empty());
    // It is the next one.
    replicas.other.kill();
    let woken = replicas.pair.acceptor.agent.pod.clone();
    wait::until("the first leader again", || async { (leader(cluster).await.as_ref() == Some(&woken)).then_some(()) })
        .await;
    replicas.pair.recovers().await;
}

#[tokio::test]
async fn what_is_withdrawn_while_no_lease_holds_is_removed_once_one_does() {
    let mut pair = Pair::new(&["reviews", "ratings", "details"]).await;
    pair.acceptor.cluster.make_namespace("imports").await;
    let donor = pair.donor.agent.as_donor().replace('}', ", connectionMode: potential, namespace: imports}");
    pair.acceptor.agent.configure("", &[donor]);
    wait::until_or_show("a binding of all that is offered", || follows_offers(&pair.acceptor.cluster, 3)).await;
    pair.donor.agent.freeze();
    pair.acceptor.agent.freeze();
    tokio::time::sleep(LEASE).await; // that is the fault: each wakes with a Lease that has ended
    pair.withdraw("ratings").await;
    pair.acceptor.cluster.delete(&binding("default", "details", "donor")).await;
    // The events wait for the agents, and no Lease can be renewed: they hear first what they may not write yet.
    for side in [&pair.donor, &pair.acceptor] {
        side.cluster.freeze_etcd();
        side.agent.resume();
    }
    tokio::time::sleep(HEARD).await;
    pair.donor.cluster.resume_etcd();
    pair.acceptor.cluster.resume_etcd();
    wait::until_or_show("the withdrawn service closed at the donor", || async {
        let gateways = pair.donor.cluster.written_names("Gateway").await;
        if gateways.len() == 2 { Ok(()) } else { Err(format!("{gateways:?}")) }
    })
    .await;
    wait::until_or_show("the unbound service gone at the acceptor", || async {
        let services = pair.acceptor.cluster.written_names("Service").await;
        if services.iter().any(|name| name == "default/details") { Err(format!("{services:?}")) } else { Ok(()) }
    })
    .await;
    wait::until_or_show("a binding of what is still offered", || follows_offers(&pair.acceptor.cluster, 2)).await;
}
