//! The store in a cluster's API server.

pub mod client;
#[allow(dead_code)] // the store itself is to come
mod content;
pub mod credential;
#[allow(dead_code)]
mod error;
pub mod secret;
mod single;
