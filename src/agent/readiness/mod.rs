//! Sums up whether an object works, in the condition `Ready` and the conditions that tools read beside it. Pure.
//!
//! `Ready` follows from the other conditions and the rows of a status. `Reconciling` and `Stalled` are kstatus'
//! conditions (sigs.k8s.io/cli-utils, pkg/kstatus/README.md). Each is present only while it is true: the first while
//! the agent is at work, the second while nothing changes unless somebody acts. An object that waits for others, such
//! as a Service that may still be created, has neither.

#[cfg(test)]
mod tests;

use crate::api::{
    BindingStatus, Condition, ConditionStatus, ExposedStatus, ExpositionRejection, PeeringStatus, PolicyStatus,
    ServiceStatus, set_condition,
};
use crate::model::text::quote_text;

/// Types of conditions.
pub const READY: &str = "Ready";
pub const RECONCILING: &str = "Reconciling";
pub const STALLED: &str = "Stalled";
/// Reason of a policy that another cluster rejects.
pub const REJECTED_BY_PEER: &str = "RejectedByPeer";
/// Reason of a peering that asks for nothing.
const UNUSED: &str = "Unused";

/// Reasons of states that the agent leaves by itself.
const UNDERWAY: [&str; 4] = ["Pending", "Connecting", "Syncing", "WriteFailed"];
/// Reasons of states that last until somebody changes the object, an object that blocks it, or a configuration.
const LASTING: [&str; 21] = [
    "AmbientMode",
    "CertificateRevoked",
    "CredentialNotReadable",
    "GatewayMissing",
    "GatewayPortMissing",
    "IdentityShared",
    "IdentityUnusable",
    "Invalid",
    "NameClash",
    "NameConflict",
    "PortAmbiguous",
    "WeightZero",
    "QuotaExceeded",
    "ServiceWithoutSelector",
    "SidecarsMissing",
    "StyleCannotCarry",
    "TrustDomainNotAccepted",
    "Unsupported",
    "Unreadable",
    UNUSED,
    "VirtualServiceUnusable",
];
/// Conditions that concern an object as a whole, in the order of their evaluation.
const OF_THE_WHOLE: [&str; 5] =
    ["Programmed", "DataPlaneSupported", "GatewayUsable", "GatewayAccepts", "PeerConnected"];

/// The content of the condition `Ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReadyVerdict {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl ReadyVerdict {
    fn ready(message: &str) -> ReadyVerdict {
        ReadyVerdict { status: ConditionStatus::True, reason: READY.to_owned(), message: message.to_owned() }
    }

    fn not_ready(reason: impl Into<String>, message: impl Into<String>) -> ReadyVerdict {
        ReadyVerdict { status: ConditionStatus::False, reason: reason.into(), message: message.into() }
    }

    /// Copies a condition that does not hold.
    fn from_condition(condition: &Condition) -> ReadyVerdict {
        // Objects stay configured while a peer is away, so calls may work.
        let unknown = condition.status == ConditionStatus::Unknown || condition.reason == "PeerUnreachable";
        let mut readiness = ReadyVerdict::not_ready(condition.reason.as_str(), condition.message.as_str());
        if unknown {
            readiness.status = ConditionStatus::Unknown;
        }
        readiness
    }

    fn is_stalled(&self) -> bool {
        self.status == ConditionStatus::False && LASTING.contains(&self.reason.as_str())
    }

    fn is_reconciling(&self) -> bool {
        self.status != ConditionStatus::True && UNDERWAY.contains(&self.reason.as_str())
    }
}

/// Adds the conditions to the status of a policy.
pub fn set_policy_conditions(status: &mut PolicyStatus, now: &str) {
    let readiness = judge_policy(&status.conditions, &status.exposed);
    set_ready_conditions(&mut status.conditions, readiness, status.observed_generation, now);
}

/// Adds the conditions to the status of a binding.
pub fn set_binding_conditions(status: &mut BindingStatus, now: &str) {
    let readiness = judge_binding(&status.conditions, &status.services);
    set_ready_conditions(&mut status.conditions, readiness, status.observed_generation, now);
}

/// Adds the conditions to the status of a peering.
pub fn set_peering_conditions(status: &mut PeeringStatus, now: &str) {
    let readiness = judge_peering(&status.conditions);
    set_ready_conditions(&mut status.conditions, readiness, status.observed_generation, now);
}

/// Adds the conditions. `Ready` comes first, because columns show the first condition that does not hold.
fn set_ready_conditions(conditions: &mut Vec<Condition>, readiness: ReadyVerdict, generation: Option<i64>, now: &str) {
    let marks = [(RECONCILING, readiness.is_reconciling()), (STALLED, readiness.is_stalled())];
    conditions.retain(|c| !marks.contains(&(c.type_.as_str(), false)));
    for (type_, _) in marks.into_iter().filter(|(_, holds)| *holds) {
        let condition = Condition::new(type_, true, readiness.reason.as_str(), readiness.message.as_str());
        set_condition(conditions, condition, generation, now);
    }
    let ReadyVerdict { status, reason, message } = readiness;
    let condition = Condition { status, ..Condition::new(READY, true, reason, message) };
    set_condition(conditions, condition, generation, now);
    if let Some(at) = conditions.iter().position(|c| c.type_ == READY) {
        conditions[..=at].rotate_right(1);
    }
}

fn judge_policy(conditions: &[Condition], entries: &[ExposedStatus]) -> ReadyVerdict {
    if let Some(condition) = first_failing(conditions, &["Accepted"]) {
        return ReadyVerdict::from_condition(condition);
    }
    let shortcomings: Vec<_> = entries.iter().filter_map(entry_fault).collect();
    if let Some((reason, _)) = shortcomings.first() {
        return ReadyVerdict::not_ready(
            reason.as_str(),
            join_messages(shortcomings.iter().map(|(_, message)| message.as_str())),
        );
    }
    match first_failing(conditions, &["Exposed"]).or_else(|| first_failing(conditions, &OF_THE_WHOLE)) {
        Some(condition) => ReadyVerdict::from_condition(condition),
        None => ReadyVerdict::ready("every entry is offered, and all objects are in place"),
    }
}

/// Returns the reason why an entry is not used as intended, with a message.
fn entry_fault(entry: &ExposedStatus) -> Option<(String, String)> {
    if !matches!(entry.reason.as_str(), "" | "Exposed") {
        return Some((entry.reason.clone(), entry.message.clone()));
    }
    let said: Vec<_> = entry.rejected_by.iter().map(describe_rejection).collect();
    let message = || format!("{} is {}", entry.name, said.join("; "));
    (!said.is_empty()).then(|| (REJECTED_BY_PEER.to_owned(), message()))
}

/// Describes a rejection: `rejected by cluster2: NameConflict: "…"`. The message is the other cluster's own.
pub fn describe_rejection(rejection: &ExpositionRejection) -> String {
    let ExpositionRejection { cluster, reason, message } = rejection;
    match message.as_str() {
        "" => format!("rejected by {cluster}: {reason}"),
        message => format!("rejected by {cluster}: {reason}: {}", quote_text(message)),
    }
}

fn judge_binding(conditions: &[Condition], services: &[ServiceStatus]) -> ReadyVerdict {
    if let Some(condition) = first_failing(conditions, &["Accepted", "Bound"]) {
        return ReadyVerdict::from_condition(condition);
    }
    if let Some(first) = services.iter().find(|s| is_doubtful(s)) {
        let doubtful = services.iter().filter(|s| is_doubtful(s)).map(|s| s.message.as_str());
        return ReadyVerdict::not_ready(first.reason.as_str(), join_messages(doubtful));
    }
    match first_failing(conditions, &OF_THE_WHOLE) {
        Some(condition) => ReadyVerdict::from_condition(condition),
        None => ReadyVerdict::ready("every service is bound, and all objects are in place"),
    }
}

/// Returns whether a bound service has a fault: somebody else also claims its name, or the donor's newest version
/// cannot be used.
fn is_doubtful(service: &ServiceStatus) -> bool {
    service.bound && service.reason != "Bound"
}

fn judge_peering(conditions: &[Condition]) -> ReadyVerdict {
    if let Some(condition) = first_failing(conditions, &["Accepted", "Connected", "Subscribed"]) {
        return ReadyVerdict::from_condition(condition);
    }
    if let Some(condition) = conditions.iter().find(|c| c.type_ == "Connected" && c.reason == "Misbehaving") {
        return ReadyVerdict::not_ready(condition.reason.as_str(), condition.message.as_str());
    }
    let asked = conditions.iter().any(|c| c.type_ == "Connected" || c.type_ == "Subscribed");
    match asked {
        true => ReadyVerdict::ready("the peering works in each direction that is asked for"),
        false => ReadyVerdict::not_ready(
            UNUSED,
            "neither endpoint nor consume is given, so nothing is consumed from the peer, and nothing is offered to it: set \
             one of them",
        ),
    }
}

/// Returns the first of these conditions that does not hold.
fn first_failing<'a>(conditions: &'a [Condition], types: &[&str]) -> Option<&'a Condition> {
    let found = types.iter().filter_map(|type_| conditions.iter().find(|c| c.type_ == *type_));
    found.into_iter().find(|c| c.status != ConditionStatus::True)
}

/// Joins the messages, each of them once.
fn join_messages<'a>(messages: impl Iterator<Item = &'a str>) -> String {
    let mut said: Vec<&str> = Vec::new();
    for message in messages.filter(|m| !m.is_empty()) {
        if !said.contains(&message) {
            said.push(message);
        }
    }
    said.join("; ")
}

/// Returns the state of one entry of a policy, in a word.
pub fn entry_state(entry: &ExposedStatus, conditions: &[Condition]) -> String {
    match entry_fault(entry) {
        Some((reason, _)) => reason,
        None => object_state(conditions),
    }
}

/// Returns the state of one service of a binding, in a word.
pub fn service_state(service: &ServiceStatus, conditions: &[Condition]) -> String {
    if service.bound && service.reason == "Bound" { object_state(conditions) } else { service.reason.clone() }
}

/// Returns the state of an object as a whole.
fn object_state(conditions: &[Condition]) -> String {
    let rest = OF_THE_WHOLE.map(|type_| first_failing(conditions, &[type_]));
    // A binding is not programmed if one of its services is not bound; the others may work.
    let unbound = first_failing(conditions, &["Bound"]).map(|c| c.reason.as_str());
    let concerns_all = |c: &&Condition| c.type_ != "Programmed" || Some(c.reason.as_str()) != unbound;
    rest.into_iter().flatten().find(concerns_all).map_or(READY, |c| c.reason.as_str()).to_owned()
}
