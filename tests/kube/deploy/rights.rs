//! The rights of the chart are those of docs/reference/rbac.md: no fewer, and no more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use kube::Client;
use serde_json::{Value, json};

use super::{CONFINED, FULL, MINIMAL, NAMESPACE, OWN, OWN_API, rendered};
use crate::support::{Account, Cluster, wait};

const PAGE: &str = include_str!("../../../docs/reference/rbac.md");

/// One thing that one may do: `gateways.networking.istio.io`, `pods/log`; all of them, or the one of a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub resource: String,
    pub verb: String,
    pub name: Option<String>,
}

/// How the chart was installed.
struct Installed {
    values: &'static str,
    account: &'static str,
    /// None: all.
    namespaces: Option<Vec<&'static str>>,
    gateways: Vec<&'static str>,
    /// The mesh's root namespace, and its ConfigMap.
    mesh: (&'static str, &'static str),
    nodes: bool,
    identity: &'static str,
    credential: &'static str,
    /// The gateways' accounts, as Istio's installations call them, if the values name none.
    accounts: Vec<&'static str>,
}

fn minimal() -> Installed {
    Installed {
        values: MINIMAL,
        account: "wharf",
        namespaces: None,
        gateways: vec!["istio-system"],
        mesh: ("istio-system", "istio"),
        nodes: false,
        identity: "wharf-certificate",
        credential: "wharf-identity",
        accounts: vec![
            "istio-ingressgateway",
            "istio-ingressgateway-service-account",
            "istio-egressgateway",
            "istio-egressgateway-service-account",
        ],
    }
}

fn full() -> Installed {
    Installed {
        values: FULL,
        account: "wharf-agent",
        gateways: vec!["gateways"], // no egress gateway in its style
        mesh: ("mesh", "istio-blue"),
        nodes: true,
        identity: "cluster1-certificate",
        credential: "cluster-credential",
        accounts: Vec::new(),
        ..minimal()
    }
}

fn confined() -> Installed {
    Installed { values: CONFINED, namespaces: Some(vec!["team-a", "team-b"]), ..minimal() }
}

/// The rows of the page's table of the agent's rights: resource, verbs, where, name.
pub fn page() -> Vec<[String; 4]> {
    let table = PAGE.split("| resource | verbs | where |").nth(1).expect("the table").lines().skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        <[String; 5]>::try_from(cells).map(|[resource, verbs, place, name, _]| [resource, verbs, place, name]).unwrap()
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 15, "{rows:?}");
    rows
}

impl Installed {
    /// What the page grants in a namespace, with what it grants in the whole cluster.
    fn wanted(&self, namespace: &str) -> BTreeSet<Right> {
        let mut rights = BTreeSet::new();
        for [resource, verbs, place, name] in page() {
            let all = self.namespaces.as_ref().is_none_or(|names| names.contains(&namespace));
            let gateway = self.gateways.contains(&namespace);
            let here = match place.as_str() {
                // Of what belongs to no namespace the events are kept in `default`.
                "each" => all || (namespace == "default" && resource == "events.events.k8s.io"),
                "objects" => all || gateway,
                "cluster" => resource != "nodes" || self.nodes,
                "own" => namespace == NAMESPACE,
                "gateways" => gateway,
                "mesh" => namespace == self.mesh.0,
                other => panic!("{other:?} is no place"),
            };
            let names = match (name.as_str(), &self.namespaces) {
                ("", _) | ("with `namespaces`, those", None) => vec![None],
                ("with `namespaces`, those", Some(named)) => named.iter().map(|n| Some((*n).to_owned())).collect(),
                ("the value of `identity.secret`", _) => vec![Some(self.identity.to_owned())],
                ("the value of `credential`", _) => vec![Some(self.credential.to_owned())],
                ("the accounts that Istio makes", _) => self.accounts.iter().map(|a| Some((*a).to_owned())).collect(),
                ("the value of `istiod.meshConfig`", _) => vec![Some(self.mesh.1.to_owned())],
                (name, _) => vec![Some(name.to_owned())],
            };
            for (verb, name) in verbs.split(", ").filter(|_| here).flat_map(|v| names.iter().map(move |n| (v, n))) {
                rights.insert(Right { resource: resource.clone(), verb: verb.to_owned(), name: name.clone() });
            }
        }
        rights
    }
}

/// All that the API server lets this client do in a namespace, as far as its rules say.
async fn granted(client: &Client, namespace: &str) -> BTreeSet<Right> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
    });
    let status = post(client, "selfsubjectrulesreviews", &review).await;
    assert_ne!(status["incomplete"], true, "{status}");
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap_or_default() };
    let mut rights = BTreeSet::new();
    for rule in status["resourceRules"].as_array().unwrap() {
        for (group, resource, verb) in
            product(&texts(&rule["apiGroups"]), &texts(&rule["resources"]), &texts(&rule["verbs"]))
        {
            let resource = qualified(&group, &resource);
            let right = |name| Right { resource: resource.clone(), verb: verb.clone(), name };
            let names = texts(&rule["resourceNames"]);
            if names.is_empty() {
                rights.insert(right(None));
            }
            rights.extend(names.into_iter().map(|name| right(Some(name))));
        }
    }
    rights
}

fn product(groups: &[String], resources: &[String], verbs: &[String]) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for group in groups {
        for resource in resources {
            all.extend(verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
        }
    }
    all
}

/// `gateways` of a group, `gateways/status` of a group: `gateways.<group>`, `gateways.<group>/status`.
pub fn qualified(group: &str, resource: &str) -> String {
    let (kind, part) = resource.split_once('/').map_or((resource, String::new()), |(k, p)| (k, format!("/{p}")));
    if group.is_empty() { format!("{kind}{part}") } else { format!("{kind}.{group}{part}") }
}

async fn post(client: &Client, kind: &str, review: &Value) -> Value {
    let request = http::Request::post(format!("/apis/authorization.k8s.io/v1/{kind}"))
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes())
        .unwrap();
    let mut answer: Value = client.request(request).await.unwrap_or_else(|e| panic!("{e}"));
    answer["status"].take()
}

/// Whether the API server would let this client do it.
pub async fn may(client: &Client, namespace: &str, right: &Right) -> bool {
    let (kind, part) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
    let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
    let namespace = if cluster_wide(kind) { "" } else { namespace };
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "group": group, "resource": kind, "subresource": part, "verb": right.verb, "namespace": namespace,
            "name": right.name.clone().unwrap_or_default(),
        }},
    });
    post(client, "selfsubjectaccessreviews", &review).await["allowed"] == true
}

fn cluster_wide(kind: &str) -> bool {
    ["clusterpeerings", "namespaces", "nodes"].contains(&kind)
}

const NAMESPACES: [&str; 11] = [
    NAMESPACE,
    "istio-system",
    "mesh",
    "default",
    "kube-system",
    "shop",
    "gateways",
    "egress",
    "team-a",
    "team-b",
    "wharf-gateways",
];

/// The chart's account, its roles and its admission policy, in a cluster that has all these namespaces. `more` are arguments of helm.
pub async fn install(cluster: &Cluster, values: &str, account: &str, more: &[&str]) -> Account {
    for namespace in NAMESPACES {
        cluster.make_namespace(namespace).await;
    }
    let kinds = [
        "ServiceAccount",
        "Role",
        "ClusterRole",
        "RoleBinding",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    for object in rendered(values, more).iter().filter(|o| kinds.iter().any(|kind| o["kind"] == *kind)) {
        cluster.apply(object).await;
    }
    cluster.account(NAMESPACE, account).await
}

async fn check(installed: &Installed) {
    let cluster = Cluster::new().await;
    let account = install(&cluster, installed.values, installed.account, &[]).await;
    let nobody = cluster.account(NAMESPACE, "nobody").await;
    let (agent, nobody) = (cluster.client_of(&account).await, cluster.client_of(&nobody).await);
    for namespace in NAMESPACES {
        let (there, wanted) = (settled(&agent, &nobody, namespace, installed).await, installed.wanted(namespace));
        let superfluous: Vec<_> = there.difference(&wanted).collect();
        let missing: Vec<_> = wanted.difference(&there).collect();
        assert!(
            superfluous.is_empty() && missing.is_empty(),
            "{}, {namespace}: not on the page, but granted: {superfluous:?}; on the page, but not granted: {missing:?}",
            installed.values
        );
    }
    for namespace in [NAMESPACE, installed.gateways[0], installed.mesh.0, "team-a", "shop"] {
        asked(&agent, namespace, &installed.wanted(namespace)).await;
    }
}

/// Asks for each right, and for what is close to it: the rules as they are listed are not all that decides.
async fn asked(agent: &Client, namespace: &str, wanted: &BTreeSet<Right>) {
    let questions: BTreeSet<Right> = wanted.iter().flat_map(neighbours).chain(wanted.iter().cloned()).collect();
    let answers = stream::iter(questions).map(|right| async {
        let may = may(agent, namespace, &right).await;
        (right, may)
    });
    let answers: Vec<_> = answers.buffer_unordered(16).collect().await;
    for (right, may) in answers {
        assert_eq!(may, covered(wanted, &right), "{namespace}: {right:?}");
    }
}

/// What it may: the API server's own watch on roles may be a moment behind.
async fn settled(agent: &Client, nobody: &Client, namespace: &str, installed: &Installed) -> BTreeSet<Right> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let there = extra(agent, nobody, namespace).await;
        if there == installed.wanted(namespace) || Instant::now() > deadline {
            return there;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the agent may and nobody in particular may not.
async fn extra(agent: &Client, nobody: &Client, namespace: &str) -> BTreeSet<Right> {
    let everybody = granted(nobody, namespace).await;
    granted(agent, namespace).await.difference(&everybody).cloned().collect()
}

/// What is close to a right: other verbs, all instead of one, another one, its status.
fn neighbours(right: &Right) -> impl Iterator<Item = Right> {
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    let names = [None, right.name.clone(), Some("another".to_owned())];
    let status = format!("{}/status", right.resource.trim_end_matches("/status"));
    let resources = [right.resource.clone(), status];
    verbs.into_iter().flat_map(move |verb| {
        let (names, resources) = (names.clone(), resources.clone());
        resources.into_iter().flat_map(move |resource| {
            names.clone().into_iter().map(move |name| Right { resource: resource.clone(), verb: verb.to_owned(), name })
        })
    })
}

/// Whether these rights include this one: who may do it to all may do it to one.
fn covered(rights: &BTreeSet<Right>, right: &Right) -> bool {
    rights.contains(right) || rights.contains(&Right { name: None, ..right.clone() })
}

#[tokio::test]
async fn the_agent_may_do_what_the_page_says_and_nothing_else() {
    check(&minimal()).await;
}

#[tokio::test]
async fn with_other_names_and_nodes_it_may_do_what_the_page_says_and_nothing_else() {
    check(&full()).await;
}

#[tokio::test]
async fn confined_to_namespaces_it_may_do_nothing_elsewhere() {
    check(&confined()).await;
}

#[tokio::test]
async fn beside_gateways_of_its_own_it_may_do_what_the_page_says_and_nothing_else() {
    let accounts = Vec::new(); // the chart knows them
    check(&Installed { values: OWN, gateways: vec!["wharf-gateways"], accounts, ..minimal() }).await;
}

/// istiod gives a gateway its Secret only if its account may list those of the namespace.
#[tokio::test]
async fn a_gateway_of_its_own_may_read_its_namespaces_secrets_and_nothing_else() {
    let cluster = Cluster::new().await;
    install(&cluster, OWN, "wharf", &[]).await;
    let nobody = cluster.client_of(&cluster.account(NAMESPACE, "nobody").await).await;
    let secrets: BTreeSet<Right> = ["get", "list", "watch"]
        .into_iter()
        .map(|verb| Right { resource: "secrets".to_owned(), verb: verb.to_owned(), name: None })
        .collect();
    for name in ["wharf-ingressgateway", "wharf-egressgateway"] {
        let gateway = cluster.client_of(&cluster.account("wharf-gateways", name).await).await;
        wait::until("its rights", || async {
            (extra(&gateway, &nobody, "wharf-gateways").await == secrets).then_some(())
        })
        .await;
        for namespace in [NAMESPACE, "istio-system", "default", "shop"] {
            assert_eq!(extra(&gateway, &nobody, namespace).await, BTreeSet::new(), "{name} in {namespace}");
        }
    }
}

#[test]
fn no_role_has_a_wildcard_or_hands_on_rights() {
    for values in super::ALL.into_iter().chain([OWN, OWN_API]) {
        for role in rendered(values, &[]).iter().filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole") {
            let text = role["rules"].to_string();
            for word in
                ["\"*\"", "escalate", "bind\"", "impersonate", "pods", "rolebindings", "customresourcedefinitions"]
            {
                assert!(!text.contains(word), "{}: {word} in {text}", role["metadata"]["name"]);
            }
        }
    }
}

/// The people's roles, as the page has them.
#[test]
fn people_get_what_the_page_says() {
    let objects = rendered(MINIMAL, &[]);
    for name in ["wharf-edit", "wharf-view"] {
        let role = objects.iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name).expect(name);
        let list = |value: &Value| -> String {
            let texts: Vec<String> = serde_json::from_value(value.clone()).unwrap();
            texts.join(", ")
        };
        let row =
            format!("| {name} | {} | {} |", list(&role["rules"][0]["resources"]), list(&role["rules"][0]["verbs"]));
        assert!(PAGE.contains(&row), "{row}");
        assert_eq!(role["rules"].as_array().unwrap().len(), 1);
        assert!(!role["metadata"]["labels"].to_string().contains("aggregate-to"), "not without being asked");
    }
}
