//! Clusters to measure: real agents as processes, with real certificates, on loopback.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

const WHARF: &str = env!("CARGO_BIN_EXE_wharf");
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with certificates for a donor and some acceptors.
pub struct Site {
    pub folder: tempfile::TempDir,
    donor: SocketAddr,
}

pub struct Agent {
    pub store: PathBuf,
    config: PathBuf,
    process: Option<Child>,
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

fn ca(folder: &Path, args: &[&str]) {
    let status = Command::new(WHARF).arg("ca").args(args).current_dir(folder).stdout(Stdio::null()).status();
    assert!(status.expect("wharf ca").success());
}

impl Site {
    pub fn new() -> Site {
        // Not in the folder of everybody's temporary files: an agent watches the folders above its own.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        ca(folder.path(), &["init"]);
        for name in ["donor", "acceptor"] {
            ca(folder.path(), &["issue", name]);
        }
        Site { folder, donor: free_port() }
    }

    fn agent(&self, name: &str, listen: SocketAddr, peers: &str) -> Agent {
        let folder = self.folder.path();
        let config = folder.join(format!("{name}.yaml"));
        let admin = free_port();
        let text = format!(
            "cluster: {name}\nlisten: {listen}\nadmin: {admin}\nidentity: {{certificate: {name}.crt, key: {name}.key, \
             root: ca.crt}}\nstore: {{dir: {name}}}\ningress: {{address: 192.0.2.1}}\nlimits: {{peerExpositions: \
             20000, peerBytes: 67108864, allPeersBytes: 67108864, changeBurst: 1000}}\npeers:\n- {peers}\n"
        );
        fs::write(&config, text).expect("a configuration");
        let store = folder.join(name);
        fs::create_dir_all(store.join("istio")).expect("a store");
        Agent { store, config, process: None }
    }

    pub fn donor(&self) -> Agent {
        self.agent("donor", self.donor, "{name: acceptor, consume: true}")
    }

    pub fn acceptor(&self) -> Agent {
        self.agent("acceptor", free_port(), &format!("{{name: donor, endpoint: \"{}\"}}", self.donor))
    }
}

impl Agent {
    pub fn start(&mut self) {
        let log = fs::File::create(self.config.with_extension("log")).expect("a log");
        let mut command = Command::new(WHARF);
        command.arg("agent").arg("--config").arg(&self.config).env("WHARF_LOG", "warn");
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("an agent"));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.store.join(name), text).expect("a file");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.store.join(name)).expect("a file");
    }

    pub fn eye(&self) -> Eye {
        Eye::new(&self.store.join("istio"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sees which files come into a folder by rename, and when.
pub struct Eye {
    folder: PathBuf,
    events: mpsc::Receiver<(Instant, String)>,
    _watcher: RecommendedWatcher,
}

impl Eye {
    pub fn new(folder: &Path) -> Eye {
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let now = Instant::now();
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Modify(notify::event::ModifyKind::Name(_))) {
                for path in event.paths {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let _ = sender.send((now, name));
                }
            }
        })
        .expect("inotify");
        watcher.watch(folder, RecursiveMode::NonRecursive).expect("a folder to watch");
        Eye { folder: folder.to_owned(), events, _watcher: watcher }
    }

    /// Forgets what was seen so far.
    pub fn blink(&self) {
        while self.events.try_recv().is_ok() {}
    }

    /// When the first file that fits came.
    pub fn see(&self, fits: impl Fn(&str) -> bool) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, name) = self.events.recv_timeout(left).expect("the file did not come");
            if fits(&name) {
                return at;
            }
        }
    }

    /// When all of `count` different files that fit had come; those that are there already count.
    pub fn see_all(&self, count: usize, fits: impl Fn(&str) -> bool) -> Instant {
        let names = fs::read_dir(&self.folder).expect("the folder").flatten();
        let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
        let mut seen: HashSet<_> = names.filter(|n| fits(n)).collect();
        let mut last = Instant::now();
        let deadline = last + PATIENCE;
        while seen.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, name) =
                self.events.recv_timeout(left).unwrap_or_else(|_| panic!("{} of {count} files came", seen.len()));
            if fits(&name) && seen.insert(name) {
                last = at;
            }
        }
        last
    }
}
