//! Identities in Secrets: the agent's own, and what the gateways show.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use time::OffsetDateTime;

use super::objects;
use crate::api::MANAGED_BY;
use crate::check::certificates::{self, Credential};
use crate::check::{Area, Finding, Seen};
use crate::identity::{Bundle, Identity, Pem};
use crate::model::ClusterName;

/// What came of looking for an identity to dial with. The error: why there is none.
pub type Usable = Result<Arc<Identity>, String>;

/// Two layouts: cert-manager's, and the files of `wharf ca`.
fn bundle(place: &str, secret: &Secret, cluster: Option<&ClusterName>) -> Result<Bundle, String> {
    let data = secret.data.clone().unwrap_or_default();
    let pair = [("tls.crt".to_owned(), "tls.key".to_owned())];
    let own = cluster.map(|c| (format!("{c}.crt"), format!("{c}.key")));
    let pair = pair.into_iter().chain(own).find(|(crt, key)| data.contains_key(crt) && data.contains_key(key));
    let (certificate, key) =
        pair.ok_or("it has no tls.crt with tls.key (cert-manager's layout), and no CLUSTER.crt with CLUSTER.key")?;
    let pem = |key: &str| {
        let bytes = data.get(key).ok_or_else(|| format!("it has no {key}"))?;
        Ok::<_, String>(Pem::new(format!("{place}/{key}"), bytes.0.clone()))
    };
    Ok(Bundle { certificate: pem(&certificate)?, key: pem(&key)?, root: pem("ca.crt")? })
}

async fn secret(client: &Client, namespace: &str, name: &str) -> Seen<Secret> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    objects::get(&api, name).await
}

/// The agent's identity in a Secret of its own namespace.
pub async fn identity(
    client: &Client,
    namespace: &str,
    name: &str,
    cluster: Option<&ClusterName>,
    now: OffsetDateTime,
) -> (Usable, Vec<Finding>) {
    let place = format!("Secret {namespace}/{name}");
    let found = match secret(client, namespace, name).await {
        Err(why) => {
            return (
                Err("the identity's Secret is not seen".into()),
                vec![Finding::unseen(Area::Identity, place, &why)],
            );
        }
        Ok(None) => {
            let finding = Finding::error(Area::Identity, place, "it is not there: the agent does not start");
            let cure =
                "have cert-manager issue it, or make it of what `wharf ca issue` wrote (kubectl create secret generic)";
            return (Err("there is no identity".into()), vec![finding.cure(cure)]);
        }
        Ok(Some(found)) => found,
    };
    let bundle = match bundle(&place, &found, cluster) {
        Ok(bundle) => bundle,
        Err(why) => {
            return (Err("the identity cannot be used".into()), vec![Finding::error(Area::Identity, place, why)]);
        }
    };
    let loaded = Identity::of_bundle(&bundle, now).map_err(|e| e.to_string());
    let mut findings = certificates::identity(&place, cluster, &loaded, now);
    if let Ok(roots) = bundle.root.certificates() {
        findings.extend(certificates::roots(bundle.root.place(), &roots, now));
    }
    (loaded.map(Arc::new).map_err(|_| "the identity cannot be used".into()), findings)
}

/// What the gateways of a namespace show.
pub async fn credential(
    client: &Client,
    namespace: &str,
    name: &str,
    own: Option<&Identity>,
    now: OffsetDateTime,
) -> Vec<Finding> {
    let place = format!("Secret {namespace}/{name}");
    let seen = secret(client, namespace, name).await.map(|found| {
        found.map(|secret| {
            let labels = secret.metadata.labels.as_ref();
            let ours = labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == "wharf");
            let identity = bundle(&place, &secret, None)
                .and_then(|bundle| Identity::of_bundle(&bundle, now).map_err(|e| e.to_string()));
            Credential { ours, identity }
        })
    });
    certificates::credential(&place, &seen, own, now)
}
