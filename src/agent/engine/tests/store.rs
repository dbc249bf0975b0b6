//! A store in memory, which does as a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, watch};

use crate::api::{Object, RemoteServiceBinding};
use crate::model::{ClusterName, ExpositionKey};
use crate::store::*;

/// Everything that the store keeps, and its faults.
#[derive(Default)]
pub struct StoreContent {
    pub objects: BTreeMap<Owner, Vec<Object>>,
    pub statuses: BTreeMap<InputKey, ObjectStatus>,
    pub proposals: BTreeMap<NamedKey, RemoteServiceBinding>,
    /// Number of the next writes that fail.
    pub failures: usize,
    /// The Lease has ended: writes wait, and nobody has noticed yet.
    pub lapsed: bool,
    changes: Option<mpsc::Receiver<Change>>,
}

#[derive(Clone)]
pub struct MemoryStore {
    content: Arc<Mutex<StoreContent>>,
    pub leading: watch::Sender<bool>,
}

impl MemoryStore {
    /// Makes a store that reports the changes of this channel.
    pub fn new(changes: mpsc::Receiver<Change>) -> MemoryStore {
        let content = StoreContent { changes: Some(changes), ..StoreContent::default() };
        MemoryStore { content: Arc::new(Mutex::new(content)), leading: watch::Sender::new(true) }
    }

    pub fn lock(&self) -> MutexGuard<'_, StoreContent> {
        self.content.lock().unwrap()
    }
}

impl ObjectStore for MemoryStore {
    const EARLY: bool = true;

    async fn read_instance(&self) -> Result<String, StoreError> {
        Ok("memory".into())
    }

    async fn watch_changes(&self) -> Result<mpsc::Receiver<Change>, StoreError> {
        Ok(self.lock().changes.take().expect("the engine asks once"))
    }

    async fn list_owners(&self) -> Result<Vec<Owner>, StoreError> {
        Ok(self.lock().objects.keys().cloned().collect())
    }

    async fn held_names(&self) -> Result<HeldNames, StoreError> {
        Ok(HeldNames::default())
    }

    async fn apply_objects(&self, owner: &Owner, objects: Vec<Object>) -> Result<ApplyResult, StoreError> {
        let mut content = self.lock();
        if content.lapsed {
            return Ok(ApplyResult { waiting: true, ..ApplyResult::default() });
        }
        if content.failures > 0 {
            content.failures -= 1;
            return Err(StoreError { place: "memory".into(), message: "it is full".into(), transient: true });
        }
        let written = objects.len();
        content.objects.remove(owner);
        if written > 0 {
            content.objects.insert(owner.clone(), objects);
        }
        Ok(ApplyResult { written, ..ApplyResult::default() })
    }

    async fn propose_binding(&self, key: &NamedKey, binding: Option<&RemoteServiceBinding>) -> Result<(), StoreError> {
        let mut content = self.lock();
        if content.lapsed {
            return Ok(());
        }
        if let Some(binding) = binding {
            content.proposals.insert(key.clone(), binding.clone());
        } else {
            content.proposals.remove(key);
        }
        Ok(())
    }
}

impl StatusSink for MemoryStore {
    async fn set_status(&self, status: ObjectStatus) -> Result<(), StoreError> {
        let key = match &status {
            ObjectStatus::Policy(key, _) => InputKey::Policy(key.clone()),
            ObjectStatus::Binding(key, _) => InputKey::Binding(key.clone()),
            ObjectStatus::Peering(name, _) => InputKey::Peering(name.clone()),
            ObjectStatus::Gone(key) => key.clone(),
        };
        self.lock().statuses.insert(key, status);
        Ok(())
    }

    fn report_replica(&self, _report: ReplicaReport) {}
}

impl ExpositionMemory for MemoryStore {
    async fn recall_expositions(&self) -> Result<Vec<(ClusterName, KnownExposition)>, StoreError> {
        Ok(Vec::new())
    }

    async fn remember_exposition(
        &self,
        _peer: &ClusterName,
        _key: &ExpositionKey,
        _known: Option<&KnownExposition>,
        _used: bool,
    ) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Leadership for MemoryStore {
    fn watch_leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    async fn close_store(&self) {}
}
