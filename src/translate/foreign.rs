//! Istio objects of others that take calls of a local name away from Wharf's objects: DestinationRules and
//! ServiceEntries.
//!
//! Those that take all of them are a conflict about the name. Those that take the calls of some namespaces, or may, are
//! reported as notes. A status names an object only to those who may see it: tenants of its own namespace. The
//! operator's log names it.

use std::collections::BTreeSet;
use std::fmt;

use crate::api::istio::DestinationRule;
use crate::model::{Host, Label, TlsMode};

use super::inventory::Inventory;
use super::owners::{exported_namespaces, home_namespace, is_private, is_seen_at_home};
use super::plan::LocalPlan;
use super::problem::{Problem, ProblemReason};
use super::{EVERYWHERE, HERE, acceptor, admit, egress};

const OTHER_ALIAS: &str = "give the bound service another alias";
const ASK_OPERATOR: &str = "ask the cluster's operator, whose agent names it in its log";

/// A fact about others' objects that people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignNote {
    pub message: String,
    /// The object that is meant, for the cluster's operator; the message omits it if tenants may not know it.
    pub culprit: Option<String>,
}

/// Hosts with DestinationRules of Wharf's, and the namespaces of these.
fn own_rules<'a>(plan: &'a LocalPlan<'_>) -> Vec<(String, &'a Label)> {
    let local = &plan.local.namespace;
    if !plan.uses_egress() {
        return vec![(acceptor::direct_host(plan), local)];
    }
    let mut rules = vec![(egress::remote_host(plan), &plan.facts.egress.namespace)];
    if plan.tls == TlsMode::Passthrough {
        rules.push((egress::passthrough_host(plan), local));
    }
    rules
}

/// Finds a rule of somebody else beside one of Wharf's, for the same host: istiod merges them, or lets one of them
/// hold, and TLS to the donor, the name that is asked for there and what notices a dead gateway may be lost.
pub(super) fn rule_taken(plan: &LocalPlan<'_>, inventory: &Inventory) -> Option<Problem> {
    let found = own_rules(plan).into_iter().find_map(|(host, namespace)| {
        let first = inventory.rules_for(&host, namespace).into_iter().min_by_key(|r| rule_name(r))?;
        Some((host, namespace, rule_name(first)))
    });
    let (host, namespace, rule) = found?;
    Some(foreign_conflict(
        plan,
        namespace,
        &format!("DestinationRule {rule}"),
        &format!("sets how calls of {host} are made"),
    ))
}

/// Finds a ServiceEntry of somebody else for a host of the name: callers may be led to its endpoints.
pub(super) fn entry_taken(plan: &LocalPlan<'_>, inventory: &Inventory) -> Option<Problem> {
    let called = (plan.local.host().to_string(), &plan.local.namespace);
    let hosts = std::iter::once(called).chain(own_rules(plan));
    let found =
        hosts.into_iter().find_map(|(host, from)| inventory.service_entry(&host, from.as_str()).map(|e| (host, e)));
    let (host, (namespace, entry)) = found?;
    let namespace = namespace.parse().ok()?;
    Some(foreign_conflict(plan, &namespace, &format!("ServiceEntry {entry}"), &format!("says where {host} is")))
}

fn foreign_conflict(plan: &LocalPlan<'_>, namespace: &Label, object: &str, does: &str) -> Problem {
    let (kind, name) = object.split_once(' ').unwrap_or((object, ""));
    if *namespace == plan.local.namespace {
        let problem = Problem::new(ProblemReason::NameConflict, "alias", format!("the {object} {does} as well"));
        return problem.cure(format!("{OTHER_ALIAS}, or remove that {kind}"));
    }
    let message = format!("a {kind} of another namespace {does} as well");
    let mut problem =
        Problem::new(ProblemReason::NameConflict, "alias", message).cure(format!("{OTHER_ALIAS}, or {ASK_OPERATOR}"));
    problem.culprit = Some(format!("{kind} {namespace}/{name}"));
    problem
}

/// Returns notes on the effects of others' rules on the calls of some namespaces.
pub(super) fn foreign_notes(plan: &LocalPlan<'_>, inventory: &Inventory) -> Vec<ForeignNote> {
    let mut notes = Vec::new();
    for (host, of_wharf) in called_by_sidecars(plan) {
        notes.extend(hidden_from_callers(plan, inventory, &host, of_wharf));
    }
    if plan.uses_egress() && plan.tls != TlsMode::Passthrough {
        notes.extend(apart_at_egress(plan, inventory));
    }
    if plan.uses_egress() && admit::is_gateway_shut(inventory, &plan.facts.egress, &plan.facts.root_namespace) {
        let message = "calls get 403: AuthorizationPolicies allow nobody at the egress gateway; ask the cluster's operator for one that lets in this namespace";
        notes.push(ForeignNote { message: message.to_owned(), culprit: None });
    }
    notes
}

/// Hosts that callers' sidecars look up rules of Wharf's for, and the namespaces of these.
fn called_by_sidecars<'a>(plan: &'a LocalPlan<'_>) -> Vec<(String, &'a Label)> {
    if plan.uses_egress() && plan.tls != TlsMode::Passthrough {
        return vec![(plan.facts.egress.host().to_string(), &plan.facts.egress.namespace)];
    }
    own_rules(plan).into_iter().filter(|(_, namespace)| **namespace == plan.local.namespace).collect()
}

/// Finds a rule in a caller's namespace, which takes the place of all others there (Istio, "Destination Rule: lookup
/// path").
fn hidden_from_callers(
    plan: &LocalPlan<'_>,
    inventory: &Inventory,
    host: &str,
    of_wharf: &Label,
) -> Option<ForeignNote> {
    let root = plan.facts.root_namespace.as_str();
    let counts =
        |rule: &DestinationRule| if home_namespace(rule) == root { is_private(rule) } else { is_seen_at_home(rule) };
    let covering =
        inventory.rules_covering(host).into_iter().filter(|r| home_namespace(r) != of_wharf.as_str() && counts(r));
    let (own, others): (Vec<_>, Vec<_>) = covering.partition(|r| home_namespace(r) == plan.local.namespace.as_str());
    if let Some(rule) = own.into_iter().min_by_key(|r| rule_name(r)) {
        let (place, cure) = match plan.uses_egress() {
            true => ("Wharf's for the egress gateway", format!("remove it, or move it to {of_wharf}")),
            false => ("Wharf's", "remove it, or narrow its host".to_owned()),
        };
        let message = format!(
            "calls from this namespace fail: its DestinationRule {} takes the place of {place} there; {cure}",
            rule_name(rule)
        );
        return Some(ForeignNote { message, culprit: None });
    }
    // A rule that covers more than this name would appear in the statuses of all names: the operator's log names it
    // once instead.
    let exact = others.into_iter().filter(|r| r.spec.host == host && host != plan.facts.egress.host().as_str());
    let rule = exact.min_by_key(|r| (home_namespace(r), rule_name(r)))?;
    let message = format!(
        "calls from another namespace fail: a DestinationRule there takes the place of Wharf's; {ASK_OPERATOR}"
    );
    Some(ForeignNote {
        message,
        culprit: Some(format!("DestinationRule {}/{}", home_namespace(rule), rule_name(rule))),
    })
}

/// Finds a rule for the egress gateway's host, in its own namespace, that callers of the local name's namespace see and
/// Istio does not merge with Wharf's: the newer of them holds (`mergeDestinationRule`, `SidecarScope.DestinationRule`).
fn apart_at_egress(plan: &LocalPlan<'_>, inventory: &Inventory) -> Option<ForeignNote> {
    let host = plan.facts.egress.host();
    let namespace = &plan.facts.egress.namespace;
    let follows_default = inventory.has_rule_by_default(host.as_str(), namespace);
    let is_apart = |rule: &&DestinationRule| {
        let to = exported_namespaces(rule);
        let (for_all, by_name) = (to.contains(EVERYWHERE), to.contains(plan.local.namespace.as_str()));
        // Where Wharf's are exported to `*`, one that is also exported to others joins them, or Wharf's, which are
        // newer, hold.
        let differs = if follows_default { for_all || by_name } else { by_name && !for_all };
        differs && !is_private(rule)
    };
    inventory.rules_for(host.as_str(), namespace).into_iter().find(is_apart)?;
    let message = format!(
        "calls from this namespace may fail: a DestinationRule for the egress gateway is exported otherwise than Wharf's, so that Istio lets the newer of them hold; {ASK_OPERATOR}"
    );
    Some(ForeignNote { message, culprit: None })
}

fn rule_name(rule: &DestinationRule) -> &str {
    rule.metadata.name.as_deref().unwrap_or_default()
}

/// A DestinationRule of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRule {
    pub namespace: String,
    pub name: String,
    pub host: String,
    export_to: Vec<String>,
}

impl ForeignRule {
    /// Returns whether it leaves its visibility to the mesh's default.
    pub fn is_by_default(&self) -> bool {
        self.export_to.is_empty()
    }

    /// Returns whether it takes the place of Wharf's rules, which are in the namespace `of`, for callers in its own
    /// namespace. Rules of the root namespace are for everybody who has no other, unless they are its own.
    pub fn is_in_front(&self, of: &Label, root: &Label) -> bool {
        let exported_to = |to: &str| self.export_to.iter().any(|e| e == to);
        let at_home = exported_to(HERE) || exported_to(&self.namespace);
        let counts = match self.namespace == root.as_str() {
            true => at_home && self.export_to.len() == 1,
            false => at_home || self.is_by_default() || exported_to(EVERYWHERE),
        };
        self.namespace != of.as_str() && counts
    }
}

impl fmt::Display for ForeignRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DestinationRule {}/{}", self.namespace, self.name)
    }
}

/// Others' rules that cover a host. Where they hold, they take the place of Wharf's.
pub(super) fn rules_over(inventory: &Inventory, host: &Host) -> BTreeSet<ForeignRule> {
    let one = |r: &DestinationRule| ForeignRule {
        namespace: home_namespace(r).to_owned(),
        name: rule_name(r).to_owned(),
        host: r.spec.host.clone(),
        export_to: exported_namespaces(r).into_iter().map(str::to_owned).collect(),
    };
    inventory.rules_covering(host.as_str()).into_iter().map(one).collect()
}
