//! The operator's own decisions about expositions, which no policy can make.

/// The source of an assurance about something that an agent cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Assurance {
    /// Nobody assures it, so it is refused.
    #[default]
    Missing,
    /// The operator assures it, in the agent's configuration.
    Operator,
    /// Nobody assures it yet: translation without a cluster allows it, and notes what an agent will ask for.
    Later,
}

impl Assurance {
    pub fn of_setting(set: bool) -> Assurance {
        if set { Assurance::Operator } else { Assurance::Missing }
    }

    /// Returns the assurance for translation that knows no cluster.
    pub fn or_later(self) -> Assurance {
        if self == Assurance::Missing { Assurance::Later } else { self }
    }
}

/// The operator's rules for what policies may expose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExposureRules {
    /// All pods behind an exposition of the mode `Passthrough` have a sidecar, which alone enforces its permission.
    pub sidecars: Assurance,
    /// Services without a selector may be exposed: the authors of their EndpointSlices are trusted.
    pub endpoints: Assurance,
    /// The quota of the shared gateway. None: it is not counted.
    pub quota: Option<NamespaceQuota>,
}

impl ExposureRules {
    /// Returns the rules for translation that knows no cluster, and so no other expositions there.
    pub fn or_later(self) -> ExposureRules {
        ExposureRules { sidecars: self.sidecars.or_later(), endpoints: self.endpoints.or_later(), quota: None }
    }
}

/// The share of the shared ingress gateway that the policies of one namespace may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceQuota {
    pub expositions: usize,
    pub ports: usize,
}

impl Default for NamespaceQuota {
    /// Generous: it keeps one namespace from filling the gateway, and restricts nobody else.
    fn default() -> Self {
        NamespaceQuota { expositions: 1024, ports: 2048 }
    }
}
