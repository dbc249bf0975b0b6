//! Reads identities from Secrets: the agent's own, and those that the gateways show.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use time::OffsetDateTime;

use super::objects;
use crate::api::MANAGED_BY;
use crate::check::certificates::{self, GatewayCredential};
use crate::check::{CheckArea, Finding, LookResult};
use crate::identity::Identity;
use crate::model::ClusterName;
use crate::store::NamedKey;
use crate::store::kube::secret::read_bundle;

/// The identity to dial with, or the reason why there is none.
pub type UsableIdentity = Result<Arc<Identity>, String>;

fn secret_key(namespace: &str, name: &str) -> NamedKey {
    NamedKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

async fn read_secret(client: &Client, namespace: &str, name: &str) -> LookResult<Secret> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    objects::get_object(&api, name).await
}

/// Reads the agent's identity from a Secret of its own namespace.
pub async fn read_identity(
    client: &Client,
    namespace: &str,
    name: &str,
    cluster: &ClusterName,
    now: OffsetDateTime,
) -> (UsableIdentity, Vec<Finding>) {
    let place = format!("Secret {namespace}/{name}");
    let found = match read_secret(client, namespace, name).await {
        Err(why) => {
            return (
                Err("the identity's Secret is not seen".into()),
                vec![Finding::unseen(CheckArea::Identity, place, &why)],
            );
        }
        Ok(None) => {
            let finding = Finding::error(CheckArea::Identity, place, "it is not there: the agent does not start");
            let cure =
                "have cert-manager issue it, or make it of what `wharf ca issue` wrote (kubectl create secret generic)";
            return (Err("there is no identity".into()), vec![finding.with_cure(cure)]);
        }
        Ok(Some(found)) => found,
    };
    let bundle = match read_bundle(&found, &secret_key(namespace, name), cluster) {
        Ok(bundle) => bundle,
        Err(missing) => {
            return (
                Err("the identity cannot be used".into()),
                vec![Finding::error(CheckArea::Identity, place, missing.why)],
            );
        }
    };
    let loaded = Identity::of_bundle(&bundle, now).map_err(|e| e.to_string());
    let mut findings = certificates::judge_identity(&place, Some(cluster), &loaded, now);
    if let Ok(roots) = bundle.root.parse_certificates() {
        findings.extend(certificates::judge_roots(bundle.root.place(), &roots, now));
    }
    (loaded.map(Arc::new).map_err(|_| "the identity cannot be used".into()), findings)
}

/// Reads the certificate that the gateways of a namespace show.
pub async fn read_credential(
    client: &Client,
    namespace: &str,
    name: &str,
    cluster: &ClusterName,
    own: Option<&Identity>,
    now: OffsetDateTime,
) -> Vec<Finding> {
    let place = format!("Secret {namespace}/{name}");
    let seen = read_secret(client, namespace, name).await.map(|found| {
        found.map(|secret| {
            let labels = secret.metadata.labels.as_ref();
            let ours = labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == "wharf");
            let bundle = read_bundle(&secret, &secret_key(namespace, name), cluster).map_err(|missing| missing.why);
            let identity = bundle.and_then(|bundle| Identity::of_bundle(&bundle, now).map_err(|e| e.to_string()));
            GatewayCredential { ours, identity }
        })
    });
    certificates::judge_credential(&place, &seen, own, now)
}
