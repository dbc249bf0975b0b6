//! Finds the address of this cluster's ingress gateway for other clusters, in its Service. Pure.
//!
//! All addresses of a load balancer count, unchanged: a host name stays a host name, so that its addresses may change.
//! A Service of the type NodePort is reached at the nodes. (Kubernetes, "Service", "Publishing Services".)

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::api::{Condition, ConditionStatus, set_condition};
use crate::model::{Address, DoubtKind, GatewayAddress, GatewayDoubt, OwnGateway};

/// Type of the condition that is present only while a gateway is known to be unfit.
pub const GATEWAY_USABLE: &str = "GatewayUsable";

/// Most nodes that other clusters learn of: any of them leads to the gateway.
const NODES: usize = 8;

/// A gateway's Service, as far as it is known.
#[derive(Debug, Clone)]
pub enum GatewaySight<'a> {
    Seen(&'a Service),
    Missing,
    /// The Service is not in the folder, which need not hold it.
    Untold,
    /// The Service may exist, and cannot be read, for this reason.
    Unread(String),
}

/// Builds a doubt about a gateway's Service.
fn build_doubt(kind: DoubtKind, gateway: &OwnGateway, message: &str, cure: impl Into<String>) -> GatewayDoubt {
    let message = format!("Service {}/{}: {message}", gateway.namespace, gateway.service);
    GatewayDoubt { kind, message, cure: cure.into() }
}

/// The command by which the chart brings gateways of Wharf's own.
pub const OWN_GATEWAYS: &str = "helm upgrade wharf deploy/chart --namespace wharf-system --reset-then-reuse-values \
                                --set gateways.create=Deployment";

/// Returns the command that adds the port of Wharf's servers to a gateway's Service.
///
/// istiod writes the Service of a Gateway of the Gateway API with the ports of its listeners: there it takes a listener,
/// which answers to a name that nobody has and stands beside Wharf's servers.
pub fn port_patch(gateway: &OwnGateway) -> String {
    let OwnGateway { namespace, service, port, .. } = gateway;
    if let Some(name) = gateway.managed_name() {
        let value = format!(
            r#"{{"name":"tls-wharf","port":{port},"protocol":"TLS","hostname":"wharf.invalid","tls":{{"mode":"Passthrough"}}}}"#
        );
        let patch = format!(r#"[{{"op":"add","path":"/spec/listeners/-","value":{value}}}]"#);
        return format!(
            "kubectl -n {namespace} patch gateways.gateway.networking.k8s.io {name} --type=json -p '{patch}'"
        );
    }
    let value = format!(r#"{{"name":"tls-wharf","port":{port},"targetPort":{port}}}"#);
    let patch = format!(r#"[{{"op":"add","path":"/spec/ports/-","value":{value}}}]"#);
    format!("kubectl -n {namespace} patch service {service} --type=json -p '{patch}'")
}

/// Finds the gateway's port in its Service. `key`: the gateway in the configuration.
fn find_port<'a>(key: &str, gateway: &OwnGateway, service: &'a Service) -> Result<&'a ServicePort, GatewayDoubt> {
    let wanted = gateway.port;
    let ports: Vec<_> = service.spec.iter().flat_map(|s| s.ports.iter().flatten()).collect();
    if let Some(port) = ports.iter().find(|p| p.port == i32::from(wanted)) {
        return Ok(port);
    }
    let has: Vec<_> = ports.iter().map(|p| p.port.to_string()).collect();
    let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
    let message = format!("spec.ports: there is no port {wanted}, where Wharf's servers are (it has {has})");
    let cure = format!("add it ({}), or name another port in the configuration's {key}.port", port_patch(gateway));
    Err(build_doubt(DoubtKind::PortMissing, gateway, &message, cure))
}

/// Returns the reason why the egress gateway cannot take calls, if there is one.
pub fn doubt_egress(gateway: &OwnGateway, service: &GatewaySight<'_>) -> Option<GatewayDoubt> {
    match service {
        GatewaySight::Seen(service) => find_port("egress", gateway, service).err(),
        GatewaySight::Missing => {
            let cure = format!(
                "let the chart bring gateways of Wharf's own ({OWN_GATEWAYS}), install the egress gateway, name it in the \
                 configuration's egress.service, or use the style DIRECT_INGRESS"
            );
            let message = "there is none, and this cluster's calls go through it";
            Some(build_doubt(DoubtKind::Missing, gateway, message, cure))
        }
        GatewaySight::Untold | GatewaySight::Unread(_) => None,
    }
}

/// Adds or removes the condition about a gateway's known fault.
pub fn set_doubt_condition(
    conditions: &mut Vec<Condition>,
    doubt: Option<&GatewayDoubt>,
    generation: Option<i64>,
    now: &str,
) {
    match doubt {
        None => conditions.retain(|c| c.type_ != GATEWAY_USABLE),
        Some(doubt) => {
            let mut condition = Condition::new(GATEWAY_USABLE, false, doubt.kind.reason(), doubt.to_string());
            // Other clusters still get the last known address, which may come back; an assumed account may be another.
            if doubt.kind.is_uncertain() {
                condition.status = ConditionStatus::Unknown;
            }
            set_condition(conditions, condition, generation, now);
        }
    }
}

/// Returns the addresses of a gateway, sorted, or the reason why there is none, with a cure.
pub fn find_addresses(
    gateway: &OwnGateway,
    service: &GatewaySight<'_>,
    nodes: &[Address],
) -> Result<Vec<GatewayAddress>, GatewayDoubt> {
    let instead = "or name where it is reached, in the configuration's ingress.address";
    let unreached =
        |message: &str, cure: &str| build_doubt(DoubtKind::NoAddress, gateway, message, format!("{cure}, {instead}"));
    let service = match service {
        GatewaySight::Seen(service) => service,
        GatewaySight::Missing => {
            let cure =
                format!("let the chart bring gateways of Wharf's own ({OWN_GATEWAYS}), install the ingress gateway");
            return Err(unreached("there is none", &cure));
        }
        GatewaySight::Untold => {
            return Err(unreached("no file of the folder has it", "put it there, with its status"));
        }
        GatewaySight::Unread(why) => return Err(unreached(why, "correct that")),
    };
    let spec = service.spec.as_ref();
    let port = find_port("ingress", gateway, service)?;
    let at = |address: Address, port: u16| GatewayAddress { address, port, locality: gateway.locality.clone() };
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let named = balancer.into_iter().flatten().filter_map(|i| i.ip.as_ref().or(i.hostname.as_ref())?.parse().ok());
    let mut found: Vec<_> = named.map(|address| at(address, gateway.port)).collect();
    let kind = spec.and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP");
    if found.is_empty() && kind == "NodePort" {
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok());
        let node_port = node_port
            .ok_or_else(|| unreached(&format!("spec.ports: port {} has no nodePort yet", port.port), "wait for it"))?;
        found = nodes.iter().take(NODES).map(|address| at(address.clone(), node_port)).collect();
    }
    found.sort_unstable();
    found.dedup();
    match (found.is_empty(), kind) {
        (false, _) => Ok(found),
        (true, "LoadBalancer") => Err(unreached("status.loadBalancer: it has no address yet", "wait for it")),
        (true, "NodePort") => Err(unreached("no address of a node is known", "give the agent the right to list nodes")),
        (true, kind) => {
            Err(unreached(&format!("spec.type: {kind} is not reached from outside"), "make it a LoadBalancer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn gateway() -> OwnGateway {
        OwnGateway {
            namespace: "edge".parse().unwrap(),
            service: "ingress".parse().unwrap(),
            selector: Default::default(),
            port: 15443,
            service_account: "ingress".into(),
            account_configured: false,
            locality: Some("north/a".into()),
            addresses: Vec::new(),
            drain: OwnGateway::DRAIN,
        }
    }

    fn of(spec: Value, status: Value, nodes: &[&str]) -> Result<Vec<String>, String> {
        let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap();
        let nodes: Vec<_> = nodes.iter().map(|n| n.parse().unwrap()).collect();
        let found =
            find_addresses(&gateway(), &GatewaySight::Seen(&service), &nodes).map_err(|doubt| doubt.to_string())?;
        assert!(found.iter().all(|a| a.locality.as_deref() == Some("north/a")), "they are where the gateway is");
        Ok(found.iter().map(|a| format!("{}:{}", a.address, a.port)).collect())
    }

    #[test]
    fn all_addresses_of_the_load_balancer_count_and_names_stay_names() {
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 443}, {"port": 15443, "nodePort": 31000}]});
        let ingress = json!([{"hostname": "lb.example.net"}, {"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]);
        let found = of(spec.clone(), json!({"loadBalancer": {"ingress": ingress}}), &["192.0.2.1"]).unwrap();
        assert_eq!(found, ["192.0.2.7:15443", "2001:db8::7:15443", "lb.example.net:15443"]);
        assert!(of(spec, json!({}), &["192.0.2.1"]).unwrap_err().contains("no address yet"));
    }

    #[test]
    fn an_egress_gateway_without_the_port_or_that_is_not_there_is_doubted() {
        let service =
            |port: u16| serde_json::from_value(json!({"metadata": {}, "spec": {"ports": [{"port": port}]}})).unwrap();
        let kind = |service: GatewaySight<'_>| doubt_egress(&gateway(), &service).map(|d| d.kind);
        assert_eq!(kind(GatewaySight::Seen(&service(15443))), None);
        assert_eq!(kind(GatewaySight::Seen(&service(443))), Some(DoubtKind::PortMissing));
        assert_eq!(kind(GatewaySight::Missing), Some(DoubtKind::Missing));
        assert_eq!(kind(GatewaySight::Untold), None, "a folder need not hold it");
        assert_eq!(kind(GatewaySight::Unread("torn".into())), None, "it may be there");
    }

    #[test]
    fn the_port_of_a_gateway_that_istiod_makes_is_added_to_its_listeners() {
        let selector = [(OwnGateway::NAME_LABEL.to_owned(), "public".to_owned())].into();
        let managed = OwnGateway { service: "public-istio".parse().unwrap(), selector, ..gateway() };
        let service = serde_json::from_value(json!({"metadata": {}, "spec": {"ports": [{"port": 443}]}})).unwrap();
        let doubt = doubt_egress(&managed, &GatewaySight::Seen(&service)).unwrap().to_string();
        let (_, patch) = doubt
            .split_once("kubectl -n edge patch gateways.gateway.networking.k8s.io public --type=json -p '")
            .unwrap();
        let patch: Value = serde_json::from_str(patch.split('\'').next().unwrap()).unwrap();
        let listener = json!({
            "name": "tls-wharf", "port": 15443, "protocol": "TLS", "hostname": "wharf.invalid", "tls": {"mode": "Passthrough"},
        });
        assert_eq!(patch, json!([{"op": "add", "path": "/spec/listeners/-", "value": listener}]));
    }

    #[test]
    fn a_gateway_that_is_not_there_is_brought_by_one_command() {
        let egress = doubt_egress(&gateway(), &GatewaySight::Missing).unwrap().to_string();
        let ingress = find_addresses(&gateway(), &GatewaySight::Missing, &[]).unwrap_err().to_string();
        assert!(egress.contains(OWN_GATEWAYS) && ingress.contains(OWN_GATEWAYS), "{egress}; {ingress}");
    }

    #[test]
    fn a_node_port_is_reached_at_the_nodes() {
        let spec = json!({"type": "NodePort", "ports": [{"port": 15443, "nodePort": 31000}]});
        assert_eq!(of(spec.clone(), json!({}), &["192.0.2.1", "192.0.2.2"]).unwrap()[1], "192.0.2.2:31000");
        assert!(of(spec, json!({}), &[]).unwrap_err().contains("ingress.address"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let why = |sight: GatewaySight<'_>| find_addresses(&gateway(), &sight, &[]).unwrap_err().to_string();
        let none = why(GatewaySight::Missing);
        assert!(none.contains("Service edge/ingress: there is none"), "{none}");
        let unread = why(GatewaySight::Unread("it cannot be read: torn".into()));
        assert!(unread.contains("Service edge/ingress: it cannot be read: torn"), "{unread}");
        let untold = why(GatewaySight::Untold);
        assert!(!untold.contains("there is none") && untold.contains("the folder"), "{untold}");
        let closed = of(json!({"type": "LoadBalancer", "ports": [{"port": 443}]}), json!({}), &[]).unwrap_err();
        assert!(closed.contains("15443") && closed.contains("ingress.port"), "{closed}");
        let line = "kubectl -n edge patch service ingress --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/ports/-\",";
        assert!(closed.contains(line) && closed.contains("it has 443"), "{closed}");
        let inside = of(json!({"ports": [{"port": 15443}]}), json!({}), &[]).unwrap_err();
        assert!(inside.contains("ClusterIP is not reached"), "{inside}");
    }
}
