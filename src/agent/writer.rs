//! Makes the store hold what the engine wants, owner by owner.
//!
//! Work is keyed by owner, and only the newest wish of an owner counts: a store that is slow or away costs one entry
//! an owner and never delays another. Namespaces take turns, and one that has nothing under way does not wait until
//! another's burst leaves it a place. What fails is tried again with growing, jittered pauses.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};

use super::fair::FairQueue;
use crate::api::Object;
use crate::store::{Applied, Owner, Store, StoreError};

/// How long the first pause after a failure is, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Wishes that may wait beyond those that are being written; and as many more, one each, of namespaces without one.
const BACKLOG: usize = 32;

type Job = Pin<Box<dyn Future<Output = Done> + Send>>;

enum Done {
    Applied(Owner, Result<Applied, StoreError>),
    /// The pause after a failure is over.
    Paused(Owner),
}

/// What became of a wish.
pub struct Outcome {
    pub owner: Owner,
    pub result: Result<Applied, StoreError>,
    /// Something else is wanted of the owner by now: this says nothing of that.
    pub outdated: bool,
}

pub struct Writer<S> {
    store: S,
    parallel: usize,
    /// The newest wish of each owner that is not yet being written.
    wishes: HashMap<Owner, Vec<Object>>,
    queue: FairQueue<Owner>,
    busy: HashSet<Owner>,
    failures: HashMap<Owner, u32>,
    jobs: FuturesUnordered<Job>,
    writing: usize,
    /// How many owners of each namespace are being written.
    tenants: HashMap<String, usize>,
}

impl<S: Store> Writer<S> {
    /// `parallel` is how many owners are written at once.
    pub fn new(store: S, parallel: usize) -> Self {
        Writer {
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

    /// From now on, `owner` is to own exactly `objects`.
    pub fn want(&mut self, owner: Owner, objects: Vec<Object>) {
        if self.wishes.insert(owner.clone(), objects).is_none() && !self.busy.contains(&owner) {
            self.queue.push(owner);
        }
        self.start();
    }

    /// Whether there is room for more wishes of a namespace. Objects are large: what is evaluated ahead of what is written
    /// only waits in memory, and may be out of date by its turn.
    pub fn has_room(&self, tenant: &str) -> bool {
        let waiting = self.queue.len();
        waiting < BACKLOG || (waiting < 2 * BACKLOG && !self.queue.has_tenant(tenant))
    }

    /// Whether all wishes are fulfilled.
    pub fn idle(&self) -> bool {
        self.wishes.is_empty() && self.writing == 0
    }

    /// The next outcome; pending for ever while there is nothing to do. After a failure the owner rests for a while;
    /// what is wanted of it in the meantime is written then.
    pub async fn next(&mut self) -> Outcome {
        loop {
            let Some(done) = self.jobs.next().await else { std::future::pending().await };
            match done {
                Done::Paused(owner) => {
                    self.busy.remove(&owner);
                    if self.wishes.contains_key(&owner) {
                        self.queue.push(owner);
                    }
                    self.start();
                }
                Done::Applied(owner, result) => {
                    self.finish(&owner);
                    let outdated = self.wishes.contains_key(&owner);
                    match &result {
                        Ok(_) => {
                            self.failures.remove(&owner);
                            self.busy.remove(&owner);
                            if self.wishes.contains_key(&owner) {
                                self.queue.push(owner.clone());
                            }
                        }
                        Err(_) => self.pause(owner.clone()),
                    }
                    self.start();
                    return Outcome { owner, result, outdated };
                }
            }
        }
    }

    fn pause(&mut self, owner: Owner) {
        let failures = self.failures.entry(owner.clone()).or_default();
        *failures = failures.saturating_add(1);
        let ceiling = RETRY.0.saturating_mul(1 << (*failures).min(10)).min(RETRY.1);
        let pause = ceiling.mul_f64(rand::random_range(0.5..1.0));
        self.jobs.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            Done::Paused(owner)
        }));
    }

    fn finish(&mut self, owner: &Owner) {
        self.writing -= 1;
        let tenant = owner.tenant();
        let others = self.tenants.get(tenant).map_or(0, |n| n - 1);
        if others == 0 {
            self.tenants.remove(tenant);
        } else {
            self.tenants.insert(tenant.to_owned(), others);
        }
    }

    fn start(&mut self) {
        while let Some(owner) = self.queue.pop(|tenant| may_write(self.writing, self.parallel, &self.tenants, tenant)) {
            let Some(objects) = self.wishes.remove(&owner) else { continue };
            self.busy.insert(owner.clone());
            self.writing += 1;
            *self.tenants.entry(owner.tenant().to_owned()).or_default() += 1;
            let store = self.store.clone();
            self.jobs.push(Box::pin(async move {
                let result = store.apply(&owner, objects).await;
                Done::Applied(owner, result)
            }));
        }
    }
}

/// Whether another owner of a namespace may be written. Two thirds more than `parallel` may be, one each, of namespaces
/// that have none: the first of a namespace need not wait for the end of what others write.
fn may_write(writing: usize, parallel: usize, tenants: &HashMap<String, usize>, tenant: &str) -> bool {
    writing < parallel || (writing < parallel + parallel * 2 / 3 && !tenants.contains_key(tenant))
}
