//! Small worlds: a donor `harbor` with a shop, an acceptor `isle` with an office.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Kind, Object, RemoteServiceBinding, ServiceExpositionPolicy};
use crate::model::{
    AllowedGateways, Assurance, Client, ClusterFacts, ClusterName, ExposedPort, Exposition, ExpositionKey,
    ExposureRules, GatewayAddress, GatewayDoubts, HiddenPeers, Label, OwnGateway, Peer, Protocol, SpiffeId, Style,
    TlsMode,
};
use crate::translate::{
    Inventory, LocalName, LocalTranslation, NameClaims, PassthroughHosts, PolicyTranslation, Source, WantedService,
    bind_local_name, expose_policy, split_binding,
};

pub fn label(s: &str) -> Label {
    s.parse().unwrap()
}

pub fn cluster(s: &str) -> ClusterName {
    s.parse().unwrap()
}

fn gateway(service: &str, addresses: &[&str]) -> OwnGateway {
    let address = |a: &&str| GatewayAddress { address: a.parse().unwrap(), port: 15443, locality: None };
    OwnGateway {
        namespace: label("istio-system"),
        service: label(service),
        selector: BTreeMap::from([("istio".to_owned(), service.trim_start_matches("istio-").to_owned())]),
        port: 15443,
        service_account: service.to_owned(),
        account_configured: false,
        locality: None,
        addresses: addresses.iter().map(address).collect(),
        drain: OwnGateway::DRAIN,
    }
}

/// A cluster that trusts, and watches, `peers`.
pub fn facts(name: &str, style: Style, peers: &[&str]) -> ClusterFacts {
    let peer = |p: &&str| (cluster(p), Peer { consume: true, ..Peer::with_name(cluster(p)) });
    ClusterFacts {
        cluster: cluster(name),
        identity: SpiffeId::of_cluster(&cluster(name)),
        style,
        tls: style.default_tls(),
        trust_domain: name.parse().unwrap(),
        ingress: gateway("istio-ingressgateway", &["192.0.2.10"]),
        egress: gateway("istio-egressgateway", &[]),
        credential: "wharf-identity".parse().unwrap(),
        peers: peers.iter().map(peer).collect(),
        hidden_peers: HiddenPeers::default(),
        trust_any: false,
        revoked: BTreeSet::new(),
        allowed_gateways: AllowedGateways::default(),
        absent_fields: BTreeSet::new(),
        root_namespace: label("istio-system"),
        mesh: None,
        exposure: ExposureRules { sidecars: Assurance::Operator, endpoints: Assurance::Missing, quota: None },
        doubts: GatewayDoubts::default(),
    }
}

pub fn harbor() -> ClusterFacts {
    facts("harbor", Style::EgressIngress, &["isle", "reef"])
}

pub fn isle(style: Style) -> ClusterFacts {
    facts("isle", style, &["harbor", "reef", "cove"])
}

pub fn object(kind: Kind, value: Value) -> Arc<Object> {
    Arc::new(Object::from_json(kind, &value).unwrap())
}

pub fn service(namespace: &str, name: &str, ports: Value) -> Arc<Object> {
    let spec = json!({"selector": {"app": name}, "ports": ports});
    object(Kind::Service, json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}))
}

pub fn rule(namespace: &str, name: &str, spec: Value) -> Arc<Object> {
    let value = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    object(Kind::DestinationRule, value)
}

pub fn routes(namespace: &str, name: &str, spec: Value) -> Arc<Object> {
    let value = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    object(Kind::VirtualService, value)
}

/// A shop with a till (HTTP, of two subsets) and a ledger (HTTP, gRPC, TCP, UDP).
pub fn shop() -> Inventory {
    let mut inventory = Inventory::default();
    inventory.set_object(service("shop", "till", json!([{"name": "http", "port": 8080}])));
    let ports = json!([{"name": "http-api", "port": 8080}, {"name": "grpc", "port": 9000}, {"name": "tcp-feed", "port": 5000},
        {"name": "dns", "port": 53, "protocol": "UDP"}]);
    inventory.set_object(service("shop", "ledger", ports));
    let subsets =
        json!([{"name": "stable", "labels": {"track": "stable"}}, {"name": "canary", "labels": {"track": "canary"}}]);
    inventory.set_object(rule("shop", "till", json!({"host": "till", "subsets": subsets})));
    inventory
}

pub fn policy(name: &str, exposed: Value) -> ServiceExpositionPolicy {
    let value = json!({"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": {"exposed": exposed}});
    serde_json::from_value(value).unwrap()
}

/// What one policy with these entries comes to.
pub fn exposed(entries: Value, inventory: &Inventory, facts: &ClusterFacts) -> PolicyTranslation {
    let policy = policy("partners", entries);
    let mut claims = NameClaims::default();
    claims.insert_policy(&policy);
    expose_policy(&policy, inventory, &claims, facts)
}

pub fn binding(name: &str, remote: Value) -> RemoteServiceBinding {
    let value = json!({"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "RemoteServiceBinding",
        "metadata": {"name": name, "namespace": "office"}, "spec": {"remote": remote}});
    serde_json::from_value(value).unwrap()
}

/// What a donor offers of `shop/<name>`.
pub struct Offered(pub Exposition);

pub fn offered(donor: &str, name: &str, tls: TlsMode) -> Offered {
    let key = ExpositionKey { namespace: label("shop"), name: label(name) };
    let host = key.host();
    let port = ExposedPort { number: 8080, name: "http".to_owned(), protocol: Protocol::Http, host: host.clone() };
    let identity = match tls {
        TlsMode::Cluster => vec![SpiffeId::of_cluster(&cluster(donor))],
        TlsMode::Workload => vec![format!("spiffe://{donor}/ns/istio-system/sa/istio-ingressgateway").parse().unwrap()],
        TlsMode::Passthrough => Vec::new(),
    };
    let address = match donor {
        "harbor" => "192.0.2.10",
        "reef" => "192.0.2.30",
        _ => "192.0.2.40",
    };
    let gateways = vec![GatewayAddress { address: address.parse().unwrap(), port: 15443, locality: None }];
    Offered(Exposition {
        key,
        host,
        ports: vec![port],
        tls,
        identities: identity,
        gateways,
        clients: Vec::new(),
        host_is_withheld: false,
    })
}

impl Offered {
    pub fn protocol(mut self, protocol: Protocol) -> Offered {
        self.0.ports[0].protocol = protocol;
        self
    }

    pub fn at(mut self, addresses: &[&str]) -> Offered {
        let one = |a: &&str| GatewayAddress { address: a.parse().unwrap(), port: 15443, locality: None };
        self.0.gateways = addresses.iter().map(one).collect();
        self
    }

    pub fn clients(mut self, namespaces: &[&str]) -> Offered {
        self.0.clients = namespaces.iter().map(|n| Client { namespace: label(n), service_account: None }).collect();
        self
    }
}

/// Binds `shop/<name>` of each donor as `office/<local>`; `with` may change what is asked for.
pub fn source(donor: &str, local: &str, offered: Offered, with: impl FnOnce(&mut WantedService)) -> Source {
    let exposed = offered.0.key.clone();
    let service = json!({"name": exposed.name, "namespace": "shop", "alias": local});
    let split = split_binding(&binding("suppliers", json!([{"cluster": donor, "services": [service]}])));
    let mut wanted = (**split.wanted().next().unwrap()).clone();
    with(&mut wanted);
    Source::new(Arc::new(wanted), Ok(Arc::new(offered.0)))
}

/// The same, of a binding of some age: the first or second of January, or of no known age.
pub fn source_aged(donor: &str, local: &str, offered: Offered, age: Option<u8>) -> Source {
    let service = json!({"name": offered.0.key.name, "namespace": "shop", "alias": local});
    let mut binding = binding("suppliers", json!([{"cluster": donor, "services": [service]}]));
    let time = age.map(|a| json!(format!("2026-01-0{}T00:00:00Z", a + 1)));
    binding.metadata.creation_timestamp = time.map(|t| serde_json::from_value(t).unwrap());
    let wanted = split_binding(&binding).wanted().next().unwrap().clone();
    Source::new(wanted, Ok(Arc::new(offered.0)))
}

pub fn local(name: &str) -> LocalName {
    LocalName { namespace: label("office"), name: label(name) }
}

pub fn bound(sources: &[Source], inventory: &Inventory, facts: &ClusterFacts) -> LocalTranslation {
    let name = sources[0].wanted.local.clone();
    let mut passthroughs = PassthroughHosts::default();
    passthroughs.update_sources(&name, sources);
    bind_local_name(&name, sources, inventory, &passthroughs, facts, false)
}

/// The objects as one JSON value, by kind and name.
pub fn json_of(objects: &[Object]) -> BTreeMap<String, Value> {
    objects.iter().map(|o| (o.key().to_string(), serde_json::to_value(o).unwrap())).collect()
}

/// The only object whose kind, namespace and name begin like this.
pub fn named(objects: &BTreeMap<String, Value>, start: &str) -> Value {
    let found: Vec<_> = objects.iter().filter(|(key, _)| key.starts_with(start)).collect();
    assert_eq!(found.len(), 1, "{start}: {:?}", objects.keys());
    found[0].1.clone()
}

/// The spec of the only object of a kind.
pub fn only(objects: &[Object], kind: Kind) -> Value {
    let mut found = objects.iter().filter(|o| o.kind() == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is a {kind}"));
    assert!(found.next().is_none(), "there is but one {kind}");
    serde_json::to_value(object).unwrap()["spec"].clone()
}
