//! The tests that need neither a cluster nor a mesh.

mod dirstore;
mod dirstore_hostile;
mod store_contract;
