//! The roots of one peer: those that its own entry names, in place of those that all clusters share.

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;

use super::certificate::{check_constraints, check_validity, not_an_authority};
use super::trust::TrustVerifier;
use super::{Identity, PemText, tls};
use crate::model::CaBundle;

fn parse_bundle(bundle: &CaBundle) -> Result<Vec<CertificateDer<'static>>, String> {
    // The caller knows the place: a field of an entry.
    let pem = PemText::new("", bundle.as_str().as_bytes().to_vec());
    pem.parse_certificates().map_err(|e| e.to_string().trim_start_matches([':', ' ']).to_owned())
}

/// Refuses a bundle with anything but usable CA certificates. One that has expired is no error: bundles keep old
/// certificates while new ones spread.
pub fn check_ca_bundle(bundle: &CaBundle) -> Result<(), String> {
    let certificates = parse_bundle(bundle)?;
    for (i, certificate) in certificates.iter().enumerate() {
        let refused = |why: String| format!("certificate {} of {}: {why}", i + 1, certificates.len());
        if let Some(subject) = not_an_authority(certificate).map_err(|problem| refused(problem.to_string()))? {
            return Err(refused(format!("{subject:?} is not a CA certificate; put the peer's CA there")));
        }
        check_constraints(certificate).map_err(|problem| refused(format!("{problem}{}", problem.cure())))?;
    }
    TrustVerifier::new(&certificates, &[]).map(drop).map_err(|e| tls::tls_reason(&e))
}

/// Returns the certificates of a bundle that are valid now.
pub(super) fn peer_roots(bundle: &CaBundle, now: OffsetDateTime) -> Vec<CertificateDer<'static>> {
    // A bundle in force has been checked; an unreadable one would accept nobody.
    let certificates = parse_bundle(bundle).unwrap_or_default();
    certificates.into_iter().filter(|c| check_validity(std::slice::from_ref(c), now).is_ok()).collect()
}

/// Checks that the chain that a client showed leads to the roots of its own cluster: those of its entry, or else the
/// shared ones. Another cluster's do not count, although TLS takes them.
pub fn is_under(
    chain: &[CertificateDer<'_>],
    bundle: Option<&CaBundle>,
    identity: &Identity,
    now: OffsetDateTime,
) -> Result<(), String> {
    let own;
    let roots = match bundle {
        None => &identity.roots,
        Some(bundle) => {
            own = peer_roots(bundle, now);
            &own
        }
    };
    let lists: &[CertificateRevocationListDer<'static>] = &identity.crls;
    let trust = TrustVerifier::new(roots, lists).map_err(|e| tls::tls_reason(&e))?;
    trust.verify_client(chain, now).map_err(|e| tls::tls_reason(&e))
}
