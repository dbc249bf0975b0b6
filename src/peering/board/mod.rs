//! The donor's board: the expositions that are offered, by peer. One owner publishes; each subscriber reads at its own
//! pace.
//!
//! Every cluster has a view of its own, so that it learns no name that was not offered to it, and so that a change
//! wakes only the clusters that it concerns. In a view every exposition stands once, at the revision of its newest
//! change; a subscriber is a cursor over those revisions and the versions it holds. A slow reader therefore finds the
//! newest state of what it missed and nothing between, it costs its cursor and no queue, and a change costs the same
//! among ten expositions and ten thousand.

#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::watch;

use self::view::BoardView;
use super::convert::{self, HeldList, WireRejection};
use super::limits::Limits;
use crate::model::{ClusterName, Exposition, ExpositionKey};

/// The reason why something cannot be published. The previous offers stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// Acceptors would refuse it.
    #[error(transparent)]
    Invalid(#[from] WireRejection),
    #[error("exposition {key}: {cluster} is already offered {limit} expositions, the limit for one peer")]
    TooMany { key: ExpositionKey, cluster: ClusterName, limit: usize },
}

/// One exposition, ready to be read.
#[derive(Debug, Clone)]
pub struct BoardOffer {
    pub exposition: Arc<Exposition>,
    pub version: Arc<str>,
    /// Size on the wire, in bytes.
    bytes: usize,
}

impl BoardOffer {
    /// Returns its size on the wire, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn new(exposition: &Arc<Exposition>) -> Result<BoardOffer, WireRejection> {
        let version = exposition.version();
        convert::check_exposition(exposition, &version)?;
        let bytes = convert::to_wire(exposition, &version).encoded_len();
        Ok(BoardOffer { exposition: exposition.clone(), version: version.into(), bytes })
    }
}

/// Some of the differences between the expositions that a subscriber holds and those that it is offered.
#[derive(Debug, Default)]
pub struct OfferBatch {
    pub changed: Vec<BoardOffer>,
    pub withdrawn: Vec<ExpositionKey>,
    pub revision: u64,
    /// With this batch the subscriber holds all that it is offered.
    pub in_step: bool,
}

/// The announcement of a view: its newest revision, and whether it may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ViewHead {
    revision: u64,
    open: bool,
}

/// A handle to the board; clones share it.
#[derive(Clone)]
pub struct Board {
    limits: Arc<Limits>,
    directory: Arc<Mutex<BoardDirectory>>,
    opened: watch::Sender<bool>,
}

struct BoardDirectory {
    revision: u64,
    open: bool,
    offered: BTreeMap<ExpositionKey, BTreeSet<ClusterName>>,
    views: BTreeMap<ClusterName, Arc<BoardView>>,
    /// Expositions that may still exist.
    kept: Arc<BTreeSet<ExpositionKey>>,
}

impl Board {
    /// Makes a board that is not open yet.
    pub fn new(limits: Arc<Limits>) -> Board {
        let directory = BoardDirectory {
            revision: 0,
            open: false,
            offered: BTreeMap::new(),
            views: BTreeMap::new(),
            kept: Arc::default(),
        };
        Board { limits, directory: Arc::new(Mutex::new(directory)), opened: watch::Sender::new(false) }
    }

    /// Offers `key` to exactly the clusters in `to`, each with its exposition; empty: to nobody. Returns the revision
    /// of the change, or the present one if nothing changed.
    pub fn set_offers(
        &self,
        key: &ExpositionKey,
        to: &BTreeMap<ClusterName, Arc<Exposition>>,
    ) -> Result<u64, BoardError> {
        let mut directory = self.lock();
        let changes = self.collect_changes(&directory, key, to)?;
        let before = directory.offered.get(key).cloned().unwrap_or_default();
        let gone: Vec<_> = before.into_iter().filter(|cluster| !to.contains_key(cluster)).collect();
        if changes.is_empty() && gone.is_empty() {
            return Ok(directory.revision);
        }
        directory.revision += 1;
        let revision = directory.revision;
        for (cluster, offer) in changes {
            directory.view_of(&cluster).put_offer(key, offer, revision);
        }
        for cluster in gone {
            directory.view_of(&cluster).withdraw_offer(key, revision);
            directory.forget_if_empty(&cluster);
        }
        if to.is_empty() {
            directory.offered.remove(key);
        } else {
            directory.offered.insert(key.clone(), to.keys().cloned().collect());
        }
        Ok(revision)
    }

    /// Keeps these expositions: subscribers that hold one of them are not told that it is withdrawn while it is not
    /// offered, since its object cannot be read. An exposition that is kept no more is withdrawn, unless it is offered.
    pub fn keep_expositions(&self, keys: BTreeSet<ExpositionKey>) {
        let mut directory = self.lock();
        let before = std::mem::replace(&mut directory.kept, Arc::new(keys));
        let kept = directory.kept.clone();
        directory.views.values().for_each(|view| view.set_kept(kept.clone()));
        for key in before.difference(&kept) {
            directory.revision += 1;
            let revision = directory.revision;
            for view in directory.views.values().filter(|view| view.get(key).is_none()) {
                view.withdraw_offer(key, revision);
            }
        }
    }

    /// Ends the offer of `key` to all clusters.
    pub fn remove_offers(&self, key: &ExpositionKey) -> u64 {
        self.set_offers(key, &BTreeMap::new()).unwrap_or_default() // offering nothing can break no limit
    }

    /// Returns the differences to the present offers, checked before anything is changed.
    fn collect_changes(
        &self,
        directory: &BoardDirectory,
        key: &ExpositionKey,
        to: &BTreeMap<ClusterName, Arc<Exposition>>,
    ) -> Result<Vec<(ClusterName, BoardOffer)>, BoardError> {
        let mut changes: Vec<(ClusterName, BoardOffer)> = Vec::new();
        for (cluster, exposition) in to {
            if let Some(view) = directory.views.get(cluster) {
                match view.get(key) {
                    Some(offer) if offer.exposition == *exposition => continue,
                    None if view.offered_count() >= self.limits.max_offered => {
                        let (key, cluster, limit) = (key.clone(), cluster.clone(), self.limits.max_offered);
                        return Err(BoardError::TooMany { key, cluster, limit });
                    }
                    _ => {}
                }
            }
            // Most often all clusters are offered the same: check, hash and measure it once.
            let offer = match changes.last() {
                Some((_, last)) if Arc::ptr_eq(&last.exposition, exposition) => last.clone(),
                _ => BoardOffer::new(exposition)?,
            };
            changes.push((cluster.clone(), offer));
        }
        Ok(changes)
    }

    /// Opens the board: the donor's own store has reported all it has, so a name that the board does not show is really
    /// not offered. Before, subscribers receive heartbeats and nothing else, so that a restart withdraws nothing.
    pub fn open(&self) {
        let mut directory = self.lock();
        directory.open = true;
        directory.views.values().for_each(|view| view.open());
        self.opened.send_replace(true);
    }

    /// Returns a channel that says whether the board is open.
    pub fn watch_opened(&self) -> watch::Receiver<bool> {
        self.opened.subscribe()
    }

    /// Returns the revision of the newest change.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Returns the number of expositions that a cluster is offered.
    pub fn offered_count(&self, cluster: &ClusterName) -> usize {
        let view = self.lock().views.get(cluster).cloned();
        view.map_or(0, |view| view.offered_count())
    }

    /// Returns all that a cluster is offered now, and the revision of the newest change of it.
    pub fn list_offers(&self, cluster: &ClusterName) -> (Vec<BoardOffer>, u64) {
        let view = self.lock().views.get(cluster).cloned();
        view.map_or_else(Default::default, |view| view.list_offers())
    }

    /// Returns whether a cluster is offered an exposition now.
    pub fn is_offered(&self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        let view = self.lock().views.get(cluster).cloned();
        view.is_some_and(|view| view.get(key).is_some())
    }

    /// Returns the version in which a cluster is offered an exposition now.
    pub fn offered_version(&self, cluster: &ClusterName, key: &ExpositionKey) -> Option<Arc<str>> {
        let view = self.lock().views.get(cluster).cloned()?;
        view.get(key).map(|offer| offer.version)
    }

    /// Returns the clusters that an exposition is offered to now, with its version for each.
    pub fn offered_versions(&self, key: &ExpositionKey) -> BTreeMap<ClusterName, Arc<str>> {
        let directory = self.lock();
        let to = directory.offered.get(key).into_iter().flatten();
        to.filter_map(|cluster| Some((cluster.clone(), directory.views.get(cluster)?.get(key)?.version))).collect()
    }

    /// Begins to read the offers for `cluster`, as differences to what it `held`.
    pub fn subscribe(&self, cluster: &ClusterName, held: HeldList) -> BoardSubscription {
        let view = self.lock().view_of(cluster);
        let (reader, head) = view.add_reader(held);
        BoardSubscription { board: self.clone(), cluster: cluster.clone(), view, reader, head }
    }

    fn lock(&self) -> MutexGuard<'_, BoardDirectory> {
        // Nothing panics while holding it; and if it did, the state is changed in steps that each leave it whole.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BoardDirectory {
    fn view_of(&mut self, cluster: &ClusterName) -> Arc<BoardView> {
        let (revision, open) = (self.revision, self.open);
        let new = || Arc::new(BoardView::new(ViewHead { revision, open }, self.kept.clone()));
        self.views.entry(cluster.clone()).or_insert_with(new).clone()
    }

    fn forget_if_empty(&mut self, cluster: &ClusterName) {
        if self.views.get(cluster).is_some_and(|view| view.is_unused()) {
            self.views.remove(cluster);
        }
    }
}

/// One subscriber's reading of the board. Costs its cursor and the versions it holds, and ends when it is dropped.
pub struct BoardSubscription {
    board: Board,
    cluster: ClusterName,
    view: Arc<BoardView>,
    reader: u64,
    head: watch::Receiver<ViewHead>,
}

impl BoardSubscription {
    /// Returns the next differences, as many as fit a message; None if there are none now. The first answer of an open
    /// board always ends with a batch, empty if need be, that is `in_step`.
    pub fn read_batch(&mut self) -> Option<OfferBatch> {
        if !self.head.borrow_and_update().open {
            return None;
        }
        self.view.read_batch(self.reader, self.board.limits.max_batch, self.board.limits.max_batch_bytes)
    }

    /// Waits until there may be something to read.
    pub async fn wait_for_change(&mut self) {
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await; // the view holds the sender, and we hold the view
        }
    }

    /// Returns whether the list of the subscriber's earlier holdings is compared with its offers. It is not while the
    /// board is closed.
    pub fn is_compared(&self) -> bool {
        self.view.is_compared(self.reader)
    }

    /// Returns the newest revision of this subscriber's offers.
    pub fn head_revision(&self) -> u64 {
        self.head.borrow().revision
    }

    /// Returns the revision that was read last.
    pub fn cursor(&self) -> u64 {
        self.view.reader_cursor(self.reader)
    }

    /// Returns whether this subscriber was sent an exposition, and not yet its withdrawal.
    pub fn holds(&self, key: &ExpositionKey) -> bool {
        self.view.reader_holds(self.reader, key)
    }
}

impl Drop for BoardSubscription {
    fn drop(&mut self) {
        let mut directory = self.board.lock();
        self.view.remove_reader(self.reader);
        directory.forget_if_empty(&self.cluster);
    }
}
