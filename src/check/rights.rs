//! Judges the rights that an agent needs.

use std::collections::BTreeSet;

use super::{CheckArea, Finding};
use crate::agent::accounts::{gateways_in_use, possible_accounts};
use crate::api::{GROUP, Kind};
use crate::config::{Config, IdentityConfig, StoreConfig};
use crate::model::Style;

const READ: &[&str] = &["list", "watch"];
const WRITE: &[&str] = &["list", "watch", "create", "patch", "delete"];
const REVIEWS: &str = "authorization.k8s.io";
const CHANGE: &[&str] = &["create", "patch", "delete"];
/// The kinds that are written only beside the gateways.
const KINDS_OF_GATEWAYS: [Kind; 2] = [Kind::Gateway, Kind::EnvoyFilter];

/// Verbs on one resource, in one namespace or in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessRight {
    pub group: &'static str,
    /// Resource, with its subresource as roles write it: `clusterpeerings/status`.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
    /// Restricts the right to the object of this name.
    pub name: Option<String>,
    /// None: a right on the cluster, or in all namespaces.
    pub namespace: Option<String>,
}

impl AccessRight {
    fn new(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> AccessRight {
        AccessRight { group, resource, verbs, name: None, namespace: None }
    }

    fn for_name(mut self, name: impl Into<String>) -> AccessRight {
        self.name = Some(name.into());
        self
    }

    fn in_namespace(mut self, namespace: &str) -> AccessRight {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Describes the place, as in `secrets "wharf-identity" in istio-system`.
    fn describe_place(&self) -> String {
        let name = self.name.as_ref().map(|n| format!(" {n:?}")).unwrap_or_default();
        let dot = if self.group.is_empty() { "" } else { "." };
        let place = self.namespace.as_ref().map_or_else(|| "the whole cluster".into(), |n| format!("namespace {n}"));
        format!("{}{dot}{}{name} in {place}", self.resource, self.group)
    }
}

/// Returns every right that the agent of this configuration needs, and no other (`docs/reference/rbac.md`). `own`: its
/// namespace; `nodes`: its ingress gateway is reached through the cluster's nodes.
pub fn needed_rights(config: &Config, own: &str, nodes: bool) -> BTreeSet<AccessRight> {
    let egress = (config.style == Style::EgressIngress).then_some(config.egress.namespace.as_str());
    let gateways: BTreeSet<&str> = egress.into_iter().chain([config.ingress.namespace.as_str()]).collect();
    let named = match &config.store {
        StoreConfig::Kube(kube) => kube.namespaces.as_ref(),
        StoreConfig::Dir(_) => None,
    };
    let named: Option<BTreeSet<&str>> = named.map(|all| all.iter().map(|n| n.as_str()).collect());
    let mut rights = BTreeSet::new();
    match &named {
        None => {
            rights.extend(of_people());
            rights.extend(of_names_and_pods());
            rights.extend(of_objects());
        }
        Some(named) => {
            let within = |namespace: &str, rights: Vec<AccessRight>| {
                rights.into_iter().map(|r| r.in_namespace(namespace)).collect::<Vec<_>>()
            };
            rights.extend(named.iter().flat_map(|n| within(n, [of_people(), of_names_and_pods()].concat())));
            rights.extend(named.union(&gateways).flat_map(|n| within(n, of_objects())));
            // Events about a ClusterPeering, which is in no namespace, are kept in this one.
            rights.insert(event_rights().in_namespace("default"));
        }
    }
    rights.extend([
        AccessRight::new(GROUP, "clusterpeerings", READ),
        AccessRight::new(GROUP, "clusterpeerings/status", &["patch"]),
        AccessRight::new("", "namespaces", &["get"]).for_name("kube-system"),
    ]);
    let namespaces = AccessRight::new("", "namespaces", READ);
    match &named {
        None => drop(rights.insert(namespaces)),
        Some(named) => rights.extend(named.iter().map(|n| namespaces.clone().for_name(*n))),
    }
    rights.extend(nodes.then(|| AccessRight::new("", "nodes", READ)));
    rights.extend([
        AccessRight::new("coordination.k8s.io", "leases", &["create"]).in_namespace(own),
        AccessRight::new("coordination.k8s.io", "leases", &["get", "list", "watch", "update"])
            .for_name("wharf")
            .in_namespace(own),
        AccessRight::new("", "configmaps", WRITE).in_namespace(own),
    ]);
    if let (Some(name), StoreConfig::Kube(_)) = (&config.mesh_config, &config.store) {
        let root = config.root_namespace.as_str();
        rights.insert(AccessRight::new("", "configmaps", READ).for_name(name.as_str()).in_namespace(root));
    }
    if let Some(IdentityConfig::Secret(secret)) = &config.identity {
        rights.insert(AccessRight::new("", "secrets", READ).for_name(secret.as_str()).in_namespace(own));
    }
    for (_, gateway) in gateways_in_use(config) {
        let namespace = gateway.namespace.as_str();
        rights.insert(AccessRight::new(REVIEWS, "localsubjectaccessreviews", &["create"]).in_namespace(namespace));
        let assumed = possible_accounts(&gateway).into_iter().filter(|_| !gateway.account_configured);
        rights.extend(
            assumed.map(|a| AccessRight::new("", "serviceaccounts", &["get"]).for_name(a).in_namespace(namespace)),
        );
    }
    for namespace in gateways {
        rights.extend(KINDS_OF_GATEWAYS.map(|kind| of_kind(kind, CHANGE).in_namespace(namespace)));
        let secret = AccessRight::new("", "secrets", &["list", "watch", "create", "patch"]);
        rights.insert(secret.for_name(config.credential.as_str()).in_namespace(namespace));
    }
    rights
}

fn event_rights() -> AccessRight {
    AccessRight::new("events.k8s.io", "events", &["create", "patch"])
}

/// Returns the rights on objects that people write for Wharf.
fn of_people() -> Vec<AccessRight> {
    vec![
        AccessRight::new(GROUP, "serviceexpositionpolicies", READ),
        AccessRight::new(GROUP, "serviceexpositionpolicies/status", &["patch"]),
        AccessRight::new(GROUP, "remoteservicebindings", WRITE),
        AccessRight::new(GROUP, "remoteservicebindings/status", &["patch"]),
        event_rights(),
    ]
}

/// Returns the rights on objects that Wharf makes only where services are exposed and bound: names, and permissions for
/// pods.
fn of_names_and_pods() -> Vec<AccessRight> {
    vec![of_kind(Kind::Service, CHANGE), of_kind(Kind::AuthorizationPolicy, WRITE)]
}

/// Returns the rights on objects that Wharf reads or makes both there and beside the gateways.
fn of_objects() -> Vec<AccessRight> {
    let [gateways, filters] = KINDS_OF_GATEWAYS.map(|kind| of_kind(kind, READ));
    let routes = [Kind::VirtualService, Kind::ServiceEntry, Kind::DestinationRule].map(|kind| of_kind(kind, WRITE));
    routes.into_iter().chain([of_kind(Kind::Service, READ), gateways, filters]).collect()
}

fn of_kind(kind: Kind, verbs: &'static [&'static str]) -> AccessRight {
    AccessRight::new(kind.group(), plural_name(kind), verbs)
}

fn plural_name(kind: Kind) -> &'static str {
    match kind {
        Kind::AuthorizationPolicy => "authorizationpolicies",
        Kind::EnvoyFilter => "envoyfilters",
        Kind::DestinationRule => "destinationrules",
        Kind::ServiceEntry => "serviceentries",
        Kind::Gateway => "gateways",
        Kind::VirtualService => "virtualservices",
        Kind::Service => "services",
    }
}

/// The API server's answer to one verb of a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RightAnswer {
    Allowed,
    Denied,
    /// The API server did not decide.
    Unknown(String),
}

/// A right, with the answer to each of its verbs.
pub type AnsweredRight = (AccessRight, Vec<RightAnswer>);

/// Builds one finding for all granted rights, and one for each resource that lacks a right. `who` is the agent's user.
pub fn judge_rights(who: &str, asked: &[AnsweredRight]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut allowed = 0;
    for (right, answers) in asked {
        let verbs = |wanted: fn(&RightAnswer) -> bool| {
            let both = right.verbs.iter().zip(answers).filter(|(_, a)| wanted(a));
            both.map(|(verb, _)| *verb).collect::<Vec<_>>().join(", ")
        };
        allowed += answers.iter().filter(|a| **a == RightAnswer::Allowed).count();
        let denied = verbs(|a| *a == RightAnswer::Denied);
        if !denied.is_empty() {
            let message = format!("may not {denied} {}", right.describe_place());
            findings.push(Finding::error(CheckArea::Permissions, who, message).with_cure(describe_cure(right)));
        }
        let unknown = verbs(|a| matches!(a, RightAnswer::Unknown(_)));
        let why = answers.iter().find_map(|a| if let RightAnswer::Unknown(why) = a { Some(why) } else { None });
        if let Some(why) = why {
            findings.push(Finding::unchecked(
                CheckArea::Permissions,
                who,
                format!("whether it may {unknown} {}: {why}", right.describe_place()),
            ));
        }
    }
    if findings.is_empty() {
        let message = format!("has all {allowed} rights that the agent needs");
        return vec![Finding::ok(CheckArea::Permissions, who, message)];
    }
    findings
}

fn describe_cure(right: &AccessRight) -> String {
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

    fn of<'a>(rights: &'a BTreeSet<AccessRight>, resource: &str) -> Vec<&'a AccessRight> {
        rights.iter().filter(|r| r.resource == resource).collect()
    }

    #[test]
    fn secrets_are_needed_by_name_and_never_in_the_whole_cluster() {
        let rights = needed_rights(&config("egress: {namespace: gateways}\n"), "wharf-system", false);
        let secrets: Vec<_> = of(&rights, "secrets").iter().map(|r| r.describe_place()).collect();
        let wanted = [
            "secrets \"wharf-identity\" in namespace gateways",
            "secrets \"wharf-identity\" in namespace istio-system",
            "secrets \"wharf-tls\" in namespace wharf-system",
        ];
        assert_eq!(secrets.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted.into());
        assert!(of(&rights, "nodes").is_empty());
        assert_eq!(of(&needed_rights(&config(""), "wharf-system", true), "nodes").len(), 1);
    }

    #[test]
    fn an_agent_that_is_confined_needs_nothing_elsewhere() {
        let rights = needed_rights(&config("store: {kube: {namespaces: [shop]}}\n"), "wharf-system", false);
        let cluster: Vec<_> = rights.iter().filter(|r| r.namespace.is_none()).map(|r| r.resource).collect();
        assert_eq!(cluster, ["namespaces", "namespaces", "clusterpeerings", "clusterpeerings/status"]);
        let names: Vec<_> = of(&rights, "namespaces").iter().filter_map(|r| r.name.as_deref()).collect();
        assert_eq!(names, ["kube-system", "shop"]);
        let places = |resource| of(&rights, resource).iter().filter_map(|r| r.namespace.clone()).collect::<Vec<_>>();
        assert_eq!(places("serviceexpositionpolicies"), ["shop"]);
        assert_eq!(places("virtualservices"), ["istio-system", "shop"]);
        assert_eq!(places("events"), ["default", "shop"]);
    }

    /// The lines of the reference's table, as rights: resource, verbs, whether a name is asked for, and where.
    type Line = (String, BTreeSet<String>, bool, String);

    fn documented() -> BTreeSet<Line> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/rbac.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = page.lines().skip_while(|l| !l.starts_with("| resource | verbs |")).skip(2);
        let lines = table.take_while(|l| l.starts_with('|')).map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let verbs = cells[2].split(", ").map(str::to_owned).collect();
            let place = if ["each", "objects"].contains(&cells[3]) { "cluster" } else { cells[3] };
            let named = !cells[4].is_empty() && cells[4] != "with `namespaces`, those";
            (cells[1].to_owned(), verbs, named, place.to_owned())
        });
        lines.collect()
    }

    #[test]
    fn what_is_asked_for_is_what_the_reference_says() {
        let lines = needed_rights(&config("istiod: {rootNamespace: mesh}"), "own", true).into_iter().map(|right| {
            let (resource, sub) = right.resource.split_once('/').map_or((right.resource, None), |(r, s)| (r, Some(s)));
            let dot = if right.group.is_empty() { "" } else { "." };
            let slash = sub.map(|s| format!("/{s}")).unwrap_or_default();
            let verbs = right.verbs.iter().map(|v| (*v).to_owned()).collect();
            let place = match right.namespace.as_deref() {
                None => "cluster",
                Some("istio-system") => "gateways",
                Some(own) => own,
            };
            (format!("{resource}{dot}{}{slash}", right.group), verbs, right.name.is_some(), place.to_owned())
        });
        assert_eq!(lines.collect::<BTreeSet<Line>>(), documented());
    }

    #[test]
    fn no_right_is_a_wildcard() {
        for right in needed_rights(&config(""), "wharf-system", true) {
            assert!(right.resource != "*" && right.group != "*" && !right.verbs.contains(&"*"), "{right:?}");
        }
    }

    #[test]
    fn what_is_denied_is_told_with_the_role_that_would_allow_it() {
        let right =
            AccessRight::new("", "secrets", &["get", "create"]).for_name("wharf-identity").in_namespace("istio-system");
        let asked =
            |answers: &[RightAnswer]| judge_rights("system:serviceaccount:a:b", &[(right.clone(), answers.to_vec())]);
        let all = asked(&[RightAnswer::Allowed, RightAnswer::Allowed]);
        assert!(all.len() == 1 && all[0].severity == Severity::Ok && all[0].message.contains("all 2"), "{all:?}");
        let some = asked(&[RightAnswer::Allowed, RightAnswer::Denied]);
        assert_eq!(some.len(), 1);
        assert_eq!(some[0].message, "may not create secrets \"wharf-identity\" in namespace istio-system");
        assert!(some[0].cure.contains("resourceNames: [wharf-identity]"), "{}", some[0].cure);
        let unknown = asked(&[RightAnswer::Allowed, RightAnswer::Unknown("no".into())]);
        assert_eq!(unknown[0].severity, Severity::Unchecked);
    }
}
