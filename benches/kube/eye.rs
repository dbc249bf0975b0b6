//! Seeing objects appear, by a watch.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// No figure is worth waiting longer for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether an object is as it is waited for.
type Wanted = fn(&DynamicObject) -> bool;

/// A watch on all objects of a kind that come from now on, or come to be as they are waited for.
pub struct Eye {
    seen: mpsc::UnboundedReceiver<(Instant, String)>,
    task: AbortHandle,
}

impl Eye {
    pub async fn open(api: Api<DynamicObject>, wanted: Wanted) -> Eye {
        let list = api.list_metadata(&ListParams::default().limit(1)).await.expect("an answer");
        let mut version = list.metadata.resource_version.expect("a version");
        let (sender, seen) = mpsc::unbounded_channel();
        let mut stream = api.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
        let task = tokio::spawn(async move {
            let mut told = HashSet::new();
            loop {
                while let Some(Ok(event)) = stream.next().await {
                    let now = Instant::now();
                    match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
                            if wanted(&object) && told.insert((namespace, name.clone())) {
                                let _ = sender.send((now, name.unwrap_or_default())); // nobody looks any more
                            }
                            version = object.metadata.resource_version.unwrap_or_default();
                        }
                        WatchEvent::Deleted(object) => {
                            told.remove(&(object.metadata.namespace, object.metadata.name));
                            version = object.metadata.resource_version.unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                stream = api.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
            }
        });
        Eye { seen, task: task.abort_handle() }
    }

    /// When the last of so many came.
    pub async fn see(&mut self, count: usize) -> Instant {
        let mut last = Instant::now();
        for i in 0..count {
            let next = tokio::time::timeout(PATIENCE, self.seen.recv()).await;
            let next = next.unwrap_or_else(|_| panic!("only {i} of {count} came")).expect("a watch");
            last = next.0;
        }
        last
    }
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.task.abort();
    }
}
