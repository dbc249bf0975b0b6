//! Events: what `kubectl describe` shows of conditions that changed. They are sent once, and nothing waits for them:
//! while objects and statuses are to be written, they wait themselves.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::Inner;
use super::error::explain;
use super::kinds::Watched;
use super::lease::Lead;
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
pub struct Transition {
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

impl Transition {
    /// Makes the transition for an Event. None: there is nothing to report. A first look at an object reports problems,
    /// and not everything that is well.
    pub fn of(key: &InputKey, uid: Option<String>, condition: Condition, first: bool) -> Option<Transition> {
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
            InputKey::Policy(k) => (Watched::Policy, Some(k.namespace.clone()), k.name.clone()),
            InputKey::Binding(k) => (Watched::Binding, Some(k.namespace.clone()), k.name.clone()),
            InputKey::Peering(name) => (Watched::Peering, None, name.clone()),
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
        Some(Transition { object, condition })
    }

    fn event(&self) -> Event {
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

/// The queue of Events.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Transition>);

impl Events {
    pub fn new() -> (Events, mpsc::Receiver<Transition>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Events(sender), receiver)
    }

    pub fn tell(&self, transitions: Vec<Transition>) {
        for transition in transitions {
            let _ = self.0.try_send(transition); // full: the status says it
        }
    }
}

/// Writes Events, one after the other, as long as this process leads.
pub async fn write(
    inner: Arc<Inner>,
    lead: Lead,
    mut queue: mpsc::Receiver<Transition>,
    changes: mpsc::Sender<Change>,
) {
    let reporter = Reporter { controller: format!("{GROUP}/wharf"), instance: Some(inner.options.holder.clone()) };
    let recorder = || Recorder::new(inner.client.clone(), reporter.clone());
    let mut recent = recorder();
    let mut kept = 0;
    let mut trouble = false;
    while let Some(transition) = queue.recv().await {
        if !lead.may_write() {
            continue;
        }
        if kept == KEPT {
            (recent, kept) = (recorder(), 0);
        }
        kept += 1;
        let calm = async {
            while inner.is_busy() {
                tokio::time::sleep(PAUSE.0).await;
            }
        };
        let _ = tokio::time::timeout(PAUSE.1, calm).await;
        let result = recent.publish(&transition.event(), &transition.object).await;
        let change = match &result {
            Err(error) if !trouble => Change::problem(PLACE, explain(error)),
            Ok(()) if trouble => Change::Solved { place: PLACE.into() },
            _ => continue,
        };
        trouble = result.is_err();
        let _ = changes.send(change).await; // the agent stops
    }
}
