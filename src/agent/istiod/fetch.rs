//! Reads istiod's metrics over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::metrics_text::{GatewayPods, MetricsReader, MetricsSample};
use crate::config::IstiodMetrics;

/// Longest time for one answer, from dialling to its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer. The largest meshes have some MB; nothing of it is kept.
const MAX_ANSWER: usize = 64 << 20;
/// Most addresses of one name that are asked: replicas of istiod, if its Service is headless.
const MAX_ADDRESSES: usize = 8;

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}: the name cannot be resolved: {1}")]
    Name(String, std::io::Error),
    #[error("{0}: the name has no address")]
    NoAddress(String),
    #[error("{0}: cannot connect: {1}")]
    Connect(SocketAddr, std::io::Error),
    #[error("{0}: {1}")]
    Http(SocketAddr, String),
    #[error("{0}: it answers {1}")]
    Status(SocketAddr, http::StatusCode),
    #[error("{0}: the answer is longer than {MAX_ANSWER} bytes")]
    TooLong(SocketAddr),
    #[error("{0}: no answer within {seconds} s", seconds = PATIENCE.as_secs())]
    TooSlow(SocketAddr),
    #[error("{0}: what answers is not istiod: it has no metric pilot_info or pilot_xds")]
    NotIstiod(SocketAddr),
}

/// Reads the metrics from every address of the name.
pub async fn fetch_metrics(
    metrics: &IstiodMetrics,
    pods: &GatewayPods,
) -> Result<Vec<Result<MetricsSample, FetchError>>, FetchError> {
    let name = format!("{}:{}", metrics.host, metrics.port);
    let looked_up =
        tokio::time::timeout(PATIENCE, tokio::net::lookup_host((metrics.host.as_str(), metrics.port))).await;
    let looked_up = looked_up.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let addresses = looked_up.map_err(|e| FetchError::Name(name.clone(), e))?;
    let mut answers = Vec::new();
    for address in addresses.take(MAX_ADDRESSES) {
        let answer = tokio::time::timeout(PATIENCE, fetch_one(metrics, address, pods)).await;
        answers.push(answer.unwrap_or(Err(FetchError::TooSlow(address))));
    }
    if answers.is_empty() { Err(FetchError::NoAddress(name)) } else { Ok(answers) }
}

async fn fetch_one(
    metrics: &IstiodMetrics,
    address: SocketAddr,
    pods: &GatewayPods,
) -> Result<MetricsSample, FetchError> {
    let failed = |e: &dyn std::fmt::Display| FetchError::Http(address, e.to_string());
    let stream = TcpStream::connect(address).await.map_err(|e| FetchError::Connect(address, e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let authority = format!("{}:{}", metrics.host, metrics.port);
    let request = http::Request::get(metrics.path.as_str()).header(http::header::HOST, authority);
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status(address, response.status()));
        }
        let mut body = response.into_body();
        let mut reader = MetricsReader::new(pods);
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|e| failed(&e))?.into_data() else { continue };
            length += data.len();
            if length > MAX_ANSWER {
                return Err(FetchError::TooLong(address));
            }
            reader.read_piece(&data);
        }
        let sample = reader.finish();
        if sample.is_istiod { Ok(sample) } else { Err(FetchError::NotIstiod(address)) }
    };
    // The connection is driven beside the exchange, and dropped with it.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await, // it has ended; the rest of the answer is available
    }
}
