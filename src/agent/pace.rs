//! Limits the rate at which a peer causes writes in this cluster. Pure: the clock comes from outside.
//!
//! Each local name, and each peer, has a bucket of tokens. A change that a peer causes takes one token of each. Without
//! a token, the name waits for the next one, and then the newest state is written: nothing is lost, and nothing in
//! between is written. Withdrawals have buckets of their own, so that they do not wait for changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::ClusterName;
use crate::translate::LocalName;

/// Changes of one local name that are written without delay, unless the configuration sets another number.
pub const DEFAULT_BURST: u32 = 10;

/// The number of changes that pass at once, and the time after which one more passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRate {
    pub burst: u32,
    pub every: Duration,
}

/// The rates of writes that peers cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRates {
    pub local_name: TokenRate,
    pub peer: TokenRate,
    /// Rate of self-made bindings, and of statuses of the peering: each peer has one object of each.
    pub peer_object: TokenRate,
}

impl WriteRates {
    /// Builds the rates. `burst` is that of a local name.
    pub fn of_burst(burst: u32) -> WriteRates {
        WriteRates {
            local_name: TokenRate { burst, every: Duration::from_secs(1) },
            peer: TokenRate { burst: burst.saturating_mul(200), every: Duration::from_millis(50) },
            peer_object: TokenRate { burst: burst.saturating_mul(2), every: Duration::from_secs(5) },
        }
    }
}

/// A bucket of tokens, stored as the time at which it is full again (the "generic cell rate algorithm", ATM Forum TM
/// 4.0).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// Returns the time at which there is a token: now, or later.
    fn next(self, rate: TokenRate, now: Instant) -> Instant {
        let ahead = rate.every.saturating_mul(rate.burst.saturating_sub(1));
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        full_at.checked_sub(ahead).map_or(now, |at| at.max(now))
    }

    fn take_token(&mut self, rate: TokenRate, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + rate.every);
    }

    /// Takes a token, or returns the time at which there is one.
    pub fn admit(&mut self, rate: TokenRate, now: Instant) -> Result<(), Instant> {
        let next = self.next(rate, now);
        if next > now {
            return Err(next);
        }
        self.take_token(rate, now);
        Ok(())
    }

    pub fn is_full(self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// The kind of change that a peer makes to a local name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CauseKind {
    Change,
    Withdrawal,
}

/// The buckets of all local names and peers. Full ones are not kept.
pub struct WritePace {
    rates: WriteRates,
    names: BTreeMap<(LocalName, CauseKind), TokenBucket>,
    peers: BTreeMap<(ClusterName, CauseKind), TokenBucket>,
    /// Number of buckets after the last removal of full ones.
    kept: usize,
}

impl WritePace {
    pub fn new(rates: WriteRates) -> WritePace {
        WritePace { rates, names: BTreeMap::new(), peers: BTreeMap::new(), kept: 0 }
    }

    /// Takes a token of the name and one of the peer, or returns the time at which there are both.
    pub fn admit_write(
        &mut self,
        peer: &ClusterName,
        name: &LocalName,
        kind: CauseKind,
        now: Instant,
    ) -> Result<(), Instant> {
        self.forget_full(now);
        let WriteRates { local_name, peer: of_peer, .. } = self.rates;
        let by_name = self.names.entry((name.clone(), kind)).or_default();
        let by_peer = self.peers.entry((peer.clone(), kind)).or_default();
        let next = by_name.next(local_name, now).max(by_peer.next(of_peer, now));
        if next > now {
            return Err(next);
        }
        by_name.take_token(local_name, now);
        by_peer.take_token(of_peer, now);
        Ok(())
    }

    fn forget_full(&mut self, now: Instant) {
        let buckets = self.names.len() + self.peers.len();
        if buckets > 2 * self.kept + 1024 {
            self.names.retain(|_, bucket| !bucket.is_full(now));
            self.peers.retain(|_, bucket| !bucket.is_full(now));
            self.kept = self.names.len() + self.peers.len();
        }
    }
}

/// Condition of bindings and peerings, and its reason. It is present only while it holds.
pub const FLAPPING: &str = "Flapping";
/// Time for which a name counts as flapping after it last had to wait.
const LINGER: Duration = Duration::from_secs(10);

/// The local names that peers touched, and those that wait for a token.
pub struct PacedNames {
    pace: WritePace,
    /// Marked names of which a peer is the only cause.
    causes: BTreeMap<LocalName, (ClusterName, CauseKind)>,
    /// Names that are held back, and until when.
    held_back: BTreeMap<LocalName, Instant>,
    /// Names that had to wait because of a peer, and until when that is reported.
    flapping: BTreeMap<LocalName, (ClusterName, Instant)>,
    /// Names that started or stopped being reported as flapping, with the peer, since the last request.
    turned: Vec<(LocalName, ClusterName)>,
}

impl PacedNames {
    pub fn new(rates: WriteRates) -> PacedNames {
        PacedNames {
            pace: WritePace::new(rates),
            causes: BTreeMap::new(),
            held_back: BTreeMap::new(),
            flapping: BTreeMap::new(),
            turned: Vec::new(),
        }
    }

    /// Notes that a peer touched a name. `is_marked`: it is evaluated anyway. Returns whether it must be marked for
    /// evaluation now.
    pub fn touch_name(&mut self, name: &LocalName, peer: &ClusterName, kind: CauseKind, is_marked: bool) -> bool {
        if is_marked && !self.causes.contains_key(name) {
            return true; // somebody else is a cause too
        }
        let before = self.causes.insert(name.clone(), (peer.clone(), kind));
        let was_withdrawn = before.is_some_and(|(_, kind)| kind == CauseKind::Withdrawal);
        if kind == CauseKind::Withdrawal && !was_withdrawn {
            self.held_back.remove(name); // it does not wait for a token of changes
        }
        !self.held_back.contains_key(name)
    }

    /// Frees a name from waiting: somebody else than a peer touched it.
    pub fn free_name(&mut self, name: &LocalName) {
        self.causes.remove(name);
        self.held_back.remove(name);
    }

    /// Returns whether a marked name may be evaluated now. If not, it is held back.
    pub fn admit_name(&mut self, name: &LocalName, now: Instant) -> bool {
        let Some((peer, kind)) = self.causes.get(name).cloned() else { return true };
        match self.pace.admit_write(&peer, name, kind, now) {
            Ok(()) => {
                self.causes.remove(name);
                true
            }
            Err(next) => {
                self.held_back.insert(name.clone(), next);
                if self.flapping.insert(name.clone(), (peer.clone(), now + LINGER)).is_none() {
                    self.turned.push((name.clone(), peer));
                }
                false
            }
        }
    }

    /// Returns the time at which something must be released.
    pub fn next_due(&self) -> Option<Instant> {
        let until = self.flapping.values().map(|(_, until)| until);
        self.held_back.values().chain(until).min().copied()
    }

    /// Returns the names whose time has come.
    pub fn release_due(&mut self, now: Instant) -> Vec<LocalName> {
        let over = self.flapping.iter().filter(|(_, (_, until))| *until <= now);
        self.turned.extend(over.map(|(name, (peer, _))| (name.clone(), peer.clone())));
        self.flapping.retain(|_, (_, until)| *until > now);
        let due: Vec<_> = self.held_back.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        self.held_back.retain(|_, at| *at > now);
        due
    }

    pub fn drain_turned(&mut self) -> Vec<(LocalName, ClusterName)> {
        std::mem::take(&mut self.turned)
    }

    /// Returns the peer that makes a name flap, if one does.
    pub fn flaps_by(&self, name: &LocalName) -> Option<&ClusterName> {
        self.flapping.get(name).map(|(peer, _)| peer)
    }

    /// Returns the number of names that a peer makes flap.
    pub fn flapping_of(&self, peer: &ClusterName) -> usize {
        self.flapping.values().filter(|(by, _)| by == peer).count()
    }
}

impl Default for PacedNames {
    fn default() -> PacedNames {
        PacedNames::new(WriteRates::of_burst(DEFAULT_BURST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Label;

    fn name(n: usize) -> LocalName {
        let name: Label = format!("s{n}").parse().unwrap();
        LocalName { namespace: "default".parse().unwrap(), name }
    }

    fn peer() -> ClusterName {
        "isle".parse().unwrap()
    }

    fn admitted(pace: &mut WritePace, n: usize, kind: CauseKind, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| pace.admit_write(&peer(), &name(n), kind, now).is_ok()).count()
    }

    #[test]
    fn a_name_that_changes_all_the_time_has_a_burst_and_then_a_change_a_second() {
        let mut pace = WritePace::new(WriteRates::of_burst(10));
        let start = Instant::now();
        assert_eq!(admitted(&mut pace, 1, CauseKind::Change, 9000, start), 10);
        let next = pace.admit_write(&peer(), &name(1), CauseKind::Change, start).unwrap_err();
        assert_eq!(next - start, Duration::from_secs(1));
        let over_a_minute: usize = (1..=600u32)
            .map(|tenth| admitted(&mut pace, 1, CauseKind::Change, 100, start + Duration::from_millis(100) * tenth))
            .sum();
        assert_eq!(over_a_minute, 60);
        let later = start + Duration::from_secs(3600);
        assert_eq!(admitted(&mut pace, 1, CauseKind::Change, 9000, later), 10, "quiet fills the bucket");
    }

    #[test]
    fn a_thousand_names_at_once_do_not_wait_for_each_other() {
        let mut pace = WritePace::new(WriteRates::of_burst(10));
        let now = Instant::now();
        assert!((0..2000).all(|n| pace.admit_write(&peer(), &name(n), CauseKind::Change, now).is_ok()));
        let next = pace.admit_write(&peer(), &name(2000), CauseKind::Change, now).unwrap_err();
        assert_eq!(next - now, Duration::from_millis(50), "then twenty a second of one peer");
        let other: ClusterName = "reef".parse().unwrap();
        assert!(pace.admit_write(&other, &name(2000), CauseKind::Change, now).is_ok(), "and others have their own");
    }

    #[test]
    fn a_withdrawal_does_not_wait_for_changes() {
        let mut pace = WritePace::new(WriteRates::of_burst(10));
        let now = Instant::now();
        admitted(&mut pace, 1, CauseKind::Change, 9000, now);
        assert_eq!(admitted(&mut pace, 1, CauseKind::Withdrawal, 9000, now), 10, "and is bounded all the same");
    }

    #[test]
    fn full_buckets_are_not_kept() {
        let mut pace = WritePace::new(WriteRates::of_burst(10));
        let start = Instant::now();
        for n in 0..100_000 {
            let _ =
                pace.admit_write(&peer(), &name(n), CauseKind::Change, start + Duration::from_millis(50 * n as u64));
        }
        assert!(pace.names.len() < 3000, "{}", pace.names.len());
    }

    #[test]
    fn a_name_that_had_to_wait_is_evaluated_once_for_all_that_happened_meanwhile() {
        let mut names = PacedNames::default();
        let start = Instant::now();
        let (s, isle) = (name(1), peer());
        let change = |names: &mut PacedNames| names.touch_name(&s, &isle, CauseKind::Change, false);
        (0..10).for_each(|_| assert!(change(&mut names) && names.admit_name(&s, start)));
        assert!(change(&mut names) && !names.admit_name(&s, start), "the eleventh waits");
        assert_eq!(names.drain_turned(), [(s.clone(), isle.clone())]);
        assert!(!change(&mut names), "and others with it");
        assert_eq!(names.release_due(start), []);
        let due = names.next_due().unwrap();
        assert_eq!((due - start, names.release_due(due)), (Duration::from_secs(1), vec![s.clone()]));
        assert!(names.admit_name(&s, due));
        assert_eq!((names.flaps_by(&s), names.flapping_of(&isle)), (Some(&isle), 1), "it is still told");
        assert_eq!(names.release_due(start + LINGER), []);
        assert_eq!(names.flaps_by(&s), None, "and not for ever");
        assert_eq!(names.drain_turned().len(), 1);
    }

    #[test]
    fn what_somebody_else_changes_does_not_wait_for_the_peers_tokens() {
        let mut names = PacedNames::default();
        let (start, s, isle) = (Instant::now(), name(1), peer());
        for _ in 0..11 {
            names.touch_name(&s, &isle, CauseKind::Change, false);
            names.admit_name(&s, start);
        }
        names.free_name(&s);
        assert!(names.admit_name(&s, start));
        assert!(
            names.touch_name(&s, &isle, CauseKind::Change, true) && names.admit_name(&s, start),
            "it was marked anyway"
        );
    }

    #[test]
    fn a_withdrawal_passes_a_name_that_waits() {
        let mut names = PacedNames::default();
        let (start, s, isle) = (Instant::now(), name(1), peer());
        for _ in 0..11 {
            names.touch_name(&s, &isle, CauseKind::Change, false);
            names.admit_name(&s, start);
        }
        assert!(names.touch_name(&s, &isle, CauseKind::Withdrawal, false) && names.admit_name(&s, start));
    }
}
