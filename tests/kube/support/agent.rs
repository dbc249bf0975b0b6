//! Real agents, `wharf agent`, with API servers as their stores.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use wharf::agent::view::AgentView;

use super::process::{self, Daemon};
use super::tools::{self, WHARF};
use super::{Account, Cluster, http, wait};

/// A root CA and what it issued, in a folder.
#[derive(Clone)]
pub struct Pki(Arc<TempDir>);

impl Pki {
    pub fn new() -> Pki {
        let pki = Pki(Arc::new(tempfile::tempdir_in(process::folder()).expect("a folder")));
        pki.run(&["init"]);
        pki
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// `wharf ca ARGS` in its folder.
    pub fn run(&self, args: &[&str]) {
        let folder = self.path().display().to_string();
        let args: Vec<_> = ["ca", "--dir", &folder].into_iter().chain(args.iter().copied()).collect();
        tools::run(Path::new(WHARF), &args, &[], "").ok();
    }

    /// The certificate of a cluster and its key, as files; issued if they are not there.
    pub fn issue(&self, cluster: &str) -> (PathBuf, PathBuf) {
        let [certificate, key] = ["crt", "key"].map(|suffix| self.path().join(format!("{cluster}.{suffix}")));
        if !certificate.exists() {
            self.run(&["issue", cluster, "--dns", "localhost"]);
        }
        (certificate, key)
    }
}

/// An agent of a cluster; one of several, if there are more.
pub struct Agent {
    /// The cluster's.
    pub cluster: String,
    /// Its own; the holder of the Lease, when it leads.
    pub pod: String,
    pub config: PathBuf,
    pub peering: SocketAddr,
    pub admin: SocketAddr,
    folder: PathBuf,
    identity: String,
    kubeconfig: PathBuf,
    daemon: Option<Daemon>,
    _pki: Pki,
}

impl Agent {
    /// An agent as the administrator, in a pod of this name. It does not run yet.
    pub fn new(at: &Cluster, pki: &Pki, cluster: &str, pod: &str) -> Agent {
        let port = 7443 + 10 * at.agents.fetch_add(1, Ordering::Relaxed);
        let folder = at.server.folder.clone();
        let (certificate, key) = pki.issue(cluster);
        let root = pki.path().join("ca.crt");
        let identity = serde_json::json!({"certificate": certificate, "key": key, "root": root}).to_string();
        Agent {
            cluster: cluster.to_owned(),
            pod: pod.to_owned(),
            config: folder.join(format!("{pod}.yaml")),
            peering: SocketAddr::new(at.server.ip, port),
            admin: SocketAddr::new(at.server.ip, port + 1),
            folder,
            identity,
            kubeconfig: at.kubeconfig(),
            daemon: None,
            _pki: pki.clone(),
        }
    }

    /// With the rights of a service account.
    pub fn with_account(mut self, account: &Account) -> Agent {
        self.kubeconfig.clone_from(&account.kubeconfig);
        self
    }

    /// With another identity than the files of the [`Pki`]: a YAML mapping.
    pub fn with_identity(mut self, identity: &str) -> Agent {
        identity.clone_into(&mut self.identity);
        self
    }

    /// Writes its configuration: what every agent needs, `more` (whole lines), and the peers (each a YAML mapping). The
    /// ingress gateway has an address, and the store is this API server, unless `more` says otherwise.
    pub fn configure(&self, more: &str, peers: &[String]) {
        let Agent { cluster, peering, admin, identity, .. } = self;
        let mut text = format!("cluster: {cluster}\nlisten: {peering}\nadmin: {admin}\nidentity: {identity}\n{more}");
        for (key, value) in [("store:", "{kube: {}}"), ("ingress:", "{address: 192.0.2.1}")] {
            if !more.contains(key) {
                text += &format!("{key} {value}\n");
            }
        }
        text += "peers:\n";
        peers.iter().for_each(|peer| text += &format!("- {peer}\n"));
        let beside = self.config.with_extension("new");
        fs::write(&beside, text).expect("a file");
        fs::rename(&beside, &self.config).expect("a file");
    }

    /// The entry of this cluster among the peers of one that consumes from it.
    pub fn as_donor(&self) -> String {
        format!("{{name: {}, endpoint: \"{}\"}}", self.cluster, self.peering)
    }

    /// The entry of this cluster among the peers of one that exposes to it.
    pub fn as_consumer(&self) -> String {
        format!("{{name: {}, consume: true}}", self.cluster)
    }

    pub fn start(&mut self) {
        let args = [WHARF, "agent", "--config", &self.config.display().to_string()].map(str::to_owned).to_vec();
        let env = [
            ("KUBECONFIG", self.kubeconfig.display().to_string()),
            ("POD_NAME", self.pod.clone()),
            ("POD_NAMESPACE", "wharf-system".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
        self.daemon = Some(Daemon::start(&self.pod, self.folder.join(format!("{}.log", self.pod)), args, env));
    }

    /// Starts it, and waits until it is ready.
    pub async fn started(&mut self) {
        self.start();
        self.ready().await;
    }

    pub async fn ready(&self) {
        wait::until("a ready agent", || async { (self.http("/readyz")?.0 == 200).then_some(()) }).await;
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// SIGTERM, and what came of it and how fast.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        self.daemon.take().expect("it runs").stop()
    }

    /// SIGKILL: no good-bye.
    pub fn kill(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    /// SIGSTOP: it is there, and does nothing.
    pub fn freeze(&self) {
        self.daemon().freeze();
    }

    pub fn resume(&self) {
        self.daemon().resume();
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::runs)
    }

    pub fn id(&self) -> u32 {
        self.daemon().id()
    }

    pub fn log(&self) -> String {
        self.daemon().log()
    }

    // ---- what is to be seen

    /// Status and body of a GET of its admin listener; none if it does not answer.
    pub fn http(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.admin, path)
    }

    /// What it says of itself.
    pub fn status(&self) -> Option<AgentView> {
        let (code, body) = self.http("/status")?;
        (code == 200).then(|| serde_json::from_str(&body).expect("a view"))
    }

    /// The value of a series of `/metrics`, by its name with labels.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take().filter(|_| std::thread::panicking()) {
            eprintln!("{}", daemon.tail());
        }
    }
}
