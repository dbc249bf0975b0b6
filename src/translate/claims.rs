//! Claims on names that only one can have: exposed names at the donor, passed-through names at the acceptor's egress
//! gateway.
//!
//! The holder of a name keeps it as long as it asks for it. The holder is the one whose objects are in place: in this
//! process, or in the store from before it ([`NameClaims::restore_holders`], [`PassthroughHosts::restore_holders`]). Age decides among
//! claimants when none holds the name, and names only among those of one age.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::api::ServiceExpositionPolicy;
use crate::model::{ClusterName, ExpositionKey, Host, TlsMode};

use super::inventory::service_of;
use super::names;
use super::sources::{LocalName, Source};

/// Age of an object: the oldest first, and those without a time after those with one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectAge {
    untimed: bool,
    created: Option<Time>,
}

impl ObjectAge {
    pub fn from_metadata(metadata: &ObjectMeta) -> ObjectAge {
        let created = metadata.creation_timestamp.clone();
        ObjectAge { untimed: created.is_none(), created }
    }
}

/// One entry of one policy that wants a name, in order of age, then by name, then by entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NameClaim {
    age: ObjectAge,
    policy: (String, String),
    entry: usize,
    holds: bool,
}

/// The entry and policy that has each exposed name.
#[derive(Debug, Clone, Default)]
pub struct NameClaims {
    /// Sorted. Hardly ever more than one: a list, since a tree of one costs a kilobyte.
    by_name: HashMap<ExpositionKey, Vec<NameClaim>>,
    by_policy: HashMap<(String, String), Vec<ExpositionKey>>,
    /// Names of owners whose policies cannot be read.
    reserved: BTreeMap<ExpositionKey, Arc<str>>,
    /// The port that an exposed host itself means, beside the hosts of its ports. It stays when other ports come.
    port_of_host: BTreeMap<ExpositionKey, u16>,
}

/// Most hosts without a claim whose port is remembered.
const MAX_LEFT_HOSTS: usize = 10_000;

impl NameClaims {
    /// Reserves these names for their owners, and for nobody else. Returns the policies that claim one of them, or of
    /// those that were reserved until now.
    pub fn reserve_names(&mut self, names: BTreeMap<ExpositionKey, Arc<str>>) -> BTreeSet<(String, String)> {
        let before = std::mem::replace(&mut self.reserved, names);
        let changed = |(key, owner): &(&ExpositionKey, &Arc<str>)| {
            (before.get(*key) == Some(*owner)) != (self.reserved.get(*key) == Some(*owner))
        };
        let all = before.iter().chain(&self.reserved).filter(changed);
        let claims = all.filter_map(|(key, _)| self.by_name.get(key)).flatten();
        claims.map(|claim| claim.policy.clone()).collect()
    }

    /// Adds a policy, new or changed. Returns the other policies (namespace, name) that claim a name that it claims or
    /// claimed: they are to be translated again.
    pub fn insert_policy(&mut self, policy: &ServiceExpositionPolicy) -> BTreeSet<(String, String)> {
        let id = super::expose::name_of(policy);
        let held = self.held_by(&id);
        let mut touched = self.remove_policy(&id.0, &id.1);
        let mut keys = Vec::with_capacity(policy.spec.exposed.len());
        for (entry, exposed) in policy.spec.exposed.iter().enumerate() {
            let Some(key) = super::expose::key_of(&id.0, exposed) else { continue };
            let holds = held.contains(&key) && !keys.contains(&key);
            let claim = NameClaim { age: ObjectAge::from_metadata(&policy.metadata), policy: id.clone(), entry, holds };
            let claims = self.by_name.entry(key.clone()).or_default();
            touched.extend(claims.iter().map(|c| c.policy.clone()));
            claims.reserve_exact(1);
            let place = claims.partition_point(|c| *c < claim);
            claims.insert(place, claim);
            keys.push(key);
        }
        self.by_policy.insert(id.clone(), keys);
        touched.remove(&id);
        touched
    }

    /// Removes a policy. Returns the other policies that claim a name that it claimed.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) -> BTreeSet<(String, String)> {
        let id = (namespace.to_owned(), name.to_owned());
        let mut touched = BTreeSet::new();
        for key in self.by_policy.remove(&id).unwrap_or_default() {
            if let Some(claims) = self.by_name.get_mut(&key) {
                claims.retain(|c| c.policy != id);
                touched.extend(claims.iter().map(|c| c.policy.clone()));
                if claims.is_empty() {
                    self.by_name.remove(&key);
                }
            }
        }
        touched.remove(&id);
        touched
    }

    /// Records the port that an exposed host itself means, if it did not mean another one: while somebody may still
    /// call it, it means no other.
    pub fn record_port_of_host(&mut self, key: &ExpositionKey, port: u16) {
        self.port_of_host.entry(key.clone()).or_insert(port);
        if self.port_of_host.len() > self.by_name.len() + MAX_LEFT_HOSTS {
            let by_name = &self.by_name;
            self.port_of_host.retain(|key, _| by_name.contains_key(key));
        }
    }

    /// The port that an exposed host itself means.
    pub fn port_of_host(&self, key: &ExpositionKey) -> Option<u16> {
        self.port_of_host.get(key).copied()
    }

    fn held_by(&self, policy: &(String, String)) -> BTreeSet<ExpositionKey> {
        let keys = self.by_policy.get(policy).into_iter().flatten();
        let holds = |key: &&ExpositionKey| {
            self.by_name.get(*key).is_some_and(|claims| claims.iter().any(|c| c.holds && c.policy == *policy))
        };
        keys.filter(holds).cloned().collect()
    }

    /// Records that a policy has objects for these names, and for no others. It holds them from now on, unless another
    /// policy does, and holds no other name. Returns other policies that claim a name that it held.
    pub fn set_held_names(
        &mut self,
        namespace: &str,
        name: &str,
        keys: &[ExpositionKey],
    ) -> BTreeSet<(String, String)> {
        let id = (namespace.to_owned(), name.to_owned());
        let mut touched = BTreeSet::new();
        for key in self.by_policy.get(&id).into_iter().flatten() {
            let Some(claims) = self.by_name.get_mut(key) else { continue };
            let held = claims.iter().any(|c| c.holds && c.policy == id);
            if keys.contains(key) && claims.iter().all(|c| !c.holds) {
                claims.iter_mut().filter(|c| c.policy == id).take(1).for_each(|c| c.holds = true);
            } else if held && !keys.contains(key) {
                claims.iter_mut().for_each(|c| c.holds = false);
                touched.extend(claims.iter().map(|c| c.policy.clone()));
            }
        }
        touched.remove(&id);
        touched
    }

    /// Takes over what the store holds from before: the hosts at the gateway of each owner. Earlier knowledge about
    /// holders is dropped.
    pub fn restore_holders<'a>(&mut self, holdings: impl IntoIterator<Item = (&'a str, &'a Host)>) {
        self.by_name.values_mut().flatten().for_each(|claim| claim.holds = false);
        for (owner, host) in holdings {
            let key = service_of(host.without_port().as_str())
                .and_then(|(name, ns)| Some(ExpositionKey { namespace: ns.parse().ok()?, name: name.parse().ok()? }));
            let claims = key.and_then(|key| self.by_name.get_mut(&key)).filter(|c| c.iter().all(|c| !c.holds));
            let its = |c: &&mut NameClaim| names::policy_owner(&c.policy.0, &c.policy.1) == owner;
            if let Some(claim) = claims.and_then(|claims| claims.iter_mut().find(its)) {
                claim.holds = true;
            }
        }
    }

    /// The policy and entry that has the name, if it is not this one.
    pub(super) fn find_holder(
        &self,
        key: &ExpositionKey,
        policy: &(String, String),
        entry: usize,
    ) -> Option<(&str, usize)> {
        if let Some(owner) = self.reserved.get(key).filter(|o| ***o != *names::policy_owner(&policy.0, &policy.1)) {
            let prefix = format!("policy.{}.", policy.0);
            return Some((owner.strip_prefix(prefix.as_str()).unwrap_or(owner), 0));
        }
        let claims = self.by_name.get(key)?;
        let first = claims.iter().find(|c| c.holds).or(claims.first())?;
        let mine = first.policy == *policy && first.entry == entry;
        (!mine).then_some((first.policy.1.as_str(), first.entry))
    }
}

/// The claim of a local name on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostClaim {
    age: ObjectAge,
    clusters: BTreeSet<ClusterName>,
    holds: bool,
}

/// The local name that has each host at the egress gateway's passthrough listener, where the SNI is the donor's and
/// cannot be changed: two local names may share one only if they lead to the same clusters.
#[derive(Debug, Clone, Default)]
pub struct PassthroughHosts {
    by_host: BTreeMap<Host, BTreeMap<LocalName, HostClaim>>,
    by_local: HashMap<LocalName, BTreeSet<Host>>,
    /// Hosts that local names hold from before this process, until it is known what they want now.
    remembered: BTreeMap<Host, BTreeSet<LocalName>>,
}

impl PassthroughHosts {
    /// Records the sources that feed a local name now (nothing: `&[]`). Returns the other local names that share a host
    /// with it, or did: they are to be bound again.
    pub fn update_sources(&mut self, local: &LocalName, sources: &[Source]) -> BTreeSet<LocalName> {
        let mut wanted: BTreeMap<&Host, (ObjectAge, BTreeSet<ClusterName>)> = BTreeMap::new();
        for source in sources {
            if let Ok(exposition) = &source.exposition
                && exposition.tls == TlsMode::Passthrough
            {
                let age = &source.wanted.age;
                let (oldest, clusters) =
                    wanted.entry(&exposition.host).or_insert_with(|| (age.clone(), BTreeSet::new()));
                clusters.insert(source.wanted.cluster.clone());
                if age < oldest {
                    *oldest = age.clone();
                }
            }
        }
        let hosts: BTreeSet<Host> = wanted.keys().copied().cloned().collect();
        let before = match hosts.is_empty() {
            true => self.by_local.remove(local),
            false => self.by_local.insert(local.clone(), hosts.clone()),
        };
        let mut touched = BTreeSet::new();
        for host in before.unwrap_or_default().union(&hosts) {
            let wish = wanted.remove(host);
            touched.extend(self.update_claim(local, host, wish));
        }
        touched.remove(local);
        touched
    }

    /// Changes the claim of a local name on one host. Returns all that want the host, if the claim changed.
    fn update_claim(
        &mut self,
        local: &LocalName,
        host: &Host,
        wanted: Option<(ObjectAge, BTreeSet<ClusterName>)>,
    ) -> Vec<LocalName> {
        let remembered = self.remembered.get(host).is_some_and(|locals| locals.contains(local));
        let locals = self.by_host.entry(host.clone()).or_default();
        let before = locals.get(local);
        let next = wanted.map(|(age, clusters)| {
            let same = before.is_some_and(|b| b.clusters == clusters);
            // A name that leads elsewhere from now on cannot share the host with others any more, and leaves it to
            // them.
            let shared = locals.iter().any(|(other, wish)| other != local && wish.holds && wish.clusters != clusters);
            let holds = before.map_or(remembered, |b| b.holds) && (same || !shared);
            HostClaim { age, clusters, holds }
        });
        // Unchanged claims affect nobody: otherwise two names that share a host would re-trigger each other forever.
        if before == next.as_ref() {
            return Vec::new();
        }
        let touched = locals.keys().cloned().collect();
        match next {
            Some(wish) => drop(locals.insert(local.clone(), wish)),
            None => drop(locals.remove(local)),
        }
        if locals.is_empty() {
            self.by_host.remove(host);
        }
        touched
    }

    /// Records that a local name has its objects for these hosts. It holds them from now on, and no others. Returns
    /// other names that may have what it held until now.
    pub fn set_held_hosts(&mut self, local: &LocalName, hosts: &BTreeSet<Host>) -> BTreeSet<LocalName> {
        let mut touched = self.forget_remembered(local);
        for host in self.by_local.get(local).cloned().unwrap_or_default() {
            let holds = hosts.contains(&host) && self.find_holder(&host, local).is_none();
            let Some(wishes) = self.by_host.get_mut(&host) else { continue };
            let Some(wish) = wishes.get_mut(local) else { continue };
            if std::mem::replace(&mut wish.holds, holds) && !holds {
                touched.extend(wishes.keys().cloned());
            }
        }
        touched.remove(local);
        touched
    }

    /// Forgets the hosts that were remembered for a local name. Returns other names that want one of them.
    pub fn forget_remembered(&mut self, local: &LocalName) -> BTreeSet<LocalName> {
        let mut touched = BTreeSet::new();
        self.remembered.retain(|host, locals| {
            if locals.remove(local) {
                touched.extend(self.by_host.get(host).into_iter().flat_map(BTreeMap::keys).cloned());
            }
            !locals.is_empty()
        });
        touched.remove(local);
        touched
    }

    /// Takes over what the store holds from before: hosts at the egress gateway, by local name. Earlier knowledge about
    /// holders is dropped.
    pub fn restore_holders(&mut self, holdings: impl IntoIterator<Item = (LocalName, Host)>) {
        self.remembered.clear();
        for (local, host) in holdings {
            self.remembered.entry(host.without_port()).or_default().insert(local);
        }
        for (host, wishes) in &mut self.by_host {
            let remembered = self.remembered.get(host);
            wishes.iter_mut().for_each(|(local, wish)| wish.holds = remembered.is_some_and(|r| r.contains(local)));
        }
    }

    /// The local name that has the host, if it is another one that leads elsewhere.
    pub(super) fn find_holder(&self, host: &Host, local: &LocalName) -> Option<&LocalName> {
        let wishes = self.by_host.get(host);
        let mine = wishes.and_then(|wishes| wishes.get(local));
        if mine.is_some_and(|wish| wish.holds) {
            return None;
        }
        let all = wishes.into_iter().flatten();
        if let Some((first, wish)) = all.clone().find(|(_, wish)| wish.holds) {
            return (mine.map(|m| &m.clusters) != Some(&wish.clusters)).then_some(first);
        }
        // A local name keeps what it holds while it is not known yet where it leads.
        let unheard = |other: &&LocalName| *other != local && wishes.is_none_or(|w| !w.contains_key(*other));
        if let Some(other) = self.remembered.get(host).into_iter().flatten().find(unheard) {
            return Some(other);
        }
        let (first, wish) = all.min_by_key(|(name, wish)| (&wish.age, *name))?;
        (first != local && mine.map(|m| &m.clusters) != Some(&wish.clusters)).then_some(first)
    }
}
