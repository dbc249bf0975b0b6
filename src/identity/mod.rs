//! The identities of this cluster and of its peers: SPIFFE names, certificates and their renewal, TLS, the little CA.
//!
//! A cluster is one certificate with one SPIFFE ID under the root that all clusters share. [`Identity::load`] takes its
//! files, [`Identity::of_bundle`] a bundle from elsewhere, and both refuse what a peer would refuse, so that a mistake
//! is reported where it was made. [`watch_files`] follows the files, [`watch_bundles`] the deliveries. [`tls`] makes both
//! ends of a connection of it. [`peer_certificate`] reads the identity of the other end. [`authority`] is the CA for
//! clusters that have none.

pub mod authority;
mod certificate;
mod der;
mod error;
mod files;
mod follow;
mod peer_roots;
mod pem;
mod revocation;
pub mod tls;
mod trust;
mod watch;

use std::fmt;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use time::OffsetDateTime;

pub use certificate::{CertificateDescription, PeerCertificate, describe_certificate, peer_certificate};
pub use error::{CertificateProblem, IdentityError, MissingIdentity, format_moment};
pub use files::{IdentityFiles, read_certificates, read_lists};
pub use follow::{BundleDelivery, IdentityWatch, watch_bundles};
pub use peer_roots::{check_ca_bundle, is_under};
pub use pem::{PemText, certificates_pem, key_pem, lists_pem};
pub use revocation::{DescribedList, RevokedEntry, ShownCertificates, check_lists, describe_list, wait_until_revoked};
pub use watch::watch_files;

use crate::model::SpiffeId;

/// An identity as it arrives, from any source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityBundle {
    /// The cluster's certificate, then the intermediates that lead to the root, if any.
    pub certificate: PemText,
    /// The key of the first certificate, unencrypted.
    pub key: PemText,
    /// The roots that peers' certificates must lead to.
    pub root: PemText,
    /// Revocation lists of the CAs that peers' certificates lead to.
    pub crl: Option<PemText>,
}

/// A cluster's identity, as it was found to be good when it was loaded.
pub struct Identity {
    /// The cluster's certificate and the intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub roots: Vec<CertificateDer<'static>>,
    /// Revocation lists. None: nothing is known to be revoked.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    pub spiffe_id: SpiffeId,
    /// Time from which the certificate and its intermediates are all valid.
    pub not_before: OffsetDateTime,
    /// Time when the first of them ends, and peers begin to refuse it.
    pub not_after: OffsetDateTime,
    /// In hexadecimal, byte by byte: `5e:41`.
    pub serial: String,
}

impl Identity {
    /// Reads the files, and checks them as [`Identity::of_bundle`] does.
    pub fn load(files: &IdentityFiles) -> Result<Identity, IdentityError> {
        Identity::load_at(files, OffsetDateTime::now_utc())
    }

    /// Returns the reason why gateways cannot show this certificate, if they cannot. Agents take more kinds of keys
    /// than Envoy does.
    pub fn unfit_for_gateways(&self) -> Option<String> {
        certificate::unfit_for_envoy(self.chain.first()?)
    }

    /// [`Identity::load`], as if it were `now`.
    pub fn load_at(files: &IdentityFiles, now: OffsetDateTime) -> Result<Identity, IdentityError> {
        Identity::of_bundle(&files.read_bundle()?, now)
    }

    /// Checks what a peer checks at `now`: that the key is the certificate's, that there is exactly one SPIFFE ID, that
    /// the certificate is valid, and that it leads to a root as a client's and as a server's.
    pub fn of_bundle(bundle: &IdentityBundle, now: OffsetDateTime) -> Result<Identity, IdentityError> {
        let place = |pem: &PemText| pem.place().to_owned();
        let chain = bundle.certificate.parse_certificates()?;
        let key = bundle.key.parse_key()?;
        let roots = bundle.root.parse_valid_roots(now)?;
        let crls = bundle.crl.as_ref().map(PemText::parse_lists).transpose()?.unwrap_or_default();
        let in_certificate = |problem| IdentityError::Certificate { place: place(&bundle.certificate), problem };
        let leaf = peer_certificate(&chain).map_err(in_certificate)?;
        certificate::check_validity(&chain, now).map_err(in_certificate)?;
        let (not_before, not_after) = certificate::common_validity(&chain).map_err(in_certificate)?;
        if let Some(own) = chain.first()
            && !tls::key_belongs(own, &key, bundle.key.place())?
        {
            return Err(IdentityError::KeyMismatch {
                certificate: place(&bundle.certificate),
                key: place(&bundle.key),
            });
        }
        let under = match &bundle.crl {
            Some(crl) => format!("{} and the revocation lists in {}", bundle.root.place(), crl.place()),
            None => place(&bundle.root),
        };
        tls::verify_both_ways(&chain, &roots, &crls, now).map_err(|why| IdentityError::Chain {
            certificate: place(&bundle.certificate),
            root: under,
            why,
        })?;
        Ok(Identity { chain, key, roots, crls, spiffe_id: leaf.spiffe_id, not_before, not_after, serial: leaf.serial })
    }
}

impl PartialEq for Identity {
    /// Everything else follows from these.
    fn eq(&self, other: &Identity) -> bool {
        self.chain == other.chain
            && self.key.secret_der() == other.key.secret_der()
            && self.roots == other.roots
            && self.crls == other.crls
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("not_before", &format_moment(self.not_before))
            .field("not_after", &format_moment(self.not_after))
            .field("chain", &self.chain.len())
            .field("roots", &self.roots.len())
            .field("crls", &self.crls.len())
            .finish_non_exhaustive()
    }
}
