//! `wharf import` as a program: files in, documents on stdout, notes on stderr, exit codes.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.global]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.7, ports: {http: 15443}}]
";

fn run(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    for name in ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HOME"] {
        command.env_remove(name);
    }
    command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A run that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_import_prints_passes_translate() {
    let dir = TempDir::new().unwrap();
    let args = ["import", "--acceptor", "cluster2", "-f", "-", "--peer", "cluster1"];
    let (code, printed, notes) = told(&run(dir.path(), &args, ENTRY));
    assert_eq!(code, 0, "{notes}");
    assert!(
        printed.contains("# for cluster1, the donor\n") && printed.contains("# for cluster2, the acceptor\n"),
        "{printed}"
    );
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: shop}\nspec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}\n";
    let only = |cluster: &str| told(&run(dir.path(), &[&args[..], &["--for", cluster]].concat(), ENTRY)).1;
    let donor = "{cluster: cluster1, peers: [{name: cluster2, consume: true}], ingress: {address: [203.0.113.7]}}";
    let acceptor = "{cluster: cluster2, peers: [{name: cluster1, endpoint: 'cluster1.example:7443', gateway: ['203.0.113.7:15443']}]}";
    for (cluster, config, more, kind) in
        [("cluster1", donor, service, "kind: Gateway"), ("cluster2", acceptor, "", "kind: ServiceEntry")]
    {
        std::fs::write(dir.path().join("config.yaml"), config).unwrap();
        let input = format!("{}{more}", only(cluster));
        let (code, objects, errors) =
            told(&run(dir.path(), &["translate", "--config", "config.yaml", "-f", "-"], &input));
        assert_eq!(code, 0, "{cluster}: {errors}\n{input}");
        assert!(objects.contains(kind), "{cluster}: {objects}");
    }
}

#[test]
fn broken_files_cost_nothing_of_the_others_and_the_exit_code_says_so() {
    let dir = TempDir::new().unwrap();
    std::fs::write(
        dir.path().join("broken.yaml"),
        "a: [\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\nspec: {hosts: 3}\n",
    )
    .unwrap();
    let args = [
        "import",
        "--acceptor",
        "cluster2",
        "--peer",
        "cluster1",
        "-f",
        "broken.yaml",
        "-f",
        "missing.yaml",
        "-f",
        "-",
    ];
    let (code, printed, notes) = told(&run(dir.path(), &args, ENTRY));
    assert_eq!(code, 1, "{notes}");
    assert!(
        printed.contains("name: reviews-for-cluster2") && printed.contains("name: reviews-from-cluster1"),
        "{printed}"
    );
    for place in
        ["error: broken.yaml:1: ", "error: broken.yaml:3: ServiceEntry default/x: spec.hosts", "error: missing.yaml: "]
    {
        assert!(notes.contains(place), "{place} is not in\n{notes}");
    }
}

#[test]
fn a_list_of_json_is_what_kubectl_applies() {
    let dir = TempDir::new().unwrap();
    let (code, printed, _) = told(&run(
        dir.path(),
        &["import", "--acceptor", "cluster2", "--peer", "cluster1", "-f", "-", "-o", "json"],
        ENTRY,
    ));
    let list: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let kinds: Vec<_> = list["items"].as_array().unwrap().iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(
        (code, list["kind"].as_str(), kinds),
        (0, Some("List"), vec!["ServiceExpositionPolicy", "RemoteServiceBinding"])
    );
}

#[test]
fn wrong_usage_of_import_is_told_before_anything_is_read() {
    let dir = TempDir::new().unwrap();
    for (args, word) in [
        (&["import", "-f", "-"][..], "--acceptor"),
        (&["import", "--acceptor", "cluster2", "--multi-primary", "-f", "-"], "--donor-context"),
        (&["import", "--acceptor", "cluster2", "--peer", "cluster2", "-f", "-"], "acceptor"),
        (&["import", "--acceptor", "Cluster_2", "-f", "-"], "Cluster_2"),
        (&["import", "--acceptor", "cluster2", "--peer", "cluster1=nowhere!", "-f", "-"], "nowhere!"),
        (&["import", "--acceptor", "cluster2", "--donor-filename", "x", "-f", "-"], "--peer"),
    ] {
        let (code, printed, notes) = told(&run(dir.path(), args, ENTRY));
        assert_eq!((code, printed.as_str()), (2, ""), "{args:?}: {notes}");
        assert!(notes.contains(word), "{args:?}: {notes}");
    }
    let (code, _, notes) = told(&run(dir.path(), &["import", "--acceptor", "cluster2"], ""));
    assert_eq!(code, 1, "no cluster and no file: {notes}");
    let args = ["import", "--acceptor", "cluster2", "--peer", "cluster1", "--for", "cluster9", "-f", "-"];
    let (code, _, notes) = told(&run(dir.path(), &args, ENTRY));
    assert!(code == 1 && notes.contains("nothing is for cluster9"), "{notes}");
}
