//! The store in a folder: people's YAML in, Istio's YAML out. For trying out, for GitOps, and for istiod's own file
//! config source.
//!
//! | path | holds |
//! |---|---|
//! | anywhere: `*.yaml`, `*.yml`, `*.json` | what people wrote, in files and folders as they like. Hidden ones are passed over |
//! | `istio/<kind>_<namespace>_<name>.yaml` | the objects that Wharf makes, one a file and nothing else in the folder, so that istiod or a GitOps tool takes it as it is |
//! | `.wharf/instance` | who this cluster is, made once |
//! | `.wharf/status/<kind>/<namespace>.<name>.yaml` | the status of policies, bindings and peerings |
//! | `.wharf/known/<peer>/<namespace>.<name>.json` | what peers exposed when they were heard last |
//! | `.wharf/files/<digest>.json` | the objects that a file held when it was read last |
//! | `.wharf/tmp` | files that are not yet what they will be |
//! | `.wharf/.gitignore` | keeps all of that out of a checkout |
//!
//! One thread reads ([`reader`]), woken by the system and by nothing else. The caller of [`ObjectStore::apply_objects`] writes: some
//! microseconds a file, less than handing it to another thread and back would take.

mod disk;
mod inputs;
mod layout;
mod ledger;
mod missing;
mod origins;
mod reader;
mod root;
mod status;
mod walk;
mod watch;

use crate::api::RemoteServiceBinding;
use crate::store::{NamedKey, manifest};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch as channel};

use self::watch::{EventRecorder, FolderWatches, PendingEvents};
use super::{
    ApplyResult, Change, ExpositionMemory, HeldNames, KnownExposition, Leadership, ObjectStatus, ObjectStore, Owner,
    StatusSink, StoreError,
};
use crate::api::Object;
use crate::model::{ClusterName, ExpositionKey};
use disk::StoreFolder;
use ledger::DirLedger;
use reader::FolderReader;
pub use walk::MAX_FILES;

/// Changes that wait for the agent. When it is slow the reader waits, and further events of one file count once.
const CHANGES: usize = 256;

/// A folder as a [`Store`](super::Store).
#[derive(Clone)]
pub struct DirStore {
    inner: Arc<DirShared>,
    pending: Arc<StopOnDrop>,
}

struct DirShared {
    disk: StoreFolder,
    ledger: Mutex<DirLedger>,
    statuses: status::WrittenStatuses,
    watched: AtomicBool,
    /// A folder has one agent.
    leading: channel::Sender<bool>,
}

/// Ends the reader with the last store. The reader itself holds the rest, and not this.
struct StopOnDrop(Arc<PendingEvents>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl DirStore {
    /// Opens a folder, which must be there: one that was made for a name that was misspelt would hold nothing, and so
    /// withdraw everything.
    pub fn open(path: impl Into<PathBuf>) -> Result<DirStore, StoreError> {
        let disk = StoreFolder::open(&path.into())?;
        let ledger = Mutex::new(DirLedger::read_folder(&disk)?);
        let (leading, _) = channel::channel(true);
        let (statuses, watched) = (status::WrittenStatuses::default(), AtomicBool::new(false));
        let inner = DirShared { disk, ledger, statuses, watched, leading };
        Ok(DirStore { inner: Arc::new(inner), pending: Arc::new(StopOnDrop(Arc::default())) })
    }

    pub fn path(&self) -> &Path {
        self.inner.disk.root()
    }

    fn start_watching(&self) -> Result<mpsc::Receiver<Change>, StoreError> {
        let error = |message: String, transient| StoreError {
            place: self.inner.disk.root().display().to_string(),
            message,
            transient,
        };
        if self.inner.watched.swap(true, Ordering::Relaxed) {
            return Err(error("its changes are told to somebody already".to_owned(), false));
        }
        let path = std::path::absolute(self.inner.disk.root()).map_err(|e| error(e.to_string(), false))?;
        let pending = self.pending.0.clone();
        let notes = EventRecorder { root: path.clone(), pending: pending.clone() };
        let watcher = notify::recommended_watcher(notes).map_err(|e| {
            error(format!("cannot be watched: {e}; see the system's limit sysctl fs.inotify.max_user_instances"), true)
        })?;
        let (tx, rx) = mpsc::channel(CHANGES);
        let reader = FolderReader::new(self.inner.clone(), path, FolderWatches::new(watcher), tx);
        let thread = std::thread::Builder::new().name("wharf-dir".to_owned());
        thread.spawn(move || reader.run(&pending)).map_err(|e| error(format!("no thread to read it: {e}"), true))?;
        Ok(rx)
    }
}

impl ObjectStore for DirStore {
    const EARLY: bool = false;

    async fn read_instance(&self) -> Result<String, StoreError> {
        Ok(self.inner.disk.instance().to_owned())
    }

    async fn watch_changes(&self) -> Result<mpsc::Receiver<Change>, StoreError> {
        self.start_watching()
    }

    async fn list_owners(&self) -> Result<Vec<Owner>, StoreError> {
        Ok(self.inner.lock_ledger().owners())
    }

    async fn held_names(&self) -> Result<HeldNames, StoreError> {
        Ok(self.inner.lock_ledger().held_names(&self.inner.disk))
    }

    async fn apply_objects(&self, owner: &Owner, objects: Vec<Object>) -> Result<ApplyResult, StoreError> {
        self.inner.lock_ledger().apply_objects(&self.inner.disk, owner, objects)
    }

    async fn propose_binding(&self, key: &NamedKey, binding: Option<&RemoteServiceBinding>) -> Result<(), StoreError> {
        let path = layout::proposal_file(key);
        match binding {
            Some(binding) => self.inner.disk.write_file(&path, manifest::to_yaml(binding).as_bytes()),
            None => self.inner.disk.remove_file(&path),
        }
    }
}

impl StatusSink for DirStore {
    async fn set_status(&self, status: ObjectStatus) -> Result<(), StoreError> {
        status::set_status(&self.inner, status)
    }

    fn report_replica(&self, _: super::ReplicaReport) {}
}

impl ExpositionMemory for DirStore {
    async fn recall_expositions(&self) -> Result<Vec<(ClusterName, KnownExposition)>, StoreError> {
        status::read_known(&self.inner.disk)
    }

    async fn remember_exposition(
        &self,
        peer: &ClusterName,
        key: &ExpositionKey,
        known: Option<&KnownExposition>,
        _used: bool,
    ) -> Result<(), StoreError> {
        status::remember_exposition(&self.inner.disk, peer, key, known)
    }
}

impl Leadership for DirStore {
    fn watch_leading(&self) -> channel::Receiver<bool> {
        self.inner.leading.subscribe()
    }

    async fn close_store(&self) {}
}

impl DirShared {
    fn lock_ledger(&self) -> std::sync::MutexGuard<'_, DirLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
