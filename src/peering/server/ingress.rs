//! The incoming side of one connection, below TLS: it bounds the bytes of a stranger before its identity is known, the
//! pace of an identity afterwards, and the bytes that are read before others have a turn.
//!
//! HTTP/2 keeps each frame that is not read, however small, at some hundred bytes; so no request is left unread here to
//! slow down a peer. The socket itself is left alone for a while, and TCP holds the peer's side.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::model::SpiffeId;
use crate::peering::limits::{
    HANDSHAKE_BURST, HANDSHAKE_INTERVAL, INGRESS_BURST, INGRESS_INTERVAL, INGRESS_UNIT, LONGEST_PAUSE,
    MAX_HANDSHAKE_BYTES, SPARE_HANDSHAKE_BURST, SPARE_HANDSHAKE_INTERVAL,
};
use crate::peering::pace::Pace;

/// Bytes of one connection that are read before others have a turn.
const TURN: usize = 16 << 10;

/// A pace for each key.
pub(super) struct PaceBook<K> {
    max: usize,
    interval: Duration,
    burst: u32,
    paces: Mutex<BTreeMap<K, Pace>>,
}

impl<K: Ord + Clone> PaceBook<K> {
    pub(super) fn new(max: usize, interval: Duration, burst: u32) -> PaceBook<K> {
        PaceBook { max, interval, burst, paces: Mutex::default() }
    }

    /// Takes some units; returns the wait until they are within the pace. A caller that would wait for too long takes
    /// nothing, and is not remembered for it.
    pub(super) fn take_units(
        &self,
        key: &K,
        units: u32,
        longest: Duration,
        now: std::time::Instant,
    ) -> Option<Duration> {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        if !paces.contains_key(key) && paces.len() >= self.max {
            paces.retain(|_, pace| !pace.is_paid(now)); // as good as new
            if paces.len() >= self.max {
                return Some(Duration::ZERO);
            }
        }
        let pace = paces.entry(key.clone()).or_insert_with(|| Pace::new(self.interval, self.burst, now));
        pace.take_units_within(units, longest, now)
    }
}

/// The paces of TLS handshakes: one for each source, and one that all of them share beyond it.
pub(super) struct HandshakePaces<K> {
    of_sources: PaceBook<K>,
    spare: Mutex<Pace>,
}

impl<K: Ord + Clone> HandshakePaces<K> {
    pub(super) fn new(max_sources: usize, now: std::time::Instant) -> HandshakePaces<K> {
        HandshakePaces {
            of_sources: PaceBook::new(max_sources, HANDSHAKE_INTERVAL, HANDSHAKE_BURST),
            spare: Mutex::new(Pace::new(SPARE_HANDSHAKE_INTERVAL, SPARE_HANDSHAKE_BURST, now)),
        }
    }

    /// Takes one handshake of a source; returns the wait until it may go on, or nothing if that is longer than `longest`.
    pub(super) fn take_handshake(&self, source: &K, longest: Duration, now: std::time::Instant) -> Option<Duration> {
        let at_once = Duration::ZERO;
        self.of_sources
            .take_units(source, 1, at_once, now)
            .or_else(|| self.take_spare(now))
            .or_else(|| self.of_sources.take_units(source, 1, longest, now))
    }

    fn take_spare(&self, now: std::time::Instant) -> Option<Duration> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.take_units_within(1, Duration::ZERO, now)
    }
}

/// The paces of all identities.
pub(super) type IngressPaces = PaceBook<SpiffeId>;

pub(super) fn ingress_paces(max: usize) -> Arc<IngressPaces> {
    Arc::new(PaceBook::new(max, INGRESS_INTERVAL, INGRESS_BURST))
}

/// The incoming side of a connection, as the tasks that serve it see it.
pub(super) struct ConnectionIngress {
    state: Mutex<IngressState>,
}

struct IngressState {
    /// Bytes that may come before the sender is known.
    handshake: Option<usize>,
    meter: Option<(SpiffeId, Arc<IngressPaces>)>,
    resume: Option<Instant>,
}

impl ConnectionIngress {
    pub(super) fn new() -> Arc<ConnectionIngress> {
        let state = IngressState { handshake: Some(MAX_HANDSHAKE_BYTES), meter: None, resume: None };
        Arc::new(ConnectionIngress { state: Mutex::new(state) })
    }

    /// Sets the identity of the sender: from now on that identity's pace counts.
    pub(super) fn set_sender(&self, id: Option<SpiffeId>, paces: &Arc<IngressPaces>) {
        let mut state = self.lock();
        state.handshake = None;
        state.meter = id.map(|id| (id, paces.clone()));
    }

    /// Reads nothing for a while; never so long that the peer's answer to a PING would be missed.
    pub(super) fn pause_reading(&self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let resume = Instant::now() + wait.min(LONGEST_PAUSE);
        let mut state = self.lock();
        state.resume = Some(state.resume.map_or(resume, |before| before.max(resume)));
    }

    fn resume_time(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state.resume.is_some_and(|resume| resume <= Instant::now()) {
            state.resume = None;
        }
        state.resume
    }

    fn record_bytes(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(left) = &mut state.handshake {
            let Some(rest) = left.checked_sub(bytes) else {
                let why = format!("it sends more than {MAX_HANDSHAKE_BYTES} bytes before the TLS handshake is done");
                return Err(io::Error::other(why));
            };
            *left = rest;
        }
        let Some((id, paces)) = &state.meter else { return Ok(()) };
        let units = u32::try_from(bytes.div_ceil(INGRESS_UNIT)).unwrap_or(u32::MAX);
        let now = std::time::Instant::now();
        let wait = paces.take_units(id, units, LONGEST_PAUSE, now).unwrap_or(LONGEST_PAUSE);
        drop(state);
        self.pause_reading(wait);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, IngressState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose incoming side is metered.
pub(super) struct MeteredTcp {
    tcp: TcpStream,
    ingress: Arc<ConnectionIngress>,
    sleep: Option<Pin<Box<Sleep>>>,
    turn: usize,
}

impl MeteredTcp {
    pub(super) fn new(tcp: TcpStream, ingress: Arc<ConnectionIngress>) -> MeteredTcp {
        MeteredTcp { tcp, ingress, sleep: None, turn: 0 }
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.tcp
    }

    fn poll_resume(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(resume) = self.ingress.resume_time() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(resume)));
            sleep.as_mut().reset(resume);
            ready!(sleep.as_mut().poll(context));
        }
        self.sleep = None;
        Poll::Ready(())
    }
}

impl AsyncRead for MeteredTcp {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_resume(context));
        if self.turn >= TURN {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let result = Pin::new(&mut self.tcp).poll_read(context, into);
        let bytes = into.filled().len() - before;
        match result {
            Poll::Ready(Ok(())) => {
                self.turn += bytes;
                Poll::Ready(self.ingress.record_bytes(bytes))
            }
            Poll::Pending => {
                self.turn = 0;
                Poll::Pending
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl AsyncWrite for MeteredTcp {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn each_has_a_pace_of_its_own_and_whoever_waits_too_long_is_not_remembered_for_it() {
        let second = Duration::from_secs(1);
        let (book, now) = (PaceBook::new(2, second, 2), Instant::now());
        let take = |who| book.take_units(&who, 1, second, now);
        assert_eq!([take("a"), take("a"), take("a"), take("a"), take("a")], {
            let at_once = Some(Duration::ZERO);
            [at_once, at_once, Some(second), None, None]
        });
        assert_eq!(take("b"), Some(Duration::ZERO));
        assert_eq!(take("c"), Some(Duration::ZERO), "there is no room to remember it");
        assert_eq!(book.take_units(&"a", 1, second, now + second), Some(second));
        assert_eq!(book.take_units(&"c", 1, second, now + second * 9), Some(Duration::ZERO));
        assert!(book.paces.lock().unwrap().len() <= 2);
    }

    #[test]
    fn a_source_that_used_up_its_handshakes_has_a_share_of_the_spare_ones_and_others_keep_theirs() {
        let now = Instant::now();
        let (paces, longest) = (HandshakePaces::new(8, now), Duration::from_secs(5));
        let admitted = |source, now| (0..1000).map_while(|_| paces.take_handshake(&source, longest, now)).collect();
        let flood: Vec<Duration> = admitted("gateway", now);
        let at_once = flood.iter().filter(|wait| wait.is_zero()).count();
        assert_eq!(at_once, 128 + 100, "its own, and the spare ones");
        assert_eq!(flood.len() - at_once, 10, "two a second wait for up to 5 s");
        let second = now + Duration::from_secs(1);
        let later: Vec<Duration> = admitted("gateway", second);
        assert_eq!(later.iter().filter(|wait| wait.is_zero()).count(), 100, "a hundred a second go on");
        let other: Vec<Duration> = admitted("elsewhere", second);
        assert_eq!(other.iter().filter(|wait| wait.is_zero()).count(), 128, "another source lacks nothing");
    }
}
