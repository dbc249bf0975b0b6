//! The list of what is carried of the owner's VirtualServices and DestinationRules into the gateways' namespace.
//!
//! Many tenants share an ingress gateway, and Envoy takes an update of its routes whole or not at all: one value that
//! it cannot load, and nobody's routes change any more. So nothing is copied. Each field is named here, checked under
//! the limits of [`limits`], and put into a new object; every struct is taken apart without `..`, so that a field that
//! Istio adds does not compile before somebody has decided about it.
//!
//! Istio's own validation (`pkg/config/validation`) would refuse some of it too; not every mesh runs it as a webhook.

mod action;
mod balance;
mod budget;
mod condition;
mod cors;
mod headers;
mod http;
pub(super) mod limits;
mod numbers;
mod pattern;
mod refusal;
mod rule;
mod text;
mod value;

pub(super) use budget::CarryBudget;
pub(super) use condition::{carry_http_match, carry_tcp_match};
pub(super) use http::{NamedDestination, carry_http_route, carry_tcp_route};
pub(super) use refusal::{AtField, FieldRefusal, quote_shortened};
pub(super) use rule::{carry_subset, carry_traffic_policy};
