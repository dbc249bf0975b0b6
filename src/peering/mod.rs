//! The two ends of the wire: the donor's offers, and the acceptor's subscription to them.
//!
//! | part | is |
//! |---|---|
//! | [`board`] | what is offered to whom, and what each subscriber still has to hear |
//! | [`server`] | the donor's end: who may ask, and the streams that read the board |
//! | [`client`] | the acceptor's end: one task for each donor |
//! | [`convert`] | bytes to checked values and back: nothing unchecked passes it |
//! | [`peers`] | from the identity of a certificate to what its holder may do |
//! | [`subscribers`] | what is known of those that subscribed: acknowledgements, instances, clashes |
//! | [`limits`] | every bound and every time, in one place |
//!
//! The board knows no sockets, the server no policies, the client no bindings.

pub mod board;
pub mod client;
pub mod convert;
mod fair;
mod fields;
mod grpc;
pub mod limits;
mod messages;
mod pace;
pub mod peers;
pub mod server;
pub mod subscribers;
mod tasks;

use crate::model::text::printable;

pub use board::Board;
pub use limits::Limits;
pub use peers::{PeerTable, UnreadPeers};
pub use subscribers::Subscribers;

/// The messages and services of `proto/wharf/peering/v1/peering.proto`.
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "generated code")]
pub mod pb {
    tonic::include_proto!("wharf.peering.v1");

    /// The compiled description of the protocol, for gRPC reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peering.bin"));
}

/// The newest version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The server name (SNI, RFC 6066, section 3) under which agents are dialled. A gateway that passes TLS through leads it
/// to its cluster's agent.
///
/// It is the same for all clusters: the dialling side need not know how a peer calls itself, and nobody on the way reads
/// which cluster is meant. `invalid` has no hosts (RFC 6761, section 6.4), so that no service can have this name.
pub const SERVER_NAME: &str = "peering.wharf.invalid";

/// Cleans prose that came from a peer: bounded, on one line, every character visible. A control character is a blank.
pub(crate) fn clean_prose(text: &str, max: usize) -> String {
    let line: String = text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable(&line).chars().take(max).collect()
}
