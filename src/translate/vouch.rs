//! Checks on the provider of an exposition: that its permission is enforced, and that calls go where its owner says.
//!
//! Neither can be seen in the objects that an agent reads. So both are refused unless the operator vouches for them in
//! the configuration, and notes say what is trusted then.

use k8s_openapi::api::core::v1::Service;

use crate::api::{AMBIENT, DATAPLANE_MODE, EXPORT_TO};
use crate::model::{Assurance, ClusterFacts, Label, TlsMode};

use super::expose::ResolvedEntry;
use super::problem::{Problem, ProblemReason};
use super::{EVERYWHERE, HERE};

/// The settings of the agent's configuration that vouch.
const TRUST_SIDECARS: &str = "passthrough.trustSidecars";
const ALLOW_WITHOUT_SELECTOR: &str = "services.allowWithoutSelector";

/// Istio's label of a pod that gets no sidecar, and its value (Istio, "Installing the Sidecar").
const INJECT: &str = "sidecar.istio.io/inject";
const NO: &str = "false";
/// Istio's labels of a Service with a waypoint (Istio, "Configure waypoint proxies").
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
/// A value of `exportTo` that hides an object from everybody, whatever else is listed, but for `*`.
const NOWHERE: &str = "~";

/// Returns whether a Service selects pods.
fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

fn label_value<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    service.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Returns whether a Service leads to pods that its namespace runs. Without a selector, the author of EndpointSlices
/// leads peers anywhere, from the gateway's address (the kind of CVE-2021-25740).
pub(super) fn check_selector(name: &str, service: &Service, facts: &ClusterFacts) -> Result<(), Problem> {
    if has_selector(service) || facts.exposure.endpoints != Assurance::Missing {
        return Ok(());
    }
    let message =
        format!("the Service {name} has no selector, so whoever writes its EndpointSlices leads peers anywhere");
    let cure = format!(
        "expose a Service that selects its pods; or, if those who may write EndpointSlices are trusted with that, set {ALLOW_WITHOUT_SELECTOR} in the agent's configuration"
    );
    Err(Problem::new(ProblemReason::ServiceWithoutSelector, "name", message).cure(cure))
}

/// Returns whether the ingress gateway sees a Service: what its annotation keeps from the gateway's namespace has no
/// cluster there, and every call fails (istiod, `convertService` in `pilot/pkg/serviceregistry/kube/conversion.go` and
/// `initServiceRegistry`).
pub(super) fn check_visible(
    name: &str,
    service: &Service,
    namespace: &Label,
    facts: &ClusterFacts,
) -> Result<(), Problem> {
    let annotation = service.metadata.annotations.as_ref().and_then(|a| a.get(EXPORT_TO)).filter(|a| !a.is_empty());
    let Some(annotation) = annotation else { return Ok(()) };
    let to: Vec<&str> = annotation.split(',').map(str::trim).collect();
    let gateway = facts.ingress.namespace.as_str();
    let seen = to.contains(&EVERYWHERE)
        || (!to.contains(&NOWHERE) && (to.contains(&gateway) || (to.contains(&HERE) && gateway == namespace.as_str())));
    if seen {
        return Ok(());
    }
    let message = format!(
        "the ingress gateway in {gateway} does not see the Service {name}, whose annotation {EXPORT_TO} leaves that namespace out"
    );
    Err(Problem::new(ProblemReason::Unsupported, "name", message).cure(format!("add {gateway} to the annotation")))
}

/// Returns whether somebody enforces the permission of the mode `Passthrough`: only a sidecar does. ztunnel, and pods
/// without a proxy, let everybody in.
pub(super) fn check_sidecars(e: &ResolvedEntry<'_>) -> Result<(), Problem> {
    if e.tls != TlsMode::Passthrough {
        return Ok(());
    }
    let refuse =
        |message: String, cure: &str| Err(Problem::new(ProblemReason::SidecarsMissing, "tls", message).cure(cure));
    let other_modes = "use tls: Cluster or tls: Workload";
    let namespace = e.key.namespace.as_str();
    if e.inventory.is_ambient(namespace) == Some(true) {
        let message = format!(
            "pods of the namespace {namespace} are in ambient mode, where nobody enforces who may enter with tls: Passthrough"
        );
        return refuse(message, other_modes);
    }
    let selector = e.object.spec.as_ref().and_then(|s| s.selector.as_ref());
    for (key, value) in [(DATAPLANE_MODE, AMBIENT), (INJECT, NO)] {
        if selector.and_then(|s| s.get(key)).is_some_and(|v| v == value) {
            let message = format!(
                "the Service {} selects pods without a sidecar ({key}: {value}), and nobody else enforces who may enter with tls: Passthrough",
                e.service
            );
            return refuse(message, other_modes);
        }
    }
    if e.facts.exposure.sidecars == Assurance::Missing {
        let message = "only the sidecars of the provider's pods enforce who may enter with tls: Passthrough, and the agent does not see whether all have one";
        let cure = format!(
            "{other_modes}; or, if every pod that such a policy selects has a sidecar, set {TRUST_SIDECARS} in the agent's configuration"
        );
        return refuse(message.to_owned(), &cure);
    }
    Ok(())
}

/// Returns whether a subset means the same from the gateway: a gateway that hands over to a waypoint leaves the choice
/// to that, which knows no subset of Wharf's.
pub(super) fn check_subset(name: &str, service: &Service) -> Result<(), Problem> {
    if label_value(service, INGRESS_USE_WAYPOINT) != Some("true") {
        return Ok(());
    }
    let message = format!(
        "the gateway hands calls of {name} to a waypoint ({INGRESS_USE_WAYPOINT}), which would send them to all versions"
    );
    Err(Problem::new(ProblemReason::Unsupported, "subset", message)
        .cure("expose a Service that selects the version's pods"))
}

/// Returns notes on what is trusted, and what is not enforced, at the provider of an exposition.
pub(super) fn vouch_notes(e: &ResolvedEntry<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let (name, rules) = (&e.service, &e.facts.exposure);
    if let Some(waypoint) = label_value(e.object, USE_WAYPOINT).filter(|w| *w != "none")
        && label_value(e.object, INGRESS_USE_WAYPOINT) != Some("true")
    {
        notes.push(format!(
            "the rules at the waypoint {waypoint} do not hold for peers, whose calls come from the gateway; with the label {INGRESS_USE_WAYPOINT}: \"true\" on {name} they do"
        ));
    }
    if e.tls == TlsMode::Passthrough {
        let pods =
            format!("tls: Passthrough relies on a sidecar in every pod of {name}, and lets everybody into others");
        notes.extend(trust_note(rules.sidecars, &pods, TRUST_SIDECARS));
    }
    if !has_selector(e.object) {
        let slices = format!("{name} has no selector: peers are led to wherever its EndpointSlices say");
        notes.extend(trust_note(rules.endpoints, &slices, ALLOW_WITHOUT_SELECTOR));
    }
    notes
}

fn trust_note(by: Assurance, what: &str, setting: &str) -> Option<String> {
    match by {
        Assurance::Missing => None,
        Assurance::Operator => Some(format!("{what} ({setting})")),
        Assurance::Later => Some(format!("{what}; an agent refuses it unless {setting} is set")),
    }
}
