//! A folder with a root CA and clusters, on a loopback address of its own, so that tests do not meet.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use wharf::identity::{Identity, IdentityFiles};

use super::Cluster;

pub const WHARF: &str = env!("CARGO_BIN_EXE_wharf");

/// No step takes a second; a machine under load may.
const PATIENCE: Duration = Duration::from_secs(60);
/// What leaves no trace in a file is looked at this often.
const LOOK: Duration = Duration::from_millis(50);
/// A look takes the agents' time and the machine's, so that many times as long there is none, up to the longest rest.
const RESTS: u32 = 3;
const LONGEST_REST: Duration = Duration::from_millis(500);

/// A donor that is there is reached sooner.
const REDIAL: Duration = Duration::from_secs(1);

/// Sites at one time. Each takes up to ten watchers of the file system, and Linux allows a user 128 by default.
const SITES: usize = 6;
static OPEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A place among the sites that are open.
struct Slot;

impl Slot {
    fn take() -> Slot {
        let full = |open: &mut usize| *open >= SITES;
        *OPEN.1.wait_while(OPEN.0.lock().unwrap(), full).unwrap() += 1;
        Slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *OPEN.0.lock().unwrap() -= 1;
        OPEN.1.notify_one();
    }
}

pub struct Site {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    ip: IpAddr,
    next_port: Cell<u16>,
    /// Wakes with every change below the folder. The watcher lives as long as it.
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
    _slot: Slot,
}

impl Site {
    pub fn new() -> Site {
        let slot = Slot::take();
        let folder = tempfile::Builder::new().prefix("wharf-agents-").tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("a path");
        let (sender, changes) = mpsc::sync_channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                let _ = sender.try_send(()); // full: a wake-up is already on its way
            }
        })
        .expect("inotify");
        watcher.watch(&path, RecursiveMode::Recursive).expect("a folder to watch");
        let (ip, next_port) = (own_address(), Cell::new(free_port()));
        let site = Site { folder: Some(folder), path, ip, next_port, changes, _watcher: watcher, _slot: slot };
        site.run(&["ca", "init"]);
        site
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An address that nobody else listens on.
    pub fn address(&self) -> SocketAddr {
        let port = self.next_port.get();
        self.next_port.set(if cfg!(target_os = "linux") { port + 1 } else { free_port() });
        SocketAddr::new(self.ip, port)
    }

    /// A cluster with a certificate and an empty store; its agent does not run yet.
    pub fn cluster(&self, name: &str) -> Cluster {
        self.run(&["ca", "issue", name]);
        Cluster::new(self, name, name)
    }

    /// The identity of a cluster for tests that speak the protocol themselves, with a certificate that is issued once.
    pub fn identity(&self, name: &str) -> Identity {
        let file = |extension: &str| self.path.join(format!("{name}.{extension}"));
        if !file("crt").exists() {
            self.run(&["ca", "issue", name]);
        }
        let (certificate, key, root) = (file("crt"), file("key"), self.path.join("ca.crt"));
        Identity::load(&IdentityFiles { certificate, key, root, crl: None }).expect("an identity")
    }

    /// Another cluster with the name and certificate of one that is there, and with a store of its own.
    pub fn twin(&self, of: &Cluster, folder: &str) -> Cluster {
        Cluster::new(self, &of.name, folder)
    }

    /// Runs `wharf ARGS`, which must succeed. Gives what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "wharf {}: {error}", args.join(" "));
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn try_run(&self, args: &[&str]) -> Output {
        Command::new(WHARF).args(args).current_dir(&self.path).output().expect("wharf")
    }

    /// Issues a certificate for a cluster anew, and puts it where the old one was, as a renewal does.
    pub fn renew(&self, name: &str, more: &[&str]) {
        let fresh = tempfile::tempdir_in(&self.path).expect("a folder");
        let folder = fresh.path().to_str().expect("a path").to_owned();
        let mut args = vec!["ca", "issue", name, "--dir", &folder, "--ca-cert", "ca.crt", "--ca-key", "ca.key"];
        args.extend(more);
        self.run(&args);
        for extension in ["crt", "key"] {
            let file = format!("{name}.{extension}");
            fs::rename(fresh.path().join(&file), self.path.join(&file)).expect("a file to replace");
        }
    }

    /// Waits until `seen` gives something, looking again whenever a file changed. Gives it.
    pub fn until<T>(&self, what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
        self.try_until(PATIENCE, &mut seen).unwrap_or_else(|| panic!("not seen in {PATIENCE:?}: {what}"))
    }

    pub fn try_until<T>(&self, patience: Duration, mut seen: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            let begun = Instant::now();
            if let Some(found) = seen() {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::sleep((begun.elapsed() * RESTS).min(LONGEST_REST).min(left));
            let _ = self.changes.recv_timeout(left.min(LOOK));
        }
    }

    /// Waits until a cluster is in step with a donor that ran before. After some restarts it waits for up to half a minute
    /// before it dials once more, and with a new certificate it does so at once.
    pub fn until_in_step_again(&self, acceptor: &Cluster, donor: &str) {
        let mut dial = Instant::now() + REDIAL;
        self.until("in step", || {
            if acceptor.in_step(donor) {
                return Some(());
            }
            if Instant::now() > dial {
                self.renew(&acceptor.name, &[]);
                dial = Instant::now() + REDIAL;
            }
            None
        });
    }

    /// Makes sure that `holds` goes on holding: looks at it after each change of a file, for a while.
    pub fn stays(&self, what: &str, during: Duration, mut holds: impl FnMut() -> bool) {
        let broken = self.try_until(during, || (!holds()).then_some(()));
        assert!(broken.is_none(), "it did not stay: {what}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the folder of this test is kept: {}", folder.keep().display());
        }
    }
}

/// All of 127.0.0.0/8 is this machine on Linux. On an address of its own a test's ports are its own, also while an
/// agent is away.
fn own_address() -> IpAddr {
    if cfg!(target_os = "linux") {
        let [a, b, c]: [u8; 3] = rand::random();
        IpAddr::V4(Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254)))
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }
}

fn free_port() -> u16 {
    if cfg!(target_os = "linux") {
        return 7443;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
