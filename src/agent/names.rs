//! The names of peers' gateways: what they were found to lead to, when they are looked up next, and the expositions that
//! wait for it. Holds no I/O; [`lookup`](super::lookup) asks.
//!
//! A name is looked up when an exposition first names it, and again every minute for as long as one does, since its owner
//! may let it lead elsewhere. An answer stays in force while newer ones fail to come: that a resolver is away is no reason
//! to take a service from its callers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::acceptor::exposition_bytes;
use crate::model::{
    Address, ClusterName, Exposition, ExpositionKey, GatewayRules, GatewayVerdict, Host, NameAnswer, NameAnswers,
};
use crate::peering::convert::Heard;
use crate::translate::Rejection;

/// Names of one peer that are looked up.
const MAX_NAMES_PER_PEER: usize = 64;
/// Expositions of one peer that are remembered as refused because of their names.
const MAX_REFUSED: usize = 2_000;
/// A name with an answer is looked up again after this time: Envoy's default, too, with which Istio configures it.
const CHECK_AGAIN: Duration = Duration::from_secs(60);
/// A name without an answer is looked up again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// An answer is waited for this long; later ones still count when they come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the names of all peers' gateways.
#[derive(Default)]
pub struct GatewayNames {
    peers: BTreeMap<ClusterName, PeerNames>,
}

#[derive(Default)]
struct PeerNames {
    answers: BTreeMap<Host, NameAnswer>,
    /// When each name is looked up next.
    due: BTreeMap<Host, Instant>,
    /// Until when an answer is waited for.
    asked: BTreeMap<Host, Instant>,
    /// Expositions that depend on names without an answer, and the memory that they take.
    waiting: BTreeMap<ExpositionKey, Heard>,
    waiting_bytes: usize,
    /// Some found no room to wait, and are to be told again.
    overflowed: bool,
    /// The names because of which expositions were refused.
    refused: BTreeMap<ExpositionKey, BTreeSet<Host>>,
    /// All that the peer offers was told, and is taken for told when nothing waits any more.
    step_delayed: bool,
}

impl PeerNames {
    fn take_waiting(&mut self, key: &ExpositionKey) -> Option<Heard> {
        let heard = self.waiting.remove(key)?;
        self.waiting_bytes -= exposition_bytes(&heard.exposition);
        Some(heard)
    }
}

static NO_ANSWERS: BTreeMap<Host, NameAnswer> = BTreeMap::new();

impl GatewayNames {
    /// What is known of a peer's names.
    pub fn answers(&self, cluster: &ClusterName) -> NameAnswers<'_> {
        NameAnswers::Known(self.peers.get(cluster).map_or(&NO_ANSWERS, |peer| &peer.answers))
    }

    /// Has names looked up. False if the peer has too many.
    pub fn want(&mut self, cluster: &ClusterName, names: &[Host]) -> bool {
        let peer = self.peers.entry(cluster.clone()).or_default();
        let new: BTreeSet<_> = names.iter().filter(|name| !peer.due.contains_key(*name)).cloned().collect();
        if peer.due.len() + new.len() > MAX_NAMES_PER_PEER {
            return false;
        }
        let now = Instant::now();
        peer.due.extend(new.into_iter().map(|name| (name, now)));
        true
    }

    /// Keeps an exposition until its names have answers, if those that wait take no more than so many bytes. Otherwise the
    /// donor has to tell it again ([`GatewayNames::take_overflow`]).
    pub fn wait(&mut self, cluster: &ClusterName, heard: Heard, room: usize) -> bool {
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

    /// Whether expositions found no room to wait, and nothing waits any more.
    pub fn take_overflow(&mut self, cluster: &ClusterName) -> bool {
        let peer = self.peers.get_mut(cluster).filter(|peer| peer.waiting.is_empty());
        peer.is_some_and(|peer| std::mem::replace(&mut peer.overflowed, false))
    }

    /// Notes that an exposition was refused because of where its gateways' names lead, if that is why.
    pub fn note_refusal(&mut self, cluster: &ClusterName, exposition: &Exposition, why: &Rejection) {
        let Rejection::Gateway { refusal, .. } = why else { return };
        let peer = self.peers.entry(cluster.clone()).or_default();
        if refusal.tells_of_resolver() && peer.refused.len() < MAX_REFUSED {
            peer.refused.insert(exposition.key.clone(), names_of(exposition).collect());
        }
    }

    /// An exposition was told otherwise, or withdrawn.
    pub fn forget(&mut self, cluster: &ClusterName, key: &ExpositionKey) {
        if let Some(peer) = self.peers.get_mut(cluster) {
            peer.take_waiting(key);
            peer.refused.remove(key);
        }
    }

    pub fn forget_peer(&mut self, cluster: &ClusterName) {
        self.peers.remove(cluster);
    }

    /// Whether the peer is taken for in step later: something of it waits for names.
    pub fn delay_step(&mut self, cluster: &ClusterName) -> bool {
        match self.peers.get_mut(cluster) {
            Some(peer) if !peer.waiting.is_empty() => {
                peer.step_delayed = true;
                true
            }
            _ => false,
        }
    }

    /// Whether a peer whose step was delayed is in step now.
    pub fn catch_up(&mut self, cluster: &ClusterName) -> bool {
        let peer = self.peers.get_mut(cluster).filter(|peer| peer.waiting.is_empty());
        peer.is_some_and(|peer| std::mem::replace(&mut peer.step_delayed, false))
    }

    /// When there is something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.peers.values().flat_map(|peer| peer.due.values().chain(peer.asked.values())).min().copied()
    }

    /// Peers with names that are due.
    pub fn due_peers(&self, now: Instant) -> Vec<ClusterName> {
        let is_due = |peer: &PeerNames| peer.due.values().chain(peer.asked.values()).any(|due| *due <= now);
        self.peers.iter().filter(|(_, peer)| is_due(peer)).map(|(cluster, _)| cluster.clone()).collect()
    }

    /// The names of a peer that are to be looked up now, of those that are used: by what is in force, waits or was
    /// refused. The others are dropped.
    pub fn take_due<'a>(
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

    /// Names whose answers did not come in time.
    pub fn take_late(&mut self, cluster: &ClusterName, now: Instant) -> Vec<Host> {
        let Some(peer) = self.peers.get_mut(cluster) else { return Vec::new() };
        let late: Vec<_> =
            peer.asked.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        peer.asked.retain(|_, until| *until > now);
        late
    }

    /// Takes in an answer. Returns whether something changes by it.
    pub fn learn(&mut self, cluster: &ClusterName, name: Host, answer: NameAnswer, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(cluster) else { return false };
        if !peer.due.contains_key(&name) {
            return false; // nothing uses it any more
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

    /// The expositions of a peer that wait.
    pub fn waiting(&self, cluster: &ClusterName) -> impl Iterator<Item = &Exposition> {
        self.peers.get(cluster).into_iter().flat_map(|peer| peer.waiting.values().map(|heard| &heard.exposition))
    }

    pub fn take_waiting(&mut self, cluster: &ClusterName, key: &ExpositionKey) -> Option<Heard> {
        self.peers.get_mut(cluster)?.take_waiting(key)
    }

    /// Whether an exposition that was refused because of its names would not be now, so that it is worth to be told again.
    pub fn take_pardon(&mut self, cluster: &ClusterName, rules: &GatewayRules) -> bool {
        let Some(peer) = self.peers.get_mut(cluster) else { return false };
        let answers = &peer.answers;
        let is_allowed = |name: &Host| match rules.judge(&Address::Name(name.clone())) {
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
