//! What operators write, as text.

use std::fmt::Write as _;

const API: &str = "apiVersion: multicluster.istio.io/v1alpha1";

/// A Service with one HTTP port.
pub fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{selector: {{app: {name}}}, \
         ports: [{{name: http, port: {port}}}]}}\n---\n"
    )
}

/// A Service with many HTTP ports.
pub fn service_with_ports(name: &str, ports: u16) -> String {
    let ports: Vec<_> = (1..=ports).map(|n| format!("{{name: http-{n}, port: {}}}", 8000 + n)).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{selector: {{app: {name}}}, \
         ports: [{}]}}\n---\n",
        ports.join(", ")
    )
}

/// A policy of the same name that exposes a Service to some clusters.
pub fn policy(service: &str, clusters: &[&str]) -> String {
    policy_of(service, &[&format!("{{name: {service}, clusters: [{}]}}", clusters.join(", "))])
}

/// A policy with these entries.
pub fn policy_of(name: &str, entries: &[&str]) -> String {
    let mut text = format!(
        "{API}\nkind: ServiceExpositionPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  exposed:\n"
    );
    entries.iter().for_each(|e| writeln!(text, "  - {e}").expect("text"));
    text + "---\n"
}

/// A binding of services of one cluster, each under its own name.
pub fn binding(name: &str, cluster: &str, services: &[&str]) -> String {
    let services: Vec<_> = services.iter().map(|s| format!("{{name: {s}}}")).collect();
    binding_of(name, "", &[&format!("{{cluster: {cluster}, services: [{}]}}", services.join(", "))])
}

/// A binding with these clusters; `connection` is its label, or empty.
pub fn binding_of(name: &str, connection: &str, remotes: &[&str]) -> String {
    let labels = if connection.is_empty() { String::new() } else { format!(", labels: {{connection: {connection}}}") };
    let mut text = format!(
        "{API}\nkind: RemoteServiceBinding\nmetadata: {{name: {name}, namespace: default{labels}}}\nspec:\n  remote:\n"
    );
    remotes.iter().for_each(|r| writeln!(text, "  - {r}").expect("text"));
    text + "---\n"
}
