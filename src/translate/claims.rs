//! Who has a name, where only one can: exposed names at the donor, passed-through names at the acceptor's egress gateway.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::api::ServiceExpositionPolicy;
use crate::model::{ClusterName, ExpositionKey, Host, TlsMode};

use super::sources::{LocalName, Source};

/// One entry of one policy that wants a name. In order: the oldest policy first (one without a time after those with
/// one), then by name, then by entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    untimed: bool,
    created: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    policy: (String, String),
    entry: usize,
}

/// Which entry of which policy has an exposed name.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Sorted. Hardly ever more than one: a list, since a tree of one costs a kilobyte.
    by_name: HashMap<ExpositionKey, Vec<Claim>>,
    by_policy: HashMap<(String, String), Vec<(ExpositionKey, Claim)>>,
}

impl Claims {
    /// Takes in a policy, new or changed. Returns the other policies (namespace, name) that claim a name that it claims
    /// or claimed: they are to be translated again.
    pub fn insert(&mut self, policy: &ServiceExpositionPolicy) -> BTreeSet<(String, String)> {
        let (namespace, name) = super::expose::name_of(policy);
        let mut touched = self.remove(&namespace, &name);
        let id = (namespace, name);
        self.by_policy.insert(id.clone(), Vec::with_capacity(policy.spec.exposed.len()));
        for (entry, exposed) in policy.spec.exposed.iter().enumerate() {
            let Some(key) = super::expose::key_of(&id.0, exposed) else { continue };
            let created = policy.metadata.creation_timestamp.clone();
            let claim = Claim { untimed: created.is_none(), created, policy: id.clone(), entry };
            let claims = self.by_name.entry(key.clone()).or_default();
            touched.extend(claims.iter().map(|c| c.policy.clone()));
            claims.reserve_exact(1);
            let place = claims.partition_point(|c| *c < claim);
            claims.insert(place, claim.clone());
            self.by_policy.entry(id.clone()).or_default().push((key, claim));
        }
        touched.remove(&id);
        touched
    }

    /// Forgets a policy. Returns the other policies that claim a name that it claimed.
    pub fn remove(&mut self, namespace: &str, name: &str) -> BTreeSet<(String, String)> {
        let id = (namespace.to_owned(), name.to_owned());
        let mut touched = BTreeSet::new();
        for (key, claim) in self.by_policy.remove(&id).unwrap_or_default() {
            if let Some(claims) = self.by_name.get_mut(&key) {
                claims.retain(|c| *c != claim);
                touched.extend(claims.iter().map(|c| c.policy.clone()));
                if claims.is_empty() {
                    self.by_name.remove(&key);
                }
            }
        }
        touched.remove(&id);
        touched
    }

    /// The policy and entry that has the name, if it is not this one.
    pub(super) fn taken(&self, key: &ExpositionKey, policy: &(String, String), entry: usize) -> Option<(&str, usize)> {
        let first = self.by_name.get(key)?.first()?;
        let mine = first.policy == *policy && first.entry == entry;
        (!mine).then_some((first.policy.1.as_str(), first.entry))
    }
}

/// Which local name has a host at the egress gateway's passthrough listener, where the SNI is the donor's and cannot be
/// changed: two local names may share one only if they lead to the same clusters.
#[derive(Debug, Clone, Default)]
pub struct Passthroughs {
    by_host: BTreeMap<Host, BTreeMap<LocalName, BTreeSet<ClusterName>>>,
    by_local: HashMap<LocalName, BTreeSet<Host>>,
}

impl Passthroughs {
    /// Tells what feeds a local name now (nothing: `&[]`). Returns the other local names that share a host with it, or
    /// did: they are to be bound again.
    pub fn update(&mut self, local: &LocalName, sources: &[Source]) -> BTreeSet<LocalName> {
        let mut wanted: BTreeMap<&Host, BTreeSet<ClusterName>> = BTreeMap::new();
        for source in sources {
            if let Ok(exposition) = &source.exposition
                && exposition.tls == TlsMode::Passthrough
            {
                wanted.entry(&exposition.host).or_default().insert(source.wanted.cluster.clone());
            }
        }
        let hosts: BTreeSet<Host> = wanted.keys().copied().cloned().collect();
        let before = match hosts.is_empty() {
            true => self.by_local.remove(local),
            false => self.by_local.insert(local.clone(), hosts.clone()),
        };
        let mut touched = BTreeSet::new();
        for host in before.unwrap_or_default().union(&hosts) {
            let locals = self.by_host.entry(host.clone()).or_default();
            // What is as it was touches nobody: two names that share a host would have each other bound for ever.
            if locals.get(local) == wanted.get(host) {
                continue;
            }
            touched.extend(locals.keys().cloned());
            match wanted.get(host) {
                Some(clusters) => drop(locals.insert(local.clone(), clusters.clone())),
                None => drop(locals.remove(local)),
            }
            if locals.is_empty() {
                self.by_host.remove(host);
            }
        }
        touched.remove(local);
        touched
    }

    /// The local name that has the host, if it is another one that leads elsewhere.
    pub(super) fn taken(&self, host: &Host, local: &LocalName) -> Option<&LocalName> {
        let locals = self.by_host.get(host)?;
        let (first, clusters) = locals.first_key_value()?;
        (first != local && locals.get(local) != Some(clusters)).then_some(first)
    }
}
