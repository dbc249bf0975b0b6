//! Lets translation judge what was built, as the agents will.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{
    Object, Remote, RemoteService, RemoteServiceBinding, RemoteServiceBindingSpec, ServiceExpositionPolicy,
};
use crate::model::{
    Address, ClusterFacts, ClusterName, ExposedPort, Exposition, ExpositionKey, GatewayAddress, OwnGateway, Peer,
    Protocol, SpiffeId, TlsMode,
};
use crate::translate::{
    LocalName, NameClaims, PassthroughHosts, ProblemReason, Source, bind_local_name, expose_policy, split_binding,
};

use super::{ClusterObjects, DonorObjects, ImportNotes, ImportRequest};

/// An address that only stands for one: documentation's network (RFC 5737).
const SOME_ADDRESS: Address = Address::Ip(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
const SOME_PORT: u16 = 15443;

pub(super) struct ImportJudge<'a> {
    request: &'a ImportRequest<'a>,
    here: &'a ClusterObjects,
    donor: Option<&'a DonorObjects>,
    /// The donor's AuthorizationPolicies that tell callers apart, by namespace.
    permissions: BTreeMap<String, Vec<String>>,
}

impl<'a> ImportJudge<'a> {
    pub(super) fn new(
        request: &'a ImportRequest<'a>,
        here: &'a ClusterObjects,
        donor: Option<&'a DonorObjects>,
    ) -> ImportJudge<'a> {
        let mut permissions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for object in donor.into_iter().flat_map(|donor| donor.objects.sorted()) {
            if tells_callers_apart(object) {
                let key = object.key();
                permissions.entry(key.namespace.clone()).or_default().push(key.to_string());
            }
        }
        ImportJudge { request, here, donor, permissions }
    }

    /// Returns the reason why a new binding would not get a local name.
    pub(super) fn find_conflict(
        &self,
        local: &LocalName,
        donor: &ClusterName,
        service: &ExpositionKey,
    ) -> Option<String> {
        let trial = trial_binding(local, donor, service);
        let wanted = split_binding(&trial).wanted().next()?.clone();
        let mut facts = self.request.facts.clone();
        facts.peers.entry(donor.clone()).or_insert_with(|| Peer::with_name(donor.clone()));
        let source = Source::new(wanted, Ok(Arc::new(some_exposition(donor, service))));
        let bound =
            bind_local_name(local, &[source], &self.here.inventory, &PassthroughHosts::default(), &facts, false);
        let problem = bound.outcomes.into_iter().find_map(|o| o.problem)?;
        (problem.reason == ProblemReason::NameConflict).then(|| match problem.culprit {
            // The person who runs this reads the objects of all namespaces anyway.
            Some(culprit) => format!("{} ({culprit})", problem.message),
            None => problem.message,
        })
    }

    /// Tells what is wrong with a policy, as far as the donor's objects are known.
    pub(super) fn judge_policy(&self, donor: &ClusterName, policy: &ServiceExpositionPolicy, notes: &mut ImportNotes) {
        let Some(known) = self.donor.filter(|known| known.name == *donor) else {
            let at = format!("policies for {donor}");
            notes.add_note(at, "the donor's objects were not read, so that its Service and ports are not checked; --donor-context or --donor-filename reads them");
            return;
        };
        let facts = ClusterFacts {
            cluster: donor.clone(),
            identity: SpiffeId::of_cluster(donor),
            trust_any: true,
            ingress: OwnGateway { addresses: vec![some_gateway()], ..self.request.facts.ingress.clone() },
            ..self.request.facts.clone()
        };
        let mut claims = NameClaims::default();
        claims.insert_policy(policy);
        let exposed = expose_policy(policy, &known.objects.inventory, &claims, &facts);
        let at = policy_place(donor, policy);
        for problem in exposed.problems.iter().chain(exposed.entries.iter().filter_map(|e| e.problem.as_ref())) {
            notes.add_error(&at, problem.line());
        }
        self.note_permissions(policy, notes);
    }

    /// Callers come through the donor's ingress gateway, as its account: rules by principal that let them in today may
    /// not let in the gateway.
    fn note_permissions(&self, policy: &ServiceExpositionPolicy, notes: &mut ImportNotes) {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        for key in self.permissions.get(namespace).into_iter().flatten() {
            let message = "spec.rules: it tells callers apart, and calls of other clusters come as the ingress gateway in the TLS modes Cluster and Workload: \
                           allow its account before callers are led there";
            notes.add_note(key, message);
        }
    }

    /// Tells what is wrong with a binding by itself.
    pub(super) fn judge_binding(&self, binding: &RemoteServiceBinding, notes: &mut ImportNotes) {
        let m = &binding.metadata;
        let split = split_binding(binding);
        let of_entries = split.entries.iter().filter_map(|e| e.wanted.as_ref().err());
        for problem in split.problems.iter().chain(of_entries) {
            let (namespace, name) = (m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default());
            notes.add_error(format!("RemoteServiceBinding {namespace}/{name}"), problem.line());
        }
    }
}

fn tells_callers_apart(object: &Object) -> bool {
    let Object::AuthorizationPolicy(policy) = object else { return false };
    policy.spec.rules.iter().flatten().any(|rule| rule.from.as_ref().is_some_and(|from| !from.is_empty()))
}

fn policy_place(donor: &ClusterName, policy: &ServiceExpositionPolicy) -> String {
    let m = &policy.metadata;
    let (namespace, name) = (m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default());
    format!("ServiceExpositionPolicy {namespace}/{name} for {donor}")
}

fn some_gateway() -> GatewayAddress {
    GatewayAddress { address: SOME_ADDRESS, port: SOME_PORT, locality: None }
}

/// A binding with nothing but a local name.
fn trial_binding(local: &LocalName, donor: &ClusterName, service: &ExpositionKey) -> RemoteServiceBinding {
    let asked = RemoteService {
        name: service.name.to_string(),
        namespace: Some(service.namespace.to_string()),
        alias: Some(local.name.to_string()),
        ..RemoteService::default()
    };
    let spec = RemoteServiceBindingSpec { remote: vec![Remote { cluster: donor.to_string(), services: vec![asked] }] };
    let mut trial = RemoteServiceBinding::new("trial", spec);
    trial.metadata.namespace = Some(local.namespace.to_string());
    trial
}

/// An exposition of the kind that the donor will offer.
fn some_exposition(donor: &ClusterName, service: &ExpositionKey) -> Exposition {
    let host = service.host();
    let port = ExposedPort { number: 80, name: "http".to_owned(), protocol: Protocol::Http, host: host.clone() };
    Exposition {
        key: service.clone(),
        host,
        ports: vec![port],
        tls: TlsMode::Cluster,
        identities: vec![SpiffeId::of_cluster(donor)],
        gateways: vec![some_gateway()],
        clients: Vec::new(),
        host_is_withheld: false,
    }
}
