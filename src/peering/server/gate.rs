//! The gate in front of every service, health and reflection too: it checks the caller, its permission, and its pace.
//! Then it dispatches to the service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::body::BoundedBody;
use super::connection::ServedConnection;
use super::donor::{AnswerCharge, CallError, ChargedAnswer, DonorService};
use super::oversight::{CallerOversight, LogSubject};
use super::{ServerCounters, ServerError, ServerState};
use crate::identity::PeerCertificate;
use crate::model::ClusterName;
use crate::peering::fair::FairPool;
use crate::peering::limits::{MAX_OTHER_CALLS, MAX_OTHER_CALLS_PER_PEER, MAX_REFLECTION_BYTES, MAX_SMALL_REQUEST};
use crate::peering::messages::{MessageReader, ReadError};
use crate::peering::pb::peering_service_server::SERVICE_NAME;
use crate::peering::peers::Caller;
use crate::peering::{Limits, pb};

type ServiceHandler = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Time that an answer may take to be read, beyond the time of its call.
const SLACK: Duration = Duration::from_secs(2);

/// A caller that the gate admitted.
#[derive(Clone)]
pub(super) struct AdmittedCaller {
    pub(super) caller: Caller,
    pub(super) connection: Arc<ServedConnection>,
    pub(super) certificate: PeerCertificate,
    oversight: Arc<CallerOversight>,
}

impl AdmittedCaller {
    /// Writes a line about this peer, at most one a second.
    pub(super) fn log_line(&self, write: impl FnOnce(u64)) {
        self.oversight.log_line(LogSubject::Peer(self.caller.cluster.clone()), write);
    }

    /// Admits another subscription.
    pub(super) fn admit_hello(&self) -> Result<(), Status> {
        let callers = &self.oversight.callers;
        callers.admit_hello(&self.caller.cluster, std::time::Instant::now()).map_err(|refusal| {
            self.add_strike(&refusal.to_string());
            Status::from(&refusal)
        })
    }

    pub(super) fn add_strike(&self, why: &str) {
        self.oversight.add_strike(&self.caller.cluster, why);
    }
}

/// The services: the peering's own, and those that come with gRPC, by name.
pub(super) struct ServiceRoutes {
    donor: DonorService,
    others: Vec<(&'static str, OtherService)>,
    /// Calls of the others that are open. Each keeps buffers as long as it likes.
    places: Arc<FairPool<ClusterName>>,
}

struct OtherService {
    handler: ServiceHandler,
    /// Bytes of a call's requests, and the time until they have to be complete.
    max_bytes: usize,
    timeout: Duration,
}

impl ServiceRoutes {
    pub(super) fn new(
        donor: DonorService,
        health: HealthServer<impl Health>,
        limits: &Limits,
    ) -> Result<ServiceRoutes, ServerError> {
        let describe = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health = health.max_decoding_message_size(MAX_SMALL_REQUEST);
        let v1 = describe().build_v1()?.max_decoding_message_size(MAX_SMALL_REQUEST);
        let v1alpha = describe().build_v1alpha()?.max_decoding_message_size(MAX_SMALL_REQUEST);
        let others = vec![
            other_service(health, MAX_SMALL_REQUEST, limits.call_timeout),
            other_service(v1, MAX_REFLECTION_BYTES, limits.reflection_timeout),
            other_service(v1alpha, MAX_REFLECTION_BYTES, limits.reflection_timeout),
        ];
        let places = Arc::new(FairPool::new(MAX_OTHER_CALLS, MAX_OTHER_CALLS_PER_PEER, Duration::ZERO));
        Ok(ServiceRoutes { donor, others, places })
    }

    /// Answers one request. The body of a refused request is not read.
    pub(super) async fn answer_call(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ServedConnection>,
        shared: &ServerState,
    ) -> Response<Body> {
        let passed = match admit_caller(connection, shared).await {
            Ok(passed) => passed,
            Err(status) => {
                ServerCounters::add_one(&shared.counters.calls_refused);
                return status.into_http();
            }
        };
        if !is_grpc(&request) {
            return not_grpc();
        }
        connection.calls.fetch_add(1, Ordering::Relaxed);
        let open = OpenCall::new(connection.clone());
        let (answer, life) = self.dispatch_call(request, &passed, shared).await;
        let (response, charge) = answer.unwrap_or_else(|error| {
            if let CallError::Request(error) = &error
                && error.is_misconduct()
            {
                passed.add_strike(&error.to_string());
            }
            (error.into_status().into_http(), AnswerCharge::default())
        });
        response.map(|body| Body::new(WatchedAnswer::new(body, open, life, charge, &passed)))
    }

    /// Calls the method that a request names. Returns also how long its answer may wait to be read.
    async fn dispatch_call(
        &self,
        request: Request<Incoming>,
        passed: &AdmittedCaller,
        shared: &ServerState,
    ) -> (Result<ChargedAnswer, CallError>, AnswerLife) {
        let limits = &shared.parts.limits;
        let end = Instant::now() + limits.call_timeout;
        let (path, body) = (request.uri().path().to_owned(), request.into_body());
        let (service, method) = path.strip_prefix('/').and_then(|p| p.split_once('/')).unwrap_or_default();
        let requests = |body| MessageReader::new(body, shared.received.clone(), passed.caller.cluster.clone());
        match (service, method) {
            (SERVICE_NAME, "Subscribe") => {
                let answer = self.donor.subscribe(passed, requests(body)).await;
                (answer, AnswerLife::Each(limits.answer_timeout))
            }
            (SERVICE_NAME, "ListExpositions") => {
                let answer = self.donor.list_expositions(passed, requests(body));
                (in_time(end, limits.call_timeout, answer).await, AnswerLife::Whole(end + SLACK))
            }
            (SERVICE_NAME, "GetPeer") => {
                let answer = self.donor.get_peer(passed, requests(body));
                (in_time(end, limits.call_timeout, answer).await, AnswerLife::Whole(end + SLACK))
            }
            _ => {
                let answer = self.call_other(service, &path, body, passed);
                (in_time(end, limits.call_timeout, answer).await, AnswerLife::Each(limits.answer_timeout))
            }
        }
    }

    async fn call_other(
        &self,
        service: &str,
        path: &str,
        body: Incoming,
        passed: &AdmittedCaller,
    ) -> Result<ChargedAnswer, CallError> {
        let Some((_, other)) = self.others.iter().find(|(name, _)| *name == service) else {
            let why = if service == SERVICE_NAME { "there is no such method" } else { "there is no such service" };
            return Err(Status::unimplemented(format!("{why}; reflection lists those there are")).into());
        };
        let place = self.places.begin_share(passed.caller.cluster.clone(), passed.connection.cut.clone());
        place.resize(1).map_err(|_| {
            let why = format!(
                "{MAX_OTHER_CALLS_PER_PEER} health and reflection calls are open already, the limit for one peer"
            );
            Status::resource_exhausted(why)
        })?;
        let mut request = Request::new(Body::new(BoundedBody::new(body, other.max_bytes, other.timeout)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|_| Status::invalid_argument("the path cannot be read"))?;
        let Ok(response) = other.handler.clone().oneshot(request).await;
        Ok((response, AnswerCharge { unread: None, _place: Some(place) }))
    }
}

fn other_service<S>(service: S, max_bytes: usize, timeout: Duration) -> (&'static str, OtherService)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, OtherService { handler: ServiceHandler::new(service), max_bytes, timeout })
}

async fn in_time(
    end: Instant,
    within: Duration,
    answer: impl Future<Output = Result<ChargedAnswer, CallError>>,
) -> Result<ChargedAnswer, CallError> {
    timeout_at(end, answer).await.unwrap_or(Err(CallError::Request(ReadError::TooSlow(within))))
}

/// Returns the caller, once it may call. One that calls too fast waits here, with its body unread.
async fn admit_caller(connection: &Arc<ServedConnection>, shared: &ServerState) -> Result<AdmittedCaller, Status> {
    let certificate = connection.certificate.as_ref().map_err(copy_status)?;
    let caller = shared.parts.peers.borrow().find_caller(&certificate.spiffe_id);
    let caller = caller.map_err(|refusal| {
        let write = |left_out| tracing::info!(reason = %refusal, left_out, "a call was refused");
        shared.oversight.log_line(LogSubject::NoPeer, write);
        refusal.to_status()
    })?;
    let oversight = shared.oversight.clone();
    let passed = AdmittedCaller { caller, connection: connection.clone(), certificate: certificate.clone(), oversight };
    let wait = shared.oversight.callers.admit_call(&passed.caller.cluster, std::time::Instant::now());
    let wait = wait.map_err(|refusal| {
        passed.log_line(|left_out| tracing::info!(reason = %refusal, left_out, "a call was refused"));
        if !refusal.is_pause() {
            passed.add_strike(&refusal.to_string());
        }
        Status::from(&refusal)
    })?;
    if !wait.is_zero() {
        connection.ingress.pause_reading(wait);
        tokio::time::sleep(wait).await;
    }
    Ok(passed)
}

/// Copies a status with its code and sentence only: cloning one is not cheap.
pub(super) fn copy_status(status: &Status) -> Status {
    Status::new(status.code(), status.message())
}

/// Returns whether a request is one of gRPC over HTTP/2.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    let content = content.is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    content && request.method() == Method::POST
}

/// Answers a browser: with the status of HTTP, and the reason as gRPC would send it.
fn not_grpc() -> Response<Body> {
    let status = Status::new(Code::Unknown, "this is a gRPC service: it takes POST with content-type application/grpc");
    let mut response = status.into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Counts a call that is open.
struct OpenCall {
    connection: Arc<ServedConnection>,
    number: u64,
}

impl OpenCall {
    fn new(connection: Arc<ServedConnection>) -> OpenCall {
        connection.open.fetch_add(1, Ordering::Relaxed);
        let number = connection.answers.begin_call();
        OpenCall { connection, number }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.connection.answers.clear_deadline(self.number);
        self.connection.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Time that an answer may wait to be read.
#[derive(Clone, Copy)]
enum AnswerLife {
    /// Deadline for all of it.
    Whole(Instant),
    /// Time for each of its messages.
    Each(Duration),
}

/// An answer on its way. The call is open until its last byte is sent or it is dropped.
struct WatchedAnswer {
    body: Body,
    open: OpenCall,
    life: AnswerLife,
    charge: AnswerCharge,
    oversight: Arc<CallerOversight>,
}

impl WatchedAnswer {
    fn new(
        body: Body,
        open: OpenCall,
        life: AnswerLife,
        charge: AnswerCharge,
        passed: &AdmittedCaller,
    ) -> WatchedAnswer {
        let answer = WatchedAnswer { body, open, life, charge, oversight: passed.oversight.clone() };
        answer.wait_until_read();
        answer
    }

    fn wait_until_read(&self) {
        let at = match self.life {
            AnswerLife::Whole(end) => end,
            AnswerLife::Each(time) => Instant::now() + time,
        };
        self.open.connection.answers.set_deadline(self.open.number, at);
    }
}

impl Drop for WatchedAnswer {
    fn drop(&mut self) {
        if let Some(unread) = self.charge.unread.take() {
            self.oversight.release_when_sent(unread, self.open.connection.ended.clone());
        }
    }
}

impl hyper::body::Body for WatchedAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match (&frame, self.life) {
            (Poll::Ready(_), AnswerLife::Each(_)) => self.wait_until_read(),
            (Poll::Pending, AnswerLife::Each(_)) => self.open.connection.answers.clear_deadline(self.open.number),
            (_, AnswerLife::Whole(_)) => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
