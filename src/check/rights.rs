//! What an agent must be allowed to do, and whether it is.

use std::collections::BTreeSet;

use super::{Area, Finding};
use crate::api::{GROUP, Kind};
use crate::config::{Config, IdentityConfig, StoreConfig};

const READ: &[&str] = &["list", "watch"];
const WRITE: &[&str] = &["list", "watch", "create", "patch", "delete"];

/// Verbs on one resource, in one namespace or in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub group: &'static str,
    /// With its subresource, as roles write it: `clusterpeerings/status`.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
    /// Only the object of this name.
    pub name: Option<String>,
    /// None: of the cluster, or in all namespaces.
    pub namespace: Option<String>,
}

impl Right {
    fn new(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Right {
        Right { group, resource, verbs, name: None, namespace: None }
    }

    fn named(mut self, name: impl Into<String>) -> Right {
        self.name = Some(name.into());
        self
    }

    fn within(mut self, namespace: Option<&str>) -> Right {
        self.namespace = namespace.map(str::to_owned);
        self
    }

    /// As in `secrets "wharf-identity" in istio-system`.
    fn place(&self) -> String {
        let name = self.name.as_ref().map(|n| format!(" {n:?}")).unwrap_or_default();
        let dot = if self.group.is_empty() { "" } else { "." };
        let place = self.namespace.as_ref().map_or_else(|| "the whole cluster".into(), |n| format!("namespace {n}"));
        format!("{}{dot}{}{name} in {place}", self.resource, self.group)
    }
}

/// Every right that the agent of this configuration needs, and no other. `own` is its own namespace; `nodes`: its ingress
/// gateway is reached through the cluster's nodes.
pub fn needed(config: &Config, own: &str, nodes: bool) -> BTreeSet<Right> {
    let gateways: BTreeSet<&str> = [config.ingress.namespace.as_str(), config.egress.namespace.as_str()].into();
    let named = match &config.store {
        StoreConfig::Kube(kube) => kube.namespaces.as_ref(),
        StoreConfig::Dir(_) => None,
    };
    let (people, all): (Vec<Option<&str>>, Vec<Option<&str>>) = match named {
        None => (vec![None], vec![None]),
        Some(named) => {
            let named: BTreeSet<&str> = named.iter().map(|n| n.as_str()).collect();
            let all = named.union(&gateways).map(|n| Some(*n)).collect();
            (named.into_iter().map(Some).collect(), all)
        }
    };
    let mut rights = BTreeSet::new();
    for namespace in people {
        let own = [
            Right::new(GROUP, "serviceexpositionpolicies", READ),
            Right::new(GROUP, "serviceexpositionpolicies/status", &["patch"]),
            Right::new(GROUP, "remoteservicebindings", WRITE),
            Right::new(GROUP, "remoteservicebindings/status", &["patch"]),
            Right::new("events.k8s.io", "events", &["create", "patch"]),
        ];
        rights.extend(own.map(|right| right.within(namespace)));
    }
    for namespace in all {
        rights.extend(Kind::ALL.map(|kind| Right::new(kind.group(), plural(kind), WRITE).within(namespace)));
    }
    rights.extend([
        Right::new(GROUP, "clusterpeerings", READ),
        Right::new(GROUP, "clusterpeerings/status", &["patch"]),
        Right::new("", "namespaces", &["get"]).named("kube-system"),
    ]);
    rights.extend(nodes.then(|| Right::new("", "nodes", READ)));
    rights.insert(
        Right::new("coordination.k8s.io", "leases", &["get", "create", "patch"]).named("wharf").within(Some(own)),
    );
    rights.insert(Right::new("", "configmaps", WRITE).within(Some(own)));
    if let Some(IdentityConfig::Secret(secret)) = &config.identity {
        rights.insert(Right::new("", "secrets", &["get", "list", "watch"]).named(secret.as_str()).within(Some(own)));
    }
    for namespace in gateways {
        let verbs = &["get", "list", "watch", "create", "patch"];
        let secret = Right::new("", "secrets", verbs).named(config.credential.as_str());
        rights.insert(secret.within(Some(namespace)));
    }
    rights
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::AuthorizationPolicy => "authorizationpolicies",
        Kind::DestinationRule => "destinationrules",
        Kind::ServiceEntry => "serviceentries",
        Kind::Gateway => "gateways",
        Kind::VirtualService => "virtualservices",
        Kind::Service => "services",
    }
}

/// What the API server says to one verb of a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Allowed,
    Denied,
    /// It did not say.
    Unknown(String),
}

/// A right, with the answer to each of its verbs.
pub type Asked = (Right, Vec<Answer>);

/// One finding for all that is there, one for each resource where something is not. `who` is the agent's user.
pub fn judge(who: &str, asked: &[Asked]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut allowed = 0;
    for (right, answers) in asked {
        let verbs = |wanted: fn(&Answer) -> bool| {
            let both = right.verbs.iter().zip(answers).filter(|(_, a)| wanted(a));
            both.map(|(verb, _)| *verb).collect::<Vec<_>>().join(", ")
        };
        allowed += answers.iter().filter(|a| **a == Answer::Allowed).count();
        let denied = verbs(|a| *a == Answer::Denied);
        if !denied.is_empty() {
            let message = format!("may not {denied} {}", right.place());
            findings.push(Finding::error(Area::Permissions, who, message).cure(cure(right)));
        }
        let unknown = verbs(|a| matches!(a, Answer::Unknown(_)));
        let why = answers.iter().find_map(|a| if let Answer::Unknown(why) = a { Some(why) } else { None });
        if let Some(why) = why {
            findings.push(Finding::unchecked(
                Area::Permissions,
                who,
                format!("whether it may {unknown} {}: {why}", right.place()),
            ));
        }
    }
    if findings.is_empty() {
        let message = format!("has all {allowed} rights that the agent needs");
        return vec![Finding::ok(Area::Permissions, who, message)];
    }
    findings
}

fn cure(right: &Right) -> String {
    let name = right.name.as_ref().map(|n| format!("; resourceNames: [{n}]")).unwrap_or_default();
    let kind = if right.namespace.is_some() { "Role" } else { "ClusterRole" };
    format!(
        "install the chart's roles again, or give the agent a {kind} with apiGroups: [{:?}]; resources: [{}]{name}; verbs: [{}]",
        right.group,
        right.resource,
        right.verbs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::check::Severity;

    fn config(more: &str) -> Config {
        let text = format!("cluster: cluster1\nidentity: {{secret: wharf-tls}}\n{more}");
        Config::parse(&text, "test", Path::new(".")).unwrap()
    }

    fn of<'a>(rights: &'a BTreeSet<Right>, resource: &str) -> Vec<&'a Right> {
        rights.iter().filter(|r| r.resource == resource).collect()
    }

    #[test]
    fn secrets_are_needed_by_name_and_never_in_the_whole_cluster() {
        let rights = needed(&config("egress: {namespace: gateways}\n"), "wharf-system", false);
        let secrets: Vec<_> = of(&rights, "secrets").iter().map(|r| r.place()).collect();
        let wanted = [
            "secrets \"wharf-identity\" in namespace gateways",
            "secrets \"wharf-identity\" in namespace istio-system",
            "secrets \"wharf-tls\" in namespace wharf-system",
        ];
        assert_eq!(secrets.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted.into());
        assert!(of(&rights, "nodes").is_empty());
        assert_eq!(of(&needed(&config(""), "wharf-system", true), "nodes").len(), 1);
    }

    #[test]
    fn an_agent_that_is_confined_needs_nothing_elsewhere() {
        let rights = needed(&config("store: {kube: {namespaces: [shop]}}\n"), "wharf-system", false);
        let cluster: Vec<_> = rights.iter().filter(|r| r.namespace.is_none()).map(|r| r.resource).collect();
        assert_eq!(cluster, ["namespaces", "clusterpeerings", "clusterpeerings/status"]);
        let places = |resource| of(&rights, resource).iter().filter_map(|r| r.namespace.clone()).collect::<Vec<_>>();
        assert_eq!(places("serviceexpositionpolicies"), ["shop"]);
        assert_eq!(places("virtualservices"), ["istio-system", "shop"]);
    }

    #[test]
    fn no_right_is_a_wildcard() {
        for right in needed(&config(""), "wharf-system", true) {
            assert!(right.resource != "*" && right.group != "*" && !right.verbs.contains(&"*"), "{right:?}");
        }
    }

    #[test]
    fn what_is_denied_is_told_with_the_role_that_would_allow_it() {
        let right = Right::new("", "secrets", &["get", "create"]).named("wharf-identity").within(Some("istio-system"));
        let asked = |answers: &[Answer]| judge("system:serviceaccount:a:b", &[(right.clone(), answers.to_vec())]);
        let all = asked(&[Answer::Allowed, Answer::Allowed]);
        assert!(all.len() == 1 && all[0].severity == Severity::Ok && all[0].message.contains("all 2"), "{all:?}");
        let some = asked(&[Answer::Allowed, Answer::Denied]);
        assert_eq!(some.len(), 1);
        assert_eq!(some[0].message, "may not create secrets \"wharf-identity\" in namespace istio-system");
        assert!(some[0].cure.contains("resourceNames: [wharf-identity]"), "{}", some[0].cure);
        let unknown = asked(&[Answer::Allowed, Answer::Unknown("no".into())]);
        assert_eq!(unknown[0].severity, Severity::Unchecked);
    }
}
