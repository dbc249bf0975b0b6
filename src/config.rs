//! The agent's configuration file: YAML or JSON, with Wharf's own keys and those of the 2018 proof of concept.
//!
//! An unknown key is an error that names the key and the line, since a misspelt `consume` must not pass for "nobody".

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::api::ClusterPeeringSpec;
use crate::identity::{self, IdentityFiles};
use crate::model::mistake::syntax_hint;
use crate::model::text::shorten_message;
use crate::model::{
    Address, AllowedGateways, Assurance, ClusterFacts, ClusterName, ConnectionMode, ExposureRules, GatewayAddress,
    GatewayDoubts, HiddenPeers, Host, InvalidName, Label, ObjectName, OwnGateway, Peer, SpiffeId, Style, TlsMode,
    TrustDomain,
};

mod duration;
mod istiod;
mod limits;
mod message;

pub use duration::go_duration;
pub use istiod::IstiodMetrics;
pub use limits::LimitSettings;

use self::limits::RawLimits;
use istiod::RawIstiod;

/// Default values, as the reference documents them.
pub mod defaults {
    pub const LISTEN_PORT: u16 = 7443;
    pub const ADMIN: &str = "127.0.0.1:7444";
    pub const GATEWAY_PORT: u16 = 15443;
    pub const GATEWAY_NAMESPACE: &str = "istio-system";
    pub const INGRESS: &str = "istio-ingressgateway";
    pub const EGRESS: &str = "istio-egressgateway";
    pub const CREDENTIAL: &str = "wharf-identity";
    pub const TRUST_DOMAIN: &str = "cluster.local";
    pub const ROOT_NAMESPACE: &str = "istio-system";
    /// The ConfigMap of Istio's default revision; that of another one is `istio-<revision>`.
    pub const MESH_CONFIG: &str = "istio";
    /// The agent's own namespace, if nothing names another.
    pub const NAMESPACE: &str = "wharf-system";
}

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: it is no text in UTF-8, which a configuration is", path.display())]
    NotText { path: PathBuf },
    #[error("{place}: {message}")]
    Invalid { place: String, message: String },
}

/// A configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub cluster: ClusterName,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// Names that requests to the admin listener may use, in lower case, besides addresses and `localhost`.
    pub admin_hosts: BTreeSet<String>,
    /// Networks that may read the admin listener's status, besides loopback.
    pub admin_status_from: Vec<IpNet>,
    /// Required by the agent. Translation works without it.
    pub identity: Option<IdentityConfig>,
    pub store: StoreConfig,
    /// Accepts TLS 1.2 from peers and towards them. Default: 1.3 only.
    pub allow_tls12: bool,
    pub style: Style,
    pub tls: TlsMode,
    pub trust_domain: TrustDomain,
    pub ingress: OwnGateway,
    /// Peers dial the agent through the ingress gateway.
    pub peering_by_ingress: bool,
    pub egress: OwnGateway,
    pub credential: ObjectName,
    pub namespace: Option<Label>,
    pub peers: BTreeMap<ClusterName, Peer>,
    pub trust_any: bool,
    pub allowed_gateways: AllowedGateways,
    /// Metrics of istiod, which show the gateways that refuse their configuration. None: istiod is not asked.
    pub istiod: Option<IstiodMetrics>,
    /// The mesh's root namespace.
    pub root_namespace: Label,
    /// The ConfigMap in the root namespace that holds the mesh's settings; None: it is not read.
    pub mesh_config: Option<ObjectName>,
    pub limits: LimitSettings,
    pub exposure: ExposureRules,
}

/// Source of the cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityConfig {
    /// PEM files.
    Files(IdentityFiles),
    /// A Secret in the agent's own namespace.
    Secret(ObjectName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    Dir(PathBuf),
    Kube(KubeConfig),
}

/// Settings of a cluster's API server as the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeConfig {
    /// Context of the kubeconfig file. Default: inside a cluster its own, elsewhere the current one.
    pub context: Option<String>,
    /// The only namespaces whose objects are read and written, besides the gateways'. None: all.
    pub namespaces: Option<BTreeSet<Label>>,
}

impl Config {
    /// Reads a configuration file. Paths in it are relative to the file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::InvalidData => ConfigError::NotText { path: path.to_owned() },
            _ => ConfigError::Unreadable { path: path.to_owned(), source },
        })?;
        Config::parse(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new(".")))
    }

    /// Parses a configuration. `place` names the text in errors; paths in it are relative to `base`.
    pub fn parse(text: &str, place: &str, base: &Path) -> Result<Config, ConfigError> {
        let invalid =
            |message: String| ConfigError::Invalid { place: place.to_owned(), message: shorten_message(message) };
        match in_config_map(text) {
            Some(inner) => {
                let raw = message::read_config(&inner)
                    .map_err(|m| invalid(format!("in the ConfigMap's data[\"config.yaml\"]: {m}")))?;
                raw.check(base).map_err(|m| invalid(format!("in the ConfigMap's data[\"config.yaml\"]: {m}")))
            }
            None => {
                let raw = message::read_config(text).map_err(invalid)?;
                raw.check(base).map_err(invalid)
            }
        }
    }

    /// Returns the facts for translation. `identity` is the one of the certificate in use.
    pub fn cluster_facts(&self, identity: SpiffeId) -> ClusterFacts {
        ClusterFacts {
            cluster: self.cluster.clone(),
            identity,
            style: self.style,
            tls: self.tls,
            trust_domain: self.trust_domain.clone(),
            ingress: self.ingress.clone(),
            egress: self.egress.clone(),
            credential: self.credential.clone(),
            peers: self.peers.clone(),
            hidden_peers: HiddenPeers::default(),
            trust_any: self.trust_any,
            revoked: BTreeSet::new(),
            allowed_gateways: self.allowed_gateways.clone(),
            absent_fields: BTreeSet::new(),
            root_namespace: self.root_namespace.clone(),
            mesh: None,
            exposure: self.exposure.clone(),
            doubts: GatewayDoubts::default(),
        }
    }
}

/// Returns the parser's message on one line, with its position in front.
pub(crate) fn yaml_error(e: &serde_saphyr::Error) -> String {
    let text = e.to_string();
    let message = text.lines().next().unwrap_or_default().trim().trim_start_matches("error: ");
    // The option that the library names belongs to this program's code.
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    let message = message.replace("duplicate mapping key: ", "there twice, remove one of the two: ");
    let message = match message.split_once("multiple YAML documents detected") {
        Some((place, _)) => format!("{place}another document begins here (`---`), and only one is read"),
        None => message,
    };
    let hint = syntax_hint(&message);
    match e.location() {
        Some(at) if !message.contains("line ") => format!("line {}: {message}{hint}", at.line()),
        _ => message + hint,
    }
}

/// Returns the configuration inside a ConfigMap, which the original's tool expects.
fn in_config_map(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct ConfigMap {
        kind: String,
        data: BTreeMap<String, String>,
    }
    let mut map: ConfigMap = serde_saphyr::from_str(text).ok()?;
    (map.kind == "ConfigMap").then(|| map.data.remove("config.yaml")).flatten()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConfig {
    #[serde(alias = "ID", alias = "id")]
    cluster: String,
    listen: Option<String>,
    admin: Option<String>,
    #[serde(default)]
    admin_hosts: Vec<String>,
    #[serde(default)]
    admin_status_from: Vec<String>,
    identity: Option<RawIdentity>,
    store: Option<RawStore>,
    #[serde(default)]
    allow_tls12: bool,
    style: Option<String>,
    tls: Option<String>,
    trust_domain: Option<String>,
    #[serde(default)]
    ingress: RawGateway,
    #[serde(default)]
    egress: RawGateway,
    credential: Option<String>,
    namespace: Option<String>,
    peers: Option<Vec<RawPeer>>,
    allowed_gateways: Option<Vec<String>>,
    allowed_gateway_names: Option<Vec<String>>,
    #[serde(default)]
    istiod: RawIstiod,
    #[serde(default)]
    passthrough: RawPassthrough,
    #[serde(default)]
    services: RawServices,
    #[serde(default)]
    limits: RawLimits,
    // The original's keys, besides ID.
    #[serde(alias = "GatewayIP", alias = "gatewayip")]
    gateway_ip: Option<String>,
    #[serde(alias = "GatewayPort", alias = "gatewayport")]
    gateway_port: Option<u16>,
    #[serde(alias = "AgentIP", alias = "agentip")]
    #[allow(dead_code)] // the original listens on all addresses, whatever this says
    agent_ip: Option<String>,
    #[serde(alias = "AgentPort", alias = "agentport")]
    agent_port: Option<u16>,
    #[serde(alias = "ConnectionMode", alias = "connectionmode")]
    #[allow(dead_code)] // read from the peer's entry
    connection_mode: Option<String>,
    #[serde(alias = "TrustedPeers", alias = "trustedpeers")]
    trusted_peers: Option<Vec<String>>,
    #[serde(alias = "WatchedPeers", alias = "watchedpeers")]
    watched_peers: Option<Vec<RawWatched>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPassthrough {
    #[serde(default)]
    trust_sidecars: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawServices {
    #[serde(default)]
    allow_without_selector: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentity {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    root: Option<PathBuf>,
    crl: Option<PathBuf>,
    secret: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    dir: Option<PathBuf>,
    kube: Option<RawKube>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKube {
    context: Option<String>,
    namespaces: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawGateway {
    namespace: Option<String>,
    gateway: Option<String>,
    service: Option<String>,
    selector: Option<BTreeMap<String, String>>,
    port: Option<u16>,
    service_account: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    address: Vec<String>,
    locality: Option<String>,
    drain: Option<String>,
    #[serde(default)]
    peering: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPeer {
    name: String,
    endpoint: Option<String>,
    #[serde(default)]
    consume: bool,
    identity: Option<String>,
    connection_mode: Option<ConnectionMode>,
    namespace: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    gateway: Vec<String>,
    trust_domain: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    allowed_gateways: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    allowed_gateway_names: Vec<String>,
    ca_bundle: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWatched {
    #[serde(rename = "ID", alias = "id")]
    id: String,
    #[serde(rename = "GatewayIP", alias = "gatewayIP", alias = "gatewayip")]
    gateway_ip: Option<String>,
    #[serde(rename = "GatewayPort", alias = "gatewayPort", alias = "gatewayport")]
    gateway_port: Option<u16>,
    #[serde(rename = "AgentIP", alias = "agentIP", alias = "agentip")]
    agent_ip: Option<String>,
    #[serde(rename = "AgentPort", alias = "agentPort", alias = "agentport")]
    agent_port: Option<u16>,
    #[serde(rename = "ConnectionMode", alias = "connectionMode", alias = "connectionmode")]
    connection_mode: Option<String>,
    #[serde(rename = "TrustedPeers", alias = "trustedPeers", alias = "trustedpeers")]
    #[allow(dead_code)] // the same structure as the top; a peer's own lists do not matter here
    trusted_peers: Option<Vec<String>>,
    #[serde(rename = "WatchedPeers", alias = "watchedPeers", alias = "watchedpeers")]
    #[allow(dead_code)]
    watched_peers: Option<Vec<serde::de::IgnoredAny>>,
}

/// Reads one text or a list of texts; null is an empty list.
fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Option::<OneOrMany>::deserialize(d)? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    })
}

fn name_field<T>(field: &str, result: Result<T, InvalidName>) -> Result<T, String> {
    result.map_err(|e| format!("{field}: {e}"))
}

fn parse_or<T: std::str::FromStr<Err = InvalidName>>(
    field: &str,
    text: Option<&str>,
    default: &str,
) -> Result<T, String> {
    name_field(field, text.unwrap_or(default).parse())
}

impl RawConfig {
    fn check(self, base: &Path) -> Result<Config, String> {
        let cluster: ClusterName = name_field("cluster", self.cluster.parse())?;
        let style = self.style.as_deref().map_or(Ok(Style::default()), |s| name_field("style", s.parse()))?;
        let tls = self.tls.as_deref().map_or(Ok(style.default_tls()), |s| name_field("tls", s.parse()))?;
        if !style.carries_tls(tls) {
            return Err(format!(
                "tls: {tls} needs the egress gateway that shows the cluster's certificate, and style {style} has none: \
                 use style EGRESS_INGRESS, or tls Workload or Passthrough"
            ));
        }
        let listen = match (&self.listen, self.agent_port) {
            (Some(text), _) => {
                text.parse().map_err(|_| format!("listen: {text:?} is not address:port, such as 0.0.0.0:7443"))?
            }
            (None, port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.unwrap_or(defaults::LISTEN_PORT))),
        };
        let admin = self.admin.as_deref().unwrap_or(defaults::ADMIN);
        let admin =
            admin.parse().map_err(|_| format!("admin: {admin:?} is not address:port, such as 127.0.0.1:7444"))?;
        let mut ingress = self.ingress;
        if ingress.address.is_empty() {
            ingress.address.extend(self.gateway_ip);
        }
        ingress.port = ingress.port.or(self.gateway_port);
        let admin_hosts = self.admin_hosts.iter().enumerate();
        let admin_hosts = admin_hosts.map(|(i, name)| {
            let host: Host = name_field(&format!("adminHosts[{i}]"), name.to_ascii_lowercase().parse())?;
            Ok(host.to_string())
        });
        let allowed_gateways = AllowedGateways::parse(
            &self.allowed_gateways.unwrap_or_default(),
            &self.allowed_gateway_names.unwrap_or_default(),
        )?;
        let (peers, trust_any) = merge_peers(
            &cluster,
            self.peers.unwrap_or_default(),
            self.trusted_peers.unwrap_or_default(),
            self.watched_peers.unwrap_or_default(),
        )?;
        let store = parse_store(self.store, base)?;
        let root = self.istiod.root_namespace.as_deref();
        let root_namespace = parse_or("istiod.rootNamespace", root, defaults::ROOT_NAMESPACE)?;
        let in_cluster = matches!(store, StoreConfig::Kube(_));
        let mesh_config = self.istiod.mesh_config(in_cluster)?;
        let istiod = self.istiod.check(in_cluster)?;
        let (limits, quota) = self.limits.check()?;
        Ok(Config {
            listen,
            admin,
            admin_hosts: admin_hosts.collect::<Result<_, String>>()?,
            admin_status_from: parse_networks("adminStatusFrom", &self.admin_status_from)?,
            identity: self.identity.map(|i| i.check(base)).transpose()?,
            store,
            istiod,
            root_namespace,
            mesh_config,
            allow_tls12: self.allow_tls12,
            style,
            tls,
            trust_domain: parse_or("trustDomain", self.trust_domain.as_deref(), defaults::TRUST_DOMAIN)?,
            peering_by_ingress: ingress.peering,
            ingress: ingress.check("ingress", defaults::INGRESS, "ingressgateway")?,
            egress: self.egress.check("egress", defaults::EGRESS, "egressgateway")?,
            credential: parse_or("credential", self.credential.as_deref(), defaults::CREDENTIAL)?,
            namespace: self.namespace.map(|n| name_field("namespace", n.parse())).transpose()?,
            allowed_gateways,
            limits,
            exposure: ExposureRules {
                sidecars: Assurance::of_setting(self.passthrough.trust_sidecars),
                endpoints: Assurance::of_setting(self.services.allow_without_selector),
                quota: Some(quota),
            },
            peers,
            trust_any,
            cluster,
        })
    }
}

fn parse_networks(field: &str, texts: &[String]) -> Result<Vec<IpNet>, String> {
    let parse =
        |text: &String| text.parse().map_err(|_| format!("{field}: {text:?} is not a network like 192.0.2.0/24"));
    texts.iter().map(parse).collect()
}

fn parse_store(raw: Option<RawStore>, base: &Path) -> Result<StoreConfig, String> {
    match raw {
        None => Ok(StoreConfig::Kube(KubeConfig::default())),
        Some(RawStore { dir: Some(dir), kube: None }) => Ok(StoreConfig::Dir(base.join(dir))),
        Some(RawStore { dir: None, kube: Some(RawKube { context, namespaces }) }) => {
            let labels = |names: Vec<String>| {
                let named = names.iter().enumerate();
                named.map(|(i, n)| self::name_field(&format!("store.kube.namespaces[{i}]"), n.parse())).collect()
            };
            let namespaces: Option<BTreeSet<Label>> = namespaces.map(labels).transpose()?;
            if namespaces.as_ref().is_some_and(BTreeSet::is_empty) {
                return Err("store.kube.namespaces: name at least one, or leave the key out for all".into());
            }
            Ok(StoreConfig::Kube(KubeConfig { context, namespaces }))
        }
        Some(_) => Err("store: name exactly one of dir and kube".into()),
    }
}

impl RawIdentity {
    fn check(self, base: &Path) -> Result<IdentityConfig, String> {
        match (self.secret, self.certificate, self.key, self.root) {
            (Some(secret), None, None, None) if self.crl.is_none() => {
                Ok(IdentityConfig::Secret(name_field("identity.secret", secret.parse())?))
            }
            (None, Some(certificate), Some(key), Some(root)) => Ok(IdentityConfig::Files(IdentityFiles {
                certificate: base.join(certificate),
                key: base.join(key),
                root: base.join(root),
                crl: self.crl.map(|crl| base.join(crl)),
            })),
            (Some(_), ..) => {
                Err("identity: name a secret, or the files certificate, key, root and crl, not both".into())
            }
            _ => Err("identity: expected the files certificate, key and root, or a secret".into()),
        }
    }
}

impl RawGateway {
    fn check(mut self, field: &str, service: &str, istio: &str) -> Result<OwnGateway, String> {
        if let Some(gateway) = self.gateway.take() {
            if self.service.is_some() || self.selector.is_some() {
                return Err(format!("{field}.gateway: stands for service and selector; leave those out"));
            }
            let gateway: Label = name_field(&format!("{field}.gateway"), gateway.parse())?;
            self.service = Some(format!("{gateway}-istio"));
            self.selector = Some(BTreeMap::from([(OwnGateway::NAME_LABEL.into(), gateway.to_string())]));
        }
        let port = self.port.unwrap_or(defaults::GATEWAY_PORT);
        if port == 0 {
            return Err(format!("{field}.port: expected a number from 1 to 65535"));
        }
        let drain = match self.drain.as_deref() {
            None => OwnGateway::DRAIN,
            Some(text) => go_duration(text)
                .ok_or_else(|| format!("{field}.drain: expected a duration, such as 45s or 1m30s, not {text:?}"))?,
        };
        let service: Label = parse_or(&format!("{field}.service"), self.service.as_deref(), service)?;
        let account: ObjectName =
            parse_or(&format!("{field}.serviceAccount"), self.service_account.as_deref(), service.as_str())?;
        let addresses = self.address.iter().map(|text| {
            let address: Address = name_field(&format!("{field}.address"), text.parse()).map_err(|e| {
                let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                let cure = "; the port goes under ingress.port, and where peers have to dial another one than the gateway's \
                            Service has, each peer's entry says it with gateway";
                if has_port { format!("{e}{cure}") } else { e }
            })?;
            Ok(GatewayAddress { address, port, locality: self.locality.clone() })
        });
        Ok(OwnGateway {
            namespace: parse_or(&format!("{field}.namespace"), self.namespace.as_deref(), defaults::GATEWAY_NAMESPACE)?,
            selector: self.selector.unwrap_or_else(|| BTreeMap::from([("istio".into(), istio.into())])),
            port,
            service_account: account.to_string(),
            account_configured: self.service_account.is_some(),
            addresses: addresses.collect::<Result<_, String>>()?,
            locality: self.locality,
            drain,
            service,
        })
    }
}

type PeerMap = BTreeMap<ClusterName, Peer>;

fn merge_peers(
    own: &ClusterName,
    listed: Vec<RawPeer>,
    trusted: Vec<String>,
    watched: Vec<RawWatched>,
) -> Result<(PeerMap, bool), String> {
    let mut peers = PeerMap::new();
    for (i, raw) in listed.into_iter().enumerate() {
        let field = format!("peers[{i}]");
        let name: ClusterName = name_field(&format!("{field}.name"), raw.name.parse())?;
        if name == *own {
            return Err(format!("{field}.name: {name} is this cluster itself"));
        }
        let spec = ClusterPeeringSpec {
            endpoint: raw.endpoint,
            consume: raw.consume,
            identity: raw.identity,
            connection_mode: raw.connection_mode,
            namespace: raw.namespace,
            gateway: raw.gateway,
            trust_domain: raw.trust_domain,
            allowed_gateways: raw.allowed_gateways,
            allowed_gateway_names: raw.allowed_gateway_names,
            ca_bundle: raw.ca_bundle,
        };
        let peer = spec.to_peer(name.clone()).and_then(with_usable_roots);
        let peer = peer.map_err(|e| format!("{field} ({name}).{e}"))?;
        if peers.insert(name.clone(), peer).is_some() {
            return Err(format!("{field}.name: {name} is listed twice"));
        }
    }
    for (i, raw) in watched.into_iter().enumerate() {
        let name: ClusterName = name_field(&format!("WatchedPeers[{i}].ID"), raw.id.parse())?;
        let peer = raw.into_peer(&name).map_err(|e| format!("WatchedPeers[{i}] ({name}).{e}"))?;
        peers.insert(name, peer);
    }
    let trust_any = trusted.iter().any(|t| t == "*");
    for (i, name) in trusted.iter().enumerate().filter(|(_, t)| *t != "*") {
        let name: ClusterName = name_field(&format!("TrustedPeers[{i}]"), name.parse())?;
        peers.entry(name.clone()).or_insert_with(|| Peer::with_name(name)).consume = true;
    }
    if trust_any {
        peers.values_mut().for_each(|p| p.consume = true);
    }
    Ok((peers, trust_any))
}

/// Returns the same peer, if the certificates of its entry can be roots. The error begins with the field.
pub fn with_usable_roots(peer: Peer) -> Result<Peer, String> {
    if let Some(bundle) = &peer.ca_bundle {
        identity::check_ca_bundle(bundle).map_err(|e| format!("caBundle: {e}"))?;
    }
    Ok(peer)
}

impl RawWatched {
    /// Applies the original's defaults: the agent has the gateway's address, and a missing mode means live.
    fn into_peer(self, name: &ClusterName) -> Result<Peer, String> {
        let mut peer = Peer::with_name(name.clone());
        peer.connection_mode = match self.connection_mode.as_deref().unwrap_or_default() {
            "" | "live" => ConnectionMode::Live,
            "potential" => ConnectionMode::Potential,
            "none" => ConnectionMode::None,
            other => return Err(format!("ConnectionMode: {other:?} is neither live nor potential")),
        };
        let host = self.agent_ip.filter(|ip| !ip.is_empty()).or_else(|| self.gateway_ip.clone());
        if let (Some(host), Some(port)) = (host, self.agent_port.or(self.gateway_port)) {
            let host = name_field("AgentIP", host.parse())?;
            peer.endpoint = Some(crate::model::Endpoint { host, port });
        }
        if let Some(ip) = self.gateway_ip.filter(|ip| !ip.is_empty()) {
            let address = name_field("GatewayIP", ip.parse())?;
            let port = self.gateway_port.unwrap_or(defaults::GATEWAY_PORT);
            peer.gateway_hint = vec![GatewayAddress { address, port, locality: None }];
        }
        Ok(peer)
    }
}

#[cfg(test)]
mod tests;
