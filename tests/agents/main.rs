//! Real agents as processes, over real mutual TLS on loopback, with stores in folders: what their users rely on.
//!
//! Everything is driven by files and seen in files, `/status` and `/metrics`, as an operator would.
//!
//!     cargo test --test agents                          everything
//!     WHARF_SEED=42 cargo test --test agents model      one sequence of events again

// clippy.toml allows these in tests, but does not count the tests' helpers as such.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod addresses;
mod admin;
mod admin_abuse;
mod automatic;
mod budget;
mod drift;
mod files;
mod gateways;
mod hostile;
mod identity;
mod model;
mod moves;
mod peers;
mod ports;
mod quota;
mod roots;
mod share;
mod strangers;
// tests/sum stands on the rest of it.
#[allow(dead_code)]
mod support;
mod survival;
mod unread;
mod upgrade;
mod vouched;
