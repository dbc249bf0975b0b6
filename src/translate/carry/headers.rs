//! Rules that add, set and remove headers, and the headers that a condition may look at.

use std::collections::BTreeMap;

use crate::api::istio::{
    VirtualServiceHttpHeaders as HeaderRules, VirtualServiceHttpHeadersRequest as HeaderOperations,
};

use super::super::permit;
use super::budget::CarryBudget;
use super::refusal::{AtField, FieldRefusal};
use super::text::check_header_name;
use super::value::check_header_value;

/// Prefix of headers that say who the caller is, or how it came: the gateway sets them, and the services behind it
/// believe them.
const OF_THE_CALLER: &str = "x-forwarded-";
/// The one header of these that tells an application where it is mounted, and nothing of a caller.
const MOUNT: &str = "x-forwarded-prefix";
/// Prefix of headers that steer Envoys: timeouts, retries, health, trust between peers.
const OF_ENVOY: &str = "x-envoy-";
/// Headers that say where a message ends, or belong to one connection (RFC 9110, section 7.6.1): a rule about these
/// tears messages apart.
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Headers that HTTP/2, which gateways speak between each other, does not carry (RFC 9113, section 8.2.2).
const LOST_ON_THE_WAY: [&str; 7] =
    ["connection", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderSide {
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderChange {
    Write,
    Remove,
}

/// Checks the name of a header that a match looks at. Some say something else at the gateway than in the mesh.
pub(super) fn check_condition_name(name: &str) -> Result<(), FieldRefusal> {
    let lower = name.to_ascii_lowercase();
    if lower == permit::HEADER {
        return Err(foreign_header(permit::HEADER).cure("name the callers as clients of the entry"));
    }
    if lower.starts_with(':') {
        return Err(foreign_header(&lower).cure("use uri, method or another header"));
    }
    check_header_name(name)?;
    if LOST_ON_THE_WAY.contains(&lower.as_str()) {
        let refusal =
            FieldRefusal::new(format!("the header {lower} is of one connection, and does not come to the gateway"));
        return Err(refusal.cure("give other clusters a VirtualService without it"));
    }
    if lower == "host" || lower.starts_with(OF_THE_CALLER) || lower.starts_with(OF_ENVOY) {
        return Err(foreign_header(&lower).cure("give other clusters a VirtualService without it"));
    }
    Ok(())
}

fn foreign_header(name: &str) -> FieldRefusal {
    FieldRefusal::new(format!("the header {name} says something else at the gateway than inside the mesh"))
}

pub(super) fn carry_header_rules(
    rules: Option<&HeaderRules>,
    budget: &mut CarryBudget,
) -> Result<Option<HeaderRules>, FieldRefusal> {
    let Some(HeaderRules { request, response }) = rules else { return Ok(None) };
    let request = carry_operations(request.as_ref(), HeaderSide::Request, budget).at("request")?;
    let response = carry_operations(response.as_ref(), HeaderSide::Response, budget).at("response")?;
    Ok(Some(HeaderRules { request, response }))
}

fn carry_operations(
    operations: Option<&HeaderOperations>,
    side: HeaderSide,
    budget: &mut CarryBudget,
) -> Result<Option<HeaderOperations>, FieldRefusal> {
    let Some(HeaderOperations { add, remove, set }) = operations else { return Ok(None) };
    let add = carry_written(add.as_ref(), "add", side, budget)?;
    let set = carry_written(set.as_ref(), "set", side, budget)?;
    for (i, name) in remove.iter().flatten().enumerate() {
        check_changed_name(name, side, HeaderChange::Remove).at_index("remove", i)?;
    }
    budget.add_headers(remove.as_ref().map_or(0, Vec::len)).at("remove")?;
    Ok(Some(HeaderOperations { add, remove: remove.clone(), set }))
}

fn carry_written(
    values: Option<&BTreeMap<String, String>>,
    field: &str,
    side: HeaderSide,
    budget: &mut CarryBudget,
) -> Result<Option<BTreeMap<String, String>>, FieldRefusal> {
    let Some(values) = values else { return Ok(None) };
    budget.add_headers(values.len()).at(field)?;
    for (name, value) in values {
        check_changed_name(name, side, HeaderChange::Write).at_key(field, name)?;
        check_header_value(value).at_key(field, name)?;
    }
    Ok(Some(values.clone()))
}

fn check_changed_name(name: &str, side: HeaderSide, change: HeaderChange) -> Result<(), FieldRefusal> {
    let lower = name.to_ascii_lowercase();
    if lower == "host" || lower == ":authority" {
        return Err(FieldRefusal::new(format!("{lower} is not changed as a header")).cure("use rewrite.authority"));
    }
    check_header_name(name)?;
    if OF_THE_CONNECTION.contains(&lower.as_str()) {
        return Err(FieldRefusal::new(format!("{lower} belongs to the connection, and is the gateway's alone")));
    }
    let answers_without = side == HeaderSide::Response && change == HeaderChange::Remove;
    let of_others = lower.starts_with(OF_ENVOY) || (lower.starts_with(OF_THE_CALLER) && lower != MOUNT);
    if of_others && !answers_without {
        let message = format!("{lower} tells proxies and services who calls and how, and is the gateway's alone");
        return Err(FieldRefusal::new(message).cure("use a header of another name"));
    }
    Ok(())
}
