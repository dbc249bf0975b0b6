//! One stream from a donor, from dialling to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, stream};
use prost::Message as _;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};

use super::dial::{Broken, DialError, Dialled, dial};
use super::{Acknowledgements, Donor, DonorNews, DonorSpec, Mark, Own, OwnerGone, Probe};
use crate::identity::revoked;
use crate::model::{CaBundle, Endpoint, ExpositionKey, SpiffeId};
use crate::peering::convert::{Heard, Outcome, Rejection, from_wire, is_instance, key_from_wire};
use crate::peering::pb::peering_service_client::PeeringServiceClient;
use crate::peering::pb::subscribe_response::Message;
use crate::peering::tasks::Tasks;
use crate::peering::{PROTOCOL_VERSION, pb, prose};

/// A donor may not ask for more patience than this.
const LONGEST_HEARTBEAT: u32 = 300;

/// Why there is no stream.
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
    #[error(
        "the donor has this cluster's own instance: either this agent dialled itself, or two clusters share a store"
    )]
    Itself,
}

impl SessionError {
    /// Reads a status, with the help of what TLS had to say.
    fn from_status(status: &Status, broken: &Broken) -> SessionError {
        // A semicolon parts what several peers say, and is not for one of them to write.
        let message = prose(status.message(), 512).replace(';', ",");
        // No peer sent a status that has a source: tonic says so of a connection that broke.
        match (std::error::Error::source(status), status.code()) {
            (Some(source), _) => SessionError::Broken(broken.reason().unwrap_or_else(|| causes(source))),
            (None, Code::Unavailable) => SessionError::Ended(message),
            (None, code) => SessionError::Refused { code, message },
        }
    }
}

/// An error and its causes, on one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |e| e.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What the owner holds of a donor, as far as the donor's versions go.
pub(super) struct Holdings {
    /// No version: what the donor has under this name was refused, and the owner may hold an older one.
    versions: BTreeMap<ExpositionKey, Option<Arc<str>>>,
}

impl Holdings {
    pub(super) fn new(held: &BTreeMap<ExpositionKey, String>) -> Holdings {
        let version = |version: &String| (!version.is_empty()).then(|| Arc::from(version.as_str()));
        Holdings { versions: held.iter().map(|(key, v)| (key.clone(), version(v))).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    /// What a hello says of it: as much as fits. The donor tells the rest again, and what it does not tell is not
    /// confirmed. Gives the names that the hello does not mention.
    fn mention(&self, max_bytes: usize) -> (Vec<pb::Held>, BTreeSet<ExpositionKey>) {
        let mut room = max_bytes;
        let mut held = Vec::new();
        let mut unmentioned = BTreeSet::new();
        for (key, version) in &self.versions {
            let entry = version.as_ref().map(|version| pb::Held {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                version: version.to_string(),
            });
            match entry {
                Some(entry) if entry.encoded_len() + 8 <= room => {
                    room -= entry.encoded_len() + 8; // with its tag and length
                    held.push(entry);
                }
                _ => {
                    unmentioned.insert(key.clone());
                }
            }
        }
        (held, unmentioned)
    }
}

pub(super) struct Session<'a> {
    donor: &'a mut Donor,
    broken: Broken,
    /// What the donor has not confirmed yet; gone with the first `synced`.
    unconfirmed: BTreeSet<ExpositionKey>,
    in_step_since: Option<Instant>,
    in_step: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(donor: &'a mut Donor) -> Session<'a> {
        Session { donor, broken: Broken::default(), unconfirmed: BTreeSet::new(), in_step_since: None, in_step: false }
    }

    /// Whether it was in step for long enough to count as a success.
    pub(super) fn lasted(&self) -> bool {
        self.in_step_since.is_some_and(|since| since.elapsed() >= self.donor.own.limits.stable_after)
    }

    /// Runs until the stream ends, one way or another.
    pub(super) async fn run(&mut self) -> Result<OwnerGone, SessionError> {
        let tracker = TaskTracker::new();
        let (tasks, guard) = Tasks::new(tracker.clone());
        let result = self.stream(tasks).await;
        drop(guard);
        tracker.close();
        tracker.wait().await;
        result
    }

    async fn stream(&mut self, tasks: Tasks) -> Result<OwnerGone, SessionError> {
        let DonorSpec { endpoint, identity, ca_bundle, .. } = &self.donor.spec;
        let dialled = dial(endpoint, identity, ca_bundle.as_ref(), &self.donor.own, tasks).await?;
        let certificate_expires = dialled.certificate.not_after;
        self.broken = dialled.broken.clone();
        let mut revoked = pin!(revoked(self.donor.own.identity.clone(), dialled.shown.clone()));
        let mut responses = self.subscribe(dialled).await?;
        let welcome = self.welcome(&mut responses).await?;
        let instance = welcome.instance.clone();
        self.donor.state.send_modify(|state| {
            let now = Some(SystemTime::now());
            (state.connected_since, state.last_heard, state.problem) = (now, now, None);
            state.instance = Some(instance.clone());
            state.certificate_expires = Some(certificate_expires);
            state.protocol_version = Some(welcome.protocol_version);
        });
        if self.donor.tell(DonorNews::Connected { instance, certificate_expires }).await.is_err() {
            return Ok(OwnerGone);
        }
        let heartbeat = Duration::from_secs(welcome.heartbeat_seconds.clamp(1, LONGEST_HEARTBEAT).into());
        let patience = heartbeat * self.donor.own.limits.missed_heartbeats.max(1);
        loop {
            let next = tokio::select! {
                next = timeout(patience, responses.message()) => next.map_err(|_| SessionError::Silent(patience))?,
                why = &mut revoked => return Err(SessionError::Revoked(why)),
            };
            let response = self.read(next)?;
            if self.take_in(response).await.is_err() {
                return Ok(OwnerGone);
            }
        }
    }

    async fn subscribe(&mut self, dialled: Dialled) -> Result<Streaming<pb::SubscribeResponse>, SessionError> {
        let Donor { own, spec, holdings, acknowledgements, streams, .. } = &*self.donor;
        let (held, unmentioned) = holdings.mention(own.limits.max_request_bytes);
        self.unconfirmed = unmentioned;
        acknowledgements.begin(*streams);
        let hello = pb::Hello { instance: own.instance.clone(), protocol_version: PROTOCOL_VERSION, held };
        let requests = requests(hello, acknowledgements.clone(), *streams);
        let mut client = client(dialled, &spec.endpoint, own.limits.max_message);
        let after = own.limits.handshake_timeout;
        let response = timeout(after, client.subscribe(requests)).await.map_err(|_| SessionError::Silent(after))?;
        response.map(tonic::Response::into_inner).map_err(|status| SessionError::from_status(&status, &self.broken))
    }

    async fn welcome(&self, responses: &mut Streaming<pb::SubscribeResponse>) -> Result<pb::Welcome, SessionError> {
        let after = self.donor.own.limits.handshake_timeout;
        let first = timeout(after, responses.message()).await.map_err(|_| SessionError::Silent(after))?;
        let Some(Message::Welcome(welcome)) = self.read(first)?.message else {
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

    fn read(&self, next: Result<Option<pb::SubscribeResponse>, Status>) -> Result<pb::SubscribeResponse, SessionError> {
        match next {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(SessionError::Ended("without a reason".into())),
            Err(status) => Err(SessionError::from_status(&status, &self.broken)),
        }
    }

    async fn take_in(&mut self, response: pb::SubscribeResponse) -> Result<(), OwnerGone> {
        match response.message {
            Some(Message::Changes(changes)) => self.changes(changes).await?,
            Some(Message::Heartbeat(_)) => self.donor.acknowledgements.answer(),
            // A second welcome says nothing new; nothing is what a newer protocol says to us.
            Some(Message::Welcome(_)) | None => {}
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

    async fn changes(&mut self, changes: pb::Changes) -> Result<(), OwnerGone> {
        let changed: Vec<_> = changes.changed.iter().map(|wire| self.check(wire)).collect();
        let mut gone: Vec<_> =
            changes.withdrawn.iter().filter_map(|name| key_from_wire(&name.namespace, &name.name)).collect();
        for key in &gone {
            self.unconfirmed.remove(key);
        }
        self.in_step = changes.synced;
        if changes.synced {
            gone.extend(std::mem::take(&mut self.unconfirmed));
            self.in_step_since.get_or_insert_with(Instant::now);
        }
        for key in &gone {
            self.donor.holdings.versions.remove(key);
            self.donor.acknowledgements.forget(key);
        }
        let mark = Mark { stream: self.donor.streams, revision: changes.revision };
        let synced = changes.synced;
        self.donor.tell(DonorNews::Batch { changed, gone, mark, synced }).await?;
        self.donor.state.send_modify(|state| state.revision = mark.revision);
        Ok(())
    }

    /// Checks one exposition, and notes what is held of its name now.
    fn check(&mut self, wire: &pb::Exposition) -> Result<Heard, Rejection> {
        let Donor { spec, own, holdings: Holdings { versions }, acknowledgements, .. } = &mut *self.donor;
        let max = own.limits.max_expositions;
        let result = from_wire(wire, &spec.checks).and_then(|heard| {
            let key = &heard.exposition.key;
            if versions.len() < max || versions.contains_key(key) {
                return Ok(heard);
            }
            let why = format!("the donor offers more than {max} expositions, the limit for one peer");
            Err(Rejection { key: Some(key.clone()), name: key.to_string(), field: "name".into(), why })
        });
        match &result {
            Ok(heard) => {
                self.unconfirmed.remove(&heard.exposition.key);
                versions.insert(heard.exposition.key.clone(), Some(heard.version.as_str().into()));
            }
            Err(rejection) => {
                tracing::warn!(donor = %spec.cluster, %rejection, "an exposition was refused");
                if let Some(key) = &rejection.key {
                    self.unconfirmed.remove(key);
                    // Not held in any version, so that the donor tells it again to the next stream.
                    if let Some(version) = versions.get_mut(key) {
                        *version = None;
                    }
                    let outcome = Outcome::rejected("Invalid", format!("{}: {}", rejection.field, rejection.why));
                    acknowledgements.report(key, outcome);
                }
            }
        }
        result
    }
}

fn client(dialled: Dialled, endpoint: &Endpoint, max_message: usize) -> PeeringServiceClient<super::dial::Http> {
    // An endpoint is an address or a host name with a port, and so always an authority.
    let origin = format!("https://{endpoint}").parse().unwrap_or_default();
    PeeringServiceClient::with_origin(dialled.http, origin).max_decoding_message_size(max_message)
}

/// What the stream says: the hello, then acknowledgements as they come up. Nothing is queued; it is asked when there is
/// room.
fn requests(
    hello: pb::Hello,
    acknowledgements: Acknowledgements,
    stream: u64,
) -> impl Stream<Item = pb::SubscribeRequest> + Send + 'static {
    use pb::subscribe_request::Message;
    stream::unfold((Some(hello), acknowledgements), move |(hello, acknowledgements)| async move {
        let message = match hello {
            Some(hello) => Message::Hello(hello),
            None => Message::Acknowledgement(acknowledgements.next(stream).await?),
        };
        Some((pb::SubscribeRequest { message: Some(message) }, (None, acknowledgements)))
    })
}

pub(super) async fn probe(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    bundle: Option<&CaBundle>,
    own: &Own,
) -> Result<Probe, SessionError> {
    let (tasks, _guard) = Tasks::new(TaskTracker::new());
    let dialled = dial(endpoint, expected, bundle, own, tasks).await?;
    let (broken, certificate) = (dialled.broken.clone(), dialled.certificate.clone());
    let mut client = client(dialled, endpoint, own.limits.max_message);
    let after = own.limits.handshake_timeout;
    let asked = OffsetDateTime::now_utc();
    let answer = timeout(after, client.get_peer(pb::GetPeerRequest {})).await;
    let answer = answer.map_err(|_| SessionError::Silent(after))?;
    let answer = answer.map_err(|status| SessionError::from_status(&status, &broken))?;
    let date = answer.metadata().get("date").and_then(|d| d.to_str().ok()).map(str::to_owned);
    Ok(Probe { answer: answer.into_inner(), certificate, asked, answered: OffsetDateTime::now_utc(), date })
}
