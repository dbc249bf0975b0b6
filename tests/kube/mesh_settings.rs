//! The settings of the donor's own mesh, from Istio's ConfigMap: what the mesh refuses in the mode `Passthrough` is not
//! offered and not called good, and nothing is taken away because they cannot be read.

use serde_json::{Value, json};

use crate::support::objects::{policy, rights, service};
use crate::support::{Account, Agent, Cluster, Pki, wait};

const REFUSED: &str = "TrustDomainNotAccepted";
const UNKNOWN: &str = "which is not known here";
const OWN: &str = "trustDomain: cluster1.example\n";

fn settings(mesh: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": mesh, "meshNetworks": "networks: {}"},
    })
}

fn through() -> Value {
    let mut policy = policy("shop", "cart", &["cluster2", "cluster3"]);
    policy["spec"]["exposed"][0]["tls"] = "Passthrough".into();
    policy
}

/// A donor, not started yet, of a policy in the mode `Passthrough` for two clusters with trust domains of their own.
async fn donor(cluster: &Cluster, account: Option<&Account>) -> Agent {
    for namespace in ["wharf-system", "istio-system", "shop"] {
        cluster.make_namespace(namespace).await;
    }
    cluster.apply(&service("shop", "cart")).await;
    cluster.apply(&through()).await;
    let agent = Agent::new(cluster, &Pki::new(), "cluster1", "wharf-0");
    let agent = match account {
        Some(account) => agent.with_account(account),
        None => agent,
    };
    let peer = |name: &str| format!("{{name: {name}, consume: true, trustDomain: {name}.example}}");
    agent.configure(&format!("{OWN}passthrough: {{trustSidecars: true}}\n"), &[peer("cluster2"), peer("cluster3")]);
    agent
}

/// Waits until the only entry has this reason and is offered to these clusters. Returns its message.
async fn is_told(cluster: &Cluster, reason: &str, offered: &[&str]) -> String {
    wait::until(&format!("{reason}, offered to {offered:?}"), || async {
        let entry = cluster.get(&through()).await?["status"]["exposed"].get(0)?.clone();
        let same = entry["reason"] == reason && entry["offeredTo"].as_array().map_or(0, Vec::len) == offered.len();
        let all = offered.iter().all(|name| entry["offeredTo"].as_array().is_some_and(|to| to.contains(&json!(name))));
        (same && all).then(|| entry["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

async fn condition(cluster: &Cluster, type_: &str) -> (String, String) {
    cluster.condition(&through(), type_).await.unwrap_or_default()
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn what_the_mesh_refuses_is_not_offered_until_its_settings_accept_it() {
    let cluster = Cluster::new().await;
    let mut agent = donor(&cluster, None).await;
    cluster.apply(&settings(&format!("{OWN}trustDomainAliases: [cluster3.example]\n"))).await;
    agent.started().await;
    let message = is_told(&cluster, REFUSED, &["cluster3"]).await;
    for part in [
        "trust domain cluster2.example of cluster2",
        "get 503",
        "ConfigMap istio-system/istio",
        "caCertificates: [{pem: (the root of cluster2's mesh), trustDomains: [cluster2.example]}]",
    ] {
        assert!(message.contains(part), "{message}");
    }
    wait::until("a word about it in the conditions", || async {
        let ready = condition(&cluster, "Ready").await == pair("False", REFUSED);
        (ready && condition(&cluster, "Exposed").await == pair("False", REFUSED)).then_some(())
    })
    .await;
    wait::until("all objects are in place", || async {
        (condition(&cluster, "Programmed").await.0 == "True").then_some(())
    })
    .await;
    let written = cluster.written().await;
    assert!(written.keys().any(|key| key.starts_with("AuthorizationPolicy ")), "{:?}", written.keys());

    let both = format!(
        "{OWN}trustDomainAliases: [cluster3.example]\ncaCertificates: [{{pem: x, trustDomains: [cluster2.example]}}]\n"
    );
    cluster.apply(&settings(&both)).await;
    let message = is_told(&cluster, "Exposed", &["cluster2", "cluster3"]).await;
    assert!(!message.contains(UNKNOWN), "{message}");
    wait::until("it is ready", || async { (condition(&cluster, "Ready").await.0 == "True").then_some(()) }).await;
    cluster.apply(&settings(OWN)).await;
    let message = is_told(&cluster, REFUSED, &[]).await;
    assert!(message.contains("cluster2.example of cluster2, cluster3.example of cluster3"), "{message}");
    cluster.delete(&settings("")).await;
    let message = is_told(&cluster, "Exposed", &["cluster2", "cluster3"]).await;
    assert!(message.contains(UNKNOWN), "{message}");
    assert_eq!(cluster.written().await, written, "what others have open with the pods goes on");

    // A start finds the same.
    cluster.apply(&settings(OWN)).await;
    is_told(&cluster, REFUSED, &[]).await;
    assert!(agent.stop().0.success());
    agent.started().await;
    is_told(&cluster, REFUSED, &[]).await;
    assert_eq!(cluster.written().await, written);
    cluster.apply(&settings(&both)).await;
    is_told(&cluster, "Exposed", &["cluster2", "cluster3"]).await;
}

/// The rights of an agent, but for Istio's ConfigMap.
fn without_settings() -> Value {
    let mut rights = rights();
    for rule in rights.as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| resource != "configmaps");
        }
    }
    rights
}

fn complains(agent: &Agent, place: &str) -> bool {
    agent.status().is_some_and(|view| view.problems.iter().any(|problem| problem.place == place))
}

#[tokio::test]
async fn settings_that_cannot_be_read_take_nothing_away_and_are_not_called_good() {
    const WATCH: &str = "API server, ConfigMap istio-system/istio";
    const CONTENT: &str = "ConfigMap istio-system/istio";
    let cluster = Cluster::new().await;
    let account = cluster.account("wharf-system", "wharf").await;
    cluster.allow(&account, &without_settings()).await;
    let mut agent = donor(&cluster, Some(&account)).await;
    cluster.apply(&settings(OWN)).await;
    agent.started().await;
    let both = ["cluster2", "cluster3"];
    let message = is_told(&cluster, "Exposed", &both).await;
    assert!(message.contains(UNKNOWN), "{message}");
    wait::until("it says what it may not read", || async { complains(&agent, WATCH).then_some(()) }).await;

    cluster.allow(&account, &rights()).await;
    is_told(&cluster, REFUSED, &[]).await;
    wait::until("no word of it", || async { (!complains(&agent, WATCH)).then_some(()) }).await;
    let written = cluster.written().await;
    for hostile in ["[", "trustDomainAliases: cluster2.example", &format!("trustDomain: {}", "a".repeat(100_000))] {
        cluster.apply(&settings(hostile)).await;
        let message = is_told(&cluster, "Exposed", &both).await;
        assert!(message.contains(UNKNOWN), "{message}");
        wait::until("it says what it does not understand", || async { complains(&agent, CONTENT).then_some(()) }).await;
        cluster.apply(&settings(OWN)).await;
        is_told(&cluster, REFUSED, &[]).await;
        assert!(!complains(&agent, CONTENT));
    }
    // Other settings than the configuration's are a problem of their own.
    cluster.apply(&settings("trustDomain: elsewhere\nrootNamespace: mesh\n")).await;
    for place in ["configuration, trustDomain", "configuration, istiod.rootNamespace"] {
        wait::until(place, || async { complains(&agent, place).then_some(()) }).await;
    }
    assert_eq!(cluster.written().await, written);
}
