//! The names of peers' gateways: their answers, the times of their next lookup, and the expositions that wait for an
//! answer. Holds no I/O; [`lookup`](super::lookup) asks.
//!
//! A name is looked up when an exposition first names it, and again every minute while one does, because its owner may
//! change its addresses. An answer stays in force while newer ones fail: an unavailable resolver is no reason to take a
//! service from its callers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::acceptor::exposition_bytes;
use crate::model::{
    Address, ClusterName, Exposition, ExpositionKey, GatewayRules, GatewayVerdict, Host, NameAnswer, NameAnswers,
};
use crate::peering::convert::ReceivedExposition;
use crate::translate::ExpositionRefusal;

/// Most names of one peer that are looked up.
const MAX_NAMES_PER_PEER: usize = 64;
/// Most expositions of one peer that are remembered as refused because of their names.
const MAX_REFUSED: usize = 2_000;
/// Time until a name with an answer is looked up again. It is also the default of Envoy, with which Istio configures
/// it.
const CHECK_AGAIN: Duration = Duration::from_secs(60);
/// Time until a name without an answer is looked up again.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Time for which an answer is awaited. Later ones still count when they arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// The known addresses of all peers' gateway names.
#[derive(Default)]
pub struct GatewayNames {
    peers: BTreeMap<ClusterName, PeerNames>,
}

#[derive(Default)]
struct PeerNames {
    answers: BTreeMap<Host, NameAnswer>,
    /// Time of the next lookup of each name.
    due: BTreeMap<Host, Instant>,
    /// Deadline of each awaited answer.
    asked: BTreeMap<Host, Instant>,
    /// Expositions that depend on names without an answer, and their memory.
    waiting: BTreeMap<ExpositionKey, ReceivedExposition>,
    waiting_bytes: usize,
    /// Some expositions found no room to wait, and must be sent again.
    overflowed: bool,
    /// The names because of which expositions were refused.
    refused: BTreeMap<ExpositionKey, BTreeSet<Host>>,
    /// The peer has sent all that it offers. It counts as in step when nothing waits any more.
    step_delayed: bool,
}

impl PeerNames {
    fn take_waiting(&mut self, key: &ExpositionKey) -> Option<ReceivedExposition> {
        let heard = self.waiting.remove(key)?;
        self.waiting_bytes -= exposition_bytes(&heard.exposition);
        Some(heard)
    }
}

static NO_ANSWERS: BTreeMap<Host, NameAnswer> = BTreeMap::new();

impl GatewayNames {
    /// Returns the known answers for a peer's names.
    pub fn answers_of(&self, cluster: &ClusterName) -> NameAnswers<'_> {
        NameAnswers::Known(self.peers.get(cluster).map_or(&NO_ANSWERS, |peer| &peer.answers))
    }

    /// Requests lookups of names. False if the peer has too many.
    pub fn want_names(&mut self, cluster: &ClusterName, names: &[Host]) -> bool {
        let peer = self.peers.entry(cluster.clone()).or_default();
        let new: BTreeSet<_> = names.iter().filter(|name| !peer.due.contains_key(*name)).cloned().collect();
        if peer.due.len() + new.len() > MAX_NAMES_PER_PEER {
            return false;
        }
        let now = Instant::now();
        peer.due.extend(new.into_iter().map(|name| (name, now)));
        true
    }

    /// Keeps an exposition until its names have answers, if the waiting ones take at most `room` bytes. Otherwise the
    /// donor must send it again ([`GatewayNames::take_overflow`]).
    pub fn keep_waiting(&mut self, cluster: &ClusterName, heard: ReceivedExposition, room: usize) -> bool {
        let peer = self.peers.entry(cluster.clone()).or_default();
        let bytes = exposition_bytes(&heard.exposition);
        if peer.waiting_bytes + bytes > room {
            peer.overflowed = true;
            return false;
        }
        peer.take_waiting(&heard.exposition.key);
        peer.waiting_bytes += bytes;
        peer.waiting.insert(heard.exposition.key.clone(), heard);
        true
    }

    /// Returns whether expositions found no room to wait, and nothing waits any more.
    pub fn take_overflow(&mut self, cluster: &ClusterName) -> bool {
        let peer = self.peers.get_mut(cluster).filter(|peer| peer.waiting.is_empty());
        peer.is_some_and(|peer| std::mem::replace(&mut peer.overflowed, false))
    }

    /// Notes that an exposition was refused because of the addresses of its gateways' names, if that is the reason.
    pub fn note_refusal(&mut self, cluster: &ClusterName, exposition: &Exposition, why: &ExpositionRefusal) {
        let ExpositionRefusal::Gateway { refusal, .. } = why else { return };
        let peer = self.peers.entry(cluster.clone()).or_default();
        if refusal.tells_of_resolver() && peer.refused.len() < MAX_REFUSED {
            peer.refused.insert(exposition.key.clone(), names_of(exposition).collect());
        }
    }

    /// Forgets an exposition that was changed or withdrawn.
    pub fn forget_exposition(&mut self, cluster: &ClusterName, key: &ExpositionKey) {
        if let Some(peer) = self.peers.get_mut(cluster) {
            peer.take_waiting(key);
            peer.refused.remove(key);
        }
    }

    pub fn forget_peer(&mut self, cluster: &ClusterName) {
        self.peers.remove(cluster);
    }

    /// Returns whether the peer counts as in step only later, because something of it waits for names.
    pub fn delay_step(&mut self, cluster: &ClusterName) -> bool {
        match self.peers.get_mut(cluster) {
            Some(peer) if !peer.waiting.is_empty() => {
                peer.step_delayed = true;
                true
            }
            _ => false,
        }
    }

    /// Returns whether a peer whose step was delayed is in step now.
    pub fn catch_up(&mut self, cluster: &ClusterName) -> bool {
        let peer = self.peers.get_mut(cluster).filter(|peer| peer.waiting.is_empty());
        peer.is_some_and(|peer| std::mem::replace(&mut peer.step_delayed, false))
    }

    /// Returns the time at which something is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.peers.values().flat_map(|peer| peer.due.values().chain(peer.asked.values())).min().copied()
    }

    /// Returns the peers with names that are due.
    pub fn due_peers(&self, now: Instant) -> Vec<ClusterName> {
        let is_due = |peer: &PeerNames| peer.due.values().chain(peer.asked.values()).any(|due| *due <= now);
        self.peers.iter().filter(|(_, peer)| is_due(peer)).map(|(cluster, _)| cluster.clone()).collect()
    }

    /// Returns the names of a peer to look up now. Only names count that an exposition in force, a waiting or a refused
    /// one uses; all others are dropped.
    pub fn drain_due<'a>(
        &mut self,
        cluster: &ClusterName,
        in_force: impl Iterator<Item = &'a Exposition>,
        now: Instant,
    ) -> Vec<Host> {
        let Some(peer) = self.peers.get_mut(cluster) else { return Vec::new() };
        let mut used: BTreeSet<Host> = in_force.flat_map(names_of).collect();
        used.extend(peer.waiting.values().flat_map(|heard| names_of(&heard.exposition)));
        used.extend(peer.refused.values().flatten().cloned());
        peer.due.retain(|name, _| used.contains(name));
        peer.asked.retain(|name, _| used.contains(name));
        peer.answers.retain(|name, _| used.contains(name));
        let due: Vec<_> = peer.due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in &due {
            peer.due.insert(name.clone(), now + ASK_AGAIN);
            peer.asked.entry(name.clone()).or_insert(now + PATIENCE);
        }
        due
    }

    /// Returns the names whose answers are late.
    pub fn drain_late(&mut self, cluster: &ClusterName, now: Instant) -> Vec<Host> {
        let Some(peer) = self.peers.get_mut(cluster) else { return Vec::new() };
        let late: Vec<_> =
            peer.asked.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        peer.asked.retain(|_, until| *until > now);
        late
    }

    /// Takes in an answer. Returns whether it changes anything.
    pub fn handle_answer(&mut self, cluster: &ClusterName, name: Host, answer: NameAnswer, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(cluster) else { return false };
        if !peer.due.contains_key(&name) {
            return false; // nothing uses the name any more
        }
        peer.asked.remove(&name);
        let again = if answer.is_ok() { CHECK_AGAIN } else { ASK_AGAIN };
        peer.due.insert(name.clone(), now + again);
        match (peer.answers.get(&name), &answer) {
            (Some(before), _) if *before == answer => false,
            (Some(Ok(_)), Err(_)) => false,
            _ => {
                peer.answers.insert(name, answer);
                true
            }
        }
    }

    /// Returns the waiting expositions of a peer.
    pub fn waiting_expositions(&self, cluster: &ClusterName) -> impl Iterator<Item = &Exposition> {
        self.peers.get(cluster).into_iter().flat_map(|peer| peer.waiting.values().map(|heard| &heard.exposition))
    }

    pub fn take_waiting(&mut self, cluster: &ClusterName, key: &ExpositionKey) -> Option<ReceivedExposition> {
        self.peers.get_mut(cluster)?.take_waiting(key)
    }

    /// Returns whether an exposition that was refused because of its names would be accepted now, so that the donor
    /// should send it again.
    pub fn take_pardon(&mut self, cluster: &ClusterName, rules: &GatewayRules) -> bool {
        let Some(peer) = self.peers.get_mut(cluster) else { return false };
        let answers = &peer.answers;
        let is_allowed = |name: &Host| match rules.judge_address(&Address::Name(name.clone())) {
            Ok(GatewayVerdict::Allowed) => true,
            Ok(GatewayVerdict::DependsOn(name)) => {
                answers.get(&name).is_some_and(|answer| rules.judge_answer(&name, answer).is_ok())
            }
            Err(_) => false,
        };
        let before = peer.refused.len();
        peer.refused.retain(|_, names| !names.iter().all(is_allowed));
        peer.refused.len() < before
    }
}

fn names_of(exposition: &Exposition) -> impl Iterator<Item = Host> + '_ {
    exposition.gateways.iter().filter_map(|gateway| match &gateway.address {
        Address::Name(name) => Some(name.clone()),
        Address::Ip(_) => None,
    })
}

#[cfg(test)]
mod tests;
