//! Entries that this cluster's own mesh refuses are not offered, and the status says so.

use std::sync::Arc;

use serde_json::{Value, json};

use super::build::*;
use crate::model::{ClusterFacts, ClusterName, MeshSettings, TrustDomain};
use crate::translate::{PolicyTranslation, ProblemReason, refuse_callers};

fn settings(accepted: &[&str]) -> MeshSettings {
    MeshSettings {
        place: "ConfigMap istio-system/istio".into(),
        trust_domain: "harbor".into(),
        others: accepted.iter().map(|domain| (*domain).to_owned()).collect(),
        root_namespace: None,
    }
}

fn knowing(accepted: &[&str]) -> ClusterFacts {
    ClusterFacts { mesh: Some(Arc::new(settings(accepted))), ..harbor() }
}

fn through(facts: &ClusterFacts) -> PolicyTranslation {
    exposed(json!([{"name": "till", "tls": "Passthrough"}]), &shop(), facts)
}

fn offered(out: &PolicyTranslation) -> Vec<&str> {
    out.offers.iter().flat_map(|offer| offer.to.keys().map(ClusterName::as_str)).collect()
}

#[test]
fn a_cluster_whose_trust_domain_the_mesh_does_not_accept_is_offered_nothing_and_others_are() {
    let out = through(&knowing(&["isle"]));
    assert_eq!(offered(&out), ["isle"]);
    let entry = &out.entries[0];
    assert!(entry.problem.is_none(), "it is offered to others");
    let shortfall = entry.shortfall.as_ref().expect("it is told");
    assert_eq!(
        (shortfall.reason, shortfall.field.as_str()),
        (ProblemReason::TrustDomainNotAccepted, "spec.exposed[0].tls")
    );
    assert_eq!(
        (entry.status.reason.as_str(), &entry.status.offered_to[..]),
        ("TrustDomainNotAccepted", &["isle".to_owned()][..])
    );
    let line = &entry.status.message;
    for part in [
        "the mesh does not accept the trust domain reef of reef: in the mode Passthrough its calls get 503",
        "so nothing is offered there",
        "add to the mesh's configuration (ConfigMap istio-system/istio): caCertificates: [{pem: (the root of reef's mesh), trustDomains: [reef]}]",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn an_entry_that_the_mesh_refuses_to_all_is_offered_to_nobody() {
    let out = through(&knowing(&[]));
    assert!(out.offers.is_empty());
    let problem = out.entries[0].problem.as_ref().expect("it is told");
    assert_eq!(problem.reason, ProblemReason::TrustDomainNotAccepted);
    assert!(problem.line().contains("isle of isle, reef of reef"), "{}", problem.line());
    assert!(problem.line().contains("trustDomains: [reef]"), "{}", problem.line());
}

/// Whatever of a permission changes ends what others have open with the pods.
#[test]
fn the_objects_are_the_same_whatever_the_mesh_accepts() {
    let unknown = through(&harbor());
    for accepted in [&[][..], &["isle"], &["isle", "reef"]] {
        assert_eq!(through(&knowing(accepted)).objects, unknown.objects, "{accepted:?}");
    }
}

#[test]
fn what_a_mesh_accepts_is_offered_and_what_is_not_known_is_said_as_before() {
    let accepted = through(&knowing(&["isle", "reef"]));
    let unknown = through(&harbor());
    for out in [&accepted, &unknown] {
        assert_eq!(offered(out), ["isle", "reef"]);
        assert_eq!(out.entries[0].status.reason, "Exposed");
        assert!(out.entries[0].shortfall.is_none());
    }
    let notes = |out: &PolicyTranslation| out.entries[0].notes.join("\n");
    assert!(notes(&unknown).contains("which is not known here"), "{}", notes(&unknown));
    assert!(!notes(&accepted).contains("which is not known here"), "{}", notes(&accepted));
    assert!(notes(&accepted).contains("their root has to be among the mesh's own"), "{}", notes(&accepted));
}

#[test]
fn other_modes_do_not_ask_the_providers_sidecars() {
    let others: Value = json!([{"name": "till", "tls": "Cluster"}, {"name": "kiosk", "tls": "Workload"}]);
    let (known, unknown) = (exposed(others.clone(), &shop(), &knowing(&[])), exposed(others, &shop(), &harbor()));
    assert_eq!(known.objects, unknown.objects);
    assert_eq!(offered(&known), offered(&unknown));
}

#[test]
fn many_refused_clusters_are_one_sentence() {
    let names: Vec<(ClusterName, TrustDomain)> = (0..500)
        .map(|i| (format!("cluster{i}").parse().unwrap(), format!("cluster{i}.example").parse().unwrap()))
        .collect();
    let problem = refuse_callers(&settings(&[]), names.iter().map(|(name, domain)| (name, domain))).unwrap();
    assert!(problem.message.contains("and those of 495 more clusters"), "{problem}");
    assert!(problem.line().len() < 1_000, "{}", problem.line());
    assert!(refuse_callers(&settings(&["cluster7.example"]), [(&names[7].0, &names[7].1)]).is_none());
}
