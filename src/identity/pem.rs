//! PEM texts with their places: read with an error that names what was expected there, and written.

use std::fmt;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use time::OffsetDateTime;

use super::{IdentityError, certificate, revocation};

const MAX_CERTIFICATES: usize = 256;

/// A PEM text and its place, as errors call it: a file, or a key of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PemText {
    place: String,
    bytes: Vec<u8>,
}

impl fmt::Debug for PemText {
    /// Omits the text: it may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({}, {} bytes)", self.place, self.bytes.len())
    }
}

impl PemText {
    pub fn new(place: impl Into<String>, bytes: Vec<u8>) -> PemText {
        PemText { place: place.into(), bytes }
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    fn build_refusal(&self, why: impl Into<String>) -> IdentityError {
        IdentityError::Unusable { place: self.place.clone(), why: why.into() }
    }

    /// Returns the sections of the text. The parser quotes what it does not understand, whole.
    fn parse_sections(&self) -> Result<Vec<(SectionKind, Vec<u8>)>, IdentityError> {
        <(SectionKind, Vec<u8>)>::pem_slice_iter(&self.bytes).collect::<Result<_, _>>().map_err(|e| {
            self.build_refusal(format!("it is not valid PEM: {}", certificate::bounded_printable(&e.to_string())))
        })
    }

    /// Returns all certificates, in their order; at least one.
    pub fn parse_certificates(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let mut certificates = Vec::new();
        for (kind, der) in self.parse_sections()? {
            if kind == SectionKind::Certificate {
                certificates.push(CertificateDer::from(der));
            }
        }
        match certificates.len() {
            0 => Err(self.build_refusal(no_section(&self.bytes, "CERTIFICATE", "x509"))),
            n if n > MAX_CERTIFICATES => {
                Err(self.build_refusal(format!("it has {n} certificates; at most {MAX_CERTIFICATES} are read")))
            }
            _ => Ok(certificates),
        }
    }

    /// Returns all revocation lists; at least one, and one of each CA.
    pub(super) fn parse_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
        let mut lists = Vec::new();
        for (kind, der) in self.parse_sections()? {
            if kind == SectionKind::Crl {
                lists.push(CertificateRevocationListDer::from(der));
            }
        }
        match lists.len() {
            0 => Err(self.build_refusal(no_section(&self.bytes, "X509 CRL", "crl"))),
            n if n > MAX_CERTIFICATES => {
                Err(self.build_refusal(format!("it has {n} revocation lists; at most {MAX_CERTIFICATES} are read")))
            }
            _ => revocation::check_lists(&lists).map_err(|why| self.build_refusal(why)).map(|()| lists),
        }
    }

    /// Returns the one private key.
    pub(super) fn parse_key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        if contains_text(&self.bytes, b"BEGIN ENCRYPTED PRIVATE KEY")
            || contains_text(&self.bytes, b"Proc-Type: 4,ENCRYPTED")
        {
            return Err(self.build_refusal("the key is encrypted; decrypt it (`openssl pkey -in KEY -out PLAIN`)"));
        }
        let mut keys = Vec::new();
        for (kind, der) in self.parse_sections()? {
            match kind {
                SectionKind::PrivateKey => keys.push(PrivatePkcs8KeyDer::from(der).into()),
                SectionKind::RsaPrivateKey => keys.push(PrivatePkcs1KeyDer::from(der).into()),
                SectionKind::EcPrivateKey => keys.push(PrivateSec1KeyDer::from(der).into()),
                _ => {}
            }
        }
        match (keys.pop(), keys.len()) {
            (Some(key), 0) => Ok(key),
            (Some(_), more) => {
                Err(self.build_refusal(format!("it has {} private keys; leave the certificate's", more + 1)))
            }
            (None, _) => Err(self.build_refusal(no_section(&self.bytes, "PRIVATE KEY", "pkey"))),
        }
    }

    /// Returns the roots that can be used now. One that has expired is left out rather than trusted for ever or refused
    /// with the others: bundles keep old roots while new ones spread.
    pub(super) fn parse_valid_roots(&self, now: OffsetDateTime) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let mut valid = Vec::new();
        let mut invalid = None;
        let here = |problem| IdentityError::Certificate { place: self.place.clone(), problem };
        for root in self.parse_certificates()? {
            if let Some(subject) = certificate::not_an_authority(&root).map_err(here)? {
                let why = format!("{subject:?} is not a CA certificate; put the root that the clusters share there");
                return Err(self.build_refusal(why));
            }
            let usable = certificate::check_constraints(&root);
            match usable.and_then(|()| certificate::check_validity(std::slice::from_ref(&root), now)) {
                Ok(()) => valid.push(root),
                Err(problem) => {
                    tracing::warn!(place = %self.place, %problem, "a root is ignored");
                    invalid = Some(problem);
                }
            }
        }
        match invalid {
            Some(problem) if valid.is_empty() => Err(here(problem)),
            _ => Ok(valid),
        }
    }
}

/// Formats certificates as PEM, one after the other.
pub fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| format_block("CERTIFICATE", der)).collect()
}

/// Formats revocation lists as PEM, one after the other.
pub fn lists_pem(lists: &[CertificateRevocationListDer<'_>]) -> String {
    lists.iter().map(|der| format_block("X509 CRL", der)).collect()
}

/// Formats a private key as PEM, in the format that it has.
pub fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    format_block(label, key.secret_der())
}

/// Formats a block (RFC 7468, section 3): base64 in lines of 64 characters.
fn format_block(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        pem.extend(line.chunks(3).flat_map(encode_base64));
        pem.push('\n');
    }
    pem + "-----END " + label + "-----\n"
}

/// Encodes one to three bytes as four characters (RFC 4648, section 4).
fn encode_base64(group: &[u8]) -> [char; 4] {
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
        // An ASN.1 SEQUENCE: the output of `-outform der`.
        Some(0x30) => format!("it is DER; convert it to PEM (`openssl {openssl} -inform der -in FILE -out PEM`)"),
        Some(_) => format!("there is no {label} in it; a PEM block of that name was expected"),
    }
}

fn contains_text(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}
