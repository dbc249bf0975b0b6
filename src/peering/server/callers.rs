//! The behaviour of each peer as a caller. One that keeps to the protocol notices nothing of it; one that calls too
//! fast waits; one that goes on breaking limits is paused: its calls are refused for a while, and its peering says so.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

use crate::model::ClusterName;
use crate::peering::Limits;
use crate::peering::limits::{
    CALL_BURST, CALL_INTERVAL, HELLO_BURST, HELLO_INTERVAL, LONGEST_CALL_WAIT, PAUSE, STRIKE_PERIOD, STRIKES,
};
use crate::peering::pace::{Pace, StrikeCounter};

pub(super) struct CallerRegistry {
    max: usize,
    by_peer: Mutex<BTreeMap<ClusterName, CallerConduct>>,
}

struct CallerConduct {
    seen: Instant,
    calls: Pace,
    hellos: Pace,
    strikes: StrikeCounter,
    /// The time until which its calls are refused, and the reason.
    paused: Option<(Instant, String)>,
}

impl CallerConduct {
    fn new(now: Instant) -> CallerConduct {
        CallerConduct {
            seen: now,
            calls: Pace::new(CALL_INTERVAL, CALL_BURST, now),
            hellos: Pace::new(HELLO_INTERVAL, HELLO_BURST, now),
            strikes: StrikeCounter::default(),
            paused: None,
        }
    }
}

/// The reason why a call has to come again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallRefusal {
    #[error("{peer} is paused for {} s more: {why}", left.as_secs().max(1))]
    Paused { peer: ClusterName, left: Duration, why: String },
    #[error("{peer} calls more often than {} times a second", Duration::from_secs(1).as_millis() / CALL_INTERVAL.as_millis())]
    TooManyCalls { peer: ClusterName },
    #[error("{peer} subscribes again and again; once a second is enough")]
    TooManyHellos { peer: ClusterName },
}

impl CallRefusal {
    pub(super) fn is_pause(&self) -> bool {
        matches!(self, CallRefusal::Paused { .. })
    }
}

impl From<&CallRefusal> for Status {
    fn from(refusal: &CallRefusal) -> Status {
        Status::resource_exhausted(refusal.to_string())
    }
}

impl CallerRegistry {
    pub(super) fn new(limits: &Limits) -> CallerRegistry {
        CallerRegistry { max: limits.max_peers.max(1), by_peer: Mutex::default() }
    }

    /// Admits a call: returns the time that it has to wait before it is processed.
    pub(super) fn admit_call(&self, peer: &ClusterName, now: Instant) -> Result<Duration, CallRefusal> {
        self.with_conduct(peer, now, |conduct| {
            if let Some((until, why)) = &conduct.paused {
                let left = until.saturating_duration_since(now);
                if !left.is_zero() {
                    return Err(CallRefusal::Paused { peer: peer.clone(), left, why: why.clone() });
                }
                conduct.paused = None;
            }
            let wait = conduct.calls.take_units(1, now);
            if wait > LONGEST_CALL_WAIT { Err(CallRefusal::TooManyCalls { peer: peer.clone() }) } else { Ok(wait) }
        })
    }

    /// Admits a subscription.
    pub(super) fn admit_hello(&self, peer: &ClusterName, now: Instant) -> Result<(), CallRefusal> {
        let wait = self.with_conduct(peer, now, |conduct| conduct.hellos.take_units(1, now));
        if wait > Duration::ZERO { Err(CallRefusal::TooManyHellos { peer: peer.clone() }) } else { Ok(()) }
    }

    /// Records a breach of the protocol. Returns the time for which the peer is paused, if it is from now on.
    pub(super) fn add_strike(&self, peer: &ClusterName, why: &str, now: Instant) -> Option<Duration> {
        self.with_conduct(peer, now, |conduct| {
            if conduct.paused.as_ref().is_some_and(|(until, _)| *until > now) {
                return None; // what it had begun before ends now
            }
            let enough = conduct.strikes.add_strike(STRIKES, STRIKE_PERIOD, now);
            enough.then(|| {
                conduct.paused = Some((now + PAUSE, why.to_owned()));
                PAUSE
            })
        })
    }

    fn with_conduct<T>(&self, peer: &ClusterName, now: Instant, change: impl FnOnce(&mut CallerConduct) -> T) -> T {
        let mut by_peer = self.lock();
        if !by_peer.contains_key(peer) && by_peer.len() >= self.max {
            let longest = by_peer.iter().min_by_key(|(_, conduct)| conduct.seen).map(|(peer, _)| peer.clone());
            longest.map(|longest| by_peer.remove(&longest));
        }
        let conduct = by_peer.entry(peer.clone()).or_insert_with(|| CallerConduct::new(now));
        conduct.seen = now;
        change(conduct)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, CallerConduct>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn callers() -> CallerRegistry {
        CallerRegistry::new(&Limits::default())
    }

    #[test]
    fn a_peer_that_breaks_limits_again_and_again_is_paused_for_a_while_and_no_other_is() {
        let (callers, now) = (callers(), Instant::now());
        let (bad, good) = (peer("bad"), peer("good"));
        let pauses: Vec<_> = (0..STRIKES).map(|_| callers.add_strike(&bad, "half-sent", now).is_some()).collect();
        assert_eq!(pauses.iter().filter(|paused| **paused).count(), 1);
        assert!(pauses.last().is_some_and(|paused| *paused));
        let refusal = callers.admit_call(&bad, now).unwrap_err();
        assert_eq!(refusal.to_string(), format!("bad is paused for {} s more: half-sent", PAUSE.as_secs()));
        assert_eq!(callers.admit_call(&good, now), Ok(Duration::ZERO));
        assert_eq!(callers.admit_call(&bad, now + PAUSE), Ok(Duration::ZERO));
    }

    #[test]
    fn a_peer_that_calls_too_fast_waits_and_at_last_is_refused() {
        let (callers, now) = (callers(), Instant::now());
        let waits: Vec<_> = (0..1000).map_while(|_| callers.admit_call(&peer("b"), now).ok()).collect();
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits.is_sorted() && waits.last().is_some_and(|wait| *wait > LONGEST_CALL_WAIT / 2));
        assert!(matches!(callers.admit_call(&peer("b"), now), Err(CallRefusal::TooManyCalls { .. })));
        assert_eq!(callers.admit_call(&peer("c"), now), Ok(Duration::ZERO));
    }

    #[test]
    fn only_so_many_peers_are_remembered() {
        let callers = CallerRegistry::new(&Limits { max_peers: 2, ..Limits::default() });
        let now = Instant::now();
        for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            callers.admit_call(&peer(name), now + Duration::from_secs(n as u64)).unwrap();
        }
        assert_eq!(callers.lock().keys().map(ClusterName::as_str).collect::<Vec<_>>(), ["c", "d"]);
    }
}
