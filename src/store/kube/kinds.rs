//! The kinds that are watched, and their names at the API server.

use kube::core::{ApiResource, GroupVersionKind};

use crate::api::{GROUP, Kind, VERSION};

/// A kind that the store watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    Policy,
    Binding,
    Peering,
    Object(Kind),
}

impl Watched {
    pub const ALL: [Watched; 10] = [
        Watched::Policy,
        Watched::Binding,
        Watched::Peering,
        Watched::Object(Kind::AuthorizationPolicy),
        Watched::Object(Kind::EnvoyFilter),
        Watched::Object(Kind::DestinationRule),
        Watched::Object(Kind::ServiceEntry),
        Watched::Object(Kind::Gateway),
        Watched::Object(Kind::VirtualService),
        Watched::Object(Kind::Service),
    ];

    pub fn kind(self) -> &'static str {
        match self {
            Watched::Policy => "ServiceExpositionPolicy",
            Watched::Binding => "RemoteServiceBinding",
            Watched::Peering => "ClusterPeering",
            Watched::Object(kind) => kind.as_str(),
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Watched::Policy => "serviceexpositionpolicies",
            Watched::Binding => "remoteservicebindings",
            Watched::Peering => "clusterpeerings",
            Watched::Object(Kind::AuthorizationPolicy) => "authorizationpolicies",
            Watched::Object(Kind::EnvoyFilter) => "envoyfilters",
            Watched::Object(Kind::DestinationRule) => "destinationrules",
            Watched::Object(Kind::ServiceEntry) => "serviceentries",
            Watched::Object(Kind::Gateway) => "gateways",
            Watched::Object(Kind::VirtualService) => "virtualservices",
            Watched::Object(Kind::Service) => "services",
        }
    }

    /// Returns whether people write it for Wharf: without these kinds there is nothing to do.
    pub fn is_own(self) -> bool {
        !matches!(self, Watched::Object(_))
    }

    pub fn resource(self) -> ApiResource {
        let (group, version) = match self {
            Watched::Object(kind) => (kind.group(), kind.version()),
            _ => (GROUP, VERSION),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.kind()), self.plural())
    }
}
