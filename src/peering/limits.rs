//! Every bound and every time of the peering, in one place, so that documentation and tests have one place to look.
//!
//! Every amount that a peer can make this cluster hold, do or wait for is bounded on this page.

use std::time::Duration;

/// Ports of one exposition.
pub const MAX_PORTS: usize = 64;
/// Gateway addresses of one exposition.
pub const MAX_GATEWAYS: usize = 32;
/// SPIFFE IDs that may answer for one exposition.
pub const MAX_IDENTITIES: usize = 32;
/// Callers that one exposition names.
pub const MAX_CLIENTS: usize = 256;
/// Characters of an exposition's version.
pub const MAX_VERSION: usize = 64;
/// Characters of a cluster's instance.
pub const MAX_INSTANCE: usize = 128;
/// Characters of the reason (one word) of an outcome.
pub const MAX_REASON: usize = 64;
/// Characters of a message for a person that comes from a peer; a longer text is cut.
pub const MAX_MESSAGE: usize = 512;
/// Bytes of one exposition on the wire. One with all fields at their limits takes 127,230.
pub const MAX_EXPOSITION_BYTES: usize = 128 << 10;
/// Rejected names of one donor that are kept with their sentence; the others are counted.
pub const MAX_REJECTED_NAMES: usize = 32;
/// Characters of the sentence that explains the rejection of an exposition; a longer text is cut.
pub const MAX_REJECTION: usize = 256;
/// Entries of one `Changes` that are checked and handed to the owner at once, and the bytes that they aim at. Between
/// two parts all other donors have a turn.
pub const PART_ENTRIES: usize = 16;
pub const PART_BYTES: usize = 8 << 10;
/// Parts of one donor that wait for the owner, or are being applied.
pub const PARTS_IN_FLIGHT: usize = 1;
/// Factor by which an exposition grows when it is decoded.
pub const DECODED_FACTOR: usize = 4;
/// Pace at which a donor is read: one unit each interval, beyond its burst ([`Limits::donor_burst`]); a message, an
/// entry, and so many bytes are one unit each.
pub const DONOR_UNIT: usize = 2 << 10;
pub const DONOR_INTERVAL: Duration = Duration::from_millis(10);
/// Period over which entries and rejections of a donor are counted.
pub const CONDUCT_PERIOD: Duration = Duration::from_secs(60);

/// Bytes of a request that is neither a hello nor an acknowledgement: all of them are a name or nothing.
pub const MAX_SMALL_REQUEST: usize = 4 << 10;
/// Bytes of all requests of one reflection stream.
pub const MAX_REFLECTION_BYTES: usize = 64 << 10;
/// Bytes of reasons and messages that one subscriber may have remembered; the states are remembered beyond it.
pub const MAX_OUTCOME_TEXT: usize = 16 << 10;
/// Bytes of reasons and messages that all subscribers may have remembered.
pub const MAX_OUTCOME_TEXT_IN_ALL: usize = 6 << 20;
/// Bytes of an answer that is sent even while memory is short, so that changes pass peers that do not read.
pub const SMALL_ANSWER: usize = 2 << 10;
/// Bytes of an answer that are handed to HTTP/2 at a time.
pub const ANSWER_PART: usize = 16 << 10;
/// An answer that waits unread for less than this is not given up for others.
pub const UNREAD_GRACE: Duration = Duration::from_secs(5);
/// Calls of health and reflection that are open, of all peers and of one.
pub const MAX_OTHER_CALLS: usize = 64;
pub const MAX_OTHER_CALLS_PER_PEER: usize = 8;
/// Connections that stay open until the reason of their refusal is sent, in all and of one identity or address.
pub const MAX_REFUSED_CONNECTIONS: usize = 16;
pub const MAX_REFUSED_CONNECTIONS_PER_SOURCE: usize = 4;

/// Bytes that a connection may send before its TLS handshake is done. A ClientHello takes up to 2 KiB, a chain of
/// certificates some KiB more.
pub const MAX_HANDSHAKE_BYTES: usize = 24 << 10;
/// TLS handshakes of one source: so many at once, and one more each interval.
pub const HANDSHAKE_BURST: u32 = 128;
pub const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(500);
/// TLS handshakes beyond those of each source, of all sources together: so many at once, and one more each interval.
/// Behind a gateway or a load balancer strangers and peers have one address, and a slow stranger must not use up what
/// peers need. One handshake takes less than a millisecond of computation.
pub const SPARE_HANDSHAKE_BURST: u32 = 100;
pub const SPARE_HANDSHAKE_INTERVAL: Duration = Duration::from_millis(10);
/// Bytes that one identity sends over all its connections, in units that were begun: so many at once, and one more each
/// interval: 8 MiB, and 256 KiB a second. A hello of 2,000 expositions takes 120 KiB.
pub const INGRESS_UNIT: usize = 1 << 10;
pub const INGRESS_BURST: u32 = 8 << 10;
pub const INGRESS_INTERVAL: Duration = Duration::from_micros(3906);
/// A connection that sends too fast is not read for at most so long at a time.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Calls of one peer: so many at once, and one more each interval. A faster peer waits, and is refused when it would
/// wait for longer than this.
pub const CALL_BURST: u32 = 100;
pub const CALL_INTERVAL: Duration = Duration::from_millis(20);
pub const LONGEST_CALL_WAIT: Duration = Duration::from_secs(5);
/// Subscriptions that one peer begins.
pub const HELLO_BURST: u32 = 32;
pub const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// Acknowledgements of one subscription, and changes of an outcome that was sent before.
pub const ACKNOWLEDGEMENT_BURST: u32 = 2000;
pub const ACKNOWLEDGEMENT_INTERVAL: Duration = Duration::from_millis(20);

/// Breaches of a limit within the period after which a peer is paused: its calls are refused for a while.
pub const STRIKES: u32 = 3;
pub const STRIKE_PERIOD: Duration = Duration::from_secs(60);
pub const PAUSE: Duration = Duration::from_secs(60);

/// The adjustable limits. The documentation promises the defaults; tests turn them down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest gRPC message that is read, in bytes: a hello, or a list of expositions.
    pub max_message: usize,
    /// The largest acknowledgement that is read, in bytes.
    pub max_acknowledgement: usize,
    /// Bytes of requests that are not complete, or are still worked on: of all peers, and of one.
    pub max_received: usize,
    pub max_received_per_peer: usize,
    /// Bytes of answers that wait to be read: of all peers, and of one.
    pub max_unread: usize,
    pub max_unread_per_peer: usize,
    /// Bytes of one connection, and of one stream, that HTTP/2 receives before they are read.
    pub window: u32,
    /// The largest message of a donor's stream that is read, in bytes: a batch, and one exposition more.
    pub max_changes: usize,
    /// Bytes of messages of all donors that are not complete, or are worked on.
    pub max_changes_in_all: usize,
    /// Bytes of entries of all donors that are decoded and not applied.
    pub max_decoded: usize,
    /// Bytes that HTTP/2 lets a donor send before they are read.
    pub donor_window: u32,
    /// Bytes that one `Changes` message aims at. One exposition always fits.
    pub max_batch_bytes: usize,
    /// Expositions and withdrawals that one `Changes` message carries.
    pub max_batch: usize,
    /// Bytes of a `Hello` or an `Acknowledgement` that may be filled: well below `max_message`.
    pub max_request_bytes: usize,
    /// Expositions that are offered to one peer.
    pub max_offered: usize,
    /// Expositions that are held of one donor. Those that a binding uses are held beyond it.
    pub max_expositions: usize,
    /// Expositions of one donor that may be rejected in a [`CONDUCT_PERIOD`]. With more, its stream is ended.
    pub max_rejections: usize,
    /// Messages, changes and withdrawals of one donor in a [`CONDUCT_PERIOD`]. With more, its stream is ended.
    pub max_entries: usize,
    /// Memory for what is held of one donor, and of all donors together, in bytes: names, versions, contents.
    pub max_held_of_one: usize,
    pub max_held: usize,
    /// Clusters whose subscriptions and instances are remembered.
    pub max_peers: usize,

    /// Connections, of all peers together.
    pub max_connections: usize,
    /// Connections of one identity.
    pub max_connections_per_peer: usize,
    /// TLS handshakes in flight. When there are more, the source with most of them gives up its oldest: an honest one
    /// takes two round trips.
    pub max_handshakes: usize,
    /// Connections that have not sent the first message of TLS in full, by the same rule. An honest client's arrives
    /// with the connection.
    pub max_silent: usize,
    /// gRPC calls of one connection at a time.
    pub max_streams: u32,
    /// Subscriptions of one cluster at a time: its replicas.
    pub max_subscriptions: usize,
    /// Subscriptions of all clusters at a time.
    pub max_subscriptions_in_all: usize,
    /// Streams that a peer opened and reset before they were looked at (CVE-2023-44487), per connection.
    pub max_pending_resets: usize,
    /// Streams that were reset for breaking the protocol, per connection.
    pub max_error_resets: usize,
    /// All headers of one request, in bytes.
    pub max_header_list: u32,
    /// Bytes of one stream's answer that HTTP/2 holds, beside two parts of [`ANSWER_PART`].
    pub max_send_buffer: usize,

    /// Time for TCP, TLS and the first message.
    pub handshake_timeout: Duration,
    /// Time for a call that is no stream, from its first byte to the last of its answer; and for an acknowledgement.
    pub call_timeout: Duration,
    /// Longest time of one reflection stream.
    pub reflection_timeout: Duration,
    /// Time for a message of a stream to be read by the peer.
    pub answer_timeout: Duration,
    /// Time after which the next address of a host is tried beside those that have not answered (RFC 8305).
    pub next_address_after: Duration,
    /// Time without a call after which a connection is closed: after one to two of these.
    pub idle_timeout: Duration,
    /// Time without a frame from the peer after which HTTP/2 sends a PING.
    pub keepalive_interval: Duration,
    /// Time after which an unanswered PING ends the connection.
    pub keepalive_timeout: Duration,
    /// Interval of the heartbeats of a stream without changes.
    pub heartbeat: Duration,
    /// Heartbeats that may be missed before a stream counts as broken.
    pub missed_heartbeats: u32,
    /// Time for which a cluster's instance is remembered after its last stream ended: another cluster of the same name
    /// is refused for that long.
    pub instance_grace: Duration,
    /// Time that streams have to end when the agent stops, or when their peer is no longer trusted.
    pub drain: Duration,

    /// The longest wait before the first attempt to reconnect; doubles with each attempt. The wait is anywhere
    /// between nothing and that ("full jitter"), so that the peers of a restarted donor do not come all at once.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Time in step after which a stream resets the backoff.
    pub stable_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message: 4 << 20,
            max_acknowledgement: 512 << 10,
            max_received: 8 << 20,
            max_received_per_peer: (4 << 20) + (512 << 10),
            max_unread: 8 << 20,
            max_unread_per_peer: 5 << 20,
            window: (64 << 10) - 1,
            max_batch_bytes: 64 << 10,
            max_changes: 400 << 10,
            max_changes_in_all: 6 << 20,
            max_decoded: 3 << 20,
            donor_window: (64 << 10) - 1,
            max_batch: 500,
            max_request_bytes: 3 << 20,
            max_offered: 100_000,
            max_expositions: 2_000,
            max_rejections: 2_000,
            max_entries: 100_000,
            max_held_of_one: 4 << 20,
            max_held: 12 << 20,
            max_peers: 1024,
            max_connections: 160,
            max_connections_per_peer: 8,
            max_handshakes: 128,
            max_silent: 128,
            max_streams: 8,
            max_subscriptions: 8,
            max_subscriptions_in_all: 160,
            max_pending_resets: 64,
            max_error_resets: 1024,
            max_header_list: 8 << 10,
            max_send_buffer: 32 << 10,
            handshake_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            reflection_timeout: Duration::from_secs(120),
            answer_timeout: Duration::from_secs(30),
            next_address_after: Duration::from_millis(250),
            idle_timeout: Duration::from_secs(120),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            missed_heartbeats: 3,
            instance_grace: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            stable_after: Duration::from_secs(5),
        }
    }
}

/// Memory that things take beside what a peer sends, in bytes. Estimates, on the high side.
mod overhead {
    /// A connection: the buffers of TLS and of HTTP/2, headers that are not complete, its task.
    pub const CONNECTION: usize = 48 << 10;
    /// A handshake, beside the bytes that it received.
    pub const HANDSHAKE: usize = 16 << 10;
    /// A call of health or reflection: two buffers of 8 KiB, and its tasks.
    pub const OTHER_CALL: usize = 32 << 10;
    /// A name that is rejected with its sentences, and the report about it: characters of up to four bytes.
    pub const REJECTION: usize = 3 * 4 * super::MAX_REJECTION + 512;
}

/// The sums. `docs/reference/protocol.md` has them as a table.
impl Limits {
    /// Memory that one peer can make the agent hold by calling it, in bytes; beside the state of each exposition that
    /// it is offered, which the agent's own policies decide about.
    pub fn one_caller_costs_at_most(&self) -> usize {
        let connections = self.max_connections_per_peer;
        connections * (self.window as usize + overhead::CONNECTION)
            + connections * self.max_streams as usize * SMALL_ANSWER
            + self.max_received_per_peer
            + self.max_unread_per_peer
            + MAX_OTHER_CALLS_PER_PEER * overhead::OTHER_CALL
            + MAX_OUTCOME_TEXT
    }

    /// Memory that all callers, and all that only connect, can make the agent hold, in bytes.
    pub fn all_callers_cost_at_most(&self) -> usize {
        let connections = self.max_connections + MAX_REFUSED_CONNECTIONS;
        connections * (self.window as usize + overhead::CONNECTION)
            + self.max_connections * self.max_streams as usize * SMALL_ANSWER
            + self.max_received
            + self.max_unread
            + MAX_OTHER_CALLS * overhead::OTHER_CALL
            + MAX_OUTCOME_TEXT_IN_ALL
            + (self.max_silent + self.max_handshakes) * (MAX_HANDSHAKE_BYTES + overhead::HANDSHAKE)
    }

    /// Memory that one of so many donors can make the agent hold, in bytes.
    pub fn one_donor_costs_at_most(&self, donors: usize) -> usize {
        self.held_of_one(donors)
            + self.max_changes
            + 2 * DECODED_FACTOR * MAX_EXPOSITION_BYTES
            + self.donor_costs_by_itself()
    }

    /// Memory that so many donors together can make the agent hold, in bytes.
    pub fn all_donors_cost_at_most(&self, donors: usize) -> usize {
        self.held_of_one(donors) * donors
            + self.max_changes_in_all
            + self.max_decoded
            + donors * self.donor_costs_by_itself()
    }

    /// Memory for the connection to a donor, and for its rejected names, in bytes.
    fn donor_costs_by_itself(&self) -> usize {
        self.donor_window as usize + overhead::CONNECTION + MAX_REJECTED_NAMES * overhead::REJECTION
    }
}

impl Limits {
    /// The heartbeat that a `Welcome` announces, in whole seconds, at least one.
    pub fn heartbeat_seconds(&self) -> u32 {
        let seconds = self.heartbeat.as_millis().div_ceil(1000).max(1);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// Sets the number of expositions that are held of one donor, and the limits that follow from it.
    pub fn hold_expositions(&mut self, count: usize) {
        self.max_expositions = count;
        self.max_rejections = count;
        self.max_entries = count.saturating_mul(50);
    }

    /// Units ([`DONOR_UNIT`]) that a donor may send at once: five times all that is held of it.
    pub fn donor_burst(&self) -> u32 {
        u32::try_from(self.max_expositions.saturating_mul(5)).unwrap_or(u32::MAX).max(10_000)
    }

    /// Memory for what is held of one of so many donors, in bytes: none takes another's share.
    pub fn held_of_one(&self, donors: usize) -> usize {
        self.max_held_of_one.min(self.max_held / donors.max(1))
    }

    /// The longest wait before attempt number `attempt` (from 0).
    pub fn backoff_ceiling(&self, attempt: u32) -> Duration {
        self.backoff_min.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(self.backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_its_limit_and_stays() {
        let limits = Limits::default();
        let ceilings: Vec<_> = (0..12).map(|n| limits.backoff_ceiling(n).as_millis()).collect();
        assert_eq!(ceilings[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(ceilings[9..], [30_000, 30_000, 30_000]);
        assert_eq!(limits.backoff_ceiling(u32::MAX), limits.backoff_max);
    }

    /// The sums that docs/reference/protocol.md promises.
    #[test]
    fn eighty_four_peers_that_call_and_are_dialled_cost_less_than_128_mib_with_the_agent_itself() {
        const MIB: usize = 1 << 20;
        let limits = Limits::default();
        assert_eq!(limits.one_caller_costs_at_most().div_ceil(MIB), 11);
        assert_eq!(limits.all_callers_cost_at_most().div_ceil(MIB), 56);
        assert_eq!(limits.one_donor_costs_at_most(1).div_ceil(MIB), 6);
        assert_eq!(limits.all_donors_cost_at_most(84).div_ceil(MIB), 40);
        const AGENT: usize = 30 * MIB; // idle, with its code
        let all = AGENT + limits.all_callers_cost_at_most() + limits.all_donors_cost_at_most(84);
        assert!(all < 128 * MIB, "{} MiB", all / MIB);
    }

    #[test]
    fn the_default_limits_of_a_donor_follow_from_how_many_expositions_are_held() {
        let mut limits = Limits::default();
        limits.hold_expositions(limits.max_expositions);
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn a_batch_of_any_release_fits_the_messages_that_are_read_of_a_donor() {
        let limits = Limits::default();
        let tags = 10 * limits.max_batch;
        let largest_aim = 256 << 10; // of 0.1
        assert!(limits.max_batch_bytes <= largest_aim);
        assert!(largest_aim + MAX_EXPOSITION_BYTES + tags <= limits.max_changes);
    }

    #[test]
    fn a_heartbeat_shorter_than_a_second_is_announced_as_one() {
        let limits = Limits { heartbeat: Duration::from_millis(20), ..Limits::default() };
        assert_eq!(limits.heartbeat_seconds(), 1);
    }
}
