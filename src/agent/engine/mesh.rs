//! News of the settings of this cluster's own mesh.

use std::sync::Arc;

use super::Engine;
use crate::model::MeshSettings;
use crate::store::Store;
use crate::translate::{Problem, compare_root_namespace, compare_trust_domain};

impl<S: Store> Engine<S> {
    /// Takes in the mesh's settings, or that they are not known any more. They decide about every policy in the mode
    /// `Passthrough`.
    pub(super) fn take_mesh(&mut self, settings: Option<Arc<MeshSettings>>) {
        if self.facts.mesh == settings {
            return;
        }
        match &settings {
            Some(mesh) => tracing::info!(
                place = %mesh.place, trust_domain = %mesh.trust_domain, accepted = mesh.others.len(),
                "the mesh's settings are known"
            ),
            None => tracing::info!("the mesh's settings are not known any more"),
        }
        let mesh = settings.as_deref();
        let domain = mesh.and_then(|mesh| compare_trust_domain(mesh, &self.config.trust_domain));
        let root = mesh.and_then(|mesh| compare_root_namespace(mesh, &self.config.root_namespace));
        self.compare_with_mesh("configuration, trustDomain", domain);
        self.compare_with_mesh("configuration, istiod.rootNamespace", root);
        self.facts.mesh = settings;
        self.donor.touch_all();
    }

    fn compare_with_mesh(&mut self, place: &str, problem: Option<Problem>) {
        let problem = problem.map(|problem| format!("{}; {}", problem.message, problem.cure));
        if let Some(message) = &problem {
            tracing::warn!(%place, %message, "the mesh has other settings than the configuration says");
        }
        self.note_problem(place, problem);
    }
}
