//! `wharf translate` on the examples beside this file: one folder an example, its output reviewed as a snapshot.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/translate/examples")
}

fn wharf(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wharf")).arg("translate").args(args).current_dir(folder).output().unwrap()
}

fn told(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("exit: {}\n{err}===\n{out}", output.status.code().unwrap_or(-1))
}

#[test]
fn every_example_comes_out_as_reviewed() {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(examples()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() > 15, "the examples are there");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("translate/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for folder in folders {
        let args = std::fs::read_to_string(folder.join("args")).unwrap();
        let output = wharf(&folder, &args.split_whitespace().collect::<Vec<_>>());
        insta::assert_snapshot!(folder.file_name().unwrap().to_str().unwrap(), told(&output));
    }
}

#[test]
fn the_order_of_files_and_documents_changes_nothing() {
    let folder = examples().join("donor-cluster-http");
    let forth = wharf(&folder, &["--config", "../harbor.yaml", "-f", "../shop.yaml", "input.yaml"]);
    let back = wharf(&folder, &["--config", "../harbor.yaml", "-f", "input.yaml", "../shop.yaml"]);
    assert_eq!(told(&forth), told(&back));
}

#[test]
fn a_style_that_cannot_carry_the_mode_is_wrong_usage() {
    let folder = examples().join("acceptor-shared");
    let config = ["--config", "../isle.yaml", "-f", "input.yaml"];
    let output = wharf(&folder, &[&config[..], &["--style", "DIRECT_INGRESS", "--tls", "Cluster"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("DIRECT_INGRESS"), "{}", told(&output));
    let output = wharf(&folder, &[&config[..], &["--style", "SIDEWAYS"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("SIDEWAYS"), "{}", told(&output));
}

#[test]
fn a_donor_without_an_address_still_gets_its_objects() {
    let folder = examples().join("donor-cluster-http");
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "{cluster: harbor, peers: [{name: isle, consume: true}]}").unwrap();
    let path = config.path().to_str().unwrap();
    let output = wharf(&folder, &["--config", path, "-f", "../shop.yaml", "input.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(told(&output).contains("no address of the ingress gateway") && told(&output).contains("kind: Gateway"));
}

#[test]
fn a_binding_to_a_peer_whose_gateway_nobody_knows_says_which() {
    let folder = examples().join("acceptor-shared");
    let output = wharf(&folder, &["--config", "../isle.yaml", "-f", "input.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("gateway address of harbor"), "{}", told(&output));
}

#[test]
fn what_cannot_be_read_is_not_told_as_missing() {
    let folder = examples().join("donor-cluster-http");
    let told_of = |documents: &str| {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(file.path(), documents).unwrap();
        let text = told(&wharf(&folder, &["--config", "../harbor.yaml", "-f", file.path().to_str().unwrap()]));
        text.replace(file.path().to_str().unwrap(), "FILE")
    };
    let policy = "apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositionPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {exposed: [{name: kiosk, clusters: [isle], virtualService: kiosk}]}\n---\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: kiosk, namespace: shop}\n\
                   spec: {selector: {app: kiosk}, ports: [{name: http, port: 80}]}\n---\n";
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: kiosk, namespace: shop}\n\
                  spec: {hosts: [kiosk], lanes: 2}\n";
    assert!(told_of(policy).contains("there is no Service kiosk in the namespace shop"));
    let without = told_of(&format!("{policy}{service}"));
    assert!(without.contains("there is no VirtualService kiosk in the namespace shop"), "{without}");
    for (documents, said) in [
        (format!("{policy}{service}{routes}"), "the VirtualService kiosk in the namespace shop cannot be read: FILE:"),
        (
            format!("{policy}{}", service.replace("port: 80", "port: door")),
            "the Service kiosk in the namespace shop cannot be read: FILE:",
        ),
        (format!("{policy}kind: Service\nmetadata: ["), "it is not known whether there is a Service kiosk"),
        (
            format!(
                "{policy}{}",
                service.replace(
                    "kiosk, ",
                    "kiosk, labels: {app.kubernetes.io/managed-by: wharf, multicluster.istio.io/owner: x}, "
                )
            ),
            "is Wharf's own",
        ),
    ] {
        let text = told_of(&documents);
        assert!(text.starts_with("exit: 1\n") && text.contains(said), "{text}");
        assert!(!text.contains("there is no"), "{text}");
    }
}
