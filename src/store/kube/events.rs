//! Events: what `kubectl describe` shows of conditions that changed. They are sent once, and nothing waits for them:
//! while objects and statuses are to be written, they wait themselves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::{Notify, mpsc};

use super::KubeShared;
use super::error::explain_error;
use super::kinds::WatchedKind;
use super::lease::LeadHandle;
use crate::api::{Condition, ConditionStatus, GROUP, VERSION};
use crate::store::{Change, InputKey};

/// Events that wait. When there are more, the newest are left out: statuses say the same.
const QUEUE: usize = 2048;
/// Interval of the checks for more urgent writes, and the longest time that those take precedence.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
const PLACE: &str = "API server, Events";
/// Events that are kept to count repetitions. They are as large as objects.
const KEPT: usize = 64;
/// The API's own limit of a note.
const NOTE: usize = 1024;

/// A condition that has changed.
pub struct ConditionTransition {
    object: ObjectReference,
    condition: Condition,
}

/// Reasons of passing states.
const PASSING: [&str; 5] = ["Pending", "Connecting", "Syncing", "Potential", "NotSubscribed"];
/// Conditions that `Ready` repeats.
const TOLD_BY_READY: [&str; 10] = [
    "Accepted",
    "Exposed",
    "Programmed",
    "Bound",
    "PeerConnected",
    "DataPlaneSupported",
    "GatewayAccepts",
    "GatewayUsable",
    "Reconciling",
    "Stalled",
];

impl ConditionTransition {
    /// Makes the transition for an Event. None: there is nothing to report. A first look at an object reports problems,
    /// and not everything that is well.
    pub fn for_condition(
        key: &InputKey,
        uid: Option<String>,
        condition: Condition,
        first: bool,
    ) -> Option<ConditionTransition> {
        let passing = PASSING.contains(&condition.reason.as_str());
        let well = condition.status == ConditionStatus::True;
        let repeated = match key {
            // Two directions, each with a condition of its own.
            InputKey::Peering(_) => ["Ready", "Reconciling", "Stalled"].contains(&condition.type_.as_str()),
            _ => TOLD_BY_READY.contains(&condition.type_.as_str()),
        };
        if passing || repeated || (first && well && condition.type_ != "Ready") {
            return None;
        }
        let (of, namespace, name) = match key {
            InputKey::Policy(k) => (WatchedKind::Policy, Some(k.namespace.clone()), k.name.clone()),
            InputKey::Binding(k) => (WatchedKind::Binding, Some(k.namespace.clone()), k.name.clone()),
            InputKey::Peering(name) => (WatchedKind::Peering, None, name.clone()),
            InputKey::Object(_) => return None,
        };
        let object = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(of.kind().to_owned()),
            namespace,
            name: Some(name),
            uid,
            ..ObjectReference::default()
        };
        Some(ConditionTransition { object, condition })
    }

    fn is_overtaken_by(&self, newer: &ConditionTransition) -> bool {
        self.object == newer.object && self.condition.type_ == newer.condition.type_
    }

    fn build_event(&self) -> Event {
        let mut note = self.condition.message.clone();
        while note.len() > NOTE {
            note.pop();
        }
        let well = self.condition.status == ConditionStatus::True;
        Event {
            type_: if well { EventType::Normal } else { EventType::Warning },
            reason: self.condition.reason.clone(),
            note: Some(note),
            action: self.condition.type_.clone(),
            secondary: None,
        }
    }
}

/// The queue of EventQueue. A condition that changes again while its Event waits has one Event, for its newest state: a burst
/// writes no EventQueue about states that are over.
#[derive(Clone, Default)]
pub struct EventQueue(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    transitions: Mutex<VecDeque<ConditionTransition>>,
    added: Notify,
}

impl EventQueue {
    pub fn add(&self, transitions: Vec<ConditionTransition>) {
        let mut waiting = self.transitions();
        for transition in transitions {
            waiting.retain(|older| !older.is_overtaken_by(&transition));
            if waiting.len() < QUEUE {
                waiting.push_back(transition);
            }
        }
        drop(waiting);
        self.0.added.notify_one();
    }

    fn transitions(&self) -> MutexGuard<'_, VecDeque<ConditionTransition>> {
        self.0.transitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is an Event.
    async fn wait_for_any(&self) {
        while self.transitions().is_empty() {
            self.0.added.notified().await;
        }
    }

    fn remove_oldest(&self) -> Option<ConditionTransition> {
        self.transitions().pop_front()
    }
}

/// Writes Events, one after the other, as long as this process leads.
pub async fn write_events(inner: Arc<KubeShared>, lead: LeadHandle, queue: EventQueue, changes: mpsc::Sender<Change>) {
    let reporter = Reporter { controller: format!("{GROUP}/wharf"), instance: Some(inner.options.holder.clone()) };
    let recorder = || Recorder::new(inner.client.clone(), reporter.clone());
    let mut recent = recorder();
    let mut kept = 0;
    let mut trouble = false;
    loop {
        queue.wait_for_any().await;
        let calm = async {
            while inner.is_busy() {
                tokio::time::sleep(PAUSE.0).await;
            }
        };
        let _ = tokio::time::timeout(PAUSE.1, calm).await;
        let Some(transition) = queue.remove_oldest().filter(|_| lead.may_write()) else { continue };
        if kept == KEPT {
            (recent, kept) = (recorder(), 0);
        }
        kept += 1;
        let result = recent.publish(&transition.build_event(), &transition.object).await;
        let change = match &result {
            Err(error) if !trouble => Change::problem(PLACE, explain_error(error)),
            Ok(()) if trouble => Change::Solved { place: PLACE.into() },
            _ => continue,
        };
        trouble = result.is_err();
        let _ = changes.send(change).await; // the agent stops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NamedKey;

    fn transition(name: &str, type_: &str, reason: &str) -> ConditionTransition {
        let condition = Condition {
            type_: type_.into(),
            status: ConditionStatus::False,
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: None,
        };
        let key = InputKey::Binding(NamedKey { namespace: "shop".into(), name: name.into() });
        ConditionTransition::for_condition(&key, None, condition, true).unwrap()
    }

    fn remove_all(queue: &EventQueue) -> Vec<String> {
        let all = std::iter::from_fn(|| queue.remove_oldest());
        all.map(|t| format!("{} {}", t.object.name.unwrap_or_default(), t.condition.reason)).collect()
    }

    #[test]
    fn an_event_about_a_state_that_is_over_is_not_written() {
        let queue = EventQueue::default();
        queue.add(vec![transition("till", "Ready", "NotExposed"), transition("cart", "Ready", "NotExposed")]);
        queue.add(vec![transition("till", "Ready", "NameConflict")]);
        queue.add(vec![transition("till", "QuotaLeft", "Quota")]);
        assert_eq!(remove_all(&queue), ["cart NotExposed", "till NameConflict", "till Quota"]);
    }

    #[test]
    fn events_beyond_the_bound_are_left_out() {
        let queue = EventQueue::default();
        for n in 0..QUEUE + 5 {
            queue.add(vec![transition(&format!("n{n}"), "Ready", "NotExposed")]);
        }
        assert_eq!(remove_all(&queue).len(), QUEUE);
    }
}
