//! Random objects, as people write them: most are right, and some are not.

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::world::NAMES;
use crate::support::objects::{binding_of, policy_of};

pub const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const ALIASES: [&str; 3] = ["a0", "a1", "s1"];
const LOCALS: [&str; 4] = ["l0", "l1", "l2", "a0"];

pub fn pick<'a, T: ?Sized>(rng: &mut StdRng, of: &[&'a T]) -> &'a T {
    of[rng.random_range(0..of.len())]
}

/// True once in `n`.
pub fn one_in(rng: &mut StdRng, n: u32) -> bool {
    rng.random_range(0..n) == 0
}

fn port(rng: &mut StdRng) -> u16 {
    match rng.random_range(0..8) {
        0 => 7,
        1..4 => 9090,
        _ => 8080,
    }
}

/// Something that is no name, once in a while.
fn sound<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
    if one_in(rng, 30) { "A_b" } else { pick(rng, of) }
}

/// Most of the clusters, sometimes one that nobody knows.
fn clusters(rng: &mut StdRng) -> String {
    let mut some: Vec<&str> = NAMES.into_iter().filter(|_| !one_in(rng, 5)).collect();
    if one_in(rng, 8) {
        some.push("nobody");
    }
    some.join(", ")
}

fn exposed(rng: &mut StdRng) -> String {
    let mut entry = format!("{{name: {}", pick(rng, &SERVICES));
    if one_in(rng, 2) {
        entry += &format!(", alias: {}", sound(rng, &ALIASES));
    }
    match rng.random_range(0..8) {
        0 | 1 => entry += &format!(", port: {}", port(rng)),
        2 => entry += &format!(", ports: [{}, http]", port(rng)),
        _ => {}
    }
    match rng.random_range(0..10) {
        0 => entry += &format!(", subset: {}", pick(rng, &["v1", "v2", "v9"])),
        1 => entry += ", virtualService: routes",
        _ => {}
    }
    if one_in(rng, 2) {
        entry += &format!(", clusters: [{}]", clusters(rng));
    }
    if one_in(rng, 12) {
        let cluster = pick(rng, &NAMES);
        entry += &format!(", clients: [{{cluster: {cluster}, namespace: web, serviceAccount: front}}]");
    }
    if one_in(rng, 4) {
        entry += &format!(", tls: {}", pick(rng, &["Cluster", "Workload", "Passthrough"]));
    }
    entry + "}"
}

pub fn policy(rng: &mut StdRng, name: &str) -> String {
    let entries: Vec<_> = (0..rng.random_range(1..4)).map(|_| exposed(rng)).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    moved(rng, policy_of(name, &entries))
}

/// Most objects are in `default`, where they meet; some are elsewhere.
fn moved(rng: &mut StdRng, text: String) -> String {
    if one_in(rng, 8) { text.replace("namespace: default", "namespace: shop") } else { text }
}

fn remote(rng: &mut StdRng, me: &str) -> String {
    let others: Vec<&str> = NAMES.into_iter().filter(|name| *name != me).collect();
    let cluster = match rng.random_range(0..20) {
        0 => "nobody",
        1 => me,
        _ => pick(rng, &others),
    };
    let services: Vec<_> = (0..rng.random_range(1..4)).map(|_| service_of(rng)).collect();
    format!("{{cluster: {cluster}, services: [{}]}}", services.join(", "))
}

fn service_of(rng: &mut StdRng) -> String {
    let name = if one_in(rng, 2) { pick(rng, &SERVICES) } else { sound(rng, &ALIASES) };
    let mut service = format!("{{name: {name}");
    if !one_in(rng, 6) {
        service += &format!(", alias: {}", sound(rng, &LOCALS));
    }
    if one_in(rng, 10) {
        service += &format!(", namespace: {}", pick(rng, &["default", "shop"]));
    }
    if one_in(rng, 4) {
        service += &format!(", port: {}", port(rng));
    }
    if one_in(rng, 4) {
        service += &format!(", weight: {}", rng.random_range(0..4));
    }
    if one_in(rng, 4) {
        service += &format!(", priority: {}", rng.random_range(0..3));
    }
    service + "}"
}

pub fn binding(rng: &mut StdRng, me: &str, name: &str) -> String {
    let connection = match rng.random_range(0..16) {
        0 => "potential",
        1 => "bogus",
        2..6 => "live",
        _ => "",
    };
    let remotes: Vec<_> = (0..rng.random_range(1..4)).map(|_| remote(rng, me)).collect();
    let remotes: Vec<&str> = remotes.iter().map(String::as_str).collect();
    moved(rng, binding_of(name, connection, &remotes))
}

pub fn service(rng: &mut StdRng, name: &str) -> String {
    let ports = pick(
        rng,
        &[
            "{name: http, port: 8080}",
            "{name: http, port: 8080}, {name: http-b, port: 9090}",
            "{name: http, port: 9090}",
            "{name: http, port: 8080}, {name: tcp-x, port: 9090}",
            "{name: grpc, port: 8080}, {name: http, port: 9090}",
            "{name: tcp, port: 8080}",
            "{port: 8080}",
        ],
    );
    object("v1", "Service", name, &format!("{{selector: {{app: {name}}}, ports: [{ports}]}}"))
}

pub fn rule(rng: &mut StdRng, name: &str) -> String {
    let subsets = pick(
        rng,
        &[
            "{name: v1, labels: {version: v1}}",
            "{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}",
            "{name: v1, labels: {version: one}}",
        ],
    );
    object("networking.istio.io/v1", "DestinationRule", name, &format!("{{host: {name}, subsets: [{subsets}]}}"))
}

/// The VirtualService that policies refer to.
pub fn routes(rng: &mut StdRng) -> String {
    let name = pick(rng, &SERVICES);
    let timeout = pick(rng, &["1s", "2s"]);
    let route = format!("{{timeout: {timeout}, route: [{{destination: {{host: {name}, subset: v1}}}}]}}");
    let spec = format!("{{hosts: [{name}.example], gateways: [some], http: [{route}]}}");
    object("networking.istio.io/v1", "VirtualService", "routes", &spec)
}

/// A user's Service, or a user's route, under a name that a binding may want.
pub fn in_the_way(rng: &mut StdRng) -> String {
    let name = pick(rng, &LOCALS);
    if one_in(rng, 2) {
        return object("v1", "Service", name, "{selector: {app: mine}, ports: [{name: http, port: 80}]}");
    }
    let spec = format!("{{hosts: [{name}], http: [{{route: [{{destination: {{host: mine}}}}]}}]}}");
    object("networking.istio.io/v1", "VirtualService", &format!("to-{name}"), &spec)
}

fn object(api: &str, kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n---\n")
}
