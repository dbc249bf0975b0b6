//! The rules and routes beside a host: DestinationRules for it, VirtualServices that lead to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::istio::{DestinationRule, DestinationRuleTrafficPolicyTls, VirtualService, VirtualServiceHttpMirror};
use crate::api::{Object, ObjectKey};
use crate::translate::istio_name;

use super::ClusterObjects;

/// Most rules, and most routes, of one host that are looked at.
const MAX_OF_HOST: usize = 16;

type NamedRules<'a> = Vec<(ObjectKey, &'a DestinationRule)>;

/// The rules and routes of a cluster, by host.
pub(super) struct NearbyObjects<'a> {
    /// By host, then by namespace.
    rules: BTreeMap<String, BTreeMap<String, NamedRules<'a>>>,
    routes: BTreeMap<String, BTreeMap<ObjectKey, &'a VirtualService>>,
}

impl<'a> NearbyObjects<'a> {
    pub(super) fn of_cluster(cluster: &'a ClusterObjects) -> NearbyObjects<'a> {
        let mut nearby = NearbyObjects { rules: BTreeMap::new(), routes: BTreeMap::new() };
        for object in cluster.sorted() {
            let key = object.key();
            match object {
                Object::DestinationRule(rule) => {
                    let host = full_name(&rule.spec.host, &key.namespace);
                    let of_host = nearby.rules.entry(host).or_default();
                    of_host.entry(key.namespace.clone()).or_default().push((key, rule));
                }
                Object::VirtualService(vs) => {
                    let hosts = route_hosts(vs).map(str::to_owned);
                    let hosts = hosts.chain(destinations(vs).map(|d| d.host.clone()));
                    let hosts: BTreeSet<String> = hosts.map(|host| full_name(&host, &key.namespace)).collect();
                    for host in hosts {
                        nearby.routes.entry(host).or_default().insert(key.clone(), vs);
                    }
                }
                _ => {}
            }
        }
        nearby
    }

    /// Returns the rules of the most specific host that covers this one, those of the same namespace first.
    pub(super) fn rules_for(&self, host: &str, namespace: &str) -> Vec<(&ObjectKey, &'a DestinationRule)> {
        let Some(found) = covering_patterns(host).find_map(|pattern| self.rules.get(&pattern)) else {
            return Vec::new();
        };
        let own = found.get(namespace).into_iter();
        let others = found.iter().filter(|(other, _)| *other != namespace).map(|(_, rules)| rules);
        own.chain(others).flatten().take(MAX_OF_HOST).map(|(key, rule)| (key, *rule)).collect()
    }

    /// Returns the VirtualServices that have this host, or lead to it.
    pub(super) fn routes_by(&self, host: &str) -> impl Iterator<Item = (&ObjectKey, &'a VirtualService)> {
        self.routes.get(&host.to_ascii_lowercase()).into_iter().flatten().take(MAX_OF_HOST).map(|(key, vs)| (key, *vs))
    }
}

/// Returns a host in lower case, as Istio reads it in an object of `namespace`.
pub(super) fn full_name(host: &str, namespace: &str) -> String {
    istio_name(&host.to_ascii_lowercase(), namespace)
}

/// The host itself, then the patterns that cover it, the most specific first.
fn covering_patterns(host: &str) -> impl Iterator<Item = String> {
    let host = host.to_ascii_lowercase();
    let dots: Vec<usize> = host.match_indices('.').map(|(i, _)| i).collect();
    let wild: Vec<String> = dots.into_iter().map(|i| format!("*{}", &host[i..])).collect();
    std::iter::once(host).chain(wild).chain(std::iter::once("*".to_owned()))
}

/// The TLS settings of a rule for one port.
pub(super) fn tls_of_port(rule: &DestinationRule, port: u16) -> Option<&DestinationRuleTrafficPolicyTls> {
    let policy = rule.spec.traffic_policy.as_ref()?;
    let of_port = policy
        .port_level_settings
        .iter()
        .flatten()
        .find(|settings| settings.port.as_ref().and_then(|p| p.number) == Some(i64::from(port)));
    // Settings of a port take the place of all that the rule says (Istio's API, `portLevelSettings`).
    match of_port {
        Some(settings) => settings.tls.as_ref(),
        None => policy.tls.as_ref(),
    }
}

/// The hosts of a VirtualService, and the SNIs that its TLS routes match.
pub(super) fn route_hosts(vs: &VirtualService) -> impl Iterator<Item = &str> {
    let matches = vs.spec.tls.iter().flatten().flat_map(|route| &route.r#match);
    let snis = matches.flat_map(|m| &m.sni_hosts);
    vs.spec.hosts.iter().flatten().chain(snis).map(String::as_str)
}

/// All destinations of a VirtualService.
pub(super) fn destinations(vs: &VirtualService) -> impl Iterator<Item = &VirtualServiceHttpMirror> {
    let http = vs.spec.http.iter().flatten().flat_map(|h| h.route.iter().flatten()).map(|r| &r.destination);
    let tcp = vs.spec.tcp.iter().flatten().flat_map(|t| t.route.iter().flatten()).map(|r| &r.destination);
    let tls = vs.spec.tls.iter().flatten().flat_map(|t| t.route.iter().flatten()).map(|r| &r.destination);
    http.chain(tcp).chain(tls)
}
