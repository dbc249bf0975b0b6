//! Statuses of policies, bindings and peerings, and the last expositions of peers: files in Wharf's own folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::disk::{self, StoreFolder};
use super::{DirShared, layout};
use crate::api::{GROUP, VERSION};
use crate::model::{ClusterName, ExpositionKey};
use crate::store::manifest::{self, Digest};
use crate::store::{Input, InputKey, KnownExposition, NamedKey, ObjectStatus, StoreError};

/// Digest of each status that was written.
#[derive(Default)]
pub(super) struct WrittenStatuses(Mutex<HashMap<PathBuf, Digest>>);

impl WrittenStatuses {
    fn with_digests<T>(&self, f: impl FnOnce(&mut HashMap<PathBuf, Digest>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A status with an object's head, as far as it is known here: the output of `kubectl get -o yaml` without the spec.
#[derive(Serialize)]
struct StatusFile<'a, S> {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: &'static str,
    metadata: StatusHead<'a>,
    status: S,
}

#[derive(Serialize)]
struct StatusHead<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
}

fn build_status_file(kind: &'static str, namespace: Option<&str>, name: &str, status: impl Serialize) -> String {
    let api_version = format!("{GROUP}/{VERSION}");
    manifest::to_yaml(&StatusFile { api_version, kind, metadata: StatusHead { name, namespace }, status })
}

pub(super) fn set_status(store: &DirShared, status: ObjectStatus) -> Result<(), StoreError> {
    let (key, text) = match status {
        ObjectStatus::Policy(key, status) => {
            let text = build_status_file("ServiceExpositionPolicy", Some(&key.namespace), &key.name, status);
            (InputKey::Policy(key), text)
        }
        ObjectStatus::Binding(key, status) => {
            let text = build_status_file("RemoteServiceBinding", Some(&key.namespace), &key.name, status);
            (InputKey::Binding(key), text)
        }
        ObjectStatus::Peering(name, status) => {
            let text = build_status_file("ClusterPeering", None, &name, status);
            (InputKey::Peering(name), text)
        }
        ObjectStatus::Gone(key) => {
            let path = layout::status_file(&key);
            store.statuses.with_digests(|written| written.remove(&path));
            return store.disk.remove_file(&path);
        }
    };
    let path = layout::status_file(&key);
    let digest = Digest::of(text.as_bytes());
    let same = match store.statuses.with_digests(|written| written.get(&path).copied()) {
        Some(known) => known == digest && store.disk.root().join(&path).exists(),
        None => store.disk.read_optional(&path).is_ok_and(|old| old.as_deref() == Some(text.as_bytes())),
    };
    if !same {
        store.disk.write_file(&path, text.as_bytes())?;
    }
    store.statuses.with_digests(|written| written.insert(path, digest));
    Ok(())
}

/// Gives an object the status that an earlier process wrote for it: the next one begins with it. One that cannot be
/// read is none.
pub(super) fn read_last(disk: &StoreFolder, key: &InputKey, input: &mut Input) {
    fn parse<S: DeserializeOwned>(disk: &StoreFolder, key: &InputKey) -> Option<S> {
        let bytes = disk.read_optional(&layout::status_file(key)).ok().flatten()?;
        let mut report: Value = serde_saphyr::from_str(std::str::from_utf8(&bytes).ok()?).ok()?;
        serde_json::from_value(report.get_mut("status")?.take()).ok()
    }
    match input {
        Input::Policy(policy) => Arc::make_mut(policy).status = parse(disk, key),
        Input::Binding(binding) => Arc::make_mut(binding).status = parse(disk, key),
        Input::Peering(_) | Input::Object(_) => {}
    }
}

/// Removes statuses of policies and bindings that went while no agent ran.
pub(super) fn sweep_statuses(store: &DirShared, exists: impl Fn(&InputKey) -> bool) {
    for (kind, key) in [
        ("serviceexpositionpolicy", InputKey::Policy as fn(NamedKey) -> InputKey),
        ("remoteservicebinding", InputKey::Binding),
    ] {
        let folder: PathBuf = [layout::STATE, "status", kind].iter().collect();
        for file in disk::file_names(&store.disk.root().join(&folder)).unwrap_or_default() {
            let stem = Path::new(&file).file_stem().and_then(|s| s.to_str());
            let Some((namespace, name)) = stem.and_then(|s| s.split_once('.')) else { continue };
            let key = key(NamedKey { namespace: namespace.to_owned(), name: name.to_owned() });
            let path = folder.join(&file);
            // A shortened name does not identify its object; a status that was written since the start is current.
            let ours = layout::status_file(&key) == path
                && !store.statuses.with_digests(|written| written.contains_key(&path));
            if ours && !exists(&key) {
                let _ = store.disk.remove_file(&path); // at the next start, then
            }
        }
    }
}

/// Bytes that are read of one peer's last expositions. An older agent remembered all that a peer offers.
const MAX_KNOWN: usize = 8 << 20;

pub(super) fn read_known(disk: &StoreFolder) -> Result<Vec<(ClusterName, KnownExposition)>, StoreError> {
    let folder = layout::known_dir();
    let list = |path: &Path| {
        let absolute = disk.root().join(path);
        disk::file_names(&absolute).map_err(|e| disk.file_error(&absolute, "cannot be read", &e))
    };
    let mut all = Vec::new();
    for peer in list(&folder)? {
        let Some(cluster) = peer.to_str().and_then(|name| name.parse::<ClusterName>().ok()) else { continue };
        let mut room = MAX_KNOWN;
        for file in list(&folder.join(&peer))? {
            let path = folder.join(&peer).join(file);
            let read = disk
                .read_optional(&path)
                .map_err(|e| disk.file_error(&path, "cannot be read", &e))?
                .unwrap_or_default();
            let Some(left) = room.checked_sub(read.len()) else {
                let (folder, max) = (disk.place_of(&folder.join(&peer)), MAX_KNOWN >> 20);
                tracing::warn!(%folder, "more than {max} MiB are remembered of this peer; it sends the rest again");
                break;
            };
            room = left;
            match serde_json::from_slice::<KnownExposition>(&read) {
                Ok(known) => all.push((cluster.clone(), known)),
                // It is only a memory: the peer sends it again.
                Err(e) => {
                    tracing::warn!(file = %disk.place_of(&path), error = %e, "a peer's last exposition cannot be read")
                }
            }
        }
    }
    Ok(all)
}

pub(super) fn remember_exposition(
    disk: &StoreFolder,
    peer: &ClusterName,
    key: &ExpositionKey,
    known: Option<&KnownExposition>,
) -> Result<(), StoreError> {
    let path = layout::known_file(peer, key);
    let Some(known) = known else { return disk.remove_file(&path) };
    let text = serde_json::to_vec(known).unwrap_or_default(); // plain data cannot fail
    if disk.read_optional(&path).is_ok_and(|old| old.as_deref() == Some(&*text)) {
        return Ok(());
    }
    disk.write_file(&path, &text)
}
