//! What a running agent says of itself, asked on its admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;

use crate::agent::view::View;

/// Asks a running agent for its state.
pub async fn fetch(admin: SocketAddr) -> anyhow::Result<View> {
    let answer = tokio::time::timeout(Duration::from_secs(10), get(admin, "/status")).await;
    let body = match answer {
        Ok(body) => body.with_context(|| {
            format!("no agent answers on {admin}; is it running, and is that its `admin` address? (--admin, --config)")
        })?,
        Err(_) => bail!("the agent on {admin} did not answer within 10 s"),
    };
    serde_json::from_slice(&body).with_context(|| format!("what answers on {admin} is not an agent of this version"))
}

/// One GET of an agent's admin listener.
pub async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path).header(http::header::HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} answered {status}");
        anyhow::Ok(body)
    };
    tokio::select! {
        biased;
        body = exchange => body,
        ended = connection => { ended?; bail!("the connection ended before the answer") }
    }
}
