//! Opens the agent's identity, from files or a Secret, and names the Secrets of the gateways' credential.

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::AgentError;
use super::admin::EngineQuery;
use crate::config::{Config, IdentityConfig};
use crate::identity::{self, IdentityWatch};
use crate::model::{ClusterName, Style};
use crate::store::NamedKey;
use crate::store::kube::secret;

/// Opens the identity in files, which must be valid, and follows it until `stop`.
///
/// An identity in a Secret may arrive later than the agent: this waits for it, and `problem` says meanwhile what is
/// missing. None if the agent is stopped before.
pub async fn open_identity(
    config: IdentityConfig,
    cluster: &ClusterName,
    own: Option<(Client, &str)>,
    problem: watch::Sender<Option<String>>,
    stop: CancellationToken,
) -> Result<Option<IdentityWatch>, AgentError> {
    match (config, own) {
        (IdentityConfig::Files(files), _) => Ok(Some(identity::watch_files(files, stop)?)),
        (IdentityConfig::Secret(name), Some((client, namespace))) => {
            let key = NamedKey { namespace: namespace.to_owned(), name: name.to_string() };
            Ok(follow_secret(client, key, cluster.clone(), problem, stop).await)
        }
        (IdentityConfig::Secret(name), None) => Err(AgentError::SecretNeedsKube(name)),
    }
}

async fn follow_secret(
    client: Client,
    key: NamedKey,
    cluster: ClusterName,
    problem: watch::Sender<Option<String>>,
    stop: CancellationToken,
) -> Option<IdentityWatch> {
    let (deliver, mut bundles) = watch::channel(secret::unknown_delivery(&key));
    let delivering = tokio::spawn(secret::deliver_bundles(client, key, cluster, deliver)); // ends when nobody listens any more
    tokio::select! {
        () = stop.cancelled() => return None,
        _ = bundles.changed() => {} // now it is known whether there is an identity
    }
    let watched = identity::watch_bundles(bundles, problem, stop).await?;
    Some(watched.along_with(delivering))
}

/// Answers queries in the engine's place while there is no identity: the agent is alive, and not ready. Never returns.
pub async fn answer_meanwhile(queries: &mut mpsc::Receiver<EngineQuery>, problem: &watch::Receiver<Option<String>>) {
    while let Some(query) = queries.recv().await {
        match query {
            EngineQuery::Ready(answer) => {
                let why = problem.borrow().clone().unwrap_or_else(|| "the identity is not known yet".into());
                let _ = answer.send(Err(format!("identity: {why}"))); // the caller may have gone
            }
            EngineQuery::Metrics(answer) => drop(answer.send("# EOF\n".into())),
            EngineQuery::Status(..) => {} // there is no status yet; the caller gets the answer that the agent is busy
        }
    }
    std::future::pending().await
}

/// Returns the Secrets that get the gateways' certificate. In the style without an egress gateway there is only one.
pub fn credential_secrets(config: &Config) -> impl Iterator<Item = NamedKey> {
    let egress = (config.style == Style::EgressIngress).then_some(&config.egress);
    let name = config.credential.to_string();
    let gateways = std::iter::once(&config.ingress).chain(egress);
    gateways.map(move |gateway| NamedKey { namespace: gateway.namespace.to_string(), name: name.clone() })
}
