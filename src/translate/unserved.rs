//! Ports of a local name with no donor behind them.
//!
//! A local name belongs to the bindings that ask for it: its Service stays, with its address, while no donor serves it.
//! The ports are those that are remembered. A call of an HTTP port gets a 503 from the caller's sidecar, which names
//! the reason; gRPC clients see UNAVAILABLE, with the reason as its message. A connection to a TCP port is closed at
//! once, since the Service has no endpoints.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::Object;
use crate::api::istio::{
    VirtualServiceHttp, VirtualServiceHttpDirectResponse as DirectResponse,
    VirtualServiceHttpDirectResponseBody as Body, VirtualServiceHttpHeaders as Headers,
    VirtualServiceHttpHeadersRequest as HeaderChanges, VirtualServiceHttpMatch,
};

use super::acceptor;
use super::bind::SourceOutcome;
use super::memory::BoundPort;
use super::names::OwnerMarks;
use super::plan::LocalPort;
use super::problem::ProblemReason;
use super::sources::{LocalName, Source};

/// The response header that names the reason.
const REASON_HEADER: &str = "x-wharf-reason";
const STATUS: i64 = 503;
/// Donors that an answer names at most.
const MAX_NAMED: usize = 3;

/// A port of a local name that no donor serves, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnservedPort {
    pub port: LocalPort,
    /// `NotExposed by cluster1`.
    pub why: String,
}

/// Returns the ports that the name has and no donor serves. Sets for each source that had one of them the answer that
/// its callers get.
pub(super) fn note_unserved(
    served: &BTreeSet<u16>,
    holders: &[&Source],
    outcomes: &mut [SourceOutcome],
) -> Vec<UnservedPort> {
    let holds = |o: &SourceOutcome| holders.iter().any(|h| h.wanted == o.wanted);
    let mut having: Vec<&SourceOutcome> = outcomes.iter().filter(|o| holds(o)).collect();
    having.sort_by_key(|o| (&o.wanted.age, o.wanted.place())); // not by who was there first
    let unserved = unserved_ports(&having, served);
    for outcome in outcomes.iter_mut().filter(|o| holds(o)) {
        let is_its = |u: &&UnservedPort| outcome.memory.ports.iter().any(|p| p.local == u.port.number);
        let its: Vec<&UnservedPort> = unserved.iter().filter(is_its).collect();
        outcome.refusal = describe_answers(&its);
        let not_exposed = |port: &&BoundPort| port.gone == Some(ProblemReason::PortNotExposed);
        let dropped = outcome.memory.ports.iter().filter(not_exposed).map(|port| port.local.to_string());
        let dropped: Vec<String> = dropped.collect();
        if !dropped.is_empty() && outcome.problem.is_none() && outcome.lacking.is_none() {
            outcome.notes.push(format!("port {} is not exposed any more", dropped.join(", ")));
        }
    }
    unserved
}

/// Returns the remembered ports of those that have the name, without those in `served`.
fn unserved_ports(holders: &[&SourceOutcome], served: &BTreeSet<u16>) -> Vec<UnservedPort> {
    let mut found: BTreeMap<u16, (LocalPort, BTreeSet<String>)> = BTreeMap::new();
    for outcome in holders {
        for known in outcome.memory.ports.iter().filter(|port| !served.contains(&port.local)) {
            let port = || LocalPort { number: known.local, protocol: known.protocol, name: known.name.clone() };
            let (_, reasons) = found.entry(known.local).or_insert_with(|| (port(), BTreeSet::new()));
            reasons.insert(reason_of(outcome, known.gone));
        }
    }
    found.into_values().map(|(port, reasons)| UnservedPort { port, why: join_reasons(&reasons) }).collect()
}

/// Names the reason of a port. Both parts are Wharf's own: a word from its list, and the name of a cluster, which is a
/// DNS label.
fn reason_of(outcome: &SourceOutcome, gone: Option<ProblemReason>) -> String {
    let cluster = &outcome.wanted.cluster;
    match gone {
        Some(reason @ (ProblemReason::NotExposed | ProblemReason::PortNotExposed | ProblemReason::NotPermitted)) => {
            format!("{reason} by {cluster}")
        }
        Some(reason) => format!("{reason} for {cluster}"),
        None => format!("WeightZero for {cluster}"), // it would serve the port, and takes no calls
    }
}

fn join_reasons(reasons: &BTreeSet<String>) -> String {
    let named: Vec<&str> = reasons.iter().take(MAX_NAMED).map(String::as_str).collect();
    match reasons.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Describes for a status what callers of these ports get; None if all ports are served.
fn describe_answers(ports: &[&UnservedPort]) -> Option<String> {
    let numbers = |http: bool| {
        let some = ports.iter().map(|unserved| &unserved.port).filter(|port| port.protocol.is_http() == http);
        some.map(|port| port.number.to_string()).collect::<Vec<_>>().join(", ")
    };
    let http = Some(numbers(true)).filter(|all| !all.is_empty());
    let http = http.map(|all| format!("calls of port {all} are answered with {STATUS} here"));
    let tcp = Some(numbers(false)).filter(|all| !all.is_empty());
    let tcp = tcp.map(|all| format!("connections to port {all} are closed at once here"));
    let both: Vec<String> = http.into_iter().chain(tcp).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

/// The objects of a local name that no donor serves.
pub(super) fn build_unserved_objects(local: &LocalName, unserved: &[UnservedPort], marks: &OwnerMarks) -> Vec<Object> {
    let ports: Vec<&LocalPort> = unserved.iter().map(|unserved| &unserved.port).collect();
    let mut objects = vec![acceptor::build_stub_service(local, &ports, marks).into()];
    let http = build_unserved_routes(local, unserved, unserved.len() > 1);
    if !http.is_empty() {
        objects.push(acceptor::mesh_virtual_service(local, marks, http, Vec::new()).into());
    }
    objects
}

/// The routes of the HTTP ports among them. `several`: the name has other ports as well, and routes say for which they
/// are.
pub(super) fn build_unserved_routes(
    local: &LocalName,
    unserved: &[UnservedPort],
    several: bool,
) -> Vec<VirtualServiceHttp> {
    let route = |UnservedPort { port, why }: &UnservedPort| {
        let matches = VirtualServiceHttpMatch { port: Some(port.number.into()), ..VirtualServiceHttpMatch::default() };
        let text = format!("nothing is behind port {} of {}: {why}", port.number, local.host());
        let body = Some(Body { string: Some(text), ..Body::default() });
        let set = BTreeMap::from([(REASON_HEADER.to_owned(), escape_formatter(why))]);
        let response = HeaderChanges { set: Some(set), ..HeaderChanges::default() };
        VirtualServiceHttp {
            r#match: several.then(|| vec![matches]),
            direct_response: Some(DirectResponse { body, status: STATUS }),
            headers: Some(Headers { request: None, response: Some(response) }),
            ..VirtualServiceHttp::default()
        }
    };
    unserved.iter().filter(|unserved| unserved.port.protocol.is_http()).map(route).collect()
}

/// Escapes a header's value: Envoy expands commands in the values of headers that it sets; `%%` is a percent sign
/// (Envoy, "Custom request/response headers"). Bodies of direct responses are taken as they are.
fn escape_formatter(text: &str) -> String {
    text.replace('%', "%%")
}
