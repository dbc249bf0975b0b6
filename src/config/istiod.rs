//! Settings of istiod's metrics, which count what its proxies refuse.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::duration::go_duration;
use super::{defaults, parse_or};
use crate::model::ObjectName;

/// Default address: Istio's port, in the namespace of Istio's charts.
pub const DEFAULT_METRICS: &str = "http://istiod.istio-system.svc:15014/metrics";
const OFF: &str = "off";
/// Default interval. It makes a refusal known within a minute: three looks, and some time.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Address of istiod's metrics, and the interval between two reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IstiodMetrics {
    /// Name or address of the host. All addresses of a name are asked.
    pub host: String,
    pub port: u16,
    pub path: String,
    pub interval: Duration,
    /// Prefix of the names of the gateways' pods. None: the name of their Service.
    pub ingress_pods: Option<String>,
    pub egress_pods: Option<String>,
}

impl fmt::Display for IstiodMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        write!(f, "http://{open}{}{close}:{}{}", self.host, self.port, self.path)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawIstiod {
    metrics: Option<String>,
    interval: Option<String>,
    ingress_pods: Option<String>,
    egress_pods: Option<String>,
    pub(super) root_namespace: Option<String>,
    mesh_config: Option<String>,
}

impl RawIstiod {
    /// Checks the name of the ConfigMap of the mesh's settings. A folder has none.
    pub(super) fn mesh_config(&self, in_cluster: bool) -> Result<Option<ObjectName>, String> {
        match self.mesh_config.as_deref() {
            Some(OFF | "") => Ok(None),
            _ if !in_cluster => Ok(None),
            name => parse_or("istiod.meshConfig", name, defaults::MESH_CONFIG).map(Some),
        }
    }

    /// Checks the settings. `default`: metrics are read even if the configuration names none.
    pub(super) fn check(self, default: bool) -> Result<Option<IstiodMetrics>, String> {
        let interval = match self.interval.as_deref() {
            None => DEFAULT_INTERVAL,
            Some(text) => go_duration(text).filter(|i| INTERVALS.contains(i)).ok_or_else(|| {
                format!("istiod.interval: expected a duration from 1s to 10m, such as 15s, not {text:?}")
            })?,
        };
        match self.metrics.as_deref() {
            Some(OFF | "") => Ok(None),
            None if !default => Ok(None),
            url => {
                let metrics = parse_url(url.unwrap_or(DEFAULT_METRICS), interval)?;
                let ingress_pods = parse_prefix("istiod.ingressPods", self.ingress_pods)?;
                let egress_pods = parse_prefix("istiod.egressPods", self.egress_pods)?;
                Ok(Some(IstiodMetrics { ingress_pods, egress_pods, ..metrics }))
            }
        }
    }
}

/// Parses the prefix of a pod's name.
fn parse_prefix(field: &str, text: Option<String>) -> Result<Option<String>, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    match text {
        Some(text) if text.is_empty() || text.len() > 253 || !text.chars().all(fits) => {
            Err(format!("{field}: expected how the names of pods begin, such as istio-ingressgateway-, not {text:?}"))
        }
        text => Ok(text),
    }
}

fn parse_url(text: &str, interval: Duration) -> Result<IstiodMetrics, String> {
    let wrong = || {
        format!(
            "istiod.metrics: expected {OFF}, or http://HOST:PORT/PATH as {DEFAULT_METRICS} (no TLS, no user), not {text:?}"
        )
    };
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(wrong)?;
    if uri.scheme_str() != Some("http") || authority.host().is_empty() {
        return Err(wrong());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = match authority.port() {
        None => 80,
        Some(port) => port.as_u16(),
    };
    if port == 0 {
        return Err(wrong());
    }
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    Ok(IstiodMetrics { host, port, path, interval, ingress_pods: None, egress_pods: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(metrics: Option<&str>, interval: Option<&str>, default: bool) -> Result<Option<String>, String> {
        let (metrics, interval) = (metrics.map(Into::into), interval.map(Into::into));
        let raw = RawIstiod { metrics, interval, ..RawIstiod::default() };
        Ok(raw.check(default)?.map(|m| format!("{m} {}", m.interval.as_secs())))
    }

    #[test]
    fn the_meshs_settings_are_in_istios_own_config_map_where_there_is_a_cluster() {
        let name = |named: Option<&str>, in_cluster: bool| {
            let raw = RawIstiod { mesh_config: named.map(Into::into), ..RawIstiod::default() };
            raw.mesh_config(in_cluster).map(|name| name.map(|n| n.to_string()))
        };
        assert_eq!(name(None, true), Ok(Some("istio".into())));
        assert_eq!(name(Some("istio-canary"), true), Ok(Some("istio-canary".into())));
        assert_eq!(name(Some("off"), true), Ok(None));
        assert_eq!(name(None, false), Ok(None));
        assert!(name(Some("Istio/x"), true).unwrap_err().starts_with("istiod.meshConfig: "));
    }

    #[test]
    fn metrics_are_istios_default_where_there_is_a_cluster_and_what_is_named_elsewhere() {
        assert_eq!(checked(None, None, true), Ok(Some(format!("{DEFAULT_METRICS} 15"))));
        assert_eq!(checked(None, None, false), Ok(None));
        assert_eq!(checked(Some("off"), None, true), Ok(None));
        let named = checked(Some("http://[::1]:8080/a?b"), Some("1s"), false);
        assert_eq!(named, Ok(Some("http://[::1]:8080/a?b 1".into())));
        for wrong in ["https://a:1/", "a:1", "http://", "http://u@a:1/", "http://a:0/", "/metrics", "http://a b/"] {
            let message = checked(Some(wrong), None, true).unwrap_err();
            assert!(message.starts_with("istiod.metrics: "), "{wrong}: {message}");
        }
        assert!(checked(None, Some("100ms"), true).unwrap_err().starts_with("istiod.interval: "));
    }
}
