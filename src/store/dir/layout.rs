//! The names of the files.

use crate::store::NamedKey;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::api::{Kind, ObjectKey};
use crate::model::{ClusterName, ExpositionKey};
use crate::store::InputKey;
use crate::store::manifest::Digest;

/// The folder of the Istio objects that Wharf makes: all of it is Istio's, so istiod's file config source, or a tool
/// that commits the output, takes it as it is.
pub(super) const OBJECTS: &str = "istio";
/// The folder of Wharf's own state. Hidden, and with a `.gitignore`, so that a checkout stays clean.
pub(super) const STATE: &str = ".wharf";

/// Returns the file of an object. No name of a Kubernetes object has a `_`, so parts that are joined by it are told
/// apart in one way only.
pub(super) fn object_file(key: &ObjectKey) -> String {
    let kind = key.kind.as_str().to_ascii_lowercase();
    shorten_name(format!("{kind}_{}_{}", key.namespace, key.name), "yaml")
}

/// Returns the object that one of Wharf's files is named for; None if the name was too long to be kept whole.
pub(super) fn key_of(file: &str) -> Option<ObjectKey> {
    let mut parts = file.strip_suffix(".yaml")?.split('_');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|k| k.as_str().eq_ignore_ascii_case(kind))?;
    let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    (parts.next().is_none() && object_file(&key) == file).then_some(key)
}

/// Returns the file of a status. A namespace has no dot, so `<namespace>.<name>` is told apart in one way only.
pub(super) fn status_file(key: &InputKey) -> PathBuf {
    let (kind, stem) = match key {
        InputKey::Policy(k) => ("serviceexpositionpolicy", format!("{}.{}", k.namespace, k.name)),
        InputKey::Binding(k) => ("remoteservicebinding", format!("{}.{}", k.namespace, k.name)),
        InputKey::Peering(name) => ("clusterpeering", name.clone()),
        InputKey::Object(k) => ("object", format!("{}.{}.{}", k.kind, k.namespace, k.name)),
    };
    [STATE, "status", kind, &shorten_name(stem, "yaml")].iter().collect()
}

/// Returns the file of a proposed binding: people read and change it, so it stands among the files that they wrote.
pub(super) fn proposal_file(key: &NamedKey) -> PathBuf {
    Path::new("bindings").join(shorten_name(format!("{}.{}", key.namespace, key.name), "yaml"))
}

/// Returns the folder that remembers the objects that each of people's files held when it was read last.
pub(super) fn origins_dir() -> PathBuf {
    [STATE, "files"].iter().collect()
}

pub(super) fn known_dir() -> PathBuf {
    [STATE, "known"].iter().collect()
}

pub(super) fn known_file(peer: &ClusterName, key: &ExpositionKey) -> PathBuf {
    known_dir().join(peer.as_str()).join(format!("{}.{}.json", key.namespace, key.name))
}

/// Shortens a name. File systems end at 255 bytes a name; Kubernetes allows more for a namespace and a name together.
fn shorten_name(stem: String, extension: &str) -> String {
    if stem.len() <= 200 {
        return format!("{stem}.{extension}");
    }
    let begin: String = stem.chars().take(160).collect();
    format!("{begin}_{}.{extension}", Digest::of(stem.as_bytes()))
}

/// Returns whether a file of this name may hold objects.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !is_hidden(name) && matches!(extension, Some("yaml" | "yml" | "json"))
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

pub(super) fn any_hidden(path: &Path) -> bool {
    path.components().any(|c| matches!(c, Component::Normal(name) if is_hidden(name)))
}

/// Returns the name of a file that stands in the folder of Wharf's objects.
pub(super) fn in_objects(path: &Path) -> Option<&str> {
    let mut parts = path.components();
    let (first, name) = (parts.next()?, parts.next()?);
    (first.as_os_str() == OBJECTS && parts.next().is_none()).then(|| name.as_os_str().to_str()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::ServiceEntry, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn no_two_objects_share_a_file() {
        assert_ne!(object_file(&key("a", "b-c")), object_file(&key("a-b", "c")));
        assert_eq!(object_file(&key("a-b", "c.d")), "serviceentry_a-b_c.d.yaml");
        assert_eq!(key_of("serviceentry_a-b_c.d.yaml"), Some(key("a-b", "c.d")));
        for stranger in ["serviceentry_a.yaml", "serviceentry_a_b_c.yaml", "pod_a_b.yaml", "ServiceEntry_a_b.yaml"] {
            assert_eq!(key_of(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn the_longest_names_fit_a_file_system_and_stay_apart() {
        let names = ["x".repeat(253), "x".repeat(252) + "y"].map(|name| object_file(&key(&"n".repeat(63), &name)));
        assert!(names.iter().all(|n| n.len() <= 255), "{names:?}");
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn only_the_folder_itself_is_wharfs() {
        assert_eq!(in_objects(Path::new("istio/a.yaml")), Some("a.yaml"));
        assert_eq!(in_objects(Path::new("istio/sub/a.yaml")), None);
        assert_eq!(in_objects(Path::new("sub/istio/a.yaml")), None);
    }
}
