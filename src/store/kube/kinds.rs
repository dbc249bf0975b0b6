//! The kinds that are watched, and their names at the API server.

use kube::core::{ApiResource, GroupVersionKind};

use crate::api::{GROUP, Kind, VERSION};

/// A kind that the store watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchedKind {
    Policy,
    Binding,
    Peering,
    Object(Kind),
}

impl WatchedKind {
    pub const ALL: [WatchedKind; 10] = [
        WatchedKind::Policy,
        WatchedKind::Binding,
        WatchedKind::Peering,
        WatchedKind::Object(Kind::AuthorizationPolicy),
        WatchedKind::Object(Kind::EnvoyFilter),
        WatchedKind::Object(Kind::DestinationRule),
        WatchedKind::Object(Kind::ServiceEntry),
        WatchedKind::Object(Kind::Gateway),
        WatchedKind::Object(Kind::VirtualService),
        WatchedKind::Object(Kind::Service),
    ];

    pub fn kind(self) -> &'static str {
        match self {
            WatchedKind::Policy => "ServiceExpositionPolicy",
            WatchedKind::Binding => "RemoteServiceBinding",
            WatchedKind::Peering => "ClusterPeering",
            WatchedKind::Object(kind) => kind.as_str(),
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            WatchedKind::Policy => "serviceexpositionpolicies",
            WatchedKind::Binding => "remoteservicebindings",
            WatchedKind::Peering => "clusterpeerings",
            WatchedKind::Object(Kind::AuthorizationPolicy) => "authorizationpolicies",
            WatchedKind::Object(Kind::EnvoyFilter) => "envoyfilters",
            WatchedKind::Object(Kind::DestinationRule) => "destinationrules",
            WatchedKind::Object(Kind::ServiceEntry) => "serviceentries",
            WatchedKind::Object(Kind::Gateway) => "gateways",
            WatchedKind::Object(Kind::VirtualService) => "virtualservices",
            WatchedKind::Object(Kind::Service) => "services",
        }
    }

    /// Returns whether people write it for Wharf: without these kinds there is nothing to do.
    pub fn is_own(self) -> bool {
        !matches!(self, WatchedKind::Object(_))
    }

    pub fn resource(self) -> ApiResource {
        let (group, version) = match self {
            WatchedKind::Object(kind) => (kind.group(), kind.version()),
            _ => (GROUP, VERSION),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.kind()), self.plural())
    }
}
