//! One stream from a donor, from dialling to its end.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::header::{CONTENT_TYPE, TE};
use http::{Request, StatusCode, Uri};
use http_body_util::StreamBody;
use prost::Message as _;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use super::conduct::DonorMisconduct;
use super::dial::{BreakReason, DialError, DialledConnection, HttpChannel, dial_peer};
use super::wire::{DonorMessage, RawChanges, names_of};
use super::{AcceptorContext, Acknowledgements, DonorNews, DonorSpec, DonorTask, OwnerGone, ProbeAnswer, StreamMark};
use crate::identity::wait_until_revoked;
use crate::model::{CaBundle, Endpoint, ExpositionKey, SpiffeId};
use crate::peering::convert::{
    ExpositionOutcome, ReceivedExposition, WireRejection, from_wire, is_instance, key_from_wire,
};
use crate::peering::grpc::data_frames;
use crate::peering::limits::{MAX_EXPOSITION_BYTES, PART_BYTES, PART_ENTRIES};
use crate::peering::messages::{MessageReader, ReadError};
use crate::peering::pb::peering_service_client::PeeringServiceClient;
use crate::peering::tasks::ConnectionTasks;
use crate::peering::{Limits, PROTOCOL_VERSION, clean_prose, pb};

/// Longest heartbeat interval, in seconds, that a donor may announce.
const LONGEST_HEARTBEAT: u32 = 300;
/// The time from one stream that begins only to receive something again to the next.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// The end of a stream that is not broken.
pub(super) enum SessionEnd {
    OwnerGone,
    /// The owner wants content again that a donor sends on a new stream.
    FetchAgain,
}

impl From<OwnerGone> for SessionEnd {
    fn from(_: OwnerGone) -> SessionEnd {
        SessionEnd::OwnerGone
    }
}

/// The reason why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the donor's agent refuses: {message} ({code:?})")]
    Refused { code: Code, message: String },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the donor's agent ended the stream: {0}")]
    Ended(String),
    #[error("the donor's agent is not believed any more: {0}")]
    Revoked(String),
    #[error("nothing was heard for {} s; the donor's agent is gone, or the network between", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the donor's agent does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("what the donor's agent sends cannot be read: {0}")]
    Unread(String),
    #[error("the donor's agent misbehaves: {0}")]
    Misbehaving(#[from] DonorMisconduct),
    #[error(
        "the donor has this cluster's own instance: either this agent dialled itself, or two clusters share a store"
    )]
    Itself,
}

impl SessionError {
    /// Reads a status, with the help of the error of TLS.
    fn from_status(status: &Status, broken: &BreakReason) -> SessionError {
        // A semicolon separates the messages of several peers, and a peer must not write one.
        let message = clean_prose(status.message(), 512).replace(';', ",");
        if status.code() == Code::OutOfRange && message.contains("message length too large") {
            return DonorMisconduct::MessageSize(message).into();
        }
        // A status that has a source was not sent by the peer: tonic makes it for a connection that broke.
        match (std::error::Error::source(status), status.code()) {
            (Some(source), _) => SessionError::Broken(broken.reason().unwrap_or_else(|| join_causes(source))),
            (None, Code::Unavailable) => SessionError::Ended(message),
            (None, code) => SessionError::Refused { code, message },
        }
    }
}

/// Returns an error and its causes, on one line.
fn join_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |e| e.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

pub(super) struct DonorSession<'a> {
    donor: &'a mut DonorTask,
    broken: BreakReason,
    /// Names that the donor has not confirmed yet; gone with the first `synced`.
    unconfirmed: BTreeSet<ExpositionKey>,
    in_step_since: Option<Instant>,
    in_step: bool,
    /// The donor is not read before this time, because it sends too much.
    read_from: Instant,
    /// Revision of the last message that was handed over to its end.
    revision: u64,
}

impl<'a> DonorSession<'a> {
    pub(super) fn new(donor: &'a mut DonorTask) -> DonorSession<'a> {
        DonorSession {
            donor,
            broken: BreakReason::default(),
            unconfirmed: BTreeSet::new(),
            in_step_since: None,
            in_step: false,
            read_from: Instant::now(),
            revision: 0,
        }
    }

    /// Returns whether it was in step for long enough to count as a success.
    pub(super) fn has_lasted(&self) -> bool {
        self.in_step_since.is_some_and(|since| since.elapsed() >= self.donor.own.limits.stable_after)
    }

    /// Runs until the stream ends, one way or another.
    pub(super) async fn run(&mut self) -> Result<SessionEnd, SessionError> {
        let tracker = TaskTracker::new();
        let (tasks, guard) = ConnectionTasks::new(tracker.clone());
        let result = self.run_stream(tasks).await;
        drop(guard);
        tracker.close();
        tracker.wait().await;
        match result {
            Ok(end) => Ok(end),
            Err(StreamStop::OwnerGone) => Ok(SessionEnd::OwnerGone),
            Err(StreamStop::Error(error)) => Err(error),
        }
    }

    async fn run_stream(&mut self, tasks: ConnectionTasks) -> Result<SessionEnd, StreamStop> {
        let DonorSpec { endpoint, identity, ca_bundle, .. } = &self.donor.spec;
        let dialled = dial_peer(endpoint, identity, ca_bundle.as_ref(), &self.donor.own, tasks);
        let dialled = dialled.await.map_err(SessionError::from)?;
        let certificate_expires = dialled.certificate.not_after;
        self.broken = dialled.broken.clone();
        let mut revoked = pin!(wait_until_revoked(self.donor.own.identity.clone(), dialled.shown.clone()));
        let not_before = Instant::now() + FETCH_PAUSE;
        let mut responses = self.subscribe(dialled).await?;
        let welcome = self.receive_welcome(&mut responses).await?;
        let instance = welcome.instance.clone();
        self.donor.state.send_modify(|state| {
            let now = Some(SystemTime::now());
            (state.connected_since, state.last_heard, state.problem) = (now, now, None);
            state.instance = Some(instance.clone());
            state.certificate_expires = Some(certificate_expires);
            state.protocol_version = Some(welcome.protocol_version);
        });
        self.donor.send_news(DonorNews::Connected { instance, certificate_expires }).await?;
        let heartbeat = Duration::from_secs(welcome.heartbeat_seconds.clamp(1, LONGEST_HEARTBEAT).into());
        let patience = heartbeat * self.donor.own.limits.missed_heartbeats.max(1);
        let (control, limits) = (self.donor.control.clone(), self.donor.own.limits.clone());
        loop {
            let fetch = async {
                control.fetch_is_due().await;
                tokio::time::sleep_until(not_before).await;
            };
            let next = async {
                tokio::time::sleep_until(self.read_from).await;
                timeout(patience, next_response(&mut responses, &limits)).await
            };
            let next = tokio::select! {
                next = next => next.map_err(|_| SessionError::Silent(patience))?,
                why = &mut revoked => return Err(SessionError::Revoked(why).into()),
                // A donor that has not sent everything yet may be about to send just that.
                () = fetch, if self.in_step => return Ok(SessionEnd::FetchAgain),
            };
            let (message, bytes) = self.read_message(next, &responses)?;
            self.handle_message(message, bytes).await?;
        }
    }

    async fn subscribe(&mut self, mut dialled: DialledConnection) -> Result<MessageReader, SessionError> {
        let DonorTask { own, spec, holdings, acknowledgements, streams, control, budget, .. } = &mut *self.donor;
        holdings.let_go(control.take_let_go());
        holdings.omit_from_hello(control.take_wanted());
        let (held, unmentioned) = holdings.list_for_hello(own.limits.max_request_bytes);
        self.unconfirmed = unmentioned;
        acknowledgements.begin_stream(*streams);
        let hello = pb::Hello { instance: own.instance.clone(), protocol_version: PROTOCOL_VERSION, held };
        let requests = subscribe_requests(hello, acknowledgements.clone(), *streams);
        let request = Request::post(subscribe_uri(&spec.endpoint))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Body::new(StreamBody::new(requests.flat_map(|request| data_frames(&request)))))
            .map_err(|error| SessionError::Broken(error.to_string()))?;
        let after = own.limits.handshake_timeout;
        let broken =
            |error: hyper::Error| SessionError::Broken(self.broken.reason().unwrap_or_else(|| join_causes(&error)));
        let call = async {
            std::future::poll_fn(|context| dialled.http.poll_ready(context)).await?;
            dialled.http.call(request).await
        };
        let response = timeout(after, call).await.map_err(|_| SessionError::Silent(after))?.map_err(broken)?;
        match Status::from_header_map(response.headers()) {
            Some(status) => return Err(SessionError::from_status(&status, &self.broken)),
            None if response.status() != StatusCode::OK => {
                return Err(SessionError::Ended(format!("HTTP status {} instead of gRPC", response.status())));
            }
            None => {}
        }
        Ok(MessageReader::new(response.into_body(), budget.received.clone(), spec.cluster.clone()))
    }

    async fn receive_welcome(&self, responses: &mut MessageReader) -> Result<pb::Welcome, SessionError> {
        let after = self.donor.own.limits.handshake_timeout;
        let first = timeout(after, next_response(responses, &self.donor.own.limits)).await;
        let first = first.map_err(|_| SessionError::Silent(after))?;
        let (DonorMessage::Welcome(welcome), _) = self.read_message(first, responses)? else {
            return Err(SessionError::Protocol("its first message is no welcome"));
        };
        if !(1..=PROTOCOL_VERSION).contains(&welcome.protocol_version) {
            return Err(SessionError::Protocol("its welcome names a version that was not offered to it"));
        }
        if !is_instance(&welcome.instance) {
            return Err(SessionError::Protocol("its instance is not 1 to 128 printable ASCII characters"));
        }
        if welcome.instance == self.donor.own.instance {
            return Err(SessionError::Itself);
        }
        Ok(welcome)
    }

    /// Returns a message, and its length in bytes.
    fn read_message(
        &self,
        next: Result<Option<Bytes>, ReadError>,
        responses: &MessageReader,
    ) -> Result<(DonorMessage, usize), SessionError> {
        match next {
            Ok(Some(bytes)) => {
                let length = bytes.len();
                Ok((DonorMessage::parse(bytes).map_err(DonorMisconduct::from)?, length))
            }
            Ok(None) => Err(match responses.trailers().and_then(Status::from_header_map) {
                Some(status) if status.code() != Code::Ok => SessionError::from_status(&status, &self.broken),
                _ => SessionError::Ended("without a reason".into()),
            }),
            Err(error @ ReadError::TooLarge { .. }) => Err(DonorMisconduct::MessageSize(error.to_string()).into()),
            Err(ReadError::Broken(error)) => {
                Err(SessionError::Broken(self.broken.reason().unwrap_or_else(|| join_causes(&error))))
            }
            Err(error) => Err(SessionError::Unread(error.to_string())),
        }
    }

    async fn handle_message(&mut self, message: DonorMessage, bytes: usize) -> Result<(), StreamStop> {
        let entries = if let DonorMessage::Changes(changes) = &message { changes.entries } else { 0 };
        let DonorTask { conduct, own, .. } = &mut *self.donor;
        let now = Instant::now();
        self.read_from = now + conduct.record_message(entries, bytes, &own.limits, now).map_err(SessionError::from)?;
        match message {
            DonorMessage::Changes(changes) => self.handle_changes(&changes).await?,
            DonorMessage::Heartbeat => self.donor.acknowledgements.answer_heartbeat(),
            // A second welcome says nothing new; unknown messages come from newer protocols.
            DonorMessage::Welcome(_) | DonorMessage::Unknown => {}
        }
        let (in_step, held) = (self.in_step, self.donor.holdings.len());
        self.donor.state.send_modify(|state| {
            let now = SystemTime::now();
            state.last_heard = Some(now);
            state.held = held;
            if in_step {
                state.last_sync = Some(now);
            }
        });
        Ok(())
    }

    /// Hands a message to the owner in parts, so that no message blocks the other donors.
    async fn handle_changes(&mut self, changes: &RawChanges) -> Result<(), StreamStop> {
        let mut part = MessagePart::default();
        for entry in changes.changed_entries() {
            if part.has_no_room(entry.len()) {
                self.hand_over(std::mem::take(&mut part)).await?;
            }
            if part.room.is_none() {
                part.room = self.donor.budget.wait_for_room(changes.len(), entry.len()).await;
            }
            part.bytes += entry.len();
            let result = self.check_entry(entry);
            let rejected = result.as_ref().err().filter(|r| !r.surplus).map(ToString::to_string);
            part.changed.push(result);
            if let Some(why) = rejected {
                let DonorTask { conduct, own, .. } = &mut *self.donor;
                if let Err(misconduct) = conduct.record_rejection(&why, &own.limits) {
                    self.hand_over(part).await?;
                    return Err(SessionError::from(misconduct).into());
                }
            }
        }
        for entry in changes.withdrawn_entries() {
            if part.has_no_room(entry.len()) {
                self.hand_over(std::mem::take(&mut part)).await?;
            }
            part.bytes += entry.len();
            let name = pb::ExpositionName::decode(entry).unwrap_or_default();
            if let Some(key) = key_from_wire(&name.namespace, &name.name) {
                self.remove_exposition(&key);
                part.gone.push(key);
            }
        }
        self.in_step = changes.synced;
        if changes.synced {
            let unconfirmed = std::mem::take(&mut self.unconfirmed);
            unconfirmed.iter().for_each(|key| self.remove_exposition(key));
            part.gone.extend(unconfirmed); // no more names than are held
            self.in_step_since.get_or_insert_with(Instant::now);
        }
        self.revision = changes.revision;
        part.synced = changes.synced;
        self.hand_over(part).await?;
        self.donor.state.send_modify(|state| state.revision = changes.revision);
        Ok(())
    }

    fn remove_exposition(&mut self, key: &ExpositionKey) {
        self.unconfirmed.remove(key);
        self.donor.holdings.remove(key);
        self.donor.acknowledgements.forget_outcome(key);
    }

    async fn hand_over(&mut self, part: MessagePart) -> Result<(), StreamStop> {
        let MessagePart { changed, gone, synced, room, .. } = part;
        let mark = StreamMark { stream: self.donor.streams, revision: self.revision };
        self.donor.send_news_within(DonorNews::Batch { changed, gone, mark, synced }, room).await?;
        // Apply the owner's instructions from the part before this one.
        let let_go = self.donor.control.take_let_go();
        self.donor.holdings.let_go(let_go);
        Ok(())
    }

    /// Checks one exposition, and records the version that is held of its name now.
    fn check_entry(&mut self, entry: Bytes) -> Result<ReceivedExposition, WireRejection> {
        let DonorTask { spec, own, holdings, acknowledgements, control, .. } = &mut *self.donor;
        let max = own.limits.max_expositions;
        let result = parse_exposition(entry, spec).and_then(|heard| {
            let key = &heard.exposition.key;
            if holdings.len() < max || holdings.contains(key) || control.is_used(key) {
                return Ok(heard);
            }
            let why = format!(
                "the donor offers more than {max} expositions, the limit for one peer; raise limits.peerExpositions, or bind it"
            );
            let (name, field) = (key.to_string(), "name".into());
            Err(WireRejection { key: Some(key.clone()), name, field, why, surplus: true })
        });
        match &result {
            Ok(heard) => {
                self.unconfirmed.remove(&heard.exposition.key);
                holdings.set_version(&heard.exposition.key, &heard.version);
            }
            Err(rejection) => {
                tracing::debug!(donor = %spec.cluster, %rejection, "an exposition was refused");
                if let Some(key) = &rejection.key {
                    self.unconfirmed.remove(key);
                    holdings.set_rejected(key);
                    let outcome =
                        ExpositionOutcome::rejected("Invalid", format!("{}: {}", rejection.field, rejection.why));
                    acknowledgements.report_refusal(key, outcome);
                }
            }
        }
        result
    }
}

/// The reason why a stream does not go on.
enum StreamStop {
    OwnerGone,
    Error(SessionError),
}

impl From<OwnerGone> for StreamStop {
    fn from(_: OwnerGone) -> StreamStop {
        StreamStop::OwnerGone
    }
}

impl From<SessionError> for StreamStop {
    fn from(error: SessionError) -> StreamStop {
        StreamStop::Error(error)
    }
}

/// A part of a `Changes` message, checked.
#[derive(Default)]
struct MessagePart {
    changed: Vec<Result<ReceivedExposition, WireRejection>>,
    gone: Vec<ExpositionKey>,
    synced: bool,
    /// Bytes on the wire.
    bytes: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl MessagePart {
    fn has_no_room(&self, bytes: usize) -> bool {
        let entries = self.changed.len() + self.gone.len();
        entries >= PART_ENTRIES || (entries > 0 && self.bytes + bytes > PART_BYTES)
    }
}

/// Parses one exposition. An entry that cannot be decoded, or is larger than any that is valid, is rejected alone, as
/// one with a wrong field.
fn parse_exposition(entry: Bytes, spec: &DonorSpec) -> Result<ReceivedExposition, WireRejection> {
    let rejected = |(namespace, name): (String, String), why: String| WireRejection {
        key: key_from_wire(&namespace, &name),
        name: format!("{}/{}", clean_prose(&namespace, 63), clean_prose(&name, 63)),
        field: "exposition".into(),
        why,
        surplus: false,
    };
    if entry.len() > MAX_EXPOSITION_BYTES {
        let why = format!("it takes {} bytes, and at most {MAX_EXPOSITION_BYTES} are allowed", entry.len());
        return Err(rejected(names_of(entry), why));
    }
    match pb::Exposition::decode(entry.clone()) {
        Ok(wire) => from_wire(&wire, &spec.checks),
        Err(_) => Err(rejected(names_of(entry), "it cannot be decoded".into())),
    }
}

/// Returns the origin of an endpoint, which is an address or a host name with a port, and so always an authority.
fn endpoint_origin(endpoint: &Endpoint) -> Uri {
    format!("https://{endpoint}").parse().unwrap_or_default()
}

fn subscribe_uri(endpoint: &Endpoint) -> String {
    format!("https://{endpoint}/wharf.peering.v1.PeeringService/Subscribe")
}

/// Reads the next message of a donor.
async fn next_response(responses: &mut MessageReader, limits: &Limits) -> Result<Option<Bytes>, ReadError> {
    responses.next_message(limits.max_changes, limits.answer_timeout).await
}

fn peering_client(
    dialled: DialledConnection,
    endpoint: &Endpoint,
    max_message: usize,
) -> PeeringServiceClient<HttpChannel> {
    PeeringServiceClient::with_origin(dialled.http, endpoint_origin(endpoint)).max_decoding_message_size(max_message)
}

/// The requests of the stream: the hello, then acknowledgements as they come up. Nothing is queued: HTTP/2 polls the
/// stream when there is room.
fn subscribe_requests(
    hello: pb::Hello,
    acknowledgements: Acknowledgements,
    stream: u64,
) -> impl Stream<Item = pb::SubscribeRequest> + Send + 'static {
    use pb::subscribe_request::Message;
    stream::unfold((Some(hello), acknowledgements), move |(hello, acknowledgements)| async move {
        let message = match hello {
            Some(hello) => Message::Hello(hello),
            None => Message::Acknowledgement(acknowledgements.next_message(stream).await?),
        };
        Some((pb::SubscribeRequest { message: Some(message) }, (None, acknowledgements)))
    })
}

pub(super) async fn probe_endpoint(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    bundle: Option<&CaBundle>,
    own: &AcceptorContext,
) -> Result<ProbeAnswer, SessionError> {
    let (tasks, _guard) = ConnectionTasks::new(TaskTracker::new());
    let dialled = dial_peer(endpoint, expected, bundle, own, tasks).await?;
    let (broken, certificate) = (dialled.broken.clone(), dialled.certificate.clone());
    let mut client = peering_client(dialled, endpoint, own.limits.max_message);
    let after = own.limits.handshake_timeout;
    let asked = OffsetDateTime::now_utc();
    let answer = timeout(after, client.get_peer(pb::GetPeerRequest {})).await;
    let answer = answer.map_err(|_| SessionError::Silent(after))?;
    let answer = answer.map_err(|status| SessionError::from_status(&status, &broken))?;
    let date = answer.metadata().get("date").and_then(|d| d.to_str().ok()).map(str::to_owned);
    Ok(ProbeAnswer { answer: answer.into_inner(), certificate, asked, answered: OffsetDateTime::now_utc(), date })
}
