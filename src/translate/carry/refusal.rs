//! Reasons why a field is not carried.

use super::super::absence::OwnMark;
use super::super::problem::{Problem, ProblemReason};

/// A field that is not carried: where it is, what is wrong with it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::translate) struct FieldRefusal {
    /// The reason of the entry's problem, where it is another than that of the object.
    reason: Option<ProblemReason>,
    pub path: String,
    pub message: String,
    pub cure: String,
    lacks: Option<OwnMark>,
}

impl FieldRefusal {
    pub fn new(message: impl Into<String>) -> FieldRefusal {
        FieldRefusal { reason: None, path: String::new(), message: message.into(), cure: String::new(), lacks: None }
    }

    pub fn cure(mut self, cure: impl Into<String>) -> FieldRefusal {
        self.cure = cure.into();
        self
    }

    /// The same refusal, of a field below `step`.
    pub fn below(mut self, step: &str) -> FieldRefusal {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }

    /// As a problem of the entry; `object` is the object that has the field.
    pub fn into_problem(self, reason: ProblemReason, field: &str, object: &str) -> Problem {
        let place = if self.path.is_empty() { object.to_owned() } else { format!("{object}: {}", self.path) };
        let problem = Problem::new(self.reason.unwrap_or(reason), field, format!("{place}: {}", self.message));
        Problem { lacks: self.lacks, ..problem.cure(self.cure) }
    }
}

/// A problem that a field leads to, such as a subset that no rule defines.
impl From<Problem> for FieldRefusal {
    fn from(problem: Problem) -> FieldRefusal {
        let Problem { reason, message, cure, lacks, .. } = problem;
        FieldRefusal { reason: Some(reason), path: String::new(), message, cure, lacks }
    }
}

/// Adds the field below which a refusal is.
pub(in crate::translate) trait AtField<T> {
    fn at(self, step: &str) -> Result<T, FieldRefusal>;
    fn at_index(self, list: &str, index: usize) -> Result<T, FieldRefusal>;
    fn at_key(self, map: &str, key: &str) -> Result<T, FieldRefusal>;
}

impl<T> AtField<T> for Result<T, FieldRefusal> {
    fn at(self, step: &str) -> Result<T, FieldRefusal> {
        self.map_err(|r| r.below(step))
    }

    fn at_index(self, list: &str, index: usize) -> Result<T, FieldRefusal> {
        self.map_err(|r| r.below(&format!("{list}[{index}]")))
    }

    fn at_key(self, map: &str, key: &str) -> Result<T, FieldRefusal> {
        self.map_err(|r| r.below(&format!("{map}[{}]", quote_shortened(key))))
    }
}

/// A text of somebody else's in a message: short, in quotes, without control characters.
pub(in crate::translate) fn quote_shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut head: String = text.chars().take(LONGEST).collect();
    if head.len() < text.len() {
        head.push('…');
    }
    format!("{head:?}")
}
