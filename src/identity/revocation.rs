//! Revocation lists (RFC 5280, section 5): their content, and the problems of those in force.
//!
//! Handshakes check lists ([`trust`](super::trust)) as gateways do: once there is one, every CA above a certificate
//! needs one. A list that should have been renewed still counts here; gateways refuse everybody then, so it is
//! reported. Open connections end when a list names a certificate that was shown on them ([`wait_until_revoked`]).

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{self, bounded_printable, serial_text};
use super::{Identity, format_moment};

/// A list as `wharf ca show` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedList {
    pub issuer: String,
    pub updated: String,
    /// Time by which there should be a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_update: Option<String>,
    pub revoked: Vec<RevokedEntry>,
}

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevokedEntry {
    /// In hexadecimal, as in a certificate's description.
    pub serial: String,
    pub since: String,
}

/// Describes a list; if it cannot be read, fails with the reason.
pub fn describe_list(der: &CertificateRevocationListDer<'_>) -> Result<DescribedList, String> {
    let list = parse_list(der)?;
    let revoked = list.iter_revoked_certificates().map(|entry| RevokedEntry {
        serial: serial_text(entry.raw_serial()),
        since: format_moment(entry.revocation_date.to_datetime()),
    });
    Ok(DescribedList {
        issuer: bounded_printable(&list.issuer().to_string()),
        updated: format_moment(list.last_update().to_datetime()),
        next_update: list.next_update().map(|t| format_moment(t.to_datetime())),
        revoked: revoked.collect(),
    })
}

pub(super) fn parse_list<'a>(
    der: &'a CertificateRevocationListDer<'_>,
) -> Result<CertificateRevocationList<'a>, String> {
    match CertificateRevocationList::from_der(der.as_ref()) {
        Ok(([], list)) => Ok(list),
        Ok(_) => Err("the revocation list cannot be read: there are bytes after its end".into()),
        Err(e) => Err(format!("the revocation list cannot be read: {e}")),
    }
}

/// The certificates that an end showed, its own first, as lists name them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShownCertificates(Vec<ListedCertificate>);

/// A certificate as a list names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ListedCertificate {
    /// The issuer's name in DER, in hexadecimal.
    issuer: String,
    serial: String,
}

impl ShownCertificates {
    /// Reads the certificates of a chain. An unreadable one was accepted by nobody.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> ShownCertificates {
        let issued = |der: &CertificateDer<'_>| {
            let cert = certificate::parse_certificate(der).ok()?;
            Some(ListedCertificate {
                issuer: format_hex(cert.issuer().as_raw()),
                serial: serial_text(cert.raw_serial()),
            })
        };
        ShownCertificates(chain.iter().filter_map(issued).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the serial number of one of them that is on a list. A list is trusted as it is: the operator provides
    /// it, and the next handshake verifies it.
    pub fn revoked_by(&self, lists: &[CertificateRevocationListDer<'_>]) -> Option<&str> {
        let lists: Vec<_> = lists.iter().filter_map(|der| parse_list(der).ok()).collect();
        let named = |issued: &&ListedCertificate| {
            let of_issuer = lists.iter().filter(|list| format_hex(list.issuer().as_raw()) == issued.issuer);
            let mut entries = of_issuer.flat_map(|list| list.iter_revoked_certificates());
            entries.any(|entry| serial_text(entry.raw_serial()) == issued.serial)
        };
        self.0.iter().find(named).map(|issued| issued.serial.as_str())
    }
}

fn format_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Waits until one of these certificates is on a list in force, and returns a sentence about it. Other lists let them
/// in.
pub async fn wait_until_revoked(mut identity: watch::Receiver<Arc<Identity>>, shown: ShownCertificates) -> String {
    loop {
        if let Some(serial) = shown.revoked_by(&identity.borrow_and_update().crls) {
            return format!("the certificate {serial} was revoked; connect again with another");
        }
        if identity.changed().await.is_err() {
            return std::future::pending().await; // nobody can change it any more
        }
    }
}

/// Refuses two lists of one CA: it would be chance which of them counts.
pub fn check_lists(lists: &[CertificateRevocationListDer<'_>]) -> Result<(), String> {
    let lists = lists.iter().map(parse_list).collect::<Result<Vec<_>, _>>()?;
    for (i, list) in lists.iter().enumerate() {
        if lists.iter().take(i).any(|other| other.issuer().as_raw() == list.issuer().as_raw()) {
            let issuer = bounded_printable(&list.issuer().to_string());
            return Err(format!("it has two revocation lists of {issuer:?}; leave the newer one"));
        }
    }
    Ok(())
}

impl Identity {
    /// Returns the problem of the revocation lists, although the identity is in force.
    pub fn revocation_caveat(&self, now: OffsetDateTime) -> Option<String> {
        let lists: Vec<_> = self.crls.iter().filter_map(|der| parse_list(der).ok()).collect();
        for list in &lists {
            if let Some(next) = list.next_update().map(|t| t.to_datetime()).filter(|next| *next < now) {
                return Some(format!(
                    "the revocation list of {:?} should have been renewed by {}: gateways refuse all certificates of \
                     that CA until it is (`wharf ca revoke`)",
                    bounded_printable(&list.issuer().to_string()),
                    format_moment(next)
                ));
            }
        }
        let covered = |root: &CertificateDer<'_>| {
            let root = certificate::parse_certificate(root).ok()?;
            let has_list = lists.iter().any(|list| list.issuer().as_raw() == root.subject().as_raw());
            (!lists.is_empty() && !has_list).then(|| certificate::subject_text(&root))
        };
        let without = self.roots.iter().find_map(covered)?;
        Some(format!(
            "there is no revocation list of the root {without:?}, and there are of others: certificates under it are \
             refused; add one (`wharf ca revoke` without a name makes an empty one)"
        ))
    }

    /// Returns the time when something ends that is good now: a certificate of the chain, or the validity of a list.
    pub(super) fn next_due(&self, now: OffsetDateTime) -> OffsetDateTime {
        let next = |der| Some(parse_list(der).ok()?.next_update()?.to_datetime());
        self.crls.iter().filter_map(next).filter(|next| *next >= now).fold(self.not_after, Ord::min)
    }
}
