//! Reports policies and bindings that do not work, according to the agent's statuses.

use super::{CheckArea, Finding};
use crate::agent::readiness::{READY, describe_rejection, entry_state, service_state};
use crate::agent::view::{BindingView, PolicyView};
use crate::api::{Condition, ConditionStatus};

/// Message for a policy or binding that no agent has looked at.
const UNSEEN: &str = "no agent has looked at it since it was written";

pub fn judge_policies(all: &[PolicyView]) -> Vec<Finding> {
    let findings = all.iter().flat_map(|p| {
        let object = format!("ServiceExpositionPolicy {}/{}", p.namespace, p.name);
        let conditions = &p.status.conditions;
        let rows = p.status.exposed.iter().map(|e| {
            let rejected = e.rejected_by.iter().map(describe_rejection);
            let said: Vec<_> = std::iter::once(e.message.clone()).chain(rejected).filter(|s| !s.is_empty()).collect();
            (e.name.clone(), entry_state(e, conditions), said.join("; "))
        });
        judge_object(CheckArea::Policies, &object, conditions, p.outdated, rows.collect())
    });
    summarize_findings(CheckArea::Policies, "policies", all.len(), findings.collect())
}

/// Reports bindings that do not work. Offers are left out: they ask for nothing.
pub fn judge_bindings(all: &[BindingView]) -> Vec<Finding> {
    let live: Vec<_> = all.iter().filter(|b| b.connection != "potential").collect();
    let findings = live.iter().flat_map(|b| {
        let object = format!("RemoteServiceBinding {}/{}", b.namespace, b.name);
        let conditions = &b.status.conditions;
        let rows = b
            .status
            .services
            .iter()
            .map(|s| (format!("{}:{}", s.cluster, s.exposition), service_state(s, conditions), s.message.clone()));
        judge_object(CheckArea::Bindings, &object, conditions, b.outdated, rows.collect())
    });
    summarize_findings(CheckArea::Bindings, "bindings", live.len(), findings.collect())
}

/// Returns the findings, or a single one if all is well.
fn summarize_findings(area: CheckArea, what: &str, count: usize, findings: Vec<Finding>) -> Vec<Finding> {
    match (findings.is_empty(), count) {
        (true, 0) => Vec::new(),
        (true, 1) => vec![Finding::ok(area, what, "the only one is ready")],
        (true, count) => vec![Finding::ok(area, what, format!("all {count} are ready"))],
        (false, _) => findings,
    }
}

/// Judges one object. `rows`: the name, state and message of each of its entries.
fn judge_object(
    area: CheckArea,
    object: &str,
    conditions: &[Condition],
    outdated: bool,
    rows: Vec<(String, String, String)>,
) -> Vec<Finding> {
    let Some(ready) = conditions.iter().find(|c| c.type_ == READY).filter(|_| !outdated) else {
        let finding = Finding::warning(area, object, UNSEEN);
        return vec![finding.with_cure("is the agent running, and of this version? does it look at this namespace?")];
    };
    let severe = match ready.status {
        ConditionStatus::True => return Vec::new(),
        ConditionStatus::False => Finding::error,
        ConditionStatus::Unknown => Finding::warning,
    };
    let of_rows: Vec<_> = rows.into_iter().filter(|(_, state, _)| state != READY).collect();
    let explained = of_rows.iter().any(|(_, _, message)| !message.is_empty());
    if !explained {
        return vec![severe(area, object, format!("{}: {}", ready.reason, ready.message))];
    }
    let of_row = |(name, state, message): (String, String, String)| {
        let message = if message.is_empty() { ready.message.clone() } else { message };
        severe(area, object, format!("{name}: {state}: {message}"))
    };
    of_rows.into_iter().map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BindingStatus, ExposedStatus, PolicyStatus, ServiceStatus};
    use crate::check::Severity;

    fn policy(reason: &str, status: ConditionStatus, exposed: Vec<ExposedStatus>) -> PolicyView {
        let ready = Condition { status, ..Condition::new(READY, true, reason, "as it says") };
        let status = PolicyStatus { conditions: vec![ready], exposed, ..PolicyStatus::default() };
        PolicyView { namespace: "shop".into(), name: "p".into(), status, ..PolicyView::default() }
    }

    fn entry(name: &str, reason: &str, message: &str) -> ExposedStatus {
        let (name, reason, message) = (name.into(), reason.into(), message.into());
        ExposedStatus { name, reason, message, ..ExposedStatus::default() }
    }

    #[test]
    fn a_policy_that_is_not_ready_is_an_error_for_each_entry_that_is_not() {
        let entries =
            vec![entry("till", "Exposed", ""), entry("tilll", "ServiceNotFound", "there is no Service tilll")];
        let findings = judge_policies(&[policy("ServiceNotFound", ConditionStatus::False, entries)]);
        let message = "tilll: ServiceNotFound: there is no Service tilll";
        assert_eq!(findings, [Finding::error(CheckArea::Policies, "ServiceExpositionPolicy shop/p", message)]);
        let whole =
            judge_policies(&[policy("IdentityUnusable", ConditionStatus::False, vec![entry("till", "Exposed", "")])]);
        assert_eq!(whole[0].message, "IdentityUnusable: as it says");
    }

    #[test]
    fn what_may_work_is_a_warning_and_what_no_agent_has_seen_too() {
        let unknown = policy("PeerUnreachable", ConditionStatus::Unknown, Vec::new());
        let unseen = PolicyView { name: "new".into(), ..PolicyView::default() };
        let outdated = PolicyView { outdated: true, ..policy(READY, ConditionStatus::True, Vec::new()) };
        for doubtful in [unknown, unseen, outdated] {
            assert_eq!(judge_policies(&[doubtful])[0].severity, Severity::Warning);
        }
        let fine = policy(READY, ConditionStatus::True, Vec::new());
        assert_eq!(judge_policies(&[fine.clone(), fine])[0].message, "all 2 are ready");
        assert_eq!(judge_policies(&[]), []);
    }

    #[test]
    fn a_binding_that_is_an_offer_is_not_judged() {
        let conditions = vec![Condition::new(READY, false, "Potential", "")];
        let offer = BindingView {
            connection: "potential".into(),
            status: BindingStatus { conditions, ..BindingStatus::default() },
            ..BindingView::default()
        };
        assert_eq!(judge_bindings(std::slice::from_ref(&offer)), []);
        let service = ServiceStatus { reason: "NotExposed".into(), message: "ask".into(), ..ServiceStatus::default() };
        let mut live = BindingView { connection: "live".into(), ..offer };
        live.status.services = vec![service];
        assert_eq!(judge_bindings(&[live])[0].severity, Severity::Error);
    }
}
