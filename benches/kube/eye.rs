//! Seeing objects appear, by a watch.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// No figure is worth waiting longer for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A watch on all objects of a kind that come from now on.
pub struct Eye {
    seen: mpsc::UnboundedReceiver<(Instant, String)>,
    task: AbortHandle,
}

impl Eye {
    pub async fn open(api: Api<DynamicObject>) -> Eye {
        let list = api.list_metadata(&ListParams::default().limit(1)).await.expect("an answer");
        let mut version = list.metadata.resource_version.expect("a version");
        let (sender, seen) = mpsc::unbounded_channel();
        let mut stream = api.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
        let task = tokio::spawn(async move {
            loop {
                while let Some(Ok(event)) = stream.next().await {
                    let now = Instant::now();
                    match event {
                        WatchEvent::Added(object) => {
                            let name = object.metadata.name.unwrap_or_default();
                            version = object.metadata.resource_version.unwrap_or_default();
                            let _ = sender.send((now, name)); // nobody looks any more
                        }
                        WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
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
