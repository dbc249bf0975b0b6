//! What the API server refuses, and with which sentence; and what it must not refuse.

use serde_json::{Value, json};
use wharf::api::{ClusterPeering, RemoteServiceBinding, ServiceExpositionPolicy};

use super::{binding, create, peering, policy};
use crate::support::Cluster;

const LETTERS: &str = "lower-case letters, digits and hyphens, beginning and ending with a letter or digit";
const ALIAS: &str = "an alias, which is the name of a Service: lower-case letters, digits and hyphens, beginning with a letter and \
                     ending with a letter or digit";

/// Each object is refused: of this field, with these words.
async fn refused(cluster: &Cluster, cases: Vec<(Value, &str, &str)>) {
    let mut wrong = Vec::new();
    for (object, field, words) in cases {
        match create(cluster, &object).await {
            Err(said) if said.contains(&format!("{field}: ")) && said.contains(words) => {}
            other => wrong.push(format!("{}\n  {field}: … {words}\n  {other:?}", object["spec"])),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_refused_with_a_sentence() {
    let cluster = Cluster::new().await;
    let one = |entry: Value| policy("p", &json!([entry]));
    let client = |client: Value| one(json!({"name": "reviews", "clients": [client]}));
    let many = |count: usize| (0..count).map(|i| json!({"name": format!("s{i}")})).collect::<Vec<_>>();
    let of = |what: &str, of: &str| format!("{what:?} is not {of}");
    let service = of("a_b", &format!("the name of a Service: {LETTERS}"));
    let alias = of("-stars", ALIAS);
    let cluster_name = of("no clu", &format!("the name of a cluster, which is a DNS label: {LETTERS}"));
    let namespace = of("Shop", &format!("the name of a namespace: {LETTERS}"));
    let subset = of("", "the name of a subset: letters, digits and hyphens; leave it out for the whole Service");
    let virtual_service = of("a..b", "the name of a VirtualService: lower-case letters, digits, hyphens and dots");
    let twins = "two entries are exposed under one name: give one of them another alias";
    let cases = vec![
        (policy("p", &json!([])), "spec.exposed", "nothing is exposed: name at least one Service"),
        (policy("p", &Value::Null), "spec.exposed", "Required value"),
        (one(json!({"alias": "stars"})), "spec.exposed[0].name", "Required value"),
        (one(json!({"name": "2fa"})), "spec.exposed[0].alias", "no Service of an acceptor can begin with a digit"),
        (one(json!({"name": "fa", "alias": "2fa"})), "spec.exposed[0].alias", "is not an alias"),
        (one(json!({"name": "a_b"})), "spec.exposed[0].name", service.as_str()),
        (one(json!({"name": ""})), "spec.exposed[0].name", "\"\" is not the name of a Service"),
        (one(json!({"name": "a".repeat(64)})), "spec.exposed[0].name", "may not be more than 63"),
        (one(json!({"name": "ratings", "alias": "-stars"})), "spec.exposed[0].alias", alias.as_str()),
        (policy("p", &json!([{"name": "a", "alias": "b"}, {"name": "b"}])), "spec.exposed", twins),
        (policy("p", &json!([{"name": "a", "alias": "x"}, {"name": "b", "alias": "x"}])), "spec.exposed", twins),
        (policy("p", &json!([{"name": "a"}, {"name": "a"}])), "spec.exposed[1]", "Duplicate value"),
        (policy("p", &json!(many(129))), "spec.exposed", "must have at most 128 items"),
        (
            one(json!({"name": "a", "port": 80, "ports": ["http"]})),
            "spec.exposed[0].ports",
            "port and ports exclude each other: keep one of them",
        ),
        (one(json!({"name": "a", "port": 65536})), "spec.exposed[0].port", "less than or equal to 65535"),
        (one(json!({"name": "a", "port": -1})), "spec.exposed[0].port", "greater than or equal to 0"),
        (one(json!({"name": "a", "port": [80]})), "spec.exposed[0].port", "must be of type integer"),
        (one(json!({"name": "a", "ports": [0]})), "spec.exposed[0].ports[0]", "greater than or equal to 1"),
        (one(json!({"name": "a", "ports": [65536]})), "spec.exposed[0].ports[0]", "less than or equal to 65535"),
        (one(json!({"name": "a", "ports": [""]})), "spec.exposed[0].ports[0]", "at least 1 chars"),
        (one(json!({"name": "a", "subset": ""})), "spec.exposed[0].subset", subset.as_str()),
        (
            one(json!({"name": "a", "virtualService": "a..b"})),
            "spec.exposed[0].virtualService",
            virtual_service.as_str(),
        ),
        (
            one(json!({"name": "a", "subset": "v1", "virtualService": "a"})),
            "spec.exposed[0].subset",
            "subset and virtualService exclude each other: let the routes of the VirtualService choose the subset",
        ),
        (
            one(json!({"name": "a", "tls": "Passthrough", "virtualService": "a"})),
            "spec.exposed[0].virtualService",
            "with tls: Passthrough the gateway sees no requests to route: use another mode, or leave virtualService out",
        ),
        (one(json!({"name": "a", "tls": "None"})), "spec.exposed[0].tls", "\"Cluster\", \"Workload\", \"Passthrough\""),
        (one(json!({"name": "a", "clusters": ["no clu"]})), "spec.exposed[0].clusters[0]", cluster_name.as_str()),
        (one(json!({"name": "a", "clusters": ["c", "c"]})), "spec.exposed[0].clusters[1]", "Duplicate value"),
        (client(json!({"cluster": "c"})), "spec.exposed[0].clients[0].namespace", "Required value"),
        (
            client(json!({"cluster": "c", "namespace": "Shop"})),
            "spec.exposed[0].clients[0].namespace",
            namespace.as_str(),
        ),
        (
            client(json!({"cluster": "c", "namespace": "shop", "serviceAccount": ""})),
            "spec.exposed[0].clients[0].serviceAccount",
            "should match '^[a-z0-9]",
        ),
        (
            client(json!({"cluster": "c", "namespace": "shop", "serviceAccount": "a..b"})),
            "spec.exposed[0].clients[0].serviceAccount",
            "should match '^[a-z0-9]",
        ),
        (
            one(json!({"name": "a", "clusters": ["b"], "clients": [{"cluster": "c", "namespace": "shop"}]})),
            "spec.exposed[0].clients",
            "a client is of a cluster that may not consume: add the cluster to clusters, or leave the client out",
        ),
    ];
    refused(&cluster, cases).await;
    // The one that would open a service to every peer.
    let said = create(&cluster, &one(json!({"name": "a", "cluster": ["b"]}))).await.unwrap_err();
    assert!(said.contains("unknown field \"spec.exposed[0].cluster\""), "{said}");
}

#[tokio::test]
async fn a_binding_that_makes_no_sense_is_refused_with_a_sentence() {
    let cluster = Cluster::new().await;
    let one = |service: Value| binding("b", &json!([{"cluster": "c", "services": [service]}]));
    let many = |count: usize| (0..count).map(|i| json!({"name": format!("s{i}")})).collect::<Vec<_>>();
    let remotes = |count: usize| (0..count).map(|i| json!({"cluster": format!("c{i}")})).collect::<Vec<_>>();
    let field = |name: &str| format!("spec.remote[0].services[0].{name}");
    let (name, alias, namespace) = (field("name"), field("alias"), field("namespace"));
    let (port, weight, priority) = (field("port"), field("weight"), field("priority"));
    let service = format!("\"a.b\" is not the name of a Service: {LETTERS}");
    let stars = format!("\"stars-\" is not {ALIAS}");
    let digit = "no Service of an acceptor can begin with a digit";
    let shop = format!("\"Shop\" is not the name of a namespace: {LETTERS}");
    let nobody = format!("\"\" is not the name of a cluster, which is a DNS label: {LETTERS}");
    let cases = vec![
        (binding("b", &json!([])), "spec.remote", "nothing is bound: name at least one cluster"),
        (binding("b", &json!([{"services": []}])), "spec.remote[0].cluster", "Required value"),
        (binding("b", &json!([{"cluster": ""}])), "spec.remote[0].cluster", nobody.as_str()),
        (binding("b", &json!([{"cluster": "c"}, {"cluster": "c"}])), "spec.remote[1]", "Duplicate value"),
        (binding("b", &json!(remotes(33))), "spec.remote", "must have at most 32 items"),
        (one(json!({"alias": "stars"})), name.as_str(), "Required value"),
        (one(json!({"name": "a.b"})), name.as_str(), service.as_str()),
        (one(json!({"name": "a", "alias": "stars-"})), alias.as_str(), stars.as_str()),
        (one(json!({"name": "2fa"})), alias.as_str(), digit),
        (one(json!({"name": "a", "namespace": "Shop"})), namespace.as_str(), shop.as_str()),
        (one(json!({"name": "a", "port": 65536})), port.as_str(), "less than or equal to 65535"),
        (one(json!({"name": "a", "weight": -1})), weight.as_str(), "greater than or equal to 0"),
        (
            one(json!({"name": "a", "priority": 4_294_967_296_u64})),
            priority.as_str(),
            "less than or equal to 4294967295",
        ),
        (
            // One exposition has one weight under one name.
            binding(
                "b",
                &json!([{"cluster": "c", "services": [{"name": "a", "weight": 1}, {"name": "a", "weight": 2}]}]),
            ),
            "spec.remote[0].services[1]",
            "Duplicate value",
        ),
        (
            binding("b", &json!([{"cluster": "c", "services": many(2049)}])),
            "spec.remote[0].services",
            "must have at most 2048 items",
        ),
    ];
    refused(&cluster, cases).await;
}

#[tokio::test]
async fn a_peering_that_makes_no_sense_is_refused_with_a_sentence() {
    let cluster = Cluster::new().await;
    let of = |field: &str, value: Value| peering("cluster2", &json!({field: value}));
    let endpoint = |text: &str| format!("{text:?} is not host:port, as in cluster1.example:7443 or [2001:db8::1]:7443");
    let gateway = "\"gw\" is not host:port, as in gateway.cluster1.example:15443 or [2001:db8::1]:15443";
    let id = |text: &str| format!("{text:?} is not a SPIFFE ID, as in spiffe://wharf/cluster/cluster1");
    let domain = "\"My.Mesh\" is not a trust domain: lower-case letters, digits, hyphens, dots and underscores";
    let shop = format!("\"a/b\" is not the name of a namespace: {LETTERS}");
    let many: Vec<String> = (0..33).map(|i| format!("10.0.0.{i}:1")).collect();
    let mut cases = Vec::new();
    let hosts =
        ["cluster1.example", "cluster1.example:0", "cluster1.example:65536", "http://cluster1:7443", ":7443", "a b:1"];
    let said = hosts.map(endpoint);
    cases.extend(
        hosts.iter().zip(&said).map(|(text, said)| (of("endpoint", json!(text)), "spec.endpoint", said.as_str())),
    );
    let ids =
        ["cluster1", "spiffe://", "spiffe://Wharf/a", "spiffe://wharf/", "spiffe://wharf/a/../b", "spiffe://wharf/a b"];
    let said = ids.map(id);
    cases.extend(
        ids.iter().zip(&said).map(|(text, said)| (of("identity", json!(text)), "spec.identity", said.as_str())),
    );
    cases.extend([
        (of("gateway", json!(["gw"])), "spec.gateway[0]", gateway),
        (of("gateway", json!(["gw:1", "gw:1"])), "spec.gateway[1]", "Duplicate value"),
        (of("gateway", json!(many)), "spec.gateway", "must have at most 32 items"),
        (of("connectionMode", json!("Live")), "spec.connectionMode", "\"live\", \"potential\", \"none\""),
        (of("namespace", json!("a/b")), "spec.namespace", shop.as_str()),
        (of("trustDomain", json!("My.Mesh")), "spec.trustDomain", domain),
        (of("allowedGateways", json!(["10.0.0.1"])), "spec.allowedGateways[0]", "\"10.0.0.1\" is not a network"),
        (of("allowedGatewayNames", json!(["*"])), "spec.allowedGatewayNames[0]", "\"*\" is not a name"),
        (of("caBundle", json!("LS0tLS1CRUdJTiA=")), "spec.caBundle", "it has no certificate in PEM"),
        (of("consume", json!("yes")), "spec.consume", "must be of type boolean"),
        (
            peering("cluster1.myorg", &json!({})),
            "metadata.name",
            "\"cluster1.myorg\" is not the name of a cluster, which is a DNS label of at most 63",
        ),
    ]);
    refused(&cluster, cases).await;
}

#[tokio::test]
async fn what_was_accepted_in_2018_still_is() {
    let cluster = Cluster::new().await;
    for object in [
        policy(
            "p",
            &json!([{"name": "ServiceA", "alias": "FooA", "subset": "v1", "clusters": ["clusterC", "cluster1.myorg"]}]),
        ),
        policy(
            "p",
            &json!([{"name": "reviews", "port": 0, "clusters": []}, {"name": "reviews", "alias": "reviews-v1"}]),
        ),
        policy("p", &json!([{"name": "reviews", "alias": "", "clusters": null}])),
        binding(
            "b",
            &json!([{"cluster": "clusterb.myorg", "services": [{"alias": "reviews", "name": "reviews", "port": 0}]}]),
        ),
        binding(
            "b",
            &json!([{"cluster": "cluster_2", "services": null}, {"cluster": "cluster3"}, {"cluster": "c", "services": []}]),
        ),
        binding("b", &json!([{"cluster": "cluster2", "services": [{"name": "Server", "namespace": "", "alias": ""}]}])),
    ] {
        accepted(&cluster, &object).await;
    }
}

#[tokio::test]
async fn what_makes_sense_is_accepted() {
    let cluster = Cluster::new().await;
    let full: Vec<Value> = (0..128).map(|i| json!({"name": format!("s{i}"), "clusters": ["a", "b", "c"]})).collect();
    let services: Vec<Value> = (0..500).map(|i| json!({"name": format!("s{i}"), "namespace": "shop"})).collect();
    let nothing = json!({"name": "a", "port": null, "ports": null, "subset": null, "virtualService": null, "clients": null, "tls": null});
    let client = json!({"cluster": "c", "namespace": "shop", "serviceAccount": "web.v1"});
    for object in [
        policy("p", &json!(full)),
        policy("p", &json!([nothing])),
        policy(
            "p",
            &json!([{"name": "a", "port": 65535}, {"name": "a", "alias": "b", "ports": [80, "http-admin", 65535]}]),
        ),
        policy("p", &json!([{"name": "a", "port": 0, "ports": ["http"], "clusters": ["c", "d"], "clients": [client]}])),
        policy(
            "p",
            &json!([{"name": "a", "clusters": [], "clients": [client], "virtualService": "a.b", "tls": "Workload"}]),
        ),
        binding("b", &json!([{"cluster": "c", "services": services}])),
        // Two namespaces, two local names.
        binding(
            "b",
            &json!([{"cluster": "c", "services": [
                {"name": "a"}, {"name": "a", "namespace": "east", "alias": "x"}, {"name": "a", "namespace": "west", "alias": "x"},
                {"name": "a", "alias": "b", "weight": 0, "priority": 4_294_967_295_u64}, {"name": "b", "port": 65535},
            ]}]),
        ),
        peering("c", &json!({})),
        peering("c", &json!({"endpoint": "", "identity": "", "gateway": [], "namespace": "", "trustDomain": ""})),
        peering(
            "c",
            &json!({"endpoint": null, "identity": null, "gateway": null, "namespace": null, "connectionMode": null}),
        ),
        peering(
            "c",
            &json!({"allowedGateways": ["10.0.0.0/8", "fd00::/8"], "allowedGatewayNames": ["corp", "*.gw.example"],
                    "caBundle": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}),
        ),
        peering("c", &json!({"allowedGateways": null, "allowedGatewayNames": [], "caBundle": ""})),
        peering("c", &json!({"endpoint": "[2001:db8::1]:7443", "gateway": ["192.0.2.1:15443", "gw.example:1"]})),
        peering(
            "c",
            &json!({"endpoint": "2001:db8::1:7443", "identity": "spiffe://cluster.local/ns/istio-system/sa/a_B.c"}),
        ),
        peering(
            "c",
            &json!({"endpoint": "Cluster1.Example:65535", "consume": true, "identity": "spiffe://x", "connectionMode": "live"}),
        ),
    ] {
        accepted(&cluster, &object).await;
    }
}

/// It is, and what is there then is read.
async fn accepted(cluster: &Cluster, object: &Value) {
    let made = create(cluster, object).await.unwrap_or_else(|said| panic!("{object:#}\n{said}"));
    let read = match object["kind"].as_str() {
        Some("ServiceExpositionPolicy") => serde_json::from_value::<ServiceExpositionPolicy>(made).map(drop),
        Some("RemoteServiceBinding") => serde_json::from_value::<RemoteServiceBinding>(made).map(drop),
        _ => serde_json::from_value::<ClusterPeering>(made).map(drop),
    };
    read.unwrap_or_else(|e| panic!("{object:#}\n{e}"));
}
