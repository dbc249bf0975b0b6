//! Istio's ambient mode: the condition that statuses in its namespaces have. Pure.
//!
//! Pods in this mode have no sidecar, and ztunnel applies neither VirtualServices nor DestinationRules
//! (docs/sidecars.md). Everything is configured as anywhere else, because there may be pods with a sidecar, too. Only
//! the statuses differ.

use std::collections::BTreeSet;

use crate::api::{AMBIENT, Condition, DATAPLANE_MODE, ServiceExpositionPolicySpec, set_condition};
use crate::model::TlsMode;

const TYPE: &str = "DataPlaneSupported";
const REASON: &str = "AmbientMode";

/// Returns whether the conditions report ambient mode.
pub fn is_reported(conditions: &[Condition]) -> bool {
    conditions.iter().any(|c| c.type_ == TYPE)
}

/// Adds or removes the condition. While the mode is unknown, the condition of a former process stays.
pub fn set_ambient_condition(
    conditions: &mut Vec<Condition>,
    ambient: Option<bool>,
    condition: impl FnOnce() -> Condition,
    generation: Option<i64>,
    now: &str,
) {
    match ambient {
        Some(true) => set_condition(conditions, condition(), generation, now),
        Some(false) => conditions.retain(|c| c.type_ != TYPE),
        None => {}
    }
}

pub fn of_binding(namespace: &str) -> Condition {
    let message = format!(
        "pods of namespace {namespace} are in ambient mode ({}), have no sidecar, and so cannot call by this binding; pods \
         with a sidecar can; put a gateway between for the others (docs/sidecars.md)",
        label_text()
    );
    Condition::new(TYPE, false, REASON, message)
}

/// Builds the condition of a policy. `tls` is the mode of entries that name none.
pub fn of_policy(namespace: &str, spec: &ServiceExpositionPolicySpec, tls: TlsMode) -> Condition {
    let (through, others): (Vec<_>, Vec<_>) =
        spec.exposed.iter().partition(|e| e.tls.unwrap_or(tls) == TlsMode::Passthrough);
    let through: Vec<_> = through.into_iter().map(|e| e.alias.as_deref().unwrap_or(&e.name)).collect();
    let mut said = Vec::new();
    if !through.is_empty() {
        said.push(format!(
            "TLS in the mode Passthrough ends in the sidecar, which they lack, so it is not exposed ({}): use another \
             mode",
            through.join(", ")
        ));
    }
    if !others.is_empty() {
        let modes: BTreeSet<_> = others.into_iter().map(|e| e.tls.unwrap_or(tls).to_string()).collect();
        let modes: Vec<_> = modes.into_iter().collect();
        said.push(format!(
            "the mode {} was not tried with them: Istio's gateways reach such pods by HBONE by themselves",
            modes.join(" or ")
        ));
    }
    if said.is_empty() {
        said.push("nothing was tried with them".to_owned()); // it has no entries
    }
    let message = format!(
        "pods of namespace {namespace} are in ambient mode ({}): {} (docs/sidecars.md)",
        label_text(),
        said.join("; ")
    );
    Condition::new(TYPE, false, REASON, message)
}

fn label_text() -> String {
    format!("its label {DATAPLANE_MODE}: {AMBIENT}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::agent::acceptor::AcceptorSide;
    use crate::agent::donor::DonorSide;
    use crate::config::Config;
    use crate::model::ClusterFacts;
    use crate::store::NamedKey;
    use crate::translate::Inventory;
    use serde_json::{Value, json};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_nobody_has_told_is_not_known() {
        let mut inventory = Inventory::default();
        assert_eq!(inventory.is_ambient("shop"), None);
        assert_eq!(inventory.learn_ambient(Some("shop".into()), set(&["shop"])), set(&["shop"]));
        assert_eq!(inventory.learn_ambient(Some("team-a".into()), set(&[])), set(&[]));
        let known = ["shop", "team-a", "b"].map(|namespace| inventory.is_ambient(namespace));
        assert_eq!(known, [Some(true), Some(false), None]);
        assert_eq!(inventory.learn_ambient(Some("shop".into()), set(&[])), set(&["shop"]));
        assert_eq!(inventory.is_ambient("shop"), Some(false));
        let mut all = Inventory::default();
        all.learn_ambient(None, set(&["shop", "till"]));
        assert_eq!((all.is_ambient("shop"), all.is_ambient("b")), (Some(true), Some(false)));
        assert_eq!(all.learn_ambient(None, set(&["shop", "b"])), set(&["b", "till"]), "those that are another now");
    }

    #[test]
    fn it_is_told_while_it_is_so_and_kept_as_it_was_while_nobody_knows() {
        let mut conditions = vec![Condition::new("Bound", true, "Bound", "")];
        let tell = |conditions: &mut Vec<Condition>, ambient, now: &str| {
            set_ambient_condition(conditions, ambient, || of_binding("shop"), None, now);
            conditions.iter().map(|c| (c.type_.clone(), c.last_transition_time.clone())).collect::<Vec<_>>()
        };
        let without = tell(&mut conditions, None, "noon");
        assert_eq!(without.len(), 1);
        let with = tell(&mut conditions, Some(true), "one");
        assert_eq!(with[1], (TYPE.to_owned(), Some("one".to_owned())));
        assert_eq!(tell(&mut conditions, Some(true), "two"), with, "it is so since then");
        assert_eq!(tell(&mut conditions, None, "three"), with);
        assert!(is_reported(&conditions));
        assert_eq!(tell(&mut conditions, Some(false), "four"), without);
        assert!(!is_reported(&conditions));
    }

    fn message(exposed: Value, tls: TlsMode) -> String {
        let spec = serde_json::from_value(json!({"exposed": exposed})).unwrap();
        let condition = of_policy("shop", &spec, tls);
        assert_eq!((condition.reason.as_str(), condition.type_.as_str()), (REASON, TYPE));
        condition.message
    }

    #[test]
    fn a_policy_tells_what_becomes_of_the_modes_that_it_has() {
        let both = json!([{"name": "a", "alias": "x", "tls": "Passthrough"}, {"name": "b"}]);
        let told = message(both, TlsMode::Workload);
        assert!(told.contains("is not exposed (x)") && told.contains("the mode Workload was not tried"), "{told}");
        assert!(told.contains("namespace shop") && told.contains("istio.io/dataplane-mode: ambient"), "{told}");
        let through = message(json!([{"name": "a"}, {"name": "b"}]), TlsMode::Passthrough);
        assert!(through.contains("is not exposed (a, b)") && !through.contains("not tried"), "{through}");
        let others = message(json!([{"name": "a"}, {"name": "b", "tls": "Cluster"}]), TlsMode::Workload);
        assert!(others.contains("Cluster or Workload was not tried") && !others.contains("Passthrough"), "{others}");
    }

    fn facts() -> ClusterFacts {
        let config = Config::parse("cluster: harbor\ntls: Passthrough\n", "test", Path::new(".")).unwrap();
        config.cluster_facts("spiffe://wharf/cluster/harbor".parse().unwrap())
    }

    fn object<T: serde::de::DeserializeOwned>(kind: &str, spec: &Value) -> Arc<T> {
        let metadata = json!({"name": "a", "namespace": "shop", "generation": 7});
        let api = "multicluster.istio.io/v1alpha1";
        let object = json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// In statuses made one after the other: what is said of ambient mode; what else is said is always the same.
    fn said(mut status: impl FnMut(Option<bool>) -> Vec<Condition>) -> Vec<bool> {
        let without = status(Some(false));
        assert!(!without.is_empty());
        let steps = [None, Some(true), None, Some(false), None];
        let each = steps.into_iter().map(|ambient| {
            let (of_it, rest): (Vec<_>, Vec<_>) = status(ambient).into_iter().partition(|c| c.type_ == TYPE);
            assert_eq!(rest, without);
            assert!(
                of_it
                    .iter()
                    .all(|c| c.status == crate::api::ConditionStatus::False && c.observed_generation == Some(7))
            );
            !of_it.is_empty()
        });
        each.collect()
    }

    #[test]
    fn statuses_tell_it_and_say_the_rest_as_they_would_without() {
        let (facts, key) = (facts(), NamedKey { namespace: "shop".into(), name: "a".into() });
        let wanted = [false, true, true, false, false];
        let mut donor = DonorSide::default();
        donor.set_policy(key.clone(), object("ServiceExpositionPolicy", &json!({"exposed": [{"name": "a"}]})));
        let policy =
            |ambient| donor.build_status(&key, &facts, ambient, "noon", |_| BTreeMap::new()).unwrap().conditions;
        assert_eq!(said(policy), wanted);
        let told = donor.build_status(&key, &facts, Some(true), "noon", |_| BTreeMap::new()).unwrap().conditions;
        assert!(told[2].message.contains("is not exposed (a)"), "the mode is the agent's: {told:?}");
        assert!(donor.policy_conditions().all(|(_, conditions)| is_reported(conditions)));

        let mut acceptor = AcceptorSide::default();
        let remote = json!({"remote": [{"cluster": "reef", "services": [{"name": "a"}]}]});
        acceptor.set_binding(key.clone(), object("RemoteServiceBinding", &remote));
        let binding = |ambient| acceptor.build_status(&key, &facts, ambient, "noon").unwrap().conditions;
        assert_eq!(said(binding), wanted);
        assert!(acceptor.binding_conditions().all(|(_, conditions)| !is_reported(conditions)));
    }

    #[test]
    fn a_binding_tells_what_to_do() {
        let told = of_binding("shop").message;
        assert!(
            told.contains("pods of namespace shop are in ambient mode") && told.contains("a gateway between"),
            "{told}"
        );
    }
}
