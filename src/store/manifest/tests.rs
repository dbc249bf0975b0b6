#![allow(clippy::result_large_err)] // a test may copy

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{Kind, PortRef};

const POLICY: &str = "\
apiVersion: multicluster.istio.io/v1alpha1
kind: ServiceExpositionPolicy
metadata:
  name: reviews
spec:
  exposed:
  - name: reviews
    port: 9080
";

fn all(text: &str) -> Vec<Result<Document, ManifestError>> {
    read_manifest("cluster1/policy.yaml", text.as_bytes())
}

fn one(text: &str) -> Result<Document, ManifestError> {
    let mut all = all(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn error(text: &str) -> String {
    one(text).expect_err("should not be readable").to_string()
}

fn keys(text: &str) -> Vec<String> {
    all(text).into_iter().map(|d| d.unwrap().input.key().to_string()).collect()
}

/// A policy with this in place of its entry's port.
fn policy_with(entry: &str) -> String {
    POLICY.replace("    port: 9080\n", &format!("    {entry}\n"))
}

#[test]
fn an_object_without_a_namespace_is_in_default() {
    let document = one(POLICY).unwrap();
    let Input::Policy(policy) = &document.input else { panic!("{document:?}") };
    assert_eq!(policy.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(policy.spec.exposed[0].port, Some(9080));
    assert_eq!(document.line, 1);
}

#[test]
fn one_bad_document_hurts_no_other_of_its_file() {
    let text = format!("{POLICY}---\nkind: [unclosed\n---\n# a comment\n\n{}", POLICY.replace("reviews", "ratings"));
    let found = all(&text);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().unwrap().input.key().to_string(), "ServiceExpositionPolicy default/reviews");
    let error = found[1].as_ref().unwrap_err();
    assert_eq!(error.to_string(), "cluster1/policy.yaml:10: not valid YAML: unclosed bracket '['");
    let last = found[2].as_ref().unwrap();
    assert_eq!((last.line, last.input.key().to_string().as_str()), (14, "ServiceExpositionPolicy default/ratings"));
}

#[test]
fn a_misspelt_field_is_an_error_that_names_it() {
    assert_eq!(
        error(&policy_with("cluster: [cluster2]")),
        "cluster1/policy.yaml:1: ServiceExpositionPolicy default/reviews: spec.exposed[0].cluster: there is no such field \
         (is clusters meant?); the fields here are name, alias, port, ports, subset, virtualService, clusters, clients, tls"
    );
}

#[test]
fn a_misspelt_field_beside_the_spec_is_an_error_too() {
    let text = POLICY.replace("metadata:\n", "metadata:\n  lables: {connection: potential}\n");
    assert!(
        error(&text).contains("default/reviews: metadata.lables: there is no such field (is labels meant?)"),
        "{text}"
    );
    assert!(error(&format!("{POLICY}specs: {{}}\n")).contains("specs: there is no such field (is spec meant?)"));
}

#[test]
fn a_value_of_the_wrong_type_says_what_was_expected() {
    let place = "cluster1/policy.yaml:1: ServiceExpositionPolicy default/reviews: ";
    for (entry, message) in [
        (
            "port: [80]",
            "spec.exposed[0].port: found a list, expected a number from 0 to 65535 (several ports go under `ports`)",
        ),
        (
            "port: http",
            "spec.exposed[0].port: found the text \"http\", expected a number from 0 to 65535 (names of ports go under `ports`, as in `ports: [http]`)",
        ),
        ("port: 99999", "spec.exposed[0].port: found the number 99999, expected a number from 0 to 65535"),
        (
            "ports: [{}]",
            "spec.exposed[0].ports[0]: found a mapping, expected the number (from 1 to 65535) or the name of a port",
        ),
        ("clusters: cluster2", "spec.exposed[0].clusters: found the text \"cluster2\", expected a list"),
        (
            "tls: None",
            "spec.exposed[0].tls: \"None\" is no value of this field; expected one of Cluster, Workload, Passthrough",
        ),
    ] {
        assert_eq!(error(&policy_with(entry)), format!("{place}{message}"));
    }
    assert_eq!(error(&POLICY[..POLICY.find("spec").unwrap()]), format!("{place}spec: missing; expected a mapping"));
}

/// Field, value, what is allowed, and the near name; nothing of Rust or of the library that reads.
#[test]
fn mistakes_in_manifests_are_told_in_a_persons_words() {
    let object = |kind: &str, spec: &str| {
        format!("apiVersion: multicluster.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
    };
    let (policy, binding) = ("ServiceExpositionPolicy", "RemoteServiceBinding");
    for (kind, spec, parts) in [
        (policy, "{exposed: [{name: a, tls: cluster}]}", &["exposed[0].tls: \"cluster\"", "(is Cluster meant?)"][..]),
        (
            policy,
            "{exposed: [{name: a, virtualservice: b}]}",
            &["exposed[0].virtualservice", "(is virtualService meant?)"],
        ),
        (policy, "{exposed: [{alias: a}]}", &["spec.exposed[0].name: missing; expected a name"]),
        (policy, "{exposed: [{name: a, port: -1}]}", &["[0].port: found the number -1", "from 0 to 65535"]),
        (policy, "{exposed: [{name: a, ports: [70000]}]}", &["ports[0]: found the number 70000", "from 1 to 65535"]),
        (policy, "{exposed: [{name: a, clients: [{cluster: b}]}]}", &["clients[0].namespace: missing"]),
        (
            policy,
            "{expose: []}",
            &["spec.expose: there is no such field (is exposed meant?); the fields here are exposed"],
        ),
        (binding, "{remote: [{services: []}]}", &["spec.remote[0].cluster: missing; expected a name"]),
        (
            binding,
            "{remote: [{cluster: b, services: [{name: a, localPort: 80}]}]}",
            &[
                "services[0].localPort: there is no such field",
                "the fields here are name, namespace, alias, port, ports",
            ],
        ),
        (binding, "{remote: [{cluster: b, services: [{name: a, port: http}]}]}", &["ports: [{port: http}]"]),
        (binding, "{remote: {cluster: b}}", &["spec.remote: found a mapping, expected a list"]),
        (
            "ClusterPeering",
            "{connectionMode: Live}",
            &["\"Live\" is no value of this field (is live meant?)", "potential"],
        ),
        ("ClusterPeering", "{consume: 'true'}", &["spec.consume: found the text \"true\", expected true or false"]),
    ] {
        let told = error(&object(kind, spec));
        assert!(told.starts_with("cluster1/policy.yaml:1: ") && told.contains(kind), "{told}");
        for part in parts {
            assert!(told.contains(part), "{part:?} is missing in: {told}");
        }
        for strange in
            ["variant", "unknown field", "u16", "integer", "boolean", "sequence", "struct", "untagged", "`name`"]
        {
            assert!(!told.contains(strange), "{strange:?} is in: {told}");
        }
    }
}

#[test]
fn a_tab_and_a_wrong_indentation_are_explained() {
    assert!(error(&POLICY.replace("  name: reviews", "\tname: reviews")).contains("spaces, not with tabs"));
    assert!(error(&POLICY.replace("    port: 9080", "      port: 9080")).contains("indented further"));
    assert!(error("kind: x\nspec:\n    a: 1\n  b: 2\n").contains("indented otherwise"));
}

#[test]
fn ports_go_by_number_and_by_name() {
    let Input::Policy(policy) = one(&policy_with("ports: [9080, grpc]")).unwrap().input else { panic!() };
    assert_eq!(policy.spec.exposed[0].ports, [PortRef::Number(9080), PortRef::Name("grpc".into())]);
}

/// Serde reads a list as a mapping, by the order of its fields, and a mapping with one key as a value.
#[test]
fn what_no_api_server_takes_for_a_mapping_is_refused() {
    let policy = |spec: &str| format!("{}spec: {spec}\n", &POLICY[..POLICY.find("spec").unwrap()]);
    for (spec, message) in [
        ("{exposed: [[reviews]]}", "spec.exposed[0]: found a list, expected a mapping"),
        ("{exposed: [[reviews, ratings, 80]]}", "spec.exposed[0]: found a list, expected a mapping"),
        ("{exposed: [[]]}", "spec.exposed[0]: found a list, expected a mapping"),
        ("[[{name: reviews}]]", "spec: found a list, expected a mapping"),
        ("{exposed: [{name: reviews, clients: [[cluster2, shop]]}]}", "spec.exposed[0].clients[0]: found a list"),
        ("{exposed: [{name: reviews, tls: {Cluster: null}}]}", "spec.exposed[0].tls: found a mapping, expected a text"),
    ] {
        assert!(error(&policy(spec)).contains(message), "{spec}: {}", error(&policy(spec)));
    }
    let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec: ";
    let rule = format!("{head}{{host: reviews, trafficPolicy: {{tls: {{mode: {{DISABLE: null}}}}}}}}\n");
    assert!(error(&rule).contains("spec.trafficPolicy.tls.mode: found a mapping, expected a text"), "{}", error(&rule));
}

/// The API server takes a policy without a spec, and Istio reads it as one that allows nothing.
#[test]
fn a_permission_without_a_spec_allows_nothing() {
    let head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nothing}\n";
    for text in [head.to_owned(), format!("{head}spec:\n"), format!("{head}spec: {{}}\n")] {
        let Input::Object(object) = one(&text).unwrap().input else { panic!() };
        assert_eq!(serde_json::to_value(&*object).unwrap()["spec"], json!({}), "{text}");
    }
}

#[test]
fn names_that_cannot_be_are_errors() {
    for (name, message) in [
        ("A_b", "metadata.name: \"A_b\" is not an object name (a DNS subdomain): only lower-case letters"),
        ("../../etc/passwd", "metadata.name: \"../../etc/passwd\" is not an object name"),
        ("''", "metadata.name: \"\" is not an object name"),
        ("null", "metadata.name: missing"),
        ("reviews, namespace: a.b", "metadata.namespace: \"a.b\" is not a DNS label"),
    ] {
        let text = POLICY.replace("metadata:\n  name: reviews\n", &format!("metadata: {{name: {name}}}\n"));
        assert!(error(&text).contains(message), "{}", error(&text));
    }
}

#[test]
fn a_wrong_kind_or_version_of_our_group_is_an_error_and_other_kinds_are_none() {
    assert!(
        error(&POLICY.replace("v1alpha1", "v1")).contains("\"multicluster.istio.io/v1\" is not what this kind has")
    );
    assert!(error(&POLICY.replace("Policy", "Policies")).contains("has no \"ServiceExpositionPolicies\""));
    assert!(error(&POLICY.replace("kind: ServiceExpositionPolicy\n", "")).contains("kind: missing"));
    assert!(error(&POLICY.replace("apiVersion: multicluster.istio.io/v1alpha1\n", "")).contains("apiVersion: missing"));
    for other in [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {anything: [1]}\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n",
        "replicas: 3\nimage: nginx\n", // values of a chart
        "{}\n",
    ] {
        assert!(all(other).is_empty(), "{other}");
    }
}

#[test]
fn what_is_no_object_at_all_is_an_error() {
    assert!(error("hello").ends_with(":1: expected an object with apiVersion and kind, found a text"));
    assert!(error("\n\n- a\n").ends_with(":3: expected an object with apiVersion and kind, found a list"));
    let binary = read_manifest("x.yaml", &[b'a', 0xff, 0xfe, 0]);
    assert_eq!(
        binary[0].as_ref().unwrap_err().to_string(),
        "x.yaml: it is not text in UTF-8 (byte 1): Wharf reads YAML and JSON"
    );
    assert!(error("\u{0}\u{1}\u{2}").contains("not valid YAML"));
}

#[test]
fn documents_of_nothing_are_nothing() {
    for text in ["", "\n", "---\n---\n", "# only a comment\n", "--- # a comment\n...\n", "%YAML 1.2\n---\n", "~\n"] {
        assert!(all(text).is_empty(), "{text:?}");
    }
}

#[test]
fn markers_stand_alone_on_their_line() {
    let text = format!("%YAML 1.2\n---\n{POLICY}...\n--- # next\n{}", POLICY.replace("reviews", "ratings"));
    assert_eq!(keys(&text), ["ServiceExpositionPolicy default/reviews", "ServiceExpositionPolicy default/ratings"]);
    let annotated =
        POLICY.replace("metadata:\n", "metadata:\n  annotations:\n    a: |\n      ---\n    b: --- not one\n");
    assert_eq!(keys(&annotated), ["ServiceExpositionPolicy default/reviews"]);
    assert_eq!(keys("--- {apiVersion: v1, kind: Service, metadata: {name: a}}"), ["Service default/a"]);
}

#[test]
fn windows_line_ends_byte_order_marks_and_tabs_before_comments_are_fine() {
    let text = format!("\u{feff}{POLICY}---\n{POLICY}").replace('\n', "\r\n").replace("9080", "9080\t\t# Mergeable!");
    assert_eq!(keys(&text).len(), 2);
}

#[test]
fn json_is_yaml() {
    let text = json!({
        "apiVersion": "multicluster.istio.io/v1alpha1", "kind": "RemoteServiceBinding",
        "metadata": {"name": "reviews", "creationTimestamp": null, "labels": {"connection": "live"}},
        "spec": {"remote": [{"cluster": "cluster1", "services": null}]}, "status": {"anything": 1},
    });
    assert_eq!(keys(&text.to_string()), ["RemoteServiceBinding default/reviews"]);
    assert_eq!(keys(&serde_json::to_string_pretty(&text).unwrap()), ["RemoteServiceBinding default/reviews"]);
}

#[test]
fn lists_are_taken_apart() {
    let indented = POLICY.replace('\n', "\n  ");
    let text = format!("apiVersion: v1\nkind: List\nitems:\n- {indented}\n- {{apiVersion: v1, kind: Pod}}\n- 7\n");
    let found = all(&text);
    assert_eq!(found[0].as_ref().unwrap().input.key().to_string(), "ServiceExpositionPolicy default/reviews");
    assert!(found[1].is_err(), "a number is no object");
    assert_eq!(keys("{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}}]}"), ["Service default/a"]);
    let nested = "{apiVersion: v1, kind: List, items: [".repeat(9) + &"]}".repeat(9);
    assert!(error(&nested).contains("a list in a list"));
}

#[test]
fn a_peering_has_no_namespace_and_its_name_is_a_clusters() {
    let text = "apiVersion: multicluster.istio.io/v1alpha1\nkind: ClusterPeering\nmetadata: {name: cluster2, namespace: x}\nspec: {consume: true}\n";
    assert_eq!(one(text).unwrap().input.key(), InputKey::Peering("cluster2".into()));
    assert!(error(&text.replace("cluster2", "cluster.2")).contains("ClusterPeering cluster.2: metadata.name: "));
}

const VIRTUAL_SERVICE: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - timeout: 1s
    fault: {abort: {httpStatus: 500, percentage: {value: 10}}}
    route:
    - destination: {host: reviews, subset: v1}
";

#[test]
fn every_version_of_istios_api_means_the_same() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = VIRTUAL_SERVICE.replace("v1alpha3", version);
        assert_eq!(keys(&text), ["VirtualService default/reviews"]);
    }
}

#[test]
fn behaviour_that_would_be_cut_is_an_error_that_names_the_field() {
    let text = VIRTUAL_SERVICE.replace("timeout: 1s", "timeuot: 1s");
    assert!(error(&text).contains("VirtualService default/reviews: spec.http[0].timeuot: no such field"));
    let text = VIRTUAL_SERVICE.replace("subset: v1", "subset: v1, prot: {number: 1}");
    assert!(error(&text).contains("spec.http[0].route[0].destination.prot: no such field"));
    assert!(one(&VIRTUAL_SERVICE.replace("timeout: 1s", "timeout: null")).is_ok(), "null is nothing");
    let rule =
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, subset: []}\n";
    assert!(error(rule).contains("DestinationRule default/a: spec.subset: no such field"));
}

#[test]
fn fields_of_a_service_that_nobody_knows_do_not_matter_but_types_do() {
    let service = |port| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{new: 1, ports: [{{port: {port}}}]}}}}")
    };
    assert_eq!(keys(&service("80")), ["Service default/a"]);
    assert!(error(&service("eighty")).contains("Service default/a: spec.ports[0].port: found the text \"eighty\""));
}

#[test]
fn an_error_of_a_document_knows_which_object_it_would_be() {
    let error = one(&policy_with("port: x")).unwrap_err();
    assert_eq!(error.key.unwrap().to_string(), "ServiceExpositionPolicy default/reviews");
    assert_eq!(error.line, 1);
}

#[test]
fn the_same_key_twice_is_an_error() {
    assert!(error(&format!("{POLICY}kind: Other\n")).contains(":9: not valid YAML: duplicate mapping key `kind`"));
}

#[test]
fn bombs_and_towers_are_refused_at_once() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    }
    assert!(error(&bomb).contains("too large or too complex"), "{}", error(&bomb));
    assert!(error(&"[".repeat(100_000)).contains("not valid YAML"));
    let tower: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(error(&tower).contains("too large or too complex"));
    let wide = format!("kind: x\nitems: [{}]", "a,".repeat(400_000));
    assert!(error(&wide).contains("too large or too complex"));
    let long = format!("apiVersion: v1\nkind: ConfigMap\ndata: {}\n", "x".repeat(10 << 20));
    assert!(all(&long).is_empty(), "large is fine where it is no matter of ours");
}

#[test]
fn the_digest_is_of_the_content_not_of_its_layout() {
    let digest = |text: &str| one(text).unwrap().digest;
    assert_eq!(
        digest(POLICY),
        digest(&POLICY.replace("metadata:\n  name: reviews\n", "metadata: {name: reviews} # x\n"))
    );
    assert_ne!(digest(POLICY), digest(&POLICY.replace("9080", "9081")));
}

#[test]
fn objects_are_written_as_kubectl_prints_them() {
    let Input::Object(object) = one(VIRTUAL_SERVICE).unwrap().input else { panic!() };
    assert_eq!(object.kind(), Kind::VirtualService);
    assert_eq!(
        to_yaml(&*object),
        "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: default
spec:
  hosts:
  - reviews
  http:
  - fault:
      abort:
        httpStatus: 500
        percentage:
          value: 10.0
    route:
    - destination:
        host: reviews
        subset: v1
    timeout: 1s
"
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,20}",
        ".{0,8}",
        "(yes|no|on|off|y|n|null|~|0x1F|1_000|1:30|2001-01-01|1e3|.5|=|<<|---|\\.\\.\\.|\"|'|a: b|# c|- x|\\t|\n|a\nb\n)",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z0-9./_-]{1,12}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same(value in json_value()) {
        let text = to_yaml(&json!({"a": value}));
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        prop_assert_eq!(back, json!({"a": value}), "{}", text);
    }

    #[test]
    fn no_bytes_at_all_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_manifest("x", &bytes);
    }

    #[test]
    fn no_text_makes_reading_panic(text in "[-:{}\\[\\]&*!|>'\"#% a-z\n\t0-9.]{0,200}") {
        let _ = read_manifest("x", text.as_bytes());
    }
}

#[test]
fn each_document_of_a_stream_may_begin_with_a_byte_order_mark() {
    let other = POLICY.replace("reviews", "ratings");
    for text in [
        format!("\u{feff}{POLICY}\n\u{feff}---\n{other}"),
        format!("\u{feff}---\n{POLICY}\n\u{feff}---\r\n{other}"),
        format!("{POLICY}...\n\u{feff}# a comment\n{other}"),
    ] {
        let read = read_manifest("joined.yaml", text.as_bytes());
        assert!(read.len() == 2 && read.iter().all(Result::is_ok), "{text}\n{read:?}");
    }
}
