//! Ports as Istio reads them, and what a VirtualService says of each.

use serde_json::{Value, json};

use super::build::*;
use crate::api::Kind;
use crate::translate::ProblemReason;

/// What an entry with this VirtualService comes to, for a Service `hub` with these ports.
fn hub(ports: Value, spec: Value) -> Result<Vec<Value>, String> {
    let mut inventory = shop();
    inventory.set_object(service("shop", "hub", ports));
    inventory.set_object(routes("shop", "hub", spec));
    let out = exposed(json!([{"name": "hub", "virtualService": "hub"}]), &inventory, &harbor());
    if let Some(problem) = &out.entries[0].problem {
        assert_eq!(problem.reason, ProblemReason::VirtualServiceUnusable, "{problem}");
        assert!(out.objects.is_empty());
        return Err(problem.line());
    }
    let written = out.objects.iter().filter(|o| o.kind() == Kind::VirtualService);
    Ok(written.map(|o| serde_json::to_value(o).unwrap()["spec"].take()).collect())
}

fn to_hub() -> Value {
    json!([{"destination": {"host": "hub"}}])
}

#[test]
fn a_suffix_of_app_protocol_says_nothing_of_the_protocol() {
    for (app, protocol) in [
        ("http-web", "HTTP"),
        ("grpc-web-text", "HTTP2"),
        ("http2-a-b", "HTTP2"),
        ("grpc-a", "GRPC"),
        ("mysql-a", "TCP"),
    ] {
        let mut inventory = shop();
        inventory.set_object(service("shop", "hub", json!([{"name": "web", "port": 80, "appProtocol": app}])));
        let out = exposed(json!([{"name": "hub"}]), &inventory, &harbor());
        let offered = &out.offers[0].to[&cluster("isle")];
        assert_eq!(offered.ports[0].protocol.as_str(), protocol, "{app}");
        assert!(!out.entries[0].status.message.contains("does not say"), "{app}");
    }
}

#[test]
fn a_tcp_port_that_is_udp_to_istio_is_not_exposed() {
    let mut inventory = shop();
    let ports = json!([{"name": "udp-feed", "port": 70}, {"name": "http", "port": 80}]);
    inventory.set_object(service("shop", "hub", ports));
    let out = exposed(json!([{"name": "hub"}, {"name": "hub", "alias": "feed", "port": 70}]), &inventory, &harbor());
    assert_eq!(out.offers[0].to[&cluster("isle")].ports.len(), 1);
    let problem = out.entries[1].problem.clone().unwrap();
    assert!(problem.line().contains("port 70 of hub is UDP to Istio"), "{problem}");
}

#[test]
fn routes_for_one_port_leave_every_other_kind_of_port_plain() {
    let ports = json!([{"name": "http", "port": 80}, {"name": "tcp", "port": 90}, {"name": "tls", "port": 443}, {"name": "web", "port": 81}]);
    let http = json!([{"match": [{"port": 80}], "timeout": "3s", "route": to_hub()}]);
    let told = hub(ports, json!({"hosts": ["hub"], "http": http})).unwrap();
    let with = |text: &str| told.iter().filter(|spec| spec.to_string().contains(text)).count();
    assert_eq!((told.len(), with("\"timeout\":\"3s\""), with("\"tcp\":")), (4, 1, 3));
    for number in [80, 81, 90, 443] {
        assert_eq!(with(&format!("\"port\":{{\"number\":{number}}}")), 1, "{number}");
    }
}

#[test]
fn tls_routes_concern_ports_that_speak_tls_and_no_others() {
    let both = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let spec = |port: Value| {
        let one = json!({"match": [{"sniHosts": ["hub"], "port": port}], "route": to_hub()});
        json!({"hosts": ["hub"], "http": [{"match": [{"port": 80}], "timeout": "3s", "route": to_hub()}], "tls": [one]})
    };
    for port in [json!(443), Value::Null] {
        let told = hub(both.clone(), spec(port)).unwrap_err();
        assert!(told.contains("hub: tls[0]: "), "{told}");
    }
    // Inside the mesh nobody follows this one: the port speaks HTTP.
    assert_eq!(hub(both, spec(json!(80))).unwrap().len(), 2);
    assert_eq!(hub(json!([{"name": "http", "port": 80}]), spec(Value::Null)).unwrap().len(), 1);
}

#[test]
fn tcp_routes_do_not_hold_for_ports_that_speak_tls() {
    let tcp = json!([{"route": [{"destination": {"host": "ledger", "port": {"number": 5000}}}]}]);
    let ports = json!([{"name": "tcp", "port": 90}, {"name": "tls", "port": 443}]);
    let told = hub(ports, json!({"hosts": ["hub"], "tcp": tcp})).unwrap();
    let leading = |host: &str| told.iter().filter(|spec| spec["tcp"].to_string().contains(host)).count();
    assert_eq!((leading("ledger.shop.svc"), leading("hub.shop.svc")), (1, 1), "the TLS port goes where it went");
    let told = hub(json!([{"name": "tls", "port": 443}]), json!({"hosts": ["hub"], "tcp": tcp})).unwrap_err();
    assert!(told.contains("no route is for calls of port 443"), "{told}");
}

#[test]
fn short_hosts_of_a_virtual_service_are_read_as_istiod_reads_them() {
    let http = json!([{"name": "http", "port": 80}]);
    let leading_to = |host: &str| json!({"hosts": ["hub"], "http": [{"route": [{"destination": {"host": host}}]}]});
    for host in ["hub.shop", "hub.shop.svc", "HUB"] {
        let told = hub(http.clone(), leading_to(host)).unwrap_err();
        assert!(told.contains("http[0].route[0].destination: "), "{host}: {told}");
    }
    for host in ["hub", "hub.shop.svc.cluster.local"] {
        hub(http.clone(), leading_to(host)).unwrap();
    }
    let about = |host: &str| json!({"hosts": [host], "http": [{"route": to_hub()}]});
    for host in ["hub.shop", "hub.shop.svc"] {
        let told = hub(http.clone(), about(host)).unwrap_err();
        assert!(told.contains("is not about hub") && told.contains("hub.shop.svc.cluster.local"), "{host}: {told}");
    }
    for host in ["HUB", "Hub.Shop.svc.cluster.local", "*.shop.svc.cluster.local"] {
        hub(http.clone(), about(host)).unwrap();
    }
}

#[test]
fn a_destination_without_a_port_is_the_only_one_or_the_one_that_was_called() {
    let http = |ports: Value, host: &str| {
        hub(ports, json!({"hosts": ["hub"], "http": [{"route": [{"destination": {"host": host}}]}]}))
    };
    let number = |told: Vec<Value>| told[0]["http"][1]["route"][0]["destination"]["port"]["number"].clone();
    let one = |port: i32| json!([{"name": "http", "port": port}]);
    assert_eq!(number(http(one(80), "till").unwrap()), 8080, "the till has but one");
    assert_eq!(number(http(one(9000), "ledger").unwrap()), 9000, "the port that was called");
    let told = http(one(80), "ledger").unwrap_err();
    assert!(told.contains("the Service ledger has no TCP port 80"), "{told}");
    let told = http(one(53), "ledger").unwrap_err();
    assert!(told.contains("the Service ledger has no TCP port 53"), "UDP is no way: {told}");
}

/// No API server has such a Service; a file may.
#[test]
fn two_ports_of_one_number_are_exposed_once() {
    let mut inventory = shop();
    let ports = json!([{"name": "http-a", "port": 80}, {"name": "http-b", "port": 80}, {"name": "dns", "port": 80, "protocol": "UDP"}]);
    inventory.set_object(service("shop", "hub", ports));
    let out = exposed(json!([{"name": "hub"}]), &inventory, &harbor());
    assert_eq!(out.offers[0].to[&cluster("isle")].ports.len(), 1);
    assert_eq!(out.objects.iter().filter(|o| o.kind() == Kind::VirtualService).count(), 1);
    assert!(out.entries[0].notes.iter().any(|note| note.contains("left out: 80 (UDP)")));
}
