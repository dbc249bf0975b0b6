//! Follows the identity's files. Renewal changes what the *next* connection shows; those that are open stay open.
//!
//! What is watched are directories, never the files: whoever renews replaces files (a watch on the file would stay with the
//! old one), and Kubernetes swaps the symbolic link `..data` that the files lead through. So every directory in
//! which a link or a file on the way lies is watched, and the way is looked up again after every change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::AccessKind, event::AccessMode};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{CertificateProblem, Identity, IdentityError, IdentityFiles, moment};

/// A renewal writes several files: they are read when nothing has changed for this long, so that a pair that is only half
/// replaced is not complained about.
const SETTLE: Duration = Duration::from_millis(100);
/// But not later than this after the first change.
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// The clock is looked at this often even if nothing is due: a suspended machine's timers stand still.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 3600);
/// What Linux allows on one way (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// An identity that follows its files.
#[derive(Debug)]
pub struct IdentityWatch {
    /// The last good one.
    pub identity: watch::Receiver<Arc<Identity>>,
    /// Why what is in the files now is not in force, or that what is in force has expired. None: all is well.
    pub problem: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl IdentityWatch {
    /// Waits for the watching task, which ends when it is cancelled.
    pub async fn stopped(self) {
        if let Err(e) = self.task.await
            && e.is_panic()
        {
            std::panic::resume_unwind(e.into_panic());
        }
    }
}

/// Loads the identity, then follows its files until `cancel`. Needs a Tokio runtime.
pub fn watch(files: IdentityFiles, cancel: CancellationToken) -> Result<IdentityWatch, IdentityError> {
    // Watch first, load then: a change in between is seen.
    let changed = Arc::new(Notify::new());
    let mut eyes = Eyes::new(&files, &changed)?;
    for (dir, source) in eyes.follow(&files) {
        let holds_a_file = files.all().iter().any(|file| absolute(file).parent() == Some(&dir));
        if holds_a_file && dir.is_dir() {
            return Err(IdentityError::Watch { dir, source });
        }
    }
    let identity = Arc::new(Identity::load(&files)?);
    let (publish, receiver) = watch::channel(identity);
    let (publish_problem, problem) = watch::channel(None);
    let follower = Follower { files, eyes, changed, identity: publish, problem: publish_problem };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follower.run() => {}
        }
    });
    Ok(IdentityWatch { identity: receiver, problem, task })
}

struct Follower {
    files: IdentityFiles,
    eyes: Eyes,
    changed: Arc<Notify>,
    identity: watch::Sender<Arc<Identity>>,
    problem: watch::Sender<Option<String>>,
}

impl Follower {
    async fn run(mut self) {
        let mut due = self.identity.borrow().not_after;
        loop {
            tokio::select! {
                () = self.changed.notified() => self.settle().await,
                () = tokio::time::sleep(until(due)) => {}
            }
            due = self.reload().await;
        }
    }

    /// Waits until the files have been left alone for a moment.
    async fn settle(&self) {
        let quiet = async { while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE_AT_MOST, quiet).await;
    }

    /// Reads the files again. Returns when to do so although nothing changed.
    async fn reload(&mut self) -> OffsetDateTime {
        for (dir, error) in self.eyes.follow(&self.files) {
            tracing::warn!(dir = %dir.display(), %error, "a directory on the way to the identity's files is not watched");
        }
        let files = self.files.clone();
        // Files may lie on a network.
        let loaded = tokio::task::spawn_blocking(move || Identity::load(&files)).await;
        match loaded {
            Ok(Ok(identity)) => self.accept(identity),
            Ok(Err(e)) => self.keep(&e),
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => self.identity.borrow().not_after, // the runtime is going down
        }
    }

    fn accept(&self, identity: Identity) -> OffsetDateTime {
        let until = identity.not_after;
        let renewed = self.identity.send_if_modified(|current| {
            let differs = **current != identity;
            if differs {
                *current = Arc::new(identity);
            }
            differs
        });
        if renewed {
            let now = self.identity.borrow();
            tracing::info!(identity = %now.spiffe_id, serial = %now.serial, not_after = %moment(until), "identity renewed");
        }
        self.tell(None);
        until
    }

    fn keep(&self, error: &IdentityError) -> OffsetDateTime {
        let in_force = self.identity.borrow().not_after;
        let now = OffsetDateTime::now_utc();
        let consequence = if in_force > now {
            format!("the identity that was loaded before stays in force, until {}", moment(in_force))
        } else {
            format!("the identity in force expired on {}: peers refuse it", moment(in_force))
        };
        self.tell(Some(format!("{error}; {consequence}")));
        match error {
            IdentityError::Certificate { problem: CertificateProblem::NotYetValid { not_before, .. }, .. } => {
                *not_before
            }
            _ if in_force > now => in_force,
            _ => now + LONGEST_SLEEP,
        }
    }

    fn tell(&self, problem: Option<String>) {
        self.problem.send_if_modified(|current| {
            if *current == problem {
                return false;
            }
            match &problem {
                Some(text) => tracing::warn!(problem = %text, "identity"),
                None => tracing::info!("the identity's files are good again"),
            }
            *current = problem;
            true
        });
    }
}

/// How long to sleep until shortly after `due`.
fn until(due: OffsetDateTime) -> Duration {
    let left = due - OffsetDateTime::now_utc();
    // Dates of certificates have whole seconds and include the last one.
    Duration::try_from(left).unwrap_or_default().saturating_add(Duration::from_secs(1)).min(LONGEST_SLEEP)
}

/// The watches on directories, and which of their entries matter: they may lie in a busy one.
struct Eyes {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    matter: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Eyes {
    fn new(files: &IdentityFiles, changed: &Arc<Notify>) -> Result<Eyes, IdentityError> {
        let matter = Arc::new(Mutex::new(BTreeSet::new()));
        let (changed, matters) = (changed.clone(), matter.clone());
        let tell = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |e| is_change(&e, &matters)) {
                changed.notify_one(); // holds one permit: changes that nobody has looked at yet are one
            }
        };
        let watcher = notify::recommended_watcher(tell)
            .map_err(|source| IdentityError::Watch { dir: files.certificate.clone(), source })?;
        Ok(Eyes { watcher, watched: BTreeSet::new(), matter })
    }

    /// Watches the directories that the files lead through now, all anew: one that was replaced has the same name, but
    /// the old watch is on what it was before. Returns those that cannot be watched: a directory above may be out of reach.
    fn follow(&mut self, files: &IdentityFiles) -> Vec<(PathBuf, notify::Error)> {
        let matter: BTreeSet<_> = files.all().into_iter().flat_map(way).collect();
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

/// Reading the files is no change, or each reading would lead to the next. An event without a path says that some were lost.
fn is_change(event: &notify::Event, matter: &Mutex<BTreeSet<PathBuf>>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    let matter = matter.lock().unwrap_or_else(PoisonError::into_inner);
    event.paths.is_empty() || event.paths.iter().any(|path| matter.contains(path))
}

/// The entries of directories which decide what `file` is: itself, the directory that it lies in (which may itself be
/// replaced), and every symbolic link on the way. If the way ends early, the first that is missing.
fn way(file: &Path) -> BTreeSet<PathBuf> {
    let mut decide = BTreeSet::new();
    let mut links = 0;
    let mut ahead = pieces(&absolute(file));
    let mut here = PathBuf::new();
    while let Some(piece) = ahead.pop() {
        let next = here.join(&piece);
        match std::fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                match std::fs::read_link(&next) {
                    Ok(target) if links <= MAX_LINKS => ahead.extend(pieces(&target)),
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

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()) // only an empty path has none
}

/// The components of a path, the first last.
fn pieces(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|c| PathBuf::from(c.as_os_str())).collect()
}
