//! Collects policies and bindings with their statuses, from a cluster or a folder.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use serde::de::DeserializeOwned;

use super::objects;
use crate::agent::blind::{BlindSpots, unread_objects};
use crate::agent::view::{BindingView, PolicyView};
use crate::api::{CONNECTION, RemoteServiceBinding, ServiceExpositionPolicy};
use crate::check::{CheckArea, Finding, ready};
use crate::model::{Address, ClusterFacts, GatewayAddress};
use crate::store::{HiddenInputs, Input};
use crate::translate::{self, Inventory, NameClaims};

/// Checks what the agent of a cluster reports on all policies and bindings.
pub async fn of_cluster(client: &Client) -> Vec<Finding> {
    let policies = list_kind::<ServiceExpositionPolicy>(client).await;
    let bindings = list_kind::<RemoteServiceBinding>(client).await;
    let mut findings = Vec::new();
    match policies {
        Err(why) => findings.push(Finding::unseen(CheckArea::Policies, "ServiceExpositionPolicies", &why)),
        Ok(objects) => {
            findings.extend(ready::judge_policies(&objects.into_iter().flatten().map(read_policy).collect::<Vec<_>>()))
        }
    }
    match bindings {
        Err(why) => findings.push(Finding::unseen(CheckArea::Bindings, "RemoteServiceBindings", &why)),
        Ok(objects) => {
            findings.extend(ready::judge_bindings(&objects.into_iter().flatten().map(read_binding).collect::<Vec<_>>()))
        }
    }
    findings
}

async fn list_kind<K: kube::Resource<DynamicType = ()>>(
    client: &Client,
) -> crate::check::LookResult<Vec<DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    objects::list_objects(&api, "").await
}

fn read_policy(object: DynamicObject) -> PolicyView {
    let (namespace, name) = name_of(&object);
    PolicyView { namespace, name, outdated: is_outdated(&object), status: status_of(&object) }
}

fn read_binding(object: DynamicObject) -> BindingView {
    let (namespace, name) = name_of(&object);
    let label = object.metadata.labels.as_ref().and_then(|l| l.get(CONNECTION)).cloned();
    let connection = label.unwrap_or_else(|| "live".to_owned());
    BindingView { namespace, name, connection, outdated: is_outdated(&object), status: status_of(&object) }
}

fn name_of(object: &DynamicObject) -> (String, String) {
    let m = &object.metadata;
    (m.namespace.clone().unwrap_or_default(), m.name.clone().unwrap_or_default())
}

fn is_outdated(object: &DynamicObject) -> bool {
    let observed = object.data["status"]["observedGeneration"].as_i64();
    observed.is_some() && observed != object.metadata.generation
}

/// Reads a status. One that cannot be read counts as empty.
fn status_of<T: DeserializeOwned + Default>(object: &DynamicObject) -> T {
    serde_json::from_value(object.data["status"].clone()).unwrap_or_default()
}

/// Evaluates the policies of a folder without an agent. Addresses of gateways are left out: another check reports them.
pub fn of_folder(
    inputs: Vec<(String, Input)>,
    unread: &[(String, String, HiddenInputs)],
    mut facts: ClusterFacts,
) -> Vec<Finding> {
    let (mut inventory, mut claims, mut policies) = (Inventory::default(), NameClaims::default(), Vec::new());
    for (place, input) in inputs {
        match input {
            Input::Object(object) => inventory.set_object(object),
            Input::Policy(policy) => {
                claims.insert_policy(&policy);
                policies.push((place, policy));
            }
            _ => {}
        }
    }
    let mut blind = BlindSpots::default();
    for (place, why, hidden) in unread {
        inventory.record_unread(place, Some(unread_objects(why, hidden)));
        blind.note_hidden(place, why, hidden.clone());
    }
    facts.hidden_peers = blind.hidden_peers();
    if facts.ingress.addresses.is_empty() {
        let address = Address::Name(facts.ingress.host());
        facts.ingress.addresses.push(GatewayAddress { address, port: facts.ingress.port, locality: None });
    }
    let mut findings = Vec::new();
    for (place, policy) in policies {
        let exposed = translate::expose_policy(&policy, &inventory, &claims, &facts);
        let problems = exposed.problems.iter().chain(exposed.entries.iter().filter_map(|e| e.problem.as_ref()));
        findings.extend(problems.map(|p| {
            let finding =
                Finding::error(CheckArea::Policies, &place, format!("{}: {}: {}", p.reason, p.field, p.message));
            finding.with_cure(p.cure.as_str())
        }));
    }
    findings
}
