//! `ServiceExpositionPolicy`: the expositions of a donor.

use std::collections::BTreeSet;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, join_first_three, rules};
use crate::model::TlsMode;

/// What is exposed. Each entry stands alone: one that cannot be exposed does not hold up the others.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multicluster.istio.io",
    version = "v1alpha1",
    kind = "ServiceExpositionPolicy",
    plural = "serviceexpositionpolicies",
    shortname = "sep",
    category = "wharf",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Says which Services of its namespace other clusters may use, under which name, and which clusters those are. \
           It is written in the donor cluster; a RemoteServiceBinding in the acceptor cluster is the claim."
)]
#[serde(deny_unknown_fields)]
pub struct ServiceExpositionPolicySpec {
    /// What is exposed: at least one entry. An entry is told apart from the others by `name` and `alias`.
    #[schemars(transform = rules::exposed)]
    pub exposed: Vec<Exposed>,
}

/// One Service, under one name, to some clusters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = rules::entry)]
pub struct Exposed {
    /// The Service, in the policy's namespace. An ExternalName Service is refused, and so is one without a selector, unless
    /// the agent's configuration allows it.
    #[schemars(transform = rules::service)]
    pub name: String,
    /// The name that others see: the exposed host is `<alias>.<namespace>.svc.cluster.local`. Empty, or not given:
    /// `name`. No two entries of a policy may be exposed under one name.
    #[serde(default, deserialize_with = "empty_is_none", skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::alias)]
    pub alias: Option<String>,
    /// One port of the Service, by number; 0 means not given. Default: every TCP port. Excludes `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::port)]
    pub port: Option<u16>,
    /// Several ports of the Service, by number or name. Default: every TCP port. Excludes `port`. The first one has the
    /// exposed host itself, each further one the host `p<port>.<host>`.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::ports)]
    pub ports: Vec<PortRef>,
    /// Only this subset of the Service, as a DestinationRule of this namespace defines it. Default: all of it. Excludes
    /// `virtualService`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::subset)]
    pub subset: Option<String>,
    /// A VirtualService of this namespace. Its behaviour (routes over subsets, timeouts, retries, faults, header rules)
    /// comes with the Service, and is enforced at the donor's gateway. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::virtual_service)]
    pub virtual_service: Option<String>,
    /// Who may consume: names of clusters. Empty, or not given: every peer that may consume, also those to come.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::clusters)]
    pub clusters: Vec<String>,
    /// Narrower: only these callers inside those clusters. A cluster of which none is named may not consume at all. Empty,
    /// or not given: every caller.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::clients)]
    pub clients: Vec<ExposedClient>,
    /// Whose TLS protects the leg between the clusters, and where it ends. `Cluster`: the clusters' own certificates, up
    /// to the donor's ingress gateway. `Workload`: the workloads' certificates, up to there. `Passthrough`: the
    /// workloads' certificates, end to end; refused unless the agent's configuration vouches for the provider's sidecars.
    /// Default: what the agent's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::choice)]
    pub tls: Option<TlsMode>,
}

/// Reads null as an empty list. The original's objects were made by Go, which writes an absent list as null.
pub(super) fn null_is_empty<'de, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

/// Reads an empty text as none. The API server fills in an empty text where a key of a list is absent; to Go they were
/// the same anyway.
pub(super) fn empty_is_none<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|text| !text.is_empty()))
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

impl JsonSchema for PortRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortRef".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"description": "A port by number or by name.", "x-kubernetes-int-or-string": true})
    }
}

/// A caller inside an acceptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExposedClient {
    /// The caller's cluster: one of those that may consume.
    #[schemars(transform = rules::cluster)]
    pub cluster: String,
    /// The namespace of the caller's pods.
    #[schemars(transform = rules::namespace)]
    pub namespace: String,
    /// The service account of the caller's pods. Default: every one of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::service_account)]
    pub service_account: Option<String>,
}

/// What became of a policy. Written by the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The metadata.generation that this was seen of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: it works, as far as this cluster can know. `Exposed`: every entry is exposed. `Programmed`: something is,
    /// and all objects of the policy are in place. `DataPlaneSupported`, only if it is not: the namespace is in Istio's
    /// ambient mode. `Reconciling` and `Stalled`, only while it is so: the agent is at work, or somebody has to act.
    #[serde(default)]
    #[schemars(transform = rules::conditions)]
    pub conditions: Vec<Condition>,
    /// One for each entry of `spec.exposed`, in its order.
    #[serde(default)]
    #[schemars(transform = rules::told)]
    pub exposed: Vec<ExposedStatus>,
    /// All entries in a few words, for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<PolicySummary>,
}

/// What became of one entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposedStatus {
    /// The name that others see: the alias, or the name.
    pub name: String,
    /// The host that others use; absent if nothing is exposed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The port that `host` itself means to peers of Wharf 0.1; others use `p<port>.<host>`. It never means another one, and
    /// is served only while this is the entry's one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::port)]
    pub host_port: Option<u16>,
    /// `Exposed`, or in one word why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The clusters that are offered it now.
    #[serde(default)]
    #[schemars(transform = rules::told)]
    pub offered_to: Vec<String>,
    /// The clusters that acknowledged a binding of it.
    #[serde(default)]
    #[schemars(transform = rules::told)]
    pub bound_by: Vec<String>,
    /// The clusters that rejected it, each with its reason.
    #[serde(default, deserialize_with = "read_rejections", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = rules::rejected_by)]
    pub rejected_by: Vec<ExpositionRejection>,
    /// Why not, if not, and what to do; else what should be known: what is not enforced, and where `clients` are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A cluster that rejected what an entry exposes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExpositionRejection {
    /// The cluster.
    pub cluster: String,
    /// Its reason, in one word.
    #[serde(default)]
    pub reason: String,
    /// The other cluster's own sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Reads rejections. Version 0.1 wrote each rejection as one text, `<cluster>: <reason>: <message>`.
fn read_rejections<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<ExpositionRejection>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum StoredRejection {
        Object(ExpositionRejection),
        Text(String),
    }
    let stored = Option::<Vec<StoredRejection>>::deserialize(d)?.unwrap_or_default();
    let read = |stored| match stored {
        StoredRejection::Object(rejection) => rejection,
        StoredRejection::Text(text) => {
            let mut parts = text.splitn(3, ": ").map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            ExpositionRejection { cluster: part(), reason: part(), message: part() }
        }
    };
    Ok(stored.into_iter().map(read).collect())
}

/// All entries of a policy in a few words: the first three of each, and how many more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicySummary {
    /// The hosts that other clusters use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hosts: String,
    /// The clusters that are offered something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub offered_to: String,
    /// The clusters that acknowledged a binding of something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bound_by: String,
    /// The clusters that rejected something.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rejected_by: String,
}

impl PolicySummary {
    /// Returns None if there is nothing to say: of a map that becomes empty, server-side apply makes a null, which the
    /// definition refuses.
    pub fn of(exposed: &[ExposedStatus]) -> Option<PolicySummary> {
        let names = |of: fn(&ExposedStatus) -> &[String]| {
            let all: BTreeSet<&str> = exposed.iter().flat_map(of).map(String::as_str).collect();
            join_first_three(all)
        };
        let rejected: BTreeSet<&str> =
            exposed.iter().flat_map(|e| &e.rejected_by).map(|r| r.cluster.as_str()).collect();
        let summary = PolicySummary {
            hosts: join_first_three(exposed.iter().map(|e| e.host.as_str()).filter(|h| !h.is_empty())),
            offered_to: names(|e| &e.offered_to),
            bound_by: names(|e| &e.bound_by),
            rejected_by: join_first_three(rejected),
        };
        (summary != PolicySummary::default()).then_some(summary)
    }
}
