//! The objects that each file held when it was read last, over restarts: an object is not taken for gone only because
//! its file is broken, or of a newer version, after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{self, StoreFolder};
use super::layout;
use crate::store::InputKey;
use crate::store::manifest::Digest;

/// The record of one file.
#[derive(Serialize, Deserialize)]
struct OriginRecord {
    path: String,
    /// `<kind> <namespace>/<name>`; a kind of a newer version is passed over.
    objects: Vec<String>,
}

#[derive(Default)]
pub(super) struct FileOrigins {
    files: BTreeMap<PathBuf, BTreeSet<InputKey>>,
}

impl FileOrigins {
    pub fn read_records(disk: &StoreFolder) -> FileOrigins {
        let folder = layout::origins_dir();
        let mut files = BTreeMap::new();
        for name in disk::file_names(&disk.root().join(&folder)).unwrap_or_default() {
            let bytes = disk.read_optional(&folder.join(&name)).ok().flatten().unwrap_or_default();
            if let Ok(entry) = serde_json::from_slice::<OriginRecord>(&bytes) {
                files.insert(entry.path.into(), entry.objects.iter().filter_map(|text| text.parse().ok()).collect());
            }
        }
        FileOrigins { files }
    }

    /// Returns the objects that a file held; None if they are not known.
    pub fn objects_of(&self, path: &Path) -> Option<&BTreeSet<InputKey>> {
        self.files.get(path)
    }

    pub fn holds_input(&self, key: &InputKey) -> bool {
        self.files.values().any(|keys| keys.contains(key))
    }

    /// Records the objects of a file; None removes the record.
    pub fn record_objects(&mut self, disk: &StoreFolder, path: &Path, objects: Option<BTreeSet<InputKey>>) {
        let Some(text) = path.to_str() else { return };
        if self.files.get(path) == objects.as_ref() {
            return;
        }
        let file = layout::origins_dir().join(format!("{}.json", Digest::of(text.as_bytes())));
        let written = match &objects {
            Some(objects) => {
                let entry =
                    OriginRecord { path: text.to_owned(), objects: objects.iter().map(ToString::to_string).collect() };
                disk.write_file(&file, &serde_json::to_vec(&entry).unwrap_or_default())
            }
            None => disk.remove_file(&file),
        };
        // A record that could not be written is tried again with the next change of the file, and after a restart
        // counts as it was.
        match written {
            Ok(()) => drop(match objects {
                Some(objects) => self.files.insert(path.to_owned(), objects),
                None => self.files.remove(path),
            }),
            Err(error) => tracing::debug!(%error, "the objects of a file could not be recorded"),
        }
    }

    /// Forgets files that went while no agent ran.
    pub fn sweep_gone(&mut self, disk: &StoreFolder) {
        let is_gone = |path: &Path| {
            let found = fs::symlink_metadata(disk.root().join(path));
            found.is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
        };
        let gone: Vec<_> = self.files.keys().filter(|path| is_gone(path)).cloned().collect();
        gone.iter().for_each(|path| self.record_objects(disk, path, None));
    }
}
