//! Asks a running agent for its view, on its admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;

use crate::agent::excerpt::ViewFilter;
use crate::agent::view::AgentView;
use crate::cli::output;

/// Asks a running agent for its state, or a part of it. Prints a note if the answer holds less than there is.
pub async fn fetch_view(admin: SocketAddr, filter: &ViewFilter) -> anyhow::Result<AgentView> {
    let answer = tokio::time::timeout(Duration::from_secs(10), get_path(admin, &filter.request_path())).await;
    let body = match answer {
        Ok(body) => body.with_context(|| {
            format!("no agent answers on {admin}; is it running, and is that its `admin` address? (--admin, --config)")
        })?,
        Err(_) => bail!("the agent on {admin} did not answer within 10 s"),
    };
    let view: AgentView = serde_json::from_slice(&body)
        .with_context(|| format!("{admin}: expected the status of an agent of this version, and got something else"))?;
    if !view.left_out.is_nothing() {
        output::print_note(&format!(
            "note: the agent left out {}, which one answer has no room for: ask for one namespace (-n)",
            view.left_out
        ));
    }
    Ok(view)
}

/// Sends one GET request to an agent's admin listener.
pub async fn get_path(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path).header(http::header::HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} answered {status}: {}", explain_error(&body));
        anyhow::Ok(body)
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        body = &mut exchange => body,
        ended = connection => {
            ended?;
            exchange.await // the connection ends with the answer, which may have arrived already
        }
    }
}

/// Returns the agent's explanation of an error response, cut to the length of a line.
fn explain_error(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().chars().filter(|c| !c.is_control()).take(400).collect()
}
