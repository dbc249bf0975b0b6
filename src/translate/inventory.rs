//! The objects of the cluster's users: Services, DestinationRules, VirtualServices, ServiceEntries and
//! AuthorizationPolicies that are not Wharf's.
//!
//! The agent owns one, tells it every change ([`Inventory::set_object`], [`Inventory::remove_object`]), and lends it to translation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use crate::api::istio::{AuthorizationPolicy, DestinationRule, ServiceEntry, VirtualService};
use crate::api::{Kind, Object, ObjectKey};
use crate::model::{Host, Label};

use super::absence::InventoryGaps;
use super::foreign::{self, ForeignRule};
use super::owners::{exported_namespaces, istio_name, patterns_of};
use super::sources::LocalName;

type ByName = HashMap<String, HashMap<String, Arc<Object>>>;
type NameSet = BTreeSet<(String, String)>;

#[derive(Debug, Clone, Default)]
pub struct Inventory {
    services: ByName,
    rules: ByName,
    virtual_services: ByName,
    entries: ByName,
    permissions: ByName,
    /// Host, as a rule gives it, made a full name → the rules that are for it.
    rules_by_host: HashMap<String, NameSet>,
    /// Host → the VirtualServices that route calls of it inside the mesh.
    mesh_routes: HashMap<String, NameSet>,
    /// Host → the ServiceEntries that say where it is.
    entries_by_host: HashMap<String, NameSet>,
    /// The namespaces in Istio's ambient mode, of all of the cluster (`None`) or of the one that was asked for.
    ambient: BTreeMap<Option<String>, BTreeSet<String>>,
    pub(super) gaps: InventoryGaps,
}

impl Inventory {
    /// Adds an object, new or changed. Wharf's own, and kinds that are of no interest, are left out.
    pub fn set_object(&mut self, object: Arc<Object>) {
        let key = object.key();
        self.remove_object(&key);
        if object.owner().is_some() {
            if key.kind.is_named_by_policies() {
                self.gaps.record_labelled(key);
            }
            return;
        }
        for (index, host) in self.index_hosts(&object) {
            self.index_of(index).entry(host).or_default().insert((key.namespace.clone(), key.name.clone()));
        }
        if let Some(map) = self.of_kind(key.kind) {
            map.entry(key.namespace).or_default().insert(key.name, object);
        }
    }

    pub fn remove_object(&mut self, key: &ObjectKey) {
        self.gaps.forget_labelled(key);
        let Some(map) = self.of_kind(key.kind) else { return };
        let Some(in_namespace) = map.get_mut(&key.namespace) else { return };
        let Some(old) = in_namespace.remove(&key.name) else { return };
        if in_namespace.is_empty() {
            map.remove(&key.namespace);
        }
        for (index, host) in self.index_hosts(&old) {
            let by_host = self.index_of(index);
            if let Some(names) = by_host.get_mut(&host) {
                names.remove(&(key.namespace.clone(), key.name.clone()));
                if names.is_empty() {
                    by_host.remove(&host);
                }
            }
        }
    }

    /// Records the namespaces that are in ambient mode: all of them, or whether the one is that was asked for (`of`).
    /// Returns those whose mode changed.
    pub fn learn_ambient(&mut self, of: Option<String>, namespaces: BTreeSet<String>) -> BTreeSet<String> {
        let before = self.ambient.insert(of, namespaces.clone()).unwrap_or_default();
        before.symmetric_difference(&namespaces).cloned().collect()
    }

    /// Returns whether a namespace is in ambient mode. None: the store does not say.
    pub fn is_ambient(&self, namespace: &str) -> Option<bool> {
        let told = self.ambient.get(&None).or_else(|| self.ambient.get(&Some(namespace.to_owned())))?;
        Some(told.contains(namespace))
    }

    fn of_kind(&mut self, kind: Kind) -> Option<&mut ByName> {
        match kind {
            Kind::Service => Some(&mut self.services),
            Kind::DestinationRule => Some(&mut self.rules),
            Kind::VirtualService => Some(&mut self.virtual_services),
            Kind::ServiceEntry => Some(&mut self.entries),
            Kind::AuthorizationPolicy => Some(&mut self.permissions),
            _ => None,
        }
    }

    fn index_of(&mut self, kind: Kind) -> &mut HashMap<String, NameSet> {
        match kind {
            Kind::DestinationRule => &mut self.rules_by_host,
            Kind::ServiceEntry => &mut self.entries_by_host,
            _ => &mut self.mesh_routes,
        }
    }

    fn index_hosts(&self, object: &Object) -> Vec<(Kind, String)> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or("default");
        match object {
            Object::DestinationRule(rule) => {
                vec![(Kind::DestinationRule, istio_name(&rule.spec.host, namespace))]
            }
            Object::VirtualService(vs) if vs.is_for_mesh() => {
                let hosts = vs.spec.hosts.iter().flatten();
                hosts.map(|host| (Kind::VirtualService, full_name(host, namespace))).collect()
            }
            Object::ServiceEntry(entry) => {
                entry.spec.hosts.iter().map(|host| (Kind::ServiceEntry, host.to_ascii_lowercase())).collect()
            }
            _ => Vec::new(),
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        match &**self.services.get(namespace)?.get(name)? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The names of the Services of a namespace, sorted.
    pub fn service_names(&self, namespace: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.services.get(namespace).into_iter().flat_map(|m| m.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names
    }

    /// Returns the names of the VirtualServices of a namespace, sorted.
    pub(super) fn virtual_service_names(&self, namespace: &str) -> Vec<&str> {
        let there = self.virtual_services.get(namespace).into_iter();
        let mut names: Vec<&str> = there.flat_map(|m| m.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names
    }

    pub fn virtual_service(&self, namespace: &str, name: &str) -> Option<&VirtualService> {
        match &**self.virtual_services.get(namespace)?.get(name)? {
            Object::VirtualService(vs) => Some(vs),
            _ => None,
        }
    }

    /// Finds a VirtualService of somebody else that takes part in the calls of a local name: it is for the mesh, for
    /// the name or a pattern that covers it, and callers of the name's namespace see it.
    pub fn mesh_route(&self, local: &LocalName) -> Option<MeshRoute<'_>> {
        let host = local.host();
        let names = patterns_of(host.as_str()).filter_map(|host| self.mesh_routes.get(&host)).flatten();
        let mut seen = names.filter(|(namespace, name)| {
            self.virtual_service(namespace, name)
                .is_some_and(|vs| is_seen_in(vs.spec.export_to.as_deref(), namespace, local.namespace.as_str()))
        });
        seen.next().map(|(namespace, name)| MeshRoute { namespace, name })
    }

    /// Finds a ServiceEntry of somebody else for exactly this host that callers of a namespace see: its namespace and
    /// name.
    pub(super) fn service_entry(&self, host: &str, from: &str) -> Option<(&str, &str)> {
        let names = self.entries_by_host.get(host)?;
        let seen = names.iter().find(|(namespace, name)| match self.entry(namespace, name) {
            Some(entry) => is_seen_in(entry.spec.export_to.as_deref(), namespace, from),
            None => false,
        });
        seen.map(|(namespace, name)| (namespace.as_str(), name.as_str()))
    }

    fn entry(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        match &**self.entries.get(namespace)?.get(name)? {
            Object::ServiceEntry(entry) => Some(entry),
            _ => None,
        }
    }

    /// The AuthorizationPolicies of a namespace that are not Wharf's.
    pub(super) fn permissions(&self, namespace: &str) -> impl Iterator<Item = &AuthorizationPolicy> {
        self.permissions.get(namespace).into_iter().flat_map(HashMap::values).filter_map(|object| match &**object {
            Object::AuthorizationPolicy(policy) => Some(policy),
            _ => None,
        })
    }

    /// The rules of all namespaces for a host, or for a pattern that covers it.
    pub(super) fn rules_covering(&self, host: &str) -> Vec<&DestinationRule> {
        let names = patterns_of(host).filter_map(|pattern| self.rules_by_host.get(&pattern)).flatten();
        names.filter_map(|(namespace, name)| self.destination_rule(namespace, name)).collect()
    }

    fn destination_rule(&self, namespace: &str, name: &str) -> Option<&DestinationRule> {
        match &**self.rules.get(namespace)?.get(name)? {
            Object::DestinationRule(rule) => Some(rule),
            _ => None,
        }
    }

    /// Returns whether no DestinationRule of this name is known.
    pub(super) fn rule_is_absent(&self, namespace: &str, name: &str) -> bool {
        self.destination_rule(namespace, name).is_none()
    }

    /// Others' rules that cover the host of the egress gateway. A change of them concerns all names that go that way.
    pub fn rules_over(&self, host: &Host) -> BTreeSet<ForeignRule> {
        foreign::rules_over(self, host)
    }

    /// Returns the names whose calls inside the mesh an object affects: a Service's own, those that a VirtualService
    /// routes.
    pub fn bears_on(&self, key: &ObjectKey) -> Vec<AffectedNames> {
        let local = |name: &str, namespace: &str| {
            Some(LocalName { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
        };
        match key.kind {
            Kind::Service => local(&key.name, &key.namespace).map(AffectedNames::Name).into_iter().collect(),
            Kind::VirtualService => {
                let Some(vs) = self.virtual_service(&key.namespace, &key.name).filter(|vs| vs.is_for_mesh()) else {
                    return Vec::new();
                };
                let hosts = vs.spec.hosts.iter().flatten().map(|host| full_name(host, &key.namespace));
                let to = vs.spec.export_to.as_deref();
                let affected = hosts.filter_map(|host| match host.strip_prefix('*') {
                    Some(end) => {
                        Some(AffectedNames::Pattern { end: end.to_owned(), of: export_of(to, &key.namespace) })
                    }
                    None => service_of(&host)
                        .filter(|(_, namespace)| is_seen_in(to, &key.namespace, namespace))
                        .and_then(|(name, namespace)| local(name, namespace))
                        .map(AffectedNames::Name),
                });
                affected.collect()
            }
            Kind::DestinationRule => {
                let rule = self.destination_rule(&key.namespace, &key.name);
                let hosts = rule.map(|rule| istio_name(&rule.spec.host, &key.namespace));
                hosts.iter().filter_map(|host| of_host(host)).collect()
            }
            Kind::ServiceEntry => {
                let hosts = self.entry(&key.namespace, &key.name).into_iter().flat_map(|e| &e.spec.hosts);
                hosts
                    .filter(|host| !host.starts_with('*'))
                    .filter_map(|host| of_host(&host.to_ascii_lowercase()))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns whether some rule for exactly this host, in this namespace, leaves its visibility to the mesh's default.
    pub fn has_rule_by_default(&self, host: &str, namespace: &Label) -> bool {
        self.rules_for(host, namespace).iter().any(|rule| exported_namespaces(rule).is_empty())
    }

    /// The rules of a namespace for exactly this host or pattern.
    pub(super) fn rules_for(&self, host: &str, namespace: &Label) -> Vec<&DestinationRule> {
        let names = self.rules_by_host.get(host).into_iter().flatten();
        let rules = names.filter(|(ns, _)| ns == namespace.as_str());
        rules.filter_map(|(ns, name)| self.destination_rule(ns, name)).collect()
    }
}

/// A VirtualService that is not Wharf's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshRoute<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Local names that an object affects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AffectedNames {
    Name(LocalName),
    /// All whose host ends like this, in these namespaces (none given: in all).
    Pattern {
        end: String,
        of: Option<Vec<String>>,
    },
}

impl AffectedNames {
    pub fn covers_name(&self, name: &LocalName) -> bool {
        match self {
            AffectedNames::Name(one) => one == name,
            AffectedNames::Pattern { end, of } => {
                let among = of.as_ref().is_none_or(|of| of.iter().any(|n| n == name.namespace.as_str()));
                among && name.host().as_str().ends_with(end.as_str())
            }
        }
    }
}

/// The namespaces that see an object (Istio's API, `exportTo`); none given: all. One that does not say it is taken to
/// be seen by all, which is Istio's default: MeshConfig may have another, which Wharf does not read.
fn export_of(to: Option<&[String]>, own: &str) -> Option<Vec<String>> {
    let to = to.unwrap_or_default();
    if to.is_empty() || to.iter().any(|e| e == "*") {
        return None;
    }
    if to.iter().any(|e| e == "~") {
        return Some(Vec::new());
    }
    Some(to.iter().map(|e| if e == "." { own.to_owned() } else { e.clone() }).collect())
}

fn is_seen_in(to: Option<&[String]>, own: &str, namespace: &str) -> bool {
    export_of(to, own).is_none_or(|of| of.iter().any(|n| n == namespace))
}

/// The local names that go by a host: their own, or one of those under which Wharf has their donors.
fn of_host(host: &str) -> Option<AffectedNames> {
    if let Some(end) = host.strip_prefix('*') {
        // The hosts of donors end otherwise than the names.
        let end = if "svc.cluster.local".ends_with(end) || end.ends_with("svc.cluster.local") { end } else { "" };
        return Some(AffectedNames::Pattern { end: end.to_owned(), of: None });
    }
    let own = host.strip_prefix("remote.").unwrap_or(host);
    let donors = [".remote", ".egress"].iter().find_map(|end| host.strip_suffix(end)?.split_once('.'));
    let (name, namespace) = service_of(own).or(donors)?;
    Some(AffectedNames::Name(LocalName { namespace: namespace.parse().ok()?, name: name.parse().ok()? }))
}

/// Returns the host that a VirtualService of `namespace` may route: short names are of that namespace,
/// `<name>.<namespace>` and `<name>.<namespace>.svc` are of the cluster, since callers use such names too, although
/// Istio completes [no name with a dot](istio_name). Everything else is a full name (or a pattern) already.
fn full_name(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.starts_with('*') {
        return host;
    }
    match host.split('.').collect::<Vec<_>>()[..] {
        [name] => format!("{name}.{namespace}.svc.cluster.local"),
        [name, ns] | [name, ns, "svc"] => format!("{name}.{ns}.svc.cluster.local"),
        _ => host,
    }
}

/// Returns the name and namespace of the Service that a full name is of.
pub fn service_of(full: &str) -> Option<(&str, &str)> {
    let (name, namespace) = full.strip_suffix(".svc.cluster.local")?.split_once('.')?;
    (!namespace.contains('.')).then_some((name, namespace))
}
