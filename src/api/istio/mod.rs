//! Istio's own objects, as far as Wharf reads or writes them, generated from Istio's CRDs by `generate.py`.

#![allow(clippy::all, missing_docs)]

mod authorization_policy;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod service_entry;
mod virtual_service;

pub use authorization_policy::*;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use gateway::*;
pub use service_entry::*;
pub use virtual_service::*;
