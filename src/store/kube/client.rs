//! The connection to an API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::store::StoreError;

/// Time that the API server may take to answer. A watch is quiet for longer, and is renewed by its own clock.
const CONNECT: Duration = Duration::from_secs(10);

/// The API server to connect to, and the account. By default: in a pod its own cluster's, elsewhere that of the
/// kubeconfig file (`$KUBECONFIG`) in its current context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiAccess {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// The user to act as, which the API server has to allow (`impersonate`).
    pub user: Option<String>,
    pub groups: Vec<String>,
}

/// Connects to the API server: in a pod to its own cluster's, elsewhere to that of the kubeconfig file (`$KUBECONFIG`),
/// in this context or the current one. No request is made yet.
pub async fn connect(context: Option<&str>) -> Result<Client, StoreError> {
    connect_as(&ApiAccess { context: context.map(str::to_owned), ..ApiAccess::default() }).await
}

/// Connects as [`connect`] does, with all that can be chosen.
pub async fn connect_as(access: &ApiAccess) -> Result<Client, StoreError> {
    let error = |message: String| StoreError { place: "store.kube".to_owned(), message, transient: false };
    let mut config = if access.context.is_none() && access.kubeconfig.is_none() {
        Config::infer().await.map_err(|e| error(no_configuration(&describe_error(&e))))?
    } else {
        let file = match &access.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).map_err(|e| error(describe_error(&e)))?,
            None => Kubeconfig::read().map_err(|e| error(no_configuration(&describe_error(&e))))?,
        };
        let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
        Config::from_custom_kubeconfig(file, &options).await.map_err(|e| {
            let context = access.context.as_ref().map_or("current context".to_owned(), |c| format!("context {c:?}"));
            error(format!("the {context} of the kubeconfig file cannot be used: {}", describe_error(&e)))
        })?
    };
    config.connect_timeout = Some(CONNECT);
    if access.user.is_some() {
        config.auth_info.impersonate.clone_from(&access.user);
        config.auth_info.impersonate_groups = (!access.groups.is_empty()).then(|| access.groups.clone());
    }
    Client::try_from(config)
        .map_err(|e| error(format!("no client can be made of the configuration: {}", describe_error(&e))))
}

/// Returns whether this process has the configuration of a cluster: by `$KUBECONFIG`, by the file where kubectl looks
/// for it, or by its pod.
pub fn is_configured() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    set("KUBECONFIG").is_some()
        || set("KUBERNETES_SERVICE_HOST").is_some()
        || set("HOME").is_some_and(|home| PathBuf::from(home).join(".kube/config").is_file())
}

/// Returns whether only its pod names this process's cluster.
pub fn is_in_pod() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    set("KUBERNETES_SERVICE_HOST") && !set("KUBECONFIG")
}

/// Returns an error of the API server, or on the way to it, in one line for a person.
pub fn describe_error(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
        return status.message.clone();
    }
    let mut lines: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        let text = cause.to_string();
        // Many an error repeats its cause.
        if lines.last().is_none_or(|last| !last.contains(&text)) {
            lines.push(text);
        }
    }
    lines.join(": ")
}

fn no_configuration(why: &str) -> String {
    format!("neither in a pod with a service account nor with a usable kubeconfig file ({why}); set KUBECONFIG to one")
}
