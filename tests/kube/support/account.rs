//! Service accounts: who an agent is to the API server.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::Cluster;
use super::cluster::client;
use super::process::read;
use super::server::ISSUER;

/// A service account with a token in a file, and a kubeconfig that names the file.
pub struct Account {
    pub namespace: String,
    pub name: String,
    pub kubeconfig: PathBuf,
    token: PathBuf,
    /// Which of its tokens is in force.
    generation: AtomicU32,
}

impl Cluster {
    /// A service account, made if it is not there, with what it is allowed already.
    pub async fn account(&self, namespace: &str, name: &str) -> Account {
        self.make_namespace(namespace).await;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
        }))
        .await;
        let path = |suffix: &str| self.server.folder.join(format!("{namespace}.{name}.{suffix}"));
        let account = Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kubeconfig: path("kubeconfig"),
            token: path("token"),
            generation: AtomicU32::new(0),
        };
        let kubeconfig = self.server.kubeconfig(&json!({"tokenFile": account.token}));
        fs::write(&account.kubeconfig, kubeconfig.to_string()).expect("a file");
        self.renew(&account).await;
        account
    }

    /// Allows it this in the whole cluster, and nothing else that was allowed so before: the rules of a ClusterRole.
    pub async fn allow(&self, account: &Account, rules: &Value) {
        let (api, role) = ("rbac.authorization.k8s.io", format!("{}-{}", account.namespace, account.name));
        let version = format!("{api}/v1");
        self.apply(&json!({
            "apiVersion": version, "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules,
        }))
        .await;
        self.apply(&json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}],
        }))
        .await;
    }

    fn secret(account: &Account) -> Value {
        let name = format!("{}-token-{}", account.name, account.generation.load(Ordering::Relaxed));
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": account.namespace}})
    }

    /// Puts a fresh token in the place of the one before, as the kubelet does.
    pub async fn renew(&self, account: &Account) {
        account.generation.fetch_add(1, Ordering::Relaxed);
        // A token lives as long as what it is bound to, at most ten minutes and more: a test cannot wait for its end.
        let bound = self.apply(&Cluster::secret(account)).await;
        let bound = json!({
            "apiVersion": "v1", "kind": "Secret", "name": bound["metadata"]["name"], "uid": bound["metadata"]["uid"],
        });
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [ISSUER], "boundObjectRef": bound, "expirationSeconds": 3600},
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", account.namespace, account.name);
        let answer = self.request(Method::POST, &path, &request).await;
        let token = answer["status"]["token"].as_str().expect("a token").to_owned();
        let beside = account.token.with_extension("new");
        fs::write(&beside, token).expect("a file");
        fs::rename(&beside, &account.token).expect("a file");
    }

    /// Ends the token that is in force: the API server answers 401 to it, as to one that expired, ten seconds later at
    /// the latest (so long it remembers whom it let in).
    pub async fn expire_token(&self, account: &Account) {
        self.delete(&Cluster::secret(account)).await;
    }

    /// A client with the token that is in force now.
    pub async fn client_of(&self, account: &Account) -> Client {
        client(self.server.kubeconfig(&json!({"token": read(&account.token)}))).await
    }

    /// What service accounts asked for so far, one event of `audit.k8s.io/v1` each.
    pub fn audit(&self) -> Vec<Value> {
        let log = read(&self.server.folder.join("audit.log"));
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }
}
