//! The donor's knowledge about its subscribers: their presence, since when, their instances, and their outcomes of
//! expositions. Statuses and metrics show it; it decides nothing but whether a name is taken.
//!
//! Memory is bounded: by the number of peers, and for each by what it is offered. Changes are reported as a set of
//! names rather than a queue, so that a late reader costs no more than one that reads at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::clean_prose;
use super::convert::ExpositionOutcome;
use super::limits::{Limits, MAX_MESSAGE, MAX_OUTCOME_TEXT, MAX_OUTCOME_TEXT_IN_ALL};
use crate::identity::ShownCertificates;
use crate::model::{ClusterName, ExpositionKey};

/// Most changed names that are kept for the reader; more are reported as "everything".
const MAX_CHANGED: usize = 10_000;

/// Another cluster tried to subscribe under a name that is taken. It goes on trying at least twice a minute, so a clash
/// that was last seen some minutes ago is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameClash {
    /// The instance that was refused.
    pub refused: String,
    pub at: SystemTime,
}

/// A peer broke the limits of the protocol, and its calls are refused for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPause {
    /// The breach that was one too many.
    pub why: String,
    pub since: SystemTime,
}

/// The state of one cluster's subscriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    pub cluster: ClusterName,
    pub instance: String,
    /// Open streams: one for each of its replicas.
    pub subscriptions: usize,
    /// Start of the oldest open stream.
    pub connected_since: Option<SystemTime>,
    /// Time of its last message: an acknowledgement, or its hello.
    pub last_heard: Option<SystemTime>,
    /// The newest revision that it acknowledged in a stream that is open.
    pub acknowledged: u64,
    /// Expiry of the certificate of its newest stream.
    pub certificate_expires: Option<OffsetDateTime>,
    /// Number of its outcomes.
    pub outcomes: usize,
    pub clash: Option<NameClash>,
}

/// The report of a cluster to one replica of this agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriberReport {
    pub subscriptions: usize,
    pub certificate_expires: Option<OffsetDateTime>,
    /// The certificates of its newest stream.
    pub shown: ShownCertificates,
    pub said: OutcomeMap,
}

/// The reason why a cluster cannot subscribe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnterError {
    #[error(
        "the name {cluster} is taken: another cluster (instance {taken}…) subscribes with a certificate of this name. \
         Every cluster needs a name and certificate of its own; a cluster that was made anew under its old name is let \
         in {grace} s after the old one's last stream ended"
    )]
    NameTaken { cluster: ClusterName, taken: String, grace: u64 },
    #[error("{cluster} has {limit} subscriptions already, the limit for one cluster")]
    TooManyStreams { cluster: ClusterName, limit: usize },
    #[error("{limit} clusters subscribe already, the limit")]
    TooManyClusters { limit: usize },
    #[error("there are {limit} subscriptions of all clusters already, the limit")]
    TooManySubscriptions { limit: usize },
}

/// Changes since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SubscriberChanges {
    /// Everything may have changed: there are too many changes to name them.
    pub everything: bool,
    /// Clusters that came, went or clashed.
    pub clusters: BTreeSet<ClusterName>,
    /// Expositions whose outcome at a cluster changed.
    pub outcomes: BTreeSet<(ClusterName, ExpositionKey)>,
}

impl SubscriberChanges {
    fn is_empty(&self) -> bool {
        !self.everything && self.clusters.is_empty() && self.outcomes.is_empty()
    }
}

/// A handle; clones share the state.
#[derive(Clone)]
pub struct Subscribers {
    limits: Arc<Limits>,
    state: Arc<Mutex<SubscribersState>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct SubscribersState {
    clusters: BTreeMap<ClusterName, SubscriberEntry>,
    /// Callers of any kind, subscribed or not.
    paused: BTreeMap<ClusterName, PeerPause>,
    changed: SubscriberChanges,
    next_stream: u64,
}

struct SubscriberEntry {
    instance: String,
    streams: BTreeMap<u64, SubscriberStream>,
    /// Time when the last stream ended.
    left: Instant,
    /// The certificates that it showed last, here or at another replica. Kept while it is away.
    shown: ShownCertificates,
    /// Outcomes of streams that have ended. They hold while there is no other stream, and until another has had time to
    /// send them again.
    said: ReportedOutcomes,
    last_heard: Option<SystemTime>,
    clash: Option<NameClash>,
    /// Its reports to other replicas of this agent, by their names.
    elsewhere: BTreeMap<Arc<str>, SubscriberReport>,
}

struct SubscriberStream {
    since: SystemTime,
    acknowledged: u64,
    certificate_expires: OffsetDateTime,
    said: ReportedOutcomes,
}

/// The outcomes that one stream reported. There are as many states as offers; texts are bounded beyond that: where
/// there is no room for its text, an outcome keeps its state and its reason, and then its state alone.
#[derive(Debug, Clone, Default)]
struct ReportedOutcomes {
    by_key: OutcomeMap,
    text: usize,
}

impl ReportedOutcomes {
    /// Adds an outcome. Returns whether it is new or has other words, and whether another one was reported before.
    fn insert_outcome(&mut self, key: ExpositionKey, mut outcome: ExpositionOutcome, room: &mut usize) -> (bool, bool) {
        let before = self.by_key.get(&key);
        let freed = before.map_or(0, text_bytes);
        self.text -= freed;
        *room += freed;
        if text_bytes(&outcome) > *room {
            outcome.message.clear();
        }
        if text_bytes(&outcome) > *room {
            outcome.reason.clear();
        }
        *room -= text_bytes(&outcome);
        outcome.message.shrink_to_fit();
        self.text += text_bytes(&outcome);
        let (changed, known) = (before != Some(&outcome), before.is_some());
        if changed {
            self.by_key.insert(key, outcome);
        }
        (changed, known)
    }

    fn remove_outcome(&mut self, key: &ExpositionKey) -> bool {
        let removed = self.by_key.remove(key);
        self.text -= removed.as_ref().map_or(0, text_bytes);
        removed.is_some()
    }

    fn extend(&mut self, other: ReportedOutcomes) {
        let mut room = MAX_OUTCOME_TEXT.saturating_sub(self.text);
        other.by_key.into_iter().for_each(|(key, outcome)| {
            self.insert_outcome(key, outcome, &mut room);
        });
    }
}

fn text_bytes(outcome: &ExpositionOutcome) -> usize {
    outcome.reason.len() + outcome.message.len()
}

/// Time for a new stream to send all outcomes of its acceptor, which may be many: after it, outcomes of an earlier
/// stream that the new one did not send count no more.
const HAS_SAID: Duration = Duration::from_secs(5);

pub type OutcomeMap = BTreeMap<ExpositionKey, ExpositionOutcome>;

impl Subscribers {
    pub fn new(limits: Arc<Limits>) -> Subscribers {
        Subscribers { limits, state: Arc::default(), changed: Arc::default() }
    }

    pub fn get(&self, cluster: &ClusterName) -> Option<Subscriber> {
        self.lock().clusters.get(cluster).map(|entry| entry.to_subscriber(cluster))
    }

    pub fn list(&self) -> Vec<Subscriber> {
        self.lock().clusters.iter().map(|(cluster, entry)| entry.to_subscriber(cluster)).collect()
    }

    /// Returns the outcomes of one exposition, by cluster.
    pub fn outcomes_by_cluster(&self, key: &ExpositionKey) -> BTreeMap<ClusterName, ExpositionOutcome> {
        let state = self.lock();
        let outcome = |(cluster, entry): (&ClusterName, &SubscriberEntry)| {
            Some((cluster.clone(), entry.newest_outcome(key)?.clone()))
        };
        state.clusters.iter().filter_map(outcome).collect()
    }

    /// Returns the outcome of one exposition at one cluster.
    pub fn outcome_at(&self, cluster: &ClusterName, key: &ExpositionKey) -> Option<ExpositionOutcome> {
        self.lock().clusters.get(cluster)?.newest_outcome(key).cloned()
    }

    /// Returns the certificates that a cluster showed last, as long as it is remembered.
    pub fn shown_certificates(&self, cluster: &ClusterName) -> Option<ShownCertificates> {
        self.lock().clusters.get(cluster).map(|entry| entry.shown.clone())
    }

    /// Returns the pause of a peer, if its calls are refused.
    pub fn pause_of(&self, cluster: &ClusterName) -> Option<PeerPause> {
        self.lock().paused.get(cluster).cloned()
    }

    pub(super) fn pause_peer(&self, cluster: &ClusterName, why: &str) {
        let max = self.limits.max_peers;
        let pause = PeerPause { why: clean_prose(why, MAX_MESSAGE), since: SystemTime::now() };
        self.update_state(|state| {
            if state.paused.len() < max {
                state.paused.insert(cluster.clone(), pause);
                state.changed.clusters.insert(cluster.clone());
            }
        });
    }

    pub(super) fn resume_peer(&self, cluster: &ClusterName) {
        self.update_state(|state| {
            if state.paused.remove(cluster).is_some() {
                state.changed.clusters.insert(cluster.clone());
            }
        });
    }

    /// Waits for a change, and takes all there are. For one reader.
    pub async fn wait_for_changes(&self) -> SubscriberChanges {
        loop {
            let changed = std::mem::take(&mut self.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.changed.notified().await; // holds a permit if there was a change since
        }
    }

    /// Forgets a cluster that is no peer any more.
    pub fn forget_cluster(&self, cluster: &ClusterName) {
        self.update_state(|state| {
            if state.clusters.get(cluster).is_some_and(|entry| entry.streams.is_empty()) {
                state.clusters.remove(cluster);
                state.changed.clusters.insert(cluster.clone());
            }
        });
    }

    /// Drops the outcomes of an exposition at clusters that are not offered it any more. Subscribed clusters are told,
    /// unless it is offered again before that, and then their outcomes still count ([`StreamPresence::record_withdrawals`]).
    pub fn retain_outcomes(&self, key: &ExpositionKey, offered: impl Fn(&ClusterName) -> bool) {
        self.update_state(|state| {
            for (cluster, entry) in state.clusters.iter_mut().filter(|(cluster, _)| !offered(cluster)) {
                if entry.said.remove_outcome(key) {
                    state.changed.outcomes.insert((cluster.clone(), key.clone()));
                }
            }
        });
    }

    /// Enters a stream of a cluster. The first instance keeps the name for as long as its streams live, and a while
    /// longer.
    pub(super) fn enter_stream(
        &self,
        cluster: &ClusterName,
        instance: &str,
        certificate_expires: OffsetDateTime,
    ) -> Result<StreamPresence, EnterError> {
        let limits = self.limits.clone();
        let now = Instant::now();
        let id = self.update_state(|state| state.enter_stream(cluster, instance, certificate_expires, &limits, now))?;
        Ok(StreamPresence { subscribers: self.clone(), cluster: cluster.clone(), id })
    }

    /// Sets the outcome of an exposition at a cluster from before this process. It counts only while the cluster is
    /// away and has no other.
    pub fn assume_outcome(&self, cluster: &ClusterName, key: &ExpositionKey, outcome: ExpositionOutcome) {
        let mut state = self.lock();
        if !state.clusters.contains_key(cluster) && state.clusters.len() >= self.limits.max_peers {
            return;
        }
        let entry =
            state.clusters.entry(cluster.clone()).or_insert_with(|| SubscriberEntry::without_streams(String::new()));
        if entry.streams.is_empty() && !entry.said.by_key.contains_key(key) {
            let mut room = MAX_OUTCOME_TEXT.saturating_sub(entry.total_text_bytes());
            entry.said.insert_outcome(key.clone(), outcome, &mut room);
        }
    }

    /// Replaces the reports of clusters to another replica of this agent.
    pub fn replace_replica_report(&self, replica: &str, clusters: BTreeMap<ClusterName, SubscriberReport>) {
        let max = self.limits.max_peers;
        self.update_state(|state| {
            let SubscribersState { clusters: entries, changed, .. } = state;
            let mut shown_before = BTreeMap::new();
            for (cluster, entry) in entries.iter_mut() {
                let Some(before) = entry.elsewhere.remove(replica) else { continue };
                shown_before.insert(cluster.clone(), before.shown.clone());
                if clusters.get(cluster) != Some(&before) {
                    changed.clusters.insert(cluster.clone());
                    changed.outcomes.extend(before.said.into_keys().map(|key| (cluster.clone(), key)));
                }
            }
            for (cluster, here) in clusters {
                if !entries.contains_key(&cluster) && entries.len() >= max {
                    continue;
                }
                let entry =
                    entries.entry(cluster.clone()).or_insert_with(|| SubscriberEntry::without_streams(String::new()));
                changed.clusters.insert(cluster.clone());
                changed.outcomes.extend(here.said.keys().map(|key| (cluster.clone(), key.clone())));
                if here.subscriptions > 0 {
                    changed.outcomes.extend(entry.forget_reported(&cluster)); // it has spoken since
                }
                // The report is written again for every change: only new parts of it may be newer than what is known.
                if !here.shown.is_empty() && shown_before.get(&cluster) != Some(&here.shown) {
                    entry.shown = here.shown.clone();
                }
                entry.elsewhere.insert(replica.into(), here);
            }
        });
    }

    /// Returns the reports of clusters to this replica.
    pub fn own_reports(&self) -> BTreeMap<ClusterName, SubscriberReport> {
        let state = self.lock();
        let open = state.clusters.iter().filter(|(_, entry)| !entry.streams.is_empty());
        let here = |entry: &SubscriberEntry| SubscriberReport {
            subscriptions: entry.streams.len(),
            certificate_expires: entry.streams.values().next_back().map(|s| s.certificate_expires),
            shown: entry.shown.clone(),
            said: entry.streams.values().flat_map(|s| s.said.by_key.clone()).collect(),
        };
        open.map(|(cluster, entry)| (cluster.clone(), here(entry))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, SubscribersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_state<T>(&self, change: impl FnOnce(&mut SubscribersState) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let changed = &mut state.changed;
        if changed.clusters.len() + changed.outcomes.len() > MAX_CHANGED {
            *changed = SubscriberChanges { everything: true, ..SubscriberChanges::default() };
        }
        let tell = !changed.is_empty();
        drop(state);
        if tell {
            self.changed.notify_one();
        }
        result
    }
}

impl SubscribersState {
    fn enter_stream(
        &mut self,
        cluster: &ClusterName,
        instance: &str,
        certificate_expires: OffsetDateTime,
        limits: &Limits,
        now: Instant,
    ) -> Result<u64, EnterError> {
        let clock = SystemTime::now();
        if let Some(entry) = self.clusters.get_mut(cluster).filter(|entry| entry.instance.is_empty()) {
            entry.instance = instance.to_owned();
        }
        if let Some(entry) = self.clusters.get_mut(cluster).filter(|entry| entry.instance != instance) {
            if !entry.streams.is_empty() || now.saturating_duration_since(entry.left) < limits.instance_grace {
                entry.clash = Some(NameClash { refused: clean_prose(instance, 128), at: clock });
                let taken = entry.instance.chars().take(8).collect();
                self.changed.clusters.insert(cluster.clone());
                let grace = limits.instance_grace.as_secs();
                return Err(EnterError::NameTaken { cluster: cluster.clone(), taken, grace });
            }
            self.clusters.remove(cluster);
        }
        if !self.clusters.contains_key(cluster) && self.clusters.len() >= limits.max_peers && !self.evict_longest_away()
        {
            return Err(EnterError::TooManyClusters { limit: limits.max_peers });
        }
        if self.clusters.values().map(|entry| entry.streams.len()).sum::<usize>() >= limits.max_subscriptions_in_all {
            return Err(EnterError::TooManySubscriptions { limit: limits.max_subscriptions_in_all });
        }
        self.next_stream += 1;
        let entry = self
            .clusters
            .entry(cluster.clone())
            .or_insert_with(|| SubscriberEntry::without_streams(instance.to_owned()));
        if entry.streams.len() >= limits.max_subscriptions {
            return Err(EnterError::TooManyStreams { cluster: cluster.clone(), limit: limits.max_subscriptions });
        }
        entry.last_heard = Some(clock);
        entry.streams.insert(
            self.next_stream,
            SubscriberStream { since: clock, acknowledged: 0, certificate_expires, said: ReportedOutcomes::default() },
        );
        self.changed.clusters.insert(cluster.clone());
        Ok(self.next_stream)
    }

    /// Forgets the cluster that has been away for longest; false if none is away.
    fn evict_longest_away(&mut self) -> bool {
        let away = self.clusters.iter().filter(|(_, entry)| entry.streams.is_empty());
        let Some(longest) = away.min_by_key(|(_, entry)| entry.left).map(|(cluster, _)| cluster.clone()) else {
            return false;
        };
        self.clusters.remove(&longest).is_some()
    }
}

impl SubscriberEntry {
    fn without_streams(instance: String) -> SubscriberEntry {
        let (streams, said) = (BTreeMap::new(), ReportedOutcomes::default());
        let (clash, elsewhere, shown) = (None, BTreeMap::new(), ShownCertificates::default());
        SubscriberEntry { instance, streams, left: Instant::now(), last_heard: None, shown, said, clash, elsewhere }
    }

    /// Returns the bytes of reasons and messages.
    fn total_text_bytes(&self) -> usize {
        self.said.text + self.streams.values().map(|s| s.said.text).sum::<usize>()
    }

    /// Returns the cluster's outcome of an exposition: the newest stream that reported one counts.
    fn newest_outcome(&self, key: &ExpositionKey) -> Option<&ExpositionOutcome> {
        let here = self.streams.values().rev().map(|s| &s.said.by_key);
        let elsewhere = self.elsewhere.values().map(|h| &h.said);
        here.chain(elsewhere).chain([&self.said.by_key]).find_map(|said| said.get(key))
    }

    /// Drops outcomes of a stream that has ended: another one is open.
    fn forget_reported(&mut self, cluster: &ClusterName) -> impl Iterator<Item = (ClusterName, ExpositionKey)> {
        std::mem::take(&mut self.said).by_key.into_keys().map(|key| (cluster.clone(), key))
    }

    fn to_subscriber(&self, cluster: &ClusterName) -> Subscriber {
        Subscriber {
            cluster: cluster.clone(),
            instance: self.instance.clone(),
            subscriptions: self.streams.len() + self.elsewhere.values().map(|h| h.subscriptions).sum::<usize>(),
            connected_since: self.streams.values().map(|s| s.since).min(),
            last_heard: self.last_heard,
            acknowledged: self.streams.values().map(|s| s.acknowledged).max().unwrap_or(0),
            certificate_expires: {
                let here = self.streams.values().next_back().map(|s| s.certificate_expires);
                here.or_else(|| self.elsewhere.values().find_map(|h| h.certificate_expires))
            },
            outcomes: self.streams.values().map(|s| s.said.by_key.len()).max().unwrap_or(self.said.by_key.len()),
            clash: self.clash.clone(),
        }
    }
}

/// One open stream of a cluster; it leaves when this is dropped.
pub(super) struct StreamPresence {
    subscribers: Subscribers,
    cluster: ClusterName,
    id: u64,
}

impl StreamPresence {
    /// Records the certificates of its connection.
    pub(super) fn record_certificates(&self, shown: &ShownCertificates) {
        self.subscribers.update_state(|state| {
            if let Some(entry) = state.clusters.get_mut(&self.cluster) {
                entry.shown = shown.clone();
                state.changed.clusters.insert(self.cluster.clone());
            }
        });
    }

    /// Records an acknowledgement. The caller left out of `outcomes` what this cluster is not offered. Returns how many
    /// of them contradict what this stream reported before.
    pub(super) fn record_acknowledgement(
        &self,
        revision: u64,
        outcomes: impl IntoIterator<Item = (ExpositionKey, ExpositionOutcome)>,
    ) -> usize {
        self.subscribers.update_state(|state| {
            let SubscribersState { clusters, changed, .. } = state;
            let in_all: usize = clusters.values().map(SubscriberEntry::total_text_bytes).sum();
            let Some(entry) = clusters.get_mut(&self.cluster) else { return 0 };
            let mut room = MAX_OUTCOME_TEXT.saturating_sub(entry.total_text_bytes());
            room = room.min(MAX_OUTCOME_TEXT_IN_ALL.saturating_sub(in_all));
            let now = SystemTime::now();
            entry.last_heard = Some(now);
            let open = entry.streams.get(&self.id).and_then(|s| now.duration_since(s.since).ok());
            if !entry.said.by_key.is_empty() && open.is_some_and(|open| open >= HAS_SAID) {
                changed.outcomes.extend(entry.forget_reported(&self.cluster));
            }
            let Some(stream) = entry.streams.get_mut(&self.id) else { return 0 };
            stream.acknowledged = stream.acknowledged.max(revision);
            let mut contradictions = 0;
            for (key, outcome) in outcomes {
                let (is_news, contradicts) = stream.said.insert_outcome(key.clone(), outcome, &mut room);
                if is_news {
                    changed.outcomes.insert((self.cluster.clone(), key));
                    contradictions += usize::from(contradicts);
                }
            }
            contradictions
        })
    }

    /// Records that these withdrawals were sent: their outcomes are dropped.
    pub(super) fn record_withdrawals(&self, keys: &[ExpositionKey]) {
        if keys.is_empty() {
            return;
        }
        self.subscribers.update_state(|state| {
            let SubscribersState { clusters, changed, .. } = state;
            let stream = clusters.get_mut(&self.cluster).and_then(|entry| entry.streams.get_mut(&self.id));
            let Some(stream) = stream else { return };
            for key in keys {
                if stream.said.remove_outcome(key) {
                    changed.outcomes.insert((self.cluster.clone(), key.clone()));
                }
            }
        });
    }
}

impl Drop for StreamPresence {
    fn drop(&mut self) {
        self.subscribers.update_state(|state| {
            let SubscribersState { clusters, changed, .. } = state;
            let Some(entry) = clusters.get_mut(&self.cluster) else { return };
            let Some(ended) = entry.streams.remove(&self.id) else { return };
            entry.left = Instant::now();
            entry.said.extend(ended.said);
            changed.clusters.insert(self.cluster.clone());
        });
    }
}

#[cfg(test)]
impl StreamPresence {
    /// Moves the beginning of this stream into the past.
    fn age(&self, by: Duration) {
        self.subscribers.update_state(|state| {
            let entry = state.clusters.get_mut(&self.cluster).unwrap();
            entry.streams.get_mut(&self.id).unwrap().since -= by;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn subscribers(limits: Limits) -> Subscribers {
        Subscribers::new(Arc::new(limits))
    }

    const EXPIRES: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn the_first_instance_keeps_the_name_until_it_has_been_away_for_a_while() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let first = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        let replica = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        assert!(subscribers.enter_stream(&b, "two", EXPIRES).is_err());
        drop((first, replica));
        let refusal = subscribers.enter_stream(&b, "two", EXPIRES).err().unwrap();
        assert!(refusal.to_string().contains("the name b is taken"), "{refusal}");
        assert_eq!(subscribers.get(&b).unwrap().clash.unwrap().refused, "two");
        let later = Instant::now() + Duration::from_secs(61);
        subscribers.update_state(|state| state.enter_stream(&b, "two", EXPIRES, &Limits::default(), later)).unwrap();
        assert_eq!(subscribers.get(&b).unwrap().instance, "two");
    }

    #[tokio::test]
    async fn clusters_and_streams_are_bounded_and_the_longest_away_is_forgotten() {
        let subscribers = subscribers(Limits { max_peers: 2, max_subscriptions: 2, ..Limits::default() });
        let b = subscribers.enter_stream(&cluster("b"), "b", EXPIRES).unwrap();
        let _b2 = subscribers.enter_stream(&cluster("b"), "b", EXPIRES).unwrap();
        assert!(matches!(
            subscribers.enter_stream(&cluster("b"), "b", EXPIRES),
            Err(EnterError::TooManyStreams { .. })
        ));
        drop(subscribers.enter_stream(&cluster("c"), "c", EXPIRES).unwrap());
        let _d = subscribers.enter_stream(&cluster("d"), "d", EXPIRES).unwrap();
        assert_eq!(subscribers.get(&cluster("c")), None);
        assert!(matches!(
            subscribers.enter_stream(&cluster("e"), "e", EXPIRES),
            Err(EnterError::TooManyClusters { .. })
        ));
        drop(b);
    }

    #[tokio::test]
    async fn what_a_stream_said_ends_with_it_once_there_is_another() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let key = super::super::convert::key_from_wire("default", "reviews").unwrap();
        let said = || subscribers.outcome_at(&b, &key).is_some();
        let first = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        first.record_acknowledgement(1, vec![(key.clone(), ExpositionOutcome::bound())]);
        let second = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        assert!(said(), "the other may be a replica that is still there");
        drop(first);
        assert!(said(), "the second may be about to say it");
        second.age(HAS_SAID);
        second.record_acknowledgement(1, vec![]);
        assert!(!said(), "what the second does not say is not so any more");
        second.record_acknowledgement(1, vec![(key.clone(), ExpositionOutcome::bound())]);
        drop(second);
        assert!(said(), "it is away, and what it has configured stays");
    }

    #[test]
    fn what_was_known_before_this_process_holds_until_the_acceptor_speaks() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let key = super::super::convert::key_from_wire("default", "reviews").unwrap();
        let said = || subscribers.outcome_at(&b, &key).is_some();
        subscribers.assume_outcome(&b, &key, ExpositionOutcome::bound());
        assert!(said());
        assert_eq!(subscribers.get(&b).unwrap().subscriptions, 0);
        let stream = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        assert!(said());
        subscribers.assume_outcome(&b, &key, ExpositionOutcome::rejected("X", "it is heard itself"));
        stream.age(HAS_SAID);
        stream.record_acknowledgement(1, vec![]);
        assert!(!said());
    }

    #[test]
    fn what_is_said_to_another_replica_counts_as_long_as_that_replica_says_so() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let key = super::super::convert::key_from_wire("default", "reviews").unwrap();
        subscribers.assume_outcome(&b, &key, ExpositionOutcome::rejected("NameConflict", "as it was"));
        let said = [(key.clone(), ExpositionOutcome::bound())].into();
        let here = SubscriberReport {
            subscriptions: 1,
            certificate_expires: Some(EXPIRES),
            said,
            ..SubscriberReport::default()
        };
        subscribers.replace_replica_report("pod-1", [(b.clone(), here)].into());
        assert_eq!(subscribers.outcome_at(&b, &key), Some(ExpositionOutcome::bound()));
        let seen = subscribers.get(&b).unwrap();
        assert_eq!((seen.subscriptions, seen.certificate_expires), (1, Some(EXPIRES)));
        assert!(subscribers.own_reports().is_empty(), "nobody is subscribed at this replica");
        subscribers.replace_replica_report("pod-1", BTreeMap::new());
        assert_eq!(subscribers.outcome_at(&b, &key), None);
    }

    #[test]
    fn what_a_cluster_showed_last_is_known_wherever_it_did_and_while_it_is_away() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let certificate = |serial: &str| -> ShownCertificates {
            serde_json::from_value(serde_json::json!([{"issuer": "30", "serial": serial}])).unwrap()
        };
        let presence = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        presence.record_certificates(&certificate("01"));
        drop(presence);
        assert_eq!(subscribers.shown_certificates(&b), Some(certificate("01")));
        let elsewhere = |serial| {
            [(
                b.clone(),
                SubscriberReport { subscriptions: 1, shown: certificate(serial), ..SubscriberReport::default() },
            )]
            .into()
        };
        subscribers.replace_replica_report("pod-1", elsewhere("02"));
        assert_eq!(subscribers.shown_certificates(&b), Some(certificate("02")));
        let presence = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        presence.record_certificates(&certificate("03"));
        subscribers.replace_replica_report("pod-1", elsewhere("02")); // for the sake of something else
        assert_eq!(subscribers.shown_certificates(&b), Some(certificate("03")));
    }

    #[tokio::test]
    async fn a_change_is_told_once_by_name() {
        let subscribers = subscribers(Limits::default());
        let b = cluster("b");
        let key = super::super::convert::key_from_wire("default", "reviews").unwrap();
        let presence = subscribers.enter_stream(&b, "one", EXPIRES).unwrap();
        assert_eq!(subscribers.wait_for_changes().await.clusters, [b.clone()].into());
        presence.record_acknowledgement(7, vec![(key.clone(), ExpositionOutcome::bound())]);
        presence.record_acknowledgement(8, vec![(key.clone(), ExpositionOutcome::bound())]);
        let changed = subscribers.wait_for_changes().await;
        assert_eq!(changed.outcomes, [(b.clone(), key.clone())].into());
        assert_eq!(subscribers.get(&b).unwrap().acknowledged, 8);
        presence.record_withdrawals(std::slice::from_ref(&key));
        assert_eq!(subscribers.wait_for_changes().await.outcomes.len(), 1);
        assert_eq!(subscribers.outcomes_by_cluster(&key), BTreeMap::new());
    }
}
