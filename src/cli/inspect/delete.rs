//! `wharf peers delete`: deletes a peering, and lists what that withdraws.

use std::process::ExitCode;

use anyhow::bail;
use kube::Api;
use kube::api::DeleteParams;

use super::cluster::ClusterReader;
use super::{InspectArgs, InspectFormat, ViewSource, agent, format_document};
use crate::agent::excerpt::ViewFilter;
use crate::agent::view::AgentView;
use crate::agent::withdrawal::{ConsumedService, ExposedTo, PeeringWithdrawal};
use crate::api::{ClusterPeering, GROUP};
use crate::cli::build_client_runtime;
use crate::cli::output::{format_table, print};
use crate::model::text::printable;
use crate::store::kube::client::describe_error;

/// Delete a ClusterPeering, and say what that withdraws
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wharf peers delete cluster2 --dry-run=client\n  wharf peers delete cluster2\n\n\
                        As with kubectl delete, nobody asks whether you are sure: the dry run is for that.")]
pub struct DeleteArgs {
    /// The peer
    name: String,
    /// Delete nothing: client says what would go, server asks the API server too
    #[arg(long, value_name = "MODE", default_value = "none", num_args = 0..=1, require_equals = true,
          default_missing_value = "client")]
    dry_run: DryRun,
    /// It is no error if there is no such peering
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

impl DryRun {
    /// Names the result in kubectl's words.
    fn describe_result(self) -> &'static str {
        match self {
            DryRun::None => "deleted",
            DryRun::Client => "deleted (dry run)",
            DryRun::Server => "deleted (server dry run)",
        }
    }
}

pub fn run(common: &InspectArgs, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let source = common.find_source()?;
    let withdrawal = build_client_runtime()?.block_on(async {
        match &source {
            ViewSource::Agent(admin) => {
                of_agent(&agent::fetch_view(*admin, &ViewFilter::default()).await?, args).map(Some)
            }
            ViewSource::Cluster => of_cluster(&ClusterReader::connect(common).await?, args).await,
        }
    })?;
    let Some(withdrawal) = withdrawal else { return Ok(ExitCode::SUCCESS) };
    let line = format!("clusterpeering.{GROUP} {:?} {}\n", args.name, args.dry_run.describe_result());
    print(&match common.output {
        InspectFormat::Table | InspectFormat::Wide => line + &describe_withdrawal(&withdrawal, &source),
        InspectFormat::Name => format!("clusterpeering.{GROUP}/{}\n", printable(&args.name)),
        InspectFormat::Json | InspectFormat::Yaml => format_document(&withdrawal, common.output)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Answers from an agent's view. An agent reads its peers from files and changes none, so only the dry run is possible.
fn of_agent(view: &AgentView, args: &DeleteArgs) -> anyhow::Result<PeeringWithdrawal> {
    let name = &args.name;
    if view.peers.iter().all(|p| p.name != *name) {
        bail!("the agent of {} has no peer {name:?}; `wharf peers` lists those that it has", view.cluster);
    }
    if args.dry_run == DryRun::None {
        bail!(
            "the peers of the agent of {} stand in files: remove the entry {name} from `peers` in its configuration, or the \
             file with ClusterPeering {name} from its folder; it takes effect at once (--dry-run says what goes with it)",
            view.cluster
        );
    }
    Ok(PeeringWithdrawal::from_view(view, name))
}

/// Deletes the peering through the API server. None: there is no such peering, and the options allow that.
async fn of_cluster(cluster: &ClusterReader, args: &DeleteArgs) -> anyhow::Result<Option<PeeringWithdrawal>> {
    let peerings: Api<ClusterPeering> = Api::all(cluster.client.clone());
    let found = match peerings.get_metadata_opt(&args.name).await {
        Ok(found) => found,
        Err(e) => bail!("{}", describe_error(&e)),
    };
    if found.is_none() {
        if args.ignore_not_found {
            return Ok(None);
        }
        bail!("clusterpeerings.{GROUP} {:?} not found", args.name);
    }
    // Computed before the deletion: afterwards the statuses do not show it any more.
    let withdrawal = PeeringWithdrawal::from_view(&cluster.read_everything().await?, &args.name);
    if args.dry_run != DryRun::Client {
        let params = DeleteParams { dry_run: args.dry_run == DryRun::Server, ..DeleteParams::default() };
        peerings.delete(&args.name, &params).await.map_err(|e| anyhow::anyhow!("{}", describe_error(&e)))?;
    }
    Ok(Some(withdrawal))
}

fn describe_withdrawal(withdrawal: &PeeringWithdrawal, source: &ViewSource) -> String {
    let peer = printable(&withdrawal.peer);
    if withdrawal.is_nothing() {
        return format!("nothing goes with it: no binding uses what {peer} offers, and nothing is exposed to {peer}\n");
    }
    let mut out = String::new();
    if !withdrawal.consumed.is_empty() {
        let rows: Vec<_> = withdrawal.consumed.iter().map(describe_consumed).collect();
        out += &format!("\nNo more of {peer} here:\n");
        out += &format_table(&["NAMESPACE", "BINDING", "LOCAL-HOST", "FROM", "THEN"], &rows);
    }
    if !withdrawal.exposed.is_empty() {
        let rows: Vec<_> = withdrawal.exposed.iter().map(describe_exposed).collect();
        out += &format!("\nNo more offered to {peer}:\n");
        out += &format_table(&["NAMESPACE", "POLICY", "EXPOSED", "THEN"], &rows);
    }
    out + match source {
        ViewSource::Agent(_) => "",
        ViewSource::Cluster => "\nAn entry for it in the agent's configuration would count from then on.\n",
    }
}

fn describe_consumed(c: &ConsumedService) -> Vec<String> {
    let then = match (c.bound, c.remaining.is_empty()) {
        (true, true) => "the name stays: calls are answered with 503".to_owned(),
        (true, false) => format!("the name stays, with {}", c.remaining.join(",")),
        (false, true) => "nothing changes: it is not bound now".to_owned(),
        (false, false) => format!("nothing changes: only {} is bound now", c.remaining.join(",")),
    };
    let then = if c.self_made { then + "; the binding goes, and the name, if Wharf made it" } else { then };
    vec![c.namespace.clone(), c.binding.clone(), c.local_host.clone(), c.exposition.clone(), then]
}

fn describe_exposed(e: &ExposedTo) -> Vec<String> {
    let then = if e.bound { "it is used there: those calls are refused" } else { "it is not used there" };
    vec![e.namespace.clone(), e.policy.clone(), e.host.clone(), then.to_owned()]
}
