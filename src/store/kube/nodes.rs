//! Addresses of the nodes: watched only if the ingress gateway's Service is of the type NodePort, since that takes the
//! right to list nodes.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector::Lookup as _};
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};

use crate::model::Address;
use crate::store::Change;

const PLACE: &str = "API server, nodes";

/// Waits until the nodes are `wanted`, then reports their addresses whenever they change.
pub async fn watch_nodes(client: Client, wanted: std::sync::Arc<Notify>, changes: mpsc::Sender<Change>) {
    wanted.notified().await;
    let config = watcher::Config::default().page_size(100).timeout(270);
    let mut events = std::pin::pin!(watcher(Api::<Node>::all(client), config).default_backoff());
    let mut nodes: BTreeMap<String, Option<Address>> = BTreeMap::new();
    let mut told: Option<Vec<Address>> = None;
    let mut trouble = false;
    let mut listing = false;
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(event) => {
                match event {
                    Event::Init => (nodes, listing) = (BTreeMap::new(), true),
                    Event::InitDone => listing = false,
                    Event::Apply(node) | Event::InitApply(node) => {
                        let name = node.name().unwrap_or_default().into_owned();
                        nodes.insert(name, node_address(&node));
                    }
                    Event::Delete(node) => drop(nodes.remove(&*node.name().unwrap_or_default())),
                }
                let now: Vec<_> = nodes.values().flatten().cloned().collect();
                if std::mem::take(&mut trouble) {
                    let _ = changes.send(Change::Solved { place: PLACE.into() }).await; // the agent stops
                }
                if listing || told.as_ref() == Some(&now) {
                    continue;
                }
                told = Some(now.clone());
                Change::Nodes(now)
            }
            Err(_) if trouble => continue,
            Err(error) => {
                trouble = true;
                let message = format!(
                    "the ingress gateway's Service is of the type NodePort, and its nodes cannot be listed ({error}); \
                     give the agent the right to, or name where the gateway is reached in ingress.address"
                );
                Change::problem(PLACE, message)
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

/// Returns the address of a ready node: the external one if it has one.
fn node_address(node: &Node) -> Option<Address> {
    let status = node.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    let of = |kind: &str| {
        let mut all = status.addresses.iter().flatten();
        all.find(|a| a.type_ == kind).and_then(|a| a.address.parse().ok())
    };
    (ready && !unschedulable).then(|| of("ExternalIP").or_else(|| of("InternalIP"))).flatten()
}
