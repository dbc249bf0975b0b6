//! `wharf check`: finds faults before they do harm, and says how to correct them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::access::ClusterAccess;
use super::{USAGE, build_client_runtime, inspect, output, program};
use crate::agent::excerpt::ViewFilter;
use crate::check::collect::rights::RightsSubject;
use crate::check::collect::{CheckOptions, CheckProgress, check_cluster, check_folder};
use crate::check::{CheckArea, Finding, FindingCounts, Severity};
use crate::config::{Config, StoreConfig};
use crate::model::text::printable;
use crate::store::kube::client;

/// Delay before progress is printed to stderr.
const QUICK: Duration = Duration::from_secs(1);

/// Find what is wrong before it hurts, and what to do about it
///
/// Looks at the configuration, the API server, the definitions, the agent's permissions, certificates and their expiry,
/// gateways, trust domains, and whether the peers answer. Changes nothing. What cannot be looked at is told as unchecked.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wharf check --context cluster1\n  wharf check --config agent.yaml\n  \
                        wharf check -n wharf -o json \\\n    | jq '.findings[] | select(.severity == \"error\")'\n\n\
                        Exit code: 0 if there is no error, 1 if there is one, 2 for wrong usage. Without --config, the \
                        configuration is the one that the agent's Deployment mounts.")]
pub struct CheckArgs {
    /// The agent's configuration; a folder as its store needs no cluster
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's own namespace; default the configuration's, then wharf-system
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Ask for the permissions of this service account; default the agent's, and with --as and in a pod one's own
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// The form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: CheckFormat,
    #[command(flatten)]
    access: ClusterAccess,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum CheckFormat {
    Text,
    Json,
    Yaml,
}

#[derive(Serialize)]
struct CheckReport<'a> {
    summary: &'a FindingCounts,
    findings: &'a [Finding],
}

pub fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let plugin = program::is_plugin(std::env::args_os().next().as_deref());
    if args.config.is_none() && !plugin && !args.access.is_given() && !client::is_configured() {
        output::print_note(
            "error: there is nothing to check: name a configuration (--config FILE), or a cluster (--kubeconfig FILE)",
        );
        return Ok(ExitCode::from(USAGE));
    }
    let (progress, news) = CheckProgress::new();
    let findings = build_client_runtime()?.block_on(async {
        tokio::select! {
            biased;
            findings = run_checks(&args, &progress) => findings,
            () = print_progress(news) => Ok(Vec::new()), // it never returns
        }
    })?;
    let summary = FindingCounts::count_findings(&findings);
    let report = CheckReport { summary: &summary, findings: &findings };
    output::print(&match args.output {
        CheckFormat::Text => format_report(&report),
        CheckFormat::Json => output::to_json(&report)?,
        CheckFormat::Yaml => output::to_yaml(&report),
    })?;
    Ok(if summary.error == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the current step to stderr, once the command has run for [`QUICK`].
async fn print_progress(mut news: watch::Receiver<&'static str>) {
    tokio::time::sleep(QUICK).await;
    loop {
        let what = *news.borrow_and_update();
        if !what.is_empty() {
            output::print_note(&format!("looking at {what} …"));
        }
        if news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn run_checks(args: &CheckArgs, progress: &CheckProgress) -> anyhow::Result<Vec<Finding>> {
    let config = match &args.config {
        None => None,
        Some(file) => match Config::load(file) {
            Ok(config) => Some(config),
            Err(e) => return Ok(vec![report_unreadable(file, &e.to_string())]),
        },
    };
    let mut findings = Vec::new();
    if let (Some(file), Some(config)) = (&args.config, &config) {
        let message = format!("the configuration of cluster {} can be read", config.cluster);
        findings.push(Finding::ok(CheckArea::Configuration, file.display().to_string(), message));
        if let StoreConfig::Dir(root) = &config.store {
            let view = inspect::fetch_view(config.admin, &ViewFilter::default()).await.map_err(|e| format!("{e:#}"));
            findings.extend(check_folder(config, root, &view, progress).await);
            return Ok(findings);
        }
    }
    let mut access = args.access.clone();
    if let Some(StoreConfig::Kube(kube)) = config.as_ref().map(|c| &c.store)
        && access.context.is_none()
    {
        access.context.clone_from(&kube.context);
    }
    let client = match access.connect().await {
        Ok(client) => client,
        Err(e) => {
            findings.push(Finding::error(CheckArea::Cluster, "API server", format!("{e:#}")));
            return Ok(findings);
        }
    };
    let subject = choose_subject(args, config.as_ref());
    let defaults = Config::parse("cluster: unknown\n", "the defaults", Path::new("."))?;
    let options = CheckOptions { config, defaults, namespace: args.namespace.clone(), subject };
    findings.extend(check_cluster(&client, options, progress).await);
    Ok(findings)
}

fn report_unreadable(file: &Path, error: &str) -> Finding {
    let object = file.display().to_string();
    let message = error.strip_prefix(&object).map_or(error, |rest| rest.trim_start_matches([':', ' ']));
    Finding::error(CheckArea::Configuration, object, message).with_cure("correct it first: nothing else was checked")
}

/// Returns the account whose permissions are asked for, if the command line or the place of this process decides it.
fn choose_subject(args: &CheckArgs, config: Option<&Config>) -> Option<RightsSubject> {
    if let Some(name) = &args.service_account {
        let own = args.namespace.clone().or_else(|| config?.namespace.as_ref().map(ToString::to_string));
        let namespace = own.unwrap_or_else(|| crate::config::defaults::NAMESPACE.into());
        return Some(RightsSubject::ServiceAccount { namespace, name: name.clone() });
    }
    if let Some(user) = &args.access.user {
        return Some(RightsSubject::Own(user.clone()));
    }
    let in_pod = client::is_in_pod() && !args.access.is_given();
    in_pod.then(|| RightsSubject::Own("this pod's service account".into()))
}

fn format_report(report: &CheckReport<'_>) -> String {
    let mut out = String::new();
    for Finding { severity, area, object, message, cure } in report.findings {
        let (object, message, cure) = (printable(object), printable(message), printable(cure));
        let _ = writeln!(out, "{severity:<9}  {area:<13}  {object}: {message}"); // writing to a String does not fail
        if !cure.is_empty() {
            let word = if *severity == Severity::Ok { "may be" } else { "to do" };
            let _ = writeln!(out, "{:<9}  {:<13}    {word}: {cure}", "", "");
        }
    }
    out + &format!("\n{}\n", report.summary)
}
