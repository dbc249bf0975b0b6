//! Errors of an identity: place, fault, and cure.

use std::io;
use std::path::PathBuf;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::{InvalidName, SpiffeId};

/// The reason why a cluster's own identity cannot be used. A place is a file, or a key of a Secret.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{place}: it cannot be read: {source}")]
    Unreadable { place: String, source: io::Error },

    #[error("{place}: {why}")]
    Unusable { place: String, why: String },

    #[error("{place}: {problem}{}", problem.cure())]
    Certificate { place: String, problem: CertificateProblem },

    #[error("{place}: the key cannot be used: {why}; RSA of 2048 to 4096 bits, and EC P-256 or P-384 can")]
    UnusableKey { place: String, why: String },

    #[error(
        "{key}: it is not the key of the certificate in {certificate}; put the pair that was issued together there"
    )]
    KeyMismatch { certificate: String, key: String },

    #[error("{certificate}: no peer would accept it under the roots in {root}: {why}")]
    Chain { certificate: String, root: String, why: String },

    #[error(transparent)]
    Missing(#[from] MissingIdentity),

    #[error("{}: changes cannot be watched: {source}", dir.display())]
    Watch { dir: PathBuf, source: notify::Error },

    #[error("TLS cannot be set up with this identity: {0}")]
    Tls(#[source] rustls::Error),
}

/// There is no identity at the place of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct MissingIdentity {
    pub place: String,
    pub why: String,
}

/// The reason why a certificate, own or a peer's, does not prove a cluster's identity. Reads as a sentence after the
/// certificate's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    #[error("no certificate was shown")]
    Missing,
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate has no URI in its subject alternative names, so it names no cluster")]
    NoSpiffeId,
    #[error("the certificate has {count} URIs in its subject alternative names ({}): it must have exactly one", first.join(", "))]
    SeveralUris { count: usize, first: Vec<String> },
    #[error("the certificate's URI is no SPIFFE ID: {0}")]
    NotSpiffe(InvalidName),
    #[error("the certificate of {0} is a CA certificate: a cluster may not show one as its own")]
    IsAuthority(SpiffeId),
    #[error("the certificate of {0} may not be used for digital signatures (keyUsage), which TLS needs")]
    NoDigitalSignature(SpiffeId),
    #[error("the certificate of {0} may be used to sign certificates (keyUsage): a cluster's own may not")]
    MaySign(SpiffeId),
    #[error(
        "{0:?} is constrained to URIs (nameConstraints), which cannot be checked here: every certificate under it would \
         be refused"
    )]
    UriConstraints(String),
    #[error("the intermediate certificate {0:?} may not sign certificates (keyUsage)")]
    IntermediateMayNotSign(String),
    #[error("the certificate {subject:?} expired on {}", format_moment(*not_after))]
    Expired { subject: String, not_after: OffsetDateTime },
    #[error("the certificate {subject:?} is not valid before {}", format_moment(*not_before))]
    NotYetValid { subject: String, not_before: OffsetDateTime },
}

impl CertificateProblem {
    /// Returns the cure for the owner of the certificate.
    pub(super) fn cure(&self) -> &'static str {
        match self {
            CertificateProblem::Missing | CertificateProblem::Unreadable(_) => "; put the issued PEM file there",
            CertificateProblem::NoSpiffeId
            | CertificateProblem::SeveralUris { .. }
            | CertificateProblem::NotSpiffe(_) => {
                "; have it issued with one URI such as spiffe://wharf/cluster/NAME (`wharf ca issue` does)"
            }
            CertificateProblem::IsAuthority(_)
            | CertificateProblem::NoDigitalSignature(_)
            | CertificateProblem::MaySign(_) => {
                "; have it issued as an end entity with keyUsage digitalSignature (`wharf ca issue` does)"
            }
            CertificateProblem::UriConstraints(_) => {
                "; have it issued without URI constraints, and name the CA of each peer in its entry's caBundle"
            }
            CertificateProblem::IntermediateMayNotSign(_) => "; have the intermediate issued with keyUsage keyCertSign",
            CertificateProblem::Expired { .. } => {
                "; have a new one issued (`wharf ca issue`) and put it there: it is taken up without a restart"
            }
            CertificateProblem::NotYetValid { .. } => "; check this machine's clock, or wait until then",
        }
    }
}

/// Formats a time for people and scripts: RFC 3339, in UTC.
pub fn format_moment(t: OffsetDateTime) -> String {
    // Years beyond 9999 cannot be written in RFC 3339; certificates cannot have them either.
    t.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap_or_else(|_| t.unix_timestamp().to_string())
}
