//! People, Flux (kstatus) and Argo CD (a script in Lua) read the same of statuses that the real code makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

use super::*;
use crate::agent::acceptor::AcceptorSide;
use crate::agent::donor::{DonorSide, WriteState};
use crate::api::{Kind, ObjectKey};
use crate::model::{ClusterFacts, DoubtKind, GatewayDoubt, GatewayDoubts, MeshSettings, Style, TlsMode};
use crate::peering::convert::ExpositionOutcome;
use crate::store::NamedKey;
use crate::translate::Inventory;
use crate::translate::tests::build::{self, Offered, cluster, harbor, isle, offered, shop};

const NOON: &str = "2026-01-01T12:00:00Z";
const GENERATION: i64 = 3;

/// The words of kstatus and of Argo CD for one object.
type Readings = (&'static str, String);

/// The rules of kstatus for an object of a kind that it does not know (cli-utils, pkg/kstatus/status/status.go).
fn read_as_kstatus(generation: i64, status: &Value) -> &'static str {
    if status["observedGeneration"].as_i64().is_some_and(|observed| observed != generation) {
        return "InProgress";
    }
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let holds = |type_: &str| conditions.iter().find(|c| c["type"] == type_).map(|c| c["status"] == "True");
    match (holds("Reconciling"), holds("Stalled"), holds("Ready")) {
        (Some(true), ..) => "InProgress",
        (_, Some(true), _) => "Failed",
        (_, _, Some(false)) => "InProgress",
        _ => "Current",
    }
}

fn read_as_argo(kind: &str, generation: i64, status: &Value) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/argocd/resource_customizations/multicluster.istio.io");
    let script = std::fs::read_to_string(format!("{folder}/{kind}/health.lua")).unwrap();
    let lua = Lua::new();
    let object = json!({"kind": kind, "metadata": {"name": "a", "generation": generation}, "status": status});
    lua.globals().set("obj", lua.to_value(&object).unwrap()).unwrap();
    let health: mlua::Table = lua.load(script).eval().unwrap();
    assert!(!health.get::<String>("message").unwrap().is_empty());
    health.get("status").unwrap()
}

/// The reason of `Ready`, and how tools read the status. All conditions are of the generation, and kstatus' only there while true.
fn read<T: serde::Serialize>(kind: &str, status: &T) -> (String, Readings) {
    let status = serde_json::to_value(status).unwrap();
    let conditions: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap();
    assert_eq!(conditions[0].type_, READY, "columns show the first condition that does not hold");
    for condition in &conditions {
        assert_eq!(condition.observed_generation, Some(GENERATION), "{condition:?}");
        let mark = [RECONCILING, STALLED].contains(&condition.type_.as_str());
        assert!(!mark || condition.status == ConditionStatus::True, "{condition:?}");
    }
    let kstatus = read_as_kstatus(GENERATION, &status);
    let argo = read_as_argo(kind, GENERATION, &status);
    let reason = conditions[0].reason.clone();
    let agreed = match argo.as_str() {
        "Healthy" => "Current",
        "Degraded" => "Failed",
        "Suspended" => return (reason, (kstatus, argo)), // a word that kstatus does not have
        _ => "InProgress",
    };
    assert_eq!(kstatus, agreed, "{conditions:?}");
    let works = conditions[0].status == ConditionStatus::True;
    assert_eq!(kstatus == "Current", works);
    assert_ne!(read_as_kstatus(GENERATION + 1, &status), "Current", "the spec has changed since");
    assert_ne!(read_as_argo(kind, GENERATION + 1, &status), "Healthy");
    (reason, (kstatus, argo))
}

fn key(namespace: &str, name: &str) -> NamedKey {
    NamedKey { namespace: namespace.into(), name: name.into() }
}

/// The status of a policy with these entries, whose objects the store took, or not.
fn policy_status(
    entries: Value,
    facts: &ClusterFacts,
    write: WriteState,
    said: &[(&str, ExpositionOutcome)],
) -> PolicyStatus {
    let (mut donor, inventory) = (DonorSide::default(), shop());
    let mut older = build::policy("older", json!([{"name": "till", "alias": "taken"}]));
    older.metadata.creation_timestamp = Some(serde_json::from_value(json!("2025-01-01T00:00:00Z")).unwrap());
    donor.set_policy(key("shop", "older"), Arc::new(older));
    let mut policy = build::policy("partners", entries);
    policy.metadata.generation = Some(GENERATION);
    policy.metadata.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let key = key("shop", "partners");
    donor.set_policy(key.clone(), Arc::new(policy));
    donor.evaluate(&key, &inventory, facts, |_, _| None).unwrap();
    donor.handle_write_result(&key, write, true);
    let said: BTreeMap<_, _> = said.iter().map(|(name, outcome)| (cluster(name), outcome.clone())).collect();
    let mut status = donor.build_status(&key, facts, Some(false), NOON, |_| said.clone()).unwrap();
    set_policy_conditions(&mut status, NOON);
    donor.keep_conditions(&key, &status.conditions);
    let mut later = donor.build_status(&key, facts, Some(false), "later", |_| said.clone()).unwrap();
    set_policy_conditions(&mut later, "later");
    assert_eq!(later, status, "the same inputs give the same status, with the same times");
    status
}

fn policy_reading(entries: Value, facts: &ClusterFacts) -> (String, Readings) {
    read("ServiceExpositionPolicy", &policy_status(entries, facts, WriteState::Done, &[]))
}

#[test]
fn a_policy_that_works_is_ready_for_people_flux_and_argo_cd() {
    let (reason, (kstatus, argo)) = policy_reading(json!([{"name": "till", "clusters": ["isle"]}]), &harbor());
    assert_eq!((reason.as_str(), kstatus, argo.as_str()), ("Ready", "Current", "Healthy"));
}

#[test]
fn no_broken_policy_is_ready_or_programmed() {
    let mut unreached = harbor();
    unreached.ingress.addresses.clear();
    let mut alone = harbor();
    alone.peers.clear();
    let till = |more: Value| {
        let mut entry = json!({"name": "till", "clusters": ["isle"]});
        more.as_object().unwrap().iter().for_each(|(k, v)| entry[k] = v.clone());
        json!([entry])
    };
    for (entries, facts, reason, stalled) in [
        (json!([{"name": "tilll", "clusters": ["isle"]}]), harbor(), "ServiceNotFound", false),
        (till(json!({"port": 81})), harbor(), "PortNotFound", false),
        (till(json!({"subset": "v9"})), harbor(), "SubsetNotFound", false),
        (till(json!({"virtualService": "none"})), harbor(), "VirtualServiceNotFound", false),
        (till(json!({"clusters": ["isel"]})), harbor(), "NoConsumers", false),
        (json!([{"name": "till"}]), alone, "NoConsumers", false),
        (till(json!({"alias": "taken"})), harbor(), "NameConflict", true),
        (till(json!({"alias": "No_Name"})), harbor(), "Invalid", true),
        (json!([]), harbor(), "Invalid", true),
        (till(json!({"port": 8080, "ports": ["http"]})), harbor(), "Invalid", true),
    ] {
        let status = policy_status(entries, &facts, WriteState::Done, &[]);
        let (said, (kstatus, argo)) = read("ServiceExpositionPolicy", &status);
        let expected = if stalled { ("Failed", "Degraded") } else { ("InProgress", "Progressing") };
        assert_eq!((said.as_str(), kstatus, argo.as_str()), (reason, expected.0, expected.1));
        let programmed = status.conditions.iter().find(|c| c.type_ == "Programmed").unwrap();
        assert_eq!((programmed.status, programmed.reason.as_str()), (ConditionStatus::False, reason));
        assert!(status.exposed.iter().all(|e| entry_state(e, &status.conditions) == reason));
    }
    assert_eq!(policy_reading(till(json!({})), &unreached).1.0, "InProgress");
}

#[test]
fn a_policy_that_is_partly_exposed_is_not_ready_for_the_first_entry_that_is_not() {
    let entries = json!([{"name": "till", "clusters": ["isle"]}, {"name": "ledger", "subset": "v9", "clusters": ["isle"]},
        {"name": "nothing", "clusters": ["isle"]}]);
    let status = policy_status(entries, &harbor(), WriteState::Done, &[]);
    assert_eq!(read("ServiceExpositionPolicy", &status).0, "SubsetNotFound");
    let states: Vec<_> = status.exposed.iter().map(|e| entry_state(e, &status.conditions)).collect();
    assert_eq!(states, ["Ready", "SubsetNotFound", "ServiceNotFound"], "each row has its own");
    let message = &status.conditions[0].message;
    assert!(message.contains("spec.exposed[1]") && message.contains("spec.exposed[2]"), "{message}");
}

#[test]
fn a_policy_whose_objects_are_not_in_place_or_that_a_peer_rejects_is_not_ready() {
    let entries = || json!([{"name": "till", "clusters": ["isle"]}]);
    let gateway = ObjectKey { kind: Kind::Gateway, namespace: "istio-system".into(), name: "till".into() };
    let reading = |write: WriteState, said: &[(&str, ExpositionOutcome)]| {
        read("ServiceExpositionPolicy", &policy_status(entries(), &harbor(), write, said))
    };
    assert_eq!(
        reading(WriteState::Failed("the disk is full".into()), &[]),
        ("WriteFailed".into(), ("InProgress", "Progressing".into()))
    );
    assert_eq!(reading(WriteState::Pending, &[]), ("Pending".into(), ("InProgress", "Progressing".into())));
    assert_eq!(
        reading(WriteState::Conflict(vec![gateway]), &[]),
        ("NameConflict".into(), ("Failed", "Degraded".into()))
    );
    let rejected = ExpositionOutcome::rejected("NameConflict", "the acceptor's name for it is in use there");
    let status = policy_status(entries(), &harbor(), WriteState::Done, &[("isle", rejected)]);
    assert_eq!(
        read("ServiceExpositionPolicy", &status),
        (REJECTED_BY_PEER.into(), ("InProgress", "Progressing".into()))
    );
    assert!(status.conditions[0].message.contains("till is rejected by isle: NameConflict"), "{status:?}");
    assert_eq!(reading(WriteState::Done, &[("isle", ExpositionOutcome::bound())]).0, "Ready");
}

fn unusable_identity() -> GatewayDoubt {
    GatewayDoubt { kind: DoubtKind::Identity, message: "its key is Ed25519".into(), cure: "have another issued".into() }
}

#[test]
fn an_identity_that_gateways_cannot_use_leaves_nothing_green_in_the_mode_cluster() {
    let mut facts = harbor();
    facts.doubts.identity = Some(unusable_identity());
    let reading = |mode: &str| policy_reading(json!([{"name": "till", "clusters": ["isle"], "tls": mode}]), &facts);
    assert_eq!(reading("Cluster"), ("IdentityUnusable".into(), ("Failed", "Degraded".into())));
    assert_eq!(reading("Workload").0, "Ready", "gateways show another certificate in it");

    let mut office = Office::new(Some(offered("harbor", "till", TlsMode::Cluster)));
    office.facts.doubts.identity = Some(unusable_identity());
    let status = office.status(None, WriteState::Done);
    assert_eq!(read("RemoteServiceBinding", &status).0, "IdentityUnusable");
    assert_eq!(service_state(&status.services[0], &status.conditions), "IdentityUnusable");
    assert!(status.conditions[0].message.contains("its key is Ed25519; have another issued"), "{status:?}");
    office.facts.doubts.identity = None;
    assert_eq!(office.reading(None, WriteState::Done).0, "Ready", "and it goes when it is over");
}

#[test]
fn what_the_mesh_refuses_to_some_leaves_nothing_green_although_others_are_served() {
    let mesh = MeshSettings {
        place: "ConfigMap istio-system/istio".into(),
        trust_domain: "harbor".into(),
        others: BTreeSet::from(["isle".to_owned()]),
        root_namespace: None,
    };
    let facts = ClusterFacts { mesh: Some(Arc::new(mesh)), ..harbor() };
    let status = policy_status(json!([{"name": "till", "tls": "Passthrough"}]), &facts, WriteState::Done, &[]);
    assert_eq!(
        read("ServiceExpositionPolicy", &status),
        ("TrustDomainNotAccepted".into(), ("Failed", "Degraded".into()))
    );
    assert_eq!(status.exposed[0].offered_to, ["isle"]);
    let condition = |type_: &str| status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.reason.as_str());
    assert_eq!([condition("Exposed"), condition("Programmed")], [Some("TrustDomainNotAccepted"), Some("Programmed")]);
}

#[test]
fn a_gateway_that_does_not_get_the_certificate_leaves_nothing_green_in_the_mode_cluster() {
    let doubt = |kind: DoubtKind| {
        Some(GatewayDoubt { kind, message: "it may not list Secrets".into(), cure: "give it the right".into() })
    };
    let mut facts = harbor();
    let entry = |mode: &str| json!([{"name": "till", "clusters": ["isle"], "tls": mode}]);
    facts.doubts.ingress_credential = doubt(DoubtKind::CredentialDenied);
    let reading = policy_reading(entry("Cluster"), &facts);
    assert_eq!(reading, ("CredentialNotReadable".into(), ("Failed", "Degraded".into())));
    assert_eq!(policy_reading(entry("Workload"), &facts).0, "Ready", "gateways show another certificate in it");
    facts.doubts.ingress_credential = doubt(DoubtKind::CredentialDoubtful);
    let status = policy_status(entry("Cluster"), &facts, WriteState::Done, &[]);
    assert_eq!(status.conditions[0].status, ConditionStatus::Unknown, "the account is only assumed");
    assert_eq!(status.exposed[0].offered_to, ["isle"], "what may work is left in place");
    facts.doubts = GatewayDoubts { egress_credential: doubt(DoubtKind::CredentialDenied), ..GatewayDoubts::default() };
    assert_eq!(policy_reading(entry("Cluster"), &facts).0, "Ready", "it is the other gateway's");

    let mut office = Office::new(Some(offered("harbor", "till", TlsMode::Cluster)));
    office.facts.doubts.egress_credential = doubt(DoubtKind::CredentialDenied);
    assert_eq!(office.reading(None, WriteState::Done), said("CredentialNotReadable", "Failed", "Degraded"));
    office.facts.doubts.egress_credential = None;
    assert_eq!(office.reading(None, WriteState::Done).0, "Ready", "and it goes when it is over");
}

#[test]
fn a_gateway_without_its_port_is_told_as_that_and_never_as_one_that_waits() {
    let mut facts = harbor();
    let (message, cure) = ("there is no port 15443".to_owned(), "add it".to_owned());
    facts.doubts.ingress = Some(GatewayDoubt { kind: DoubtKind::PortMissing, message, cure });
    let known = policy_status(json!([{"name": "till", "clusters": ["isle"]}]), &facts, WriteState::Done, &[]);
    assert_eq!(read("ServiceExpositionPolicy", &known).0, "GatewayPortMissing", "although its address is known");
    assert_eq!(known.exposed[0].offered_to, ["isle"], "what may work is left in place");
    facts.ingress.addresses.clear();
    let unknown = policy_status(json!([{"name": "till", "clusters": ["isle"]}]), &facts, WriteState::Done, &[]);
    assert_eq!(read("ServiceExpositionPolicy", &unknown), ("GatewayPortMissing".into(), ("Failed", "Degraded".into())));
    assert_eq!(unknown.exposed[0].message, "spec.exposed[0]: there is no port 15443; add it");

    let mut office = Office::new(Some(offered("harbor", "till", TlsMode::Cluster)));
    office.facts.doubts.egress =
        Some(GatewayDoubt { kind: DoubtKind::Missing, message: "none".into(), cure: "install it".into() });
    assert_eq!(office.reading(None, WriteState::Done), said("GatewayMissing", "Failed", "Degraded"));
}

struct Office {
    acceptor: AcceptorSide,
    facts: ClusterFacts,
    inventory: Inventory,
}

impl Office {
    /// `till` of harbor, bound in `office`; harbor is connected, and offers this.
    fn new(offer: Option<Offered>) -> Office {
        let mut facts = isle(Style::EgressIngress);
        for peer in facts.peers.values_mut() {
            peer.endpoint = Some(format!("{}.example:7443", peer.name).parse().unwrap());
        }
        let mut office = Office { acceptor: AcceptorSide::default(), facts, inventory: Inventory::default() };
        office.acceptor.set_budget(usize::MAX);
        let harbor = cluster("harbor");
        if let Some(Offered(exposition)) = offer {
            let key = exposition.key.clone();
            office.acceptor.add_offer(&harbor, &key, "v1", Arc::new(exposition));
        }
        let offers = office.acceptor.offers.entry(harbor).or_default();
        (offers.connected, offers.synced) = (true, true);
        office
    }

    fn status(&mut self, label: Option<&str>, write: WriteState) -> BindingStatus {
        let remote = json!([{"cluster": "harbor", "services": [{"name": "till", "namespace": "shop"}]}]);
        let mut binding = build::binding("suppliers", remote);
        binding.metadata.generation = Some(GENERATION);
        binding.metadata.labels = label.map(|l| BTreeMap::from([("connection".to_owned(), l.to_owned())]));
        let key = key("office", "suppliers");
        self.acceptor.set_binding(key.clone(), Arc::new(binding));
        let now = tokio::time::Instant::now();
        while let Some(name) = self.acceptor.next_dirty(now, |_| true) {
            let evaluation = self.acceptor.evaluate(&name, &self.inventory, &self.facts);
            self.acceptor.note_wish(&name, !evaluation.objects.is_empty());
            self.acceptor.handle_write_result(&name, write.clone());
        }
        self.acceptor.handle_shared_result(WriteState::Done);
        let mut status = self.acceptor.build_status(&key, &self.facts, Some(false), NOON).unwrap();
        set_binding_conditions(&mut status, NOON);
        status
    }

    fn reading(&mut self, label: Option<&str>, write: WriteState) -> (String, &'static str, String) {
        let (reason, (kstatus, argo)) = read("RemoteServiceBinding", &self.status(label, write));
        (reason, kstatus, argo)
    }
}

fn said(reason: &str, kstatus: &'static str, argo: &str) -> (String, &'static str, String) {
    (reason.to_owned(), kstatus, argo.to_owned())
}

#[test]
fn a_binding_is_ready_when_it_works_and_else_says_why_not() {
    let till = || Some(offered("harbor", "till", TlsMode::Cluster));
    assert_eq!(Office::new(till()).reading(None, WriteState::Done), said("Ready", "Current", "Healthy"));
    assert_eq!(Office::new(None).reading(None, WriteState::Done), said("NotExposed", "InProgress", "Progressing"));
    assert_eq!(Office::new(till()).reading(Some("potential"), WriteState::Done).2, "Suspended");
    assert_eq!(Office::new(till()).reading(None, WriteState::Pending), said("Pending", "InProgress", "Progressing"));
    let failed = WriteState::Failed("no room".into());
    assert_eq!(Office::new(till()).reading(None, failed), said("WriteFailed", "InProgress", "Progressing"));

    let mut taken = Office::new(till());
    taken.inventory.set_object(build::service("office", "till", json!([{"port": 80}])));
    assert_eq!(taken.reading(None, WriteState::Done), said("NameConflict", "Failed", "Degraded"));

    let mut direct = Office::new(till());
    direct.facts.style = Style::DirectIngress;
    assert_eq!(direct.reading(None, WriteState::Done), said("StyleCannotCarry", "Failed", "Degraded"));
}

#[test]
fn a_binding_whose_donor_is_away_may_work_and_nobody_knows() {
    let mut office = Office::new(Some(offered("harbor", "till", TlsMode::Cluster)));
    let offers = office.acceptor.offers.get_mut(&cluster("harbor")).unwrap();
    (offers.connected, offers.unreachable) = (false, Some("nobody answers".to_owned()));
    let status = office.status(None, WriteState::Done);
    assert_eq!(status.conditions[0].status, ConditionStatus::Unknown);
    assert_eq!(read("RemoteServiceBinding", &status).0, "PeerUnreachable");
}

#[test]
fn a_binding_whose_donor_offers_a_newer_version_that_cannot_be_used_is_not_ready() {
    let mut office = Office::new(Some(offered("harbor", "till", TlsMode::Cluster)));
    assert_eq!(office.status(None, WriteState::Done).conditions[0].reason, "Ready");
    let key = offered("harbor", "till", TlsMode::Cluster).0.key;
    office.acceptor.reject_offer(&cluster("harbor"), &key, "port 0 is none".to_owned().into());
    let status = office.status(None, WriteState::Done);
    assert_eq!(read("RemoteServiceBinding", &status).0, "Rejected");
    assert!(status.conditions[0].message.contains("the last good one stays"), "{status:?}");
    assert_eq!(service_state(&status.services[0], &status.conditions), "Rejected");
}

#[test]
fn a_service_that_works_is_ready_beside_one_that_does_not() {
    let conditions = [
        Condition::new("Bound", false, "NotExposed", ""),
        Condition::new("Programmed", false, "NotExposed", ""),
        Condition::new("PeerConnected", true, "Connected", ""),
    ];
    let service =
        |bound: bool, reason: &str| ServiceStatus { bound, reason: reason.into(), ..ServiceStatus::default() };
    assert_eq!(service_state(&service(true, "Bound"), &conditions), "Ready");
    assert_eq!(service_state(&service(false, "NotExposed"), &conditions), "NotExposed");
    let failed = [Condition::new("Bound", true, "Bound", ""), Condition::new("Programmed", false, "WriteFailed", "")];
    assert_eq!(service_state(&service(true, "Bound"), &failed), "WriteFailed");
}

fn peering(conditions: &[(&str, bool, &str)]) -> (String, &'static str, String) {
    let mut status = PeeringStatus { observed_generation: Some(GENERATION), ..PeeringStatus::default() };
    for (type_, holds, reason) in conditions {
        let condition = Condition::new(type_, *holds, *reason, "as it says");
        set_condition(&mut status.conditions, condition, Some(GENERATION), NOON);
    }
    set_peering_conditions(&mut status, NOON);
    let (reason, (kstatus, argo)) = read("ClusterPeering", &status);
    (reason, kstatus, argo)
}

#[test]
fn a_peering_is_ready_when_each_direction_works_that_is_asked_for() {
    let (connected, subscribed) = (("Connected", true, "InStep"), ("Subscribed", true, "Subscribed"));
    for conditions in [&[connected][..], &[subscribed], &[connected, subscribed]] {
        assert_eq!(peering(conditions), said("Ready", "Current", "Healthy"));
    }
    assert_eq!(peering(&[]), said("Unused", "Failed", "Degraded"));
    assert_eq!(peering(&[("Accepted", false, "Invalid")]), said("Invalid", "Failed", "Degraded"));
    let waits = |reason| said(reason, "InProgress", "Progressing");
    assert_eq!(peering(&[("Connected", false, "Syncing")]), waits("Syncing"));
    assert_eq!(peering(&[connected, ("Subscribed", false, "NotSubscribed")]), waits("NotSubscribed"));
    assert_eq!(peering(&[("Connected", true, "Misbehaving")]), waits("Misbehaving"));
    assert_eq!(peering(&[connected, ("Subscribed", false, "NameClash")]), said("NameClash", "Failed", "Degraded"));
}

#[test]
fn marks_go_when_they_are_over_and_the_time_of_ready_stays() {
    let mut status = PolicyStatus::default();
    let mut step = |reason: &str, now: &str| {
        let holds = reason == "Programmed";
        set_condition(&mut status.conditions, Condition::new("Programmed", holds, reason, ""), None, now);
        set_policy_conditions(&mut status, now);
        let types: BTreeSet<_> = status.conditions.iter().map(|c| c.type_.clone()).collect();
        (
            status.conditions[0].last_transition_time.clone().unwrap(),
            types.contains(RECONCILING),
            types.contains(STALLED),
        )
    };
    assert_eq!(step("Pending", "one"), ("one".into(), true, false));
    assert_eq!(step("NameConflict", "two"), ("one".into(), false, true));
    assert_eq!(step("Programmed", "three"), ("three".into(), false, false));
    assert_eq!(step("Programmed", "four"), ("three".into(), false, false));
}

#[test]
fn what_cannot_be_read_is_not_ready_for_any_tool() {
    let status = crate::store::kube::invalid_status(Some(GENERATION), "spec.exposed: it is none");
    assert_eq!(read("ServiceExpositionPolicy", &status), ("Invalid".into(), ("Failed", "Degraded".into())));
}

#[test]
fn a_status_of_version_0_1_is_read_without_loss() {
    let old = json!({"exposed": [{"name": "till", "offeredTo": ["isle", "reef"],
        "rejectedBy": ["isle: NameConflict: it is: in use", "reef: Rejected: "]}]});
    let status: PolicyStatus = serde_json::from_value(old).unwrap();
    let rejection = |cluster: &str, reason: &str, message: &str| ExpositionRejection {
        cluster: cluster.into(),
        reason: reason.into(),
        message: message.into(),
    };
    let read = [rejection("isle", "NameConflict", "it is: in use"), rejection("reef", "Rejected", "")];
    assert_eq!(status.exposed[0].rejected_by, read);
    let again: PolicyStatus = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
    assert_eq!(again, status);
}

/// The ConfigMap for Argo CD has the scripts that are tested.
#[test]
fn the_config_map_for_argo_cd_has_the_same_scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/argocd");
    let map: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(format!("{folder}/argocd-cm.yaml")).unwrap()).unwrap();
    let data = map["data"].as_object().unwrap();
    assert_eq!(data.len(), 3);
    for kind in ["ServiceExpositionPolicy", "RemoteServiceBinding", "ClusterPeering"] {
        let script = std::fs::read_to_string(format!(
            "{folder}/resource_customizations/multicluster.istio.io/{kind}/health.lua"
        ));
        assert_eq!(data[&format!("resource.customizations.health.multicluster.istio.io_{kind}")], script.unwrap());
    }
}
