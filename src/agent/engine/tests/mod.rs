//! Tests of the engine by itself, with a clock that stands still while it works: days pass in no time.

mod alone;
mod store;

use std::time::Duration;

use self::alone::EngineAlone;
use super::owners::policy_owner;
use super::{AWAY, GRACE};
use crate::peering::client::DonorNews;
use crate::store::{Change, HiddenInputs, InputKey, NamedKey, Owner};

const CONSUMER: &str = "[{name: there, consume: true}]";
const DONOR: &str = "[{name: there, endpoint: '192.0.2.9:7443'}]";

fn key(name: &str) -> NamedKey {
    NamedKey { namespace: "shop".into(), name: name.into() }
}

/// A service of the namespace `shop`, and a policy that exposes it to every peer.
fn exposed(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: multicluster.istio.io/v1alpha1
kind: ServiceExpositionPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{exposed: [{{name: {name}, clusters: [there]}}]}}
"
    )
}

fn bound(name: &str) -> String {
    format!(
        "apiVersion: multicluster.istio.io/v1alpha1
kind: RemoteServiceBinding
metadata: {{name: {name}, namespace: shop, labels: {{connection: live}}}}
spec: {{remote: [{{cluster: there, services: [{{name: {name}, namespace: shop}}]}}]}}
"
    )
}

/// An engine that has read its store: these policies, or bindings.
async fn synced(peers: &str, manifests: &[String]) -> EngineAlone {
    let engine = EngineAlone::start(peers).await;
    for manifest in manifests {
        engine.set(manifest).await;
    }
    engine.tell(Change::Synced).await;
    engine.settle().await;
    engine
}

fn policy_owners(names: &[&str]) -> Vec<Owner> {
    names.iter().map(|name| policy_owner(&key(name))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_met_an_ended_lease_is_made_up_for_when_the_same_replica_writes_again() {
    let engine = synced(CONSUMER, &[exposed("cart"), exposed("till")]).await;
    assert_eq!(engine.owners(), policy_owners(&["cart", "till"]));
    engine.store.lock().lapsed = true;
    engine.tell(Change::Gone(InputKey::Policy(key("till")))).await;
    engine.settle().await;
    assert_eq!(engine.owners(), policy_owners(&["cart", "till"]), "it must not write now");
    engine.store.lock().lapsed = false;
    engine.store.leading.send_replace(true); // it never heard that it had lost the Lease
    engine.settle().await;
    assert_eq!(engine.owners(), policy_owners(&["cart"]));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_repeated_until_it_succeeds() {
    let engine = synced(CONSUMER, &[]).await;
    engine.store.lock().failures = 12;
    engine.set(&exposed("till")).await;
    engine.settle().await;
    assert_eq!(engine.owners(), []);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((engine.owners(), engine.store.lock().failures), (policy_owners(&["till"]), 0));
}

#[tokio::test(start_paused = true)]
async fn objects_of_a_policy_that_may_be_in_an_unreadable_file_stay_until_it_is_known_to_be_gone() {
    let engine = EngineAlone::start(CONSUMER).await;
    let left = policy_owner(&key("till"));
    engine.store.lock().objects.insert(left.clone(), Vec::new());
    let hidden = HiddenInputs::of_key(InputKey::Policy(key("till")));
    engine.tell(Change::Problem { place: "till.yaml".into(), message: "it is broken".into(), hidden }).await;
    engine.tell(Change::Synced).await;
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(engine.owners(), [left]);
    engine.tell(Change::Solved { place: "till.yaml".into() }).await;
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(engine.owners(), []);
}

#[tokio::test(start_paused = true)]
async fn objects_that_nobody_is_known_to_want_have_a_moment_of_grace() {
    let engine = synced(CONSUMER, &[]).await;
    let early = policy_owner(&key("till"));
    engine.store.lock().objects.insert(early.clone(), Vec::new());
    engine.tell(Change::Drift(early.clone())).await;
    tokio::time::sleep(GRACE / 2).await;
    engine.set(&exposed("till")).await; // the policy comes after its objects, as watches may have it
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(engine.owners(), [early]);
    let orphan = policy_owner(&key("nobody"));
    engine.store.lock().objects.insert(orphan.clone(), Vec::new());
    engine.tell(Change::Drift(orphan.clone())).await;
    tokio::time::sleep(GRACE / 2).await;
    assert!(engine.owners().contains(&orphan));
    tokio::time::sleep(GRACE).await;
    assert_eq!(engine.owners(), policy_owners(&["till"]));
}

#[tokio::test(start_paused = true)]
async fn a_donor_may_be_away_for_a_moment_before_its_bindings_say_so_and_none_loses_its_objects() {
    let engine = synced(DONOR, &[bound("till")]).await;
    let connected =
        || DonorNews::Connected { instance: "other".into(), certificate_expires: time::OffsetDateTime::now_utc() };
    engine.hear("there", connected()).await;
    engine.offer("there", &["till"]).await;
    engine.settle().await;
    let (good, objects) = (engine.ready("till"), engine.owners());
    assert!(good.starts_with("True") && !objects.is_empty(), "{good} {objects:?}");
    let away = || DonorNews::Disconnected {
        reason: "nobody answers".into(),
        retry_in: Duration::ZERO,
        refused: false,
        misbehaving: false,
    };
    engine.hear("there", away()).await;
    tokio::time::sleep(AWAY - Duration::from_secs(1)).await;
    assert_eq!(engine.ready("till"), good);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(engine.ready("till"), good);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(engine.owners(), objects);
    engine.hear("there", connected()).await;
    engine.offer("there", &["till"]).await;
    engine.settle().await;
    assert_eq!((engine.ready("till"), engine.owners()), (good, objects));
}

#[tokio::test(start_paused = true)]
async fn a_binding_of_all_that_is_offered_follows_although_a_lease_had_ended_meanwhile() {
    let peers = "[{name: there, endpoint: '192.0.2.9:7443', connectionMode: potential, namespace: shop}]";
    let engine = synced(peers, &[]).await;
    let services = || {
        let content = engine.store.lock();
        let made = content.proposals.get(&key("there-services"));
        made.map(|binding| binding.spec.remote[0].services.len())
    };
    engine.store.lock().lapsed = true;
    engine.offer("there", &["till", "cart"]).await;
    engine.settle().await;
    assert_eq!(services(), None);
    engine.store.lock().lapsed = false;
    engine.store.leading.send_replace(true);
    engine.settle().await;
    assert_eq!(services(), Some(2));
}
