//! Follows the identity's files. A renewal changes the certificate of the *next* connection; open connections stay
//! open.
//!
//! The watches are on directories, never on files: a renewal replaces files (a watch on the file would stay with the
//! old one), and Kubernetes swaps the symbolic link `..data` that the files lead through. So every directory on the way
//! to a file, with its links, is watched, and the way is looked up again after every change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind, event::AccessMode};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::follow::{IdentitySource, follow_source};
use super::{Identity, IdentityError, IdentityFiles, IdentityWatch};

/// Time without changes after which the files are read: a renewal writes several files, and a pair that is only half
/// replaced must not be reported.
const SETTLE: Duration = Duration::from_millis(100);
/// Longest time from the first change to the reading.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// Links that Linux allows on one way (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Loads the identity, then follows its files until `cancel`. Needs a Tokio runtime.
pub fn watch_files(files: IdentityFiles, cancel: CancellationToken) -> Result<IdentityWatch, IdentityError> {
    // Watch first, load then: a change in between is seen.
    let changed = Arc::new(Notify::new());
    let mut eyes = DirectoryWatches::new(&files, &changed)?;
    for (dir, source) in eyes.watch_ways(&files) {
        let holds_a_file = files.all_paths().iter().any(|file| absolute_path(file).parent() == Some(&dir));
        if holds_a_file && dir.is_dir() {
            return Err(IdentityError::Watch { dir, source });
        }
    }
    let identity = Identity::load(&files)?;
    Ok(follow_source(WatchedFiles { files, eyes, changed }, identity, watch::Sender::new(None), cancel))
}

/// Files as a source of identities.
struct WatchedFiles {
    files: IdentityFiles,
    eyes: DirectoryWatches,
    changed: Arc<Notify>,
}

impl IdentitySource for WatchedFiles {
    async fn wait_for_change(&mut self) {
        self.changed.notified().await;
        // Waits until the files have been left alone for a moment.
        let quiet = async { while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE_AT_MOST, quiet).await;
    }

    async fn load_identity(&mut self) -> Result<Identity, IdentityError> {
        for (dir, error) in self.eyes.watch_ways(&self.files) {
            tracing::warn!(dir = %dir.display(), %error, "a directory on the way to the identity's files is not watched");
        }
        let files = self.files.clone();
        // Files may lie on a network.
        match tokio::task::spawn_blocking(move || Identity::load(&files)).await {
            Ok(loaded) => loaded,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => std::future::pending().await, // the runtime is going down
        }
    }
}

/// The watches on directories, and their entries that matter: a directory may be busy.
struct DirectoryWatches {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    matter: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl DirectoryWatches {
    fn new(files: &IdentityFiles, changed: &Arc<Notify>) -> Result<DirectoryWatches, IdentityError> {
        let matter = Arc::new(Mutex::new(BTreeSet::new()));
        let (changed, matters) = (changed.clone(), matter.clone());
        let tell = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |e| is_change(&e, &matters)) {
                changed.notify_one(); // holds one permit: changes that nobody has looked at yet are one
            }
        };
        let watcher = notify::recommended_watcher(tell)
            .map_err(|source| IdentityError::Watch { dir: files.certificate.clone(), source })?;
        Ok(DirectoryWatches { watcher, watched: BTreeSet::new(), matter })
    }

    /// Watches the directories that the files lead through now, all of them again: one that was replaced has the same
    /// name, but the old watch is on the replaced one. Returns those that cannot be watched: a directory above may be
    /// out of reach.
    fn watch_ways(&mut self, files: &IdentityFiles) -> Vec<(PathBuf, notify::Error)> {
        let matter: BTreeSet<_> = files.all_paths().into_iter().flat_map(entries_on_way).collect();
        let dirs: BTreeSet<_> = matter.iter().filter_map(|entry| entry.parent()).map(Path::to_owned).collect();
        *self.matter.lock().unwrap_or_else(PoisonError::into_inner) = matter;
        for dir in std::mem::take(&mut self.watched) {
            let _ = self.watcher.unwatch(&dir); // it may be gone, and the watch with it
        }
        let mut blind = Vec::new();
        for dir in dirs {
            match self.watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(dir)),
                Err(error) => blind.push((dir, error)),
            }
        }
        blind
    }
}

/// Returns whether an event is a change of the files. Reading them is none, or each reading would lead to the next. An
/// event without a path says that some were lost.
fn is_change(event: &notify::Event, matter: &Mutex<BTreeSet<PathBuf>>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    let matter = matter.lock().unwrap_or_else(PoisonError::into_inner);
    event.paths.is_empty() || event.paths.iter().any(|path| matter.contains(path))
}

/// Returns the entries of directories that decide what `file` is: itself, the directory that it lies in (which may
/// itself be replaced), and every symbolic link on the way. If the way ends early, the first that is missing.
fn entries_on_way(file: &Path) -> BTreeSet<PathBuf> {
    let mut decide = BTreeSet::new();
    let mut links = 0;
    let mut ahead = reversed_components(&absolute_path(file));
    let mut here = PathBuf::new();
    while let Some(piece) = ahead.pop() {
        let next = here.join(&piece);
        match std::fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                match std::fs::read_link(&next) {
                    Ok(target) if links <= MAX_LINKS => ahead.extend(reversed_components(&target)),
                    _ => ahead.clear(),
                }
                decide.insert(next);
            }
            Ok(_) => {
                if ahead.len() <= 1 {
                    decide.insert(next.clone());
                }
                here = next;
            }
            Err(_) => {
                decide.insert(next);
                break;
            }
        }
    }
    decide
}

fn absolute_path(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()) // only an empty path has none
}

/// Returns the components of a path, the first last.
fn reversed_components(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|c| PathBuf::from(c.as_os_str())).collect()
}
