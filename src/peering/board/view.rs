//! The offers for one cluster, as a log in which every exposition stands once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{BoardOffer, OfferBatch, ViewHead};
use crate::model::ExpositionKey;
use crate::peering::convert::{HeldEntries, HeldList};

/// Entries that one turn of reading looks at, so that the owner never waits long for the lock.
const TURN: usize = 2048;

pub(super) struct BoardView {
    state: Mutex<ViewState>,
    head: watch::Sender<ViewHead>,
}

#[derive(Default)]
struct ViewState {
    slots: BTreeMap<ExpositionKey, OfferSlot>,
    /// Every slot once, at its revision.
    log: BTreeMap<u64, ExpositionKey>,
    /// The slots whose offer is gone: kept until every reader that holds one has passed it.
    tombs: BTreeMap<u64, ExpositionKey>,
    readers: BTreeMap<u64, ViewReader>,
    next_reader: u64,
    /// Expositions that are not withdrawn although they are not offered.
    kept: Arc<BTreeSet<ExpositionKey>>,
}

struct OfferSlot {
    revision: u64,
    offer: Option<BoardOffer>,
}

impl OfferSlot {
    /// A version that a reader holds; in memory that is shared, if it is the offered one.
    fn version_of(&self, version: &[u8]) -> Arc<str> {
        let same = self.offer.as_ref().filter(|offer| offer.version.as_bytes() == version);
        same.map_or_else(|| String::from_utf8_lossy(version).into(), |offer| offer.version.clone())
    }
}

struct ViewReader {
    /// The reader has read everything up to this revision.
    cursor: u64,
    /// The version of each exposition that the subscriber holds, once it has processed what was read.
    holds: BTreeMap<ExpositionKey, Arc<str>>,
    held: HeldBefore,
    /// The subscriber was told once that it is in step.
    answered: bool,
}

/// The earlier holdings of a reader, from before it began.
enum HeldBefore {
    /// Not looked at: the board was not open yet.
    Unread(HeldList),
    /// Its entries that are offered are in `holds`. The others are withdrawn: they have no slot that says so.
    Withdrawing(HeldEntries),
    Done,
}

impl BoardView {
    pub(super) fn new(head: ViewHead, kept: Arc<BTreeSet<ExpositionKey>>) -> BoardView {
        let state = ViewState { kept, ..ViewState::default() };
        BoardView { state: Mutex::new(state), head: watch::Sender::new(head) }
    }

    pub(super) fn set_kept(&self, kept: Arc<BTreeSet<ExpositionKey>>) {
        self.lock().kept = kept;
    }

    fn lock(&self) -> MutexGuard<'_, ViewState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) {
        self.head.send_modify(|head| head.open = true);
    }

    pub(super) fn put_offer(&self, key: &ExpositionKey, offer: BoardOffer, revision: u64) {
        self.lock().put_slot(key, Some(offer), revision);
        self.head.send_modify(|head| head.revision = revision);
    }

    pub(super) fn withdraw_offer(&self, key: &ExpositionKey, revision: u64) {
        let mut state = self.lock();
        // A reader that never received the exposition needs no tombstone: so a stalled reader costs what it holds,
        // however much comes and goes.
        if state.readers.values().any(|reader| reader.holds.contains_key(key)) {
            state.put_slot(key, None, revision);
            drop(state);
            self.head.send_modify(|head| head.revision = revision);
        } else if let Some(slot) = state.slots.remove(key) {
            state.log.remove(&slot.revision);
        }
    }

    pub(super) fn get(&self, key: &ExpositionKey) -> Option<BoardOffer> {
        self.lock().slots.get(key)?.offer.clone()
    }

    pub(super) fn offered_count(&self) -> usize {
        let state = self.lock();
        state.slots.len() - state.tombs.len()
    }

    pub(super) fn is_unused(&self) -> bool {
        let state = self.lock();
        state.slots.is_empty() && state.readers.is_empty()
    }

    pub(super) fn list_offers(&self) -> (Vec<BoardOffer>, u64) {
        let state = self.lock();
        let offers = state.slots.values().filter_map(|slot| slot.offer.clone()).collect();
        (offers, self.head.borrow().revision)
    }

    pub(super) fn add_reader(&self, held: HeldList) -> (u64, watch::Receiver<ViewHead>) {
        let mut state = self.lock();
        state.next_reader += 1;
        let id = state.next_reader;
        let held = HeldBefore::Unread(held);
        state.readers.insert(id, ViewReader { cursor: 0, holds: BTreeMap::new(), held, answered: false });
        (id, self.head.subscribe())
    }

    pub(super) fn remove_reader(&self, id: u64) {
        let mut state = self.lock();
        state.readers.remove(&id);
        state.prune_tombs();
    }

    pub(super) fn reader_cursor(&self, id: u64) -> u64 {
        self.lock().readers.get(&id).map_or(0, |reader| reader.cursor)
    }

    pub(super) fn is_compared(&self, id: u64) -> bool {
        self.lock().readers.get(&id).is_some_and(|reader| !matches!(reader.held, HeldBefore::Unread(_)))
    }

    pub(super) fn reader_holds(&self, id: u64, key: &ExpositionKey) -> bool {
        self.lock().readers.get(&id).is_some_and(|reader| reader.holds.contains_key(key))
    }

    /// Returns the differences that the reader has not read yet, up to the limits of one message.
    pub(super) fn read_batch(&self, id: u64, max: usize, max_bytes: usize) -> Option<OfferBatch> {
        let mut batch = OfferBatch::default();
        let mut room = BatchRoom { count: max, bytes: max_bytes };
        loop {
            let mut state = self.lock();
            if state.read_turn(id, &mut batch, &mut room)? {
                break;
            }
        }
        let mut state = self.lock();
        state.prune_tombs();
        let ViewState { readers, log, .. } = &mut *state;
        let reader = readers.get_mut(&id)?;
        batch.revision = reader.cursor;
        batch.in_step = matches!(reader.held, HeldBefore::Done)
            && log.last_key_value().is_none_or(|(newest, _)| *newest <= reader.cursor);
        if batch.in_step {
            reader.cursor = reader.cursor.max(self.head.borrow().revision);
            batch.revision = reader.cursor;
        }
        let first = batch.in_step && !reader.answered;
        reader.answered |= batch.in_step;
        (first || !batch.changed.is_empty() || !batch.withdrawn.is_empty()).then_some(batch)
    }
}

impl ViewReader {
    /// Compares the earlier holdings with the offers, once, when the board is open. Versions that are not the offered
    /// one are not kept; it is enough that they differ.
    fn look_at_held(&mut self, slots: &BTreeMap<ExpositionKey, OfferSlot>) {
        let HeldBefore::Unread(held) = &self.held else { return };
        for (key, version) in held.entries() {
            if let Some(slot) = slots.get(&key) {
                self.holds.insert(key, slot.version_of(&version));
            }
        }
        self.held = HeldBefore::Withdrawing(held.entries());
    }

    /// Withdraws earlier holdings that are not offered; false if the message is full before the end.
    fn withdraw_held(
        &mut self,
        slots: &BTreeMap<ExpositionKey, OfferSlot>,
        kept: &BTreeSet<ExpositionKey>,
        batch: &mut OfferBatch,
        room: &mut BatchRoom,
    ) -> bool {
        let HeldBefore::Withdrawing(entries) = &mut self.held else { return true };
        while !room.is_full() {
            let Some((key, version)) = entries.next() else {
                self.held = HeldBefore::Done;
                return true;
            };
            match slots.get(&key) {
                // It is offered, or was offered meanwhile: the log reports it, and one message never says two things of
                // one name.
                Some(slot) => {
                    self.holds.entry(key).or_insert_with(|| slot.version_of(&version));
                }
                // A kept exposition is withdrawn once it is kept no more.
                None if kept.contains(&key) => {
                    self.holds.insert(key, String::from_utf8_lossy(&version).into());
                }
                None => {
                    room.take_room(key.namespace.as_str().len() + key.name.as_str().len());
                    batch.withdrawn.push(key);
                }
            }
        }
        false
    }
}

/// The room that is left in one message.
struct BatchRoom {
    count: usize,
    bytes: usize,
}

impl BatchRoom {
    fn is_full(&self) -> bool {
        self.count == 0 || self.bytes == 0
    }

    fn take_room(&mut self, bytes: usize) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl ViewState {
    fn put_slot(&mut self, key: &ExpositionKey, offer: Option<BoardOffer>, revision: u64) {
        let tomb = offer.is_none();
        if let Some(old) = self.slots.insert(key.clone(), OfferSlot { revision, offer }) {
            self.log.remove(&old.revision);
            self.tombs.remove(&old.revision);
        }
        self.log.insert(revision, key.clone());
        if tomb {
            self.tombs.insert(revision, key.clone());
        }
    }

    /// Looks at some entries; true once the batch is full or the log is read. None: there is no such reader.
    fn read_turn(&mut self, id: u64, batch: &mut OfferBatch, room: &mut BatchRoom) -> Option<bool> {
        let ViewState { slots, log, readers, kept, .. } = self;
        let reader = readers.get_mut(&id)?;
        reader.look_at_held(slots);
        if !reader.withdraw_held(slots, kept, batch, room) {
            return Some(true);
        }
        let ViewReader { cursor, holds, .. } = reader;
        for (looked, (revision, key)) in log.range((Excluded(*cursor), Unbounded)).enumerate() {
            if room.is_full() || looked == TURN {
                return Some(room.is_full());
            }
            *cursor = *revision;
            let offer = slots.get(key).and_then(|slot| slot.offer.as_ref());
            match (offer, holds.get(key)) {
                (Some(offer), Some(version)) if offer.version == *version => {}
                (Some(offer), _) => {
                    holds.insert(key.clone(), offer.version.clone());
                    room.take_room(offer.bytes);
                    batch.changed.push(offer.clone());
                }
                (None, Some(_)) => {
                    holds.remove(key);
                    room.take_room(key.namespace.as_str().len() + key.name.as_str().len());
                    batch.withdrawn.push(key.clone());
                }
                (None, None) => {}
            }
        }
        Some(true)
    }

    /// Forgets the tombstones that every reader has passed.
    fn prune_tombs(&mut self) {
        let passed = self.readers.values().map(|reader| reader.cursor).min().unwrap_or(u64::MAX);
        while let Some(entry) = self.tombs.first_entry().filter(|entry| *entry.key() <= passed) {
            let (revision, key) = entry.remove_entry();
            self.log.remove(&revision);
            self.slots.remove(&key);
        }
    }
}

#[cfg(test)]
impl BoardView {
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.slots.len(), state.log.len(), state.tombs.len())
    }
}
