//! The agent's identity in a Secret: cert-manager's layout, or the files of `wharf ca`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::sync::watch;

use super::single::{ObservedSecret, SecretState, follow_secret};
use crate::identity::{BundleDelivery, IdentityBundle, MissingIdentity, PemText};
use crate::model::ClusterName;
use crate::store::NamedKey;

const ROOT: &str = "ca.crt";
const LISTS: &str = "ca.crl";

/// Delivers the content of the Secret, and each change of it, until the receiver is gone. Needs the right to list and
/// watch it.
pub async fn deliver_bundles(
    client: Client,
    key: NamedKey,
    cluster: ClusterName,
    bundles: watch::Sender<BundleDelivery>,
) {
    let (publish, mut sights) = watch::channel(SecretState::default());
    let read = async {
        while sights.changed().await.is_ok() {
            let sight = sights.borrow_and_update().clone();
            if let Some(delivery) = delivery_of(&sight, &key, &cluster) {
                drop(bundles.send_replace(delivery));
            }
        }
    };
    tokio::select! {
        () = follow_secret(client, key.clone(), publish) => {}
        () = read => {}
        () = bundles.closed() => {}
    }
}

/// Returns the delivery before anything is known of the Secret.
pub fn unknown_delivery(key: &NamedKey) -> BundleDelivery {
    Err(missing_identity(key, "the API server has not told of it yet".into()))
}

fn missing_identity(key: &NamedKey, why: String) -> MissingIdentity {
    MissingIdentity { place: secret_place(key), why }
}

/// Returns the name of a Secret for people.
pub(super) fn secret_place(key: &NamedKey) -> String {
    format!("Secret {key}")
}

fn delivery_of(sight: &SecretState, key: &NamedKey, cluster: &ClusterName) -> Option<BundleDelivery> {
    if let Some(trouble) = &sight.trouble {
        return Some(Err(missing_identity(key, format!("it cannot be looked at: {trouble}"))));
    }
    let ObservedSecret { secret, .. } = sight.seen.as_ref()?;
    Some(match secret {
        Some(secret) => read_bundle(secret, key, cluster),
        None => Err(missing_identity(key, format!("there is none; {}", how_to_make(key, cluster)))),
    })
}

/// Reads the bundle in a Secret, of one of two layouts.
pub fn read_bundle(secret: &Secret, key: &NamedKey, cluster: &ClusterName) -> BundleDelivery {
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let pem = |name: &str| {
        let ByteString(bytes) = data.get(name)?;
        Some(PemText::new(format!("{}: data[{name:?}]", secret_place(key)), bytes.clone()))
    };
    // cert-manager and `kubectl create secret tls`, then `kubectl create secret generic --from-file`.
    let layouts = [("tls.crt".to_owned(), "tls.key".to_owned()), (format!("{cluster}.crt"), format!("{cluster}.key"))];
    let pair = layouts.iter().find_map(|(certificate, private)| Some((pem(certificate)?, pem(private)?)));
    match (pair, pem(ROOT)) {
        (Some((certificate, key)), Some(root)) => {
            Ok(Arc::new(IdentityBundle { certificate, key, root, crl: pem(LISTS) }))
        }
        (Some(_), None) => {
            let why = format!("data[{ROOT:?}] is missing, the root that the clusters share; add it");
            Err(missing_identity(key, why))
        }
        (None, _) => {
            let [(tls, tls_key), (own, own_key)] = layouts;
            let found: Vec<_> = data.keys().map(String::as_str).collect();
            let found = if found.is_empty() { "nothing".into() } else { found.join(", ") };
            let how = how_to_make(key, cluster);
            Err(missing_identity(
                key,
                format!("expected {tls} and {tls_key}, or {own} and {own_key}; it has {found}; {how}"),
            ))
        }
    }
}

fn how_to_make(key: &NamedKey, cluster: &ClusterName) -> String {
    let NamedKey { namespace, name } = key;
    format!(
        "make it with `wharf ca issue {cluster}` and `kubectl --namespace {namespace} create secret generic {name} \
         --from-file={cluster}.crt --from-file={cluster}.key --from-file=ca.crt`, or with a cert-manager Certificate of \
         this secretName whose uris are [spiffe://wharf/cluster/{cluster}]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> NamedKey {
        NamedKey { namespace: "wharf-system".into(), name: "wharf-tls".into() }
    }

    fn of(keys: &[&str]) -> BundleDelivery {
        let data = keys.iter().map(|k| ((*k).to_owned(), ByteString(format!("text of {k}").into_bytes())));
        read_bundle(&Secret { data: Some(data.collect()), ..Secret::default() }, &key(), &"cluster1".parse().unwrap())
    }

    fn refused(keys: &[&str]) -> String {
        of(keys).unwrap_err().to_string()
    }

    #[test]
    fn both_layouts_are_read_and_their_keys_are_their_places() {
        for (certificate, private) in [("tls.crt", "tls.key"), ("cluster1.crt", "cluster1.key")] {
            let bundle = of(&[certificate, private, "ca.crt"]).unwrap();
            assert_eq!(bundle.certificate.place(), format!("Secret wharf-system/wharf-tls: data[{certificate:?}]"));
            let text = |name: &str, pem: &PemText| {
                assert_eq!(*pem, PemText::new(pem.place(), format!("text of {name}").into_bytes()));
            };
            text(certificate, &bundle.certificate);
            text(private, &bundle.key);
            text("ca.crt", &bundle.root);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there_and_how_to_make_it() {
        let none = delivery_of(
            &SecretState { seen: Some(ObservedSecret { secret: None, version: 7 }), trouble: None },
            &key(),
            &"c1".parse().unwrap(),
        );
        let none = none.unwrap().unwrap_err().to_string();
        for part in [
            "Secret wharf-system/wharf-tls: there is none",
            "wharf ca issue c1",
            "secret generic wharf-tls",
            "cert-manager",
        ] {
            assert!(none.contains(part), "{part}: {none}");
        }
        let other = refused(&["tls.crt", "cluster2.key", "ca.crt"]);
        let expected = "expected tls.crt and tls.key, or cluster1.crt and cluster1.key; it has ca.crt, cluster2.key, tls.crt; make";
        assert!(other.contains(expected), "{other}");
        assert!(refused(&[]).contains("it has nothing"));
        assert!(refused(&["tls.crt", "tls.key"]).contains("data[\"ca.crt\"] is missing"));
    }
}
