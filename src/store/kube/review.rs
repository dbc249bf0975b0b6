//! Asks the API server about a gateway's service account.
//!
//! Istiod hands a Secret to a gateway only if the service account of the gateway's pods may list the Secrets of its
//! namespace. It asks the API server by the account's user alone, without its groups, and takes every answer but
//! "allowed" for a refusal (istio, pilot/pkg/credentials/kube, `Authorize`). The same question is asked here, as a
//! LocalSubjectAccessReview, which takes a right in that namespace only.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{LocalSubjectAccessReview, ResourceAttributes, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::error::{explain_error, status_code};

/// Time that the API server may take to answer.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The API server refuses to answer.
    #[error("{0}")]
    Refused(String),
    /// The API server is away or busy, so its last answer counts.
    #[error("{0}")]
    Away(String),
}

/// Returns whether istiod lets a service account have the Secrets of its namespace.
pub async fn may_list_secrets(client: &Client, namespace: &str, account: &str) -> Result<bool, ReviewError> {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        verb: Some("list".to_owned()),
        resource: Some("secrets".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(format!("system:serviceaccount:{namespace}:{account}")),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    let review = LocalSubjectAccessReview { metadata, spec, status: None };
    let api: Api<LocalSubjectAccessReview> = Api::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let answer = wait_for_answer(api.create(&params, &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Returns whether there is a service account of this name.
pub async fn has_account(client: &Client, namespace: &str, name: &str) -> Result<bool, ReviewError> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let found = wait_for_answer(api.get_metadata_opt(name)).await?;
    Ok(found.is_some())
}

async fn wait_for_answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ReviewError> {
    let Ok(answer) = timeout(REVIEW_TIMEOUT, request).await else {
        return Err(ReviewError::Away("the API server does not answer".to_owned()));
    };
    answer.map_err(|error| match status_code(&error) {
        // An expired token is renewed, and a busy API server answers later.
        Some(401 | 429 | 500..) | None => ReviewError::Away(explain_error(&error)),
        Some(_) => ReviewError::Refused(explain_error(&error)),
    })
}
