//! Looks at a cluster through its API server.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;
use time::OffsetDateTime;

use super::peers::PeerConnections;
use super::rights::RightsSubject;
use super::secrets::UsableIdentity;
use super::{CheckProgress, folder, installed, istiod, objects, others, peers, ready, rights, secrets};
use crate::agent::accounts::{ask_gateway, judge_accounts};
use crate::agent::istiod::metrics_text::GatewayPods;
use crate::api::{
    self, ClusterPeering, Condition, ConditionStatus, GROUP, MeshConfig, RemoteServiceBinding, ServiceExpositionPolicy,
    VERSION,
};
use crate::check::gateways::{self, GatewaySide};
use crate::check::refusals;
use crate::check::rights::needed_rights;
use crate::check::{
    CheckArea, Finding, LookResult, UnseenReason, clock, definitions, foreign, mesh, peering_route, peers as judge,
    rights as permissions, running,
};
use crate::config::{Config, IdentityConfig, StoreConfig, defaults, with_usable_roots};
use crate::model::{ClusterName, ObjectName, OwnGateway, Peer, Style, TlsMode};
use crate::store::kube::definitions::absent_fields;
use crate::store::kube::review::may_list_secrets;
use crate::store::{Input, manifest};

/// The selection of checks, and the account that they are made for.
pub struct CheckOptions {
    /// The agent's configuration, if it is given and can be read.
    pub config: Option<Config>,
    /// The configuration that is assumed if there is no other.
    pub defaults: Config,
    /// The agent's own namespace.
    pub namespace: Option<String>,
    /// Account whose rights are asked for. None: the agent's, if it is found.
    pub subject: Option<RightsSubject>,
}

/// Checks everything about a cluster. The findings come in the order of their areas.
pub async fn check_cluster(client: &Client, options: CheckOptions, progress: &CheckProgress) -> Vec<Finding> {
    progress.set_step("the API server");
    let mut findings = match objects::read_version(client).await {
        Err(why) => return vec![report_unreachable(&why)],
        Ok((version, reading)) => {
            let object = "API server";
            let mut findings = vec![Finding::ok(CheckArea::Cluster, object, format!("Kubernetes {version} answers"))];
            findings.extend(reading.map(|reading| clock::judge_clock(CheckArea::Cluster, object, &reading)));
            findings
        }
    };
    let look = ClusterLook::begin_look(client, options, &mut findings).await;
    progress.set_step("the definitions");
    findings.extend(look.check_definitions().await);
    progress.set_step("the permissions");
    findings.extend(look.check_permissions().await);
    progress.set_step("the agent");
    findings.extend(look.check_agent().await);
    progress.set_step("the certificates");
    let (identity, told) = look.check_identity().await;
    findings.extend(told);
    findings.extend(look.check_credentials(&identity).await);
    progress.set_step("the gateways");
    findings.extend(look.check_gateways().await);
    findings.extend(look.check_refusals().await);
    progress.set_step("the peers");
    findings.extend(look.check_peers(identity).await);
    progress.set_step("the policies and bindings");
    findings.extend(ready::of_cluster(client).await);
    findings.sort_by_key(|f| f.area);
    findings
}

fn report_unreachable(why: &UnseenReason) -> Finding {
    let cure = match why {
        UnseenReason::Forbidden(_) => "log in again, or name another user or context (--context)",
        UnseenReason::Failed(_) => {
            "is it the right cluster (--context, --kubeconfig), and is it up? nothing else was checked"
        }
    };
    Finding::error(CheckArea::Cluster, "API server", why.to_string()).with_cure(cure)
}

/// The data that all checks of a cluster share.
struct ClusterLook<'a> {
    client: &'a Client,
    config: Config,
    /// The configuration is the agent's own, not a default.
    known: bool,
    /// The configuration was read from a file here, so its paths lead to files here.
    here: bool,
    namespace: String,
    subject: Option<RightsSubject>,
    deployment: LookResult<Deployment>,
    now: OffsetDateTime,
}

impl ClusterLook<'_> {
    async fn begin_look<'a>(client: &'a Client, options: CheckOptions, findings: &mut Vec<Finding>) -> ClusterLook<'a> {
        let given = options.config.as_ref().and_then(|c| c.namespace.as_ref()).map(ToString::to_string);
        let namespace = options.namespace.or(given).unwrap_or_else(|| defaults::NAMESPACE.into());
        let deployment = installed::find_deployment(client, &namespace).await;
        let here = options.config.is_some();
        let config = match options.config {
            Some(config) => Some(config),
            None => {
                let (config, finding) = installed::read_configuration(client, &namespace, &deployment).await;
                findings.push(finding);
                config
            }
        };
        let known = config.is_some();
        let account = deployment.as_ref().ok().and_then(|d| installed::service_account(d.as_ref()?));
        let installed = account.map(|name| RightsSubject::ServiceAccount { namespace: namespace.clone(), name });
        let runner = here.then(|| RightsSubject::Own("whoever runs this".into())); // as an agent outside of its cluster does
        let subject = options.subject.or(installed).or(runner);
        ClusterLook {
            client,
            config: config.unwrap_or(options.defaults),
            known,
            here,
            namespace,
            subject,
            deployment,
            now: OffsetDateTime::now_utc(),
        }
    }

    fn cluster_name(&self) -> Option<&ClusterName> {
        self.known.then_some(&self.config.cluster)
    }

    fn namespaced_api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn check_definitions(&self) -> Vec<Finding> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut findings = Vec::new();
        for wanted in api::definitions() {
            let found = objects::get_object(&api, wanted.metadata.name.as_deref().unwrap_or_default()).await;
            findings.push(definitions::judge_own(&wanted, &found));
        }
        if findings.iter().any(|f| f.severity == crate::check::Severity::Unchecked) {
            let kinds = objects::list_kinds(self.client, &format!("{GROUP}/{VERSION}")).await;
            findings.push(definitions::judge_served(&kinds));
        }
        for (group, wanted) in definitions::istio_groups() {
            let kinds = objects::list_kinds(self.client, &group).await;
            findings.push(definitions::judge_istio(&group, &wanted, &kinds));
        }
        findings.push(definitions::judge_absent_fields(&absent_fields(self.client).await));
        findings
    }

    async fn check_permissions(&self) -> Vec<Finding> {
        let Some(subject) = &self.subject else {
            let why = "whose rights? no agent is found";
            let cure = "name its service account: --service-account NAME, or --as system:serviceaccount:NAMESPACE:NAME";
            return vec![Finding::unchecked(CheckArea::Permissions, "agent", why).with_cure(cure)];
        };
        let through_nodes = self.service_type(&self.config.ingress).await.as_deref() == Some("NodePort");
        let wanted = needed_rights(&self.config, &self.namespace, through_nodes);
        let asked = rights::ask_rights(self.client, subject, wanted).await;
        permissions::judge_rights(&subject.user_name(), &asked)
    }

    async fn service_type(&self, gateway: &OwnGateway) -> Option<String> {
        let found = self.read_service(gateway).await.ok()??;
        found.spec.and_then(|s| s.type_)
    }

    async fn read_service(&self, gateway: &OwnGateway) -> LookResult<Service> {
        objects::get_object(&self.namespaced_api(gateway.namespace.as_str()), gateway.service.as_str()).await
    }

    async fn check_agent(&self) -> Vec<Finding> {
        let lease: LookResult<Lease> = objects::get_object(&self.namespaced_api(&self.namespace), "wharf").await;
        let object = format!("Lease {}/wharf", self.namespace);
        vec![
            running::judge_deployment(&self.namespace, &self.deployment),
            running::judge_lease(&object, &lease, self.now),
        ]
    }

    async fn check_identity(&self) -> (UsableIdentity, Vec<Finding>) {
        let unchecked = |why: &str, cure: &str| {
            (Err(why.to_owned()), vec![Finding::unchecked(CheckArea::Identity, "identity", why).with_cure(cure)])
        };
        match &self.config.identity {
            Some(IdentityConfig::Secret(name)) => {
                secrets::read_identity(self.client, &self.namespace, name.as_str(), &self.config.cluster, self.now)
                    .await
            }
            Some(IdentityConfig::Files(files)) if self.here => folder::of_files(&self.config, files, self.now),
            Some(IdentityConfig::Files(_)) => {
                let cure = "run the check there: kubectl exec, wharf check --config FILE";
                unchecked("the identity is in files of the agent's pod", cure)
            }
            None if self.known => {
                let finding =
                    Finding::error(CheckArea::Identity, "configuration", "identity: missing; an agent needs it");
                (
                    Err("there is no identity".into()),
                    vec![finding.with_cure("name the Secret: identity: {secret: NAME}")],
                )
            }
            None => unchecked("where it is is said by the configuration", "name the configuration: --config FILE"),
        }
    }

    /// Returns the gateways that are in use.
    fn gateway_sides(&self) -> Vec<(GatewaySide, &OwnGateway)> {
        let egress = (self.config.style == Style::EgressIngress).then_some((GatewaySide::Egress, &self.config.egress));
        [(GatewaySide::Ingress, &self.config.ingress)].into_iter().chain(egress).collect()
    }

    async fn check_credentials(&self, identity: &UsableIdentity) -> Vec<Finding> {
        let namespaces: BTreeSet<&str> = self.gateway_sides().iter().map(|(_, g)| g.namespace.as_str()).collect();
        let own = identity.as_ref().ok().map(|i| &**i);
        let mut findings = Vec::new();
        for namespace in namespaces {
            let name = self.config.credential.as_str();
            findings.extend(
                secrets::read_credential(self.client, namespace, name, &self.config.cluster, own, self.now).await,
            );
        }
        findings
    }

    async fn check_gateways(&self) -> Vec<Finding> {
        let (place, mesh_config) = self.read_mesh().await;
        let kept = mesh::settings(&place, &mesh_config);
        let mut findings = vec![mesh::trust_domain(&place, &self.config.trust_domain, &kept)];
        let mut egress = None;
        for (side, gateway) in self.gateway_sides() {
            let facts = self.read_gateway(side, gateway).await;
            findings.extend(gateways::judge_gateway(side, gateway, &facts));
            findings.extend(self.reads_secret(gateway, &facts).await);
            let object = format!("Service {}/{}", gateway.namespace, gateway.service);
            if side == GatewaySide::Ingress {
                findings.push(mesh::judge_drain(&object, &facts.pods, &mesh_config, self.config.ingress.drain));
            } else {
                egress = facts.service.ok().flatten();
            }
        }
        if self.config.peering_by_ingress {
            let facts = others::read_peering_route(self.client).await;
            findings.push(peering_route::judge_peering_route(&self.config.ingress, &facts));
        }
        let rules = others::rules_over_egress(self.client, &self.config).await;
        findings.extend(foreign::judge_defaults(&place, &self.config, &mesh_config, egress.as_ref(), &rules));
        if self.config.style == Style::EgressIngress {
            findings.extend(foreign::judge_rules(&self.config, &rules));
            findings.extend(foreign::judge_sidecars(&self.config, &others::list_sidecars(self.client).await));
        }
        findings
    }

    /// Checks that istiod gives the Secret to a gateway, for each account that its pods are seen to have.
    async fn reads_secret(&self, gateway: &OwnGateway, facts: &gateways::GatewayFacts) -> Vec<Finding> {
        let credential = self.config.credential.as_str();
        let accounts = gateways::accounts_of(facts);
        if accounts.is_empty() {
            let answer = ask_gateway(self.client, gateway).await;
            return vec![gateways::judge_secret(gateway, None, credential, answer)];
        }
        let mut findings = Vec::new();
        for account in accounts {
            let may_list = may_list_secrets(self.client, gateway.namespace.as_str(), account).await;
            let answer = may_list.map(|may_list| judge_accounts(vec![(account.to_owned(), may_list)]));
            findings.push(gateways::judge_secret(gateway, Some(account), credential, answer));
        }
        findings
    }

    /// Reports gateways that refuse their configuration, according to the agent and to istiod.
    async fn check_refusals(&self) -> Vec<Finding> {
        let mut objects = Vec::new();
        let policies = self.list_all::<ServiceExpositionPolicy>(None).await;
        let bindings = self.list_all::<RemoteServiceBinding>(None).await;
        for (kind, seen) in [("ServiceExpositionPolicy", policies), ("RemoteServiceBinding", bindings)] {
            for object in seen.into_iter().flatten().flatten() {
                let conditions: Vec<Condition> =
                    serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default();
                let namespace = object.metadata.namespace.unwrap_or_default();
                let name = object.metadata.name.unwrap_or_default();
                objects.push((format!("{kind} {namespace}/{name}"), conditions));
            }
        }
        let mut findings =
            refusals::report_conditions(objects.iter().map(|(object, conditions)| (object.clone(), &conditions[..])));
        match &self.config.istiod {
            None => {
                let why = "the configuration says istiod.metrics: off";
                findings.push(Finding::unchecked(CheckArea::Gateways, "istiod", why));
            }
            Some(metrics) => {
                let pods = GatewayPods::from_config(&self.config);
                let sample = istiod::read_sample(self.client, metrics, &pods).await;
                findings.extend(refusals::report_counters(&metrics.to_string(), &sample));
            }
        }
        findings
    }

    async fn read_gateway(&self, side: GatewaySide, gateway: &OwnGateway) -> gateways::GatewayFacts {
        let namespace = gateway.namespace.as_str();
        let service = self.read_service(gateway).await;
        let of_service = format!("kubernetes.io/service-name={}", gateway.service);
        let spec = service.as_ref().ok().and_then(|s| s.as_ref()).and_then(|s| s.spec.as_ref());
        let through_nodes =
            side == GatewaySide::Ingress && spec.is_some_and(|s| s.type_.as_deref() == Some("NodePort"));
        let nodes: LookResult<Vec<Node>> = if through_nodes && gateway.addresses.is_empty() {
            objects::list_objects(&Api::all(self.client.clone()), "").await
        } else {
            Ok(None)
        };
        let pods: LookResult<Vec<Pod>> =
            objects::list_objects(&self.namespaced_api(namespace), &gateways::format_selector(&gateway.selector)).await;
        let slices: LookResult<Vec<EndpointSlice>> =
            objects::list_objects(&self.namespaced_api(namespace), &of_service).await;
        gateways::GatewayFacts { service, pods, slices, nodes }
    }

    /// Reads Istio's own configuration: where the agent reads it, else in the gateway's namespace or where Istio usually is.
    /// The ConfigMap is named after Istio's revision, if there is one.
    async fn read_mesh(&self) -> (String, LookResult<MeshConfig>) {
        let gateways = self.config.ingress.namespace.as_str();
        let name = self.config.mesh_config.as_ref().map_or(defaults::MESH_CONFIG, ObjectName::as_str);
        let mut unseen = None;
        let root = self.config.root_namespace.as_str();
        let others = BTreeSet::from([gateways, defaults::GATEWAY_NAMESPACE]);
        for namespace in std::iter::once(root).chain(others.into_iter().filter(|n| *n != root)) {
            let api: Api<ConfigMap> = self.namespaced_api(namespace);
            let place =
                |map: &ConfigMap| format!("ConfigMap {namespace}/{}", map.metadata.name.as_deref().unwrap_or_default());
            let found = match objects::get_object(&api, name).await {
                Ok(None) => {
                    objects::list_objects(&api, "").await.map(|all| all.into_iter().flatten().find(mesh::is_config))
                }
                found => found,
            };
            match found {
                Ok(Some(map)) => return (place(&map), mesh::read_mesh_config(&Ok(Some(map)))),
                Ok(None) => {}
                Err(why) => unseen = unseen.or(Some((format!("ConfigMap {namespace}/{name}"), why))),
            }
        }
        unseen.map_or_else(|| (format!("ConfigMap {gateways}/{name}"), Ok(None)), |(place, why)| (place, Err(why)))
    }

    async fn check_peers(&self, identity: UsableIdentity) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut all: BTreeMap<ClusterName, Peer> = self.config.peers.clone();
        let mut connected = PeerConnections::new();
        match self.list_all::<ClusterPeering>(None).await {
            Err(why) => findings.push(Finding::unseen(CheckArea::Peers, "ClusterPeerings", &why)),
            Ok(objects) => {
                for object in objects.into_iter().flatten() {
                    findings.extend(apply_peering(object, &mut all, &mut connected));
                }
            }
        }
        let offered = self.read_offered_modes(&mut findings).await;
        let modes = offered.all_modes();
        let (place, mesh) = self.read_mesh().await;
        let through = all.values().filter(|p| p.consume && offered.passes_to(p.name.as_str()));
        let kept = match (&self.config.mesh_config, &self.config.store) {
            (None, StoreConfig::Kube(_)) => {
                Err(UnseenReason::Failed("the configuration says istiod.meshConfig: off".into()))
            }
            _ => mesh::settings(&place, &mesh),
        };
        findings.extend(mesh::judge_passthrough(&place, &kept, through.map(|p| (&p.name, &p.trust_domain))));
        let name = identity.as_ref().ok().map(|i| i.spiffe_id.clone());
        let facts = peers::dial_peers(all, &connected, identity, self.config.allow_tls12).await;
        let own = judge::OwnCluster {
            cluster: self.cluster_name(),
            identity: name.as_ref(),
            trust_domain: &self.config.trust_domain,
            modes: &modes,
        };
        findings.extend(judge::judge_peers(&own, &facts, self.now));
        findings
    }

    /// Collects the TLS modes in which policies offer something.
    async fn read_offered_modes(&self, findings: &mut Vec<Finding>) -> OfferedModes {
        let mut offered = OfferedModes { default: Some(self.config.tls), ..OfferedModes::default() };
        let named = match &self.config.store {
            StoreConfig::Kube(kube) => kube.namespaces.as_ref(),
            StoreConfig::Dir(_) => None,
        };
        let namespaces = named.map_or_else(|| vec![None], |all| all.iter().map(|n| Some(n.as_str())).collect());
        for namespace in namespaces {
            match self.list_all::<ServiceExpositionPolicy>(namespace).await {
                Err(why) => findings.push(Finding::unseen(CheckArea::Peers, "TLS modes of policies", &why)),
                Ok(objects) => {
                    for object in objects.into_iter().flatten() {
                        let entries = object.data["spec"]["exposed"].as_array().into_iter().flatten();
                        entries.for_each(|entry| offered.add_entry(entry));
                    }
                }
            }
        }
        offered
    }

    /// Lists all objects of a kind, in one namespace or in all of them.
    async fn list_all<K: kube::Resource<DynamicType = ()>>(
        &self,
        namespace: Option<&str>,
    ) -> LookResult<Vec<DynamicObject>> {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = match namespace {
            None => Api::all_with(self.client.clone(), &resource),
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        objects::list_objects(&api, "").await
    }
}

/// The TLS modes of policies' entries.
#[derive(Default)]
struct OfferedModes {
    /// The configuration's mode, for entries that name none.
    default: Option<TlsMode>,
    named: BTreeSet<TlsMode>,
    /// The clusters that entries with the mode `Passthrough` name.
    passthrough: BTreeSet<String>,
    /// Some entries with that mode are for every peer.
    passes_to_all: bool,
}

impl OfferedModes {
    fn add_entry(&mut self, entry: &Value) {
        let named = entry["tls"].as_str().and_then(|mode| mode.parse::<TlsMode>().ok());
        self.named.extend(named);
        if named.or(self.default) != Some(TlsMode::Passthrough) {
            return;
        }
        let clusters: Vec<_> = entry["clusters"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        self.passes_to_all |= clusters.is_empty();
        self.passthrough.extend(clusters.into_iter().map(str::to_owned));
    }

    fn all_modes(&self) -> Vec<TlsMode> {
        let all: BTreeSet<_> = self.named.iter().copied().chain(self.default).collect();
        all.into_iter().collect()
    }

    fn passes_to(&self, cluster: &str) -> bool {
        self.passes_to_all || self.passthrough.contains(cluster)
    }
}

/// Takes over a ClusterPeering, which counts before an entry of the configuration. An object that cannot be read is a
/// finding.
fn apply_peering(
    object: DynamicObject,
    peers: &mut BTreeMap<ClusterName, Peer>,
    connected: &mut PeerConnections,
) -> Option<Finding> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let place = format!("ClusterPeering {name}");
    let conditions: Vec<Condition> =
        serde_json::from_value(object.data["status"]["conditions"].clone()).unwrap_or_default();
    if let Some(condition) = conditions.iter().find(|c| c.type_ == "Connected") {
        let holds = condition.status == ConditionStatus::True;
        connected.insert(name.clone(), if holds { Ok(()) } else { Err(condition.message.clone()) });
    }
    let value = serde_json::to_value(&object).ok()?;
    let peering = match manifest::read_value(&place, value)? {
        Ok(document) => match document.input {
            Input::Peering(peering) => peering,
            _ => return None,
        },
        Err(e) => return Some(Finding::error(CheckArea::Peers, place, e.reason.to_string())),
    };
    let peer = name
        .parse::<ClusterName>()
        .map_err(|e| e.to_string())
        .and_then(|n| peering.spec.to_peer(n))
        .and_then(with_usable_roots);
    match peer {
        Ok(peer) => {
            peers.insert(peer.name.clone(), peer);
            None
        }
        Err(why) => Some(Finding::error(CheckArea::Peers, place, format!("spec.{why}"))),
    }
}
