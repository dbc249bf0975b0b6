//! Checks whether the AuthorizationPolicies at the gateways and at the provider let calls pass.
//!
//! In the modes `Cluster` and `Workload` all calls of other clusters come to the provider from the ingress gateway. A
//! refusal is reported only where it is certain: Istio refuses a call if some policy denies it, or if some policy
//! allows something there, and none allows this (Istio, "Authorization Policy": CUSTOM, DENY, ALLOW).

use std::collections::BTreeMap;

use crate::api::istio::{
    AuthorizationPolicy, AuthorizationPolicyAction, AuthorizationPolicyRules,
    AuthorizationPolicyRulesFromSource as CallerSource,
};
use crate::model::{Label, OwnGateway, TlsMode};

use super::expose::ResolvedEntry;
use super::inventory::Inventory;
use super::problem::join_list;

/// The trust domain that stands for the mesh's own, whatever that is (istiod, `pkg/config/constants`).
const ANY_TRUST_DOMAIN: &str = "cluster.local";

/// A caller, as a policy names callers.
struct PolicyCaller<'a> {
    trust_domain: &'a str,
    namespace: &'a str,
    account: &'a str,
}

/// Notes on policies that refuse calls.
pub(super) fn admission_notes(e: &ResolvedEntry<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if is_gateway_shut(e.inventory, &e.facts.ingress, &e.facts.root_namespace) {
        notes.push(
            "calls get 403 at the ingress gateway: AuthorizationPolicies allow nobody there; ask the cluster's operator for one that lets in the peers"
                .to_owned(),
        );
    }
    if e.tls != TlsMode::Passthrough {
        notes.extend(find_denial(e).or_else(|| not_allowed(e)));
    }
    notes
}

/// Returns whether policies allow nobody at a gateway, such as one for the whole mesh that has no rules.
pub fn is_gateway_shut(inventory: &Inventory, gateway: &OwnGateway, root: &Label) -> bool {
    let mut allowing =
        of_pods(inventory, &gateway.namespace, root, &gateway.selector).filter(|(_, p)| is_allowing(p)).peekable();
    allowing.peek().is_some() && allowing.all(|(_, policy)| policy.spec.rules.iter().flatten().next().is_none())
}

/// The policies for all pods with these labels, with the namespaces of these.
fn of_pods<'a>(
    inventory: &'a Inventory,
    own: &'a Label,
    root: &'a Label,
    labels: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, &'a AuthorizationPolicy)> {
    let namespaces = std::iter::once(own).chain((root != own).then_some(root)).map(Label::as_str);
    namespaces
        .flat_map(move |namespace| inventory.permissions(namespace).map(move |policy| (namespace, policy)))
        .filter(move |(_, policy)| is_for_pods(policy, labels))
}

fn at_provider<'a>(e: &'a ResolvedEntry<'_>) -> impl Iterator<Item = (&'a str, &'a AuthorizationPolicy)> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = e.object.spec.as_ref().and_then(|s| s.selector.as_ref()).unwrap_or(&NONE);
    of_pods(e.inventory, &e.key.namespace, &e.facts.root_namespace, labels)
}

/// Returns the name that a status has for a policy: tenants need not see what is in the root namespace.
fn shown_policy_name<'a>(e: &ResolvedEntry<'_>, namespace: &str, policy: &'a AuthorizationPolicy) -> &'a str {
    match namespace == e.key.namespace.as_str() {
        true => policy.metadata.name.as_deref().unwrap_or_default(),
        false => "one of the root namespace",
    }
}

fn gateway_of<'a>(e: &'a ResolvedEntry<'_>) -> PolicyCaller<'a> {
    let ingress = &e.facts.ingress;
    PolicyCaller {
        trust_domain: e.facts.trust_domain.as_str(),
        namespace: ingress.namespace.as_str(),
        account: &ingress.service_account,
    }
}

/// A policy that denies the ingress gateway whatever it asks for.
fn find_denial(e: &ResolvedEntry<'_>) -> Option<String> {
    let gateway = gateway_of(e);
    let denies = |(namespace, policy): &(&str, &AuthorizationPolicy)| {
        policy.spec.action == Some(AuthorizationPolicyAction::Deny)
            && policy.spec.rules.iter().flatten().any(|rule| gateway.is_matched_by(rule, namespace))
    };
    let names = at_provider(e).filter(denies).map(|(namespace, policy)| shown_policy_name(e, namespace, policy));
    let name = names.min()?;
    Some(format!(
        "calls get 403: the AuthorizationPolicy of {} that denies callers ({name}) denies the ingress gateway; leave the principal {} out of it",
        e.service,
        gateway.principal()
    ))
}

/// Policies that allow callers, and the ingress gateway is none of these.
fn not_allowed(e: &ResolvedEntry<'_>) -> Option<String> {
    let gateway = gateway_of(e);
    let mut names = Vec::new();
    for (namespace, policy) in at_provider(e).filter(|(_, policy)| is_allowing(policy)) {
        if policy.spec.rules.iter().flatten().any(|rule| gateway.may_be_let_in(rule, namespace)) {
            return None;
        }
        names.push(shown_policy_name(e, namespace, policy));
    }
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "calls get 403: no AuthorizationPolicy that allows callers of {} ({}) lets in the ingress gateway; add the principal {} to one",
            e.service,
            join_list(names.iter().copied()),
            gateway.principal()
        )
    })
}

fn is_allowing(policy: &AuthorizationPolicy) -> bool {
    matches!(policy.spec.action, None | Some(AuthorizationPolicyAction::Allow))
}

/// Returns whether a policy is for all pods with these labels, as far as its selector says.
fn is_for_pods(policy: &AuthorizationPolicy, labels: &BTreeMap<String, String>) -> bool {
    if policy.spec.target_ref.is_some() || policy.spec.target_refs.as_ref().is_some_and(|t| !t.is_empty()) {
        return false; // a waypoint's
    }
    let selector = policy.spec.selector.as_ref().and_then(|s| s.match_labels.as_ref());
    selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

impl PolicyCaller<'_> {
    fn principal(&self) -> String {
        format!("{}{}", self.trust_domain, self.workload())
    }

    fn workload(&self) -> String {
        format!("/ns/{}/sa/{}", self.namespace, self.account)
    }

    /// Returns whether a rule is for this caller, whatever it asks for.
    fn is_matched_by(&self, rule: &AuthorizationPolicyRules, namespace: &str) -> bool {
        let is_empty = |list: Option<usize>| list.is_none_or(|length| length == 0);
        if !is_empty(rule.to.as_ref().map(Vec::len)) || !is_empty(rule.when.as_ref().map(Vec::len)) {
            return false;
        }
        let from = rule.from.as_deref().unwrap_or_default();
        from.is_empty()
            || from.iter().any(|f| f.source.as_ref().is_none_or(|source| self.is_named_by(source, namespace)))
    }

    /// Returns whether a rule may let this caller in; what it asks of requests may be so.
    fn may_be_let_in(&self, rule: &AuthorizationPolicyRules, namespace: &str) -> bool {
        let from = rule.from.as_deref().unwrap_or_default();
        from.is_empty() || from.iter().any(|f| f.source.as_ref().is_none_or(|source| self.may_be(source, namespace)))
    }

    /// Returns whether a source is certainly this caller.
    fn is_named_by(&self, source: &CallerSource, namespace: &str) -> bool {
        let by_request = [
            &source.ip_blocks,
            &source.not_ip_blocks,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            &source.request_principals,
            &source.not_request_principals,
        ];
        by_request.iter().all(|list| list.as_ref().is_none_or(Vec::is_empty))
            && is_among(source.principals.as_deref(), |pattern| self.has_principal(pattern))
            && is_among(source.namespaces.as_deref(), |pattern| matches_text(pattern, self.namespace))
            && is_among(source.service_accounts.as_deref(), |name| self.has_account(name, namespace))
            && is_among(source.trust_domains.as_deref(), |pattern| self.is_of_domain(pattern))
            && !self.is_left_out(source, namespace)
    }

    fn may_be(&self, source: &CallerSource, namespace: &str) -> bool {
        let workload = self.workload();
        // The mesh may have aliases for its trust domain, which the agent does not know.
        let may_be_principal = |pattern: &String| self.has_principal(pattern) || pattern.ends_with(&workload);
        is_among(source.principals.as_deref(), may_be_principal)
            && is_among(source.namespaces.as_deref(), |pattern| matches_text(pattern, self.namespace))
            && is_among(source.service_accounts.as_deref(), |name| self.has_account(name, namespace))
            && !self.is_left_out(source, namespace)
    }

    /// Returns whether a source is certainly not this caller, since it leaves it out by name.
    fn is_left_out(&self, source: &CallerSource, namespace: &str) -> bool {
        let any = |list: &Option<Vec<String>>, is: &dyn Fn(&String) -> bool| list.iter().flatten().any(is);
        any(&source.not_principals, &|pattern| self.has_principal(pattern))
            || any(&source.not_namespaces, &|pattern| matches_text(pattern, self.namespace))
            || any(&source.not_service_accounts, &|name| self.has_account(name, namespace))
            || any(&source.not_trust_domains, &|pattern| self.is_of_domain(pattern))
    }

    fn has_principal(&self, pattern: &str) -> bool {
        let workload = self.workload();
        [self.trust_domain, ANY_TRUST_DOMAIN].iter().any(|domain| matches_text(pattern, &format!("{domain}{workload}")))
    }

    fn is_of_domain(&self, pattern: &str) -> bool {
        matches_text(pattern, self.trust_domain) || matches_text(pattern, ANY_TRUST_DOMAIN)
    }

    fn has_account(&self, name: &str, namespace: &str) -> bool {
        match name.split_once('/') {
            Some((of, name)) => of == self.namespace && name == self.account,
            None => namespace == self.namespace && name == self.account,
        }
    }
}

/// Returns whether a list that narrows lets something through; one that is not there does.
fn is_among(list: Option<&[String]>, is: impl Fn(&String) -> bool) -> bool {
    list.is_none_or(|list| list.is_empty() || list.iter().any(is))
}

/// Matches as Istio does: exactly, by a beginning (`a*`), by an end (`*a`), or anything (`*`).
fn matches_text(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return text.ends_with(end);
    }
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}
