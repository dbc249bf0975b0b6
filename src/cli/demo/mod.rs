//! `wharf demo`: three clusters on this machine share a service and take it away again.
//!
//! The agents are real processes with real certificates on loopback; their clusters are folders. Every line that begins
//! with a tick was observed, and the exit code is 0 only if all of them were.

mod stage;
mod strangers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use self::stage::{DemoAgent, DemoStage, free_ports};
use super::output::{LineStyle, print, print_styled};
use super::program;

/// Watch three clusters share a service and take it away again, on this machine
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  wharf demo\n  wharf demo --keep     # keeps the folder, and says how to go on\n\nNeeds nothing but this program. Listens on loopback, and writes below the temporary folder only."
)]
pub struct DemoArgs {
    /// Keep the folder of certificates, configurations and objects
    #[arg(long)]
    keep: bool,
    /// Show the configurations, policies, bindings and Istio objects as well
    #[arg(long)]
    show: bool,
    /// Work in this folder, which must be empty or not there, and keep it
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

const SERVICES: &str = include_str!("../../../examples/bookinfo/donor/services.yaml");
const RULES: &str = include_str!("../../../examples/bookinfo/donor/rules.yaml");
const POLICY: &str = include_str!("../../../examples/bookinfo/donor/policy.yaml");
const BINDING: &str = include_str!("../../../examples/bookinfo/acceptor/binding.yaml");
/// Time without a write after which a change counts as written.
const REST: Duration = Duration::from_millis(200);

pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let keep = args.keep || args.dir.is_some();
    let folder = match args.dir {
        Some(dir) => {
            let empty = std::fs::read_dir(&dir).map_or(true, |mut entries| entries.next().is_none());
            ensure!(empty, "{}: not empty; name a folder that is empty or not there", dir.display());
            dir
        }
        None => std::env::temp_dir().join(format!("wharf-demo-{:08x}", rand::random::<u32>())),
    };
    let result = DemoStage::new(folder.clone(), args.show).and_then(|stage| play_scenes(&stage, keep));
    if !keep {
        let _ = std::fs::remove_dir_all(&folder);
    }
    result.context("the demonstration did not get to its end")?;
    Ok(ExitCode::SUCCESS)
}

fn print_title(number: u32, text: &str) -> anyhow::Result<()> {
    print_styled(LineStyle::Title, &format!("{number}. {text}"))
}

fn print_seen(text: &str, took: Option<Duration>) -> anyhow::Result<()> {
    let took = took.map(|t| format!("  ({:.1} ms)", t.as_secs_f64() * 1000.0)).unwrap_or_default();
    print_styled(LineStyle::Seen, &format!("   ✓ {text}{took}"))
}

fn print_file(stage: &DemoStage, name: &str, text: &str) -> anyhow::Result<()> {
    if !stage.show {
        return Ok(());
    }
    let lines = text.lines().filter(|l| !l.trim_start().starts_with('#')).map(|l| format!("     │ {l}\n"));
    print(&format!("     {name}\n{}", lines.collect::<String>()))
}

fn play_scenes(stage: &DemoStage, keep: bool) -> anyhow::Result<()> {
    print(&format!(
        "Three clusters share a service: real agents, real certificates, and folders for clusters below {}.\n",
        stage.folder.display()
    ))?;
    let ports = free_ports::<6>()?;
    let mut donor = stage.new_agent("cluster1", &[ports[0], ports[1]]);
    let mut acceptor = stage.new_agent("cluster2", &[ports[2], ports[3]]);
    let mut other = stage.new_agent("cluster3", &[ports[4], ports[5]]);

    issue_certificates(stage)?;
    start_agents(stage, &mut donor, &mut acceptor, &mut other)?;
    play_sharing(stage, &donor, &acceptor)?;
    play_refusal(stage, &donor, &mut other)?;
    play_change(stage, &donor, &acceptor)?;
    play_restart(stage, &mut donor, &mut acceptor)?;
    play_withdrawal(stage, &donor, &acceptor)?;
    stop_agents(stage, [&mut donor, &mut acceptor, &mut other], keep)
}

fn issue_certificates(stage: &DemoStage) -> anyhow::Result<()> {
    print_title(1, "A root CA that all share, and a certificate for each cluster: who a cluster is stands in it")?;
    stage.run_wharf(&["ca", "init"])?;
    for cluster in ["cluster1", "cluster2", "cluster3"] {
        stage.run_wharf(&["ca", "issue", cluster, "--dns", "localhost", "--ip", "127.0.0.1"])?;
    }
    if stage.show {
        print("     $ wharf ca init\n     $ wharf ca issue cluster1     # and cluster2, cluster3\n")?;
    }
    print_seen("ca.crt, cluster1.crt (spiffe://wharf/cluster/cluster1), cluster2.crt, cluster3.crt", None)
}

fn build_config(agent: &DemoAgent, gateway: &str, peers: &str) -> String {
    let DemoAgent { name, peering, admin, .. } = agent;
    format!(
        "cluster: {name}\nlisten: {peering}\nadmin: {admin}\nidentity: {{certificate: {name}.crt, key: {name}.key, root: \
         ca.crt}}\nstore: {{dir: ./{name}}}\ningress: {{address: {gateway}}}\npeers:\n{peers}"
    )
}

fn start_agents(
    stage: &DemoStage,
    donor: &mut DemoAgent,
    acceptor: &mut DemoAgent,
    other: &mut DemoAgent,
) -> anyhow::Result<()> {
    print_title(2, "An agent for each cluster. cluster1 trusts the other two as consumers")?;
    let consumers = "- {name: cluster2, consume: true}\n- {name: cluster3, consume: true}\n";
    let donors = format!("- {{name: cluster1, endpoint: \"localhost:{}\"}}\n", donor.peering.port());
    // Addresses that are reserved for documentation (RFC 5737): there is no gateway behind them in this demonstration.
    stage.write_file(&donor.config, &build_config(donor, "192.0.2.1", consumers))?;
    stage.write_file(&acceptor.config, &build_config(acceptor, "192.0.2.2", &donors))?;
    stage.write_file(&other.config, &build_config(other, "192.0.2.3", &donors))?;
    print_file(
        stage,
        "cluster2.yaml, the configuration of cluster2's agent:",
        &std::fs::read_to_string(&acceptor.config)?,
    )?;
    stage.write_file(&donor.store.join("services.yaml"), SERVICES)?;
    stage.write_file(&donor.store.join("rules.yaml"), RULES)?;
    // Both other clusters have the same binding, so that they differ only in what they receive.
    stage.write_file(&acceptor.store.join("binding.yaml"), BINDING)?;
    stage.write_file(&other.store.join("binding.yaml"), BINDING)?;
    for agent in [&mut *donor, &mut *acceptor, &mut *other] {
        stage.start_agent(agent)?;
    }
    for agent in [acceptor, other] {
        let (expires, took) = stage.wait_for("a connection to cluster1", || {
            let view = agent.fetch_view()?;
            let peer = view.into_iter().flat_map(|v| v.peers).find(|p| p.name == "cluster1");
            let in_step = |p: &crate::agent::view::PeerView| p.status.conditions.iter().any(|c| c.reason == "InStep");
            Ok(peer.filter(in_step).and_then(|p| p.status.certificate_expires))
        })?;
        print_seen(
            &format!(
                "{} is in step with cluster1 over mutual TLS; its certificate is good until {expires}",
                agent.name
            ),
            Some(took),
        )?;
    }
    Ok(())
}

/// Finds the first object of a kind that mentions a text.
fn find_object(agent: &DemoAgent, kind: &str, text: &str) -> Option<(String, String)> {
    let read = |name: String| agent.read_object(&name).map(|content| (name, content));
    let kind = format!("kind: {kind}\n");
    agent.object_names().into_iter().filter_map(read).find(|(_, o)| o.contains(&kind) && o.contains(text))
}

fn play_sharing(stage: &DemoStage, donor: &DemoAgent, acceptor: &DemoAgent) -> anyhow::Result<()> {
    print_title(3, "cluster1's operator writes a policy: reviews and ratings, to cluster2 and nobody else")?;
    print_file(stage, "cluster1/policy.yaml:", POLICY)?;
    print_file(stage, "cluster2/binding.yaml, which was waiting for it:", BINDING)?;
    stage.write_file(&donor.store.join("policy.yaml"), POLICY)?;
    let (entry, took) = stage.wait_for("the ServiceEntry of reviews in cluster2", || {
        Ok(find_object(acceptor, "ServiceEntry", "192.0.2.1")
            .filter(|_| find_object(acceptor, "Service", "name: stars").is_some()))
    })?;
    print_seen("cluster2 has the Istio configuration of both", Some(took))?;
    let (gateway, _) = stage.wait_for("the Gateway in cluster1", || {
        Ok(find_object(donor, "Gateway", "reviews.default.svc.cluster.local"))
    })?;
    ensure!(gateway.1.contains("spiffe://wharf/cluster/cluster2"), "the gateway lets cluster2 in:\n{}", gateway.1);
    ensure!(!gateway.1.contains("cluster3"), "the gateway does not let cluster3 in:\n{}", gateway.1);
    print_seen(
        "the Gateway object for cluster1's ingress gateway names the certificate of cluster2 and no other",
        None,
    )?;
    print_file(stage, &format!("cluster1/istio/{}:", gateway.0), &gateway.1)?;
    print_file(stage, &format!("cluster2/istio/{}:", entry.0), &entry.1)?;
    if stage.show {
        print(&format!("     and in cluster2/istio: {}\n", acceptor.object_names().join(", ")))?;
    }
    let bound = || -> anyhow::Result<_> {
        let status = donor.store.join(".wharf/status");
        Ok(read_below(&status)
            .into_iter()
            .any(|text| text.contains("boundBy:\n") && text.contains("- cluster2"))
            .then_some(()))
    };
    let ((), took) = stage.wait_for("cluster2's acknowledgement in the policy's status", bound)?;
    print_seen("cluster1 reads in the policy's status that cluster2 bound it", Some(took))
}

fn read_below(folder: &std::path::Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            texts.extend(read_below(&path));
        } else {
            texts.extend(std::fs::read_to_string(&path));
        }
    }
    texts
}

fn play_refusal(stage: &DemoStage, donor: &DemoAgent, other: &mut DemoAgent) -> anyhow::Result<()> {
    print_title(4, "cluster3 is trusted, has the same binding, and is not listed. And then there are strangers")?;
    let (message, _) = stage.wait_for("cluster3's answer", || {
        let view = other.fetch_view()?.context("cluster3 does not answer")?;
        ensure!(view.offers.is_empty(), "cluster3 was told of {}", view.offers.len());
        let services = view.bindings.into_iter().flat_map(|b| b.status.services);
        Ok(services.into_iter().find(|s| s.reason == "NotExposed").map(|s| s.message))
    })?;
    ensure!(other.object_names().is_empty(), "cluster3 configured {:?}", other.object_names());
    print_seen(
        &format!("cluster3 is told of nothing and configures nothing. Its binding says NotExposed: {message}"),
        None,
    )?;
    for (who, why) in strangers::call_as_strangers(stage, donor.peering)? {
        print_seen(&format!("{who} is refused: {why}"), None)?;
    }
    Ok(())
}

fn play_change(stage: &DemoStage, donor: &DemoAgent, acceptor: &DemoAgent) -> anyhow::Result<()> {
    print_title(5, "ratings moves to another port in cluster1")?;
    let (_, ratings) = SERVICES.split_once("---").context("the example has two Services")?;
    let moved = SERVICES.replace(ratings, &ratings.replace("port: 9080", "port: 9090"));
    stage.write_file(&donor.store.join("services.yaml"), &moved)?;
    let ((), took) = stage.wait_for("the new port in cluster2", || {
        let service = find_object(acceptor, "Service", "name: stars").map(|(_, text)| text).unwrap_or_default();
        Ok(service.contains("port: 9090").then_some(()))
    })?;
    print_seen("stars.default in cluster2 follows: its port is 9090 now", Some(took))
}

fn play_restart(stage: &DemoStage, donor: &mut DemoAgent, acceptor: &mut DemoAgent) -> anyhow::Result<()> {
    print_title(6, "cluster1's agent is killed (SIGKILL), and comes back")?;
    let before = wait_for_rest(stage, acceptor)?;
    donor.kill()?;
    let connected = |acceptor: &mut DemoAgent| -> anyhow::Result<Option<String>> {
        let view = acceptor.fetch_view()?.context("cluster2 does not answer")?;
        let conditions = view.peers.into_iter().flat_map(|p| p.status.conditions);
        Ok(conditions.into_iter().find(|c| c.type_ == "Connected").map(|c| c.reason))
    };
    let (reason, took) =
        stage.wait_for("the lost connection", || Ok(connected(acceptor)?.filter(|reason| reason != "InStep")))?;
    print_seen(&format!("cluster2 sees it: {reason}"), Some(took))?;
    ensure!(list_modified(acceptor) == before, "cluster2's objects changed while its donor was away");
    print_seen(&format!("what cluster2 has configured stays: {} objects, untouched", before.len()), None)?;
    stage.start_agent(donor)?;
    let (_, took) = stage.wait_for("cluster2 back in step", || Ok(connected(acceptor)?.filter(|r| r == "InStep")))?;
    ensure!(list_modified(acceptor) == before, "cluster2's objects were written again for nothing");
    print_seen("cluster2 is back in step, and only differences travelled: no object was written", Some(took))
}

type WrittenObjects = Vec<(String, Option<std::time::SystemTime>)>;

/// Returns every object with the time of its last write, as soon as none was written for a while: a change of a local
/// name writes its objects one after the other.
fn wait_for_rest(stage: &DemoStage, agent: &DemoAgent) -> anyhow::Result<WrittenObjects> {
    let mut seen = (list_modified(agent), Instant::now());
    let (objects, _) = stage.wait_for("objects at rest", || {
        let now = list_modified(agent);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        Ok((seen.1.elapsed() >= REST).then(|| seen.0.clone()))
    })?;
    Ok(objects)
}

/// Returns every object with the time of its last write.
fn list_modified(agent: &DemoAgent) -> WrittenObjects {
    let folder = agent.store.join("istio");
    let time = |name: &String| std::fs::metadata(folder.join(name)).and_then(|m| m.modified()).ok();
    agent.object_names().into_iter().map(|name| (name.clone(), time(&name))).collect()
}

fn play_withdrawal(stage: &DemoStage, donor: &DemoAgent, acceptor: &DemoAgent) -> anyhow::Result<()> {
    print_title(7, "cluster1's operator removes the policy")?;
    std::fs::remove_file(donor.store.join("policy.yaml"))?;
    let is_name = |file: &String| file.starts_with("service_") || file.starts_with("virtualservice_default_");
    let names = || acceptor.object_names().iter().all(is_name).then_some(());
    let ((), took) = stage.wait_for("the names alone in cluster2", || Ok(names()))?;
    print_seen("what is left in cluster2 is the name: its callers get 503, NotExposed by cluster1", Some(took))?;
    let ((), took) = stage.wait_for("an empty cluster1", || Ok(donor.object_names().is_empty().then_some(())))?;
    print_seen("nothing of it is left in cluster1", Some(took))
}

fn stop_agents(stage: &DemoStage, agents: [&mut DemoAgent; 3], keep: bool) -> anyhow::Result<()> {
    print_title(8, "The agents are told to stop (SIGTERM)")?;
    let admin = agents[1].admin;
    let wharf = program::as_called(std::env::args_os().next().as_deref(), keep.then_some(stage.wharf.as_path()));
    for agent in agents {
        let status = agent.stop()?;
        ensure!(status.is_some_and(|s| s.success()), "the agent of {} ended with {status:?}", agent.name);
    }
    print_seen("all three drained their streams and ended with 0", None)?;
    let next = if keep {
        stage.write_file(&stage.folder.join("policy.yaml"), POLICY)?;
        describe_kept(&stage.folder.display().to_string(), &wharf, &admin.to_string())
    } else {
        describe_next(&wharf)
    };
    print(&format!("\nAll of it was observed.\n\n{next}"))
}

fn describe_kept(folder: &str, wharf: &str, admin: &str) -> String {
    format!(
        "The folder is kept. To go on by hand:
  cd {folder}
  {wharf} agent --config cluster1.yaml &
  {wharf} agent --config cluster2.yaml &
  cp policy.yaml cluster1/
  {wharf} status --admin {admin}
  {wharf} offers --admin {admin}
  {wharf} ca show cluster1.crt
"
    )
}

fn describe_next(wharf: &str) -> String {
    format!(
        "To try next:
  {wharf} demo --show          with the YAML of both sides
  {wharf} demo --keep          the folder stays, with the commands to go on by hand
  {wharf} ca init --help       certificates of your own; then README.md, \"Two agents by hand\"
"
    )
}
