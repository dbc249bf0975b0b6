//! `kubectl wharf`, by kubectl itself: what a cluster's API server has to say, in kubectl's manner.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::tools::{self, Said, WHARF, built};
use crate::support::{Account, Cluster};

const API: &str = "multicluster.istio.io/v1alpha1";

/// kubectl with the plugin on its PATH, in a folder of its own.
struct Kubectl {
    folder: tempfile::TempDir,
    kubeconfig: OsString,
}

impl Kubectl {
    fn of(cluster: &Cluster) -> Kubectl {
        Kubectl::new(cluster.kubeconfig().into())
    }

    fn with_account(account: &Account) -> Kubectl {
        Kubectl::new(account.kubeconfig.clone().into())
    }

    fn new(kubeconfig: OsString) -> Kubectl {
        let folder = tempfile::tempdir().expect("a folder");
        symlink(WHARF, folder.path().join("kubectl-wharf")).expect("a link");
        Kubectl { folder, kubeconfig }
    }

    fn run(&self, args: &[&str]) -> Said {
        let here = self.folder.path().as_os_str();
        let mut path = vec![self.folder.path().to_owned()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path = env::join_paths(path).expect("a PATH");
        tools::run(
            &built("bin/kubectl"),
            args,
            &[("PATH", &path), ("HOME", here), ("KUBECONFIG", &self.kubeconfig)],
            "",
        )
    }

    /// The plugin itself, as kubectl starts it.
    fn plugin(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("kubectl-wharf"));
        command.args(args).env("HOME", self.folder.path()).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl wharf ARGS`, which goes well.
    fn wharf(&self, args: &str) -> String {
        let args: Vec<_> = ["wharf"].into_iter().chain(args.split_whitespace()).collect();
        self.run(&args).ok()
    }

    /// The same as JSON.
    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.wharf(&format!("{args} -o json"))).expect("JSON")
    }
}

fn condition(type_: &str, status: &str, reason: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": format!("{reason}, it says"),
           "lastTransitionTime": "2026-01-02T03:04:05Z"})
}

fn policy(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": API, "kind": "ServiceExpositionPolicy", "metadata": {"name": name, "namespace": namespace},
           "spec": {"exposed": [{"name": name}]}})
}

fn binding(namespace: &str, name: &str, cluster: &str) -> Value {
    json!({"apiVersion": API, "kind": "RemoteServiceBinding", "metadata": {"name": name, "namespace": namespace},
           "spec": {"remote": [{"cluster": cluster, "services": [{"name": name}]}]}})
}

fn peering(name: &str) -> Value {
    json!({"apiVersion": API, "kind": "ClusterPeering", "metadata": {"name": name},
           "spec": {"endpoint": format!("{name}.example:7443"), "consume": true}})
}

/// A policy that is offered to east and west and used in west, in `shop`; bindings of services of east and west.
async fn fill(cluster: &Cluster) {
    for namespace in ["shop", "wharf-system"] {
        cluster.make_namespace(namespace).await;
    }
    let programmed = [condition("Ready", "True", "Ready"), condition("Programmed", "True", "Programmed")];
    let books = policy("shop", "books");
    cluster.apply(&books).await;
    let exposed = json!([{"name": "books", "host": "books.shop.svc.cluster.local", "offeredTo": ["east", "west"], "boundBy": ["west"]}]);
    cluster.merge_status(&books, &json!({"conditions": programmed, "exposed": exposed})).await;
    for (name, from) in [("reviews", &["east"][..]), ("ratings", &["east", "west"])] {
        let object = binding("default", name, "east");
        cluster.apply(&object).await;
        let services = from.iter().map(|c| {
            json!({"cluster": c, "exposition": format!("default/{name}"), "bound": true,
            "localHost": format!("{name}.default.svc.cluster.local"), "version": "0af1", "reason": "Bound"})
        });
        let services: Vec<_> = services.collect();
        cluster.merge_status(&object, &json!({"conditions": programmed, "services": services})).await;
    }
    for name in ["east", "west"] {
        cluster.apply(&peering(name)).await;
    }
    let connected = [condition("Connected", "True", "InStep"), condition("Subscribed", "False", "NotSubscribed")];
    let status = json!({"conditions": connected, "offered": 2, "bound": 2, "exposed": 1, "revision": 7, "lastSync": "2026-01-02T03:04:05Z"});
    cluster.merge_status(&peering("east"), &status).await;
}

#[tokio::test]
async fn kubectl_finds_the_plugin_and_its_help_says_what_to_type() {
    let kubectl = Kubectl::new(OsString::new());
    assert!(kubectl.run(&["plugin", "list"]).stdout.contains("kubectl-wharf"));
    let help = kubectl.wharf("peers delete --help");
    assert!(
        help.contains("Usage: kubectl wharf peers delete") && help.contains("  kubectl wharf peers delete cluster2"),
        "{help}"
    );
    assert!(!help.replace("kubectl wharf ", "").contains("  wharf "), "{help}");
}

#[tokio::test]
async fn status_shows_a_namespace_or_all_as_kubectl_get_does() {
    let cluster = Cluster::new().await;
    let kubectl = Kubectl::of(&cluster);
    let none = kubectl.run(&["wharf", "status"]);
    assert!(none.success && none.stdout.is_empty(), "{none:?}");
    assert!(none.stderr.contains("No policies or bindings found in default namespace."), "{none:?}");
    fill(&cluster).await;
    cluster.apply(&policy("shop", "unseen")).await;

    let here = kubectl.wharf("status");
    assert!(here.contains("ratings.default.svc.cluster.local") && !here.contains("books"), "{here}");
    let shop = kubectl.run(&["wharf", "status", "--namespace", "shop"]);
    assert!(!shop.success, "one is not ready");
    let shop = shop.stdout;
    assert!(
        shop.contains("books.shop.svc.cluster.local") && shop.contains("east,west") && !shop.contains("reviews"),
        "{shop}"
    );
    let unseen = shop.lines().find(|l| l.contains("unseen")).expect("a line");
    assert!(unseen.contains("Unseen") && unseen.contains("no agent has looked at it yet"), "{unseen}");
    let all = kubectl.run(&["wharf", "status", "-A", "-o", "wide"]).stdout;
    for part in ["books", "reviews", "2026-01-02T03:04:05Z", "0af1"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let names = kubectl.run(&["wharf", "status", "-A", "-o", "name"]).stdout;
    let first = names.lines().next();
    assert_eq!(first, Some("serviceexpositionpolicy.multicluster.istio.io/books"), "{names}");
    let shown = kubectl.run(&["wharf", "status", "-n", "shop", "-o", "json"]).stdout;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["policies"][0]["status"]["exposed"][0]["boundBy"], json!(["west"]));

    let labelled = json!({"metadata": {"labels": {"tier": "test"}}});
    cluster.merge(&binding("default", "reviews", "east"), &labelled).await;
    let chosen = kubectl.wharf("status -l tier=test");
    assert!(chosen.contains("reviews") && !chosen.contains("ratings"), "{chosen}");
}

/// Starts a plugin that waits; it is read until a line has this text.
fn waiting(kubectl: &Kubectl, text: &str) -> std::process::Child {
    let mut command = kubectl.plugin(&["status", "-n", "shop", "--wait", "--timeout", "60s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("its stderr")).lines();
    assert!(lines.any(|line| line.expect("a line").contains(text)), "it tells of {text}");
    std::thread::spawn(move || lines.count()); // it may go on telling
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn status_waits_until_all_is_ready_as_a_watch_tells_it() {
    let cluster = Cluster::new().await;
    let kubectl = Kubectl::of(&cluster);
    fill(&cluster).await;
    let cart = policy("shop", "cart");
    cluster.apply(&cart).await;
    let mut child = waiting(&kubectl, "waiting for shop/cart: Unseen");
    let conditions = json!([condition("Ready", "False", "ServiceNotFound")]);
    cluster.merge_status(&cart, &json!({"observedGeneration": 1, "conditions": conditions})).await;
    let late = kubectl.run(&["wharf", "status", "-n", "shop", "--wait", "--timeout", "1s"]);
    assert!(!late.success && late.stderr.contains("error: not ready after 1 s"), "{late:?}");
    assert!(late.stdout.contains("ServiceNotFound"), "{late:?}");
    assert!(child.try_wait().expect("a child").is_none(), "it still waits");
    let exposed = json!([{"name": "cart", "reason": "Exposed", "offeredTo": ["east"]}]);
    let conditions = json!([condition("Ready", "True", "Ready"), condition("Programmed", "True", "Programmed")]);
    cluster.merge_status(&cart, &json!({"observedGeneration": 1, "conditions": conditions, "exposed": exposed})).await;
    assert!(child.wait().expect("its end").success());
    // A status of an earlier text says nothing of this one.
    cluster.merge(&cart, &json!({"spec": {"exposed": [{"name": "wagon"}]}})).await;
    let changed = kubectl.run(&["wharf", "status", "-n", "shop"]);
    assert!(!changed.success && changed.stdout.contains("Outdated"), "{changed:?}");
}

#[tokio::test]
async fn offers_are_what_the_agent_remembers_and_nobody_else_wrote() {
    let cluster = Cluster::new().await;
    fill(&cluster).await;
    let offer = |namespace: &str, name: &str| {
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let exposition = json!({"namespace": namespace, "name": name, "host": host, "tls": "Cluster",
            "ports": [{"number": 9080, "name": "http", "protocol": "HTTP", "host": host}],
            "gateways": [{"address": "192.0.2.1", "port": 15443}]});
        json!({"version": "0af1", "exposition": exposition}).to_string()
    };
    let map = |name: &str, by: &str, data: Value| {
        let labels = json!({"multicluster.istio.io/peer": "east", "app.kubernetes.io/managed-by": by});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
               "metadata": {"name": name, "namespace": "wharf-system", "labels": labels}})
    };
    cluster.apply(&map("wharf-peer-east-0", "wharf", json!({"default.reviews": offer("default", "reviews")}))).await;
    let more = json!({"shop.books": offer("shop", "books"), "shop.bad": "{}"});
    cluster.apply(&map("wharf-peer-east-3", "wharf", more)).await;
    cluster.apply(&map("forged", "mallory", json!({"default.bank": offer("default", "bank")}))).await;
    let kubectl = Kubectl::of(&cluster);
    let offers = kubectl.wharf("offers -o wide");
    let reviews = offers.lines().find(|l| l.contains("reviews")).expect("a line");
    for part in ["east", "9080/HTTP", "Cluster", "default/reviews", "192.0.2.1:15443", "0af1"] {
        assert!(reviews.contains(part), "{part}: {reviews}");
    }
    assert!(offers.contains("problem: ConfigMap wharf-system/wharf-peer-east-3: shop.bad"), "{offers}");
    assert!(!offers.contains("bank"), "{offers}");
    assert_eq!(kubectl.wharf("offers -n shop -o name"), "east/shop/books\n");
    let elsewhere = kubectl.run(&["wharf", "offers", "--agent-namespace", "default"]);
    assert!(elsewhere.success && elsewhere.stderr.contains("No offers found."), "{elsewhere:?}");
}

#[tokio::test]
async fn deleting_a_peering_says_first_what_goes_with_it() {
    let cluster = Cluster::new().await;
    fill(&cluster).await;
    let kubectl = Kubectl::of(&cluster);
    let peers = kubectl.wharf("peers -o wide");
    let east = peers.lines().find(|l| l.starts_with("east")).expect("a line");
    for part in ["east.example:7443", "yes", "NotSubscribed", "spiffe://wharf/cluster/east"] {
        assert!(east.contains(part), "{part}: {east}");
    }
    let dry = kubectl.wharf("peers delete east --dry-run=client");
    assert!(dry.starts_with("clusterpeering.multicluster.istio.io \"east\" deleted (dry run)\n"), "{dry}");
    let line = |what: &str| dry.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("{what}: {dry}"));
    assert!(line("default/reviews").contains("answered with 503"), "{dry}");
    assert!(line("default/ratings").contains("stays, with west"), "{dry}");
    assert!(line("books.shop").contains("not used there"), "{dry}");
    let west = kubectl.json("peers delete west --dry-run=server");
    assert_eq!(west["exposed"][0]["bound"], true, "{west}");
    assert_eq!(kubectl.wharf("peers -o name").lines().count(), 2, "nothing was deleted");

    let done = kubectl.wharf("peers delete east");
    assert!(done.contains("\"east\" deleted\n") && done.contains("answered with 503"), "{done}");
    assert_eq!(cluster.get(&peering("east")).await, None);
    let gone = kubectl.run(&["wharf", "peers", "delete", "east"]).failed();
    assert!(gone.contains("clusterpeerings.multicluster.istio.io \"east\" not found"), "{gone}");
    assert_eq!(kubectl.wharf("peers delete east --ignore-not-found"), "");
}

#[tokio::test]
async fn who_may_not_look_is_told_so_and_wrong_usage_is_another_exit_code() {
    let cluster = Cluster::new().await;
    let guest = Kubectl::with_account(&cluster.account("default", "guest").await);
    let refused = guest.run(&["wharf", "status"]).failed();
    assert!(refused.contains("serviceexpositionpolicies.multicluster.istio.io is forbidden"), "{refused}");
    let code = |args: &[&str]| {
        let mut command = std::process::Command::new(WHARF);
        command.args(args).env("KUBECONFIG", &guest.kubeconfig).output().expect("it runs").status.code()
    };
    assert_eq!(code(&["status"]), Some(1));
    assert_eq!(code(&["status", "--no-such-option"]), Some(2));
    assert_eq!(code(&["status", "-A", "-n", "shop"]), Some(2));
    assert_eq!(code(&["status", "--context", "nowhere"]), Some(1));
    // kubectl's own way of acting as somebody else.
    let admin = Kubectl::of(&cluster);
    let refused = admin.run(&["wharf", "peers", "--as", "system:serviceaccount:default:guest"]).failed();
    assert!(refused.contains("system:serviceaccount:default:guest"), "{refused}");
}

/// Peers are the operator's: the category of what lies in namespaces has none of them.
#[tokio::test]
async fn whoever_may_see_one_namespace_lists_the_category_without_an_error() {
    let cluster = Cluster::new().await;
    let account = cluster.account("default", "tenant").await;
    let own = ["serviceexpositionpolicies", "remoteservicebindings"];
    let rule = json!({"apiGroups": ["multicluster.istio.io"], "resources": own, "verbs": ["get", "list"]});
    cluster.allow(&account, &json!([rule])).await;
    let till = json!({"apiVersion": API, "kind": "ServiceExpositionPolicy",
        "metadata": {"name": "till", "namespace": "default"}, "spec": {"exposed": [{"name": "till"}]}});
    cluster.apply(&till).await;
    let said = Kubectl::with_account(&account).run(&["get", "wharf", "-n", "default"]).ok();
    assert!(said.contains("serviceexpositionpolicy.multicluster.istio.io/till"), "{said}");
    let peers = Kubectl::of(&cluster).run(&["get", "wharf-peers"]).ok();
    assert!(!peers.contains("till"), "{peers}");
}
