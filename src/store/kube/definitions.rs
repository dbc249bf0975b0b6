//! Finds the fields of Istio's kinds that the API server declares. A server-side apply of any other is refused, with
//! its object.
//!
//! The API server publishes its definitions as OpenAPI v3, and the role `system:discovery` lets every account read
//! them. A watch on CustomResourceDefinitions would take a right to all of them. So the index, which names the version
//! of each group, is read at the start, every few minutes, and whenever an object was refused; a group is read when its
//! version is another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::error::explain_error;
use crate::api::Kind;
use crate::model::NewerField;
use crate::store::Change;

const PLACE: &str = "API server, definitions of Istio";
/// Time that the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The index is read again after this time, and at the earliest after the shorter one: many objects may be refused at
/// once.
const LOOK_AGAIN: Duration = Duration::from_secs(270);
const SOONEST: Duration = Duration::from_secs(1);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// The index of all groups: `GET /openapi/v3`.
#[derive(Deserialize)]
struct OpenApiIndex {
    paths: HashMap<String, IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    /// Contains a hash of the content.
    #[serde(rename = "serverRelativeURL")]
    url: String,
}

/// The definitions of one group in one version.
#[derive(Deserialize)]
struct GroupDocument {
    components: GroupComponents,
}

#[derive(Deserialize)]
struct GroupComponents {
    schemas: HashMap<String, KindSchema>,
}

#[derive(Deserialize)]
struct KindSchema {
    #[serde(default, rename = "x-kubernetes-group-version-kind")]
    names: Vec<KindName>,
    #[serde(default)]
    properties: BTreeMap<Box<str>, FieldSchema>,
}

#[derive(Deserialize)]
struct KindName {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

/// The part of a schema that lists its fields.
#[derive(Default, Deserialize)]
struct FieldSchema {
    #[serde(default)]
    properties: BTreeMap<Box<str>, FieldSchema>,
    #[serde(default)]
    items: Option<Box<FieldSchema>>,
}

/// Returns whether a field of this name is declared, at any depth.
fn declares_field(properties: &BTreeMap<Box<str>, FieldSchema>, name: &str) -> bool {
    let within = |schema: &FieldSchema| declares_field(&schema.properties, name);
    let in_items = |schema: &FieldSchema| schema.items.as_deref().is_some_and(within);
    properties.contains_key(name) || properties.values().any(|p| within(p) || in_items(p))
}

/// Returns the group and version in which Wharf writes the kind that has this field.
fn home_of(field: NewerField) -> Option<(Kind, String)> {
    let kind = Kind::ALL.into_iter().find(|k| k.as_str() == field.kind())?;
    Some((kind, format!("apis/{}/{}", kind.group(), kind.version())))
}

/// Returns the fields that a group's document does not declare, of those that are looked for there. A kind that is not
/// in it is not installed, and nothing is known of its fields.
fn absent_in(document: &GroupDocument, path: &str) -> BTreeSet<NewerField> {
    let is_absent = |field: &NewerField| {
        let Some((kind, _)) = home_of(*field).filter(|(_, home)| home == path) else { return false };
        let is_kind = |n: &KindName| n.kind == kind.as_str() && n.group == kind.group() && n.version == kind.version();
        let schema = document.components.schemas.values().find(|s| s.names.iter().any(is_kind));
        schema.is_some_and(|s| !declares_field(&s.properties, field.name()))
    };
    NewerField::ALL.into_iter().filter(is_absent).collect()
}

/// The definitions as they were read last.
#[derive(Default)]
struct IstioDefinitions {
    /// The URL of each group's document, and the fields that it lacks, by the path of the group.
    groups: BTreeMap<String, (String, BTreeSet<NewerField>)>,
}

impl IstioDefinitions {
    /// Reads the documents that have changed. Returns the fields that are not declared.
    async fn read_changed(&mut self, client: &Client) -> Result<BTreeSet<NewerField>, String> {
        let index: OpenApiIndex = get_json(client, "/openapi/v3").await?;
        let homes: BTreeSet<String> = NewerField::ALL.into_iter().filter_map(home_of).map(|(_, path)| path).collect();
        for path in homes {
            let Some(entry) = index.paths.get(&path) else {
                self.groups.remove(&path);
                continue;
            };
            if self.groups.get(&path).is_some_and(|(url, _)| *url == entry.url) {
                continue;
            }
            let document: GroupDocument = get_json(client, &entry.url).await?;
            self.groups.insert(path.clone(), (entry.url.clone(), absent_in(&document, &path)));
        }
        Ok(self.groups.values().flat_map(|(_, absent)| absent).copied().collect())
    }
}

async fn get_json<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| format!("{path}: {e}"))?;
    match timeout(PATIENCE, client.request(request)).await {
        Err(_) => Err(format!("{path}: the API server did not answer within {} s", PATIENCE.as_secs())),
        Ok(answer) => answer.map_err(|e| format!("{path}: {}", explain_error(&e))),
    }
}

/// Returns the fields that the API server does not declare, asked once.
pub async fn absent_fields(client: &Client) -> Result<BTreeSet<NewerField>, String> {
    IstioDefinitions::default().read_changed(client).await
}

/// Reports the fields that are not declared, whenever they change. `first` is notified after the first attempt;
/// `refused` starts another one when an object was not accepted.
pub async fn follow_definitions(
    client: Client,
    refused: Arc<Notify>,
    changes: mpsc::Sender<Change>,
    first: oneshot::Sender<()>,
) {
    let mut definitions = IstioDefinitions::default();
    let mut first = Some(first);
    let mut absent = None;
    let mut trouble = false;
    loop {
        let (change, pause) = match definitions.read_changed(&client).await {
            Ok(now) => {
                let solved = std::mem::take(&mut trouble).then(|| Change::Solved { place: PLACE.into() });
                let news = (absent.as_ref() != Some(&now)).then(|| Change::AbsentFields(now.clone()));
                absent = Some(now);
                ([solved, news], LOOK_AGAIN)
            }
            Err(why) => {
                let message = format!("{why}; all fields are taken for declared, or as they were read last");
                let told = std::mem::replace(&mut trouble, true);
                let problem = (!told).then(|| Change::problem(PLACE, message));
                ([problem, None], RETRY)
            }
        };
        for change in change.into_iter().flatten() {
            if changes.send(change).await.is_err() {
                return; // the agent stops
            }
        }
        if let Some(first) = first.take() {
            let _ = first.send(());
        }
        sleep(SOONEST).await;
        tokio::select! {
            () = refused.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PATH: &str = "apis/networking.istio.io/v1";

    fn document(http: &serde_json::Value) -> GroupDocument {
        let name =
            |version: &str| json!([{"group": "networking.istio.io", "version": version, "kind": "DestinationRule"}]);
        let pool = json!({"properties": {"http": {"type": "object", "properties": http}}});
        let port = json!({"type": "array", "items": {"properties": {"connectionPool": pool}}});
        let spec = json!({"properties": {"trafficPolicy": {"properties": {"portLevelSettings": port}}}});
        let full = json!({"description": "x", "properties": {"spec": spec, "metadata": {"allOf": [{"$ref": "#/x"}]}}});
        let named = |version: &str| {
            let mut schema = full.clone();
            schema["x-kubernetes-group-version-kind"] = name(version);
            schema
        };
        let schemas =
            json!({"io.istio.networking.v1.DestinationRule": named("v1"), "io.k8s.Other": {"type": "string"}});
        serde_json::from_value(json!({"openapi": "3.0.0", "components": {"schemas": schemas}})).unwrap()
    }

    #[test]
    fn a_field_that_a_definition_declares_at_any_depth_is_written() {
        let declared = document(&json!({"http2KeepAlive": {"type": "object"}}));
        assert_eq!(absent_in(&declared, PATH), BTreeSet::new());
    }

    #[test]
    fn a_field_that_a_definition_does_not_declare_is_absent() {
        let older = document(&json!({"maxRetries": {"type": "integer"}}));
        assert_eq!(absent_in(&older, PATH), BTreeSet::from([NewerField::Http2KeepAlive]));
        assert_eq!(absent_in(&older, "apis/security.istio.io/v1"), BTreeSet::new());
    }

    #[test]
    fn nothing_is_known_of_a_kind_that_is_not_installed() {
        let none = serde_json::from_value(json!({"components": {"schemas": {}}})).unwrap();
        assert_eq!(absent_in(&none, PATH), BTreeSet::new());
    }

    #[test]
    fn every_newer_field_belongs_to_a_kind_that_wharf_writes() {
        assert!(NewerField::ALL.into_iter().all(|field| home_of(field).is_some()));
    }
}
