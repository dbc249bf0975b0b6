//! Files and objects that seem to be gone, and may be back in a moment.
//!
//! `git checkout` replaces a file by removing it and making it again; an editor may empty a file just after it was
//! saved and fill it again; the removal of a whole folder removes its files one by one first. Withdrawing missing
//! objects at once would cut traffic in the first two cases, and all of it in the third, where the last known state is
//! to stay. So nothing is withdrawn before the folder has been quiet for a moment; a written file counts at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time without events after which a missing file is gone.
const QUIET: Duration = Duration::from_millis(30);
/// Longest time until then.
const LONGEST: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct MissingPaths {
    /// Files and folders that are not there.
    paths: BTreeSet<PathBuf>,
    /// Files that are there, and do not hold all that they held.
    shrunken: BTreeSet<PathBuf>,
    /// Time when the first of them was missed, and time of the last event.
    since: Option<(Instant, Instant)>,
}

impl MissingPaths {
    pub(super) fn add_path(&mut self, path: PathBuf) {
        let now = Instant::now();
        self.since.get_or_insert((now, now));
        self.paths.insert(path);
    }

    pub(super) fn add_shrunken(&mut self, path: PathBuf) {
        let now = Instant::now();
        self.since.get_or_insert((now, now));
        self.shrunken.insert(path);
    }

    /// Records that a path is there again.
    pub(super) fn record_back(&mut self, path: &Path) {
        self.paths.remove(path);
        self.reset_if_empty();
    }

    /// Records that a file holds all that it held again.
    pub(super) fn record_whole(&mut self, path: &Path) {
        self.shrunken.remove(path);
        self.reset_if_empty();
    }

    fn reset_if_empty(&mut self) {
        if self.paths.is_empty() && self.shrunken.is_empty() {
            self.since = None;
        }
    }

    pub(super) fn paths(&self) -> &BTreeSet<PathBuf> {
        &self.paths
    }

    /// Records an event: the folder is not quiet yet.
    pub(super) fn defer_deadline(&mut self) {
        if let Some((_, last)) = &mut self.since {
            *last = Instant::now();
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|(first, last)| (first + LONGEST).min(last + QUIET))
    }

    /// Returns the paths that are gone for good, once it is time.
    pub(super) fn take_due(&mut self) -> BTreeSet<PathBuf> {
        match self.deadline() {
            Some(deadline) if deadline <= Instant::now() => self.take_all(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn take_all(&mut self) -> BTreeSet<PathBuf> {
        self.since = None;
        let mut all = std::mem::take(&mut self.paths);
        all.append(&mut self.shrunken);
        all
    }
}
