//! A peer that keeps to the protocol: both ends of it as the agent has them, without the rest of an agent. A whole agent for
//! each of twenty peers would take more watchers of the file system than a user has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wharf::identity::tls::MinTls;
use wharf::model::{
    AllowedGateways, ClusterFacts, ClusterName, ExposedPort, Exposition, ExpositionKey, GatewayAddress, OwnGateway,
    Peer, Protocol, SpiffeId, Style, TlsMode,
};
use wharf::peering::client::{
    AcceptorContext, BackoffJitter, DonorEvent, DonorHandle, DonorNews, DonorSpec, watch_donor,
};
use wharf::peering::convert::{ExpositionChecks, ExpositionOutcome};
use wharf::peering::server::{PeeringServer, ServerCounters, ServerParts};
use wharf::peering::{Board, Limits, PeerTable, Subscribers};

use super::support::{Cluster, Site};

/// The first port of the only exposition that was heard, and when.
type HeardPort = Option<(u16, Instant)>;

pub struct GoodPeer {
    pub name: String,
    pub address: SocketAddr,
    service: String,
    agent: ClusterName,
    board: Board,
    counters: Arc<ServerCounters>,
    heard: watch::Receiver<HeardPort>,
    breaks: Arc<AtomicUsize>,
}

impl GoodPeer {
    /// A donor of `service` to the agent. It is no acceptor yet: the agent may not run.
    pub fn start(runtime: &Runtime, site: &Site, name: &str, service: &str, agent: &Cluster) -> GoodPeer {
        let limits = Arc::new(Limits::default());
        let (board, subscribers) = (Board::new(limits.clone()), Subscribers::new(limits.clone()));
        let agent: ClusterName = agent.name.parse().expect("a name");
        let parts = ServerParts {
            instance: format!("instance-of-{name}"),
            board: board.clone(),
            subscribers,
            peers: watch::channel(table(name, &agent)).1,
            identity: watch::channel(Arc::new(site.identity(name))).1,
            min_tls: MinTls::default(),
            limits,
        };
        let address = site.address();
        let server = PeeringServer::new(parts).expect("a server");
        let counters = server.counters();
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a port");
        runtime.spawn(server.serve(listener, CancellationToken::new()));
        let (name, service) = (name.to_owned(), service.to_owned());
        let peer = GoodPeer {
            name,
            address,
            service,
            agent,
            board,
            counters,
            heard: watch::channel(None).1,
            breaks: Arc::default(),
        };
        peer.offer(80);
        peer.board.open();
        peer
    }

    /// Consumes from the agent from now on.
    pub fn subscribe(&mut self, runtime: &Runtime, site: &Site, to: SocketAddr) {
        let spec = DonorSpec {
            cluster: self.agent.clone(),
            endpoint: to.to_string().parse().expect("an endpoint"),
            identity: SpiffeId::of_cluster(&self.agent),
            ca_bundle: None,
            checks: ExpositionChecks::default(),
            held: BTreeMap::new(),
        };
        let own = AcceptorContext {
            instance: format!("instance-of-{}", self.name),
            identity: watch::channel(Arc::new(site.identity(&self.name))).1,
            min_tls: MinTls::default(),
            limits: Arc::new(Limits::default()),
        };
        let (events, received) = mpsc::channel(16);
        let (heard, receiver) = watch::channel(None);
        self.heard = receiver;
        let breaks = self.breaks.clone();
        runtime.spawn(async move {
            let handle = watch_donor(spec, own, events, BackoffJitter::random());
            take_in(handle, received, heard, breaks).await;
        });
    }

    /// Offers its service with this port from now on.
    pub fn offer(&self, port: u16) {
        let key = key(&self.service);
        let exposition = Arc::new(exposition(&self.name, &key, port));
        let to = BTreeMap::from([(self.agent.clone(), exposition)]);
        self.board.set_offers(&key, &to).expect("it is fit to be offered");
    }

    /// When this port of the agent's service was heard.
    pub fn hears(&mut self, runtime: &Runtime, port: u16, within: Duration) -> Option<Instant> {
        let is_heard = |heard: &HeardPort| heard.is_some_and(|(newest, _)| newest == port);
        let heard = runtime.block_on(async { tokio::time::timeout(within, self.heard.wait_for(is_heard)).await });
        heard.ok()?.ok()?.map(|(_, at)| at)
    }

    /// Streams that broke, and connections of the agent beyond the first.
    pub fn breaks(&self) -> usize {
        let accepted = usize::try_from(self.counters.accepted.load(Ordering::Relaxed)).expect("a number");
        self.breaks.load(Ordering::Relaxed) + accepted.saturating_sub(1)
    }

    /// Its entry among the agent's peers.
    pub fn as_peer(&self) -> String {
        format!("{{name: {}, endpoint: \"{}\", consume: true}}", self.name, self.address)
    }
}

async fn take_in(
    handle: DonorHandle,
    mut events: mpsc::Receiver<DonorEvent>,
    heard: watch::Sender<HeardPort>,
    breaks: Arc<AtomicUsize>,
) {
    while let Some(event) = events.recv().await {
        match event.news {
            DonorNews::Connected { .. } => {}
            DonorNews::Disconnected { .. } => drop(breaks.fetch_add(1, Ordering::Relaxed)),
            DonorNews::Batch { changed, mark, .. } => {
                for good in changed.into_iter().flatten() {
                    let port = good.exposition.ports.first().expect("a port").number;
                    handle.acknowledgements.report_outcome(&good.exposition.key, ExpositionOutcome::bound());
                    heard.send_replace(Some((port, Instant::now())));
                }
                handle.acknowledgements.record_batch(mark);
            }
        }
    }
}

fn key(service: &str) -> ExpositionKey {
    ExpositionKey { namespace: "default".parse().expect("a name"), name: service.parse().expect("a name") }
}

fn exposition(cluster: &str, key: &ExpositionKey, port: u16) -> Exposition {
    let host = key.host();
    Exposition {
        ports: vec![ExposedPort { number: port, name: "http".into(), protocol: Protocol::Http, host: host.clone() }],
        key: key.clone(),
        host,
        tls: TlsMode::Cluster,
        identities: vec![SpiffeId::of_cluster(&cluster.parse().expect("a name"))],
        gateways: vec![GatewayAddress {
            address: "192.0.2.1".parse().expect("an address"),
            port: 15443,
            locality: None,
        }],
        clients: Vec::new(),
        host_is_withheld: false,
    }
}

/// One peer, which may consume.
fn table(own: &str, peer: &ClusterName) -> Arc<PeerTable> {
    let own: ClusterName = own.parse().expect("a name");
    let gateway = || OwnGateway {
        namespace: "istio-system".parse().expect("a name"),
        service: "gateway".parse().expect("a name"),
        selector: BTreeMap::new(),
        port: 15443,
        service_account: "gateway".into(),
        account_configured: false,
        locality: None,
        addresses: Vec::new(),
        drain: OwnGateway::DRAIN,
    };
    let peer = Peer { consume: true, ..Peer::with_name(peer.clone()) };
    Arc::new(PeerTable::from(&ClusterFacts {
        identity: SpiffeId::of_cluster(&own),
        trust_domain: own.as_str().parse().expect("a name"),
        cluster: own,
        style: Style::default(),
        tls: TlsMode::Cluster,
        ingress: gateway(),
        egress: gateway(),
        credential: "wharf-identity".parse().expect("a name"),
        peers: BTreeMap::from([(peer.name.clone(), peer)]),
        root_namespace: "istio-system".parse().expect("a name"),
        mesh: None,
        doubts: Default::default(),
        hidden_peers: Default::default(),
        trust_any: false,
        revoked: BTreeSet::new(),
        allowed_gateways: AllowedGateways::default(),
        absent_fields: BTreeSet::new(),
        exposure: Default::default(),
    }))
}
