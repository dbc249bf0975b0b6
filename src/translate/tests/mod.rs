//! What translation promises. The text of its output is reviewed in `tests/fast/translate/snapshots`.

mod absence;
mod acceptor;
mod admit;
pub(crate) mod build;
mod carried;
mod carry;
mod carry_rules;
mod donor;
mod exposed_hosts;
mod foreign;
mod holders;
mod local_ports;
mod mesh;
mod owners;
mod ports;
mod properties;
mod unserved;
mod vouch;
