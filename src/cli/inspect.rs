//! `wharf status`, `wharf offers`, `wharf peers`: what a running agent says of itself, as tables, JSON or YAML.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use serde::Serialize;

use crate::agent::view::{OfferView, View};
use crate::api::{Condition, ConditionStatus};
use crate::config::{self, Config};
use crate::store::manifest;

/// Where the agent is, and how its answer is shown.
#[derive(clap::Args)]
struct Common {
    /// The agent's admin address
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    admin: Option<SocketAddr>,
    /// Take the admin address from this configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

/// Show policies and bindings, and whether they work
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  wharf status --admin 127.0.0.1:7444\n  wharf status -o json | jq '.bindings[].status'"
)]
pub struct StatusArgs {
    #[command(flatten)]
    common: Common,
}

/// Show what peers offer to this cluster
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf offers --config agent.yaml")]
pub struct OffersArgs {
    #[command(flatten)]
    common: Common,
}

/// Show the peers, and how the connection to each is
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf peers -o yaml")]
pub struct PeersArgs {
    #[command(flatten)]
    common: Common,
}

pub fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    show(&args.common, |view| view, status_table)
}

pub fn offers(args: OffersArgs) -> anyhow::Result<ExitCode> {
    show(&args.common, |view| &view.offers, |view| view.offers.table())
}

pub fn peers(args: PeersArgs) -> anyhow::Result<ExitCode> {
    show(&args.common, |view| &view.peers, peers_table)
}

fn show<T: Serialize>(
    common: &Common,
    part: impl Fn(&View) -> &T,
    table: impl Fn(&View) -> String,
) -> anyhow::Result<ExitCode> {
    let view = fetch(admin_address(common)?)?;
    super::print(&match common.output {
        Output::Table => table(&view),
        Output::Json => serde_json::to_string_pretty(part(&view))? + "\n",
        Output::Yaml => manifest::to_yaml(part(&view)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn admin_address(common: &Common) -> anyhow::Result<SocketAddr> {
    match (&common.admin, &common.config) {
        (Some(address), _) => Ok(*address),
        (None, Some(file)) => Ok(Config::load(file)?.admin),
        (None, None) => Ok(config::defaults::ADMIN.parse()?),
    }
}

/// Asks a running agent for its state.
pub(super) fn fetch(admin: SocketAddr) -> anyhow::Result<View> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), get(admin, "/status")).await });
    let body = match answer {
        Ok(body) => body.with_context(|| {
            format!("no agent answers on {admin}; is it running, and is that its `admin` address? (--admin, --config)")
        })?,
        Err(_) => bail!("the agent on {admin} did not answer within 10 s"),
    };
    serde_json::from_slice(&body).with_context(|| format!("what answers on {admin} is not an agent of this version"))
}

/// One GET of an agent's admin listener.
pub(super) async fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let request = http::Request::get(path).header(http::header::HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path} answered {status}");
        anyhow::Ok(body)
    };
    tokio::select! {
        biased;
        body = exchange => body,
        ended = connection => { ended?; bail!("the connection ended before the answer") }
    }
}

fn status_table(view: &View) -> String {
    let mut out = String::new();
    for problem in &view.problems {
        out += &format!("problem: {}: {}\n", problem.place, problem.message);
    }
    let policies: Vec<_> = view
        .policies
        .iter()
        .flat_map(|p| {
            p.status.exposed.iter().map(|e| {
                let said =
                    [e.message.clone()].into_iter().chain(e.rejected_by.iter().map(|r| format!("rejected by {r}")));
                let said: Vec<_> = said.filter(|s| !s.is_empty()).collect();
                vec![
                    p.namespace.clone(),
                    p.name.clone(),
                    if e.host.is_empty() { e.name.clone() } else { e.host.clone() },
                    state(&p.status.conditions, "Programmed"),
                    e.offered_to.join(","),
                    e.bound_by.join(","),
                    said.join("; "),
                ]
            })
        })
        .collect();
    let bindings: Vec<_> = view
        .bindings
        .iter()
        .flat_map(|b| {
            b.status.services.iter().map(|s| {
                vec![
                    b.namespace.clone(),
                    b.name.clone(),
                    s.local_host.clone(),
                    format!("{}:{}", s.cluster, s.exposition),
                    match b.connection.as_str() {
                        "potential" => "Potential".into(),
                        _ if s.bound => state(&b.status.conditions, "Programmed"),
                        _ => s.reason.clone(),
                    },
                    s.message.clone(),
                ]
            })
        })
        .collect();
    if policies.is_empty() && bindings.is_empty() {
        return out + "No policies or bindings found.\n";
    }
    if !policies.is_empty() {
        let heads = ["NAMESPACE", "POLICY", "EXPOSED", "STATE", "OFFERED-TO", "BOUND-BY", "MESSAGE"];
        out += &super::table(&heads, &policies);
    }
    if !bindings.is_empty() {
        let gap = if policies.is_empty() { "" } else { "\n" };
        let heads = ["NAMESPACE", "BINDING", "LOCAL-HOST", "FROM", "STATE", "MESSAGE"];
        out += &format!("{gap}{}", super::table(&heads, &bindings));
    }
    out
}

trait Table {
    fn table(&self) -> String;
}

impl Table for Vec<OfferView> {
    fn table(&self) -> String {
        if self.is_empty() {
            return "No offers found.\n".into();
        }
        let rows: Vec<_> = self
            .iter()
            .map(|o| {
                let e = o.exposition.as_ref();
                let ports = e.into_iter().flat_map(|e| &e.ports);
                let ports: Vec<_> = ports.map(|p| format!("{}/{}", p.number, p.protocol.as_str())).collect();
                vec![
                    o.cluster.clone(),
                    o.namespace.clone(),
                    o.name.clone(),
                    ports.join(","),
                    e.map(|e| e.tls.to_string()).unwrap_or_default(),
                    o.bound_by.join(","),
                    o.rejected.clone(),
                ]
            })
            .collect();
        super::table(&["CLUSTER", "NAMESPACE", "NAME", "PORTS", "TLS", "BOUND-BY", "REJECTED"], &rows)
    }
}

/// A condition in one word: its reason.
fn state(conditions: &[Condition], type_: &str) -> String {
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.reason.clone()).unwrap_or_default()
}

/// A condition in one word: yes, or why not.
fn yes(conditions: &[Condition], type_: &str) -> String {
    let holds = |c: &&Condition| c.type_ == type_ && c.status == ConditionStatus::True;
    if conditions.iter().any(|c| holds(&c)) { "yes".into() } else { state(conditions, type_) }
}

fn peers_table(view: &View) -> String {
    if view.peers.is_empty() {
        return "No peers found.\n".into();
    }
    let rows: Vec<_> = view
        .peers
        .iter()
        .map(|p| {
            vec![
                p.name.clone(),
                p.endpoint.clone().unwrap_or_default(),
                yes(&p.status.conditions, "Connected"),
                p.status.last_sync.clone().unwrap_or_default(),
                p.status.offered.to_string(),
                if p.consume { "yes".into() } else { "no".into() },
                yes(&p.status.conditions, "Subscribed"),
                p.status.exposed.to_string(),
            ]
        })
        .collect();
    let heads = ["NAME", "ENDPOINT", "CONNECTED", "LAST-SYNC", "OFFERS", "MAY-CONSUME", "SUBSCRIBED", "EXPOSED-TO-IT"];
    super::table(&heads, &rows)
}
