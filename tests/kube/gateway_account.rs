//! A gateway's service account that may not read the Secret: istiod keeps the certificate from the gateway without a word,
//! and nothing that needs it is called good.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::objects::{binding, policy, rights, service};
use crate::support::{Agent, Cluster, Pki, wait};

const DENIED: &str = "CredentialNotReadable";
const USABLE: &str = "GatewayUsable";
/// The agent asks again after 15 s, and after 30 s while all is well; the machine may be busy.
const NEXT_ANSWER: Duration = Duration::from_secs(150);
const RBAC: &str = "rbac.authorization.k8s.io";

/// A policy in the mode `Cluster`, and one in a mode in which the gateway shows another certificate.
fn policies() -> [Value; 2] {
    let mut workload = policy("shop", "basket", &["cluster2"]);
    workload["spec"]["exposed"][0]["tls"] = "Workload".into();
    [policy("shop", "cart", &["cluster2"]), workload]
}

async fn prepare(cluster: &Cluster) {
    for namespace in ["wharf-system", "istio-system", "edge", "shop"] {
        cluster.make_namespace(namespace).await;
    }
    for name in ["cart", "basket"] {
        cluster.apply(&service("shop", name)).await;
    }
    for policy in policies() {
        cluster.apply(&policy).await;
    }
}

fn consumer() -> Vec<String> {
    vec!["{name: cluster2, consume: true}".to_owned()]
}

async fn is(cluster: &Cluster, object: &Value, type_: &str, wanted: Option<(&str, &str)>) {
    let wanted = wanted.map(|(status, reason)| (status.to_owned(), reason.to_owned()));
    wait::within(NEXT_ANSWER, &format!("{} {type_}: {wanted:?}", object["metadata"]["name"]), || async {
        (cluster.condition(object, type_).await == wanted).then_some(())
    })
    .await;
}

async fn message(cluster: &Cluster, object: &Value, type_: &str) -> String {
    let status = cluster.get(object).await.expect("it is there")["status"].take();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == type_).expect("a condition");
    found["message"].as_str().unwrap_or_default().to_owned()
}

/// A Role for reading Secrets in `edge`, and its binding.
fn role_for(subject: &Value) -> [Value; 2] {
    let meta = json!({"name": "secrets", "namespace": "edge"});
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]);
    [
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": meta, "rules": rules}),
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": meta, "subjects": [subject],
               "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "secrets"}}),
    ]
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "edge"}})
}

#[tokio::test]
async fn a_gateway_that_may_not_read_the_secret_is_not_called_good_until_the_told_commands_were_run() {
    let cluster = Cluster::new().await;
    prepare(&cluster).await;
    // Istiod asks for the account by its user alone: what its groups may do counts for nothing.
    let group = json!({"kind": "Group", "apiGroup": RBAC, "name": "system:serviceaccounts:edge"});
    for object in role_for(&group) {
        cluster.apply(&object).await;
    }
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0");
    agent.configure("ingress: {address: 192.0.2.1, namespace: edge, serviceAccount: door}\n", &consumer());
    agent.started().await;
    let [shown, other] = policies();
    is(&cluster, &shown, USABLE, Some(("False", DENIED))).await;
    is(&cluster, &shown, "Ready", Some(("False", DENIED))).await;
    is(&cluster, &other, "Ready", Some(("True", "Ready"))).await;
    is(&cluster, &other, USABLE, None).await;
    let status = cluster.get(&shown).await.expect("it is there")["status"].take();
    assert_eq!(status["exposed"][0]["offeredTo"], json!(["cluster2"]), "what may work is left in place");
    let told = message(&cluster, &shown, USABLE).await;
    let start = "ServiceAccount edge/door: it may not list Secrets in edge, so istiod keeps the Secret wharf-identity";
    assert!(told.starts_with(start), "{told}");

    for command in told.split("kubectl ").skip(1) {
        let args: Vec<&str> = command.trim_end().trim_end_matches(';').split(' ').collect();
        cluster.kubectl(&args).ok();
    }
    is(&cluster, &shown, USABLE, None).await;
    is(&cluster, &shown, "Ready", Some(("True", "Ready"))).await;

    // The binding of the Role stays, so that the API server calls its own answer a failed evaluation.
    let meta = json!({"name": "door-sds", "namespace": "edge"});
    cluster.delete(&json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": meta})).await;
    is(&cluster, &shown, USABLE, Some(("False", DENIED))).await;
    assert!(agent.stop().0.success());
}

#[tokio::test]
async fn an_account_that_is_only_assumed_is_doubted_if_it_is_there_and_never_claimed_without_a_right_to_ask() {
    let cluster = Cluster::new().await;
    prepare(&cluster).await;
    let agents = cluster.account("wharf-system", "wharf").await;
    let mut less = rights();
    less.as_array_mut().expect("rules").retain(|rule| rule["apiGroups"] != json!(["authorization.k8s.io"]));
    cluster.allow(&agents, &less).await;
    cluster.apply(&account("istio-ingressgateway-service-account")).await;
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0").with_account(&agents);
    agent.configure("ingress: {address: 192.0.2.1, namespace: edge}\n", &consumer());
    agent.started().await;
    let [shown, _] = policies();
    is(&cluster, &shown, "Ready", Some(("True", "Ready"))).await;
    wait::until("a word about the missing right", || async {
        agent.log().contains("localsubjectaccessreviews").then_some(())
    })
    .await;
    assert_eq!(cluster.condition(&shown, USABLE).await, None);

    cluster.allow(&agents, &rights()).await;
    is(&cluster, &shown, "Ready", Some(("Unknown", DENIED))).await;
    let told = message(&cluster, &shown, "Ready").await;
    for part in ["edge/istio-ingressgateway-service-account", "set ingress.serviceAccount"] {
        assert!(told.contains(part), "{told}");
    }
    let user = json!({"kind": "ServiceAccount", "name": "istio-ingressgateway-service-account", "namespace": "edge"});
    for object in role_for(&user) {
        cluster.apply(&object).await;
    }
    is(&cluster, &shown, "Ready", Some(("True", "Ready"))).await;
    is(&cluster, &shown, USABLE, None).await;
    assert!(agent.stop().0.success());
}

#[tokio::test]
async fn where_no_account_of_a_gateway_is_known_nothing_is_claimed() {
    let cluster = Cluster::new().await;
    prepare(&cluster).await;
    cluster.apply(&account("somebody")).await;
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0");
    agent.configure("ingress: {address: 192.0.2.1, namespace: edge}\n", &consumer());
    agent.started().await;
    let [shown, _] = policies();
    is(&cluster, &shown, "Ready", Some(("True", "Ready"))).await;
    assert_eq!(cluster.condition(&shown, USABLE).await, None);
    assert!(agent.stop().0.success());
}

#[tokio::test]
async fn a_binding_needs_the_egress_gateways_account() {
    let [here, there] = Cluster::several().await;
    prepare(&there).await;
    for namespace in ["wharf-system", "istio-system", "edge", "shop"] {
        here.make_namespace(namespace).await;
    }
    let mut egress = service("edge", "istio-egressgateway");
    egress["spec"]["ports"] = json!([{"name": "tls", "port": 15443}]);
    here.apply(&egress).await;
    let pki = Pki::new();
    let mut donor = Agent::new(&there, &pki, "cluster1", "wharf-0");
    donor.configure("ingress: {address: 192.0.2.1, namespace: edge}\n", &consumer());
    donor.started().await;
    let mut agent = Agent::new(&here, &pki, "cluster2", "wharf-0");
    agent.configure("egress: {namespace: edge, serviceAccount: out}\n", &[donor.as_donor()]);
    agent.started().await;
    let bound = binding("shop", "cart", "cluster1");
    here.apply(&bound).await;
    is(&here, &bound, "Programmed", Some(("True", "Programmed"))).await;
    is(&here, &bound, USABLE, Some(("False", DENIED))).await;
    is(&here, &bound, "Ready", Some(("False", DENIED))).await;
    let told = message(&here, &bound, USABLE).await;
    assert!(told.contains("kubectl -n edge create rolebinding out-sds"), "{told}");
    assert!(agent.stop().0.success() && donor.stop().0.success());
}
