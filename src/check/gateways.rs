//! Checks the gateways: that they exist, that calls arrive at them, and that others know their addresses.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{CheckArea, Finding, LookResult};
use crate::agent::accounts::{AccountAnswer, describe_denial};
use crate::agent::gateway::{OWN_GATEWAYS, port_patch};
use crate::model::OwnGateway;
use crate::store::kube::review::ReviewError;

/// One of the two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewaySide {
    /// The gateway where other clusters' calls come in.
    Ingress,
    Egress,
}

impl GatewaySide {
    /// Returns the gateway's key in the configuration.
    fn config_key(self) -> &'static str {
        match self {
            GatewaySide::Ingress => "ingress",
            GatewaySide::Egress => "egress",
        }
    }
}

/// The observed state of a gateway.
pub struct GatewayFacts {
    pub service: LookResult<Service>,
    /// Pods with the labels of the configuration's selector.
    pub pods: LookResult<Vec<Pod>>,
    /// EndpointSlices of the Service.
    pub slices: LookResult<Vec<EndpointSlice>>,
    /// Read only if calls come through the nodes.
    pub nodes: LookResult<Vec<Node>>,
}

pub fn judge_gateway(side: GatewaySide, gateway: &OwnGateway, facts: &GatewayFacts) -> Vec<Finding> {
    let object = format!("Service {}/{}", gateway.namespace, gateway.service);
    let mut findings = Vec::new();
    match &facts.service {
        Err(why) => findings.push(Finding::unseen(CheckArea::Gateways, &object, why)),
        Ok(None) => {
            let key = side.config_key();
            findings.push(Finding::error(CheckArea::Gateways, &object, format!("the {key} gateway's Service is not there")).with_cure(
                format!("let the chart bring gateways of Wharf's own ({OWN_GATEWAYS}), install the gateway, or say in the configuration which it is: {key}.namespace and {key}.service, or {key}.gateway"),
            ));
        }
        Ok(Some(service)) => {
            findings.push(judge_port(side, gateway, &object, service));
            if side == GatewaySide::Ingress {
                findings.push(judge_address(gateway, &object, service, &facts.nodes));
            }
            findings.push(judge_endpoints(&object, &facts.slices));
        }
    }
    findings.extend(judge_pods(side, gateway, facts));
    findings
}

fn judge_port(side: GatewaySide, gateway: &OwnGateway, object: &str, service: &Service) -> Finding {
    let ports: Vec<i32> = service.spec.iter().flat_map(|s| s.ports.iter().flatten()).map(|p| p.port).collect();
    let wanted = gateway.port;
    if ports.contains(&i32::from(wanted)) {
        return Finding::ok(CheckArea::Gateways, object, format!("it has port {wanted}"));
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let has = if ports.is_empty() { "none".into() } else { ports.join(", ") };
    let message = format!("it has no port {wanted}, where Wharf's servers are (it has {has})");
    let key = side.config_key();
    Finding::error(CheckArea::Gateways, object, message)
        .with_cure(format!("add it ({}), or set {key}.port to one that it has and nobody uses", port_patch(gateway)))
}

/// Checks the addresses at which other clusters reach the ingress gateway.
fn judge_address(gateway: &OwnGateway, object: &str, service: &Service, nodes: &LookResult<Vec<Node>>) -> Finding {
    if !gateway.addresses.is_empty() {
        let list: Vec<_> = gateway.addresses.iter().map(|a| format!("{}:{}", a.address, a.port)).collect();
        return Finding::ok(
            CheckArea::Gateways,
            object,
            format!("others reach it at {}, as configured", list.join(", ")),
        );
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|s| s.type_.as_deref()).unwrap_or("ClusterIP") {
        "LoadBalancer" => match balancer_addresses(service) {
            list if list.is_empty() => Finding::error(
                CheckArea::Gateways,
                object,
                "its load balancer has no address yet: nothing can be offered",
            )
            .with_cure(
                "wait for the load balancer (kubectl describe service says what it waits for), or set ingress.address",
            ),
            list => Finding::ok(CheckArea::Gateways, object, format!("others reach it at {}", list.join(", "))),
        },
        "NodePort" => node_port(gateway, object, service, nodes),
        type_ => Finding::error(
            CheckArea::Gateways,
            object,
            format!("its type is {type_}, so other clusters do not reach it: nothing can be offered"),
        )
        .with_cure("make it a LoadBalancer or a NodePort, or set ingress.address to where it is reached"),
    }
}

/// Returns the addresses in the status of a Service's load balancer.
pub fn balancer_addresses(service: &Service) -> Vec<String> {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect()
}

fn node_port(gateway: &OwnGateway, object: &str, service: &Service, nodes: &LookResult<Vec<Node>>) -> Finding {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let port = ports.filter(|p| p.port == i32::from(gateway.port)).find_map(|p| p.node_port);
    let Some(port) = port else {
        return Finding::error(
            CheckArea::Gateways,
            object,
            format!("port {} has no node port: others do not reach it", gateway.port),
        )
        .with_cure("give the port a nodePort, or set ingress.address");
    };
    match nodes {
        Err(why) => Finding::unseen(CheckArea::Gateways, object, why),
        Ok(nodes) => match nodes.iter().flatten().filter(|n| has_address(n)).count() {
            0 => Finding::error(CheckArea::Gateways, object, "no node has an address: nothing can be offered")
                .with_cure("set ingress.address to where the node port is reached"),
            n => Finding::ok(CheckArea::Gateways, object, format!("others reach it at port {port} of {n} nodes")),
        },
    }
}

fn has_address(node: &Node) -> bool {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    addresses.into_iter().flatten().any(|a| a.type_ == "ExternalIP" || a.type_ == "InternalIP")
}

fn judge_endpoints(object: &str, slices: &LookResult<Vec<EndpointSlice>>) -> Finding {
    let slices = match slices {
        Err(why) => return Finding::unseen(CheckArea::Gateways, object, why),
        Ok(slices) => slices,
    };
    let endpoints = slices.iter().flatten().flat_map(|s| s.endpoints.iter().flatten());
    // A missing value means ready (EndpointConditions).
    let ready =
        |e: &&k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().and_then(|c| c.ready) != Some(false);
    match endpoints.filter(ready).count() {
        0 => Finding::error(CheckArea::Gateways, object, "none of its endpoints is ready: no call arrives")
            .with_cure("look at the gateway's pods, and whether the Service selects them"),
        n => Finding::ok(CheckArea::Gateways, object, format!("{n} of its endpoints are ready")),
    }
}

/// Checks the pods that Wharf's Gateway objects select.
fn judge_pods(side: GatewaySide, gateway: &OwnGateway, facts: &GatewayFacts) -> Vec<Finding> {
    let key = side.config_key();
    let selector = format_selector(&gateway.selector);
    let object = format!("pods {selector} in {}", gateway.namespace);
    let pods = match &facts.pods {
        Err(why) => return vec![Finding::unseen(CheckArea::Gateways, object, why)],
        Ok(pods) => pods.as_deref().unwrap_or_default(),
    };
    if pods.is_empty() {
        let finding = Finding::error(
            CheckArea::Gateways,
            object,
            format!("there are none: Wharf's configuration for the {key} gateway reaches nobody"),
        );
        return vec![finding.with_cure(format!(
            "set {key}.selector to the labels of the gateway's pods, or {key}.gateway to its name in the Gateway API"
        ))];
    }
    let mut findings = Vec::new();
    if let Ok(Some(service)) = &facts.service {
        let wanted = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let selected = pods.iter().filter(|p| has_labels(p, &wanted)).count();
        findings.push(match pods.len() - selected {
            0 => Finding::ok(CheckArea::Gateways, &object, format!("the Service leads to all {} of them", pods.len())),
            n => Finding::error(
                CheckArea::Gateways,
                &object,
                format!("the Service ({}) leads to other pods than {n} of them", format_selector(&wanted)),
            )
            .with_cure(format!("{key}.selector and {key}.service must be of the same gateway")),
        });
    }
    let others: Vec<_> = pods.iter().filter_map(pod_account).filter(|a| *a != gateway.service_account).collect();
    findings.extend(others.first().map(|other| {
        let message = format!(
            "their service account is {other}, and the configuration takes it to be {}",
            gateway.service_account
        );
        Finding::error(CheckArea::Gateways, &object, message)
            .with_cure(format!("set {key}.serviceAccount: {other}: the gateway's workload identity follows from it"))
    }));
    findings
}

/// Returns the accounts that a gateway's pods have, as far as the pods are seen.
pub fn accounts_of(facts: &GatewayFacts) -> BTreeSet<&str> {
    let pods = facts.pods.as_ref().ok().and_then(|p| p.as_deref()).unwrap_or_default();
    pods.iter().filter_map(pod_account).collect()
}

/// Checks that a gateway gets the Secret that it must show. `seen`: an account of its pods, if they are seen.
pub fn judge_secret(
    gateway: &OwnGateway,
    seen: Option<&str>,
    credential: &str,
    answer: Result<AccountAnswer, ReviewError>,
) -> Finding {
    let namespace = gateway.namespace.as_str();
    let object = |account: &str| format!("ServiceAccount {namespace}/{account}");
    let account = seen.unwrap_or(&gateway.service_account);
    match answer {
        Ok(AccountAnswer::Readable) => {
            let message = format!("istiod may hand it the Secret {credential}");
            Finding::ok(CheckArea::Gateways, object(account), message)
        }
        Ok(AccountAnswer::Denied(accounts)) => {
            let account = accounts.first().map_or(account, String::as_str);
            let (message, cure) = describe_denial(namespace, account, credential);
            if seen.is_some() || gateway.account_configured {
                return Finding::error(CheckArea::Gateways, object(account), message).with_cure(cure);
            }
            let message = format!("{message}; whether the gateway's pods have this account is not seen");
            Finding::warning(CheckArea::Gateways, object(account), message).with_cure(cure)
        }
        Ok(AccountAnswer::NoAccount) => {
            let why = "there is no such account, and the gateway's pods are not seen";
            Finding::unchecked(CheckArea::Gateways, object(account), why)
                .with_cure("name the account in the configuration, under serviceAccount of the gateway")
        }
        Ok(AccountAnswer::Unknown(why)) => Finding::unchecked(CheckArea::Gateways, object(account), why),
        Err(why) => Finding::unchecked(CheckArea::Gateways, object(account), why),
    }
}

fn pod_account(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref())
}

fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// Formats a selector in the form of kubectl's `-l`.
pub fn format_selector(selector: &BTreeMap<String, String>) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
