//! Conditions, as Kubernetes has them (API conventions, "Typical status properties").

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::model::text::printable;

/// Whether what a condition says is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// One aspect of an object's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// CamelCase; unique among an object's conditions.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// One word in CamelCase, for programs.
    pub reason: String,
    /// A sentence for a person: what is so, and what to do.
    pub message: String,
    /// The generation of the object that this was seen of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::time)]
    pub last_transition_time: Option<String>,
}

impl Condition {
    /// Makes every character of the message visible: others' texts may stand in it, and kubectl prints it as it is.
    pub fn new(type_: &str, holds: bool, reason: impl Into<String>, message: impl Into<String>) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            reason: reason.into(),
            message: printable(&message.into()).into_owned(),
            observed_generation: None,
            last_transition_time: None,
        }
    }
}

/// Puts a condition, seen at this generation of the object, among others. Its time stays what it was unless the status
/// changes, so that writing the same state twice writes the same text.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition, generation: Option<i64>, now: &str) {
    new.observed_generation = generation;
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            let kept = (old.status == new.status).then(|| old.last_transition_time.clone()).flatten();
            new.last_transition_time = Some(kept.unwrap_or_else(|| now.to_owned()));
            *old = new;
        }
        None => {
            new.last_transition_time = Some(now.to_owned());
            conditions.reserve_exact(1); // there are three or four, for ever
            conditions.push(new);
        }
    }
}
