//! The acceptor's end of the wire: one task for each donor. It dials, lists what is held, receives differences, checks
//! them, and hands them to its owner; when the stream breaks it begins again.
//!
//! The owner holds the expositions: it lists at the start what it still has of this donor, applies each [`DonorNews`]
//! in order, and keeps what it has through every break. An exposition is removed only if the donor withdrew it, or did
//! not confirm it by the time it said `synced`.

mod acknowledgements;
mod backoff;
mod budget;
mod conduct;
mod control;
mod dial;
mod holdings;
mod session;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use crate::peering::fields::MalformedMessage;
pub use acknowledgements::Acknowledgements;
pub use backoff::BackoffJitter;
pub use budget::DonorBudget;
pub use conduct::DonorMisconduct;
pub use control::HoldingsControl;
pub use dial::DialError;
pub use session::SessionError;

use self::conduct::DonorConduct;
use self::holdings::DonorHoldings;
use self::session::{DonorSession, SessionEnd};
use super::Limits;
use super::convert::{ExpositionChecks, ReceivedExposition, WireRejection};
use super::limits::PARTS_IN_FLIGHT;
use super::pb;
use crate::identity::tls::MinTls;
use crate::identity::{Identity, PeerCertificate};
use crate::model::{CaBundle, ClusterName, Endpoint, ExpositionKey, SpiffeId};

/// A donor to watch.
#[derive(Debug, Clone)]
pub struct DonorSpec {
    pub cluster: ClusterName,
    pub endpoint: Endpoint,
    /// The identity that has to answer there.
    pub identity: SpiffeId,
    /// Roots that its certificate has to lead to; None: the shared ones.
    pub ca_bundle: Option<CaBundle>,
    /// Rules for its gateways' addresses.
    pub checks: ExpositionChecks,
    /// Holdings of the owner from before: version by name. An empty version marks a name whose content cannot be used,
    /// so that the donor has to send it again.
    pub held: BTreeMap<ExpositionKey, String>,
}

/// Settings that all donors' tasks have in common.
#[derive(Clone)]
pub struct AcceptorContext {
    /// This cluster's instance.
    pub instance: String,
    pub identity: watch::Receiver<Arc<Identity>>,
    pub min_tls: MinTls,
    pub limits: Arc<Limits>,
}

/// Names the stream that a revision belongs to: revisions of different streams do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamMark {
    pub(super) stream: u64,
    pub revision: u64,
}

/// A message of a donor's task to its owner.
#[derive(Debug)]
pub struct DonorEvent {
    pub cluster: ClusterName,
    pub news: DonorNews,
    /// The donor's task sends no more events than [`PARTS_IN_FLIGHT`] allows until it is dropped: so no donor fills the
    /// queue.
    _permit: Option<OwnedSemaphorePermit>,
    /// The room that its news takes in the budget of all donors.
    _room: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl DonorEvent {
    /// Makes an event that no task has sent.
    pub fn of_nobody(cluster: ClusterName, news: DonorNews) -> DonorEvent {
        DonorEvent { cluster, news, _permit: None, _room: None }
    }
}

#[derive(Debug)]
pub enum DonorNews {
    /// The donor answered; its expositions follow.
    Connected { instance: String, certificate_expires: OffsetDateTime },
    /// Differences, to be applied in this order: first what changed, then what is gone. They are a part of a message,
    /// or all of it.
    Batch {
        /// Checked, or refused alone. A refused one replaces the held content of that name, as far as the donor is
        /// concerned; the owner decides whether the last good one stays in force.
        changed: Vec<Result<ReceivedExposition, WireRejection>>,
        /// Withdrawn, or not confirmed by a donor that has sent everything.
        gone: Vec<ExpositionKey>,
        /// Mark to acknowledge with, once applied. It is that of the message before, if this is not the last part.
        mark: StreamMark,
        /// With this batch, all that the donor offers is held.
        synced: bool,
    },
    /// The stream is broken. Everything stays as it is, unless `refused`: the donor itself, proved by its certificate,
    /// says that it exposes nothing to this cluster.
    Disconnected {
        reason: String,
        retry_in: Duration,
        refused: bool,
        /// This end broke it, because the donor exceeds the limits.
        misbehaving: bool,
    },
}

/// State of the connection to a donor, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DonorState {
    /// None while there is no stream.
    pub connected_since: Option<SystemTime>,
    /// Time of the donor's last message.
    pub last_heard: Option<SystemTime>,
    /// Time when all its offers were last known to be held.
    pub last_sync: Option<SystemTime>,
    pub revision: u64,
    pub instance: Option<String>,
    pub certificate_expires: Option<OffsetDateTime>,
    /// The version of the protocol that was agreed on last.
    pub protocol_version: Option<u32>,
    /// The reason why there is no stream, while there is none.
    pub problem: Option<String>,
    /// Attempts since the last stream that lasted.
    pub attempts: u32,
    /// Number of its expositions that are held.
    pub held: usize,
}

/// A donor that is watched. Dropping it ends the watching.
pub struct DonorHandle {
    pub state: watch::Receiver<DonorState>,
    /// Takes the owner's outcomes.
    pub acknowledgements: Acknowledgements,
    /// Takes the owner's instructions about its holdings.
    pub control: HoldingsControl,
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl DonorHandle {
    /// Ends the stream and waits for the task.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take()
            && let Err(e) = task.await
            && e.is_panic()
        {
            std::panic::resume_unwind(e.into_panic());
        }
    }
}

impl Drop for DonorHandle {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Watches a donor until the handle is dropped. `events` may be shared by many donors; when it is full, the donor's
/// stream waits, and the donor's agent with it holds no more than the state.
pub fn watch_donor(
    spec: DonorSpec,
    own: AcceptorContext,
    events: mpsc::Sender<DonorEvent>,
    jitter: BackoffJitter,
) -> DonorHandle {
    let budget = DonorBudget::new(&own.limits);
    watch_donor_within(budget, spec, own, events, jitter)
}

/// [`watch_donor`] with a budget that several donors share.
pub fn watch_donor_within(
    budget: DonorBudget,
    spec: DonorSpec,
    own: AcceptorContext,
    events: mpsc::Sender<DonorEvent>,
    jitter: BackoffJitter,
) -> DonorHandle {
    let cancel = CancellationToken::new();
    let (publish, state) = watch::channel(DonorState::default());
    let acknowledgements = Acknowledgements::new(own.limits.clone());
    let holdings = DonorHoldings::new(&spec.held);
    publish.send_modify(|state| state.held = holdings.len());
    let control = HoldingsControl::default();
    let donor = DonorTask {
        spec,
        own,
        events,
        state: publish,
        acknowledgements: acknowledgements.clone(),
        holdings,
        control: control.clone(),
        conduct: DonorConduct::default(),
        in_flight: Arc::new(Semaphore::new(PARTS_IN_FLIGHT)),
        budget,
        jitter,
        streams: 0,
    };
    let cancelled = cancel.clone();
    let task = tokio::spawn(async move {
        cancelled.run_until_cancelled_owned(donor.run()).await;
    });
    DonorHandle { state, acknowledgements, control, cancel, task: Some(task) }
}

/// Asks an agent once how it sees this cluster. For checks and people.
pub async fn probe_agent(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    own: &AcceptorContext,
) -> Result<ProbeAnswer, SessionError> {
    probe_under(None, endpoint, expected, own).await
}

/// [`probe_agent`] under the roots of the peer's entry, if it names some.
pub async fn probe_under(
    bundle: Option<&CaBundle>,
    endpoint: &Endpoint,
    expected: &SpiffeId,
    own: &AcceptorContext,
) -> Result<ProbeAnswer, SessionError> {
    session::probe_endpoint(endpoint, expected, bundle, own).await
}

/// The result of asking an agent once.
#[derive(Debug, Clone)]
pub struct ProbeAnswer {
    pub answer: pb::GetPeerResponse,
    /// The certificate that it showed.
    pub certificate: PeerCertificate,
    /// Times of the question and of the answer, by this cluster's clock.
    pub asked: OffsetDateTime,
    pub answered: OffsetDateTime,
    /// Time by the other agent's clock: the HTTP `Date` of its answer.
    pub date: Option<String>,
}

/// The owner does not receive any more.
struct OwnerGone;

struct DonorTask {
    spec: DonorSpec,
    own: AcceptorContext,
    events: mpsc::Sender<DonorEvent>,
    state: watch::Sender<DonorState>,
    acknowledgements: Acknowledgements,
    holdings: DonorHoldings,
    control: HoldingsControl,
    conduct: DonorConduct,
    in_flight: Arc<Semaphore>,
    budget: DonorBudget,
    jitter: BackoffJitter,
    streams: u64,
}

impl DonorTask {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let mut identity = self.own.identity.clone();
            identity.mark_unchanged();
            self.streams += 1;
            let mut session = DonorSession::new(&mut self);
            let error = match session.run().await {
                Ok(SessionEnd::OwnerGone) => return,
                Ok(SessionEnd::FetchAgain) => continue,
                Err(error) => error,
            };
            if session.has_lasted() {
                attempt = 0;
            }
            let reason = error.to_string();
            let misbehaving = matches!(error, SessionError::Misbehaving(_));
            let refused = matches!(error, SessionError::Refused { code: tonic::Code::PermissionDenied, .. });
            if refused {
                self.holdings = DonorHoldings::new(&BTreeMap::new()); // the owner drops what it holds: all is to be told again
                self.state.send_modify(|state| state.held = 0);
            }
            let mut retry_in = self.jitter.wait_within(self.own.limits.backoff_ceiling(attempt));
            if misbehaving {
                self.conduct = DonorConduct::default(); // the pause is what it costs
                retry_in = self.own.limits.backoff_max;
            }
            attempt = attempt.saturating_add(1);
            tracing::warn!(donor = %self.spec.cluster, endpoint = %self.spec.endpoint, %reason, retry_in = %format_args!("{:.1}s", retry_in.as_secs_f64()), "no stream");
            self.state.send_modify(|state| {
                state.connected_since = None;
                state.problem = Some(reason.clone());
                state.attempts = attempt;
            });
            if self.send_news(DonorNews::Disconnected { reason, retry_in, refused, misbehaving }).await.is_err() {
                return;
            }
            // A new certificate may be what was missing.
            let renewed = async {
                if identity.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(retry_in, renewed).await;
        }
    }

    async fn send_news(&self, news: DonorNews) -> Result<(), OwnerGone> {
        self.send_news_within(news, None).await
    }

    async fn send_news_within(&self, news: DonorNews, room: Option<OwnedSemaphorePermit>) -> Result<(), OwnerGone> {
        let permit = self.in_flight.clone().acquire_owned().await.ok(); // it is never closed
        let event = DonorEvent { cluster: self.spec.cluster.clone(), news, _permit: permit, _room: room };
        self.events.send(event).await.map_err(|_| OwnerGone)
    }
}
