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

/// One binding of many services. Without a port, so that each follows its donor's.
pub fn binding(count: usize) -> String {
    let mut text = "apiVersion: multicluster.istio.io/v1alpha1\nkind: RemoteServiceBinding\nmetadata: {name: all, \
                    namespace: default}\nspec:\n  remote:\n  - cluster: donor\n    services:\n"
        .to_owned();
    for i in 0..count {
        let _ = writeln!(text, "    - {{name: s{i}}}");
    }
    text
}
