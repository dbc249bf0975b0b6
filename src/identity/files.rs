//! PEM files: bounded, and with an error that says what was expected.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use time::OffsetDateTime;

use super::{IdentityError, certificate};

/// More than any bundle of roots needs; a file that is larger is not meant.
const MAX_BYTES: u64 = 1 << 20;
const MAX_CERTIFICATES: usize = 256;

fn read(file: &Path) -> Result<Vec<u8>, IdentityError> {
    let unreadable = |source| IdentityError::Unreadable { file: file.to_owned(), source };
    let other = |why: &str| unreadable(io::Error::other(why.to_owned()));
    // A pipe or a device would block or never end.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file).map_err(unreadable)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(other("it has more than 1 MiB, so it is no certificate, key or bundle of roots"));
    }
    Ok(bytes)
}

fn sections(file: &Path, bytes: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, IdentityError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| IdentityError::NotPem { file: file.to_owned(), why: format!("it is not valid PEM: {e}") })
}

/// All certificates of a PEM file, in their order; at least one.
pub fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(file)?;
    let mut certificates = Vec::new();
    for (kind, der) in sections(file, &bytes)? {
        if kind == SectionKind::Certificate {
            certificates.push(CertificateDer::from(der));
        }
    }
    let refused = |why: String| Err(IdentityError::NotPem { file: file.to_owned(), why });
    match certificates.len() {
        0 => refused(no_section(&bytes, "CERTIFICATE", "x509")),
        n if n > MAX_CERTIFICATES => refused(format!("it has {n} certificates; at most {MAX_CERTIFICATES} are read")),
        _ => Ok(certificates),
    }
}

/// The one private key of a PEM file.
pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let bytes = read(file)?;
    let refused = |why: String| Err(IdentityError::NotPem { file: file.to_owned(), why });
    if has(&bytes, b"BEGIN ENCRYPTED PRIVATE KEY") || has(&bytes, b"Proc-Type: 4,ENCRYPTED") {
        return refused("the key is encrypted; decrypt it (`openssl pkey -in KEY -out PLAIN`)".into());
    }
    let mut keys = Vec::new();
    for (kind, der) in sections(file, &bytes)? {
        match kind {
            SectionKind::PrivateKey => keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => keys.push(PrivateSec1KeyDer::from(der).into()),
            _ => {}
        }
    }
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), more) => refused(format!("it has {} private keys; leave the certificate's", more + 1)),
        (None, _) => refused(no_section(&bytes, "PRIVATE KEY", "pkey")),
    }
}

/// The roots that are valid now. One that has expired is left out rather than trusted for ever or refused with the others:
/// bundles keep old roots while new ones spread.
pub(super) fn read_roots(file: &Path, now: OffsetDateTime) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let mut valid = Vec::new();
    let mut invalid = None;
    for root in read_certificates(file)? {
        let in_file = |problem| IdentityError::Certificate { file: file.to_owned(), problem };
        if let Some(subject) = certificate::not_an_authority(&root).map_err(in_file)? {
            let why = format!("{subject:?} is not a CA certificate; put the root that the clusters share there");
            return Err(IdentityError::Root { file: file.to_owned(), why });
        }
        match certificate::check_validity(std::slice::from_ref(&root), now) {
            Ok(()) => valid.push(root),
            Err(problem) => {
                tracing::warn!(file = %file.display(), %problem, "a root is left out");
                invalid = Some(problem);
            }
        }
    }
    match invalid {
        Some(problem) if valid.is_empty() => Err(IdentityError::Certificate { file: file.to_owned(), problem }),
        _ => Ok(valid),
    }
}

/// A certificate as PEM (RFC 7468, section 5.1): base64 in lines of 64 characters.
pub(super) fn certificate_pem(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        pem.extend(line.chunks(3).flat_map(base64));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// One to three bytes as four characters (RFC 4648, section 4).
fn base64(group: &[u8]) -> [char; 4] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = (0..3).fold(0, |bits, i| bits << 8 | group.get(i).copied().map_or(0, usize::from));
    std::array::from_fn(|i| {
        let character = ALPHABET.get(bits >> (18 - 6 * i) & 0x3f).filter(|_| i <= group.len());
        character.map_or('=', |c| char::from(*c))
    })
}

fn no_section(bytes: &[u8], label: &str, openssl: &str) -> String {
    match bytes.first() {
        None => "it is empty".into(),
        // An ASN.1 SEQUENCE: what people get from `-outform der`.
        Some(0x30) => format!("it is DER; convert it to PEM (`openssl {openssl} -inform der -in FILE -out PEM`)"),
        Some(_) => format!("there is no {label} in it; a PEM block of that name was expected"),
    }
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}
