//! The versions of a donor's expositions that the owner holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use crate::model::ExpositionKey;
use crate::peering::pb;

pub(super) struct DonorHoldings {
    /// Version by name. None: the donor has to send the name again. Its newest content of the name was refused, and the
    /// owner may hold an older one; or the owner wants its content again.
    versions: BTreeMap<ExpositionKey, Option<Arc<str>>>,
}

impl DonorHoldings {
    pub(super) fn new(held: &BTreeMap<ExpositionKey, String>) -> DonorHoldings {
        let version = |version: &String| (!version.is_empty()).then(|| Arc::from(version.as_str()));
        DonorHoldings { versions: held.iter().map(|(key, v)| (key.clone(), version(v))).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }

    pub(super) fn contains(&self, key: &ExpositionKey) -> bool {
        self.versions.contains_key(key)
    }

    pub(super) fn set_version(&mut self, key: &ExpositionKey, version: &str) {
        self.versions.insert(key.clone(), Some(version.into()));
    }

    /// Records that the newest content of this name was refused. A name that is not held stays so.
    pub(super) fn set_rejected(&mut self, key: &ExpositionKey) {
        if let Some(version) = self.versions.get_mut(key) {
            *version = None;
        }
    }

    pub(super) fn remove(&mut self, key: &ExpositionKey) {
        self.versions.remove(key);
    }

    /// Removes names that the owner does not hold any more.
    pub(super) fn let_go(&mut self, keys: BTreeSet<ExpositionKey>) {
        keys.iter().for_each(|key| self.remove(key));
    }

    /// Makes the next hello leave out these names.
    pub(super) fn omit_from_hello(&mut self, keys: BTreeSet<ExpositionKey>) {
        keys.iter().for_each(|key| self.set_rejected(key));
    }

    /// Returns the list for a hello: as much as fits. The donor sends the rest again; names that it does not send are
    /// not confirmed. Returns also the names that the hello does not mention.
    pub(super) fn list_for_hello(&self, max_bytes: usize) -> (Vec<pb::Held>, BTreeSet<ExpositionKey>) {
        let mut room = max_bytes;
        let mut held = Vec::new();
        let mut unmentioned = BTreeSet::new();
        for (key, version) in &self.versions {
            let entry = version.as_ref().map(|version| pb::Held {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                version: version.to_string(),
            });
            match entry {
                Some(entry) if entry.encoded_len() + 8 <= room => {
                    room -= entry.encoded_len() + 8; // with its tag and length
                    held.push(entry);
                }
                _ => {
                    unmentioned.insert(key.clone());
                }
            }
        }
        (held, unmentioned)
    }
}
