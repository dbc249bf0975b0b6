//! Reads the Services that two clusters of one multi-primary mesh share: each has one of the same name in the same
//! namespace, and callers of either reach the pods of both.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;

use crate::api::istio::GatewayServersTlsMode;
use crate::api::{Object, ObjectKey};
use crate::model::{ClusterName, ExpositionKey, Host};
use crate::translate::LocalName;

use super::draft::{ImportDraft, RemoteUse};
use super::lost;
use super::nearby::NearbyObjects;
use super::{ClusterObjects, DonorObjects, ImportNotes, ImportRequest, ImportResult, place};

/// Istio's label of a Service that ambient meshes share.
const GLOBAL_LABEL: &str = "istio.io/global";

/// Reads what both clusters have under one name. `secrets`: the clusters whose API servers istiod here reads (remote
/// secrets); none: it is not known.
pub fn import_shared_services(
    request: &ImportRequest<'_>,
    here: &ClusterObjects,
    donor: &DonorObjects,
    secrets: Option<&[String]>,
) -> ImportResult {
    let mut draft = ImportDraft::new(request, here, Some(donor));
    note_mesh(donor, secrets, &mut draft.notes);
    let nearby = NearbyObjects::of_cluster(here);
    let theirs = services_of(&donor.objects);
    let mut found = false;
    for (key, service) in services_of(here) {
        let wanted = request.wants_namespace(&key.namespace) && request.wants_service(&[&key.name]);
        let Some(their) = theirs.get(&key).filter(|_| wanted && !is_of_platform(&key)) else { continue };
        found |= read_pair(&key, service, their, donor, &nearby, &mut draft);
    }
    if !found {
        let message =
            format!("no Service was read that this cluster and {} have under one name and namespace", donor.name);
        draft.notes.add_error("nothing", message);
    }
    draft.finish()
}

fn services_of(cluster: &ClusterObjects) -> BTreeMap<ObjectKey, &Service> {
    let services = cluster.sorted().into_iter().filter_map(|object| match object {
        Object::Service(service) => Some((object.key(), service)),
        _ => None,
    });
    services.collect()
}

/// Returns whether every cluster has a Service of this name of its own.
fn is_of_platform(key: &ObjectKey) -> bool {
    let namespace = key.namespace.as_str();
    namespace.starts_with("kube-")
        || namespace == "istio-system"
        || (namespace == "default" && key.name == "kubernetes")
}

/// Tells what shows that the two clusters are one mesh, and what does not.
fn note_mesh(donor: &DonorObjects, secrets: Option<&[String]>, notes: &mut ImportNotes) {
    let name = &donor.name;
    match secrets {
        None => notes.add_note(
            "remote secrets",
            "they were not read, so that it is not known whether istiod here looks at the donor",
        ),
        Some(clusters) if !clusters.iter().any(|c| c == name.as_str()) => {
            let message = match clusters {
                [] => "there is none here: istiod does not look at another cluster".to_owned(),
                some => format!("none here is for {name}; there are: {}", some.join(", ")),
            };
            notes.add_note("remote secrets", message);
        }
        Some(_) => notes
            .add_note("remote secrets", format!("the one for {name} goes last, when no Service is shared any more")),
    }
    let is_open = |object: &&Object| match object {
        Object::Gateway(gateway) => gateway.spec.servers.iter().flatten().any(|server| {
            server.tls.as_ref().and_then(|tls| tls.mode.as_ref()) == Some(&GatewayServersTlsMode::AutoPassthrough)
        }),
        _ => false,
    };
    match donor.objects.sorted().into_iter().find(is_open) {
        Some(gateway) => {
            let message = format!(
                "it opens every Service of {name} to the mesh (AUTO_PASSTHROUGH), also those that no policy exposes; delete it when no Service is shared any more"
            );
            notes.add_note(place(&gateway.key(), "spec.servers"), message);
        }
        None => notes.add_note(
            format!("Gateways of {name}"),
            "none with AUTO_PASSTHROUGH was read: calls may go from pod to pod, which Wharf's do not",
        ),
    }
}

/// Reads one Service that both have. Returns whether something is imported.
fn read_pair(
    key: &ObjectKey,
    here: &Service,
    theirs: &Service,
    donor: &DonorObjects,
    nearby: &NearbyObjects<'_>,
    draft: &mut ImportDraft<'_>,
) -> bool {
    let (Ok(name), Ok(namespace)) = (key.name.parse(), key.namespace.parse()) else { return false };
    let service = ExpositionKey { namespace, name };
    if spec_type(here) == Some("ExternalName") || spec_type(theirs) == Some("ExternalName") {
        draft.notes.add_error(
            place(key, "spec.type"),
            "an ExternalName Service is no service of the donor's, and cannot be exposed",
        );
        return false;
    }
    let ports = shared_ports(key, here, theirs, &donor.name, &mut draft.notes);
    if ports.is_empty() {
        draft
            .notes
            .add_error(place(key, "spec.ports"), format!("none of its TCP ports is one of {}'s Service", donor.name));
        return false;
    }
    if is_headless(here) || is_headless(theirs) {
        draft.notes.add_note(place(key, "spec.clusterIP"), "not carried: a headless Service leads callers to pods by name, and through gateways there is only the service");
    }
    if here.metadata.labels.as_ref().is_some_and(|l| l.get(GLOBAL_LABEL).is_some_and(|v| v == "true")) {
        draft.notes.add_note(
            place(key, &format!("metadata.labels[{GLOBAL_LABEL}]")),
            "ambient meshes share by it; callers of a binding need a sidecar",
        );
    }
    let local = LocalName { namespace: service.namespace.clone(), name: service.name.clone() };
    let host = Host::of_service(&service.name, &service.namespace);
    draft.add_use(RemoteUse {
        origin: key.clone(),
        called_as: BTreeSet::from([host.to_string()]),
        donor: donor.name.clone(),
        service,
        subset: None,
        local,
        ports,
        weight: None,
    });
    let message = "pods of this cluster that serve the name are not behind the binding: calls go to the donor alone";
    draft.notes.add_note(place(key, "spec.selector"), message);
    lost::note_neighbours(key, host.as_str(), nearby, &mut draft.notes);
    true
}

/// Returns the TCP ports that both Services have.
fn shared_ports(
    key: &ObjectKey,
    here: &Service,
    theirs: &Service,
    donor: &ClusterName,
    notes: &mut ImportNotes,
) -> BTreeMap<u16, u16> {
    let mut shared = BTreeMap::new();
    let at_donor = tcp_ports(theirs);
    for number in tcp_ports(here) {
        match at_donor.contains(&number) {
            true => drop(shared.insert(number, number)),
            false => notes.add_note(
                place(key, "spec.ports"),
                format!("{donor}'s Service has no TCP port {number}, so it is left out"),
            ),
        }
    }
    shared
}

fn tcp_ports(service: &Service) -> BTreeSet<u16> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let tcp = ports.filter(|p| p.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|p| u16::try_from(p.port).ok()).filter(|n| *n != 0).collect()
}

fn spec_type(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.type_.as_deref()
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}
