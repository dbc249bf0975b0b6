//! Generates the binding that would consume a cluster's expositions.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{CONNECTION, Remote, RemoteService, RemoteServiceBinding, RemoteServiceBindingSpec};
use crate::model::{ClusterName, Exposition};
use crate::store::manifest::DEFAULT_NAMESPACE;
use crate::translate::names;

/// Returns the binding `<cluster>-services`, which binds each exposition under its own name. Of two with the same name,
/// the second is called `<name>-<namespace>`.
pub fn build_binding<'a>(
    cluster: &ClusterName,
    expositions: impl Iterator<Item = &'a Exposition>,
) -> Option<RemoteServiceBinding> {
    let sorted: BTreeMap<_, _> = expositions.map(|e| (&e.key, e)).collect();
    let mut taken = BTreeSet::new();
    let service = |e: &Exposition| {
        let (name, namespace) = (e.key.name.to_string(), e.key.namespace.to_string());
        let alias = (!taken.insert(name.clone())).then(|| names::bounded_name(&format!("{name}-{namespace}")));
        taken.extend(alias.clone());
        RemoteService {
            // A person reads and keeps this binding, as with the original. The only port of an exposition is named, and
            // the binding means that port from then on. Without a port, all ports are bound under their own numbers,
            // later ones included.
            port: match &e.ports[..] {
                [only] => Some(only.number),
                _ => None,
            },
            namespace: Some(namespace),
            name,
            alias,
            ..RemoteService::default()
        }
    };
    let services: Vec<_> = sorted.into_values().map(service).collect();
    let metadata = ObjectMeta {
        name: Some(format!("{cluster}-services")),
        namespace: Some(DEFAULT_NAMESPACE.to_owned()),
        labels: Some(BTreeMap::from([(CONNECTION.to_owned(), "live".to_owned())])),
        ..ObjectMeta::default()
    };
    let remote = vec![Remote { cluster: cluster.to_string(), services }];
    let some = remote.iter().any(|r| !r.services.is_empty());
    some.then_some(RemoteServiceBinding { metadata, spec: RemoteServiceBindingSpec { remote }, status: None })
}
