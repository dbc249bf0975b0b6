//! Renewal: the files change, new connections show the new certificate, and those that are open stay open.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{SerialNumber, date_time_ymd};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::sync::CancellationToken;
use wharf::identity::tls::{MinTls, client_config, server_config};
use wharf::identity::{Identity, IdentityFiles, IdentityWatch, watch_files};

use crate::support::pki::{Ca, Leaf, files_in};

const A: &str = "spiffe://wharf/cluster/a";

fn with_serial(root: &Ca, serial: u8) -> Leaf {
    root.leaf_with(&[A], |p| p.serial_number = Some(SerialNumber::from_slice(&[serial])))
}

fn watching(files: &IdentityFiles) -> IdentityWatch {
    watch_files(files.clone(), CancellationToken::new()).unwrap()
}

/// Waits until the identity in force has this serial number.
async fn renewed(watched: &mut IdentityWatch, serial: &str) -> Arc<Identity> {
    let seen = watched.identity.wait_for(|identity| identity.serial == serial);
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the renewal was not seen").unwrap().clone()
}

/// Waits until there is a problem that mentions `text`.
async fn problem(watched: &mut IdentityWatch, text: &str) -> String {
    let told = watched.problem.wait_for(|problem| problem.as_ref().is_some_and(|p| p.contains(text)));
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("no such problem").unwrap().clone().unwrap()
}

async fn good_again(watched: &mut IdentityWatch) {
    let told = watched.problem.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("the problem stays").unwrap();
}

type Ends = (server::TlsStream<DuplexStream>, client::TlsStream<DuplexStream>);

async fn connect(identity: &Identity) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(server_config(identity, MinTls::Tls13).unwrap());
    let connector = TlsConnector::from(client_config(identity, &identity.spiffe_id, MinTls::Tls13).unwrap());
    let name = ServerName::try_from("a.example").unwrap();
    let (server, client) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
    (server.unwrap(), client.unwrap())
}

async fn echoes((server, client): &mut Ends) {
    client.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_renewal_reaches_new_connections_and_leaves_open_ones_alone() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let files = with_serial(&root, 1).write(dir.path(), &root);
    let mut watched = watching(&files);
    let mut old = connect(&watched.identity.borrow().clone()).await;
    echoes(&mut old).await;

    let next = with_serial(&root, 2);
    next.write(dir.path(), &root);
    let identity = renewed(&mut watched, "02").await;
    let mut new = connect(&identity).await;

    echoes(&mut old).await;
    echoes(&mut new).await;
    assert_eq!(new.1.get_ref().1.peer_certificates().unwrap(), next.chain);
    assert_ne!(old.1.get_ref().1.peer_certificates().unwrap(), next.chain);
}

#[tokio::test]
async fn half_a_renewal_keeps_the_last_good_one_and_says_so() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let files = with_serial(&root, 1).write(dir.path(), &root);
    let mut watched = watching(&files);
    let next = with_serial(&root, 2);

    fs::write(&files.certificate, &next.chain_pem).unwrap();
    let told = problem(&mut watched, "not the key of the certificate").await;
    assert!(told.contains("tls.key") && told.contains("stays in force, until"), "{told}");
    assert_eq!(watched.identity.borrow().serial, "01");

    fs::write(&files.key, &next.key_pem).unwrap();
    renewed(&mut watched, "02").await;
    good_again(&mut watched).await;
}

#[tokio::test]
async fn a_renewal_that_is_expired_already_is_not_taken_up() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let mut watched = watching(&with_serial(&root, 1).write(dir.path(), &root));
    root.leaf_with(&[A], |p| p.not_after = date_time_ymd(2020, 2, 3)).write(dir.path(), &root);
    problem(&mut watched, "expired on 2020-02-03").await;
    assert_eq!(watched.identity.borrow().serial, "01");
}

#[tokio::test]
async fn files_replaced_by_rename_are_seen() {
    let (dir, aside, root) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Ca::root("root"));
    let files = with_serial(&root, 1).write(dir.path(), &root);
    let mut watched = watching(&files);
    let next = with_serial(&root, 2).write(aside.path(), &root);
    for (from, to) in [(&next.key, &files.key), (&next.certificate, &files.certificate)] {
        let beside = dir.path().join("incoming");
        fs::copy(from, &beside).unwrap();
        fs::rename(&beside, to).unwrap();
    }
    renewed(&mut watched, "02").await;
}

/// As the kubelet does it: files are links through `..data`, a link to a dated directory, which is swapped by a rename.
#[tokio::test]
async fn a_swapped_link_of_a_mounted_secret_is_seen_each_time() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let version = |serial: u8| {
        let name = format!("..2026_{serial}");
        fs::create_dir(dir.path().join(&name)).unwrap();
        with_serial(&root, serial).write(&dir.path().join(&name), &root);
        symlink(&name, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    version(1);
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(file), dir.path().join(file)).unwrap();
    }
    let mut watched = watching(&files_in(dir.path()));
    for serial in 2..5 {
        version(serial);
        fs::remove_dir_all(dir.path().join(format!("..2026_{}", serial - 1))).unwrap();
        renewed(&mut watched, &format!("0{serial}")).await;
    }
}

/// A link to somewhere else, where the files change.
#[tokio::test]
async fn files_behind_a_link_are_followed_to_where_they_are() {
    let (dir, elsewhere, root) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Ca::root("root"));
    let real = with_serial(&root, 1).write(elsewhere.path(), &root);
    let files = files_in(dir.path());
    for (from, to) in [(&real.certificate, &files.certificate), (&real.key, &files.key), (&real.root, &files.root)] {
        symlink(from, to).unwrap();
    }
    let mut watched = watching(&files);
    with_serial(&root, 2).write(elsewhere.path(), &root);
    renewed(&mut watched, "02").await;
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_found_again() {
    let (base, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let dir = base.path().join("identity");
    fs::create_dir(&dir).unwrap();
    let mut watched = watching(&with_serial(&root, 1).write(&dir, &root));

    fs::remove_dir_all(&dir).unwrap();
    problem(&mut watched, "cannot be read").await;
    assert_eq!(watched.identity.borrow().serial, "01");

    fs::create_dir(&dir).unwrap();
    with_serial(&root, 2).write(&dir, &root);
    renewed(&mut watched, "02").await;
    with_serial(&root, 3).write(&dir, &root);
    renewed(&mut watched, "03").await;
}

#[tokio::test]
async fn a_new_root_beside_the_old_one_is_taken_up() {
    let (dir, root, next) = (TempDir::new().unwrap(), Ca::root("root"), Ca::root("next"));
    let files = with_serial(&root, 1).write(dir.path(), &root);
    let mut watched = watching(&files);
    fs::write(&files.root, format!("{}{}", root.pem, next.pem)).unwrap();
    let seen = watched.identity.wait_for(|identity| identity.roots.len() == 2);
    tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_in_force_is_told_to_have_expired_when_it_does() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let short = root.leaf_with(&[A], |p| p.not_after = soon);
    let mut watched = watching(&short.write(dir.path(), &root));
    let told = problem(&mut watched, "expired on").await;
    assert!(told.contains("peers refuse it"), "{told}");
}

#[tokio::test]
async fn cancelling_ends_the_task() {
    let (dir, root) = (TempDir::new().unwrap(), Ca::root("root"));
    let cancel = CancellationToken::new();
    let watched = watch_files(with_serial(&root, 1).write(dir.path(), &root), cancel.clone()).unwrap();
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(20), watched.wait_until_stopped()).await.unwrap();
}

#[tokio::test]
async fn without_a_good_identity_there_is_nothing_to_watch() {
    let dir = TempDir::new().unwrap();
    let refused = watch_files(files_in(&dir.path().join("missing")), CancellationToken::new()).unwrap_err().to_string();
    assert!(refused.contains("tls.crt") && refused.contains("cannot be read"), "{refused}");
}
