//! Problems: the reasons why something that was asked for is not done.

use std::fmt;

use crate::model::text::printable;

use super::absence::OwnMark;

/// The reason in one word, for programs: the `reason` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemReason {
    /// A field that no translation could make sense of.
    Invalid,
    ServiceNotFound,
    /// The author of its EndpointSlices is not trusted by the operator.
    ServiceWithoutSelector,
    PortNotFound,
    SubsetNotFound,
    VirtualServiceNotFound,
    /// An object that is named may be there, and cannot be read.
    Unreadable,
    /// Its behaviour cannot be carried to the gateway, and without it nothing is exposed.
    VirtualServiceUnusable,
    /// Another owner has the name.
    NameConflict,
    /// None of the named clusters is trusted.
    NoConsumers,
    /// The ingress gateway has no address yet: everything is in place, but nothing is offered.
    NoGatewayAddress,
    /// The ingress gateway's Service lacks the port of Wharf's servers: everything else is in place, and nothing is
    /// offered.
    GatewayPortMissing,
    /// Other policies of the namespace use up its share of the gateway.
    QuotaExceeded,
    /// Nobody enforces the permission of the mode `Passthrough`, or the agent does not know.
    SidecarsMissing,
    /// In the mode `Passthrough`: the mesh's sidecars refuse the callers' trust domain.
    TrustDomainNotAccepted,
    Unsupported,
    StyleCannotCarry,
    NotExposed,
    PortNotExposed,
    /// Several ports answer to what is asked for.
    PortAmbiguous,
    /// No donor behind the local name takes calls: the weight of each is 0.
    WeightZero,
    PeerUnknown,
    PeerUnreachable,
    /// The donor refuses to talk to this cluster.
    NotPermitted,
    /// The donor sent something that is not acceptable.
    Rejected,
}

impl ProblemReason {
    /// All reasons.
    pub(crate) const ALL: [ProblemReason; 25] = [
        ProblemReason::Invalid,
        ProblemReason::ServiceNotFound,
        ProblemReason::ServiceWithoutSelector,
        ProblemReason::PortNotFound,
        ProblemReason::SubsetNotFound,
        ProblemReason::VirtualServiceNotFound,
        ProblemReason::Unreadable,
        ProblemReason::VirtualServiceUnusable,
        ProblemReason::NameConflict,
        ProblemReason::NoConsumers,
        ProblemReason::NoGatewayAddress,
        ProblemReason::GatewayPortMissing,
        ProblemReason::QuotaExceeded,
        ProblemReason::SidecarsMissing,
        ProblemReason::TrustDomainNotAccepted,
        ProblemReason::Unsupported,
        ProblemReason::StyleCannotCarry,
        ProblemReason::NotExposed,
        ProblemReason::PortNotExposed,
        ProblemReason::PortAmbiguous,
        ProblemReason::WeightZero,
        ProblemReason::PeerUnknown,
        ProblemReason::PeerUnreachable,
        ProblemReason::NotPermitted,
        ProblemReason::Rejected,
    ];

    /// Returns the reason that a status names.
    pub(super) fn parse(text: &str) -> Option<ProblemReason> {
        ProblemReason::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            ProblemReason::Invalid => "Invalid",
            ProblemReason::ServiceNotFound => "ServiceNotFound",
            ProblemReason::ServiceWithoutSelector => "ServiceWithoutSelector",
            ProblemReason::PortNotFound => "PortNotFound",
            ProblemReason::SubsetNotFound => "SubsetNotFound",
            ProblemReason::VirtualServiceNotFound => "VirtualServiceNotFound",
            ProblemReason::Unreadable => "Unreadable",
            ProblemReason::VirtualServiceUnusable => "VirtualServiceUnusable",
            ProblemReason::NameConflict => "NameConflict",
            ProblemReason::NoConsumers => "NoConsumers",
            ProblemReason::NoGatewayAddress => "NoGatewayAddress",
            ProblemReason::GatewayPortMissing => "GatewayPortMissing",
            ProblemReason::QuotaExceeded => "QuotaExceeded",
            ProblemReason::SidecarsMissing => "SidecarsMissing",
            ProblemReason::TrustDomainNotAccepted => "TrustDomainNotAccepted",
            ProblemReason::Unsupported => "Unsupported",
            ProblemReason::StyleCannotCarry => "StyleCannotCarry",
            ProblemReason::NotExposed => "NotExposed",
            ProblemReason::PortNotExposed => "PortNotExposed",
            ProblemReason::PortAmbiguous => "PortAmbiguous",
            ProblemReason::WeightZero => "WeightZero",
            ProblemReason::PeerUnknown => "PeerUnknown",
            ProblemReason::PeerUnreachable => "PeerUnreachable",
            ProblemReason::NotPermitted => "NotPermitted",
            ProblemReason::Rejected => "Rejected",
        }
    }

    /// Returns a sentence for the donor, whose operator reads it. It says nothing that the donor does not know: the
    /// names that this cluster's tenants use stay here.
    pub fn for_donor(self) -> &'static str {
        match self {
            ProblemReason::NameConflict => "the acceptor's name for it is in use there",
            ProblemReason::PortNotExposed => "a binding asks for a port that is not exposed",
            ProblemReason::PortAmbiguous => "a binding asks for a port that cannot be told from another",
            ProblemReason::WeightZero => "the bindings give it the weight 0: it takes no calls",
            ProblemReason::StyleCannotCarry => "the acceptor's style cannot carry its TLS mode, or its clients",
            ProblemReason::Unsupported => {
                "a binding asks for priorities among clusters that expose under different names"
            }
            _ => "a binding cannot use it; the acceptor's operator sees why",
        }
    }
}

impl fmt::Display for ProblemReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A problem: its reason and place, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    pub reason: ProblemReason,
    /// The path of the field: `spec.exposed[0].subset`.
    pub field: String,
    pub message: String,
    /// The cure: names of what is there instead, or what to do; may be empty.
    pub cure: String,
    /// The object of another namespace that is meant, for the cluster's operator. Never in a status, which tenants of
    /// other namespaces read.
    pub culprit: Option<String>,
    /// The object that is not there.
    pub lacks: Option<OwnMark>,
}

impl Problem {
    /// Makes every character visible: names of others' objects and fields stand in problems, and problems in statuses.
    pub fn new(reason: ProblemReason, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let message = printable(&message.into()).into_owned();
        Problem { reason, field: field.into(), message, cure: String::new(), culprit: None, lacks: None }
    }

    pub fn cure(mut self, cure: impl Into<String>) -> Problem {
        self.cure = printable(&cure.into()).into_owned();
        self
    }

    /// Returns message and cure in one line, as conditions have them.
    pub fn line(&self) -> String {
        if self.cure.is_empty() { self.to_string() } else { format!("{self}; {}", self.cure) }
    }

    /// Returns whether the problem may be over when something else can be read, or is there.
    pub fn is_lack(&self) -> bool {
        let by_reason = matches!(
            self.reason,
            ProblemReason::ServiceNotFound
                | ProblemReason::PortNotFound
                | ProblemReason::SubsetNotFound
                | ProblemReason::VirtualServiceNotFound
                | ProblemReason::VirtualServiceUnusable
                | ProblemReason::Unreadable
        );
        by_reason || self.lacks.is_some()
    }

    /// Returns the same problem, of a field below `path`.
    pub(super) fn below(mut self, path: &str) -> Problem {
        self.field = if self.field.is_empty() { path.to_owned() } else { format!("{path}.{}", self.field) };
        self
    }
}

/// A list for a sentence: `a, b, c`, or `none`.
pub(super) fn join_list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let joined = items.into_iter().collect::<Vec<_>>().join(", ");
    if joined.is_empty() { "none".to_owned() } else { joined }
}
