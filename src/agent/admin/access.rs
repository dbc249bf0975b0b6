//! Decides which callers may ask the admin listener, and for what.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, Request, Version};
use ipnet::IpNet;

use crate::config::Config;
use crate::model::Label;

/// Addresses from which Istio's sidecar forwards connections of other hosts. They look like loopback
/// (`InboundPassthroughBindIpv4` and `InboundPassthroughBindIpv6` of istio/istio, pkg/util/net).
const SIDECAR: [&str; 2] = ["127.0.0.6", "::6"];

/// The configuration of callers of the admin listener.
#[derive(Debug, Clone, Default)]
pub struct AdminAccess {
    /// Names that requests to the listener may use, besides addresses and `localhost`.
    hosts: BTreeSet<String>,
    /// Networks that may read the status, besides loopback.
    status_from: Vec<IpNet>,
    /// Suffixes of names of Services in the agent's own namespace. No name of the public DNS ends like this.
    service_suffixes: Vec<String>,
}

impl AdminAccess {
    /// `namespace` is the agent's own, if it has one.
    pub fn new(config: &Config, namespace: Option<&str>) -> AdminAccess {
        let suffixes = namespace.iter().flat_map(|ns| [format!(".{ns}.svc"), format!(".{ns}.svc.cluster.local")]);
        AdminAccess {
            hosts: config.admin_hosts.clone(),
            status_from: config.admin_status_from.clone(),
            service_suffixes: suffixes.collect(),
        }
    }

    /// Returns whether the status, which shows the objects of all namespaces, may go to this address.
    pub fn may_read_status(&self, caller: IpAddr) -> bool {
        let caller = caller.to_canonical();
        let is_sidecar = SIDECAR.iter().any(|s| s.parse() == Ok(caller));
        (caller.is_loopback() && !is_sidecar) || self.status_from.iter().any(|network| network.contains(&caller))
    }

    /// Returns whether the request is meant for this listener. A browser that a foreign name led here (DNS rebinding)
    /// sends that name.
    pub fn is_addressed<B>(&self, request: &Request<B>) -> bool {
        let from_uri = request.uri().authority().is_none_or(|a| self.knows_authority(a.as_str()));
        from_uri && self.knows_host(request.headers(), request.version())
    }

    /// Checks the Host header. RFC 9112, section 3.2: HTTP/1.1 has exactly one. HTTP/1.0 may have none, and no browser
    /// speaks it.
    fn knows_host(&self, headers: &HeaderMap, version: Version) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (None, _) => version == Version::HTTP_10,
            (Some(host), None) => host.to_str().is_ok_and(|host| self.knows_authority(host)),
            (Some(_), Some(_)) => false,
        }
    }

    /// Accepts `host[:port]` with an IP address, which nobody can rebind, or with a known name.
    fn knows_authority(&self, authority: &str) -> bool {
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((v6, port))) if v6.contains(':') => (v6, port),
            Some(_) => return false,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        is_port && self.knows_name(&host)
    }

    fn knows_name(&self, host: &str) -> bool {
        let mut services = self.service_suffixes.iter().filter_map(|suffix| host.strip_suffix(suffix.as_str()));
        host == "localhost"
            || host.parse::<IpAddr>().is_ok()
            || self.hosts.contains(host)
            || services.any(|service| service.parse::<Label>().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> AdminAccess {
        AdminAccess {
            hosts: ["metrics.example".to_owned()].into(),
            service_suffixes: vec![".mesh.svc".to_owned()],
            status_from: vec!["192.0.2.0/28".parse().unwrap()],
        }
    }

    #[test]
    fn the_status_is_told_on_loopback_and_to_networks_that_the_configuration_names() {
        for (caller, may) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.16", false),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("169.254.1.1", false),
            ("127.0.0.6", false),
            ("::ffff:127.0.0.6", false),
            ("::6", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(access().may_read_status(caller.parse().unwrap()), may, "{caller}");
        }
    }

    #[test]
    fn a_request_for_a_name_of_somebody_elses_is_not_meant_for_the_agent() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7444",
            "[::1]:7444",
            "[::1]",
            "10.2.3.4:7444",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "metrics.example:7444",
            "wharf-metrics.mesh.svc:7444",
            "Metrics.example.",
        ] {
            assert!(access().knows_authority(host), "{host}");
        }
        for host in [
            "attacker.example",
            "attacker.example:7444",
            "localhost.attacker.example",
            "127.0.0.1.nip.io",
            "",
            "wharf-metrics",
            "x.metrics.example",
            "wharf-metrics.other.svc",
            ".mesh.svc",
            "a.b.mesh.svc",
            "localhost:port",
            "127.0.0.1@attacker.example",
            "[127.0.0.1]:80",
            "[::1",
            "::1",
            "localhost:1:2",
            "[::1]attacker.example",
            ".",
            "localhost:65536",
        ] {
            assert!(!access().knows_authority(host), "{host:?}");
        }
    }

    fn request(uri: &str, version: Version, hosts: &[&str]) -> Request<()> {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_name_in_the_request_line_counts_as_the_header_does() {
        let is_addressed = |uri, version, hosts: &[&str]| access().is_addressed(&request(uri, version, hosts));
        let new = Version::HTTP_11;
        assert!(is_addressed("/status", new, &["127.0.0.1"]));
        assert!(is_addressed("http://localhost/status", new, &["localhost"]));
        assert!(!is_addressed("http://attacker.example/status", new, &["localhost"]));
        assert!(!is_addressed("http://localhost/status", new, &["attacker.example"]));
        assert!(!is_addressed("/status", new, &["localhost", "attacker.example"]), "two names");
        assert!(!is_addressed("/status", new, &[]), "no name");
        assert!(is_addressed("/healthz", Version::HTTP_10, &[]), "a probe of HTTP/1.0");
    }
}
