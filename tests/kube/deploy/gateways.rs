//! Gateways of Wharf's own, as the chart renders them (`gateways.create`).

use serde_json::{Value, json};

use super::render::{comparable, config, kustomize, parse};
use super::site::Site;
use super::{ALL, MINIMAL, OWN, OWN_API, by_name, path, rendered, template};
use crate::support::wait;

const GATEWAYS: &str = "wharf-gateways";
const SIDES: [&str; 2] = ["ingress", "egress"];

/// The object of a kind and a name.
fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name} is rendered"))
}

/// The names of a kind's objects in the gateways' namespace.
fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let there = objects.iter().filter(|o| o["kind"] == kind && o["metadata"]["namespace"] == GATEWAYS);
    there.map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn has_labels(labels: &Value, wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(k, v)| labels[k] == *v))
}

#[test]
fn no_gateway_is_made_unless_it_is_asked_for() {
    for values in ALL {
        let objects = rendered(values, &[]);
        assert!(!objects.iter().any(|o| o.to_string().contains(GATEWAYS)), "{values}");
        // As with `helm upgrade --reuse-values` from a chart that had no such value.
        assert_eq!(by_name(rendered(values, &["--set", "gateways=null"])), by_name(objects), "{values}");
    }
}

#[test]
fn the_agent_is_configured_for_the_gateways_that_the_chart_makes() {
    let common = "cluster: cluster1\nadmin: 0.0.0.0:7444\nidentity: {secret: wharf-certificate}\n";
    let side = |side: &str| {
        format!(
            "service: wharf-{side}gateway, selector: {{istio: wharf-{side}gateway}}, namespace: wharf-gateways, \
             serviceAccount: wharf-{side}gateway"
        )
    };
    let (ingress, egress) = (side("ingress"), side("egress"));
    let injected = format!("{common}ingress: {{{ingress}, drain: 45s, peering: true}}\negress: {{{egress}}}\n");
    assert_eq!(config(&rendered(OWN, &[])), parse(&injected));
    let managed = format!(
        "{common}ingress: {{gateway: wharf-ingressgateway, namespace: doors, drain: 60s, port: 443, locality: region1/zone1, \
         serviceAccount: wharf-ingressgateway-istio, peering: true}}\n\
         egress: {{gateway: wharf-egressgateway, namespace: doors, serviceAccount: wharf-egressgateway-istio}}\n"
    );
    assert_eq!(config(&rendered(OWN_API, &[])), parse(&managed));
}

#[test]
fn a_gateway_that_nobody_calls_is_not_made() {
    let of = |values: &str| names(&rendered(OWN, &["--set", values]), "Deployment");
    assert_eq!(of("style=DIRECT_INGRESS"), ["wharf-ingressgateway"]);
    assert_eq!(of("gateways.egress.enabled=false"), ["wharf-ingressgateway"]);
    assert_eq!(of("gateways.ingress.enabled=false"), ["wharf-egressgateway"]);
    let consumer = rendered(OWN, &["--set", "gateways.ingress.enabled=false"]);
    assert_eq!(config(&consumer).ingress.namespace.as_str(), "istio-system", "the values' own gateway counts");
    let none = rendered(OWN, &["--set", "gateways.ingress.enabled=false,gateways.egress.enabled=false"]);
    assert!(!none.iter().any(|o| o.to_string().contains(GATEWAYS)), "nor a namespace for none");
}

#[test]
fn a_pod_of_a_gateway_is_what_the_agent_and_its_service_select() {
    let objects = rendered(OWN, &[]);
    let configured = config(&objects);
    for (side, gateway) in SIDES.iter().zip([&configured.ingress, &configured.egress]) {
        let name = format!("wharf-{side}gateway");
        let deployment = named(&objects, "Deployment", &name);
        let template = &deployment["spec"]["template"];
        let labels = &template["metadata"]["labels"];
        let service = named(&objects, "Service", &name);
        assert!(has_labels(labels, &json!(gateway.selector)), "{labels}");
        assert!(has_labels(labels, &service["spec"]["selector"]), "{labels}");
        assert!(has_labels(labels, &deployment["spec"]["selector"]["matchLabels"]), "{labels}");
        let budget = named(&objects, "PodDisruptionBudget", &name);
        assert!(has_labels(labels, &budget["spec"]["selector"]["matchLabels"]), "{labels}");
        assert_eq!(service["spec"]["ports"][0]["port"], gateway.port);
        assert_eq!(template["spec"]["serviceAccountName"], gateway.service_account.as_str());
        assert_eq!(deployment["spec"]["replicas"], 2);
        // Other gateways' objects select `istio: ingressgateway`, and this is none of theirs.
        assert!(!["ingressgateway", "egressgateway"].contains(&labels["istio"].as_str().unwrap()), "{labels}");
    }
    assert_eq!(named(&objects, "Service", "wharf-ingressgateway")["spec"]["type"], "LoadBalancer");
    assert_eq!(named(&objects, "Service", "wharf-egressgateway")["spec"]["type"], "ClusterIP");
}

#[test]
fn a_gateways_connections_may_end_by_themselves_for_as_long_as_statuses_say() {
    for (values, seconds) in [(OWN, 45), (OWN_API, 60)] {
        let objects = rendered(values, &[]);
        assert_eq!(config(&objects).ingress.drain.as_secs(), seconds, "{values}");
        let (annotation, pod) = if values == OWN {
            let template = &named(&objects, "Deployment", "wharf-ingressgateway")["spec"]["template"];
            (template["metadata"]["annotations"]["proxy.istio.io/config"].clone(), template["spec"].clone())
        } else {
            let gateway = named(&objects, "Gateway", "wharf-ingressgateway");
            let overlay = named(&objects, "ConfigMap", "wharf-ingressgateway")["data"]["deployment"].clone();
            let overlay: Value = serde_saphyr::from_str(overlay.as_str().unwrap()).unwrap();
            let annotations = &gateway["spec"]["infrastructure"]["annotations"];
            (annotations["proxy.istio.io/config"].clone(), overlay["spec"]["template"]["spec"].clone())
        };
        let proxy: Value = serde_saphyr::from_str(annotation.as_str().unwrap()).unwrap();
        let drain = format!("{seconds}s");
        assert_eq!(proxy, json!({"drainDuration": drain, "terminationDrainDuration": drain}), "{values}");
        assert_eq!(pod["terminationGracePeriodSeconds"], seconds + 15, "{values}: Envoy drains before it is killed");
    }
}

#[test]
fn a_new_version_of_the_chart_restarts_no_gateway() {
    let objects = rendered(OWN, &[]);
    let template = named(&objects, "Deployment", "wharf-ingressgateway")["spec"]["template"].to_string();
    let managed = rendered(OWN_API, &[]);
    let overlay = named(&managed, "ConfigMap", "wharf-ingressgateway")["data"].to_string();
    let infrastructure = named(&managed, "Gateway", "wharf-ingressgateway")["spec"].to_string();
    for pods in [template, overlay, infrastructure] {
        assert!(!pods.contains(env!("CARGO_PKG_VERSION")) && !pods.contains("checksum"), "{pods}");
    }
}

#[test]
fn a_revision_runs_the_gateways_that_ask_for_it() {
    let injected = rendered(OWN, &["--set", "gateways.revision=canary"]);
    let template = &named(&injected, "Deployment", "wharf-egressgateway")["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["istio.io/rev"], "canary");
    let managed = rendered(OWN_API, &[]);
    assert_eq!(named(&managed, "Gateway", "wharf-egressgateway")["metadata"]["labels"]["istio.io/rev"], "canary");
}

#[test]
fn values_that_describe_a_gateway_of_others_are_refused_beside_own_ones() {
    for (value, wanted) in [
        ("ingress.service=front", "ingress.service: gateways.create makes this gateway"),
        ("ingress.drain=30s", "ingress.drain: gateways.create makes this gateway"),
        ("egress.gateway=out", "egress.gateway: gateways.create makes this gateway"),
        ("ingress.peering=true", "ingress.peering: gateways.create makes this gateway"),
        ("egress.serviceAccount=out", "gateways.egress.enabled=false"),
        ("ingress.namespace=gateways", "ingress.namespace: gateways.create puts this gateway into gateways.namespace"),
        ("gateways.namespace=wharf-system", "may read every Secret in it"),
        ("gateways.namespace=kube-public", "name another namespace"),
        ("gateways.create=Helm", "value must be one of"),
        ("gateways.drainSeconds=0", "minimum"),
        ("gateways.ingress.port=443", "additional properties 'port' not allowed"),
    ] {
        let said = template(OWN, &["--set", value]).failed();
        assert!(said.contains(wanted), "{value}: {said}");
    }
    // Of a gateway that the chart does not make, they count.
    template(OWN, &["--set", "gateways.egress.enabled=false,egress.service=out,egress.namespace=out"]).ok();
}

#[test]
fn nodes_are_listed_for_an_own_ingress_gateway_that_is_reached_there() {
    let lists_nodes = |more: &[&str]| {
        let objects = rendered(OWN, more);
        named(&objects, "ClusterRole", "wharf-cluster")["rules"].to_string().contains("nodes")
    };
    assert!(!lists_nodes(&[]));
    assert!(lists_nodes(&["--set", "gateways.ingress.service.type=NodePort"]));
}

#[test]
fn the_kustomization_with_own_gateways_is_the_chart_without_helm() {
    let mut there = by_name(kustomize(&path("kustomize/overlays/own-gateways")));
    there.retain(|key, _| !key.starts_with("CustomResourceDefinition ") && key != "Namespace /wharf-system");
    let wanted = by_name(rendered(OWN, &[]));
    assert_eq!(there.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (key, object) in wanted {
        assert_eq!(comparable(there[&key].clone()), comparable(object), "{key}");
    }
    let default = by_name(rendered(MINIMAL, &[]));
    assert!(!default.contains_key("Namespace /wharf-gateways"), "{:?}", default.keys());
}

/// The admission policy and the roles name the gateways' namespace, labels and Services: an agent with no other right shares services.
#[tokio::test]
async fn the_agent_shares_services_through_own_gateways_with_the_rights_of_the_chart() {
    let mut site = Site::beside(GATEWAYS, "wharf-ingressgateway", &["--set", "gateways.create=Deployment"]).await;
    site.peer.started().await;
    site.agent.started().await;
    site.share().await;
    site.shared().await;
    let like = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {}});
    let gateways = wait::until("Wharf's Gateways", || async {
        let found = site.here.list(&like).await;
        (!found.is_empty()).then_some(found)
    })
    .await;
    for gateway in gateways {
        let selected = gateway["spec"]["selector"]["istio"].as_str().unwrap_or_default().to_owned();
        assert!(gateway["metadata"]["namespace"] == GATEWAYS && selected.starts_with("wharf-"), "{gateway}");
    }
    assert!(site.agent.stop().0.success());
    let refused: Vec<_> = site.asked().into_iter().filter(|event| event["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
