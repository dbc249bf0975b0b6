//! The audit trail: one line in the log for each change of who may use, and uses, what. docs/reference/audit.md has its form,
//! which other programs read.
//!
//! The same line is not written twice. Peers decide how often something happens, so each has a budget of lines; the next line
//! about a peer counts those that were left out.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::acceptor::Verdict;
use super::pace::{Rate, TokenBucket};
use crate::model::{ClusterName, ExpositionKey};
use crate::peering::convert::{Outcome, OutcomeState};

/// Lines about one peer that follow from policies of this cluster.
const OWN_RATE: Rate = Rate { burst: 4096, every: Duration::from_millis(50) };
/// Lines about one peer that follow from its words: a log grows by one a second, however often a peer changes its mind.
const PEER_RATE: Rate = Rate { burst: 1024, every: Duration::from_secs(1) };
/// Peers that have a budget of their own. The others share one.
const MAX_PEERS: usize = 1024;
/// The reason of a rejection for which somebody else has the name.
const CONFLICT: &str = "NameConflict";

/// The kind of a line. The words are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditEvent {
    Exposed,
    Offered,
    Withdrawn,
    Bound,
    Unbound,
    Refused,
    Conflict,
}

impl AuditEvent {
    fn as_str(self) -> &'static str {
        match self {
            AuditEvent::Exposed => "exposed",
            AuditEvent::Offered => "offered",
            AuditEvent::Withdrawn => "withdrawn",
            AuditEvent::Bound => "bound",
            AuditEvent::Unbound => "unbound",
            AuditEvent::Refused => "refused",
            AuditEvent::Conflict => "conflict",
        }
    }

    fn of_rejection(reason: &str) -> AuditEvent {
        if reason == CONFLICT { AuditEvent::Conflict } else { AuditEvent::Refused }
    }
}

/// The side of the wire on which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditSide {
    Donor,
    Acceptor,
}

/// One line.
#[derive(Debug, Clone, Copy)]
pub struct AuditLine<'a> {
    pub event: AuditEvent,
    pub side: AuditSide,
    /// The other cluster. None: it concerns all.
    pub peer: Option<&'a ClusterName>,
    pub exposition: &'a ExpositionKey,
    pub version: &'a str,
    /// The policy or bindings that it comes from.
    pub object: &'a str,
    /// Why, in one word.
    pub reason: &'a str,
    /// Who wrote the object last, as far as the store tells.
    pub by: &'a str,
}

impl AuditLine<'_> {
    /// The budget that the line counts against: the donor's own decisions have theirs.
    fn rate(&self) -> Rate {
        let own = [AuditEvent::Exposed, AuditEvent::Offered, AuditEvent::Withdrawn].contains(&self.event);
        if own && self.side == AuditSide::Donor { OWN_RATE } else { PEER_RATE }
    }
}

/// What an outcome is in the trail.
pub fn of_outcome(outcome: &Outcome) -> (AuditEvent, &str) {
    match outcome.state {
        OutcomeState::Bound => (AuditEvent::Bound, ""),
        OutcomeState::Offered => (AuditEvent::Unbound, ""),
        OutcomeState::Rejected => (AuditEvent::of_rejection(&outcome.reason), &outcome.reason),
    }
}

pub fn of_verdict(verdict: &Verdict) -> (AuditEvent, &str) {
    match verdict {
        Verdict::Bound => (AuditEvent::Bound, ""),
        Verdict::Offered => (AuditEvent::Unbound, ""),
        Verdict::Rejected { reason, .. } => (AuditEvent::of_rejection(reason), reason),
    }
}

#[derive(Default)]
struct PeerBudget {
    own: TokenBucket,
    of_peer: TokenBucket,
    left_out: u64,
}

/// Writes the trail.
#[derive(Default)]
pub struct AuditLog {
    budgets: BTreeMap<Option<ClusterName>, PeerBudget>,
    /// What was said last of the use of an exposition.
    uses: BTreeMap<(AuditSide, ClusterName, ExpositionKey), u64>,
}

impl AuditLog {
    /// Writes a line, or counts it.
    pub fn write(&mut self, line: AuditLine<'_>, now: Instant) {
        if let Some(left_out) = self.admit(line.peer, line.rate(), now) {
            let side = match line.side {
                AuditSide::Donor => "donor",
                AuditSide::Acceptor => "acceptor",
            };
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            tracing::info!(
                target: "wharf::audit",
                event = line.event.as_str(),
                side,
                peer = line.peer.map(ClusterName::as_str),
                exposition = %line.exposition,
                version = given(line.version),
                object = given(line.object),
                reason = given(line.reason),
                by = given(line.by),
                left_out = (left_out > 0).then_some(left_out),
                "audit"
            );
        }
    }

    /// The same about the use of an exposition, if it is news. That nothing uses what nothing used is none.
    pub fn write_use(&mut self, line: AuditLine<'_>, now: Instant) {
        let Some(peer) = line.peer else { return };
        let key = (line.side, peer.clone(), line.exposition.clone());
        let mut hasher = DefaultHasher::new();
        (line.event, line.version, line.reason).hash(&mut hasher);
        let said = hasher.finish();
        let news = match line.event {
            AuditEvent::Unbound => self.uses.remove(&key).is_some(),
            _ => self.uses.insert(key, said) != Some(said),
        };
        if news {
            self.write(line, now);
        }
    }

    /// An exposition is not offered any more: its use is over with it.
    pub fn forget(&mut self, side: AuditSide, peer: &ClusterName, exposition: &ExpositionKey) {
        self.uses.remove(&(side, peer.clone(), exposition.clone()));
    }

    /// How many lines were left out before this one; None: it is left out, too.
    fn admit(&mut self, peer: Option<&ClusterName>, rate: Rate, now: Instant) -> Option<u64> {
        let full = self.budgets.len() >= MAX_PEERS;
        let peer = peer.filter(|peer| !full || self.budgets.contains_key(&Some((*peer).clone()))).cloned();
        let budget = self.budgets.entry(peer).or_default();
        let bucket = if rate == PEER_RATE { &mut budget.of_peer } else { &mut budget.own };
        match bucket.admit(rate, now) {
            Ok(()) => Some(std::mem::take(&mut budget.left_out)),
            Err(_) => {
                budget.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_much_has_its_lines_counted_and_takes_none_from_others() {
        let (mut log, start) = (AuditLog::default(), Instant::now());
        let peers: [ClusterName; 2] = ["loud".parse().unwrap(), "quiet".parse().unwrap()];
        let written = (0..10_000).filter(|_| log.admit(Some(&peers[0]), PEER_RATE, start).is_some()).count();
        assert_eq!(written, PEER_RATE.burst as usize);
        assert_eq!(log.admit(Some(&peers[1]), PEER_RATE, start), Some(0));
        let later = start + Duration::from_secs(1);
        assert_eq!(log.admit(Some(&peers[0]), PEER_RATE, later), Some(10_000 - u64::from(PEER_RATE.burst)));
        assert_eq!(log.admit(Some(&peers[0]), PEER_RATE, later), None, "one a second");
        assert!(
            log.admit(Some(&peers[0]), OWN_RATE, later).is_some(),
            "a peer's words take no line from the donor's own"
        );
    }

    #[test]
    fn peers_beyond_the_bound_share_a_budget() {
        let (mut log, now) = (AuditLog::default(), Instant::now());
        for n in 0..2 * MAX_PEERS {
            let peer: ClusterName = format!("c{n}").parse().unwrap();
            log.admit(Some(&peer), PEER_RATE, now);
        }
        assert!(log.budgets.len() <= MAX_PEERS + 1, "{}", log.budgets.len());
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        let mut log = AuditLog::default();
        let (peer, key): (ClusterName, ExpositionKey) = (
            "isle".parse().unwrap(),
            ExpositionKey { namespace: "shop".parse().unwrap(), name: "till".parse().unwrap() },
        );
        let mut say = |event, version| {
            let before = log.budgets.get(&Some(peer.clone())).map(|b| b.of_peer);
            let line = AuditLine {
                event,
                side: AuditSide::Donor,
                peer: Some(&peer),
                exposition: &key,
                version,
                object: "",
                reason: "",
                by: "",
            };
            log.write_use(line, Instant::now());
            log.budgets.get(&Some(peer.clone())).map(|b| b.of_peer) != before
        };
        assert!(!say(AuditEvent::Unbound, "1"), "nothing used it");
        assert!(say(AuditEvent::Bound, "1") && !say(AuditEvent::Bound, "1"));
        assert!(say(AuditEvent::Bound, "2"), "another version");
        assert!(say(AuditEvent::Unbound, "2") && !say(AuditEvent::Unbound, "2"));
    }
}
