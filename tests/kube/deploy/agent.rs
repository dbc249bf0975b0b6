//! The agent with the chart's configuration, the chart's account and nothing more: it works, it asks for nothing that it
//! may not, it needs each of its rights, and says so when one is missing.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::rights::{Right, may, page, qualified};
use super::site::{Site, config};
use super::{MINIMAL, NAMESPACE, one, rendered};
use crate::support::process::Daemon;
use crate::support::tools::{WHARF, installed};
use crate::support::{Cluster, wait};

/// Taken only when two replicas are after the Lease in the same moment.
const BY_CHANCE: [(&str, &str); 1] = [("leases.coordination.k8s.io", "get")];

#[tokio::test]
async fn the_agent_needs_each_right_of_the_page_and_asks_for_no_other() {
    let mut site = Site::new(&["--set", "rbac.nodes=true"]).await;
    through_nodes(&site.here).await;
    site.peer.started().await;
    site.agent.started().await;
    site.share().await;
    site.shared().await;
    // What happens again is counted in the Event that there is.
    for times in 1..=2 {
        site.peer.kill();
        wait::until("it is told that the peer went", || told(&site, "PeerUnreachable", times)).await;
        site.peer.started().await;
        wait::until("the peer came", || async { site.is_connected().await.then_some(()) }).await;
    }
    site.shared().await;
    site.unshare().await;
    assert!(site.agent.stop().0.success());

    let asked = site.asked();
    let refused: Vec<_> = asked.iter().filter(|event| event["responseStatus"]["code"] == 403).map(what).collect();
    assert!(refused.is_empty(), "it asks for what it may not: {refused:?}");
    let used: BTreeSet<(String, String)> = asked.iter().flat_map(used).collect();
    let granted = page().into_iter().flat_map(|[resource, verbs, _, _]| {
        let verbs: Vec<String> = verbs.split(", ").map(str::to_owned).collect();
        verbs.into_iter().map(move |verb| (resource.clone(), verb))
    });
    let chance = |(resource, verb): &(String, String)| BY_CHANCE.iter().any(|(r, v)| r == resource && v == verb);
    let superfluous: Vec<_> = granted.filter(|right| !used.contains(right) && !chance(right)).collect();
    assert!(superfluous.is_empty(), "granted, and never used: {superfluous:?}");
}

/// Before it has a load balancer, the ingress gateway is reached through a node.
async fn through_nodes(here: &Cluster) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
    here.apply(&node).await;
    let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]);
    let addresses = json!([{"type": "ExternalIP", "address": "192.0.2.7"}]);
    here.merge_status(&node, &json!({"addresses": addresses, "conditions": ready})).await;
    let ingress = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"}});
    here.merge(&ingress, &json!({"spec": {"type": "NodePort", "ports": [{"name": "tls", "port": 15443}]}})).await;
}

/// Whether Events of the peering have told this so often.
async fn told(site: &Site, reason: &str, times: u64) -> Option<()> {
    let events = site.events().await;
    let mut of_it = events.iter().filter(|e| e["regarding"]["kind"] == "ClusterPeering" && e["reason"] == reason);
    of_it.any(|e| e["series"]["count"].as_u64().unwrap_or(1) >= times).then_some(())
}

fn resource(event: &Value) -> String {
    let part = |key: &str| event["objectRef"][key].as_str().unwrap_or_default();
    let sub = part("subresource");
    let resource = if sub.is_empty() { part("resource").to_owned() } else { format!("{}/{sub}", part("resource")) };
    qualified(part("apiGroup"), &resource)
}

fn what(event: &Value) -> String {
    format!("{} {} {}", event["verb"], resource(event), event["objectRef"]["namespace"])
}

/// The rights that a request took. A patch that made something took two.
fn used(event: &Value) -> Vec<(String, String)> {
    let verb = event["verb"].as_str().unwrap_or_default();
    let mut used = vec![(resource(event), verb.to_owned())];
    if verb == "patch" && event["responseStatus"]["code"] == 201 {
        used.push((resource(event), "create".to_owned()));
    }
    used
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_and_one_that_is_given_back_heals() {
    let mut site = Site::new(&[]).await;
    site.peer.started().await;
    let roles = rendered(MINIMAL, &[]).into_iter().filter(|o| {
        // Those of people are no business of the agent's.
        let name = o["metadata"]["name"].as_str().unwrap_or_default();
        (o["kind"] == "Role" || o["kind"] == "ClusterRole") && !name.ends_with("-edit") && !name.ends_with("-view")
    });
    for role in roles {
        for number in 0..role["rules"].as_array().expect("rules").len() {
            without(&mut site, &role, number).await;
        }
    }
}

/// One rule of one role is taken away.
async fn without(site: &mut Site, role: &Value, number: usize) {
    let mut less = role.clone();
    let rule = less["rules"].as_array_mut().expect("rules").remove(number);
    site.here.apply(&less).await;
    let client = site.here.client_of(&site.account).await;
    let right = first(&rule);
    let namespace = role["metadata"]["namespace"].as_str().unwrap_or("shop");
    wait::until("no right", || async { (!may(&client, namespace, &right).await).then_some(()) }).await;

    let before = fs::read_to_string(site.agent.config.with_extension("log")).unwrap_or_default().len();
    site.agent.start();
    site.share().await;
    wait::until(&format!("a word about the missing {rule}"), || async {
        let said = said(site, before);
        let told = texts(&rule["resources"]).iter().any(|r| said.contains(&format!("resource \"{r}\"")));
        told.then_some(())
    })
    .await;

    site.here.apply(role).await;
    site.shared().await;
    site.unshare().await;
    assert!(site.agent.stop().0.success());
    site.forget_lease().await;
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn first(rule: &Value) -> Right {
    let first = |key: &str| texts(&rule[key]).first().cloned();
    Right {
        resource: qualified(&first("apiGroups").unwrap_or_default(), &first("resources").expect("a resource")),
        verb: first("verbs").expect("a verb"),
        name: first("resourceNames"),
    }
}

/// What the agent says where people look: its status, whether it is ready, its log.
fn said(site: &Site, before: usize) -> String {
    let http = |path: &str| site.agent.http(path).map(|(_, body)| body).unwrap_or_default();
    let log = site.agent.log();
    let text = format!("{}{}{}", http("/status"), http("/readyz"), log.get(before..).unwrap_or_default());
    text.replace("\\\"", "\"")
}

/// What somebody makes of the agent's objects, of each kind.
fn meddling() -> [(&'static str, &'static str, Value); 7] {
    let plain = json!([{"hosts": ["*"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}]);
    let elsewhere = json!([{"name": "other", "port": 9080}]);
    [
        ("networking.istio.io/v1", "Gateway", json!({"servers": plain})),
        ("networking.istio.io/v1", "VirtualService", json!({"gateways": ["public"], "exportTo": ["*", "."]})),
        ("networking.istio.io/v1", "DestinationRule", json!({"workloadSelector": {"matchLabels": {"app": "other"}}})),
        ("networking.istio.io/v1", "ServiceEntry", json!({"addresses": ["10.96.0.1"], "location": "MESH_INTERNAL"})),
        ("security.istio.io/v1", "AuthorizationPolicy", json!({"action": "ALLOW"})),
        ("networking.istio.io/v1alpha3", "EnvoyFilter", json!({"configPatches": [], "priority": 7})),
        ("v1", "Service", json!({"ports": elsewhere})),
    ]
}

#[tokio::test]
async fn the_admission_policy_lets_the_agent_repair_what_somebody_changes() {
    let mut site = Site::new(&[]).await;
    site.peer.started().await;
    site.agent.started().await;
    site.share().await;
    site.shared().await;
    for (api, kind, spec) in meddling() {
        let like = json!({"apiVersion": api, "kind": kind, "metadata": {}});
        let all = site.here.list(&like).await;
        let ours = |o: &&Value| o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "wharf";
        for before in all.iter().filter(ours) {
            let (name, namespace) = (&before["metadata"]["name"], &before["metadata"]["namespace"]);
            let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": namespace}});
            let changed = site.here.merge(&object, &json!({"spec": spec})).await;
            assert_ne!(changed["spec"], before["spec"], "{kind}");
            wait::until(&format!("{kind} {name} as it was"), || async {
                let now = site.here.get(&object).await?;
                (now["spec"] == before["spec"]).then_some(())
            })
            .await;
        }
    }
    assert!(site.agent.stop().0.success());
}

/// The chart's pod, but for its image: the arguments, the environment and the files that it has, and no others.
#[tokio::test]
async fn in_a_pod_the_agent_finds_its_cluster_its_namespace_and_its_configuration() {
    let site = Site::new(&[]).await;
    let objects = rendered(MINIMAL, &[]);
    let container = &one(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let folder = site.here.server.folder.join("pod");
    fs::create_dir_all(&folder).unwrap();
    let token = fs::read(site.here.server.folder.join(format!("{NAMESPACE}.wharf.token"))).unwrap();
    fs::write(folder.join("token"), token).unwrap();
    fs::write(folder.join("namespace"), NAMESPACE).unwrap();
    fs::write(folder.join("ca.crt"), &site.here.server.ca).unwrap();
    fs::write(folder.join("config.yaml"), config(&site.agent, &[])).unwrap();

    let mut args: Vec<String> = [installed("env").display().to_string(), "-i".to_owned()].into();
    args.extend([
        format!("KUBERNETES_SERVICE_HOST={}", site.here.server.ip),
        "KUBERNETES_SERVICE_PORT=6443".to_owned(),
    ]);
    for variable in container["env"].as_array().unwrap() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => "wharf-0",
            Some("metadata.namespace") => NAMESPACE,
            Some("metadata.uid") => "6f1c0f2e-0000-4000-8000-000000000001",
            _ => variable["value"].as_str().expect("a value"),
        };
        args.push(format!("{}={value}", variable["name"].as_str().unwrap()));
    }
    // A mount namespace of its own is what makes a pod of it: nobody else sees these files.
    let mounts = "mount -t tmpfs tmpfs /etc && mkdir /etc/wharf && cp \"$0/config.yaml\" /etc/wharf && \
                  mount -t tmpfs tmpfs /var/run && s=/var/run/secrets/kubernetes.io/serviceaccount && mkdir -p $s && \
                  cp \"$0/token\" \"$0/namespace\" \"$0/ca.crt\" $s && exec \"$@\"";
    let unshare = installed("unshare").display().to_string();
    args.extend([unshare, "-rm".into(), "/bin/sh".into(), "-c".into(), mounts.into(), folder.display().to_string()]);
    args.push(WHARF.to_owned());
    args.extend(texts(&container["args"]));

    let mut pod = Daemon::start("the pod", folder.join("log"), args, vec![]);
    let ready = || async { (site.agent.http("/readyz")?.0 == 200).then_some(()) };
    wait::until("a ready agent", ready).await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "wharf", "namespace": NAMESPACE}});
    wait::until("the pod's name in the Lease", || async {
        let lease = site.here.get(&lease).await?;
        (lease["spec"]["holderIdentity"] == "wharf-0").then_some(())
    })
    .await;
    assert!(pod.stop().0.success(), "{}", pod.tail());
}
