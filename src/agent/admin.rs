//! The admin listener: `/healthz`, `/readyz`, `/metrics`, `/status`. Plain HTTP, on loopback unless told otherwise,
//! read-only; it holds nothing secret.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::view::View;

/// A question to the engine, which alone knows the state.
pub enum Query {
    Status(oneshot::Sender<Box<View>>),
    /// Whether the agent is ready, and if not, why.
    Ready(oneshot::Sender<Result<(), String>>),
    Metrics(oneshot::Sender<String>),
}

/// Connections at one time; more wait in the listener's backlog.
const CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until `stop`. Every task belongs to `tasks`.
pub async fn serve(listener: TcpListener, engine: mpsc::Sender<Query>, stop: CancellationToken, tasks: TaskTracker) {
    let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
        };
        let (Ok(slot), Ok((stream, _))) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await; // out of file descriptors: do not spin
            continue;
        };
        let (engine, stop) = (engine.clone(), stop.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| answer(request, engine.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {} // what a scraper does wrong is its own affair
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
}

async fn answer(request: Request<Incoming>, engine: mpsc::Sender<Query>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served here\n".into()));
    }
    Ok(match request.uri().path() {
        "/healthz" => match ask(&engine, Query::Ready).await {
            Some(_) => reply(StatusCode::OK, "text/plain", "ok\n".into()),
            None => stuck(),
        },
        "/readyz" => match ask(&engine, Query::Ready).await {
            Some(Ok(())) => reply(StatusCode::OK, "text/plain", "ok\n".into()),
            Some(Err(why)) => reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", why + "\n"),
            None => stuck(),
        },
        "/metrics" => match ask(&engine, Query::Metrics).await {
            Some(text) => reply(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            None => stuck(),
        },
        "/status" => match ask(&engine, Query::Status).await.map(|view| serde_json::to_string(&view)) {
            Some(Ok(text)) => reply(StatusCode::OK, "application/json", text),
            _ => stuck(),
        },
        _ => reply(StatusCode::NOT_FOUND, "text/plain", "here are /healthz, /readyz, /metrics and /status\n".into()),
    })
}

/// Asks the engine. None if it does not answer in time, which is what a liveness probe has to know.
async fn ask<T>(engine: &mpsc::Sender<Query>, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        engine.send(query(sender)).await.ok()?;
        receiver.await.ok()
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
}

fn stuck() -> Response<Full<Bytes>> {
    reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the agent is busy or stopping\n".into())
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
