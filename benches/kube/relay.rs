//! The least that any answer to a policy can cost: a watch at the donor, one write at the acceptor.

use futures::StreamExt as _;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::site::{self, Side, Site};

pub struct Relay(AbortHandle);

impl Relay {
    /// Answers policies of the namespace `floor` with ServiceEntries like the one that Wharf has written.
    pub async fn start(site: &Site) -> Relay {
        let mut entry = site.made(Side::Acceptor, "ServiceEntry").await.pop().expect("one that Wharf has written");
        entry["metadata"]["name"] = "relayed".into();
        entry["metadata"]["namespace"] = "floor".into();
        let text = entry.to_string();
        let policies: Api<DynamicObject> =
            Api::namespaced_with(site.donor.client(), "floor", &site::resource("ServiceExpositionPolicy"));
        let entries: Api<DynamicObject> =
            Api::namespaced_with(site.acceptor.client(), "floor", &site::resource("ServiceEntry"));
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(policies, watcher::Config::default()));
            let params = PatchParams::apply("relay").force();
            while let Some(event) = events.next().await {
                let Ok(Event::Apply(policy)) = event else { continue };
                let name = policy.metadata.name.unwrap_or_default();
                let body: Value = serde_json::from_str(&text.replace("relayed", &name)).expect("JSON");
                entries.patch(&name, &params, &Patch::Apply(&body)).await.expect("an answer");
            }
        });
        Relay(task.abort_handle())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}
