//! The second lock of an HTTP port: a first route that refuses callers whose certificate names nobody permitted.
//!
//! TLS, and a filter at the gateway, act through listeners: a connection that was open before a caller was taken off
//! the list is served by the old listener until that is drained. Routes are looked up for each request, and Envoy takes
//! new ones without touching a listener: a stranger's next request is refused on whatever connection.
//!
//! The route looks at the header in which the gateway says whose certificate the caller has (Envoy's
//! `x-forwarded-client-cert`). Istio's gateways replace whatever a caller says there (`SANITIZE_SET`), unless
//! `gatewayTopology.forwardClientCertDetails` is set to something else.
//!
//! Envoy writes `By`, `Hash`, `Cert`, `Chain`, `Subject`, `URI`, `DNS`, in this order, and escapes nothing in `URI` and
//! `DNS` (`mutateXfccRequestHeader` in Envoy's conn_manager_utility.cc, with a TODO that says so). A certificate may
//! hold `x;URI=…`, or a whole element behind a comma, in a DNS name. So the header is read from its front: what comes
//! before the caller's URI cannot be chosen freely (`Subject` is quoted, with `"` and `\` escaped by RFC 2253), there
//! is one URI as agents demand it, and what follows are DNS names by their letters. A header of several elements
//! (`APPEND_FORWARD`, and a caller that brought one) cannot be read so, and is refused.

use std::collections::BTreeMap;

use crate::api::istio::{
    VirtualServiceHttp, VirtualServiceHttpDirectResponse as DirectResponse,
    VirtualServiceHttpDirectResponseBody as Body, VirtualServiceHttpMatch, VirtualServiceHttpMatchUri as StringMatch,
};
use crate::model::TlsMode;

use super::expose::ResolvedEntry;
use super::problem::{Problem, ProblemReason};

/// The header in which a gateway tells whose certificate the caller has.
pub(super) const HEADER: &str = "x-forwarded-client-cert";

/// The header of a caller up to the URI of its certificate.
const BEFORE: &str =
    r#"(By=[^;,"]*;)*Hash=[0-9a-f]{64};(Cert="[^"]*";)?(Chain="[^"]*";)?Subject="([^"\\]|\\.)*";URI=("#;
/// The rest of it: names that the certificate has beside its URI.
const AFTER: &str = ")(;DNS=[-A-Za-z0-9.*_]*)*";

/// Istio refuses a VirtualService with a longer regular expression (`validateStringRegexp` in its validation.go), and
/// Envoy one with a program larger than 32768 (`re2.max_program_size.error_level` in Istio's bootstrap), which one of
/// this length is far from.
const MAX_PATTERN: usize = 1024;
/// The most patterns of one route. Envoy tries one after the other for each request.
const MAX_PATTERNS: usize = 64;

/// The reason why the permitted callers cannot be told to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PermitTooLarge {
    #[error("the identity {0} is longer than the {max} characters that a gateway's route can tell", max = pattern_room())]
    Identity(String),
    #[error(
        "the permitted callers need {0} patterns in a gateway's route, more than the {MAX_PATTERNS} that it may have"
    )]
    Callers(usize),
}

impl PermitTooLarge {
    pub fn to_problem(&self, field: &str) -> Problem {
        let problem = Problem::new(ProblemReason::Unsupported, field, self.to_string());
        problem.cure(match self {
            PermitTooLarge::Identity(_) => "give that cluster a shorter identity",
            PermitTooLarge::Callers(_) => "name namespaces without service accounts, or fewer callers",
        })
    }
}

/// Builds the route at the donor's gateway that refuses callers whom the policy does not permit.
pub(super) fn refusal_of_strangers(e: &ResolvedEntry<'_>) -> Result<VirtualServiceHttp, Problem> {
    let permitted: Vec<String> = if e.tls == TlsMode::Cluster {
        e.consumers.identities().iter().map(|id| quote_regex(id)).collect()
    } else {
        workload_patterns(&e.consumers.principals())
    };
    let field = if e.entry.clients.is_empty() { "clusters" } else { "clients" };
    let patterns = build_patterns(&permitted).map_err(|too_large| too_large.to_problem(field))?;
    Ok(refusal_route(e.key.host().as_str(), patterns))
}

/// Builds the route at the acceptor's gateway that refuses callers who are not among the clients. Nobody gets in if
/// these are too many ([`check_clients`]).
pub(super) fn refusal_of_others(host: &str, clients: &[String]) -> VirtualServiceHttp {
    refusal_route(host, build_patterns(&workload_patterns(clients)).unwrap_or_default())
}

/// Returns whether a route can tell these clients from others.
pub(super) fn check_clients(clients: &[String]) -> Result<(), PermitTooLarge> {
    build_patterns(&workload_patterns(clients)).map(drop)
}

fn workload_patterns(principals: &[String]) -> Vec<String> {
    principals.iter().map(|p| workload_pattern(p)).collect()
}

/// Builds the route before all others: it tells callers whose header matches none of the patterns that they may not
/// enter.
fn refusal_route(host: &str, patterns: Vec<String>) -> VirtualServiceHttp {
    let regex = |regex: String| StringMatch { regex: Some(regex), ..StringMatch::default() };
    let unlike = patterns.into_iter().enumerate().map(|(i, pattern)| (header_spelling(i), regex(pattern)));
    let without_headers: BTreeMap<String, StringMatch> = unlike.collect();
    let stranger = VirtualServiceHttpMatch {
        headers: Some(BTreeMap::from([(HEADER.to_owned(), regex(".+".to_owned()))])),
        without_headers: (!without_headers.is_empty()).then_some(without_headers),
        ..VirtualServiceHttpMatch::default()
    };
    let text = format!("this caller may not use {host}\n");
    let body = Some(Body { string: Some(text), ..Body::default() });
    VirtualServiceHttp {
        r#match: Some(vec![stranger]),
        direct_response: Some(DirectResponse { body, status: 403 }),
        ..VirtualServiceHttp::default()
    }
}

/// Returns the header's name in the n-th of its spellings. All conditions of a match must hold, and a match has one for
/// each spelling of a name: Istio keeps them as they are written, and Envoy compares names without regard to case.
fn header_spelling(n: usize) -> String {
    let mut letters = 0;
    let spell = |c: char| {
        if !c.is_ascii_alphabetic() {
            return c;
        }
        letters += 1;
        if n >> (letters - 1) & 1 == 1 { c.to_ascii_uppercase() } else { c }
    };
    HEADER.chars().map(spell).collect()
}

/// Returns the most that the identities of one pattern may take, as regular expressions.
const fn pattern_room() -> usize {
    MAX_PATTERN - BEFORE.len() - AFTER.len()
}

/// Builds patterns of all of the header. That of a permitted caller matches one of them, and nobody else's does.
fn build_patterns(identities: &[String]) -> Result<Vec<String>, PermitTooLarge> {
    let mut groups: Vec<String> = Vec::new();
    for identity in identities {
        if identity.len() > pattern_room() {
            return Err(PermitTooLarge::Identity(identity.replace('\\', "")));
        }
        match groups.last_mut() {
            Some(group) if group.len() + 1 + identity.len() <= pattern_room() => {
                group.push('|');
                group.push_str(identity);
            }
            _ => groups.push(identity.clone()),
        }
    }
    if groups.len() > MAX_PATTERNS {
        return Err(PermitTooLarge::Callers(groups.len()));
    }
    Ok(groups.into_iter().map(|group| format!("{BEFORE}{group}{AFTER}")).collect())
}

/// Turns a principal as Istio writes it, where a star at the end stands for anything, into the URI of a certificate.
/// Paths have the characters of SPIFFE IDs (SPIFFE ID, section 2.2).
fn workload_pattern(principal: &str) -> String {
    match principal.strip_suffix('*') {
        Some(prefix) => format!("spiffe://{}[-A-Za-z0-9._/]+", quote_regex(prefix)),
        None => format!("spiffe://{}", quote_regex(principal)),
    }
}

/// Returns a regular expression that matches this text only (RE2's syntax).
fn quote_regex(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && !matches!(c, '/' | ':' | '-' | '_') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests;
