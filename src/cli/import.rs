//! `wharf import`: prints the policies and bindings that replace another way between two clusters.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::access::ClusterAccess;
use super::{USAGE, build_client_runtime, output};
use crate::config::{Config, ConfigError};
use crate::import::{
    DonorObjects, ImportRequest, ImportResult, PeerHint, import_service_entries, import_shared_services,
};
use crate::model::text::printable;
use crate::model::{ClusterFacts, ClusterName, SpiffeId};

mod read;

use read::{ObjectReader, ReadObjects};

/// Print the policies and bindings that replace ServiceEntries, or a multi-primary mesh
///
/// Reads what leads callers of this cluster to another one: ServiceEntries that somebody wrote by hand, with their
/// DestinationRules and VirtualServices, or the Services that two clusters of one mesh share. Changes nothing. What
/// cannot be derived or carried, and what remains to do by hand, is on stderr, by object and field.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  wharf import --acceptor cluster2 -n shop\n  \
                        wharf import --acceptor cluster2 -f entries.yaml \\\n    --peer cluster1=203.0.113.7 --for cluster1 | kubectl apply -f -\n  \
                        wharf import reviews --acceptor cluster2 -n shop --context cluster2 \\\n    --multi-primary --peer cluster1 --donor-context cluster1\n\n\
                        Exit code: 0 if all that was asked for is printed, 1 if something of it could not be derived \
                        (the rest is printed all the same), 2 for wrong usage.")]
pub struct ImportArgs {
    /// Only these services, by the names that they have here or at the donor; default all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// The name of this cluster, as its donors know it; the policies let in nobody else
    #[arg(long, value_name = "NAME")]
    acceptor: ClusterName,
    /// YAML or JSON files with objects of this cluster; - is stdin; repeatable. Without it, the cluster is asked
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with_all = ["context", "kubeconfig"])]
    files: Vec<PathBuf>,
    /// The donor of the addresses that no ClusterPeering names, or of one address; repeatable
    #[arg(long = "peer", value_name = "NAME[=ADDRESS]")]
    peers: Vec<PeerHint>,
    /// Ask the donor's cluster, too: a context of the kubeconfig file. What it has is checked against the policies
    #[arg(long, value_name = "NAME", conflicts_with = "donor_files")]
    donor_context: Option<String>,
    /// Files with objects of the donor, instead of its cluster; repeatable
    #[arg(long = "donor-filename", value_name = "FILE")]
    donor_files: Vec<PathBuf>,
    /// Read the Services that both clusters have under one name, instead of ServiceEntries
    #[arg(long)]
    multi_primary: bool,
    /// Print only what is to be applied in this cluster
    #[arg(long = "for", value_name = "CLUSTER")]
    only_for: Option<ClusterName>,
    /// Only what is in this namespace; default the context's, of files all
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Read all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: ImportFormat,
    #[command(flatten)]
    access: ClusterAccess,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum ImportFormat {
    Yaml,
    Json,
}

pub fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let donor = match find_donor(&args) {
        Ok(donor) => donor,
        Err(message) => {
            output::print_note(&format!("error: {message}"));
            return Ok(ExitCode::from(USAGE));
        }
    };
    let (here, donor) = read_clusters(&args, donor)?;
    let facts = assumed_facts(&args.acceptor)?;
    let mut peers = here.peers;
    for hint in &args.peers {
        peers.add_hint(hint.clone());
    }
    let request = ImportRequest {
        acceptor: &args.acceptor,
        peers,
        namespace: here.namespace,
        services: args.services.iter().cloned().collect::<BTreeSet<_>>(),
        facts: &facts,
    };
    let mut result = match &donor {
        Some(donor) if args.multi_primary => {
            import_shared_services(&request, &here.objects, donor, here.remote_secrets.as_deref())
        }
        _ => import_service_entries(&request, &here.objects, donor.as_ref()),
    };
    for unread in &here.problems {
        result.notes.add_error(&unread.place, &unread.message);
    }
    let documents = choose_documents(&args, &mut result);
    output::print(&format_documents(&documents, args.output)?)?;
    output::print_to_stderr(&format_notes(&result));
    Ok(if result.notes.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Finds the name of the donor whose objects are read. The error is one of usage.
fn find_donor(args: &ImportArgs) -> Result<Option<ClusterName>, String> {
    let reads_donor = args.donor_context.is_some() || !args.donor_files.is_empty();
    if args.multi_primary && !reads_donor {
        return Err(
            "--multi-primary compares two clusters: name the donor's, with --donor-context or --donor-filename"
                .to_owned(),
        );
    }
    let names: BTreeSet<&ClusterName> = args.peers.iter().map(|hint| &hint.name).collect();
    if names.contains(&args.acceptor) {
        return Err(format!("--peer {0}: {0} is the acceptor, and cannot be its own donor", args.acceptor));
    }
    match (reads_donor, names.len()) {
        (false, _) => Ok(None),
        (true, 1) => Ok(names.into_iter().next().cloned()),
        (true, _) => Err("name the donor whose objects are read, and no other, with --peer NAME".to_owned()),
    }
}

/// Reads the objects of the acceptor, and those of the donor if they are asked for.
fn read_clusters(args: &ImportArgs, donor: Option<ClusterName>) -> anyhow::Result<(ReadObjects, Option<DonorObjects>)> {
    let runtime = build_client_runtime()?;
    let mut reader = ObjectReader::new(args.namespace.clone(), args.all_namespaces);
    if args.files.is_empty() {
        runtime.block_on(reader.read_cluster(&args.access, args.multi_primary))?;
    } else {
        reader.read_files(&args.files)?;
    }
    let mut here = reader.finish();
    let Some(name) = donor else { return Ok((here, None)) };
    let mut reader = ObjectReader::new(here.namespace.clone(), here.namespace.is_none());
    match &args.donor_context {
        Some(context) => {
            let access = ClusterAccess { context: Some(context.clone()), ..args.access.clone() };
            runtime.block_on(reader.read_cluster(&access, false))?;
        }
        None => reader.read_files(&args.donor_files)?,
    }
    let there = reader.finish();
    here.problems.extend(there.problems);
    Ok((here, Some(DonorObjects { name, objects: there.objects })))
}

/// The facts of a cluster whose configuration is the default, for translation's judgement.
fn assumed_facts(acceptor: &ClusterName) -> Result<ClusterFacts, ConfigError> {
    let config = Config::parse(&format!("cluster: {acceptor}\n"), "the defaults", Path::new("."))?;
    Ok(config.cluster_facts(SpiffeId::of_cluster(acceptor)))
}

/// A document, and the cluster that it is for.
struct ImportDocument {
    comment: String,
    value: serde_json::Value,
}

fn choose_documents(args: &ImportArgs, result: &mut ImportResult) -> Vec<ImportDocument> {
    fn document(cluster: &ClusterName, role: &str, object: &impl Serialize) -> ImportDocument {
        // Objects that were just made: there is nothing in them that JSON cannot hold.
        ImportDocument {
            comment: format!("# for {cluster}, the {role}"),
            value: serde_json::to_value(object).unwrap_or_default(),
        }
    }
    let is_chosen = |cluster: &ClusterName| args.only_for.as_ref().is_none_or(|only| only == cluster);
    let policies = result.policies.iter().filter(|(donor, _)| is_chosen(donor));
    let mut documents: Vec<_> = policies.map(|(donor, policy)| document(donor, "donor", policy)).collect();
    if is_chosen(&args.acceptor) {
        documents.extend(result.bindings.iter().map(|binding| document(&args.acceptor, "acceptor", binding)));
    }
    if let (Some(only), true, false) = (&args.only_for, documents.is_empty(), result.policies.is_empty()) {
        let donors: BTreeSet<&str> = result.policies.iter().map(|(donor, _)| donor.as_str()).collect();
        let donors: Vec<&str> = donors.into_iter().collect();
        let message =
            format!("nothing is for {only}; there is something for {}, and for {}", donors.join(", "), args.acceptor);
        result.notes.add_error("--for", message);
    }
    documents
}

fn format_documents(documents: &[ImportDocument], format: ImportFormat) -> anyhow::Result<String> {
    if format == ImportFormat::Json {
        let items: Vec<_> = documents.iter().map(|d| &d.value).collect();
        return output::to_json(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}));
    }
    let texts = documents.iter().map(|d| format!("{}\n{}", d.comment, output::to_yaml(&d.value)));
    Ok(texts.collect::<Vec<_>>().join("---\n"))
}

fn format_notes(result: &ImportResult) -> String {
    let (notes, left_out) = result.notes.list();
    let mut text = String::new();
    let (errors, others): (Vec<_>, Vec<_>) = notes.iter().partition(|note| note.is_error);
    for note in errors.into_iter().chain(others) {
        let word = if note.is_error { "error" } else { "note" };
        let _ = writeln!(text, "{word}: {}: {}", printable(&note.place), printable(&note.message)); // a String takes all
    }
    if left_out > 0 {
        let _ = writeln!(text, "note: {left_out} more are left out; name a namespace, or services");
    }
    text
}
