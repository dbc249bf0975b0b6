//! One subscription's stream. Nothing is queued for a subscriber: each message is made when HTTP/2 has room for it,
//! from the board's state at that moment. A reader that does not read is not polled.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::gate::{AdmittedCaller, copy_status};
use crate::model::ClusterName;
use crate::peering::board::{BoardSubscription, OfferBatch};
use crate::peering::convert::{AcknowledgementMessage, SubscriberMessage, key_to_wire, to_wire};
use crate::peering::fair::{PoolShare, ShareError};
use crate::peering::limits::{ACKNOWLEDGEMENT_BURST, ACKNOWLEDGEMENT_INTERVAL, SMALL_ANSWER};
use crate::peering::messages::{MessageReader, ReadError};
use crate::peering::pace::Pace;
use crate::peering::pb::subscribe_response::Message;
use crate::peering::subscribers::StreamPresence;
use crate::peering::{Limits, pb};

/// Acknowledgements that are processed before changes are sent: neither starves the other.
const REQUESTS_A_TURN: usize = 8;
/// Interval of the checks for room for an answer.
const ROOM_LOOK: Duration = Duration::from_millis(50);

/// The parts that a feed is made of.
pub(super) struct FeedParts {
    pub(super) welcome: pb::Welcome,
    pub(super) subscription: BoardSubscription,
    pub(super) presence: StreamPresence,
    /// The charge of the hello. Its bytes are kept until its list is compared with the offers.
    pub(super) hello_charge: PoolShare<ClusterName>,
    /// The charge of the answers that the peer has not read yet.
    pub(super) unread: Arc<PoolShare<ClusterName>>,
    pub(super) requests: MessageReader,
    pub(super) passed: AdmittedCaller,
    pub(super) limits: Arc<Limits>,
}

pub(super) struct SubscriptionFeed {
    welcome: Option<pb::Welcome>,
    subscription: BoardSubscription,
    presence: StreamPresence,
    hello_charge: Option<PoolShare<ClusterName>>,
    unread: Arc<PoolShare<ClusterName>>,
    last_sent: usize,
    requests: Option<MessageReader>,
    /// True when it is known which expositions the subscriber holds. Before, its acknowledgements have no meaning.
    compared: bool,
    pace: Pace,
    passed: AdmittedCaller,
    end: watch::Receiver<Option<Status>>,
    limits: Arc<Limits>,
    quiet_since: Instant,
}

/// Returns the stream of a feed; its last item may be the reason of its end.
pub(super) fn stream_feed(feed: SubscriptionFeed) -> impl Stream<Item = Result<pb::SubscribeResponse, Status>> + Send {
    stream::unfold(Some(feed), |feed| async {
        let mut feed = feed?;
        match feed.next_message().await {
            Ok(message) => {
                feed.quiet_since = Instant::now();
                Some((Ok(pb::SubscribeResponse { message: Some(message) }), Some(feed)))
            }
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl SubscriptionFeed {
    pub(super) fn new(parts: FeedParts) -> SubscriptionFeed {
        let now = Instant::now();
        SubscriptionFeed {
            welcome: Some(parts.welcome),
            subscription: parts.subscription,
            presence: parts.presence,
            hello_charge: Some(parts.hello_charge),
            unread: parts.unread,
            last_sent: 0,
            requests: Some(parts.requests),
            compared: false,
            pace: Pace::new(ACKNOWLEDGEMENT_INTERVAL, ACKNOWLEDGEMENT_BURST, now.into_std()),
            end: parts.passed.connection.end.subscribe(),
            passed: parts.passed,
            limits: parts.limits,
            quiet_since: now,
        }
    }

    async fn next_message(&mut self) -> Result<Message, Status> {
        if let Some(welcome) = self.welcome.take() {
            return Ok(Message::Welcome(welcome));
        }
        for _ in 0..if self.compared { REQUESTS_A_TURN } else { 0 } {
            match next_request(&mut self.requests, &self.limits).now_or_never() {
                Some(heard) => self.handle_request(heard)?,
                None => break,
            }
        }
        loop {
            if let Some(status) = self.end.borrow_and_update().as_ref() {
                return Err(copy_status(status));
            }
            let batch = self.subscription.read_batch();
            self.compared = self.compared || self.subscription.is_compared();
            if let Some(batch) = batch {
                return self.send_batch(&batch).await;
            }
            tokio::select! {
                Ok(()) = self.end.changed() => {}
                () = self.subscription.wait_for_change() => {}
                heard = next_request(&mut self.requests, &self.limits), if self.compared => {
                    self.handle_request(heard)?;
                }
                () = sleep_until(self.quiet_since + self.limits.heartbeat) => {
                    self.charge_answer(0).await?;
                    return Ok(Message::Heartbeat(pb::Heartbeat { revision: self.subscription.cursor() }));
                }
            }
        }
    }

    async fn send_batch(&mut self, batch: &OfferBatch) -> Result<Message, Status> {
        if batch.in_step {
            self.hello_charge = None;
        }
        self.presence.record_withdrawals(&batch.withdrawn);
        let names: usize = batch.withdrawn.iter().map(|k| k.namespace.as_str().len() + k.name.as_str().len() + 8).sum();
        self.charge_answer(batch.changed.iter().map(|offer| offer.bytes() + 8).sum::<usize>() + names).await?;
        Ok(Message::Changes(to_message(batch)))
    }

    /// Waits until there is room for an answer of so many bytes, beside the part of the one before that HTTP/2 still
    /// holds.
    async fn charge_answer(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.last_sent.min(self.limits.max_send_buffer);
        self.last_sent = bytes;
        let size = if bytes > SMALL_ANSWER { before + bytes } else { 0 };
        loop {
            match self.unread.resize(size) {
                Ok(()) => return Ok(()),
                Err(ShareError::GivenUp) => return Err(Status::resource_exhausted("its answers are not read")),
                Err(ShareError::HolderLimit | ShareError::Full) => {}
            }
            tokio::select! {
                Ok(()) = self.end.changed() => {
                    if let Some(status) = self.end.borrow().as_ref() {
                        return Err(copy_status(status));
                    }
                }
                // A peer that does not read may go on sending.
                heard = next_request(&mut self.requests, &self.limits), if self.compared => self.handle_request(heard)?,
                () = tokio::time::sleep(ROOM_LOOK) => {}
            }
        }
    }

    fn handle_request(&mut self, request: Result<Option<bytes::Bytes>, ReadError>) -> Result<(), Status> {
        let request = request.map_err(|error| {
            if error.is_misconduct() {
                self.passed.add_strike(&error.to_string());
            }
            Status::from(&error)
        })?;
        let Some(request) = request else {
            self.requests = None; // it has nothing more to say, and may go on listening
            return Ok(());
        };
        let malformed = |error: &dyn std::error::Error| Status::internal(error.to_string());
        match SubscriberMessage::parse(request).map_err(|e| malformed(&e))? {
            SubscriberMessage::Hello(_) => {
                Err(Status::invalid_argument("a hello is the first message of a subscription and no other"))
            }
            SubscriberMessage::Acknowledgement(bytes) => {
                let ack = AcknowledgementMessage::parse(bytes, |key| self.subscription.holds(key));
                let ack = ack.map_err(|e| malformed(&e))?;
                let revision = ack.revision.min(self.subscription.cursor());
                let changes = self.presence.record_acknowledgement(revision, ack.outcomes);
                let now = Instant::now();
                let units = u32::try_from(changes).unwrap_or(u32::MAX).saturating_add(1);
                self.passed.connection.ingress.pause_reading(self.pace.take_units(units, now.into_std()));
                Ok(())
            }
            SubscriberMessage::Unknown => Ok(()),
        }
    }
}

/// Returns the next request; waits forever once the subscriber has ended its requests.
async fn next_request(
    requests: &mut Option<MessageReader>,
    limits: &Limits,
) -> Result<Option<bytes::Bytes>, ReadError> {
    let Some(requests) = requests else { return std::future::pending().await };
    requests.next_message(limits.max_acknowledgement, limits.call_timeout).await
}

fn to_message(batch: &OfferBatch) -> pb::Changes {
    pb::Changes {
        changed: batch.changed.iter().map(|offer| to_wire(&offer.exposition, &offer.version)).collect(),
        withdrawn: batch.withdrawn.iter().map(key_to_wire).collect(),
        revision: batch.revision,
        synced: batch.in_step,
    }
}
