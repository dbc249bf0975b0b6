//! The admin listener: `/healthz`, `/readyz`, `/metrics`, `/status`. Plain HTTP, on loopback by default, read-only, and
//! without secrets.
//!
//! Callers may be hostile. Each connection carries one request and ends within [`CONNECTION_DEADLINE`], probes have
//! [slots](slots) of their own, and the engine builds one report at a time, so that a probe waits for one report at
//! most.

mod access;
mod slots;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::excerpt::ViewFilter;
use super::view::AgentView;
pub use access::AdminAccess;
use slots::{AdminSlot, AdminSlots, MAX_CONNECTIONS, SlotStage};

/// A question to the engine, which alone has the state.
pub enum EngineQuery {
    Status(ViewFilter, oneshot::Sender<Box<AgentView>>),
    /// Asks if the agent is ready, and for the reason if it is not.
    Ready(oneshot::Sender<Result<(), String>>),
    Metrics(oneshot::Sender<String>),
}

const PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/status"];
/// Time from the first byte of a connection to the last byte of the answer.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);
/// Time for the head of the request, and for the engine's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest reason why an agent is not ready, in bytes.
const MAX_REASON: usize = 4096;

/// The source of the listener's answers, and the rules about callers.
pub struct AdminDesk {
    engine: mpsc::Sender<EngineQuery>,
    access: AdminAccess,
    /// Limits reports to one at a time.
    report: Semaphore,
}

impl AdminDesk {
    pub fn new(engine: mpsc::Sender<EngineQuery>, access: AdminAccess) -> AdminDesk {
        AdminDesk { engine, access, report: Semaphore::new(1) }
    }
}

/// Serves until `stop`. Every task belongs to `tasks`.
pub async fn serve(listener: TcpListener, desk: AdminDesk, stop: CancellationToken, tasks: TaskTracker) {
    let desk = Arc::new(desk);
    let slots = AdminSlots::default();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let place = room.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), Ok((stream, caller))) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await; // out of file descriptors: do not spin
            continue;
        };
        let slot = slots.admit_connection(caller.ip());
        let (desk, stop) = (desk.clone(), stop.clone());
        tasks.spawn(async move {
            let mut stream = stream;
            let is_cut = tokio::select! {
                () = serve_connection(&mut stream, caller.ip(), &desk, &slot) => false,
                () = tokio::time::sleep(CONNECTION_DEADLINE) => true,
                () = slot.closed.cancelled() => true,
                () = stop.cancelled() => false,
            };
            if is_cut {
                let _ = stream.set_zero_linger(); // the kernel need not keep the answer for a caller that does not read
            }
            drop((stream, place));
        });
    }
}

/// Answers one request. Further requests on the same connection are not read.
async fn serve_connection(stream: &mut TcpStream, caller: IpAddr, desk: &AdminDesk, slot: &AdminSlot) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer_request(&request, caller, desk, slot).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let _ = connection.await; // errors of a caller matter to nobody else
}

async fn answer_request<B>(
    request: &Request<B>,
    caller: IpAddr,
    desk: &AdminDesk,
    slot: &AdminSlot,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return reply_text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        return reply_text(StatusCode::NOT_FOUND, "here are /healthz, /readyz, /metrics and /status\n");
    }
    if !desk.access.is_addressed(request) {
        return reply_text(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host of the request is not known here: ask by IP address or localhost, or add the name to adminHosts\n",
        );
    }
    match path {
        "/healthz" => {
            slot.enter_stage(SlotStage::Probe);
            match ask_engine(&desk.engine, EngineQuery::Ready).await {
                Some(_) => reply_text(StatusCode::OK, "ok\n"),
                None => reply_stuck(),
            }
        }
        "/readyz" => {
            slot.enter_stage(SlotStage::Probe);
            match ask_engine(&desk.engine, EngineQuery::Ready).await {
                Some(Ok(())) => reply_text(StatusCode::OK, "ok\n"),
                Some(Err(why)) => {
                    reply_text(StatusCode::SERVICE_UNAVAILABLE, &(shorten_reason(&why).to_owned() + "\n"))
                }
                None => reply_stuck(),
            }
        }
        "/metrics" => {
            slot.enter_stage(SlotStage::Report);
            match ask_for_report(desk, EngineQuery::Metrics).await {
                Some(text) => {
                    build_reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
                }
                None => reply_stuck(),
            }
        }
        _ => reply_status(request.uri().query(), caller, desk, slot).await,
    }
}

async fn reply_status(
    query: Option<&str>,
    caller: IpAddr,
    desk: &AdminDesk,
    slot: &AdminSlot,
) -> Response<Full<Bytes>> {
    if !desk.access.may_read_status(caller) {
        return reply_text(
            StatusCode::FORBIDDEN,
            "/status shows the objects of all namespaces, and is served on loopback only: run \
             `kubectl port-forward deployment/wharf 7444` in the agent's namespace and ask 127.0.0.1:7444, or name the \
             caller's network in adminStatusFrom\n",
        );
    }
    let filter = match ViewFilter::parse(query.unwrap_or_default()) {
        Ok(filter) => filter,
        Err(why) => return reply_text(StatusCode::BAD_REQUEST, &(why.to_string() + "\n")),
    };
    slot.enter_stage(SlotStage::Report);
    let view = ask_for_report(desk, |reply| EngineQuery::Status(filter, reply)).await;
    match view.map(|view| serde_json::to_string(&view).map(|text| text + "\n")) {
        Some(Ok(text)) => build_reply(StatusCode::OK, "application/json", text),
        _ => reply_stuck(),
    }
}

/// Asks the engine. None if it does not answer in time, which is what a liveness probe must find out.
async fn ask_engine<T>(
    engine: &mpsc::Sender<EngineQuery>,
    query: impl FnOnce(oneshot::Sender<T>) -> EngineQuery,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        engine.send(query(sender)).await.ok()?;
        receiver.await.ok()
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
}

/// Asks the engine, after the reports that others wait for.
async fn ask_for_report<T>(desk: &AdminDesk, query: impl FnOnce(oneshot::Sender<T>) -> EngineQuery) -> Option<T> {
    let turn = tokio::time::timeout(PATIENCE, desk.report.acquire()).await.ok()?.ok()?;
    let answer = ask_engine(&desk.engine, query).await;
    drop(turn);
    answer
}

fn shorten_reason(reason: &str) -> &str {
    let end = reason.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_REASON).last();
    reason.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn reply_stuck() -> Response<Full<Bytes>> {
    reply_text(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or stopping\n")
}

fn reply_text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    build_reply(status, "text/plain", text.to_owned())
}

fn build_reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
