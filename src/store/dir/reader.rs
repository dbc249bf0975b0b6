//! The thread that reads: it waits for events of the folder, reads the files that they name, and reports changes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use tokio::sync::mpsc;

use super::disk;
use super::inputs::{FileContent, FileProblem, InputEffect, InputFiles, WithdrawalPatience};
use super::layout::{self, OBJECTS};
use super::ledger::DirLedger;
use super::missing::MissingPaths;
use super::origins::FileOrigins;
use super::root::RootState;
use super::walk;
use super::watch::{EventBatch, FileEvent, FolderWatches, PendingEvents};
use super::{DirShared, status};
use crate::store::manifest::{self, Digest};
use crate::store::{Change, HiddenInputs, Owner};

/// The receiver of changes is gone.
pub(super) struct ReceiverGone;
pub(super) type SendResult = Result<(), ReceiverGone>;

pub(super) struct FolderReader {
    pub(super) store: Arc<DirShared>,
    /// The folder, absolute: events name paths below it.
    pub(super) path: PathBuf,
    pub(super) inputs: InputFiles,
    pub(super) watches: FolderWatches,
    pub(super) missing: MissingPaths,
    pub(super) root: RootState,
    /// Folders with more files than are read.
    cut: BTreeSet<PathBuf>,
    origins: FileOrigins,
    /// Everything that was there at the start is reported.
    synced: bool,
    /// Owners whose objects were changed or removed by others.
    pub(super) drifted: BTreeSet<Owner>,
    tx: mpsc::Sender<Change>,
}

/// Returns whether a file of that name was just made, and its writer is not done with it: then another event follows. A
/// link is complete when it is made, and a folder is looked into in any case.
fn is_being_made(path: &Path, news: FileEvent) -> bool {
    let new = matches!(news, FileEvent::Created | FileEvent::Removed);
    new && fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.nlink() == 1)
}

/// The kind of a file that was read.
enum FetchedFile {
    Ours,
    Input(Vec<u8>),
}

impl FolderReader {
    pub(super) fn new(
        store: Arc<DirShared>,
        path: PathBuf,
        watches: FolderWatches,
        tx: mpsc::Sender<Change>,
    ) -> FolderReader {
        FolderReader {
            store,
            path,
            inputs: InputFiles::default(),
            watches,
            missing: MissingPaths::default(),
            root: RootState::Gone,
            cut: BTreeSet::new(),
            origins: FileOrigins::default(),
            synced: false,
            drifted: BTreeSet::new(),
            tx,
        }
    }

    /// Runs until the receiver is gone, or the store is dropped.
    pub(super) fn run(mut self, pending: &PendingEvents) {
        let _closed = self.serve_events(pending);
    }

    fn serve_events(&mut self, pending: &PendingEvents) -> SendResult {
        self.origins = FileOrigins::read_records(&self.store.disk);
        self.start_reading()?;
        if matches!(self.root, RootState::There(_)) {
            self.origins.sweep_gone(&self.store.disk);
        }
        self.synced = true;
        let (inputs, origins) = (&self.inputs, &self.origins);
        status::sweep_statuses(&self.store, |key| {
            inputs.holds_input(key) || inputs.may_hide(key) || origins.holds_input(key)
        });
        self.send_drift()?;
        self.send_change(Change::Synced)?;
        while let Some(batch) = pending.take_batch(self.missing.deadline()) {
            if !batch.paths.is_empty() {
                self.missing.defer_deadline();
            }
            self.handle_batch(batch)?;
            self.withdraw_missing()?;
            self.send_drift()?;
        }
        Ok(())
    }

    pub(super) fn lock_ledger(&self) -> MutexGuard<'_, DirLedger> {
        self.store.lock_ledger()
    }

    pub(super) fn send_change(&self, change: Change) -> SendResult {
        self.tx.blocking_send(change).map_err(|_| ReceiverGone)
    }

    fn send_drift(&mut self) -> SendResult {
        std::mem::take(&mut self.drifted).into_iter().try_for_each(|owner| self.send_change(Change::Drift(owner)))
    }

    fn handle_batch(&mut self, batch: EventBatch) -> SendResult {
        if let Some(message) = batch.error {
            self.send_change(Change::problem(self.store.disk.place_of(Path::new("")), message))?;
        }
        let about_root = batch.paths.iter().filter(|(path, _)| self.path.starts_with(path)).map(|(_, news)| *news);
        let about_root: Vec<FileEvent> = about_root.collect();
        if batch.rescan || !about_root.is_empty() {
            self.check_root(about_root.iter().any(|news| *news != FileEvent::Touched))?;
        }
        if self.root == RootState::Gone {
            return Ok(());
        }
        if batch.rescan {
            return self.scan_folder(Path::new(""));
        }
        for (path, news) in batch.paths {
            self.note_room(&path, news);
            match path.strip_prefix(&self.path) {
                Ok(inside) if !inside.as_os_str().is_empty() => self.handle_path(inside, news)?,
                _ => {}
            }
            for link in self.watches.links_to(&path) {
                if !is_being_made(&path, news) {
                    self.handle_path(&link, FileEvent::Settled)?;
                }
            }
        }
        Ok(())
    }

    /// Marks a folder with too many files to be read again in a quiet moment, if something is removed from it: there may be
    /// room for the rest.
    fn note_room(&mut self, path: &Path, news: FileEvent) {
        let Ok(inside) = path.strip_prefix(&self.path) else { return };
        if news != FileEvent::Removed || layout::in_objects(inside).is_some() {
            return;
        }
        let cut = self.cut.iter().find(|folder| inside.starts_with(folder));
        if let Some(folder) = cut.cloned() {
            self.missing.add_path(folder);
        }
    }

    /// Looks at what is under a name now.
    fn handle_path(&mut self, path: &Path, news: FileEvent) -> SendResult {
        if path.file_name().is_some_and(|name| name == "..data") {
            return self.scan_folder(path.parent().unwrap_or(Path::new("")));
        }
        if layout::any_hidden(path) {
            return Ok(());
        }
        let absolute = self.path.join(path);
        match fs::symlink_metadata(&absolute) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.record_missing(path);
                return Ok(());
            }
            Err(e) => return self.report_unreadable(path, &e.to_string()),
        }
        if is_being_made(&absolute, news) || (news == FileEvent::Touched && !self.inputs.is_unreadable(path)) {
            return Ok(());
        }
        if fs::metadata(&absolute).is_ok_and(|m| m.is_dir()) {
            self.handle_displaced(path);
            return self.scan_folder(path);
        }
        if path.file_name().is_some_and(layout::is_manifest) {
            self.read_path(path, WithdrawalPatience::Yes)?;
        }
        Ok(())
    }

    /// Reads a folder and all in it: known files that are not there are missing.
    pub(super) fn scan_folder(&mut self, start: &Path) -> SendResult {
        let before = self.inputs.files_under(start);
        let found = walk::walk_folder(&self.path, start, &mut self.watches);
        self.cut.retain(|folder| !folder.starts_with(start));
        if found.is_cut {
            self.cut.insert(start.to_owned());
        }
        for (path, message) in &found.blind {
            self.report_unreadable(path, message)?;
        }
        for file in &found.files {
            self.read_path(file, WithdrawalPatience::Yes)?;
        }
        let blind = |path: &Path| found.blind.iter().any(|(b, _)| path.starts_with(b));
        let files: BTreeSet<&Path> = found.files.iter().map(PathBuf::as_path).collect();
        for known in before.iter().filter(|k| !files.contains(&***k) && !blind(k)) {
            if found.folders.contains(&**known) {
                self.drop_input(known)?; // a folder that could not be looked into, and now could
            } else {
                self.missing.add_path(known.to_path_buf());
            }
        }
        for link in self.watches.links_into(&self.path.join(start)).iter().filter(|link| !files.contains(&***link)) {
            self.read_path(link, WithdrawalPatience::Yes)?; // what it leads to may be there only now
        }
        if start.as_os_str().is_empty() || start == Path::new(OBJECTS) {
            self.missing.add_path(OBJECTS.into()); // and so what of ours is not there any more
        }
        Ok(())
    }

    fn read_path(&mut self, path: &Path, patience: WithdrawalPatience) -> SendResult {
        self.missing.record_back(path);
        if self.watches.follow_link(&self.path, path) {
            return self.drop_input(path); // it is read where it stands
        }
        match self.fetch_file(path) {
            Ok(FetchedFile::Ours) => self.drop_input(path),
            Ok(FetchedFile::Input(bytes)) => {
                let digest = Digest::of(&bytes);
                if self.inputs.is_known(path, digest) { Ok(()) } else { self.parse_file(path, &bytes, patience) }
            }
            Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(self.path.join(path)).is_err() => {
                self.record_missing(path);
                Ok(())
            }
            Err(e) => {
                self.handle_displaced(path);
                let leads_nowhere = e.kind() == ErrorKind::NotFound;
                self.report_unreadable(
                    path,
                    &if leads_nowhere { "the link leads nowhere".to_owned() } else { e.to_string() },
                )
            }
        }
    }

    fn fetch_file(&mut self, path: &Path) -> io::Result<FetchedFile> {
        let absolute = self.path.join(path);
        let Some(file) = layout::in_objects(path) else {
            return disk::read_file(&absolute).map(FetchedFile::Input);
        };
        // A reader that looked while an object is written would take it for another owner's.
        let mut ledger = self.store.lock_ledger();
        let bytes = disk::read_file(&absolute)?;
        let (ours, drifted) = ledger.record_found(file, &bytes);
        self.drifted.extend(drifted);
        Ok(if ours { FetchedFile::Ours } else { FetchedFile::Input(bytes) })
    }

    fn parse_file(&mut self, path: &Path, bytes: &[u8], patience: WithdrawalPatience) -> SendResult {
        let store = self.store.clone();
        let place = |p: &Path| store.disk.place_of(p);
        let documents = manifest::read_manifest(&place(path), bytes);
        let held_before = self.origins.objects_of(path);
        // A file that is broken from the beginning never held anything that is in force.
        let known_for_nothing = held_before.is_none() && self.synced;
        let held_before_is_known = held_before.is_some();
        let news = FileContent { path, digest: Digest::of(bytes), documents, held_before };
        let (effects, shrunken) = self.inputs.update_file(place, news, patience, self.missing.paths());
        match shrunken {
            true => self.missing.add_shrunken(path.to_owned()),
            false => self.missing.record_whole(path),
        }
        let held = self.inputs.kept_of(path);
        let keep = !held.is_empty() || (self.inputs.has_problems(path) && (held_before_is_known || known_for_nothing));
        self.origins.record_objects(&self.store.disk, path, keep.then_some(held));
        self.carry_out(effects)?;
        self.handle_filled_root()
    }

    fn carry_out(&mut self, effects: Vec<InputEffect>) -> SendResult {
        let mut again = BTreeSet::new();
        for effect in effects {
            match effect {
                InputEffect::Tell(Change::Set(key, mut input)) if !self.synced => {
                    status::read_last(&self.store.disk, &key, &mut input);
                    self.send_change(Change::Set(key, input))?;
                }
                InputEffect::Tell(change) => self.send_change(change)?,
                InputEffect::Taken(key) => {
                    let owner = self.lock_ledger().record_taken(key);
                    self.drifted.extend(owner);
                }
                InputEffect::Released(key) => {
                    let owner = self.lock_ledger().record_released(&key);
                    self.drifted.extend(owner);
                }
                InputEffect::Reread(path) => drop(again.insert(path)),
            }
        }
        again.into_iter().try_for_each(|path| {
            self.inputs.forget_digest(&path);
            self.read_path(&path, WithdrawalPatience::Yes)
        })
    }

    fn report_unreadable(&mut self, path: &Path, reason: &str) -> SendResult {
        let place = self.store.disk.place_of(path);
        let message = format!("{reason}; what was read there before stays in force");
        let hidden = match self.origins.objects_of(path) {
            Some(keys) => HiddenInputs { keys: keys.clone(), ..HiddenInputs::default() },
            None => HiddenInputs::anything(),
        };
        let effects = self.inputs.record_unreadable(place, path, FileProblem { message, hidden });
        self.carry_out(effects)
    }

    /// Removes a file that holds no input (any more).
    fn drop_input(&mut self, path: &Path) -> SendResult {
        self.origins.record_objects(&self.store.disk, path, None);
        let effects = self.inputs.remove_file(path);
        self.carry_out(effects)
    }

    /// Handles something that is no file in the place of a file of Wharf's.
    fn handle_displaced(&mut self, path: &Path) {
        if let Some(file) = layout::in_objects(path) {
            let owner = self.lock_ledger().strike_file(file);
            self.drifted.extend(owner);
        }
    }

    fn record_missing(&mut self, path: &Path) {
        self.watches.forget_under(path);
        for file in self.inputs.files_under(path) {
            self.missing.add_path(file.to_path_buf());
        }
        let Some(file) = layout::in_objects(path) else {
            if path == Path::new(OBJECTS) {
                self.missing.add_path(path.to_owned());
            }
            return;
        };
        if self.lock_ledger().has_file(file) {
            self.missing.add_path(path.to_owned());
        } else {
            // Another owner released it: what one policy exposed, another may now.
            let waiting = self.lock_ledger().waiting_for(file);
            self.drifted.extend(waiting);
        }
    }

    /// Removes files of Wharf's that are gone from the ledger.
    pub(super) fn strike_lost(&mut self) {
        let folder = self.path.join(OBJECTS);
        let exists = |file: &str| fs::symlink_metadata(folder.join(file)).is_ok();
        let gone: Vec<_> = self.lock_ledger().file_names().into_iter().filter(|f| !exists(f)).collect();
        let owners: Vec<_> = gone.iter().filter_map(|file| self.lock_ledger().strike_file(file)).collect();
        self.drifted.extend(owners);
    }

    /// Withdraws objects that are gone for good.
    fn withdraw_missing(&mut self) -> SendResult {
        let due = self.missing.take_due();
        if !due.is_empty() && !self.path.is_dir() {
            return self.handle_lost_root(); // the files went with their folder, and are not to be withdrawn
        }
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        for path in due {
            if path == Path::new(OBJECTS) {
                self.strike_lost();
            } else if self.path.join(&path).is_dir() {
                self.scan_folder(&path)?;
            } else if exists(&self.path.join(&path)) {
                self.read_path(&path, WithdrawalPatience::No)?;
            } else {
                self.handle_displaced(&path);
                self.drop_input(&path)?;
            }
        }
        Ok(())
    }
}
