//! A CA for tests: right certificates by default, and wrong ones of every kind.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use time::OffsetDateTime;
use wharf::identity::{Identity, IdentityFiles, peer_certificate};

/// A CA: a root, or an intermediate under one.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    /// What is shown above a leaf: empty for a root.
    above: Vec<CertificateDer<'static>>,
    above_pem: String,
}

/// A certificate with its chain and key.
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub chain_pem: String,
    pub key_pem: String,
}

impl Ca {
    pub fn root(name: &str) -> Ca {
        let (key, params) = (KeyPair::generate().unwrap(), ca_params(name));
        let cert = params.self_signed(&key).unwrap();
        Ca {
            der: cert.der().clone(),
            pem: cert.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            above: Vec::new(),
            above_pem: String::new(),
        }
    }

    pub fn intermediate(&self, name: &str) -> Ca {
        self.intermediate_with(name, |_| {})
    }

    /// An intermediate that is odd in the way that `change` makes it.
    pub fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let (key, mut params) = (KeyPair::generate().unwrap(), ca_params(name));
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (mut above, above_pem) = (vec![cert.der().clone()], cert.pem() + &self.above_pem);
        above.extend(self.above.clone());
        Ca {
            der: cert.der().clone(),
            pem: cert.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            above,
            above_pem,
        }
    }

    /// The certificate of a cluster: `spiffe://wharf/cluster/<name>`, good for both ends.
    pub fn cluster(&self, name: &str) -> Leaf {
        self.leaf(&[&format!("spiffe://wharf/cluster/{name}")])
    }

    /// A certificate with these URIs.
    pub fn leaf(&self, uris: &[&str]) -> Leaf {
        self.leaf_with(uris, |_| {})
    }

    /// The certificate of a cluster for this key.
    pub fn cluster_with_key(&self, name: &str, key: &KeyPair) -> Leaf {
        let cert = leaf_params(&[&format!("spiffe://wharf/cluster/{name}")]).signed_by(key, &self.issuer).unwrap();
        let mut chain = vec![cert.der().clone()];
        chain.extend(self.above.clone());
        Leaf { chain, chain_pem: cert.pem() + &self.above_pem, key_pem: key.serialize_pem() }
    }

    /// A certificate that is odd in the way that `change` makes it.
    pub fn leaf_with(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf_params(uris);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![cert.der().clone()];
        chain.extend(self.above.clone());
        Leaf { chain, chain_pem: cert.pem() + &self.above_pem, key_pem: key.serialize_pem() }
    }
}

impl Ca {
    /// A revocation list of this CA: certificates by their serial numbers, of one byte each.
    pub fn revokes(&self, serials: &[u8]) -> CertificateRevocationListDer<'static> {
        self.revokes_until(serials, date_time_ymd(2999, 1, 1))
    }

    /// One that is to be renewed by then.
    pub fn revokes_until(&self, serials: &[u8], next: OffsetDateTime) -> CertificateRevocationListDer<'static> {
        self.list(serials.iter().map(|serial| SerialNumber::from_slice(&[*serial])), next)
    }

    pub fn list(
        &self,
        serials: impl IntoIterator<Item = SerialNumber>,
        next: OffsetDateTime,
    ) -> CertificateRevocationListDer<'static> {
        let revoked = |serial| RevokedCertParams {
            serial_number: serial,
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: next,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.into_iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().into()
    }

    /// The certificate of a cluster with this serial number.
    pub fn numbered(&self, name: &str, serial: u8) -> Leaf {
        let uri = format!("spiffe://wharf/cluster/{name}");
        self.leaf_with(&[&uri], |p| p.serial_number = Some(SerialNumber::from_slice(&[serial])))
    }
}

impl Leaf {
    /// A certificate that this leaf, which is no CA, signed.
    pub fn issue(&self, uris: &[&str]) -> Leaf {
        let signer = Issuer::new(leaf_params(&[]), KeyPair::from_pem(&self.key_pem).unwrap());
        let key = KeyPair::generate().unwrap();
        let cert = leaf_params(uris).signed_by(&key, &signer).unwrap();
        let mut chain = vec![cert.der().clone()];
        chain.extend(self.chain.clone());
        Leaf { chain, chain_pem: cert.pem() + &self.chain_pem, key_pem: key.serialize_pem() }
    }

    /// An identity of this certificate that nobody checked, so that a test can show a peer anything.
    pub fn unchecked(&self, roots: &[&Ca]) -> Identity {
        let known = peer_certificate(&self.chain).ok();
        Identity {
            chain: self.chain.clone(),
            key: PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap(),
            roots: roots.iter().map(|ca| ca.der.clone()).collect(),
            crls: Vec::new(),
            spiffe_id: known.map_or_else(|| "spiffe://nobody".parse().unwrap(), |known| known.spiffe_id),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH,
            serial: String::new(),
        }
    }

    /// `tls.crt`, `tls.key` and `ca.crt` in `dir`.
    pub fn write(&self, dir: &Path, root: &Ca) -> IdentityFiles {
        let files = files_in(dir);
        std::fs::write(&files.root, &root.pem).unwrap();
        std::fs::write(&files.key, &self.key_pem).unwrap();
        std::fs::write(&files.certificate, &self.chain_pem).unwrap();
        files
    }
}

pub fn files_in(dir: &Path) -> IdentityFiles {
    IdentityFiles { certificate: dir.join("tls.crt"), key: dir.join("tls.key"), root: dir.join("ca.crt"), crl: None }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a cluster of a test");
    params.serial_number = Some(SerialNumber::from_slice(&[0x5e, 0x41]));
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}
