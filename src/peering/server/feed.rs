//! One subscription's stream. Nothing is queued for a subscriber: each message is made when HTTP/2 has room for it, from
//! what the board shows at that moment. A reader that does not read is simply not asked.

use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::gate::plain;
use crate::peering::board::{Batch, Subscription};
use crate::peering::convert::{key_to_wire, outcome_from_wire, to_wire};
use crate::peering::pb;
use crate::peering::pb::subscribe_response::Message;
use crate::peering::subscribers::Presence;

/// How many acknowledgements are taken in before news is sent: neither starves the other.
const REQUESTS_A_TURN: usize = 8;

pub(super) struct Feed {
    welcome: Option<pb::Welcome>,
    subscription: Subscription,
    presence: Presence,
    requests: Option<Streaming<pb::SubscribeRequest>>,
    end: watch::Receiver<Option<Status>>,
    heartbeat: Duration,
    quiet_since: Instant,
}

/// The stream of a feed; its last item may be the reason of its end.
pub(super) fn stream(feed: Feed) -> impl Stream<Item = Result<pb::SubscribeResponse, Status>> + Send {
    stream::unfold(Some(feed), |feed| async {
        let mut feed = feed?;
        match feed.next().await {
            Ok(message) => {
                feed.quiet_since = Instant::now();
                Some((Ok(pb::SubscribeResponse { message: Some(message) }), Some(feed)))
            }
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl Feed {
    pub(super) fn new(
        welcome: pb::Welcome,
        subscription: Subscription,
        presence: Presence,
        requests: Streaming<pb::SubscribeRequest>,
        end: watch::Receiver<Option<Status>>,
        heartbeat: Duration,
    ) -> Feed {
        let (welcome, requests, quiet_since) = (Some(welcome), Some(requests), Instant::now());
        Feed { welcome, subscription, presence, requests, end, heartbeat, quiet_since }
    }

    async fn next(&mut self) -> Result<Message, Status> {
        if let Some(welcome) = self.welcome.take() {
            return Ok(Message::Welcome(welcome));
        }
        for _ in 0..REQUESTS_A_TURN {
            match request(&mut self.requests).now_or_never() {
                Some(heard) => self.hear(heard?)?,
                None => break,
            }
        }
        loop {
            if let Some(status) = self.end.borrow_and_update().as_ref() {
                return Err(plain(status));
            }
            if let Some(batch) = self.subscription.read() {
                self.presence.withdrawn(&batch.withdrawn);
                return Ok(Message::Changes(to_message(&batch)));
            }
            tokio::select! {
                Ok(()) = self.end.changed() => {}
                () = self.subscription.changed() => {}
                heard = request(&mut self.requests) => self.hear(heard?)?,
                () = tokio::time::sleep_until(self.quiet_since + self.heartbeat) => {
                    return Ok(Message::Heartbeat(pb::Heartbeat { revision: self.subscription.cursor() }));
                }
            }
        }
    }

    fn hear(&mut self, request: Option<pb::SubscribeRequest>) -> Result<(), Status> {
        let Some(request) = request else {
            self.requests = None; // it has nothing more to say, and may go on listening
            return Ok(());
        };
        match request.message {
            Some(pb::subscribe_request::Message::Hello(_)) => {
                Err(Status::invalid_argument("a hello is the first message of a subscription and no other"))
            }
            Some(pb::subscribe_request::Message::Acknowledgement(ack)) => {
                let revision = ack.revision.min(self.subscription.cursor());
                let outcomes = ack.outcomes.iter().filter_map(outcome_from_wire);
                let outcomes = outcomes.filter(|(key, _)| self.subscription.holds(key)).collect();
                self.presence.acknowledge(revision, outcomes);
                Ok(())
            }
            None => Ok(()), // of a newer protocol
        }
    }
}

/// The next request; for ever none, once the subscriber has said all.
async fn request(
    requests: &mut Option<Streaming<pb::SubscribeRequest>>,
) -> Result<Option<pb::SubscribeRequest>, Status> {
    match requests {
        Some(requests) => requests.next().await.transpose(),
        None => std::future::pending().await,
    }
}

fn to_message(batch: &Batch) -> pb::Changes {
    pb::Changes {
        changed: batch.changed.iter().map(|offer| to_wire(&offer.exposition, &offer.version)).collect(),
        withdrawn: batch.withdrawn.iter().map(key_to_wire).collect(),
        revision: batch.revision,
        synced: batch.in_step,
    }
}
