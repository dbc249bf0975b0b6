//! Offers of the peers: read from a file, or assumed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::api::PortRef;
use crate::config::yaml_error;
use crate::model::mistake::{FieldMistake, FieldWords};
use crate::model::{
    Client, ClusterFacts, ClusterName, ExposedPort, Exposition, ExpositionKey, GatewayAddress, Host, Label,
    NameAnswers, Protocol, SpiffeId, TlsMode,
};
use crate::translate::{ExpositionRefusal, MissingExposition, WantedPorts, WantedService, validate_exposition};

use super::TranslateReport;

/// Expositions of all peers, each with its cluster, as the file lists them under `expositions`.
pub struct FileOffers {
    by_name: BTreeMap<(ClusterName, ExpositionKey), Result<Arc<Exposition>, String>>,
}

/// An exposition as people write it. Fields that follow from the others may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExposition {
    #[serde(rename = "cluster")]
    _cluster: ClusterName, // checked here; the key is read separately
    name: Label,
    namespace: Label,
    host: Option<Host>,
    ports: Vec<WrittenPort>,
    tls: TlsMode,
    #[serde(default)]
    identities: Vec<SpiffeId>,
    #[serde(default)]
    gateways: Vec<GatewayAddress>,
    #[serde(default)]
    clients: Vec<Client>,
    #[serde(default, rename = "host_is_withheld")]
    _host_is_withheld: bool, // as `wharf offers -o yaml` prints it
    #[serde(default, rename = "version")]
    _version: Option<String>, // as `wharf offers -o yaml` prints it
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPort {
    number: u16,
    #[serde(default)]
    name: String,
    protocol: Protocol,
    host: Option<Host>,
}

impl FileOffers {
    /// Reads the file. A mistake in one exposition is an error of that exposition only.
    pub fn read_file(path: &Path, report: &mut TranslateReport) -> anyhow::Result<FileOffers> {
        let place = path.display();
        let text = std::fs::read_to_string(path).with_context(|| place.to_string())?;
        let value: Value = serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{place}: {}", yaml_error(&e)))?;
        let Some(list) = value.get("expositions").and_then(Value::as_array) else {
            bail!("{place}: expected a list under the key `expositions`");
        };
        let mut offers = FileOffers { by_name: BTreeMap::new() };
        for (i, item) in list.iter().enumerate() {
            let read = serde_path_to_error::deserialize::<_, WrittenExposition>(item)
                .map_err(|e| FieldMistake::explain(&e, item, &FieldWords::OF_OBJECTS).to_string())
                .and_then(WrittenExposition::into_exposition);
            if let Err(message) = &read {
                report.add_error(&format!("{place}: expositions[{i}]{}: {message}", describe_item(item)), "");
            }
            let name = |field: &str| item.get(field).and_then(Value::as_str);
            let key = (|| {
                let key =
                    ExpositionKey { namespace: name("namespace")?.parse().ok()?, name: name("name")?.parse().ok()? };
                Some((name("cluster")?.parse().ok()?, key))
            })();
            if let Some(key) = key {
                offers.by_name.insert(key, read.map(Arc::new));
            }
        }
        Ok(offers)
    }
}

/// Names an unreadable exposition by its own fields.
fn describe_item(item: &Value) -> String {
    let name = |field: &str| item.get(field).and_then(Value::as_str).unwrap_or("?");
    format!(" ({}/{} of {})", name("namespace"), name("name"), name("cluster"))
}

impl WrittenExposition {
    fn into_exposition(self) -> Result<Exposition, String> {
        let key = ExpositionKey { namespace: self.namespace, name: self.name };
        let host = self.host.unwrap_or_else(|| key.host());
        let count = self.ports.len();
        let port = |p: WrittenPort| {
            let own = p
                .host
                .or_else(|| default_host(&host, count, p.number))
                .ok_or("its host is too long for several ports")?;
            Ok(ExposedPort { number: p.number, name: p.name, protocol: p.protocol, host: own })
        };
        let ports = self.ports.into_iter().map(port).collect::<Result<_, String>>()?;
        let WrittenExposition { tls, identities, gateways, clients, .. } = self;
        Ok(Exposition { key, ports, tls, identities, gateways, clients, host, host_is_withheld: false })
    }
}

/// Finds what a peer offers for an entry of a binding: as the file says, or else as the binding names it.
pub fn find_offer(
    wanted: &WantedService,
    offers: Option<&FileOffers>,
    facts: &ClusterFacts,
) -> Result<Arc<Exposition>, MissingExposition> {
    let Some(offers) = offers else { return assume_offer(wanted, facts).map(Arc::new) };
    match offers.by_name.get(&(wanted.cluster.clone(), wanted.exposed.clone())) {
        None if facts.peers.contains_key(&wanted.cluster) => Err(MissingExposition::NotExposed),
        None => Err(MissingExposition::PeerUnknown),
        Some(Err(message)) => Err(MissingExposition::Rejected(message.clone())),
        // No name is looked up here: a public name in the file is its author's responsibility.
        Some(Ok(exposition)) => match validate_exposition(&wanted.cluster, exposition, facts, NameAnswers::NotAsked) {
            Ok(()) => Ok(exposition.clone()),
            Err(ExpositionRefusal::UnknownPeer(_)) => Err(MissingExposition::PeerUnknown),
            Err(rejection) => Err(MissingExposition::Rejected(rejection.to_string())),
        },
    }
}

/// Returns the host of a port whose author gives none. A single port has the plain host, which donors of every version
/// serve.
fn default_host(host: &Host, ports: usize, number: u16) -> Option<Host> {
    if ports == 1 { Some(host.clone()) } else { host.of_port(number) }
}

/// Port of an entry that names none, as in the original.
const DEFAULT_PORT: u16 = 80;

fn assume_offer(wanted: &WantedService, facts: &ClusterFacts) -> Result<Exposition, MissingExposition> {
    let peer = facts.peers.get(&wanted.cluster).ok_or(MissingExposition::PeerUnknown)?;
    let gateways = if peer.gateway.is_empty() { &peer.gateway_hint } else { &peer.gateway };
    if gateways.is_empty() {
        let message = format!(
            "the configuration gives no gateway address of {}: set its gateway, or use --expositions",
            peer.name
        );
        return Err(MissingExposition::PeerUnreachable(message));
    }
    let host = wanted.exposed.host();
    let gateway = &facts.ingress; // the peer's gateway is assumed to have the name of this cluster's
    let identities = match facts.tls {
        TlsMode::Cluster => vec![peer.identity.clone()],
        TlsMode::Workload => {
            let account = SpiffeId::of_workload(&peer.trust_domain, &gateway.namespace, gateway.service.as_str());
            account.into_iter().collect()
        }
        TlsMode::Passthrough => Vec::new(),
    };
    let numbered = |number: u16, name: &str| ExposedPort {
        number,
        name: name.to_owned(),
        protocol: Protocol::Http,
        host: host.clone(),
    };
    let mut ports: Vec<ExposedPort> = match &wanted.ports {
        WantedPorts::AsExposed => vec![numbered(DEFAULT_PORT, "http")],
        WantedPorts::Single(number) => vec![numbered(*number, "http")],
        WantedPorts::Listed(list) => list
            .iter()
            .map(|port| match &port.port {
                PortRef::Number(number) => numbered(*number, ""),
                PortRef::Name(name) => numbered(port.local.unwrap_or(DEFAULT_PORT), name),
            })
            .collect(),
    };
    ports.sort_by_key(|p| p.number);
    ports.dedup_by_key(|p| p.number);
    let count = ports.len();
    for port in &mut ports {
        port.host = default_host(&host, count, port.number).unwrap_or_else(|| host.clone());
    }
    Ok(Exposition {
        key: wanted.exposed.clone(),
        host,
        ports,
        tls: facts.tls,
        identities,
        gateways: gateways.clone(),
        clients: Vec::new(),
        host_is_withheld: false,
    })
}
