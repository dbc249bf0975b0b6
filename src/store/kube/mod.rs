//! The store in a cluster's API server.

pub mod client;
