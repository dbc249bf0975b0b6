//! What `deploy/` holds, as its users use it: rendered by helm and kustomize, applied to a real API server.

mod agent;
mod apply;
mod gateways;
mod peering;
mod render;
mod rights;
mod site;
mod stolen;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::Said;
use crate::support::tools::{built, run};

/// Where the chart and the manifests put the agent.
pub const NAMESPACE: &str = "wharf-system";

/// The files of values that the chart is tried with.
pub const MINIMAL: &str = "minimal";
pub const FULL: &str = "full";
pub const CONFINED: &str = "confined";
pub const ALL: [&str; 3] = [MINIMAL, FULL, CONFINED];
/// With gateways of its own: injected ones, and those of the Gateway API.
pub const OWN: &str = "gateways";
pub const OWN_API: &str = "gateway-api";

pub fn path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

pub fn helm(args: &[&str]) -> Said {
    // Nothing of the user's own.
    let home = std::env::temp_dir();
    run(&built("bin/helm"), args, &[("HOME", home.as_os_str())], "")
}

/// `helm template` with one of the files of values.
pub fn template(values: &str, more: &[&str]) -> Said {
    let (chart, values) = (text(path("chart")), text(path(&format!("chart/ci/{values}-values.yaml"))));
    let mut args = vec!["template", "wharf", &chart, "--namespace", NAMESPACE, "--values", &values];
    args.extend(["--kube-version", "1.36"]); // without a cluster, helm takes that of its own build
    args.extend(more);
    helm(&args)
}

fn text(path: PathBuf) -> String {
    path.display().to_string()
}

/// The objects of a stream of YAML documents.
pub fn objects(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    all.into_iter().filter(|o| !o.is_null()).collect()
}

/// What the chart renders.
pub fn rendered(values: &str, more: &[&str]) -> Vec<Value> {
    objects(&template(values, more).ok())
}

/// By `<kind> <namespace>/<name>`; each once.
pub fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    for object in objects {
        let part = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = format!("{} {}/{}", part("/kind"), part("/metadata/namespace"), part("/metadata/name"));
        assert!(named.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    named
}

/// The one object of a kind.
pub fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|o| o["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind} is rendered"));
    assert!(found.next().is_none(), "more than one {kind} is rendered");
    first
}
