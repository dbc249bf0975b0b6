//! What every test stands on: a [`Site`] of clusters, their agents, and an eye on all that happens.

pub mod attacker;
pub mod cluster;
pub mod hostile;
pub mod http;
pub mod objects;
pub mod proxy;
pub mod site;

pub use cluster::Cluster;
pub use site::Site;
