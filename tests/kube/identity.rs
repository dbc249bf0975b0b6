//! The agent's identity in a Secret, and the gateways' certificate that is kept in step with it: with rights to these two
//! Secrets and no other.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf::agent::identity::open_identity;
use wharf::config::IdentityConfig;
use wharf::identity::{Identity, IdentityFiles, IdentityWatch};
use wharf::store::kube::credential;
use wharf::store::{Change, NamedKey};

use crate::support::{Account, Agent, Cluster, Pki, wait};

const HOME: &str = "wharf-system";
const GATEWAYS: &str = "istio-system";
const OWN: &str = "wharf-tls";
const CREDENTIAL: &str = "wharf-identity";

/// All that the two need.
fn rules() -> Value {
    let rule = |name, verbs: &[&str]| json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": verbs});
    json!([rule(OWN, &["list", "watch"]), rule(CREDENTIAL, &["list", "watch", "create", "patch"])])
}

fn named(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}})
}

fn secret(namespace: &str, name: &str, data: &[(&str, Vec<u8>)]) -> Value {
    let mut secret = named(namespace, name);
    let data = data.iter().map(|(key, bytes)| ((*key).to_owned(), json!(ByteString(bytes.clone()))));
    secret["data"] = Value::Object(data.collect());
    secret
}

/// The certificate, key and root of a cluster.
fn files(pki: &Pki, cluster: &str) -> IdentityFiles {
    let (certificate, key) = pki.issue(cluster);
    let crl = Some(pki.path().join("ca.crl")).filter(|file| file.exists());
    IdentityFiles { certificate, key, root: pki.path().join("ca.crt"), crl }
}

/// The Secret of the agent of `here`, in cert-manager's layout.
fn own(pki: &Pki) -> Value {
    let IdentityFiles { certificate, key, root, crl } = files(pki, "here");
    let read = |file| fs::read(file).unwrap();
    let mut data = vec![("tls.crt", read(certificate)), ("tls.key", read(key)), ("ca.crt", read(root))];
    data.extend(crl.map(|file| ("ca.crl", read(file))));
    secret(HOME, OWN, &data)
}

/// Another certificate, under the same root.
fn renew(pki: &Pki, cluster: &str) {
    for suffix in ["crt", "key"] {
        fs::remove_file(pki.path().join(format!("{cluster}.{suffix}"))).unwrap();
    }
    pki.issue(cluster);
}

fn load(pki: &Pki) -> Arc<Identity> {
    Arc::new(Identity::load(&files(pki, "here")).unwrap())
}

fn text(secret: &Value, key: &str) -> String {
    let bytes: ByteString = serde_json::from_value(secret["data"][key].clone()).unwrap_or_default();
    String::from_utf8(bytes.0).unwrap()
}

async fn told(problem: &mut watch::Receiver<Option<String>>, part: &str) -> String {
    let told = problem.wait_for(|p| p.as_ref().is_some_and(|p| p.contains(part)));
    tokio::time::timeout(wait::PATIENCE, told)
        .await
        .unwrap_or_else(|_| panic!("not told: {part}"))
        .unwrap()
        .clone()
        .unwrap()
}

// ---- the agent's own

/// What an agent does with `identity: {secret: wharf-tls}`.
struct Opening {
    problem: watch::Receiver<Option<String>>,
    task: tokio::task::JoinHandle<Option<IdentityWatch>>,
}

fn opening(client: Client) -> Opening {
    let (tell, problem) = watch::channel(None);
    let task = tokio::spawn(async move {
        let config = IdentityConfig::Secret(OWN.parse().unwrap());
        open_identity(config, &"here".parse().unwrap(), Some((client, HOME)), tell, CancellationToken::new())
            .await
            .unwrap()
    });
    Opening { problem, task }
}

async fn opened(client: Client) -> IdentityWatch {
    tokio::time::timeout(wait::PATIENCE, opening(client).task).await.expect("an identity").unwrap().unwrap()
}

async fn serial(watched: &mut IdentityWatch, serial: &str) {
    let seen = watched.identity.wait_for(|identity| identity.serial == serial);
    tokio::time::timeout(wait::PATIENCE, seen).await.expect("the renewed one").unwrap();
}

async fn with_account(cluster: &Cluster) -> (Account, Client) {
    let account = cluster.account(HOME, "wharf").await;
    cluster.allow(&account, &rules()).await;
    let client = cluster.client_of(&account).await;
    // The API server learns of rights a moment after they are written.
    wait::until("the rights", || async {
        for (namespace, name) in [(HOME, OWN), (GATEWAYS, CREDENTIAL)] {
            let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
            api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await.ok()?;
        }
        Some(())
    })
    .await;
    (account, client)
}

#[tokio::test]
async fn an_identity_is_waited_for_and_followed_in_both_layouts() {
    let cluster = Cluster::new().await;
    let (_, client) = with_account(&cluster).await;
    let pki = Pki::new();
    let mut opening = opening(client);
    let missing = told(&mut opening.problem, "there is none").await;
    for part in
        ["Secret wharf-system/wharf-tls", "wharf ca issue here", "create secret generic wharf-tls", "waits for it"]
    {
        assert!(missing.contains(part), "{part}: {missing}");
    }
    cluster.apply(&secret(HOME, OWN, &[("tls.crt", b"x".to_vec())])).await;
    told(&mut opening.problem, "expected tls.crt and tls.key, or here.crt and here.key; it has tls.crt").await;

    let IdentityFiles { certificate, key, root, .. } = files(&pki, "here");
    let [certificate, key, root] = [certificate, key, root].map(|file| fs::read(file).unwrap());
    cluster.apply(&secret(HOME, OWN, &[("here.crt", certificate), ("here.key", key), ("ca.crt", root)])).await;
    let mut watched = tokio::time::timeout(wait::PATIENCE, opening.task).await.unwrap().unwrap().unwrap();
    assert_eq!(watched.identity.borrow().serial, load(&pki).serial);
    assert_eq!(*watched.problem.borrow(), None);

    renew(&pki, "here");
    cluster.apply(&own(&pki)).await;
    serial(&mut watched, &load(&pki).serial).await;
}

#[tokio::test]
async fn what_is_broken_later_leaves_the_last_good_identity_in_force() {
    let mut cluster = Cluster::new().await;
    let (account, client) = with_account(&cluster).await;
    let pki = Pki::new();
    cluster.apply(&own(&pki)).await;
    let mut watched = opened(client).await;
    let first = load(&pki).serial.clone();

    let broken = |key: &str| format!("Secret wharf-system/wharf-tls: data[{key:?}]");
    cluster.merge(&named(HOME, OWN), &json!({"data": {"tls.key": ByteString(b"garbage".to_vec())}})).await;
    let problem = told(&mut watched.problem, &broken("tls.key")).await;
    assert!(problem.contains("stays in force") && !problem.contains("garbage"), "{problem}");
    cluster.delete(&named(HOME, OWN)).await;
    told(&mut watched.problem, "there is none").await;
    assert_eq!(watched.identity.borrow().serial, first);
    cluster.apply(&own(&pki)).await;
    watched.problem.wait_for(Option::is_none).await.unwrap();

    // Rights are taken away and given back, and the API server is started anew.
    cluster.allow(&account, &json!([])).await;
    cluster.expire_watches();
    told(&mut watched.problem, "forbidden").await;
    assert_eq!(watched.identity.borrow().serial, first);
    renew(&pki, "here");
    cluster.apply(&own(&pki)).await;
    cluster.allow(&account, &rules()).await;
    serial(&mut watched, &load(&pki).serial).await;
    watched.problem.wait_for(Option::is_none).await.unwrap();
}

// ---- the gateways'

/// What an agent does for its gateways.
struct Keeping {
    identity: watch::Sender<Arc<Identity>>,
    leading: watch::Sender<bool>,
    problems: mpsc::Receiver<Change>,
    tasks: JoinSet<()>,
}

fn keeping(client: Client, pki: &Pki) -> Keeping {
    let (identity, follow) = watch::channel(load(pki));
    let (leading, lead) = watch::channel(true);
    let (tell, problems) = mpsc::channel(16);
    let targets = [GATEWAYS, GATEWAYS].map(|n| NamedKey { namespace: n.into(), name: CREDENTIAL.into() });
    let mut tasks = JoinSet::new();
    tasks.spawn(credential::keep_credentials(client, targets, follow, lead, tell));
    Keeping { identity, leading, problems, tasks }
}

impl Keeping {
    async fn problem(&mut self) -> Option<String> {
        match tokio::time::timeout(wait::PATIENCE, self.problems.recv()).await.expect("a word").unwrap() {
            Change::Problem { place, message, .. } => Some(format!("{place}: {message}")),
            Change::Solved { place } => {
                assert_eq!(place, "Secret istio-system/wharf-identity");
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn current(cluster: &Cluster) -> Option<Value> {
    cluster.get(&named(GATEWAYS, CREDENTIAL)).await
}

/// Waits until the gateways have this identity, as it should be.
async fn in_step(cluster: &Cluster, identity: &Identity) -> Value {
    let expected = wharf::identity::certificates_pem(&identity.chain);
    let secret = wait::until("the certificate", || async {
        current(cluster).await.filter(|secret| text(secret, "tls.crt") == expected)
    })
    .await;
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(text(&secret, "tls.key"), wharf::identity::key_pem(&identity.key));
    assert_eq!(text(&secret, "ca.crt"), wharf::identity::certificates_pem(&identity.roots));
    let labels = json!({"app.kubernetes.io/managed-by": "wharf", "app.kubernetes.io/name": "wharf"});
    assert_eq!(secret["metadata"]["labels"], labels);
    secret
}

#[tokio::test]
async fn gateways_get_the_certificate_and_each_renewal_with_no_other_rights() {
    let cluster = Cluster::new().await;
    let (_, client) = with_account(&cluster).await;
    cluster.make_namespace(GATEWAYS).await;
    let pki = Pki::new();
    let before = cluster.audit().len(); // the API server has served other tests
    let keeping = keeping(client.clone(), &pki);
    in_step(&cluster, &load(&pki)).await;
    renew(&pki, "here");
    drop(keeping.identity.send_replace(load(&pki)));
    let secret = in_step(&cluster, &load(&pki)).await;

    // At rest, and by another process that begins, nothing is written.
    let _another = self::keeping(client, &pki);
    let same = || async { current(&cluster).await.as_ref() == Some(&secret) };
    wait::stays("the Secret", Duration::from_secs(2), same).await;

    let asked: Vec<_> = cluster.audit().into_iter().skip(before).collect();
    let verbs: BTreeSet<_> = asked.iter().map(|event| event["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, BTreeSet::from(["list", "watch", "patch"]));
    let codes: BTreeSet<_> = asked.iter().map(|event| event["responseStatus"]["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, BTreeSet::from([200, 201]));
}

#[tokio::test]
async fn an_edit_and_a_deletion_are_repaired() {
    let cluster = Cluster::new().await;
    let (_, client) = with_account(&cluster).await;
    cluster.make_namespace(GATEWAYS).await;
    let pki = Pki::new();
    let keeping = keeping(client, &pki);
    let identity = load(&pki);
    in_step(&cluster, &identity).await;
    cluster.merge(&named(GATEWAYS, CREDENTIAL), &json!({"data": {"tls.crt": ByteString(b"x".to_vec())}})).await;
    in_step(&cluster, &identity).await;
    let before = current(&cluster).await.unwrap()["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "secret", "-n", GATEWAYS, CREDENTIAL]).ok();
    let after = in_step(&cluster, &identity).await;
    assert_ne!(after["metadata"]["uid"], before);
    // A revocation list of the agent's reaches them, and goes again.
    pki.run(&["revoke"]);
    drop(keeping.identity.send_replace(load(&pki)));
    let list = fs::read_to_string(pki.path().join("ca.crl")).unwrap();
    let has = |list: String| {
        let cluster = &cluster;
        async move { current(cluster).await.filter(|secret| text(secret, "ca.crl") == list) }
    };
    wait::until("the list", || has(list.clone())).await;
    fs::remove_file(pki.path().join("ca.crl")).unwrap();
    drop(keeping.identity.send_replace(load(&pki)));
    wait::until("no list", || has(String::new())).await;
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_never_touched_and_told() {
    let cluster = Cluster::new().await;
    let (_, client) = with_account(&cluster).await;
    cluster.make_namespace(GATEWAYS).await;
    let pki = Pki::new();
    let mut theirs = secret(GATEWAYS, CREDENTIAL, &[("tls.crt", b"c".to_vec()), ("tls.key", b"k".to_vec())]);
    // With our label, as a copy has it.
    theirs["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "wharf"});
    let theirs = cluster.apply(&theirs).await;
    let mut keeping = keeping(client, &pki);
    let problem = keeping.problem().await.unwrap();
    for part in [
        "Secret istio-system/wharf-identity: it is not Wharf's",
        "kubectl --namespace istio-system delete",
        "credential",
    ] {
        assert!(problem.contains(part), "{part}: {problem}");
    }
    renew(&pki, "here");
    drop(keeping.identity.send_replace(load(&pki)));
    assert!(keeping.problem().await.unwrap().contains(&load(&pki).serial));
    assert_eq!(current(&cluster).await, Some(theirs));

    // Kept in step by whom it belongs to, it is no problem; gone, Wharf's takes its place.
    let IdentityFiles { certificate, key, root, .. } = files(&pki, "here");
    let [certificate, key, root] = [certificate, key, root].map(|file| fs::read(file).unwrap());
    let data = [("tls.crt", certificate), ("tls.key", key), ("ca.crt", root)];
    cluster.apply(&secret(GATEWAYS, CREDENTIAL, &data)).await;
    assert_eq!(keeping.problem().await, None);
    cluster.kubectl(&["delete", "secret", "-n", GATEWAYS, CREDENTIAL]).ok();
    in_step(&cluster, &load(&pki)).await;
}

#[tokio::test]
async fn a_namespace_and_a_right_that_come_later_are_waited_for() {
    let cluster = Cluster::new().await;
    let (account, client) = with_account(&cluster).await;
    let pki = Pki::new();
    let mut keeping = keeping(client, &pki);
    let problem = keeping.problem().await.unwrap();
    assert!(problem.contains("there is no namespace istio-system yet"), "{problem}");
    cluster.make_namespace(GATEWAYS).await;
    in_step(&cluster, &load(&pki)).await;
    assert_eq!(keeping.problem().await, None);

    let mut less = rules();
    less[1]["verbs"] = json!(["list", "watch"]);
    cluster.allow(&account, &less).await;
    // It is not gone at once.
    let refused = async {
        loop {
            renew(&pki, "here");
            drop(keeping.identity.send_replace(load(&pki)));
            if let Ok(told) = tokio::time::timeout(Duration::from_millis(500), keeping.problems.recv()).await {
                break told.unwrap();
            }
        }
    };
    match tokio::time::timeout(wait::PATIENCE, refused).await.expect("a refusal") {
        Change::Problem { message, .. } => assert!(message.contains("cannot patch resource \"secrets\""), "{message}"),
        other => panic!("{other:?}"),
    }
    cluster.allow(&account, &rules()).await;
    in_step(&cluster, &load(&pki)).await;
    assert_eq!(keeping.problem().await, None);
}

#[tokio::test]
async fn only_the_replica_that_leads_writes() {
    let cluster = Cluster::new().await;
    let (_, client) = with_account(&cluster).await;
    cluster.make_namespace(GATEWAYS).await;
    let pki = Pki::new();
    let keeping = keeping(client, &pki);
    in_step(&cluster, &load(&pki)).await;
    keeping.leading.send_replace(false);
    cluster.delete(&named(GATEWAYS, CREDENTIAL)).await;
    wait::stays("nothing", Duration::from_secs(1), || async { current(&cluster).await.is_none() }).await;
    keeping.leading.send_replace(true);
    in_step(&cluster, &load(&pki)).await;
    assert!(!keeping.tasks.is_empty());
}

// ---- agents

#[tokio::test]
async fn a_renewed_secret_needs_no_restart_anywhere_and_ends_no_stream() {
    let [here, there] = Cluster::several().await;
    let pki = Pki::new();
    here.make_namespace(HOME).await;
    there.make_namespace(HOME).await;
    here.make_namespace(GATEWAYS).await;
    there.make_namespace(GATEWAYS).await;
    let mut donor = Agent::new(&here, &pki, "here", "wharf-0").with_identity("{secret: wharf-tls}");
    let mut acceptor = Agent::new(&there, &pki, "there", "wharf-0");
    donor.configure("", &[acceptor.as_consumer()]);
    acceptor.configure("", &[donor.as_donor()]);

    donor.start();
    let not_ready =
        || async { donor.http("/readyz").filter(|(code, why)| *code == 503 && why.contains("there is none")) };
    wait::until("not ready, and why", not_ready).await;
    assert_eq!(donor.http("/healthz").unwrap().0, 200);
    here.apply(&own(&pki)).await;
    donor.ready().await;
    in_step(&here, &load(&pki)).await;
    acceptor.started().await;
    let peering = |acceptor: &Agent| Some(acceptor.status()?.peers.first()?.status.clone());
    let connected = |acceptor: &Agent| {
        let status = peering(acceptor)?;
        let condition = status.conditions.iter().find(|c| c.type_ == "Connected")?.clone();
        (serde_json::to_value(condition.status).ok()? == "True").then_some((status, condition.last_transition_time))
    };
    let (before, since) = wait::until("a stream", || async { connected(&acceptor) }).await;

    for suffix in ["crt", "key"] {
        fs::remove_file(pki.path().join(format!("here.{suffix}"))).unwrap();
    }
    pki.run(&["issue", "here", "--dns", "localhost", "--ttl", "30d"]);
    here.apply(&own(&pki)).await;
    in_step(&here, &load(&pki)).await;
    let expires = wharf::identity::format_moment(load(&pki).not_after);
    wait::until("the agent has it", || async { (donor.status()?.certificate_expires == expires).then_some(()) }).await;
    let (after, still) = connected(&acceptor).expect("a stream");
    assert_eq!((after.certificate_expires, still), (before.certificate_expires, since), "it is the same stream");

    acceptor.stop();
    acceptor.started().await;
    wait::until("the next stream shows the new one", || async {
        (connected(&acceptor)?.0.certificate_expires.as_deref() == Some(expires.as_str())).then_some(())
    })
    .await;
}
