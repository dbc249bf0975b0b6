//! One cluster: its store, its configuration, its agent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use wharf::agent::view::{AgentView, BindingView, PeerView, PolicyView};
use wharf::api::Condition;

use super::http;
use super::site::{Site, WHARF};

/// A pause after SIGTERM that nobody should have to wait out.
const PROMPT: Duration = Duration::from_secs(20);

/// The user without rights, by the number that all systems give it.
const NOBODY: u32 = 65534;

pub struct Cluster {
    pub name: String,
    pub store: PathBuf,
    pub config: PathBuf,
    pub peering: SocketAddr,
    pub admin: SocketAddr,
    log: PathBuf,
    process: Option<Child>,
}

/// Every object that Wharf wrote, by file: when it was written, and what is in it.
pub type Snapshot = BTreeMap<String, (SystemTime, Value)>;

impl Cluster {
    pub(super) fn new(site: &Site, name: &str, folder: &str) -> Cluster {
        let store = site.path().join(folder);
        fs::create_dir_all(&store).expect("a store");
        Cluster {
            name: name.to_owned(),
            store,
            config: site.path().join(format!("{folder}.yaml")),
            peering: site.address(),
            admin: site.address(),
            log: site.path().join(format!("{folder}.log")),
            process: None,
        }
    }

    /// Writes the configuration: what every agent needs, `more` (whole lines), and the peers (each a YAML mapping).
    pub fn configure(&self, more: &str, peers: &[String]) {
        let text = self.configuration(more, peers);
        replace(&self.config, text.as_bytes());
    }

    pub fn configuration(&self, more: &str, peers: &[String]) -> String {
        let Cluster { name, peering, admin, .. } = self;
        let store = self.store.file_name().and_then(|f| f.to_str()).expect("a name");
        let gateway = if more.contains("ingress:") { "" } else { "ingress: {address: 192.0.2.1}\n" };
        let mut text = format!(
            "cluster: {name}\nlisten: {peering}\nadmin: {admin}\nidentity: {{certificate: {name}.crt, key: {name}.key, \
             root: ca.crt}}\nstore: {{dir: {store}}}\n{gateway}{more}peers:\n"
        );
        peers.iter().for_each(|peer| text += &format!("- {peer}\n"));
        text
    }

    /// The entry of this cluster among the peers of one that consumes from it.
    pub fn as_donor(&self) -> String {
        self.as_donor_at(self.peering)
    }

    pub fn as_donor_at(&self, address: SocketAddr) -> String {
        format!("{{name: {}, endpoint: \"{address}\"}}", self.name)
    }

    /// The entry of this cluster among the peers of one that exposes to it.
    pub fn as_consumer(&self) -> String {
        format!("{{name: {}, consume: true}}", self.name)
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = self.open_log();
        // A full disk is played by a limit on the size of files; its signal would end the process (setrlimit(2)).
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", WHARF, "agent", "--config"]).arg(&self.config);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("an agent"));
    }

    /// Starts the agent so that permissions hold for it: to root, who runs tests in containers, none does.
    pub fn start_unprivileged(&mut self, site: &Site) {
        if !rustix::process::geteuid().is_root() {
            return self.start();
        }
        // The program may lie where nobody else can reach it.
        let program = site.path().join("wharf");
        fs::copy(WHARF, &program).expect("a copy");
        give_to_nobody(site.path());
        let log = self.open_log();
        let mut command = Command::new(program);
        command.arg("agent").arg("--config").arg(&self.config).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("an agent"));
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).expect("a log")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    fn pid(&self) -> Pid {
        let id = self.process.as_ref().expect("it runs").id();
        Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id")
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// SIGKILL: no good-bye.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
        }
    }

    /// SIGTERM, and what came of it and how fast.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        let mut process = self.process.take().expect("it runs");
        loop {
            if let Some(status) = process.try_wait().expect("it ends") {
                return (status, begun.elapsed());
            }
            if begun.elapsed() > PROMPT {
                process.kill().expect("it runs");
                panic!("{} did not end in {PROMPT:?} after SIGTERM\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(5)); // waitpid has no deadline
        }
    }

    /// SIGSTOP: it is there, and does nothing.
    pub fn stall(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// No file of more than so many bytes can be written from now on, as on a disk that is full.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit};
        let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: bytes.or(maximum), maximum };
        rustix::process::prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a limit");
    }

    // ---- what operators do

    /// Writes a file of the store in place, as an editor may.
    pub fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        let path = self.store.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// Makes this many empty manifests in a folder of the store: `0.yaml`, `1.yaml`, ….
    pub fn write_many(&self, folder: &str, count: usize) {
        let folder = self.store.join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        (0..count).for_each(|n| drop(fs::File::create(folder.join(format!("{n}.yaml"))).expect("a file")));
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.store.join(file)).expect("a file");
    }

    // ---- what is to be seen

    /// Every object that Wharf wrote, parsed, by its file's name.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.snapshot().into_iter().map(|(name, (_, object))| (name, object)).collect()
    }

    /// The same, with the times when they were written. A file that goes while it is read is none; one that is broken is
    /// its text.
    pub fn snapshot(&self) -> Snapshot {
        let folder = self.store.join("istio");
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = entry.metadata().ok()?.modified().ok()?;
            let text = fs::read_to_string(entry.path()).ok().filter(|_| name.ends_with(".yaml"))?;
            Some((name, (written, serde_saphyr::from_str(&text).unwrap_or(Value::String(text)))))
        };
        entries.filter_map(read).collect()
    }

    /// The objects of a kind whose text contains something.
    pub fn find(&self, kind: &str, text: &str) -> Vec<Value> {
        let fits = |o: &Value| o["kind"] == kind && o.to_string().contains(text);
        self.objects().into_values().filter(fits).collect()
    }

    /// The names that are there with nothing behind them: those of the Services whose calls the mesh answers, if this holds
    /// everything that Wharf wrote.
    pub fn names_alone(&self) -> Option<Vec<String>> {
        let objects = self.objects();
        let of = |kind: &str| objects.values().filter(|o| o["kind"] == kind).cloned().collect::<Vec<_>>();
        let (services, answers) = (of("Service"), of("VirtualService"));
        let answers_all = |o: &Value| o["spec"]["http"][0]["directResponse"]["status"] == 503;
        let alone = services.len() == answers.len() && answers.iter().all(answers_all);
        let name = |o: &Value| o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (alone && objects.len() == 2 * services.len()).then(|| services.iter().map(name).collect())
    }

    /// The reason that callers of a local name read, if the mesh answers its calls.
    pub fn said_to_callers(&self, name: &str) -> Option<String> {
        let routes = self.find("VirtualService", &format!("{name}.default.svc.cluster.local\""));
        let answer = routes.iter().flat_map(|o| o["spec"]["http"].as_array().cloned().unwrap_or_default());
        let mut answers = answer.filter(|route| route["directResponse"]["status"] == 503);
        Some(answers.next()?["headers"]["response"]["set"]["x-wharf-reason"].as_str()?.to_owned())
    }

    /// Whether callers here are led to the service of this name in `default`: it is there, and the mesh does not answer its
    /// calls.
    pub fn bound(&self, service: &str) -> bool {
        let folder = self.store.join("istio");
        let routes = fs::read_to_string(folder.join(format!("virtualservice_default_wharf-{service}-default.yaml")));
        let answered = routes.is_ok_and(|text| text.contains("directResponse"));
        folder.join(format!("service_default_{service}.yaml")).exists() && !answered
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.admin, path)
    }

    /// What the agent says of itself; none while it does not answer.
    pub fn status(&self) -> Option<AgentView> {
        let (code, body) = self.get("/status")?;
        (code == 200).then(|| serde_json::from_str(&body).expect("a view"))
    }

    pub fn policy(&self, name: &str) -> Option<PolicyView> {
        self.status()?.policies.into_iter().find(|p| p.name == name)
    }

    pub fn binding(&self, name: &str) -> Option<BindingView> {
        self.status()?.bindings.into_iter().find(|b| b.name == name)
    }

    pub fn peer(&self, name: &str) -> Option<PeerView> {
        self.status()?.peers.into_iter().find(|p| p.name == name)
    }

    /// Reason and message of a condition of a peer.
    pub fn peer_condition(&self, peer: &str, type_: &str) -> Option<(String, String)> {
        condition(&self.peer(peer)?.status.conditions, type_)
    }

    /// Whether this cluster holds all that the peer offers to it.
    pub fn in_step(&self, peer: &str) -> bool {
        self.peer_condition(peer, "Connected").is_some_and(|(reason, _)| reason == "InStep")
    }

    /// The problems whose place contains something, as `place: message`.
    pub fn problems(&self, place: &str) -> Vec<String> {
        let all = self.status().into_iter().flat_map(|v| v.problems);
        all.filter(|p| p.place.contains(place)).map(|p| format!("{}: {}", p.place, p.message)).collect()
    }

    /// The status that stands beside what an operator wrote.
    pub fn status_file(&self, kind: &str, name: &str) -> Option<Value> {
        let path = self.store.join(".wharf/status").join(kind).join(format!("{name}.yaml"));
        fs::read_to_string(path).ok().map(|text| parse(&text))
    }

    /// Resident memory in bytes; 0 where it is not known.
    pub fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// The most that it ever was.
    pub fn peak_memory(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    /// How long its busiest thread ran, and how long it waited for a processor: what others do on the same machine. None
    /// where the system does not say.
    pub fn processor_time(&self) -> Option<(Duration, Duration)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
        let times = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let mut numbers = text.split_whitespace().map_while(|n| n.parse().ok().map(Duration::from_nanos));
            Some((numbers.next()?, numbers.next()?))
        });
        times.max()
    }

    /// Resident memory that is the program's file.
    pub fn code_memory(&self) -> u64 {
        self.memory_of("RssFile:")
    }

    fn memory_of(&self, kind: &str) -> u64 {
        if !cfg!(target_os = "linux") {
            return 0;
        }
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process of Linux");
        let line = text.lines().find_map(|l| l.strip_prefix(kind)).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// The value of a series of `/metrics`, by its name with labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill(); // an agent outlives no test
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(3000);
            eprintln!("--- the end of {}'s log\n{}", self.name, log.get(tail..).unwrap_or(&log));
        }
    }
}

/// Gives a folder, with all in it, to somebody without rights.
fn give_to_nobody(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    if path.is_dir() {
        fs::read_dir(path).expect("a folder").flatten().for_each(|entry| give_to_nobody(&entry.path()));
    }
}

/// Reason and message of a condition.
pub fn condition(conditions: &[Condition], type_: &str) -> Option<(String, String)> {
    conditions.iter().find(|c| c.type_ == type_).map(|c| (c.reason.clone(), c.message.clone()))
}

pub fn parse(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Replaces a file at once, as `git checkout` and Kubernetes do.
pub fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).expect("a file");
    fs::rename(&beside, path).expect("a file");
}
