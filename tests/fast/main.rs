//! The tests that need neither a cluster nor a mesh.

mod dirstore;
mod store_contract;
