//! The gateways' credential: the agent's certificate in a Secret of each namespace that has a gateway, kept in step
//! with the identity in force. A Secret of the same name that is somebody else's is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::PatchParams;
use tokio::sync::{mpsc, watch};

use super::content::MANAGER;
use super::secret::secret_place;
use super::single::{ObservedSecret, RequestFailure, SecretState, apply_secret, follow_secret, retry_pause};
use crate::api::MANAGED_BY;
use crate::identity::{Identity, certificates_pem, key_pem, lists_pem};
use crate::store::{Change, NamedKey};

const TYPE: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOT: &str = "ca.crt";
/// The key at which istiod looks for revocation lists (`TLSSecretCrl` in its pilot/pkg/credentials/kube).
const LISTS: &str = "ca.crl";
const NAME: &str = "app.kubernetes.io/name";

/// Time between two writes of one Secret: another writer of it, again and again, is not answered in a loop.
const CALM: Duration = Duration::from_secs(1);

/// Keeps these Secrets, while this process leads, until `identity` or `leading` ends. Obstacles are reported to
/// `problems`, and their end too. Needs the rights to list, watch, create and patch Secrets of these names.
pub async fn keep_credentials(
    client: Client,
    targets: impl IntoIterator<Item = NamedKey>,
    identity: watch::Receiver<Arc<Identity>>,
    leading: watch::Receiver<bool>,
    problems: mpsc::Sender<Change>,
) {
    let targets: BTreeSet<NamedKey> = targets.into_iter().collect(); // several gateways in one namespace share one
    join_all(targets.into_iter().map(|key| {
        let (publish, sights) = watch::channel(SecretState::default());
        let keeper = SecretKeeper {
            client: client.clone(),
            key: key.clone(),
            problems: problems.clone(),
            told: None,
            answered: None,
            failures: 0,
            calm_from: None,
        };
        let (client, identity, leading) = (client.clone(), identity.clone(), leading.clone());
        async move {
            tokio::select! {
                () = follow_secret(client, key, publish) => {}
                () = keeper.run(sights, identity, leading) => {}
            }
        }
    }))
    .await;
}

struct SecretKeeper {
    client: Client,
    key: NamedKey,
    problems: mpsc::Sender<Change>,
    told: Option<String>,
    /// The result of the last write: the watch reports it later.
    answered: Option<ObservedSecret>,
    failures: u32,
    calm_from: Option<Instant>,
}

/// The decision about a Secret.
#[derive(Debug, PartialEq, Eq)]
enum SecretVerdict {
    InStep,
    /// It has to be written over the version of that number. None: there is no such Secret.
    Write(Option<String>),
    /// It is not Wharf's, and another keeps it: in step with the identity, or not.
    Theirs {
        in_step: bool,
    },
}

impl SecretKeeper {
    async fn run(
        mut self,
        mut sights: watch::Receiver<SecretState>,
        mut identity: watch::Receiver<Arc<Identity>>,
        mut leading: watch::Receiver<bool>,
    ) {
        loop {
            let (sight, now) = (sights.borrow_and_update().clone(), identity.borrow_and_update().clone());
            let again = if *leading.borrow_and_update() {
                self.reconcile(sight, &now).await
            } else {
                self.report_problem(None).await; // the leader tells what there is to tell
                None
            };
            let again = async {
                match again {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                changed = sights.changed() => changed.is_ok(),
                changed = identity.changed() => changed.is_ok(),
                changed = leading.changed() => changed.is_ok(),
                () = again => true,
            };
            if !alive {
                return;
            }
        }
    }

    /// Reconciles the Secret. Returns when to look again although nothing changed.
    async fn reconcile(&mut self, sight: SecretState, identity: &Identity) -> Option<Duration> {
        let trouble = sight.trouble.map(|why| format!("it cannot be looked at: {why}"));
        let Some(seen) = newest_secret(sight.seen, self.answered.take()) else {
            self.report_problem(trouble).await;
            return None;
        };
        self.answered = Some(seen.clone());
        let over = match judge_secret(seen.secret.as_deref(), identity) {
            SecretVerdict::InStep | SecretVerdict::Theirs { in_step: true } => {
                self.failures = 0;
                self.report_problem(trouble).await;
                return None;
            }
            SecretVerdict::Theirs { in_step: false } => {
                self.report_problem(Some(foreign_secret_message(&self.key, identity))).await;
                return None;
            }
            SecretVerdict::Write(over) => over,
        };
        if let Some(left) = self.calm_from.and_then(|from| CALM.checked_sub(from.elapsed())) {
            return Some(left);
        }
        self.calm_from = Some(Instant::now());
        self.write_secret(over, identity).await
    }

    async fn write_secret(&mut self, over: Option<String>, identity: &Identity) -> Option<Duration> {
        // The write is over a version, so that concurrent changes are looked at first. Where there is none, nothing is
        // taken from another manager: the Secret would have been made meanwhile.
        let params = PatchParams { force: over.is_some(), ..PatchParams::apply(MANAGER) };
        let secret = wanted_secret(&self.key, over, identity);
        match apply_secret(&self.client, &self.key, &params, &secret).await {
            Ok(seen) => {
                let in_step = judge_secret(seen.secret.as_deref(), identity) == SecretVerdict::InStep;
                self.answered = Some(seen);
                tracing::info!(secret = %self.key, serial = %identity.serial, "the gateways' certificate was written");
                self.failures = 0;
                let why = "it was written, and is still not as it was written: something in the cluster changes it";
                self.report_problem((!in_step).then(|| why.to_owned())).await;
                None
            }
            Err(failure) => {
                self.failures += 1;
                if let Some(why) = write_failure_message(&self.key, &failure) {
                    self.report_problem(Some(why)).await;
                }
                Some(retry_pause(self.failures))
            }
        }
    }

    async fn report_problem(&mut self, problem: Option<String>) {
        if self.told == problem {
            return;
        }
        let place = secret_place(&self.key);
        let change = match &problem {
            Some(message) => Change::problem(place, message.clone()),
            None => Change::Solved { place },
        };
        self.told = problem;
        let _ = self.problems.send(change).await; // nobody listens any more: the agent stops
    }
}

fn newest_secret(a: Option<ObservedSecret>, b: Option<ObservedSecret>) -> Option<ObservedSecret> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.version > a.version { b } else { a }),
        (a, b) => a.or(b),
    }
}

fn secret_data(identity: &Identity) -> BTreeMap<String, ByteString> {
    let bytes = |text: String| ByteString(text.into_bytes());
    let mut data = BTreeMap::from([
        (CERTIFICATE.to_owned(), bytes(certificates_pem(&identity.chain))),
        (KEY.to_owned(), bytes(key_pem(&identity.key))),
        (ROOT.to_owned(), bytes(certificates_pem(&identity.roots))),
    ]);
    if !identity.crls.is_empty() {
        data.insert(LISTS.to_owned(), bytes(lists_pem(&identity.crls)));
    }
    data
}

fn secret_labels() -> BTreeMap<String, String> {
    [MANAGED_BY, NAME].into_iter().map(|label| (label.to_owned(), MANAGER.to_owned())).collect()
}

fn wanted_secret(key: &NamedKey, over: Option<String>, identity: &Identity) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some(secret_labels()),
            resource_version: over,
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(secret_data(identity)),
        ..Secret::default()
    }
}

fn judge_secret(secret: Option<&Secret>, identity: &Identity) -> SecretVerdict {
    let Some(secret) = secret else { return SecretVerdict::Write(None) };
    let m = &secret.metadata;
    let none = BTreeMap::new();
    let has = secret.data.as_ref().unwrap_or(&none);
    let should = secret_data(identity);
    let same = [CERTIFICATE, KEY, ROOT, LISTS].iter().all(|key| has.get(*key) == should.get(*key));
    let has_label = |(key, value): (&String, &String)| m.labels.as_ref().and_then(|l| l.get(key)) == Some(value);
    let applied = m.managed_fields.iter().flatten().any(|f| f.manager.as_deref() == Some(MANAGER));
    // A label alone is copied along with a Secret.
    let ours = applied && secret_labels().iter().any(|label| label.0 == MANAGED_BY && has_label(label));
    match (ours, same && secret_labels().iter().all(has_label) && secret.type_.as_deref() == Some(TYPE)) {
        (false, _) => SecretVerdict::Theirs { in_step: same },
        (true, true) => SecretVerdict::InStep,
        (true, false) => SecretVerdict::Write(Some(m.resource_version.clone().unwrap_or_default())),
    }
}

fn foreign_secret_message(key: &NamedKey, identity: &Identity) -> String {
    let NamedKey { namespace, name } = key;
    format!(
        "it is not Wharf's, so it is left as it is, and its certificate, key or roots are not the agent's ({}, serial \
         {}): delete it (`kubectl --namespace {namespace} delete secret {name}`) and Wharf makes it, keep it in step \
         yourself, or name another as `credential`",
        identity.spiffe_id, identity.serial
    )
}

/// Returns the reason why it was not written, for people. None: it was changed or made meanwhile, and is looked at
/// again.
fn write_failure_message(key: &NamedKey, failure: &RequestFailure) -> Option<String> {
    let code = match failure {
        RequestFailure::Refused(kube::Error::Api(status)) => status.code,
        _ => 0,
    };
    match code {
        409 => None,
        404 => Some(format!(
            "it cannot be written: there is no namespace {} yet; it is made where `ingress.namespace` and \
             `egress.namespace` say that the gateways are",
            key.namespace
        )),
        422 => Some(format!("it cannot be written: {failure}; delete it, and Wharf makes it anew")),
        _ => Some(format!("it cannot be written: {failure}")),
    }
}
