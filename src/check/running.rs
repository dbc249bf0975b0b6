//! Checks that an agent is at work.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use time::OffsetDateTime;

use super::{CheckArea, Finding, LookResult, refusals};
use crate::agent::view::AgentView;

/// Duration of a Lease that names none: Kubernetes has no default.
const LEASE_SECONDS: i64 = 15;

/// Checks the Lease of the replica that writes.
pub fn judge_lease(object: &str, lease: &LookResult<Lease>, now: OffsetDateTime) -> Finding {
    let lease = match lease {
        Err(why) => return Finding::unseen(CheckArea::Agent, object, why),
        Ok(None) => {
            return Finding::warning(CheckArea::Agent, object, "it is not there: no agent has run in this namespace")
                .with_cure("install the agent; if it runs in another namespace, name it with -n");
        }
        Ok(Some(lease)) => lease,
    };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
    let lasts = spec.and_then(|s| s.lease_duration_seconds).map_or(LEASE_SECONDS, i64::from);
    let renewed = spec.and_then(|s| s.renew_time.as_ref()).map(|t| t.0.as_second());
    let ago = renewed.map(|at| now.unix_timestamp() - at);
    match (holder, ago) {
        ("", _) => Finding::error(CheckArea::Agent, object, "nobody holds it: no agent runs")
            .with_cure("look at the Deployment and the logs of its pods"),
        // The clocks of two machines may differ by as much as the Lease lasts.
        (holder, Some(ago)) if ago <= 2 * lasts => {
            Finding::ok(CheckArea::Agent, object, format!("{holder} writes; renewed {} s ago", ago.max(0)))
        }
        (holder, ago) => {
            let since = ago.map_or("never".into(), |s| format!("last {s} s ago"));
            let message = format!("{holder} does not renew it any more ({since}): no agent writes");
            Finding::error(CheckArea::Agent, object, message)
                .with_cure("look at the Deployment and the logs of its pods")
        }
    }
}

/// Checks the agent's Deployment.
pub fn judge_deployment(namespace: &str, found: &LookResult<Deployment>) -> Finding {
    let place = format!("Deployments of {namespace}");
    let deployment = match found {
        Err(why) => return Finding::unseen(CheckArea::Agent, place, why),
        Ok(None) => {
            return Finding::warning(CheckArea::Agent, place, "none of them is an agent's, by its labels")
                .with_cure("install the chart; if the agent is in another namespace, name it with -n");
        }
        Ok(Some(deployment)) => deployment,
    };
    let object = format!("Deployment {namespace}/{}", deployment.metadata.name.as_deref().unwrap_or_default());
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let message = format!("{ready} of {wanted} replicas are ready");
    match ready {
        0 => Finding::error(CheckArea::Agent, &object, message)
            .with_cure(format!("kubectl -n {namespace} describe pods -l app.kubernetes.io/part-of=wharf")),
        n if n < wanted => Finding::warning(CheckArea::Agent, object, message),
        _ => Finding::ok(CheckArea::Agent, object, message),
    }
}

/// Checks an agent on this machine by its view. The error says why there is no view.
pub fn judge_local(address: &str, view: &Result<AgentView, String>) -> Vec<Finding> {
    let view = match view {
        Err(why) => {
            let finding = Finding::warning(CheckArea::Agent, address, why.clone());
            return vec![finding.with_cure("start it: wharf agent --config FILE")];
        }
        Ok(view) => view,
    };
    let this = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if view.version == this {
        Finding::ok(CheckArea::Agent, address, format!("the agent of {} runs, version {this}", view.cluster))
    } else {
        Finding::warning(CheckArea::Agent, address, format!("the agent is of version {}, this is {this}", view.version))
            .with_cure("use the same version, or see what the older one says of itself: wharf status")
    }];
    findings.extend(view.istiod.as_ref().map(refusals::report_asking));
    for problem in &view.problems {
        findings.push(Finding::error(CheckArea::Agent, &problem.place, &problem.message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentSpec, DeploymentStatus};
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::agent::view::ProblemView;
    use crate::check::{Severity, UnseenReason};

    const NOW: i64 = 1_800_000_000;

    fn lease_of(holder: &str, renewed: i64) -> LookResult<Lease> {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(NOW - renewed).unwrap())),
            ..LeaseSpec::default()
        };
        Ok(Some(Lease { spec: Some(spec), ..Lease::default() }))
    }

    fn severity(seen: &LookResult<Lease>) -> Severity {
        judge_lease("Lease wharf-system/wharf", seen, OffsetDateTime::from_unix_timestamp(NOW).unwrap()).severity
    }

    #[test]
    fn a_lease_says_whether_somebody_writes() {
        assert_eq!(severity(&lease_of("pod-a", 3)), Severity::Ok);
        assert_eq!(severity(&lease_of("pod-a", -5)), Severity::Ok);
        assert_eq!(severity(&lease_of("pod-a", 60)), Severity::Error);
        assert_eq!(severity(&lease_of("", 1)), Severity::Error);
        assert_eq!(severity(&Ok(None)), Severity::Warning);
        assert_eq!(severity(&Err(UnseenReason::Forbidden("no".into()))), Severity::Unchecked);
    }

    #[test]
    fn a_deployment_without_a_ready_replica_is_an_error() {
        let of = |wanted, ready| {
            let deployment = Deployment {
                spec: DeploymentSpec { replicas: Some(wanted), ..DeploymentSpec::default() },
                status: Some(DeploymentStatus { ready_replicas: Some(ready), ..DeploymentStatus::default() }),
                ..Deployment::default()
            };
            deployment_severity(&Ok(Some(deployment)))
        };
        assert_eq!((of(2, 2), of(2, 1), of(2, 0)), (Severity::Ok, Severity::Warning, Severity::Error));
        assert_eq!(deployment_severity(&Ok(None)), Severity::Warning);
    }

    fn deployment_severity(seen: &LookResult<Deployment>) -> Severity {
        judge_deployment("wharf-system", seen).severity
    }

    #[test]
    fn an_agent_on_this_machine_tells_its_problems() {
        let problem = ProblemView { place: "policy.yaml:3".into(), message: "unknown field".into() };
        let view =
            AgentView { version: env!("CARGO_PKG_VERSION").into(), problems: vec![problem], ..AgentView::default() };
        let severities = |view| judge_local("127.0.0.1:7444", &view).iter().map(|f| f.severity).collect::<Vec<_>>();
        assert_eq!(severities(Ok(view.clone())), [Severity::Ok, Severity::Error]);
        let old = AgentView { version: "0.0.1".into(), problems: Vec::new(), ..view };
        assert_eq!(severities(Ok(old)), [Severity::Warning]);
        assert_eq!(severities(Err("nobody".into())), [Severity::Warning]);
    }
}
