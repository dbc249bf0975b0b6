//! One Secret, followed by its name, so that rights to this one are enough: the API server knows it by the field
//! selector.
//!
//! Answers are read here and not by the client, which logs texts that it cannot read: it may be a key.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::{ObjectList, Request};
use kube::{Api, Client, Error, Resource as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::explain_error;
use crate::store::NamedKey;

/// Time that the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds after which the Secret is listed and watched again.
const RENEW: u32 = 270;
/// The pauses after failures: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The Secret as it was at some time, or that there was none.
#[derive(Clone)]
pub(super) struct ObservedSecret {
    pub secret: Option<Arc<Secret>>,
    /// Version of the cluster, not only of the Secret: a later state has a higher one (KEP-5504).
    pub version: u64,
}

/// The known state of a Secret. It has no `Debug`: it may hold a key.
#[derive(Clone, Default)]
pub(super) struct SecretState {
    /// None: nothing was received yet.
    pub seen: Option<ObservedSecret>,
    /// The reason why it cannot be read now.
    pub trouble: Option<String>,
}

/// The reason why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestFailure {
    #[error("{}", explain_error(.0))]
    Refused(#[from] Error),
    #[error("the API server does not answer")]
    Silent,
    /// Omits the parser's message, which may quote what it read.
    #[error("the answer of the API server is no Secret")]
    Unreadable,
}

/// Publishes each state of the Secret until the receiver is gone.
pub(super) async fn follow_secret(client: Client, key: NamedKey, sights: watch::Sender<SecretState>) {
    let work = async {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            match watch_once(&client, &key, &sights).await {
                Ok(()) if begun.elapsed() > PAUSE.1 => failures = 0,
                Ok(()) => failures += 1, // a server that ends watches at once is not asked in a loop
                Err(failure) => {
                    failures += 1;
                    let trouble = Some(failure.to_string());
                    sights.send_if_modified(|sight| std::mem::replace(&mut sight.trouble, trouble.clone()) != trouble);
                }
            }
            if failures > 0 {
                tokio::time::sleep(retry_pause(failures)).await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = sights.closed() => {}
    }
}

/// Lists, then watches until the watch ends, however it ends: missed events are in the next list.
async fn watch_once(
    client: &Client,
    key: &NamedKey,
    sights: &watch::Sender<SecretState>,
) -> Result<(), RequestFailure> {
    let field = format!("metadata.name={}", key.name);
    let request = secret_request(key).list(&ListParams::default().fields(&field)).map_err(Error::BuildRequest)?;
    let list: ObjectList<Secret> = request_json(client, request).await?;
    let listed = list.metadata.resource_version.unwrap_or_default();
    let seen = |secret: Option<Secret>, version: Option<&str>| ObservedSecret {
        version: parse_version(version),
        secret: secret.map(Arc::new),
    };
    publish_secret(sights, seen(list.items.into_iter().next(), Some(&listed)));

    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let params = WatchParams::default().fields(&field).timeout(RENEW);
    let events = timeout(PATIENCE, secrets.watch(&params, &listed)).await.map_err(|_| RequestFailure::Silent)??;
    sights.send_if_modified(|sight| sight.trouble.take().is_some());
    let mut events = pin!(events);
    let longest = Duration::from_secs(u64::from(RENEW)) + PATIENCE;
    // A connection that died without a word is given up in the end.
    while let Ok(Some(Ok(event))) = timeout(longest, events.next()).await {
        match event {
            WatchEvent::Added(secret) | WatchEvent::Modified(secret) => {
                let version = secret.metadata.resource_version.clone();
                publish_secret(sights, seen(Some(secret), version.as_deref()));
            }
            WatchEvent::Deleted(secret) => {
                publish_secret(sights, seen(None, secret.metadata.resource_version.as_deref()))
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => break, // expired, most often
        }
    }
    Ok(())
}

fn publish_secret(sights: &watch::Sender<SecretState>, now: ObservedSecret) {
    sights.send_if_modified(|sight| {
        let news = sight.seen.as_ref().is_none_or(|before| before.secret != now.secret);
        sight.seen = Some(now);
        news
    });
}

/// Server-side apply of the whole Secret.
pub(super) async fn apply_secret(
    client: &Client,
    key: &NamedKey,
    params: &PatchParams,
    secret: &Secret,
) -> Result<ObservedSecret, RequestFailure> {
    let request = secret_request(key).patch(&key.name, params, &Patch::Apply(secret)).map_err(Error::BuildRequest)?;
    let secret: Secret = request_json(client, request).await?;
    Ok(ObservedSecret {
        version: parse_version(secret.metadata.resource_version.as_deref()),
        secret: Some(Arc::new(secret)),
    })
}

fn secret_request(key: &NamedKey) -> Request {
    Request::new(Secret::url_path(&(), Some(&key.namespace)))
}

async fn request_json<T: DeserializeOwned>(
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<T, RequestFailure> {
    let text = timeout(PATIENCE, client.request_text(request)).await.map_err(|_| RequestFailure::Silent)??;
    serde_json::from_str(&text).map_err(|_| RequestFailure::Unreadable)
}

fn parse_version(version: Option<&str>) -> u64 {
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

pub(super) fn retry_pause(failures: u32) -> Duration {
    let ceiling = PAUSE.0.saturating_mul(1 << failures.min(8)).min(PAUSE.1);
    ceiling.mul_f64(rand::random_range(0.5..1.0))
}
