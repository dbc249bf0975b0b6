//! Somebody has stolen the agent's token: it writes what the agent writes, and little else.

use std::fs;
use std::path::Path;

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::rights::install;
use super::{FULL, MINIMAL, NAMESPACE, objects};
use crate::support::{Cluster, wait};

const NETWORKING: &str = "networking.istio.io/v1";
const FILTERS: &str = "networking.istio.io/v1alpha3";
const SECURITY: &str = "security.istio.io/v1";
const WHARF: &str = "multicluster.istio.io/v1alpha1";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const LUA: &str = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";

/// A cluster with the chart's account, and whoever has its token.
struct Thief {
    cluster: Cluster,
    client: Client,
}

impl Thief {
    /// Waits until the API server enforces the policy.
    async fn new(values: &str, account: &str) -> Thief {
        let cluster = Cluster::new().await;
        let account = install(&cluster, values, account, &[]).await;
        let client = cluster.client_of(&account).await;
        let thief = Thief { cluster, client };
        let unmarked = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "unmarked", "namespace": "shop"},
            "spec": {"ports": [{"port": 80}]},
        });
        wait::until("the policy is enforced", || async { thief.write(&unmarked, true).await.err() }).await;
        thief
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(&object["kind"])));
        Api::namespaced_with(self.client.clone(), &text(&object["metadata"]["namespace"]), &resource)
    }

    /// As the agent does: server-side apply.
    async fn write(&self, object: &Value, dry: bool) -> Result<(), String> {
        let params = PatchParams { dry_run: dry, ..PatchParams::apply("wharf").force() };
        let name = object["metadata"]["name"].as_str().unwrap();
        let result = self.api(object).patch(name, &params, &Patch::Apply(object)).await;
        result.map(drop).map_err(refusal)
    }

    async fn delete(&self, object: &Value) -> Result<(), String> {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.api(object).delete(name, &DeleteParams::default()).await.map(drop).map_err(refusal)
    }

    /// Each of these attacks is refused, and for this reason.
    async fn assert_refused(&self, reason: &str, attacks: Vec<(&str, Value)>) {
        for (attack, object) in attacks {
            let refused = self.write(&object, false).await.expect_err(attack);
            assert!(refused.contains(reason), "{attack}: {refused}");
        }
    }
}

/// The API server's sentence. Anything but 403 is a mistake of the test.
fn refusal(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => status.message.clone(),
        other => panic!("no refusal: {other}"),
    }
}

/// An object with Wharf's mark.
fn marked(api: &str, kind: &str, namespace: &str, spec: Value) -> Value {
    let labels = json!({"app.kubernetes.io/managed-by": "wharf"});
    let metadata = json!({"name": "stolen", "namespace": namespace, "labels": labels});
    json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
}

/// The same without it: somebody else's.
fn theirs(api: &str, kind: &str, spec: Value) -> Value {
    let mut object = marked(api, kind, "shop", spec);
    object["metadata"]["labels"] = json!({});
    object
}

/// `base` with some fields replaced, or taken away by null.
fn with(base: &Value, fields: Value) -> Value {
    let mut changed = base.clone();
    for (key, value) in fields.as_object().unwrap() {
        match value {
            Value::Null => drop(changed.as_object_mut().unwrap().remove(key)),
            value => changed[key] = value.clone(),
        }
    }
    changed
}

/// All objects in the examples of translation.
fn written_by_wharf() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fast/translate/snapshots");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all = Vec::new();
    for file in files.filter(|path| path.extension().is_some_and(|e| e == "snap")) {
        let text = fs::read_to_string(&file).unwrap();
        let output = text.split_once("\n===\n").unwrap().1;
        let example = file.file_stem().unwrap().to_string_lossy().into_owned();
        let written =
            objects(output).into_iter().filter(|o| o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "wharf");
        all.extend(written.map(|object| (example.clone(), object)));
    }
    all
}

#[tokio::test]
async fn whatever_wharf_writes_is_admitted() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let all = written_by_wharf();
    assert!(all.len() > 100, "{} objects in the examples", all.len());
    for (example, object) in all {
        thief.cluster.make_namespace(object["metadata"]["namespace"].as_str().unwrap()).await;
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        thief.write(&object, true).await.unwrap_or_else(|e| panic!("{example}: {kind} {name}: {e}\n{object:#}"));
    }
}

fn filter(value: Value) -> Value {
    json!({
        "workloadSelector": {"labels": {"istio": "ingressgateway"}},
        "configPatches": [{
            "applyTo": "HTTP_FILTER",
            "match": {"context": "GATEWAY", "listener": {"filterChain": {"sni": "reviews.shop.svc.cluster.local"}}},
            "patch": {"operation": "INSERT_FIRST", "value": value},
        }],
    })
}

#[tokio::test]
async fn a_stolen_token_writes_no_envoy_filter_but_wharfs_permissions() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let at = |namespace: &str, spec: Value| marked(FILTERS, "EnvoyFilter", namespace, spec);
    let lua = filter(json!({"name": "wharf.permit", "typed_config": {"@type": LUA, "inlineCode": "os.exit()"}}));
    let rbac = filter(json!({"name": "wharf.permit", "typed_config": {"@type": RBAC, "rules": {}}}));
    thief.write(&at("istio-system", rbac.clone()), true).await.expect("its own shape");
    let elsewhere = vec![
        ("Lua for a tenant's pods", at("shop", with(&lua, json!({"workloadSelector": null})))),
        ("a permission in a tenant's namespace", at("shop", rbac.clone())),
        ("Lua for the pods of kube-system", at("kube-system", lua.clone())),
    ];
    thief.assert_refused("cannot patch resource \"envoyfilters\"", elsewhere).await;
    let patched = |pointer: &str, value: Value| {
        let mut spec = rbac.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key] = value;
        at("istio-system", spec)
    };
    let every_proxy = with(&rbac, json!({"workloadSelector": null}));
    let other_pods = with(&rbac, json!({"workloadSelector": {"labels": {"app": "reviews"}}}));
    let tls = json!({"transport_socket": {"typed_config": {"@type": "x", "require_client_certificate": false}}});
    let mut without_tls = patched("/configPatches/0/applyTo", json!("FILTER_CHAIN"));
    without_tls["spec"]["configPatches"][0]["patch"] = json!({"operation": "MERGE", "value": tls});
    let beside = vec![
        ("Lua at the gateway", at("istio-system", lua)),
        ("a filter for every proxy of the namespace", at("istio-system", every_proxy)),
        ("a filter for other pods", at("istio-system", other_pods)),
        ("a filter of another name", patched("/configPatches/0/patch/value/name", json!("mine"))),
        ("a filter that is removed", patched("/configPatches/0/patch/operation", json!("REMOVE"))),
        ("sidecars", patched("/configPatches/0/match/context", json!("SIDECAR_INBOUND"))),
        ("every name", patched("/configPatches/0/match/listener/filterChain", json!({}))),
        ("a name of others", patched("/configPatches/0/match/listener/filterChain/sni", json!("shop.example"))),
        ("a cluster", patched("/configPatches/0/applyTo", json!("CLUSTER"))),
        ("the bootstrap", patched("/configPatches/0/applyTo", json!("BOOTSTRAP"))),
        ("no client certificate", without_tls),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-agent'", beside).await;
}

#[tokio::test]
async fn a_stolen_token_writes_no_gateway_and_route_but_wharfs() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let server = json!({
        "hosts": ["./reviews.shop.svc.cluster.local"], "port": {"number": 15443, "name": "https", "protocol": "HTTPS"},
        "tls": {"mode": "MUTUAL", "credentialName": "wharf-identity", "subjectAltNames": ["spiffe://wharf/cluster/b"]},
    });
    let gateway = |namespace: &str, change: Value| {
        let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": [with(&server, change)]});
        marked(NETWORKING, "Gateway", namespace, spec)
    };
    thief.write(&gateway("istio-system", json!({})), true).await.expect("its own shape");
    thief
        .assert_refused(
            "cannot patch resource \"gateways\"",
            vec![("a Gateway in a tenant's namespace", gateway("shop", json!({})))],
        )
        .await;
    let mut other_pods = gateway("istio-system", json!({}));
    other_pods["spec"]["selector"] = json!({"app": "public"});
    let at = |change| gateway("istio-system", change);
    let port = json!({"number": 443, "name": "https", "protocol": "HTTPS"});
    let gateways = vec![
        ("the public port", at(json!({"port": port}))),
        (
            "TLS without a client's certificate",
            at(json!({"tls": {"mode": "SIMPLE", "credentialName": "wharf-identity"}})),
        ),
        ("a certificate of others", at(json!({"tls": {"mode": "MUTUAL", "credentialName": "shop-example"}}))),
        ("no TLS", at(json!({"tls": null}))),
        ("routes of every namespace", at(json!({"hosts": ["*/reviews.shop.svc.cluster.local"]}))),
        ("every name", at(json!({"hosts": ["./*"]}))),
        ("names of others", at(json!({"hosts": ["./shop.example"]}))),
        ("other pods", other_pods),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-agent'", gateways).await;

    let route = json!({
        "hosts": ["reviews.shop.svc.cluster.local"], "exportTo": ["."], "gateways": ["istio-ingressgateway-reviews-shop"],
        "http": [{"route": [{"destination": {"host": "reviews.shop.svc.cluster.local"}}]}],
    });
    let routes = |namespace: &str, change| marked(NETWORKING, "VirtualService", namespace, with(&route, change));
    thief.write(&routes("istio-system", json!({})), true).await.expect("its own shape");
    let mesh = |hosts: Value| json!({"gateways": ["mesh"], "exportTo": ["*"], "hosts": hosts});
    let attacks = vec![
        ("a foreign Gateway", routes("istio-system", json!({"gateways": ["public"]}))),
        ("a foreign Gateway beside Wharf's", routes("istio-system", json!({"gateways": ["wharf-egress", "public"]}))),
        (
            "a Gateway elsewhere",
            routes("istio-system", json!({"gateways": ["shop/istio-ingressgateway-reviews-shop"]})),
        ),
        ("no Gateway", routes("istio-system", json!({"gateways": null}))),
        ("routes that everybody sees", routes("istio-system", json!({"exportTo": ["*"]}))),
        ("routes at the gateway from elsewhere", routes("shop", json!({}))),
        ("the public name at the gateway", routes("istio-system", json!({"hosts": ["shop.example"]}))),
        ("a name of another namespace", routes("shop", mesh(json!(["api.team-a.svc.cluster.local"])))),
        ("a name of the internet", routes("shop", mesh(json!(["api.example.com"])))),
        ("every name", routes("shop", mesh(json!(["*"])))),
        ("every name of a namespace", routes("shop", mesh(json!(["*.shop.svc.cluster.local"])))),
        ("the cluster's DNS", routes("kube-system", mesh(json!(["kube-dns.kube-system.svc.cluster.local"])))),
        (
            "the egress gateway itself",
            routes("istio-system", mesh(json!(["istio-egressgateway.istio-system.svc.cluster.local"]))),
        ),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-agent'", attacks).await;
}

#[tokio::test]
async fn a_stolen_token_takes_no_host_and_no_address_of_others() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let entry = json!({
        "hosts": ["ratings.shop.remote"], "location": "MESH_EXTERNAL", "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": [{"address": "192.0.2.7"}],
    });
    let entries = |change| marked(NETWORKING, "ServiceEntry", "shop", with(&entry, change));
    thief.write(&entries(json!({})), true).await.expect("its own shape");
    let rule = |namespace: &str, spec| marked(NETWORKING, "DestinationRule", namespace, spec);
    let egress = "istio-egressgateway.istio-system.svc.cluster.local";
    let off = json!({"tls": {"mode": "DISABLE"}});
    let selector = json!({"labels": {"app": "reviews"}});
    let socket = json!([{"address": "unix:///var/run/secrets/workload-spiffe-uds/socket"}]);
    let attacks = vec![
        ("somebody else's host", entries(json!({"hosts": ["api.example.com"]}))),
        ("a host of another namespace", entries(json!({"hosts": ["api.team-a.svc.cluster.local"]}))),
        ("every host of a namespace", entries(json!({"hosts": ["*.shop.svc.cluster.local"]}))),
        ("the API server's address", entries(json!({"addresses": ["10.96.0.1"]}))),
        ("all addresses", entries(json!({"addresses": ["240.241.0.1/0"]}))),
        ("pods as endpoints", entries(json!({"endpoints": null, "workloadSelector": selector}))),
        ("a socket", entries(json!({"endpoints": socket}))),
        ("inside the mesh", entries(json!({"location": "MESH_INTERNAL"}))),
        ("a rule for another namespace", rule("shop", json!({"host": "api.team-a.svc.cluster.local"}))),
        ("a rule for a short name", rule("shop", json!({"host": "reviews"}))),
        ("a rule for all names", rule("shop", json!({"host": "*.shop.svc.cluster.local"}))),
        ("a rule that everybody sees", rule("istio-system", json!({"host": "reviews.shop.svc.cluster.local"}))),
        ("TLS off towards the egress gateway", rule("istio-system", json!({"host": egress, "trafficPolicy": off}))),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-agent'", attacks).await;
}

#[tokio::test]
async fn a_stolen_token_makes_no_service_that_leads_anywhere_and_allows_nothing() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let name = json!({"ports": [{"port": 80}]});
    let service = |change| marked("v1", "Service", "shop", with(&name, change));
    thief.write(&service(json!({})), true).await.expect("its own shape");
    let rule = json!({
        "from": [{"source": {"notPrincipals": ["cluster2.example/*"]}}],
        "when": [{"key": "connection.sni", "values": ["reviews.shop.svc.cluster.local"]}],
    });
    let denial = json!({"action": "DENY", "selector": {"matchLabels": {"app": "reviews"}}, "rules": [rule]});
    let policy = |change| marked(SECURITY, "AuthorizationPolicy", "shop", with(&denial, change));
    thief.write(&policy(json!({})), true).await.expect("its own shape");
    let with_metadata = |key: &str, value: Value| {
        let mut object = service(json!({}));
        object["metadata"][key] = value;
        object
    };
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b"}]);
    let attacks = vec![
        ("a selector", service(json!({"selector": {"app": "reviews"}}))),
        ("an external name", service(json!({"type": "ExternalName", "externalName": "api.example.com"}))),
        ("a load balancer", service(json!({"type": "LoadBalancer"}))),
        ("a port of the nodes", service(json!({"type": "NodePort"}))),
        ("external addresses", service(json!({"externalIPs": ["192.0.2.1"]}))),
        ("a finalizer", with_metadata("finalizers", json!(["example.com/forever"]))),
        ("an owner", with_metadata("ownerReferences", owner)),
        ("an object without Wharf's mark", with_metadata("labels", json!({}))),
        ("ALLOW", policy(json!({"action": "ALLOW"}))),
        ("no action, which is ALLOW", policy(json!({"action": null}))),
        ("CUSTOM", policy(json!({"action": "CUSTOM", "provider": {"name": "mine"}}))),
        ("DENY of everything", policy(json!({"rules": [{}]}))),
        ("DENY for a whole namespace", policy(json!({"selector": null}))),
        ("DENY of every caller", policy(json!({"rules": [with(&rule, json!({"from": null}))]}))),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-agent'", attacks).await;
}

#[tokio::test]
async fn a_stolen_token_neither_changes_nor_deletes_what_is_somebody_elses() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let remote = json!({"remote": [{"cluster": "cluster2", "services": [{"name": "ratings"}]}]});
    let deny_all = json!({"action": "DENY", "rules": [{}]});
    for object in [
        theirs("v1", "Service", json!({"ports": [{"port": 80}], "selector": {"app": "reviews"}})),
        theirs(SECURITY, "AuthorizationPolicy", deny_all),
        theirs(
            NETWORKING,
            "VirtualService",
            json!({"hosts": ["reviews"], "http": [{"fault": {"abort": {"httpStatus": 500}}}]}),
        ),
        theirs(NETWORKING, "DestinationRule", json!({"host": "reviews"})),
        theirs(WHARF, "RemoteServiceBinding", remote),
    ] {
        let before = thief.cluster.apply(&object).await;
        let kind = object["kind"].as_str().unwrap();
        // Wharf's mark on it, and nothing else.
        let mut taken = object.clone();
        taken["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "wharf"});
        for attack in [&object, &taken] {
            let refused = thief.write(attack, false).await.expect_err(kind);
            assert!(refused.contains("managed-by=wharf, before and after"), "{kind}: {refused}");
        }
        let refused = thief.delete(&object).await.expect_err(kind);
        assert!(refused.contains("managed-by=wharf, before and after"), "{kind}: {refused}");
        assert_eq!(thief.cluster.get(&object).await, Some(before), "{kind}");
    }
    // The agent's own may be changed and deleted, and nobody can be made to believe that they are somebody else's.
    let own = marked("v1", "Service", "shop", json!({"ports": [{"port": 80}]}));
    let own = with(&own, json!({"metadata": with(&own["metadata"], json!({"name": "own"}))}));
    thief.write(&own, false).await.expect("its own");
    let mut given = own.clone();
    given["metadata"]["labels"] = json!({});
    assert!(thief.write(&given, false).await.is_err(), "the mark stays");
    thief.delete(&own).await.expect("its own");
}

#[tokio::test]
async fn a_stolen_token_reads_no_secret_keeps_to_its_names_and_hands_on_no_rights() {
    let thief = Thief::new(MINIMAL, "wharf").await;
    let labels = json!({"app.kubernetes.io/managed-by": "wharf"});
    let named = |kind: &str, name: &str, namespace: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": labels}});
    let mut opaque = named("Secret", "wharf-identity", "istio-system");
    opaque["type"] = "Opaque".into();
    let mut lease = named("Lease", "other", NAMESPACE);
    lease["apiVersion"] = "coordination.k8s.io/v1".into();
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wharf", "namespace": NAMESPACE},
        "data": {"config.yaml": "cluster: cluster1"},
    });
    thief.cluster.apply(&config).await;
    let policy = "ValidatingAdmissionPolicy 'wharf-agent'";
    thief.write(&named("ConfigMap", "wharf-peer-cluster2-0", NAMESPACE), true).await.expect("its own name");
    let attacks = vec![
        ("the agent's configuration", named("ConfigMap", "wharf", NAMESPACE)),
        ("a ConfigMap of another name", named("ConfigMap", "other", NAMESPACE)),
        ("the gateways' Secret of another type", opaque),
    ];
    thief.assert_refused(policy, attacks).await;
    let refused = thief.delete(&config).await.expect_err("the agent's configuration");
    assert!(refused.contains(policy), "{refused}");
    let attacks = vec![
        ("a Secret of another name", named("Secret", "other", "istio-system")),
        ("the gateways' Secret elsewhere", named("Secret", "wharf-identity", "shop")),
        ("a ConfigMap elsewhere", named("ConfigMap", "wharf-peer-cluster2-0", "shop")),
        ("a Lease of another name", lease.clone()),
    ];
    thief.assert_refused("forbidden", attacks).await;

    let post = async |path: &str, body: &Value| {
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        refusal(thief.client.request::<Value>(request).await.expect_err(path))
    };
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    assert!(post(&leases, &lease).await.contains(policy), "a Lease that is made by POST");
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "all", "namespace": "shop"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "wharf", "namespace": NAMESPACE}],
    });
    post("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings", &binding).await;
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    post(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/wharf/token"), &token).await;
    for path in ["/api/v1/secrets", "/api/v1/namespaces/istio-system/secrets", "/api/v1/namespaces/shop/secrets/token"]
    {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        refusal(thief.client.request::<Value>(request).await.expect_err(path));
    }
    let request =
        http::Request::get("/api/v1/namespaces").header("Impersonate-User", "admin").body(Vec::new()).unwrap();
    refusal(thief.client.request::<Value>(request).await.expect_err("somebody else"));
}

#[tokio::test]
async fn the_policy_follows_the_gateways_of_the_values() {
    let thief = Thief::new(FULL, "wharf-agent").await;
    let gateway = |namespace: &str, selector: Value, port: u16, credential: &str| {
        let server = json!({
            "hosts": ["./reviews.shop.svc.cluster.local"], "port": {"number": port, "name": "https", "protocol": "HTTPS"},
            "tls": {"mode": "MUTUAL", "credentialName": credential},
        });
        marked(NETWORKING, "Gateway", namespace, json!({"selector": selector, "servers": [server]}))
    };
    let pods = json!({"app": "ingress"});
    thief.write(&gateway("gateways", pods.clone(), 443, "cluster-credential"), true).await.expect("its own shape");
    let attacks = vec![
        ("the default's pods", gateway("gateways", json!({"istio": "ingressgateway"}), 443, "cluster-credential")),
        ("the default port", gateway("gateways", pods.clone(), 15443, "cluster-credential")),
        ("the default Secret", gateway("gateways", pods.clone(), 443, "wharf-identity")),
    ];
    thief.assert_refused("ValidatingAdmissionPolicy 'wharf-of-cluster1-agent'", attacks).await;
    let elsewhere = vec![
        ("the default namespace", gateway("istio-system", pods.clone(), 443, "cluster-credential")),
        ("that of an egress gateway that the style does without", gateway("egress", pods, 443, "cluster-credential")),
    ];
    thief.assert_refused("cannot patch resource \"gateways\"", elsewhere).await;
}
