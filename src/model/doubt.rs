//! Known problems that keep this cluster's gateways from carrying calls.

/// The reason why calls fail at a gateway, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayDoubt {
    pub kind: DoubtKind,
    /// The fact, in one sentence.
    pub message: String,
    /// The cure.
    pub cure: String,
}

/// The kind of a gateway's problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtKind {
    /// Others do not reach it: it has no address, or its Service is not there.
    NoAddress,
    /// Its Service is not there.
    Missing,
    /// Its Service lacks the port of Wharf's servers.
    PortMissing,
    /// It cannot use the cluster's certificate.
    Identity,
    /// Its service account may not read the Secret that it is to show.
    CredentialDenied,
    /// The same of the account that it is taken to have.
    CredentialDoubtful,
}

impl DoubtKind {
    /// Returns whether calls may work all the same.
    pub fn is_uncertain(self) -> bool {
        matches!(self, DoubtKind::NoAddress | DoubtKind::CredentialDoubtful)
    }

    /// Returns one word for programs.
    pub fn reason(self) -> &'static str {
        match self {
            DoubtKind::NoAddress => "NoGatewayAddress",
            DoubtKind::Missing => "GatewayMissing",
            DoubtKind::PortMissing => "GatewayPortMissing",
            DoubtKind::Identity => "IdentityUnusable",
            DoubtKind::CredentialDenied | DoubtKind::CredentialDoubtful => "CredentialNotReadable",
        }
    }
}

impl std::fmt::Display for GatewayDoubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.message, self.cure)
    }
}

/// The known problems of each gateway, and of the certificate that both show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayDoubts {
    pub ingress: Option<GatewayDoubt>,
    pub egress: Option<GatewayDoubt>,
    /// About the certificate that both show in the mode `Cluster`.
    pub identity: Option<GatewayDoubt>,
    /// About the Secret that holds it, which each gateway has to read.
    pub ingress_credential: Option<GatewayDoubt>,
    pub egress_credential: Option<GatewayDoubt>,
}
