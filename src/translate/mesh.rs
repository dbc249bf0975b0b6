//! Judgements on calls from other clusters by the settings of this cluster's own mesh. The agent and `wharf check` judge by
//! the same functions.

use std::collections::BTreeSet;

use crate::model::{ClusterName, Label, MeshSettings, TlsMode, TrustDomain};

use super::expose::ResolvedEntry;
use super::problem::{Problem, ProblemReason};

/// Callers that are named in one sentence.
const MAX_NAMED: usize = 5;

/// Tells that the mesh's sidecars refuse the callers of these clusters, which they do in the mode `Passthrough` if they do
/// not accept their trust domain (seen: 503). None: they accept all of them.
pub fn refuse_callers<'a>(
    mesh: &MeshSettings,
    callers: impl IntoIterator<Item = (&'a ClusterName, &'a TrustDomain)>,
) -> Option<Problem> {
    let refused: Vec<_> = callers.into_iter().filter(|(_, domain)| !mesh.accepts(domain)).collect();
    if refused.is_empty() {
        return None;
    }
    let named = &refused[..refused.len().min(MAX_NAMED)];
    let more = match refused.len() - named.len() {
        0 => String::new(),
        more => format!(" and those of {more} more clusters"),
    };
    let (domains, whose) = if refused.len() == 1 { ("trust domain", "its") } else { ("trust domains", "their") };
    let each: Vec<_> = named.iter().map(|(cluster, domain)| format!("{domain} of {cluster}")).collect();
    let message = format!(
        "the mesh does not accept the {domains} {}{more}: in the mode Passthrough {whose} calls get 503",
        each.join(", ")
    );
    let root = |(cluster, domain): &(&ClusterName, &TrustDomain)| {
        format!("{{pem: (the root of {cluster}'s mesh), trustDomains: [{domain}]}}")
    };
    let roots: Vec<_> = named.iter().map(root).collect();
    let cure = format!("add to the mesh's configuration ({}): caCertificates: [{}]", mesh.place, roots.join(", "));
    Some(Problem::new(ProblemReason::TrustDomainNotAccepted, "tls", message).cure(cure))
}

/// Tells that the mesh has another trust domain than the configuration, from which workloads' identities follow.
pub fn compare_trust_domain(mesh: &MeshSettings, configured: &TrustDomain) -> Option<Problem> {
    let own = mesh.trust_domain.as_str();
    let message = format!("the mesh's trust domain is {own}, and Wharf's configuration takes it to be {configured}");
    let problem =
        || Problem::new(ProblemReason::Invalid, "trustDomain", message).cure(format!("set trustDomain: {own}"));
    (own != configured.as_str()).then(problem)
}

/// Tells that the mesh has another root namespace than the configuration.
pub fn compare_root_namespace(mesh: &MeshSettings, configured: &Label) -> Option<Problem> {
    let root = mesh.root_namespace.as_deref().filter(|root| *root != configured.as_str())?;
    let message = format!(
        "the mesh's root namespace is {root}, and Wharf's configuration takes it to be {configured}: other DestinationRules count than Istio's"
    );
    let cure = format!("set istiod.rootNamespace: {root}");
    Some(Problem::new(ProblemReason::Invalid, "istiod.rootNamespace", message).cure(cure))
}

impl ResolvedEntry<'_> {
    /// Returns the mesh's settings, if the providers' sidecars decide who is let in.
    fn deciding_mesh(&self) -> Option<&MeshSettings> {
        self.facts.mesh.as_deref().filter(|_| self.tls == TlsMode::Passthrough)
    }

    /// Returns whether callers of a cluster that may consume are not known to be refused.
    pub fn is_let_in(&self, cluster: &ClusterName) -> bool {
        let consumer = self.consumers.by_cluster.get(cluster);
        self.deciding_mesh().is_none_or(|mesh| consumer.is_none_or(|c| mesh.accepts(&c.peer.trust_domain)))
    }

    /// Tells which clusters are offered nothing, since the providers' sidecars refuse their callers. The objects are the same
    /// all the same: a permission that changes ends what others have open with the pods.
    pub fn refuse_callers(&self) -> Option<Problem> {
        let callers = self.consumers.by_cluster.iter().map(|(name, consumer)| (name, &consumer.peer.trust_domain));
        let mut problem = refuse_callers(self.deciding_mesh()?, callers)?;
        problem.message = format!("{}, so nothing is offered there", problem.message);
        Some(problem)
    }

    /// Notes trust domains that the mesh may not accept, and the root that it needs for those that it does.
    pub fn mesh_note(&self) -> Option<String> {
        let mesh = self.facts.mesh.as_deref();
        let domains = self.consumers.by_cluster.values().map(|c| &c.peer.trust_domain);
        let foreign = domains.filter(|domain| **domain != self.facts.trust_domain);
        let foreign: BTreeSet<&str> =
            foreign.filter(|domain| mesh.is_none_or(|m| m.accepts(domain))).map(TrustDomain::as_str).collect();
        if foreign.is_empty() {
            return None;
        }
        let foreign = foreign.into_iter().collect::<Vec<_>>().join(", ");
        Some(match mesh {
            Some(_) => format!(
                "this mesh accepts the callers' trust domains ({foreign}); their root has to be among the mesh's own or in caCertificates, which is not looked at"
            ),
            None => format!(
                "tls: Passthrough needs a mesh that accepts the trust domains of the callers, which is not known here: without caCertificates: [{{pem: (their root), trustDomains: [{foreign}]}}] in this mesh's MeshConfig calls get 503; wharf check looks"
            ),
        })
    }
}
