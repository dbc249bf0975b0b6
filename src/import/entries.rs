//! Reads ServiceEntries that lead to the gateways of other clusters.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::{ServiceEntry, ServiceEntryEndpoints, ServiceEntryPorts, ServiceEntryResolution};
use crate::api::{Object, ObjectKey};
use crate::model::{Address, ClusterName, Label};
use crate::translate::LocalName;

use super::draft::{ImportDraft, RemoteUse};
use super::lost;
use super::nearby::{NearbyObjects, tls_of_port};
use super::peers::AddressOwner;
use super::target::{self, DonorRoutes, DonorTarget};
use super::{ClusterObjects, DonorObjects, ImportNotes, ImportRequest, ImportResult, place};

/// The port of gateways for calls between clusters, in Istio's own samples and in Wharf's defaults.
const CLUSTER_PORT: i64 = 15443;
/// The namespace of Istio, whose objects are for the whole mesh.
const MESH_NAMESPACE: &str = "istio-system";
/// Most hosts (Istio's own limit) and ports of one entry that are read.
const MAX_HOSTS: usize = 256;
const MAX_PORTS: usize = 64;
/// Most names of entries in one note.
const SHOWN: usize = 5;

/// Reads the acceptor's ServiceEntries. A donor's objects tell which services its gateways lead to.
pub fn import_service_entries(
    request: &ImportRequest<'_>,
    here: &ClusterObjects,
    donor: Option<&DonorObjects>,
) -> ImportResult {
    let mut draft = ImportDraft::new(request, here, donor);
    let reader = EntryReader {
        request,
        nearby: NearbyObjects::of_cluster(here),
        routes: donor.map(|donor| DonorRoutes::of_cluster(&donor.objects)).unwrap_or_default(),
    };
    let mut elsewhere = Vec::new();
    let mut found = false;
    for object in here.sorted() {
        let Object::ServiceEntry(entry) = object else { continue };
        let key = object.key();
        if !request.wants_namespace(&key.namespace) {
            continue;
        }
        match reader.read_entry(&key, entry, &mut draft) {
            true => found = true,
            false => elsewhere.push(key),
        }
    }
    tell_of_others(&elsewhere, &mut draft.notes);
    if !found {
        draft.notes.add_error("nothing", "no ServiceEntry was read that leads to another cluster's gateway");
    }
    draft.finish()
}

fn tell_of_others(elsewhere: &[ObjectKey], notes: &mut ImportNotes) {
    if elsewhere.is_empty() {
        return;
    }
    let mut names: Vec<String> = elsewhere.iter().take(SHOWN).map(ToString::to_string).collect();
    if elsewhere.len() > SHOWN {
        names.push(format!("and {} more", elsewhere.len() - SHOWN));
    }
    let message = "left alone: nothing in them says that they lead to another cluster; --peer NAME=ADDRESS says whose an address is";
    notes.add_note(names.join(", "), message);
}

struct EntryReader<'a> {
    request: &'a ImportRequest<'a>,
    nearby: NearbyObjects<'a>,
    routes: DonorRoutes,
}

/// The donors behind an entry, each with the sum of its endpoints' weights, if any has one.
type DonorWeights = BTreeMap<ClusterName, Option<u64>>;

impl<'a> EntryReader<'a> {
    /// Reads one entry. Returns whether it leads to another cluster.
    fn read_entry(&self, key: &ObjectKey, entry: &ServiceEntry, draft: &mut ImportDraft<'_>) -> bool {
        let endpoints = endpoints_of(entry);
        if entry.spec.workload_selector.is_some() || !self.leads_to_cluster(key, entry, &endpoints) {
            return false;
        }
        let Ok(home) = key.namespace.parse::<Label>() else { return false };
        if entry.spec.hosts.len() > MAX_HOSTS || entry.spec.ports.iter().flatten().count() > MAX_PORTS {
            let message = format!("only the first {MAX_HOSTS} hosts and {MAX_PORTS} ports of an entry are read");
            draft.notes.add_error(place(key, "spec"), message);
        }
        let mut donors = None;
        for (i, host) in entry.spec.hosts.iter().enumerate().take(MAX_HOSTS) {
            let at = place(key, &format!("spec.hosts[{i}]"));
            if host.starts_with('*') {
                let message =
                    format!("{host} stands for any number of services, and a policy names each: write them by hand");
                draft.notes.add_error(at, message);
                continue;
            }
            let targets = self.read_targets(key, entry, &home, host, &mut draft.notes);
            let wanted = |t: &DonorTarget| self.request.wants_service(&[t.service.name.as_str(), host, &key.name]);
            let targets: Vec<_> = targets.into_iter().filter(|(target, _)| wanted(target)).collect();
            if targets.is_empty() {
                continue;
            }
            let donors = donors.get_or_insert_with(|| self.find_donors(key, &endpoints, &mut draft.notes));
            self.add_uses(key, &home, host, &targets, donors, draft);
            lost::note_neighbours(key, host, &self.nearby, &mut draft.notes);
        }
        if donors.is_some() {
            lost::note_entry(key, entry, &mut draft.notes);
        }
        true
    }

    /// Judges whether an entry is for another cluster's service. An entry for a website must not become a policy.
    fn leads_to_cluster(&self, key: &ObjectKey, entry: &ServiceEntry, endpoints: &[EntryEndpoint<'_>]) -> bool {
        let book = &self.request.peers;
        let mut addresses = endpoints.iter().filter_map(|e| e.address.as_ref());
        if addresses
            .any(|address| matches!(book.find_named(address), AddressOwner::Known(_) | AddressOwner::Ambiguous(_)))
        {
            return true;
        }
        let ports = || entry.spec.ports.iter().flatten().take(MAX_PORTS);
        let by_port = endpoints.iter().any(|e| ports().any(|port| e.port(port) == CLUSTER_PORT));
        let hosts = || entry.spec.hosts.iter().take(MAX_HOSTS);
        let by_host = hosts().any(|host| target::parse_service_host(host).is_some());
        let by_sni = || {
            hosts().flat_map(|host| self.nearby.rules_for(host, &key.namespace)).any(|(_, rule)| {
                let of_ports =
                    ports().filter_map(|p| u16::try_from(p.number).ok()).filter_map(|p| tls_of_port(rule, p));
                of_ports
                    .filter_map(|tls| tls.sni.as_deref())
                    .any(|sni| target::parse_service_host(sni).is_some() || target::parse_istio_sni(sni).is_some())
            })
        };
        // An entry without addresses of its own, for a host that looks like a service, has nowhere to lead.
        !endpoints.is_empty() && (by_port || by_host || by_sni())
    }

    /// Finds the service of the donor behind each port of a host.
    fn read_targets(
        &self,
        key: &ObjectKey,
        entry: &ServiceEntry,
        home: &Label,
        host: &str,
        notes: &mut ImportNotes,
    ) -> Vec<(DonorTarget, BTreeMap<u16, u16>)> {
        let mut targets: Vec<(DonorTarget, BTreeMap<u16, u16>)> = Vec::new();
        let rules = self.nearby.rules_for(host, &key.namespace);
        for (i, port) in entry.spec.ports.iter().flatten().enumerate().take(MAX_PORTS) {
            let at = place(key, &format!("spec.ports[{i}]"));
            let Some(number) = u16::try_from(port.number).ok().filter(|n| *n != 0) else {
                notes.add_error(at, format!("{} is not a port", port.number));
                continue;
            };
            if port.protocol.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("UDP")) {
                notes.add_error(at, "UDP does not pass between clusters; the other ports are read");
                continue;
            }
            if port
                .protocol
                .as_deref()
                .is_some_and(|p| p.eq_ignore_ascii_case("TLS") || p.eq_ignore_ascii_case("HTTPS"))
            {
                let message = "callers speak TLS of their own: the certificate that they check is for the old host, and has to be for the new name, too";
                notes.add_note(at.clone(), message);
            }
            let sni = rules.iter().find_map(|(_, rule)| tls_of_port(rule, number)?.sni.as_deref());
            let Some(mut target) = target::find_target(sni, host, home, &self.routes) else {
                notes.add_error(
                    at,
                    format!(
                        "neither the host {host} nor an SNI names a service of the donor; write its policy by hand"
                    ),
                );
                continue;
            };
            if let Some(doubt) = target.doubt.take() {
                let message = format!(
                    "it is taken for the donor's Service {}: {doubt}; correct `name` and the namespaces if not",
                    target.service
                );
                notes.add_note(place(key, "spec.hosts"), message);
            }
            let donors_port = target.port.take();
            if donors_port.is_none() {
                let message = format!(
                    "it is taken for port {number} of the donor's Service; correct `ports` in both objects if it has another number there"
                );
                notes.add_note(at, message);
            }
            let ports = match targets.iter_mut().find(|(known, _)| *known == target) {
                Some((_, ports)) => ports,
                None => {
                    targets.push((target, BTreeMap::new()));
                    match targets.last_mut() {
                        Some((_, ports)) => ports,
                        None => continue,
                    }
                }
            };
            ports.insert(number, donors_port.unwrap_or(number));
        }
        targets
    }

    fn find_donors(&self, key: &ObjectKey, endpoints: &[EntryEndpoint<'_>], notes: &mut ImportNotes) -> DonorWeights {
        let mut donors = DonorWeights::new();
        for endpoint in endpoints {
            let at = place(key, &endpoint.field);
            let Some(address) = &endpoint.address else {
                notes.add_error(
                    at,
                    format!("{:?} is no address of a gateway, so nothing is written for it", endpoint.text),
                );
                continue;
            };
            let owner = match self.request.peers.find_owner(address) {
                AddressOwner::Known(owner) => owner,
                AddressOwner::Allowed(owner) => {
                    notes.add_note(at, format!("{address} is taken for a gateway of {owner}, whose ClusterPeering alone allows it; --peer NAME={address} says otherwise"));
                    owner
                }
                AddressOwner::Ambiguous(names) => {
                    let names: Vec<&str> = names.iter().map(ClusterName::as_str).collect();
                    notes.add_error(
                        at,
                        format!("{address} may belong to {}: say which with --peer NAME={address}", names.join(" or ")),
                    );
                    continue;
                }
                AddressOwner::Unknown => {
                    notes.add_error(at, format!("{address} belongs to no ClusterPeering that was read: say whose it is with --peer NAME={address}, or --peer NAME for all such addresses"));
                    continue;
                }
            };
            let sum = donors.entry(owner).or_default();
            if let Some(weight) = endpoint.weight {
                *sum = Some(sum.unwrap_or(0).saturating_add(u64::from(weight)));
            }
        }
        donors
    }

    fn add_uses(
        &self,
        key: &ObjectKey,
        home: &Label,
        host: &str,
        targets: &[(DonorTarget, BTreeMap<u16, u16>)],
        donors: &DonorWeights,
        draft: &mut ImportDraft<'_>,
    ) {
        let weighted = donors.len() > 1 && donors.values().any(Option::is_some);
        for (target, ports) in targets {
            let local = local_name(host, home, target);
            for (donor, weight) in donors {
                let weight =
                    weighted.then(|| u32::try_from(weight.unwrap_or(1)).unwrap_or(u32::MAX).min(i32::MAX as u32));
                draft.add_use(RemoteUse {
                    origin: key.clone(),
                    called_as: BTreeSet::from([host.to_owned()]),
                    donor: donor.clone(),
                    service: target.service.clone(),
                    subset: target.subset.clone(),
                    local: local.clone(),
                    ports: ports.clone(),
                    weight,
                });
            }
        }
    }
}

/// Returns the local name that a host should have: its own if it is one of this cluster's, else the donor's in the
/// namespace of the entry, which its callers' operator may write in.
fn local_name(host: &str, home: &Label, target: &DonorTarget) -> LocalName {
    if let Some((name, namespace)) = target::parse_local_host(host) {
        return LocalName { namespace, name };
    }
    let namespace = if home.as_str() == MESH_NAMESPACE { target.service.namespace.clone() } else { home.clone() };
    LocalName { namespace, name: target.exposed_name() }
}

/// One place that an entry leads to.
struct EntryEndpoint<'a> {
    field: String,
    text: &'a str,
    address: Option<Address>,
    ports: Option<&'a BTreeMap<String, i64>>,
    weight: Option<u32>,
}

impl EntryEndpoint<'_> {
    /// Returns the port that is dialled there (Istio's API, `WorkloadEntry.ports`).
    fn port(&self, port: &ServiceEntryPorts) -> i64 {
        let own = self.ports.and_then(|ports| ports.get(&port.name)).copied();
        own.or(port.target_port).unwrap_or(port.number)
    }
}

/// The endpoints of an entry; without any, the hosts themselves if they are looked up.
fn endpoints_of(entry: &ServiceEntry) -> Vec<EntryEndpoint<'_>> {
    let listed = entry.spec.endpoints.iter().flatten().enumerate().map(|(i, e): (usize, &ServiceEntryEndpoints)| {
        let text = e.address.as_deref().unwrap_or_default();
        let weight = e.weight.and_then(|w| u32::try_from(w).ok());
        EntryEndpoint {
            field: format!("spec.endpoints[{i}].address"),
            text,
            address: text.parse().ok(),
            ports: e.ports.as_ref(),
            weight,
        }
    });
    let listed: Vec<_> = listed.collect();
    let by_name =
        matches!(entry.spec.resolution, Some(ServiceEntryResolution::Dns | ServiceEntryResolution::DnsRoundRobin));
    if !listed.is_empty() || !by_name {
        return listed;
    }
    let hosts = entry.spec.hosts.iter().take(MAX_HOSTS).enumerate().filter(|(_, host)| !host.starts_with('*'));
    hosts
        .map(|(i, host)| EntryEndpoint {
            field: format!("spec.hosts[{i}]"),
            text: host,
            address: host.parse().ok(),
            ports: None,
            weight: None,
        })
        .collect()
}
