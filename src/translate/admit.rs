//! AuthorizationPolicies at the provider: whether those that allow callers let in the ingress gateway, from which all calls
//! of other clusters come in the modes `Cluster` and `Workload`.
//!
//! Told only where it is certain: Istio refuses a call if some policy allows something there, and none allows this.

use crate::api::istio::{
    AuthorizationPolicy, AuthorizationPolicyAction, AuthorizationPolicyRules,
    AuthorizationPolicyRulesFromSource as CallerSource,
};
use crate::model::TlsMode;

use super::expose::Resolved;
use super::problem::listed;

/// The trust domain that stands for the mesh's own, whatever that is (istiod, `pkg/config/constants`).
const ANY_TRUST_DOMAIN: &str = "cluster.local";

/// The ingress gateway, as a policy names callers.
struct GatewayCaller<'a> {
    trust_domain: &'a str,
    namespace: &'a str,
    account: &'a str,
}

/// What should be known of policies that leave the gateway out.
pub(super) fn note(e: &Resolved<'_>) -> Option<String> {
    if e.tls == TlsMode::Passthrough {
        return None;
    }
    let ingress = &e.facts.ingress;
    let gateway = GatewayCaller {
        trust_domain: e.facts.trust_domain.as_str(),
        namespace: ingress.namespace.as_str(),
        account: &ingress.service_account,
    };
    let (own, root) = (e.key.namespace.as_str(), e.facts.root_namespace.as_str());
    let mut names = Vec::new();
    for namespace in if own == root { vec![own] } else { vec![own, root] } {
        for policy in e.inventory.permissions(namespace) {
            if !allows(policy) || !concerns(policy, e) {
                continue;
            }
            if policy.spec.rules.iter().flatten().any(|rule| may_let_in(rule, &gateway, namespace)) {
                return None;
            }
            let name = policy.metadata.name.as_deref().unwrap_or_default();
            // Tenants need not see what is in the root namespace.
            names.push(if namespace == own { name.to_owned() } else { "one of the root namespace".to_owned() });
        }
    }
    names.sort_unstable();
    names.dedup();
    let principal = format!("{}/ns/{}/sa/{}", gateway.trust_domain, gateway.namespace, gateway.account);
    (!names.is_empty()).then(|| {
        format!(
            "calls get 403: no AuthorizationPolicy that allows callers of {} ({}) lets in the ingress gateway; add the principal {principal} to one",
            e.service,
            listed(names.iter().map(String::as_str))
        )
    })
}

fn allows(policy: &AuthorizationPolicy) -> bool {
    matches!(policy.spec.action, None | Some(AuthorizationPolicyAction::Allow))
}

/// Whether a policy is for all pods of the Service, as far as its selector says.
fn concerns(policy: &AuthorizationPolicy, e: &Resolved<'_>) -> bool {
    if policy.spec.target_ref.is_some() || policy.spec.target_refs.as_ref().is_some_and(|t| !t.is_empty()) {
        return false; // a waypoint's
    }
    let selector = policy.spec.selector.as_ref().and_then(|s| s.match_labels.as_ref());
    let pods = e.object.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.into_iter().flatten().all(|(key, value)| pods.and_then(|p| p.get(key)) == Some(value))
}

/// Whether a rule may let a caller in; what it asks of requests may be so.
fn may_let_in(rule: &AuthorizationPolicyRules, gateway: &GatewayCaller<'_>, namespace: &str) -> bool {
    let from = rule.from.as_deref().unwrap_or_default();
    from.is_empty() || from.iter().any(|f| f.source.as_ref().is_none_or(|source| may_be(source, gateway, namespace)))
}

fn may_be(source: &CallerSource, gateway: &GatewayCaller<'_>, namespace: &str) -> bool {
    let GatewayCaller { trust_domain, namespace: of_gateway, account } = gateway;
    let workload = format!("/ns/{of_gateway}/sa/{account}");
    // The mesh may have aliases for its trust domain, which the agent does not know.
    let is_gateway = |pattern: &String| {
        let by = |domain: &str| matches_text(pattern, &format!("{domain}{workload}"));
        by(trust_domain) || by(ANY_TRUST_DOMAIN) || pattern.ends_with(&workload)
    };
    let of_account = |name: &String| match name.split_once('/') {
        Some((of, name)) => of == *of_gateway && name == *account,
        None => namespace == *of_gateway && name == account,
    };
    is_among(source.principals.as_deref(), is_gateway)
        && is_among(source.namespaces.as_deref(), |pattern| matches_text(pattern, of_gateway))
        && is_among(source.service_accounts.as_deref(), of_account)
}

/// Whether a list that narrows lets something through; one that is not there does.
fn is_among(list: Option<&[String]>, is: impl Fn(&String) -> bool) -> bool {
    list.is_none_or(|list| list.is_empty() || list.iter().any(is))
}

/// As Istio matches: exactly, by a beginning (`a*`), by an end (`*a`), or anything (`*`).
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
