//! The programs that `tests/lab/lab.py` builds, and how they are run.

use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

const SETUP: &str = "tests/lab/lab.py setup --only kube";

/// The lab's cache, where its programs are.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").expect("$HOME is set")).join(".cache/wharf-lab");
    env::var_os("LAB_CACHE").filter(|v| !v.is_empty()).map_or_else(home, PathBuf::from)
}

/// A file of the cache. Nothing is skipped where it is missing.
pub fn built(path: &str) -> PathBuf {
    let file = cache().join(path);
    assert!(file.exists(), "{} is missing; this builds it, once: {SETUP}", file.display());
    file
}

/// A program that a package of the system has.
pub fn installed(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is not on the PATH; this installs it, as root: {SETUP}"))
}

/// What a program that was run to its end said.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program with this text as its input.
pub fn run(program: &Path, args: &[impl AsRef<OsStr>], env: &[(&str, &OsStr)], input: &str) -> Said {
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = input.to_owned();
    // Beside it: who reads slowly may say much before.
    let writer = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
    let Output { status, stdout, stderr } = child.wait_with_output().expect("an end");
    writer.join().expect("written");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { success: status.success(), stdout: text(stdout), stderr: text(stderr) }
}

impl Said {
    /// What it printed, if it went well.
    pub fn ok(self) -> String {
        assert!(self.success, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it complained of, if it did not.
    pub fn failed(self) -> String {
        assert!(!self.success, "it went well: {}{}", self.stdout, self.stderr);
        self.stderr
    }
}
