//! `PeeringService`: the calls that a peer may make to a donor.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use prost::Message as _;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::ServerParts;
use super::feed::{self, FeedParts, SubscriptionFeed};
use super::gate::AdmittedCaller;
use crate::model::ClusterName;
use crate::peering::convert::{HelloMessage, SubscriberMessage, is_instance, to_wire};
use crate::peering::fair::{FairPool, PoolShare};
use crate::peering::grpc::{answer_once, answer_stream, frame_message, put_header};
use crate::peering::limits::MAX_SMALL_REQUEST;
use crate::peering::messages::{MessageReader, ReadError};
use crate::peering::subscribers::EnterError;
use crate::peering::{Board, Limits, PROTOCOL_VERSION, PeerTable, Subscribers, clean_prose, pb};

pub(super) struct DonorService {
    instance: String,
    board: Board,
    subscribers: Subscribers,
    peers: watch::Receiver<Arc<PeerTable>>,
    limits: Arc<Limits>,
    /// Bytes of answers that wait to be read.
    unread: Arc<FairPool<ClusterName>>,
}

/// The reason why a call fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Request(#[from] ReadError),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
}

impl CallError {
    pub(super) fn into_status(self) -> Status {
        match self {
            CallError::Request(error) => Status::from(&error),
            CallError::Refused(status) => status,
        }
    }
}

/// The charge of an answer until it is sent.
#[derive(Default)]
pub(super) struct AnswerCharge {
    /// Its bytes.
    pub(super) unread: Option<Arc<PoolShare<ClusterName>>>,
    /// Its place among the calls of services that keep buffers of their own.
    pub(super) _place: Option<PoolShare<ClusterName>>,
}

/// An answer with its charge.
pub(super) type ChargedAnswer = (Response<Body>, AnswerCharge);

impl DonorService {
    pub(super) fn new(parts: &ServerParts, unread: Arc<FairPool<ClusterName>>) -> DonorService {
        DonorService {
            instance: parts.instance.clone(),
            board: parts.board.clone(),
            subscribers: parts.subscribers.clone(),
            peers: parts.peers.clone(),
            limits: parts.limits.clone(),
            unread,
        }
    }

    /// Checks that the caller may consume.
    fn check_consumer(&self, passed: &AdmittedCaller) -> Result<(), Status> {
        let consumer = self.peers.borrow().find_consumer(&passed.certificate.spiffe_id);
        consumer.map(drop).map_err(|refusal| {
            passed.log_line(|left_out| tracing::info!(reason = %refusal, left_out, "a call was refused"));
            refusal.to_status()
        })
    }

    async fn receive_hello(&self, requests: &mut MessageReader) -> Result<HelloMessage, CallError> {
        let within = self.limits.handshake_timeout;
        let first = tokio::time::timeout(within, requests.next_message(self.limits.max_message, within)).await;
        let first = first.unwrap_or(Err(ReadError::TooSlow(within)))?;
        match first.map(SubscriberMessage::parse) {
            Some(Ok(SubscriberMessage::Hello(hello))) => Ok(hello),
            Some(Err(malformed)) => Err(Status::internal(malformed.to_string()).into()),
            _ => Err(Status::invalid_argument("the first message of a subscription must be a hello").into()),
        }
    }

    /// Checks a hello. Returns the number of expositions in its list.
    async fn check_hello(&self, hello: &HelloMessage) -> Result<usize, Status> {
        if hello.protocol_version == 0 {
            return Err(Status::invalid_argument("hello.protocol_version: it is not given"));
        }
        if !is_instance(&hello.instance) {
            return Err(Status::invalid_argument("hello.instance: it must be 1 to 128 printable ASCII characters"));
        }
        if hello.instance == self.instance {
            return Err(Status::failed_precondition(
                "hello.instance: it is the donor's own; either an agent dialled itself, or two clusters share a store",
            ));
        }
        hello.held.check_entries().await.map_err(Status::invalid_argument)
    }

    pub(super) async fn subscribe(
        &self,
        passed: &AdmittedCaller,
        mut requests: MessageReader,
    ) -> Result<ChargedAnswer, CallError> {
        self.check_consumer(passed)?;
        passed.admit_hello()?;
        let hello = self.receive_hello(&mut requests).await?;
        let held = self.check_hello(&hello).await?;
        let cluster = &passed.caller.cluster;
        let entered = self.subscribers.enter_stream(cluster, &hello.instance, passed.certificate.not_after);
        let presence = entered.map_err(Status::from).inspect_err(|refusal| {
            let (instance, reason) = (clean_prose(&hello.instance, 128), refusal.message());
            passed.log_line(
                |left_out| tracing::warn!(%cluster, %instance, reason, left_out, "a subscription was refused"),
            );
        })?;
        presence.record_certificates(&passed.connection.shown);
        passed.log_line(|left_out| tracing::info!(%cluster, held, left_out, "a peer subscribed"));
        let welcome = pb::Welcome {
            protocol_version: u32::try_from(hello.protocol_version).unwrap_or(u32::MAX).min(PROTOCOL_VERSION),
            instance: self.instance.clone(),
            heartbeat_seconds: self.limits.heartbeat_seconds(),
        };
        let hello_charge = requests.detach_charge();
        let unread = Arc::new(self.unread.begin_share(cluster.clone(), passed.connection.cut.clone()));
        let feed = SubscriptionFeed::new(FeedParts {
            welcome,
            subscription: self.board.subscribe(cluster, hello.held),
            presence,
            hello_charge,
            unread: unread.clone(),
            requests,
            passed: passed.clone(),
            limits: self.limits.clone(),
        });
        Ok((answer_stream(feed::stream_feed(feed)), AnswerCharge { unread: Some(unread), _place: None }))
    }

    pub(super) async fn list_expositions(
        &self,
        passed: &AdmittedCaller,
        mut requests: MessageReader,
    ) -> Result<ChargedAnswer, CallError> {
        if !passed.caller.own {
            self.check_consumer(passed)?;
        }
        self.read_only_request(&mut requests).await?;
        let (offers, revision) = self.board.list_offers(&passed.caller.cluster);
        let bytes: usize = offers.iter().map(|offer| offer.bytes() + 8).sum::<usize>() + 16;
        if bytes > self.limits.max_message {
            let why = format!("{} expositions do not fit one message; use Subscribe", offers.len());
            return Err(Status::resource_exhausted(why).into());
        }
        let charge = self.unread.begin_share(passed.caller.cluster.clone(), passed.connection.cut.clone());
        charge.resize(bytes).map_err(|_| {
            Status::resource_exhausted(
                "answers to this peer, or to all, wait to be read; read them, or call again later",
            )
        })?;
        // One exposition after the other: encoded messages of a kind, one behind the other, are their union (protobuf's
        // encoding guide, "Last One Wins"), so that the list is in memory once, and in no other form.
        let mut framed = Vec::with_capacity(5 + bytes);
        put_header(&mut framed, 0);
        let mut put =
            |part: pb::ListExpositionsResponse| part.encode(&mut framed).map_err(|e| Status::internal(e.to_string()));
        for offer in &offers {
            let expositions = vec![to_wire(&offer.exposition, &offer.version)];
            put(pb::ListExpositionsResponse { expositions, revision: 0 })?;
        }
        put(pb::ListExpositionsResponse { expositions: Vec::new(), revision })?;
        let length = framed.len() - 5;
        framed[1..5].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        Ok((answer_once(Bytes::from(framed)), AnswerCharge { unread: Some(Arc::new(charge)), _place: None }))
    }

    pub(super) async fn get_peer(
        &self,
        passed: &AdmittedCaller,
        mut requests: MessageReader,
    ) -> Result<ChargedAnswer, CallError> {
        self.read_only_request(&mut requests).await?;
        let AdmittedCaller { caller, certificate, .. } = passed;
        let subscriptions = self.subscribers.get(&caller.cluster).map_or(0, |s| s.subscriptions);
        let expires = certificate.not_after.unix_timestamp();
        let response = pb::GetPeerResponse {
            cluster: self.peers.borrow().cluster.to_string(),
            peer: caller.cluster.to_string(),
            spiffe_id: certificate.spiffe_id.to_string(),
            certificate_expires: Some(prost_types::Timestamp { seconds: expires, nanos: 0 }),
            may_consume: caller.consume,
            offered: u32::try_from(self.board.offered_count(&caller.cluster)).unwrap_or(u32::MAX),
            subscriptions: u32::try_from(subscriptions).unwrap_or(u32::MAX),
            protocol_version: PROTOCOL_VERSION,
        };
        Ok((answer_once(frame_message(&response)), AnswerCharge::default()))
    }

    /// Reads the one request of a call that has one. All such requests are empty; fields of a newer protocol are
    /// ignored.
    async fn read_only_request(&self, requests: &mut MessageReader) -> Result<(), CallError> {
        match requests.next_message(MAX_SMALL_REQUEST, self.limits.call_timeout).await? {
            Some(_) => Ok(()),
            None => Err(Status::internal("the call has no request").into()),
        }
    }
}

impl From<EnterError> for Status {
    fn from(error: EnterError) -> Status {
        match error {
            EnterError::NameTaken { .. } => Status::already_exists(error.to_string()),
            _ => Status::resource_exhausted(error.to_string()),
        }
    }
}
