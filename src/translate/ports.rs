//! Which ports of a Service are exposed, and what they speak.

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::api::{Exposed, PortRef};
use crate::model::Protocol;

use super::problem::{Problem, Reason, listed};

/// More would not fit into what an exposition may carry.
pub(super) const MAX_PORTS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub number: u16,
    pub name: String,
    pub protocol: Protocol,
    /// Whether the Service says what the port speaks.
    pub declared: bool,
}

/// The ports that an entry exposes, in its order; without a choice, every TCP port of the Service by number.
pub(super) fn exposed(entry: &Exposed, service: &Service) -> Result<Vec<Port>, Problem> {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let single = entry.port.filter(|p| *p != 0);
    if single.is_some() && !entry.ports.is_empty() {
        return Err(
            Problem::new(Reason::Invalid, "ports", "port and ports exclude each other").cure("keep one of them")
        );
    }
    let mut chosen: Vec<Port> = Vec::new();
    if let Some(number) = single {
        chosen.push(find(all, "port", &PortRef::Number(number), &entry.name)?);
    } else if entry.ports.is_empty() {
        chosen.extend(all.iter().filter_map(port));
        chosen.sort_by_key(|p| p.number);
        if chosen.is_empty() {
            let message = format!("the Service {} has no TCP port", entry.name);
            return Err(Problem::new(Reason::PortNotFound, "name", message));
        }
    }
    for (i, wanted) in entry.ports.iter().enumerate() {
        let found = find(all, &format!("ports[{i}]"), wanted, &entry.name)?;
        if !chosen.iter().any(|p| p.number == found.number) {
            chosen.push(found);
        }
    }
    if chosen.len() > MAX_PORTS {
        let message =
            format!("{} ports are more than the {MAX_PORTS} that can be exposed under one name", chosen.len());
        return Err(Problem::new(Reason::Unsupported, "ports", message).cure("list those that others need"));
    }
    Ok(chosen)
}

fn find(all: &[ServicePort], field: &str, wanted: &PortRef, service: &str) -> Result<Port, Problem> {
    let (found, what) = match wanted {
        PortRef::Number(n) => (all.iter().filter(|p| p.port == i32::from(*n)).collect::<Vec<_>>(), n.to_string()),
        PortRef::Name(n) => (all.iter().filter(|p| p.name.as_deref() == Some(n)).collect(), format!("{n:?}")),
    };
    // One number may be there twice, as TCP and as UDP.
    if let Some(tcp) = found.iter().find_map(|p| port(p)) {
        return Ok(tcp);
    }
    if let Some(other) = found.first() {
        let message = format!("port {what} of {service} is {}", other.protocol.as_deref().unwrap_or("not TCP"));
        return Err(Problem::new(Reason::Unsupported, field, message).cure("only TCP ports can be exposed"));
    }
    let there: Vec<String> = all.iter().map(describe).collect();
    Err(Problem::new(Reason::PortNotFound, field, format!("{what} is not a port of {service}"))
        .cure(format!("the Service {service} has: {}", listed(there.iter().map(String::as_str)))))
}

fn describe(port: &ServicePort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{} ({name})", port.port),
        _ => port.port.to_string(),
    }
}

/// None for what is not TCP.
fn port(port: &ServicePort) -> Option<Port> {
    let number = u16::try_from(port.port).ok().filter(|n| *n != 0)?;
    if !matches!(port.protocol.as_deref(), None | Some("" | "TCP")) {
        return None;
    }
    let name = port.name.clone().unwrap_or_default();
    let declared = match port.app_protocol.as_deref() {
        Some(app) if !app.is_empty() => by_app_protocol(app),
        _ => by_name(&name),
    };
    Some(Port { number, name, protocol: declared.unwrap_or(Protocol::Tcp), declared: declared.is_some() })
}

/// Istio, "Protocol Selection": `name: <protocol>[-<suffix>]`, and `appProtocol`, which wins.
fn by_name(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some(Protocol::Http2);
    }
    by_word(name.split('-').next().unwrap_or_default())
}

fn by_app_protocol(app: &str) -> Option<Protocol> {
    match app.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" | "grpc-web" => Some(Protocol::Http2),
        "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/wss" => Some(Protocol::Tcp),
        word => by_word(word),
    }
}

fn by_word(word: &str) -> Option<Protocol> {
    match word {
        "http" => Some(Protocol::Http),
        "http2" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        // HTTPS and TLS are the provider's own, which a gateway can only carry.
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" => Some(Protocol::Tcp),
        _ => None,
    }
}
