//! Permissions of callers where TLS alone does not decide: in the one filter chain that a name has at a gateway.
//!
//! An AuthorizationPolicy that selects a gateway changes all of its filter chains, and what others have open there ends
//! when they have drained. An EnvoyFilter that matches the SNI of one name changes that name's chain alone, and carries
//! the permission of all ports of an exposition.
//!
//! An EnvoyFilter that an Istio does not match says nothing, and must not let anybody in then:
//!
//! - **HTTP**: Envoy's RBAC filter is put first. Behind it, the first route refuses strangers, too (`permit`).
//! - **TCP**: RBAC looks at a connection only when the caller has sent something, and a server that speaks first would
//!   speak to everybody. So TLS decides. The Gateway's own `subjectAltNames` name somebody who does not exist
//!   ([`NOBODY`]), and the EnvoyFilter adds who may: where it is missing, nobody gets in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::istio::{
    EnvoyFilter, EnvoyFilterConfigPatches as ConfigPatch, EnvoyFilterConfigPatchesApplyTo as ApplyTo,
    EnvoyFilterConfigPatchesMatch as Match, EnvoyFilterConfigPatchesMatchContext as Context,
    EnvoyFilterConfigPatchesMatchListener as Listener, EnvoyFilterConfigPatchesMatchListenerFilterChain as FilterChain,
    EnvoyFilterConfigPatchesMatchProxy as Proxy, EnvoyFilterConfigPatchesMatchWaypointFilter as Filter,
    EnvoyFilterConfigPatchesPatch as Patch, EnvoyFilterConfigPatchesPatchOperation as Operation, EnvoyFilterSpec,
    EnvoyFilterWorkloadSelector as Selector,
};

use super::names::{self, OwnerMarks};

/// An identity that nobody has: no domain ends in `.invalid` (RFC 2606, section 2).
pub(super) const NOBODY: &str = "spiffe://nobody.invalid/wharf";

const FILTER: &str = "wharf.permit";
/// The versions of Istio's proxies that keep the names to expect in `match_subject_alt_names`. Envoy refuses a listener
/// that has the newer field beside it, and with it every change of the gateway: rather nobody is let in.
const VERSIONS: &str = r"^1\.(1[0-9]|2[0-9]|3[01])([^0-9]|$)";

/// A name at a gateway, with a filter chain of its own.
pub(super) struct GuardedName {
    pub host: String,
    /// True if the gateway reads HTTP requests.
    pub http: bool,
}

/// Lets `principals` use the names, and nobody else. It stands before what it guards and is removed after it.
pub(super) fn permit_only(
    marks: &OwnerMarks,
    namespace: &str,
    name: String,
    selector: BTreeMap<String, String>,
    principals: &[String],
    guarded: &[GuardedName],
) -> EnvoyFilter {
    let identities: Vec<Value> = principals.iter().map(|p| identity_matcher(p)).collect();
    let patch =
        |g: &GuardedName| if g.http { rbac_patch(&g.host, &identities) } else { names_to_expect(&g.host, &identities) };
    EnvoyFilter {
        metadata: marks.build_metadata_without(names::MAY_CHANGE, namespace, name),
        spec: EnvoyFilterSpec {
            workload_selector: Some(Selector { labels: Some(selector) }),
            config_patches: Some(guarded.iter().map(patch).collect()),
            ..EnvoyFilterSpec::default()
        },
    }
}

/// Turns a principal as Istio writes it, where a star at the end stands for anything, into Envoy's `StringMatcher`.
fn identity_matcher(principal: &str) -> Value {
    match principal.strip_suffix('*') {
        Some(prefix) => json!({"prefix": format!("spiffe://{prefix}")}),
        None => json!({"exact": format!("spiffe://{principal}")}),
    }
}

fn rbac_patch(host: &str, identities: &[Value]) -> ConfigPatch {
    let principals: Vec<Value> = identities.iter().map(|i| json!({"authenticated": {"principal_name": i}})).collect();
    let value = json!({
        "name": FILTER,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {"permitted": {"permissions": [{"any": true}], "principals": principals}},
            },
        },
    });
    let filter = Filter { name: Some("envoy.filters.network.http_connection_manager".to_owned()), sub_filter: None };
    build_patch(ApplyTo::HttpFilter, match_by_sni(host, Some(filter), None), Operation::InsertFirst, value)
}

fn names_to_expect(host: &str, identities: &[Value]) -> ConfigPatch {
    let value = json!({
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "combined_validation_context": {
                        "default_validation_context": {"match_subject_alt_names": identities},
                    },
                },
            },
        },
    });
    let proxy = Proxy { proxy_version: Some(VERSIONS.to_owned()), metadata: None };
    build_patch(ApplyTo::FilterChain, match_by_sni(host, None, Some(proxy)), Operation::Merge, value)
}

/// Matches by SNI alone: a gateway's port in Envoy is the pods', not the Service's.
fn match_by_sni(host: &str, filter: Option<Filter>, proxy: Option<Proxy>) -> Match {
    let filter_chain = FilterChain { sni: Some(host.to_owned()), filter, ..FilterChain::default() };
    Match {
        context: Some(Context::Gateway),
        listener: Some(Listener { filter_chain: Some(filter_chain), ..Listener::default() }),
        proxy,
        ..Match::default()
    }
}

fn build_patch(apply_to: ApplyTo, r#match: Match, operation: Operation, value: Value) -> ConfigPatch {
    let value = match value {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    ConfigPatch {
        apply_to: Some(apply_to),
        r#match: Some(r#match),
        patch: Some(Patch { operation: Some(operation), value: Some(value), ..Patch::default() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::identity_matcher;

    #[test]
    fn a_star_stands_for_what_follows_and_nothing_else_is_a_pattern() {
        assert_eq!(identity_matcher("isle/*"), json!({"prefix": "spiffe://isle/"}));
        assert_eq!(identity_matcher("isle/ns/office/*"), json!({"prefix": "spiffe://isle/ns/office/"}));
        assert_eq!(identity_matcher("isle/ns/a/sa/b.c"), json!({"exact": "spiffe://isle/ns/a/sa/b.c"}));
    }
}
