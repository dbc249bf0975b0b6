//! The audit trail: one log line for each change of who may use, and uses, an exposition. docs/reference/audit.md
//! documents its form, which other programs read.
//!
//! The same line is not written twice. Peers decide how often something happens, so each has a budget of lines, and so
//! has each exposition in it. The next line about a peer counts the lines that were left out.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::acceptor::OfferVerdict;
use super::pace::{TokenBucket, TokenRate};
use crate::model::{ClusterName, ExpositionKey};
use crate::peering::convert::{ExpositionOutcome, OutcomeState};

/// Rate of lines about one peer that follow from policies of this cluster.
const OWN_RATE: TokenRate = TokenRate { burst: 4096, every: Duration::from_millis(50) };
/// Rate of lines about one peer that follow from its words: a log grows by one line a second, however often a peer
/// changes its mind. The burst is for the many expositions that objects of this cluster name, whose number the peer
/// does not decide.
const PEER_RATE: TokenRate = TokenRate { burst: 1024, every: Duration::from_secs(1) };
/// Rate of such lines about one exposition, so that a peer that contradicts itself cannot use the burst.
const EXPOSITION_RATE: TokenRate = TokenRate { burst: 8, every: Duration::from_secs(10) };
/// Rate of lines about offers that no object of this cluster names: the peer alone decides their number.
const UNNAMED_RATE: TokenRate = TokenRate { burst: 32, every: Duration::from_secs(1) };
/// Peers that have a budget of their own. All others share one.
const MAX_PEERS: usize = 1024;
/// Reason of a rejection whose name somebody else holds.
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

/// The side of the wire on which the change happened.
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
    /// The other cluster. None: the line concerns all of them.
    pub peer: Option<&'a ClusterName>,
    pub exposition: &'a ExpositionKey,
    pub version: &'a str,
    /// The policy or the bindings behind the change.
    pub object: &'a str,
    /// The reason, in one word.
    pub reason: &'a str,
    /// The last writer of the object, as far as the store knows.
    pub by: &'a str,
}

/// The budget that a line counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineOrigin {
    /// The donor's own decision.
    Own,
    /// The peer's words about something that an object of this cluster names.
    Named,
    /// The peer's words about anything else.
    Unnamed,
}

impl AuditLine<'_> {
    fn line_origin(&self) -> LineOrigin {
        let own = [AuditEvent::Exposed, AuditEvent::Offered, AuditEvent::Withdrawn].contains(&self.event);
        match self.side {
            AuditSide::Donor if own => LineOrigin::Own,
            AuditSide::Acceptor if self.object.is_empty() => LineOrigin::Unnamed,
            _ => LineOrigin::Named,
        }
    }

    fn exposition_use(&self) -> Option<ExpositionUse> {
        self.peer.map(|peer| (self.side, peer.clone(), self.exposition.clone()))
    }
}

/// One exposition between this cluster and a peer.
type ExpositionUse = (AuditSide, ClusterName, ExpositionKey);

/// Returns the event of an acceptor's outcome, with its reason.
pub fn event_of_outcome(outcome: &ExpositionOutcome) -> (AuditEvent, &str) {
    match outcome.state {
        OutcomeState::Bound => (AuditEvent::Bound, ""),
        OutcomeState::Offered => (AuditEvent::Unbound, ""),
        OutcomeState::Rejected => (AuditEvent::of_rejection(&outcome.reason), &outcome.reason),
    }
}

pub fn event_of_verdict(verdict: &OfferVerdict) -> (AuditEvent, &str) {
    match verdict {
        OfferVerdict::Bound => (AuditEvent::Bound, ""),
        OfferVerdict::Offered => (AuditEvent::Unbound, ""),
        OfferVerdict::Rejected { reason, .. } => (AuditEvent::of_rejection(reason), reason),
    }
}

#[derive(Default)]
struct PeerBudget {
    own: TokenBucket,
    of_peer: TokenBucket,
    left_out: u64,
}

impl PeerBudget {
    fn bucket_for(&mut self, origin: LineOrigin) -> (&mut TokenBucket, TokenRate) {
        match origin {
            LineOrigin::Own => (&mut self.own, OWN_RATE),
            LineOrigin::Named => (&mut self.of_peer, PEER_RATE),
            LineOrigin::Unnamed => (&mut self.of_peer, UNNAMED_RATE),
        }
    }
}

/// The last lines about one exposition.
#[derive(Default)]
struct ExpositionTrail {
    /// The last line about its use.
    said: Option<u64>,
    pace: TokenBucket,
}

/// Writes the audit trail.
#[derive(Default)]
pub struct AuditLog {
    budgets: BTreeMap<Option<ClusterName>, PeerBudget>,
    trails: BTreeMap<ExpositionUse, ExpositionTrail>,
    /// Number of trails after the last removal of empty ones.
    kept: usize,
    /// Expositions with a reported name conflict, by policy or binding.
    conflicts: BTreeMap<String, BTreeSet<(Option<ClusterName>, ExpositionKey)>>,
}

impl AuditLog {
    /// Writes a line, or counts it. Returns whether it is written.
    pub fn write_line(&mut self, line: AuditLine<'_>, now: Instant) -> bool {
        let Some(left_out) = self.admit_line(line.peer, line.exposition_use(), line.line_origin(), now) else {
            return false;
        };
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
        true
    }

    /// Writes a line about the use of an exposition, if it is new. An unused exposition that stays unused is not. A
    /// line that was left out counts as not written.
    pub fn write_use(&mut self, line: AuditLine<'_>, now: Instant) {
        let Some(key) = line.exposition_use() else { return };
        let mut hasher = DefaultHasher::new();
        (line.event, line.version, line.reason).hash(&mut hasher);
        let said = (line.event != AuditEvent::Unbound).then(|| hasher.finish());
        let before = self.trails.get(&key).and_then(|trail| trail.said);
        if said != before && self.write_line(line, now) {
            self.trails.entry(key).or_default().said = said;
        }
    }

    /// Notes if somebody else holds the name that a policy or binding (`line.object`) asks for, and writes a line if
    /// that is new.
    pub fn write_conflict(&mut self, line: AuditLine<'_>, contested: bool, now: Instant) {
        let about = (line.peer.cloned(), line.exposition.clone());
        if contested {
            if self.conflicts.entry(line.object.to_owned()).or_default().insert(about) {
                self.write_line(AuditLine { event: AuditEvent::Conflict, reason: CONFLICT, ..line }, now);
            }
        } else if let Some(expositions) = self.conflicts.get_mut(line.object) {
            expositions.remove(&about);
            if expositions.is_empty() {
                self.conflicts.remove(line.object);
            }
        }
    }

    /// Forgets the conflicts of a policy or binding that changed or is gone, so that they are reported again.
    pub fn forget_object(&mut self, object: &str) {
        self.conflicts.remove(object);
    }

    /// Forgets an exposition that is not offered any more: its use ends with it.
    pub fn forget_exposition(&mut self, side: AuditSide, peer: &ClusterName, exposition: &ExpositionKey) {
        if let Some(trail) = self.trails.get_mut(&(side, peer.clone(), exposition.clone())) {
            trail.said = None; // the pace stays, so that offering it again does not reset it
        }
    }

    /// Returns the number of lines that were left out before this one. None: this line is left out, too.
    fn admit_line(
        &mut self,
        peer: Option<&ClusterName>,
        key: Option<ExpositionUse>,
        origin: LineOrigin,
        now: Instant,
    ) -> Option<u64> {
        self.forget_quiet(now);
        let full = self.budgets.len() >= MAX_PEERS;
        let peer = peer.filter(|peer| !full || self.budgets.contains_key(&Some((*peer).clone()))).cloned();
        let budget = self.budgets.entry(peer).or_default();
        let key = key.filter(|_| origin == LineOrigin::Named);
        let mut pace = key.as_ref().and_then(|key| self.trails.get(key)).map(|trail| trail.pace).unwrap_or_default();
        let (bucket, rate) = budget.bucket_for(origin);
        if pace.admit(EXPOSITION_RATE, now).and_then(|()| bucket.admit(rate, now)).is_err() {
            budget.left_out += 1;
            return None;
        }
        if let Some(key) = key {
            self.trails.entry(key).or_default().pace = pace;
        }
        Some(std::mem::take(&mut budget.left_out))
    }

    fn forget_quiet(&mut self, now: Instant) {
        if self.trails.len() > 2 * self.kept + 1024 {
            self.trails.retain(|_, trail| trail.said.is_some() || !trail.pace.is_full(now));
            self.kept = self.trails.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposition(n: usize) -> ExpositionKey {
        ExpositionKey { namespace: "shop".parse().unwrap(), name: format!("s{n}").parse().unwrap() }
    }

    /// Lines of so many expositions in turn that are written.
    fn written(log: &mut AuditLog, peer: &str, origin: LineOrigin, expositions: usize, now: Instant) -> usize {
        let peer: ClusterName = peer.parse().unwrap();
        let key = |n| Some((AuditSide::Acceptor, peer.clone(), exposition(n % expositions)));
        (0..10_000).filter(|n| log.admit_line(Some(&peer), key(*n), origin, now).is_some()).count()
    }

    #[test]
    fn a_peer_that_does_much_has_its_lines_counted_and_takes_none_from_others() {
        let (mut log, start) = (AuditLog::default(), Instant::now());
        assert_eq!(written(&mut log, "loud", LineOrigin::Named, 5000, start), PEER_RATE.burst as usize);
        assert_eq!(written(&mut log, "quiet", LineOrigin::Named, 5000, start), PEER_RATE.burst as usize);
        let later = start + Duration::from_secs(1);
        let loud: ClusterName = "loud".parse().unwrap();
        assert_eq!(
            log.admit_line(Some(&loud), None, LineOrigin::Named, later),
            Some(10_000 - u64::from(PEER_RATE.burst))
        );
        assert_eq!(log.admit_line(Some(&loud), None, LineOrigin::Named, later), None, "one a second");
        assert!(
            log.admit_line(Some(&loud), None, LineOrigin::Own, later).is_some(),
            "a peer's words take no line from the donor's own"
        );
    }

    #[test]
    fn a_peer_that_offers_anything_or_changes_one_thing_for_ever_has_few_lines_and_takes_none_from_the_rest() {
        let (mut log, start) = (AuditLog::default(), Instant::now());
        assert_eq!(written(&mut log, "loud", LineOrigin::Unnamed, 5000, start), UNNAMED_RATE.burst as usize);
        assert_eq!(written(&mut log, "loud", LineOrigin::Named, 1, start), EXPOSITION_RATE.burst as usize);
        let rest = (PEER_RATE.burst - UNNAMED_RATE.burst - EXPOSITION_RATE.burst) as usize;
        assert_eq!(written(&mut log, "loud", LineOrigin::Named, 5000, start), rest, "the rest of the burst");
        let minute: usize = (1..=60)
            .map(|second| written(&mut log, "loud", LineOrigin::Unnamed, 5000, start + Duration::from_secs(second)))
            .sum();
        assert_eq!(minute, 0, "while the burst is used up");
    }

    #[test]
    fn an_exposition_that_comes_and_goes_keeps_its_pace_and_is_forgotten_in_the_end() {
        let (mut log, start) = (AuditLog::default(), Instant::now());
        let peer: ClusterName = "isle".parse().unwrap();
        assert_eq!(written(&mut log, "isle", LineOrigin::Named, 1, start), EXPOSITION_RATE.burst as usize);
        log.forget_exposition(AuditSide::Acceptor, &peer, &exposition(0));
        assert_eq!(written(&mut log, "isle", LineOrigin::Named, 1, start), 0);
        for n in 0..100_000 {
            let key = (AuditSide::Acceptor, peer.clone(), exposition(n));
            log.admit_line(Some(&peer), Some(key), LineOrigin::Named, start + Duration::from_secs(n as u64));
        }
        assert!(log.trails.len() < 3000, "{}", log.trails.len());
    }

    #[test]
    fn peers_beyond_the_bound_share_a_budget() {
        let (mut log, now) = (AuditLog::default(), Instant::now());
        for n in 0..2 * MAX_PEERS {
            let peer: ClusterName = format!("c{n}").parse().unwrap();
            log.admit_line(Some(&peer), None, LineOrigin::Named, now);
        }
        assert!(log.budgets.len() <= MAX_PEERS + 1, "{}", log.budgets.len());
    }

    #[test]
    fn a_conflict_is_said_once_until_it_is_over_or_the_object_is_another() {
        let mut log = AuditLog::default();
        let key = ExpositionKey { namespace: "shop".parse().unwrap(), name: "till".parse().unwrap() };
        let object = "ServiceExpositionPolicy shop/late";
        let mut says = |contested, changed| {
            if changed {
                log.forget_object(object);
            }
            let before = log.budgets.get(&None).map(|b| b.of_peer);
            let line = AuditLine {
                event: AuditEvent::Conflict,
                side: AuditSide::Donor,
                peer: None,
                exposition: &key,
                version: "",
                object,
                reason: "",
                by: "",
            };
            log.write_conflict(line, contested, Instant::now());
            log.budgets.get(&None).map(|b| b.of_peer) != before
        };
        assert!(!says(false, false), "there is none");
        assert!(says(true, false) && !says(true, false));
        assert!(says(true, true), "the policy was changed, and is in conflict still");
        assert!(!says(false, false) && says(true, false), "it was over in between");
        assert!(!says(false, true));
        assert!(log.conflicts.is_empty(), "nothing is kept of what is over");
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
