//! `wharf ca show`: describes the certificates or revocation lists in a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use time::OffsetDateTime;

use crate::cli::output;
use crate::identity::{
    CertificateDescription, DescribedList, describe_certificate, describe_list, read_certificates, read_lists,
};
use crate::model::text::printable;

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// A PEM file, in the directory
    file: PathBuf,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = ShowFormat::Text)]
    output: ShowFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShowFormat {
    Text,
    Json,
    Yaml,
}

impl ShowArgs {
    pub(super) fn run(self, dir: &Path, now: OffsetDateTime, out: &mut impl Write) -> anyhow::Result<()> {
        let file = dir.join(&self.file);
        let lists = read_lists(&file).unwrap_or_default();
        let found = match read_certificates(&file) {
            Err(_) if !lists.is_empty() => Vec::new(),
            found => found?,
        };
        let mut shown = ShownFile { file: file.display().to_string(), certificates: Vec::new(), lists: Vec::new() };
        for der in found {
            shown.certificates.push(describe_certificate(&der, now).with_context(|| shown.file.clone())?);
        }
        for der in lists {
            let list = describe_list(&der).map_err(|why| anyhow::anyhow!("{}: {why}", shown.file))?;
            shown.lists.push(list);
        }
        match self.output {
            ShowFormat::Json => write!(out, "{}", output::to_json(&shown)?)?,
            ShowFormat::Yaml => write!(out, "{}", output::visible_yaml(serde_saphyr::to_string(&shown)?, &shown)?)?,
            ShowFormat::Text => shown.write_text(out)?,
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct ShownFile {
    file: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<CertificateDescription>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lists: Vec<DescribedList>,
}

impl ShownFile {
    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_certificates(out)?;
        for list in &self.lists {
            writeln!(out, "{}: a revocation list", printable(&self.file))?;
            writeln!(out, "  {:<10} {}", "issuer", printable(&list.issuer))?;
            writeln!(out, "  {:<10} {}", "updated", list.updated)?;
            writeln!(out, "  {:<10} {}", "renew by", list.next_update.as_deref().unwrap_or("never"))?;
            for revoked in &list.revoked {
                writeln!(out, "  {:<10} {} since {}", "revoked", revoked.serial, revoked.since)?;
            }
            if list.revoked.is_empty() {
                writeln!(out, "  {:<10} nothing", "revoked")?;
            }
        }
        Ok(())
    }

    fn write_certificates(&self, out: &mut impl Write) -> io::Result<()> {
        let count = self.certificates.len();
        for (i, cert) in self.certificates.iter().enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            writeln!(out, "{} ({} of {count})", printable(&self.file), i + 1)?;
            for (name, value) in [
                ("subject", cert.subject.clone()),
                ("SPIFFE ID", cert.spiffe_id.as_ref().map_or("none".into(), ToString::to_string)),
                ("names", or_none(cert.names.join(", "))),
                ("valid", describe_validity(cert)),
                ("key", cert.key.clone()),
                ("usages", or_none(cert.usages.join(", "))),
                ("CA", if cert.ca { "yes" } else { "no" }.into()),
                ("issuer", cert.issuer.clone()),
                ("serial", cert.serial.clone()),
                ("chain", self.issued_by(cert)),
            ] {
                writeln!(out, "  {name:<10} {}", printable(&value))?;
            }
            let limits = (!cert.constraints.is_empty()).then(|| cert.constraints.join(", "));
            for (name, value) in [("limits", limits.as_ref()), ("UNUSABLE", cert.problem.as_ref())] {
                if let Some(value) = value {
                    writeln!(out, "  {name:<10} {value}")?;
                }
            }
        }
        Ok(())
    }

    fn issued_by(&self, cert: &CertificateDescription) -> String {
        if cert.self_signed {
            return "a root: it is its own issuer".into();
        }
        match self.certificates.iter().position(|other| other.subject == cert.issuer) {
            Some(i) => format!("under certificate {} of this file", i + 1),
            None => "its issuer is not in this file".into(),
        }
    }
}

fn describe_validity(cert: &CertificateDescription) -> String {
    let state = match cert.days_left {
        _ if cert.not_yet_valid => "NOT YET VALID".into(),
        days if cert.expired => format!("EXPIRED {} ago", count_days(-days)),
        0 => "less than a day left".into(),
        days => format!("{} left", count_days(days)),
    };
    format!("{} to {} ({state})", cert.not_before, cert.not_after)
}

fn count_days(days: i64) -> String {
    match days {
        0 => "less than a day".into(),
        1 => "1 day".into(),
        n => format!("{n} days"),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}
