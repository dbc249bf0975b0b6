//! `ServiceExpositionPolicy`: what a donor exposes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use crate::model::TlsMode;

/// Exposes services of this namespace to other clusters.
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
    derive = "PartialEq"
)]
#[serde(deny_unknown_fields)]
pub struct ServiceExpositionPolicySpec {
    /// What is exposed: at least one entry.
    pub exposed: Vec<Exposed>,
}

/// One service, under one alias, to some clusters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exposed {
    /// The Service, in the policy's namespace.
    pub name: String,
    /// The name that others see. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// One port of the Service, by number; 0 means not given. Default: every TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Several ports of the Service, by number or name. Excludes `port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRef>,
    /// Only this subset of the Service, as the owner's DestinationRule defines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// A VirtualService of this namespace whose behaviour comes with the service, enforced at the donor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_service: Option<String>,
    /// Who may consume. Empty: every trusted peer.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// Narrower: only these callers inside those clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ExposedClient>,
    /// Whose TLS protects the leg between the clusters. Default: the agent's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
}

/// The original's objects were made by Go, which writes an absent list as null.
pub(super) fn null_is_empty<'de, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
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
        schemars::json_schema!({"x-kubernetes-int-or-string": true})
    }
}

/// A caller inside an acceptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExposedClient {
    /// One of the clusters that may consume.
    pub cluster: String,
    /// The namespace of the caller's pods.
    pub namespace: String,
    /// The service account of the caller's pods. Default: every one of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

/// What became of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// One for each entry of `spec.exposed`, in its order.
    #[serde(default)]
    pub exposed: Vec<ExposedStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposedStatus {
    /// The alias, or the name.
    pub name: String,
    /// The host that others use; empty if nothing is exposed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The clusters that are offered it.
    #[serde(default)]
    pub offered_to: Vec<String>,
    /// The clusters that acknowledged a binding of it.
    #[serde(default)]
    pub bound_by: Vec<String>,
    /// The clusters that rejected it, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected_by: Vec<String>,
    /// Why not, if not; also what is not enforced, and where `clients` are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
