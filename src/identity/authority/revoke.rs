//! Revocation lists of the little CA: made, and made again with more entries.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

use super::{AuthorityError, CertificateAuthority, CertificateLifetime, DraftKind, SKEW};
use crate::identity::certificate::{self, serial_text};
use crate::identity::revocation;

/// The serial number of a certificate, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateSerial(Vec<u8>);

impl CertificateSerial {
    fn from_bytes(bytes: &[u8]) -> CertificateSerial {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len().saturating_sub(1));
        CertificateSerial(bytes.get(zeros..).unwrap_or_default().to_vec())
    }
}

impl fmt::Display for CertificateSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serial_text(&self.0))
    }
}

impl FromStr for CertificateSerial {
    type Err = String;
    /// Parses hexadecimal, with or without colons.
    fn from_str(text: &str) -> Result<CertificateSerial, String> {
        let expected = || format!("{text:?} is no serial number: bytes in hexadecimal, such as 5e:41, at most 20");
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() > 40 || !digits.is_ascii() {
            return Err(expected());
        }
        let byte = |i| digits.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        bytes.map(|bytes| CertificateSerial::from_bytes(&bytes)).ok_or_else(expected)
    }
}

/// The result of making a list.
pub struct IssuedRevocationList {
    pub list: CertificateRevocationListDer<'static>,
    /// All that is on it.
    pub revoked: usize,
    pub next_update: OffsetDateTime,
}

/// The time and the reason of each entry of a list.
type RevocationEntries = BTreeMap<CertificateSerial, (OffsetDateTime, Option<RevocationReason>)>;

impl CertificateAuthority {
    /// Returns the serial number of a certificate that this CA issued; `file` is its source.
    pub fn serial_of(&self, der: &CertificateDer<'_>, file: &Path) -> Result<CertificateSerial, AuthorityError> {
        let refused = |why: &str| AuthorityError::NotRevocable { file: file.to_owned(), why: why.to_owned() };
        let cert = certificate::parse_certificate(der).map_err(|problem| refused(&problem.to_string()))?;
        if cert.issuer().as_raw() != self.subject {
            return Err(refused("it was not issued by this CA; name the one that did (--ca-cert, --ca-key)"));
        }
        if cert.subject().as_raw() == self.subject {
            return Err(refused("it is the CA itself, which no list can revoke: take it out of the clusters' roots"));
        }
        Ok(CertificateSerial::from_bytes(cert.raw_serial()))
    }

    /// Returns whether a list is one of this CA.
    pub fn is_own_list(&self, der: &CertificateRevocationListDer<'_>) -> bool {
        let Ok(list) = revocation::parse_list(der) else { return false };
        // A CA that was made again under the same name has another key.
        let key = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        let same_key = key.is_none_or(|key| self.key_identifier.as_ref().is_none_or(|own| *own == key));
        list.issuer().as_raw() == self.subject && same_key
    }

    /// Makes a list of all entries of `before`, a list of this CA, and of `more`. It is to be renewed after `ttl`, but
    /// never later than the CA ends; then without one.
    pub fn issue_revocation_list(
        &self,
        before: Option<&CertificateRevocationListDer<'_>>,
        more: impl IntoIterator<Item = CertificateSerial>,
        ttl: Option<CertificateLifetime>,
        now: OffsetDateTime,
    ) -> Result<IssuedRevocationList, AuthorityError> {
        let before = before.and_then(|der| revocation::parse_list(der).ok());
        let mut entries: RevocationEntries = before.iter().flat_map(list_entries).collect();
        for serial in more {
            entries.entry(serial).or_insert((now, None));
        }
        let next_update = ttl.map_or(self.not_after, |ttl| (now + ttl.0).min(self.not_after));
        let params = CertificateRevocationListParams {
            // A gateway whose clock is behind would refuse everybody.
            this_update: (now - SKEW).max(self.not_before),
            next_update,
            crl_number: SerialNumber::from(before.as_ref().map_or_else(|| vec![1], number_after)),
            issuing_distribution_point: None,
            revoked_certs: entries.iter().map(build_entry).collect(),
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_identifier.clone().unwrap_or_default()),
        };
        let draft = params.signed_by(&self.build_issuer())?;
        let list = self.with_own_name(DraftKind::List, draft.der())?.into();
        Ok(IssuedRevocationList { list, revoked: entries.len(), next_update })
    }

    /// Returns whether it may sign lists, by its keyUsage.
    pub fn may_revoke(&self) -> bool {
        self.may_revoke
    }
}

fn list_entries(
    list: &CertificateRevocationList<'_>,
) -> Vec<(CertificateSerial, (OffsetDateTime, Option<RevocationReason>))> {
    let entry = |revoked: &RevokedCertificate<'_>| {
        let reason = revoked.reason_code().and_then(|(_, code)| reason_of_code(code.0));
        (CertificateSerial::from_bytes(revoked.raw_serial()), (revoked.revocation_date.to_datetime(), reason))
    };
    list.iter_revoked_certificates().map(entry).collect()
}

fn build_entry(
    (serial, (since, reason)): (&CertificateSerial, &(OffsetDateTime, Option<RevocationReason>)),
) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial.0),
        revocation_time: *since,
        reason_code: *reason,
        invalidity_date: None,
    }
}

/// Returns a reason by its code (RFC 5280, section 5.3.1).
fn reason_of_code(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        2 => RevocationReason::CaCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        9 => RevocationReason::PrivilegeWithdrawn,
        10 => RevocationReason::AaCompromise,
        _ => return None,
    })
}

/// Returns a list's number, which has up to 20 bytes, plus one.
fn number_after(list: &CertificateRevocationList<'_>) -> Vec<u8> {
    let mut number = list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default();
    for byte in number.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return number;
        }
    }
    number.insert(0, 1);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_read_as_it_is_told() {
        for (text, told) in [("5e:41", "5e:41"), ("5E41", "5e:41"), ("00:ff", "ff"), ("00", "00"), ("0005", "05")] {
            assert_eq!(text.parse::<CertificateSerial>().unwrap().to_string(), told, "{text}");
        }
        let long = "11".repeat(21);
        for wrong in ["", ":", "5", "5e4", "xx", "5e 41", "é1", &long] {
            let refused = wrong.parse::<CertificateSerial>().unwrap_err();
            assert!(refused.contains("hexadecimal"), "{refused}");
        }
    }
}
