//! The fast tier: everything that needs no cluster and no network but loopback.

// clippy.toml allows these in tests, but does not count the tests' helpers as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;
mod cli;
mod deploy;
mod dirstore;
mod examples;
mod fuzz;
mod hostile_text;
mod identity;
mod identity_bundle;
mod identity_tls;
mod identity_watch;
mod import;
mod peer_roots;
mod peering_budget;
mod peering_flow;
mod peering_hostile;
mod peering_life;
mod peering_names;
mod peering_refusals;
mod peering_support;
mod revocation;
mod store_contract;
mod support;
mod translate;
mod wire;
