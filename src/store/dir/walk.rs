//! Walks the folder: bounded, in a fixed order, every folder once whatever links lead to it.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::watch::FolderWatches;
use super::{disk, layout};

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;
/// Most files that are read.
pub const MAX_FILES: usize = 100_000;

/// The identity of a folder under any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FolderId(u64, u64);

impl FolderId {
    pub(super) fn of_metadata(metadata: &Metadata) -> FolderId {
        FolderId(metadata.dev(), metadata.ino())
    }
}

/// The result of a walk. Paths are relative to the root.
#[derive(Default)]
pub(super) struct WalkResult {
    /// May hold objects.
    pub(super) files: Vec<PathBuf>,
    pub(super) folders: HashSet<PathBuf>,
    /// Places that could not be read, with the reason; their known objects stay.
    pub(super) blind: Vec<(PathBuf, String)>,
    /// The folder has more files than are read.
    pub(super) is_cut: bool,
}

/// Walks the folder `start`. Each folder is watched before it is read, so that no change in between is lost.
pub(super) fn walk_folder(root: &Path, start: &Path, watches: &mut FolderWatches) -> WalkResult {
    let mut found = WalkResult::default();
    watches.forget_under(start);
    let mut folders = vec![start.to_owned()];
    while let Some(folder) = folders.pop() {
        match look_into(root, &folder, watches, &mut found.files) {
            // Names are sorted, and the last is popped first.
            Ok(inner) => folders.extend(inner.into_iter().rev()),
            Err(message) => found.blind.push((folder.clone(), message)),
        }
        found.folders.insert(folder);
        if found.files.len() > MAX_FILES {
            found.files.truncate(MAX_FILES);
            let why =
                format!("there are more than {MAX_FILES} files, not all are read: remove those that hold no objects");
            found.blind.push((start.to_owned(), why));
            found.is_cut = true;
            break;
        }
    }
    found
}

/// Reads a folder; returns the folders in it.
fn look_into(
    root: &Path,
    folder: &Path,
    watches: &mut FolderWatches,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, String> {
    let vanished = |e: io::Error| match e.kind() {
        ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(format!("the folder cannot be read: {e}")),
    };
    let absolute = root.join(folder);
    let identity = match fs::metadata(&absolute) {
        Ok(metadata) => FolderId::of_metadata(&metadata),
        Err(e) => return vanished(e),
    };
    if folder.components().count() > MAX_DEPTH {
        return Err(format!("the folder is not read: it is more than {MAX_DEPTH} folders deep"));
    }
    if !watches.enter_folder(root, folder, identity)? {
        return Ok(Vec::new());
    }
    let names = match disk::file_names(&absolute) {
        Ok(names) => names,
        Err(e) => return vanished(e),
    };
    let mut inner = Vec::new();
    for name in names {
        let path = folder.join(&name);
        match fs::metadata(root.join(&path)) {
            Ok(metadata) if metadata.is_dir() => inner.push(path),
            // Something that is no regular file, or a link that leads nowhere, is reported when it is read.
            _ if layout::is_manifest(&name) => files.push(path),
            _ => {}
        }
    }
    Ok(inner)
}
