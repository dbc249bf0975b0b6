//! Without an API server: what is rendered, and what is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wharf::config::Config;

use super::{
    ALL, CONFINED, FULL, MINIMAL, NAMESPACE, OWN, OWN_API, by_name, helm, objects, one, path, rendered, template, text,
};
use crate::support::tools::{built, run};

#[test]
fn helm_finds_nothing_to_say_against_the_chart() {
    let chart = text(path("chart"));
    helm(&["lint", "--strict", &chart]).ok();
    for values in ALL.into_iter().chain([OWN, OWN_API]) {
        helm(&["lint", "--strict", &chart, "--values", &text(path(&format!("chart/ci/{values}-values.yaml")))]).ok();
    }
}

/// The agent's configuration in what was rendered.
pub fn config(objects: &[Value]) -> Config {
    let agents: Vec<_> = objects.iter().filter(|o| o["metadata"]["namespace"] == NAMESPACE).cloned().collect();
    let file = one(&agents, "ConfigMap")["data"]["config.yaml"].as_str().expect("a file").to_owned();
    parse(&file)
}

pub fn parse(text: &str) -> Config {
    Config::parse(text, "config.yaml", Path::new("/etc/wharf")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn with_nothing_but_a_name_the_agent_has_its_own_defaults() {
    let wanted = "cluster: cluster1\nadmin: 0.0.0.0:7444\nidentity: {secret: wharf-certificate}\n";
    assert_eq!(config(&rendered(MINIMAL, &[])), parse(wanted));
}

#[test]
fn every_value_of_the_configuration_reaches_the_agent() {
    let wanted = "
cluster: cluster1
listen: '[::]:7443'
admin: '[::]:8444'
identity: {secret: cluster1-certificate}
store: {kube: {}}
style: DIRECT_INGRESS
tls: Workload
trustDomain: cluster1.example
allowTls12: true
ingress:
  namespace: gateways
  service: ingress
  selector: {app: ingress}
  port: 443
  serviceAccount: ingress-account
  address: [192.0.2.1, ingress.cluster1.example]
  locality: region1/zone1
  drain: 30s
egress: {namespace: egress, gateway: way-out}
credential: cluster-credential
allowedGateways: [192.0.2.0/24, '2001:db8::/32']
allowedGatewayNames: [gateways.example]
istiod: {metrics: 'http://istiod.mesh.svc:8080/metrics', interval: 30s, ingressPods: way-in-, egressPods: way-out-, rootNamespace: mesh, meshConfig: istio-blue}
passthrough: {trustSidecars: true}
services: {allowWithoutSelector: true}
limits: {peerExpositions: 5000, peerBytes: 8388608, allPeersBytes: 67108864, connections: 300, changeBurst: 20, expositionsPerNamespace: 50, portsPerNamespace: 256}
peers:
- {name: cluster2, endpoint: 'cluster2.example:7543', consume: true, identity: 'spiffe://example/cluster2',
   connectionMode: potential, namespace: imports, gateway: '198.51.100.1:15443', trustDomain: cluster2.example,
   allowedGateways: [10.0.0.0/8], allowedGatewayNames: [cluster2.example]}
- {name: cluster3, endpoint: '[2001:db8::3]:7643', gateway: 'cluster3.example:15443'}
- {name: cluster4, consume: true}
";
    assert_eq!(config(&rendered(FULL, &[])), parse(wanted));
    let confined = "cluster: cluster2\nadmin: 0.0.0.0:7444\nidentity: {secret: wharf-certificate}\n\
                    store: {kube: {namespaces: [team-a, team-b]}}\n";
    assert_eq!(config(&rendered(CONFINED, &[])), parse(confined));
}

#[test]
fn the_charts_values_for_the_admin_listener_reach_the_agent() {
    let set = ["--set", "metrics.hosts={metrics.example}", "--set", "metrics.statusFrom={192.0.2.0/28}"];
    let wanted = "cluster: cluster1\nadmin: 0.0.0.0:7444\nidentity: {secret: wharf-certificate}\n\
                  adminHosts: [metrics.example]\nadminStatusFrom: [192.0.2.0/28]\n";
    assert_eq!(config(&rendered(MINIMAL, &set)), parse(wanted));
}

#[test]
fn peers_restart_nobody_and_everything_else_does() {
    let checksum = |more: &[&str]| {
        let objects = rendered(MINIMAL, more);
        one(&objects, "Deployment").pointer("/spec/template/metadata/annotations/checksum~1config").cloned().unwrap()
    };
    let before = checksum(&[]);
    assert_eq!(checksum(&["--set", "peers[0].name=cluster2"]), before);
    for other in ["tls=Passthrough", "metrics.port=7445", "ingress.port=443", "namespaces={a}", "identity.secret=x"] {
        assert_ne!(checksum(&["--set", other]), before, "{other}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_place() {
    for (value, place, why) in [
        ("cluter=cluster1", "''", "additional properties 'cluter' not allowed"),
        ("cluster=Cluster_1", "/cluster'", "does not match pattern"),
        ("replicas=-1", "/replicas'", "minimum"),
        ("replicas=two", "/replicas'", "want integer"),
        ("style=SIDEWAYS", "/style'", "value must be one of"),
        ("ingress.namspace=gateways", "/ingress'", "additional properties 'namspace' not allowed"),
        ("ingress.port=70000", "/ingress/port'", "maximum"),
        ("identity.secret=", "/identity/secret'", "does not match pattern"),
        ("identity.certManager.issuerRef.kind=Issuer", "/identity/certManager/issuerRef'", "name"),
        ("peers[0].consume=true", "/peers/0'", "missing property 'name'"),
        ("peers[0].name=a,peers[0].consum=true", "/peers/0'", "additional properties 'consum' not allowed"),
        ("peers[0].name=a,peers[0].endpoint=a.example", "/peers/0/endpoint'", "does not match pattern"),
        ("peers[0].name=a,peers[0].endpoint=https://a.example:7443", "/peers/0/endpoint'", "does not match pattern"),
        ("peers[0].name=a,peers[0].gateway={a.example}", "/peers/0/gateway/0'", "does not match pattern"),
        ("ingress.address=192.0.2.1:15443", "/ingress/address'", "does not match pattern"),
        ("namespaces={Team_A}", "/namespaces/0'", "does not match pattern"),
        ("allowedGateways={192.0.2.1}", "/allowedGateways/0'", "does not match pattern"),
        ("image.digest=latest", "/image/digest'", "does not match pattern"),
        ("service.type=ExternalName", "/service/type'", "value must be one of"),
        ("terminationGracePeriodSeconds=5", "/terminationGracePeriodSeconds'", "minimum"),
    ] {
        let said = template(MINIMAL, &["--set", value]).failed();
        assert!(said.contains(place) && said.contains(why), "{value}: {said}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_with_a_cure() {
    for (value, wanted) in [
        ("cluster=", "cluster: every cluster needs a name of its own, a DNS label: --set cluster=cluster1"),
        ("style=DIRECT_INGRESS,tls=Cluster", "tls: Cluster needs the egress gateway"),
        ("peers[0].name=cluster1", "peers: cluster1 is this cluster itself"),
        ("peers[0].name=a,peers[1].name=a", "peers: a is listed twice"),
        ("ingress.gateway=front,ingress.service=front", "ingress.gateway: stands for service and selector"),
        ("serviceAccount.create=false", "serviceAccount.name: name the service account that is there already"),
    ] {
        let said = template(MINIMAL, &["--set", value]).failed();
        assert!(said.contains(wanted), "{value}: {said}");
    }
}

#[test]
fn what_is_made_from_the_chart_is_fresh() {
    let output = Command::new(path("render")).arg("--check").env("HELM", built("bin/helm")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn kustomize(folder: &Path) -> Vec<Value> {
    objects(&run(&built("bin/kubectl"), &["kustomize", &folder.display().to_string()], &[], "").ok())
}

/// Without what only Helm says, and what only kustomize has.
pub fn comparable(object: Value) -> Value {
    let mut object = object;
    for pointer in ["/metadata", "/spec/template/metadata"] {
        let Some(metadata) = object.pointer_mut(pointer) else { continue };
        for (map, key) in [
            ("labels", "helm.sh/chart"),
            ("labels", "app.kubernetes.io/managed-by"),
            ("annotations", "checksum/config"),
        ] {
            if let Some(map) = metadata[map].as_object_mut() {
                map.remove(key);
            }
        }
    }
    if object["kind"] == "ConfigMap" {
        object["metadata"]["labels"] = Value::Null;
        let config = format!("{:?}", config(&[object.clone()]));
        object["data"]["config.yaml"] = config.into();
    }
    object
}

/// The folder of the kustomization, with the example's comments taken away: all components are in.
fn with_components() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-R").args([path("kustomize"), path("crds")]).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let file = copy.path().join("kustomize/overlays/example/kustomization.yaml");
    let mut text = fs::read_to_string(&file).unwrap();
    for key in ["components:", "- ../../components", "patches:", "- target:", "  patch:", "    - {op:"] {
        text = text.replace(&format!("# {key}"), key);
    }
    fs::write(&file, text).unwrap();
    copy
}

#[test]
fn the_kustomization_is_the_chart_without_helm() {
    let folder = with_components();
    let mut there = by_name(kustomize(&folder.path().join("kustomize/overlays/example")));
    there.retain(|key, _| !key.starts_with("CustomResourceDefinition ") && key != "Namespace /wharf-system");
    let values = "identity.certManager.issuerRef.name=clusters,identity.certManager.issuerRef.kind=ClusterIssuer,\
                  metrics.serviceMonitor.enabled=true";
    let wanted = by_name(rendered(MINIMAL, &["--set", values]));
    assert_eq!(there.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (key, object) in wanted {
        assert_eq!(comparable(there[&key].clone()), comparable(object), "{key}");
    }
    let plain = by_name(kustomize(&path("kustomize/overlays/example")));
    let definitions = plain.keys().filter(|key| key.starts_with("CustomResourceDefinition ")).count();
    assert!(definitions == 3 && plain.contains_key("Namespace /wharf-system"), "{:?}", plain.keys());
    assert!(!plain.keys().any(|key| key.starts_with("Certificate") || key.starts_with("ServiceMonitor")));
}

#[test]
fn a_pod_may_nothing_that_it_does_not_need() {
    for values in ALL {
        let objects = rendered(values, &[]);
        let pod = &one(&objects, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], 65532, "as in the image");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let agent = &pod["containers"][0];
        assert_eq!(agent["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(agent["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(agent["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert!(agent["resources"]["requests"].is_object() && !agent["resources"]["limits"]["memory"].is_null());
        assert_eq!(one(&objects, "ServiceAccount")["automountServiceAccountToken"], false);
        assert_eq!(pod["automountServiceAccountToken"], true, "the pod says so, nobody else gets one");
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(volumes.iter().all(|v| v["secret"].is_null()), "the certificate is read by the API: {volumes:?}");
    }
}

#[test]
fn an_update_has_a_new_replica_before_an_old_one_goes() {
    let objects = rendered(MINIMAL, &[]);
    let spec = &one(&objects, "Deployment")["spec"];
    assert_eq!(spec["replicas"], 2);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxSurge"], 1);
    assert_eq!(one(&objects, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
}
