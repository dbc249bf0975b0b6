//! `wharf ca`: creates a root, issues and revokes clusters' certificates, and shows the content of a file.

mod revoke;
mod show;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use time::OffsetDateTime;

use crate::cli::output::print;
use crate::identity::authority::{self, CertificateAuthority, CertificateLifetime, CertificateRequest};
use crate::identity::format_moment;
use crate::model::{ClusterName, Host, SpiffeId};

use self::revoke::RevokeArgs;
use self::show::ShowArgs;

/// Make a root CA, issue and revoke clusters' certificates, look into files
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  wharf ca init\n  wharf ca issue cluster1\n  wharf ca show cluster1.crt")]
pub struct CaArgs {
    /// The directory to work in; made if it is missing
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make a root CA: ca.crt for every cluster, ca.key for nobody else
    #[command(after_help = "Example:\n  wharf ca init --dir certs --ttl 5y --name \"Example root\"")]
    Init(InitArgs),
    /// Issue a cluster's certificate: CLUSTER.crt and CLUSTER.key
    #[command(after_help = "Examples:\n  \
        wharf ca issue cluster1 --dns cluster1.example --ip 192.0.2.1\n  \
        wharf ca issue cluster1 --ttl 24h \\\n    --ca-cert corporate.crt --ca-key corporate.key")]
    Issue(IssueArgs),
    /// Put certificates on the revocation list: ca.crl for every cluster
    #[command(after_help = "Examples:\n  \
        wharf ca revoke cluster1 --dir certs\n  \
        wharf ca revoke old/cluster1.crt\n  \
        wharf ca revoke --serial 5e:41 --serial 77:0b")]
    Revoke(RevokeArgs),
    /// Show what is in a file of certificates or revocation lists
    #[command(after_help = "Example:\n  wharf ca show --dir certs cluster1.crt -o json")]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// How long it is valid: a number and s, m, h, d, w or y
    #[arg(long, default_value = "10y", value_name = "TIME")]
    ttl: CertificateLifetime,
    /// The root's name (common name); default `Wharf root CA` and a random part, since two roots of one name cannot be told apart
    #[arg(long, value_name = "NAME", value_parser = common_name)]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// The cluster's unique name
    cluster: ClusterName,
    /// A DNS name of its agent or gateway; repeatable
    #[arg(long, value_name = "NAME")]
    dns: Vec<Host>,
    /// An IP address of its agent or gateway; repeatable
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// How long it is valid, but never longer than the CA: a number and s, m, h, d, w or y
    #[arg(long, default_value = "90d", value_name = "TIME")]
    ttl: CertificateLifetime,
    /// Its identity, if not spiffe://wharf/cluster/CLUSTER
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The CA's certificate, then intermediates if it is one itself; default ca.crt in the directory
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,
    /// The CA's key: RSA or EC; PKCS#8, PKCS#1 or SEC 1; default ca.key in the directory
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
}

/// Runs the command, and prints its report on standard output.
pub fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    let mut told = Vec::new();
    let result = run_to(args, &mut told);
    print(&String::from_utf8_lossy(&told))?;
    result
}

/// Runs the command like [`run`], and writes its report to `out`.
pub fn run_to(args: CaArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let now = whole_seconds(OffsetDateTime::now_utc());
    match args.command {
        CaCommand::Init(init) => init.run(&args.dir, now, out)?,
        CaCommand::Issue(issue) => issue.run(&args.dir, now, out)?,
        CaCommand::Revoke(revoke) => revoke.run(&args.dir, now, out)?,
        CaCommand::Show(show) => show.run(&args.dir, now, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl InitArgs {
    fn run(self, dir: &Path, now: OffsetDateTime, out: &mut impl Write) -> anyhow::Result<()> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        refuse_existing(&[&certificate, &key])?;
        let name = self.name.clone().unwrap_or_else(|| format!("Wharf root CA {:08x}", rand::random::<u32>()));
        let root = authority::create_root(&name, self.ttl, now)?;
        write_pair(dir, (&certificate, &root.certificate), (&key, &root.key))?;
        let until = format_moment(root.not_after);
        writeln!(out, "wrote {}: the root {:?}, valid until {until}", certificate.display(), name)?;
        writeln!(
            out,
            "wrote {}: its key; whoever has it can be any cluster, so keep it off the clusters",
            key.display()
        )?;
        writeln!(out, "next: wharf ca issue cluster1{}", format_option("--dir", dir))?;
        Ok(())
    }
}

impl IssueArgs {
    fn run(self, dir: &Path, now: OffsetDateTime, out: &mut impl Write) -> anyhow::Result<()> {
        let name = self.cluster.to_string();
        let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        refuse_existing(&[&certificate, &key])?;
        let authority = load_authority(dir, self.ca_cert.clone().zip(self.ca_key.clone()), now)?;
        let request = CertificateRequest {
            spiffe_id: self.spiffe_id.unwrap_or_else(|| SpiffeId::of_cluster(&self.cluster)),
            cluster: self.cluster,
            dns: self.dns,
            ip: self.ip,
            ttl: self.ttl,
        };
        let issued = authority.issue_certificate(&request, now)?;
        write_pair(dir, (&certificate, &issued.certificate), (&key, &issued.key))?;

        let until = format_moment(issued.not_after);
        let note = if issued.shortened { " (when the CA ends)" } else { "" };
        writeln!(out, "wrote {}: {}, valid until {until}{note}", certificate.display(), request.spiffe_id)?;
        writeln!(out, "wrote {}: its key", key.display())?;
        let root = match &self.ca_cert {
            _ if authority.is_intermediate() => {
                writeln!(
                    out,
                    "the CA is an intermediate, and the certificate's file has it too; the root is what it leads to"
                )?;
                "ROOT.crt".into()
            }
            Some(given) => given.display().to_string(),
            None => beside(dir, "ca.crt"),
        };
        writeln!(
            out,
            "next: give the two files and the root to the agent of {name}, in its configuration (paths count from its folder):"
        )?;
        writeln!(out, "  cluster: {name}")?;
        let (certificate, key) = (beside(dir, &format!("{name}.crt")), beside(dir, &format!("{name}.key")));
        writeln!(out, "  identity: {{certificate: {certificate}, key: {key}, root: {root}}}")?;
        if request.spiffe_id != SpiffeId::of_cluster(&request.cluster) {
            writeln!(out, "  and to its peers, in their entry for {name}: identity: {}", request.spiffe_id)?;
        }
        Ok(())
    }
}

/// Returns the name of a file of the directory in a configuration beside it.
fn beside(dir: &Path, file: &str) -> String {
    if dir == Path::new(".") { file.to_owned() } else { dir.join(file).display().to_string() }
}

/// Loads the CA that the options name, or the one in the directory.
fn load_authority(
    dir: &Path,
    given: Option<(PathBuf, PathBuf)>,
    now: OffsetDateTime,
) -> anyhow::Result<CertificateAuthority> {
    let own = (dir.join("ca.crt"), dir.join("ca.key"));
    if given.is_none() && !own.0.exists() {
        anyhow::bail!(
            "{}: there is no CA here; make one (`wharf ca init{}`), or name one (--ca-cert, --ca-key)",
            own.0.display(),
            format_option("--dir", dir)
        );
    }
    let (certificate, key) = given.unwrap_or(own);
    Ok(CertificateAuthority::load(&certificate, &key, now)?)
}

fn format_option(name: &str, dir: &Path) -> String {
    if dir == Path::new(".") { String::new() } else { format!(" {name} {}", dir.display()) }
}

/// Cuts fractions of a second: X.509 dates have none, and the report must match the file.
fn whole_seconds(t: OffsetDateTime) -> OffsetDateTime {
    t.replace_nanosecond(0).unwrap_or(t)
}

fn common_name(name: &str) -> Result<String, String> {
    // ub-common-name (RFC 5280, appendix A.1)
    if name.trim().is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err("it must have 1 to 64 characters, none of them control characters".into());
    }
    Ok(name.to_owned())
}

fn refuse_existing(files: &[&Path]) -> anyhow::Result<()> {
    for file in files {
        // Not `exists`, which reports a dangling link as missing.
        if fs::symlink_metadata(file).is_ok() {
            anyhow::bail!(
                "{}: it exists, and nothing is overwritten; move it away or use another --dir",
                file.display()
            );
        }
    }
    Ok(())
}

/// Writes both files or none.
fn write_pair(dir: &Path, certificate: (&Path, &str), key: (&Path, &str)) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{}: the directory cannot be made", dir.display()))?;
    write_new(key.0, key.1, 0o600)?;
    write_new(certificate.0, certificate.1, 0o644).inspect_err(|_| {
        let _ = fs::remove_file(key.0); // created a moment ago by this call, and useless without its certificate
    })
}

/// Writes a file that must not exist yet. Removes it if the write fails half-way.
fn write_new(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let cannot = || format!("{}: it cannot be written", path.display());
    let mut file = create_new(path, mode).with_context(cannot)?;
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(path))).with_context(cannot)
}

fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_written_whole_or_not_at_all() {
        let dir = tempfile::TempDir::new().unwrap();
        let (key, certificate) = (dir.path().join("a.key"), dir.path().join("missing/a.crt"));
        let refused = write_pair(dir.path(), (&certificate, "certificate"), (&key, "key")).unwrap_err();
        assert!(refused.to_string().contains("missing/a.crt"), "{refused}");
        assert!(!key.exists());
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_neither_overwritten_nor_removed() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("a.key");
        fs::write(&file, "precious").unwrap();
        write_new(&file, "key", 0o600).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
