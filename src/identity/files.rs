//! An identity in files: read with a bound, and named by their paths in errors.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::{IdentityBundle, IdentityError, PemText};

/// Limit of a file, more than any bundle of roots needs.
const MAX_BYTES: u64 = 1 << 20;

/// The PEM files of a cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The cluster's certificate, then the intermediates that lead to the root, if any.
    pub certificate: PathBuf,
    /// The key of the first certificate, unencrypted: PKCS#8, PKCS#1 or SEC 1.
    pub key: PathBuf,
    /// The roots that peers' certificates must lead to. Several, while one replaces another.
    pub root: PathBuf,
    /// Revocation lists of the CAs that peers' certificates lead to.
    pub crl: Option<PathBuf>,
}

impl IdentityFiles {
    pub(super) fn all_paths(&self) -> Vec<&Path> {
        [&self.certificate, &self.key, &self.root].into_iter().chain(&self.crl).map(PathBuf::as_path).collect()
    }

    pub fn read_bundle(&self) -> Result<IdentityBundle, IdentityError> {
        Ok(IdentityBundle {
            certificate: read_pem(&self.certificate)?,
            key: read_pem(&self.key)?,
            root: read_pem(&self.root)?,
            crl: self.crl.as_deref().map(read_pem).transpose()?,
        })
    }
}

fn read_pem(file: &Path) -> Result<PemText, IdentityError> {
    let unreadable = |source| IdentityError::Unreadable { place: file.display().to_string(), source };
    let other = |why: &str| unreadable(io::Error::other(why.to_owned()));
    // A pipe or a device would block or never end.
    if !std::fs::metadata(file).map_err(unreadable)?.is_file() {
        return Err(other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file).map_err(unreadable)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(other("it has more than 1 MiB, so it is no certificate, key, bundle of roots or revocation list"));
    }
    Ok(PemText::new(file.display().to_string(), bytes))
}

/// Reads all certificates of a PEM file, in their order; at least one.
pub fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    read_pem(file)?.parse_certificates()
}

/// Reads all revocation lists of a PEM file; at least one.
pub fn read_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    read_pem(file)?.parse_lists()
}

/// Reads the one private key of a PEM file.
pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    read_pem(file)?.parse_key()
}
