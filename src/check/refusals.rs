//! Reports gateways that refuse what istiod sends them.

use super::{CheckArea, Finding, UnseenReason};
use crate::agent::istiod::metrics_text::MetricsSample;
use crate::agent::istiod::tell::GATEWAY_ACCEPTS;
use crate::agent::view::IstiodView;
use crate::api::{Condition, ConditionStatus};

const CURE: &str = "look into istiod's log (ACK ERROR), and correct or remove the object that it names";

/// Reports the refusals in an agent's conditions. `object` is one of the objects that have them.
pub fn report_conditions<'a>(objects: impl Iterator<Item = (String, &'a [Condition])>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut messages = std::collections::BTreeSet::new();
    for (object, conditions) in objects {
        let refused = conditions.iter().find(|c| c.type_ == GATEWAY_ACCEPTS && c.status != ConditionStatus::True);
        let Some(condition) = refused.filter(|c| messages.insert(c.message.clone())) else { continue };
        // One finding per gateway: every object that uses it says the same.
        findings.push(if condition.status == ConditionStatus::False {
            Finding::error(CheckArea::Gateways, object, &condition.message)
        } else {
            Finding::warning(CheckArea::Gateways, object, &condition.message)
        });
    }
    findings
}

/// Reports the refusals that istiod counted. They do not show whether a gateway still refuses something: an agent,
/// which looks repeatedly, finds that out.
pub fn report_counters(object: &str, sample: &Result<MetricsSample, UnseenReason>) -> Vec<Finding> {
    let sample = match sample {
        Err(why) => return vec![Finding::unseen(CheckArea::Gateways, object, why)],
        Ok(sample) => sample,
    };
    let mut findings = Vec::new();
    for (resource, pods) in &sample.refused {
        let pods: Vec<_> = pods.iter().map(|(_, pod)| pod.as_str()).take(5).collect();
        if !pods.is_empty() {
            let message =
                format!("since istiod started, {} refused {} that it sent", pods.join(", "), resource.plural_name());
            findings.push(Finding::warning(CheckArea::Gateways, object, message).with_cure(CURE));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CheckArea::Gateways,
            object,
            "no gateway refused its configuration since istiod started",
        ));
    }
    findings
}

/// Reports whether the agent on this machine can ask istiod.
pub fn report_asking(view: &IstiodView) -> Finding {
    match &view.unanswered {
        None => Finding::ok(
            CheckArea::Gateways,
            &view.metrics,
            "the agent asks istiod which gateways refuse their configuration",
        ),
        Some(why) => Finding::unchecked(CheckArea::Gateways, &view.metrics, why).with_cure(
            "name istiod's metrics in the configuration (istiod.metrics), or off; a NetworkPolicy may be in the way",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;

    #[test]
    fn what_the_agent_says_of_a_gateway_is_told_once() {
        let refused = [Condition::new(GATEWAY_ACCEPTS, false, "GatewayRejects", "it refuses routes")];
        let fine = [Condition::new("Programmed", false, "Pending", "")];
        let objects = [("a", &refused[..]), ("b", &fine[..]), ("c", &refused[..])];
        let findings = report_conditions(objects.into_iter().map(|(o, c)| (o.to_owned(), c)));
        assert_eq!(findings, [Finding::error(CheckArea::Gateways, "a", "it refuses routes")]);
    }

    #[test]
    fn what_istiod_does_not_answer_is_not_checked() {
        let findings = report_counters("istiod", &Err(UnseenReason::Failed("no route".into())));
        assert_eq!(findings[0].severity, Severity::Unchecked);
        assert_eq!(report_counters("istiod", &Ok(MetricsSample::default()))[0].severity, Severity::Ok);
        let view = IstiodView { metrics: "http://istiod:1/".into(), unanswered: Some("no route".into()) };
        assert_eq!(report_asking(&view).severity, Severity::Unchecked);
    }
}
