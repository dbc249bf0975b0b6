//! The ports of a Service that are exposed, and their protocols.

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::api::{Exposed, PortRef};
use crate::model::Protocol;

use super::problem::{Problem, ProblemReason, join_list};

/// More would not fit into what an exposition may carry.
pub(super) const MAX_PORTS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExposablePort {
    pub number: u16,
    pub name: String,
    pub protocol: Protocol,
    pub reading: PortReading,
}

/// Source of a port's protocol, and the routes that Istio's sidecars follow for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortReading {
    /// The Service says it: HTTP routes hold, or TCP routes do.
    Declared,
    /// The Service says that it speaks a TLS of its own: only TLS routes hold.
    Tls,
    /// Nothing says it. Inside the mesh the proxies look at each connection, and follow HTTP or TCP routes.
    Sniffed,
}

impl ExposablePort {
    pub fn is_declared(&self) -> bool {
        self.reading != PortReading::Sniffed
    }
}

/// Returns the ports that an entry exposes, in its order; without a choice, every TCP port of the Service by number.
pub(super) fn select_ports(entry: &Exposed, service: &Service) -> Result<Vec<ExposablePort>, Problem> {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let single = entry.port.filter(|p| *p != 0);
    if single.is_some() && !entry.ports.is_empty() {
        return Err(
            Problem::new(ProblemReason::Invalid, "ports", "port and ports exclude each other").cure("keep one of them")
        );
    }
    let mut chosen: Vec<ExposablePort> = Vec::new();
    if let Some(number) = single {
        chosen.push(find_port(all, "port", &PortRef::Number(number), &entry.name)?);
    } else if entry.ports.is_empty() {
        chosen.extend(all.iter().filter_map(classify_port));
        chosen.sort_by_key(|p| p.number);
        // No API server takes a Service with two TCP ports of one number; a file may have one.
        chosen.dedup_by_key(|p| p.number);
        if chosen.is_empty() {
            let message = format!("the Service {} has no TCP port", entry.name);
            return Err(Problem::new(ProblemReason::PortNotFound, "name", message));
        }
    }
    for (i, wanted) in entry.ports.iter().enumerate() {
        let found = find_port(all, &format!("ports[{i}]"), wanted, &entry.name)?;
        if !chosen.iter().any(|p| p.number == found.number) {
            chosen.push(found);
        }
    }
    if chosen.len() > MAX_PORTS {
        let message =
            format!("{} ports are more than the {MAX_PORTS} that can be exposed under one name", chosen.len());
        return Err(Problem::new(ProblemReason::Unsupported, "ports", message).cure("list those that others need"));
    }
    Ok(chosen)
}

/// Notes ports of the Service that are left out, if the entry does not choose: those that are not TCP.
pub(super) fn left_out(entry: &Exposed, service: &Service) -> Vec<String> {
    if entry.port.is_some_and(|p| p != 0) || !entry.ports.is_empty() {
        return Vec::new();
    }
    let all = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let lost = all.filter(|p| classify_port(p).is_none());
    let lost: Vec<String> = lost.map(|p| format!("{} ({})", p.port, p.protocol.as_deref().unwrap_or("TCP"))).collect();
    if lost.is_empty() {
        return Vec::new();
    }
    vec![format!("ports that are not TCP, or that Istio takes for UDP, are left out: {}", lost.join(", "))]
}

fn find_port(all: &[ServicePort], field: &str, wanted: &PortRef, service: &str) -> Result<ExposablePort, Problem> {
    let (found, what) = match wanted {
        PortRef::Number(n) => (all.iter().filter(|p| p.port == i32::from(*n)).collect::<Vec<_>>(), n.to_string()),
        PortRef::Name(n) => (all.iter().filter(|p| p.name.as_deref() == Some(n)).collect(), format!("{n:?}")),
    };
    // One number may be there twice, as TCP and as UDP.
    if let Some(tcp) = found.iter().find_map(|p| classify_port(p)) {
        return Ok(tcp);
    }
    if let Some(other) = found.first() {
        let protocol = if is_tcp(other) {
            "UDP to Istio, by its name or appProtocol"
        } else {
            other.protocol.as_deref().unwrap_or("not TCP")
        };
        let message = format!("port {what} of {service} is {protocol}");
        return Err(Problem::new(ProblemReason::Unsupported, field, message).cure("only TCP ports can be exposed"));
    }
    let there: Vec<String> = all.iter().map(describe_port).collect();
    Err(Problem::new(ProblemReason::PortNotFound, field, format!("{what} is not a port of {service}"))
        .cure(format!("the Service {service} has: {}", join_list(there.iter().map(String::as_str)))))
}

fn describe_port(port: &ServicePort) -> String {
    match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{} ({name})", port.port),
        _ => port.port.to_string(),
    }
}

/// Returns None for a port that is not TCP, or is none to Istio.
fn classify_port(port: &ServicePort) -> Option<ExposablePort> {
    let number = u16::try_from(port.port).ok().filter(|n| *n != 0)?;
    if !is_tcp(port) {
        return None;
    }
    let name = port.name.clone().unwrap_or_default();
    let (protocol, reading) = match read_protocol(number, &name, port.app_protocol.as_deref()) {
        IstioProtocol::Http => (Protocol::Http, PortReading::Declared),
        IstioProtocol::Http2 => (Protocol::Http2, PortReading::Declared),
        IstioProtocol::Grpc => (Protocol::Grpc, PortReading::Declared),
        IstioProtocol::Tcp => (Protocol::Tcp, PortReading::Declared),
        IstioProtocol::Tls => (Protocol::Tcp, PortReading::Tls),
        IstioProtocol::Unknown => (Protocol::Tcp, PortReading::Sniffed),
        IstioProtocol::Udp => return None,
    };
    Some(ExposablePort { number, name, protocol, reading })
}

/// Returns whether Istio's proxies have a way to a port.
pub(super) fn is_exposable(of_service: &ServicePort) -> bool {
    classify_port(of_service).is_some()
}

fn is_tcp(port: &ServicePort) -> bool {
    matches!(port.protocol.as_deref(), None | Some("" | "TCP"))
}

/// Returns the protocol that Istio takes for a port of this number and name, if nothing else says it.
pub(super) fn by_name(number: u16, name: &str) -> Option<Protocol> {
    match read_protocol(number, name, None) {
        IstioProtocol::Http => Some(Protocol::Http),
        IstioProtocol::Http2 => Some(Protocol::Http2),
        IstioProtocol::Grpc => Some(Protocol::Grpc),
        IstioProtocol::Tcp => Some(Protocol::Tcp),
        IstioProtocol::Tls | IstioProtocol::Unknown | IstioProtocol::Udp => None,
    }
}

/// The protocols of Istio, as far as they differ here (istiod, `pkg/config/protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IstioProtocol {
    Http,
    Http2,
    Grpc,
    /// TCP, and what a gateway carries like it.
    Tcp,
    /// HTTPS and TLS are the provider's own, which a gateway can only carry.
    Tls,
    Udp,
    Unknown,
}

/// Ports that are TCP to Istio if nothing says what they speak: their servers speak first, and nothing could be
/// sniffed.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];
const GRPC_WEB: &str = "grpc-web";

/// Reads what a TCP port speaks exactly as istiod does (`pkg/config/kube/conversion.go`, `ConvertProtocol`):
/// `appProtocol` if there is one, else the name; Kubernetes' own names, then `grpc-web` and whatever follows, then the
/// word before the first `-`.
fn read_protocol(number: u16, name: &str, app_protocol: Option<&str>) -> IstioProtocol {
    match app_protocol {
        Some("kubernetes.io/h2c") => return IstioProtocol::Http2,
        Some("kubernetes.io/ws") => return IstioProtocol::Http,
        Some("kubernetes.io/wss") => return IstioProtocol::Tls,
        _ => {}
    }
    let text = app_protocol.unwrap_or(name).to_ascii_lowercase();
    if text.starts_with(GRPC_WEB) {
        return IstioProtocol::Http2;
    }
    match text.split('-').next().unwrap_or_default() {
        "http" | "http_proxy" => IstioProtocol::Http,
        "http2" => IstioProtocol::Http2,
        "grpc" => IstioProtocol::Grpc,
        "tcp" | "mongo" | "mysql" | "redis" => IstioProtocol::Tcp,
        "tls" | "https" => IstioProtocol::Tls,
        "udp" => IstioProtocol::Udp,
        _ if SERVER_FIRST.contains(&number) => IstioProtocol::Tcp,
        _ => IstioProtocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of istiod's own `ConvertProtocol`.
    #[test]
    fn a_port_is_read_as_istiod_reads_it() {
        use IstioProtocol::{Grpc, Http, Http2, Tcp, Tls, Udp, Unknown};
        for (number, name, app, read) in [
            (80, "http", None, Http),
            (80, "HTTP-web", None, Http),
            (80, "web", None, Unknown),
            (80, "web", Some("http"), Http),
            (80, "", Some("http-web"), Http),
            (80, "", Some("HTTP2-feed-a"), Http2),
            (80, "", Some("grpc-web"), Http2),
            (80, "", Some("gRPC-Web-text"), Http2),
            (80, "", Some("grpc-webtext"), Http2),
            (80, "grpc-website", None, Http2),
            (80, "", Some("grpc-a"), Grpc),
            (80, "", Some("http_proxy"), Http),
            (80, "", Some("https-a"), Tls),
            (80, "", Some("tls"), Tls),
            (80, "", Some("redis-a"), Tcp),
            (80, "", Some("mongo"), Tcp),
            (80, "", Some("mysql"), Tcp),
            (80, "", Some("udp-a"), Udp),
            (80, "udp-a", Some("tcp"), Tcp),
            (80, "", Some("kubernetes.io/h2c"), Http2),
            (80, "", Some("kubernetes.io/ws"), Http),
            (80, "", Some("kubernetes.io/wss"), Tls),
            (80, "", Some("Kubernetes.io/h2c"), Unknown),
            (80, "http", Some("kubernetes.io/other"), Unknown),
            (80, "http", Some("example.com/http"), Unknown),
            (80, "http", Some(""), Unknown),
            (80, "http2x", None, Unknown),
            (80, "httpx", None, Unknown),
            (25, "", None, Tcp),
            (53, "dns", None, Tcp),
            (3306, "db", Some("other"), Tcp),
            (27017, "", None, Tcp),
            (3306, "http-db", None, Http),
        ] {
            assert_eq!(read_protocol(number, name, app), read, "{number} {name:?} {app:?}");
        }
    }
}
