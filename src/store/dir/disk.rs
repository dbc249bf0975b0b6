//! Reading and writing files: whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::layout::{OBJECTS, STATE};
use crate::store::StoreError;

/// The largest file that is read.
pub(super) const MAX_FILE: u64 = 16 << 20;
const TEMPORARY: &str = "tmp";

/// A folder, with the operations that put Wharf's files into it. Paths are relative to it.
pub(super) struct StoreFolder {
    /// The folder as it was given: messages name it so.
    root: PathBuf,
    instance: String,
    /// The folder of the objects is on another file system than the state: temporary files go beside their targets.
    beside: AtomicBool,
}

/// Tells the temporary files of this process from those of others, which may have the same number in their containers.
static PROCESS: LazyLock<String> = LazyLock::new(|| format!(".wharf-{:016x}-", rand::random::<u64>()));
static COUNT: AtomicU64 = AtomicU64::new(0);

impl StoreFolder {
    pub(super) fn open(root: &Path) -> Result<StoreFolder, StoreError> {
        let mut disk = StoreFolder { root: root.to_owned(), instance: String::new(), beside: AtomicBool::new(false) };
        disk.prepare_folder(Path::new(""))?;
        disk.sweep_temporaries();
        disk.instance = disk.find_instance()?;
        Ok(disk)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns the name of a file for messages.
    pub(super) fn place_of(&self, path: &Path) -> String {
        if path.as_os_str().is_empty() {
            return self.root.display().to_string(); // joined, it would end with a slash
        }
        self.root.join(path).display().to_string()
    }

    /// Makes the folder that `path` is to be in, and Wharf's own with its fixed files.
    pub(super) fn prepare_folder(&self, path: &Path) -> Result<(), StoreError> {
        // The root itself is never made: a person who removes it, file by file, must not find it there again.
        if !self.root.is_dir() {
            return Err(StoreError {
                place: self.root.display().to_string(),
                message: "there is no such folder: make it, and Wharf goes on".to_owned(),
                transient: true,
            });
        }
        let state = self.root.join(STATE);
        let made =
            |folder: &Path| fs::create_dir_all(folder).map_err(|e| self.file_error(folder, "cannot be made", &e));
        made(&state.join(TEMPORARY))?;
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            made(&self.root.join(folder))?;
        }
        let ignore = state.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(|e| self.file_error(&ignore, "cannot be written", &e))?;
        }
        if !self.instance.is_empty() && !state.join("instance").exists() {
            self.publish_instance(&self.instance)?; // somebody removed the folder; the instance is kept for ever
        }
        Ok(())
    }

    /// Writes a file so that at any time it has its old content or its new one. There is no `fsync`: all that Wharf
    /// writes is derived again after a crash of the machine, and would only be slower with it.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let target = self.root.join(path);
        let result = match self.replace_file(path, bytes) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.prepare_folder(path)?;
                self.replace_file(path, bytes)
            }
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                self.beside.store(true, Ordering::Relaxed);
                self.replace_file(path, bytes)
            }
            other => other,
        };
        result.map_err(|e| self.file_error(&target, "cannot be written", &e))
    }

    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.temporary_path(path);
        let written = OpenOptions::new().write(true).create_new(true).open(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            drop(file);
            fs::rename(&temporary, self.root.join(path))
        });
        written.inspect_err(|_| {
            let _ = fs::remove_file(&temporary); // what is left of it is of no use to anybody
        })
    }

    /// Returns a name for a temporary file. It is in Wharf's own folder where possible: a watcher of the target's
    /// folder (Wharf, perhaps istiod) then sees one rename and nothing else.
    fn temporary_path(&self, path: &Path) -> PathBuf {
        let name = format!("{}{}.tmp", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed));
        match path.parent() {
            Some(folder) if self.beside.load(Ordering::Relaxed) => self.root.join(folder).join(name),
            _ => self.root.join(STATE).join(TEMPORARY).join(name),
        }
    }

    /// Removes temporary files of a process that was killed. Another live process that shares the folder tries again.
    fn sweep_temporaries(&self) {
        for folder in [self.root.join(STATE).join(TEMPORARY), self.root.join(OBJECTS)] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(".wharf-") && name.ends_with(".tmp") && !name.starts_with(&*PROCESS) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        let target = self.root.join(path);
        match fs::remove_file(&target) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.file_error(&target, "cannot be removed", &e)),
            _ => Ok(()),
        }
    }

    /// Returns the content of a file; None if there is no such file.
    pub(super) fn read_optional(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match read_file(&self.root.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn find_instance(&self) -> Result<String, StoreError> {
        let path = self.root.join(STATE).join("instance");
        match read_file(&path) {
            Ok(bytes) => check_instance(&path, &bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.publish_instance(&format!("{:032x}", rand::random::<u128>()))?;
                let bytes = read_file(&path).map_err(|e| self.file_error(&path, "cannot be read", &e))?;
                check_instance(&path, &bytes)
            }
            Err(e) => Err(self.file_error(&path, "cannot be read", &e)),
        }
    }

    /// Publishes the instance by a link, which does not replace what is there: of two agents that start at once, one
    /// makes the instance, and both have it.
    fn publish_instance(&self, instance: &str) -> Result<(), StoreError> {
        let path = self.root.join(STATE).join("instance");
        let temporary = self.temporary_path(Path::new(STATE));
        let publish = || {
            let made = fs::write(&temporary, format!("{instance}\n")).and_then(|()| fs::hard_link(&temporary, &path));
            let _ = fs::remove_file(&temporary);
            made
        };
        let swept = |e: io::Error| if e.kind() == ErrorKind::NotFound { publish() } else { Err(e) };
        match publish().or_else(swept) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(self.file_error(&path, "cannot be written", &e)),
            _ => Ok(()),
        }
    }

    /// Makes an error of the store. All errors of files are transient: a disk is emptied, a permission is given.
    pub(super) fn file_error(&self, path: &Path, what: &str, e: &io::Error) -> StoreError {
        let cure = match e.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
            ErrorKind::PermissionDenied => "give Wharf's user the right to it",
            ErrorKind::ReadOnlyFilesystem => "mount the file system writable",
            ErrorKind::FileTooLarge => "raise the limit on the size of files (ulimit -f)",
            ErrorKind::NotADirectory | ErrorKind::IsADirectory => "move what is in its place away",
            _ => "see what is in its way",
        };
        StoreError { place: path.display().to_string(), message: format!("{what}: {e}; {cure}"), transient: true }
    }
}

fn check_instance(path: &Path, bytes: &[u8]) -> Result<String, StoreError> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_owned());
    }
    Err(StoreError {
        place: path.display().to_string(),
        message:
            "is not the instance that Wharf wrote (32 hexadecimal digits): put it back, or remove the file and be \
                  known to the peers as a new instance"
                .to_owned(),
        transient: false,
    })
}

/// Reads a file of bounded size. Something that is not a regular file (a pipe would block for ever) is an error.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let too_large = || io::Error::other(format!("it has more than {} MiB", MAX_FILE >> 20));
    if metadata.len() > MAX_FILE {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Returns the names of the files in a folder, without hidden ones; none if there is no such folder.
pub(super) fn file_names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names: Vec<_> = entries
        .filter_map(|e| e.ok().map(|e| e.file_name()))
        .filter(|n: &std::ffi::OsString| !super::layout::is_hidden(OsStr::new(n)))
        .collect();
    names.sort();
    Ok(names)
}
