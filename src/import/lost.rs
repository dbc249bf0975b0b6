//! Names what a policy and a binding do not carry of the objects that they replace, field by field.

use serde_json::Value;

use crate::api::ObjectKey;
use crate::api::istio::{DestinationRule, ServiceEntry, VirtualService};

use super::nearby::{NearbyObjects, destinations, full_name};
use super::{ImportNotes, place};

/// Most routes of one VirtualService, and endpoints of one entry, that are looked at.
const MAX_ITEMS: usize = 64;

/// Names the fields of an entry that nothing replaces, and says that the entry goes in the end.
pub(super) fn note_entry(key: &ObjectKey, entry: &ServiceEntry, notes: &mut ImportNotes) {
    let spec = &entry.spec;
    let mut note = |field: &str, message: &str| notes.add_note(place(key, field), message);
    if spec.addresses.as_ref().is_some_and(|a| !a.is_empty()) {
        note("spec.addresses", "not carried: the local name has the address of its own Service");
    }
    let restricted = spec.export_to.as_ref().is_some_and(|to| !to.is_empty() && !to.iter().any(|n| n == "*"));
    if restricted {
        note(
            "spec.exportTo",
            "not carried: every namespace of this cluster may call the local name; AuthorizationPolicies at the egress gateway, or `clients` in the policy, narrow that",
        );
    }
    if spec.subject_alt_names.as_ref().is_some_and(|names| !names.is_empty()) {
        note("spec.subjectAltNames", "not carried: the agent tells the gateways which identity to expect of the donor");
    }
    for (i, endpoint) in spec.endpoints.iter().flatten().enumerate().take(MAX_ITEMS) {
        for (field, is_set) in [
            ("labels", endpoint.labels.as_ref().is_some_and(|l| !l.is_empty())),
            ("locality", endpoint.locality.is_some()),
            ("network", endpoint.network.is_some()),
            ("serviceAccount", endpoint.service_account.is_some()),
        ] {
            if is_set {
                note(
                    &format!("spec.endpoints[{i}].{field}"),
                    "not carried: the donor's agent says where its gateways are",
                );
            }
        }
    }
    note(
        "spec",
        "delete it when callers use the new name, and not before: until then it goes on working beside the binding",
    );
}

/// Names what the rules and routes of a host do that nothing does any more.
pub(super) fn note_neighbours(key: &ObjectKey, host: &str, nearby: &NearbyObjects<'_>, notes: &mut ImportNotes) {
    for (rule_key, rule) in nearby.rules_for(host, &key.namespace) {
        note_rule(rule_key, rule, host, notes);
    }
    for (route_key, vs) in nearby.routes_by(host) {
        note_routes(route_key, vs, host, notes);
    }
}

fn note_rule(key: &ObjectKey, rule: &DestinationRule, host: &str, notes: &mut ImportNotes) {
    let policy = serde_json::to_value(&rule.spec.traffic_policy).unwrap_or_default();
    for field in fields_of(&policy).filter(|field| !matches!(*field, "tls" | "portLevelSettings")) {
        let message = "not carried: the donor's DestinationRules for the service hold at its gateway, and Wharf's find a dead gateway";
        notes.add_note(place(key, &format!("spec.trafficPolicy.{field}")), message);
    }
    for (i, settings) in policy["portLevelSettings"].as_array().into_iter().flatten().enumerate().take(MAX_ITEMS) {
        for field in fields_of(settings).filter(|field| !matches!(*field, "tls" | "port")) {
            notes.add_note(place(key, &format!("spec.trafficPolicy.portLevelSettings[{i}].{field}")), "not carried");
        }
    }
    if rule.spec.subsets.as_ref().is_some_and(|subsets| !subsets.is_empty()) {
        let message = "not carried: a subset of the donor's Service is an entry of its own in the policy, with `subset` and an `alias`";
        notes.add_note(place(key, "spec.subsets"), message);
    }
    let credential = rule.spec.traffic_policy.iter().filter_map(|p| p.tls.as_ref()?.credential_name.as_deref()).next();
    let mut message = match rule.spec.host.starts_with('*') {
        true => format!("it is for other hosts than {host}, too: keep it until all of them have gone"),
        false => "delete it together with what it is for: its TLS is not carried, since the clusters' own certificates protect the calls".to_owned(),
    };
    if let Some(credential) = credential {
        message += &format!("; nothing of Wharf uses the Secret {credential}");
    }
    notes.add_note(place(key, "spec.host"), message);
}

fn note_routes(key: &ObjectKey, vs: &VirtualService, host: &str, notes: &mut ImportNotes) {
    let is_here = |d: &str| full_name(d, &key.namespace) == full_name(host, &key.namespace);
    let http = serde_json::to_value(&vs.spec.http).unwrap_or_default();
    for (i, route) in http.as_array().into_iter().flatten().enumerate().take(MAX_ITEMS) {
        for field in fields_of(route).filter(|field| !matches!(*field, "name" | "route")) {
            let message = "not carried: write it into a VirtualService of the Service at the donor, and name that in the policy's `virtualService`";
            notes.add_note(place(key, &format!("spec.http[{i}].{field}")), message);
        }
    }
    let others: Vec<&str> = destinations(vs).map(|d| d.host.as_str()).filter(|d| !is_here(d)).take(MAX_ITEMS).collect();
    if let Some(other) = others.first() {
        let message = format!(
            "it leads to {other}, too, and such a share of calls is not carried: a binding leads to donors only"
        );
        notes.add_note(place(key, "spec"), message);
    }
    if let Some(called) = vs.spec.hosts.iter().flatten().find(|name| !is_here(name)) {
        let message = format!(
            "callers of {called} come to {host} by it; a binding cannot take {called} over while it is there, so lead them to the new name first"
        );
        notes.add_note(place(key, "spec.hosts"), message);
    }
    notes.add_note(place(key, "spec"), format!("delete it when nobody calls {host} any more"));
}

fn fields_of(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()).map(|(field, _)| field.as_str())
}
