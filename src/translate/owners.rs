//! The DestinationRules for a Service, as one client of it sees them: those that Istio lets the client see, and those
//! of them that hold (istiod, `pilot/pkg/model/push_context.go`, `destinationRule` and `setDestinationRules`).
//!
//! MeshConfig's `defaultDestinationRuleExportTo` is not read: a rule without `exportTo` is taken to be seen everywhere,
//! which is Istio's default.

use std::collections::BTreeSet;

use crate::api::istio::{
    DestinationRule, DestinationRuleSubsets as Subset, DestinationRuleTrafficPolicy as TrafficPolicy,
};
use crate::model::{Host, Label};

use super::inventory::Inventory;
use super::{EVERYWHERE, HERE};

/// A client, by its namespace, in a mesh with this root namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuleClient<'a> {
    pub namespace: &'a Label,
    pub root: &'a Label,
}

/// Settings for calls of a Service by the rules that hold for a client.
#[derive(Debug, Default)]
pub(super) struct OwnersRule<'a> {
    /// `<namespace>/<name>` of the rules.
    pub names: Vec<String>,
    pub traffic_policy: Option<&'a TrafficPolicy>,
    pub subsets: Vec<&'a Subset>,
    /// A rule of Wharf's in the client's own namespace may not hold beside one that is there: Istio does not merge
    /// them, or merges them for some workloads only.
    pub stays_apart: bool,
}

/// Rules of one namespace, for one host, that Istio merges.
struct MergedRules<'a> {
    export_to: BTreeSet<&'a str>,
    rules: Vec<&'a DestinationRule>,
}

impl<'a> OwnersRule<'a> {
    /// Finds the rules for a Service that hold for a client: of its own namespace, else of the Service's, else of the
    /// root namespace.
    pub fn find_for_client(
        inventory: &'a Inventory,
        service: &Label,
        namespace: &Label,
        client: RuleClient<'_>,
    ) -> OwnersRule<'a> {
        let host = Host::of_service(service, namespace);
        let of_client = |rule: &DestinationRule| match client.namespace == client.root {
            // Rules of the root namespace are for everybody, unless they are its own.
            true => is_private(rule),
            false => is_seen_at_home(rule),
        };
        if let Some(found) = most_specific(inventory, &host, client.namespace, of_client) {
            let of = found.merged.last().map(OwnersRule::from_merged).unwrap_or_default();
            let differs = found.merged.last().is_some_and(|last| last.export_to != BTreeSet::from([HERE]));
            return OwnersRule { stays_apart: found.exact && (differs || found.for_some), ..of };
        }
        for owner in [namespace, client.root] {
            let Some(found) = most_specific(inventory, &host, owner, |rule| !is_private(rule)) else { continue };
            if let Some(last) = found.merged.iter().rev().find(|m| m.is_seen_in(client.namespace.as_str())) {
                return OwnersRule::from_merged(last);
            }
        }
        OwnersRule::default()
    }

    fn from_merged(merged: &MergedRules<'a>) -> OwnersRule<'a> {
        let mut of = OwnersRule::default();
        for rule in &merged.rules {
            let m = &rule.metadata;
            of.names.push(format!("{}/{}", home_namespace(rule), m.name.as_deref().unwrap_or_default()));
            of.traffic_policy = of.traffic_policy.or(rule.spec.traffic_policy.as_ref());
            for subset in rule.spec.subsets.iter().flatten() {
                if of.find_subset(&subset.name).is_none() {
                    of.subsets.push(subset);
                }
            }
        }
        of
    }

    pub fn find_subset(&self, name: &str) -> Option<&'a Subset> {
        self.subsets.iter().find(|s| s.name == name).copied()
    }
}

impl MergedRules<'_> {
    fn is_seen_in(&self, namespace: &str) -> bool {
        let to = &self.export_to;
        to.is_empty() || to.contains(EVERYWHERE) || to.contains(namespace)
    }
}

/// The rules of a namespace for the most specific host that covers the one that is asked for.
struct SpecificRules<'a> {
    /// It is the host itself.
    exact: bool,
    /// Those that hold for all workloads.
    merged: Vec<MergedRules<'a>>,
    /// There are others, for workloads that they select.
    for_some: bool,
}

fn most_specific<'a>(
    inventory: &'a Inventory,
    host: &Host,
    namespace: &Label,
    counts: impl Fn(&DestinationRule) -> bool,
) -> Option<SpecificRules<'a>> {
    let host = host.as_str();
    for pattern in patterns_of(host) {
        let mut rules = inventory.rules_for(&pattern, namespace);
        rules.retain(|rule| counts(rule));
        if !rules.is_empty() {
            let found = rules.len();
            rules.retain(|rule| rule.spec.workload_selector.is_none());
            rules.sort_by_key(|r| (&r.metadata.creation_timestamp, &r.metadata.name));
            let for_some = rules.len() < found;
            return Some(SpecificRules { exact: pattern == host, merged: merge_rules(&rules), for_some });
        }
    }
    None
}

/// A host, and all patterns that cover it: the most specific first.
pub(super) fn patterns_of(host: &str) -> impl Iterator<Item = String> {
    let wide = (0..=host.len()).filter_map(|i| host.get(i..)).map(|end| format!("*{end}"));
    std::iter::once(host.to_owned()).chain(wide)
}

/// Merges rules in Istio's own order (`mergeDestinationRule`, with `EnableEnhancedDestinationRuleMerge`): a rule joins
/// those before it that are exported alike, or less widely. Of rules that stay apart, the last holds
/// (`SidecarScope.DestinationRule`).
fn merge_rules<'a>(sorted: &[&'a DestinationRule]) -> Vec<MergedRules<'a>> {
    let mut all: Vec<MergedRules<'a>> = Vec::new();
    for rule in sorted {
        let export_to = exported_namespaces(rule);
        let mut stays_apart = true;
        for merged in &mut all {
            let alike = merged.export_to == export_to;
            let wider = !merged.export_to.is_empty() && export_to.is_superset(&merged.export_to);
            stays_apart = !(alike || wider);
            if !stays_apart {
                merged.rules.push(rule);
            }
        }
        if stays_apart {
            all.push(MergedRules { export_to, rules: vec![rule] });
        }
    }
    all
}

/// Returns the namespaces that a rule is exported to. One with a selector is never seen in other namespaces
/// (`setDestinationRules`).
pub(super) fn exported_namespaces(rule: &DestinationRule) -> BTreeSet<&str> {
    if rule.spec.workload_selector.is_some() {
        return BTreeSet::from([HERE]);
    }
    rule.spec.export_to.iter().flatten().map(String::as_str).collect()
}

pub(super) fn home_namespace(rule: &DestinationRule) -> &str {
    rule.metadata.namespace.as_deref().unwrap_or("default")
}

pub(super) fn is_private(rule: &DestinationRule) -> bool {
    let to = exported_namespaces(rule);
    to.len() == 1 && (to.contains(HERE) || to.contains(home_namespace(rule)))
}

pub(super) fn is_seen_at_home(rule: &DestinationRule) -> bool {
    let to = exported_namespaces(rule);
    to.is_empty() || [EVERYWHERE, HERE, home_namespace(rule)].iter().any(|e| to.contains(e))
}

/// Returns a host as Istio reads it in an object of `namespace`: it completes names without a dot, and no others
/// (`ResolveShortnameToFQDN`).
pub fn istio_name(host: &str, namespace: &str) -> String {
    if host.contains('.') || host == EVERYWHERE {
        return host.to_owned();
    }
    format!("{host}.{namespace}.svc.cluster.local")
}
