//! Events of the file system: collected as they come, handed over on request.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventHandler, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::layout;
use super::walk::FolderId;

/// Paths that are remembered; with more of them, reading everything is cheaper.
const MOST: usize = 20_000;

/// The last event of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// Its permissions or links changed.
    Touched,
    /// It was removed or moved away. If something of its name is there again, that has an event of its own.
    Removed,
    /// It was made, and may be being written.
    Created,
    /// Its writing, its move here, or (for a folder) its creation is complete.
    Settled,
}

#[derive(Default)]
pub(super) struct EventBatch {
    pub(super) paths: BTreeMap<PathBuf, FileEvent>,
    /// Events were lost: read everything.
    pub(super) rescan: bool,
    /// An error of the watcher itself.
    pub(super) error: Option<String>,
    stop: bool,
}

/// Events that were not handled yet. Bounded: a path is in it once, and beyond [`MOST`] there is only "all".
#[derive(Default)]
pub(super) struct PendingEvents {
    batch: Mutex<EventBatch>,
    ready: Condvar,
}

impl PendingEvents {
    fn lock(&self) -> MutexGuard<'_, EventBatch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.ready.notify_all();
    }

    /// Waits for events, or until then. None: it is over.
    pub(super) fn take_batch(&self, until: Option<Instant>) -> Option<EventBatch> {
        let mut batch = self.lock();
        loop {
            if batch.stop {
                return None;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if batch.rescan || batch.error.is_some() || !batch.paths.is_empty() || left.is_some_and(|l| l.is_zero()) {
                return Some(std::mem::take(&mut batch));
            }
            batch = match left {
                None => self.ready.wait(batch).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.ready.wait_timeout(batch, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// Runs in the watcher's thread, so it only records events: while it works, the kernel's queue fills.
pub(super) struct EventRecorder {
    /// The folder, absolute.
    pub(super) root: PathBuf,
    pub(super) pending: Arc<PendingEvents>,
}

impl EventHandler for EventRecorder {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.pending.lock().rescan = true,
            Ok(event) => {
                let Some(news) = classify_event(&event.kind) else { return };
                let mut paths = event.paths.into_iter().filter(|p| self.is_relevant(p)).peekable();
                if paths.peek().is_none() {
                    return;
                }
                self.pending.lock().record_event(paths, news);
            }
            Err(e) => self.pending.lock().error = Some(e.to_string()),
        }
        self.pending.ready.notify_one();
    }
}

impl EventRecorder {
    /// Returns whether an event of this path counts: hidden files are no inputs, but for the link by which Kubernetes
    /// exchanges a mounted volume at once.
    fn is_relevant(&self, path: &Path) -> bool {
        let name = path.strip_prefix(&self.root).ok().and_then(Path::file_name);
        name.is_none_or(|name| !layout::is_hidden(name) || name == "..data")
    }
}

impl EventBatch {
    fn record_event(&mut self, paths: impl Iterator<Item = PathBuf>, news: FileEvent) {
        for path in paths {
            let known = self.paths.entry(path).or_insert(news);
            if news != FileEvent::Touched {
                *known = news;
            }
        }
        if self.paths.len() > MOST {
            self.paths.clear();
            self.rescan = true;
        }
    }
}

/// Classifies an event. A file counts when it is closed after writing or moved to its place, not while it is written: a
/// file that is seen empty in between must not withdraw what it held.
fn classify_event(kind: &EventKind) -> Option<FileEvent> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(FileEvent::Settled),
        EventKind::Create(CreateKind::Folder) => Some(FileEvent::Settled),
        EventKind::Create(_) if cfg!(target_os = "linux") => Some(FileEvent::Created),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None, // both were told already
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Some(FileEvent::Removed),
        EventKind::Modify(ModifyKind::Name(_)) => Some(FileEvent::Settled),
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(FileEvent::Touched),
        // Other systems do not report when a file is closed.
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any if !cfg!(target_os = "linux") => {
            Some(FileEvent::Settled)
        }
        _ => None,
    }
}

/// Most folders that are watched.
const MAX_FOLDERS: usize = 10_000;

/// The watches: each folder by itself, since a watch on a whole tree would include hidden files, and follow links in a
/// circle.
pub(super) struct FolderWatches {
    watcher: RecommendedWatcher,
    /// The folders of the tree, relative to the root.
    folders: HashMap<FolderId, PathBuf>,
    /// Folders elsewhere, of files that links in the tree lead to.
    outside: HashSet<PathBuf>,
    /// For each such file the links to it.
    links: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// A folder above the root.
    guard: Option<PathBuf>,
}

impl FolderWatches {
    pub(super) fn new(watcher: RecommendedWatcher) -> FolderWatches {
        let (folders, outside, links) = Default::default();
        FolderWatches { watcher, folders, outside, links, guard: None }
    }

    /// Watches a folder of the tree; false if it is already known under another name.
    pub(super) fn enter_folder(&mut self, root: &Path, folder: &Path, identity: FolderId) -> Result<bool, String> {
        let is_still =
            |known: &Path| fs::metadata(root.join(known)).is_ok_and(|m| FolderId::of_metadata(&m) == identity);
        if self.folders.get(&identity).is_some_and(|known| known != folder && is_still(known)) {
            return Ok(false);
        }
        if self.folders.len() >= MAX_FOLDERS {
            return Err(format!("the folder is not read: there are more than {MAX_FOLDERS} folders"));
        }
        self.watch_folder(&root.join(folder))?;
        if !self.outside.is_empty() {
            self.move_inside(&root.join(folder));
        }
        self.folders.insert(identity, folder.to_owned());
        Ok(true)
    }

    /// Forgets a folder and all in it, since it is gone or about to be walked. The watcher itself drops folders that
    /// are gone.
    pub(super) fn forget_under(&mut self, path: &Path) {
        self.folders.retain(|_, folder| !folder.starts_with(path));
        self.links.retain(|_, links| {
            links.retain(|link| !link.starts_with(path));
            !links.is_empty()
        });
        let used: HashSet<&Path> = self.links.keys().filter_map(|target| target.parent()).collect();
        for unused in self.outside.extract_if(|folder| !used.contains(&**folder)) {
            let _ = self.watcher.unwatch(&unused); // it may be gone
        }
    }

    /// Watches the target, if this is a link. True if the target is a file in the tree, which is read there.
    pub(super) fn follow_link(&mut self, root: &Path, link: &Path) -> bool {
        let absolute = root.join(link);
        let Ok(next) = fs::read_link(&absolute) else { return false };
        let end = fs::canonicalize(&absolute);
        // A link that leads nowhere may lead somewhere once the next of its steps is there.
        let target = end.as_deref().map_or_else(|_| absolute.parent().unwrap_or(root).join(next), Path::to_owned);
        let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else { return false };
        let Ok(root_itself) = fs::canonicalize(root) else { return false };
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let in_tree = folder.strip_prefix(&root_itself).or_else(|_| folder.strip_prefix(root));
        let in_tree = in_tree.ok().filter(|inside| !layout::any_hidden(inside));
        let told_as = match in_tree {
            Some(inside) => root.join(inside),
            None => self.watch_outside(root, &folder),
        };
        self.links.entry(told_as.join(name)).or_default().insert(link.to_owned());
        end.is_ok() && in_tree.is_some() && layout::is_manifest(name)
    }

    /// Watches a folder elsewhere, and returns the path of its events: a folder has one watch, and that one path.
    fn watch_outside(&mut self, root: &Path, folder: &Path) -> PathBuf {
        let entered = fs::metadata(folder).ok().and_then(|m| self.folders.get(&FolderId::of_metadata(&m)));
        if let Some(entered) = entered {
            return root.join(entered); // a link in the tree leads to it, too
        }
        if !self.outside.contains(folder) && folder.is_dir() && self.watch_folder(folder).is_ok() {
            self.outside.insert(folder.to_owned());
        }
        folder.to_owned()
    }

    /// Moves a folder of the tree that was watched as one elsewhere, since a link to a file was read before the link to
    /// its folder.
    fn move_inside(&mut self, folder: &Path) {
        let Ok(target) = fs::canonicalize(folder) else { return };
        if self.outside.remove(&target) {
            for (file, links) in std::mem::take(&mut self.links) {
                let told_as = match file.file_name() {
                    Some(name) if file.parent() == Some(&target) => folder.join(name),
                    _ => file,
                };
                self.links.entry(told_as).or_default().extend(links);
            }
        }
    }

    pub(super) fn links_to(&self, file: &Path) -> Vec<PathBuf> {
        self.links.get(file).into_iter().flatten().cloned().collect()
    }

    /// Returns the links, from anywhere, to files in a folder.
    pub(super) fn links_into(&self, folder: &Path) -> BTreeSet<PathBuf> {
        self.links.iter().filter(|(file, _)| file.starts_with(folder)).flat_map(|(_, links)| links.clone()).collect()
    }

    /// Watches a folder above the root, or none. The watch is made again in any case: it may be another folder of the
    /// same name.
    pub(super) fn watch_guard(&mut self, folder: Option<&Path>) {
        if let Some(old) = self.guard.take()
            && !self.outside.contains(&old)
        {
            let _ = self.watcher.unwatch(&old); // it may be gone
        }
        self.guard = folder.filter(|folder| self.watch_folder(folder).is_ok()).map(Path::to_owned);
    }

    fn watch_folder(&mut self, folder: &Path) -> Result<(), String> {
        match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(()),
            Err(e) => match e.kind {
                ErrorKind::PathNotFound => Ok(()), // it went since, and that is told where it was
                ErrorKind::MaxFilesWatch => Err("the folder cannot be watched: raise the system's limit on watches \
                                                 (sysctl fs.inotify.max_user_watches)"
                    .to_owned()),
                _ => Err(format!("the folder cannot be watched: {e}")),
            },
        }
    }
}
