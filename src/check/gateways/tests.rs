use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::check::{Severity, UnseenReason};
use crate::config::Config;

fn gateway(more: &str) -> OwnGateway {
    let text = format!("cluster: c\ningress: {{{more}}}\n");
    Config::parse(&text, "test", Path::new(".")).unwrap().ingress
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn service(spec: Value, status: Value) -> Service {
    read(json!({"metadata": {"name": "istio-ingressgateway"}, "spec": spec, "status": status}))
}

fn balancer() -> Service {
    service(
        json!({"type": "LoadBalancer", "selector": {"istio": "ingressgateway"}, "ports": [{"port": 15443}]}),
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "gw.example"}]}}),
    )
}

fn pod(labels: Value, account: &str) -> Pod {
    read(json!({"metadata": {"labels": labels}, "spec": {"serviceAccountName": account, "containers": []}}))
}

fn good() -> GatewayFacts {
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
    GatewayFacts {
        service: Ok(Some(balancer())),
        pods: Ok(Some(vec![pod(json!({"istio": "ingressgateway"}), "istio-ingressgateway")])),
        slices: Ok(Some(vec![read(slice)])),
        nodes: Ok(None),
    }
}

/// The findings that are not ok.
fn bad(gateway: &OwnGateway, facts: &GatewayFacts) -> Vec<(Severity, String)> {
    let findings = judge_gateway(GatewaySide::Ingress, gateway, facts);
    findings.into_iter().filter(|f| f.severity != Severity::Ok).map(|f| (f.severity, f.message)).collect()
}

#[track_caller]
fn is_error(facts: &GatewayFacts, gateway_text: &str, message: &str) {
    let bad = bad(&gateway(gateway_text), facts);
    assert!(bad.len() == 1 && bad[0].0 == Severity::Error && bad[0].1.contains(message), "{bad:?}");
}

#[test]
fn a_gateway_that_works_has_nothing_to_complain_about() {
    assert_eq!(bad(&gateway(""), &good()), []);
    let at = judge_gateway(GatewaySide::Ingress, &gateway(""), &good());
    assert!(at.iter().any(|f| f.message.contains("192.0.2.1, gw.example")), "{at:?}");
}

#[test]
fn a_service_that_is_missing_or_lacks_the_port_is_an_error() {
    is_error(&GatewayFacts { service: Ok(None), ..good() }, "", "is not there");
    is_error(&good(), "port: 443", "no port 443");
}

#[test]
fn an_address_that_others_cannot_know_is_an_error() {
    let with = |spec: Value, status: Value| GatewayFacts { service: Ok(Some(service(spec, status))), ..good() };
    let ports = json!([{"port": 15443}]);
    let selector = json!({"istio": "ingressgateway"});
    let pending = json!({"type": "LoadBalancer", "ports": ports, "selector": selector});
    is_error(&with(pending.clone(), json!({})), "", "no address yet");
    let inner = json!({"type": "ClusterIP", "ports": ports, "selector": selector});
    is_error(&with(inner.clone(), json!({})), "", "ClusterIP");
    for spec in [pending, inner] {
        assert_eq!(bad(&gateway("address: 192.0.2.9"), &with(spec, json!({}))), []);
    }
}

#[test]
fn a_node_port_needs_nodes_that_have_addresses() {
    let ports = json!([{"port": 15443, "nodePort": 31443}]);
    let spec = json!({"type": "NodePort", "ports": ports, "selector": {"istio": "ingressgateway"}});
    let node = read::<Node>(json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]}}));
    let with = |nodes| GatewayFacts { service: Ok(Some(service(spec.clone(), json!({})))), nodes, ..good() };
    assert_eq!(bad(&gateway(""), &with(Ok(Some(vec![node])))), []);
    is_error(&with(Ok(Some(Vec::new()))), "", "no node has an address");
    let unseen = bad(&gateway(""), &with(Err(UnseenReason::Forbidden("no".into()))));
    assert_eq!(unseen[0].0, Severity::Unchecked);
}

#[test]
fn pods_that_nobody_selects_are_an_error() {
    is_error(&GatewayFacts { pods: Ok(Some(Vec::new())), ..good() }, "", "there are none");
    let other = pod(json!({"istio": "ingressgateway"}), "istio-ingressgateway");
    let elsewhere = GatewayFacts {
        service: Ok(Some(service(
            json!({"type": "LoadBalancer", "selector": {"app": "other"}, "ports": [{"port": 15443}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
        ))),
        pods: Ok(Some(vec![other])),
        ..good()
    };
    is_error(&elsewhere, "", "leads to other pods");
    let down =
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]});
    is_error(&GatewayFacts { slices: Ok(Some(vec![read(down)])), ..good() }, "", "no call arrives");
}

#[test]
fn a_service_account_that_is_another_is_an_error() {
    let facts = GatewayFacts { pods: Ok(Some(vec![pod(json!({"istio": "ingressgateway"}), "edge")])), ..good() };
    is_error(&facts, "", "service account is edge");
    assert_eq!(bad(&gateway("serviceAccount: edge"), &facts), []);
}

#[test]
fn what_may_not_be_seen_is_never_ok() {
    let forbidden = || UnseenReason::Forbidden("no".into());
    let facts =
        GatewayFacts { service: Err(forbidden()), pods: Err(forbidden()), slices: Err(forbidden()), nodes: Ok(None) };
    let findings = judge_gateway(GatewaySide::Egress, &gateway(""), &facts);
    assert!(!findings.is_empty() && findings.iter().all(|f| f.severity == Severity::Unchecked), "{findings:?}");
}

#[test]
fn a_secret_that_istiod_keeps_from_a_gateway_is_an_error_only_where_its_account_is_known() {
    let denied = || Ok(AccountAnswer::Denied(vec!["door".to_owned()]));
    let judge = |more: &str, seen, answer| judge_secret(&gateway(more), seen, "wharf-identity", answer);
    let known = judge("", Some("door"), denied());
    assert_eq!((known.severity, known.object.as_str()), (Severity::Error, "ServiceAccount istio-system/door"));
    assert!(known.message.contains("istiod keeps the Secret wharf-identity"), "{known:?}");
    assert!(known.cure.contains("kubectl -n istio-system create rolebinding door-sds"), "{known:?}");
    assert_eq!(judge("serviceAccount: door", None, denied()).severity, Severity::Error);
    assert_eq!(judge("", None, denied()).severity, Severity::Warning, "its pods may have another account");
    assert_eq!(judge("", None, Ok(AccountAnswer::NoAccount)).severity, Severity::Unchecked);
    assert_eq!(judge("", None, Err(ReviewError::Refused("no right".into()))).severity, Severity::Unchecked);
    assert_eq!(judge("", Some("door"), Ok(AccountAnswer::Readable)).severity, Severity::Ok);
}
