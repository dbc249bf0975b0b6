//! Formats the conditions and problems of gateways that refuse their configuration.

use super::metrics_text::GatewayRole;
use super::refusals::ConfigRefusal;
use crate::api::{Condition, ConditionStatus};
use crate::model::OwnGateway;

/// Type of the condition.
pub const GATEWAY_ACCEPTS: &str = "GatewayAccepts";

/// Most pods that a sentence names.
const MAX_NAMED: usize = 5;

/// Returns the name of the gateway in problems.
pub fn gateway_place(role: GatewayRole, gateway: &OwnGateway) -> String {
    format!("{} gateway {}/{}", role.as_str(), gateway.namespace, gateway.service)
}

/// Describes the refusal, and what to do.
pub fn describe_refusal(role: GatewayRole, gateway: &OwnGateway, refusal: &ConfigRefusal) -> String {
    let resources: Vec<_> = refusal.resources.iter().map(|r| r.plural_name()).collect();
    let more = if refusal.pods.len() > MAX_NAMED { ", …" } else { "" };
    let pods: Vec<_> = refusal.pods.iter().map(String::as_str).take(MAX_NAMED).collect();
    let (place, resources, pods) = (gateway_place(role, gateway), resources.join(" and "), pods.join(", ") + more);
    if refusal.seen {
        format!(
            "the {place} refuses the {resources} that istiod sends ({pods}): it goes on with those that it took last, so \
             changes do not take effect in it, withdrawn permissions neither; a pod that starts has none. istiod's log says \
             why (ACK ERROR); correct or remove the object that it names"
        )
    } else {
        format!(
            "the {place} refused {resources} at some time since istiod started ({pods}), and it is not known whether it still \
             does: the next change that it takes clears this. istiod's log says why (ACK ERROR)"
        )
    }
}

/// Adds or removes the condition. `since` is the time of its last change.
pub fn set_gateway_condition(
    conditions: &mut Vec<Condition>,
    told: Option<&(ConfigRefusal, String)>,
    since: &str,
    generation: Option<i64>,
) {
    conditions.retain(|c| c.type_ != GATEWAY_ACCEPTS);
    if let Some((refusal, message)) = told {
        let reason = if refusal.seen { "GatewayRejects" } else { "GatewayRejectedBefore" };
        let mut condition = Condition::new(GATEWAY_ACCEPTS, false, reason, message.as_str());
        if !refusal.seen {
            condition.status = ConditionStatus::Unknown;
        }
        condition.observed_generation = generation;
        condition.last_transition_time = Some(since.to_owned());
        conditions.push(condition);
    }
}
