//! The way on which peers come to the agent: a load balancer of its own, or the ingress gateway.

use serde_json::{Value, json};
use wharf::peering::SERVER_NAME;

use super::render::config;
use super::{ALL, FULL, MINIMAL, OWN, OWN_API, helm, path, rendered, text};
use crate::support::Cluster;

/// The agent's Service in what is rendered.
fn service(objects: &[Value]) -> &Value {
    let found = objects.iter().find(|o| {
        o["kind"] == "Service"
            && o["metadata"]["labels"]["app.kubernetes.io/component"] == "agent"
            && o["spec"]["ports"][0]["name"] == "tls-peering"
    });
    found.expect("the agent has a Service")
}

fn of_istio<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|o| o["kind"] == kind && o["apiVersion"] == "networking.istio.io/v1")
}

/// Returns who may dial the agent: the peers of the NetworkPolicy's rule.
fn admitted(objects: &[Value]) -> Value {
    let policy = objects.iter().find(|o| o["kind"] == "NetworkPolicy").expect("there is a NetworkPolicy");
    policy["spec"]["ingress"][0]["from"].clone()
}

#[test]
fn a_donor_with_own_gateways_has_one_load_balancer() {
    let objects = rendered(OWN, &[]);
    let balancers: Vec<_> = objects.iter().filter(|o| o["spec"]["type"] == "LoadBalancer").collect();
    assert_eq!(balancers.len(), 1, "{balancers:?}");
    assert_eq!(balancers[0]["metadata"]["name"], "wharf-ingressgateway");
    assert_eq!(service(&objects)["spec"]["type"], "ClusterIP");
    assert_eq!(service(&rendered(OWN_API, &[]))["spec"]["type"], "ClusterIP");
}

#[test]
fn the_gateway_leads_what_peers_send_to_the_agent_unopened() {
    for (values, more, labels) in [
        (OWN, "", json!({"istio": "wharf-ingressgateway"})),
        (OWN_API, "", json!({"gateway.networking.k8s.io/gateway-name": "wharf-ingressgateway"})),
        (OWN, "service.port=443,ingress.port=9443", json!({"istio": "wharf-ingressgateway"})),
        (MINIMAL, "ingress.peering=true", json!({"istio": "ingressgateway"})),
        (
            MINIMAL,
            "ingress.peering=true,ingress.namespace=front,ingress.selector.app=door,ingress.service=door",
            json!({"app": "door"}),
        ),
        (
            MINIMAL,
            "ingress.peering=true,ingress.gateway=door",
            json!({"gateway.networking.k8s.io/gateway-name": "door"}),
        ),
    ] {
        let objects = rendered(values, &["--set", more]);
        let configured = config(&objects);
        assert!(configured.peering_by_ingress, "{values} {more}");
        let ingress = &configured.ingress;
        assert_eq!(json!(ingress.selector), labels);
        let [gateway, route, rule] =
            ["Gateway", "VirtualService", "DestinationRule"].map(|kind| of_istio(&objects, kind).unwrap());
        for object in [gateway, route, rule] {
            assert_eq!(object["metadata"]["namespace"], ingress.namespace.as_str());
        }
        assert_eq!(gateway["spec"]["selector"], labels, "{values} {more}");
        let server = json!({
            "port": {"name": "tls-peering", "number": ingress.port, "protocol": "TLS"},
            "hosts": [format!("./{SERVER_NAME}")],
            "tls": {"mode": "PASSTHROUGH"},
        });
        assert_eq!(gateway["spec"]["servers"], json!([server]));
        let agent = service(&objects);
        let port = &agent["spec"]["ports"][0]["port"];
        let metadata = &agent["metadata"];
        let host = format!(
            "{}.{}.svc.cluster.local",
            metadata["name"].as_str().unwrap(),
            metadata["namespace"].as_str().unwrap()
        );
        let way = json!([{
            "match": [{"port": ingress.port, "sniHosts": [SERVER_NAME]}],
            "route": [{"destination": {"host": host, "port": {"number": port}}}],
        }]);
        assert_eq!(
            route["spec"],
            json!({
                "hosts": [SERVER_NAME], "gateways": [gateway["metadata"]["name"]], "exportTo": ["."], "tls": way,
            })
        );
        assert_eq!(rule["spec"]["host"], host);
        assert_eq!(rule["spec"]["trafficPolicy"]["tls"]["mode"], "DISABLE", "the agent's own TLS is all there is");
        assert_eq!(
            metadata["annotations"]["networking.istio.io/exportTo"],
            ingress.namespace.as_str(),
            "the gateway sees the Service"
        );
        let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": ingress.namespace.as_str()}});
        assert_eq!(
            admitted(&objects),
            json!([{"namespaceSelector": namespace, "podSelector": {"matchLabels": labels}}])
        );
    }
}

#[test]
fn a_load_balancer_for_peering_alone_is_there_by_choice_only() {
    for (values, more, type_, by_gateway) in [
        (OWN, "service.type=LoadBalancer", "LoadBalancer", true),
        (OWN, "service.type=NodePort", "NodePort", true),
        (OWN, "gateways.ingress.peering=false", "LoadBalancer", false),
        (OWN, "gateways.ingress.enabled=false", "LoadBalancer", false),
        (MINIMAL, "ingress.peering=true", "ClusterIP", true),
        (MINIMAL, "", "LoadBalancer", false),
        (MINIMAL, "service.type=ClusterIP", "ClusterIP", false),
    ] {
        let objects = rendered(values, &["--set", more]);
        assert_eq!(service(&objects)["spec"]["type"], type_, "{values} {more}");
        assert_eq!(config(&objects).peering_by_ingress, by_gateway, "{values} {more}");
        assert_eq!(of_istio(&objects, "Gateway").is_some(), by_gateway, "{values} {more}");
        let from_anywhere = admitted(&objects).is_null();
        assert_eq!(from_anywhere, !by_gateway || more.contains("service.type"), "{values} {more}");
    }
    for values in ALL {
        assert_eq!(service(&rendered(values, &[]))["spec"]["type"], "LoadBalancer", "{values}: as in 0.1");
    }
    let consumer = rendered(OWN, &["--set", "service.enabled=false"]);
    assert!(of_istio(&consumer, "Gateway").is_none(), "nobody dials a cluster that only consumes");
}

#[test]
fn an_agent_may_dial_peers_at_their_agents_and_at_their_gateways() {
    for values in [MINIMAL, OWN] {
        let objects = rendered(values, &[]);
        let policy = objects.iter().find(|o| o["kind"] == "NetworkPolicy").unwrap();
        let egress = policy["spec"]["egress"].to_string();
        assert!(egress.contains("7443") && egress.contains("15443"), "{values}: {egress}");
    }
    assert!(
        !rendered(FULL, &[]).iter().any(|o| o["kind"] == "NetworkPolicy" && o.to_string().contains("15443")),
        "as it says"
    );
}

/// The addresses that peers of 0.1 dial are not taken away by a default.
#[tokio::test]
async fn a_load_balancer_that_peers_may_dial_already_stays_until_a_type_is_named() {
    let cluster = Cluster::new().await;
    for namespace in ["istio-system", "wharf-gateways"] {
        cluster.make_namespace(namespace).await;
    }
    let (chart, kubeconfig) = (text(path("chart")), text(cluster.kubeconfig()));
    let release = |args: &[&str]| {
        let at = ["--namespace", super::NAMESPACE, "--kubeconfig", &kubeconfig];
        helm(&[args, &at].concat()).ok()
    };
    let type_ = || {
        let args = ["-n", super::NAMESPACE, "get", "service", "wharf-peering", "-o", "jsonpath={.spec.type}"];
        cluster.kubectl(&args).ok()
    };
    release(&["install", "wharf", &chart, "--create-namespace", "--set", "cluster=shore"]);
    assert_eq!(type_(), "LoadBalancer");
    let own = "gateways.create=Deployment,gateways.createNamespace=false";
    let notes = release(&["upgrade", "wharf", &chart, "--reset-then-reuse-values", "--set", own]);
    assert_eq!(type_(), "LoadBalancer", "existing endpoints go on working");
    for wanted in ["get service wharf-ingressgateway", "port 15443", "--set service.type=ClusterIP"] {
        assert!(notes.contains(wanted), "{wanted}: {notes}");
    }
    let notes = release(&["upgrade", "wharf", &chart, "--reset-then-reuse-values", "--set", "service.type=ClusterIP"]);
    assert_eq!(type_(), "ClusterIP");
    assert!(!notes.contains("address of its own"), "{notes}");
}
