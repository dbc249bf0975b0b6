//! On real API servers: etcd and kube-apiserver as processes, on loopback.
//!
//!     tests/lab/lab.py setup --only kube     builds them, once
//!     cargo test --test kube                 everything

// clippy.toml allows these in tests, but does not count the tests' helpers as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ambient;
mod check;
mod cli;
mod contract;
mod crds;
mod deploy;
mod fair;
mod faults;
mod gateway_account;
mod harness;
mod identity;
mod import;
mod istio_versions;
mod local_names;
mod mesh_settings;
mod peerings;
mod replicas;
#[path = "../fast/store_contract.rs"]
mod store_contract;
mod support;
mod unread;
