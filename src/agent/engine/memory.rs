//! Stores, for the next start, the expositions of peers that bindings use, and a few others, as they were when the
//! peers last reported them.
//!
//! A peer decides how often it changes an exposition, but not how often that is written: a new version alone causes no
//! write, and one name is written at most once a minute, or once in ten minutes while no binding uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use crate::model::{ClusterName, Exposition, ExpositionKey};
use crate::store::{KnownExposition, Store};

/// Interval between two writes of a name, while a binding uses it and while none does.
const USED_PAUSE: Duration = Duration::from_secs(60);
const UNUSED_PAUSE: Duration = Duration::from_secs(600);
/// Pause before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Most bytes, as text, of one peer's remembered expositions that no binding uses.
const MAX_UNUSED: usize = 256 << 10;
/// Most names for which a removal is noted until the end of the pause.
const MAX_NOTES: usize = 10_000;
/// Name of the place in problems of the store's memory.
const PLACE: &str = "memory of peers";

type MemoryKey = (ClusterName, ExpositionKey);

#[derive(Default)]
pub(super) struct PeerMemory {
    /// The last write of each name.
    notes: BTreeMap<MemoryKey, MemoryNote>,
    /// Bytes of unused expositions, by peer.
    unused: BTreeMap<ClusterName, usize>,
    /// Writes that wait, the newest of each name. Losing one costs only a transfer after the next start.
    waiting: BTreeMap<MemoryKey, Option<KnownExposition>>,
    due: Option<Instant>,
    /// Expositions that bindings started or ceased to use since the store was last brought in line with that.
    use_changed: Vec<MemoryKey>,
    /// Expositions that are held no longer: the store's memory of them is to be cleared.
    forgotten: Vec<MemoryKey>,
    /// The store's memory of peers that are not known yet.
    recalled: Vec<(ClusterName, KnownExposition)>,
    /// Time at which the store is asked again for its memory.
    recall_due: Option<Instant>,
}

struct MemoryNote {
    /// None: the name was removed.
    content: Option<Exposition>,
    /// Bytes as text, if no binding uses it.
    unused: usize,
    /// The store knows that a binding uses it.
    used: bool,
    written: Option<Instant>,
}

impl PeerMemory {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn next_recall(&self) -> Option<Instant> {
        self.recall_due
    }

    /// Schedules a question for the store's memory.
    pub(super) fn recall_at(&mut self, time: Instant) {
        self.recall_due = Some(time);
    }

    /// Keeps the store's memory until its peers are known.
    pub(super) fn end_recall(&mut self, known: Vec<(ClusterName, KnownExposition)>) {
        self.recall_due = None;
        self.recalled = known;
    }

    pub(super) fn take_recalled(&mut self) -> Vec<(ClusterName, KnownExposition)> {
        std::mem::take(&mut self.recalled)
    }

    /// Notes that bindings started or ceased to use an exposition.
    pub(super) fn note_use(&mut self, name: MemoryKey) {
        self.use_changed.push(name);
    }

    /// Notes that an exposition is held no longer.
    pub(super) fn forget(&mut self, name: MemoryKey) {
        self.forgotten.push(name);
    }

    pub(super) fn take_forgotten(&mut self) -> Vec<MemoryKey> {
        std::mem::take(&mut self.forgotten)
    }

    /// Takes over an exposition that the store has from before this process.
    pub(super) fn adopt_exposition(&mut self, name: MemoryKey, content: Exposition) {
        let unused = text_bytes(&content);
        self.put_note(name, MemoryNote { content: Some(content), unused, used: false, written: None });
    }

    /// Returns whether there is room for an exposition that no binding uses.
    fn has_room(&self, name: &MemoryKey, known: &KnownExposition) -> bool {
        let before = self.notes.get(name).map_or(0, |note| note.unused);
        let others = self.unused.get(&name.0).map_or(0, |bytes| bytes - before);
        others < MAX_UNUSED && others + text_bytes(&known.exposition) <= MAX_UNUSED
    }

    /// Returns the time from which this may be written. None if there is no need.
    fn earliest_write(
        &self,
        name: &MemoryKey,
        known: Option<&KnownExposition>,
        used: bool,
        now: Instant,
    ) -> Option<Instant> {
        let Some(note) = self.notes.get(name) else { return known.map(|_| now) };
        match known {
            None => note.content.as_ref().map(|_| now), // at most as often as something was written
            Some(known) if note.content.as_ref() == Some(&known.exposition) => (note.used != used).then_some(now),
            Some(_) => {
                let pause = if used { USED_PAUSE } else { UNUSED_PAUSE };
                Some(note.written.map_or(now, |written| written + pause))
            }
        }
    }

    fn wait_until(&mut self, due: Instant) {
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    fn note_write(&mut self, name: MemoryKey, known: Option<KnownExposition>, used: bool, now: Instant) {
        if self.notes.len() >= MAX_NOTES {
            let is_over = |note: &MemoryNote| note.written.is_none_or(|written| now >= written + UNUSED_PAUSE);
            self.notes.retain(|_, note| note.content.is_some() || !is_over(note));
        }
        let before = self.notes.get(&name);
        let same = before.is_some_and(|note| note.content.as_ref() == known.as_ref().map(|k| &k.exposition));
        let written = if known.is_none() || same { before.and_then(|note| note.written) } else { Some(now) };
        let content = known.map(|known| known.exposition);
        let unused = content.as_ref().filter(|_| !used).map_or(0, text_bytes);
        self.put_note(name, MemoryNote { content, unused, used, written });
    }

    fn put_note(&mut self, name: MemoryKey, note: MemoryNote) {
        let bytes = self.unused.entry(name.0.clone()).or_default();
        *bytes += note.unused;
        *bytes -= self.notes.get(&name).map_or(0, |before| before.unused);
        if note.content.is_none() && note.written.is_none() {
            self.notes.remove(&name);
        } else {
            self.notes.insert(name, note);
        }
    }
}

fn text_bytes(exposition: &Exposition) -> usize {
    serde_json::to_string(exposition).map_or(0, |text| text.len())
}

impl<S: Store> Engine<S> {
    /// Remembers what a peer offers for the time after this process, or that it is gone.
    pub(super) async fn remember_exposition(
        &mut self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        known: Option<KnownExposition>,
    ) {
        let name = (cluster.clone(), key.clone());
        let used = self.acceptor.is_used(cluster, key);
        let known = known.filter(|known| used || self.memory.has_room(&name, known));
        self.memory.waiting.remove(&name);
        let now = Instant::now();
        match self.memory.earliest_write(&name, known.as_ref(), used, now) {
            None => {}
            Some(due) if due > now => {
                self.memory.waiting.insert(name, known);
                self.memory.wait_until(due);
            }
            Some(_) => self.write_memory(name, known, used).await,
        }
    }

    async fn write_memory(&mut self, name: MemoryKey, known: Option<KnownExposition>, used: bool) {
        let result = self.store.remember_exposition(&name.0, &name.1, known.as_ref(), used).await;
        let problem = result.err().map(|e| e.to_string());
        if problem.is_none() {
            self.memory.note_write(name.clone(), known.clone(), used, Instant::now());
        }
        self.note_memory(name, known, problem);
    }

    fn note_memory(&mut self, name: MemoryKey, known: Option<KnownExposition>, problem: Option<String>) {
        if problem.is_some() {
            self.memory.waiting.insert(name, known);
            self.memory.wait_until(Instant::now() + RETRY_PAUSE);
        }
        if problem.is_some() || self.memory.waiting.is_empty() {
            self.note_problem(PLACE, problem);
        }
    }

    /// Writes what has waited long enough.
    pub(super) async fn write_due_memory(&mut self) {
        self.memory.due = None;
        for ((cluster, key), known) in std::mem::take(&mut self.memory.waiting) {
            self.remember_exposition(&cluster, &key, known).await; // it waits again, or is written
        }
    }

    /// Writes all that waits, at the end of the agent.
    pub(super) async fn close_memory(&mut self) {
        for (name, known) in std::mem::take(&mut self.memory.waiting) {
            let used = self.acceptor.is_used(&name.0, &name.1);
            let _ = self.store.remember_exposition(&name.0, &name.1, known.as_ref(), used).await; // peers send it again later
        }
    }

    /// Remembers the expositions that bindings started to use since the last call, and forgets those that they ceased
    /// to use.
    pub(super) async fn remember_use(&mut self) {
        for (cluster, key) in std::mem::take(&mut self.memory.use_changed) {
            let offer = self.acceptor.offers.get(&cluster).and_then(|offers| offers.get(&key));
            let known = offer.and_then(|offer| {
                let exposition = offer.exposition()?.as_ref().clone();
                Some(KnownExposition { version: offer.version.to_string(), exposition })
            });
            self.remember_exposition(&cluster, &key, known).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> MemoryKey {
        let key = ExpositionKey { namespace: "shop".parse().unwrap(), name: "till".parse().unwrap() };
        ("far".parse().unwrap(), key)
    }

    fn known(version: &str, port: u16) -> KnownExposition {
        let exposition = serde_json::from_value(serde_json::json!({
            "namespace": "shop", "name": "till", "host": "till.shop.svc.cluster.local",
            "ports": [{"number": port, "name": "http", "protocol": "HTTP", "host": "till.shop.svc.cluster.local"}],
            "tls": "Cluster", "gateways": [{"address": "192.0.2.1", "port": 15443}],
        }));
        KnownExposition { version: version.into(), exposition: exposition.unwrap() }
    }

    #[test]
    fn a_name_is_written_once_a_minute_and_never_for_its_version_alone() {
        let (mut memory, start) = (PeerMemory::default(), Instant::now());
        let admit = |memory: &PeerMemory, known: Option<KnownExposition>| {
            memory.earliest_write(&name(), known.as_ref(), true, start)
        };
        assert_eq!(admit(&memory, Some(known("1", 1))), Some(start));
        memory.note_write(name(), Some(known("1", 1)), true, start);
        assert_eq!(admit(&memory, Some(known("2", 1))), None);
        assert_eq!(admit(&memory, Some(known("3", 2))), Some(start + USED_PAUSE));
        assert_eq!(memory.earliest_write(&name(), Some(&known("3", 2)), false, start), Some(start + UNUSED_PAUSE));
        assert_eq!(admit(&memory, None), Some(start));
        memory.note_write(name(), None, true, start);
        assert_eq!(admit(&memory, None), None, "it is gone already");
        let again = admit(&memory, Some(known("1", 1)));
        assert_eq!(again, Some(start + USED_PAUSE), "to be gone for a moment is no way around it");
    }

    #[test]
    fn what_the_store_has_from_before_is_told_once_that_it_is_used() {
        let (mut memory, now) = (PeerMemory::default(), Instant::now());
        memory.adopt_exposition(name(), known("1", 1).exposition);
        assert_eq!(memory.earliest_write(&name(), Some(&known("1", 1)), true, now), Some(now));
        memory.note_write(name(), Some(known("1", 1)), true, now);
        assert_eq!(memory.earliest_write(&name(), Some(&known("1", 1)), true, now), None);
        assert_eq!(
            memory.earliest_write(&name(), Some(&known("2", 2)), true, now),
            Some(now),
            "nothing was written yet"
        );
    }

    #[test]
    fn little_is_remembered_of_what_no_binding_uses() {
        let (mut memory, now) = (PeerMemory::default(), Instant::now());
        let named = |n: usize| (name().0, ExpositionKey { name: format!("s{n}").parse().unwrap(), ..name().1 });
        let (mut kept, mut used) = (0, 0);
        for n in 0..4_000 {
            if memory.has_room(&named(n), &known("1", 1)) {
                memory.note_write(named(n), Some(known("1", 1)), false, now);
                kept += 1;
            }
        }
        assert!((500..2_000).contains(&kept), "{kept}");
        while !memory.has_room(&named(3_999), &known("1", 1)) {
            memory.note_write(named(used), Some(known("1", 1)), true, now);
            used += 1;
        }
        assert_eq!(used, 1, "what bindings use does not count");
        memory.note_write(named(1), None, false, now);
        assert!(memory.has_room(&named(3_998), &known("1", 1)));
    }
}
