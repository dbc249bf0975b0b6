//! Namespaces in Istio's ambient mode: their statuses tell it as long as it is so, and nothing else comes of it.

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::support::objects::{binding, kind_of, policy, rights, service};
use crate::support::{Agent, Cluster, Pair, Pki, wait};

const TYPE: &str = "DataPlaneSupported";

async fn label(cluster: &Cluster, namespace: &str, mode: Option<&str>) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    cluster.merge(&namespace, &json!({"metadata": {"labels": {"istio.io/dataplane-mode": mode}}})).await;
}

/// Waits until the status of an object tells it, or does not.
async fn tells(cluster: &Cluster, object: &Value, wanted: bool) {
    let wanted = wanted.then(|| ("False".to_owned(), "AmbientMode".to_owned()));
    wait::until(&format!("{TYPE} of a {}: {wanted:?}", object["kind"]), || async {
        (cluster.condition(object, TYPE).await == wanted).then_some(())
    })
    .await;
}

/// Conditions that follow from this one.
const FOLLOWING: [&str; 3] = [TYPE, "Ready", "Stalled"];

/// All that the status of an object says but for this condition and those that follow from it, once it says that its objects are in place.
async fn rest(cluster: &Cluster, object: &Value) -> Value {
    let programmed = || async {
        let mut status = cluster.get(object).await?["status"].take();
        let conditions = status["conditions"].as_array_mut()?;
        conditions.retain(|c| !FOLLOWING.iter().any(|type_| c["type"] == *type_));
        conditions.iter().any(|c| c["type"] == "Programmed" && c["status"] == "True").then_some(status)
    };
    wait::until(&format!("a programmed {}", object["kind"]), programmed).await
}

#[tokio::test]
async fn it_is_told_while_the_namespace_has_the_label_and_nothing_else_changes() {
    let mut pair = Pair::new(&["reviews"]).await;
    let [exposed, bound] = [policy("shop", "cart", &["acceptor"]), binding("shop", "cart", "donor")];
    pair.donor.cluster.make_namespace("shop").await;
    pair.acceptor.cluster.make_namespace("shop").await;
    pair.donor.cluster.apply(&service("shop", "cart")).await;
    pair.donor.cluster.apply(&exposed).await;
    pair.acceptor.cluster.apply(&bound).await;
    let acknowledged = || async {
        let exposed = pair.donor.cluster.get(&exposed).await?;
        (exposed["status"]["summary"]["boundBy"] == "acceptor").then_some(())
    };
    wait::until("a binding that is acknowledged", acknowledged).await;
    let sides = [(&pair.donor.cluster, &exposed), (&pair.acceptor.cluster, &bound)];
    let mut before = Vec::new();
    for (cluster, object) in sides {
        before.push((rest(cluster, object).await, cluster.written().await));
        tells(cluster, object, false).await;
    }
    for mode in [Some("ambient"), Some("none"), Some("ambient"), None, Some("ambient")] {
        for ((cluster, object), (status, written)) in sides.into_iter().zip(&before) {
            label(cluster, "shop", mode).await;
            tells(cluster, object, mode == Some("ambient")).await;
            assert_eq!(rest(cluster, object).await, *status);
            assert_eq!(cluster.written().await, *written);
        }
    }
    for (cluster, object) in sides {
        wait::until("an Event", || async {
            let events = cluster.list(&kind_of("events.k8s.io/v1", "Event")).await;
            let told = |e: &Value| e["reason"] == "AmbientMode" && e["regarding"]["kind"] == object["kind"];
            events.iter().any(told).then_some(())
        })
        .await;
    }
    tells(&pair.donor.cluster, &policy("default", "reviews", &[]), false).await;
    tells(&pair.acceptor.cluster, &binding("default", "reviews", "donor"), false).await;

    // A start finds what it told before, and what is not so any more.
    pair.acceptor.as_from_a_fresh_start().await;
    tells(&pair.acceptor.cluster, &bound, true).await;
    pair.acceptor.agent.stop();
    label(&pair.acceptor.cluster, "shop", None).await;
    pair.acceptor.agent.started().await;
    tells(&pair.acceptor.cluster, &bound, false).await;
    pair.donor.cluster.delete(&exposed).await;
    pair.acceptor.cluster.delete(&bound).await;
    pair.recovers().await;
}

/// Waits until the only entry of a policy has this reason.
async fn is_told(cluster: &Cluster, policy: &Value, reason: &str) {
    wait::until(&format!("an entry that is {reason}"), || async {
        (cluster.get(policy).await?["status"]["exposed"][0]["reason"] == reason).then_some(())
    })
    .await;
}

#[tokio::test]
async fn passthrough_opens_no_gateway_without_the_operators_word_or_in_an_ambient_namespace() {
    let cluster = Cluster::new().await;
    for namespace in ["wharf-system", "istio-system", "shop", "team"] {
        cluster.make_namespace(namespace).await;
    }
    label(&cluster, "team", Some("ambient")).await;
    let wishes = ["shop", "team"].map(|namespace| {
        let mut wish = policy(namespace, "cart", &["cluster2"]);
        wish["spec"]["exposed"][0]["tls"] = "Passthrough".into();
        wish
    });
    for (namespace, wish) in ["shop", "team"].iter().zip(&wishes) {
        cluster.apply(&service(namespace, "cart")).await;
        cluster.apply(wish).await;
    }
    let peers = ["{name: cluster2, consume: true}".to_owned()];
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0");
    agent.configure("", &peers);
    agent.started().await;
    for wish in &wishes {
        is_told(&cluster, wish, "SidecarsMissing").await;
    }
    assert!(cluster.written().await.is_empty());
    agent.stop();

    agent.configure("passthrough: {trustSidecars: true}\n", &peers);
    agent.started().await;
    let gateways = || async {
        let written = cluster.written().await;
        written.keys().filter(|key| key.starts_with("Gateway ")).cloned().collect::<Vec<_>>()
    };
    is_told(&cluster, &wishes[0], "Exposed").await;
    is_told(&cluster, &wishes[1], "SidecarsMissing").await;
    assert_eq!(gateways().await, ["Gateway istio-system/istio-ingressgateway-cart-shop"]);
    label(&cluster, "shop", Some("ambient")).await;
    is_told(&cluster, &wishes[0], "SidecarsMissing").await;
    wait::until("no gateway is open", || async { gateways().await.is_empty().then_some(()) }).await;
    label(&cluster, "shop", None).await;
    is_told(&cluster, &wishes[0], "Exposed").await;
}

/// The rights of an agent that may look at these namespaces only.
fn confined(namespaces: &[&str]) -> Value {
    let mut rules = rights();
    for rule in rules.as_array_mut().expect("rules") {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| resource != "namespaces");
        }
    }
    let named = |names: &[&str], verbs: &[&str]| json!({"apiGroups": [""], "resources": ["namespaces"], "resourceNames": names, "verbs": verbs});
    let more = [named(&["kube-system"], &["get"]), named(namespaces, &["list", "watch"])];
    rules.as_array_mut().expect("rules").extend(more);
    rules
}

/// Waits until the agent says that it may not look at the namespace `team`, or that nothing is wrong.
async fn complains(agent: &Agent, wanted: bool) {
    wait::until(&format!("a complaint: {wanted}"), || async {
        let problems = agent.status()?.problems;
        let about_it = |place: &str, message: &str| {
            place.contains("namespace team") && message.contains("cannot list resource \"namespaces\"")
        };
        let complains = problems.iter().any(|p| about_it(&p.place, &p.message));
        (if wanted { complains } else { problems.is_empty() }).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_confined_agent_asks_for_its_own_namespaces_only_and_says_which_right_is_missing() {
    let cluster = Cluster::new().await;
    let account = cluster.account("wharf-system", "wharf").await;
    cluster.allow(&account, &confined(&["shop"])).await;
    for namespace in ["istio-system", "shop", "team"] {
        cluster.make_namespace(namespace).await;
    }
    let wishes = ["shop", "team"].map(|namespace| policy(namespace, "cart", &[]));
    for wish in &wishes {
        cluster.apply(wish).await;
    }
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0").with_account(&account);
    agent.configure("store: {kube: {namespaces: [shop, team]}}\n", &[]);
    agent.started().await; // without one of the rights
    complains(&agent, true).await;
    label(&cluster, "team", Some("ambient")).await;
    label(&cluster, "shop", Some("ambient")).await;
    tells(&cluster, &wishes[0], true).await;
    tells(&cluster, &wishes[1], false).await; // nobody knows
    cluster.allow(&account, &confined(&["shop", "team"])).await;
    tells(&cluster, &wishes[1], true).await;
    complains(&agent, false).await;

    // What was told stays while it is not known.
    agent.stop();
    cluster.allow(&account, &confined(&["shop"])).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client_of(&account).await);
    let team = ListParams::default().fields("metadata.name=team");
    wait::until("no right", || async { namespaces.list(&team).await.is_err().then_some(()) }).await;
    agent.started().await;
    complains(&agent, true).await;
    tells(&cluster, &wishes[1], true).await;
    label(&cluster, "team", None).await;
    cluster.allow(&account, &confined(&["shop", "team"])).await;
    tells(&cluster, &wishes[1], false).await;
    tells(&cluster, &wishes[0], true).await;
    complains(&agent, false).await;
}
