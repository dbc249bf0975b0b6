//! What people have of the definitions: descriptions, columns, short names, shared objects.

use std::path::Path;

use serde_json::{Value, json};

use super::{binding, made, peering, policy};
use crate::support::tools::{WHARF, run};
use crate::support::{Cluster, wait};

#[tokio::test]
async fn they_are_installed_without_a_warning_and_again_without_a_change() {
    let cluster = Cluster::new().await;
    let definitions = run(Path::new(WHARF), &["crds"], &[], "").ok();
    let generations = || cluster.kubectl(&["get", "crd", "-o", "jsonpath={.items[*].metadata.generation}"]).ok();
    let before = generations();
    let said = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &definitions);
    assert_eq!(said.stderr, "");
    assert_eq!(generations(), before);
    let condition = r#"jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="NonStructuralSchema")].status}{"\n"}{end}"#;
    assert!(!cluster.kubectl(&["get", "crd", "-o", condition]).ok().contains("True"));
}

#[tokio::test]
async fn the_examples_are_accepted() {
    let cluster = Cluster::new().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let args = ["apply", "--server-side", "--dry-run=server", "-R", "-f", folder];
    let said = cluster.kubectl(&args);
    // There are configurations of agents beside the objects, which are no objects.
    assert!(!said.stderr.contains("is invalid"), "{}", said.stderr);
    for kind in ["serviceexpositionpolicy", "remoteservicebinding"] {
        assert!(said.stdout.contains(kind), "{}{}", said.stdout, said.stderr);
    }
}

#[tokio::test]
async fn explain_tells_what_a_field_is_for() {
    let cluster = Cluster::new().await;
    // kubectl may have looked before they were installed, and remembers; this has it look again.
    cluster.kubectl(&["api-resources", "--api-group=multicluster.istio.io"]).ok();
    for (path, words) in [
        ("sep", "Says which Services of its namespace other clusters may use"),
        ("sep.spec.exposed.clusters", "every peer that may consume"),
        ("sep.spec.exposed.tls", "Whose TLS protects the leg between the clusters"),
        ("sep.status.exposed.rejectedBy", "The clusters that rejected it"),
        ("rsb", "Says which services of other clusters are used in its namespace"),
        ("rsb.spec.remote.services.weight", "0 takes the cluster out"),
        ("rsb.status.services.lastChanged", "last changed"),
        ("cp", "Another cluster: where its agent is"),
        ("cp.spec.connectionMode", "Default: `none`"),
        ("cp.status.ownCertificateExpires", "When the certificate that this cluster shows to the peer expires"),
    ] {
        // An API server takes a moment to describe definitions that were changed, here by the test before.
        let explained = || async {
            let said = cluster.kubectl(&["explain", path]).ok();
            let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
            (flat.contains(words) && !flat.contains("<no description>")).then_some(())
        };
        wait::until(&format!("{words:?} of {path}"), explained).await;
    }
}

/// The cells of a table, without the age.
fn row(cluster: &Cluster, args: &[&str]) -> Vec<Vec<String>> {
    let said = cluster.kubectl(&[&["get"][..], args].concat()).ok();
    said.lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).map(str::to_owned).collect())
        .collect()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}

#[tokio::test]
async fn columns_say_whether_it_works_and_if_not_why() {
    let cluster = Cluster::new().await;
    let reviews = policy("reviews", &json!([{"name": "reviews"}]));
    let stars =
        binding("stars", &json!([{"cluster": "cluster1", "services": [{"name": "ratings", "alias": "stars"}]}]));
    let peer = peering("cluster1", &json!({"endpoint": "cluster1.example:7443", "consume": true}));
    for object in [&reviews, &stars, &peer] {
        made(&cluster, object);
    }
    let ready = condition("Ready", "False", "NameConflict", "in the way");
    let conflict = condition("Programmed", "False", "NameConflict", "in the way");
    let summary =
        json!({"hosts": "reviews.default.svc.cluster.local", "offeredTo": "cluster2,cluster3", "boundBy": "cluster2"});
    let exposed = condition("Exposed", "True", "Exposed", "");
    let status = json!({"conditions": [ready, exposed, conflict], "summary": summary});
    cluster.merge_status(&reviews, &status).await;
    let bound = [("Ready", "Ready"), ("Bound", "Bound"), ("Programmed", "Programmed"), ("PeerConnected", "Connected")];
    let bound = bound.map(|(kind, reason)| condition(kind, "True", reason, "fine"));
    let summary = json!({"peers": "cluster1", "local": "stars"});
    cluster.merge_status(&stars, &json!({"conditions": bound, "summary": summary})).await;
    let away = condition("Connected", "False", "PeerUnreachable", "nobody answers");
    let status = json!({
        "conditions": [condition("Ready", "False", "PeerUnreachable", "nobody answers"), away,
            condition("Subscribed", "True", "Subscribed", "")], "offered": 3, "bound": 1, "exposed": 2,
        "certificateExpires": "2027-01-01T00:00:00Z", "ownCertificateExpires": "2028-01-01T00:00:00Z",
    });
    cluster.merge_status(&peer, &status).await;

    let [header, cells] = &row(&cluster, &["sep"])[..] else { panic!() };
    assert_eq!(header[..], ["NAME", "READY", "EXPOSED", "PROGRAMMED", "PROBLEM", "OFFERED-TO", "BOUND-BY", "AGE"]);
    assert_eq!(cells[..7], ["reviews", "False", "True", "False", "NameConflict", "cluster2,cluster3", "cluster2"]);
    let [header, cells] = &row(&cluster, &["sep", "-o", "wide"])[..] else { panic!() };
    assert_eq!(header[8..], ["HOSTS", "REJECTED-BY", "MESSAGE"]);
    assert_eq!(cells[8..], ["reviews.default.svc.cluster.local", "in the way"]);

    let [header, cells] = &row(&cluster, &["rsb"])[..] else { panic!() };
    assert_eq!(header[..], ["NAME", "READY", "BOUND", "PROGRAMMED", "PROBLEM", "PEER", "LOCAL", "AGE"]);
    assert_eq!(cells[..6], ["stars", "True", "True", "True", "cluster1", "stars"], "no problem");

    let [header, cells] = &row(&cluster, &["cp", "-o", "wide"])[..] else { panic!() };
    let expected =
        ["NAME", "READY", "CONNECTED", "SUBSCRIBED", "PROBLEM", "LAST-SYNC", "OFFERED", "BOUND", "EXPOSED", "AGE"];
    assert_eq!(header[..10], expected);
    assert_eq!(header[10..], ["ENDPOINT", "CONSUME", "CERTIFICATE-EXPIRES", "OWN-EXPIRES", "MESSAGE"]);
    assert_eq!(cells[..8], ["cluster1", "False", "False", "True", "PeerUnreachable", "3", "1", "2"], "never in step");
    let wide = ["cluster1.example:7443", "true", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z", "nobody answers"];
    assert_eq!(cells[9..], wide);

    for (category, count) in [("wharf", 2), ("wharf-peers", 1)] {
        let all = cluster.kubectl(&["get", category, "-o", "name"]).ok();
        assert_eq!(all.lines().count(), count, "{category}: {all}");
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "rsb/stars", "--timeout=10s"]).ok();
}

#[tokio::test]
async fn a_status_is_not_its_owners_to_write_and_a_spec_has_a_generation() {
    let cluster = Cluster::new().await;
    let mut peer = peering("cluster1", &json!({"consume": true}));
    peer["status"] = json!({"offered": 7});
    made(&cluster, &peer);
    let there = cluster.get(&peer).await.unwrap();
    assert_eq!(there["status"], Value::Null);
    assert_eq!(there["spec"], json!({"consume": true, "connectionMode": "none", "namespace": "default"}));
    cluster.merge_status(&peer, &json!({"offered": 1})).await;
    let there = cluster.merge(&peer, &json!({"spec": {"consume": false}, "status": {"offered": 8}})).await;
    assert_eq!((&there["status"]["offered"], &there["metadata"]["generation"]), (&json!(1), &json!(2)));
}

/// Applies it as somebody.
fn apply(cluster: &Cluster, who: &str, object: &Value) -> crate::support::Said {
    let manager = format!("--field-manager={who}");
    cluster.kubectl_with(&["apply", "--server-side", &manager, "-f", "-"], &object.to_string())
}

#[tokio::test]
async fn two_writers_each_have_an_entry() {
    let cluster = Cluster::new().await;
    let entries = |exposed: Value| policy("shop", &exposed);
    apply(&cluster, "books", &entries(json!([{"name": "reviews", "port": 9080, "clusters": ["cluster2"]}]))).ok();
    apply(&cluster, "stars", &entries(json!([{"name": "ratings", "alias": "stars"}]))).ok();
    apply(&cluster, "guest", &entries(json!([{"name": "reviews", "clusters": ["cluster3"]}]))).ok();
    let said = apply(&cluster, "thief", &entries(json!([{"name": "reviews", "port": 80}]))).failed();
    assert!(said.contains(r#"conflict with "books": .spec.exposed[alias="",name="reviews"].port"#), "{said}");
    let both = json!([
        {"name": "reviews", "alias": "", "port": 9080, "clusters": ["cluster2", "cluster3"]},
        {"name": "ratings", "alias": "stars"},
    ]);
    assert_eq!(cluster.get(&entries(json!([]))).await.unwrap()["spec"]["exposed"], both);
    apply(&cluster, "stars", &entries(json!([{"name": "details"}]))).ok();
    apply(&cluster, "guest", &entries(json!([]))).ok();
    let after = json!([
        {"name": "reviews", "alias": "", "port": 9080, "clusters": ["cluster2"]},
        {"name": "details", "alias": ""},
    ]);
    assert_eq!(cluster.get(&entries(json!([]))).await.unwrap()["spec"]["exposed"], after, "each takes away its own");

    let remotes = |remote: Value| binding("shop", &remote);
    let of = |cluster: &str, service: &str| json!([{"cluster": cluster, "services": [{"name": service}]}]);
    apply(&cluster, "books", &remotes(of("cluster1", "reviews"))).ok();
    apply(&cluster, "stars", &remotes(of("cluster1", "ratings"))).ok();
    apply(&cluster, "guest", &remotes(of("cluster3", "reviews"))).ok();
    let there = cluster.get(&remotes(json!([]))).await.unwrap();
    let names = |i: usize| {
        let services = there["spec"]["remote"][i]["services"].as_array().unwrap();
        services.iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(0), names(1)), (vec!["reviews".into(), "ratings".into()], vec!["reviews".into()]));
}
