//! Wharf's objects in the folder, by owner, and the objects that it must not touch: hashes of what was written, not the
//! text.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{self, StoreFolder};
use super::layout::{self, OBJECTS};
use crate::api::{Kind, Object, ObjectKey, PROVENANCE};
use crate::model::{Label, ObjectName};
use crate::store::manifest::{self, Digest, Document};
use crate::store::{ApplyResult, HeldNames, HeldPort, Input, Owner, StoreError};

const MARK: &str = "# Made by Wharf for ";

/// One file of Wharf's.
struct LedgerFile {
    key: ObjectKey,
    owner: Owner,
    /// Digest of the file's content, as far as it is known.
    digest: Digest,
}

#[derive(Default)]
pub(super) struct DirLedger {
    files: HashMap<Arc<str>, LedgerFile>,
    owners: BTreeMap<Owner, BTreeSet<Arc<str>>>,
    /// Objects of other owners, wherever in the folder they stand.
    theirs: HashSet<ObjectKey>,
    /// The owner that wanted an object of another owner.
    refused: HashMap<ObjectKey, Owner>,
}

/// The claim of Wharf on a file in the folder of its objects.
#[derive(Debug, PartialEq, Eq)]
enum FileClaim {
    Ours(ObjectKey, Owner),
    Theirs,
}

impl DirLedger {
    /// Learns from the folder what Wharf owns in it.
    pub(super) fn read_folder(disk: &StoreFolder) -> Result<DirLedger, StoreError> {
        let mut ledger = DirLedger::default();
        let folder = disk.root().join(OBJECTS);
        let names = disk::file_names(&folder).map_err(|e| disk.file_error(&folder, "cannot be read", &e))?;
        for name in names.iter().filter_map(|n| n.to_str()).filter(|n| layout::is_manifest(n.as_ref())) {
            // A file that cannot be read is not known to be Wharf's, and so is not touched.
            if let Ok(bytes) = disk::read_file(&folder.join(name))
                && let FileClaim::Ours(key, owner) = read_claim(name, &bytes)
            {
                ledger.enter_file(name, key, owner, Digest::of(&bytes));
            }
        }
        Ok(ledger)
    }

    pub(super) fn owners(&self) -> Vec<Owner> {
        self.owners.keys().cloned().collect()
    }

    /// Returns the names that owners hold. The ledger knows no content: Gateways and Services are read.
    pub(super) fn held_names(&self, disk: &StoreFolder) -> HeldNames {
        let mut holdings = HeldNames::default();
        for (file, entry) in &self.files {
            let bytes = match entry.key.kind {
                Kind::Gateway | Kind::Service => {
                    disk.read_optional(&object_path(file)).ok().flatten().unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let read: Vec<_> = read_objects(file, &bytes).collect();
            let hosts = read.iter().flat_map(|object| object.gateway_hosts());
            holdings.add_object(&entry.owner, &entry.key, hosts.filter_map(|host| host.parse().ok()));
            for object in read.iter().filter(|_| entry.key.kind == Kind::Service) {
                let annotations = object.metadata().annotations.as_ref();
                let provenance = annotations.and_then(|all| all.get(PROVENANCE)).map_or("", String::as_str);
                holdings.add_provenance(&entry.owner, provenance);
                let service = serde_json::to_value(&**object).unwrap_or_default();
                holdings.note_ports(&entry.owner, HeldPort::of_service(&service));
            }
        }
        holdings
    }

    fn enter_file(&mut self, file: &str, key: ObjectKey, owner: Owner, digest: Digest) {
        let file: Arc<str> = file.into();
        if let Some(old) = self.files.insert(file.clone(), LedgerFile { key, owner: owner.clone(), digest })
            && old.owner != owner
        {
            self.disown_file(&old.owner, &file);
        }
        self.owners.entry(owner).or_default().insert(file);
    }

    /// Removes a file that is not Wharf's, or is gone; returns its owner.
    pub(super) fn strike_file(&mut self, file: &str) -> Option<Owner> {
        let entry = self.files.remove(file)?;
        self.disown_file(&entry.owner, file);
        Some(entry.owner)
    }

    fn disown_file(&mut self, owner: &Owner, file: &str) {
        if let Some(files) = self.owners.get_mut(owner) {
            files.remove(file);
            if files.is_empty() {
                self.owners.remove(owner);
            }
        }
    }

    /// Forgets all files, since the folder is another one, and returns their owners.
    pub(super) fn forget_files(&mut self) -> BTreeSet<Owner> {
        self.files.clear();
        std::mem::take(&mut self.owners).into_keys().chain(self.refused.values().cloned()).collect()
    }

    /// Records that a file of the objects' folder was found with this content. Returns whether it is Wharf's, and the
    /// owner whose objects it disturbs.
    pub(super) fn record_found(&mut self, file: &str, bytes: &[u8]) -> (bool, Option<Owner>) {
        let digest = Digest::of(bytes);
        let entry = self.files.get(file);
        if entry.is_some_and(|e| e.digest == digest) {
            return (true, None); // the echo of what was written here
        }
        match (read_claim(file, bytes), entry) {
            (FileClaim::Ours(key, owner), _) => {
                self.enter_file(file, key, owner.clone(), digest);
                (true, Some(owner))
            }
            // It holds no object, so nothing was taken over: it is Wharf's, and broken.
            (FileClaim::Theirs, Some(entry)) if !holds_objects(bytes) => {
                let (key, owner) = (entry.key.clone(), entry.owner.clone());
                self.enter_file(file, key, owner.clone(), digest);
                (true, Some(owner))
            }
            (FileClaim::Theirs, _) => (false, self.strike_file(file)),
        }
    }

    pub(super) fn has_file(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    pub(super) fn file_names(&self) -> Vec<Arc<str>> {
        self.files.keys().cloned().collect()
    }

    /// Records that another owner has this object now. Returns the owner to be applied again.
    pub(super) fn record_taken(&mut self, key: ObjectKey) -> Option<Owner> {
        let owner = self.files.get(layout::object_file(&key).as_str()).map(|e| e.owner.clone());
        self.theirs.insert(key);
        owner
    }

    /// Records that no other owner has this object any more. Returns the owner that waited for it.
    pub(super) fn record_released(&mut self, key: &ObjectKey) -> Option<Owner> {
        self.theirs.remove(key);
        self.refused.remove(key)
    }

    /// Returns the owner that waits for a file, which is free now.
    pub(super) fn waiting_for(&self, file: &str) -> Option<Owner> {
        let free = |key: &ObjectKey| layout::object_file(key) == file && !self.theirs.contains(key);
        self.refused.iter().find(|(key, _)| free(key)).map(|(_, owner)| owner.clone())
    }

    /// See [`crate::store::ObjectStore::apply_objects`]. Stops at the first error: later objects may rely on the one that failed, and
    /// a guard comes before what it guards.
    pub(super) fn apply_objects(
        &mut self,
        disk: &StoreFolder,
        owner: &Owner,
        mut objects: Vec<Object>,
    ) -> Result<ApplyResult, StoreError> {
        objects.sort_by_cached_key(Object::write_order);
        let mut applied = ApplyResult::default();
        let mut wanted = HashSet::new();
        self.refused.retain(|_, waiting| waiting != owner);
        for object in objects {
            let file = layout::object_file(&object.key());
            self.put_object(disk, owner, &file, object, &mut applied)?;
            wanted.insert(file);
        }
        let owned = self.owners.get(owner).into_iter().flatten();
        let mut stale: Vec<_> = owned.filter(|f| !wanted.contains(&***f)).cloned().collect();
        stale.sort_by_key(|file| std::cmp::Reverse(self.files.get(file).map(|e| e.key.kind)));
        for file in stale {
            if self.is_still_ours(disk, &file) {
                disk.remove_file(&object_path(&file))?;
                applied.removed += 1;
            }
            self.strike_file(&file);
        }
        Ok(applied)
    }

    fn put_object(
        &mut self,
        disk: &StoreFolder,
        owner: &Owner,
        file: &str,
        mut object: Object,
        applied: &mut ApplyResult,
    ) -> Result<(), StoreError> {
        let key = object.key();
        check_names(disk, &key)?;
        let mine = self.files.get(file).map(|e| e.owner == *owner);
        let free = match mine {
            Some(false) => false,
            // As in a cluster, where there is only one object of a name, its present owner keeps it.
            _ if self.theirs.contains(&key) => {
                let keeps = mine == Some(true) && self.is_still_ours(disk, file);
                if !keeps {
                    self.strike_file(file);
                }
                keeps
            }
            _ => true,
        };
        if free {
            object.set_owner_labels(&owner.0);
            let text = build_text(file, owner, &object);
            let digest = Digest::of(text.as_bytes());
            if self.files.get(file).is_some_and(|e| e.digest == digest) {
                applied.unchanged += 1;
                return Ok(());
            }
            if self.is_still_ours(disk, file) {
                disk.write_file(&object_path(file), text.as_bytes())?;
                self.enter_file(file, key, owner.clone(), digest);
                applied.written += 1;
                return Ok(());
            }
            self.strike_file(file);
        }
        self.refused.insert(key.clone(), owner.clone());
        applied.conflicts.push(key);
        Ok(())
    }

    /// Returns whether a file may be written or removed: it is not there, or it is as Wharf left it, or it says that it
    /// is Wharf's. A person may have put something else in its place a moment ago, and its event be on its way.
    fn is_still_ours(&self, disk: &StoreFolder, file: &str) -> bool {
        match disk.read_optional(&object_path(file)) {
            Ok(None) => true,
            Ok(Some(bytes)) => {
                let known = self.files.get(file);
                known.is_some_and(|e| e.digest == Digest::of(&bytes) || !holds_objects(&bytes))
                    || matches!(read_claim(file, &bytes), FileClaim::Ours(..))
            }
            Err(e) => e.kind() == std::io::ErrorKind::NotADirectory, // the error is told when it is written
        }
    }
}

fn object_path(file: &str) -> PathBuf {
    Path::new(OBJECTS).join(file)
}

/// Checks that names can be names of files: translation makes only valid ones, and this is the last check.
fn check_names(disk: &StoreFolder, key: &ObjectKey) -> Result<(), StoreError> {
    let checked = key.namespace.parse::<Label>().map(drop).and_then(|()| key.name.parse::<ObjectName>().map(drop));
    checked.map_err(|e| StoreError {
        place: disk.place_of(Path::new(OBJECTS)),
        message: format!("{key} cannot be written: {e}"),
        transient: false,
    })
}

/// Builds the text of a file. Its first line tells people what it is, and lets Wharf see without parsing that nothing
/// in it was changed.
fn build_text(file: &str, owner: &Owner, object: &Object) -> String {
    let body = manifest::to_yaml(object);
    format!("{MARK}{}; an edit is undone. {}\n{body}", owner.0, seal_text(file, &body))
}

fn seal_text(file: &str, body: &str) -> Digest {
    Digest::of(format!("{file}\n{body}").as_bytes())
}

/// Returns the claim on a file. The labels decide, as in a cluster; the seal stands for labels that nobody changed.
fn read_claim(file: &str, bytes: &[u8]) -> FileClaim {
    let marked = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_prefix(MARK)?.split_once('\n'));
    let marked = marked.and_then(|(first, body)| first.split_once("; an edit is undone. ").map(|m| (m, body)));
    if let (Some(((owner, sealed), body)), Some(key)) = (marked, layout::key_of(file))
        && seal_text(file, body).to_string() == sealed
    {
        return FileClaim::Ours(key, Owner(owner.into()));
    }
    // A copy under another name is not Wharf's either.
    let labelled = read_objects(file, bytes).find_map(|object| {
        let (key, owner) = (object.key(), object.owner().map(|o| Owner(o.into())));
        (layout::object_file(&key) == file).then_some(key).zip(owner)
    });
    match (labelled, marked, layout::key_of(file)) {
        (Some((key, owner)), _, _) => FileClaim::Ours(key, owner),
        (None, Some(((owner, _), _)), Some(key)) if !holds_objects(bytes) => FileClaim::Ours(key, Owner(owner.into())),
        _ => FileClaim::Theirs,
    }
}

fn read_objects(file: &str, bytes: &[u8]) -> impl Iterator<Item = Arc<Object>> {
    manifest::read_manifest(file, bytes).into_iter().filter_map(|d| match d.ok()?.input {
        Input::Object(object) => Some(object),
        _ => None,
    })
}

/// Returns whether a file holds objects of others: it is not blank, not rubble, and not an object of Wharf's whose name
/// was edited.
fn holds_objects(bytes: &[u8]) -> bool {
    let documents = manifest::read_manifest("", bytes);
    let theirs = |d: &Document| !matches!(&d.input, Input::Object(object) if object.owner().is_some());
    documents.iter().flatten().any(theirs) || (documents.is_empty() && !manifest::is_blank(bytes))
}
