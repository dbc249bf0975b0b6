//! `wharf status`, `wharf offers`, `wharf peers`: show a cluster's state as tables, JSON or YAML.
//!
//! The state comes from a cluster's API server, as with `kubectl get`, or from a running agent's admin listener.

mod agent;
mod cluster;
mod delete;
mod tables;
mod wait;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::access::ClusterAccess;
use super::{build_client_runtime, output, program};
use crate::agent::excerpt::ViewFilter;
use crate::agent::view::{AgentView, BindingView, PolicyView, ProblemView};
use crate::config::{self, Config};
use crate::model::text::printable;
use crate::store::kube::client;

pub(super) use agent::fetch_view;
use cluster::{ClusterReader, ViewPart};

/// Whom to ask, for what, and how it is shown.
#[derive(clap::Args)]
struct InspectArgs {
    /// Ask the agent on this admin address, and no cluster
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config", global = true)]
    admin: Option<SocketAddr>,
    /// Ask the agent of this configuration file, and no cluster
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table", global = true)]
    output: InspectFormat,
    /// Only this namespace; default the context's
    #[arg(short, long, value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace", global = true)]
    all_namespaces: bool,
    /// Only objects with these labels, as in app=shop,tier!=test
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with_all = ["admin", "config"], global = true)]
    selector: Option<String>,
    /// Where the agent is, which keeps there what peers offer
    #[arg(long, value_name = "NAME", default_value = config::defaults::NAMESPACE, global = true)]
    agent_namespace: String,
    #[command(flatten)]
    access: ClusterAccess,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum InspectFormat {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// Show policies and bindings, and whether they work
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wharf status -n shop\n  wharf status -A -o wide --context cluster1\n  \
                        wharf status --admin 127.0.0.1:7444\n  wharf status -n shop --wait --timeout 90s\n  wharf status -o json | jq '.bindings[].status'\n\n\
                        Exit code: 0 if all that is shown is ready, 1 if not, 2 for wrong usage. A binding that is an \
                        offer (connection=potential) asks for nothing.\n\n\
                        Without --admin and --config, the cluster of the kubeconfig file or of the pod is asked; if \
                        there is neither, the agent on 127.0.0.1:7444.")]
pub struct StatusArgs {
    #[command(flatten)]
    common: InspectArgs,
    /// Wait until all of it is ready; what is waited for is told on stderr
    #[arg(long, help_heading = "Options")]
    wait: bool,
    /// For how long, as in 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "wait", value_parser = parse_patience,
          help_heading = "Options")]
    timeout: Duration,
}

fn parse_patience(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("expected a number and a unit, as in 90s, 5m or 1h".to_owned()),
    };
    let number: u32 = number.parse().map_err(|_| "expected a number and a unit, as in 90s, 5m or 1h".to_owned())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Show what peers offer to this cluster
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wharf offers\n  wharf offers --config agent.yaml -o wide",
    mut_arg("namespace", |a| a.help("Only what comes from this namespace of the donors; default all")),
    mut_arg("selector", |a| a.hide(true))
)]
pub struct OffersArgs {
    #[command(flatten)]
    common: InspectArgs,
}

/// Show the peers, and how the connection to each is
#[derive(clap::Args)]
// Peers are in no namespace. The options that choose one are accepted all the same, as kubectl accepts them.
#[command(
    after_help = "Examples:\n  wharf peers -o yaml\n  wharf peers delete cluster2 --dry-run=client",
    mut_arg("namespace", |a| a.hide(true)),
    mut_arg("all_namespaces", |a| a.hide(true))
)]
pub struct PeersArgs {
    #[command(flatten)]
    common: InspectArgs,
    #[command(subcommand)]
    command: Option<PeersCommand>,
}

#[derive(clap::Subcommand)]
enum PeersCommand {
    Delete(delete::DeleteArgs),
}

pub fn run_status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    show_part(&args.common, ViewPart::Status, args.wait.then_some(args.timeout))
}

pub fn run_offers(args: OffersArgs) -> anyhow::Result<ExitCode> {
    show_part(&args.common, ViewPart::Offers, None)
}

pub fn run_peers(args: PeersArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(PeersCommand::Delete(delete)) => delete::run(&args.common, &delete),
        None => show_part(&args.common, ViewPart::Peers, None),
    }
}

/// The source of a view.
#[derive(Debug, PartialEq)]
enum ViewSource {
    Agent(SocketAddr),
    Cluster,
}

impl InspectArgs {
    /// Chooses the source. An option that names one decides. Without such an option it is the cluster, if this process
    /// is configured for one or runs as kubectl's plugin, and else the agent at the default address.
    fn choose_source(&self, plugin: bool, configured: bool) -> anyhow::Result<ViewSource> {
        let cluster = self.access.is_given() || self.namespace.is_some() || self.all_namespaces;
        Ok(match (self.admin, &self.config) {
            (Some(address), _) => ViewSource::Agent(address),
            (None, Some(file)) => ViewSource::Agent(Config::load(file)?.admin),
            (None, None) if plugin || cluster || configured => ViewSource::Cluster,
            (None, None) => ViewSource::Agent(config::defaults::ADMIN.parse()?),
        })
    }

    fn find_source(&self) -> anyhow::Result<ViewSource> {
        self.choose_source(program::is_plugin(std::env::args_os().next().as_deref()), client::is_configured())
    }

    /// Returns the only namespace to show. None: all of them.
    fn shown_namespace(&self, default: Option<&str>) -> Option<String> {
        if self.all_namespaces { None } else { self.namespace.clone().or_else(|| default.map(str::to_owned)) }
    }
}

/// Prints a part of the view. `patience`: the longest wait until all of it is ready.
fn show_part(common: &InspectArgs, part: ViewPart, patience: Option<Duration>) -> anyhow::Result<ExitCode> {
    let (view, whole, namespace) = build_client_runtime()?.block_on(async {
        anyhow::Ok(match common.find_source()? {
            ViewSource::Agent(admin) => {
                let namespace = common.shown_namespace(None);
                let filter = ViewFilter::new(part.of_agent(), namespace.as_deref());
                let view = match patience {
                    Some(patience) => wait::wait_for_agent(admin, namespace.as_deref(), patience).await?,
                    None => confine_view(fetch_view(admin, &filter).await?, namespace.as_deref()),
                };
                (view, true, namespace)
            }
            ViewSource::Cluster => {
                let cluster = ClusterReader::connect(common).await?;
                let namespace = cluster.namespace.clone().filter(|_| part == ViewPart::Status);
                let view = match patience {
                    Some(patience) => wait::wait_for_cluster(&cluster, patience).await?,
                    None => cluster.read_view(part).await?,
                };
                (view, false, namespace)
            }
        })
    })?;
    let text = match common.output {
        InspectFormat::Table | InspectFormat::Wide => {
            let wide = common.output == InspectFormat::Wide;
            let table = match part {
                ViewPart::Status => tables::status_tables(&view, wide),
                ViewPart::Offers => tables::offers_table(&view, wide),
                ViewPart::Peers => tables::peers_table(&view, wide),
            };
            if table.is_none() {
                let place = namespace.map_or_else(|| ".".to_owned(), |n| format!(" in {n} namespace."));
                output::print_note(&format!("No {} found{place}", part.plural_noun())); // kubectl prints it to stderr, too
            }
            let problems =
                view.problems.iter().map(|p| format!("problem: {}: {}\n", printable(&p.place), printable(&p.message)));
            problems.collect::<String>() + &table.unwrap_or_default()
        }
        InspectFormat::Name => format_names(&view, part),
        InspectFormat::Json | InspectFormat::Yaml => match part {
            ViewPart::Status if whole => format_document(&view, common.output)?,
            ViewPart::Status => format_document(&StatusView::from_view(&view), common.output)?,
            ViewPart::Offers => format_document(&view.offers, common.output)?,
            ViewPart::Peers => format_document(&view.peers, common.output)?,
        },
    };
    output::print(&text)?;
    let unready = if part == ViewPart::Status { wait::list_unready(&view) } else { Vec::new() };
    if let (Some(patience), false) = (patience, unready.is_empty()) {
        output::print_note(&format!("error: not ready after {} s", patience.as_secs()));
    }
    Ok(if unready.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The parts of a view that `status` prints for a cluster; an agent's view holds more.
#[derive(Serialize)]
struct StatusView<'a> {
    problems: &'a [ProblemView],
    policies: &'a [PolicyView],
    bindings: &'a [BindingView],
}

impl StatusView<'_> {
    fn from_view(view: &AgentView) -> StatusView<'_> {
        StatusView { problems: &view.problems, policies: &view.policies, bindings: &view.bindings }
    }
}

fn format_document(value: &impl Serialize, form: InspectFormat) -> anyhow::Result<String> {
    if form == InspectFormat::Yaml { Ok(output::to_yaml(value)) } else { output::to_json(value) }
}

fn format_names(view: &AgentView, part: ViewPart) -> String {
    match part {
        ViewPart::Status => {
            let policies = view.policies.iter().map(|p| p.name.clone());
            let bindings = view.bindings.iter().map(|b| b.name.clone());
            tables::format_names("serviceexpositionpolicy", policies)
                + &tables::format_names("remoteservicebinding", bindings)
        }
        ViewPart::Offers => view
            .offers
            .iter()
            .map(|o| printable(&format!("{}/{}/{}", o.cluster, o.namespace, o.name)).into_owned() + "\n")
            .collect(),
        ViewPart::Peers => tables::format_names("clusterpeering", view.peers.iter().map(|p| p.name.clone())),
    }
}

/// Keeps only the objects of this namespace.
fn confine_view(mut view: AgentView, namespace: Option<&str>) -> AgentView {
    if let Some(namespace) = namespace {
        view.policies.retain(|p| p.namespace == namespace);
        view.bindings.retain(|b| b.namespace == namespace);
        view.offers.retain(|o| o.namespace == namespace);
    }
    view
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        common: InspectArgs,
    }

    fn source(line: &[&str], plugin: bool, configured: bool) -> ViewSource {
        let line = ["status"].iter().chain(line);
        Line::try_parse_from(line).unwrap().common.choose_source(plugin, configured).unwrap()
    }

    #[test]
    fn what_is_named_is_asked_else_the_cluster_that_there_is_else_the_agent_here() {
        let agent = ViewSource::Agent(config::defaults::ADMIN.parse().unwrap());
        assert_eq!(source(&[], false, false), agent);
        assert_eq!(source(&[], false, true), ViewSource::Cluster);
        assert_eq!(source(&[], true, false), ViewSource::Cluster);
        for cluster in [&["-A"][..], &["-n", "shop"], &["--context", "c"], &["--kubeconfig", "k"], &["--as", "u"]] {
            assert_eq!(source(cluster, false, false), ViewSource::Cluster, "{cluster:?}");
        }
        let named = source(&["--admin", "127.0.0.1:1", "-n", "shop"], true, true);
        assert_eq!(named, ViewSource::Agent("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn a_namespace_hides_the_others() {
        let policy = |namespace: &str| PolicyView { namespace: namespace.into(), ..PolicyView::default() };
        let view = AgentView { policies: vec![policy("a"), policy("b")], ..AgentView::default() };
        assert_eq!(confine_view(view.clone(), None).policies.len(), 2);
        assert_eq!(confine_view(view, Some("b")).policies, [policy("b")]);
    }
}
