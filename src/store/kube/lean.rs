//! Objects as the store reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, Time};
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A [`DynamicObject`] without the parts that are never read. Above all it omits the managers of fields: most of an
/// object's text, and several times as much again when it is read into a tree.
#[derive(Debug, Clone)]
pub struct SlimObject(pub DynamicObject);

#[derive(Deserialize)]
struct RawObject {
    #[serde(default)]
    metadata: SlimMetadata,
    spec: Option<Value>,
    status: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    managed_fields: Option<Vec<FieldSignature>>,
}

#[derive(Deserialize)]
struct FieldSignature {
    manager: Option<String>,
    subresource: Option<String>,
    time: Option<Time>,
}

impl<'de> Deserialize<'de> for SlimObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SlimObject, D::Error> {
        let RawObject { metadata: m, spec, status } = RawObject::deserialize(deserializer)?;
        let signed = |s: FieldSignature| ManagedFieldsEntry {
            manager: s.manager,
            subresource: s.subresource,
            time: s.time,
            ..ManagedFieldsEntry::default()
        };
        let metadata = ObjectMeta {
            name: m.name,
            namespace: m.namespace,
            uid: m.uid,
            resource_version: m.resource_version,
            generation: m.generation,
            creation_timestamp: m.creation_timestamp,
            deletion_timestamp: m.deletion_timestamp,
            labels: m.labels,
            annotations: m.annotations,
            managed_fields: m.managed_fields.map(|all| all.into_iter().map(signed).collect()),
            ..ObjectMeta::default()
        };
        let parts = [("spec", spec), ("status", status)];
        let data: Map<_, _> = parts.into_iter().filter_map(|(key, v)| Some((key.to_owned(), v?))).collect();
        Ok(SlimObject(DynamicObject { types: None, metadata, data: Value::Object(data) }))
    }
}

impl Resource for SlimObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(of)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(of)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(of)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_read_and_what_is_large_is_not() {
        let text = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b", "uid": "c",
            "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"l": "m"},
            "managedFields": [{"manager": "wharf", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"x": 1}, "status": null}"#;
        let SlimObject(object) = serde_json::from_str(text).unwrap();
        let m = &object.metadata;
        assert_eq!((m.name.as_deref(), m.resource_version.as_deref(), m.generation), (Some("a"), Some("7"), Some(2)));
        let signed = &m.managed_fields.as_ref().unwrap()[0];
        assert_eq!((signed.manager.as_deref(), &signed.fields_v1), (Some("wharf"), &None));
        assert_eq!(object.data, serde_json::json!({"spec": {"x": 1}}));
    }
}
