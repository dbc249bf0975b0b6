//! Revocation lists: who is on one is refused, and loses what is open; who is not, is not disturbed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{SerialNumber, date_time_ymd};
use rustls_pki_types::CertificateRevocationListDer;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use wharf::identity::{
    Identity, IdentityBundle, IdentityFiles, PemText, describe_list, lists_pem, read_certificates, read_lists,
    watch_files,
};

use crate::ca::wharf_ca;
use crate::identity_tls::{handshake, id};
use crate::peering_life::end;
use crate::peering_support::*;
use crate::support::pki::{Ca, Leaf};

type List = CertificateRevocationListDer<'static>;

/// An identity that nobody checked, with these lists.
fn with(leaf: &Leaf, root: &Ca, crls: &[List]) -> Identity {
    Identity { crls: crls.to_vec(), ..leaf.unchecked(&[root]) }
}

fn load(leaf: &Leaf, roots: &[&Ca], lists: &[List]) -> Result<Identity, String> {
    let roots: String = roots.iter().map(|ca| ca.pem.as_str()).collect();
    let bundle = IdentityBundle {
        certificate: PemText::new("tls.crt", leaf.chain_pem.clone().into_bytes()),
        key: PemText::new("tls.key", leaf.key_pem.clone().into_bytes()),
        root: PemText::new("ca.crt", roots.into_bytes()),
        crl: Some(PemText::new("ca.crl", lists_pem(lists).into_bytes())),
    };
    Identity::of_bundle(&bundle, OffsetDateTime::now_utc()).map_err(|e| e.to_string())
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

// ---- handshakes

async fn meet(server: &Identity, client: &Identity) -> crate::identity_tls::Outcome {
    use wharf::identity::tls::{MinTls, client_config, server_config};
    let dial = client_config(client, &id("spiffe://wharf/cluster/server"), MinTls::Tls13).unwrap();
    handshake(server_config(server, MinTls::Tls13).unwrap(), dial).await
}

#[tokio::test]
async fn a_revoked_client_is_refused_and_told_so_and_another_is_let_in() {
    let root = Ca::root("root");
    let (server, list) = (root.numbered("server", 1), root.revokes(&[7]));
    let outcome =
        meet(&with(&server, &root, std::slice::from_ref(&list)), &root.numbered("client", 7).unchecked(&[&root])).await;
    assert_has(&outcome.client.clone().unwrap_err(), &["this cluster's certificate was revoked"]);
    outcome.refused_by_server("was revoked; have a new one issued");
    meet(&with(&server, &root, &[list]), &root.numbered("client", 8).unchecked(&[&root])).await.client_seen().unwrap();
}

#[tokio::test]
async fn a_revoked_server_is_refused_by_the_client() {
    let root = Ca::root("root");
    let client = with(&root.numbered("client", 2), &root, &[root.revokes(&[1])]);
    meet(&root.numbered("server", 1).unchecked(&[&root]), &client).await.refused_by_client("was revoked");
    meet(&root.numbered("server", 3).unchecked(&[&root]), &client).await.client_seen().unwrap();
}

#[tokio::test]
async fn a_list_of_a_stranger_revokes_nothing_and_covers_nothing() {
    let (root, stranger) = (Ca::root("root"), Ca::root("stranger"));
    let server = with(&root.numbered("server", 1), &root, &[stranger.revokes(&[7])]);
    let outcome = meet(&server, &root.numbered("client", 7).unchecked(&[&root])).await;
    outcome.refused_by_server("no revocation list covers one of its issuers");
    // Nor does one that a stranger signed in the root's name.
    let impostor = Ca::root("root");
    let server = with(&root.numbered("server", 1), &root, &[impostor.revokes(&[])]);
    let outcome = meet(&server, &root.numbered("client", 7).unchecked(&[&root])).await;
    outcome.refused_by_server("cannot be used");
}

#[tokio::test]
async fn every_ca_above_a_certificate_needs_a_list_and_an_intermediate_can_be_revoked() {
    let root = Ca::root("root");
    let middle = root.intermediate_with("middle", |p| p.serial_number = Some(SerialNumber::from(9_u64)));
    let client = middle.numbered("client", 7).unchecked(&[&root]);
    let server = |lists: &[List]| with(&root.numbered("server", 1), &root, lists);
    let outcome = meet(&server(&[root.revokes(&[])]), &client).await;
    outcome.refused_by_server("no revocation list covers one of its issuers");
    meet(&server(&[root.revokes(&[]), middle.revokes(&[])]), &client).await.client_seen().unwrap();
    meet(&server(&[root.revokes(&[9]), middle.revokes(&[])]), &client).await.refused_by_server("was revoked");
}

#[tokio::test]
async fn a_list_that_should_have_been_renewed_still_counts() {
    let root = Ca::root("root");
    let old = root.revokes_until(&[7], date_time_ymd(2020, 1, 1));
    let server = with(&root.numbered("server", 1), &root, &[old]);
    meet(&server, &root.numbered("client", 7).unchecked(&[&root])).await.refused_by_server("was revoked");
    meet(&server, &root.numbered("client", 8).unchecked(&[&root])).await.client_seen().unwrap();
}

// ---- loading

#[test]
fn ones_own_revoked_certificate_is_not_taken_up() {
    let root = Ca::root("root");
    let refused = load(&root.numbered("a", 7), &[&root], &[root.revokes(&[7])]).unwrap_err();
    assert_has(&refused, &["tls.crt", "ca.crt and the revocation lists in ca.crl", "was revoked; have a new one"]);
}

#[test]
fn a_list_that_is_none_is_refused_by_its_place() {
    let root = Ca::root("root");
    let refused = |text: &[u8]| {
        let leaf = root.numbered("a", 1);
        let pem = |place: &str, text: &str| PemText::new(place, text.as_bytes().to_vec());
        let bundle = IdentityBundle {
            certificate: pem("tls.crt", &leaf.chain_pem),
            key: pem("tls.key", &leaf.key_pem),
            root: pem("ca.crt", &root.pem),
            crl: Some(PemText::new("ca.crl", text.to_vec())),
        };
        Identity::of_bundle(&bundle, OffsetDateTime::now_utc()).unwrap_err().to_string()
    };
    assert_has(&refused(b""), &["ca.crl", "it is empty"]);
    assert_has(&refused(root.pem.as_bytes()), &["ca.crl", "no X509 CRL in it"]);
    assert_has(&refused(&root.revokes(&[])), &["ca.crl", "DER", "openssl crl -inform der"]);
    let two = lists_pem(&[root.revokes(&[1]), root.revokes(&[2])]);
    assert_has(&refused(two.as_bytes()), &["ca.crl", "two revocation lists of \"CN=root\"", "leave the newer"]);
    let garbage = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert_has(&refused(garbage.as_bytes()), &["ca.crl", "cannot be read"]);
}

#[test]
fn what_gateways_would_trip_over_is_told() {
    let (root, next) = (Ca::root("root"), Ca::root("next"));
    let now = OffsetDateTime::now_utc();
    let leaf = root.numbered("a", 1);
    assert_eq!(load(&leaf, &[&root], &[root.revokes(&[])]).unwrap().revocation_caveat(now), None);
    let stale = load(&leaf, &[&root], &[root.revokes_until(&[], date_time_ymd(2020, 2, 3))]).unwrap();
    assert_has(
        &stale.revocation_caveat(now).unwrap(),
        &["CN=root", "renewed by 2020-02-03", "gateways refuse", "wharf ca revoke"],
    );
    let partly = load(&leaf, &[&root, &next], &[root.revokes(&[])]).unwrap();
    assert_has(
        &partly.revocation_caveat(now).unwrap(),
        &["no revocation list of the root \"CN=next\"", "makes an empty one"],
    );
}

/// A good identity in files, with this list.
fn written(dir: &TempDir, root: &Ca, list: &List) -> IdentityFiles {
    let crl = dir.path().join("ca.crl");
    fs::write(&crl, lists_pem(std::slice::from_ref(list))).unwrap();
    IdentityFiles { crl: Some(crl), ..root.numbered("a", 1).write(dir.path(), root) }
}

#[tokio::test]
async fn a_list_that_changes_is_taken_up_and_one_that_breaks_is_not() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let files = written(&dir, &root, &root.revokes(&[]));
    let mut watched = watch_files(files.clone(), CancellationToken::new()).unwrap();
    let crl = files.crl.unwrap();
    let more = root.revokes(&[7]);
    fs::write(&crl, lists_pem(std::slice::from_ref(&more))).unwrap();
    soon(watched.identity.wait_for(|identity| identity.crls == [more.clone()])).await.unwrap();
    fs::write(&crl, "garbage").unwrap();
    let problem = soon(watched.problem.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_has(&problem, &["ca.crl", "stays in force"]);
    assert_eq!(watched.identity.borrow().crls, [more]);
}

#[tokio::test]
async fn when_a_list_should_be_renewed_is_told_at_that_time() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let list = root.revokes_until(&[], OffsetDateTime::now_utc() + Duration::from_secs(2));
    let mut watched = watch_files(written(&dir, &root, &list), CancellationToken::new()).unwrap();
    assert_eq!(*watched.problem.borrow(), None);
    let problem = soon(watched.problem.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_has(&problem, &["should have been renewed by"]);
}

// ---- connections that are open

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_loses_the_open_stream_at_once_and_the_others_keep_theirs() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true), ("c", true)], limits()).await;
    let mut b = raw_as(&donor, &trusted(&ca.numbered("b", 7), &ca)).await;
    let mut b = subscribe(&mut b, hello("b", Vec::new())).await.unwrap();
    let c = Arc::new(trusted(&ca.numbered("c", 8), &ca));
    let mut c = Acceptor::start(c, donor.address, limits());
    c.until(|c| c.synced).await;

    donor.identity.send_replace(Arc::new(with(&donor_leaf(&ca), &ca, &[ca.revokes(&[7])])));
    let status = end(&mut b).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_has(status.message(), &["the certificate 07 was revoked"]);
    donor.offer("reviews", 80, &["c"]);
    c.until_port("reviews", 80).await;
    assert_eq!(c.connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_donor_that_is_revoked_is_left_and_what_it_told_stays() {
    let ca = Ca::root("shared");
    let donor = Donor::start(&ca, &[("b", true)], limits()).await;
    donor.offer("reviews", 80, &["b"]);
    let leaf = ca.numbered("b", 7);
    let (renew, own) = tokio::sync::watch::channel(Arc::new(trusted(&leaf, &ca)));
    let mut b = Acceptor::start_as("b", own, donor.address, limits());
    b.until_port("reviews", 80).await;
    // The serial number that certificates have in these tests, unless they are given one.
    let list = ca.list([SerialNumber::from_slice(&[0x5e, 0x41])], date_time_ymd(2999, 1, 1));
    drop(renew.send_replace(Arc::new(with(&leaf, &ca, &[list]))));
    let reason = b.reason().await;
    assert_has(&reason, &["the donor's agent is not believed any more", "5e:41 was revoked"]);
    let again = b.reason().await;
    assert_has(&again, &["was revoked"]);
    assert_eq!(b.held.len(), 1, "what it held stayed");
}

// ---- wharf ca revoke

fn ready(clusters: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    wharf_ca(dir.path(), &["init", "--name", "Wharf root CA"]).unwrap();
    for cluster in clusters {
        wharf_ca(dir.path(), &["issue", cluster]).unwrap();
    }
    dir
}

fn serial(dir: &Path, cluster: &str) -> String {
    let der = read_certificates(&dir.join(format!("{cluster}.crt"))).unwrap().remove(0);
    wharf::identity::describe_certificate(&der, OffsetDateTime::now_utc()).unwrap().serial
}

fn revoked(dir: &Path) -> Vec<String> {
    let lists = read_lists(&dir.join("ca.crl")).unwrap();
    lists.iter().flat_map(|der| describe_list(der).unwrap().revoked).map(|r| r.serial).collect()
}

fn load_from(dir: &Path, cluster: &str) -> Result<Identity, String> {
    let file = |name: &str| dir.join(name);
    let files = IdentityFiles {
        certificate: file(&format!("{cluster}.crt")),
        key: file(&format!("{cluster}.key")),
        root: file("ca.crt"),
        crl: Some(file("ca.crl")),
    };
    Identity::load(&files).map_err(|e| e.to_string())
}

#[test]
fn a_revoked_cluster_is_on_the_list_and_the_others_are_not() {
    let dir = ready(&["a", "b"]);
    let told = wharf_ca(dir.path(), &["revoke", "a"]).unwrap();
    assert_has(&told, &["ca.crl", "1 certificate is revoked", "crl: ca.crl", "data[\"ca.crl\"]"]);
    assert_eq!(revoked(dir.path()), [serial(dir.path(), "a")]);
    assert_has(&load_from(dir.path(), "a").unwrap_err(), &["was revoked"]);
    assert_eq!(load_from(dir.path(), "b").unwrap().revocation_caveat(OffsetDateTime::now_utc()), None);
}

#[test]
fn a_list_grows_and_forgets_nothing() {
    let dir = ready(&["a", "b", "c"]);
    wharf_ca(dir.path(), &["revoke", "a"]).unwrap();
    fs::rename(dir.path().join("b.crt"), dir.path().join("b-old.crt")).unwrap();
    wharf_ca(dir.path(), &["revoke", "b-old.crt", "a"]).unwrap();
    let told = wharf_ca(dir.path(), &["revoke", "--serial", "5e:41"]).unwrap();
    assert_has(&told, &["revoked 5e:41", "3 certificates are revoked"]);
    let mut expected = vec![serial(dir.path(), "a"), serial(dir.path(), "b-old"), "5e:41".to_owned()];
    let mut found = revoked(dir.path());
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    load_from(dir.path(), "c").unwrap();
    let shown = wharf_ca(dir.path(), &["show", "ca.crl"]).unwrap();
    assert_has(&shown, &["a revocation list", "Wharf root CA", "5e:41 since"]);
    let json = wharf_ca(dir.path(), &["show", "ca.crl", "-o", "json"]).unwrap();
    assert_has(&json, &["\"lists\"", "\"nextUpdate\""]);
}

#[test]
fn an_empty_list_revokes_nothing_and_lasts_as_long_as_its_ca() {
    let dir = ready(&["a"]);
    let told = wharf_ca(dir.path(), &["revoke"]).unwrap();
    assert_has(&told, &["nothing is revoked"]);
    let identity = load_from(dir.path(), "a").unwrap();
    let ca = read_certificates(&dir.path().join("ca.crt")).unwrap().remove(0);
    let until = wharf::identity::describe_certificate(&ca, OffsetDateTime::now_utc()).unwrap().not_after;
    assert_eq!(describe_list(&identity.crls[0]).unwrap().next_update.as_ref(), Some(&until));
    wharf_ca(dir.path(), &["revoke", "--ttl", "1d"]).unwrap();
    let shorter = describe_list(&read_lists(&dir.path().join("ca.crl")).unwrap()[0]).unwrap();
    assert!(shorter.next_update.unwrap() < until);
}

#[test]
fn the_list_of_another_ca_in_the_file_stays_unless_both_have_one_name() {
    let (dir, next, same) = (ready(&["a"]), TempDir::new().unwrap(), ready(&[]));
    wharf_ca(next.path(), &["init", "--name", "The next root"]).unwrap();
    wharf_ca(next.path(), &["revoke"]).unwrap();
    fs::copy(next.path().join("ca.crl"), dir.path().join("ca.crl")).unwrap();
    wharf_ca(dir.path(), &["revoke", "a"]).unwrap();
    let told = wharf_ca(dir.path(), &["show", "ca.crl"]).unwrap();
    assert_has(&told, &["CN=Wharf root CA", "CN=The next root"]);

    wharf_ca(same.path(), &["revoke"]).unwrap();
    fs::copy(same.path().join("ca.crl"), dir.path().join("ca.crl")).unwrap();
    let refused = wharf_ca(dir.path(), &["revoke", "a"]).unwrap_err();
    assert_has(&refused, &["ca.crl", "two revocation lists of \"CN=Wharf root CA\""]);
}

#[test]
fn what_cannot_be_revoked_is_refused_with_the_reason() {
    let (dir, other) = (ready(&["a"]), TempDir::new().unwrap());
    wharf_ca(other.path(), &["init", "--name", "Another root"]).unwrap();
    wharf_ca(other.path(), &["issue", "b"]).unwrap();
    fs::copy(other.path().join("b.crt"), dir.path().join("b.crt")).unwrap();
    let refused = |args: &[&str]| wharf_ca(dir.path(), args).unwrap_err();
    assert_has(&refused(&["revoke", "b"]), &["b.crt", "not issued by this CA", "--ca-cert"]);
    assert_has(&refused(&["revoke", "ca.crt"]), &["ca.crt", "the CA itself", "roots"]);
    assert_has(&refused(&["revoke", "missing"]), &["missing.crt", "cannot be read"]);
    assert_has(&refused(&["revoke", "--serial", "xyz"]), &["usage", "hexadecimal"]);
    assert!(!dir.path().join("ca.crl").exists());
}
