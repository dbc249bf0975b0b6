//! The files of `examples/` are what the README and the tutorial hand out: they must work as they stand.

use std::process::Command;

fn translate(args: &[&str]) -> (String, String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .arg("translate")
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[test]
fn the_donors_example_is_exposed_to_the_listed_cluster_only() {
    let (out, err, good) = translate(&[
        "--config",
        "config/cluster1.yaml",
        "-f",
        "bookinfo/donor/policy.yaml",
        "-f",
        "bookinfo/donor/services.yaml",
        "-f",
        "bookinfo/donor/rules.yaml",
    ]);
    assert!(good, "{err}");
    assert_eq!(out.matches("kind: Gateway\n").count(), 3, "reviews, reviews-v1 and ratings:\n{out}");
    assert!(out.contains("spiffe://wharf/cluster/cluster2") && !out.contains("cluster3"), "{out}");
    assert!(out.contains("timeout: 2s"), "the VirtualService's behaviour comes with it:\n{out}");
}

#[test]
fn the_acceptors_example_is_bound_under_its_local_names() {
    let (out, err, good) = translate(&["--config", "config/cluster2.yaml", "-f", "bookinfo/acceptor/binding.yaml"]);
    // The example's peers advertise their gateways themselves; without an agent there is nobody to ask.
    assert!(good || err.contains("gateway"), "{err}");
    assert!(good == out.contains("name: stars\n"), "{out}");
}

#[test]
fn the_definitions_in_deploy_are_those_of_the_types() {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf")).arg("crds").output().unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crds/wharf.yaml");
    let there = std::fs::read(file).unwrap();
    assert!(output.stdout == there, "deploy/crds/wharf.yaml is stale: wharf crds > deploy/crds/wharf.yaml");
}
