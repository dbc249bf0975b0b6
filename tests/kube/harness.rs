//! The tests' own tools do what they say.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::support::{Agent, Cluster, Pki, wait};

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}})
}

#[tokio::test]
async fn a_namespace_can_be_deleted_and_made_again() {
    let cluster = Cluster::new().await;
    let objects = ["v1/Service", "networking.istio.io/v1/Gateway", "v1/Secret"].map(|of| {
        let (version, kind) = of.rsplit_once('/').unwrap();
        let spec = if kind == "Service" { json!({"ports": [{"port": 80}]}) } else { json!({}) };
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "namespace": "shop"}});
        if kind != "Secret" {
            object["spec"] = spec;
        }
        object
    });
    for _ in 0..2 {
        cluster.make_namespace("shop").await;
        for object in &objects {
            assert_eq!(cluster.get(object).await, None);
            cluster.apply(object).await;
        }
        cluster.delete_namespace("shop").await;
        assert!(cluster.try_apply(&objects[0]).await.is_err());
    }
}

#[tokio::test]
async fn both_sets_of_definitions_are_installed_and_come_back_for_the_next_test() {
    let served = |cluster: &Cluster| {
        let kinds = cluster.kubectl(&["api-resources", "--no-headers", "-o", "name"]).ok();
        ["serviceexpositionpolicies.multicluster.istio.io", "serviceentries.networking.istio.io"]
            .map(|k| kinds.contains(k))
    };
    let mut cluster = Cluster::new().await;
    assert_eq!(served(&cluster), [true, true]);
    let definition = |name: &str| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}});
    cluster.delete(&definition("serviceentries.networking.istio.io")).await;
    cluster.apply(&config_map("left")).await;
    cluster.kubectl_with(&["create", "-f", "-"], &config_map("over").to_string()).ok();
    cluster.kill();
    cluster.server.clean();
    assert_eq!(served(&cluster), [true, true]);
    assert!(cluster.list(&config_map("")).await.is_empty());
    assert!(cluster.kubectl(&["get", "configmap", "over"]).failed().contains("NotFound"));
}

#[tokio::test]
async fn an_api_server_can_be_stopped_frozen_and_started_again() {
    let mut cluster = Cluster::new().await;
    cluster.apply(&config_map("a")).await;
    cluster.stop();
    assert!(cluster.try_apply(&config_map("b")).await.is_err());
    cluster.start();
    assert!(cluster.get(&config_map("a")).await.is_some());

    let write = async |name| tokio::time::timeout(Duration::from_secs(1), cluster.try_apply(&config_map(name))).await;
    cluster.freeze();
    assert!(write("c").await.is_err(), "it answers");
    cluster.resume();
    write("c").await.expect("in time").unwrap();
    cluster.freeze_etcd();
    assert!(write("d").await.is_err(), "it stores");
    cluster.resume_etcd();
    wait::until("a write", || async { write("d").await.ok()?.ok() }).await;
}

/// Whether a watch can go on from a revision.
async fn watch_goes_on(maps: &Api<ConfigMap>, from: &str) -> bool {
    let stream = maps.watch(&WatchParams::default().timeout(1), from).await.unwrap();
    let events: Result<Vec<_>, _> = stream.try_collect().await;
    !events.unwrap().iter().any(|event| matches!(event, WatchEvent::Error(status) if status.code == 410))
}

#[tokio::test]
async fn watches_and_lists_expire() {
    let mut cluster = Cluster::new().await;
    for name in ["a", "b", "c"] {
        cluster.apply(&config_map(name)).await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let page = ListParams::default().limit(1);
    let list = maps.list(&page).await.unwrap();
    let (revision, next) = (list.metadata.resource_version.unwrap(), list.metadata.continue_.unwrap());
    assert!(watch_goes_on(&maps, &revision).await);
    cluster.apply(&config_map("d")).await;
    let before = cluster.revision();
    cluster.compact();
    assert!(before <= cluster.revision());
    assert!(watch_goes_on(&maps, &revision).await, "the API server remembers enough");
    cluster.expire_watches();
    let refused = maps.list(&page.continue_token(&next)).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 410), "{refused:?}");
    assert!(!watch_goes_on(&maps, &revision).await);
}

#[tokio::test]
async fn a_service_account_may_what_it_is_allowed_as_long_as_its_token_lives() {
    let cluster = Cluster::new().await;
    let account = cluster.account("wharf-system", "wharf").await;
    let code =
        async |client: &kube::Client| match Api::<ConfigMap>::all(client.clone()).list(&ListParams::default()).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(e) => panic!("{e}"),
        };
    let until = async |client: &kube::Client, wanted: u16| {
        wait::until(&wanted.to_string(), || async { (code(client).await == wanted).then_some(()) }).await;
    };
    let client = cluster.client_of(&account).await;
    assert_eq!(code(&client).await, 403);
    cluster.allow(&account, &json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])).await;
    until(&client, 200).await;
    cluster.allow(&account, &json!([])).await;
    until(&client, 403).await;
    cluster.expire_token(&account).await;
    until(&client, 401).await;
    cluster.renew(&account).await;
    assert_eq!(code(&cluster.client_of(&account).await).await, 403);
    let asked = cluster.audit();
    assert!(asked.iter().any(|event| event["objectRef"]["resource"] == "configmaps" && event["verb"] == "list"));
}

#[tokio::test]
async fn an_agent_is_a_process_with_a_configuration_and_a_log() {
    let cluster = Cluster::new().await;
    let account = cluster.account("wharf-system", "wharf").await;
    let mut agent = Agent::new(&cluster, &Pki::new(), "cluster1", "wharf-0").with_account(&account);
    agent.configure(&format!("store: {{dir: {}}}\n", cluster.server.folder.join("store").display()), &[]);
    fs::create_dir(cluster.server.folder.join("store")).unwrap();
    agent.started().await;
    assert!(agent.runs());
    assert_eq!(agent.status().expect("a status").cluster.to_string(), "cluster1");
    assert!(Path::new(&format!("/proc/{}", agent.id())).exists());
    agent.freeze();
    agent.resume();
    assert!(agent.stop().0.success());
}
