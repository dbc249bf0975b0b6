//! Formats a [`AgentView`] as tables. None: there is nothing to show.

use crate::agent::istiod::tell::GATEWAY_ACCEPTS;
use crate::agent::readiness::{READY, describe_rejection, entry_state, service_state};
use crate::agent::view::{AgentView, BindingView, OfferView, PeerView, PolicyView};
use crate::api::{Condition, ConditionStatus};
use crate::cli::output::format_table;
use crate::model::text::printable;

/// State of an object that no agent has looked at.
const UNSEEN: &str = "Unseen";
const NO_AGENT: &str = "no agent has looked at it yet";
/// State of an object that was changed after an agent looked at it.
const OUTDATED: &str = "Outdated";
/// State of a binding that is an offer.
const POTENTIAL: &str = "Potential";
/// Column of the state in the rows.
const STATE_OF_POLICY: usize = 3;
const STATE_OF_BINDING: usize = 4;

pub fn status_tables(view: &AgentView, wide: bool) -> Option<String> {
    let policies: Vec<_> = view.policies.iter().flat_map(|p| policy_rows(p, wide)).collect();
    let bindings: Vec<_> = view.bindings.iter().flat_map(|b| binding_rows(b, wide)).collect();
    let mut tables = Vec::new();
    if !policies.is_empty() {
        let heads = ["NAMESPACE", "POLICY", "EXPOSED", "STATE", "OFFERED-TO", "BOUND-BY", "MESSAGE"];
        tables.push(format_table(&widen_heads(&heads, wide, &["SINCE"]), &policies));
    }
    if !bindings.is_empty() {
        let heads = ["NAMESPACE", "BINDING", "LOCAL-HOST", "FROM", "STATE", "MESSAGE"];
        tables.push(format_table(&widen_heads(&heads, wide, &["SINCE", "VERSION"]), &bindings));
    }
    (!tables.is_empty()).then(|| tables.join("\n"))
}

fn policy_rows(p: &PolicyView, wide: bool) -> Vec<Vec<String>> {
    let conditions = &p.status.conditions;
    let row = |exposed: String, state: String, offered: &[String], bound: &[String], message: String| {
        let mut row = vec![p.namespace.clone(), p.name.clone(), exposed, state, offered.join(",")];
        row.extend([bound.join(","), message]);
        row.extend(wide.then(|| ready_since(conditions)));
        row
    };
    if p.status.exposed.is_empty() {
        return vec![row(String::new(), object_state(conditions, p.outdated), &[], &[], explain_unready(conditions))];
    }
    let rows = p.status.exposed.iter().map(|e| {
        let refused = find_condition(conditions, GATEWAY_ACCEPTS).map(|c| c.message.clone());
        let said = refused.into_iter().chain([e.message.clone()]).chain(e.rejected_by.iter().map(describe_rejection));
        let said: Vec<_> = said.filter(|s| !s.is_empty()).collect();
        let exposed = if e.host.is_empty() { e.name.clone() } else { e.host.clone() };
        row(
            exposed,
            row_state(entry_state(e, conditions), conditions, p.outdated),
            &e.offered_to,
            &e.bound_by,
            said.join("; "),
        )
    });
    rows.collect()
}

fn binding_rows(b: &BindingView, wide: bool) -> Vec<Vec<String>> {
    let conditions = &b.status.conditions;
    let row = |local: String, from: String, state: String, message: String, version: String| {
        let mut row = vec![b.namespace.clone(), b.name.clone(), local, from, state, message];
        row.extend(wide.then(|| [ready_since(conditions), version]).into_iter().flatten());
        row
    };
    let potential = b.connection == "potential";
    if b.status.services.is_empty() {
        let state = if potential { POTENTIAL.into() } else { object_state(conditions, b.outdated) };
        return vec![row(String::new(), String::new(), state, explain_unready(conditions), String::new())];
    }
    let rows = b.status.services.iter().map(|s| {
        let state = match () {
            () if potential => POTENTIAL.into(),
            () => row_state(service_state(s, conditions), conditions, b.outdated),
        };
        let from = match s.exposition.is_empty() {
            true => String::new(), // of an invalid entry
            false => format!("{}:{}", s.cluster, s.exposition),
        };
        row(s.local_host.clone(), from, state, s.message.clone(), s.version.clone())
    });
    rows.collect()
}

pub fn offers_table(view: &AgentView, wide: bool) -> Option<String> {
    let rows: Vec<_> = view.offers.iter().map(|o| offer_row(o, wide)).collect();
    let heads = ["CLUSTER", "NAMESPACE", "NAME", "PORTS", "TLS", "BOUND-BY", "REJECTED"];
    (!rows.is_empty()).then(|| format_table(&widen_heads(&heads, wide, &["HOST", "GATEWAYS", "VERSION"]), &rows))
}

fn offer_row(o: &OfferView, wide: bool) -> Vec<String> {
    let e = o.exposition.as_ref();
    let more = if o.more_ports { ",..." } else { "" };
    let mut row = vec![o.cluster.clone(), o.namespace.clone(), o.name.clone(), o.ports.join(",") + more];
    row.extend([o.tls.clone(), o.bound_by.join(","), o.rejected.clone()]);
    if wide {
        let gateways = e.into_iter().flat_map(|e| &e.gateways);
        let gateways: Vec<_> = gateways.map(|g| format!("{}:{}", g.address, g.port)).collect();
        row.extend([e.map(|e| e.host.to_string()).unwrap_or_default(), gateways.join(","), o.version.clone()]);
    }
    row
}

pub fn peers_table(view: &AgentView, wide: bool) -> Option<String> {
    let rows: Vec<_> = view.peers.iter().map(|p| peer_row(p, wide)).collect();
    let heads = ["NAME", "ENDPOINT", "CONNECTED", "LAST-SYNC", "OFFERS", "MAY-CONSUME", "SUBSCRIBED", "EXPOSED-TO-IT"];
    let more = ["IDENTITY", "CERTIFICATE-EXPIRES", "REVISION", "BOUND", "MESSAGE"];
    (!rows.is_empty()).then(|| format_table(&widen_heads(&heads, wide, &more), &rows))
}

fn peer_row(p: &PeerView, wide: bool) -> Vec<String> {
    let status = &p.status;
    let mut row = vec![
        p.name.clone(),
        p.endpoint.clone().unwrap_or_default(),
        yes_or_reason(&status.conditions, "Connected"),
        status.last_sync.clone().unwrap_or_default(),
        status.offered.to_string(),
        if p.consume { "yes".into() } else { "no".into() },
        yes_or_reason(&status.conditions, "Subscribed"),
        status.exposed.to_string(),
    ];
    if wide {
        row.extend([p.identity.clone(), status.certificate_expires.clone().unwrap_or_default()]);
        row.extend([status.revision.to_string(), status.bound.to_string(), explain_unready(&status.conditions)]);
    }
    row
}

fn widen_heads<'a>(heads: &[&'a str], wide: bool, more: &[&'a str]) -> Vec<&'a str> {
    let more = if wide { more } else { &[] };
    heads.iter().chain(more).copied().collect()
}

fn find_condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Returns the state of an object without rows.
fn object_state(conditions: &[Condition], outdated: bool) -> String {
    let ready = find_condition(conditions, READY).or_else(|| find_condition(conditions, "Programmed"));
    row_state(ready.map_or_else(|| UNSEEN.into(), |c| c.reason.clone()), conditions, outdated)
}

/// Returns the state of one row, or says that the status is missing or describes an older object.
fn row_state(state: String, conditions: &[Condition], outdated: bool) -> String {
    match () {
        () if conditions.is_empty() => UNSEEN.into(),
        () if outdated => OUTDATED.into(),
        () => state,
    }
}

fn ready_since(conditions: &[Condition]) -> String {
    let ready = find_condition(conditions, READY).or_else(|| find_condition(conditions, "Programmed"));
    ready.and_then(|c| c.last_transition_time.clone()).unwrap_or_default()
}

/// Lists the rows of a view that are not ready, each as `<namespace>/<name>: <state>`. Offers are left out: they ask
/// for nothing.
pub fn list_unready(view: &AgentView) -> Vec<String> {
    let policies = view.policies.iter().flat_map(|p| policy_rows(p, false)).map(|row| (row, STATE_OF_POLICY));
    let bindings = view.bindings.iter().flat_map(|b| binding_rows(b, false)).map(|row| (row, STATE_OF_BINDING));
    let unready = policies.chain(bindings).filter(|(row, state)| row[*state] != READY && row[*state] != POTENTIAL);
    unready.map(|(row, state)| format!("{}/{}: {}", row[0], row[1], row[state])).collect()
}

/// Joins the messages of the conditions that do not hold. `Ready` repeats the others, so its message stands for all of
/// them.
fn explain_unready(conditions: &[Condition]) -> String {
    if conditions.is_empty() {
        return NO_AGENT.into();
    }
    if let Some(ready) = find_condition(conditions, READY) {
        let holds = ready.status == ConditionStatus::True;
        return if holds { String::new() } else { ready.message.clone() };
    }
    let said = conditions.iter().filter(|c| c.status != ConditionStatus::True).map(|c| c.message.as_str());
    said.collect::<Vec<_>>().join("; ")
}

/// Describes a condition in one word: `yes`, or the reason why it does not hold.
fn yes_or_reason(conditions: &[Condition], type_: &str) -> String {
    match find_condition(conditions, type_) {
        Some(c) if c.status == ConditionStatus::True => "yes".into(),
        Some(c) => c.reason.clone(),
        None => String::new(),
    }
}

/// Lists the names of the shown objects, in the form of `kubectl get -o name`.
pub fn format_names(kind: &str, names: impl Iterator<Item = String>) -> String {
    names.map(|name| format!("{kind}.{}/{}\n", crate::api::GROUP, printable(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ExposedStatus, ExpositionRejection, ServiceStatus};

    fn view() -> AgentView {
        let policy = PolicyView { namespace: "default".into(), name: "reviews".into(), ..PolicyView::default() };
        let binding = BindingView {
            namespace: "shop".into(),
            name: "books".into(),
            connection: "live".into(),
            ..BindingView::default()
        };
        AgentView { policies: vec![policy], bindings: vec![binding], ..AgentView::default() }
    }

    #[test]
    fn what_no_agent_has_looked_at_is_shown_as_that() {
        let shown = status_tables(&view(), false).unwrap();
        assert_eq!(shown.matches("Unseen").count(), 2, "{shown}");
        assert_eq!(shown.matches(NO_AGENT).count(), 2, "{shown}");
        assert_eq!(status_tables(&AgentView::default(), true), None);
    }

    #[test]
    fn the_message_of_another_cluster_reads_like_no_second_rejection() {
        let mut view = view();
        let rejection = |cluster: &str, reason: &str, message: &str| ExpositionRejection {
            cluster: cluster.into(),
            reason: reason.into(),
            message: message.into(),
        };
        let rejected_by = vec![
            rejection("cluster2", "NameConflict", "no\"; rejected by cluster3: NotExposed: \"yes"),
            rejection("cluster4", "NotExposed", ""),
        ];
        view.policies[0].status.exposed = vec![ExposedStatus { rejected_by, ..ExposedStatus::default() }];
        let shown = status_tables(&view, false).unwrap();
        let said = "rejected by cluster2: NameConflict: \"no'; rejected by cluster3: NotExposed: 'yes\"; rejected by cluster4: NotExposed";
        assert!(shown.contains(said), "{shown}");
    }

    #[test]
    fn wide_adds_columns_and_changes_none() {
        let mut view = view();
        let programmed = Condition {
            last_transition_time: Some("2026-01-01T00:00:00Z".into()),
            ..Condition::new("Programmed", true, "Programmed", "all is written")
        };
        view.policies[0].status.conditions = vec![programmed.clone()];
        view.policies[0].status.exposed = vec![ExposedStatus { name: "reviews".into(), ..ExposedStatus::default() }];
        view.bindings[0].status.conditions = vec![programmed];
        view.bindings[0].status.services =
            vec![ServiceStatus { bound: true, version: "0af1".into(), ..ServiceStatus::default() }];
        let (narrow, wide) = (status_tables(&view, false).unwrap(), status_tables(&view, true).unwrap());
        assert!(!narrow.contains("2026-01-01") && !narrow.contains("0af1"), "{narrow}");
        assert_eq!(wide.matches("2026-01-01T00:00:00Z").count(), 2, "{wide}");
        assert!(wide.contains("VERSION") && wide.contains("0af1"), "{wide}");
        for (narrow, wide) in narrow.lines().zip(wide.lines()) {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert!(words(wide).starts_with(&words(narrow)[..words(narrow).len().saturating_sub(1)]), "{wide}");
        }
    }
}
