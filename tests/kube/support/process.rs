//! Processes that end with the tests, however those end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::tools::installed;

/// A good-bye that takes longer than this is none.
const PROMPT: Duration = Duration::from_secs(90);

/// A process that can be ended, frozen and started again.
pub struct Daemon {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it. What it says is added to a file.
    pub fn start(name: &str, log: PathBuf, args: Vec<String>, env: Vec<(String, String)>) -> Daemon {
        let mut daemon = Daemon { name: name.to_owned(), args, env, log, child: None };
        daemon.again();
        daemon
    }

    /// Starts it once more, as before.
    pub fn again(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new(installed("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(clone(&log)).stderr(log);
        self.child = Some(spawn(command).unwrap_or_else(|e| panic!("{}: {e}", self.name)));
    }

    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn child(&self) -> &Child {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    pub fn id(&self) -> u32 {
        self.child().id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.id()).expect("a process id")).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// SIGSTOP: it is there, and does nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL: no good-bye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be ended");
            child.wait().expect("it ends");
        }
    }

    /// SIGTERM, and what came of it and how fast.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let stopped = self.stop_within(PROMPT);
        stopped.unwrap_or_else(|| panic!("{} did not end in {PROMPT:?} after SIGTERM\n{}", self.name, self.tail()))
    }

    /// SIGTERM, and SIGKILL when the time is up, as the kubelet does it. None: the time was up.
    pub fn stop_within(&mut self, patience: Duration) -> Option<(ExitStatus, Duration)> {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = self.child.as_mut().expect("it runs").try_wait().expect("it ends") {
                self.child = None;
                return Some((status, begun.elapsed()));
            }
            thread::sleep(Duration::from_millis(5)); // waitpid has no deadline
        }
        self.kill();
        None
    }

    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The end of its log, to be shown when something went wrong.
    pub fn tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(4000);
        format!("--- the end of {}'s log\n{}", self.name, log.get(from..).unwrap_or(&log))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn clone(log: &File) -> File {
    log.try_clone().expect("a log")
}

type Answer = io::Result<Child>;

/// "Parent" in PR_SET_PDEATHSIG is the thread that made the child (prctl(2)), and a test's thread ends with the test:
/// all are made by one that ends with the process.
static SPAWNER: LazyLock<mpsc::Sender<(Command, mpsc::Sender<Answer>)>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<(Command, mpsc::Sender<Answer>)>();
    thread::spawn(move || jobs.iter().for_each(|(mut command, answer)| drop(answer.send(command.spawn()))));
    sender
});

fn spawn(command: Command) -> Answer {
    let (answer, answered) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("it ends with the process");
    answered.recv().expect("it ends with the process")
}

/// A folder that goes with the process: a shell waits for the end of a pipe that only we hold.
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<(PathBuf, Child)> = LazyLock::new(|| {
        let path = tempfile::Builder::new().prefix("wharf-kube-").tempdir().expect("a folder").keep();
        // What runs in it is ended at the same moment, and may still be writing.
        let wait = "trap '' INT TERM HUP; cat >/dev/null; until rm -rf \"$1\" 2>/dev/null; do sleep 0.1; done";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", wait, "sh"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        (path, command.spawn().expect("a shell"))
    });
    &FOLDER.0
}
