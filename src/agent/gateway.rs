//! Where other clusters reach this one's ingress gateway: what its Service says of itself. Pure.
//!
//! A load balancer's addresses count, all of them, as they are: a host name stays a host name, so that its addresses may
//! change. A Service of the type NodePort is reached at the nodes. (Kubernetes, "Service", "Publishing Services".)

use k8s_openapi::api::core::v1::Service;

use crate::model::{Address, Gateway, GatewayAddress};

/// Nodes that are told to other clusters at most: any of them leads to the gateway.
const NODES: usize = 8;

/// The addresses of a gateway, sorted; or why there is none, and what to do.
pub fn addresses(
    gateway: &Gateway,
    service: Option<&Service>,
    nodes: &[Address],
) -> Result<Vec<GatewayAddress>, String> {
    let name = format!("Service {}/{}", gateway.namespace, gateway.service);
    let instead = "or name where it is reached, in the configuration's ingress.address";
    let service = service.ok_or_else(|| format!("{name}: there is none; install the ingress gateway, {instead}"))?;
    let spec = service.spec.as_ref();
    let port = spec.and_then(|s| s.ports.as_ref()).into_iter().flatten().find(|p| p.port == i32::from(gateway.port));
    let port = port.ok_or_else(|| {
        let wanted = gateway.port;
        format!("{name}: spec.ports: there is no port {wanted}; add it, or name the port in the configuration's ingress.port")
    })?;
    let at = |address: Address, port: u16| GatewayAddress { address, port, locality: gateway.locality.clone() };
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let named = balancer.into_iter().flatten().filter_map(|i| i.ip.as_ref().or(i.hostname.as_ref())?.parse().ok());
    let mut found: Vec<_> = named.map(|address| at(address, gateway.port)).collect();
    let kind = spec.and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP");
    if found.is_empty() && kind == "NodePort" {
        let node_port = port.node_port.and_then(|p| u16::try_from(p).ok());
        let node_port =
            node_port.ok_or_else(|| format!("{name}: spec.ports: port {} has no nodePort yet", port.port))?;
        found = nodes.iter().take(NODES).map(|address| at(address.clone(), node_port)).collect();
    }
    found.sort_unstable();
    found.dedup();
    match (found.is_empty(), kind) {
        (false, _) => Ok(found),
        (true, "LoadBalancer") => {
            Err(format!("{name}: status.loadBalancer: it has no address yet; wait for it, {instead}"))
        }
        (true, "NodePort") => Err(format!("{name}: no address of a node is known (rights to list nodes?); {instead}")),
        (true, kind) => {
            Err(format!("{name}: spec.type: {kind} is not reached from outside; make it LoadBalancer, {instead}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn gateway() -> Gateway {
        Gateway {
            namespace: "edge".parse().unwrap(),
            service: "ingress".parse().unwrap(),
            selector: Default::default(),
            port: 15443,
            service_account: "ingress".into(),
            locality: Some("north/a".into()),
            addresses: Vec::new(),
            drain: Gateway::DRAIN,
        }
    }

    fn of(spec: Value, status: Value, nodes: &[&str]) -> Result<Vec<String>, String> {
        let service: Service = serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap();
        let nodes: Vec<_> = nodes.iter().map(|n| n.parse().unwrap()).collect();
        let found = addresses(&gateway(), Some(&service), &nodes)?;
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
    fn a_node_port_is_reached_at_the_nodes() {
        let spec = json!({"type": "NodePort", "ports": [{"port": 15443, "nodePort": 31000}]});
        assert_eq!(of(spec.clone(), json!({}), &["192.0.2.1", "192.0.2.2"]).unwrap()[1], "192.0.2.2:31000");
        assert!(of(spec, json!({}), &[]).unwrap_err().contains("ingress.address"));
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        assert!(addresses(&gateway(), None, &[]).unwrap_err().contains("Service edge/ingress: there is none"));
        let closed = of(json!({"type": "LoadBalancer", "ports": [{"port": 443}]}), json!({}), &[]).unwrap_err();
        assert!(closed.contains("15443") && closed.contains("ingress.port"), "{closed}");
        let inside = of(json!({"ports": [{"port": 15443}]}), json!({}), &[]).unwrap_err();
        assert!(inside.contains("ClusterIP is not reached"), "{inside}");
    }
}
