//! Wharf shares single services between independent Istio clusters.
//!
//! A donor's operator writes a [`ServiceExpositionPolicy`](api::ServiceExpositionPolicy), an acceptor's operator a
//! [`RemoteServiceBinding`](api::RemoteServiceBinding); one agent per cluster makes it so. A change travels one way
//! through these rooms: the donor's [`store`] → [`agent`] → [`translate`] → its [`store`] and the board of
//! [`peering`] → the wire → the acceptor's [`peering`] → [`agent`] → [`translate`] → [`store`].
//!
//! | room | holds | may know |
//! |---|---|---|
//! | [`model`] | what both sides mean by a cluster, an exposition, an address | nothing |
//! | [`api`] | the objects that people write, and Istio's | `model` |
//! | [`translate`] | policies and bindings to Istio objects; pure | `api`, `model` |
//! | [`import`] | other ways between clusters, read as the policies and bindings that replace them; pure | `api`, `model`, `translate` |
//! | [`identity`] | SPIFFE names, certificates and their renewal, TLS, the little CA | `model` |
//! | [`telemetry`] | log lines, and how many of a kind there may be | `model` |
//! | [`peering`] | the two ends of the wire | `model`, `identity`, `telemetry` |
//! | [`store`] | where objects live | `api`, `model`, `identity` |
//! | [`config`] | the configuration file | `api`, `model`, `identity` |
//! | [`agent`] | the only room that knows all others | all |
//! | [`check`] | what is wrong before it hurts: facts in, findings out | all but `cli` |
//! | [`cli`] | one file a command | all |

// What is printed goes through `cli::output`, which makes it fit for a terminal.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod agent;
pub mod api;
pub mod check;
pub mod cli;
pub mod config;
pub mod identity;
pub mod import;
pub mod model;
pub mod peering;
pub mod store;
pub mod telemetry;
pub mod translate;
