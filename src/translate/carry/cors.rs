//! Cross-origin requests, field by field.

use crate::api::istio::VirtualServiceHttpCorsPolicy as CorsPolicy;

use super::budget::CarryBudget;
use super::condition::{ComparedPart, carry_comparison};
use super::limits::MAX_CORS;
use super::numbers::{carry_duration, parse_duration};
use super::refusal::{AtField, FieldRefusal, quote_shortened};
use super::text::{check_text, check_token};

pub(super) fn carry_cors(
    policy: Option<&CorsPolicy>,
    budget: &mut CarryBudget,
) -> Result<Option<CorsPolicy>, FieldRefusal> {
    let Some(policy) = policy else { return Ok(None) };
    let CorsPolicy {
        allow_credentials,
        allow_headers,
        allow_methods,
        allow_origin,
        allow_origins,
        expose_headers,
        max_age,
        unmatched_preflights,
    } = policy;
    let mut origins = Vec::new();
    for (i, origin) in allow_origins.iter().flatten().enumerate() {
        origins.extend(carry_comparison(Some(origin), ComparedPart::Origin, budget).at_index("allowOrigins", i)?);
    }
    check_length(origins.len()).at("allowOrigins")?;
    let whole_seconds = max_age.as_ref().is_none_or(|a| parse_duration(a).is_some_and(|d| d.subsec_nanos() == 0));
    if !whole_seconds {
        return Err(FieldRefusal::new("it takes whole seconds").below("maxAge"));
    }
    Ok(Some(CorsPolicy {
        allow_credentials: *allow_credentials,
        allow_headers: carry_list(allow_headers.as_ref(), check_token_of_header).at("allowHeaders")?,
        allow_methods: carry_list(allow_methods.as_ref(), check_method).at("allowMethods")?,
        allow_origin: carry_list(allow_origin.as_ref(), check_text).at("allowOrigin")?,
        allow_origins: allow_origins.as_ref().map(|_| origins),
        expose_headers: carry_list(expose_headers.as_ref(), check_token_of_header).at("exposeHeaders")?,
        max_age: carry_duration(max_age.as_ref()).at("maxAge")?,
        unmatched_preflights: unmatched_preflights.clone(),
    }))
}

fn check_token_of_header(text: &str) -> Result<(), FieldRefusal> {
    check_token(text, "a header")
}

/// The methods that Istio takes.
const METHODS: [&str; 10] = ["*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

fn check_method(text: &str) -> Result<(), FieldRefusal> {
    if METHODS.contains(&text) {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("{} is none of {}", quote_shortened(text), METHODS.join(", "))))
}

fn check_length(length: usize) -> Result<(), FieldRefusal> {
    if length <= MAX_CORS {
        return Ok(());
    }
    Err(FieldRefusal::new(format!("it has at most {MAX_CORS} entries")))
}

fn carry_list(
    list: Option<&Vec<String>>,
    check: fn(&str) -> Result<(), FieldRefusal>,
) -> Result<Option<Vec<String>>, FieldRefusal> {
    let Some(list) = list else { return Ok(None) };
    check_length(list.len())?;
    for (i, text) in list.iter().enumerate() {
        check(text).at_index("", i)?;
    }
    Ok(Some(list.clone()))
}
