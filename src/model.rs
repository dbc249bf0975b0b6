//! The values of both sides of a peering: clusters, expositions, addresses, permissions.
//!
//! Every name here is a type that is made only by parsing, so that a value that exists is a value that is valid.
//! Nothing here knows YAML, protobuf, Kubernetes or a socket.

mod doubt;
mod exposing;
mod mesh;
pub mod mistake;
pub mod text;

pub use doubt::{DoubtKind, GatewayDoubt, GatewayDoubts};
pub use exposing::{Assurance, ExposureRules, NamespaceQuota};
pub use mesh::MeshSettings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use gateways::{AllowedGateways, GatewayRefusal, GatewayRules, GatewayVerdict, NameAnswer, NameAnswers, is_public};
pub use hidden::HiddenPeers;

mod gateways;
mod hidden;
mod special;

/// The reason why a text is not the name that it should be. Reads as the end of a sentence: `"A_b" is not a DNS label:
/// …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what:?} is not {expected}: {why}")]
pub struct InvalidName {
    pub what: String,
    pub expected: &'static str,
    pub why: &'static str,
}

fn invalid_name(what: &str, expected: &'static str, why: &'static str) -> InvalidName {
    // Untrusted text ends up in logs and statuses: keep it short.
    InvalidName { what: what.chars().take(80).collect(), expected, why }
}

fn check_label(s: &str) -> Result<(), &'static str> {
    if s.is_empty() {
        return Err("it is empty");
    }
    if s.len() > 63 {
        return Err("it has more than 63 characters");
    }
    check_part(s)
}

fn check_part(s: &str) -> Result<(), &'static str> {
    if s.is_empty() {
        return Err("it is empty");
    }
    if !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err("only lower-case letters, digits and '-' are allowed");
    }
    if s.starts_with('-') || s.ends_with('-') {
        return Err("it must begin and end with a letter or digit");
    }
    Ok(())
}

fn check_subdomain(s: &str) -> Result<(), &'static str> {
    if s.len() > 253 {
        return Err("it has more than 253 characters");
    }
    check_dotted(s)?;
    s.split('.').try_for_each(check_label)
}

/// Checks a name of an object by the API server's rule: that of a DNS subdomain, whose parts may be of any length
/// (apimachinery, `IsDNS1123Subdomain`).
fn check_object_name(s: &str) -> Result<(), &'static str> {
    if s.len() > 253 {
        return Err("it has more than 253 characters");
    }
    check_dotted(s)?;
    s.split('.').try_for_each(check_part)
}

/// Refuses letters that no part of a name may have, and names that begin or end with a dot or have two in a row.
fn check_dotted(s: &str) -> Result<(), &'static str> {
    if !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
        return Err("only lower-case letters, digits, '-' and '.' are allowed");
    }
    if s.contains('.') && s.split('.').any(str::is_empty) {
        return Err("there is nothing before or after one of its dots");
    }
    Ok(())
}

/// Checks a Service's name, which is a DNS label of RFC 1035 up to Kubernetes 1.35: it begins with a letter.
pub fn check_service_name(name: &Label) -> Result<(), InvalidName> {
    match name.as_str().starts_with(|c: char| c.is_ascii_digit()) {
        true => Err(invalid_name(name.as_str(), "the name of a Service", "it must begin with a letter")),
        false => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(s).map_err(|why| invalid_name(s, $expected, why))?;
                Ok(Self(s.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, InvalidName> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": 253})
            }
        }
    };
}

name_type!(
    /// A DNS label (RFC 1123): a Service, a namespace, a subset.
    Label, "a DNS label", check_label
);
name_type!(
    /// The unique name of a cluster: a DNS label.
    ClusterName, "a cluster name (a DNS label)", check_label
);
name_type!(
    /// A DNS name (RFC 1123 subdomain, at most 253 characters), without a trailing dot and without wildcards.
    Host, "a host name", check_subdomain
);
name_type!(
    /// The name of a Kubernetes object that may be a DNS subdomain.
    ObjectName, "an object name (a DNS subdomain)", check_object_name
);
name_type!(
    /// The trust domain of a mesh, as in `spiffe://<trust domain>/…`.
    TrustDomain, "a trust domain", |s| {
        if s.is_empty() || s.len() > 255 {
            return Err("it must have 1 to 255 characters");
        }
        if s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_')) {
            Ok(())
        } else {
            Err("only lower-case letters, digits, '.', '-' and '_' are allowed (SPIFFE ID, section 2.1)")
        }
    }
);
name_type!(
    /// A SPIFFE ID: `spiffe://trust-domain/path`, at most 2048 bytes (SPIFFE ID specification, section 2).
    SpiffeId, "a SPIFFE ID", |s| {
        let Some(rest) = s.strip_prefix("spiffe://") else {
            return Err("it must begin with spiffe://");
        };
        if s.len() > 2048 {
            return Err("it has more than 2048 bytes");
        }
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if domain.parse::<TrustDomain>().is_err() {
            return Err("its trust domain has characters that are not allowed");
        }
        if rest.ends_with('/') {
            return Err("its path must not end with '/'");
        }
        for segment in path.split('/').filter(|_| !path.is_empty()) {
            if segment.is_empty() || segment == "." || segment == ".." {
                return Err("its path has an empty or relative segment");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
                return Err("its path has characters other than letters, digits, '.', '-' and '_'");
            }
        }
        Ok(())
    }
);

impl Host {
    /// Returns `<name>.<namespace>.svc.cluster.local`, the name of a Service in its cluster.
    pub fn of_service(name: &Label, namespace: &Label) -> Host {
        // Two labels of at most 63 characters and the suffix are always a valid host name.
        Host(format!("{name}.{namespace}.svc.cluster.local").into())
    }

    /// Returns the exposed host for the host of one of its ports.
    pub fn without_port(&self) -> Host {
        let split = self.0.split_once('.').filter(|(first, rest)| {
            let number = first.strip_prefix('p').is_some_and(|n| n.parse::<u16>().is_ok());
            number && rest.strip_suffix(".svc.cluster.local").is_some_and(|name| name.split('.').count() == 2)
        });
        split.map_or_else(|| self.clone(), |(_, rest)| Host(rest.into()))
    }

    /// Returns the host of one port of an exposed host: `p<port>.<host>`. None if that would be too long.
    pub fn of_port(&self, port: u16) -> Option<Host> {
        format!("p{port}.{self}").parse().ok()
    }
}

impl SpiffeId {
    /// Returns the identity of a cluster that pins no other: `spiffe://wharf/cluster/<name>`.
    pub fn of_cluster(cluster: &ClusterName) -> SpiffeId {
        SpiffeId(format!("spiffe://wharf/cluster/{cluster}").into())
    }

    /// Returns the identity that Istio gives a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn of_workload(trust_domain: &TrustDomain, namespace: &Label, service_account: &str) -> Option<SpiffeId> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse().ok()
    }

    /// Returns the cluster that this identity names, if it is of the form `spiffe://wharf/cluster/<name>`.
    pub fn cluster(&self) -> Option<ClusterName> {
        self.0.strip_prefix("spiffe://wharf/cluster/")?.parse().ok()
    }
}

/// The way in which consumers reach a donor's gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Style {
    /// Sidecar → the acceptor's egress gateway → the donor's ingress gateway.
    #[default]
    #[serde(rename = "EGRESS_INGRESS")]
    EgressIngress,
    /// Sidecar → the donor's ingress gateway.
    #[serde(rename = "DIRECT_INGRESS")]
    DirectIngress,
}

impl Style {
    /// Returns the TLS mode that a style has by default.
    pub fn default_tls(self) -> TlsMode {
        match self {
            Style::EgressIngress => TlsMode::Cluster,
            Style::DirectIngress => TlsMode::Workload,
        }
    }

    /// Returns whether the style carries a TLS mode. A sidecar does not hold the cluster's certificate, so without an
    /// egress gateway nobody can show it.
    pub fn carries_tls(self, tls: TlsMode) -> bool {
        !(self == Style::DirectIngress && tls == TlsMode::Cluster)
    }
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Style::EgressIngress => "EGRESS_INGRESS",
            Style::DirectIngress => "DIRECT_INGRESS",
        })
    }
}

impl FromStr for Style {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        match s {
            "EGRESS_INGRESS" => Ok(Style::EgressIngress),
            "DIRECT_INGRESS" => Ok(Style::DirectIngress),
            _ => Err(invalid_name(s, "a style", "it must be EGRESS_INGRESS or DIRECT_INGRESS")),
        }
    }
}

/// Whose TLS protects the leg between two clusters, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TlsMode {
    /// The clusters' own certificates; ends at the donor's ingress gateway.
    Cluster,
    /// The workloads' certificates; ends at the donor's ingress gateway.
    Workload,
    /// The workloads' certificates, end to end.
    Passthrough,
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for TlsMode {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        match s {
            "Cluster" => Ok(TlsMode::Cluster),
            "Workload" => Ok(TlsMode::Workload),
            "Passthrough" => Ok(TlsMode::Passthrough),
            _ => Err(invalid_name(s, "a TLS mode", "it must be Cluster, Workload or Passthrough")),
        }
    }
}

/// The protocol of a port, as far as a gateway has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "HTTP2")]
    Http2,
    #[serde(rename = "GRPC")]
    Grpc,
    #[serde(rename = "TCP")]
    Tcp,
}

impl Protocol {
    pub fn is_http(self) -> bool {
        self != Protocol::Tcp
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Http2 => "HTTP2",
            Protocol::Grpc => "GRPC",
            Protocol::Tcp => "TCP",
        }
    }
}

impl FromStr for Protocol {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let all = [Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tcp];
        let found = all.into_iter().find(|protocol| protocol.as_str() == s);
        found.ok_or_else(|| invalid_name(s, "a protocol", "it must be HTTP, HTTP2, GRPC or TCP"))
    }
}

/// Names one exposition of one donor: the alias and the policy's namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExpositionKey {
    pub namespace: Label,
    pub name: Label,
}

impl ExpositionKey {
    pub fn host(&self) -> Host {
        Host::of_service(&self.name, &self.namespace)
    }
}

impl fmt::Display for ExpositionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ExpositionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One service, as it is exposed to one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exposition {
    #[serde(flatten)]
    pub key: ExpositionKey,
    /// The name that callers use between the clusters: SNI, and authority of HTTP requests.
    pub host: Host,
    /// Has at least one.
    pub ports: Vec<ExposedPort>,
    pub tls: TlsMode,
    /// The identities that may answer for it; empty where they cannot be foretold (Passthrough).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<SpiffeId>,
    /// Has at least one.
    pub gateways: Vec<GatewayAddress>,
    /// The only callers inside the acceptor that may use it; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<Client>,
    /// The host itself is not served, although there is one port only: it meant another port before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_is_withheld: bool,
}

impl Exposition {
    /// Returns whether the host itself is served beside that of the port, for peers that know no other.
    pub fn serves_host(&self) -> bool {
        self.ports.len() == 1 && !self.host_is_withheld
    }

    /// Returns a hash of the content, the same in every process: equal versions are equal expositions.
    pub fn version(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default(); // plain data: there is nothing in it that can fail
        Sha256::digest(&text)[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposedPort {
    /// The Service's port at the donor.
    pub number: u16,
    pub name: String,
    pub protocol: Protocol,
    /// The name of this port at the donor's gateway: `p<port>.<host>`. A donor of 0.1 has the exposition's host for the
    /// first.
    pub host: Host,
}

/// The place of a gateway: an address or a name, never resolved here, so that a name may move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayAddress {
    pub address: Address,
    pub port: u16,
    /// `region[/zone[/subzone]]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Ip(IpAddr),
    Name(Host),
}

impl FromStr for Address {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        if let Ok(ip) = s.parse() {
            return Ok(Address::Ip(ip));
        }
        // 1.2.3 and 1.2.3.4.5 are valid labels joined by dots, and surely meant as addresses.
        if s.split('.').all(|part| part.bytes().all(|b| b.is_ascii_digit())) {
            return Err(invalid_name(s, "an address", "it is neither an IP address nor a host name"));
        }
        s.to_ascii_lowercase().parse().map(Address::Name).map_err(|e: InvalidName| invalid_name(s, "an address", e.why))
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}

impl From<Address> for String {
    fn from(a: Address) -> String {
        a.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(ip) => ip.fmt(f),
            Address::Name(host) => host.fmt(f),
        }
    }
}

/// A caller inside an acceptor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    pub namespace: Label,
    /// The memory of peers keeps the first name: an older agent would let in every account of the namespace.
    #[serde(default, alias = "serviceAccount", skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ObjectName>,
}

/// Whether, and how, a peer's expositions become bindings by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionMode {
    /// Bindings are made and configured.
    Live,
    /// Bindings are made as offers; nothing is configured until one is made live.
    Potential,
    /// No binding is made; operators write their own.
    #[default]
    None,
}

/// This cluster's knowledge about another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: ClusterName,
    /// `host:port` of its agent: dialled, so it is a donor to this cluster.
    pub endpoint: Option<Endpoint>,
    /// It may consume: it is an acceptor to this cluster.
    pub consume: bool,
    /// The identity of its certificate; default [`SpiffeId::of_cluster`].
    pub identity: SpiffeId,
    pub connection_mode: ConnectionMode,
    /// The namespace of bindings that Wharf makes.
    pub namespace: Option<Label>,
    /// Overrides the gateway addresses that it advertises.
    pub gateway: Vec<GatewayAddress>,
    /// The address of its gateway as long as it advertises none: the original's `GatewayIP`.
    pub gateway_hint: Vec<GatewayAddress>,
    /// The trust domain of its mesh; default its name. Used by `Workload` and `Passthrough`.
    pub trust_domain: TrustDomain,
    /// The places that its gateways may have, besides those that are allowed for all peers.
    pub allowed_gateways: AllowedGateways,
    /// The only certificates that its chain may lead to; none: the roots that all clusters share.
    pub ca_bundle: Option<CaBundle>,
}

impl Peer {
    /// Makes a peer with a name only: neither dialled nor trusted.
    pub fn with_name(name: ClusterName) -> Peer {
        Peer {
            endpoint: None,
            consume: false,
            identity: SpiffeId::of_cluster(&name),
            connection_mode: ConnectionMode::None,
            namespace: None,
            gateway: Vec::new(),
            gateway_hint: Vec::new(),
            trust_domain: TrustDomain(name.0.clone()), // a DNS label is a valid trust domain
            allowed_gateways: AllowedGateways::default(),
            ca_bundle: None,
            name,
        }
    }
}

/// Certificates in PEM that a peer's chain has to lead to. The room for certificates reads their content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CaBundle(Arc<str>);

impl CaBundle {
    const MAX_BYTES: usize = 64 << 10;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CaBundle {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let expected = "certificates in PEM";
        if s.len() > CaBundle::MAX_BYTES {
            return Err(invalid_name(s, expected, "it has more than 65536 bytes"));
        }
        if !s.contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid_name(
                s,
                expected,
                "there is no BEGIN CERTIFICATE in it; it is PEM as it is, not base64 of it",
            ));
        }
        Ok(CaBundle(s.into()))
    }
}

/// `host:port` of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: Address,
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let expected = "an endpoint (host:port)";
        if s.contains("://") {
            return Err(invalid_name(s, expected, "leave out the scheme"));
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(|| invalid_name(s, expected, "the port is missing"))?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|p| *p != 0);
        Ok(Endpoint {
            host: host.parse().map_err(|e: InvalidName| invalid_name(s, expected, e.why))?,
            port: port.ok_or_else(|| invalid_name(s, expected, "the port must be a number from 1 to 65535"))?,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Address::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// One of this cluster's own gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnGateway {
    pub namespace: Label,
    pub service: Label,
    /// The labels of its pods.
    pub selector: BTreeMap<String, String>,
    /// The port of Wharf's servers on it.
    pub port: u16,
    /// The service account of its pods; default the Service's name. Its workload identity follows from it.
    pub service_account: String,
    /// The configuration names the service account.
    pub account_configured: bool,
    /// Its locality: `region[/zone[/subzone]]`, if it is known.
    pub locality: Option<String>,
    /// Addresses at which other clusters reach it. Empty: not known yet.
    pub addresses: Vec<GatewayAddress>,
    /// Time for which it goes on serving open connections by an old configuration.
    pub drain: Duration,
}

impl OwnGateway {
    /// Istio's default (`ProxyConfig.drainDuration`).
    pub const DRAIN: Duration = Duration::from_secs(45);

    /// The label of what Istio makes of a Gateway of the Gateway API: the Gateway's name.
    pub const NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

    pub fn host(&self) -> Host {
        Host::of_service(&self.service, &self.namespace)
    }

    /// Returns the name of the Gateway of the Gateway API that istiod makes pods and Service of, if it is such a one.
    pub fn managed_name(&self) -> Option<&str> {
        self.selector.get(Self::NAME_LABEL).map(String::as_str)
    }
}

/// Facts that translation needs about the cluster that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    pub cluster: ClusterName,
    /// The identity in this cluster's own certificate.
    pub identity: SpiffeId,
    pub style: Style,
    /// The mode of expositions that name none.
    pub tls: TlsMode,
    pub trust_domain: TrustDomain,
    pub ingress: OwnGateway,
    pub egress: OwnGateway,
    /// The Secret that the gateways present.
    pub credential: ObjectName,
    pub peers: BTreeMap<ClusterName, Peer>,
    pub hidden_peers: HiddenPeers,
    /// The original's `TrustedPeers: ["*"]`: a policy may name any cluster, listed among the peers or not.
    pub trust_any: bool,
    /// Peers whose certificate is revoked, until they show another.
    pub revoked: BTreeSet<ClusterName>,
    /// The places that the gateways of all peers may have.
    pub allowed_gateways: AllowedGateways,
    /// Fields that the installed definitions of Istio do not declare.
    pub absent_fields: BTreeSet<NewerField>,
    /// The mesh's root namespace, whose DestinationRules are for everybody (MeshConfig, `rootNamespace`).
    pub root_namespace: Label,
    /// The settings of the cluster's own mesh; None: they are not known.
    pub mesh: Option<Arc<MeshSettings>>,
    pub exposure: ExposureRules,
    pub doubts: GatewayDoubts,
}

/// A field of an Istio object that not every supported Istio declares, and that the objects work without.
///
/// An API server refuses a server-side apply of a field that its definitions do not declare. Only a field that costs no
/// permission and no route may stand here: everything else has to be refused together with its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NewerField {
    /// `connectionPool.http.http2KeepAlive` of a DestinationRule.
    Http2KeepAlive,
}

impl NewerField {
    pub const ALL: [NewerField; 1] = [NewerField::Http2KeepAlive];

    /// Returns the kind of object that has it.
    pub fn kind(self) -> &'static str {
        match self {
            NewerField::Http2KeepAlive => "DestinationRule",
        }
    }

    /// Returns its own name, without the path that leads to it.
    pub fn name(self) -> &'static str {
        match self {
            NewerField::Http2KeepAlive => "http2KeepAlive",
        }
    }

    /// Returns the version of Istio that brought it.
    pub fn first_version(self) -> &'static str {
        match self {
            NewerField::Http2KeepAlive => "1.31",
        }
    }

    /// Returns the effect of its absence.
    pub fn absence_effect(self) -> &'static str {
        match self {
            NewerField::Http2KeepAlive => {
                "a donor's gateway that freezes without closing its connections keeps them until the calls time out"
            }
        }
    }
}

impl fmt::Display for NewerField {
    /// Writes a sentence for notes and findings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name, since) = (self.kind(), self.name(), self.first_version());
        write!(
            f,
            "the installed definition of {kind} does not declare {name} (Istio {since} does): {}",
            self.absence_effect()
        )
    }
}

impl ClusterFacts {
    /// Returns the peer, if it may consume what this cluster exposes.
    pub fn find_consumer(&self, cluster: &ClusterName) -> Option<Peer> {
        if self.revoked.contains(cluster) {
            return None;
        }
        match self.peers.get(cluster) {
            Some(peer) => (peer.consume || self.trust_any).then(|| peer.clone()),
            None => self.trust_any.then(|| Peer { consume: true, ..Peer::with_name(cluster.clone()) }),
        }
    }
}
