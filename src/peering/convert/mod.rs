//! Bytes to checked values, and back. A peer's data are untrusted: a value that passed here is within every bound of
//! [`limits`](super::limits), and a value that did not pass is refused alone, by name and field.

mod acknowledgement;
mod hello;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

pub(super) use acknowledgement::AcknowledgementMessage;
pub use acknowledgement::{ExpositionOutcome, OutcomeState, ack_to_wire, outcome_from_wire};
pub use hello::HeldList;
pub(super) use hello::{HeldEntries, HelloMessage, SubscriberMessage};

use super::limits::{MAX_CLIENTS, MAX_GATEWAYS, MAX_IDENTITIES, MAX_INSTANCE, MAX_PORTS, MAX_VERSION};
use super::{clean_prose, pb};
use crate::model::text::quote_text;
use crate::model::{
    Address, Client, ExposedPort, Exposition, ExpositionKey, GatewayAddress, GatewayRules, Host, Label, ObjectName,
    Protocol, SpiffeId, TlsMode, check_service_name,
};

/// The reason why one exposition was refused. The others of its message are not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("exposition {name}: {field}: {why}")]
pub struct WireRejection {
    /// None if not even its name is valid.
    pub key: Option<ExpositionKey>,
    /// `<namespace>/<name>` as it came, safe to print.
    pub name: String,
    pub field: String,
    pub why: String,
    /// The exposition is valid, but the donor offers more than is held of it.
    pub surplus: bool,
}

/// A field that is not what it must be.
struct BadField {
    field: String,
    why: String,
}

fn bad_field(field: impl Into<String>, why: impl fmt::Display) -> BadField {
    BadField { field: field.into(), why: why.to_string() }
}

fn parse_field<T>(field: impl Into<String>, text: &str) -> Result<T, BadField>
where
    T: FromStr<Err: fmt::Display>,
{
    text.parse().map_err(|e| bad_field(field, e))
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), BadField> {
    if count > max {
        Err(bad_field(field, format_args!("there are {count}, and at most {max} are allowed")))
    } else {
        Ok(())
    }
}

/// The acceptor's own rules, beyond those that hold everywhere.
#[derive(Debug, Clone)]
pub struct ExpositionChecks {
    /// Rules for the addresses of the donor's gateways. None: the peer's entry names the gateway, so the addresses that
    /// the donor advertises are not used and not judged.
    pub gateways: Option<GatewayRules>,
}

impl Default for ExpositionChecks {
    /// Allows public addresses only.
    fn default() -> ExpositionChecks {
        ExpositionChecks { gateways: Some(GatewayRules::default()) }
    }
}

/// An exposition as it was received, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedExposition {
    pub version: String,
    pub exposition: Exposition,
}

/// Parses the key of an exposition; None if a name is invalid.
pub fn key_from_wire(namespace: &str, name: &str) -> Option<ExpositionKey> {
    Some(ExpositionKey { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}

pub fn key_to_wire(key: &ExpositionKey) -> pb::ExpositionName {
    pb::ExpositionName { namespace: key.namespace.to_string(), name: key.name.to_string() }
}

/// Returns whether a text may be the version of an exposition: 1 to 64 printable ASCII characters.
pub fn is_version(version: &str) -> bool {
    (1..=MAX_VERSION).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns whether a text may be a cluster's instance: 1 to 128 printable ASCII characters.
pub fn is_instance(instance: &str) -> bool {
    (1..=MAX_INSTANCE).contains(&instance.len()) && instance.bytes().all(|b| b.is_ascii_graphic())
}

/// Checks one exposition of a peer, field by field.
pub fn from_wire(wire: &pb::Exposition, checks: &ExpositionChecks) -> Result<ReceivedExposition, WireRejection> {
    let key = key_from_wire(&wire.namespace, &wire.name);
    parse_fields(wire, checks).map_err(|BadField { field, why }| {
        let name = match &key {
            Some(key) => key.to_string(),
            None => quote_text(&format!("{}/{}", clean_prose(&wire.namespace, 63), clean_prose(&wire.name, 63))),
        };
        WireRejection { key, name, field, why, surplus: false }
    })
}

fn parse_fields(wire: &pb::Exposition, checks: &ExpositionChecks) -> Result<ReceivedExposition, BadField> {
    let key = ExpositionKey {
        namespace: parse_field::<Label>("namespace", &wire.namespace)?,
        name: parse_field::<Label>("name", &wire.name)?,
    };
    check_service_name(&key.name).map_err(|e| bad_field("name", e))?;
    if !is_version(&wire.version) {
        return Err(bad_field("version", format_args!("it must be 1 to {MAX_VERSION} printable ASCII characters")));
    }
    // The host follows from the name, so that a donor cannot choose a host that means something else to callers.
    let host = key.host();
    if wire.host != host.as_str() {
        return Err(bad_field(
            "host",
            format_args!("{:?} is not the host of this name, {host}", clean_prose(&wire.host, 80)),
        ));
    }
    let ports = parse_ports(wire, &host)?;
    let tls = tls_mode(wire.tls)?;
    let identities = parse_identities(wire, tls)?;
    let gateways = parse_gateways(wire, checks)?;
    let clients = parse_clients(wire)?;
    let host_is_withheld =
        matches!((&wire.ports[..], &ports[..]), ([sent], [_]) if sent.by_number && !sent.host.is_empty());
    let exposition = Exposition { key, host, ports, tls, identities, gateways, clients, host_is_withheld };
    Ok(ReceivedExposition { version: wire.version.clone(), exposition })
}

fn parse_ports(wire: &pb::Exposition, host: &Host) -> Result<Vec<ExposedPort>, BadField> {
    at_most("ports", wire.ports.len(), MAX_PORTS)?;
    if wire.ports.is_empty() {
        return Err(bad_field("ports", "there must be at least one"));
    }
    let mut numbers = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    let mut ports = Vec::with_capacity(wire.ports.len());
    for (i, port) in wire.ports.iter().enumerate() {
        let port = self::parse_port(port, i, host)?;
        if !numbers.insert(port.number) {
            return Err(bad_field(format!("ports[{i}].number"), format_args!("{} is there twice", port.number)));
        }
        if !hosts.insert(port.host.clone()) {
            return Err(bad_field(
                format!("ports[{i}].host"),
                "another port has the same; the gateway could not tell them",
            ));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn parse_port(wire: &pb::Port, i: usize, host: &Host) -> Result<ExposedPort, BadField> {
    let number = port_number(format!("ports[{i}].number"), wire.number)?;
    if !wire.name.is_empty() {
        parse_field::<Label>(format!("ports[{i}].name"), &wire.name)?;
    }
    let protocol = match pb::Protocol::try_from(wire.protocol) {
        Ok(pb::Protocol::Http) => Protocol::Http,
        Ok(pb::Protocol::Http2) => Protocol::Http2,
        Ok(pb::Protocol::Grpc) => Protocol::Grpc,
        Ok(pb::Protocol::Tcp) => Protocol::Tcp,
        Ok(pb::Protocol::Unspecified) => return Err(bad_field(format!("ports[{i}].protocol"), "it is not given")),
        Err(_) => return Err(bad_field(format!("ports[{i}].protocol"), unknown_value(wire.protocol))),
    };
    let of_port = host.of_port(number);
    let known = wire.host.is_empty() || wire.host == host.as_str();
    if let (true, true, Some(own)) = (wire.by_number, known, &of_port) {
        return Ok(ExposedPort { number, name: wire.name.clone(), protocol, host: own.clone() });
    }
    let host = if wire.host.is_empty() || wire.host == host.as_str() {
        host.clone()
    } else {
        of_port.filter(|h| h.as_str() == wire.host).ok_or_else(|| {
            bad_field(
                format!("ports[{i}].host"),
                format_args!("{:?} is neither {host} nor p{number}.{host}", clean_prose(&wire.host, 80)),
            )
        })?
    };
    Ok(ExposedPort { number, name: wire.name.clone(), protocol, host })
}

fn port_number(field: String, number: u32) -> Result<u16, BadField> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(bad_field(field, format_args!("{number} is not a port; it must be from 1 to 65535"))),
    }
}

fn unknown_value(value: i32) -> String {
    format!("{value} is not known to this version; it takes a newer agent to use this exposition")
}

fn tls_mode(value: i32) -> Result<TlsMode, BadField> {
    match pb::TlsMode::try_from(value) {
        Ok(pb::TlsMode::Cluster) => Ok(TlsMode::Cluster),
        Ok(pb::TlsMode::Workload) => Ok(TlsMode::Workload),
        Ok(pb::TlsMode::Passthrough) => Ok(TlsMode::Passthrough),
        Ok(pb::TlsMode::Unspecified) => Err(bad_field("tls", "it is not given")),
        Err(_) => Err(bad_field("tls", unknown_value(value))),
    }
}

fn parse_identities(wire: &pb::Exposition, tls: TlsMode) -> Result<Vec<SpiffeId>, BadField> {
    at_most("identities", wire.identities.len(), MAX_IDENTITIES)?;
    // Without one, any holder of a certificate under the shared root would be accepted.
    if wire.identities.is_empty() && tls != TlsMode::Passthrough {
        return Err(bad_field("identities", format_args!("with tls {tls} there must be at least one")));
    }
    wire.identities.iter().enumerate().map(|(i, id)| parse_field(format!("identities[{i}]"), id)).collect()
}

fn parse_gateways(wire: &pb::Exposition, checks: &ExpositionChecks) -> Result<Vec<GatewayAddress>, BadField> {
    at_most("gateways", wire.gateways.len(), MAX_GATEWAYS)?;
    if wire.gateways.is_empty() && checks.gateways.is_some() {
        return Err(bad_field("gateways", "there must be at least one"));
    }
    let mut gateways = Vec::with_capacity(wire.gateways.len());
    for (i, gateway) in wire.gateways.iter().enumerate() {
        let field = |name: &str| format!("gateways[{i}].{name}");
        let address: Address = parse_field(field("address"), &gateway.address)?;
        let port = port_number(field("port"), gateway.port)?;
        // The addresses behind a name are judged later, where it is looked up.
        if let Some(Err(refusal)) = checks.gateways.as_ref().map(|rules| rules.judge_address(&address)) {
            return Err(bad_field(field("address"), format_args!("{address} is {refusal}")));
        }
        let locality = (!gateway.locality.is_empty()).then(|| gateway.locality.clone());
        if let Some(locality) = &locality {
            check_locality(locality).map_err(|why| bad_field(field("locality"), why))?;
        }
        gateways.push(GatewayAddress { address, port, locality });
    }
    Ok(gateways)
}

/// Checks that a text is `region[/zone[/subzone]]`.
fn check_locality(locality: &str) -> Result<(), &'static str> {
    let part = |p: &str| {
        (1..=63).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if locality.split('/').count() <= 3 && locality.split('/').all(part) {
        Ok(())
    } else {
        Err("it must be region[/zone[/subzone]], each of 1 to 63 letters, digits, '.', '-' and '_'")
    }
}

fn parse_clients(wire: &pb::Exposition) -> Result<Vec<Client>, BadField> {
    at_most("clients", wire.clients.len(), MAX_CLIENTS)?;
    let client = |(i, c): (usize, &pb::Client)| {
        let namespace = parse_field(format!("clients[{i}].namespace"), &c.namespace)?;
        let account = (!c.service_account.is_empty()).then_some(&c.service_account);
        let service_account = account.map(|a| parse_field(format!("clients[{i}].service_account"), a)).transpose()?;
        Ok(Client { namespace, service_account })
    };
    wire.clients.iter().enumerate().map(client).collect()
}

/// Puts an exposition on the wire.
pub fn to_wire(exposition: &Exposition, version: &str) -> pb::Exposition {
    let port = |p: &ExposedPort| pb::Port {
        number: p.number.into(),
        name: p.name.clone(),
        protocol: match p.protocol {
            Protocol::Http => pb::Protocol::Http,
            Protocol::Http2 => pb::Protocol::Http2,
            Protocol::Grpc => pb::Protocol::Grpc,
            Protocol::Tcp => pb::Protocol::Tcp,
        }
        .into(),
        // Acceptors of 0.1 take the exposition's own host for the first port, and only for that.
        host: match p.host == exposition.host || exposition.serves_host() {
            true => String::new(),
            false => p.host.to_string(),
        },
        by_number: p.host != exposition.host,
    };
    let gateway = |g: &GatewayAddress| pb::GatewayAddress {
        address: g.address.to_string(),
        port: g.port.into(),
        locality: g.locality.clone().unwrap_or_default(),
    };
    let client = |c: &Client| pb::Client {
        namespace: c.namespace.to_string(),
        service_account: c.service_account.as_ref().map(ObjectName::to_string).unwrap_or_default(),
    };
    let tls = match exposition.tls {
        TlsMode::Cluster => pb::TlsMode::Cluster,
        TlsMode::Workload => pb::TlsMode::Workload,
        TlsMode::Passthrough => pb::TlsMode::Passthrough,
    };
    pb::Exposition {
        namespace: exposition.key.namespace.to_string(),
        name: exposition.key.name.to_string(),
        host: exposition.host.to_string(),
        ports: exposition.ports.iter().map(port).collect(),
        version: version.to_owned(),
        tls: tls.into(),
        identities: exposition.identities.iter().map(SpiffeId::to_string).collect(),
        gateways: exposition.gateways.iter().map(gateway).collect(),
        clients: exposition.clients.iter().map(client).collect(),
    }
}

/// Checks that a peer of this version would take the exposition, as far as that can be known here: the acceptor decides
/// about its own networks. An exposition that would be refused there is better refused at the donor, where somebody can
/// correct it.
pub fn check_exposition(exposition: &Exposition, version: &str) -> Result<(), WireRejection> {
    let lenient = ExpositionChecks { gateways: None };
    let wire = to_wire(exposition, version);
    if wire.gateways.is_empty() {
        let key = exposition.key.clone();
        let (field, why) = ("gateways".to_owned(), "there must be at least one".to_owned());
        return Err(WireRejection { name: key.to_string(), key: Some(key), field, why, surplus: false });
    }
    from_wire(&wire, &lenient).map(drop)
}
