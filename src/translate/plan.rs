//! The plan of a local name, made from its accepted sources: its ports, and the donors behind each of them.
//!
//! Donors may differ in the ports that they have. A port is led to those that have it, and no others.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::DestinationRuleTrafficPolicyLoadBalancer as LoadBalancer;
use crate::model::{
    Address, Client, ClusterFacts, ClusterName, ExposedPort, ExpositionKey, GatewayAddress, Host, Protocol, Style,
    TlsMode,
};

use super::merge::SourceCandidate;
use super::names;
use super::ports;
use super::share::{build_balance, build_endpoints, mark_tiers, priority_tiers, reduce_weights};
use super::sources::LocalName;
use super::unserved::UnservedPort;

/// The label that keeps the donors apart which expose under different names.
pub(super) const GROUP: &str = "multicluster.istio.io/exposition";
/// The beginning of the label of donors that have a port which others of their group have not.
const HAS_PORT: &str = "multicluster.istio.io/port-";

/// The plan of all sources of a local name, ready to be written as objects.
#[derive(Debug)]
pub(super) struct LocalPlan<'a> {
    pub local: &'a LocalName,
    pub facts: &'a ClusterFacts,
    pub tls: TlsMode,
    /// By number; each has a donor.
    pub ports: Vec<LocalPort>,
    /// Ports of the name that no donor serves now.
    pub unserved: Vec<UnservedPort>,
    /// Donors that expose under the same names, with the same identities to expect. At least one.
    pub groups: Vec<DonorGroup>,
    pub endpoints: Vec<PlanEndpoint>,
    pub balance: Option<LoadBalancer>,
    /// The only callers here that may use it; empty: all.
    pub clients: Vec<Client>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalPort {
    pub number: u16,
    pub protocol: Protocol,
    pub name: String,
}

#[derive(Debug)]
pub(super) struct DonorGroup {
    /// The value of the label [`GROUP`] of its endpoints; none if there is but one group.
    pub label: Option<String>,
    /// For each port of the plan, the way to its donors, if any of them has it.
    pub ways: Vec<Option<PortWay>>,
    pub identities: Vec<String>,
}

/// The way to the donors of a group by one port.
#[derive(Debug)]
pub(super) struct PortWay {
    /// The name of the port at the donors' gateways.
    pub host: Host,
    /// The DestinationRule's subset; none for all donors of the plan.
    pub subset: Option<String>,
    /// Some donors of the group do not have the port.
    pub partial: bool,
    /// Sum of the weights in the group of the donors that have the port.
    pub weight: u32,
}

#[derive(Debug)]
pub(super) struct PlanEndpoint {
    pub gateway: GatewayAddress,
    pub labels: BTreeMap<String, String>,
    pub weight: Option<u32>,
}

impl LocalPlan<'_> {
    /// Returns whether some addresses have to be resolved.
    pub fn needs_dns(&self) -> bool {
        self.endpoints.iter().any(|e| matches!(e.gateway.address, Address::Name(_)))
    }

    /// Returns whether routes have to say for which port they are.
    pub fn has_several_ports(&self) -> bool {
        self.ports.len() + self.unserved.len() > 1
    }

    /// All ports of the name, by number.
    pub fn all_ports(&self) -> Vec<&LocalPort> {
        let mut all: Vec<_> = self.ports.iter().chain(self.unserved.iter().map(|u| &u.port)).collect();
        all.sort_by_key(|port| port.number);
        all
    }

    pub fn uses_egress(&self) -> bool {
        self.facts.style == Style::EgressIngress
    }

    /// Returns whether a port shares the egress gateway's listener. It does unless requests cannot be told apart by
    /// their name there, or only some callers may use it.
    pub fn shares_listener(&self, port: &LocalPort) -> bool {
        self.uses_egress() && self.tls != TlsMode::Passthrough && port.protocol.is_http() && self.clients.is_empty()
    }

    pub fn has_shared_ports(&self) -> bool {
        self.ports.iter().any(|p| self.shares_listener(p))
    }

    /// Each group, and those of its donors that have a port which others of it lack.
    pub fn group_parts(&self) -> Vec<GroupPart<'_>> {
        let mut parts = Vec::new();
        for group in &self.groups {
            parts.push(GroupPart { group, only: None, subset: group.label.clone() });
            for (i, way) in group.ways.iter().enumerate() {
                if let Some(way) = way.as_ref().filter(|way| way.partial) {
                    parts.push(GroupPart { group, only: Some(i), subset: way.subset.clone() });
                }
            }
        }
        parts
    }

    /// The ways of one port, each with its group.
    pub fn ways_of_port(&self, port: usize) -> impl Iterator<Item = (&DonorGroup, &PortWay)> {
        self.groups.iter().filter_map(move |group| Some((group, group.ways.get(port)?.as_ref()?)))
    }
}

/// Endpoints of a plan that a DestinationRule treats alike: all of a group, or those of it that have a port.
pub(super) struct GroupPart<'a> {
    pub group: &'a DonorGroup,
    /// The index of the port that others of the group lack.
    pub only: Option<usize>,
    /// None for all donors of the plan.
    pub subset: Option<String>,
}

impl DonorGroup {
    /// The labels that all endpoints of the group have, or those of its endpoints that have a port which others lack.
    pub fn labels(&self, only: Option<&LocalPort>) -> BTreeMap<String, String> {
        let group = self.label.iter().map(|label| (GROUP.to_owned(), label.clone()));
        group.chain(only.map(|port| has_port(port.number))).collect()
    }
}

fn has_port(number: u16) -> (String, String) {
    (format!("{HAS_PORT}{number}"), "in".to_owned())
}

/// Plans a local name. None if no donor takes calls; then the ports that no donor serves stay where they are, with
/// their names.
pub(super) fn plan_local_name<'a>(
    local: &'a LocalName,
    accepted: &[SourceCandidate<'a>],
    unserved: &mut Vec<UnservedPort>,
    facts: &'a ClusterFacts,
) -> Option<LocalPlan<'a>> {
    let ports = local_ports(accepted, unserved);
    let first = accepted.first()?;
    // The plan must not depend on the order of arrival.
    let mut members: Vec<&SourceCandidate<'a>> = accepted.iter().collect();
    members.sort_by_key(|c| (&c.wanted().cluster, &c.wanted().exposed, c.wanted().place()));
    members.dedup_by_key(|c| (&c.wanted().cluster, &c.wanted().exposed));
    let several_donors = members.len() > 1;
    let gathered = gather_donors(&members, &ports);
    let mut plan = LocalPlan {
        local,
        facts,
        tls: first.exposition().tls,
        groups: build_groups(&gathered, &ports, first.exposition().tls),
        ports,
        unserved: std::mem::take(unserved),
        endpoints: Vec::new(),
        balance: None,
        clients: first.clients().into_iter().cloned().collect(),
    };
    for (group, members) in plan.groups.iter().zip(&gathered) {
        for (member, endpoint) in build_endpoints(&members.donors, several_donors) {
            let partial = plan.ports.iter().zip(&group.ways).filter(|(port, way)| {
                way.as_ref().is_some_and(|way| way.partial) && member.port(port.number).is_some()
            });
            let labels = group.labels(None).into_iter().chain(partial.map(|(port, _)| has_port(port.number)));
            let mut endpoint = endpoint;
            endpoint.labels.extend(labels);
            plan.endpoints.push(endpoint);
        }
    }
    let tiers = priority_tiers(accepted);
    if tiers.len() > 1 {
        mark_tiers(&mut plan.endpoints, accepted, &tiers);
    }
    plan.balance = build_balance(&plan.endpoints, tiers.len(), accepted.iter().any(|c| c.wanted().weight.is_some()));
    Some(plan)
}

/// Donors that can be reached under the same names, as far as they have the same ports.
struct GatheredDonors<'a, 'b> {
    hosts: Vec<Option<&'a Host>>,
    donors: Vec<&'b SourceCandidate<'a>>,
}

fn gather_donors<'a, 'b>(members: &[&'b SourceCandidate<'a>], ports: &[LocalPort]) -> Vec<GatheredDonors<'a, 'b>> {
    let mut all: Vec<GatheredDonors<'a, 'b>> = Vec::new();
    for member in members {
        let hosts: Vec<Option<&Host>> = ports.iter().map(|p| member.port(p.number).map(|port| &port.host)).collect();
        let alike =
            |g: &GatheredDonors<'_, '_>| g.hosts.iter().zip(&hosts).all(|(a, b)| a.is_none() || b.is_none() || a == b);
        match all.iter_mut().find(|g| alike(g)) {
            Some(group) => {
                for (known, own) in group.hosts.iter_mut().zip(hosts) {
                    *known = known.or(own);
                }
                group.donors.push(member);
            }
            None => all.push(GatheredDonors { hosts, donors: vec![member] }),
        }
    }
    all.sort_by(|a, b| a.hosts.cmp(&b.hosts));
    all
}

/// Returns whether two candidates can be in one group.
pub(super) fn is_alike(a: &SourceCandidate<'_>, b: &SourceCandidate<'_>) -> bool {
    a.ports().iter().all(|(local, port)| b.port(*local).is_none_or(|other| other.host == port.host))
}

fn build_groups(gathered: &[GatheredDonors<'_, '_>], ports: &[LocalPort], tls: TlsMode) -> Vec<DonorGroup> {
    let several = gathered.len() > 1;
    let mut groups: Vec<DonorGroup> = Vec::with_capacity(gathered.len());
    for members in gathered {
        let named = members.hosts.iter().flatten().next().map_or("", |h| h.as_str());
        let label = several.then(|| names::build_name("to", &[named]));
        let ways = ports.iter().zip(&members.hosts).map(|(port, host)| {
            let partial = members.donors.iter().any(|c| c.port(port.number).is_none());
            let subset = match (&label, partial) {
                (label, false) => label.clone(),
                (label, true) => {
                    Some(names::build_name(label.as_deref().unwrap_or("to"), &[&format!("p{}", port.number)]))
                }
            };
            Some(PortWay { host: (*host)?.clone(), subset, partial, weight: 0 })
        });
        let ways = ways.collect();
        groups.push(DonorGroup { label, ways, identities: pinned_identities(&members.donors, tls) });
    }
    for (i, port) in ports.iter().enumerate() {
        let share = |g: &GatheredDonors<'_, '_>| -> u128 {
            let having = g.donors.iter().filter(|c| c.port(port.number).is_some());
            having.map(|c| u128::from(c.weight())).sum()
        };
        let having: Vec<usize> = (0..groups.len()).filter(|n| groups.get(*n).is_some_and(|g| has_way(g, i))).collect();
        let shares = having.iter().filter_map(|n| gathered.get(*n)).map(share).collect();
        for (n, weight) in having.into_iter().zip(reduce_weights(shares, i32::MAX as u128)) {
            if let Some(Some(way)) = groups.get_mut(n).and_then(|g| g.ways.get_mut(i)) {
                way.weight = weight;
            }
        }
    }
    groups
}

fn has_way(group: &DonorGroup, port: usize) -> bool {
    matches!(group.ways.get(port), Some(Some(_)))
}

/// Returns the ports of a local name, with the donors' names for them where a Service can have them: of the oldest
/// binding, and of the first cluster in it, if they differ. Ports that no donor serves are given names beside these.
fn local_ports(accepted: &[SourceCandidate<'_>], unserved: &mut [UnservedPort]) -> Vec<LocalPort> {
    let mut sorted: Vec<_> = accepted.iter().collect();
    sorted.sort_by_key(|c| (&c.wanted().age, c.wanted().place()));
    let mut all: BTreeMap<u16, &ExposedPort> = BTreeMap::new();
    for (local, port) in sorted.into_iter().flat_map(|c| c.ports()) {
        all.entry(*local).or_insert(port);
    }
    let port = |(number, p): (u16, &ExposedPort)| LocalPort { number, protocol: p.protocol, name: p.name.clone() };
    let mut ports: Vec<LocalPort> = all.into_iter().map(port).collect();
    name_ports(&mut ports, unserved);
    ports
}

/// Gives each port a name that a Service can have: its own, unless it has none, or another port has the same. Ports
/// that are served go before those that are not.
pub(super) fn name_ports(served: &mut [LocalPort], unserved: &mut [UnservedPort]) {
    let count = served.len() + unserved.len();
    let mut all: Vec<&mut LocalPort> = served.iter_mut().collect();
    let first_unserved = all.len();
    all.extend(unserved.iter_mut().map(|u| &mut u.port));
    let (served, unserved) = all.split_at_mut(first_unserved);
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for ports in [&mut *served, &mut *unserved] {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for port in ports.iter() {
            *seen.entry(&port.name).or_default() += 1;
        }
        let is_fit = |name: &str| name.parse::<crate::model::Label>().is_ok() && !taken.contains(name);
        let own: BTreeSet<String> =
            seen.iter().filter(|(name, n)| **n == 1 && is_fit(name)).map(|(name, _)| (*name).to_owned()).collect();
        for port in ports.iter_mut().filter(|port| !own.contains(&port.name)) {
            port.name.clear(); // it is made below, beside the names of all
        }
        taken.extend(own);
    }
    for port in all.into_iter().filter(|port| port.name.is_empty()) {
        let word = port.protocol.as_str().to_ascii_lowercase();
        let plain = if count == 1 { word.clone() } else { format!("{word}-{}", port.number) };
        port.name = if taken.contains(&plain) { format!("{word}-{}-port", port.number) } else { plain };
    }
}

impl LocalPort {
    /// Returns the `appProtocol` that a Service needs beside the port's name, for Istio to know what the port speaks.
    pub fn app_protocol(&self) -> Option<String> {
        let by_name = ports::by_name(self.number, &self.name);
        (by_name != Some(self.protocol)).then(|| self.protocol.as_str().to_ascii_lowercase())
    }
}

/// Returns the identities that may answer. The cluster's certificate is pinned by what this cluster knows, not by what
/// the donor says.
fn pinned_identities(members: &[&SourceCandidate<'_>], tls: TlsMode) -> Vec<String> {
    let mut set = BTreeSet::new();
    for c in members {
        match tls {
            TlsMode::Cluster => {
                set.insert(c.peer().identity.as_str());
            }
            // An identity that cannot be foretold leaves nothing to pin.
            TlsMode::Passthrough if c.exposition().identities.is_empty() => return Vec::new(),
            TlsMode::Workload | TlsMode::Passthrough => {
                set.extend(c.exposition().identities.iter().map(|id| id.as_str()));
            }
        }
    }
    set.into_iter().map(str::to_owned).collect()
}

/// Describes for each source how donors of different services share the calls of a name.
pub(super) fn describe_shares<'a>(
    local: &LocalName,
    accepted: &[SourceCandidate<'a>],
) -> BTreeMap<(&'a ClusterName, &'a ExpositionKey), String> {
    let members: BTreeMap<_, _> = accepted
        .iter()
        .map(|c| ((&c.wanted().cluster, &c.wanted().exposed), (c.weight(), c.wanted().priority)))
        .collect();
    let services: BTreeSet<&ExpositionKey> = members.keys().map(|(_, exposed)| *exposed).collect();
    if services.len() < 2 {
        return BTreeMap::new();
    }
    let tell = |own: &(&ClusterName, &ExpositionKey), (weight, priority): (u32, u32)| {
        let tier = members.iter().filter(|(_, (_, p))| *p == priority);
        let sum: u64 = tier.map(|(_, (w, _))| u64::from(*w)).sum();
        let others: Vec<String> = members
            .keys()
            .filter(|key| *key != own)
            .map(|(cluster, exposed)| format!("{exposed} of {cluster}"))
            .collect();
        let named = others.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = others.len().checked_sub(3).filter(|n| *n > 0).map_or(String::new(), |n| format!(" and {n} more"));
        format!("it shares {} with {named}{more}, and takes {weight} of {sum} calls", local.name)
    };
    members.iter().map(|(key, share)| (*key, tell(key, *share))).collect()
}
