//! Follows the configuration file. What is watched is its directory: editors and Kubernetes replace files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// An editor writes in several steps; the file is read when its directory has been left alone for this long.
const SETTLE: Duration = Duration::from_millis(50);
/// But not later than this: logs may be written beside it all the time.
const SETTLE_AT_MOST: Duration = Duration::from_secs(1);

/// Sends the configuration after each change of the file's text; a text that cannot be used is sent as its problem.
pub async fn follow(
    file: PathBuf,
    changes: mpsc::Sender<Result<Box<Config>, String>>,
    stop: CancellationToken,
) -> notify::Result<()> {
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    let mut watcher = RecommendedWatcher::new(
        move |event: notify::Result<notify::Event>| {
            // Reading the file is an event too, and must not lead to reading it again.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                wake.notify_one();
            }
        },
        notify::Config::default().with_follow_symlinks(false),
    )?;
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).map_or(PathBuf::from("."), PathBuf::from);
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    // It may have changed since the agent read it, and before it was watched: the first look counts as a change.
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
