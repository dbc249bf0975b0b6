//! Checks that the ingress gateway leads peers to this cluster's agent, where the configuration says so.
//!
//! If several servers have one TLS host on a port, istiod keeps that of the oldest Gateway, whatever namespace it is in
//! (`MergeGateways` and `CheckDuplicates` in pilot/pkg/model/gateway.go in Istio).

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use super::{CheckArea, Finding, LookResult};
use crate::model::OwnGateway;
use crate::peering::SERVER_NAME;

const CURE: &str = "let the chart write them: helm upgrade wharf deploy/chart --namespace wharf-system \
                    --reset-then-reuse-values, with gateways.create or ingress.peering=true";

/// Objects that may lead peers to the agent.
pub struct PeeringRouteFacts {
    /// Gateways of the group networking.istio.io that are not the agent's.
    pub gateways: LookResult<Vec<DynamicObject>>,
    pub routes: LookResult<Vec<DynamicObject>>,
}

/// A Gateway with a server for the name that peers send.
struct PeeringPass {
    /// Its age, and what decides among equals.
    rank: (String, String, String),
    leads_to_agent: bool,
}

impl PeeringPass {
    fn place(&self) -> String {
        format!("Gateway {}/{}", self.rank.2, self.rank.1)
    }
}

pub fn judge_peering_route(ingress: &OwnGateway, facts: &PeeringRouteFacts) -> Finding {
    let object = format!("server name {SERVER_NAME} at port {} of {}", ingress.port, ingress.host());
    let (gateways, routes) = match (&facts.gateways, &facts.routes) {
        (Ok(gateways), Ok(routes)) => (gateways.iter().flatten(), routes.as_deref().unwrap_or_default()),
        (Err(why), _) | (_, Err(why)) => return Finding::unseen(CheckArea::Gateways, object, why),
    };
    let mut servers: Vec<_> = gateways.filter_map(|gateway| read_server(gateway, ingress, routes)).collect();
    servers.sort_by(|a, b| a.rank.cmp(&b.rank));
    let Some(first) = servers.first() else {
        let message = "no Gateway passes it through, so that peers do not reach the agent there";
        return Finding::error(CheckArea::Gateways, object, message).with_cure(CURE);
    };
    if !first.leads_to_agent {
        let message = match servers.iter().any(|s| s.leads_to_agent) {
            true => format!(
                "{} is older than Wharf's and takes it, so that peers do not reach the agent there",
                first.place()
            ),
            false => {
                format!("{} takes it, and no VirtualService of its namespace leads it to the agent", first.place())
            }
        };
        return Finding::error(CheckArea::Gateways, object, message)
            .with_cure(format!("remove that server from {}, and {CURE}", first.place()));
    }
    match servers.get(1) {
        None => Finding::ok(CheckArea::Gateways, object, format!("{} leads peers to the agent", first.place())),
        Some(other) => {
            let message =
                format!("{} asks for it as well, and gets it if {} is made again", other.place(), first.place());
            Finding::warning(CheckArea::Gateways, object, message).with_cure("remove that server, or that Gateway")
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GatewayPart {
    selector: BTreeMap<String, String>,
    servers: Vec<Value>,
}

fn read_server(gateway: &DynamicObject, ingress: &OwnGateway, routes: &[DynamicObject]) -> Option<PeeringPass> {
    let spec: GatewayPart = serde_json::from_value(gateway.data["spec"].clone()).ok()?;
    let selects = spec.selector.iter().all(|(label, value)| ingress.selector.get(label) == Some(value));
    let server = spec.servers.iter().find(|server| selects && is_peering_server(server, ingress.port))?;
    let metadata = &gateway.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let made = metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    let passes = server["tls"]["mode"] == "PASSTHROUGH" && namespace == ingress.namespace.as_str();
    let leads_to_agent = passes && routes.iter().any(|route| leads_peers(route, &namespace, &name));
    Some(PeeringPass { rank: (made, name, namespace), leads_to_agent })
}

fn is_peering_server(server: &Value, port: u16) -> bool {
    let mut hosts = server["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    server["port"]["number"] == port && hosts.any(|host| host.rsplit('/').next() == Some(SERVER_NAME))
}

/// Returns whether a VirtualService leads what peers send at this Gateway somewhere.
fn leads_peers(route: &DynamicObject, namespace: &str, gateway: &str) -> bool {
    let spec = &route.data["spec"];
    let named = format!("{namespace}/{gateway}");
    let texts = |list: &Value, wanted: &[&str]| {
        let mut all = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        all.any(|text| wanted.contains(&text))
    };
    let matches =
        spec["tls"].as_array().into_iter().flatten().flat_map(|tls| tls["match"].as_array().into_iter().flatten());
    route.metadata.namespace.as_deref() == Some(namespace)
        && texts(&spec["gateways"], &[gateway, &named])
        && matches.into_iter().any(|found| texts(&found["sniHosts"], &[SERVER_NAME]))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::check::{Severity, UnseenReason};
    use crate::config::Config;

    fn ingress() -> OwnGateway {
        let text = "cluster: c\ningress: {namespace: doors, selector: {istio: door, zone: a}, peering: true}\n";
        Config::parse(text, "test", Path::new(".")).unwrap().ingress
    }

    /// A Gateway with one server that passes TLS through.
    fn gateway(namespace: &str, name: &str, made: &str, host: &str) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
            "metadata": {"namespace": namespace, "name": name, "creationTimestamp": made},
            "spec": {
                "selector": {"istio": "door"},
                "servers": [{"port": {"number": 15443, "name": "t", "protocol": "TLS"}, "hosts": [host], "tls": {"mode": "PASSTHROUGH"}}],
            },
        })
    }

    fn wharfs() -> Value {
        gateway("doors", "wharf-peering", "2026-02-01T00:00:00Z", &format!("./{SERVER_NAME}"))
    }

    fn route() -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"namespace": "doors", "name": "wharf-peering"},
            "spec": {
                "hosts": [SERVER_NAME], "gateways": ["wharf-peering"],
                "tls": [{"match": [{"port": 15443, "sniHosts": [SERVER_NAME]}], "route": [{"destination": {"host": "agent"}}]}],
            },
        })
    }

    fn judged(gateways: &[Value], routes: &[Value]) -> (Severity, String) {
        let read = |all: &[Value]| Ok(Some(all.iter().map(|o| serde_json::from_value(o.clone()).unwrap()).collect()));
        let finding =
            judge_peering_route(&ingress(), &PeeringRouteFacts { gateways: read(gateways), routes: read(routes) });
        (finding.severity, finding.message)
    }

    #[track_caller]
    fn is_told(found: (Severity, String), severity: Severity, part: &str) {
        assert!(found.0 == severity && found.1.contains(part), "{found:?}");
    }

    #[test]
    fn a_gateway_that_leads_peers_to_the_agent_is_good() {
        is_told(judged(&[wharfs()], &[route()]), Severity::Ok, "Gateway doors/wharf-peering leads peers to the agent");
    }

    #[test]
    fn a_server_name_that_leads_nowhere_is_told() {
        is_told(judged(&[], &[route()]), Severity::Error, "no Gateway passes it through");
        is_told(judged(&[wharfs()], &[]), Severity::Error, "no VirtualService of its namespace");
        let mut other = wharfs();
        other["spec"]["servers"][0]["port"]["number"] = json!(443);
        is_told(judged(&[other], &[route()]), Severity::Error, "no Gateway passes it through");
        let mut elsewhere = wharfs();
        elsewhere["spec"]["selector"] = json!({"istio": "another"});
        is_told(judged(&[elsewhere], &[route()]), Severity::Error, "no Gateway passes it through");
    }

    #[test]
    fn a_gateway_of_somebody_else_that_takes_the_name_of_peering_is_told() {
        let older = gateway("shop", "mine", "2026-01-01T00:00:00Z", SERVER_NAME);
        is_told(judged(&[wharfs(), older], &[route()]), Severity::Error, "Gateway shop/mine is older than Wharf's");
        let newer = gateway("shop", "mine", "2026-03-01T00:00:00Z", &format!("*/{SERVER_NAME}"));
        is_told(
            judged(&[newer.clone(), wharfs()], &[route()]),
            Severity::Warning,
            "Gateway shop/mine asks for it as well",
        );
        is_told(judged(&[newer], &[route()]), Severity::Error, "Gateway shop/mine takes it");
        let mut opens = wharfs();
        opens["spec"]["servers"][0]["tls"] = json!({"mode": "SIMPLE", "credentialName": "mine"});
        is_told(judged(&[opens], &[route()]), Severity::Error, "takes it");
    }

    #[test]
    fn names_that_others_use_at_the_gateway_are_no_matter_of_peering() {
        let others = [
            gateway("shop", "wide", "2026-01-01T00:00:00Z", "*"),
            gateway("shop", "near", "2026-01-01T00:00:00Z", "shop.wharf.invalid"),
        ];
        is_told(judged(&[&others[..], &[wharfs()]].concat(), &[route()]), Severity::Ok, "leads peers");
    }

    #[test]
    fn what_cannot_be_seen_is_not_called_good() {
        let facts = PeeringRouteFacts { gateways: Err(UnseenReason::Forbidden("no".into())), routes: Ok(None) };
        assert_eq!(judge_peering_route(&ingress(), &facts).severity, Severity::Unchecked);
    }
}
