//! Both ends of a mutual TLS connection: TLS 1.3, HTTP/2, no resumption, and a peer with the identity of its
//! certificate.
//!
//! The server admits every certificate under the shared root; the identity, and its permissions, are checked above TLS,
//! where a reason can be sent ([`peer_certificate`]). The client accepts one identity, whatever name or address it
//! dialled.

use std::error::Error;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, ServerConfig, SignatureScheme,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::peer_roots::peer_roots;
use super::trust::TrustVerifier;
use super::{CertificateProblem, Identity, IdentityError, format_moment, peer_certificate};
use crate::model::{CaBundle, SpiffeId};

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MinTls {
    #[serde(rename = "1.2")]
    Tls12,
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

impl MinTls {
    fn supported_versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            MinTls::Tls12 => &BOTH,
            MinTls::Tls13 => &BOTH[..1],
        }
    }
}

/// The only application protocol: gRPC is HTTP/2, so HTTP/1.1 is refused before a byte of it is read.
const ALPN: &[u8] = b"h2";

/// Makes the server's end where all peers are under the shared roots.
pub fn server_config(identity: &Identity, min: MinTls) -> Result<Arc<ServerConfig>, IdentityError> {
    server_config_with(identity, [], min)
}

/// Makes the server's end: it demands a client certificate that is valid now under the shared roots, or those of a
/// peer. The roots are matched to the client once its identity is known ([`is_under`](super::is_under)).
pub fn server_config_with<'a>(
    identity: &Identity,
    of_peers: impl IntoIterator<Item = &'a CaBundle>,
    min: MinTls,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut roots = identity.roots.clone();
    let now = OffsetDateTime::now_utc();
    roots.extend(of_peers.into_iter().flat_map(|bundle| peer_roots(bundle, now)));
    let trust = TrustVerifier::new(&roots, &identity.crls).map_err(IdentityError::Tls)?;
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(min.supported_versions())
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(trust.client_verifier())
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(IdentityError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session shows no certificate: one that has expired or been replaced since would still be believed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Makes the client's end: it shows this cluster's certificate and accepts the server `expected` only, under the shared
/// roots.
pub fn client_config(
    identity: &Identity,
    expected: &SpiffeId,
    min: MinTls,
) -> Result<Arc<ClientConfig>, IdentityError> {
    client_config_under(None, identity, expected, min)
}

/// Makes a [`client_config`] under the roots of the peer's entry, if it names some.
pub fn client_config_under(
    bundle: Option<&CaBundle>,
    identity: &Identity,
    expected: &SpiffeId,
    min: MinTls,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = crypto_provider();
    let own = bundle.map(|bundle| peer_roots(bundle, OffsetDateTime::now_utc()));
    let roots = own.as_ref().unwrap_or(&identity.roots);
    let verifier = ExactPeer {
        expected: expected.clone(),
        trust: TrustVerifier::new(roots, &identity.crls).map_err(IdentityError::Tls)?,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(min.supported_versions())
        .map_err(IdentityError::Tls)?
        .dangerous() // its name is: what it does is to check an identity instead of a DNS name
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(IdentityError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the provider, which is named each time: the first user would decide about a default of the process.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The server that was dialled has another identity, or none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnexpectedPeer {
    #[error(
        "the peer is {shown}, not {expected} as expected: the endpoint leads to another cluster, or the peering's identity is wrong"
    )]
    Other { expected: SpiffeId, shown: SpiffeId },
    #[error("expected {expected}, but {problem}")]
    Nobody { expected: SpiffeId, problem: CertificateProblem },
}

/// Accepts the one server that has this identity under these roots.
#[derive(Debug)]
struct ExactPeer {
    expected: SpiffeId,
    trust: TrustVerifier,
    provider: Arc<CryptoProvider>,
}

impl ExactPeer {
    fn check_identity(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), UnexpectedPeer> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let expected = || self.expected.clone();
        let shown = peer_certificate(&chain)
            .map_err(|problem| UnexpectedPeer::Nobody { expected: expected(), problem })?
            .spiffe_id;
        if shown == self.expected { Ok(()) } else { Err(UnexpectedPeer::Other { expected: expected(), shown }) }
    }
}

impl ServerCertVerifier for ExactPeer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>, // an identity does not depend on how it is reached
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.trust.verify_server(leaf, intermediates, now)?;
        self.check_identity(leaf, intermediates)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|refusal| CertificateError::Other(OtherError(Arc::new(refusal))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Loads a private key of any kind and format that rustls reads.
pub(super) fn load_key(key: &PrivateKeyDer<'static>, place: &str) -> Result<Arc<dyn SigningKey>, IdentityError> {
    let unusable = |e| IdentityError::UnusableKey { place: place.to_owned(), why: tls_reason(&e) };
    crypto_provider().key_provider.load_private_key(key.clone_key()).map_err(unusable)
}

/// Returns whether the key is this certificate's.
pub(super) fn key_belongs(
    cert: &CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
    place_of_key: &str,
) -> Result<bool, IdentityError> {
    let key = load_key(key, place_of_key)?;
    match CertifiedKey::new(vec![cert.clone()], key).keys_match() {
        Ok(()) => Ok(true),
        Err(rustls::Error::InconsistentKeys(_)) => Ok(false),
        Err(e) => Err(IdentityError::UnusableKey { place: place_of_key.to_owned(), why: tls_reason(&e) }),
    }
}

/// Checks that peers with these roots and lists would accept the chain, as a server's and as a client's.
pub(super) fn verify_both_ways(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    crls: &[CertificateRevocationListDer<'static>],
    now: OffsetDateTime,
) -> Result<(), String> {
    TrustVerifier::new(roots, crls).and_then(|trust| trust.verify_both(chain, now)).map_err(|e| tls_reason(&e))
}

/// Returns the reason why a connection failed, if TLS is the cause: it is searched for among the causes of `error`, and
/// worded so that an operator of either side knows what to check.
pub fn explain_tls_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(match tls {
                rustls::Error::InvalidCertificate(e) if !matches!(e, CertificateError::Other(_)) => {
                    format!("the peer's certificate is refused: {}", certificate_reason(e))
                }
                tls => tls_reason(tls),
            });
        }
        // An io::Error hides what it wraps from `source`, which is the cause of what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|e| e as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

pub(super) fn tls_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(e) => certificate_reason(e),
        rustls::Error::AlertReceived(alert) => alert_reason(*alert),
        rustls::Error::NoCertificatesPresented => "the peer showed no certificate: mutual TLS needs one".into(),
        rustls::Error::PeerIncompatible(e) => {
            format!("the peer's TLS does not fit ({e:?}); Wharf speaks TLS 1.3 unless its configuration allows 1.2")
        }
        rustls::Error::InvalidCertRevocationList(e) => {
            format!("the revocation list of one of its issuers cannot be used ({e:?}); have that CA make it anew")
        }
        rustls::Error::InvalidMessage(_) => "the peer does not speak TLS on this port".into(),
        other => other.to_string(),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    let at = |t: &UnixTime| {
        let seconds = i64::try_from(t.as_secs()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| seconds.to_string(), format_moment)
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate, or one that it leads to, expired on {}; have a new one issued", at(not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}; compare the clocks", at(not_before))
        }
        CertificateError::UnknownIssuer => {
            "it does not lead to a root of this cluster; compare the roots of both, and add the intermediates after the certificate".into()
        }
        CertificateError::BadSignature => {
            "its signature is not of the root whose name it has; the root may have been made anew under the same name".into()
        }
        CertificateError::Revoked => "it, or one that it leads to, was revoked; have a new one issued".into(),
        CertificateError::UnknownRevocationStatus => {
            "no revocation list covers one of its issuers, and once there is a list, each CA above a certificate needs one".into()
        }
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            format!("{error}; have it issued with extendedKeyUsage serverAuth and clientAuth")
        }
        CertificateError::Other(OtherError(e)) => match e.to_string() {
            text if text.contains("EndEntityUsedAsCa") => {
                "it was issued by a certificate that is no CA; only a CA's certificate may issue".into()
            }
            text if text.contains("NameConstraintViolation") => {
                "it has a name that a CA above it may not issue (nameConstraints). Constraints of URIs and directory names cannot be checked here, and shut out every certificate: have the CA issued without them (`wharf ca show` names them), and limit a peer's CA by its entry's caBundle".into()
            }
            text if text.contains("CaUsedAsEndEntity") => {
                "it is a CA certificate; a cluster needs one that is issued as an end entity".into()
            }
            text => text,
        },
        other => other.to_string(),
    }
}

fn alert_reason(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the peer does not accept this cluster's certificate: it is not under the peer's root; compare the roots of both"
        }
        AlertDescription::CertificateRequired => "the peer demands a certificate, and none was shown",
        AlertDescription::CertificateExpired => {
            "the peer says that this cluster's certificate has expired, or is not valid yet; renew it, or compare the clocks"
        }
        AlertDescription::CertificateRevoked => {
            "the peer says that this cluster's certificate was revoked; have a new one issued"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => {
            "the peer refuses this cluster's certificate; its log says why (`wharf ca show` tells what is in it)"
        }
        AlertDescription::ProtocolVersion => {
            "the two have no version of TLS in common; Wharf speaks 1.3 unless its configuration allows 1.2"
        }
        AlertDescription::NoApplicationProtocol => "the peer does not speak HTTP/2 there",
        other => return format!("the peer ended the handshake: {other:?}"),
    }
    .into()
}
