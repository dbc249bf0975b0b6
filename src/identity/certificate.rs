//! Reads certificates: the identity of a peer, its permission to be that, and a description for people.

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::{CertificateProblem, format_moment};
use crate::model::{SpiffeId, text};

/// The tag of a URI among general names (RFC 5280, section 4.2.1.6).
const URI_TAG: u32 = 6;

/// The identity of the other end by its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub spiffe_id: SpiffeId,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// In hexadecimal.
    pub serial: String,
}

/// Reads the identity of the owner of `certs` (its own first), and refuses certificates that SPIFFE does not allow
/// (X509-SVID, sections 2, 4 and 5) and a TLS verifier does not check. The chain must have been verified: this checks
/// no signature and no date.
pub fn peer_certificate(certs: &[CertificateDer<'_>]) -> Result<PeerCertificate, CertificateProblem> {
    let (leaf, intermediates) = certs.split_first().ok_or(CertificateProblem::Missing)?;
    let leaf = parse_certificate(leaf)?;
    let spiffe_id = spiffe_id(&leaf)?;
    if is_ca(&leaf)? {
        return Err(CertificateProblem::IsAuthority(spiffe_id));
    }
    if let Some(usage) = key_usage(&leaf)? {
        if !usage.digital_signature() {
            return Err(CertificateProblem::NoDigitalSignature(spiffe_id));
        }
        if usage.key_cert_sign() || usage.crl_sign() {
            return Err(CertificateProblem::MaySign(spiffe_id));
        }
    }
    for der in intermediates {
        let intermediate = parse_certificate(der)?;
        // rustls checks basicConstraints only; RFC 5280, section 6.1.4 (n) asks for this too.
        if is_ca(&intermediate)? && key_usage(&intermediate)?.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(CertificateProblem::IntermediateMayNotSign(subject_text(&intermediate)));
        }
    }
    Ok(PeerCertificate {
        spiffe_id,
        not_before: not_before(&leaf),
        not_after: not_after(&leaf),
        serial: certificate_serial(&leaf),
    })
}

/// Checks that every certificate of a chain is valid at `now`.
pub(super) fn check_validity(chain: &[CertificateDer<'_>], now: OffsetDateTime) -> Result<(), CertificateProblem> {
    for der in chain {
        let cert = parse_certificate(der)?;
        if now > not_after(&cert) {
            return Err(CertificateProblem::Expired { subject: subject_text(&cert), not_after: not_after(&cert) });
        }
        if now < not_before(&cert) {
            return Err(CertificateProblem::NotYetValid {
                subject: subject_text(&cert),
                not_before: not_before(&cert),
            });
        }
    }
    Ok(())
}

/// Returns the time in which every certificate of a chain is valid.
pub(super) fn common_validity(
    chain: &[CertificateDer<'_>],
) -> Result<(OffsetDateTime, OffsetDateTime), CertificateProblem> {
    let mut common: Option<(OffsetDateTime, OffsetDateTime)> = None;
    for der in chain {
        let cert = parse_certificate(der)?;
        let (from, to) = common.unwrap_or((not_before(&cert), not_after(&cert)));
        common = Some((from.max(not_before(&cert)), to.min(not_after(&cert))));
    }
    common.ok_or(CertificateProblem::Missing)
}

/// Refuses a CA whose certificates no agent can accept: name constraints for URIs are not implemented by the verifier,
/// which then refuses every certificate with a URI (RFC 5280, section 4.2.1.10), and every cluster's has one.
pub(super) fn check_constraints(der: &CertificateDer<'_>) -> Result<(), CertificateProblem> {
    let cert = parse_certificate(der)?;
    let of_uris = name_constraints(&cert)?.iter().any(|(_, name)| name.starts_with("URI:"));
    if of_uris { Err(CertificateProblem::UriConstraints(subject_text(&cert))) } else { Ok(()) }
}

/// Returns the name constraints: `permitted` or `excluded`, and a name such as `DNS:…`.
fn name_constraints(cert: &X509Certificate<'_>) -> Result<Vec<(&'static str, String)>, CertificateProblem> {
    let Some(extension) = cert.name_constraints().map_err(unreadable_problem)? else { return Ok(Vec::new()) };
    let constraints = extension.value;
    let lists = [("permitted", &constraints.permitted_subtrees), ("excluded", &constraints.excluded_subtrees)];
    let subtrees = lists.into_iter().flat_map(|(kind, subtrees)| {
        subtrees.iter().flatten().map(move |subtree| (kind, bounded_printable(&format_constraint(&subtree.base))))
    });
    Ok(subtrees.collect())
}

/// Formats a constraint. An address has a mask here, and so twice the bytes that it has as a name.
fn format_constraint(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::IPAddress(_) => "IP".to_owned(),
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => "URI:(invalid)".to_owned(),
        name => general_name(name),
    }
}

/// Returns the subject of a certificate that cannot be a root. Version 1 knows no extensions, and old roots are of it.
pub(super) fn not_an_authority(der: &CertificateDer<'_>) -> Result<Option<String>, CertificateProblem> {
    let cert = parse_certificate(der)?;
    Ok((cert.version.0 >= 2 && !is_ca(&cert)?).then(|| subject_text(&cert)))
}

pub(super) fn parse_certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateProblem> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(CertificateProblem::Unreadable("there are bytes after its end".into())),
        Err(e) => Err(CertificateProblem::Unreadable(e.to_string())),
    }
}

fn unreadable_problem(e: impl std::fmt::Display) -> CertificateProblem {
    CertificateProblem::Unreadable(e.to_string())
}

fn alternative_names<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a [GeneralName<'a>], CertificateProblem> {
    Ok(cert
        .subject_alternative_name()
        .map_err(unreadable_problem)?
        .map(|e| &*e.value.general_names)
        .unwrap_or_default())
}

fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, CertificateProblem> {
    let mut uris = Vec::new();
    for name in alternative_names(cert)? {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::Invalid(tag, bytes) if tag.0 == URI_TAG => uris.push(String::from_utf8_lossy(bytes).into()),
            _ => {}
        }
    }
    match &*uris {
        [] => Err(CertificateProblem::NoSpiffeId),
        [uri] => uri.parse().map_err(CertificateProblem::NotSpiffe),
        _ => {
            let count = uris.len();
            Err(CertificateProblem::SeveralUris {
                count,
                first: uris.iter().take(4).map(|uri| bounded_printable(uri)).collect(),
            })
        }
    }
}

pub(super) fn is_ca(cert: &X509Certificate<'_>) -> Result<bool, CertificateProblem> {
    Ok(cert.basic_constraints().map_err(unreadable_problem)?.is_some_and(|e| e.value.ca))
}

pub(super) fn key_usage<'a>(cert: &'a X509Certificate<'_>) -> Result<Option<&'a KeyUsage>, CertificateProblem> {
    Ok(cert.key_usage().map_err(unreadable_problem)?.map(|e| e.value))
}

pub(super) fn subject_text(cert: &X509Certificate<'_>) -> String {
    bounded_printable(&cert.subject().to_string())
}

/// Cleans a stranger's text for people's logs and terminals: bounded, and every character visible.
pub(super) fn bounded_printable(text: &str) -> String {
    text::printable(text).chars().take(256).collect()
}

fn certificate_serial(cert: &X509Certificate<'_>) -> String {
    serial_text(cert.raw_serial())
}

/// Formats a serial number without the zero that DER puts before a number whose first bit is set.
pub(super) fn serial_text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

pub(super) fn not_before(cert: &X509Certificate<'_>) -> OffsetDateTime {
    cert.validity().not_before.to_datetime()
}

pub(super) fn not_after(cert: &X509Certificate<'_>) -> OffsetDateTime {
    cert.validity().not_after.to_datetime()
}

/// A certificate as `wharf ca show` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDescription {
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// The SPIFFE ID, if there is exactly one URI and it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<SpiffeId>,
    /// All subject alternative names, as `DNS:…`, `IP:…`, `URI:…`.
    pub names: Vec<String>,
    pub not_before: String,
    pub not_after: String,
    /// Whole days until the end; negative: since the end.
    pub days_left: i64,
    pub expired: bool,
    pub not_yet_valid: bool,
    pub key: String,
    pub ca: bool,
    pub self_signed: bool,
    pub usages: Vec<String>,
    /// The name constraints of a CA, as `permitted DNS:…`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// The reason why no agent accepts certificates under it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Describes a certificate as of `now`.
pub fn describe_certificate(
    der: &CertificateDer<'_>,
    now: OffsetDateTime,
) -> Result<CertificateDescription, CertificateProblem> {
    let cert = parse_certificate(der)?;
    Ok(CertificateDescription {
        subject: subject_text(&cert),
        issuer: bounded_printable(&cert.issuer().to_string()),
        serial: certificate_serial(&cert),
        spiffe_id: spiffe_id(&cert).ok(),
        names: alternative_names(&cert)?.iter().map(|name| bounded_printable(&general_name(name))).collect(),
        not_before: format_moment(not_before(&cert)),
        not_after: format_moment(not_after(&cert)),
        days_left: (not_after(&cert) - now).whole_days(),
        expired: now > not_after(&cert),
        not_yet_valid: now < not_before(&cert),
        key: key_type(&cert),
        ca: is_ca(&cert)?,
        self_signed: cert.subject().as_raw() == cert.issuer().as_raw(),
        usages: list_usages(&cert)?,
        constraints: name_constraints(&cert)?.into_iter().map(|(kind, name)| format!("{kind} {name}")).collect(),
        problem: check_constraints(der).err().map(|problem| format!("{problem}{}", problem.cure())),
    })
}

fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(dns) => format!("DNS:{dns}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::RFC822Name(mail) => format!("email:{mail}"),
        GeneralName::IPAddress(octets) => {
            let ip =
                <[u8; 4]>::try_from(*octets).map(Into::into).or_else(|_| <[u8; 16]>::try_from(*octets).map(Into::into));
            ip.map_or_else(|_| "IP:(invalid)".into(), |ip: std::net::IpAddr| format!("IP:{ip}"))
        }
        GeneralName::DirectoryName(name) => format!("dirName:{name}"),
        _ => "other".into(),
    }
}

fn key_type(cert: &X509Certificate<'_>) -> String {
    let key = cert.public_key();
    let ed25519 = key.algorithm.algorithm.to_id_string() == "1.3.101.112"; // id-Ed25519, RFC 8410
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        // x509-parser counts the bits of the encoded point's coordinate.
        Ok(PublicKey::EC(ec)) => format!("EC P-{}", ec.key_size()),
        _ if ed25519 => "Ed25519".into(),
        _ => key.algorithm.algorithm.to_id_string(),
    }
}

/// Returns the reason why Envoy cannot show a certificate. It takes RSA keys of 2048 bits and more, and ECDSA keys on
/// the curves P-256, P-384 and P-521 (source/common/tls/context_impl.cc); with others no handshake succeeds.
pub(super) fn unfit_for_envoy(der: &CertificateDer<'_>) -> Option<String> {
    /// prime256v1, secp384r1 and secp521r1 (RFC 5480, section 2.1.1.1).
    const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
    let cert = parse_certificate(der).ok()?;
    let key = cert.public_key();
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
    let fit = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= 2048,
        Ok(PublicKey::EC(_)) => curve.is_some_and(|curve| CURVES.contains(&curve.as_str())),
        _ => false,
    };
    let kind = key_type(&cert);
    (!fit).then(|| format!("the certificate's key is {kind}, which agents take and gateways (Envoy) do not"))
}

fn list_usages(cert: &X509Certificate<'_>) -> Result<Vec<String>, CertificateProblem> {
    let mut usages: Vec<String> = Vec::new();
    if let Some(usage) = key_usage(cert)? {
        let named = [
            (usage.digital_signature(), "digitalSignature"),
            (usage.non_repudiation(), "nonRepudiation"),
            (usage.key_encipherment(), "keyEncipherment"),
            (usage.data_encipherment(), "dataEncipherment"),
            (usage.key_agreement(), "keyAgreement"),
            (usage.key_cert_sign(), "keyCertSign"),
            (usage.crl_sign(), "cRLSign"),
        ];
        usages.extend(named.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
    }
    if let Some(extended) = cert.extended_key_usage().map_err(unreadable_problem)? {
        let e = extended.value;
        let named = [(e.any, "any"), (e.server_auth, "serverAuth"), (e.client_auth, "clientAuth")];
        usages.extend(named.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
        usages.extend(e.other.iter().map(ToString::to_string));
    }
    Ok(usages)
}
