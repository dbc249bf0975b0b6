//! Decodes the JSON form of a document into a typed object, strictly.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{DEFAULT_NAMESPACE, Digest, Document, ManifestError, ManifestFault, mention};
use crate::api::{ClusterPeering, GROUP, Kind, Object, ObjectKey, VERSION};
use crate::model::mistake::{FieldMistake, FieldWords, describe};
use crate::model::{ClusterName, InvalidName, Label, ObjectName};
use crate::store::{Input, InputKey, NamedKey};

type DecodedDocuments = Vec<Result<Document, ManifestError>>;

/// Deepest nesting of lists.
const LISTS: usize = 4;

/// Decodes the objects in a value. `text` is its source.
pub(super) fn decode_objects(file: &str, line: usize, value: Value, text: &str, found: &mut DecodedDocuments) {
    DocumentDecoder { file, line, text, found }.decode_item(value, LISTS);
}

/// The kinds of objects that Wharf reads.
#[derive(Clone, Copy)]
enum DocumentKind {
    Policy,
    Binding,
    Peering,
    Object(Kind),
}

struct DocumentDecoder<'a> {
    file: &'a str,
    line: usize,
    text: &'a str,
    found: &'a mut DecodedDocuments,
}

impl DocumentDecoder<'_> {
    fn decode_item(&mut self, value: Value, lists: usize) {
        let mut map = match value {
            Value::Object(map) => map,
            Value::Null => return,
            other => return self.push_failure(None, ManifestFault::NotAnObject(kind_of_json(&other))),
        };
        if let Some(items) = take_items(&mut map) {
            match lists.checked_sub(1) {
                Some(left) => items.into_iter().for_each(|item| self.decode_item(item, left)),
                None => self.push_failure(None, ManifestFault::NotAnObject("a list in a list in a list")),
            }
            return;
        }
        match known_kind(&map) {
            Ok(Some(known)) => self.decode_object(known, map),
            Ok(None) => {} // Deployments beside a policy, values of a chart, …
            Err(reason) => self.push_failure(DocumentSubject::of_document(&map), reason),
        }
    }

    fn decode_object(&mut self, known: DocumentKind, mut map: Map<String, Value>) {
        let subject = DocumentSubject::of_document(&map);
        let line = self.line;
        match read_input(known, &mut map) {
            Ok((input, digest)) => self.found.push(Ok(Document { line, input, digest })),
            Err(reason) => {
                let key = subject.as_ref().and_then(|s| s.input_key(known));
                let foreign = matches!(known, DocumentKind::Object(_)) && mention::is_template(self.text);
                self.push_error(subject.map(|s| s.to_string()), key, foreign, reason);
            }
        }
    }

    fn push_failure(&mut self, subject: Option<DocumentSubject>, reason: ManifestFault) {
        let key = subject.as_ref().and_then(DocumentSubject::own_key);
        let foreign = subject.is_none() && mention::mentioned_kinds(self.text).is_empty();
        self.push_error(subject.map(|s| s.to_string()), key, foreign, reason);
    }

    fn push_error(&mut self, object: Option<String>, key: Option<InputKey>, foreign: bool, reason: ManifestFault) {
        let (mut mentions, mut mentioned_objects) = (BTreeSet::new(), BTreeSet::new());
        if key.is_none() {
            (mentions, mentioned_objects) = (mention::mentioned_kinds(self.text), mention::object_kinds(self.text));
        }
        let (file, line) = (self.file.to_owned(), self.line);
        let error = ManifestError { file, line, object, key, mentions, mentioned_objects, foreign, reason };
        self.found.push(Err(error));
    }
}

/// The subject of a document by its own words, before it was checked.
struct DocumentSubject {
    kind: String,
    namespace: Option<String>,
    name: String,
    named: bool,
}

impl DocumentSubject {
    fn of_document(map: &Map<String, Value>) -> Option<DocumentSubject> {
        let short = |v: &Value| v.as_str().map(|s| s.chars().take(253).collect::<String>());
        let metadata = map.get("metadata");
        let name = metadata.and_then(|m| m.get("name")).and_then(short);
        Some(DocumentSubject {
            kind: map.get("kind").and_then(short)?,
            namespace: metadata.and_then(|m| m.get("namespace")).and_then(short),
            named: name.is_some(),
            name: name.unwrap_or_else(|| "(no name)".to_owned()),
        })
    }

    /// Returns the object of Wharf's own kinds that it would be, whatever its version.
    fn own_key(&self) -> Option<InputKey> {
        self.input_key(own_kind(&self.kind)?)
    }

    fn input_key(&self, known: DocumentKind) -> Option<InputKey> {
        if !self.named {
            return None; // it may be any
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let name = self.name.clone();
        Some(match known {
            DocumentKind::Policy => InputKey::Policy(NamedKey { namespace, name }),
            DocumentKind::Binding => InputKey::Binding(NamedKey { namespace, name }),
            DocumentKind::Peering => InputKey::Peering(name),
            DocumentKind::Object(kind) => InputKey::Object(ObjectKey { kind, namespace, name }),
        })
    }
}

impl std::fmt::Display for DocumentSubject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if self.kind != "ClusterPeering" {
            write!(f, "{}/", self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE))?;
        }
        f.write_str(&self.name)
    }
}

/// Returns the items of a `List`, or of a list of one kind as older clients write it, whose items name no kind.
fn take_items(map: &mut Map<String, Value>) -> Option<Vec<Value>> {
    let kind = map.get("kind")?.as_str()?.strip_suffix("List")?.to_owned();
    let Some(Value::Array(mut items)) = map.remove("items") else { return None };
    if !kind.is_empty() {
        let api_version = map.get("apiVersion").cloned();
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("kind").or_insert_with(|| kind.clone().into());
            if let Some(api_version) = &api_version {
                item.entry("apiVersion").or_insert_with(|| api_version.clone());
            }
        }
    }
    Some(items)
}

fn own_kind(kind: &str) -> Option<DocumentKind> {
    match kind {
        "ServiceExpositionPolicy" => Some(DocumentKind::Policy),
        "RemoteServiceBinding" => Some(DocumentKind::Binding),
        "ClusterPeering" => Some(DocumentKind::Peering),
        _ => None,
    }
}

/// Returns the kind of a document, if it is one that Wharf reads.
fn known_kind(map: &Map<String, Value>) -> Result<Option<DocumentKind>, ManifestFault> {
    let text = |field: &'static str| match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.as_str())),
        Some(other) => Err(ManifestFault::Field {
            path: field.to_owned(),
            message: format!("found {}, expected a text", describe(other)),
        }),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let ours = kind.and_then(own_kind);
    let in_group = api_version.is_some_and(|v| v.split('/').next() == Some(GROUP));
    match (ours, api_version, kind) {
        (_, None, None) => Ok(None),
        (Some(_), None, _) => Err(ManifestFault::Missing("apiVersion")),
        (_, Some(_), None) if in_group => Err(ManifestFault::Missing("kind")),
        (_, Some(_), None) => Ok(None), // a chart's or a tool's own file
        (Some(ours), Some(v), _) if in_group && v.split_once('/').is_some_and(|(_, v)| v == VERSION) => Ok(Some(ours)),
        (Some(_), Some(v), _) => Err(ManifestFault::ApiVersion { found: v.chars().take(80).collect() }),
        (None, _, Some(kind)) if in_group => Err(ManifestFault::Kind { found: kind.chars().take(80).collect() }),
        (None, Some(v), Some(kind)) => Ok(Kind::find_kind(v, kind).map(DocumentKind::Object)),
        (None, None, Some(_)) => Ok(None),
    }
}

fn read_input(known: DocumentKind, map: &mut Map<String, Value>) -> Result<(Input, Digest), ManifestFault> {
    // A controller's status is no part of the owner's wish; only a Service's status counts: it has the address of its
    // load balancer.
    if !matches!(known, DocumentKind::Object(Kind::Service)) {
        map.remove("status");
    }
    if !matches!(map.get("metadata"), Some(Value::Object(_))) {
        return Err(ManifestFault::Missing("metadata"));
    }
    let value = Value::Object(std::mem::take(map));
    let digest = Digest::of(&serde_json::to_vec(&value).unwrap_or_default());
    let input = match known {
        DocumentKind::Policy => {
            no_stray_fields(&value)?;
            let mut policy: crate::api::ServiceExpositionPolicy = parse_typed(&value)?;
            same_shape(&value, &policy.spec)?;
            check_names::<ObjectName>(&mut policy.metadata, true)?;
            Input::Policy(Arc::new(policy))
        }
        DocumentKind::Binding => {
            no_stray_fields(&value)?;
            let mut binding: crate::api::RemoteServiceBinding = parse_typed(&value)?;
            same_shape(&value, &binding.spec)?;
            check_names::<ObjectName>(&mut binding.metadata, true)?;
            Input::Binding(Arc::new(binding))
        }
        DocumentKind::Peering => {
            no_stray_fields(&value)?;
            let mut peering: ClusterPeering = parse_typed(&value)?;
            same_shape(&value, &peering.spec)?;
            check_names::<ClusterName>(&mut peering.metadata, false)?;
            Input::Peering(Arc::new(peering))
        }
        DocumentKind::Object(kind) => Input::Object(Arc::new(istio_or_service(kind, &value)?)),
    };
    Ok((input, digest))
}

fn istio_or_service(kind: Kind, value: &Value) -> Result<Object, ManifestFault> {
    // Istio reads a policy without a spec as one that allows nothing.
    let allows_nothing = kind == Kind::AuthorizationPolicy && value["spec"].is_null();
    let completed = allows_nothing.then(|| with_empty_spec(value));
    let mut object = Object::from_json(kind, completed.as_ref().unwrap_or(value))?;
    match kind {
        Kind::Service => check_names::<Label>(object.metadata_mut(), true)?,
        _ => check_names::<ObjectName>(object.metadata_mut(), true)?,
    }
    // Wharf copies only these two into what it writes, so only in these would an unknown field be lost.
    if matches!(kind, Kind::VirtualService | Kind::DestinationRule) {
        no_stray_fields(value)?;
        let back = serde_json::to_value(&object).unwrap_or_default();
        if let Some((path, message)) = find_misread_field(&value["spec"], &back["spec"], "spec".to_owned()) {
            return Err(ManifestFault::Field { path, message });
        }
        if let Some(path) = find_lost_field(&value["spec"], &back["spec"], "spec".to_owned()) {
            return Err(ManifestFault::Field {
                path,
                message: format!(
                    "no such field is known of a {kind}; it would be lost where Wharf takes the rule over"
                ),
            });
        }
    }
    Ok(object)
}

fn with_empty_spec(value: &Value) -> Value {
    let mut completed = value.clone();
    completed["spec"] = Value::Object(Map::new());
    completed
}

/// Returns the first field of `given` that `back` does not have: the typed form did not take it. Null is nothing.
fn find_lost_field(given: &Value, back: &Value, path: String) -> Option<String> {
    match (given, back) {
        (Value::Object(given), back) => given.iter().filter(|(_, v)| !v.is_null()).find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match back.get(key) {
                Some(back) => find_lost_field(value, back, path),
                None => Some(path),
            }
        }),
        (Value::Array(given), back) => given.iter().enumerate().find_map(|(i, value)| {
            let path = format!("{path}[{i}]");
            match back.get(i) {
                Some(back) => find_lost_field(value, back, path),
                None => Some(path),
            }
        }),
        _ => None,
    }
}

/// Refuses a list that was read as a mapping, by the order of its fields, and a mapping that was read as a value: Serde
/// takes both, and no API server does.
fn same_shape(value: &Value, spec: &impl Serialize) -> Result<(), ManifestFault> {
    let back = serde_json::to_value(spec).unwrap_or_default();
    match find_misread_field(&value["spec"], &back, "spec".to_owned()) {
        Some((path, message)) => Err(ManifestFault::Field { path, message }),
        None => Ok(()),
    }
}

/// Finds the first field that is written in another form than it was given in.
fn find_misread_field(given: &Value, back: &Value, path: String) -> Option<(String, String)> {
    let is_value = |v: &Value| !v.is_array() && !v.is_object() && !v.is_null();
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => given
            .iter()
            .filter_map(|(key, value)| Some((key, value, back.get(key)?)))
            .find_map(|(key, value, back)| find_misread_field(value, back, format!("{path}.{key}"))),
        (Value::Array(given), Value::Array(back)) => given
            .iter()
            .zip(back)
            .enumerate()
            .find_map(|(i, (value, back))| find_misread_field(value, back, format!("{path}[{i}]"))),
        (Value::Array(_), Value::Object(_)) => Some((path, "found a list, expected a mapping".to_owned())),
        (Value::Object(_), back) if is_value(back) => Some((path, "found a mapping, expected a text".to_owned())),
        _ => None,
    }
}

/// Refuses unknown fields beside `spec`, which its type guards: `lables: {connection: potential}` must not make a live
/// binding.
fn no_stray_fields(value: &Value) -> Result<(), ManifestFault> {
    const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec"];
    const METADATA: &[&str] = &[
        "annotations",
        "clusterName",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    for (path, value, known) in [("", Some(value), TOP), ("metadata", value.get("metadata"), METADATA)] {
        for key in value.and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key) {
            if !known.contains(&key.as_str()) {
                return Err(FieldMistake::unknown(path, key, known, &FieldWords::OF_OBJECTS).into());
            }
        }
    }
    Ok(())
}

fn parse_typed<T: DeserializeOwned>(value: &Value) -> Result<T, ManifestFault> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let mut mistake = FieldMistake::explain(&e, value, &FieldWords::OF_OBJECTS);
        let of_port = |found: &str| mistake.path.ends_with("].port") && mistake.message.starts_with(found);
        if of_port("found a list") {
            mistake.message += " (several ports go under `ports`)";
        } else if of_port("found the text") && mistake.path.starts_with("spec.exposed[") {
            mistake.message += " (names of ports go under `ports`, as in `ports: [http]`)";
        } else if of_port("found the text") && mistake.path.starts_with("spec.remote[") {
            mistake.message += " (names of ports go under `ports`, as in `ports: [{port: http}]`)";
        }
        mistake.into()
    })
}

impl From<FieldMistake> for ManifestFault {
    fn from(FieldMistake { path, message }: FieldMistake) -> ManifestFault {
        ManifestFault::Field { path, message }
    }
}

/// Checks the names, since they become names of files and of objects, and fills in the namespace.
fn check_names<N: std::str::FromStr<Err = InvalidName>>(
    metadata: &mut ObjectMeta,
    namespaced: bool,
) -> Result<(), ManifestFault> {
    let field = |path: &str, e: InvalidName| ManifestFault::Field { path: path.to_owned(), message: e.to_string() };
    let name = metadata.name.as_deref().ok_or(ManifestFault::Missing("metadata.name"))?;
    name.parse::<N>().map_err(|e| field("metadata.name", e))?;
    if !namespaced {
        metadata.namespace = None;
        return Ok(());
    }
    let namespace = metadata.namespace.take().filter(|n| !n.is_empty()).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    namespace.parse::<Label>().map_err(|e| field("metadata.namespace", e))?;
    metadata.namespace = Some(namespace);
    Ok(())
}

fn kind_of_json(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
