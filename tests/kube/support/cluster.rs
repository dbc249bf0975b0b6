//! What a test does to an API server, as its administrator.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, Discovery, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::pool::{self, Lease};
use super::{Said, wait};

/// With whom the tests sign what they apply.
pub const TESTER: &str = "tester";

/// What an API server has for its good-bye.
const GRACE: Duration = Duration::from_secs(3);

/// A real API server, for one test alone.
pub struct Cluster {
    pub server: Lease,
    client: Client,
    /// How many agents it has had: each gets ports of its own.
    pub(super) agents: AtomicU16,
}

impl Cluster {
    /// A clean API server, with the CRDs of Wharf and Istio.
    pub async fn new() -> Cluster {
        let [cluster] = Cluster::several().await;
        cluster
    }

    /// Several of them. A test that needs two must not ask one by one: another may hold the last.
    pub async fn several<const N: usize>() -> [Cluster; N] {
        let leases = pool::acquire(u32::try_from(N).expect("few")).await;
        let mut clusters = Vec::new();
        for server in leases {
            let client = client(server.kubeconfig(&json!({"token": "admin"}))).await;
            clusters.push(Cluster { server, client, agents: AtomicU16::new(0) });
        }
        clusters.try_into().unwrap_or_else(|_| unreachable!("as many as asked for"))
    }

    /// The administrator's.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.admin_kubeconfig()
    }

    pub fn kubectl(&self, args: &[&str]) -> Said {
        self.server.kubectl(args, "")
    }

    /// The same with a text as its input (`-f -`).
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Said {
        self.server.kubectl(args, input)
    }

    // ---- objects

    /// All objects of a type, in all namespaces or cluster-wide.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        Api::all(self.client())
    }

    /// The API for objects like this one, by its `apiVersion`, `kind` and namespace.
    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(&object["kind"])));
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
            None => Api::all_with(self.client(), &resource),
        }
    }

    fn name(object: &Value) -> &str {
        object["metadata"]["name"].as_str().expect("a name")
    }

    /// Applies an object (server-side, as [`TESTER`]), with force; gives what is there then.
    pub async fn apply(&self, object: &Value) -> Value {
        self.try_apply(object).await.unwrap_or_else(|e| panic!("{e}\n{object:#}"))
    }

    pub async fn try_apply(&self, object: &Value) -> kube::Result<Value> {
        let params = PatchParams::apply(TESTER).force();
        let applied = self.api(object).patch(Cluster::name(object), &params, &Patch::Apply(object)).await?;
        Ok(serde_json::to_value(applied).expect("JSON"))
    }

    /// Merges a change into an object that is there; `object` names it.
    pub async fn merge(&self, object: &Value, change: &Value) -> Value {
        let params = PatchParams { field_manager: Some(TESTER.to_owned()), ..PatchParams::default() };
        let changed = self.api(object).patch(Cluster::name(object), &params, &Patch::Merge(change)).await;
        serde_json::to_value(changed.expect("an object that is there")).expect("JSON")
    }

    /// Merges a change into its status.
    pub async fn merge_status(&self, object: &Value, status: &Value) {
        let params = PatchParams { field_manager: Some(TESTER.to_owned()), ..PatchParams::default() };
        let change = Patch::Merge(json!({"status": status}));
        self.api(object).patch_status(Cluster::name(object), &params, &change).await.expect("an object that is there");
    }

    /// The object of this `apiVersion`, `kind`, name and namespace, if it is there.
    pub async fn get(&self, object: &Value) -> Option<Value> {
        let found = self.api(object).get_opt(Cluster::name(object)).await.expect("an answer");
        found.map(|o| serde_json::to_value(o).expect("JSON"))
    }

    /// All objects of this `apiVersion` and `kind` (and namespace, if it has one).
    pub async fn list(&self, like: &Value) -> Vec<Value> {
        self.try_list(like).await.expect("an answer")
    }

    pub async fn try_list(&self, like: &Value) -> kube::Result<Vec<Value>> {
        let list = self.api(like).list(&ListParams::default()).await?;
        Ok(list.items.into_iter().map(|o| serde_json::to_value(o).expect("JSON")).collect())
    }

    /// Deletes an object, which must be there, and waits until it is gone.
    pub async fn delete(&self, object: &Value) {
        self.api(object).delete(Cluster::name(object), &DeleteParams::default()).await.expect("it is there");
        wait::until_or_show("deleted", || async {
            let left = self.get(object).await;
            left.map_or(Ok(()), |left| Err(format!("{:#}\n{:#}", left["metadata"], left["status"])))
        })
        .await;
    }

    /// What has no other name here.
    pub async fn request(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        self.client().request(request).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    // ---- namespaces

    pub async fn make_namespace(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
    }

    /// Deletes a namespace as the namespace controller does, which does not run here: marks it, empties it, and says
    /// that it is done.
    pub async fn delete_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client());
        namespaces.delete(name, &DeleteParams::default()).await.expect("a namespace");
        let discovery = Discovery::new(self.client()).run().await.expect("what there is");
        let kinds = discovery.groups().flat_map(|group| group.recommended_resources());
        let kinds: Vec<_> = kinds
            .filter(|(_, can)| can.scope == kube::discovery::Scope::Namespaced)
            .filter(|(_, can)| can.supports_operation("list") && can.supports_operation("delete"))
            .map(|(resource, _)| resource)
            .collect();
        wait::until("an empty namespace", || async {
            let mut left = 0;
            for kind in &kinds {
                let api: Api<DynamicObject> = Api::namespaced_with(self.client(), name, kind);
                // A CRD may have gone meanwhile.
                for object in api.list(&ListParams::default()).await.into_iter().flatten() {
                    let _ = api.delete(&object.name_any(), &DeleteParams::default()).await; // it may be gone already
                    left += 1;
                }
            }
            (left == 0).then_some(())
        })
        .await;
        let done =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}});
        self.request(Method::PUT, &format!("/api/v1/namespaces/{name}/finalize"), &done).await;
        let gone = || async { namespaces.get_opt(name).await.expect("an answer").is_none().then_some(()) };
        wait::until("the end of a namespace", gone).await;
    }

    // ---- faults

    /// Stops the API server, as on an upgrade: it takes no new request, would wait a minute for those who watch, and is
    /// not given the time.
    pub fn stop(&mut self) {
        self.server.daemon.stop_within(GRACE);
    }

    /// Ends the API server without a good-bye.
    pub fn kill(&mut self) {
        self.server.daemon.kill();
    }

    /// Starts the API server again, and waits until it is ready.
    pub fn start(&mut self) {
        self.server.daemon.again();
        self.server.ready();
    }

    /// Connections stay, and nobody answers.
    pub fn freeze(&self) {
        self.server.daemon.freeze();
    }

    pub fn resume(&self) {
        self.server.daemon.resume();
    }

    /// The API server answers, and cannot read or write anything but what it has in memory.
    pub fn freeze_etcd(&self) {
        self.server.etcd.daemon.freeze();
    }

    pub fn resume_etcd(&self) {
        self.server.etcd.daemon.resume();
    }

    /// etcd forgets all that was: lists that were begun cannot be continued.
    pub fn compact(&self) {
        self.server.etcd.compact();
    }

    /// Makes the list of a resource (`<group>/<plural>`) fail, as an object does that its storage has damaged.
    pub fn spoil(&self, resource: &str) {
        self.server.etcd.spoil(resource);
    }

    /// Makes it work again.
    pub fn mend(&self, resource: &str) {
        self.server.etcd.mend(resource);
    }

    /// Nobody can go on with a watch from where it was (410, "Expired"). What the API server has in memory would do for
    /// that, so it is started anew.
    pub fn expire_watches(&mut self) {
        self.stop();
        self.server.etcd.touch();
        self.server.etcd.compact();
        self.start();
    }

    /// The present revision of all that is stored.
    pub fn revision(&self) -> i64 {
        self.server.etcd.revision()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.server.daemon.tail());
        }
    }
}

/// A client for whoever has this kubeconfig. It belongs to the test's own runtime.
pub async fn client(kubeconfig: Value) -> Client {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a kubeconfig");
    Client::try_from(config).expect("a client")
}
