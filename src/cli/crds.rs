//! `wharf crds`: the CustomResourceDefinitions.

use std::process::ExitCode;

use kube::CustomResourceExt as _;

use crate::api::{ClusterPeering, RemoteServiceBinding, ServiceExpositionPolicy};
use crate::store::manifest;

/// Print the CustomResourceDefinitions as YAML
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf crds | kubectl apply --server-side -f -")]
pub struct Args {}

pub fn run(_: Args) -> anyhow::Result<ExitCode> {
    let crds = [ServiceExpositionPolicy::crd(), RemoteServiceBinding::crd(), ClusterPeering::crd()];
    let docs: Vec<String> = crds.iter().map(manifest::to_yaml).collect();
    super::print(&docs.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}
