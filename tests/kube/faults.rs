//! What goes wrong around agents: after each of it everything is as from a fresh start, and none had to be started anew.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::objects::{binding, kind_of, policy, rights, service};
use crate::support::{Pair, wait};

/// So long an API server is away.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn while_an_api_server_is_away_all_stays_and_then_is_caught_up_with() {
    let mut pair = Pair::new(&["reviews", "ratings"]).await;
    let before = pair.acceptor.cluster.written().await;
    pair.acceptor.cluster.stop();
    wait::until("a complaint", || async { pair.acceptor.complains("does not answer").then_some(()) }).await;
    pair.withdraw("ratings").await;
    pair.expose("details").await;
    tokio::time::sleep(HALF_A_MINUTE).await; // that is the fault
    pair.acceptor.cluster.start();
    pair.bind("details").await;
    pair.in_step().await;
    let after = pair.acceptor.cluster.written().await;
    let untouched = |key: &&String| key.contains("reviews");
    assert!(before.keys().any(|key| untouched(&key)));
    for key in before.keys().filter(untouched) {
        assert_eq!(before.get(key), after.get(key), "{key}");
    }
    pair.recovers().await;
}

#[tokio::test]
async fn while_what_an_api_server_stores_in_hangs_nothing_is_lost_and_then_is_caught_up_with() {
    let mut pair = Pair::new(&["reviews", "ratings"]).await;
    pair.bind("details").await;
    pair.acceptor.cluster.freeze_etcd();
    // The API server still answers some questions, and no write.
    pair.withdraw("ratings").await;
    pair.expose("details").await;
    wait::until("a complaint", || async { pair.acceptor.complains("not answer").then_some(()) }).await;
    tokio::time::sleep(HALF_A_MINUTE).await; // that is the fault: its Lease lapses, too
    pair.acceptor.cluster.resume_etcd();
    pair.in_step().await;
    pair.recovers().await;
}

#[tokio::test]
async fn what_happened_while_watches_expired_is_seen() {
    let mut pair = Pair::new(&["reviews", "ratings"]).await;
    // The agents see nothing of it: neither what goes, nor what comes, nor what is changed.
    pair.donor.agent.freeze();
    pair.acceptor.agent.freeze();
    pair.withdraw("ratings").await;
    pair.expose("details").await;
    pair.bind("details").await;
    for side in [&pair.donor, &pair.acceptor] {
        let kind = kind_of("networking.istio.io/v1", "VirtualService");
        for object in side.cluster.list(&kind).await {
            side.cluster.merge(&object, &json!({"spec": {"hosts": ["elsewhere.example"]}})).await;
        }
    }
    pair.donor.cluster.expire_watches();
    pair.acceptor.cluster.expire_watches();
    pair.donor.agent.resume();
    pair.acceptor.agent.resume();
    pair.in_step().await;
    wait::until_or_show("repaired objects", || async {
        let mut contents = pair.contents().await;
        contents.retain(|(_, content)| content.to_string().contains("elsewhere.example"));
        if contents.is_empty() { Ok(()) } else { Err(format!("{contents:#?}")) }
    })
    .await;
    pair.recovers().await;
}

#[tokio::test]
async fn an_object_that_somebody_changes_in_the_middle_of_an_apply_ends_as_it_is_wanted() {
    let mut pair = Pair::new(&["reviews"]).await;
    let wanted = pair.contents().await;
    let cluster = &pair.acceptor.cluster;
    let objects = cluster.list(&kind_of("networking.istio.io/v1", "ServiceEntry")).await;
    let object = objects.first().expect("a ServiceEntry");
    // Each change of the exposition is an apply at the acceptor, and meets somebody else's.
    let changes = async {
        for round in 0..20u16 {
            let mut other = service("default", "reviews");
            other["spec"]["ports"][0]["name"] = format!("http-{round}").into();
            pair.donor.cluster.apply(&other).await;
        }
        pair.donor.cluster.apply(&service("default", "reviews")).await;
    };
    let meddling = async {
        for round in 0..100 {
            let change = json!({"spec": {"location": "MESH_EXTERNAL", "exportTo": [format!("ns{round}")]}});
            let labels =
                json!({"metadata": {"labels": {"round": round.to_string(), "multicluster.istio.io/owner": null}}});
            cluster.merge(object, if round % 4 == 3 { &labels } else { &change }).await;
        }
    };
    tokio::join!(changes, meddling);
    wait::until("what was wanted", || async {
        let strip = |all: Vec<(String, Value)>| {
            let each = all.into_iter().map(|(key, mut content)| {
                content["labels"].as_object_mut().map(|labels| labels.remove("round"));
                (key, content)
            });
            each.collect::<Vec<_>>()
        };
        (strip(pair.contents().await) == wanted).then_some(())
    })
    .await;
    pair.recovers().await;
}

#[tokio::test]
async fn a_namespace_that_is_deleted_takes_all_with_it_and_all_comes_again() {
    let mut pair = Pair::new(&["reviews"]).await;
    let [gateways, bound] = [pair.donor.cluster.written().await, pair.acceptor.cluster.written().await];
    // Of its users.
    for side in [&pair.donor, &pair.acceptor] {
        side.cluster.make_namespace("shop").await;
    }
    let wish = [service("shop", "cart"), policy("shop", "cart", &["acceptor"])];
    for _ in 0..2 {
        for object in &wish {
            pair.donor.cluster.apply(object).await;
        }
        pair.acceptor.cluster.apply(&binding("shop", "cart", "donor")).await;
        let there = || async {
            let names = pair.acceptor.cluster.written_names("Service").await;
            names.contains(&"shop/cart".to_owned()).then_some(())
        };
        wait::until("a service of the shop", there).await;
        pair.donor.cluster.delete_namespace("shop").await;
        wait::until("nothing of the shop at the donor", || async {
            (pair.donor.cluster.written().await.len() == gateways.len()).then_some(())
        })
        .await;
        pair.acceptor.cluster.delete_namespace("shop").await;
        wait::until("nothing of the shop at the acceptor", || async {
            (pair.acceptor.cluster.written().await.len() == bound.len()).then_some(())
        })
        .await;
        for side in [&pair.donor, &pair.acceptor] {
            side.cluster.make_namespace("shop").await;
        }
    }
    // Of the gateways.
    for side in [&pair.donor, &pair.acceptor] {
        side.cluster.delete_namespace("istio-system").await;
        side.cluster.make_namespace("istio-system").await;
    }
    wait::until("the gateways' objects", || async {
        let now = [pair.donor.cluster.written().await.len(), pair.acceptor.cluster.written().await.len()];
        (now == [gateways.len(), bound.len()]).then_some(())
    })
    .await;
    pair.recovers().await;
}

/// The definition of a kind, as it is to be applied again.
async fn definition(pair: &Pair, name: &str) -> Value {
    let named = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}});
    let there = pair.acceptor.cluster.get(&named).await.expect("a definition");
    let mut again = named;
    again["spec"] = there["spec"].clone();
    again["metadata"]["annotations"] = there["metadata"]["annotations"].clone();
    again
}

#[tokio::test]
async fn a_definition_that_is_deleted_is_told_and_when_it_is_back_so_is_all() {
    let mut pair = Pair::new(&["reviews"]).await;
    let wanted = pair.contents().await;
    for name in ["virtualservices.networking.istio.io", "remoteservicebindings.multicluster.istio.io"] {
        let definition = definition(&pair, name).await;
        pair.acceptor.cluster.delete(&definition).await;
        let plural = name.split('.').next().unwrap_or_default();
        wait::until("a complaint", || async { pair.acceptor.complains(plural).then_some(()) }).await;
        pair.acceptor.cluster.apply(&definition).await;
        wait::until("a kind", || async {
            let applied = pair.acceptor.cluster.try_apply(&binding("default", "reviews", "donor")).await;
            applied.ok()
        })
        .await;
        wait::until("all again", || async { (pair.contents().await == wanted).then_some(()) }).await;
        pair.acceptor.content().await;
    }
    pair.recovers().await;
}

#[tokio::test]
async fn an_expired_token_is_told_and_a_fresh_one_is_used_without_a_restart() {
    let mut pair = Pair::new(&["reviews"]).await;
    let before = pair.acceptor.cluster.written().await;
    pair.acceptor.cluster.expire_token(&pair.acceptor.account).await;
    wait::until("a complaint", || async { pair.acceptor.complains("credentials").then_some(()) }).await;
    pair.expose("details").await;
    pair.bind("details").await;
    assert_eq!(pair.acceptor.cluster.written().await, before);
    pair.acceptor.cluster.renew(&pair.acceptor.account).await;
    // A token is read again from its file after a minute at the latest.
    wait::within(Duration::from_secs(120), "a caught-up acceptor", || async {
        let names = pair.acceptor.cluster.written_names("Service").await;
        names.contains(&"default/details".to_owned()).then_some(())
    })
    .await;
    pair.recovers().await;
}

#[tokio::test]
async fn rights_that_are_taken_are_told_and_when_they_are_given_back_all_is_caught_up_with() {
    let mut pair = Pair::new(&["reviews", "ratings"]).await;
    let before = pair.acceptor.cluster.written().await;
    pair.acceptor.cluster.allow(&pair.acceptor.account, &json!([])).await;
    pair.withdraw("ratings").await;
    pair.expose("details").await;
    pair.bind("details").await;
    wait::until("a complaint", || async { pair.acceptor.complains("forbidden").then_some(()) }).await;
    assert_eq!(pair.acceptor.cluster.written().await, before);
    pair.acceptor.cluster.allow(&pair.acceptor.account, &rights()).await;
    pair.recovers().await;
}
