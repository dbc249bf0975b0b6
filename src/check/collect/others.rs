//! Reads others' Istio objects that concern all of Wharf's.

use std::sync::Arc;

use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client};

use super::objects;
use crate::api::{Kind, Object};
use crate::check::LookResult;
use crate::check::foreign::SidecarScope;
use crate::check::peering_route::PeeringRouteFacts;
use crate::config::Config;
use crate::translate::{ForeignRule, Inventory};

/// Selects what is not written by an agent.
const OF_OTHERS: &str = "app.kubernetes.io/managed-by!=wharf";

async fn all_of(client: &Client, kind: &str, plural: &str, labels: &str) -> LookResult<Vec<DynamicObject>> {
    let kind = GroupVersionKind::gvk(Kind::DestinationRule.group(), "v1", kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, plural);
    objects::list_objects(&Api::all_with(client.clone(), &resource), labels).await
}

/// Reads what may lead peers from the ingress gateway to the agent.
pub async fn read_peering_route(client: &Client) -> PeeringRouteFacts {
    PeeringRouteFacts {
        gateways: all_of(client, Kind::Gateway.as_str(), "gateways", OF_OTHERS).await,
        routes: all_of(client, Kind::VirtualService.as_str(), "virtualservices", OF_OTHERS).await,
    }
}

/// Returns DestinationRules that are not Wharf's and cover the egress gateway's host. Those that cannot be seen or read
/// are left out: the agent reports them.
pub async fn rules_over_egress(client: &Client, config: &Config) -> Vec<ForeignRule> {
    let mut inventory = Inventory::default();
    let all = all_of(client, Kind::DestinationRule.as_str(), "destinationrules", "").await;
    for object in all.into_iter().flatten().flatten() {
        let value = serde_json::to_value(&object).unwrap_or_default();
        if let Ok(object) = Object::from_json(Kind::DestinationRule, &value) {
            inventory.set_object(Arc::new(object));
        }
    }
    inventory.rules_over(&config.egress.host()).into_iter().collect()
}

pub async fn list_sidecars(client: &Client) -> LookResult<Vec<SidecarScope>> {
    let all = all_of(client, "Sidecar", "sidecars", "").await?;
    let read = |object: DynamicObject| {
        let m = &object.metadata;
        let (namespace, name) = (m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default());
        SidecarScope::from_spec(namespace, name, &object.data["spec"])
    };
    Ok(all.map(|all| all.into_iter().map(read).collect()))
}
