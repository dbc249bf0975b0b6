//! Checks settings of Istio itself: how long its gateways drain, and its trust domain.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};

use super::{CheckArea, Finding, LookResult, UnseenReason};
use crate::api::{MeshConfig, ProxyConfig};
use crate::config::go_duration;
use crate::model::{ClusterName, MeshSettings, OwnGateway, TrustDomain};
use crate::translate::{Problem, compare_trust_domain, refuse_callers};

const DEFAULT_DRAIN: Duration = OwnGateway::DRAIN;
/// Annotation of a pod that overrides the mesh's defaults for its proxy.
const PROXY_CONFIG: &str = "proxy.istio.io/config";

/// Returns whether istiod, of any revision, reads its configuration from this ConfigMap.
pub fn is_config(map: &ConfigMap) -> bool {
    let named = map.metadata.name.as_deref().is_some_and(|n| n.starts_with("istio-"));
    named && MeshConfig::is_in(map)
}

/// Reads the mesh's configuration from istiod's ConfigMap.
pub fn read_mesh_config(map: &LookResult<ConfigMap>) -> LookResult<MeshConfig> {
    let Some(map) = map.as_ref().map_err(Clone::clone)? else { return Ok(None) };
    MeshConfig::read(map).map(Some).map_err(|why| UnseenReason::Failed(why.to_string()))
}

/// Reduces it to the settings that the agent keeps.
pub fn settings(object: &str, mesh: &LookResult<MeshConfig>) -> LookResult<MeshSettings> {
    let Some(mesh) = mesh.as_ref().map_err(Clone::clone)? else { return Ok(None) };
    mesh.settings(object).map(Some).map_err(|why| UnseenReason::Failed(why.to_string()))
}

fn error(object: &str, problem: Problem) -> Finding {
    Finding::error(CheckArea::Mesh, object, problem.message).with_cure(problem.cure)
}

/// Compares Istio's trust domain with the one of Wharf's configuration.
pub fn trust_domain(object: &str, configured: &TrustDomain, mesh: &LookResult<MeshSettings>) -> Finding {
    match mesh {
        Err(why) => Finding::unseen(CheckArea::Mesh, object, why),
        Ok(None) => Finding::unchecked(CheckArea::Mesh, object, "the mesh's configuration is not there"),
        Ok(Some(mesh)) => match compare_trust_domain(mesh, configured) {
            Some(problem) => error(object, problem),
            None => {
                Finding::ok(CheckArea::Mesh, object, format!("the mesh's trust domain is {configured}, as configured"))
            }
        },
    }
}

/// Judges whether the sidecars of providers accept the callers of those who may consume in the mode `Passthrough`.
pub fn judge_passthrough<'a>(
    object: &str,
    mesh: &LookResult<MeshSettings>,
    consumers: impl Iterator<Item = (&'a ClusterName, &'a TrustDomain)>,
) -> Vec<Finding> {
    let consumers: Vec<_> = consumers.collect();
    let what = "the mode Passthrough needs a mesh that accepts the trust domains of those who may call";
    let mesh = match mesh {
        _ if consumers.is_empty() => return Vec::new(),
        Err(why) => return vec![Finding::unseen(CheckArea::Mesh, object, why)],
        Ok(None) => {
            let message = format!("{what}; the mesh's configuration is not there");
            return vec![Finding::unchecked(CheckArea::Mesh, object, message)];
        }
        Ok(Some(mesh)) => mesh,
    };
    let refused: Vec<_> = consumers.into_iter().filter_map(|caller| refuse_callers(mesh, [caller])).collect();
    if refused.is_empty() {
        let message = "the mesh accepts the trust domains of all who may call in the mode Passthrough";
        return vec![Finding::ok(CheckArea::Mesh, object, message)];
    }
    refused.into_iter().map(|problem| error(object, problem)).collect()
}

/// Checks the drain duration of a gateway's pods: after a permission is taken away, open connections may go on for that
/// long. `object` is the gateway; `told` is the duration in Wharf's configuration, which statuses repeat.
pub fn judge_drain(
    object: &str,
    pods: &LookResult<Vec<Pod>>,
    mesh: &LookResult<MeshConfig>,
    told: Duration,
) -> Finding {
    let pods = match pods {
        Err(why) => return Finding::unseen(CheckArea::Mesh, object, why),
        Ok(pods) => pods.as_deref().unwrap_or_default(),
    };
    if pods.is_empty() {
        return Finding::unchecked(CheckArea::Mesh, object, "how long it drains: it has no pods");
    }
    let own: Vec<Option<String>> = pods.iter().map(annotated_drain).collect();
    let by_mesh = own.iter().any(Option::is_none);
    let mesh_wide = match mesh {
        Err(why) if by_mesh => return Finding::unseen(CheckArea::Mesh, object, why),
        Ok(None) if by_mesh => {
            return Finding::unchecked(
                CheckArea::Mesh,
                object,
                "how long it drains: the mesh's configuration is not there",
            );
        }
        Err(_) | Ok(None) => None,
        Ok(Some(mesh)) => mesh.default_config.drain_duration.clone(),
    };
    let texts = own.into_iter().map(|own| own.or_else(|| mesh_wide.clone()));
    let mut longest = Duration::ZERO;
    for text in texts {
        longest = longest.max(match text {
            None => DEFAULT_DRAIN,
            Some(text) => match go_duration(&text) {
                Some(duration) => duration,
                None => {
                    return Finding::unchecked(
                        CheckArea::Mesh,
                        object,
                        format!("drainDuration {text:?} is no duration"),
                    );
                }
            },
        });
    }
    let seconds = longest.as_secs_f64();
    let message = format!(
        "what is open when a permission is taken away (a request, a stream, a TCP connection) ends within {seconds} s"
    );
    let cure = "the gateway's drainDuration decides; shorter: annotate its pods with \
                proxy.istio.io/config: 'drainDuration: 5s', or set meshConfig.defaultConfig.drainDuration";
    match longest {
        longest if longest > told => {
            let message = format!("{message}, and statuses say {} s", told.as_secs_f64());
            Finding::warning(CheckArea::Mesh, object, message)
                .with_cure(format!("set ingress.drain: {seconds}s; {cure}"))
        }
        longest if longest < told => Finding::ok(CheckArea::Mesh, object, message)
            .with_hint(format!("statuses say it with ingress.drain: {seconds}s")),
        longest if longest > DEFAULT_DRAIN => Finding::warning(CheckArea::Mesh, object, message).with_cure(cure),
        longest if longest >= DEFAULT_DRAIN => Finding::ok(CheckArea::Mesh, object, message).with_hint(cure),
        _ => Finding::ok(CheckArea::Mesh, object, message),
    }
}

fn annotated_drain(pod: &Pod) -> Option<String> {
    let text = pod.metadata.annotations.as_ref()?.get(PROXY_CONFIG)?;
    serde_saphyr::from_str::<ProxyConfig>(text).ok()?.drain_duration
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::check::Severity;

    fn pod(annotation: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.annotations = annotation.map(|text| BTreeMap::from([(PROXY_CONFIG.to_owned(), text.to_owned())]));
        pod
    }

    fn mesh(text: &str) -> LookResult<MeshConfig> {
        let data = BTreeMap::from([("mesh".to_owned(), text.to_owned())]);
        read_mesh_config(&Ok(Some(ConfigMap { data: Some(data), ..ConfigMap::default() })))
    }

    fn kept(text: &str) -> LookResult<MeshSettings> {
        settings("ConfigMap istio-system/istio", &mesh(text))
    }

    fn told(pods: &[Option<&str>], mesh: &LookResult<MeshConfig>) -> (Severity, String) {
        let pods = pods.iter().map(|a| pod(*a)).collect();
        let finding = judge_drain("Service istio-system/istio-ingressgateway", &Ok(Some(pods)), mesh, DEFAULT_DRAIN);
        (finding.severity, finding.message.rsplit("within ").next().unwrap_or_default().to_owned())
    }

    #[test]
    fn the_pods_annotation_counts_before_the_mesh_and_the_mesh_before_istio() {
        let nothing = mesh("");
        let short = mesh("defaultConfig: {drainDuration: 10s, discoveryAddress: x}\nother: true\n");
        assert_eq!(told(&[None], &nothing), (Severity::Ok, "45 s".into()));
        assert_eq!(told(&[None], &short), (Severity::Ok, "10 s".into()));
        assert_eq!(told(&[Some("drainDuration: 3s\nconcurrency: 1")], &short), (Severity::Ok, "3 s".into()));
        assert_eq!(told(&[Some("drainDuration: 3s"), None], &nothing), (Severity::Ok, "45 s".into()));
        assert_eq!(
            told(&[Some("drainDuration: 5m")], &short),
            (Severity::Warning, "300 s, and statuses say 45 s".into())
        );
        assert_eq!(told(&[Some("concurrency: 1")], &short), (Severity::Ok, "10 s".into()));
    }

    #[test]
    fn a_drain_time_that_cannot_be_known_is_not_called_good() {
        let unseen = Err(UnseenReason::Forbidden("no".into()));
        assert_eq!(told(&[None], &unseen).0, Severity::Unchecked);
        assert_eq!(told(&[Some("drainDuration: 3s")], &unseen).0, Severity::Ok);
        assert_eq!(told(&[Some("drainDuration: soon")], &mesh("")).0, Severity::Unchecked);
        assert_eq!(told(&[], &mesh("")).0, Severity::Unchecked);
        assert_eq!(told(&[None], &Ok(None)).0, Severity::Unchecked);
        let pods = Err(UnseenReason::Forbidden("no".into()));
        assert_eq!(judge_drain("x", &pods, &mesh(""), DEFAULT_DRAIN).severity, Severity::Unchecked);
    }

    #[test]
    fn statuses_that_say_too_short_a_time_are_a_warning_with_the_key_to_set() {
        let pods = Ok(Some(vec![pod(Some("drainDuration: 30s"))]));
        let finding = judge_drain("x", &pods, &mesh(""), Duration::from_secs(5));
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.message.ends_with("within 30 s, and statuses say 5 s"), "{}", finding.message);
        assert!(finding.cure.contains("set ingress.drain: 30s"), "{}", finding.cure);
        assert_eq!(judge_drain("x", &pods, &mesh(""), Duration::from_secs(30)).severity, Severity::Ok);
        let longer = judge_drain("x", &pods, &mesh(""), DEFAULT_DRAIN);
        assert_eq!(longer.severity, Severity::Ok, "what statuses say holds all the same");
        assert!(longer.cure.contains("ingress.drain: 30s"), "{}", longer.cure);
    }

    #[test]
    fn a_mesh_that_refuses_callers_of_the_mode_passthrough_is_an_error_with_the_line_to_add() {
        let (isle, domain): (ClusterName, TrustDomain) = ("isle".parse().unwrap(), "isle.example".parse().unwrap());
        let judge = |mesh: &LookResult<MeshSettings>| {
            judge_passthrough("ConfigMap istio-system/istio", mesh, [(&isle, &domain)].into_iter())
        };
        let severity = |text: &str| judge(&kept(text))[0].severity;
        for text in ["", "caCertificates: [{pem: x, trustDomains: [reef.example]}]", "caCertificates: [{pem: x}]"] {
            assert_eq!(severity(text), Severity::Error, "{text}");
        }
        for text in [
            "caCertificates: [{pem: x, trustDomains: [reef.example]}, {pem: y, trustDomains: [isle.example]}]",
            "trustDomainAliases: [isle.example]",
            "trustDomain: isle.example",
        ] {
            assert_eq!(severity(text), Severity::Ok, "{text}");
        }
        let finding = judge(&kept("")).remove(0);
        assert!(
            finding.cure.contains("caCertificates: [{pem") && finding.cure.contains("trustDomains: [isle.example]")
        );
        assert_eq!(judge(&Ok(None))[0].severity, Severity::Unchecked);
        assert_eq!(judge(&Err(UnseenReason::Forbidden("no".into())))[0].severity, Severity::Unchecked);
        assert!(judge_passthrough("x", &kept(""), std::iter::empty()).is_empty(), "nobody is let in in this mode");
    }

    #[test]
    fn another_trust_domain_than_the_meshs_is_an_error() {
        let configured = "cluster.local".parse().unwrap();
        let severity =
            |mesh: &LookResult<MeshSettings>| trust_domain("ConfigMap istio-system/istio", &configured, mesh).severity;
        assert_eq!(severity(&kept("")), Severity::Ok);
        assert_eq!(severity(&kept("trustDomain: cluster.local")), Severity::Ok);
        assert_eq!(severity(&kept("trustDomain: east")), Severity::Error);
        assert_eq!(severity(&kept(": [")), Severity::Unchecked);
        assert_eq!(severity(&Ok(None)), Severity::Unchecked);
    }
}
