//! Who may enter, asked of each request: a first route that refuses callers whose certificate names nobody permitted.
//!
//! TLS, and a filter at the gateway, act through listeners: a connection that was open before a caller was
//! taken off the list is served by the old one until it is drained. Routes are looked up for each request, and Envoy takes
//! new ones without touching a listener: a stranger's next request is refused on whatever connection. This is a second
//! lock beside the first, never the only one.
//!
//! What the route looks at is the header in which the gateway says whose certificate the caller has (Envoy's
//! `x-forwarded-client-cert`). Istio's gateways replace whatever a caller says there (`SANITIZE_SET`), unless somebody has
//! set `gatewayTopology.forwardClientCertDetails`. The last element is the gateway's own, also with `APPEND_FORWARD`.

use std::collections::BTreeMap;

use crate::api::istio::{
    VirtualServiceHttp, VirtualServiceHttpDirectResponse as DirectResponse,
    VirtualServiceHttpDirectResponseBody as Body, VirtualServiceHttpMatch, VirtualServiceHttpMatchUri as StringMatch,
};
use crate::model::TlsMode;

use super::expose::Resolved;

/// The header in which a gateway tells whose certificate the caller has.
pub(super) const HEADER: &str = "x-forwarded-client-cert";

/// At the donor's gateway: callers whom the policy does not permit.
pub(super) fn refusal_of_strangers(e: &Resolved<'_>) -> VirtualServiceHttp {
    let permitted: Vec<String> = if e.tls == TlsMode::Cluster {
        e.consumers.identities().iter().map(|id| quoted(id)).collect()
    } else {
        patterns(&e.consumers.principals())
    };
    refusal(e.key.host().as_str(), &permitted)
}

/// At the acceptor's: callers who are not among the clients.
pub(super) fn refusal_of_others(host: &str, clients: &[String]) -> VirtualServiceHttp {
    refusal(host, &patterns(clients))
}

fn patterns(principals: &[String]) -> Vec<String> {
    principals.iter().map(|p| workload(p)).collect()
}

/// The route before all others: callers who are not permitted are told so.
fn refusal(host: &str, permitted: &[String]) -> VirtualServiceHttp {
    let header = |regex: String| {
        let value = StringMatch { regex: Some(regex), ..StringMatch::default() };
        Some(BTreeMap::from([(HEADER.to_owned(), value)]))
    };
    let stranger = VirtualServiceHttpMatch {
        headers: header(".+".to_owned()),
        without_headers: header(last_element(permitted)),
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

/// The header of a permitted caller, as a regular expression of all of it: the last element ends with the identity, and
/// with names that a certificate may have beside it.
fn last_element(identities: &[String]) -> String {
    format!(".*;URI=({})(;DNS=[^;,=\"]*)*", identities.join("|"))
}

/// A principal as Istio writes it, where a star at the end stands for anything, as the URI of a certificate.
fn workload(principal: &str) -> String {
    match principal.strip_suffix('*') {
        Some(prefix) => format!("spiffe://{}[^;,=\"]+", quoted(prefix)),
        None => format!("spiffe://{}", quoted(principal)),
    }
}

/// A text as a regular expression of itself (RE2's syntax).
fn quoted(text: &str) -> String {
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
mod tests {
    use super::{quoted, workload};

    #[test]
    fn a_principal_is_taken_by_its_letters() {
        assert_eq!(workload("isle.example/ns/a/sa/b"), r"spiffe://isle\.example/ns/a/sa/b");
        assert_eq!(workload("isle/*"), "spiffe://isle/[^;,=\"]+");
        assert_eq!(quoted("a+(b)*"), r"a\+\(b\)\*");
    }
}
