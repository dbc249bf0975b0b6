//! A cluster with the chart's agent in it, with the rights of the chart's account and nothing more; and a peer.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rights::install;
use super::{MINIMAL, NAMESPACE, one, rendered};
use crate::support::{Account, Agent, Cluster, Pki, wait};

pub struct Site {
    pub here: Cluster,
    pub there: Cluster,
    /// Of `here`, cluster1.
    pub agent: Agent,
    /// Of `there`, cluster2: as its administrator.
    pub peer: Agent,
    pub account: Account,
    /// The namespace of its gateways.
    gateways: &'static str,
    /// Events of the audit before this one are of others.
    begun: usize,
}

const API: &str = "multicluster.istio.io/v1alpha1";

/// What an agent writes for a policy and a binding: kinds and where they are.
const WRITTEN: [(&str, &str); 7] = [
    ("networking.istio.io/v1", "Gateway"),
    ("networking.istio.io/v1", "VirtualService"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("networking.istio.io/v1alpha3", "EnvoyFilter"),
    ("v1", "Service"),
];

pub fn policy() -> Value {
    let clusters = ["cluster2"];
    json!({
        "apiVersion": API, "kind": "ServiceExpositionPolicy", "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"exposed": [
            {"name": "reviews", "subset": "v1", "clusters": clusters},
            // Its permission is an AuthorizationPolicy.
            {"name": "reviews", "alias": "inside", "tls": "Passthrough", "clusters": clusters},
            // And of this one an EnvoyFilter.
            {"name": "reviews", "alias": "mesh", "tls": "Workload", "clusters": clusters},
        ]},
    })
}

pub fn binding() -> Value {
    json!({
        "apiVersion": API, "kind": "RemoteServiceBinding", "metadata": {"name": "ratings", "namespace": "shop"},
        "spec": {"remote": [{"cluster": "cluster2", "services": [{"name": "ratings"}]}]},
    })
}

/// What the peer exposes: one service that is bound by hand, and one that becomes a binding by itself.
fn offers() -> Value {
    let exposed =
        [json!({"name": "ratings", "clusters": ["cluster1"]}), json!({"name": "details", "clusters": ["cluster1"]})];
    json!({
        "apiVersion": API, "kind": "ServiceExpositionPolicy", "metadata": {"name": "offers", "namespace": "shop"},
        "spec": {"exposed": exposed},
    })
}

fn service(namespace: &str, name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"name": "http", "port": 9080}]},
    })
}

fn rules() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]},
    })
}

/// Something of this kind, for [`Cluster::list`].
fn like(api: &str, kind: &str) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {}})
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "wharf"
}

impl Site {
    /// Both clusters, and the peer's agent; the agent is not started yet. `more` are arguments of helm.
    pub async fn new(more: &[&str]) -> Site {
        Site::beside("istio-system", "istio-ingressgateway", more).await
    }

    /// The same beside this ingress gateway, by its namespace and Service.
    pub async fn beside(gateways: &'static str, gateway: &str, more: &[&str]) -> Site {
        let [here, there] = Cluster::several().await;
        let begun = here.audit().len();
        let trusting = ["--set", "passthrough.trustSidecars=true"];
        let account = install(&here, MINIMAL, "wharf", &[&trusting, more].concat()).await;
        for namespace in ["shop", "imports"] {
            here.make_namespace(namespace).await;
        }
        there.make_namespace("istio-system").await;
        there.make_namespace("shop").await;
        for object in [service("shop", "ratings", "ClusterIP"), service("shop", "details", "ClusterIP")] {
            there.apply(&object).await;
        }
        for object in [service("shop", "reviews", "ClusterIP"), rules()] {
            here.apply(&object).await;
        }
        let door = json!({"name": gateway, "namespace": gateways});
        here.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": door})).await;
        let mut ingress = service(gateways, gateway, "LoadBalancer");
        ingress["spec"]["ports"] = json!([{"name": "tls", "port": 15443}]);
        let ingress = here.apply(&ingress).await;
        here.merge_status(&ingress, &json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).await;

        let pki = Pki::new();
        identity(&here, &pki);
        let agent = Agent::new(&here, &pki, "cluster1", "wharf-0").with_account(&account);
        let peer = Agent::new(&there, &pki, "cluster2", "peer-0");
        fs::write(&agent.config, config(&agent, &[&trusting, more].concat())).expect("a file");
        peer.configure("", &[format!("{{name: cluster1, endpoint: \"{}\", consume: true}}", agent.peering)]);
        Site { here, there, agent, peer, account, gateways, begun }
    }

    fn peering(&self) -> Value {
        json!({
            "apiVersion": API, "kind": "ClusterPeering", "metadata": {"name": "cluster2"},
            "spec": {
                "endpoint": self.peer.peering.to_string(), "consume": true, "connectionMode": "live", "namespace": "imports",
            },
        })
    }

    /// The operators of both clusters share services both ways.
    pub async fn share(&self) {
        self.here.apply(&self.peering()).await;
        self.there.apply(&offers()).await;
        self.here.apply(&policy()).await;
        self.here.apply(&binding()).await;
    }

    /// The names of what there is of Wharf's in this cluster, of each kind.
    async fn written(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut all = Vec::new();
        for (api, kind) in WRITTEN {
            let objects = self.here.list(&like(api, kind)).await;
            let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            all.push((kind, objects.iter().filter(|o| is_ours(o)).map(name).collect()));
        }
        all
    }

    async fn secret(&self) -> Option<Value> {
        let name = json!({"name": "wharf-identity", "namespace": self.gateways});
        self.here.get(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": name})).await
    }

    /// The ConfigMaps in which it keeps what it heard of the peer.
    async fn memory(&self) -> Vec<Value> {
        let like = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE}});
        let mut maps = self.here.list(&like).await;
        maps.retain(|map| is_ours(map) && map["metadata"]["name"].to_string().contains("cluster2"));
        maps
    }

    /// The bindings that the agent made by itself.
    async fn proposed(&self) -> Vec<Value> {
        let like = json!({"apiVersion": API, "kind": "RemoteServiceBinding", "metadata": {"namespace": "imports"}});
        self.here.list(&like).await
    }

    /// Whether an object has a status of this agent's that says all is well.
    async fn works(&self, object: &Value, condition: &str) -> bool {
        let found = self.here.get(object).await.unwrap_or_default();
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == condition && c["status"] == "True")
    }

    /// Whether the peering's status says that the peer is there.
    pub async fn is_connected(&self) -> bool {
        self.works(&self.peering(), "Connected").await
    }

    /// The kinds of what Events tell of.
    pub async fn told_of(&self) -> Vec<String> {
        let events = self.events().await;
        events.iter().filter_map(|e| e["regarding"]["kind"].as_str().map(str::to_owned)).collect()
    }

    pub async fn events(&self) -> Vec<Value> {
        self.here.list(&like("events.k8s.io/v1", "Event")).await
    }

    /// What is missing of all that comes of [`Site::share`].
    async fn missing(&self) -> Vec<String> {
        let written = self.written().await;
        let mut missing: Vec<_> =
            written.iter().filter(|(_, names)| names.is_empty()).map(|(kind, _)| (*kind).to_owned()).collect();
        let mut want = |there: bool, what: &str| {
            if !there {
                missing.push(what.to_owned());
            }
        };
        want(self.works(&policy(), "Programmed").await, "the policy's status");
        want(self.works(&binding(), "Programmed").await, "the binding's status");
        want(self.works(&self.peering(), "Connected").await, "the peering's status");
        want(!self.proposed().await.is_empty(), "a binding made by the agent");
        want(!self.memory().await.is_empty(), "what was heard of the peer");
        want(self.secret().await.is_some(), "the gateways' certificate");
        let told = self.told_of().await;
        for kind in ["ServiceExpositionPolicy", "RemoteServiceBinding"] {
            want(told.iter().any(|of| of == kind), &format!("an Event of a {kind}"));
        }
        missing
    }

    /// Waits until all is there that comes of [`Site::share`].
    pub async fn shared(&self) {
        wait_for_none("all that sharing comes to", || self.missing()).await;
    }

    /// The operators take everything back, and nothing of it is left.
    pub async fn unshare(&self) {
        self.there.delete(&offers()).await;
        self.here.delete(&policy()).await;
        self.here.delete(&binding()).await;
        wait_for_none("nothing is left", || self.left()).await;
        self.here.delete(&self.peering()).await;
        wait_for_none("nothing is remembered", || async {
            self.memory().await.iter().map(|map| map["metadata"]["name"].to_string()).collect()
        })
        .await;
    }

    async fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self.written().await.into_iter().flat_map(|(_, names)| names).collect();
        left.extend(self.proposed().await.iter().map(|b| b["metadata"]["name"].to_string()));
        left
    }

    /// The Lease, which an agent leaves behind and the next one takes.
    pub async fn forget_lease(&self) {
        let name = json!({"name": "wharf", "namespace": NAMESPACE});
        self.here.delete(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": name})).await;
    }

    /// All that the agent's account asked the API server for, in this test.
    pub fn asked(&self) -> Vec<Value> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{}", self.account.name);
        let events = self.here.audit().into_iter().skip(self.begun);
        events.filter(|event| event["user"]["username"] == user.as_str()).collect()
    }
}

/// Waits until a list of what is wrong is empty; else shows it.
async fn wait_for_none<F: Future<Output = Vec<String>>>(what: &str, mut wrong: impl FnMut() -> F) {
    let deadline = Instant::now() + wait::PATIENCE;
    loop {
        let now = wrong().await;
        if now.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not seen in {:?}: {what}: {now:?}", wait::PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The Secret of the agent's certificate, as docs/install.md says to make it.
fn identity(cluster: &Cluster, pki: &Pki) {
    pki.issue("cluster1");
    let file = |name: &str| format!("--from-file={}", pki.path().join(name).display());
    let files = ["cluster1.crt", "cluster1.key", "ca.crt"].map(file);
    let mut args = vec!["-n", NAMESPACE, "create", "secret", "generic", "wharf-certificate"];
    args.extend(files.iter().map(String::as_str));
    cluster.kubectl(&args).ok();
}

/// The rendered configuration. All "pods" here share the machine's addresses, so each has its own instead of 0.0.0.0.
pub fn config(agent: &Agent, more: &[&str]) -> String {
    let objects = rendered(MINIMAL, more);
    let text = one(&objects, "ConfigMap")["data"]["config.yaml"].as_str().expect("a file").to_owned();
    let with =
        text.replace("0.0.0.0:7443", &agent.peering.to_string()).replace("0.0.0.0:7444", &agent.admin.to_string());
    assert_ne!(with, text);
    with
}
