//! The command line where no cluster is needed: as kubectl's plugin, and `wharf check` of a folder.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::KeyPair;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::pki::Ca;

/// Runs a program without anything that would tell it of a cluster.
fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HOME"] {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

fn wharf(args: &[&str]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_wharf")), args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_plugins_help_shows_what_its_user_types() {
    let dir = TempDir::new().unwrap();
    let plugin = dir.path().join("kubectl-wharf");
    symlink(env!("CARGO_BIN_EXE_wharf"), &plugin).unwrap();
    let help = |args: &[&str]| text(&run(&plugin, args).stdout);
    assert!(help(&["--help"]).contains("Usage: kubectl wharf <COMMAND>"), "{}", help(&["--help"]));
    assert!(help(&["ca", "issue", "--help"]).contains("\n  kubectl wharf ca issue cluster1"));
    let usage = run(&plugin, &["status", "--nonsense"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(text(&usage.stderr).contains("Usage: kubectl wharf status"), "{}", text(&usage.stderr));
    // Under its own name nothing of it is seen.
    assert!(!text(&wharf(&["check", "--help"]).stdout).contains("kubectl wharf"));
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert!(wharf(&["man", &pages.display().to_string()]).status.success());
    let read = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    for command in text(&wharf(&["--help"]).stdout).lines().skip_while(|l| *l != "Commands:").skip(1) {
        let Some(name) = command.split_whitespace().next() else { break };
        if name != "help" {
            assert!(read(&format!("wharf-{name}.1")).contains("EXTRA"), "{name} has no example");
        }
    }
    assert!(read("wharf.1").contains("Share single services between independent Istio clusters"));
}

#[test]
fn the_plugin_asks_a_cluster_and_never_an_agent_that_happens_to_run_here() {
    let dir = TempDir::new().unwrap();
    let plugin = dir.path().join("kubectl-wharf");
    symlink(env!("CARGO_BIN_EXE_wharf"), &plugin).unwrap();
    let asked = run(&plugin, &["status"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stderr).contains("kubeconfig"), "{}", text(&asked.stderr));
    let agent = wharf(&["status"]);
    assert!(text(&agent.stderr).contains("127.0.0.1:7444") || agent.status.success(), "{}", text(&agent.stderr));
}

/// A folder with an agent's files: certificates, a store, a configuration.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Site {
        let site = Site { dir: TempDir::new().unwrap() };
        let ca = Ca::root("root");
        let leaf = ca.cluster("east");
        site.write("east.crt", &leaf.chain_pem);
        site.write("east.key", &leaf.key_pem);
        site.write("ca.crt", &ca.pem);
        fs::create_dir(site.path("store")).unwrap();
        site.configure("ingress: {address: 192.0.2.1}\npeers: [{name: west, consume: true}]\n");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Nobody answers on the admin address, and it is nobody else's while this is looked at.
    fn configure(&self, more: &str) {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        self.write("east.yaml", &format!(
            "cluster: east\nadmin: {free}\nidentity: {{certificate: east.crt, key: east.key, root: ca.crt}}\nstore: {{dir: store}}\n{more}"
        ));
    }

    fn check(&self) -> (Option<i32>, Vec<Value>) {
        let output = wharf(&["check", "--config", self.path("east.yaml").to_str().unwrap(), "-o", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        (output.status.code(), report["findings"].as_array().unwrap().clone())
    }

    /// The one error, which `wharf check` exits with 1 for.
    fn error(&self) -> String {
        let (code, findings) = self.check();
        let errors: Vec<_> = findings.iter().filter(|f| f["severity"] == "error").collect();
        assert!(code == Some(1) && errors.len() == 1, "{code:?} {errors:#?}");
        format!("{}: {}", errors[0]["object"].as_str().unwrap(), errors[0]["message"].as_str().unwrap())
    }
}

#[test]
fn a_folder_that_is_fit_for_an_agent_has_no_error_and_nothing_of_kubernetes_is_asked() {
    let site = Site::new();
    let (code, findings) = site.check();
    assert_eq!(code, Some(0), "{findings:#?}");
    let areas: Vec<_> = findings.iter().map(|f| f["area"].as_str().unwrap()).collect();
    for kubernetes in ["definitions", "permissions", "credential", "mesh"] {
        assert!(!areas.contains(&kubernetes), "{areas:?}");
    }
    let warning = findings.iter().find(|f| f["severity"] == "warning").unwrap();
    assert!(warning["message"].as_str().unwrap().contains("no agent answers"), "{warning}");
    assert_eq!(fs::read_dir(site.path("store")).unwrap().count(), 0, "a check writes nothing");
}

#[test]
fn each_thing_that_is_wrong_with_a_folder_is_an_error() {
    let site = Site::new();
    site.write("store/policy.yaml", "apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositionPolicy\nmetadata: {name: a}\nspec: {expose: []}\n");
    assert!(site.error().contains("policy.yaml:1: ") && site.error().contains("expose"), "{}", site.error());
    fs::remove_file(site.path("store/policy.yaml")).unwrap();

    let other = Ca::root("other");
    site.write("ca.crt", &other.pem);
    assert!(site.error().contains("no peer would accept it"), "{}", site.error());

    let site = Site::new();
    fs::remove_dir(site.path("store")).unwrap();
    assert!(site.error().contains("store: it cannot be read"), "{}", site.error());

    let site = Site::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.configure(&format!("ingress: {{address: 192.0.2.1}}\npeers: [{{name: west, endpoint: \"{closed}\"}}]\n"));
    assert!(
        site.error().contains("west: from this machine: ") && site.error().contains("is the peer's agent running"),
        "{}",
        site.error()
    );
}

#[test]
fn an_identity_that_gateways_cannot_use_is_an_error() {
    let site = Site::new();
    let ca = Ca::root("root");
    let leaf = ca.cluster_with_key("east", &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    site.write("east.crt", &leaf.chain_pem);
    site.write("east.key", &leaf.key_pem);
    site.write("ca.crt", &ca.pem);
    let error = site.error();
    assert!(error.contains("the certificate's key is Ed25519") && error.contains("gateways (Envoy) do not"), "{error}");
}

#[test]
fn policies_of_a_folder_are_judged_although_no_agent_runs() {
    let site = Site::new();
    let policy = |service: &str| {
        format!(
            "apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositionPolicy\nmetadata: {{name: a}}\n\
             spec: {{exposed: [{{name: {service}, clusters: [west]}}]}}\n"
        )
    };
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: till}\nspec: {selector: {app: till}, ports: [{port: 80}]}\n";
    site.write("store/service.yaml", service);
    site.write("store/policy.yaml", &policy("till"));
    assert_eq!(site.check().0, Some(0));
    site.write("store/policy.yaml", &policy("tilll"));
    let error = site.error();
    assert!(
        error.contains("policy.yaml:1: ServiceNotFound: spec.exposed[0].name: there is no Service tilll"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_cannot_be_read_is_the_only_finding() {
    let site = Site::new();
    site.configure("pears: []\n");
    let (code, findings) = site.check();
    assert_eq!((code, findings.len()), (Some(1), 1), "{findings:#?}");
    let message = findings[0]["message"].as_str().unwrap();
    assert!(message.starts_with("line ") && message.contains("pears"), "{message}");
}

#[test]
fn a_check_of_nothing_is_wrong_usage() {
    let nothing = wharf(&["check"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("--config FILE"), "{}", text(&nothing.stderr));
    assert_eq!(wharf(&["check", "-o", "table"]).status.code(), Some(2));
}

#[test]
fn people_are_told_in_words_what_to_do() {
    let site = Site::new();
    site.configure("peers: [{name: west, consume: true}]\n");
    let output = wharf(&["check", "--config", site.path("east.yaml").to_str().unwrap()]);
    let shown = text(&output.stdout);
    assert!(shown.contains("\nwarning    gateways       configuration: ingress.address: missing"), "{shown}");
    assert!(shown.contains("to do: say where others reach the ingress gateway"), "{shown}");
    assert!(shown.ends_with("0 errors, 2 warnings, 0 not checked, 7 ok\n"), "{shown}");
}
