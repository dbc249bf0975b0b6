//! Follows the configuration file by watching its directory: editors and Kubernetes replace files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Time without changes after which the file is read: an editor writes in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest delay of a read: other files beside it, such as logs, may change all the time.
const SETTLE_AT_MOST: Duration = Duration::from_secs(1);

/// Sends the configuration after each change of the file's text. A text that cannot be used is sent as a problem.
pub async fn follow_config(
    file: PathBuf,
    changes: mpsc::Sender<Result<Box<Config>, String>>,
    stop: CancellationToken,
) -> notify::Result<()> {
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    let mut watcher = RecommendedWatcher::new(
        move |event: notify::Result<notify::Event>| {
            // A read of the file is an event too, and must not cause another read.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                wake.notify_one();
            }
        },
        notify::Config::default().with_follow_symlinks(false),
    )?;
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).map_or(PathBuf::from("."), PathBuf::from);
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    // The file may have changed between the agent's first read and the watch, so the first look counts as a change.
    let mut before = None;
    changed.notify_one();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = changed.notified() => {}
        }
        let quiet = async { while tokio::time::timeout(SETTLE, changed.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE_AT_MOST, quiet).await;
        let text = Some(tokio::fs::read(&file).await.ok());
        if text == before {
            continue;
        }
        before = text;
        let config = Config::load(&file).map(Box::new).map_err(|e| e.to_string());
        if changes.send(config).await.is_err() {
            return Ok(());
        }
    }
}
