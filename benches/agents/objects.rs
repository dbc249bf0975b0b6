//! What the agents work on.

use std::fmt::Write as _;

pub fn service(i: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, namespace: default}}\nspec: {{selector: {{app: s{i}}}, \
         ports: [{{name: http, port: 8080}}, {{name: http-b, port: 8081}}]}}\n---\n"
    )
}

pub fn services(count: usize) -> String {
    (0..count).map(service).collect()
}

pub fn policy(i: usize, port: u16) -> String {
    format!(
        "apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositionPolicy\nmetadata: {{name: s{i}, namespace: \
         default}}\nspec:\n  exposed:\n  - {{name: s{i}, port: {port}, clusters: [acceptor]}}\n---\n"
    )
}

pub fn policies(count: usize) -> String {
    (0..count).map(|i| policy(i, 8080)).collect()
}

/// Bindings of a hundred services each, as a team would have them. Without ports, so that each follows its donor's.
pub fn binding(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        if i % 100 == 0 {
            let _ = write!(
                text,
                "---\napiVersion: multicluster.istio.io/v1alpha1\nkind: RemoteServiceBinding\nmetadata: {{name: team-{}, \
                 namespace: default}}\nspec:\n  remote:\n  - cluster: donor\n    services:\n",
                i / 100
            );
        }
        let _ = writeln!(text, "    - {{name: s{i}}}");
    }
    text
}
