//! Translates one policy at the donor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use crate::api::{Exposed as Entry, ExposedStatus, Kind, Object, ObjectKey, SERVICE_ACCOUNTS, ServiceExpositionPolicy};
use crate::model::{
    ClusterFacts, ClusterName, DoubtKind, ExposedPort, Exposition, ExpositionKey, GatewayDoubt, Host, Label, Protocol,
    SpiffeId, TlsMode, check_service_name, is_public,
};

use super::admit;
use super::claims::NameClaims;
use super::consumers::{self, PermittedConsumers};
use super::donor;
use super::inventory::Inventory;
use super::names::OwnerMarks;
use super::ports::{self, ExposablePort};
use super::problem::{Problem, ProblemReason, join_list};
use super::validate::MAX_IDENTITIES;
use super::vouch;

/// Result of translating one policy at its donor.
#[derive(Debug, Clone, Default)]
pub struct PolicyTranslation {
    /// Stand in the order in which they are to be written: a permission stands before what it guards.
    pub objects: Vec<Object>,
    pub offers: Vec<PolicyOffer>,
    /// One for each entry of `spec.exposed`, in its order.
    pub entries: Vec<EntryOutcome>,
    /// Problems of the policy as a whole.
    pub problems: Vec<Problem>,
    /// The names of the entries that have objects.
    pub held: Vec<ExpositionKey>,
    /// Entries whose host itself is served, and the port that it means.
    pub served_hosts: Vec<(ExpositionKey, u16)>,
}

/// The expositions that are offered under one name, by acceptor.
#[derive(Debug, Clone)]
pub struct PolicyOffer {
    pub key: ExpositionKey,
    pub to: BTreeMap<ClusterName, Arc<Exposition>>,
    /// Objects that have to be in place for the offer.
    pub objects: Vec<ObjectKey>,
}

#[derive(Debug, Clone)]
pub struct EntryOutcome {
    pub status: ExposedStatus,
    /// The reason why nothing is offered, if nothing is.
    pub problem: Option<Problem>,
    /// The reason why nothing is offered to some of its clusters, while others are served.
    pub shortfall: Option<Problem>,
    /// Facts that people should know: rules that are not enforced, ports that were left out.
    pub notes: Vec<String>,
}

/// One entry, checked and resolved.
#[derive(Debug)]
pub(super) struct ResolvedEntry<'a> {
    pub facts: &'a ClusterFacts,
    pub inventory: &'a Inventory,
    pub marks: &'a OwnerMarks,
    pub entry: &'a Entry,
    pub key: ExpositionKey,
    pub service: Label,
    pub object: &'a Service,
    pub ports: Vec<ResolvedPort>,
    pub tls: TlsMode,
    pub consumers: PermittedConsumers,
}

#[derive(Debug)]
pub(super) struct ResolvedPort {
    pub port: ExposablePort,
    /// The name that this port has at the gateway, and no other ever has.
    pub host: Host,
    /// The exposition's own name, which peers of 0.1 use: served beside the other while there is one port only, and it
    /// meant no other before.
    pub also: Option<Host>,
}

impl ResolvedPort {
    /// The names of the port at the gateway.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.host).chain(&self.also)
    }
}

/// Translates one policy. Each entry fails alone.
pub fn expose_policy(
    policy: &ServiceExpositionPolicy,
    inventory: &Inventory,
    claims: &NameClaims,
    facts: &ClusterFacts,
) -> PolicyTranslation {
    expose_within(policy, inventory, claims, facts, &mut |_, _| Ok(()))
}

/// Does the same as far as there is room. `room` gets the number of an entry and that of its ports, and fails if there
/// is none.
pub fn expose_within(
    policy: &ServiceExpositionPolicy,
    inventory: &Inventory,
    claims: &NameClaims,
    facts: &ClusterFacts,
    room: &mut dyn FnMut(usize, usize) -> Result<(), Problem>,
) -> PolicyTranslation {
    let id = name_of(policy);
    let mut out = PolicyTranslation::default();
    let namespace: Label = match id.0.parse() {
        Ok(namespace) => namespace,
        Err(e) => {
            out.problems.push(Problem::new(ProblemReason::Invalid, "metadata.namespace", format!("{e}")));
            return out;
        }
    };
    if policy.spec.exposed.is_empty() {
        let problem = Problem::new(ProblemReason::Invalid, "spec.exposed", "it is empty, so that nothing is exposed");
        out.problems.push(problem.cure("name at least one Service"));
    }
    let marks = OwnerMarks::of_policy(&id.0, &id.1);
    // These stay with the policy; a list that grows by itself begins with room for four.
    out.entries.reserve_exact(policy.spec.exposed.len());
    out.offers.reserve_exact(policy.spec.exposed.len());
    for (i, entry) in policy.spec.exposed.iter().enumerate() {
        let done = resolve_entry(entry, &namespace, (inventory, claims), facts, &marks).and_then(|resolved| {
            if let Some((other, other_entry)) = claims.find_holder(&resolved.key, &id, i) {
                return Err(name_conflict(&resolved.key, other, other_entry, other == id.1));
            }
            let (objects, notes) = donor::build_donor_objects(&resolved)?;
            room(i, resolved.ports.len())?;
            Ok((resolved, objects, notes))
        });
        let outcome = match done {
            Ok((resolved, objects, notes)) => {
                let keys = objects.iter().map(Object::key).collect();
                out.objects.extend(objects);
                out.held.push(resolved.key.clone());
                let served = resolved.ports.iter().find(|p| p.also.is_some());
                out.served_hosts.extend(served.map(|p| (resolved.key.clone(), p.port.number)));
                offer_entry(&resolved, keys, notes, i, &mut out.offers)
            }
            Err(problem) => refused_outcome(entry, problem.below(&format!("spec.exposed[{i}]"))),
        };
        out.entries.push(outcome);
    }
    out.objects.sort_by_cached_key(Object::key);
    out
}

/// `<namespace>`, `<name>` of a policy.
pub(super) fn name_of(policy: &ServiceExpositionPolicy) -> (String, String) {
    let m = &policy.metadata;
    (m.namespace.clone().unwrap_or_else(|| "default".to_owned()), m.name.clone().unwrap_or_default())
}

/// The name that an entry wants, if it is one.
pub(super) fn key_of(namespace: &str, entry: &Entry) -> Option<ExpositionKey> {
    let name = entry.alias.as_ref().unwrap_or(&entry.name);
    Some(ExpositionKey { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}

/// Returns the number of ports that an entry exposes, as far as its Service says; None if it exposes nothing.
pub fn exposed_ports(policy: &ServiceExpositionPolicy, entry: usize, inventory: &Inventory) -> Option<usize> {
    let entry = policy.spec.exposed.get(entry)?;
    let service = inventory.service(&name_of(policy).0, &entry.name)?;
    ports::select_ports(entry, service).ok().map(|ports| ports.len())
}

/// Returns whether a change of a user's object may change the translation of a policy. A policy looks only at its own
/// namespace, but for rules that are [for all of the gateway's clients](is_for_all_policies).
pub fn policy_touches(policy: &ServiceExpositionPolicy, object: &ObjectKey, facts: &ClusterFacts) -> bool {
    if is_for_all_policies(object, facts) {
        return true;
    }
    if policy.metadata.namespace.as_deref().unwrap_or("default") != object.namespace {
        return false;
    }
    policy.spec.exposed.iter().any(|entry| match object.kind {
        // The routes of a VirtualService may lead to any Service of the namespace.
        Kind::Service => entry.name == object.name || entry.virtual_service.is_some(),
        Kind::VirtualService => entry.virtual_service.as_ref() == Some(&object.name),
        Kind::DestinationRule | Kind::AuthorizationPolicy => true,
        _ => false,
    })
}

/// Returns whether an object of the mesh's root namespace, or of the gateway's, may hold for every Service.
pub fn is_for_all_policies(object: &ObjectKey, facts: &ClusterFacts) -> bool {
    let is_of = |namespace: &Label| object.namespace == namespace.as_str();
    match object.kind {
        Kind::DestinationRule => is_of(&facts.root_namespace) || is_of(&facts.ingress.namespace),
        Kind::AuthorizationPolicy => is_of(&facts.root_namespace) || is_of(&facts.ingress.namespace),
        _ => false,
    }
}

fn resolve_entry<'a>(
    entry: &'a Entry,
    namespace: &Label,
    (inventory, claims): (&'a Inventory, &NameClaims),
    facts: &'a ClusterFacts,
    marks: &'a OwnerMarks,
) -> Result<ResolvedEntry<'a>, Problem> {
    let label = |field: &str, s: &str| -> Result<Label, Problem> {
        s.parse().map_err(|e| Problem::new(ProblemReason::Invalid, field, format!("{e}")))
    };
    let service = label("name", &entry.name)?;
    let alias = match entry.alias.as_deref() {
        Some(alias) => label("alias", alias)?,
        None => service.clone(),
    };
    check_service_name(&alias).map_err(|e| {
        let problem = Problem::new(
            ProblemReason::Invalid,
            "alias",
            format!("{e}: no acceptor could have a Service of that name"),
        );
        problem.cure("give it an alias that begins with a letter")
    })?;
    let object = inventory.service(namespace.as_str(), service.as_str()).ok_or_else(|| {
        let there = || format!("there are: {}", join_list(inventory.service_names(namespace.as_str())));
        let name = (namespace.as_str(), service.as_str());
        inventory.build_absence_problem(Kind::Service, name, (ProblemReason::ServiceNotFound, "name"), there)
    })?;
    if object.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        let message = format!("the Service {service} is another name of something outside (ExternalName)");
        return Err(
            Problem::new(ProblemReason::Unsupported, "name", message).cure("expose a Service that has endpoints")
        );
    }
    vouch::check_selector(service.as_str(), object, facts)?;
    vouch::check_visible(service.as_str(), object, namespace, facts)?;
    if entry.subset.is_some() && entry.virtual_service.is_some() {
        let problem = Problem::new(ProblemReason::Invalid, "subset", "subset and virtualService exclude each other");
        return Err(problem.cure("let the routes of the VirtualService choose the subset"));
    }
    let key = ExpositionKey { namespace: namespace.clone(), name: alias };
    let ports = name_ports(&key, ports::select_ports(entry, object)?, claims.port_of_host(&key))?;
    let consumers = consumers::resolve_consumers(entry, facts)?;
    let tls = entry.tls.unwrap_or(facts.tls);
    let resolved = ResolvedEntry { facts, inventory, marks, entry, key, service, object, ports, tls, consumers };
    vouch::check_sidecars(&resolved)?;
    Ok(resolved)
}

/// Gives each port its host. `meant`: the port that the host itself has meant until now.
fn name_ports(
    key: &ExpositionKey,
    ports: Vec<ExposablePort>,
    meant: Option<u16>,
) -> Result<Vec<ResolvedPort>, Problem> {
    let host = key.host();
    let only = ports.len() == 1;
    let named = ports.into_iter().map(|port| {
        let own = host.of_port(port.number);
        let own = own.ok_or_else(|| Problem::new(ProblemReason::Invalid, "alias", "the name is too long"))?;
        let also = (only && meant.is_none_or(|meant| meant == port.number)).then(|| host.clone());
        Ok(ResolvedPort { port, host: own, also })
    });
    named.collect()
}

fn name_conflict(key: &ExpositionKey, other: &str, other_entry: usize, same_policy: bool) -> Problem {
    let who = if same_policy {
        format!("spec.exposed[{other_entry}] of this policy")
    } else {
        format!("the older policy {}/{other}", key.namespace)
    };
    let message = format!("{:?} is already exposed by {who}", key.name.as_str());
    Problem::new(ProblemReason::NameConflict, "alias", message).cure("give one of them another alias")
}

/// Builds the status of an entry that could not be exposed.
fn refused_outcome(entry: &Entry, problem: Problem) -> EntryOutcome {
    let name = entry.alias.as_ref().unwrap_or(&entry.name).clone();
    let reason = problem.reason.to_string();
    let status = ExposedStatus { name, reason, message: problem.line(), ..ExposedStatus::default() };
    EntryOutcome { status, problem: Some(problem), shortfall: None, notes: Vec::new() }
}

fn offer_entry(
    resolved: &ResolvedEntry<'_>,
    objects: Vec<ObjectKey>,
    mut notes: Vec<String>,
    i: usize,
    offers: &mut Vec<PolicyOffer>,
) -> EntryOutcome {
    notes.extend(resolved.consumers.notes.iter().cloned());
    let host = resolved.key.host().to_string();
    let mut status = ExposedStatus { name: resolved.key.name.to_string(), host, ..ExposedStatus::default() };
    let ingress = &resolved.facts.ingress;
    if ingress.addresses.is_empty() {
        let problem = unreached_problem(resolved.facts).below(&format!("spec.exposed[{i}]"));
        (status.reason, status.message) = (problem.reason.to_string(), problem.line());
        return EntryOutcome { status, problem: Some(problem), shortfall: None, notes };
    }
    let mut to = build_expositions(resolved);
    let refusal = resolved.refuse_callers().map(|refusal| refusal.below(&format!("spec.exposed[{i}]")));
    to.retain(|cluster, _| resolved.is_let_in(cluster));
    if let Some(refusal) = refusal.clone().filter(|_| to.is_empty()) {
        (status.reason, status.message) = (refusal.reason.to_string(), refusal.line());
        return EntryOutcome { status, problem: Some(refusal), shortfall: None, notes };
    }
    status.offered_to = to.keys().map(ToString::to_string).collect();
    (status.reason, status.message) = match &refusal {
        None => ("Exposed".to_owned(), notes.join("; ")),
        Some(refusal) => (refusal.reason.to_string(), refusal.line()),
    };
    offers.push(PolicyOffer { key: resolved.key.clone(), to, objects });
    EntryOutcome { status, problem: None, shortfall: refusal, notes }
}

/// Builds the problem of an ingress gateway whose address is not known.
fn unreached_problem(facts: &ClusterFacts) -> Problem {
    let ingress = &facts.ingress;
    match &facts.doubts.ingress {
        Some(GatewayDoubt { kind: DoubtKind::PortMissing, message, cure }) => {
            Problem::new(ProblemReason::GatewayPortMissing, "", message.as_str()).cure(cure.as_str())
        }
        Some(doubt) => {
            Problem::new(ProblemReason::NoGatewayAddress, "", doubt.message.as_str()).cure(doubt.cure.as_str())
        }
        None => {
            let message =
                format!("no address of the ingress gateway {}/{} is known", ingress.namespace, ingress.service);
            Problem::new(ProblemReason::NoGatewayAddress, "", message)
                .cure("it is offered as soon as there is one; ingress.address in the configuration sets one")
        }
    }
}

fn build_expositions(resolved: &ResolvedEntry<'_>) -> BTreeMap<ClusterName, Arc<Exposition>> {
    let facts = resolved.facts;
    let port = |p: &ResolvedPort| ExposedPort {
        number: p.port.number,
        name: p.port.name.clone(),
        protocol: p.port.protocol,
        host: p.host.clone(),
    };
    let all = Arc::new(Exposition {
        key: resolved.key.clone(),
        host: resolved.key.host(),
        ports: resolved.ports.iter().map(port).collect(),
        tls: resolved.tls,
        identities: match resolved.tls {
            TlsMode::Cluster => vec![facts.identity.clone()],
            TlsMode::Workload => ingress_identity(facts).into_iter().collect(),
            TlsMode::Passthrough => resolved.providers_identities(),
        },
        gateways: facts.ingress.addresses.clone(),
        clients: Vec::new(),
        host_is_withheld: resolved.host_is_withheld(),
    });
    let one = |(name, consumer): (&ClusterName, &consumers::PermittedConsumer)| {
        let exposition = if consumer.clients.is_empty() {
            Arc::clone(&all)
        } else {
            Arc::new(Exposition { clients: consumer.clients.clone(), ..(*all).clone() })
        };
        (name.clone(), exposition)
    };
    resolved.consumers.by_cluster.iter().map(one).collect()
}

fn ingress_identity(facts: &ClusterFacts) -> Option<SpiffeId> {
    let ingress = &facts.ingress;
    SpiffeId::of_workload(&facts.trust_domain, &ingress.namespace, &ingress.service_account)
}

impl ResolvedEntry<'_> {
    /// Returns whether the host itself is not served, although there is one port only.
    fn host_is_withheld(&self) -> bool {
        matches!(&self.ports[..], [only] if only.also.is_none())
    }

    /// Returns notes on the chosen mode for the operator.
    pub fn mode_notes(&self) -> Vec<String> {
        let mut notes = ports::left_out(self.entry, self.object);
        if self.object.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
            let service = &self.service;
            notes.push(format!("{service} is headless: acceptors have the name of the Service, and none of its pods"));
        }
        if let [only] = &self.ports[..]
            && only.also.is_none()
        {
            let (host, own) = (self.key.host(), &only.host);
            notes.push(format!("{host} meant another port before and is not served for this one; peers of Wharf 0.1 cannot use it, others use {own}"));
        }
        for p in self.ports.iter().filter(|p| !p.port.is_declared()) {
            let service = &self.service;
            notes.push(format!(
                "port {} of {service} does not say what it speaks and is exposed as TCP; name it http, http2, grpc or tcp (or set appProtocol)",
                p.port.number
            ));
        }
        notes.extend(self.gateway_note());
        notes.extend(admit::admission_notes(self));
        notes.extend(vouch::vouch_notes(self));
        notes.extend(self.account_note());
        if self.tls != TlsMode::Cluster {
            notes.extend(self.consumers.shared_trust_domains(self.facts));
        }
        for p in self.ports.iter().filter(|p| !p.port.protocol.is_http()) {
            let number = p.port.number;
            match self.tls {
                TlsMode::Cluster => {}
                TlsMode::Workload => notes.push(format!(
                    "port {number} is TCP: with tls: Workload an ingress gateway of Istio 1.10 to 1.31 lets callers in, another one nobody; with tls: Cluster any does"
                )),
                TlsMode::Passthrough => notes.push(format!(
                    "port {number} is TCP: with tls: Passthrough Istio asks who a caller is when it has sent something, so a server that speaks first is heard by callers who are not permitted; with the other modes it is not"
                )),
            }
        }
        if self.tls == TlsMode::Passthrough {
            notes.extend(self.mesh_note());
            notes.push(
                "tls: Passthrough needs a permission that concerns all of the provider's pods: whenever it changes, what others have open with them ends when their sidecars have drained; with the other modes it does not"
                    .to_owned(),
            );
        }
        if !self.entry.clients.is_empty() {
            let place = match self.tls {
                TlsMode::Cluster => "by each acceptor's egress gateway, which this cluster has to trust for it",
                TlsMode::Workload => {
                    "by this cluster's ingress gateway, so that only acceptors in the style DIRECT_INGRESS can call"
                }
                TlsMode::Passthrough => "by the provider's sidecars",
            };
            notes.push(format!("clients are enforced {place}"));
        }
        notes
    }

    /// Returns the identities that answer in the mode `Passthrough`: the service accounts that Istio's annotation of
    /// the Service names, if it is there. Wharf reads no pods.
    fn providers_identities(&self) -> Vec<SpiffeId> {
        let annotations = self.object.metadata.annotations.iter().flatten();
        let accounts = annotations.filter(|(name, _)| *name == SERVICE_ACCOUNTS).flat_map(|(_, list)| list.split(','));
        let (domain, namespace) = (&self.facts.trust_domain, &self.key.namespace);
        let identity = |account: &str| SpiffeId::of_workload(domain, namespace, account.trim());
        let identities: BTreeSet<_> = accounts.filter_map(identity).collect();
        identities.into_iter().take(MAX_IDENTITIES).collect()
    }

    /// Notes that the gateway's service account is assumed: acceptors refuse the certificate of every other account.
    fn account_note(&self) -> Option<String> {
        let ingress = &self.facts.ingress;
        let assumed = self.tls == TlsMode::Workload && !ingress.account_configured;
        assumed.then(|| {
            format!(
                "the ingress gateway's service account is taken to be {0}, as Istio's Helm chart has it, and acceptors refuse \
                 another; after istioctl install it is {0}-service-account: set ingress.serviceAccount",
                ingress.service_account
            )
        })
    }

    /// Notes gateway addresses that are not public: acceptors refuse them, unless their operators allow them.
    fn gateway_note(&self) -> Option<String> {
        let addresses = self.facts.ingress.addresses.iter().map(|gateway| &gateway.address);
        let private: Vec<_> = addresses.filter(|address| !is_public(address)).map(ToString::to_string).collect();
        (!private.is_empty()).then(|| {
            format!(
                "the ingress gateway is reached at {}, which is not public: acceptors refuse it unless their entry for {} allows it (allowedGateways, allowedGatewayNames)",
                private.join(", "),
                self.facts.cluster
            )
        })
    }

    /// Returns whether the gateway reads requests: it does for HTTP unless TLS passes through.
    pub fn is_http(&self, protocol: Protocol) -> bool {
        protocol.is_http() && self.tls != TlsMode::Passthrough
    }
}
