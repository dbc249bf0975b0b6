//! The server's records about its callers: its log, which they cannot fill, and paused peers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::callers::CallerRegistry;
use crate::model::ClusterName;
use crate::peering::fair::PoolShare;
use crate::peering::limits::{ANSWER_PART, SMALL_ANSWER};
use crate::peering::{Limits, Subscribers};
use crate::telemetry::CountedLog;

/// Lines of the same kind of caller come at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The subject of a line of the log. Each has lines of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LogSubject {
    /// A client that opens a connection and is not let in.
    Stranger,
    /// A client that shows a certificate under the root, and is no peer.
    NoPeer,
    /// The listener itself.
    Listener,
    Peer(ClusterName),
}

pub(super) struct CallerOversight {
    pub(super) callers: CallerRegistry,
    subscribers: Subscribers,
    lines: CountedLog<LogSubject>,
    /// Bytes that HTTP/2 holds of an answer that is over, and the time until the connection ends if they are not read.
    unsent: usize,
    unsent_for: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl CallerOversight {
    pub(super) fn new(
        limits: &Limits,
        subscribers: Subscribers,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> CallerOversight {
        let lines = CountedLog::new(LINE_INTERVAL, limits.max_peers);
        let unsent = limits.max_send_buffer + 2 * ANSWER_PART;
        let unsent_for = limits.keepalive_interval + limits.keepalive_timeout;
        CallerOversight { callers: CallerRegistry::new(limits), subscribers, lines, unsent, unsent_for, tasks, stop }
    }

    /// Writes a line, unless one of this subject was written within the last second. It is given how many were left
    /// out.
    pub(super) fn log_line(&self, subject: LogSubject, write: impl FnOnce(u64)) {
        if let Some(left_out) = self.lines.admit_line(subject, Instant::now()) {
            write(left_out);
        }
    }

    /// Keeps the charge of an answer that was handed to HTTP/2, which may still hold the last parts of it: until the
    /// connection ends, or its data are known to be read, because an unread connection answers no PING either.
    pub(super) fn release_when_sent(&self, charge: Arc<PoolShare<ClusterName>>, ended: CancellationToken) {
        charge.shrink_to(self.unsent);
        if charge.size() <= SMALL_ANSWER {
            return;
        }
        let (unsent_for, stop) = (self.unsent_for, self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(unsent_for) => {}
                () = ended.cancelled() => {}
                () = stop.cancelled() => {}
            }
            drop(charge);
        });
    }

    /// Records a breach of the protocol by a peer.
    pub(super) fn add_strike(self: &Arc<Self>, peer: &ClusterName, why: &str) {
        let Some(pause) = self.callers.add_strike(peer, why, Instant::now()) else { return };
        tracing::warn!(%peer, why, seconds = pause.as_secs(), "a peer breaks the limits of the protocol: it is paused");
        self.subscribers.pause_peer(peer, why);
        let (oversight, peer) = (self.clone(), peer.clone());
        self.tasks.spawn(async move {
            let pause = oversight.stop.run_until_cancelled(tokio::time::sleep(pause));
            pause.await;
            oversight.subscribers.resume_peer(&peer);
        });
    }
}
