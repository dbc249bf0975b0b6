//! The content of an object that counts: the labels, annotations and fields that Wharf writes, whatever the API server
//! adds.
//!
//! The ledger keeps digests of this content rather than objects. Two digests are equal when an object is as it is
//! wanted.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::{BINDING_LABEL, EXPORT_TO, Kind, MANAGED_BY, OWNER, Object, POLICY_LABEL, PROVENANCE};
use crate::store::manifest::Digest;

/// The field manager of Wharf's writes (server-side apply, "field management").
pub const MANAGER: &str = "wharf";

const LABELS: [&str; 4] = [MANAGED_BY, OWNER, POLICY_LABEL, BINDING_LABEL];

/// Returns an object as it is wanted, and the digest of it.
pub fn wanted_digest(object: &Object) -> (Value, Digest) {
    let value = serde_json::to_value(object).unwrap_or_default(); // plain data cannot fail
    let digest = object_digest(object.kind(), object.metadata(), value.get("spec"));
    (value, digest)
}

/// Returns the digest of an object as it is.
pub fn object_digest(kind: Kind, metadata: &ObjectMeta, spec: Option<&Value>) -> Digest {
    let pick = |from: &Option<BTreeMap<String, String>>, keys: &[&str]| {
        let all = from.iter().flatten().filter(|(k, _)| keys.contains(&k.as_str()));
        all.map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect::<Map<_, _>>()
    };
    let spec = spec.cloned().unwrap_or_default();
    json_digest(&json!({
        "labels": pick(&metadata.labels, &LABELS),
        "annotations": pick(&metadata.annotations, &[PROVENANCE, EXPORT_TO]),
        "spec": if kind == Kind::Service { strip_service_defaults(spec) } else { spec },
    }))
}

/// Returns a Service without the fields that the API server fills in.
fn strip_service_defaults(mut spec: Value) -> Value {
    let mut kept = Map::new();
    let mut take = |key: &str, default: &str| {
        if let Some(value) = spec.get_mut(key).map(Value::take).filter(|v| !v.is_null() && v != default) {
            kept.insert(key.to_owned(), value);
        }
    };
    take("type", "ClusterIP");
    take("selector", "");
    take("externalName", "");
    take("ports", "");
    for port in kept.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        port.remove("nodePort");
        if port.get("protocol").is_some_and(|p| p == "TCP") {
            port.remove("protocol");
        }
        if port.get("targetPort") == port.get("port") {
            port.remove("targetPort");
        }
    }
    // A writer only decides whether there is an address.
    if spec.get("clusterIP").is_some_and(|ip| ip == "None") {
        kept.insert("clusterIP".to_owned(), "None".into());
    }
    Value::Object(kept)
}

/// Returns the digest of any JSON: the order of keys does not matter, and null is the same as nothing.
pub fn json_digest(value: &Value) -> Digest {
    let mut sha = Sha256::new();
    hash_value(&mut sha, value);
    Digest::from_sha256(&sha.finalize().into())
}

fn hash_value(sha: &mut Sha256, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_unstable_by_key(|(k, _)| *k);
            sha.update(b"{");
            for (key, value) in entries {
                hash_text(sha, key);
                hash_value(sha, value);
            }
            sha.update(b"}");
        }
        Value::Array(items) => {
            sha.update(b"[");
            items.iter().for_each(|item| hash_value(sha, item));
            sha.update(b"]");
        }
        Value::String(s) => hash_text(sha, s),
        other => hash_text(sha, &other.to_string()),
    }
}

/// Hashes a text with its length in front, so that two texts are never taken for one.
fn hash_text(sha: &mut Sha256, text: &str) {
    sha.update((text.len() as u64).to_be_bytes());
    sha.update(text.as_bytes());
}

/// Builds the merge patch (RFC 7396) that removes from `is` what `wanted` does not have: server-side apply leaves
/// fields of others in place. None if there is nothing.
pub fn surplus_patch(is: &Value, wanted: &Value) -> Option<Value> {
    let (Value::Object(is), Value::Object(wanted)) = (is, wanted) else {
        return (is != wanted).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (key, value) in is {
        match wanted.get(key).filter(|w| !w.is_null()) {
            None if value.is_null() => {}
            None => drop(patch.insert(key.clone(), Value::Null)),
            Some(w) => patch.extend(surplus_patch(value, w).map(|p| (key.clone(), p))),
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Returns a value without its empty maps, outside of lists. None if it has none.
pub fn without_blanks(value: &Value) -> Option<Value> {
    let Value::Object(map) = value else { return None };
    let mut found = false;
    let mut rest = Map::new();
    for (key, value) in map {
        let value = match without_blanks(value) {
            Some(filled) => {
                found = true;
                filled
            }
            None => value.clone(),
        };
        if value.as_object().is_some_and(Map::is_empty) {
            found = true;
        } else {
            rest.insert(key.clone(), value);
        }
    }
    found.then_some(Value::Object(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_say_nothing_are_taken_out_and_those_that_held_nothing_else() {
        let filled = json!({"a": {"b": {}, "c": {"d": {}}}, "e": {"f": 1, "g": {}}, "h": [{}], "i": {}});
        assert_eq!(without_blanks(&filled), Some(json!({"e": {"f": 1}, "h": [{}]})));
        assert_eq!(without_blanks(&json!({"e": {"f": 1}, "h": [{}]})), None);
        assert_eq!(without_blanks(&json!("text")), None);
    }

    #[test]
    fn what_the_api_server_fills_in_does_not_count() {
        let written = json!({"ports": [{"name": "http", "port": 80}]});
        let stored = json!({
            "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "type": "ClusterIP",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}],
        });
        let meta = ObjectMeta::default();
        let of = |spec| object_digest(Kind::Service, &meta, Some(spec));
        assert_eq!(of(&written), of(&stored));
        let mut other = stored.clone();
        other["ports"][0]["targetPort"] = 81.into();
        assert_ne!(of(&written), of(&other));
    }

    #[test]
    fn the_order_of_keys_and_nulls_do_not_count_and_the_rest_does() {
        assert_eq!(json_digest(&json!({"a": 1, "b": null})), json_digest(&json!({"a": 1})));
        assert_ne!(json_digest(&json!(["ab", "c"])), json_digest(&json!(["a", "bc"])));
        assert_ne!(json_digest(&json!({"a": {}})), json_digest(&json!({})));
    }

    #[test]
    fn what_somebody_added_is_taken_out_and_nothing_else() {
        let wanted = json!({"hosts": ["a"], "tls": {"mode": "DISABLE"}});
        assert_eq!(surplus_patch(&wanted, &wanted), None);
        let is = json!({"hosts": ["a", "b"], "tls": {"mode": "DISABLE", "sni": "x"}, "exportTo": ["*"]});
        let patch = json!({"hosts": ["a"], "tls": {"sni": null}, "exportTo": null});
        assert_eq!(surplus_patch(&is, &wanted), Some(patch));
    }
}
