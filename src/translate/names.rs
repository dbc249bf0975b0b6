//! Names of the objects that Wharf writes, and the labels and annotations that say whose they are.
//!
//! Names stay close to the original's where they fit. All are DNS labels (a Gateway's name becomes a label in Envoy's
//! resources), and different parts never come to the same name: what does not fit, or would be ambiguous (`a-b` in `c`
//! and `a` in `b-c`), ends in a hash of its parts.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::api::{BINDING_LABEL, MANAGED_BY, OWNER, POLICY_LABEL, PROVENANCE};

/// Longest RFC 1123 label and Kubernetes label value.
const MAX: usize = 63;
/// Hexadecimal digits of a hash: 2^40 names until chance makes two of them equal.
const HASH: usize = 10;

/// The owner of what all bindings share at the egress gateway, and its provenance.
pub const SHARED_OWNER: &str = "shared";
const SHARED_PROVENANCE: &str = "wharf";

/// The annotation by which `istioctl analyze` leaves out messages about an object.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";
/// Message about one certificate in several Gateways: 404 for clients that use one HTTP/2 connection for several names.
/// Those of a Wharf are Envoys, which connect to each name apart.
pub(super) const ONE_CERTIFICATE: &str = "IST0138";
/// Messages about missing `caCertificates`, for a rule and for a port of it: the roots are in the Secret of
/// `credentialName`.
pub(super) const ROOT_IN_SECRET: &str = "IST0128,IST0129";
/// Message that an EnvoyFilter relies on proxy internals: it appears for each, and `guard` says what holds without one.
pub(super) const MAY_CHANGE: &str = "IST0133";
/// Messages about an annotation that Istio does not know on a Service, [`PROVENANCE`], and one that it calls an alpha
/// feature, [`EXPORT_TO`](crate::api::EXPORT_TO).
pub(super) const OWN_ANNOTATIONS: &str = "IST0108,IST0136";

/// `<prefix>-<part>-<part>`, at most 63 characters.
pub fn build_name(prefix: &str, parts: &[&str]) -> String {
    let mut plain = String::with_capacity(MAX);
    plain.push_str(prefix);
    for part in parts {
        plain.push('-');
        plain.push_str(part);
    }
    // Only the first part may have dashes, and there are two at most: then the last dash ends it.
    let plainly = parts.len() <= 2 && parts.iter().skip(1).all(|p| !p.contains('-')) && plain.len() <= MAX;
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if plainly && plain.bytes().all(valid) && !plain.ends_with('-') {
        return plain;
    }
    let hash = hash(std::iter::once(prefix).chain(parts.iter().copied()));
    let tidy: String = plain.to_ascii_lowercase().bytes().map(|b| if valid(b) { char::from(b) } else { '-' }).collect();
    append_hash(&tidy, &hash)
}

/// A DNS label: the text itself if it is one, else as much of it as fits and a hash.
pub fn bounded_name(text: &str) -> String {
    build_name(text, &[])
}

/// The owner label of what one policy makes.
pub fn policy_owner(namespace: &str, name: &str) -> String {
    label_value(&format!("policy.{namespace}.{name}"))
}

/// The owner label of what feeds one local name, whichever bindings it comes from.
pub fn local_owner(namespace: &str, name: &str) -> String {
    label_value(&format!("binding.{namespace}.{name}"))
}

/// A label value: the text itself if it is one, else as much of it as fits and a hash.
fn label_value(text: &str) -> String {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edges = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if text.len() <= MAX && text.bytes().all(ok) && edges(text) {
        return text.to_owned();
    }
    let tidy: String = text.bytes().map(|b| if ok(b) { char::from(b) } else { '-' }).collect();
    append_hash(tidy.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()), &hash([text]))
}

/// `text` must be ASCII.
fn append_hash(text: &str, hash: &str) -> String {
    let kept = text.get(..MAX - HASH - 1).unwrap_or(text);
    format!("{}-{hash}", kept.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()))
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part.as_bytes());
        sha.update([0]);
    }
    let mut text: String = sha.finalize().iter().take(HASH / 2).map(|b| format!("{b:02x}")).collect();
    text.truncate(HASH);
    text
}

/// Labels and annotation that every object of one owner carries.
#[derive(Debug, Clone)]
pub(super) struct OwnerMarks {
    labels: BTreeMap<String, String>,
    provenance: String,
}

impl OwnerMarks {
    pub fn of_policy(namespace: &str, name: &str) -> OwnerMarks {
        OwnerMarks::new(
            policy_owner(namespace, name),
            Some((POLICY_LABEL, format!("{namespace}.{name}"))),
            format!("{namespace}.{name}"),
        )
    }

    /// `bindings` are `<namespace>.<name>`, sorted and without duplicates.
    pub fn of_local_name(namespace: &str, name: &str, bindings: &[String]) -> OwnerMarks {
        let only = match bindings {
            [one] => Some((BINDING_LABEL, one.clone())),
            _ => None,
        };
        OwnerMarks::new(local_owner(namespace, name), only, bindings.join(","))
    }

    pub fn of_shared() -> OwnerMarks {
        OwnerMarks::new(SHARED_OWNER.to_owned(), None, SHARED_PROVENANCE.to_owned())
    }

    fn new(owner: String, origin: Option<(&str, String)>, provenance: String) -> OwnerMarks {
        let mut labels = BTreeMap::from([(MANAGED_BY.to_owned(), "wharf".to_owned()), (OWNER.to_owned(), owner)]);
        if let Some((label, value)) = origin {
            labels.insert(label.to_owned(), label_value(&value));
        }
        OwnerMarks { labels, provenance }
    }

    pub fn build_metadata(&self, namespace: &str, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(namespace.to_owned()),
            labels: Some(self.labels.clone()),
            annotations: Some(BTreeMap::from([(PROVENANCE.to_owned(), self.provenance.clone())])),
            ..ObjectMeta::default()
        }
    }

    /// Builds the metadata of an object about which `istioctl analyze` would be wrong: it suppresses these messages.
    pub fn build_metadata_without(&self, messages: &str, namespace: &str, name: String) -> ObjectMeta {
        let mut meta = self.build_metadata(namespace, name);
        meta.annotations.get_or_insert_default().insert(SUPPRESS.to_owned(), messages.to_owned());
        meta
    }
}
