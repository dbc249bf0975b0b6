//! The stage of the demonstration: a folder, certificates, agents as processes, and a watch on all files.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::agent::excerpt::ViewFilter;
use crate::agent::view::AgentView;

/// Longest wait for a step. No step takes a second; a busy machine may need more.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct DemoStage {
    pub folder: PathBuf,
    /// Prints written files as well.
    pub show: bool,
    pub wharf: PathBuf,
    /// Receives a wake-up after each change below the folder. The watcher lives as long as this.
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

/// One cluster's agent.
pub struct DemoAgent {
    pub name: String,
    pub store: PathBuf,
    pub config: PathBuf,
    pub peering: SocketAddr,
    pub admin: SocketAddr,
    log: PathBuf,
    process: Option<Child>,
}

impl DemoStage {
    pub fn new(folder: PathBuf, show: bool) -> anyhow::Result<DemoStage> {
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let (sender, changes) = mpsc::sync_channel(1);
        let mut watcher = notify::recommended_watcher(move |_| {
            let _ = sender.try_send(()); // full: a wake-up is already queued
        })?;
        watcher.watch(&folder, RecursiveMode::Recursive)?;
        let wharf = std::env::current_exe().context("this program does not know where it is")?;
        Ok(DemoStage { folder, show, wharf, changes, _watcher: watcher })
    }

    /// Runs `wharf ARGS`, which must succeed.
    pub fn run_wharf(&self, args: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.wharf).args(args).current_dir(&self.folder).output()?;
        ensure!(
            output.status.success(),
            "wharf {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Calls `seen` until it returns a value, again after each change of a file. Returns the value and the time that it
    /// took.
    pub fn wait_for<T>(
        &self,
        what: &str,
        mut seen: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<(T, Duration)> {
        let begun = Instant::now();
        loop {
            if let Some(found) = seen()? {
                return Ok((found, begun.elapsed()));
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                bail!("after {} s there still was not seen: {what}", PATIENCE.as_secs());
            }
            // Connections leave no immediate trace in files, so `seen` is also called at short intervals.
            let _ = self.changes.recv_timeout(left.min(Duration::from_millis(10)));
        }
    }

    /// Writes a file whole, as an editor or `git checkout` would.
    pub fn write_file(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub fn new_agent(&self, name: &str, ports: &[SocketAddr; 2]) -> DemoAgent {
        DemoAgent {
            name: name.to_owned(),
            store: self.folder.join(name),
            config: self.folder.join(format!("{name}.yaml")),
            peering: ports[0],
            admin: ports[1],
            log: self.folder.join(format!("{name}.log")),
            process: None,
        }
    }

    pub fn start_agent(&self, agent: &mut DemoAgent) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&agent.log)?;
        let process = Command::new(&self.wharf)
            .arg("agent")
            .arg("--config")
            .arg(&agent.config)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        agent.process = Some(process);
        Ok(())
    }
}

/// Free ports of this machine's loopback, all different.
pub fn free_ports<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let listeners = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    ports.try_into().map_err(|_| anyhow::anyhow!("no ports"))
}

impl DemoAgent {
    /// Asks the agent for its view. None while it does not answer.
    pub fn fetch_view(&mut self) -> anyhow::Result<Option<AgentView>> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.try_wait()?
        {
            bail!("the agent of {} ended with {status}; its log is {}", self.name, self.log.display());
        }
        Ok(super::super::build_client_runtime()?
            .block_on(super::super::inspect::fetch_view(self.admin, &ViewFilter::default()))
            .ok())
    }

    /// Kills the process (SIGKILL), so that its streams end without notice.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Sends SIGTERM. Returns the exit status of the process.
    pub fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(mut process) = self.process.take() else { return Ok(None) };
        let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        Ok(Some(process.wait()?))
    }

    /// Returns the text of a file that Wharf wrote, if it exists.
    pub fn read_object(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.store.join("istio").join(file)).ok()
    }

    /// Returns the names of the files that Wharf wrote.
    pub fn object_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store.join("istio")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|n| n.ends_with(".yaml"));
        names.sort();
        names
    }
}

impl Drop for DemoAgent {
    fn drop(&mut self) {
        let _ = self.kill(); // no agent outlives the demonstration
    }
}
