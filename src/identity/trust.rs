//! Verifies certificates by roots and revocation lists.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;

use super::tls::crypto_provider;

/// Roots and revocation lists, ready to verify with.
#[derive(Debug, Clone)]
pub(super) struct TrustVerifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    /// True if there are lists.
    revoking: bool,
}

impl TrustVerifier {
    pub(super) fn new(
        roots: &[CertificateDer<'static>],
        crls: &[CertificateRevocationListDer<'static>],
    ) -> Result<TrustVerifier, rustls::Error> {
        let provider = crypto_provider();
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone())?;
        }
        let roots = Arc::new(store);
        // A list that should have been renewed still counts, and a certificate that no list covers is refused.
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(crls.iter().cloned())
            .build()
            .map_err(|e| match e {
                VerifierBuilderError::InvalidCrl(e) => rustls::Error::InvalidCertRevocationList(e),
                e => rustls::Error::General(e.to_string()),
            })?;
        Ok(TrustVerifier { roots, clients, provider, revoking: !crls.is_empty() })
    }

    pub(super) fn client_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.clients.clone()
    }

    /// Verifies a server's certificate. Its revocation is looked up as a client's: a cluster's certificate is both.
    pub(super) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        if self.revoking {
            self.clients.verify_client_cert(leaf, intermediates, now)?;
        }
        Ok(())
    }

    /// Verifies a client's certificate.
    pub(super) fn verify_client(&self, chain: &[CertificateDer<'_>], now: OffsetDateTime) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let seconds = now.unix_timestamp().try_into().unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.clients.verify_client_cert(leaf, intermediates, now).map(|_| ())
    }

    /// Verifies a certificate for both ends.
    pub(super) fn verify_both(&self, chain: &[CertificateDer<'_>], now: OffsetDateTime) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let seconds = now.unix_timestamp().try_into().unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verify_server(leaf, intermediates, now)?;
        self.clients.verify_client_cert(leaf, intermediates, now).map(|_| ())
    }
}
