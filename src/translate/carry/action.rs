//! Actions of a route: redirects, rewrites, answers, faults, retries.

use std::time::Duration;

use crate::api::istio::{
    VirtualServiceHttpDirectResponse as DirectResponse, VirtualServiceHttpDirectResponseBody as Body,
    VirtualServiceHttpFault as Fault, VirtualServiceHttpFaultAbort as Abort, VirtualServiceHttpFaultDelay as Delay,
    VirtualServiceHttpMatch, VirtualServiceHttpRedirect as Redirect, VirtualServiceHttpRetries as Retries,
    VirtualServiceHttpRewrite as Rewrite, VirtualServiceHttpRewriteUriRegexRewrite as RegexRewrite,
};

use super::budget::CarryBudget;
use super::http::carry_percentage;
use super::limits::{MAX_ATTEMPTS, MAX_BODY, MAX_DELAY, MAX_TEXT};
use super::numbers::{carry_duration, carry_duration_between, carry_number};
use super::pattern::check_regex;
use super::refusal::{AtField, FieldRefusal, quote_shortened};
use super::text::{check_authority, check_written_path};

const REDIRECT_CODES: [i64; 6] = [0, 301, 302, 303, 307, 308];

/// A redirect to a place outside. Without a host it would lead a caller of another cluster to the gateway's name.
pub(super) fn carry_redirect(
    redirect: Option<&Redirect>,
    matches: &[VirtualServiceHttpMatch],
) -> Result<Option<Redirect>, FieldRefusal> {
    let Some(redirect) = redirect else { return Ok(None) };
    let Redirect { authority, derive_port, port, prefix_rewrite, redirect_code, scheme, uri } = redirect;
    if derive_port.is_some() {
        let refusal = FieldRefusal::new("the gateway's port is another than the service's inside the mesh");
        return Err(refusal.cure("name the port").below("derivePort"));
    }
    let Some(authority) = authority.as_ref().filter(|a| !a.is_empty()) else {
        let message = "without it a caller of another cluster is led to the name that the service has at the gateway";
        return Err(FieldRefusal::new(message)
            .cure("name a host that callers of all clusters reach")
            .below("authority"));
    };
    check_authority(authority).at("authority")?;
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    if is_given(uri) && is_given(prefix_rewrite) {
        return Err(FieldRefusal::new("uri and prefixRewrite exclude each other").below("prefixRewrite"));
    }
    let mut matched = matches.iter().filter_map(|m| m.uri.as_ref());
    if is_given(prefix_rewrite) && matched.any(|uri| uri.prefix.is_none()) {
        let refusal = FieldRefusal::new("it needs matches by uri.prefix");
        return Err(refusal.below("prefixRewrite"));
    }
    for (text, field) in [(uri, "uri"), (prefix_rewrite, "prefixRewrite")] {
        if let Some(path) = text.as_ref().filter(|t| !t.is_empty()) {
            check_written_path(path, "?").at(field)?;
        }
    }
    if let Some(code) = redirect_code.filter(|c| !REDIRECT_CODES.contains(c)) {
        return Err(FieldRefusal::new(format!("{code} is none of 301, 302, 303, 307, 308")).below("redirectCode"));
    }
    let scheme = match scheme.as_deref() {
        // Without one Envoy keeps the request's: http inside the mesh, https at the gateway.
        None | Some("") => "http",
        Some("http") => "http",
        Some("https") => "https",
        Some(other) => {
            return Err(
                FieldRefusal::new(format!("{} is neither http nor https", quote_shortened(other))).below("scheme")
            );
        }
    };
    Ok(Some(Redirect {
        authority: Some(authority.clone()),
        derive_port: None,
        port: carry_number(*port, 1..=65_535).at("port")?,
        prefix_rewrite: prefix_rewrite.clone(),
        redirect_code: *redirect_code,
        scheme: Some(scheme.to_owned()),
        uri: uri.clone(),
    }))
}

pub(super) fn carry_rewrite(
    rewrite: Option<&Rewrite>,
    budget: &mut CarryBudget,
) -> Result<Option<Rewrite>, FieldRefusal> {
    let Some(Rewrite { authority, uri, uri_regex_rewrite }) = rewrite else { return Ok(None) };
    let authority = authority.as_ref().filter(|a| !a.is_empty());
    let uri = uri.as_ref().filter(|u| !u.is_empty());
    if let Some(authority) = authority {
        check_authority(authority).at("authority")?;
    }
    if let Some(uri) = uri {
        check_written_path(uri, "").at("uri")?;
    }
    if uri.is_some() && uri_regex_rewrite.is_some() {
        return Err(FieldRefusal::new("uri and uriRegexRewrite exclude each other").below("uriRegexRewrite"));
    }
    if authority.is_none() && uri.is_none() && uri_regex_rewrite.is_none() {
        return Err(FieldRefusal::new("it takes uri, uriRegexRewrite or authority"));
    }
    Ok(Some(Rewrite {
        authority: authority.cloned(),
        uri: uri.cloned(),
        uri_regex_rewrite: carry_regex_rewrite(uri_regex_rewrite.as_ref(), budget).at("uriRegexRewrite")?,
    }))
}

fn carry_regex_rewrite(
    rewrite: Option<&RegexRewrite>,
    budget: &mut CarryBudget,
) -> Result<Option<RegexRewrite>, FieldRefusal> {
    let Some(RegexRewrite { r#match, rewrite }) = rewrite else { return Ok(None) };
    let (pattern, text) = (r#match.as_deref().unwrap_or_default(), rewrite.as_deref().unwrap_or_default());
    let size = check_regex(pattern).at("match")?;
    budget.add_program(size.program).at("match")?;
    check_substitution(text, size.groups).at("rewrite")?;
    Ok(Some(RegexRewrite { r#match: Some(pattern.to_owned()), rewrite: Some(text.to_owned()) }))
}

/// A path with `\0` to `\9` for groups of the expression (RE2, `RE2::Rewrite`). Envoy fails the requests of one that
/// names a group that is not there.
fn check_substitution(text: &str, groups: u32) -> Result<(), FieldRefusal> {
    if text.is_empty() || text.len() > MAX_TEXT {
        return Err(FieldRefusal::new(format!("it has 1 to {MAX_TEXT} characters")));
    }
    let mut path = String::from("/");
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            path.push(c);
            continue;
        }
        match chars.next().and_then(|d| d.to_digit(10)) {
            Some(group) if group <= groups => {}
            Some(group) => {
                let message = format!("\\{group} names a group that the expression does not have: it has {groups}");
                return Err(FieldRefusal::new(message));
            }
            None => return Err(FieldRefusal::new("a \\ stands before something that is no digit")),
        }
    }
    check_written_path(&path, "")
}

pub(super) fn carry_direct_response(response: Option<&DirectResponse>) -> Result<Option<DirectResponse>, FieldRefusal> {
    let Some(DirectResponse { body, status }) = response else { return Ok(None) };
    carry_number(Some(*status), 200..=599).at("status")?;
    let Some(Body { bytes, string }) = body else { return Ok(Some(DirectResponse { body: None, status: *status })) };
    let size = match (bytes, string) {
        (None, Some(text)) => text.len(),
        (Some(text), None) => {
            base64_size(text).ok_or_else(|| FieldRefusal::new("it is not base64").below("bytes").below("body"))?
        }
        (None, None) => 0,
        (Some(_), Some(_)) => return Err(FieldRefusal::new("bytes and string exclude each other").below("body")),
    };
    if size > MAX_BODY {
        let message = format!("{size} bytes are more than {MAX_BODY}, which is what Envoy takes");
        return Err(FieldRefusal::new(message).cure("let a Service answer").below("body"));
    }
    let body = Body { bytes: bytes.clone(), string: string.clone() };
    Ok(Some(DirectResponse { body: Some(body), status: *status }))
}

/// Returns the number of bytes that a text in base64 stands for (RFC 4648, section 4, with padding).
fn base64_size(text: &str) -> Option<usize> {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    let fits = digits.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    (fits && padding <= 2 && text.len().is_multiple_of(4)).then(|| text.len() / 4 * 3 - padding)
}

/// The codes that istiod knows by name (`grpc.SupportedGRPCStatus`); another one would become OK.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn carry_fault(fault: Option<&Fault>) -> Result<Option<Fault>, FieldRefusal> {
    let Some(Fault { abort, delay }) = fault else { return Ok(None) };
    if abort.is_none() && delay.is_none() {
        return Err(FieldRefusal::new("it takes abort or delay"));
    }
    let abort = abort.as_ref().map(carry_abort).transpose().at("abort")?;
    let delay = delay.as_ref().map(carry_delay).transpose().at("delay")?;
    Ok(Some(Fault { abort, delay }))
}

fn carry_abort(abort: &Abort) -> Result<Abort, FieldRefusal> {
    let Abort { grpc_status, http2_error, http_status, percentage } = abort;
    if http2_error.is_some() {
        return Err(FieldRefusal::new("Istio does not support it").cure("use httpStatus").below("http2Error"));
    }
    match (grpc_status.as_deref(), http_status) {
        (Some(name), None) if GRPC_STATUSES.contains(&name) => {}
        (Some(name), None) => {
            return Err(
                FieldRefusal::new(format!("{} is no status of gRPC", quote_shortened(name))).below("grpcStatus")
            );
        }
        (None, Some(status)) => drop(carry_number(Some(*status), 200..=599).at("httpStatus")?),
        _ => return Err(FieldRefusal::new("it takes exactly one of httpStatus and grpcStatus")),
    }
    Ok(Abort {
        grpc_status: grpc_status.clone(),
        http2_error: None,
        http_status: *http_status,
        percentage: carry_percentage(percentage.as_ref()).at("percentage")?,
    })
}

fn carry_delay(delay: &Delay) -> Result<Delay, FieldRefusal> {
    let Delay { exponential_delay, fixed_delay, percent, percentage } = delay;
    if exponential_delay.is_some() {
        return Err(FieldRefusal::new("Istio does not support it").cure("use fixedDelay").below("exponentialDelay"));
    }
    if fixed_delay.is_none() {
        return Err(FieldRefusal::new("it takes fixedDelay"));
    }
    let least = Duration::from_millis(1);
    Ok(Delay {
        exponential_delay: None,
        fixed_delay: carry_duration_between(fixed_delay.as_ref(), least, MAX_DELAY).at("fixedDelay")?,
        percent: carry_number(*percent, 0..=100).at("percent")?,
        percentage: carry_percentage(percentage.as_ref()).at("percentage")?,
    })
}

/// Conditions of retries that Envoy and Istio know ("x-envoy-retry-on", "x-envoy-retry-grpc-on"); numbers are statuses.
const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "cancelled",
    "connect-failure",
    "deadline-exceeded",
    "envoy-ratelimited",
    "gateway-error",
    "http3-post-connect-failure",
    "internal",
    "refused-stream",
    "reset",
    "reset-before-request",
    "resource-exhausted",
    "retriable-4xx",
    "retriable-headers",
    "retriable-status-codes",
    "unavailable",
];

pub(super) fn carry_retries(retries: Option<&Retries>) -> Result<Option<Retries>, FieldRefusal> {
    let Some(retries) = retries else { return Ok(None) };
    let Retries { attempts, backoff, per_try_timeout, retry_ignore_previous_hosts, retry_on, retry_remote_localities } =
        retries;
    const MOST_CONDITIONS: usize = 32;
    let conditions: Vec<&str> =
        retry_on.iter().flat_map(|r| r.split(',')).map(str::trim).filter(|c| !c.is_empty()).collect();
    for (i, condition) in conditions.iter().enumerate() {
        let is_status = condition.len() == 3 && condition.parse::<u16>().is_ok_and(|s| (100..600).contains(&s));
        if i >= MOST_CONDITIONS || !(is_status || RETRY_CONDITIONS.contains(condition)) {
            let message = format!(
                "{} is no condition of a retry, or one of more than {MOST_CONDITIONS}",
                quote_shortened(condition)
            );
            return Err(FieldRefusal::new(message).below("retryOn"));
        }
    }
    let more = !conditions.is_empty() || per_try_timeout.is_some() || retry_remote_localities.is_some();
    if more && attempts.unwrap_or_default() == 0 {
        return Err(FieldRefusal::new("without attempts nothing is repeated").below("attempts"));
    }
    Ok(Some(Retries {
        attempts: carry_number(*attempts, 0..=MAX_ATTEMPTS.into()).at("attempts")?,
        backoff: carry_duration(backoff.as_ref()).at("backoff")?,
        per_try_timeout: carry_duration(per_try_timeout.as_ref()).at("perTryTimeout")?,
        retry_ignore_previous_hosts: *retry_ignore_previous_hosts,
        retry_on: retry_on.as_ref().map(|_| conditions.join(",")),
        retry_remote_localities: *retry_remote_localities,
    }))
}
