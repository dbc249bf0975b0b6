//! `wharf ca revoke`: writes the list of revoked certificates.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustls_pki_types::CertificateRevocationListDer;
use time::OffsetDateTime;

use super::{format_option, load_authority};
use crate::identity::authority::{CertificateAuthority, CertificateLifetime, CertificateSerial};
use crate::identity::{check_lists, format_moment, lists_pem, read_certificates, read_lists};

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// A cluster, whose CLUSTER.crt is revoked, or a certificate's file; none: the list is made anew as it is
    #[arg(value_name = "CLUSTER|FILE")]
    what: Vec<String>,
    /// A certificate by its serial number, in hexadecimal; repeatable
    #[arg(long, value_name = "HEX")]
    serial: Vec<CertificateSerial>,
    /// By when the list has to be renewed: a number and s, m, h, d, w or y; default: never while the CA is valid
    #[arg(long, value_name = "TIME")]
    ttl: Option<CertificateLifetime>,
    /// The CA's certificate; default ca.crt in the directory
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,
    /// The CA's key; default ca.key in the directory
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
}

impl RevokeArgs {
    pub(super) fn run(self, dir: &Path, now: OffsetDateTime, out: &mut impl Write) -> anyhow::Result<()> {
        let authority = load_authority(dir, self.ca_cert.clone().zip(self.ca_key.clone()), now)?;
        if !authority.may_revoke() {
            anyhow::bail!("the CA may not sign revocation lists: its keyUsage lacks cRLSign; have it issued with that");
        }
        let mut more = self.serial.clone();
        for what in &self.what {
            let file = dir.join(if what.contains(['.', '/']) { what.clone() } else { format!("{what}.crt") });
            // The certificates after the first are intermediates.
            if let Some(leaf) = read_certificates(&file)?.first() {
                more.push(authority.serial_of(leaf, &file)?);
            }
        }
        let file = dir.join("ca.crl");
        let (own, others) = read_lists_before(&file, &authority)?;
        let new = authority.issue_revocation_list(own.as_ref(), more.iter().cloned(), self.ttl, now)?;
        let lists: Vec<_> = std::iter::once(new.list).chain(others).collect();
        check_lists(&lists).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
        replace_file(&file, &lists_pem(&lists))?;

        for serial in &more {
            writeln!(out, "revoked {serial}")?;
        }
        let revoked = match new.revoked {
            0 => "nothing is revoked".to_owned(),
            1 => "1 certificate is revoked".to_owned(),
            n => format!("{n} certificates are revoked"),
        };
        writeln!(out, "wrote {}: {revoked}; to be renewed by {}", file.display(), format_moment(new.next_update))?;
        if authority.is_intermediate() {
            writeln!(out, "the CA is an intermediate: the list of each CA above it has to be in that file, too")?;
        }
        writeln!(out, "next: give it to every cluster, whose agents and gateways follow it without a restart:")?;
        writeln!(out, "  in files:    identity: {{certificate: .., key: .., root: .., crl: ca.crl}}")?;
        writeln!(out, "  in a Secret: data[\"ca.crl\"], beside ca.crt")?;
        writeln!(out, "  look at it:  wharf ca show{} ca.crl", format_option("--dir", dir))?;
        Ok(())
    }
}

type RevocationLists = (Option<CertificateRevocationListDer<'static>>, Vec<CertificateRevocationListDer<'static>>);

/// Reads the file: the list of this CA, and the lists of other CAs, which are kept.
fn read_lists_before(file: &Path, authority: &CertificateAuthority) -> anyhow::Result<RevocationLists> {
    if !file.exists() {
        return Ok((None, Vec::new()));
    }
    let (mut own, others): (Vec<_>, Vec<_>) = read_lists(file)?.into_iter().partition(|der| authority.is_own_list(der));
    Ok((own.pop(), others))
}

/// Replaces the file as a whole or not at all: agents refuse a partial list, and accept every certificate without a
/// list.
fn replace_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let cannot = || format!("{}: it cannot be written", file.display());
    let beside = file.with_extension("crl.new");
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, file));
    written.inspect_err(|_| drop(fs::remove_file(&beside))).with_context(cannot)
}
