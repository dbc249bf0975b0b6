//! An identity that is delivered rather than read from files: waited for, followed, and named by its place.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{SerialNumber, date_time_ymd};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf::identity::{
    BundleDelivery, Identity, IdentityBundle, IdentityWatch, MissingIdentity, PemText, certificates_pem, key_pem,
    watch_bundles,
};

use crate::support::pki::{Ca, Leaf};

const A: &str = "spiffe://wharf/cluster/a";
const PLACE: &str = "Secret wharf-system/wharf-tls";

fn bundle(leaf: &Leaf, root: &Ca) -> IdentityBundle {
    let pem = |key: &str, text: &str| PemText::new(format!("{PLACE}: data[{key:?}]"), text.as_bytes().to_vec());
    IdentityBundle {
        certificate: pem("tls.crt", &leaf.chain_pem),
        key: pem("tls.key", &leaf.key_pem),
        root: pem("ca.crt", &root.pem),
        crl: None,
    }
}

fn delivery(root: &Ca, serial: u8) -> BundleDelivery {
    let leaf = root.leaf_with(&[A], |p| p.serial_number = Some(SerialNumber::from_slice(&[serial])));
    Ok(Arc::new(bundle(&leaf, root)))
}

fn missing(why: &str) -> BundleDelivery {
    Err(MissingIdentity { place: PLACE.into(), why: why.into() })
}

fn hand_over(to: &watch::Sender<BundleDelivery>, delivery: BundleDelivery) {
    drop(to.send_replace(delivery));
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what}: not seen"))
}

async fn told(problem: &mut watch::Receiver<Option<String>>, text: &str) -> String {
    let told = problem.wait_for(|problem| problem.as_ref().is_some_and(|p| p.contains(text)));
    soon(text, told).await.unwrap().clone().unwrap()
}

/// The followed one of a first good delivery, and where to deliver more.
async fn followed(root: &Ca) -> (watch::Sender<BundleDelivery>, IdentityWatch) {
    let (deliver, bundles) = watch::channel(delivery(root, 1));
    let watched = watch_bundles(bundles, watch::Sender::new(None), CancellationToken::new());
    (deliver, soon("an identity", watched).await.unwrap())
}

#[test]
fn every_mistake_names_the_key_of_the_secret() {
    let (root, other, now) = (Ca::root("root"), Ca::root("other"), OffsetDateTime::now_utc());
    let refusal = |bundle: &IdentityBundle| Identity::of_bundle(bundle, now).unwrap_err().to_string();
    let good = bundle(&root.cluster("a"), &root);
    let place = |key: &str| format!("Secret wharf-system/wharf-tls: data[{key:?}]");

    let empty = IdentityBundle { key: PemText::new(place("tls.key"), Vec::new()), ..good.clone() };
    assert_eq!(refusal(&empty), format!("{}: it is empty", place("tls.key")));
    let swapped = IdentityBundle { key: bundle(&root.cluster("a"), &root).key, ..good.clone() };
    assert_eq!(
        refusal(&swapped),
        format!(
            "{}: it is not the key of the certificate in {}; put the pair that was issued together there",
            place("tls.key"),
            place("tls.crt")
        )
    );
    let stranger = refusal(&IdentityBundle { root: bundle(&root.cluster("a"), &other).root, ..good.clone() });
    let expected = format!("{}: no peer would accept it under the roots in {}", place("tls.crt"), place("ca.crt"));
    assert!(stranger.starts_with(&expected), "{stranger}");
    let no_root = refusal(&IdentityBundle { root: good.certificate.clone(), ..good });
    assert!(no_root.contains("is not a CA certificate"), "{no_root}");
}

#[test]
fn the_debug_form_of_a_bundle_never_shows_what_is_in_it() {
    let root = Ca::root("root");
    let text = format!("{:?}", bundle(&root.cluster("a"), &root));
    assert!(text.contains("tls.key") && !text.contains("BEGIN") && !text.contains("45, 45"), "{text}");
}

#[test]
fn what_is_written_as_pem_is_read_back() {
    let leaf = Ca::root("root").intermediate("first").cluster("a");
    let read: Vec<_> = CertificateDer::pem_slice_iter(certificates_pem(&leaf.chain).as_bytes()).collect();
    assert_eq!(read.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), leaf.chain);
    for file in ["rsa.pkcs1.key", "rsa.pkcs8.key", "p384.sec1.key"] {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/data").join(file);
        let key = PrivateKeyDer::from_pem_file(&file).unwrap();
        assert_eq!(PrivateKeyDer::from_pem_slice(key_pem(&key).as_bytes()).unwrap(), key, "{}", file.display());
    }
}

#[tokio::test]
async fn an_identity_that_is_not_there_yet_is_waited_for_and_told() {
    let (deliver, bundles) = watch::channel(missing("there is none"));
    let (problem, cancel) = (watch::Sender::new(None), CancellationToken::new());
    let mut problems = problem.subscribe();
    let waiting = tokio::spawn(watch_bundles(bundles, problem, cancel));
    let text = told(&mut problems, "there is none").await;
    assert_eq!(text, "Secret wharf-system/wharf-tls: there is none; the agent waits for it");

    let root = Ca::root("root");
    let expired = root.leaf_with(&[A], |p| p.not_after = date_time_ymd(2020, 2, 3));
    hand_over(&deliver, Ok(Arc::new(bundle(&expired, &root))));
    told(&mut problems, "expired on 2020-02-03").await;

    hand_over(&deliver, delivery(&root, 7));
    let watched = soon("an identity", waiting).await.unwrap().unwrap();
    assert_eq!(watched.identity.borrow().serial, "07");
    assert_eq!(*watched.problem.borrow(), None);
}

#[tokio::test]
async fn what_is_delivered_next_is_in_force_and_what_is_broken_is_not() {
    let root = Ca::root("root");
    let (deliver, mut watched) = followed(&root).await;
    hand_over(&deliver, delivery(&root, 2));
    soon("the renewed", watched.identity.wait_for(|identity| identity.serial == "02")).await.unwrap();

    hand_over(&deliver, missing("it was deleted"));
    let text = told(&mut watched.problem, "it was deleted").await;
    assert!(text.contains("the identity that was loaded before stays in force, until"), "{text}");
    assert_eq!(watched.identity.borrow().serial, "02");

    hand_over(&deliver, delivery(&root, 3));
    soon("the renewed", watched.identity.wait_for(|identity| identity.serial == "03")).await.unwrap();
    soon("no problem", watched.problem.wait_for(Option::is_none)).await.unwrap();
}

#[tokio::test]
async fn the_same_bundle_again_wakes_nobody() {
    let root = Ca::root("root");
    let (deliver, mut watched) = followed(&root).await;
    watched.identity.mark_unchanged();
    deliver.send_modify(|_| {});
    hand_over(&deliver, missing("it was deleted"));
    told(&mut watched.problem, "it was deleted").await;
    assert!(!watched.identity.has_changed().unwrap());
}

#[tokio::test]
async fn a_delivered_identity_that_expires_is_told() {
    let root = Ca::root("root");
    let soon_over = OffsetDateTime::now_utc() + Duration::from_secs(2);
    let short = root.leaf_with(&[A], |p| p.not_after = soon_over);
    let (_deliver, bundles) = watch::channel(Ok(Arc::new(bundle(&short, &root))));
    let watched = watch_bundles(bundles, watch::Sender::new(None), CancellationToken::new());
    let mut watched = soon("an identity", watched).await.unwrap();
    let text = told(&mut watched.problem, "expired on").await;
    assert!(text.contains("peers refuse it"), "{text}");
}

#[tokio::test]
async fn waiting_and_following_both_end_when_they_are_cancelled() {
    let (_deliver, bundles) = watch::channel(missing("there is none"));
    let cancel = CancellationToken::new();
    let waiting = tokio::spawn(watch_bundles(bundles, watch::Sender::new(None), cancel.clone()));
    cancel.cancel();
    assert!(soon("the end", waiting).await.unwrap().is_none());

    let (_deliver, bundles) = watch::channel(delivery(&Ca::root("root"), 1));
    let cancel = CancellationToken::new();
    let watched = soon("an identity", watch_bundles(bundles, watch::Sender::new(None), cancel.clone())).await.unwrap();
    cancel.cancel();
    soon("the end", watched.wait_until_stopped()).await;
}
