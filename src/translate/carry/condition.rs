//! Conditions of a route: paths, headers, query parameters.

use std::collections::BTreeMap;

use crate::api::istio::{VirtualServiceHttpMatch, VirtualServiceHttpMatchUri as StringMatch, VirtualServiceTcpMatch};

use super::budget::CarryBudget;
use super::headers::check_condition_name;
use super::limits::MAX_FIELD_NAME;
use super::pattern::check_regex;
use super::refusal::{AtField, FieldRefusal, quote_shortened};
use super::text::{carry_name, check_matched_path, check_text, check_token, is_printable};

/// The part of a request that a comparison looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComparedPart {
    Path,
    Method,
    Origin,
    /// A header or query parameter, which may also be asked for without a value: `{}`, or the expression `*`, which
    /// istiod takes for that and its validation only sometimes.
    Value,
}

/// A match of an HTTP route, without the gateways and the port that it is for.
pub(in crate::translate) fn carry_http_match(
    one: &VirtualServiceHttpMatch,
    budget: &mut CarryBudget,
) -> Result<VirtualServiceHttpMatch, FieldRefusal> {
    let VirtualServiceHttpMatch {
        authority,
        gateways: _,
        headers,
        ignore_uri_case,
        method,
        name,
        port: _,
        query_params,
        scheme,
        source_labels,
        source_namespace,
        stat_prefix,
        uri,
        without_headers,
    } = one;
    budget.add_match()?;
    refuse_foreign(source_labels.as_ref().is_some_and(|l| !l.is_empty()), "sourceLabels")?;
    refuse_foreign(source_namespace.as_ref().is_some_and(|n| !n.is_empty()), "sourceNamespace")?;
    refuse_foreign(authority.is_some(), "authority")?;
    refuse_foreign(scheme.is_some(), "scheme")?;
    Ok(VirtualServiceHttpMatch {
        authority: None,
        gateways: None,
        headers: carry_conditions(headers.as_ref(), budget, check_condition_name, "headers")?,
        ignore_uri_case: *ignore_uri_case,
        method: carry_comparison(method.as_ref(), ComparedPart::Method, budget).at("method")?,
        name: carry_name(name.as_ref()).at("name")?,
        port: None,
        query_params: carry_conditions(query_params.as_ref(), budget, check_parameter, "queryParams")?,
        scheme: None,
        source_labels: None,
        source_namespace: None,
        stat_prefix: carry_name(stat_prefix.as_ref()).at("statPrefix")?,
        uri: carry_comparison(uri.as_ref(), ComparedPart::Path, budget).at("uri")?,
        without_headers: carry_conditions(without_headers.as_ref(), budget, check_condition_name, "withoutHeaders")?,
    })
}

/// A match of a TCP route, without the gateways and the port that it is for: nothing of it can be carried.
pub(in crate::translate) fn carry_tcp_match(
    one: &VirtualServiceTcpMatch,
    budget: &mut CarryBudget,
) -> Result<VirtualServiceTcpMatch, FieldRefusal> {
    let VirtualServiceTcpMatch {
        destination_subnets,
        gateways: _,
        port: _,
        source_labels,
        source_namespace,
        source_subnet,
    } = one;
    budget.add_match()?;
    refuse_foreign(source_labels.as_ref().is_some_and(|l| !l.is_empty()), "sourceLabels")?;
    refuse_foreign(source_namespace.as_ref().is_some_and(|n| !n.is_empty()), "sourceNamespace")?;
    refuse_foreign(source_subnet.as_ref().is_some_and(|s| !s.is_empty()), "sourceSubnet")?;
    refuse_foreign(destination_subnets.as_ref().is_some_and(|s| !s.is_empty()), "destinationSubnets")?;
    Ok(VirtualServiceTcpMatch::default())
}

/// Refuses a condition that means something else at the gateway, or nothing.
fn refuse_foreign(given: bool, field: &str) -> Result<(), FieldRefusal> {
    if !given {
        return Ok(());
    }
    Err(FieldRefusal::new("in a match it means something else for callers of another cluster")
        .cure("give other clusters a VirtualService without it")
        .below(field))
}

fn carry_conditions(
    all: Option<&BTreeMap<String, StringMatch>>,
    budget: &mut CarryBudget,
    check_name: fn(&str) -> Result<(), FieldRefusal>,
    field: &str,
) -> Result<Option<BTreeMap<String, StringMatch>>, FieldRefusal> {
    let Some(all) = all else { return Ok(None) };
    budget.add_headers(all.len()).at(field)?;
    let mut carried = BTreeMap::new();
    for (name, comparison) in all {
        check_name(name).at_key(field, name)?;
        let comparison = carry_comparison(Some(comparison), ComparedPart::Value, budget).at_key(field, name)?;
        carried.insert(name.clone(), comparison.unwrap_or_default());
    }
    Ok(Some(carried))
}

fn check_parameter(name: &str) -> Result<(), FieldRefusal> {
    if !name.is_empty() && name.len() <= MAX_FIELD_NAME && is_printable(name) && !name.contains(' ') {
        return Ok(());
    }
    let message =
        format!("{} is not a name of at most {MAX_FIELD_NAME} printable ASCII characters", quote_shortened(name));
    Err(FieldRefusal::new(message))
}

pub(super) fn carry_comparison(
    comparison: Option<&StringMatch>,
    with: ComparedPart,
    budget: &mut CarryBudget,
) -> Result<Option<StringMatch>, FieldRefusal> {
    let Some(comparison) = comparison else { return Ok(None) };
    let StringMatch { exact, prefix, regex } = comparison;
    match (exact, prefix, regex) {
        (Some(text), None, None) => check_compared(text, with).at("exact")?,
        (None, Some(text), None) => {
            // Envoy: `StringMatcher.prefix` has at least one character.
            if text.is_empty() {
                return Err(FieldRefusal::new("a prefix has at least one character").below("prefix"));
            }
            check_compared(text, with).at("prefix")?;
        }
        (None, None, Some(text)) if with == ComparedPart::Value && text == "*" => {
            return Ok(Some(StringMatch::default()));
        }
        (None, None, Some(text)) => {
            let size = check_regex(text).at("regex")?;
            budget.add_program(size.program).at("regex")?;
        }
        (None, None, None) if with == ComparedPart::Value => {}
        _ => return Err(FieldRefusal::new("it takes exactly one of exact, prefix and regex")),
    }
    Ok(Some(StringMatch { exact: exact.clone(), prefix: prefix.clone(), regex: regex.clone() }))
}

fn check_compared(text: &str, with: ComparedPart) -> Result<(), FieldRefusal> {
    match with {
        ComparedPart::Path => check_matched_path(text),
        ComparedPart::Method => check_token(text, "a method"),
        ComparedPart::Origin if text.is_empty() => Err(FieldRefusal::new("an origin is not empty")),
        ComparedPart::Origin | ComparedPart::Value => check_text(text),
    }
}
