//! Finds faults before they do harm: facts in, findings out.
//!
//! The judgements are pure: observed facts go in; an opinion and a cure come out. [`collect`] looks, and decides
//! nothing. Something that could not be looked at is a finding of its own, and never counts as good.

pub mod certificates;
pub mod clock;
pub mod collect;
pub mod definitions;
pub mod foreign;
pub mod gateways;
pub mod mesh;
pub mod peering_route;
pub mod peers;
pub mod ready;
pub mod refusals;
pub mod rights;
pub mod running;

use std::fmt;

use serde::Serialize;

/// The gravity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// It could not be looked at, so it is known neither as good nor as bad.
    Unchecked,
    Warning,
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Unchecked => "unchecked",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// The subject of a finding, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckArea {
    Configuration,
    Cluster,
    Definitions,
    Permissions,
    Agent,
    Identity,
    Credential,
    Gateways,
    Mesh,
    Peers,
    Policies,
    Bindings,
}

impl fmt::Display for CheckArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CheckArea::Configuration => "configuration",
            CheckArea::Cluster => "cluster",
            CheckArea::Definitions => "definitions",
            CheckArea::Permissions => "permissions",
            CheckArea::Agent => "agent",
            CheckArea::Identity => "identity",
            CheckArea::Credential => "credential",
            CheckArea::Gateways => "gateways",
            CheckArea::Mesh => "mesh",
            CheckArea::Peers => "peers",
            CheckArea::Policies => "policies",
            CheckArea::Bindings => "bindings",
        })
    }
}

/// One thing that was looked at, with a judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub severity: Severity,
    pub area: CheckArea,
    /// The file, the object, the peer.
    pub object: String,
    /// The observed fact.
    pub message: String,
    /// The cure, or a hint. Empty: nothing needs to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

impl Finding {
    fn new(severity: Severity, area: CheckArea, object: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { severity, area, object: object.into(), message: message.into(), cure: String::new() }
    }

    pub fn ok(area: CheckArea, object: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Ok, area, object, message)
    }

    pub fn warning(area: CheckArea, object: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Warning, area, object, message)
    }

    pub fn error(area: CheckArea, object: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding::new(Severity::Error, area, object, message)
    }

    /// Builds a finding about something that was not looked at, with the reason.
    pub fn unchecked(area: CheckArea, object: impl Into<String>, why: impl fmt::Display) -> Finding {
        Finding::new(Severity::Unchecked, area, object, format!("not checked: {why}"))
    }

    /// Adds what to do. A good finding needs no cure.
    pub fn with_cure(self, cure: impl Into<String>) -> Finding {
        if self.severity == Severity::Ok { self } else { self.with_hint(cure) }
    }

    /// Adds what may be done by somebody who wants more than what is good enough.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Finding {
        self.cure = hint.into();
        self
    }
}

/// The reason why something could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnseenReason {
    /// The account that asked has no right to see it.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Failed(String),
}

/// The result of a look. None: the object does not exist.
pub type LookResult<T> = Result<Option<T>, UnseenReason>;

impl Finding {
    pub fn unseen(area: CheckArea, object: impl Into<String>, why: &UnseenReason) -> Finding {
        let finding = Finding::unchecked(area, object, why);
        match why {
            UnseenReason::Forbidden(_) => {
                finding.with_cure("ask again as somebody who may see it, or have the right given")
            }
            UnseenReason::Failed(_) => finding,
        }
    }
}

/// The number of findings of each severity.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct FindingCounts {
    pub ok: usize,
    pub unchecked: usize,
    pub warning: usize,
    pub error: usize,
}

impl FindingCounts {
    pub fn count_findings(findings: &[Finding]) -> FindingCounts {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        FindingCounts {
            ok: count(Severity::Ok),
            unchecked: count(Severity::Unchecked),
            warning: count(Severity::Warning),
            error: count(Severity::Error),
        }
    }
}

impl fmt::Display for FindingCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FindingCounts { ok, unchecked, warning, error } = self;
        let plural = |n: &usize| if *n == 1 { "" } else { "s" };
        write!(
            f,
            "{error} error{}, {warning} warning{}, {unchecked} not checked, {ok} ok",
            plural(error),
            plural(warning)
        )
    }
}

/// Formats a number of days, as in "1 day", "12 days".
fn format_days(n: i64) -> String {
    if n == 1 { "1 day".into() } else { format!("{n} days") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_seen_is_counted_apart_and_never_ok() {
        let findings = [
            Finding::ok(CheckArea::Cluster, "a", "b"),
            Finding::unseen(CheckArea::Cluster, "a", &UnseenReason::Forbidden("no".into())),
            Finding::unseen(CheckArea::Cluster, "a", &UnseenReason::Failed("no".into())),
            Finding::error(CheckArea::Cluster, "a", "b"),
        ];
        let summary = FindingCounts::count_findings(&findings);
        assert_eq!(summary, FindingCounts { ok: 1, unchecked: 2, warning: 0, error: 1 });
        assert_eq!(summary.to_string(), "1 error, 0 warnings, 2 not checked, 1 ok");
        assert!(findings[1].cure.contains("right"));
    }
}
