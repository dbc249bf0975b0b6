//! The objects that people write, and the Istio objects that follow from them.

mod binding;
mod columns;
mod condition;
mod definition;
pub mod istio;
mod mesh_config;
mod object;
mod peering;
mod policy;
mod rules;

pub use binding::{
    BindingStatus, BindingSummary, PortStatus, Remote, RemotePort, RemoteService, RemoteServiceBinding,
    RemoteServiceBindingSpec, ServiceStatus,
};
pub use condition::{Condition, ConditionStatus, set_condition};
pub use definition::definitions;
pub use mesh_config::{EntryVisibility, MeshConfig, MeshConfigError, ProxyConfig};
pub use object::{Kind, MESH_GATEWAY, Object, ObjectKey};
pub use peering::{ClusterPeering, ClusterPeeringSpec, PeeringStatus};
pub use policy::{
    Exposed, ExposedClient, ExposedStatus, ExpositionRejection, PolicyStatus, PolicySummary, PortRef,
    ServiceExpositionPolicy, ServiceExpositionPolicySpec,
};

/// The API group of Wharf's own objects.
pub const GROUP: &str = "multicluster.istio.io";
pub const VERSION: &str = "v1alpha1";

/// Annotation with the policy or binding that an object comes from: `<namespace>.<name>`, several with commas, or
/// `wharf`.
pub const PROVENANCE: &str = "multicluster.istio.io/provenance";
/// The Kubernetes label that says who manages an object; Wharf's own carry `wharf`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label that groups the objects which are made and removed together.
pub const OWNER: &str = "multicluster.istio.io/owner";
/// The label that names the policy of an object that comes from a single one.
pub const POLICY_LABEL: &str = "multicluster.istio.io/policy";
/// The label that names the binding of an object that comes from a single one.
pub const BINDING_LABEL: &str = "multicluster.istio.io/binding";
/// Istio's annotation of a Service that says which namespaces see it.
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Istio's annotation of a Service for the service accounts of its pods (istio.io/docs/reference/config/annotations).
pub const SERVICE_ACCOUNTS: &str = "alpha.istio.io/kubernetes-serviceaccounts";
/// The label of a binding that says whether it is in force: `live` (also when absent) or `potential`.
pub const CONNECTION: &str = "connection";
/// The label that names the peer whose exposition is stored.
pub const PEER: &str = "multicluster.istio.io/peer";
/// Istio's label of a namespace whose pods are in ambient mode, and its value.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
pub const AMBIENT: &str = "ambient";

/// Returns the last writer of an object, as far as its store knows (server-side apply, "field management").
pub fn changed_by(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<&str> {
    metadata.managed_fields.as_ref()?.first()?.manager.as_deref()
}

/// A list for a column of a table: the first three, and how many more.
fn join_first_three<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let mut names = names.into_iter();
    let shown: Vec<&str> = names.by_ref().take(SHOWN).collect();
    match names.count() {
        0 => shown.join(","),
        more => format!("{},+{more}", shown.join(",")),
    }
}
