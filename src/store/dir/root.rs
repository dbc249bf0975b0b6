//! The folder itself: it may be removed, made again, or be a link that is led elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use super::reader::{FolderReader, SendResult};
use super::walk::FolderId;
use crate::store::{Change, HiddenInputs};

/// The state of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootState {
    There(FolderId),
    Gone,
    /// It was made again, and nothing is in it yet: the earlier objects stay in force.
    Hollow(FolderId),
}

impl FolderReader {
    pub(super) fn start_reading(&mut self) -> SendResult {
        let Some(identity) = folder_identity(&self.path) else {
            self.report_root_problem("the folder was removed; make it again, with its files")?;
            return self.handle_lost_root();
        };
        self.root = RootState::There(identity);
        self.keep_guard();
        self.scan_folder(Path::new(""))?;
        self.missing.take_all();
        self.strike_lost(); // since the ledger was read, and before anything was watched
        Ok(())
    }

    /// Handles an event of the folder itself. With `anew` it was removed or made, even if it looks as before: file
    /// systems give a new folder the number of one that was just removed.
    pub(super) fn check_root(&mut self, anew: bool) -> SendResult {
        match (folder_identity(&self.path), self.root) {
            (None, _) => self.handle_lost_root(),
            (Some(now), RootState::There(known) | RootState::Hollow(known)) if now == known && !anew => Ok(()),
            (Some(now), _) => self.adopt_root(now),
        }
    }

    /// Handles the loss of the folder. Nothing is withdrawn: its absence says nothing about its owner's intent.
    pub(super) fn handle_lost_root(&mut self) -> SendResult {
        self.missing.take_all();
        if self.root != RootState::Gone {
            self.root = RootState::Gone;
            self.report_root_problem(
                "the folder was removed; all that it held stays in force. Make it again, with its files",
            )?;
        }
        self.keep_guard();
        match folder_identity(&self.path) {
            Some(made_meanwhile) => self.adopt_root(made_meanwhile),
            None => Ok(()),
        }
    }

    fn adopt_root(&mut self, identity: FolderId) -> SendResult {
        let complained = !matches!(self.root, RootState::There(_));
        self.root = RootState::There(identity);
        self.keep_guard();
        let owners = self.lock_ledger().forget_files();
        self.drifted.extend(owners); // ours are written again
        self.inputs.forget_digests(); // and all is told again, so that statuses are
        self.missing.take_all();
        if let Err(e) = self.store.disk.prepare_folder(Path::new("")) {
            self.report_root_problem(&e.to_string())?;
        }
        self.scan_folder(Path::new(""))?;
        let known = self.inputs.files_under(Path::new(""));
        if !known.is_empty() && known.iter().all(|file| self.missing.paths().contains(&**file)) {
            self.root = RootState::Hollow(identity);
            self.missing.take_all();
            return self.report_root_problem(
                "the folder was made again, and is empty; what it held stays in force until a file is in it",
            );
        }
        if complained { self.report_root_solved() } else { Ok(()) }
    }

    /// Handles a file that was read in a hollow folder: files that are missing now are not meant to come back.
    pub(super) fn handle_filled_root(&mut self) -> SendResult {
        let RootState::Hollow(identity) = self.root else { return Ok(()) };
        self.root = RootState::There(identity);
        self.report_root_solved()?;
        self.scan_folder(Path::new(""))
    }

    fn report_root_problem(&self, message: &str) -> SendResult {
        let (place, message) = (self.store.disk.place_of(Path::new("")), message.to_owned());
        self.send_change(Change::Problem { place, message, hidden: HiddenInputs::anything() })
    }

    fn report_root_solved(&self) -> SendResult {
        self.send_change(Change::Solved { place: self.store.disk.place_of(Path::new("")) })
    }

    /// Watches the folder above as well, if needed: a folder reports its own end, but not its return, nor that it is a
    /// link that leads elsewhere.
    fn keep_guard(&mut self) {
        let mut guard = self.guard_folder();
        loop {
            self.watches.watch_guard(guard.as_deref());
            // Folders may have come and gone before they were watched.
            let now = self.guard_folder();
            if now == guard {
                return;
            }
            guard = now;
        }
    }

    fn guard_folder(&self) -> Option<PathBuf> {
        match fs::symlink_metadata(&self.path) {
            Ok(metadata) if !metadata.is_symlink() => None,
            Ok(_) => self.path.parent().map(Path::to_owned),
            Err(_) => self.path.ancestors().skip(1).find(|p| p.is_dir()).map(Path::to_owned),
        }
    }
}

fn folder_identity(path: &Path) -> Option<FolderId> {
    fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|m| FolderId::of_metadata(&m))
}
