//! The connection to an API server.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::store::StoreError;

/// How long the API server may take to answer. A watch is quiet for longer, and is renewed by its own clock.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to the API server: in a pod to its own cluster's, elsewhere to that of the kubeconfig file (`$KUBECONFIG`),
/// in this context or the current one. Nothing is asked yet.
pub async fn connect(context: Option<&str>) -> Result<Client, StoreError> {
    let error = |message: String| StoreError { place: "store.kube".to_owned(), message, transient: false };
    let mut config = match context {
        None => Config::infer().await.map_err(|e| error(no_configuration(&e.to_string())))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            let file = Kubeconfig::read().map_err(|e| error(no_configuration(&e.to_string())))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|e| error(format!("the context {context:?} of the kubeconfig file cannot be used: {e}")))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|e| error(format!("no client can be made of the configuration: {e}")))
}

fn no_configuration(why: &str) -> String {
    format!(
        "neither in a pod with a service account nor with a usable kubeconfig file ({why}); set KUBECONFIG, \
         or use a folder as the store (`store: {{dir: FOLDER}}`)"
    )
}
