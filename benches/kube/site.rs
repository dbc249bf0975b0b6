//! Two clusters with an agent each, and what is applied there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::eye::Eye;
use crate::support::{Agent, Cluster, Pki, wait};

const API: &str = "multicluster.istio.io/v1alpha1";
/// Requests at a time at each API server: as many as Wharf has.
const TURNS: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Donor,
    Acceptor,
}

pub struct Site {
    pub donor: Cluster,
    pub acceptor: Cluster,
    giver: Agent,
    taker: Agent,
}

/// What Wharf makes of one policy and its binding.
pub struct Pattern {
    /// The service's. It is part of many names.
    pub name: String,
    donor: Vec<Value>,
    acceptor: Vec<Value>,
    /// The policy's, the binding's.
    statuses: [Value; 2],
}

impl Pattern {
    pub fn at(&self, side: Side) -> &[Value] {
        if side == Side::Donor { &self.donor } else { &self.acceptor }
    }

    pub fn kinds(&self, side: Side) -> BTreeSet<String> {
        self.at(side).iter().map(|o| o["kind"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

pub fn name(i: usize) -> String {
    format!("s{i:04}x")
}

pub fn service(namespace: &str, i: usize) -> Value {
    let (name, http, more) = (name(i), json!({"name": "http", "port": 8080}), json!({"name": "http-b", "port": 8081}));
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [http, more]},
    })
}

pub fn policy(namespace: &str, i: usize) -> Value {
    let name = name(i);
    json!({
        "apiVersion": API, "kind": "ServiceExpositionPolicy", "metadata": {"name": name, "namespace": namespace},
        "spec": {"exposed": [{"name": name, "port": 8080, "clusters": ["acceptor"]}]},
    })
}

pub fn binding(namespace: &str, i: usize) -> Value {
    let name = name(i);
    json!({
        "apiVersion": API, "kind": "RemoteServiceBinding", "metadata": {"name": name, "namespace": namespace},
        "spec": {"remote": [{"cluster": "donor", "services": [{"name": name}]}]},
    })
}

pub fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "Service" => ("", "v1"),
        "AuthorizationPolicy" => ("security.istio.io", "v1"),
        "EnvoyFilter" => ("networking.istio.io", "v1alpha3"),
        "ServiceExpositionPolicy" | "RemoteServiceBinding" => API.split_once('/').expect("a group"),
        _ => ("networking.istio.io", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// An object as it could be applied.
fn bare(object: DynamicObject, kind: &str) -> Value {
    let m = object.metadata;
    let mut spec = object.data["spec"].clone();
    if kind == "Service" {
        let filled_in = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"];
        spec.as_object_mut().expect("a spec").retain(|key, _| !filled_in.contains(&key.as_str()));
    }
    json!({
        "apiVersion": resource(kind).api_version, "kind": kind, "spec": spec,
        "metadata": {"name": m.name, "namespace": m.namespace, "labels": m.labels, "annotations": m.annotations},
    })
}

/// When the last was seen.
pub async fn all_seen(eyes: &mut [(Eye, usize)], begun: Instant) -> Instant {
    let mut last = begun;
    for (eye, wanted) in eyes {
        last = last.max(eye.see(*wanted).await);
    }
    last
}

impl Site {
    pub async fn new() -> Site {
        let [donor, acceptor] = Cluster::several().await;
        for cluster in [&donor, &acceptor] {
            for namespace in ["shop", "floor", "istio-system", "wharf-system"] {
                cluster.make_namespace(namespace).await;
            }
        }
        // Without it no binding is ready.
        let metadata = json!({"name": "istio-egressgateway", "namespace": "istio-system"});
        let spec = json!({"selector": {"istio": "egressgateway"}, "ports": [{"name": "tls", "port": 15443}]});
        let egress = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        acceptor.apply(&egress).await;
        let pki = Pki::new();
        let giver = Agent::new(&donor, &pki, "donor", "donor-0");
        let taker = Agent::new(&acceptor, &pki, "acceptor", "acceptor-0");
        Site { donor, acceptor, giver, taker }
    }

    pub fn configure(&self, more: &str) {
        self.giver.configure(more, &[self.taker.as_consumer()]);
        self.taker.configure(more, &[self.giver.as_donor()]);
    }

    pub async fn start(&mut self) {
        self.giver.started().await;
        self.taker.started().await;
        wait::until("in step", || async { self.in_step().then_some(()) }).await;
        self.at_rest().await;
    }

    pub fn stop(&mut self) {
        self.giver.stop();
        self.taker.stop();
    }

    pub fn agent(&mut self, side: Side) -> &mut Agent {
        if side == Side::Donor { &mut self.giver } else { &mut self.taker }
    }

    pub fn agents(&self) -> [&Agent; 2] {
        [&self.giver, &self.taker]
    }

    pub fn cluster(&self, side: Side) -> &Cluster {
        if side == Side::Donor { &self.donor } else { &self.acceptor }
    }

    /// Whether the acceptor is subscribed, and the donor knows it.
    pub fn in_step(&self) -> bool {
        self.giver.metric("wharf_peer_subscriptions{peer=\"acceptor\"}") == Some(1.0)
            && self.taker.metric("wharf_peer_connected{peer=\"donor\"}") == Some(1.0)
    }

    /// Waits until nothing was stored for a while but Leases.
    pub async fn at_rest(&self) {
        let revisions = || [&self.donor, &self.acceptor].map(Cluster::revision);
        loop {
            let before = revisions();
            tokio::time::sleep(Duration::from_secs(4)).await; // memories are written after two
            let after = revisions();
            if before.iter().zip(after).all(|(before, after)| after - before <= 6) {
                return;
            }
        }
    }

    pub fn api(&self, side: Side, kind: &str) -> Api<DynamicObject> {
        Api::all_with(self.cluster(side).client(), &resource(kind))
    }

    pub async fn eye(&self, side: Side, kind: &str) -> Eye {
        Eye::open(self.api(side, kind), |_| true).await
    }

    /// See what comes of so many policies and bindings, each with the number that it is to see.
    pub async fn eyes(&self, pattern: &Pattern, count: usize) -> Vec<(Eye, usize)> {
        let mut eyes = Vec::new();
        for side in [Side::Donor, Side::Acceptor] {
            for kind in pattern.kinds(side) {
                let of_kind = pattern.at(side).iter().filter(|o| o["kind"] == kind).count();
                eyes.push((self.eye(side, &kind).await, of_kind * count));
            }
        }
        eyes
    }

    /// Applies a status to each of so many policies or bindings of the floor.
    pub async fn tell_all(&self, side: Side, pattern: &Pattern, count: usize) {
        let (kind, text) = match side {
            Side::Donor => ("ServiceExpositionPolicy", pattern.statuses[0].to_string()),
            Side::Acceptor => ("RemoteServiceBinding", pattern.statuses[1].to_string()),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.cluster(side).client(), "floor", &resource(kind));
        let params = PatchParams::apply("floor").force();
        let tell = async |i| {
            let status: Value = serde_json::from_str(&text.replace(&pattern.name, &name(i))).expect("JSON");
            let body = json!({"apiVersion": API, "kind": kind, "metadata": {"name": name(i)}, "status": status});
            api.patch_status(&name(i), &params, &Patch::Apply(&body)).await.expect("an answer");
        };
        futures::stream::iter(0..count).map(tell).buffer_unordered(TURNS).for_each(|()| async {}).await;
    }

    async fn status(&self, side: Side, kind: &str, name: &str) -> Value {
        let api: Api<DynamicObject> = Api::namespaced_with(self.cluster(side).client(), "shop", &resource(kind));
        api.get(name).await.expect("an answer").data["status"].take()
    }

    /// See policies and bindings whose status says that it works.
    pub async fn eyes_for_ready(&self) -> [Eye; 2] {
        let ready = |object: &DynamicObject| {
            let conditions = object.data["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let [policies, bindings] = [(Side::Donor, "ServiceExpositionPolicy"), (Side::Acceptor, "RemoteServiceBinding")]
            .map(|(side, kind)| Eye::open(self.api(side, kind), ready));
        [policies.await, bindings.await]
    }

    /// A watch on the policies whose status says who has bound what they expose: the last that a burst changes.
    pub async fn eye_for_bound(&self) -> Eye {
        let bound = |object: &DynamicObject| {
            let exposed = object.data["status"]["exposed"].as_array();
            exposed.into_iter().flatten().any(|e| e["boundBy"].as_array().is_some_and(|by| !by.is_empty()))
        };
        Eye::open(self.api(Side::Donor, "ServiceExpositionPolicy"), bound).await
    }

    /// Takes all policies and bindings away, and waits until Wharf has taken away what it made of them.
    pub async fn clear(&self, pattern: &Pattern) {
        for (side, kind) in [(Side::Donor, "ServiceExpositionPolicy"), (Side::Acceptor, "RemoteServiceBinding")] {
            let api: Api<DynamicObject> = Api::namespaced_with(self.cluster(side).client(), "shop", &resource(kind));
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("an answer");
        }
        self.at_rest().await;
        for kind in pattern.kinds(Side::Acceptor) {
            let left = self.made(Side::Acceptor, &kind).await;
            assert!(left.iter().all(|o| o["metadata"]["namespace"] != "shop"), "{kind} is left");
        }
    }

    pub async fn apply_all(&self, side: Side, objects: Vec<Value>) {
        let cluster = self.cluster(side);
        let applied = futures::stream::iter(objects).map(|object| async move { cluster.apply(&object).await });
        applied.buffer_unordered(TURNS).for_each(|_| async {}).await;
    }

    pub async fn services(&self, namespace: &str, which: Range<usize>) {
        self.apply_all(Side::Donor, which.map(|i| service(namespace, i)).collect()).await;
    }

    pub async fn policies(&self, namespace: &str, which: Range<usize>) {
        self.apply_all(Side::Donor, which.map(|i| policy(namespace, i)).collect()).await;
    }

    pub async fn bindings(&self, namespace: &str, which: Range<usize>) {
        self.apply_all(Side::Acceptor, which.map(|i| binding(namespace, i)).collect()).await;
    }

    /// Has Wharf make what it makes of one policy and its binding. What is there already is shared by all.
    pub async fn pattern(&self, i: usize) -> Pattern {
        let mut eye = self.eye(Side::Acceptor, "ServiceEntry").await;
        self.policies("shop", i..i + 1).await;
        self.bindings("shop", i..i + 1).await;
        eye.see(1).await;
        self.at_rest().await;
        let name = name(i);
        Pattern {
            donor: self.made_of(Side::Donor, &name).await,
            acceptor: self.made_of(Side::Acceptor, &name).await,
            statuses: [
                self.status(Side::Donor, "ServiceExpositionPolicy", &name).await,
                self.status(Side::Acceptor, "RemoteServiceBinding", &name).await,
            ],
            name,
        }
    }

    async fn made_of(&self, side: Side, service: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let istios =
            ["AuthorizationPolicy", "EnvoyFilter", "DestinationRule", "ServiceEntry", "Gateway", "VirtualService"];
        for kind in istios.into_iter().chain(["Service"]) {
            all.extend(
                self.made(side, kind).await.into_iter().filter(|o| o["metadata"]["name"].to_string().contains(service)),
            );
        }
        all
    }

    /// The objects of a kind that Wharf has made, as they could be applied.
    pub async fn made(&self, side: Side, kind: &str) -> Vec<Value> {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=wharf");
        let list = self.api(side, kind).list(&ours).await.expect("an answer");
        list.items.into_iter().map(|object| bare(object, kind)).collect()
    }

    /// What the agents and the benchmark asked of the API servers so far.
    pub async fn tell_requests(&self) {
        for (name, cluster) in [("donor", &self.donor), ("acceptor", &self.acceptor)] {
            let text = cluster.kubectl(&["get", "--raw", "/metrics"]).ok();
            let mut lines: Vec<_> = text.lines().filter(|l| l.starts_with("apiserver_request_total")).collect();
            lines.retain(|l| {
                ["\"APPLY\"", "\"PATCH\"", "\"POST\"", "\"PUT\"", "\"DELETE\""].iter().any(|v| l.contains(v))
            });
            for line in lines {
                let field = |key: &str| {
                    let from = line.find(&format!("{key}=\"")).map_or(0, |at| at + key.len() + 2);
                    line[from..].split('"').next().unwrap_or_default().to_owned()
                };
                let count = line.rsplit(' ').next().unwrap_or_default();
                let fields = ["verb", "resource", "subresource", "code"].map(field);
                eprintln!("{name}: {} {count}", fields.join(" "));
            }
        }
    }
}
