//! The agent: the only room that knows all others. It wires the store, the wire and translation together, and runs
//! until it is told to stop.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | [`engine`] | all state | when told; finishes what it is writing |
//! | peering server | the listener, and a task for each connection | when told; streams are told, then cut |
//! | one client for each donor | its stream | when the engine hangs up |
//! | [`admin`] | the admin listener | when told |
//! | identity, [`files`] | a watch on files | when told |

mod acceptor;
mod admin;
mod autobind;
mod donor;
mod engine;
mod files;
mod gateway;
mod links;
mod metrics;
mod peers;
mod report;
pub mod view;
mod writer;

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::engine::{Engine, Inlets, Parts};
use self::links::Links;
use crate::config::{Config, ConfigError, IdentityConfig, KubeConfig, StoreConfig};
use crate::identity::tls::MinTls;
use crate::identity::{self, IdentityError};
use crate::model::SpiffeId;
use crate::peering::client::Own;
use crate::peering::server::{self, Server, ServerError};
use crate::peering::{Board, Limits, PeerTable, Subscribers};
use crate::store::dir::DirStore;
use crate::store::kube::{self, KubeStore, client};
use crate::store::{Store, StoreError};

/// Events that wait for the engine. When an inlet is full, its source waits: a donor's stream, a scraper, a watch.
const INLET: usize = 1024;
/// How often is tried what has to be known before the agent can start.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "{0}: identity: missing; an agent needs `identity: {{certificate, key, root}}` (make them with `wharf ca`)"
    )]
    NoIdentity(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
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

/// Runs the agent of a configuration file until SIGTERM or SIGINT.
pub async fn run(file: &Path) -> Result<(), AgentError> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(e), _) | (_, Err(e)) => return Err(AgentError::Signals(e)),
    };
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("told to stop: draining");
        told.cancel();
    });
    let config = Config::load(file)?;
    match &config.store {
        StoreConfig::Dir(folder) => {
            let store = DirStore::open(folder)?;
            run_with(config, file, store, 1, stop).await
        }
        StoreConfig::Kube(kube) => {
            let client = client::connect(kube.context.as_deref()).await?;
            let store = KubeStore::open(client, kube_options(&config, kube));
            run_with(config, file, store, WRITERS, stop).await
        }
    }
}

/// Owners whose objects are written at once: an API server answers in milliseconds, and serves many.
const WRITERS: usize = 12;

fn kube_options(config: &Config, kube: &KubeConfig) -> kube::Options {
    let gateways = [&config.ingress, &config.egress].map(|g| g.namespace.to_string());
    kube::Options {
        namespace: config.namespace.as_ref().map_or_else(kube::own_namespace, ToString::to_string),
        holder: kube::own_name(),
        namespaces: kube.namespaces.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
        gateways: gateways.into(),
        ingress: (config.ingress.namespace.to_string(), config.ingress.service.to_string()),
    }
}

/// Asks the store who this cluster is until it answers, or the agent is told to stop: an API server that is away for a
/// while is no reason to give up.
async fn instance<S: Store>(store: &S, stop: &CancellationToken) -> Result<String, AgentError> {
    loop {
        let error = match store.instance().await {
            Ok(instance) => return Ok(instance),
            Err(error) if !error.transient => return Err(error.into()),
            Err(error) => error,
        };
        tracing::warn!(%error, "it is not known yet which cluster this is; trying again");
        tokio::select! {
            () = stop.cancelled() => return Err(error.into()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// `parallel` is how many owners the store may be asked to write at once.
async fn run_with<S: Store>(
    config: Config,
    file: &Path,
    store: S,
    parallel: usize,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let files = match config.identity.clone() {
        Some(IdentityConfig::Files(files)) => files,
        Some(IdentityConfig::Secret(_)) | None => return Err(AgentError::NoIdentity(file.display().to_string())),
    };
    let identity = identity::watch(files, stop.clone())?;
    let own_identity = identity.identity.borrow().clone();
    let min_tls = if config.allow_tls12 { MinTls::Tls12 } else { MinTls::Tls13 };
    let limits = Arc::new(Limits::default());
    let instance = instance(&store, &stop).await?;

    let peering = listen("listen", config.listen).await?;
    let admin = listen("admin", config.admin).await?;
    tracing::info!(
        cluster = %config.cluster, identity = %own_identity.spiffe_id, listen = %config.listen, admin = %config.admin,
        version = env!("CARGO_PKG_VERSION"), "the agent starts"
    );

    if own_identity.spiffe_id != SpiffeId::of_cluster(&config.cluster) {
        tracing::warn!(
            identity = %own_identity.spiffe_id, cluster = %config.cluster,
            "the certificate does not name this cluster: peers know it only if their entry pins this `identity`"
        );
    }

    let board = Board::new(limits.clone());
    let subscribers = Subscribers::new(limits.clone());
    let facts = config.facts(own_identity.spiffe_id.clone());
    let (table, peers) = watch::channel(Arc::new(PeerTable::from(&facts)));
    let server = Server::new(server::Parts {
        instance: instance.clone(),
        board: board.clone(),
        subscribers: subscribers.clone(),
        peers,
        identity: identity.identity.clone(),
        min_tls,
        limits: limits.clone(),
    })?;
    let (donors, donor_events) = mpsc::channel(INLET);
    let (queries, query_events) = mpsc::channel(16);
    let (configs, config_events) = mpsc::channel(4);
    let own = Own { instance: instance.clone(), identity: identity.identity.clone(), min_tls, limits };
    let inlets = Inlets {
        store: store.changes().await?,
        donors: donor_events,
        queries: query_events,
        config: config_events,
        identity: identity.identity.clone(),
        identity_problem: identity.problem.clone(),
    };
    let counters = server.counters();
    let engine = Engine::new(Parts {
        links: Links::new(own, donors),
        store,
        parallel,
        instance,
        config,
        identity: own_identity,
        board,
        table,
        subscribers,
        counters,
    });

    let tasks = TaskTracker::new();
    let mut parts: JoinSet<&'static str> = JoinSet::new();
    parts.spawn(named("the engine", engine.run(inlets, stop.clone())));
    parts.spawn(named("the peering server", server.serve(peering, stop.clone())));
    parts.spawn(named("the admin listener", admin::serve(admin, queries, stop.clone(), tasks.clone())));
    parts.spawn(named("the watch on the configuration", follow(file.to_owned(), configs, stop.clone())));
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok(part) if !stop.is_cancelled() => {
                result = Err(AgentError::Ended(part));
                stop.cancel();
            }
            Ok(_) => {}
            // A panic in one ends the process loudly.
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => {}
        }
    }
    tasks.close();
    tasks.wait().await;
    identity.stopped().await;
    tracing::info!("stopped");
    result
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

async fn follow(file: std::path::PathBuf, configs: mpsc::Sender<Result<Box<Config>, String>>, stop: CancellationToken) {
    if let Err(e) = files::follow(file, configs, stop.clone()).await {
        tracing::warn!(error = %e, "the configuration file cannot be watched; its changes need a restart");
        stop.cancelled().await;
    }
}

async fn listen(key: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen { key, address, source })
}
