//! Several donors behind one local name: what they have in common, and how they share the calls.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::DestinationRuleTrafficPolicyLoadBalancer as LoadBalancer;
use crate::model::{
    Address, Client, ClusterFacts, ExposedPort, Exposition, GatewayAddress, Host, NewerField, Peer, Protocol, Style,
    TlsMode,
};

use super::bind::SourceOutcome;
use super::claims::Passthroughs;
use super::consumers::client_principals;
use super::foreign;
use super::inventory::Inventory;
use super::names;
use super::permit;
use super::problem::{Problem, Reason, listed};
use super::share::{balance, endpoints, mark_tiers, reduce, tiers};
use super::sources::{LocalName, Missing, Source, Wanted};

/// The label that keeps the donors apart which expose under different names.
pub(super) const GROUP: &str = "multicluster.istio.io/exposition";

/// What all sources of a local name come to, ready to be written down.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub local: &'a LocalName,
    pub facts: &'a ClusterFacts,
    pub tls: TlsMode,
    pub ports: Vec<LocalPort>,
    /// Donors that expose under the same names, with the same identities to expect. At least one.
    pub groups: Vec<Group>,
    pub endpoints: Vec<Endpoint>,
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
pub(super) struct Group {
    /// The DestinationRule's subset; none if there is but one group.
    pub subset: Option<String>,
    /// For each port of the plan, its name at the donors' gateways.
    pub hosts: Vec<Host>,
    pub identities: Vec<String>,
    pub weight: u32,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub gateway: GatewayAddress,
    pub labels: BTreeMap<String, String>,
    pub weight: Option<u32>,
}

impl Plan<'_> {
    /// Addresses that have to be resolved.
    pub fn dns(&self) -> bool {
        self.endpoints.iter().any(|e| matches!(e.gateway.address, Address::Name(_)))
    }

    pub fn egress(&self) -> bool {
        self.facts.style == Style::EgressIngress
    }

    /// Whether a port shares the egress gateway's listener. It does unless requests cannot be told apart by their name
    /// there, or only some callers may use it.
    pub fn shares(&self, port: &LocalPort) -> bool {
        self.egress() && self.tls != TlsMode::Passthrough && port.protocol.is_http() && self.clients.is_empty()
    }

    pub fn shared(&self) -> bool {
        self.ports.iter().any(|p| self.shares(p))
    }
}

pub(super) struct Merged<'a> {
    pub plan: Option<Plan<'a>>,
    pub outcomes: Vec<SourceOutcome>,
    /// Who lays claim to the name as well, if the name is kept all the same.
    pub contest: Option<Problem>,
    /// An object of another namespace that takes some of its calls away.
    pub culprit: Option<String>,
}

/// A source that could be bound, were it alone.
pub(super) struct Candidate<'a> {
    source: &'a Source,
    exposition: &'a Exposition,
    peer: &'a Peer,
    /// Local number, exposed port.
    ports: Vec<(u16, &'a ExposedPort)>,
}

impl<'a> Candidate<'a> {
    pub fn wanted(&self) -> &'a Wanted {
        &self.source.wanted
    }

    fn shape(&self) -> impl Iterator<Item = (u16, Protocol)> {
        self.ports.iter().map(|(local, port)| (*local, port.protocol))
    }

    fn hosts(&self) -> impl Iterator<Item = &'a Host> {
        self.ports.iter().map(|(_, port)| &port.host)
    }

    pub fn gateways(&self) -> &'a [GatewayAddress] {
        if self.peer.gateway.is_empty() { &self.exposition.gateways } else { &self.peer.gateway }
    }

    pub fn weight(&self) -> u32 {
        self.wanted().weight.unwrap_or(1)
    }

    fn clients(&self) -> BTreeSet<&'a Client> {
        self.exposition.clients.iter().collect()
    }
}

/// `sources` are in the order in which they have the name. A name that is `standing` keeps what it has: whoever claims it
/// later contests it, and takes nothing away.
pub(super) fn merge<'a>(
    local: &'a LocalName,
    sources: &[&'a Source],
    inventory: &Inventory,
    passthroughs: &Passthroughs,
    facts: &'a ClusterFacts,
    standing: bool,
) -> Merged<'a> {
    let mut outcomes = Vec::with_capacity(sources.len());
    let mut accepted: Vec<Candidate<'a>> = Vec::with_capacity(sources.len());
    let taken = name_taken(local, inventory);
    for source in sources {
        let free = if standing { Ok(()) } else { taken.clone().map_or(Ok(()), Err) };
        let tried = free
            .and_then(|()| candidate(source, facts))
            .and_then(|c| no_passthrough_conflict(&c, local, passthroughs, facts).map(|()| c))
            .and_then(|c| fits(&c, &accepted, facts).map(|()| c));
        let mut outcome =
            SourceOutcome { wanted: source.wanted.clone(), problem: None, contest: None, notes: Vec::new() };
        match tried {
            Ok(c) => {
                outcome.notes = notes(&c, facts);
                accepted.push(c);
            }
            Err(problem) => outcome.problem = Some(problem.below(&source.wanted.path())),
        }
        outcomes.push(outcome);
    }
    same_group_if_priorities(&mut accepted, &mut outcomes);
    accepted.retain(|c| c.weight() > 0);
    let mut merged = Merged { plan: plan(local, &accepted, facts), outcomes, contest: None, culprit: None };
    if let Some(plan) = &merged.plan
        && let Some(other) = taken
            .or_else(|| routes_taken(plan.local, inventory))
            .or_else(|| foreign::rule_taken(plan, inventory))
            .or_else(|| foreign::entry_taken(plan, inventory))
    {
        for outcome in merged.outcomes.iter_mut().filter(|o| o.problem.is_none()) {
            let other = Some(other.clone().below(&outcome.wanted.path()));
            *(if standing { &mut outcome.contest } else { &mut outcome.problem }) = other;
        }
        if standing {
            merged.contest = Some(other);
        } else {
            merged.plan = None;
        }
    }
    let notes = merged.plan.as_ref().map(|plan| foreign::notes(plan, inventory)).unwrap_or_default();
    for note in notes {
        for outcome in merged.outcomes.iter_mut().filter(|o| o.problem.is_none()) {
            outcome.notes.push(note.message.clone());
        }
        merged.culprit = merged.culprit.or(note.culprit);
    }
    merged
}

fn name_taken(local: &LocalName, inventory: &Inventory) -> Option<Problem> {
    inventory.service(local.namespace.as_str(), local.name.as_str())?;
    let problem =
        Problem::new(Reason::NameConflict, "alias", format!("there is a Service {local} that is not Wharf's"));
    Some(problem.cure("give the bound service another alias, or remove that Service"))
}

/// A VirtualService of somebody else for the same name makes it a matter of chance whose routes hold: for a caller, Istio
/// takes the one that is exported to the caller's namespace by name, then the older one.
fn routes_taken(local: &LocalName, inventory: &Inventory) -> Option<Problem> {
    let host = local.host();
    let other = inventory.mesh_route(local)?;
    let problem =
        |whose: String| Problem::new(Reason::NameConflict, "alias", format!("{whose} routes calls of {host} as well"));
    if other.namespace == local.namespace.as_str() {
        let cure = "give the bound service another alias, or remove that VirtualService";
        return Some(problem(format!("the VirtualService {}", other.name)).cure(cure));
    }
    let cure = "give the bound service another alias, or ask the cluster's operator, whose agent names it in its log";
    let mut problem = problem("a VirtualService of another namespace".to_owned()).cure(cure);
    problem.culprit = Some(format!("VirtualService {}/{}", other.namespace, other.name));
    Some(problem)
}

fn candidate<'a>(source: &'a Source, facts: &'a ClusterFacts) -> Result<Candidate<'a>, Problem> {
    let wanted = &*source.wanted;
    let unknown = || {
        Problem::new(Reason::PeerUnknown, "", format!("{} is not a peer of this cluster", wanted.cluster))
            .cure("ask the cluster's operator for a peering with its endpoint, or correct the name")
    };
    let peer = facts.peers.get(&wanted.cluster).ok_or_else(unknown)?;
    let exposition = match &source.exposition {
        Ok(exposition) => &**exposition,
        Err(Missing::PeerUnknown) => return Err(unknown()),
        Err(Missing::NotExposed) => {
            let message = format!("{} exposes no {} to this cluster", wanted.cluster, wanted.exposed);
            return Err(
                Problem::new(Reason::NotExposed, "name", message).cure("ask its operator for a policy that does")
            );
        }
        Err(Missing::PeerUnreachable(why)) => {
            let message = format!("{} has not been reached: {why}", wanted.cluster);
            return Err(Problem::new(Reason::PeerUnreachable, "", message));
        }
        Err(Missing::NotPermitted(why)) => {
            let message = format!("{} refuses this cluster: {why}", wanted.cluster);
            return Err(
                Problem::new(Reason::NotPermitted, "", message).cure("ask its operator to let this cluster consume")
            );
        }
        Err(Missing::Rejected(why)) => {
            let message = format!("{} of {} is rejected: {why}", wanted.exposed, wanted.cluster);
            return Err(Problem::new(Reason::Rejected, "name", message));
        }
    };
    carried(exposition, facts)?;
    Ok(Candidate { source, exposition, peer, ports: choose_ports(wanted, exposition)? })
}

fn carried(e: &Exposition, facts: &ClusterFacts) -> Result<(), Problem> {
    let refuse = |message: String, cure: &str| Err(Problem::new(Reason::StyleCannotCarry, "", message).cure(cure));
    if !facts.style.carries(e.tls) {
        let message = format!("{} is exposed with tls: {}, which the style {} cannot carry", e.key, e.tls, facts.style);
        return refuse(message, "use the style EGRESS_INGRESS, or ask the donor for tls: Workload or Passthrough");
    }
    if facts.style == Style::EgressIngress && e.tls == TlsMode::Workload && !e.clients.is_empty() {
        let message = format!(
            "{} is for certain clients, which the donor tells by their own certificates; behind an egress gateway it cannot see them",
            e.key
        );
        return refuse(message, "use the style DIRECT_INGRESS, or ask the donor for tls: Cluster or Passthrough");
    }
    if e.tls == TlsMode::Cluster && e.ports.iter().any(|p| p.protocol.is_http()) {
        // This cluster's egress gateway tells them from others.
        let clients = client_principals(facts.trust_domain.as_str(), &e.clients);
        permit::check_clients(&clients).map_err(|too_large| too_large.problem(""))?;
    }
    Ok(())
}

fn choose_ports<'a>(wanted: &Wanted, e: &'a Exposition) -> Result<Vec<(u16, &'a ExposedPort)>, Problem> {
    match (wanted.port, &e.ports[..]) {
        (None, ports) => Ok(ports.iter().map(|p| (p.number, p)).collect()),
        (Some(local), [only]) => Ok(vec![(local, only)]),
        (Some(number), ports) => match ports.iter().find(|p| p.number == number) {
            Some(port) => Ok(vec![(number, port)]),
            None => {
                let there: Vec<String> = ports.iter().map(|p| p.number.to_string()).collect();
                let message = format!("{} does not expose port {number}", e.key);
                let cure = format!("it exposes: {}", listed(there.iter().map(String::as_str)));
                Err(Problem::new(Reason::PortNotExposed, "port", message).cure(cure))
            }
        },
    }
}

fn no_passthrough_conflict(
    c: &Candidate<'_>,
    local: &LocalName,
    passthroughs: &Passthroughs,
    facts: &ClusterFacts,
) -> Result<(), Problem> {
    if facts.style != Style::EgressIngress || c.exposition.tls != TlsMode::Passthrough {
        return Ok(());
    }
    let Some(other) = passthroughs.taken(&c.exposition.host, local) else { return Ok(()) };
    let whose = match other.namespace == local.namespace {
        true => format!("the local name {}", other.name),
        false => "a local name of another namespace".to_owned(),
    };
    let message = format!(
        "{whose} leads to {} of another cluster already, and what passes through the egress gateway is told apart by that name only",
        c.exposition.host
    );
    let mut problem = Problem::new(Reason::NameConflict, "name", message)
        .cure("ask one of the donors for another alias, or for tls: Cluster");
    problem.culprit = (other.namespace != local.namespace).then(|| format!("local name {other}"));
    Err(problem)
}

/// Whether a source can stand behind the name beside those that have it already.
fn fits(c: &Candidate<'_>, accepted: &[Candidate<'_>], facts: &ClusterFacts) -> Result<(), Problem> {
    let Some(first) = accepted.first() else { return Ok(()) };
    let differs = |what: &str| {
        let w = first.wanted();
        let message = format!("{what} differ from those of {} of {}, which has the name here", w.exposed, w.cluster);
        Err(Problem::new(Reason::NameConflict, "alias", message).cure("give it another alias"))
    };
    if c.exposition.tls != first.exposition.tls {
        return differs(&format!("tls: {}", c.exposition.tls));
    }
    if c.shape().collect::<BTreeMap<_, _>>() != first.shape().collect::<BTreeMap<_, _>>() {
        return differs("its ports or protocols");
    }
    if c.clients() != first.clients() {
        return differs("its permitted clients");
    }
    let twin =
        accepted.iter().find(|a| a.wanted().cluster == c.wanted().cluster && a.wanted().exposed == c.wanted().exposed);
    if let Some(twin) = twin {
        let (a, b) = (twin.wanted(), c.wanted());
        if (a.weight, a.priority, twin.hosts().collect::<Vec<_>>()) != (b.weight, b.priority, c.hosts().collect()) {
            let message = format!("{} binds the same service under the same name, otherwise", a.binding);
            return Err(Problem::new(Reason::NameConflict, "", message).cure("let one binding bind it"));
        }
    }
    let passes = facts.style == Style::EgressIngress && c.exposition.tls == TlsMode::Passthrough;
    let hosts: BTreeMap<u16, &Host> = c.ports.iter().map(|(local, p)| (*local, &p.host)).collect();
    let crosses = |a: &Candidate<'_>| a.ports.iter().any(|(l, p)| hosts.iter().any(|(m, h)| l != m && **h == p.host));
    if passes && accepted.iter().any(crosses) {
        return differs("the order of its ports");
    }
    Ok(())
}

fn notes(c: &Candidate<'_>, facts: &ClusterFacts) -> Vec<String> {
    let mut notes = Vec::new();
    if c.weight() == 0 {
        notes.push("its weight is 0: it takes no calls".to_owned());
    }
    if !c.exposition.clients.is_empty() {
        notes.push(match (c.exposition.tls, facts.style) {
            (TlsMode::Passthrough, _) => "clients are enforced by the provider".to_owned(),
            (TlsMode::Workload, _) => "clients are enforced by the donor's gateway".to_owned(),
            (TlsMode::Cluster, _) => "clients are enforced by this cluster's egress gateway".to_owned(),
        });
    }
    let http = c.ports.iter().any(|(_, port)| port.protocol.is_http());
    if http && facts.absent_fields.contains(&NewerField::Http2KeepAlive) {
        notes.push(NewerField::Http2KeepAlive.to_string());
    }
    notes
}

/// Donors that expose under different names are chosen by weighted routes, which know no priority.
fn same_group_if_priorities(accepted: &mut Vec<Candidate<'_>>, outcomes: &mut [SourceOutcome]) {
    let priorities: BTreeSet<u32> = accepted.iter().filter(|c| c.weight() > 0).map(|c| c.wanted().priority).collect();
    let Some(first) = accepted.iter().find(|c| c.weight() > 0) else { return };
    if priorities.len() < 2 {
        return;
    }
    let (hosts, name) = (sorted_hosts(first), format!("{} of {}", first.wanted().exposed, first.wanted().cluster));
    accepted.retain(|c| {
        let same = sorted_hosts(c) == hosts;
        if !same && let Some(outcome) = outcomes.iter_mut().find(|o| *o.wanted == *c.wanted()) {
            let message = format!("it is exposed under another name than {name}, and then priorities cannot be kept");
            let problem = Problem::new(Reason::Unsupported, "priority", message);
            outcome.problem =
                Some(problem.cure("use weights, or ask for the same alias").below(&outcome.wanted.path()));
        }
        same
    });
}

fn sorted_hosts<'a>(c: &Candidate<'a>) -> Vec<&'a Host> {
    let mut ports: Vec<_> = c.ports.iter().collect();
    ports.sort_by_key(|(local, _)| *local);
    ports.into_iter().map(|(_, port)| &port.host).collect()
}

fn plan<'a>(local: &'a LocalName, accepted: &[Candidate<'a>], facts: &'a ClusterFacts) -> Option<Plan<'a>> {
    let first = accepted.first()?;
    let mut ports: Vec<(u16, Protocol)> = first.shape().collect();
    // The first port as exposed has the local name itself at the egress gateway; the rest is by number.
    if let Some((_, rest)) = ports.split_first_mut() {
        rest.sort_unstable();
    }
    let order: Vec<u16> = ports.iter().map(|(n, _)| *n).collect();
    let mut groups: BTreeMap<Vec<&Host>, Vec<&Candidate<'a>>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for c in accepted.iter().filter(|c| seen.insert((&c.wanted().cluster, &c.wanted().exposed))) {
        let hosts = order.iter().filter_map(|n| c.ports.iter().find(|(l, _)| l == n)).map(|(_, p)| &p.host).collect();
        groups.entry(hosts).or_default().push(c);
    }
    let several = groups.len() > 1;
    let weights =
        reduce(groups.values().map(|g| g.iter().map(|c| u128::from(c.weight())).sum()).collect(), i32::MAX as u128);
    let mut plan = Plan {
        local,
        facts,
        tls: first.exposition.tls,
        ports: name_ports(&ports),
        groups: Vec::new(),
        endpoints: Vec::new(),
        balance: None,
        clients: first.clients().into_iter().cloned().collect(),
    };
    for ((hosts, members), weight) in groups.into_iter().zip(weights) {
        let subset = several.then(|| names::object("to", &[hosts.first().map_or("", |h| h.as_str())]));
        plan.endpoints.extend(endpoints(&members, subset.as_deref(), seen.len() > 1));
        let identities = identities(&members, plan.tls);
        plan.groups.push(Group { subset, hosts: hosts.into_iter().cloned().collect(), identities, weight });
    }
    let tiers = tiers(accepted);
    if tiers.len() > 1 {
        mark_tiers(&mut plan.endpoints, accepted, &tiers);
    }
    plan.balance = balance(&plan.endpoints, tiers.len(), accepted.iter().any(|c| c.wanted().weight.is_some()));
    Some(plan)
}

fn name_ports(ports: &[(u16, Protocol)]) -> Vec<LocalPort> {
    let one = |&(number, protocol): &(u16, Protocol)| {
        let word = protocol.as_str().to_ascii_lowercase();
        let name = if ports.len() == 1 { word } else { format!("{word}-{number}") };
        LocalPort { number, protocol, name }
    };
    ports.iter().map(one).collect()
}

/// Who may answer. The cluster's certificate is pinned by what this cluster knows, not by what the donor says.
fn identities(members: &[&Candidate<'_>], tls: TlsMode) -> Vec<String> {
    let mut set = BTreeSet::new();
    for c in members {
        match tls {
            TlsMode::Cluster => {
                set.insert(c.peer.identity.as_str());
            }
            // One that cannot be foretold leaves nothing to pin.
            TlsMode::Passthrough if c.exposition.identities.is_empty() => return Vec::new(),
            TlsMode::Workload | TlsMode::Passthrough => {
                set.extend(c.exposition.identities.iter().map(|id| id.as_str()));
            }
        }
    }
    set.into_iter().map(str::to_owned).collect()
}
