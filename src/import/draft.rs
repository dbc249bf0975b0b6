//! Collects what was read, and builds the policies and bindings of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{
    Exposed, ObjectKey, PortRef, Remote, RemotePort, RemoteService, RemoteServiceBinding, RemoteServiceBindingSpec,
    ServiceExpositionPolicy, ServiceExpositionPolicySpec,
};
use crate::model::{ClusterName, ExpositionKey, Label};
use crate::translate::{LocalName, names};

use super::judge::ImportJudge;
use super::target::exposed_name;
use super::{ClusterObjects, DonorObjects, ImportNotes, ImportRequest, ImportResult};

/// Most services of one run.
const MAX_USES: usize = 2048;
/// Most ports under one name, as in a policy and a binding.
const MAX_PORTS: usize = 64;

/// One service of one donor, as callers here reach it now.
#[derive(Debug, Clone)]
pub(super) struct RemoteUse {
    /// The object that says so.
    pub origin: ObjectKey,
    /// The hosts that callers use now.
    pub called_as: BTreeSet<String>,
    pub donor: ClusterName,
    /// The Service at the donor.
    pub service: ExpositionKey,
    pub subset: Option<Label>,
    /// The name that it should have here.
    pub local: LocalName,
    /// Local ports, and the donor's ports that they lead to.
    pub ports: BTreeMap<u16, u16>,
    /// The share of calls among several donors.
    pub weight: Option<u32>,
}

/// The uses of one service under one local name: one for each donor.
type ServiceUses = BTreeMap<(LocalName, ExpositionKey, Option<Label>), BTreeMap<ClusterName, RemoteUse>>;

pub(super) struct ImportDraft<'a> {
    request: &'a ImportRequest<'a>,
    judge: ImportJudge<'a>,
    uses: ServiceUses,
    count: usize,
    pub notes: ImportNotes,
}

impl<'a> ImportDraft<'a> {
    pub(super) fn new(
        request: &'a ImportRequest<'a>,
        here: &'a ClusterObjects,
        donor: Option<&'a DonorObjects>,
    ) -> ImportDraft<'a> {
        let judge = ImportJudge::new(request, here, donor);
        ImportDraft { request, judge, uses: BTreeMap::new(), count: 0, notes: ImportNotes::default() }
    }

    pub(super) fn add_use(&mut self, found: RemoteUse) {
        if self.count >= MAX_USES {
            let message = format!("more than {MAX_USES} services in one run: name some, or a namespace");
            self.notes.add_error("nothing more is read", message);
            return;
        }
        let key = (found.local.clone(), found.service.clone(), found.subset.clone());
        let by_donor = self.uses.entry(key).or_default();
        match by_donor.get_mut(&found.donor) {
            Some(known) => {
                known.ports.extend(found.ports);
                known.called_as.extend(found.called_as);
            }
            None => {
                self.count += 1;
                by_donor.insert(found.donor.clone(), found);
            }
        }
    }

    /// Builds the objects, and lets the product's own judges look at them.
    pub(super) fn finish(mut self) -> ImportResult {
        let mut taken = BTreeSet::new();
        let mut policies: BTreeMap<(ClusterName, ExpositionKey, Option<Label>), BTreeSet<u16>> = BTreeMap::new();
        let mut bindings = Vec::new();
        for ((wanted, service, subset), mut by_donor) in std::mem::take(&mut self.uses) {
            for found in by_donor.values_mut() {
                self.bound_ports(found);
            }
            let Some(local) = self.choose_name(&wanted, &service, &by_donor, &taken) else { continue };
            taken.insert(local.clone());
            for (donor, found) in &by_donor {
                let key = (donor.clone(), service.clone(), subset.clone());
                policies.entry(key).or_default().extend(found.ports.values());
            }
            bindings.push(build_binding(&local, &exposed_name(&service.name, subset.as_ref()), &by_donor));
        }
        let mut result = ImportResult::default();
        for ((donor, service, subset), ports) in policies {
            let policy = self.build_policy(&service, subset.as_ref(), &ports);
            self.note_peer(&donor);
            self.judge.judge_policy(&donor, &policy, &mut self.notes);
            result.policies.push((donor, policy));
        }
        for binding in bindings {
            self.judge.judge_binding(&binding, &mut self.notes);
            result.bindings.push(binding);
        }
        result.notes = self.notes;
        result
    }

    fn bound_ports(&mut self, found: &mut RemoteUse) {
        if let Some(first_beyond) = found.ports.keys().nth(MAX_PORTS).copied() {
            found.ports.split_off(&first_beyond);
            let message = format!("only the first {MAX_PORTS} ports are carried: one name cannot have more");
            self.notes.add_error(found.origin.to_string(), message);
        }
    }

    /// Chooses the local name: the one that callers would expect, unless somebody has it.
    fn choose_name(
        &mut self,
        wanted: &LocalName,
        service: &ExpositionKey,
        by_donor: &BTreeMap<ClusterName, RemoteUse>,
        taken: &BTreeSet<LocalName>,
    ) -> Option<LocalName> {
        let (donor, found) = by_donor.first_key_value()?;
        let (name, namespace) = (&wanted.name, &service.namespace);
        let others = [format!("{name}-{donor}"), format!("{name}-{namespace}-{donor}")];
        let candidates = std::iter::once(name.clone())
            .chain(others.iter().filter_map(|text| names::bounded_name(text).parse().ok()));
        let mut reason = None;
        for name in candidates {
            let local = LocalName { namespace: wanted.namespace.clone(), name };
            let conflict = match taken.contains(&local) {
                true => Some("another of these services has it".to_owned()),
                false => self.judge.find_conflict(&local, donor, service),
            };
            match conflict {
                None => {
                    self.note_name(found, wanted, &local, reason.as_deref());
                    return Some(local);
                }
                Some(conflict) => reason = reason.or(Some(conflict)),
            }
        }
        let message = format!(
            "{wanted} cannot be its local name, and names made of it are taken, too: {}; write the binding by hand, with another `alias`",
            reason.unwrap_or_default()
        );
        self.notes.add_error(found.origin.to_string(), message);
        None
    }

    /// Says which name callers use from now on, and why it is not the one that they use now.
    fn note_name(&mut self, found: &RemoteUse, wanted: &LocalName, local: &LocalName, reason: Option<&str>) {
        let new = local.host();
        if let Some(reason) = reason {
            let message = format!("the binding has the local name {local}, since {wanted} is in use here: {reason}");
            self.notes.add_note(found.origin.to_string(), message);
        }
        let others: Vec<&str> =
            found.called_as.iter().map(String::as_str).filter(|host| *host != new.as_str()).collect();
        if !others.is_empty() {
            let message = format!(
                "callers of {} go on as they do until they call {}.{} instead, at the same ports",
                others.join(", "),
                local.name,
                local.namespace
            );
            self.notes.add_note(found.origin.to_string(), message);
        }
    }

    fn note_peer(&mut self, donor: &ClusterName) {
        let at = format!("ClusterPeering {donor}");
        match self.request.peers.find_peer(donor) {
            None => {
                let message = format!(
                    "none was read: unless the agent's configuration names the peer, the bindings wait for one, here, with the `endpoint` of {donor}'s agent"
                );
                self.notes.add_note(at, message);
            }
            Some(peer) if peer.endpoint.is_none() => {
                self.notes.add_note(
                    at,
                    "it has no `endpoint`, so this cluster does not watch the donor; the bindings wait for it",
                );
            }
            Some(_) => {}
        }
    }

    fn build_policy(
        &self,
        service: &ExpositionKey,
        subset: Option<&Label>,
        ports: &BTreeSet<u16>,
    ) -> ServiceExpositionPolicy {
        let exposed = exposed_name(&service.name, subset);
        let name = names::bounded_name(&format!("{exposed}-for-{}", self.request.acceptor));
        let entry = Exposed {
            name: service.name.to_string(),
            alias: subset.map(|_| exposed.to_string()),
            ports: ports.iter().map(|port| PortRef::Number(*port)).collect(),
            subset: subset.map(ToString::to_string),
            clusters: vec![self.request.acceptor.to_string()],
            ..Exposed::default()
        };
        ServiceExpositionPolicy {
            metadata: metadata(&service.namespace, name),
            spec: ServiceExpositionPolicySpec { exposed: vec![entry] },
            status: None,
        }
    }
}

fn metadata(namespace: &Label, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: Some(namespace.to_string()), ..ObjectMeta::default() }
}

fn build_binding(
    local: &LocalName,
    exposed: &Label,
    by_donor: &BTreeMap<ClusterName, RemoteUse>,
) -> RemoteServiceBinding {
    let from = match by_donor.len() {
        1 => by_donor.keys().map(ClusterName::as_str).collect(),
        _ => "peers".to_owned(),
    };
    let remote = by_donor.iter().map(|(donor, found)| {
        let service = RemoteService {
            name: exposed.to_string(),
            namespace: (found.service.namespace != local.namespace).then(|| found.service.namespace.to_string()),
            alias: (local.name != *exposed).then(|| local.name.to_string()),
            ports: found.ports.iter().map(|(local, port)| remote_port(*local, *port)).collect(),
            weight: found.weight,
            ..RemoteService::default()
        };
        Remote { cluster: donor.to_string(), services: vec![service] }
    });
    RemoteServiceBinding {
        metadata: metadata(&local.namespace, names::bounded_name(&format!("{}-from-{from}", local.name))),
        spec: RemoteServiceBindingSpec { remote: remote.collect() },
        status: None,
    }
}

fn remote_port(local: u16, port: u16) -> RemotePort {
    RemotePort { port: PortRef::Number(port), local_port: (local != port).then_some(local) }
}
