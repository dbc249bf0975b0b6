//! Reads a cluster's state from its API server: the same [`AgentView`] that a running agent gives, as far as objects hold
//! it.

use std::collections::BTreeMap;

use anyhow::bail;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::InspectArgs;
use crate::agent::excerpt::ViewKind;
use crate::agent::view::{AgentView, BindingView, OfferView, PeerView, PolicyView, ProblemView};
use crate::api::{
    BindingStatus, CONNECTION, ClusterPeering, ClusterPeeringSpec, MANAGED_BY, PEER, PolicyStatus,
    RemoteServiceBinding, ServiceExpositionPolicy,
};
use crate::cli::pages::list_pages;
use crate::model::{ClusterName, Peer};
use crate::store::KnownExposition;
use crate::store::kube::client::describe_error;

/// The lists that a command shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ViewPart {
    Status,
    Offers,
    Peers,
}

impl ViewPart {
    /// Names the part, as in "No … found".
    pub fn plural_noun(self) -> &'static str {
        match self {
            ViewPart::Status => "policies or bindings",
            ViewPart::Offers => "offers",
            ViewPart::Peers => "peers",
        }
    }

    /// Returns the list that an agent is asked for. None: all of them.
    pub fn of_agent(self) -> Option<ViewKind> {
        match self {
            ViewPart::Status => None,
            ViewPart::Offers => Some(ViewKind::Offers),
            ViewPart::Peers => Some(ViewKind::Peers),
        }
    }
}

/// A part of an object that is not read.
#[derive(Default, Deserialize)]
pub(super) struct IgnoredPart {}

/// A cluster, and the selection of its objects that is read.
pub struct ClusterReader {
    pub client: Client,
    /// None: all namespaces.
    pub namespace: Option<String>,
    /// Restricts offers to this namespace of their donors.
    donors_namespace: Option<String>,
    pub selector: Option<String>,
    agent_namespace: String,
}

impl ClusterReader {
    pub(super) async fn connect(common: &InspectArgs) -> anyhow::Result<ClusterReader> {
        let client = common.access.connect().await?;
        Ok(ClusterReader {
            namespace: common.shown_namespace(Some(client.default_namespace())),
            donors_namespace: common.shown_namespace(None),
            selector: common.selector.clone(),
            agent_namespace: common.agent_namespace.clone(),
            client,
        })
    }

    pub async fn read_view(&self, part: ViewPart) -> anyhow::Result<AgentView> {
        let mut view = AgentView { synced: true, ..AgentView::default() };
        match part {
            ViewPart::Status => {
                view.policies = self.read_policies(&mut view.problems).await?;
                view.bindings = self.read_bindings(&mut view.problems).await?;
            }
            ViewPart::Peers => view.peers = self.read_peers(&mut view.problems).await?,
            ViewPart::Offers => view.offers = self.read_offers(&mut view.problems).await?,
        }
        Ok(view)
    }

    /// Reads all policies, bindings and peers, in every namespace.
    pub async fn read_everything(&self) -> anyhow::Result<AgentView> {
        let all = self.without_filters();
        let mut view = all.read_view(ViewPart::Status).await?;
        view.peers = all.read_peers(&mut view.problems).await?;
        Ok(view)
    }

    fn without_filters(&self) -> ClusterReader {
        let (client, agent_namespace) = (self.client.clone(), self.agent_namespace.clone());
        ClusterReader { client, agent_namespace, namespace: None, donors_namespace: None, selector: None }
    }

    async fn read_policies(&self, problems: &mut Vec<ProblemView>) -> anyhow::Result<Vec<PolicyView>> {
        let listed = self
            .list_objects(&ApiResource::erase::<ServiceExpositionPolicy>(&()), self.namespace.as_deref(), problems)
            .await?;
        Ok(listed.into_iter().map(policy_view).collect())
    }

    async fn read_bindings(&self, problems: &mut Vec<ProblemView>) -> anyhow::Result<Vec<BindingView>> {
        let listed = self
            .list_objects(&ApiResource::erase::<RemoteServiceBinding>(&()), self.namespace.as_deref(), problems)
            .await?;
        Ok(listed.into_iter().map(binding_view).collect())
    }

    async fn read_peers(&self, problems: &mut Vec<ProblemView>) -> anyhow::Result<Vec<PeerView>> {
        let listed = self.list_objects(&ApiResource::erase::<ClusterPeering>(&()), None, problems).await?;
        let view = |o: ListedObject<ClusterPeeringSpec, _>| {
            let name = o.name.parse::<ClusterName>().ok();
            let identity = o.spec.identity.clone().or_else(|| Some(Peer::with_name(name?).identity.to_string()));
            PeerView {
                name: o.name,
                endpoint: o.spec.endpoint,
                consume: o.spec.consume,
                identity: identity.unwrap_or_default(),
                status: o.status,
            }
        };
        Ok(listed.into_iter().map(view).collect())
    }

    /// Reads what the agent remembers of its peers, from ConfigMaps in its own namespace. Others' ConfigMaps do not
    /// count.
    async fn read_offers(&self, problems: &mut Vec<ProblemView>) -> anyhow::Result<Vec<OfferView>> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.agent_namespace);
        let params = ListParams::default().labels(&format!("{PEER},{MANAGED_BY}=wharf"));
        let maps =
            list_pages(&api, params).try_concat().await.map_err(|e| anyhow::anyhow!("{}", describe_error(&e)))?;
        let mut bindings = Vec::new();
        match self.without_filters().read_bindings(problems).await {
            Ok(found) => bindings = found,
            Err(e) => problems.push(ProblemView { place: "BOUND-BY".into(), message: format!("{e:#}") }),
        }
        let mut offers = Vec::new();
        for map in maps {
            let place = format!("ConfigMap {}/{}", self.agent_namespace, map.metadata.name.unwrap_or_default());
            let cluster = map.metadata.labels.unwrap_or_default().remove(PEER).unwrap_or_default();
            for (key, text) in map.data.unwrap_or_default() {
                match serde_json::from_str::<KnownExposition>(&text) {
                    Ok(known) => offers.push(build_offer(&cluster, known, &bindings)),
                    Err(e) => problems.push(ProblemView { place: format!("{place}: {key}"), message: e.to_string() }),
                }
            }
        }
        offers.retain(|o| self.donors_namespace.as_ref().is_none_or(|n| *n == o.namespace));
        offers.sort_by(|a, b| (&a.cluster, &a.namespace, &a.name).cmp(&(&b.cluster, &b.namespace, &b.name)));
        Ok(offers)
    }

    async fn list_objects<S, T>(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        problems: &mut Vec<ProblemView>,
    ) -> anyhow::Result<Vec<ListedObject<S, T>>>
    where
        S: DeserializeOwned + Default,
        T: DeserializeOwned + Default,
    {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        let params = self.selector.as_ref().map_or_else(ListParams::default, |l| ListParams::default().labels(l));
        let objects = match list_pages(&api, params).try_concat().await {
            Ok(objects) => objects,
            Err(kube::Error::Api(status)) if status.code == 404 => bail!(
                "the cluster has no resource type {:?}; install Wharf's definitions: \
                 wharf crds | kubectl apply --server-side -f -",
                resource.plural
            ),
            Err(e) => bail!("{}", describe_error(&e)),
        };
        Ok(objects.into_iter().map(|o| ListedObject::from_object(&resource.kind, o, problems)).collect())
    }
}

pub(super) fn policy_view(o: ListedObject<IgnoredPart, PolicyStatus>) -> PolicyView {
    let outdated = is_outdated(o.generation, o.status.observed_generation);
    PolicyView { namespace: o.namespace, name: o.name, outdated, status: o.status }
}

pub(super) fn binding_view(o: ListedObject<IgnoredPart, BindingStatus>) -> BindingView {
    let outdated = is_outdated(o.generation, o.status.observed_generation);
    let connection = o.labels.get(CONNECTION).map_or("live", String::as_str).to_owned();
    BindingView { namespace: o.namespace, name: o.name, connection, outdated, status: o.status }
}

/// Returns whether a status describes an older generation of its object. A status without a generation counts as
/// current.
fn is_outdated(generation: Option<i64>, observed: Option<i64>) -> bool {
    observed.is_some_and(|observed| generation.is_some_and(|generation| generation != observed))
}

/// An object of Wharf's, as far as it can be read: objects of another version may have fields that this one does not
/// know.
pub(super) struct ListedObject<S, T> {
    namespace: String,
    name: String,
    generation: Option<i64>,
    labels: BTreeMap<String, String>,
    spec: S,
    status: T,
}

impl<S: DeserializeOwned + Default, T: DeserializeOwned + Default> ListedObject<S, T> {
    pub(super) fn from_object(
        kind: &str,
        mut object: DynamicObject,
        problems: &mut Vec<ProblemView>,
    ) -> ListedObject<S, T> {
        let namespace = object.metadata.namespace.unwrap_or_default();
        let name = object.metadata.name.unwrap_or_default();
        let slash = if namespace.is_empty() { "" } else { "/" };
        let place = format!("{kind} {namespace}{slash}{name}");
        let (spec, status) = (object.data["spec"].take(), object.data["status"].take());
        ListedObject {
            spec: read_part(&place, "spec", spec, problems),
            status: read_part(&place, "status", status, problems),
            generation: object.metadata.generation,
            labels: object.metadata.labels.unwrap_or_default(),
            namespace,
            name,
        }
    }
}

fn read_part<T: DeserializeOwned + Default>(
    place: &str,
    what: &str,
    value: serde_json::Value,
    problems: &mut Vec<ProblemView>,
) -> T {
    if value.is_null() {
        return T::default();
    }
    serde_path_to_error::deserialize(value).unwrap_or_else(|e| {
        let message = format!("{what}.{}: {}; was it written by another version of Wharf?", e.path(), e.inner());
        problems.push(ProblemView { place: place.to_owned(), message });
        T::default()
    })
}

/// Builds the view of an exposition that the agent remembers, with the bindings that use it.
fn build_offer(cluster: &str, known: KnownExposition, bindings: &[BindingView]) -> OfferView {
    let KnownExposition { version, exposition } = known;
    let key = exposition.key.to_string();
    let uses =
        |b: &&BindingView| b.status.services.iter().any(|s| s.bound && s.cluster == cluster && s.exposition == key);
    let bound_by = bindings.iter().filter(uses).map(|b| format!("{}/{}", b.namespace, b.name)).collect();
    OfferView {
        cluster: cluster.to_owned(),
        namespace: exposition.key.namespace.to_string(),
        name: exposition.key.name.to_string(),
        version,
        tls: exposition.tls.to_string(),
        ports: exposition.ports.iter().map(|p| format!("{}/{}", p.number, p.protocol.as_str())).collect(),
        exposition: Some(exposition),
        bound_by,
        ..OfferView::default()
    }
}
