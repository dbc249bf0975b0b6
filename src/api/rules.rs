//! The checks of the API server for Wharf's objects besides types: lengths, numbers, and rules in CEL, each with a
//! sentence for the person whose object it refuses. Each function here changes the schema of a field, as
//! `#[schemars(transform = rules::…)]`.
//!
//! Two things bound them. They refuse nothing that the 2018 proof of concept let through, such as upper case in the
//! name of a Service: that ends in a condition, as it does in a folder, which no API server guards. And the API server
//! estimates the cost of a rule from the largest object that the schema allows (at most 10,000,000 a rule, and
//! 100,000,000 a definition), so every list and every text has a limit.

use kube::core::{Message, Rule};
use schemars::Schema;
use serde_json::{Value, json};

const MAX_EXPOSED: u32 = 128;
const MAX_CLUSTERS: u32 = 256;
const MAX_CLIENTS: u32 = 256;
/// As many as one exposition may carry.
const MAX_PORTS: u32 = 64;
const MAX_REMOTE: u32 = 32;
/// With their statuses, more services would hardly fit into one object of an API server.
const MAX_SERVICES: u32 = 2048;
/// As many as one exposition may carry.
const MAX_GATEWAYS: u32 = 32;
const MAX_ALLOWED: u32 = 64;

const LETTERS: &str = "lower-case letters, digits and hyphens, beginning and ending with a letter or digit";
const LABEL: &str = "self.matches('^[a-z0-9-]+$') && !self.startsWith('-') && !self.endsWith('-')";
/// The proof of concept let upper case through.
const LABEL_OF_2018: &str = "self.matches('^[A-Za-z0-9-]+$') && !self.startsWith('-') && !self.endsWith('-')";
/// The same of a name that becomes a Service's (RFC 1035).
const SERVICE_LABEL: &str = r"self.matches('(?i)^[a-z][a-z\\d-]*$') && !self.endsWith('-')";
const SERVICE_LETTERS: &str =
    "lower-case letters, digits and hyphens, beginning with a letter and ending with a letter or digit";
const SUBDOMAIN: &str =
    "self.matches('^[a-z0-9.-]+$') && !self.startsWith('-') && !self.endsWith('-') && !self.contains('..')";
const ACCOUNT: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The proof of concept took any text for a cluster; `clusterC` and `clusterb.myorg` stand in its examples.
const CLUSTER_OF_2018: &str = "self.matches('^[A-Za-z0-9._-]+$')";
const ENDPOINT: &str = "self.matches('^([A-Za-z0-9.:-]+|[[][A-Fa-f0-9.:]+[]]):[0-9]{1,5}$') \
                        && int(self.substring(self.lastIndexOf(':') + 1)) >= 1 \
                        && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535";
const SPIFFE_ID: &str = "self.matches('^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$') && !self.matches('/[.][.]?(/|$)')";
const TRUST_DOMAIN: &str = "self.matches('^[a-z0-9._-]+$')";
const CA_BUNDLE: &str = "self.contains('-----BEGIN CERTIFICATE-----')";
const NETWORK: &str = "self.matches('^[0-9A-Fa-f.:]+/[0-9]{1,3}$')";
const NAME_SUFFIX: &str = "self.matches('^([*]?[.])?[A-Za-z0-9-]+([.][A-Za-z0-9-]+)*$')";

/// The name under which others see an entry `e` of `spec.exposed`.
const EXPOSED_NAME: &str = "(has(e.alias) && e.alias != '' ? e.alias : e.name)";

// ---- names -----------------------------------------------------------------------------------------------------------

/// Bounds the name of a Service, or one that it is given.
pub fn service(s: &mut Schema) {
    bound_text(s, 63, LABEL_OF_2018, &format!("the name of a Service: {LETTERS}"));
}

/// Bounds another name for a Service; empty means absent, and that is the default: with the Service's own name it tells
/// the entries of a list apart.
pub fn alias(s: &mut Schema) {
    bound_text(
        s,
        63,
        &or_empty(SERVICE_LABEL),
        &format!("an alias, which is the name of a Service: {SERVICE_LETTERS}"),
    );
    s.insert("default".to_owned(), json!(""));
}

/// Bounds the donor's namespace in a binding; see [`alias`].
pub fn donor_namespace(s: &mut Schema) {
    bound_text(s, 63, &or_empty(LABEL), &format!("the name of a namespace: {LETTERS}"));
    s.insert("default".to_owned(), json!(""));
}

/// Bounds the namespace of bindings that Wharf makes.
pub fn binding_namespace(s: &mut Schema) {
    bound_text(s, 63, &or_empty(LABEL), &format!("the name of a namespace: {LETTERS}"));
    s.insert("default".to_owned(), json!("default"));
}

/// Bounds a namespace that has to be named.
pub fn namespace(s: &mut Schema) {
    bound_text(s, 63, LABEL, &format!("the name of a namespace: {LETTERS}"));
}

/// Bounds a service account. Empty would mean every one, which must not happen by mistake. The API server's own rule
/// for accounts applies.
pub fn service_account(s: &mut Schema) {
    s.insert("maxLength".to_owned(), json!(253));
    // A pattern is used, since the API server estimates that a rule of CEL for so many texts of this length costs too
    // much.
    s.insert("pattern".to_owned(), json!(ACCOUNT));
}

/// Bounds the name of a subset. Empty would mean the whole Service, which must not happen by mistake. Istio allows
/// upper case here.
pub fn subset(s: &mut Schema) {
    bound_text(
        s,
        63,
        LABEL_OF_2018,
        "the name of a subset: letters, digits and hyphens; leave it out for the whole Service",
    );
}

pub fn virtual_service(s: &mut Schema) {
    bound_text(s, 253, SUBDOMAIN, "the name of a VirtualService: lower-case letters, digits, hyphens and dots");
}

pub fn cluster(s: &mut Schema) {
    bound_text(s, 63, CLUSTER_OF_2018, &format!("the name of a cluster, which is a DNS label: {LETTERS}"));
}

pub fn endpoint(s: &mut Schema) {
    bound_text(s, 261, &or_empty(ENDPOINT), "host:port, as in cluster1.example:7443 or [2001:db8::1]:7443");
}

pub fn spiffe_id(s: &mut Schema) {
    bound_text(s, 2048, &or_empty(SPIFFE_ID), "a SPIFFE ID, as in spiffe://wharf/cluster/cluster1");
}

pub fn trust_domain(s: &mut Schema) {
    bound_text(
        s,
        255,
        &or_empty(TRUST_DOMAIN),
        "a trust domain: lower-case letters, digits, hyphens, dots and underscores",
    );
}

/// Bounds a bundle of PEM, which is long and is not quoted in the refusal.
pub fn ca_bundle(s: &mut Schema) {
    s.insert("maxLength".to_owned(), json!(64 << 10));
    let says = "it has no certificate in PEM: -----BEGIN CERTIFICATE----- was expected".to_owned();
    add_rule(s, &or_empty(CA_BUNDLE), Message::Message(says), None, "FieldValueInvalid");
}

/// Requires that a peering has its peer's name. Applies to a new one only: a rule on the whole of an object would also
/// block its status.
pub fn peering_name() -> Rule {
    let what = format!("the name of a cluster, which is a DNS label of at most 63 {LETTERS}");
    let label = LABEL.replace("self", "self.metadata.name");
    Rule::new(format!("oldSelf.hasValue() || {label} && self.metadata.name.size() <= 63"))
        .optional_old_self(true)
        .message(Message::Expression(format!("'metadata.name: \"' + self.metadata.name + '\" is not {what}'")))
}

/// Removes the descriptions of single words: the field itself describes the choice.
pub fn choice(s: &mut Schema) {
    for one in s.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        one.as_object_mut().map(|one| one.remove("description"));
    }
}

pub fn connection_mode(s: &mut Schema) {
    choice(s);
    s.insert("default".to_owned(), json!("none"));
}

// ---- numbers ---------------------------------------------------------------------------------------------------------

/// Bounds a port. 0 is no port, which is what Go wrote for one that was not given.
pub fn port(s: &mut Schema) {
    bound_number(s, "int32", u32::from(u16::MAX));
}

pub fn count(s: &mut Schema) {
    bound_number(s, "int64", u32::MAX);
}

pub fn revision(s: &mut Schema) {
    s.insert("format".to_owned(), json!("int64"));
}

pub fn time(s: &mut Schema) {
    s.insert("format".to_owned(), json!("date-time"));
}

// ---- lists -----------------------------------------------------------------------------------------------------------

/// Bounds `spec.exposed`. Two writers may each have an entry.
pub fn exposed(s: &mut Schema) {
    bound_map(s, MAX_EXPOSED, &["name", "alias"]);
    add_rule(s, "self.size() > 0", "nothing is exposed: name at least one Service".into(), None, "FieldValueRequired");
    add_rule(
        s,
        &format!("[self.map(e, {EXPOSED_NAME})].all(names, names.all(n, names.exists_one(m, m == n)))"),
        "two entries are exposed under one name: give one of them another alias".into(),
        None,
        "FieldValueInvalid", // with FieldValueDuplicate the sentence would be lost
    );
}

/// Requires an alias that can be a Service's name: without one, the name is that of a Service at acceptors.
fn called_as_a_service(s: &mut Schema) {
    add_rule(
        s,
        "has(self.alias) && self.alias != '' || !self.name.matches('^[0-9]')",
        "no Service of an acceptor can begin with a digit: give it an alias that begins with a letter".into(),
        Some(".alias"),
        "FieldValueInvalid",
    );
}

/// Bounds an entry of `spec.exposed`.
pub fn entry(s: &mut Schema) {
    called_as_a_service(s);
    add_rule(
        s,
        "!(has(self.port) && self.port > 0 && has(self.ports) && self.ports.size() > 0)",
        "port and ports exclude each other: keep one of them".into(),
        Some(".ports"),
        "FieldValueForbidden",
    );
    add_rule(
        s,
        "!(has(self.subset) && has(self.virtualService))",
        "subset and virtualService exclude each other: let the routes of the VirtualService choose the subset".into(),
        Some(".subset"),
        "FieldValueForbidden",
    );
    add_rule(
        s,
        "!(has(self.virtualService) && has(self.tls) && self.tls == 'Passthrough')",
        "with tls: Passthrough the gateway sees no requests to route: use another mode, or leave virtualService out"
            .into(),
        Some(".virtualService"),
        "FieldValueForbidden",
    );
    add_rule(
        s,
        "!has(self.clients) || !has(self.clusters) || self.clusters.size() == 0 \
         || self.clients.all(c, c.cluster in self.clusters)",
        "a client is of a cluster that may not consume: add the cluster to clusters, or leave the client out".into(),
        Some(".clients"),
        "FieldValueInvalid",
    );
}

/// Bounds `clusters`: a set, so that one writer may let in one cluster.
pub fn clusters(s: &mut Schema) {
    bound_list(s, MAX_CLUSTERS, "set");
    change_items(s, cluster);
}

/// Bounds `clients`. The effect of a list of clients depends on all of it, so it has one writer.
pub fn clients(s: &mut Schema) {
    bound_list(s, MAX_CLIENTS, "atomic");
}

/// Bounds an entry of `services`.
pub fn remote_service(s: &mut Schema) {
    called_as_a_service(s);
    add_rule(
        s,
        "!(has(self.port) && self.port > 0 && has(self.ports) && self.ports.size() > 0)",
        "port and ports exclude each other: keep one of them".into(),
        Some(".ports"),
        "FieldValueForbidden",
    );
}

/// Bounds `ports` of a binding. The meaning of a local port depends on all of the list, so it has one writer.
pub fn remote_ports(s: &mut Schema) {
    bound_list(s, MAX_PORTS, "atomic");
}

/// Bounds a port by number or by name.
pub fn port_ref(s: &mut Schema) {
    // Numeric limits hold for numbers, lengths for texts.
    for (key, value) in [("minimum", 1), ("maximum", u32::from(u16::MAX)), ("minLength", 1), ("maxLength", 63)] {
        s.insert(key.to_owned(), json!(value));
    }
}

/// Bounds `ports` of a policy. The list has one writer.
pub fn ports(s: &mut Schema) {
    bound_list(s, MAX_PORTS, "atomic");
    change_items(s, port_ref);
}

/// Bounds `spec.remote`. Two writers may each have a cluster.
pub fn remote(s: &mut Schema) {
    bound_map(s, MAX_REMOTE, &["cluster"]);
    add_rule(s, "self.size() > 0", "nothing is bound: name at least one cluster".into(), None, "FieldValueRequired");
}

/// Bounds `services`. Their keys tell apart the bound services and their names, so that one exposition has one port,
/// weight and priority under one name.
pub fn services(s: &mut Schema) {
    bound_map(s, MAX_SERVICES, &["name", "namespace", "alias"]);
}

pub fn gateways(s: &mut Schema) {
    bound_list(s, MAX_GATEWAYS, "set");
    change_items(s, |item| {
        bound_text(item, 261, ENDPOINT, "host:port, as in gateway.cluster1.example:15443 or [2001:db8::1]:15443")
    });
}

pub fn networks(s: &mut Schema) {
    bound_list(s, MAX_ALLOWED, "set");
    change_items(s, |item| bound_text(item, 49, NETWORK, "a network, as in 10.0.0.0/8 or 2001:db8::/32"));
}

pub fn name_suffixes(s: &mut Schema) {
    bound_list(s, MAX_ALLOWED, "set");
    change_items(s, |item| {
        bound_text(item, 255, NAME_SUFFIX, "a name, as in gateways.example, which includes what is below it")
    });
}

pub fn conditions(s: &mut Schema) {
    s.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    s.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
}

/// Bounds `rejectedBy`: one rejection for each cluster.
pub fn rejected_by(s: &mut Schema) {
    s.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    s.insert("x-kubernetes-list-map-keys".to_owned(), json!(["cluster"]));
}

/// Marks a list of a status: the agent writes all of it.
pub fn told(s: &mut Schema) {
    s.insert("x-kubernetes-list-type".to_owned(), json!("atomic"));
}

// ---- how it is written down ------------------------------------------------------------------------------------------

fn or_empty(expression: &str) -> String {
    format!("self == '' || ({expression})")
}

fn bound_text(s: &mut Schema, max: u32, holds: &str, what: &str) {
    s.insert("maxLength".to_owned(), json!(max));
    let says = Message::Expression(format!("'\"' + self + '\" is not {what}'"));
    add_rule(s, holds, says, None, "FieldValueInvalid");
}

fn bound_number(s: &mut Schema, format: &str, max: u32) {
    s.insert("format".to_owned(), json!(format));
    s.insert("maximum".to_owned(), json!(max));
}

/// Bounds a list that may be absent.
fn bound_list(s: &mut Schema, max: u32, kind: &str) {
    s.insert("nullable".to_owned(), json!(true));
    s.insert("maxItems".to_owned(), json!(max));
    s.insert("x-kubernetes-list-type".to_owned(), json!(kind));
}

fn bound_map(s: &mut Schema, max: u32, keys: &[&str]) {
    s.insert("maxItems".to_owned(), json!(max));
    s.insert("x-kubernetes-list-type".to_owned(), json!("map"));
    s.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
}

fn change_items(s: &mut Schema, change: impl FnOnce(&mut Schema)) {
    if let Some(items) = s.get_mut("items").and_then(|items| <&mut Schema>::try_from(items).ok()) {
        change(items);
    }
}

/// Adds a rule: `expression` has to hold; if not, the API server answers this, for the field or for one within it.
fn add_rule(s: &mut Schema, expression: &str, says: Message, field: Option<&str>, reason: &str) {
    let mut rule = json!({"rule": expression, "reason": reason});
    match says {
        Message::Message(sentence) => rule["message"] = sentence.into(),
        Message::Expression(cel) => rule["messageExpression"] = cel.into(),
    }
    if let Some(field) = field {
        rule["fieldPath"] = field.into();
    }
    match s.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
        Some(rules) => rules.push(rule),
        None => drop(s.insert("x-kubernetes-validations".to_owned(), json!([rule]))),
    }
}
