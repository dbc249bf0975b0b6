//! Reads istiod's metrics through the API server: a person who checks can seldom reach istiod itself.

use std::time::Duration;

use kube::Client;

use super::objects::unseen_reason;
use crate::agent::istiod::metrics_text::{GatewayPods, MetricsReader, MetricsSample};
use crate::check::UnseenReason;
use crate::config::IstiodMetrics;

const PATIENCE: Duration = Duration::from_secs(15);

/// Reads the metrics once.
pub async fn read_sample(
    client: &Client,
    metrics: &IstiodMetrics,
    pods: &GatewayPods,
) -> Result<MetricsSample, UnseenReason> {
    let Some((service, namespace)) = split_host(&metrics.host) else {
        return Err(UnseenReason::Failed(format!(
            "{metrics} names no Service, so it cannot be asked through the API server"
        )));
    };
    let path = format!("/api/v1/namespaces/{namespace}/services/http:{service}:{}/proxy{}", metrics.port, metrics.path);
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| UnseenReason::Failed(e.to_string()))?;
    let text = match tokio::time::timeout(PATIENCE, client.request_text(request)).await {
        Err(_) => return Err(UnseenReason::Failed(format!("no answer in {} s", PATIENCE.as_secs()))),
        Ok(answer) => answer.map_err(|e| unseen_reason(&e))?,
    };
    let mut reader = MetricsReader::new(pods);
    reader.read_piece(text.as_bytes());
    let sample = reader.finish();
    if sample.is_istiod {
        Ok(sample)
    } else {
        Err(UnseenReason::Failed(format!("{metrics}: what answers is not istiod")))
    }
}

/// Splits `name.namespace`, which a cluster's suffix may follow.
fn split_host(host: &str) -> Option<(&str, &str)> {
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_label = |l: &str| l.starts_with(|c: char| c.is_ascii_lowercase());
    (is_label(name) && is_label(namespace) && labels.next().is_none_or(|l| l == "svc")).then_some((name, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_from_an_address() {
        assert_eq!(split_host("istiod.istio-system.svc"), Some(("istiod", "istio-system")));
        assert_eq!(split_host("istiod.istio-system"), Some(("istiod", "istio-system")));
        assert_eq!(split_host("istiod.istio-system.svc.cluster.local"), Some(("istiod", "istio-system")));
        for other in ["10.0.0.1", "istiod", "::1", "istiod.example.org"] {
            assert_eq!(split_host(other), None, "{other}");
        }
    }
}
