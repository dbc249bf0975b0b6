//! Writes the objects that the engine wants to the store, owner by owner.
//!
//! Work is keyed by owner, and only the newest request of an owner counts: a slow or unreachable store costs one entry
//! per owner and never delays another. Namespaces take turns, and one without a write in progress does not wait until
//! another's burst leaves room. Failed writes are repeated after growing, jittered pauses.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};

use super::fair::FairQueue;
use crate::api::Object;
use crate::store::{ApplyResult, ObjectStore, Owner, StoreError};

/// The first and the longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Most requests that wait besides those being written, and as many again, one for each namespace without a waiting
/// request.
const BACKLOG: usize = 32;

type WriteJob = Pin<Box<dyn Future<Output = JobResult> + Send>>;

enum JobResult {
    Applied(Owner, Result<ApplyResult, StoreError>),
    /// The pause after a failure is over.
    Paused(Owner),
}

/// The result of a request.
pub struct WriteOutcome {
    pub owner: Owner,
    pub result: Result<ApplyResult, StoreError>,
    /// A newer request of the owner exists, which this result says nothing about.
    pub outdated: bool,
}

pub struct OwnerWriter<S> {
    store: S,
    parallel: usize,
    /// The newest request of each owner that is not yet being written.
    wishes: HashMap<Owner, Vec<Object>>,
    queue: FairQueue<Owner>,
    busy: HashSet<Owner>,
    failures: HashMap<Owner, u32>,
    jobs: FuturesUnordered<WriteJob>,
    writing: usize,
    /// Number of owners of each namespace that are being written.
    tenants: HashMap<String, usize>,
}

impl<S: ObjectStore> OwnerWriter<S> {
    /// Builds a writer. `parallel` is the number of owners that are written at the same time.
    pub fn new(store: S, parallel: usize) -> Self {
        OwnerWriter {
            store,
            parallel,
            wishes: HashMap::new(),
            queue: FairQueue::default(),
            busy: HashSet::new(),
            failures: HashMap::new(),
            jobs: FuturesUnordered::new(),
            writing: 0,
            tenants: HashMap::new(),
        }
    }

    /// Requests that `owner` owns exactly `objects` from now on.
    pub fn want_objects(&mut self, owner: Owner, objects: Vec<Object>) {
        if self.wishes.insert(owner.clone(), objects).is_none() && !self.busy.contains(&owner) {
            self.queue.push(owner);
        }
        self.start_writes();
    }

    /// Returns whether there is room for more requests of a namespace. Objects are large: those that are evaluated long
    /// before they are written only use memory, and may be out of date by then.
    pub fn has_room(&self, tenant: &str) -> bool {
        let waiting = self.queue.len();
        waiting < BACKLOG || (waiting < 2 * BACKLOG && !self.queue.has_tenant(tenant))
    }

    /// Returns whether all requests are done.
    pub fn is_idle(&self) -> bool {
        self.wishes.is_empty() && self.writing == 0
    }

    /// Returns the next result. Never returns while there is nothing to do. After a failure the owner pauses; a request
    /// from the meantime is written then.
    pub async fn next(&mut self) -> WriteOutcome {
        loop {
            let Some(done) = self.jobs.next().await else { std::future::pending().await };
            match done {
                JobResult::Paused(owner) => {
                    self.busy.remove(&owner);
                    if self.wishes.contains_key(&owner) {
                        self.queue.push(owner);
                    }
                    self.start_writes();
                }
                JobResult::Applied(owner, result) => {
                    self.finish_owner(&owner);
                    let outdated = self.wishes.contains_key(&owner);
                    match &result {
                        Ok(_) => {
                            self.failures.remove(&owner);
                            self.busy.remove(&owner);
                            if self.wishes.contains_key(&owner) {
                                self.queue.push(owner.clone());
                            }
                        }
                        Err(_) => self.pause_owner(owner.clone()),
                    }
                    self.start_writes();
                    return WriteOutcome { owner, result, outdated };
                }
            }
        }
    }

    fn pause_owner(&mut self, owner: Owner) {
        let failures = self.failures.entry(owner.clone()).or_default();
        *failures = failures.saturating_add(1);
        let ceiling = RETRY.0.saturating_mul(1 << (*failures).min(10)).min(RETRY.1);
        let pause = ceiling.mul_f64(rand::random_range(0.5..1.0));
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            JobResult::Paused(owner)
        }));
    }

    fn finish_owner(&mut self, owner: &Owner) {
        self.writing -= 1;
        let tenant = owner.tenant();
        let others = self.tenants.get(tenant).map_or(0, |n| n - 1);
        if others == 0 {
            self.tenants.remove(tenant);
        } else {
            self.tenants.insert(tenant.to_owned(), others);
        }
    }

    fn start_writes(&mut self) {
        while let Some(owner) = self.queue.pop(|tenant| may_write(self.writing, self.parallel, &self.tenants, tenant)) {
            let Some(objects) = self.wishes.remove(&owner) else { continue };
            self.busy.insert(owner.clone());
            self.writing += 1;
            *self.tenants.entry(owner.tenant().to_owned()).or_default() += 1;
            let store = self.store.clone();
            self.jobs.push(Box::pin(async move {
                let result = store.apply_objects(&owner, objects).await;
                JobResult::Applied(owner, result)
            }));
        }
    }
}

/// Returns whether another owner of a namespace may be written. Two thirds more than `parallel` may be written, one for
/// each namespace without a write, so that the first of a namespace does not wait until others' writes end.
fn may_write(writing: usize, parallel: usize, tenants: &HashMap<String, usize>, tenant: &str) -> bool {
    writing < parallel || (writing < parallel + parallel * 2 / 3 && !tenants.contains_key(tenant))
}
