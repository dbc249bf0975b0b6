//! The little CA: a root, and clusters' certificates under it or under one that was made elsewhere; and revocation.

mod revoke;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::ParsedExtension;

use super::der::DraftKind;
use super::{CertificateProblem, IdentityError, certificate, der, files, pem, tls};
use crate::model::{ClusterName, Host, SpiffeId};
pub use revoke::{CertificateSerial, IssuedRevocationList};

/// Tolerated difference of clocks: a new certificate is valid for a peer whose clock is this much behind.
const SKEW: Duration = Duration::minutes(5);
const DAY: i64 = 24 * 3600;
/// 100 years; an X.509 date has four digits for its year.
const LONGEST: i64 = 100 * 365 * DAY;

/// The reason why the CA refused a request.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Files(#[from] IdentityError),
    #[error("{}: {why}", file.display())]
    NotAnAuthority { file: PathBuf, why: String },
    #[error("a certificate for {spiffe_id} would be refused under this CA: {why}")]
    Useless { spiffe_id: SpiffeId, why: String },
    #[error("{}: {why}", file.display())]
    NotRevocable { file: PathBuf, why: String },
    #[error("the certificate cannot be made: {0}")]
    Signing(#[from] rcgen::Error),
    #[error("the system has no randomness to give")]
    Randomness,
}

/// Lifetime of a certificate: `90d`, `24h`, `1y`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateLifetime(Duration);

impl FromStr for CertificateLifetime {
    type Err = String;
    fn from_str(s: &str) -> Result<CertificateLifetime, String> {
        let expected =
            || format!("{s:?} is no lifetime: a whole number and s, m, h, d, w or y, such as 90d, up to 100y");
        let digits = s.trim_end_matches(|c: char| !c.is_ascii_digit());
        let seconds = match s.strip_prefix(digits) {
            Some("s") => 1,
            Some("m") => 60,
            Some("h") => 3600,
            Some("d") => DAY,
            Some("w") => 7 * DAY,
            Some("y") => 365 * DAY,
            _ => return Err(expected()),
        };
        let count: i64 = digits.parse().map_err(|_| expected())?;
        let seconds = count.checked_mul(seconds).filter(|n| (1..=LONGEST).contains(n)).ok_or_else(expected)?;
        Ok(CertificateLifetime(Duration::seconds(seconds)))
    }
}

/// A certificate and its key, as PEM.
pub struct IssuedCertificate {
    /// The certificate with the intermediates that lead to the root.
    pub certificate: String,
    pub key: String,
    pub not_after: OffsetDateTime,
    /// The CA ends before the requested time, and so does this certificate.
    pub shortened: bool,
}

/// The content of a cluster's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    pub cluster: ClusterName,
    pub spiffe_id: SpiffeId,
    pub dns: Vec<Host>,
    pub ip: Vec<IpAddr>,
    pub ttl: CertificateLifetime,
}

/// Makes a root: EC P-256, with any number of intermediates below it.
pub fn create_root(
    name: &str,
    ttl: CertificateLifetime,
    now: OffsetDateTime,
) -> Result<IssuedCertificate, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = build_params(name, now - SKEW, now + ttl.0)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(IssuedCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        not_after: params.not_after,
        shortened: false,
    })
}

fn build_params(
    name: &str,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    tls::crypto_provider().secure_random.fill(&mut serial).map_err(|_| AuthorityError::Randomness)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = not_before;
    params.not_after = not_after;
    Ok(params)
}

/// A CA that is ready to issue: a root, or an intermediate with the chain to the root.
pub struct CertificateAuthority {
    /// The issuing certificate, and the intermediates above it.
    chain: Vec<CertificateDer<'static>>,
    self_signed: bool,
    key: AuthorityKey,
    /// DER of its name, bit by bit as it is in the certificate.
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    may_revoke: bool,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl CertificateAuthority {
    /// Reads a CA of any make: RSA, EC or Ed25519; PKCS#8, PKCS#1 or SEC 1. Of several certificates in the file, the
    /// key's issues.
    pub fn load(certificate: &Path, key: &Path, now: OffsetDateTime) -> Result<CertificateAuthority, AuthorityError> {
        let refused = |why: &str| AuthorityError::NotAnAuthority { file: certificate.to_owned(), why: why.to_owned() };
        let in_file = |problem| IdentityError::Certificate { place: certificate.display().to_string(), problem };
        let private = files::read_key(key)?;
        let place_of_key = key.display().to_string();
        let mut found = None;
        let mut above = Vec::new();
        for der in files::read_certificates(certificate)? {
            if found.is_none() && tls::key_belongs(&der, &private, &place_of_key)? {
                found = Some(der);
            } else if !is_self_signed(&der).map_err(in_file)? {
                above.push(der); // the root itself is known to whoever trusts it
            }
        }
        let issuing = found.ok_or_else(|| IdentityError::KeyMismatch {
            certificate: certificate.display().to_string(),
            key: place_of_key.clone(),
        })?;
        let cert = certificate::parse_certificate(&issuing).map_err(in_file)?;
        if let Some(subject) = certificate::not_an_authority(&issuing).map_err(in_file)? {
            return Err(refused(&format!(
                "{subject:?} is not a CA certificate (basicConstraints), so it may not issue others"
            )));
        }
        let usage = certificate::key_usage(&cert).map_err(in_file)?;
        let may_revoke = usage.is_none_or(|usage| usage.crl_sign());
        if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(refused("the CA certificate may not sign certificates: its keyUsage lacks keyCertSign"));
        }
        let (subject, key_identifier) = (cert.subject().as_raw().to_vec(), key_identifier(&cert));
        let public = cert.public_key().subject_public_key.data.to_vec();
        let self_signed = is_self_signed(&issuing).map_err(in_file)?;
        if self_signed {
            above.clear();
        }
        let mut chain = vec![issuing];
        chain.append(&mut above);
        certificate::check_validity(&chain, now).map_err(in_file)?;
        let (not_before, not_after) = certificate::common_validity(&chain).map_err(in_file)?;
        let key = AuthorityKey::new(private, public, &place_of_key)?;
        Ok(CertificateAuthority { chain, self_signed, key, subject, key_identifier, may_revoke, not_before, not_after })
    }

    /// Returns whether its certificates need intermediates, and peers a root that is elsewhere.
    pub fn is_intermediate(&self) -> bool {
        !self.self_signed
    }

    /// Issues a cluster's certificate: for both ends of TLS, never valid longer than its issuers.
    pub fn issue_certificate(
        &self,
        request: &CertificateRequest,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, AuthorityError> {
        let wanted = now + request.ttl.0;
        let not_after = wanted.min(self.not_after);
        let mut params = build_params(request.cluster.as_str(), (now - SKEW).max(self.not_before), not_after)?;
        params.subject_alt_names = alternative_names(request)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = self.key_identifier.is_some();
        let key = KeyPair::generate()?;
        let leaf = self.sign_certificate(&params, &key)?;

        let mut chain = vec![leaf];
        if !self.self_signed {
            chain.extend_from_slice(&self.chain);
        }
        self.check_chain(&chain, request, now)?;
        Ok(IssuedCertificate {
            certificate: pem::certificates_pem(&chain),
            key: key.serialize_pem(),
            not_after,
            shortened: not_after < wanted,
        })
    }

    fn sign_certificate(
        &self,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let draft = params.signed_by(key, &self.build_issuer())?;
        Ok(self.with_own_name(DraftKind::Certificate, draft.der())?.into())
    }

    fn build_issuer(&self) -> Issuer<'_, &AuthorityKey> {
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = DistinguishedName::new();
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(self.key_identifier.clone().unwrap_or_default());
        Issuer::new(issuer, &self.key)
    }

    /// Puts the CA's own name into a draft. rcgen keeps one value per attribute of a name, and cannot repeat a name
    /// such as `DC=corp, DC=example` exactly; but a chain is found by comparing names byte by byte (RFC 5280, section
    /// 6.1.3 (a)(4)), and so is its list.
    fn with_own_name(&self, kind: DraftKind, draft: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        der::with_issuer(kind, draft, &self.subject, |tbs| self.key.sign(tbs))
    }

    /// Checks a new chain. A CA may be constrained (names, length of the path): it is better to learn that now than
    /// from a peer.
    fn check_chain(
        &self,
        chain: &[CertificateDer<'static>],
        request: &CertificateRequest,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        let useless = |why| AuthorityError::Useless { spiffe_id: request.spiffe_id.clone(), why };
        super::peer_certificate(chain).map_err(|problem| useless(problem.to_string()))?;
        // The uppermost known certificate stands for the root.
        let top = self.chain.last().cloned();
        tls::verify_both_ways(chain, top.as_slice(), &[], now).map_err(useless)
    }
}

fn alternative_names(request: &CertificateRequest) -> Result<Vec<SanType>, rcgen::Error> {
    let mut names = vec![SanType::URI(request.spiffe_id.as_str().try_into()?)];
    for host in &request.dns {
        names.push(SanType::DnsName(host.as_str().try_into()?));
    }
    names.extend(request.ip.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn is_self_signed(der: &CertificateDer<'_>) -> Result<bool, CertificateProblem> {
    let cert = certificate::parse_certificate(der)?;
    Ok(cert.subject().as_raw() == cert.issuer().as_raw())
}

fn key_identifier(cert: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// A CA's key for rcgen, by way of rustls, which reads every format that keys come in.
struct AuthorityKey {
    signer: Arc<dyn rustls::sign::SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    /// The key as the bit string of the certificate's subjectPublicKeyInfo.
    public: Vec<u8>,
}

impl AuthorityKey {
    fn new(
        key: rustls_pki_types::PrivateKeyDer<'static>,
        public: Vec<u8>,
        place: &str,
    ) -> Result<AuthorityKey, IdentityError> {
        let known: [(SignatureScheme, &'static SignatureAlgorithm); 4] = [
            (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
            (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
            (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
        ];
        let signer = tls::load_key(&key, place)?;
        let (scheme, algorithm) =
            known.into_iter().find(|(scheme, _)| signer.choose_scheme(&[*scheme]).is_some()).ok_or_else(|| {
                IdentityError::UnusableKey { place: place.to_owned(), why: "its kind is not known".into() }
            })?;
        Ok(AuthorityKey { signer, scheme, algorithm, public })
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.signer.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::UnsupportedSignatureAlgorithm)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
