//! `wharf crds`: the CustomResourceDefinitions.

use std::process::ExitCode;

use serde_json::Value;

use crate::api;
use crate::store::manifest;

/// Print the CustomResourceDefinitions as YAML
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf crds | kubectl apply --server-side --force-conflicts -f -")]
pub struct CrdsArgs {}

pub fn run(_: CrdsArgs) -> anyhow::Result<ExitCode> {
    let mut docs = Vec::new();
    for crd in api::definitions() {
        let mut value = serde_json::to_value(crd)?;
        whole_numbers(&mut value);
        docs.push(manifest::to_yaml(&value));
    }
    super::output::print(&docs.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Turns whole numbers back into integers: limits are fractions to Kubernetes, and `maximum: 65535.0` would puzzle
/// readers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(whole_numbers),
        Value::Object(all) => all.values_mut().for_each(whole_numbers),
        Value::Number(n) => {
            if let Some(f) = n.as_f64().filter(|f| n.is_f64() && f.fract() == 0.0 && f.abs() < 1e15) {
                *value = (f as i64).into();
            }
        }
        _ => {}
    }
}
