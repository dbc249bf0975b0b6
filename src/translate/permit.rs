//! Who may enter, asked of each request: routes that are only for callers whose certificate names one who is permitted.
//!
//! TLS decides when a connection is made, so it lets a connection that is kept go on after its caller was taken off the
//! list. Routes are looked up for each request, and Envoy takes new ones without touching a listener: a stranger's next
//! request is refused on whatever connection, and nobody else is disturbed. The permission stands in the routes
//! themselves, so there is no moment without it, and a route that is lost lets in nobody.
//!
//! What the routes look at is the header in which the gateway says whose certificate the caller has (Envoy's
//! `x-forwarded-client-cert`). Istio's gateways replace whatever a caller says there (`SANITIZE_SET`), unless somebody has
//! set `gatewayTopology.forwardClientCertDetails`. The last element is the gateway's own, also with `APPEND_FORWARD`.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::api::istio::{
    VirtualServiceHttp, VirtualServiceHttpDirectResponse as DirectResponse,
    VirtualServiceHttpDirectResponseBody as Body, VirtualServiceHttpMatch, VirtualServiceHttpMatchUri as StringMatch,
};
use crate::model::{Host, TlsMode};

use super::expose::Resolved;

/// The header in which a gateway tells whose certificate the caller has.
pub(super) const HEADER: &str = "x-forwarded-client-cert";
/// A DNS label takes no more, and a chance of 2^-40 is small enough.
const HASH_BYTES: usize = 5;

/// Makes `routes` lead on only for the permitted callers. Others are told that they are not.
pub(super) fn guard(e: &Resolved<'_>, routes: &mut Vec<VirtualServiceHttp>) {
    let caller = StringMatch { regex: Some(permitted(e)), ..StringMatch::default() };
    let mut takes_all = false;
    for route in &mut *routes {
        let mut matches = route.r#match.take().unwrap_or_default();
        if matches.is_empty() {
            takes_all = true;
            matches.push(VirtualServiceHttpMatch::default());
        }
        for one in &mut matches {
            one.headers.get_or_insert_with(BTreeMap::new).insert(HEADER.to_owned(), caller.clone());
        }
        route.r#match = Some(matches);
    }
    // Where a permitted caller can end without a route, 404 is right for all.
    if takes_all {
        let text = format!("this caller may not use {}\n", e.key.host());
        let body = Some(Body { string: Some(text), ..Body::default() });
        routes.push(VirtualServiceHttp {
            direct_response: Some(DirectResponse { body, status: 403 }),
            ..VirtualServiceHttp::default()
        });
    }
}

/// A name below the exposed host that changes with the permission. Nobody calls it; with it the filter chain changes, and
/// a gateway drains the old one: that ends what strangers have open. (Where TLS itself names the permitted, it changes by
/// itself.)
pub(super) fn seal(e: &Resolved<'_>, host: &Host) -> Option<String> {
    if e.tls != TlsMode::Workload {
        return None;
    }
    let digest = Sha256::digest(permitted(e).as_bytes());
    let word: String = digest.iter().take(HASH_BYTES).map(|b| format!("{b:02x}")).collect();
    let sealed = format!("permitted-{word}.{host}");
    (sealed.len() <= 253).then_some(sealed)
}

/// The header of a permitted caller, as a regular expression of all of it: the last element ends with the identity, and
/// with names that a certificate may have beside it.
fn permitted(e: &Resolved<'_>) -> String {
    let identities: Vec<String> = if e.tls == TlsMode::Cluster {
        e.consumers.identities().iter().map(|id| quoted(id)).collect()
    } else {
        e.consumers.principals().iter().map(|p| workload(p)).collect()
    };
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
