//! `wharf check` of a real API server: a cluster as it should be, and each thing that is wrong with it.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use wharf::check::rights::{AccessRight, needed_rights};
use wharf::config::Config;

use crate::support::tools::{self, Said, WHARF};
use crate::support::{Account, Agent, Cluster, Pki, process::read};

const OWN: &str = "wharf-system";

/// Runs `wharf check ARGS -o json` with a kubeconfig. Exit code, findings, stderr.
fn check(kubeconfig: &Path, args: &[&str]) -> (bool, Vec<Value>, String) {
    let args: Vec<_> = ["check", "-o", "json"].iter().chain(args).collect();
    let Said { success, stdout, stderr } = tools::run(
        Path::new(WHARF),
        &args,
        &[("KUBECONFIG", kubeconfig.as_os_str()), ("HOME", OsStr::new("/nowhere"))],
        "",
    );
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    (success, report["findings"].as_array().expect("findings").clone(), stderr)
}

/// Those of a severity, each on a line.
fn of(findings: &[Value], severity: &str) -> Vec<String> {
    let text =
        |f: &Value| ["area", "object", "message"].map(|k| f[k].as_str().unwrap_or_default().to_owned()).join(": ");
    findings.iter().filter(|f| f["severity"] == severity).map(text).collect()
}

/// The rules that a service account needs, of whatever place.
fn rules(config: &Config) -> Vec<Value> {
    let rule = |right: AccessRight| {
        let mut rule = json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": right.verbs});
        if let Some(name) = right.name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    };
    needed_rights(config, OWN, false).into_iter().map(rule).collect()
}

fn configuration(peer: &str) -> String {
    format!(
        "cluster: east\nidentity: {{secret: wharf-tls}}\nstore: {{kube: {{}}}}\nnamespace: {OWN}\npeers:\n- {peer}\n"
    )
}

fn secret(namespace: &str, name: &str, pki: &Pki, cluster: &str, labels: Value) -> Value {
    let (certificate, key) = pki.issue(cluster);
    let data =
        json!({"tls.crt": read(&certificate), "tls.key": read(&key), "ca.crt": read(&pki.path().join("ca.crt"))});
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "stringData": data,
           "metadata": {"name": name, "namespace": namespace, "labels": labels}})
}

/// Everything that a cluster with an agent has, but the agent itself.
async fn install(cluster: &Cluster, pki: &Pki, peer: &str) -> Account {
    let account = cluster.account(OWN, "wharf").await;
    cluster.make_namespace("istio-system").await;
    let config = configuration(peer);
    cluster
        .allow(&account, &rules(&Config::parse(&config, "test", Path::new("/")).expect("a configuration")).into())
        .await;
    cluster.apply(&secret(OWN, "wharf-tls", pki, "east", json!({}))).await;
    let ours = json!({"app.kubernetes.io/managed-by": "wharf"});
    cluster.apply(&secret("istio-system", "wharf-identity", pki, "east", ours)).await;
    let labels = json!({"app.kubernetes.io/part-of": "wharf", "app.kubernetes.io/component": "agent"});
    let pod = json!({"serviceAccountName": "wharf", "volumes": [{"name": "config", "configMap": {"name": "wharf"}}],
        "containers": [{"name": "agent", "image": "wharf", "args": ["agent", "--config", "/etc/wharf/config.yaml"],
                        "volumeMounts": [{"name": "config", "mountPath": "/etc/wharf"}]}]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "wharf", "namespace": OWN, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}});
    for object in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wharf", "namespace": OWN}, "data": {"config.yaml": config}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
               "data": {"mesh": "trustDomain: cluster.local\ndefaultConfig: {drainDuration: 5s}\n"}}),
        deployment.clone(),
    ] {
        cluster.apply(&object).await;
    }
    cluster.merge_status(&deployment, &json!({"replicas": 1, "readyReplicas": 1})).await;
    cluster.apply(&lease("wharf-0")).await;
    for side in ["ingress", "egress"] {
        gateway(cluster, side).await;
    }
    account
}

fn lease(holder: &str) -> Value {
    let now = time::OffsetDateTime::now_utc();
    let now = now.format(&time::format_description::well_known::Rfc3339).expect("a time");
    let (whole, fraction) = now.trim_end_matches('Z').split_once('.').expect("a fraction");
    let renewed = format!("{whole}.{:0<6.6}Z", fraction);
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "wharf", "namespace": OWN},
           "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}})
}

async fn gateway(cluster: &Cluster, side: &str) {
    let (name, labels) = (format!("istio-{side}gateway"), json!({"istio": format!("{side}gateway")}));
    let meta = |name: &str, labels: &Value| json!({"name": name, "namespace": "istio-system", "labels": labels});
    let kind = if side == "ingress" { "LoadBalancer" } else { "ClusterIP" };
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(&name, &labels),
        "spec": {"type": kind, "selector": labels, "ports": [{"name": "tls", "port": 15443}]}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(side, &labels),
        "spec": {"serviceAccountName": name, "containers": [{"name": "istio-proxy", "image": "proxy"}]}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": meta(&name, &json!({"kubernetes.io/service-name": name})),
        "ports": [{"name": "tls", "port": 15443}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]});
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(&name, &labels), "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta(&name, &labels),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "istio-system"}]});
    for object in [&service, &pod, &slice, &role, &binding] {
        cluster.apply(object).await;
    }
    if side == "ingress" {
        cluster.merge_status(&service, &json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).await;
    }
}

/// An agent of another cluster, with a folder, that lets east in.
async fn peer(cluster: &Cluster, pki: &Pki) -> Agent {
    let mut west = Agent::new(cluster, pki, "west", "west-0");
    let store = cluster.server.folder.join("west");
    std::fs::create_dir_all(&store).expect("a folder");
    west.configure(&format!("store: {{dir: {}}}\n", store.display()), &["{name: east, consume: true}".to_owned()]);
    west.started().await;
    west
}

#[tokio::test]
async fn a_cluster_as_it_should_be_has_no_error_and_each_fault_is_found() {
    let cluster = Cluster::new().await;
    let pki = Pki::new();
    let west = peer(&cluster, &pki).await;
    let account = install(&cluster, &pki, &west.as_donor()).await;
    let admin = cluster.kubeconfig();

    let (success, findings, _) = check(&admin, &[]);
    assert_eq!((of(&findings, "error"), of(&findings, "warning")), Default::default());
    // There is no istiod in this cluster to ask which gateways refuse their configuration.
    let unchecked = of(&findings, "unchecked");
    let istiod = "gateways: http://istiod.istio-system.svc:15014/metrics: not checked: ";
    assert!(unchecked.len() == 1 && unchecked[0].starts_with(istiod), "{unchecked:?}");
    assert!(success);
    let good = of(&findings, "ok").join("\n");
    for part in [
        "configuration: ConfigMap wharf-system/wharf: the configuration of cluster east",
        "definitions: clusterpeerings.multicluster.istio.io: it is there, and of this version",
        "permissions: system:serviceaccount:wharf-system:wharf: has all",
        "agent: Lease wharf-system/wharf: wharf-0 writes",
        "identity: Secret wharf-system/wharf-tls: spiffe://wharf/cluster/east",
        "credential: Secret istio-system/wharf-identity: it is in step",
        "gateways: Service istio-system/istio-ingressgateway: others reach it at 192.0.2.1",
        "ends within 5 s",
        "peers: west: it answers as spiffe://wharf/cluster/west",
        "peers: west: its clock agrees",
    ] {
        assert!(good.contains(part), "{part} in\n{good}");
    }

    // Each of these is broken, seen, and mended again.
    let errors = |args: &[&str]| of(&check(&admin, args).1, "error");
    let only = async |part: &str| {
        cluster.apply(&lease("wharf-0")).await; // as an agent would have done meanwhile
        let errors = errors(&[]);
        assert!(errors.len() == 1 && errors[0].contains(part), "{part}: {errors:?}");
    };
    let config = Config::parse(&configuration(&west.as_donor()), "test", Path::new("/")).expect("a configuration");
    let all = rules(&config);
    let fewer: Vec<_> = all.iter().filter(|r| r["resources"] != json!(["serviceentries"])).cloned().collect();
    cluster.allow(&account, &fewer.into()).await;
    let may_not = || {
        let errors = errors(&["--service-account", "wharf", "-n", OWN]);
        errors.into_iter().filter(|e| e.starts_with("permissions: ")).collect::<Vec<_>>()
    };
    crate::support::wait::until("a right that is missing", || async {
        may_not()
            .iter()
            .any(|e| e.contains("may not list, watch, create, patch, delete serviceentries.networking.istio.io"))
            .then_some(())
    })
    .await;
    cluster.allow(&account, &all.into()).await;
    crate::support::wait::until("all rights", || async { may_not().is_empty().then_some(()) }).await;

    let ours = json!({"app.kubernetes.io/managed-by": "wharf"});
    cluster.apply(&secret("istio-system", "wharf-identity", &pki, "north", ours.clone())).await;
    only("the gateways show spiffe://wharf/cluster/north").await;
    cluster.apply(&secret("istio-system", "wharf-identity", &pki, "east", ours)).await;

    let right = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "istio-egressgateway", "namespace": "istio-system"}});
    cluster.delete(&right).await;
    let kept_from = "gateways: ServiceAccount istio-system/istio-egressgateway: it may not list Secrets";
    crate::support::wait::until("a gateway that may not read the Secret", || async {
        errors(&[]).iter().any(|e| e.starts_with(kept_from)).then_some(())
    })
    .await;
    gateway(&cluster, "egress").await;
    crate::support::wait::until("a gateway that may", || async { errors(&[]).is_empty().then_some(()) }).await;

    let nothing = json!({"apiVersion": "multicluster.istio.io/v1alpha1", "kind": "ServiceExpositionPolicy",
        "metadata": {"name": "nothing", "namespace": "default"}, "spec": {"exposed": [{"name": "nothing"}]}});
    cluster.apply(&nothing).await;
    let entry = json!({"name": "nothing", "reason": "ServiceNotFound", "message": "there is no Service nothing"});
    let ready = json!({"type": "Ready", "status": "False", "reason": "ServiceNotFound", "message": ""});
    cluster.merge_status(&nothing, &json!({"conditions": [ready], "exposed": [entry]})).await;
    only("policies: ServiceExpositionPolicy default/nothing: nothing: ServiceNotFound: there is no Service nothing")
        .await;
    cluster.delete(&nothing).await;

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"}});
    cluster.merge_status(&service, &json!({"loadBalancer": null})).await;
    only("its load balancer has no address yet").await;
    cluster.delete(&service).await;
    only("the ingress gateway's Service is not there").await;
    gateway(&cluster, "ingress").await;

    let mesh =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}});
    cluster.merge(&mesh, &json!({"data": {"mesh": "trustDomain: elsewhere"}})).await;
    only("the mesh's trust domain is elsewhere").await;
    cluster.merge(&mesh, &json!({"data": {"mesh": ""}})).await;

    west.freeze();
    only("peers: west: from this machine").await;
    west.resume();
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "clusterpeerings.multicluster.istio.io"}});
    cluster.delete(&definition).await;
    only("clusterpeerings.multicluster.istio.io: it is not installed").await;
}

#[tokio::test]
async fn the_way_of_peers_through_the_ingress_gateway_is_looked_at() {
    let cluster = Cluster::new().await;
    cluster.make_namespace("istio-system").await;
    cluster.make_namespace("shop").await;
    let file = cluster.server.folder.join("config.yaml");
    let text = "cluster: east\nidentity: {secret: wharf-tls}\ningress: {peering: true}\n";
    std::fs::write(&file, text).expect("a configuration");
    let admin = cluster.kubeconfig();
    let args = ["--config", file.to_str().expect("a path")];
    let way = |severity: &str| {
        let found = of(&check(&admin, &args).1, severity);
        found.into_iter().filter(|line| line.contains("peering.wharf.invalid")).collect::<Vec<_>>()
    };
    assert!(way("error")[0].contains("no Gateway passes it through"), "{:?}", way("error"));

    let istio = |kind: &str, namespace: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "wharf-peering", "namespace": namespace}, "spec": spec});
    let gateway = |namespace: &str| {
        let port = json!({"name": "tls-peering", "number": 15443, "protocol": "TLS"});
        let server = json!({"port": port, "hosts": ["./peering.wharf.invalid"], "tls": {"mode": "PASSTHROUGH"}});
        istio("Gateway", namespace, json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}))
    };
    let tls = json!([{"match": [{"port": 15443, "sniHosts": ["peering.wharf.invalid"]}], "route": [{"destination": {"host": "agent"}}]}]);
    let route = json!({"hosts": ["peering.wharf.invalid"], "gateways": ["wharf-peering"], "tls": tls});
    cluster.apply(&gateway("istio-system")).await;
    cluster.apply(&istio("VirtualService", "istio-system", route)).await;
    assert!(way("ok")[0].contains("Gateway istio-system/wharf-peering leads peers to the agent"), "{:?}", way("ok"));
    cluster.apply(&gateway("shop")).await;
    assert_eq!(way("ok"), [""; 0], "another one asks for the name");
    cluster.delete(&gateway("istio-system")).await;
    assert!(way("error")[0].contains("Gateway shop/wharf-peering takes it"), "{:?}", way("error"));
}

#[tokio::test]
async fn an_agents_account_sees_less_and_says_so() {
    let cluster = Cluster::new().await;
    let pki = Pki::new();
    let west = peer(&cluster, &pki).await;
    let account = install(&cluster, &pki, &west.as_donor()).await;
    let config = cluster.server.folder.join("east.yaml");
    std::fs::write(&config, configuration(&west.as_donor())).expect("a file");
    // As in the pod: with the agent's own rights and its configuration file.
    let (success, findings, _) = check(&account.kubeconfig, &["--config", &config.display().to_string()]);
    assert_eq!(of(&findings, "error"), [] as [String; 0]);
    assert!(success);
    let unchecked = of(&findings, "unchecked").join("\n");
    for part in ["customresourcedefinitions", "pods istio=ingressgateway", "endpointslices"] {
        assert!(unchecked.contains(part), "{part} in\n{unchecked}");
    }
    let good = of(&findings, "ok").join("\n");
    for part in ["has all", "Secret wharf-system/wharf-tls", "others reach it at 192.0.2.1", "west: it answers"] {
        assert!(good.contains(part), "{part} in\n{good}");
    }
    // Nothing was changed, and nothing but reviews was made.
    let changes = |e: &Value| {
        let wharf = e["userAgent"].as_str().unwrap_or_default();
        let verb = e["verb"].as_str().unwrap_or_default();
        !["get", "list", "watch"].contains(&verb)
            && e["objectRef"]["apiGroup"] != "authorization.k8s.io"
            && !wharf.is_empty()
    };
    assert_eq!(cluster.audit().into_iter().filter(changes).collect::<Vec<_>>(), [] as [Value; 0]);
}

#[tokio::test]
async fn a_cluster_without_anything_is_told_what_to_install() {
    let cluster = Cluster::new().await;
    let (success, findings, stderr) = check(&cluster.kubeconfig(), &[]);
    assert!(!success);
    let errors = of(&findings, "error").join("\n");
    assert!(errors.contains("the ingress gateway's Service is not there"), "{errors}");
    let unchecked = of(&findings, "unchecked").join("\n");
    assert!(unchecked.contains("no agent is found") && unchecked.contains("whose rights?"), "{unchecked}");
    assert!(findings.iter().filter(|f| f["severity"] == "error").all(|f| f["cure"].is_string()), "{findings:?}");
    assert!(!stderr.contains("error"), "{stderr}");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_waited_for_aloud_and_not_for_long() {
    let mut cluster = Cluster::new().await;
    cluster.freeze();
    let begun = Instant::now();
    let (success, findings, stderr) = check(&cluster.kubeconfig(), &[]);
    cluster.resume();
    assert!(!success && begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let errors = of(&findings, "error");
    assert!(errors.len() == 1 && errors[0].starts_with("cluster: API server: "), "{errors:?}");
    assert!(stderr.contains("looking at the API server"), "{stderr}");
    cluster.stop();
    let (success, findings, _) = check(&cluster.kubeconfig(), &[]);
    assert!(!success && findings.len() == 1, "{findings:?}");
    cluster.start();
}
