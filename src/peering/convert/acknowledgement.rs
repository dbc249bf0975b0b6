//! Messages of the other direction: the acceptor's outcomes.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::{key_from_wire, key_to_wire};
use crate::model::ExpositionKey;
use crate::peering::fields::{MalformedMessage, MessageFields, Value};
use crate::peering::limits::{MAX_MESSAGE, MAX_REASON};
use crate::peering::{clean_prose, pb};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeState {
    /// Known, and no binding asks for it.
    Offered,
    /// A binding uses it and is programmed.
    Bound,
    /// Refused.
    Rejected,
}

/// The outcome of one exposition at the acceptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpositionOutcome {
    pub state: OutcomeState,
    /// One word in CamelCase, as in a Kubernetes condition; may be empty.
    pub reason: String,
    /// A sentence for a person; may be empty.
    pub message: String,
}

impl ExpositionOutcome {
    pub fn offered() -> ExpositionOutcome {
        ExpositionOutcome { state: OutcomeState::Offered, reason: String::new(), message: String::new() }
    }

    pub fn bound() -> ExpositionOutcome {
        ExpositionOutcome { state: OutcomeState::Bound, reason: String::new(), message: String::new() }
    }

    pub fn rejected(reason: impl Into<String>, message: impl Into<String>) -> ExpositionOutcome {
        ExpositionOutcome { state: OutcomeState::Rejected, reason: reason.into(), message: message.into() }
    }
}

/// An acknowledgement, read outcome by outcome.
#[derive(Debug, Default)]
pub(in crate::peering) struct AcknowledgementMessage {
    pub(in crate::peering) revision: u64,
    /// The last outcome of each exposition that the subscriber holds.
    pub(in crate::peering) outcomes: BTreeMap<ExpositionKey, ExpositionOutcome>,
}

impl AcknowledgementMessage {
    /// Keeps the outcomes of expositions that it `holds`, and no others.
    pub(in crate::peering) fn parse(
        bytes: Bytes,
        holds: impl Fn(&ExpositionKey) -> bool,
    ) -> Result<AcknowledgementMessage, MalformedMessage> {
        let mut message = AcknowledgementMessage::default();
        for field in MessageFields(bytes) {
            match field? {
                (1, Value::Number(revision)) => message.revision = revision,
                (2, Value::Bytes(outcome)) => {
                    let outcome = pb::Outcome::decode(outcome).map_err(|_| MalformedMessage)?;
                    message.outcomes.extend(outcome_from_wire(&outcome).filter(|(key, _)| holds(key)));
                }
                _ => {}
            }
        }
        Ok(message)
    }
}

/// Reads an outcome. None: it names nothing, or its state is of a newer protocol. An acknowledgement changes only what
/// people see, so an unreadable outcome is left out, and too long a text is cut.
pub fn outcome_from_wire(wire: &pb::Outcome) -> Option<(ExpositionKey, ExpositionOutcome)> {
    let name = wire.exposition.as_ref()?;
    let key = key_from_wire(&name.namespace, &name.name)?;
    let state = match pb::outcome::State::try_from(wire.state).ok()? {
        pb::outcome::State::Unspecified => return None,
        pb::outcome::State::Offered => OutcomeState::Offered,
        pb::outcome::State::Bound => OutcomeState::Bound,
        pb::outcome::State::Rejected => OutcomeState::Rejected,
    };
    let reason = wire.reason.chars().filter(char::is_ascii_alphanumeric).take(MAX_REASON).collect();
    Some((key, ExpositionOutcome { state, reason, message: clean_prose(&wire.message, MAX_MESSAGE) }))
}

pub fn ack_to_wire(key: &ExpositionKey, outcome: &ExpositionOutcome) -> pb::Outcome {
    let state = match outcome.state {
        OutcomeState::Offered => pb::outcome::State::Offered,
        OutcomeState::Bound => pb::outcome::State::Bound,
        OutcomeState::Rejected => pb::outcome::State::Rejected,
    };
    pb::Outcome {
        exposition: Some(key_to_wire(key)),
        state: state.into(),
        reason: outcome.reason.chars().take(MAX_REASON).collect(),
        message: outcome.message.chars().take(MAX_MESSAGE).collect(),
    }
}
