//! Istio's definitions of every version that Wharf supports: objects carry what these declare, and nothing else.

use serde_json::Value;

use crate::support::objects::{binding, kind_of};
use crate::support::tools::built;
use crate::support::{Cluster, Pair, wait};

const FIELD: &str = "http2KeepAlive";

/// The versions of `istio.io/api` of which the lab has the definitions, and whether they declare the field. There are
/// proper releases of the module for some of Istio's versions only.
const VERSIONS: [(&str, bool); 5] =
    [("v1.24.2", false), ("v1.26.0-beta.0", false), ("v1.30.8", false), ("v1.31.4", true), ("v1.32.0", true)];

/// Installs the definitions of a version over those that are there.
fn install(cluster: &Cluster, version: &str) {
    let file = built(&format!("crds-istio-{version}.yaml")).display().to_string();
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).ok();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).ok();
}

/// Waits until a binding is programmed, and says of the field what is so: its DestinationRules have it or its status tells
/// that they do without.
async fn is_programmed(cluster: &Cluster, bound: &Value, declared: bool) {
    let name = bound["metadata"]["name"].as_str().unwrap();
    let seen = || async {
        let (status, _) = cluster.condition(bound, "Programmed").await?;
        let told = cluster.get(bound).await?["status"]["services"][0]["message"].to_string().contains(FIELD);
        let rules = cluster.try_list(&kind_of("networking.istio.io/v1", "DestinationRule")).await.ok()?;
        let mut own = rules.iter().filter(|r| r["spec"]["host"].to_string().contains(&format!("{name}.default")));
        let written = own.any(|r| r["spec"].to_string().contains(FIELD));
        (status == "True" && told != declared && written == declared).then_some(())
    };
    wait::until(&format!("{name} programmed, with {FIELD}: {declared}"), seen).await;
}

#[tokio::test]
async fn a_binding_is_programmed_on_the_definitions_of_every_supported_istio() {
    let mut pair = Pair::new(&[]).await;
    for (i, (version, declared)) in VERSIONS.into_iter().enumerate() {
        pair.acceptor.agent.stop();
        install(&pair.acceptor.cluster, version);
        pair.acceptor.agent.started().await;
        pair.expose(&format!("s{i}")).await;
        pair.bind(&format!("s{i}")).await;
        // The bindings of the versions before, too: an upgrade brings them what is new.
        for j in 0..=i {
            is_programmed(&pair.acceptor.cluster, &binding("default", &format!("s{j}"), "donor"), declared).await;
        }
        pair.acceptor.content().await;
    }
}

#[tokio::test]
async fn older_definitions_that_come_while_the_agent_runs_take_nothing_away() {
    let mut pair = Pair::new(&["reviews"]).await;
    install(&pair.acceptor.cluster, "v1.24.2");
    pair.expose("ratings").await;
    pair.bind("ratings").await;
    for name in ["ratings", "reviews"] {
        is_programmed(&pair.acceptor.cluster, &binding("default", name, "donor"), false).await;
    }
    pair.recovers().await;
}
