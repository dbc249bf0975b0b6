//! Finds the namespaces in Istio's ambient mode, for statuses (docs/sidecars.md).
//!
//! The API server sends the metadata of those that carry the label, and no others; their names are kept. Nothing waits
//! for them, least of all a start.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::error::{explain_watch, is_expired};
use super::watch::{PAUSE, QUIET, RENEW, retry_pause};
use crate::api::{AMBIENT, DATAPLANE_MODE};
use crate::store::Change;

/// Namespaces that are listed at a time.
const PAGE: u32 = 100;

pub struct AmbientWatch {
    /// The only namespace that is watched. None: all.
    namespace: Option<String>,
    changes: mpsc::Sender<Change>,
    names: BTreeSet<String>,
    /// Namespaces of the list that is under way.
    listed: Option<BTreeSet<String>>,
    told: Option<BTreeSet<String>>,
    trouble: Option<String>,
    /// Notified by the first answer, or by the first failure: from then on the agent knows what it can know.
    first: Option<oneshot::Sender<()>>,
}

impl AmbientWatch {
    /// Makes a watch of one namespace, so that rights to this one are enough, or of all.
    pub fn new(namespace: Option<String>, changes: mpsc::Sender<Change>, first: oneshot::Sender<()>) -> AmbientWatch {
        let first = Some(first);
        AmbientWatch { namespace, changes, names: BTreeSet::new(), listed: None, told: None, trouble: None, first }
    }

    /// Runs until the agent stops.
    pub async fn run(mut self, client: Client) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
        let label = format!("{DATAPLANE_MODE}={AMBIENT}");
        let field = self.namespace.as_ref().map(|name| format!("metadata.name={name}"));
        let mut config = watcher::Config::default().labels(&label).page_size(PAGE).timeout(RENEW);
        let mut look = ListParams::default().labels(&label).limit(1);
        if let Some(field) = &field {
            (config, look) = (config.fields(field), look.fields(field));
        }
        let mut events = std::pin::pin!(watcher(api.clone(), config));
        let mut failures = 0;
        loop {
            // A watch that goes on again without events proves nothing: a list request shows whether it works.
            let event = match &self.trouble {
                None => events.next().await,
                Some(_) => match timeout(QUIET, events.next()).await {
                    Ok(event) => event,
                    Err(_) => match timeout(PAUSE.1, api.list(&look)).await {
                        Ok(Ok(_)) if !self.report_solved().await => return,
                        _ => continue,
                    },
                },
            };
            let alive = match event {
                Some(Ok(event)) => self.handle_event(event, &mut failures).await,
                Some(Err(error)) => {
                    failures += 1;
                    let alive = self.handle_failure(&error).await;
                    sleep(retry_pause(failures)).await;
                    alive
                }
                None => false,
            };
            if !alive {
                return;
            }
        }
    }

    async fn handle_event(&mut self, event: Event<PartialObjectMeta<Namespace>>, failures: &mut u32) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                return true; // nothing was asked yet
            }
            Event::InitApply(namespace) => drop(self.listed.get_or_insert_default().insert(namespace.name_any())),
            Event::InitDone => self.names = self.listed.take().unwrap_or_default(),
            Event::Apply(namespace) => drop(self.names.insert(namespace.name_any())),
            Event::Delete(namespace) => drop(self.names.remove(&namespace.name_any())),
        }
        *failures = 0;
        if !self.report_solved().await {
            return false;
        }
        if self.listed.is_some() || self.told.as_ref() == Some(&self.names) {
            return true;
        }
        self.told = Some(self.names.clone());
        self.send_change(Change::Ambient { of: self.namespace.clone(), namespaces: self.names.clone() }).await
    }

    async fn handle_failure(&mut self, error: &watcher::Error) -> bool {
        // A connection that ended is made again: a failure of that is reported.
        let ended = matches!(error, watcher::Error::WatchFailed(_)) && self.trouble.is_none();
        if is_expired(error) || ended {
            return true;
        }
        self.listed = None;
        let (why, _) = explain_watch(error);
        let message = format!("{why}; statuses cannot say which namespaces are in Istio's ambient mode");
        if self.trouble.as_ref() == Some(&message) {
            return true;
        }
        self.trouble = Some(message.clone());
        self.send_change(Change::problem(self.place(), message)).await
    }

    async fn report_solved(&mut self) -> bool {
        match self.trouble.take() {
            Some(_) => self.send_change(Change::Solved { place: self.place() }).await,
            None => true,
        }
    }

    fn place(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("API server, ambient mode of namespace {namespace}"),
            None => "API server, namespaces in ambient mode".to_owned(),
        }
    }

    async fn send_change(&mut self, change: Change) -> bool {
        let heard = self.changes.send(change).await.is_ok();
        if let Some(first) = self.first.take() {
            let _ = first.send(()); // nobody waits any more if the agent stops
        }
        heard
    }
}
