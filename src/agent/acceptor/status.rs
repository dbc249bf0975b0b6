//! Builds the status of a binding.

use std::collections::{BTreeSet, HashMap};

use super::{AcceptorSide, BindingRequest, BindingState};
use crate::agent::donor::WriteState;
use crate::agent::{ambient, gateway, pace};
use crate::api::{BindingStatus, BindingSummary, Condition, ServiceStatus, set_condition};
use crate::model::{ClusterFacts, GatewayDoubt, Style, TlsMode};
use crate::store::NamedKey;
use crate::translate::{Problem, ProblemReason, SourceEntry, SourceOutcome, SplitBinding, WantedPorts, WantedService};

/// Most local ports in the status of one binding, besides those of services that name theirs. All ports would not fit
/// into an object of an API server, and donors choose their number.
const MAX_PORTS_TOLD: usize = 4096;

impl AcceptorSide {
    /// Builds the status. `ambient`: the namespace is in ambient mode, if that is known.
    pub fn build_status(
        &mut self,
        key: &NamedKey,
        facts: &ClusterFacts,
        ambient: Option<bool>,
        now: &str,
    ) -> Option<BindingStatus> {
        let binding = self.bindings.get(key)?;
        let mut conditions = binding.conditions.clone();
        let generation = binding.object.metadata.generation;
        let mut services = self.service_statuses(binding);
        let summary = BindingSummary::of(&binding.object.spec);
        let potential = binding.split.potential;
        for condition in [
            bound_condition(&services, &binding.split),
            self.programmed_condition(binding, potential),
            self.connected_condition(binding, facts),
        ] {
            set_condition(&mut conditions, condition, generation, now);
        }
        match self.flapping_condition(binding) {
            Some(flapping) => set_condition(&mut conditions, flapping, generation, now),
            None => conditions.retain(|c| c.type_ != pace::FLAPPING),
        }
        ambient::set_ambient_condition(
            &mut conditions,
            ambient,
            || ambient::of_binding(&key.namespace),
            generation,
            now,
        );
        gateway::set_doubt_condition(&mut conditions, self.egress_doubt(binding, facts), generation, now);
        if let Some(binding) = self.bindings.get_mut(key) {
            binding.conditions.clone_from(&conditions);
            binding.since.set_dates(&mut services, now);
        }
        Some(BindingStatus { observed_generation: generation, conditions, services, summary })
    }

    /// Keeps the conditions of a finished status, for the times of their last change.
    pub fn keep_conditions(&mut self, key: &NamedKey, conditions: &[Condition]) {
        if let Some(binding) = self.bindings.get_mut(key) {
            conditions.clone_into(&mut binding.conditions);
        }
    }

    fn service_statuses(&self, binding: &BindingState) -> Vec<ServiceStatus> {
        // Looks at each local name once, however many entries lead to it.
        let mut requests: HashMap<(usize, usize), &BindingRequest> = HashMap::new();
        for request in self.requests_of(binding) {
            requests.insert((request.wanted.remote, request.wanted.service), request);
        }
        let mut room = MAX_PORTS_TOLD;
        let mut status = |entry: &SourceEntry| match &entry.wanted {
            Err(problem) => ServiceStatus {
                reason: problem.reason.to_string(),
                message: problem.line(),
                ..ServiceStatus::default()
            },
            Ok(wanted) => {
                let request = requests.get(&(entry.remote, entry.service)).copied();
                let mut status = self.service_status(wanted, request.and_then(|r| r.outcome.as_ref()));
                status.ports = request.map(|r| r.memory.to_status()).unwrap_or_default();
                // Ports that only repeat the donor's exposition are left out where an object would grow too large.
                if status.ports.len() > room && wanted.ports == WantedPorts::AsExposed {
                    status.ports.clear();
                }
                room = room.saturating_sub(status.ports.len());
                status
            }
        };
        binding.split.entries.iter().map(&mut status).collect()
    }

    fn service_status(&self, wanted: &WantedService, outcome: Option<&SourceOutcome>) -> ServiceStatus {
        let problem = outcome.and_then(|o| o.problem.as_ref());
        let contest = outcome.and_then(|o| o.contest.as_ref());
        let lacking = outcome.and_then(|o| o.lacking.as_ref());
        let refusal = outcome.and_then(|o| o.refusal.as_ref());
        let feeds = outcome.is_some() && problem.is_none();
        let bound = feeds && lacking.is_none();
        let offer = self.offers.get(&wanted.cluster).and_then(|o| o.get(&wanted.exposed));
        let stale = offer.and_then(|o| o.rejected.as_ref());
        ServiceStatus {
            cluster: wanted.cluster.to_string(),
            exposition: wanted.exposed.to_string(),
            local_host: wanted.local.host().to_string(),
            version: offer.filter(|_| feeds).map(|o| o.version.to_string()).unwrap_or_default(),
            bound,
            reason: match (problem.or(lacking).or(contest), stale) {
                (Some(problem), _) => problem.reason.as_str(),
                (None, Some(_)) if bound => ProblemReason::Rejected.as_str(),
                (None, _) if bound => "Bound",
                (None, _) => "Pending",
            }
            .to_owned(),
            message: match problem {
                Some(p) => {
                    let cure = Some(p.cure.clone()).filter(|cure| !cure.is_empty());
                    let said = [Some(p.message.clone()), cure, refusal.cloned(), contest.map(describe_contest)];
                    said.into_iter().flatten().collect::<Vec<_>>().join("; ")
                }
                None => {
                    let stale = stale
                        .map(|unfit| format!("the newest version is rejected, the last good one stays: {}", unfit.why));
                    let notes = outcome.into_iter().flat_map(|o| o.notes.iter().cloned());
                    let lacking = lacking.map(|p| match p.cure.is_empty() {
                        true => format!("{}; its other ports work", p.message),
                        false => format!("{}; {}; its other ports work", p.message, p.cure),
                    });
                    let told = lacking
                        .into_iter()
                        .chain(contest.map(describe_contest))
                        .chain(stale)
                        .chain(notes)
                        .chain(refusal.cloned());
                    told.collect::<Vec<_>>().join("; ")
                }
            },
            last_changed: None,
            ports: Vec::new(),
        }
    }

    /// Returns the requests of one binding, at the local names that they feed.
    fn requests_of<'a>(&'a self, binding: &'a BindingState) -> impl Iterator<Item = &'a BindingRequest> {
        let locals: BTreeSet<_> = binding.split.wanted().map(|w| (&w.local, &w.binding)).collect();
        locals.into_iter().flat_map(|(name, by)| {
            let requests = self.locals.get(name).map(|l| &l.requests).into_iter().flatten();
            requests.filter(move |(key, _)| key.namespace == by.namespace && key.name == by.name).flat_map(|(_, r)| r)
        })
    }

    fn programmed_condition(&self, binding: &BindingState, potential: bool) -> Condition {
        if potential {
            let message = "an offer: label it connection=live to configure it";
            return Condition::new("Programmed", false, "Potential", message);
        }
        let locals: BTreeSet<_> = binding.split.wanted().map(|w| &w.local).collect();
        let all = locals.iter().filter_map(|name| self.locals.get(*name));
        let worst = all.map(|l| self.write_of(l)).max_by_key(|w| match w {
            WriteState::Done => 0,
            WriteState::Pending => 1,
            WriteState::Failed(_) => 2,
            WriteState::Conflict(_) => 3,
            WriteState::Held(_) => 4,
        });
        let problem = self.requests_of(binding).find_map(|r| r.outcome.as_ref()?.problem.as_ref());
        let lacking = self.requests_of(binding).find_map(|r| r.outcome.as_ref()?.lacking.as_ref());
        let problem = problem.or(lacking);
        let problem = problem.or(binding.split.problems.first());
        let contest = self.requests_of(binding).find_map(|r| r.outcome.as_ref()?.contest.as_ref());
        match (worst, problem) {
            (Some(WriteState::Done) | None, Some(p)) => {
                Condition::new("Programmed", false, p.reason.as_str(), p.line())
            }
            (Some(WriteState::Done), None) if contest.is_some() => {
                let message = contest.map(describe_contest).unwrap_or_default();
                Condition::new("Programmed", true, ProblemReason::NameConflict.as_str(), message)
            }
            (Some(write), _) => write.programmed_condition(),
            (None, None) => Condition::new("Programmed", false, "Invalid", "nothing in it is valid; see Bound"),
        }
    }

    /// Returns the known reason why the egress gateway takes no calls.
    fn egress_doubt<'a>(&self, binding: &BindingState, facts: &'a ClusterFacts) -> Option<&'a GatewayDoubt> {
        if facts.style != Style::EgressIngress || binding.split.potential {
            return None;
        }
        let mode = |w: &WantedService| self.offers.get(&w.cluster)?.get(&w.exposed).map(|o| o.to_summary().tls);
        let shows = || binding.split.wanted().any(|w| mode(w) == Some(TlsMode::Cluster));
        let doubts = &facts.doubts;
        let credential = doubts.identity.as_ref().or(doubts.egress_credential.as_ref());
        doubts.egress.as_ref().or_else(|| credential.filter(|_| shows()))
    }

    /// Builds the condition about a peer that changes one of the binding's services too often.
    fn flapping_condition(&self, binding: &BindingState) -> Option<Condition> {
        let names: BTreeSet<_> = binding.split.wanted().map(|w| &w.local).collect();
        let (name, peer) = names.into_iter().find_map(|name| Some((name, self.paced.flaps_by(name)?)))?;
        let message = format!(
            "{peer} changes {} so often that not every change is written; the newest follows within a second or so. Find what \
             changes at {peer}",
            name.host()
        );
        Some(Condition::new(pace::FLAPPING, true, pace::FLAPPING, message))
    }

    fn connected_condition(&self, binding: &BindingState, facts: &ClusterFacts) -> Condition {
        let clusters: BTreeSet<_> = binding.split.wanted().map(|w| &w.cluster).collect();
        let mut away = Vec::new();
        let mut reason = "PeerUnreachable";
        for cluster in clusters {
            let offers = self.offers.get(cluster);
            let peer = facts.peers.get(cluster);
            if let Some(hidden) = facts.hidden_peers.explain_doubt(cluster).filter(|_| peer.is_none()) {
                reason = "Unreadable";
                away.push(hidden);
            } else if peer.is_none_or(|p| p.endpoint.is_none()) {
                reason = "PeerUnknown";
                away.push(format!(
                    "{cluster} is not among the peers that this agent dials: add a peering with its endpoint"
                ));
            } else if !offers.is_some_and(|o| o.connected || o.missed) {
                let why = offers.and_then(|o| o.refused.clone().or_else(|| o.unreachable.clone()));
                away.push(format!("{cluster}: {}", why.unwrap_or_else(|| "connecting".into())));
            }
        }
        if away.is_empty() {
            Condition::new("PeerConnected", true, "Connected", "every cluster of this binding is connected")
        } else {
            let message = format!("{}; what is configured stays as it is", away.join("; "));
            Condition::new("PeerConnected", false, reason, message)
        }
    }
}

/// Describes objects that are in place although somebody else claims their name since.
fn describe_contest(contest: &Problem) -> String {
    let Problem { message, cure, .. } = contest;
    format!("{message}; Wharf's objects were there first and stay, and calls may follow either; {cure}")
}

fn bound_condition(services: &[ServiceStatus], split: &SplitBinding) -> Condition {
    if split.potential {
        return Condition::new("Bound", false, "Potential", "an offer: label it connection=live to use it");
    }
    if let Some(problem) = split.problems.first() {
        let all: Vec<_> = split.problems.iter().map(Problem::line).collect();
        return Condition::new("Bound", false, problem.reason.as_str(), all.join("; "));
    }
    match services.iter().find(|s| !s.bound) {
        None => Condition::new("Bound", true, "Bound", "every service is exposed to this cluster, and bound"),
        Some(first) => {
            let unbound = services.iter().filter(|s| !s.bound);
            let missing: Vec<_> = unbound.map(unbound_service).collect();
            Condition::new("Bound", false, first.reason.clone(), missing.join("; "))
        }
    }
}

/// Says why a service is not bound. An invalid entry has no name to tell.
fn unbound_service(service: &ServiceStatus) -> String {
    match service.exposition.is_empty() {
        true => service.message.clone(),
        false => format!("{}:{}: {}", service.cluster, service.exposition, service.message),
    }
}
