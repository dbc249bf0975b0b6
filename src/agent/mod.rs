//! The agent: the only room that knows all others. It connects the store, the wire and translation, and runs until it
//! is stopped.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | [`engine`] | all state | on request, after finishing its writes |
//! | peering server | the listener, and a task for each connection | on request: announces the end to its streams, then cuts them |
//! | one client for each donor | its stream | when the engine hangs up |
//! | [`lookup`] | questions for names of peers' gateways | on request |
//! | [`admin`] | the admin listener | on request |
//! | [`identity`], [`files`] | a watch on files, or on a Secret | on request |

mod acceptor;
pub mod accounts;
mod admin;
mod ambient;
mod audit;
mod autobind;
pub mod blind;
mod donor;
mod engine;
pub mod excerpt;
mod fair;
mod files;
pub mod gateway;
pub mod identity;
pub mod istiod;
mod links;
mod lookup;
mod metrics;
mod names;
mod pace;
mod peers;
mod quota;
pub mod readiness;
mod replicas;
mod report;
mod since;
mod start;
pub mod view;
pub mod withdrawal;
mod writer;

use std::path::Path;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::start::AgentSetup;
use crate::config::{Config, ConfigError, KubeConfig, StoreConfig};
use crate::identity::IdentityError;
use crate::model::{ClusterName, ObjectName};
use crate::peering::server::ServerError;
use crate::store::dir::DirStore;
use crate::store::kube::{self, KubeStore, client};
use crate::store::{NamedKey, StoreError};

/// The reason why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "{0}: identity: missing; an agent needs `identity: {{certificate, key, root}}` (make them with `wharf ca`)"
    )]
    NoIdentity(String),
    #[error(
        "identity.secret: {0}: a Secret is read from a cluster's API server; with a folder as the store, name files"
    )]
    SecretNeedsKube(ObjectName),
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    #[error(
        "identity: the certificate is that of the cluster {found}, and this is {cluster}: `wharf ca issue {cluster}` makes its \
         own, or correct `cluster` in the configuration"
    )]
    OtherCluster { found: ClusterName, cluster: ClusterName },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("{key}: {address}: cannot listen there: {source}")]
    Listen { key: &'static str, address: std::net::SocketAddr, source: std::io::Error },
    #[error("signals cannot be handled: {0}")]
    Signals(std::io::Error),
    #[error("{0} ended although nobody told it to")]
    Ended(&'static str),
}

/// Runs the agent of a configuration file until SIGTERM or SIGINT. The threads of `wire` read what peers send.
pub async fn run(file: &Path, wire: Handle) -> Result<(), AgentError> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(e), _) | (_, Err(e)) => return Err(AgentError::Signals(e)),
    };
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("received a stop signal: draining");
        told.cancel();
    });
    let config = Config::load(file)?;
    match &config.store {
        StoreConfig::Dir(folder) => {
            let store = DirStore::open(folder)?;
            start::run(AgentSetup { config, file, store, parallel: 1, cluster: None, wire }, stop).await
        }
        StoreConfig::Kube(kube) => {
            let client = client::connect(kube.context.as_deref()).await?;
            let options = kube_options(&config, kube);
            let cluster = Some((client.clone(), options.namespace.clone()));
            let store = KubeStore::open(client, options);
            start::run(AgentSetup { config, file, store, parallel: WRITERS, cluster, wire }, stop).await
        }
    }
}

/// Most owners whose objects are written at the same time: an API server answers in milliseconds, and serves many.
const WRITERS: usize = 12;

fn kube_options(config: &Config, kube: &KubeConfig) -> kube::KubeOptions {
    let gateways = [&config.ingress, &config.egress].map(|g| g.namespace.to_string());
    kube::KubeOptions {
        namespace: config.namespace.as_ref().map_or_else(kube::own_namespace, ToString::to_string),
        holder: kube::own_name(),
        pod_uid: std::env::var("POD_UID").ok().filter(|uid| !uid.is_empty()),
        namespaces: kube.namespaces.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
        gateways: gateways.into(),
        ingress: (config.ingress.namespace.to_string(), config.ingress.service.to_string()),
        mesh: config
            .mesh_config
            .as_ref()
            .map(|name| NamedKey { namespace: config.root_namespace.to_string(), name: name.to_string() }),
    }
}
