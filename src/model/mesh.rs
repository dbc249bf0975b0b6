//! The settings of this cluster's own mesh, as far as they decide about calls from other clusters.

use std::collections::BTreeSet;

use super::TrustDomain;

/// The part of Istio's `MeshConfig` that is kept, and where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// The object that holds it, for people: `ConfigMap istio-system/istio`.
    pub place: String,
    pub trust_domain: String,
    /// Further trust domains that the mesh's sidecars let in.
    pub others: BTreeSet<String>,
    pub root_namespace: Option<String>,
}

impl MeshSettings {
    /// Returns whether sidecars take certificates of a trust domain. Envoy compares the beginning of the SPIFFE ID, so nothing is
    /// folded or matched by pattern (istiod, `pilot/pkg/networking/plugin/authn`, `TrustDomainsForValidation`).
    pub fn accepts(&self, domain: &TrustDomain) -> bool {
        self.trust_domain == domain.as_str() || self.others.contains(domain.as_str())
    }
}
