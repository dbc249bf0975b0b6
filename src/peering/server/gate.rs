//! In front of every service, health and reflection too: who calls, and whether it may. Then to the service it calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::connection::Connection;
use super::donor::Donor;
use super::{Counters, ServerError, Shared};
use crate::identity::PeerCertificate;
use crate::peering::pb;
use crate::peering::pb::peering_service_server::PeeringServiceServer;
use crate::peering::peers::Caller;

type Handler = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Who calls, as the gate found it: in the extensions of every request that passes.
#[derive(Clone)]
pub(super) struct Passed {
    pub(super) caller: Caller,
    pub(super) connection: Arc<Connection>,
    pub(super) certificate: PeerCertificate,
}

/// The services, by name.
pub(super) struct Routes(Vec<(&'static str, Handler)>);

impl Routes {
    pub(super) fn new(
        donor: Donor,
        health: HealthServer<impl Health>,
        max_message: usize,
    ) -> Result<Routes, ServerError> {
        let describe = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let peering = PeeringServiceServer::new(donor).max_decoding_message_size(max_message);
        Ok(Routes(vec![
            handler(peering),
            handler(health),
            handler(describe().build_v1()?),
            handler(describe().build_v1alpha()?),
        ]))
    }

    /// Answers one request.
    pub(super) async fn call(
        &self,
        request: Request<Incoming>,
        connection: &Arc<Connection>,
        shared: &Shared,
    ) -> Response<Body> {
        let passed = match pass(connection, shared) {
            Ok(passed) => passed,
            Err(status) => {
                Counters::add(&shared.counters.calls_refused);
                return status.into_http();
            }
        };
        if !is_grpc(&request) {
            return not_grpc();
        }
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let Some((_, handler)) = self.0.iter().find(|(service, _)| *service == name) else {
            return Status::unimplemented("there is no such service; reflection lists those there are").into_http();
        };
        connection.calls.fetch_add(1, Ordering::Relaxed);
        let open = Open::new(connection.clone());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(passed);
        let Ok(response) = handler.clone().oneshot(request).await;
        // The call is open until its last byte is sent or nobody wants it any more.
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &open;
                frame
            }))
        })
    }
}

fn handler<S>(service: S) -> (&'static str, Handler)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    (S::NAME, Handler::new(service))
}

fn pass(connection: &Arc<Connection>, shared: &Shared) -> Result<Passed, Status> {
    let certificate = connection.certificate.as_ref().map_err(plain)?;
    let caller = shared.parts.peers.borrow().caller(&certificate.spiffe_id);
    let caller = caller.map_err(|refusal| {
        tracing::info!(reason = %refusal, "a call was refused");
        Status::permission_denied(refusal.to_string())
    })?;
    Ok(Passed { caller, connection: connection.clone(), certificate: certificate.clone() })
}

/// A status is not cheap to clone, and all that is in these is a code and a sentence.
pub(super) fn plain(status: &Status) -> Status {
    Status::new(status.code(), status.message())
}

/// What gRPC over HTTP/2 demands of a request.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content = request.headers().get(header::CONTENT_TYPE);
    let content = content.is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    content && request.method() == Method::POST
}

/// For whoever points a browser here: the status of HTTP, and the reason as gRPC would tell it.
fn not_grpc() -> Response<Body> {
    let status = Status::new(Code::Unknown, "this is a gRPC service: it takes POST with content-type application/grpc");
    let mut response = status.into_http();
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Counts a call that is open.
struct Open(Arc<Connection>);

impl Open {
    fn new(connection: Arc<Connection>) -> Open {
        connection.open.fetch_add(1, Ordering::Relaxed);
        Open(connection)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
