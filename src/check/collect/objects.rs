//! Reads objects of an API server. Tells absent objects from those that cannot be seen, with the reason.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::check::clock::{ClockReading, http_date};
use crate::check::{LookResult, UnseenReason};
use crate::store::kube::client::describe_error;

/// Longest time for one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most objects that are read: more pods or policies tell nothing new.
const MANY: u32 = 1000;

pub fn unseen_reason(error: &kube::Error) -> UnseenReason {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => UnseenReason::Forbidden(status.message.clone()),
        error => UnseenReason::Failed(describe_error(error)),
    }
}

async fn ask_in_time<T>(question: impl Future<Output = Result<T, kube::Error>>) -> LookResult<T> {
    match tokio::time::timeout(PATIENCE, question).await {
        Err(_) => Err(UnseenReason::Failed(format!("the API server did not answer in {} s", PATIENCE.as_secs()))),
        Ok(Ok(answer)) => Ok(Some(answer)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(Err(error)) => Err(unseen_reason(&error)),
    }
}

/// Reads one object by listing it: an agent may list what it works on, but may get little of it.
pub async fn get_object<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) -> LookResult<K> {
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = ask_in_time(async { Ok(api.list(&params).await?.items) }).await?;
    Ok(found.into_iter().flatten().next())
}

/// Lists objects. `labels`: a selector, in the form of kubectl's `-l`.
pub async fn list_objects<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, labels: &str) -> LookResult<Vec<K>> {
    let params = ListParams::default().labels(labels).limit(MANY);
    ask_in_time(async { Ok(api.list(&params).await?.items) }).await
}

/// Lists the kinds that the API server serves in a group and version.
pub async fn list_kinds(client: &Client, group_version: &str) -> LookResult<Vec<String>> {
    let question = client.list_api_group_resources(group_version);
    let kinds = ask_in_time(question).await?;
    Ok(kinds.map(|list| list.resources.into_iter().map(|r| r.kind).collect()))
}

/// Reads the version of the API server, and its clock.
pub async fn read_version(client: &Client) -> Result<(String, Option<ClockReading>), UnseenReason> {
    let asked = OffsetDateTime::now_utc();
    let question = async {
        let request = http::Request::get("/version").body(Body::empty()).map_err(kube::Error::HttpError)?;
        let response = client.send(request).await?;
        let date = response.headers().get(http::header::DATE).and_then(|d| d.to_str().ok()).and_then(http_date);
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, date, body))
    };
    let Some((status, date, body)) = ask_in_time(question).await? else {
        return Err(UnseenReason::Failed("there is no API server of Kubernetes".into()));
    };
    let reading = date.map(|said| ClockReading { asked, answered: OffsetDateTime::now_utc(), said });
    match serde_json::from_slice::<Info>(&body) {
        Ok(info) => Ok((info.git_version, reading)),
        // Some clusters tell their version only to callers that they know.
        Err(_) if matches!(status.as_u16(), 401 | 403) => {
            Err(UnseenReason::Forbidden(format!("the API server does not accept the credentials ({status})")))
        }
        Err(_) => Err(UnseenReason::Failed(format!("what answers is no API server of Kubernetes ({status})"))),
    }
}
