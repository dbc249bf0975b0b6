//! Starts the parts of an agent, and waits for all of them to end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accounts::{self, AccountAnswers};
use super::admin::{AdminAccess, AdminDesk};
use super::engine::{Engine, EngineInlets, EngineParts};
use super::istiod::metrics_text::GatewayPods;
use super::istiod::refusals::GatewayRefusals;
use super::istiod::{GatewayWatch, watch_gateways};
use super::links::DonorLinks;
use super::{AgentError, admin, files, identity, lookup};
use crate::config::{Config, LimitSettings};
use crate::identity::IdentityWatch;
use crate::identity::tls::MinTls;
use crate::model::SpiffeId;
use crate::peering::client::AcceptorContext;
use crate::peering::server::{self, PeeringServer};
use crate::peering::{Board, Limits, PeerTable, Subscribers, UnreadPeers};
use crate::store::kube::credential;
use crate::store::{ObjectStore, Store};

/// Most events that wait for the engine. If an inlet is full, its source waits: a donor's stream, a scraper, a watch.
const INLET: usize = 1024;
/// Interval between attempts to learn what the agent needs to start.
const RETRY: Duration = Duration::from_secs(2);

/// The parts and settings that an agent starts with.
pub struct AgentSetup<'a, S> {
    pub config: Config,
    pub file: &'a Path,
    pub store: S,
    /// Most owners that the store writes at the same time.
    pub parallel: usize,
    /// Client of the cluster's API server, and the agent's own namespace there, if that is its store.
    pub cluster: Option<(Client, String)>,
    /// The threads that read what peers send.
    pub wire: Handle,
}

/// Asks the store for the identity of this cluster until it answers, or the agent is stopped: an API server that is
/// away for a while is no reason to give up.
async fn fetch_instance<S: ObjectStore>(store: &S, stop: &CancellationToken) -> Result<String, AgentError> {
    loop {
        let error = match store.read_instance().await {
            Ok(instance) => return Ok(instance),
            Err(error) if !error.transient => return Err(error.into()),
            Err(error) => error,
        };
        tracing::warn!(%error, "cannot learn yet which cluster this is; trying again");
        tokio::select! {
            () = stop.cancelled() => return Err(error.into()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn limits_of(settings: &LimitSettings) -> Limits {
    let mut limits = Limits::default();
    if let Some(expositions) = settings.peer_expositions {
        limits.hold_expositions(expositions);
    }
    limits.max_held_of_one = settings.peer_bytes.unwrap_or(limits.max_held_of_one);
    limits.max_held = settings.all_peers_bytes.unwrap_or(limits.max_held);
    if let Some(connections) = settings.connections {
        (limits.max_connections, limits.max_subscriptions_in_all) = (connections, connections);
    }
    limits
}

/// Runs until `stop`.
pub async fn run<S: Store>(setup: AgentSetup<'_, S>, stop: CancellationToken) -> Result<(), AgentError> {
    let peering = bind_listener("listen", setup.config.listen).await?;
    let admin = bind_listener("admin", setup.config.admin).await?;
    let tasks = TaskTracker::new();
    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let (queries, mut query_events) = mpsc::channel(16);
    let own_namespace = setup.cluster.as_ref().map(|(_, namespace)| namespace.as_str());
    let desk = AdminDesk::new(queries, AdminAccess::new(&setup.config, own_namespace));
    parts.spawn(run_named("the admin listener", admin::serve(admin, desk, stop.clone(), tasks.clone())));
    let (identity, instance) = match load_identity(&setup, &mut query_events, &stop).await? {
        Some(known) => known,
        None => return Ok(()), // the agent was stopped while it waited
    };
    let credentials: Vec<_> = identity::credential_secrets(&setup.config).collect();
    let AgentSetup { config, store, parallel, file, cluster, wire } = setup;
    let leading = store.watch_leading();
    let (problems, problem_events) = mpsc::channel(16);
    tracing::info!(
        cluster = %config.cluster, listen = %config.listen, admin = %config.admin, version = env!("CARGO_PKG_VERSION"),
        "the agent starts"
    );
    let own_identity = identity.identity.borrow().clone();
    let min_tls = if config.allow_tls12 { MinTls::Tls12 } else { MinTls::Tls13 };
    let limits = Arc::new(limits_of(&config.limits));
    if let Some(found) = own_identity.spiffe_id.cluster().filter(|found| *found != config.cluster) {
        return Err(AgentError::OtherCluster { found, cluster: config.cluster });
    }
    if own_identity.spiffe_id != SpiffeId::of_cluster(&config.cluster) {
        tracing::warn!(
            identity = %own_identity.spiffe_id, cluster = %config.cluster,
            "the certificate does not name this cluster: peers know it only if their entry pins this `identity`"
        );
    }

    let board = Board::new(limits.clone());
    let subscribers = Subscribers::new(limits.clone());
    let facts = config.cluster_facts(own_identity.spiffe_id.clone());
    let (table, peers) = watch::channel(Arc::new(PeerTable::from(&facts).with_unread(Some(UnreadPeers::any()))));
    let server = PeeringServer::new(server::ServerParts {
        instance: instance.clone(),
        board: board.clone(),
        subscribers: subscribers.clone(),
        peers,
        identity: identity.identity.clone(),
        min_tls,
        limits: limits.clone(),
    })?;
    let (donors, donor_events) = mpsc::channel(INLET);
    let (lookups, questions) = mpsc::channel(INLET);
    let (answers, lookup_events) = mpsc::channel(INLET);
    let (configs, config_events) = mpsc::channel(4);
    let own = AcceptorContext {
        instance: instance.clone(),
        identity: identity.identity.clone(),
        min_tls,
        limits: limits.clone(),
    };
    let (gateway_news, gateways) = watch::channel(GatewayWatch::default());
    let asked = config.istiod.clone().map(|metrics| (metrics, GatewayPods::from_config(&config)));
    let in_use = accounts::gateways_in_use(&config);
    // What an earlier process said holds until it is known, so the question comes before the first status.
    let first_answers = match &cluster {
        Some((client, _)) => accounts::ask_first(client, &in_use).await,
        None => AccountAnswers::new(),
    };
    let (account_news, account_answers) = watch::channel(first_answers);
    let inlets = EngineInlets {
        store: store.watch_changes().await?,
        problems: problem_events,
        donors: donor_events,
        lookups: lookup_events,
        queries: query_events,
        config: config_events,
        identity: identity.identity.clone(),
        identity_problem: identity.problem.clone(),
        gateways,
        accounts: account_answers,
    };
    let counters = server.counters();
    let engine = Engine::new(EngineParts {
        links: DonorLinks::new(own, donors, wire.clone()),
        lookups,
        store,
        parallel,
        instance,
        config,
        identity: own_identity,
        board,
        table,
        subscribers,
        counters,
        limits,
    });

    if let Some((client, _)) = &cluster {
        let asking = accounts::keep_asking(client.clone(), in_use, account_news, stop.clone());
        parts.spawn(run_named("the questions about the gateways' accounts", asking));
        let keep =
            credential::keep_credentials(client.clone(), credentials, identity.identity.clone(), leading, problems);
        parts.spawn(run_named("the gateways' credential", run_until(stop.clone(), keep)));
    }
    let look_ups = lookup::serve_lookups(questions, answers, lookup::ask_system, stop.clone());
    parts.spawn(run_named("the lookups of names", look_ups));
    let nothing_refused = GatewayWatch { refusals: Some(GatewayRefusals::default()), ..GatewayWatch::default() };
    if let Some((metrics, pods)) = asked {
        let watching = watch_gateways(metrics, pods, gateway_news, stop.clone());
        parts.spawn(run_named("the watch on the gateways", watching));
    } else {
        gateway_news.send_replace(nothing_refused); // ends the report of a former process
    }
    parts.spawn(run_named("the engine", engine.run(inlets, stop.clone())));
    parts.spawn_on(run_named("the peering server", server.serve(peering, stop.clone())), &wire);
    parts.spawn(run_named("the watch on the configuration", follow_file(file.to_owned(), configs, stop.clone())));
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok(part) if !stop.is_cancelled() => {
                result = Err(AgentError::Ended(part));
                stop.cancel();
            }
            Ok(_) => {}
            // A panic in a task ends the process loudly.
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => {}
        }
    }
    tasks.close();
    tasks.wait().await;
    identity.wait_until_stopped().await;
    tracing::info!("stopped");
    result
}

/// Returns the identity and the cluster's instance. Until both are known, the admin listener reports what is missing.
async fn load_identity<S: Store>(
    setup: &AgentSetup<'_, S>,
    queries: &mut mpsc::Receiver<admin::EngineQuery>,
    stop: &CancellationToken,
) -> Result<Option<(IdentityWatch, String)>, AgentError> {
    let Some(wanted) = setup.config.identity.clone() else {
        return Err(AgentError::NoIdentity(setup.file.display().to_string()));
    };
    let (waiting, problem) = watch::channel(None);
    let own = setup.cluster.as_ref().map(|(client, namespace)| (client.clone(), namespace.as_str()));
    let known = async {
        let Some(identity) = identity::open_identity(wanted, &setup.config.cluster, own, waiting, stop.clone()).await?
        else {
            return Ok(None);
        };
        Ok(Some((identity, fetch_instance(&setup.store, stop).await?)))
    };
    tokio::select! {
        known = known => known,
        () = identity::answer_meanwhile(queries, &problem) => Ok(None), // it never ends
    }
}

async fn run_until(stop: CancellationToken, part: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = part => stop.cancelled().await,
    }
}

async fn run_named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

async fn follow_file(
    file: std::path::PathBuf,
    configs: mpsc::Sender<Result<Box<Config>, String>>,
    stop: CancellationToken,
) {
    if let Err(e) = files::follow_config(file, configs, stop.clone()).await {
        tracing::warn!(error = %e, "the configuration file cannot be watched; its changes need a restart");
        stop.cancelled().await;
    }
}

async fn bind_listener(key: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen { key, address, source })
}
