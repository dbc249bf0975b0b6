//! Merges several donors behind one local name: their common ports, and their shares of the calls.

use std::collections::BTreeSet;

use crate::model::{Client, ClusterFacts, ExposedPort, Exposition, GatewayAddress, NewerField, Peer, Style, TlsMode};

use super::bind::SourceOutcome;
use super::choice::{choose_ports, join_problems};
use super::claims::PassthroughHosts;
use super::consumers::client_principals;
use super::foreign;
use super::inventory::Inventory;
use super::memory::{BoundPort, PortMemory};
use super::permit;
use super::plan::{self, LocalPlan, is_alike};
use super::problem::{Problem, ProblemReason};
use super::sources::{LocalName, MissingExposition, Source, WantedService};
use super::unserved::{self, UnservedPort};

pub(super) struct MergedSources<'a> {
    pub plan: Option<LocalPlan<'a>>,
    /// Without a plan: the ports that the name has all the same.
    pub unserved: Vec<UnservedPort>,
    pub outcomes: Vec<SourceOutcome>,
    /// Names another claimant of the local name, if the name is kept all the same.
    pub contest: Option<Problem>,
    /// An object of another namespace that takes some of its calls away.
    pub culprit: Option<String>,
}

/// A source that could be bound, were it alone.
#[derive(Debug)]
pub(super) struct SourceCandidate<'a> {
    source: &'a Source,
    exposition: &'a Exposition,
    peer: &'a Peer,
    /// Local number, exposed port.
    ports: Vec<(u16, &'a ExposedPort)>,
    /// Ports that are asked for, and cannot be had.
    lacking: Vec<Problem>,
}

impl<'a> SourceCandidate<'a> {
    pub fn wanted(&self) -> &'a WantedService {
        &self.source.wanted
    }

    pub fn exposition(&self) -> &'a Exposition {
        self.exposition
    }

    pub fn peer(&self) -> &'a Peer {
        self.peer
    }

    pub fn ports(&self) -> &[(u16, &'a ExposedPort)] {
        &self.ports
    }

    /// The donor's port behind a local one.
    pub fn port(&self, local: u16) -> Option<&'a ExposedPort> {
        self.ports.iter().find(|(l, _)| *l == local).map(|(_, port)| *port)
    }

    pub fn gateways(&self) -> &'a [GatewayAddress] {
        if self.peer.gateway.is_empty() { &self.exposition.gateways } else { &self.peer.gateway }
    }

    pub fn weight(&self) -> u32 {
        self.wanted().weight.unwrap_or(1)
    }

    pub fn clients(&self) -> BTreeSet<&'a Client> {
        self.exposition.clients.iter().collect()
    }

    /// Returns whether it has this local port already, as it is.
    fn holds_port(&self, local: u16, port: &ExposedPort) -> bool {
        let memory = &self.source.memory;
        memory.version.is_some() && memory.ports.contains(&BoundPort::of_exposed(local, port))
    }

    /// Returns the memory to keep of it: also the ports that the local name had from it before.
    fn next_memory(&self, lacking: &[Problem]) -> PortMemory {
        let had = self.source.memory.ports.iter().filter(|port| port.exposed != 0 && !self.wanted().self_made);
        let lost = had.map(|port| {
            let there = self.exposition.ports.iter().any(|p| p.number == port.exposed);
            let other = lacking.first().map(|problem| problem.reason).filter(|_| there);
            BoundPort { gone: Some(other.unwrap_or(ProblemReason::PortNotExposed)), ..port.clone() }
        });
        let bound = self.ports.iter().map(|(local, port)| BoundPort::of_exposed(*local, port));
        let ports = bound.chain(lost).collect();
        let mut memory = PortMemory { version: Some(self.source.version.clone()), ports };
        memory.tidy_ports();
        memory
    }
}

/// Merges the sources of a local name. `sources` are in the order of their right to the name. A name that is `standing`
/// keeps what it has: a later claimant contests it, and takes nothing away.
pub(super) fn merge_sources<'a>(
    local: &'a LocalName,
    sources: &[&'a Source],
    inventory: &Inventory,
    passthroughs: &PassthroughHosts,
    facts: &'a ClusterFacts,
    standing: bool,
) -> MergedSources<'a> {
    let mut outcomes = Vec::with_capacity(sources.len());
    let mut accepted: Vec<SourceCandidate<'a>> = Vec::with_capacity(sources.len());
    // Sources that have the name, also without a donor now: it belongs to the binding, and nobody else's calls come to
    // lead there.
    let mut holders: Vec<&'a Source> = Vec::with_capacity(sources.len());
    let taken = name_taken(local, inventory).or_else(|| gateways_name(local, facts));
    for source in sources {
        let free = if standing { Ok(()) } else { taken.clone().map_or(Ok(()), Err) };
        let tried = free
            .and_then(|()| build_candidate(source, facts))
            .and_then(|c| no_passthrough_conflict(&c, local, passthroughs, facts).map(|()| c))
            .and_then(|c| check_fit(&c, &accepted, &holders).map(|()| c));
        let mut outcome = SourceOutcome::from_source(source);
        let holds = tried.is_ok() || keeps_name(source, &holders);
        match tried {
            Ok(c) => accepted.push(c),
            Err(problem) => outcome.problem = Some(problem.below(&source.wanted.path())),
        }
        if holds {
            holders.push(source);
        }
        outcomes.push(outcome);
    }
    share_out_ports(&mut accepted, facts);
    drop_those_without_ports(&mut accepted, &mut outcomes, facts);
    same_group_if_priorities(&mut accepted, &mut outcomes);
    accepted.retain(|c| c.weight() > 0);
    note_shares(local, &accepted, &mut outcomes);
    for outcome in &mut outcomes {
        let has_name = holders.iter().any(|holder| holder.wanted == outcome.wanted);
        if let Some(problem) = &outcome.problem {
            // A source that has lost the name to another does not get it back because that one has no donor.
            outcome.memory.lose_donor(if has_name { problem.reason } else { ProblemReason::NameConflict });
        }
    }
    let served = accepted.iter().flat_map(|c| c.ports.iter().map(|(local, _)| *local)).collect();
    let mut unserved = unserved::note_unserved(&served, &holders, &mut outcomes);
    let plan = plan::plan_local_name(local, &accepted, &mut unserved, facts);
    if plan.is_none() {
        tell_who_takes_no_calls(local, &mut outcomes);
    }
    let mut merged = MergedSources { plan, unserved, outcomes, contest: None, culprit: None };
    settle_claims_of_others(&mut merged, local, sources, inventory, taken, standing);
    let notes = merged.plan.as_ref().map(|plan| foreign::foreign_notes(plan, inventory)).unwrap_or_default();
    for note in notes {
        for outcome in merged.outcomes.iter_mut().filter(|o| o.problem.is_none()) {
            outcome.notes.push(note.message.clone());
        }
        merged.culprit = merged.culprit.or(note.culprit);
    }
    merged
}

/// Records a problem for each donor that could serve the name, and takes no calls: none of the others does either.
fn tell_who_takes_no_calls(local: &LocalName, outcomes: &mut [SourceOutcome]) {
    for outcome in outcomes.iter_mut().filter(|o| o.problem.is_none() && o.wanted.weight == Some(0)) {
        let message = format!("the weight of every donor behind {} is 0, so nobody takes its calls", local.name);
        let problem =
            Problem::new(ProblemReason::WeightZero, "weight", message).cure("give one of them a weight above 0");
        outcome.problem = Some(problem.below(&outcome.wanted.path()));
    }
}

/// Leaves out the sources that have no port left, and records the outcome of the others.
fn drop_those_without_ports(
    accepted: &mut Vec<SourceCandidate<'_>>,
    outcomes: &mut [SourceOutcome],
    facts: &ClusterFacts,
) {
    accepted.retain_mut(|c| {
        let Some(outcome) = outcomes.iter_mut().find(|o| *o.wanted == *c.wanted()) else { return false };
        let memory = c.next_memory(&c.lacking);
        let lacking = join_problems(std::mem::take(&mut c.lacking)).map(|problem| problem.below(&c.wanted().path()));
        if c.ports.is_empty() {
            outcome.problem = lacking;
            return false;
        }
        (outcome.notes, outcome.memory, outcome.lacking) = (candidate_notes(c, facts), memory, lacking);
        true
    });
}

/// Applies claims of others' objects that take calls of the name: they keep a new name out, and contest one that
/// stands.
fn settle_claims_of_others(
    merged: &mut MergedSources<'_>,
    local: &LocalName,
    sources: &[&Source],
    inventory: &Inventory,
    taken: Option<Problem>,
    standing: bool,
) {
    let plan = merged.plan.as_ref();
    if (plan.is_some() || !merged.unserved.is_empty())
        && let Some(other) = taken
            .or_else(|| routes_taken(local, inventory))
            .or_else(|| foreign::rule_taken(plan?, inventory))
            .or_else(|| foreign::entry_taken(plan?, inventory))
    {
        let has_name = |o: &&mut SourceOutcome| o.problem.is_none() || (standing && o.refusal.is_some());
        for outcome in merged.outcomes.iter_mut().filter(has_name) {
            let other = Some(other.clone().below(&outcome.wanted.path()));
            *(if standing { &mut outcome.contest } else { &mut outcome.problem }) = other;
        }
        if standing {
            merged.contest = Some(other);
        } else {
            merged.plan = None;
            merged.unserved.clear();
            // It was not bound: the memory stays that of the last binding.
            for outcome in &mut merged.outcomes {
                outcome.refusal = None;
                let source = sources.iter().find(|source| source.wanted == outcome.wanted);
                outcome.memory = source.map(|source| source.memory.clone()).unwrap_or_default();
                outcome.memory.lose_donor(ProblemReason::NameConflict);
            }
        }
    }
}

fn name_taken(local: &LocalName, inventory: &Inventory) -> Option<Problem> {
    inventory.service(local.namespace.as_str(), local.name.as_str())?;
    let problem =
        Problem::new(ProblemReason::NameConflict, "alias", format!("there is a Service {local} that is not Wharf's"));
    Some(problem.cure("give the bound service another alias, or remove that Service"))
}

/// Refuses the names of the cluster's gateways, also where their Services are not seen: calls that go through the
/// egress gateway would be led back to it.
fn gateways_name(local: &LocalName, facts: &ClusterFacts) -> Option<Problem> {
    let host = local.host();
    let is_egress = facts.style == Style::EgressIngress && host == facts.egress.host();
    if !is_egress && host != facts.ingress.host() {
        return None;
    }
    let problem =
        Problem::new(ProblemReason::NameConflict, "alias", format!("{local} is the name of this cluster's gateway"));
    Some(problem.cure("give the bound service another alias"))
}

/// Finds a VirtualService of somebody else for the same name, which makes it a matter of chance whose routes hold: for
/// a caller, Istio takes the one that is exported to the caller's namespace by name, then the older one.
fn routes_taken(local: &LocalName, inventory: &Inventory) -> Option<Problem> {
    let host = local.host();
    let other = inventory.mesh_route(local)?;
    let problem = |whose: String| {
        Problem::new(ProblemReason::NameConflict, "alias", format!("{whose} routes calls of {host} as well"))
    };
    if other.namespace == local.namespace.as_str() {
        let cure = "give the bound service another alias, or remove that VirtualService";
        return Some(problem(format!("the VirtualService {}", other.name)).cure(cure));
    }
    let cure = "give the bound service another alias, or ask the cluster's operator, whose agent names it in its log";
    let mut problem = problem("a VirtualService of another namespace".to_owned()).cure(cure);
    problem.culprit = Some(format!("VirtualService {}/{}", other.namespace, other.name));
    Some(problem)
}

fn build_candidate<'a>(source: &'a Source, facts: &'a ClusterFacts) -> Result<SourceCandidate<'a>, Problem> {
    let wanted = &*source.wanted;
    let unknown = || {
        let hidden =
            facts.hidden_peers.explain_doubt(&wanted.cluster).filter(|_| !facts.peers.contains_key(&wanted.cluster));
        if let Some(hidden) = hidden {
            return Problem::new(ProblemReason::Unreadable, "", hidden).cure("correct that");
        }
        if wanted.cluster == facts.cluster {
            return Problem::new(ProblemReason::PeerUnknown, "", format!("{} is this cluster itself", wanted.cluster))
                .cure(
                    "name the cluster that exposes the service; a service of this cluster is called by its own name",
                );
        }
        Problem::new(ProblemReason::PeerUnknown, "", format!("{} is not a peer of this cluster", wanted.cluster))
            .cure("ask the cluster's operator for a peering with its endpoint, or correct the name")
    };
    let peer = facts.peers.get(&wanted.cluster).ok_or_else(unknown)?;
    let exposition = match &source.exposition {
        Ok(exposition) => &**exposition,
        Err(MissingExposition::PeerUnknown) => return Err(unknown()),
        Err(MissingExposition::NotExposed) => {
            let message = format!("{} exposes no {} to this cluster", wanted.cluster, wanted.exposed);
            return Err(Problem::new(ProblemReason::NotExposed, "name", message)
                .cure("ask its operator for a policy that does"));
        }
        Err(MissingExposition::PeerUnreachable(why)) => {
            let message = format!("{} has not been reached: {why}", wanted.cluster);
            return Err(Problem::new(ProblemReason::PeerUnreachable, "", message));
        }
        Err(MissingExposition::NotPermitted(why)) => {
            let message = format!("{} refuses this cluster: {why}", wanted.cluster);
            return Err(Problem::new(ProblemReason::NotPermitted, "", message)
                .cure("ask its operator to let this cluster consume"));
        }
        Err(MissingExposition::Rejected(why)) => {
            let message = format!("{} of {} is rejected: {why}", wanted.exposed, wanted.cluster);
            return Err(Problem::new(ProblemReason::Rejected, "name", message));
        }
    };
    check_carried(exposition, facts)?;
    let chosen = choose_ports(wanted, &source.memory, exposition)?;
    Ok(SourceCandidate { source, exposition, peer, ports: chosen.ports, lacking: chosen.lacking })
}

fn check_carried(e: &Exposition, facts: &ClusterFacts) -> Result<(), Problem> {
    let refuse =
        |message: String, cure: &str| Err(Problem::new(ProblemReason::StyleCannotCarry, "", message).cure(cure));
    if !facts.style.carries_tls(e.tls) {
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
        // This cluster's egress gateway tells the clients from others.
        let clients = client_principals(facts.trust_domain.as_str(), &e.clients);
        permit::check_clients(&clients).map_err(|too_large| too_large.to_problem(""))?;
    }
    Ok(())
}

fn no_passthrough_conflict(
    c: &SourceCandidate<'_>,
    local: &LocalName,
    passthroughs: &PassthroughHosts,
    facts: &ClusterFacts,
) -> Result<(), Problem> {
    if facts.style != Style::EgressIngress || c.exposition.tls != TlsMode::Passthrough {
        return Ok(());
    }
    let Some(other) = passthroughs.find_holder(&c.exposition.host, local) else { return Ok(()) };
    let whose = match other.namespace == local.namespace {
        true => format!("the local name {}", other.name),
        false => "a local name of another namespace".to_owned(),
    };
    let message = format!(
        "{whose} leads to {} of another cluster already, and what passes through the egress gateway is told apart by that name only",
        c.exposition.host
    );
    let mut problem = Problem::new(ProblemReason::NameConflict, "name", message)
        .cure("ask one of the donors for another alias, or for tls: Cluster");
    problem.culprit = (other.namespace != local.namespace).then(|| format!("local name {other}"));
    Err(problem)
}

fn holder_text(wanted: &WantedService) -> String {
    format!("{} of {}, which has the name here", wanted.exposed, wanted.cluster)
}

/// Checks that a source can stand behind the name beside those that have it already.
fn check_fit(c: &SourceCandidate<'_>, accepted: &[SourceCandidate<'_>], holders: &[&Source]) -> Result<(), Problem> {
    let refuse = |message: String| {
        Err(Problem::new(ProblemReason::NameConflict, "alias", message).cure("give it another alias"))
    };
    if let Some(other) = holders.iter().find(|h| !share_by_consent(&h.wanted, c.wanted())) {
        let message = format!("it is another service than {}", holder_text(&other.wanted));
        let cure = "give it another alias, or give both a weight or a priority if they are to share its calls";
        return Err(Problem::new(ProblemReason::NameConflict, "alias", message).cure(cure));
    }
    let Some(first) = accepted.first() else { return Ok(()) };
    let (tls, others) = (c.exposition.tls, first.exposition.tls);
    if tls != others {
        return refuse(format!(
            "it is exposed with tls: {tls}, and tls: {others} is that of {}",
            holder_text(first.wanted())
        ));
    }
    if c.clients() != first.clients() {
        return refuse(format!("its permitted clients differ from those of {}", holder_text(first.wanted())));
    }
    let twin =
        accepted.iter().find(|a| a.wanted().cluster == c.wanted().cluster && a.wanted().exposed == c.wanted().exposed);
    if let Some(twin) = twin {
        let (a, b) = (twin.wanted(), c.wanted());
        if (a.weight, a.priority, &twin.ports) != (b.weight, b.priority, &c.ports) {
            let message = format!("{} binds the same service under the same name, otherwise", a.binding);
            return Err(Problem::new(ProblemReason::NameConflict, "", message).cure("let one binding bind it"));
        }
    }
    Ok(())
}

/// Leaves each source the ports that it can have beside the others: a local port speaks one protocol. The holder of a
/// port keeps it, and others lack it.
fn share_out_ports(accepted: &mut [SourceCandidate<'_>], facts: &ClusterFacts) {
    let mut claims: Vec<(bool, usize, u16, &ExposedPort)> = Vec::new();
    for (n, c) in accepted.iter().enumerate() {
        claims.extend(c.ports.iter().map(|(local, port)| (!c.holds_port(*local, port), n, *local, *port)));
    }
    claims.sort_by_key(|(new, n, local, _)| (*new, *n, *local));
    let passes =
        |c: &SourceCandidate<'_>| facts.style == Style::EgressIngress && c.exposition.tls == TlsMode::Passthrough;
    let mut taken: Vec<(usize, u16, &ExposedPort)> = Vec::with_capacity(claims.len());
    let mut lost: Vec<(usize, u16, String)> = Vec::new();
    for (_, n, local, port) in claims {
        let passing = accepted.get(n).is_some_and(passes);
        let conflict = taken.iter().find_map(|&(other, taken_local, taken_port)| {
            let whose = || accepted.get(other).map(|c| holder_text(c.wanted())).unwrap_or_default();
            if taken_local == local && taken_port.protocol != port.protocol {
                let (own, others) = (port.protocol.as_str(), taken_port.protocol.as_str());
                return Some(format!("port {local} is {own}, and {others} at {}", whose()));
            }
            // What passes through is told apart by the donor's name for it alone.
            let crosses = passing && other != n && taken_local != local && taken_port.host == port.host;
            crosses.then(|| format!("port {local} leads to {}, as port {taken_local} does for {}", port.host, whose()))
        });
        match conflict {
            None => taken.push((n, local, port)),
            Some(why) => lost.push((n, local, why)),
        }
    }
    for (n, local, why) in lost {
        if let Some(c) = accepted.get_mut(n) {
            c.ports.retain(|(l, _)| *l != local);
            let cure = "give it another alias, or another local port";
            c.lacking.push(Problem::new(ProblemReason::NameConflict, "", why).cure(cure));
        }
    }
}

/// Returns whether a source keeps the name although no donor is behind it now: it was bound before, and those that have
/// the name share it with it.
fn keeps_name(source: &Source, holders: &[&Source]) -> bool {
    !source.memory.ports.is_empty() && holders.iter().all(|h| share_by_consent(&h.wanted, &source.wanted))
}

/// Returns whether two sources may stand behind one name: they are one service of several clusters, or their bindings
/// say that the name is shared. Of two bindings each has to say so: they may have different authors.
fn share_by_consent(a: &WantedService, b: &WantedService) -> bool {
    let one_service = match a.cluster == b.cluster {
        true => a.exposed == b.exposed,
        false => a.exposed.name == b.exposed.name,
    };
    let said = if a.binding == b.binding { a.shares || b.shares } else { a.shares && b.shares };
    one_service || said
}

fn candidate_notes(c: &SourceCandidate<'_>, facts: &ClusterFacts) -> Vec<String> {
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
    if c.exposition.tls == TlsMode::Passthrough && c.peer.trust_domain != facts.trust_domain {
        notes.push(format!(
            "tls: Passthrough works if the mesh of {} accepts this cluster's trust domain {}, which is not known here; else calls get 503",
            c.wanted().cluster, facts.trust_domain
        ));
    }
    let http = c.ports.iter().any(|(_, port)| port.protocol.is_http());
    if http && facts.absent_fields.contains(&NewerField::Http2KeepAlive) {
        notes.push(NewerField::Http2KeepAlive.to_string());
    }
    for (local, port) in c.ports.iter().filter(|(local, port)| *local != port.number) {
        notes.push(format!("port {local} here is port {} of {}", port.number, c.wanted().cluster));
    }
    notes
}

/// Notes for each source which ports of the name it does not serve, and how it shares the calls with other services.
fn note_shares(local: &LocalName, accepted: &[SourceCandidate<'_>], outcomes: &mut [SourceOutcome]) {
    let all: BTreeSet<u16> = accepted.iter().flat_map(|c| c.ports.iter().map(|(local, _)| *local)).collect();
    let shares = plan::describe_shares(local, accepted);
    for outcome in outcomes.iter_mut().filter(|o| o.problem.is_none()) {
        let Some(c) = accepted.iter().find(|c| *c.wanted() == *outcome.wanted) else { continue };
        let missing: Vec<String> = all.iter().filter(|l| c.port(**l).is_none()).map(ToString::to_string).collect();
        if !missing.is_empty() && outcome.lacking.is_none() {
            outcome.notes.push(format!("it has no port {}: calls of it go to others", missing.join(", ")));
        }
        let wanted = c.wanted();
        outcome.notes.extend(shares.get(&(&wanted.cluster, &wanted.exposed)).cloned());
    }
}

/// Keeps donors of one name only, if there are priorities: donors that expose under different names are chosen by
/// weighted routes, which know no priority.
fn same_group_if_priorities(accepted: &mut Vec<SourceCandidate<'_>>, outcomes: &mut [SourceOutcome]) {
    let priorities: BTreeSet<u32> = accepted.iter().filter(|c| c.weight() > 0).map(|c| c.wanted().priority).collect();
    if priorities.len() < 2 {
        return;
    }
    let mut kept: Vec<SourceCandidate<'_>> = Vec::with_capacity(accepted.len());
    for c in std::mem::take(accepted) {
        let Some(other) = kept.iter().filter(|k| k.weight() > 0).find(|k| !is_alike(k, &c)) else {
            kept.push(c);
            continue;
        };
        let name = format!("{} of {}", other.wanted().exposed, other.wanted().cluster);
        if let Some(outcome) = outcomes.iter_mut().find(|o| *o.wanted == *c.wanted()) {
            let message = format!("it is exposed under another name than {name}, and then priorities cannot be kept");
            let problem = Problem::new(ProblemReason::Unsupported, "priority", message);
            outcome.problem =
                Some(problem.cure("use weights, or ask for the same alias").below(&outcome.wanted.path()));
            outcome.memory.clone_from(&c.source.memory);
        }
    }
    *accepted = kept;
}
