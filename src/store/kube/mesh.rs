//! The settings of this cluster's own mesh: one ConfigMap of Istio's, followed by its name, so that rights to this one are
//! enough. What matters of it is kept, and the rest of it is dropped ([`MeshConfig::settings`]).
//!
//! An absent ConfigMap is no error: istiod may read a file. Nothing of the mesh is known then.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::error::{explain_watch, is_expired};
use super::watch::{PAUSE, QUIET, RENEW, retry_pause};
use crate::api::MeshConfig;
use crate::model::MeshSettings;
use crate::store::{Change, NamedKey};

/// Consequence of settings that cannot be read.
const UNKNOWN: &str = "it is not known which trust domains the mesh accepts, and statuses say what they need";

pub struct MeshWatch {
    key: NamedKey,
    changes: mpsc::Sender<Change>,
    /// Content of the list that is under way.
    listed: Option<ConfigMap>,
    /// None: nothing yet.
    told: Option<Option<Arc<MeshSettings>>>,
    /// Reason why the API server does not answer.
    trouble: Option<String>,
    /// Reason why its content is not understood.
    unreadable: Option<String>,
    /// Woken by the first answer, or by the first failure: from then on the agent knows what it can know.
    first: Option<oneshot::Sender<()>>,
}

impl MeshWatch {
    pub fn new(key: NamedKey, changes: mpsc::Sender<Change>, first: oneshot::Sender<()>) -> MeshWatch {
        MeshWatch { key, changes, listed: None, told: None, trouble: None, unreadable: None, first: Some(first) }
    }

    /// Runs until the agent hangs up.
    pub async fn run(mut self, client: Client) {
        let api: Api<ConfigMap> = Api::namespaced(client, &self.key.namespace);
        let field = format!("metadata.name={}", self.key.name);
        let config = watcher::Config::default().fields(&field).timeout(RENEW);
        let look = ListParams::default().fields(&field).limit(1);
        let mut events = std::pin::pin!(watcher(api.clone(), config));
        let mut failures = 0;
        loop {
            // A watch that goes on again without news says nothing: a look tells whether it is so.
            let event = match &self.trouble {
                None => events.next().await,
                Some(_) => match timeout(QUIET, events.next()).await {
                    Ok(event) => event,
                    Err(_) => match timeout(PAUSE.1, api.list(&look)).await {
                        Ok(Ok(found)) => {
                            if !self.answered(found.items.into_iter().next()).await {
                                return;
                            }
                            continue;
                        }
                        _ => continue,
                    },
                },
            };
            let alive = match event {
                Some(Ok(event)) => {
                    failures = 0;
                    self.take(event).await
                }
                Some(Err(error)) => {
                    failures += 1;
                    let alive = self.failed(&error).await;
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

    async fn take(&mut self, event: Event<ConfigMap>) -> bool {
        match event {
            Event::Init => {
                self.listed = None;
                true // nothing was asked yet
            }
            Event::InitApply(map) => {
                self.listed = Some(map);
                true
            }
            Event::InitDone => {
                let listed = self.listed.take();
                self.answered(listed).await
            }
            Event::Apply(map) => self.answered(Some(map)).await,
            Event::Delete(_) => self.answered(None).await,
        }
    }

    /// Takes in the ConfigMap as the API server has it now.
    async fn answered(&mut self, map: Option<ConfigMap>) -> bool {
        if self.trouble.take().is_some() && !self.tell(Change::Solved { place: self.watch_place() }).await {
            return false;
        }
        let place = self.place();
        let map = map.filter(MeshConfig::is_in);
        let read = map.map(|map| MeshConfig::read(&map).and_then(|config| config.settings(&place))).transpose();
        let unreadable = read.as_ref().err().map(|why| format!("{why}; {UNKNOWN}"));
        if self.unreadable != unreadable {
            let change = match &unreadable {
                Some(message) => Change::problem(place, message.clone()),
                None => Change::Solved { place },
            };
            self.unreadable = unreadable;
            if !self.tell(change).await {
                return false;
            }
        }
        self.settle(read.ok().flatten()).await
    }

    async fn settle(&mut self, settings: Option<MeshSettings>) -> bool {
        let settings = settings.map(Arc::new);
        if self.told.as_ref() == Some(&settings) {
            return true;
        }
        self.told = Some(settings.clone());
        let heard = self.tell(Change::Mesh(settings)).await;
        self.begun();
        heard
    }

    async fn failed(&mut self, error: &watcher::Error) -> bool {
        // A connection that ended is made anew: if that fails, it is told.
        let ended = matches!(error, watcher::Error::WatchFailed(_)) && self.trouble.is_none();
        if is_expired(error) || ended {
            return true;
        }
        let (why, code) = explain_watch(error);
        let message = format!("{why}; {UNKNOWN}");
        if self.trouble.as_ref() != Some(&message) {
            self.trouble = Some(message.clone());
            if !self.tell(Change::problem(self.watch_place(), message)).await {
                return false;
            }
        }
        let heard = match code {
            Some(403 | 404) => self.settle(None).await,
            // The API server is away, or busy, or takes the token for expired: what it told last counts until it is back.
            _ => true,
        };
        self.begun();
        heard
    }

    fn place(&self) -> String {
        format!("ConfigMap {}", self.key)
    }

    fn watch_place(&self) -> String {
        format!("API server, ConfigMap {}", self.key)
    }

    fn begun(&mut self) {
        if let Some(first) = self.first.take() {
            let _ = first.send(()); // nobody waits any more if the agent stops
        }
    }

    async fn tell(&self, change: Change) -> bool {
        self.changes.send(change).await.is_ok()
    }
}
