//! Explains an API server's refusals to a person.

use kube::Error;
use kube::runtime::watcher;

use crate::store::StoreError;

/// Points to the table of all rights.
const RIGHTS: &str = "docs/reference/rbac.md lists the rights of an agent";

/// Returns the HTTP status, if the API server answered.
pub fn status_code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Returns whether a watch missed events that are no longer kept: it lists again by itself, and nobody has to do
/// anything.
pub fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

/// Explains a failure of a watch; returns also the HTTP status if there is one.
pub fn explain_watch(error: &watcher::Error) -> (String, Option<u16>) {
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            (explain_error(e), status_code(e))
        }
        watcher::Error::WatchError(status) => (status.message.clone(), Some(status.code)),
        watcher::Error::NoResourceVersion => (error.to_string(), None),
    }
}

/// Explains an error, with the cure if it is known.
pub fn explain_error(error: &Error) -> String {
    match error {
        Error::Api(status) => {
            let said = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
            match status.code {
                401 => format!("the API server does not accept the credentials ({said}); the token may have expired"),
                403 => format!("{said}; {RIGHTS}"),
                404 if said.contains("could not find the requested resource") || said.contains("page not found") => {
                    "the API server does not know this kind; install its CustomResourceDefinition (`wharf crds`, or Istio's)"
                        .to_owned()
                }
                429 => format!("the API server is busy ({said})"),
                code @ 500.. => format!("the API server failed with {code} ({said})"),
                _ => said,
            }
        }
        other => format!("the API server does not answer: {}", innermost_cause(other)),
    }
}

/// Returns the last cause: its wrappers say nothing that helps.
fn innermost_cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Makes an error of the store. `place` is the object.
pub fn store_error(place: impl Into<String>, error: &Error) -> StoreError {
    // Every error may be over by the next try: rights are given, definitions installed, namespaces made again.
    StoreError { place: place.into(), message: explain_error(error), transient: true }
}
