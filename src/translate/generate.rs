//! The binding that would consume what a cluster's policies expose.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{CONNECTION, Remote, RemoteService, RemoteServiceBinding, RemoteServiceBindingSpec};
use crate::model::{ClusterName, ConnectionMode, Exposition, Label};

/// `<cluster>-services` in `namespace`: everything of a cluster under the names that it has there. Services that have one
/// name in several namespaces are all called `<name>-<namespace>`: none of them may silently take another's place when
/// a third comes. None if there is nothing to bind.
pub fn generate_binding<'a>(
    cluster: &ClusterName,
    namespace: &Label,
    mode: ConnectionMode,
    expositions: impl IntoIterator<Item = &'a Exposition>,
) -> Option<RemoteServiceBinding> {
    let connection = match mode {
        ConnectionMode::Live => "live",
        ConnectionMode::Potential => "potential",
        ConnectionMode::None => return None,
    };
    let sorted: BTreeMap<_, _> = expositions.into_iter().map(|e| (&e.key, e)).collect();
    let mut names: BTreeMap<&Label, usize> = BTreeMap::new();
    for key in sorted.keys() {
        *names.entry(&key.name).or_default() += 1;
    }
    let plain: BTreeSet<&str> = names.keys().map(|n| n.as_str()).collect();
    let service = |e: &Exposition| {
        let (name, from) = (e.key.name.as_str(), e.key.namespace.as_str());
        let alias = (names.get(&e.key.name).is_some_and(|n| *n > 1)).then(|| {
            let alias = super::names::object(name, &[from]);
            if plain.contains(alias.as_str()) { super::names::object(name, &[from, "of", "several"]) } else { alias }
        });
        RemoteService {
            name: name.to_owned(),
            namespace: Some(from.to_owned()),
            alias,
            // Of several ports all are bound, under their own numbers.
            port: match &e.ports[..] {
                [only] => Some(only.number),
                _ => None,
            },
            ..RemoteService::default()
        }
    };
    let services: Vec<RemoteService> = sorted.into_values().map(service).collect();
    if services.is_empty() {
        return None;
    }
    Some(RemoteServiceBinding {
        metadata: ObjectMeta {
            name: Some(binding_name(cluster)),
            namespace: Some(namespace.to_string()),
            labels: Some(BTreeMap::from([(CONNECTION.to_owned(), connection.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: RemoteServiceBindingSpec { remote: vec![Remote { cluster: cluster.to_string(), services }] },
        status: None,
    })
}

/// Names longer than a label are fine for an object, which may be a subdomain.
fn binding_name(cluster: &ClusterName) -> String {
    format!("{cluster}-services")
}
