//! Donors and acceptors for the tests of the peering: real sockets on loopback, real TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use wharf::identity::Identity;
use wharf::identity::tls::{MinTls, client_config};
use wharf::model::{
    AllowedGateways, ClusterFacts, ClusterName, ExposedPort, Exposition, ExpositionKey, GatewayAddress, OwnGateway,
    Peer, Protocol, SpiffeId, Style, TlsMode,
};
use wharf::peering::client::{
    AcceptorContext, BackoffJitter, DonorEvent, DonorHandle, DonorNews, DonorSpec, watch_donor,
};
use wharf::peering::convert::{ExpositionChecks, WireRejection};
use wharf::peering::pb;
use wharf::peering::pb::peering_service_client::PeeringServiceClient;
use wharf::peering::server::{PeeringServer, ServerCounters, ServerParts};
use wharf::peering::{Board, Limits, PeerTable, Subscribers};

use crate::support::pki::{Ca, Leaf};

/// Nothing in these tests takes this long, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never came")
}

pub fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

pub fn key(name: &str) -> ExpositionKey {
    ExpositionKey { namespace: "default".parse().unwrap(), name: name.parse().unwrap() }
}

pub fn exposition(name: &str, port: u16) -> Exposition {
    let key = key(name);
    let host = key.host();
    Exposition {
        ports: vec![ExposedPort { number: port, name: "http".into(), protocol: Protocol::Http, host: host.clone() }],
        key,
        host,
        tls: TlsMode::Cluster,
        identities: vec![SpiffeId::of_cluster(&cluster("donor"))],
        gateways: vec![GatewayAddress { address: "192.0.2.1".parse().unwrap(), port: 15443, locality: None }],
        clients: Vec::new(),
        host_is_withheld: false,
    }
}

pub fn limits() -> Limits {
    Limits { backoff_max: Duration::from_millis(200), drain: Duration::from_secs(2), ..Limits::default() }
}

/// The identity of a cluster that everybody with this root believes.
pub fn identity(ca: &Ca, name: &str) -> Arc<Identity> {
    Arc::new(trusted(&ca.cluster(name), ca))
}

pub fn trusted(leaf: &Leaf, ca: &Ca) -> Identity {
    leaf.unchecked(&[ca])
}

pub fn watch(identity: Arc<Identity>) -> watch::Receiver<Arc<Identity>> {
    watch::channel(identity).1
}

/// Who may call, as (name, consume).
pub fn table(own: &str, peers: &[(&str, bool)]) -> Arc<PeerTable> {
    Arc::new(PeerTable::from(&facts(own, peers)))
}

pub fn facts(own: &str, peers: &[(&str, bool)]) -> ClusterFacts {
    let gateway = || OwnGateway {
        namespace: "istio-system".parse().unwrap(),
        service: "gateway".parse().unwrap(),
        selector: BTreeMap::new(),
        port: 15443,
        service_account: "gateway".into(),
        account_configured: false,
        locality: None,
        addresses: Vec::new(),
        drain: OwnGateway::DRAIN,
    };
    let peer = |(name, consume): &(&str, bool)| {
        let name = cluster(name);
        (name.clone(), Peer { consume: *consume, ..Peer::with_name(name) })
    };
    ClusterFacts {
        cluster: cluster(own),
        identity: SpiffeId::of_cluster(&cluster(own)),
        style: Style::default(),
        tls: TlsMode::Cluster,
        trust_domain: own.parse().unwrap(),
        ingress: gateway(),
        egress: gateway(),
        credential: "wharf-identity".parse().unwrap(),
        peers: peers.iter().map(peer).collect(),
        hidden_peers: Default::default(),
        trust_any: false,
        revoked: BTreeSet::new(),
        allowed_gateways: AllowedGateways::default(),
        absent_fields: BTreeSet::new(),
        root_namespace: "istio-system".parse().unwrap(),
        mesh: None,
        exposure: Default::default(),
        doubts: Default::default(),
    }
}

/// The donor's half of an agent.
pub struct Donor {
    pub address: SocketAddr,
    pub board: Board,
    pub subscribers: Subscribers,
    pub peers: watch::Sender<Arc<PeerTable>>,
    pub identity: watch::Sender<Arc<Identity>>,
    pub counters: Arc<ServerCounters>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Donor {
    /// A donor called `donor` whose board is open.
    pub async fn start(ca: &Ca, peers: &[(&str, bool)], limits: Limits) -> Donor {
        let donor = Donor::start_at("127.0.0.1:0".parse().unwrap(), ca, peers, limits).await;
        donor.board.open();
        donor
    }

    /// One whose board is not open, at an address.
    pub async fn start_at(address: SocketAddr, ca: &Ca, peers: &[(&str, bool)], limits: Limits) -> Donor {
        let limits = Arc::new(limits);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peers, peer_table) = watch::channel(table("donor", peers));
        let (identity, own) = watch::channel(Arc::new(trusted(&donor_leaf(ca), ca)));
        let (board, subscribers) = (Board::new(limits.clone()), Subscribers::new(limits.clone()));
        let parts = ServerParts {
            instance: "donor-instance".into(),
            board: board.clone(),
            subscribers: subscribers.clone(),
            peers: peer_table,
            identity: own,
            min_tls: MinTls::default(),
            limits,
        };
        let server = PeeringServer::new(parts).unwrap();
        let counters = server.counters();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Donor { address, board, subscribers, peers, identity, counters, stop, task }
    }

    pub fn offer(&self, name: &str, port: u16, to: &[&str]) -> u64 {
        self.offer_exposition(exposition(name, port), to)
    }

    /// `s0`, `s1` and so on.
    pub fn offer_many(&self, numbers: std::ops::Range<usize>, port: u16, to: &[&str]) {
        for n in numbers {
            self.offer(&format!("s{n}"), port, to);
        }
    }

    pub fn offer_exposition(&self, exposition: Exposition, to: &[&str]) -> u64 {
        let exposition = Arc::new(exposition);
        let to = to.iter().map(|c| (cluster(c), exposition.clone())).collect();
        self.board.set_offers(&exposition.key, &to).unwrap()
    }

    /// Drains, as on SIGTERM.
    pub async fn stop(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
    }

    /// Waits until the donor knows something of a subscriber.
    pub async fn knows(&self, what: impl Fn(&Subscribers) -> bool) {
        soon(async {
            while !what(&self.subscribers) {
                self.subscribers.wait_for_changes().await;
            }
        })
        .await
    }
}

/// The donor's certificate has a DNS name too, for clients that look at nothing else.
pub fn donor_leaf(ca: &Ca) -> Leaf {
    ca.leaf_with(&["spiffe://wharf/cluster/donor"], |params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("localhost".try_into().unwrap()));
    })
}

/// The acceptor's half of an agent: it holds what it is told.
pub struct Acceptor {
    pub handle: DonorHandle,
    pub held: BTreeMap<ExpositionKey, (String, Exposition)>,
    pub rejected: Vec<WireRejection>,
    /// How many expositions and withdrawals travelled since this was last set to nothing.
    pub travelled: usize,
    pub synced: bool,
    pub connections: usize,
    pub reasons: Vec<String>,
    events: mpsc::Receiver<DonorEvent>,
}

impl Acceptor {
    pub fn start(identity: Arc<Identity>, donor: SocketAddr, limits: Limits) -> Acceptor {
        Acceptor::start_as("acceptor-instance", watch(identity), donor, limits)
    }

    pub fn start_as(
        instance: &str,
        identity: watch::Receiver<Arc<Identity>>,
        donor: SocketAddr,
        limits: Limits,
    ) -> Acceptor {
        Acceptor::start_with(instance, identity, donor, limits, ExpositionChecks::default(), BTreeMap::new())
    }

    pub fn start_with(
        instance: &str,
        identity: watch::Receiver<Arc<Identity>>,
        donor: SocketAddr,
        limits: Limits,
        checks: ExpositionChecks,
        held: BTreeMap<ExpositionKey, (String, Exposition)>,
    ) -> Acceptor {
        Acceptor::start_at(instance, identity, &donor.to_string(), limits, checks, held)
    }

    /// One whose donor's endpoint is an address or a name.
    pub fn start_at(
        instance: &str,
        identity: watch::Receiver<Arc<Identity>>,
        endpoint: &str,
        limits: Limits,
        checks: ExpositionChecks,
        held: BTreeMap<ExpositionKey, (String, Exposition)>,
    ) -> Acceptor {
        let spec = DonorSpec {
            cluster: cluster("donor"),
            endpoint: endpoint.parse().unwrap(),
            identity: SpiffeId::of_cluster(&cluster("donor")),
            ca_bundle: None,
            checks,
            held: held.iter().map(|(key, (version, _))| (key.clone(), version.clone())).collect(),
        };
        let (events, receiver) = mpsc::channel(16);
        let own = AcceptorContext {
            instance: instance.into(),
            identity,
            min_tls: MinTls::default(),
            limits: Arc::new(limits),
        };
        Acceptor {
            handle: watch_donor(spec, own, events, BackoffJitter::seeded(1)),
            held,
            rejected: Vec::new(),
            travelled: 0,
            synced: false,
            connections: 0,
            reasons: Vec::new(),
            events: receiver,
        }
    }

    /// Takes in one piece of news.
    pub async fn next(&mut self) {
        let event = self.events.recv().await.expect("the donor's task ended");
        match event.news {
            DonorNews::Connected { .. } => self.connections += 1,
            DonorNews::Disconnected { reason, .. } => {
                self.synced = false;
                self.reasons.push(reason);
            }
            DonorNews::Batch { changed, gone, mark, synced } => {
                self.travelled += changed.len() + gone.len();
                self.synced = synced;
                for result in changed {
                    match result {
                        Ok(heard) => {
                            self.held.insert(heard.exposition.key.clone(), (heard.version, heard.exposition));
                        }
                        Err(rejection) => self.rejected.push(rejection),
                    }
                }
                for key in &gone {
                    self.held.remove(key);
                }
                self.handle.acknowledgements.record_batch(mark);
            }
        }
    }

    /// Takes in news until something is so.
    pub async fn until(&mut self, what: impl Fn(&Acceptor) -> bool) {
        soon(async {
            while !what(self) {
                self.next().await;
            }
        })
        .await
    }

    pub async fn until_port(&mut self, name: &str, port: u16) {
        let key = key(name);
        self.until(|a| a.held.get(&key).is_some_and(|(_, e)| e.ports[0].number == port)).await;
    }

    pub async fn until_gone(&mut self, name: &str) {
        let key = key(name);
        self.until(|a| a.synced && !a.held.contains_key(&key)).await;
    }

    /// Waits for the next disconnection and gives its reason.
    pub async fn reason(&mut self) -> String {
        let before = self.reasons.len();
        self.until(|a| a.reasons.len() > before).await;
        self.reasons.last().cloned().unwrap()
    }
}

/// A client of our own, to do what an agent would not.
pub async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// TLS as the cluster that the identity says.
pub fn config_of(identity: &Identity) -> Arc<ClientConfig> {
    client_config(identity, &SpiffeId::of_cluster(&cluster("donor")), MinTls::default()).unwrap()
}

/// Builds on its own connection, over which everything travels. Windows as small as HTTP/2 has them.
pub async fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_static("https://localhost")
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect_with_connector(service_fn(move |_| {
            let config = config.clone();
            async move { tls(address, config).await.map(TokioIo::new) }
        }))
        .await
}

pub async fn raw(donor: &Donor, ca: &Ca, name: &str) -> PeeringServiceClient<Channel> {
    raw_as(donor, &identity(ca, name)).await
}

pub async fn raw_as(donor: &Donor, identity: &Identity) -> PeeringServiceClient<Channel> {
    PeeringServiceClient::new(channel(donor.address, config_of(identity)).await.unwrap())
}

pub fn hello(instance: &str, held: Vec<pb::Held>) -> pb::SubscribeRequest {
    let hello = pb::Hello { instance: instance.into(), protocol_version: 1, held };
    pb::SubscribeRequest { message: Some(pb::subscribe_request::Message::Hello(hello)) }
}

/// A stream of requests that says hello and then stays open.
pub fn only(request: pb::SubscribeRequest) -> impl tokio_stream::Stream<Item = pb::SubscribeRequest> + Send + 'static {
    use tokio_stream::StreamExt as _;
    tokio_stream::once(request).chain(tokio_stream::pending())
}

pub async fn subscribe(
    client: &mut PeeringServiceClient<Channel>,
    request: pb::SubscribeRequest,
) -> Result<tonic::Streaming<pb::SubscribeResponse>, tonic::Status> {
    soon(client.subscribe(only(request))).await.map(tonic::Response::into_inner)
}

/// The next message, which must be changes.
pub async fn changes(stream: &mut tonic::Streaming<pb::SubscribeResponse>) -> pb::Changes {
    loop {
        match soon(stream.message()).await.unwrap().unwrap().message.unwrap() {
            pb::subscribe_response::Message::Changes(changes) => return changes,
            pb::subscribe_response::Message::Welcome(_) | pb::subscribe_response::Message::Heartbeat(_) => {}
        }
    }
}
