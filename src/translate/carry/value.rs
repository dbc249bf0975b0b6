//! Values of headers that the gateway sets.
//!
//! Envoy reads them as formats: `%NAME%` stands for what the gateway knows, its environment and files among it, and one
//! that it does not know makes it reject all routes (Envoy, "Custom request/response headers").

use super::headers::check_condition_name;
use super::limits::MAX_VALUE;
use super::refusal::{FieldRefusal, quote_shortened};
use super::text::is_printable;

/// Commands without arguments. They say something of this request only, and the Envoy of each Istio from 1.10 on knows
/// them.
const COMMANDS: [&str; 9] = [
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_TLS_VERSION",
    "PROTOCOL",
    "START_TIME",
];

/// Headers that `%REQ(…)%` may name beside those that a match may name.
const PSEUDO_HEADERS: [&str; 2] = [":method", ":path"];

pub(super) fn check_header_value(value: &str) -> Result<(), FieldRefusal> {
    if value.len() > MAX_VALUE || !is_printable(value) {
        let message =
            format!("{} is not a value of at most {MAX_VALUE} printable ASCII characters", quote_shortened(value));
        return Err(FieldRefusal::new(message));
    }
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        let Some((command, after)) = after.split_once('%') else {
            return Err(FieldRefusal::new("a % stands alone").cure("write %% for a percent sign"));
        };
        if !command.is_empty() {
            check_command(command)?;
        }
        rest = after;
    }
    Ok(())
}

fn check_command(command: &str) -> Result<(), FieldRefusal> {
    if COMMANDS.contains(&command) {
        return Ok(());
    }
    let header = command.strip_prefix("REQ(").and_then(|c| c.strip_suffix(')'));
    if header.is_some_and(|h| PSEUDO_HEADERS.contains(&h) || check_condition_name(h).is_ok()) {
        return Ok(());
    }
    let message =
        format!("%{}% is not among the commands that are carried", quote_shortened(command).trim_matches('"'));
    let cure = format!("write %% for a percent sign; carried are %REQ(name)%, %{}%", COMMANDS.join("%, %"));
    Err(FieldRefusal::new(message).cure(cure))
}
