//! Loading an identity: what a peer would refuse is refused here, with the file, the reason and the cure.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use wharf::identity::{Identity, IdentityFiles, describe_certificate, peer_certificate};

use crate::support::pki::{Ca, Leaf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/data").join(name)
}

/// Why `leaf` cannot be loaded under `root`.
fn refusal(leaf: &Leaf, root: &Ca) -> String {
    let dir = TempDir::new().unwrap();
    Identity::load(&leaf.write(dir.path(), root)).unwrap_err().to_string()
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn a_good_identity_is_loaded_with_what_it_says() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let identity = Identity::load(&root.cluster("cluster1").write(dir.path(), &root)).unwrap();
    assert_eq!(identity.spiffe_id.as_str(), "spiffe://wharf/cluster/cluster1");
    assert_eq!(identity.serial, "5e:41");
    assert_eq!(identity.not_after, date_time_ymd(4096, 1, 1));
    assert_eq!((identity.chain.len(), identity.roots.len()), (1, 1));
}

#[test]
fn the_debug_form_never_shows_the_key() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let identity = Identity::load(&root.cluster("cluster1").write(dir.path(), &root)).unwrap();
    let text = format!("{identity:?}");
    assert!(!text.contains("key") && text.contains("spiffe://wharf/cluster/cluster1"), "{text}");
}

#[test]
fn intermediates_in_the_certificate_file_lead_to_the_root() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let leaf = root.intermediate("first").intermediate("second").cluster("cluster1");
    assert_eq!(Identity::load(&leaf.write(dir.path(), &root)).unwrap().chain.len(), 3);
}

#[test]
fn without_its_intermediate_a_certificate_is_refused() {
    let root = Ca::root("root");
    let mut leaf = root.intermediate("first").cluster("cluster1");
    leaf.chain_pem.truncate(leaf.chain_pem.rfind("-----BEGIN").unwrap());
    assert_has(&refusal(&leaf, &root), &["tls.crt", "ca.crt", "intermediates"]);
}

#[test]
fn any_of_several_roots_will_do_and_an_expired_one_among_them_harms_nobody() {
    let (dir, old, new) = (TempDir::new().unwrap(), Ca::root("old"), Ca::root("new"));
    let expired = old.intermediate_with("long gone", |p| p.not_after = date_time_ymd(2001, 1, 1));
    let files = new.cluster("cluster1").write(dir.path(), &new);
    fs::write(&files.root, format!("{}{}{}", expired.pem, old.pem, new.pem)).unwrap();
    assert_eq!(Identity::load(&files).unwrap().roots, [old.der, new.der]);
}

#[test]
fn a_file_of_nothing_but_expired_roots_is_refused_with_the_date() {
    let root = Ca::root("root");
    let expired = root.intermediate_with("long gone", |p| p.not_after = date_time_ymd(2001, 1, 1));
    let text = refusal(&root.cluster("cluster1"), &expired);
    assert_has(&text, &["ca.crt", "long gone", "expired on 2001-01-01T00:00:00Z"]);
}

#[test]
fn a_cluster_certificate_given_as_the_root_is_refused() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let leaf = root.cluster("cluster1");
    let files = leaf.write(dir.path(), &root);
    fs::copy(&files.certificate, &files.root).unwrap();
    assert_has(&Identity::load(&files).unwrap_err().to_string(), &["ca.crt", "not a CA certificate"]);
}

#[test]
fn another_root_is_told_as_such() {
    let text = refusal(&Ca::root("one").cluster("cluster1"), &Ca::root("other"));
    assert_has(&text, &["tls.crt", "ca.crt", "does not lead to a root"]);
}

#[test]
fn an_expired_certificate_names_file_date_and_cure() {
    let root = Ca::root("root");
    let leaf = root.leaf_with(&["spiffe://wharf/cluster/a"], |p| p.not_after = date_time_ymd(2020, 2, 3));
    assert_has(&refusal(&leaf, &root), &["tls.crt", "expired on 2020-02-03T00:00:00Z", "wharf ca issue"]);
}

#[test]
fn a_certificate_of_the_future_names_date_and_clock() {
    let root = Ca::root("root");
    let leaf = root.leaf_with(&["spiffe://wharf/cluster/a"], |p| p.not_before = date_time_ymd(2999, 1, 1));
    assert_has(&refusal(&leaf, &root), &["tls.crt", "not valid before 2999-01-01T00:00:00Z", "clock"]);
}

#[test]
fn an_expired_intermediate_is_named() {
    let root = Ca::root("root");
    let old = root.intermediate_with("worn out", |p| p.not_after = date_time_ymd(2020, 2, 3));
    assert_has(&refusal(&old.cluster("a"), &root), &["worn out", "expired on 2020-02-03"]);
}

#[test]
fn exactly_one_uri_which_is_a_spiffe_id_is_demanded() {
    let root = Ca::root("root");
    let cases: [(&[&str], &str); 4] = [
        (&[], "no URI"),
        (&["spiffe://wharf/cluster/a", "spiffe://wharf/cluster/b"], "2 URIs"),
        (&["spiffe://wharf/cluster/a", "https://a.example"], "2 URIs"),
        (&["https://a.example"], "no SPIFFE ID"),
    ];
    for (uris, why) in cases {
        assert_has(&refusal(&root.leaf(uris), &root), &["tls.crt", why, "wharf ca issue"]);
    }
}

#[test]
fn a_certificate_for_one_end_only_is_refused() {
    let root = Ca::root("root");
    for usage in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let leaf = root.leaf_with(&["spiffe://wharf/cluster/a"], |p| p.extended_key_usages = vec![usage]);
        assert_has(&refusal(&leaf, &root), &["tls.crt", "extendedKeyUsage serverAuth and clientAuth"]);
    }
}

#[test]
fn a_certificate_without_usages_may_do_everything() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let leaf = root.leaf_with(&["spiffe://wharf/cluster/a"], |p| {
        p.extended_key_usages.clear();
        p.key_usages.clear();
    });
    Identity::load(&leaf.write(dir.path(), &root)).unwrap();
}

#[test]
fn usages_that_do_not_fit_a_cluster_are_refused() {
    let root = Ca::root("root");
    let id = ["spiffe://wharf/cluster/a"];
    let leaf = root.leaf_with(&id, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_has(&refusal(&leaf, &root), &["digital signatures", "digitalSignature"]);
    let leaf = root.leaf_with(&id, |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_has(&refusal(&leaf, &root), &["sign certificates"]);
    let leaf = root.leaf_with(&id, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_has(&refusal(&leaf, &root), &["CA certificate"]);
    let odd = root.intermediate_with("odd", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_has(&refusal(&odd.cluster("a"), &root), &["odd", "keyCertSign"]);
}

#[test]
fn a_leaf_that_issues_is_no_ca() {
    let root = Ca::root("root");
    let text = refusal(&root.cluster("a").issue(&["spiffe://wharf/cluster/b"]), &root);
    assert_has(&text, &["issued by a certificate that is no CA"]);
}

#[test]
fn another_certificates_key_is_refused_and_both_files_named() {
    let root = Ca::root("root");
    let mut leaf = root.cluster("a");
    leaf.key_pem = root.cluster("a").key_pem;
    assert_has(&refusal(&leaf, &root), &["tls.key", "not the key of the certificate", "tls.crt"]);
}

#[test]
fn files_that_are_no_pem_tell_what_was_expected() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let leaf = root.cluster("a");
    let files = leaf.write(dir.path(), &root);
    let refused = |file: &Path, content: &[u8]| {
        leaf.write(dir.path(), &root);
        fs::write(file, content).unwrap();
        Identity::load(&files).unwrap_err().to_string()
    };
    assert_has(&refused(&files.certificate, b""), &["tls.crt", "empty"]);
    assert_has(&refused(&files.certificate, &leaf.chain[0]), &["tls.crt", "DER", "openssl x509 -inform der"]);
    assert_has(&refused(&files.certificate, leaf.key_pem.as_bytes()), &["tls.crt", "no CERTIFICATE"]);
    assert_has(&refused(&files.key, leaf.chain_pem.as_bytes()), &["tls.key", "no PRIVATE KEY"]);
    assert_has(&refused(&files.key, &fs::read(data("encrypted.key")).unwrap()), &["tls.key", "encrypted", "decrypt"]);
    assert_has(&refused(&files.key, leaf.key_pem.repeat(2).as_bytes()), &["tls.key", "2 private keys"]);
    assert_has(&refused(&files.root, &vec![b'x'; 2 << 20]), &["ca.crt", "1 MiB"]);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_has(&refused(&files.certificate, garbage.as_bytes()), &["tls.crt", "cannot be read"]);
    let unended = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert_has(&refused(&files.certificate, unended.as_bytes()), &["tls.crt", "not valid PEM"]);
}

#[test]
fn a_missing_file_and_a_directory_are_named() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let files = root.cluster("a").write(dir.path(), &root);
    fs::remove_file(&files.key).unwrap();
    assert_has(&Identity::load(&files).unwrap_err().to_string(), &["tls.key", "cannot be read"]);
    let files = IdentityFiles { certificate: dir.path().to_owned(), ..files };
    assert_has(&Identity::load(&files).unwrap_err().to_string(), &["not a regular file"]);
}

#[test]
fn the_first_end_in_the_chain_is_the_identitys() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let short = root.intermediate_with("short", |p| p.not_after = date_time_ymd(2999, 1, 1));
    let identity = Identity::load(&short.cluster("a").write(dir.path(), &root)).unwrap();
    assert_eq!(identity.not_after, date_time_ymd(2999, 1, 1));
}

proptest! {
    #[test]
    fn a_damaged_certificate_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut der = wharf::identity::read_certificates(&data("p384.crt")).unwrap().remove(0).to_vec();
        for (at, value) in flips {
            let at = at.index(der.len());
            der[at] = value;
        }
        let der = CertificateDer::from(der);
        let _ = peer_certificate(std::slice::from_ref(&der));
        let _ = describe_certificate(&der, time::OffsetDateTime::UNIX_EPOCH);
    }
}
