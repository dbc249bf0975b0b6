//! Translation: policies and bindings to Istio objects. Pure: no clock, no socket, no file, and the order of the inputs
//! never matters. The agent, `wharf translate` and the tests call the same two functions.
//!
//! - The donor's side is [`expose`]: a policy, the [`Inventory`] of what its owner has, and the [`NameClaims`] on exposed
//!   names, to the objects of the ingress gateway and to what is offered to whom.
//! - The acceptor's side is [`sources`], which splits a binding by the local names that it feeds, and [`bind`], which makes
//!   the objects of one local name, whichever bindings and clusters feed it. What all of them share at the egress
//!   gateway is [`shared_egress`].
//! - What a donor sends is untrusted: [`validate_exposition`] stands before all of it.
//!
//! Nothing here fails as a whole: what cannot be done safely is a [`Problem`] of its entry, and the others work.

mod absence;
mod acceptor;
mod admit;
mod behaviour;
mod bind;
mod carry;
mod choice;
mod claims;
mod consumers;
mod donor;
mod egress;
mod expose;
mod foreign;
mod guard;
mod inventory;
mod memory;
mod merge;
mod mesh;
pub mod names;
mod owners;
mod permit;
mod plan;
mod ports;
mod problem;
mod provider;
mod share;
mod sources;
mod traffic;
mod unserved;
mod validate;
mod vouch;

#[cfg(test)]
pub(crate) mod tests;

/// The two values of `exportTo` that Wharf writes: an object that others have to see says so, since the mesh may have
/// another default (MeshConfig, `defaultVirtualServiceExportTo` and the like).
const EVERYWHERE: &str = "*";
const HERE: &str = ".";

fn export_list(to: &str) -> Vec<String> {
    vec![to.to_owned()]
}

pub use absence::{OwnMark, UnreadObjects};
pub use acceptor::shared_egress;
pub use admit::is_gateway_shut;
pub use bind::{LocalTranslation, SourceOutcome, bind_local_name};
pub use claims::{NameClaims, PassthroughHosts};
pub use expose::{
    EntryOutcome, PolicyOffer, PolicyTranslation, expose_policy, expose_within, exposed_ports, is_for_all_policies,
    policy_touches,
};
pub use foreign::ForeignRule;
pub use inventory::{AffectedNames, Inventory, service_of};
pub use memory::{BoundPort, PortMemory};
pub use mesh::{compare_root_namespace, compare_trust_domain, refuse_callers};
pub use owners::istio_name;
pub use problem::{Problem, ProblemReason};
pub use sources::{
    BindingName, LocalName, MissingExposition, Source, SourceEntry, SplitBinding, WantedPort, WantedPorts,
    WantedService, split_binding,
};
pub use validate::{ExpositionRefusal, validate_exposition};
