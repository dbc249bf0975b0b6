//! One type for all objects that Wharf writes or reads besides its own.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::fmt;

use crate::model::mistake::{FieldMistake, FieldWords};

use super::istio::{AuthorizationPolicy, DestinationRule, EnvoyFilter, Gateway, ServiceEntry, VirtualService};
use super::{MANAGED_BY, OWNER};

/// The kinds that Wharf writes, in the order in which they are written: a permission stands before what it guards,
/// and is removed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    AuthorizationPolicy,
    EnvoyFilter,
    DestinationRule,
    ServiceEntry,
    Gateway,
    VirtualService,
    Service,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::AuthorizationPolicy,
        Kind::EnvoyFilter,
        Kind::DestinationRule,
        Kind::ServiceEntry,
        Kind::Gateway,
        Kind::VirtualService,
        Kind::Service,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::EnvoyFilter => "EnvoyFilter",
            Kind::DestinationRule => "DestinationRule",
            Kind::ServiceEntry => "ServiceEntry",
            Kind::Gateway => "Gateway",
            Kind::VirtualService => "VirtualService",
            Kind::Service => "Service",
        }
    }

    /// Returns whether translation reads objects of this kind that are not Wharf's. The others only matter because they
    /// are not Wharf's.
    pub fn is_read_by_translation(self) -> bool {
        !matches!(self, Kind::Gateway | Kind::EnvoyFilter)
    }

    /// Returns whether policies name objects of this kind; such objects must not be Wharf's.
    pub fn is_named_by_policies(self) -> bool {
        matches!(self, Kind::Service | Kind::VirtualService)
    }

    /// Returns the API group; versions differ in age, not in meaning (`v1`, `v1beta1`, `v1alpha3`).
    pub fn group(self) -> &'static str {
        match self {
            Kind::AuthorizationPolicy => "security.istio.io",
            Kind::Service => "",
            _ => "networking.istio.io",
        }
    }

    /// Returns the version in which it is written.
    pub fn version(self) -> &'static str {
        match self {
            // The only version of this kind.
            Kind::EnvoyFilter => "v1alpha3",
            _ => "v1",
        }
    }

    /// Returns the kind of an object with this `apiVersion` and `kind`, if it is one of these.
    pub fn find_kind(api_version: &str, kind: &str) -> Option<Kind> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        Kind::ALL.into_iter().find(|k| k.as_str() == kind && k.group() == group)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reserved name of all sidecars among the gateways of a VirtualService.
pub const MESH_GATEWAY: &str = "mesh";

impl VirtualService {
    /// Returns whether it routes calls inside the mesh. Without gateways it is for the mesh alone.
    pub fn is_for_mesh(&self) -> bool {
        match self.spec.gateways.as_deref() {
            None | Some([]) => true,
            Some(gateways) => gateways.iter().any(|g| g == MESH_GATEWAY),
        }
    }
}

/// Names one object in one cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An Istio object or a Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)] // the large one is a Service, and nearly all that are kept are Services
pub enum Object {
    AuthorizationPolicy(AuthorizationPolicy),
    EnvoyFilter(EnvoyFilter),
    /// Twice as large as any other, and rare: behind a pointer, so that Services do not pay for it.
    DestinationRule(Box<DestinationRule>),
    ServiceEntry(ServiceEntry),
    Gateway(Gateway),
    VirtualService(VirtualService),
    Service(Service),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Object::EnvoyFilter(_) => Kind::EnvoyFilter,
            Object::DestinationRule(_) => Kind::DestinationRule,
            Object::ServiceEntry(_) => Kind::ServiceEntry,
            Object::Gateway(_) => Kind::Gateway,
            Object::VirtualService(_) => Kind::VirtualService,
            Object::Service(_) => Kind::Service,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::AuthorizationPolicy(o) => &o.metadata,
            Object::EnvoyFilter(o) => &o.metadata,
            Object::DestinationRule(o) => &o.metadata,
            Object::ServiceEntry(o) => &o.metadata,
            Object::Gateway(o) => &o.metadata,
            Object::VirtualService(o) => &o.metadata,
            Object::Service(o) => &o.metadata,
        }
    }

    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::AuthorizationPolicy(o) => &mut o.metadata,
            Object::EnvoyFilter(o) => &mut o.metadata,
            Object::DestinationRule(o) => &mut o.metadata,
            Object::ServiceEntry(o) => &mut o.metadata,
            Object::Gateway(o) => &mut o.metadata,
            Object::VirtualService(o) => &mut o.metadata,
            Object::Service(o) => &mut o.metadata,
        }
    }

    /// Returns the key of the object. Objects without a namespace are in `default`, as kubectl has it.
    pub fn key(&self) -> ObjectKey {
        let m = self.metadata();
        ObjectKey {
            kind: self.kind(),
            namespace: m.namespace.clone().unwrap_or_else(|| "default".into()),
            name: m.name.clone().unwrap_or_default(),
        }
    }

    /// Returns its place in the order of writing: by kind, and the routes at a gateway before those of the mesh that
    /// lead there.
    pub fn write_order(&self) -> (Kind, bool, ObjectKey) {
        (self.kind(), self.is_for_mesh(), self.key())
    }

    /// Returns whether it is a VirtualService that routes calls inside the mesh.
    pub fn is_for_mesh(&self) -> bool {
        matches!(self, Object::VirtualService(vs) if vs.is_for_mesh())
    }

    /// Returns the hosts that a Gateway of Wharf's takes, without the namespace of their routes.
    pub fn gateway_hosts(&self) -> impl Iterator<Item = &str> {
        let gateway = match self {
            Object::Gateway(gateway) => gateway.spec.servers.as_deref(),
            _ => None,
        };
        let hosts = gateway.into_iter().flatten().flat_map(|server| &server.hosts);
        hosts.map(|host| host.split_once('/').map_or(host.as_str(), |(_, host)| host))
    }

    /// Returns the value of the owner label, if Wharf manages this object.
    pub fn owner(&self) -> Option<&str> {
        let labels = self.metadata().labels.as_ref()?;
        (labels.get(MANAGED_BY).map(String::as_str) == Some("wharf")).then_some(())?;
        labels.get(OWNER).map(String::as_str)
    }

    /// Sets the labels that name the owner: without them the object would be lost to Wharf after a restart.
    pub fn set_owner_labels(&mut self, owner: &str) {
        let labels = self.metadata_mut().labels.get_or_insert_default();
        labels.insert(MANAGED_BY.to_owned(), "wharf".to_owned());
        labels.insert(OWNER.to_owned(), owner.to_owned());
    }

    /// Makes an object from its JSON form. The error names the path of the field.
    pub fn from_json(kind: Kind, value: &serde_json::Value) -> Result<Object, FieldMistake> {
        fn read<T: for<'de> Deserialize<'de>>(value: &serde_json::Value) -> Result<T, FieldMistake> {
            let explain = |e| FieldMistake::explain(&e, value, &FieldWords::OF_OBJECTS);
            serde_path_to_error::deserialize(value).map_err(explain)
        }
        Ok(match kind {
            Kind::AuthorizationPolicy => Object::AuthorizationPolicy(read(value)?),
            Kind::EnvoyFilter => Object::EnvoyFilter(read(value)?),
            Kind::DestinationRule => Object::DestinationRule(Box::new(read(value)?)),
            Kind::ServiceEntry => Object::ServiceEntry(read(value)?),
            Kind::Gateway => Object::Gateway(read(value)?),
            Kind::VirtualService => Object::VirtualService(read(value)?),
            Kind::Service => Object::Service(read(value)?),
        })
    }
}

macro_rules! from {
    ($($t:ident),*) => {
        $(impl From<$t> for Object {
            fn from(o: $t) -> Object {
                Object::$t(o)
            }
        })*
    };
}
from!(AuthorizationPolicy, EnvoyFilter, ServiceEntry, Gateway, VirtualService, Service);

impl From<DestinationRule> for Object {
    fn from(o: DestinationRule) -> Object {
        Object::DestinationRule(Box::new(o))
    }
}
