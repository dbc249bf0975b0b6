//! Validates what a donor sends. It is untrusted: an exposition that is not acceptable is rejected alone, by name.

use std::collections::BTreeSet;

use crate::model::{
    ClusterFacts, ClusterName, Exposition, GatewayAddress, GatewayRefusal, GatewayRules, GatewayVerdict, Host,
    NameAnswers, Peer, SpiffeId, TlsMode,
};

use super::consumers::MAX_CLIENTS;
use super::ports::MAX_PORTS;

const MAX_GATEWAYS: usize = 32;
pub(super) const MAX_IDENTITIES: usize = 32;

/// The reason why an exposition is not acceptable. Reads as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpositionRefusal {
    #[error("{0} is not a peer of this cluster")]
    UnknownPeer(ClusterName),
    #[error("its host is {host}, but its name makes it {expected}")]
    Host { host: String, expected: String },
    #[error("it has no {0}")]
    None(&'static str),
    #[error("it has {count} {what}, more than {max}")]
    TooMany { what: &'static str, count: usize, max: usize },
    #[error("its port {0} is there twice")]
    PortTwice(u16),
    #[error("port 0 is none")]
    PortZero,
    #[error("its port {port} has the name {name:?}, which is not a port's")]
    PortName { port: u16, name: String },
    #[error("its gateway address {address} is {refusal}")]
    Gateway { address: String, refusal: GatewayRefusal },
    /// Everything else about it is acceptable. Reported only if they will not be looked up.
    #[error(
        "the names of its gateways were not looked up, since too many names of this peer are; if they are its gateways', \
         allow them with allowedGatewayNames"
    )]
    NotLookedUp(Vec<Host>),
    #[error("its gateway locality {0:?} is not region[/zone[/subzone]]")]
    Locality(String),
    #[error("it is to be answered by {identity}, but {cluster} is {expected}: pin another with the peer's identity")]
    Identity { identity: SpiffeId, cluster: ClusterName, expected: SpiffeId },
    #[error("its peer entry pins {identity}, which is this cluster's own: pin the identity of {cluster}")]
    OwnIdentity { identity: SpiffeId, cluster: ClusterName },
    #[error(
        "with tls: {tls} it is answered by the trust domain {domain}, which is this cluster's own, so that a local workload \
         could answer for {cluster}: have it exposed with tls: Cluster, or give the two meshes trust domains of their own \
         (and set trustDomain)"
    )]
    OwnTrustDomain { tls: TlsMode, domain: String, cluster: ClusterName },
    #[error(
        "it is to be answered by {identity}, outside the trust domain {expected} of {cluster}: set the peer's trustDomain"
    )]
    TrustDomain { identity: SpiffeId, cluster: ClusterName, expected: String },
}

impl ExpositionRefusal {
    /// Returns the reason for the donor. The answer of this cluster's resolver about a name stays here: by offering
    /// names, a donor could read it.
    pub fn for_donor(&self) -> String {
        match self {
            ExpositionRefusal::Gateway { address, refusal } if refusal.tells_of_resolver() => {
                format!("its gateway address {address} is a name that this cluster does not take: allowedGatewayNames")
            }
            other => other.to_string(),
        }
    }
}

/// Checks that what `cluster` offers may be configured here. `names` are the known answers for the names of its
/// gateways.
pub fn validate_exposition(
    cluster: &ClusterName,
    e: &Exposition,
    facts: &ClusterFacts,
    names: NameAnswers<'_>,
) -> Result<(), ExpositionRefusal> {
    let peer = facts.peers.get(cluster).ok_or_else(|| ExpositionRefusal::UnknownPeer(cluster.clone()))?;
    let expected = e.key.host();
    if e.host != expected {
        return Err(ExpositionRefusal::Host { host: e.host.to_string(), expected: expected.to_string() });
    }
    check_ports(e)?;
    at_most("clients", e.clients.len(), MAX_CLIENTS)?;
    at_most("gateways", e.gateways.len(), MAX_GATEWAYS)?;
    at_most("identities", e.identities.len(), MAX_IDENTITIES)?;
    // With an address of the operator's own, the advertised one is not used, and need not be there.
    if peer.gateway.is_empty() {
        if e.gateways.is_empty() {
            return Err(ExpositionRefusal::None("gateway address"));
        }
        let rules = facts.gateway_rules(peer);
        e.gateways.iter().try_for_each(|g| check_gateway(g, &rules, names))?;
    }
    check_identities(e, peer, facts)?;
    let unknown =
        if peer.gateway.is_empty() { not_looked_up(e, &facts.gateway_rules(peer), names) } else { Vec::new() };
    if unknown.is_empty() { Ok(()) } else { Err(ExpositionRefusal::NotLookedUp(unknown)) }
}

/// Checks the identities that may answer: never one of this cluster, which would hand calls for the donor to a local
/// workload.
fn check_identities(e: &Exposition, peer: &Peer, facts: &ClusterFacts) -> Result<(), ExpositionRefusal> {
    let cluster = &peer.name;
    if e.tls != TlsMode::Cluster && peer.trust_domain == facts.trust_domain {
        let domain = facts.trust_domain.to_string();
        return Err(ExpositionRefusal::OwnTrustDomain { tls: e.tls, domain, cluster: cluster.clone() });
    }
    if e.tls == TlsMode::Cluster && peer.identity == facts.identity {
        return Err(ExpositionRefusal::OwnIdentity { identity: facts.identity.clone(), cluster: cluster.clone() });
    }
    if e.identities.is_empty() && e.tls != TlsMode::Passthrough {
        return Err(ExpositionRefusal::None("identity to expect"));
    }
    for identity in &e.identities {
        if e.tls == TlsMode::Cluster {
            // The certificate of the cluster is pinned here: a donor cannot make us trust another's.
            if *identity != peer.identity {
                let (identity, expected) = (identity.clone(), peer.identity.clone());
                return Err(ExpositionRefusal::Identity { identity, cluster: cluster.clone(), expected });
            }
        } else if !in_trust_domain(identity, peer.trust_domain.as_str()) {
            let (identity, expected) = (identity.clone(), peer.trust_domain.to_string());
            return Err(ExpositionRefusal::TrustDomain { identity, cluster: cluster.clone(), expected });
        }
    }
    Ok(())
}

/// Returns the names without an answer that decide whether an exposition is acceptable.
fn not_looked_up(e: &Exposition, rules: &GatewayRules, names: NameAnswers<'_>) -> Vec<Host> {
    let NameAnswers::Known(answers) = names else { return Vec::new() };
    let depends_on = e.gateways.iter().filter_map(|g| match rules.judge_address(&g.address) {
        Ok(GatewayVerdict::DependsOn(name)) => Some(name),
        _ => None,
    });
    depends_on.filter(|name| !answers.contains_key(name)).collect()
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), ExpositionRefusal> {
    if count > max { Err(ExpositionRefusal::TooMany { what, count, max }) } else { Ok(()) }
}

fn check_ports(e: &Exposition) -> Result<(), ExpositionRefusal> {
    at_most("ports", e.ports.len(), MAX_PORTS)?;
    if e.ports.is_empty() {
        return Err(ExpositionRefusal::None("port"));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in e.ports.iter().enumerate() {
        if port.number == 0 {
            return Err(ExpositionRefusal::PortZero);
        }
        if !seen.insert(port.number) {
            return Err(ExpositionRefusal::PortTwice(port.number));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if port.name.len() > 63 || !port.name.bytes().all(plain) {
            let name = port.name.chars().take(80).collect();
            return Err(ExpositionRefusal::PortName { port: port.number, name });
        }
        let expected = e.host.of_port(port.number);
        // Donors of 0.1 have the exposition's own host for the first port.
        if expected.as_ref() != Some(&port.host) && (i > 0 || port.host != e.host) {
            let expected = expected.map_or_else(|| "too long".to_owned(), |h| h.to_string());
            return Err(ExpositionRefusal::Host { host: port.host.to_string(), expected });
        }
    }
    Ok(())
}

fn check_gateway(g: &GatewayAddress, rules: &GatewayRules, names: NameAnswers<'_>) -> Result<(), ExpositionRefusal> {
    if g.port == 0 {
        return Err(ExpositionRefusal::PortZero);
    }
    let refused = |refusal| ExpositionRefusal::Gateway { address: g.address.to_string(), refusal };
    if let GatewayVerdict::DependsOn(name) = rules.judge_address(&g.address).map_err(refused)?
        && let NameAnswers::Known(answers) = names
        && let Some(answer) = answers.get(&name)
    {
        rules.judge_answer(&name, answer).map_err(refused)?;
    }
    match g.locality.as_deref() {
        Some(locality) if !is_locality(locality) => {
            Err(ExpositionRefusal::Locality(locality.chars().take(80).collect()))
        }
        _ => Ok(()),
    }
}

fn is_locality(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3 && parts.iter().all(|p| !p.is_empty() && p.len() <= 63 && p.bytes().all(plain))
}

fn in_trust_domain(id: &SpiffeId, domain: &str) -> bool {
    id.as_str().strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(domain)).is_some_and(|r| r.starts_with('/'))
}
