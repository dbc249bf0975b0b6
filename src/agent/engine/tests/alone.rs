//! An engine without anything around it: a test speaks for the store and for every peer, and time passes when the test
//! sleeps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::store::MemoryStore;
use crate::agent::accounts::AccountAnswers;
use crate::agent::admin::EngineQuery;
use crate::agent::engine::{Engine, EngineInlets, EngineParts};
use crate::agent::istiod::GatewayWatch;
use crate::agent::links::DonorLinks;
use crate::agent::lookup::{LookupAnswer, LookupQuestion};
use crate::config::Config;
use crate::identity::authority::{CertificateAuthority, CertificateRequest, create_root};
use crate::identity::tls::MinTls;
use crate::identity::{Identity, IdentityFiles};
use crate::model::SpiffeId;
use crate::peering::client::{AcceptorContext, DonorEvent, DonorNews, StreamMark};
use crate::peering::convert::ReceivedExposition;
use crate::peering::server::ServerCounters;
use crate::peering::{Board, Limits, PeerTable, Subscribers};
use crate::store::{Change, InputKey, NamedKey, ObjectStatus, ObjectStore as _, Owner, manifest};

/// Longer than the engine needs for anything that it does without waiting, statuses among it.
const MOMENT: Duration = Duration::from_millis(500);

pub struct EngineAlone {
    pub store: MemoryStore,
    changes: mpsc::Sender<Change>,
    donors: mpsc::Sender<DonorEvent>,
    /// Keeps the inlets open that no test uses.
    _open: OpenInlets,
}

type OpenInlets = (
    mpsc::Sender<Change>,
    mpsc::Sender<LookupAnswer>,
    mpsc::Receiver<LookupQuestion>,
    mpsc::Sender<EngineQuery>,
    mpsc::Sender<Result<Box<Config>, String>>,
    watch::Sender<Arc<Identity>>,
    watch::Sender<Option<String>>,
    watch::Sender<GatewayWatch>,
    watch::Sender<AccountAnswers>,
    mpsc::Receiver<DonorEvent>,
);

impl EngineAlone {
    /// Starts the engine of the cluster `here`, with these peers in its configuration. The store has told nothing yet.
    pub async fn start(peers: &str) -> EngineAlone {
        let text = format!("cluster: here\nstore: {{dir: nowhere}}\ningress: {{address: 192.0.2.1}}\npeers: {peers}\n");
        let config = Config::parse(&text, "the test's configuration", Path::new(".")).unwrap();
        let identity = Arc::new(make_identity(&config));
        let limits = Arc::new(Limits::default());
        let facts = config.cluster_facts(identity.spiffe_id.clone());
        let (changes, told) = mpsc::channel(64);
        let store = MemoryStore::new(told);
        let (donors, donor_events) = mpsc::channel(64);
        let (problems, problem_events) = mpsc::channel(1);
        let (answers, lookup_events) = mpsc::channel(1);
        let (lookups, questions) = mpsc::channel(64);
        let (queries, query_events) = mpsc::channel(1);
        let (configs, config_events) = mpsc::channel(1);
        let (identities, own) = watch::channel(identity.clone());
        let (identity_problems, identity_problem) = watch::channel(None);
        let (gateway_news, gateways) = watch::channel(GatewayWatch::default());
        let (account_news, accounts) = watch::channel(AccountAnswers::new());
        // The real clients of donors dial nobody that answers, and nobody hears them: the test speaks for donors.
        let (unheard, clients) = mpsc::channel(64);
        let context = AcceptorContext {
            instance: "memory".into(),
            identity: own.clone(),
            min_tls: MinTls::Tls13,
            limits: limits.clone(),
        };
        let inlets = EngineInlets {
            store: store.watch_changes().await.unwrap(),
            problems: problem_events,
            donors: donor_events,
            lookups: lookup_events,
            queries: query_events,
            config: config_events,
            identity: own,
            identity_problem,
            gateways,
            accounts,
        };
        let engine = Engine::new(EngineParts {
            store: store.clone(),
            parallel: 4,
            instance: "memory".into(),
            config,
            identity,
            board: Board::new(limits.clone()),
            table: watch::Sender::new(Arc::new(PeerTable::from(&facts))),
            subscribers: Subscribers::new(limits.clone()),
            counters: Arc::new(ServerCounters::default()),
            links: DonorLinks::new(context, unheard, Handle::current()),
            lookups,
            limits,
        });
        tokio::spawn(engine.run(inlets, tokio_util::sync::CancellationToken::new()));
        let open = (
            problems,
            answers,
            questions,
            queries,
            configs,
            identities,
            identity_problems,
            gateway_news,
            account_news,
            clients,
        );
        EngineAlone { store, changes, donors, _open: open }
    }

    /// Makes the store report these manifests as new or changed.
    pub async fn set(&self, manifests: &str) {
        for document in manifest::read_manifest("the test's manifest", manifests.as_bytes()) {
            let input = document.unwrap().input;
            self.tell(Change::Set(input.key(), input)).await;
        }
    }

    pub async fn tell(&self, change: Change) {
        self.changes.send(change).await.unwrap();
    }

    /// Speaks for a donor.
    pub async fn hear(&self, donor: &str, news: DonorNews) {
        self.donors.send(DonorEvent::of_nobody(donor.parse().unwrap(), news)).await.unwrap();
    }

    /// Lets a donor offer exactly these services of its namespace `shop`.
    pub async fn offer(&self, donor: &str, services: &[&str]) {
        let changed = services.iter().map(|name| Ok(exposition(name))).collect();
        self.hear(donor, DonorNews::Batch { changed, gone: Vec::new(), mark: StreamMark::default(), synced: true })
            .await;
    }

    /// Lets the engine do all that it can do without waiting.
    pub async fn settle(&self) {
        tokio::time::sleep(MOMENT).await;
    }

    /// Returns the owners of the objects in the store.
    pub fn owners(&self) -> Vec<Owner> {
        self.store.lock().objects.keys().cloned().collect()
    }

    /// Returns whether a binding of the namespace `shop` is ready, the reason and the message.
    pub fn ready(&self, binding: &str) -> String {
        let key = InputKey::Binding(NamedKey { namespace: "shop".into(), name: binding.into() });
        let Some(ObjectStatus::Binding(_, status)) = self.store.lock().statuses.get(&key).cloned() else {
            return "no status".into();
        };
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready").expect("each binding has it");
        format!("{:?} {}: {}", ready.status, ready.reason, ready.message)
    }
}

fn exposition(name: &str) -> ReceivedExposition {
    let host = format!("{name}.shop.svc.cluster.local");
    let exposition = serde_json::from_value(serde_json::json!({
        "namespace": "shop", "name": name, "host": host,
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "host": format!("p80.{host}")}],
        "tls": "Cluster", "identities": ["spiffe://wharf/cluster/there"], "gateways": [{"address": "192.0.2.9", "port": 15443}],
    }));
    ReceivedExposition { version: "1".into(), exposition: exposition.unwrap() }
}

fn make_identity(config: &Config) -> Identity {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (now, day) = (OffsetDateTime::now_utc(), "1d".parse().unwrap());
    let root = create_root("test", day, now).unwrap();
    let (root, root_key) = (file("ca.crt", &root.certificate), file("ca.key", &root.key));
    let request = CertificateRequest {
        cluster: config.cluster.clone(),
        spiffe_id: SpiffeId::of_cluster(&config.cluster),
        dns: Vec::new(),
        ip: Vec::new(),
        ttl: day,
    };
    let authority = CertificateAuthority::load(&root, &root_key, now).unwrap();
    let issued = authority.issue_certificate(&request, now).unwrap();
    let (certificate, key) = (file("tls.crt", &issued.certificate), file("tls.key", &issued.key));
    Identity::load(&IdentityFiles { certificate, key, root, crl: None }).unwrap()
}
