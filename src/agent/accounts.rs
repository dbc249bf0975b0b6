//! Watches whether the gateways get the certificate that they are to show in the mode `Cluster`: istiod hands a Secret to
//! a gateway only if the gateway's service account may list Secrets there, and keeps it from others without a word.
//!
//! The API server can be asked about an account, and its answer cannot be watched; a watch on roles would take a right to
//! all of them. So the question is asked at the start, and again after a while: soon while a gateway is refused or nothing
//! is known, and less often while all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::istiod::metrics_text::GatewayRole;
use crate::config::Config;
use crate::model::{DoubtKind, GatewayDoubt, OwnGateway, Style};
use crate::store::kube::review::{ReviewError, has_account, may_list_secrets};

/// Pause while a gateway is refused, or nothing is known. Istiod itself keeps a refusal for a minute.
const ASK_AGAIN_SOON: Duration = Duration::from_secs(15);
/// Pause while all is well. Istiod itself keeps a permission for five minutes.
const ASK_AGAIN_LATER: Duration = Duration::from_secs(30);
/// Time that the first question may take before the agent starts without its answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Answer about the service account of one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountAnswer {
    /// Istiod hands the Secret to it.
    Readable,
    /// Istiod keeps the Secret from these accounts. The gateway has one of them.
    Denied(Vec<String>),
    /// The configuration names no account, and there is none of the names that Istio's installations give.
    NoAccount,
    /// The API server does not say, for this reason.
    Unknown(String),
}

/// Answers about the gateways in use.
pub type AccountAnswers = BTreeMap<GatewayRole, AccountAnswer>;

/// Returns the gateways in use.
pub fn gateways_in_use(config: &Config) -> Vec<(GatewayRole, OwnGateway)> {
    let egress = (config.style == Style::EgressIngress).then(|| (GatewayRole::Egress, config.egress.clone()));
    std::iter::once((GatewayRole::Ingress, config.ingress.clone())).chain(egress).collect()
}

/// Returns the accounts that a gateway's pods may have: the configured one, or those that Istio's Helm chart and istioctl
/// make (istio, manifests/charts/gateway and manifests/charts/gateways).
pub fn possible_accounts(gateway: &OwnGateway) -> Vec<String> {
    if gateway.account_configured {
        return vec![gateway.service_account.clone()];
    }
    vec![gateway.service.to_string(), format!("{}-service-account", gateway.service)]
}

/// Judges a gateway by the accounts that it may have, each with whether it may list Secrets.
pub fn judge_accounts(accounts: Vec<(String, bool)>) -> AccountAnswer {
    if accounts.is_empty() {
        AccountAnswer::NoAccount
    } else if accounts.iter().any(|(_, may_list)| *may_list) {
        AccountAnswer::Readable
    } else {
        AccountAnswer::Denied(accounts.into_iter().map(|(account, _)| account).collect())
    }
}

/// Describes an account that may not have the Secret, in a sentence that follows its name, and the cure.
pub fn describe_denial(namespace: &str, account: &str, credential: &str) -> (String, String) {
    let message = format!(
        "it may not list Secrets in {namespace}, so istiod keeps the Secret {credential} from the gateway: no TLS handshake succeeds"
    );
    let cure = format!(
        "give it the right: kubectl -n {namespace} create role {account}-sds --verb=get,watch,list --resource=secrets; \
         kubectl -n {namespace} create rolebinding {account}-sds --role={account}-sds --serviceaccount={namespace}:{account}"
    );
    (message, cure)
}

/// Builds the doubt about a gateway that may not have the Secret. It is not certain if the account is only assumed.
pub fn build_account_doubt(
    role: GatewayRole,
    gateway: &OwnGateway,
    accounts: &[String],
    credential: &str,
) -> Option<GatewayDoubt> {
    let namespace = gateway.namespace.as_str();
    let first = accounts.first()?;
    let (denial, cure) = describe_denial(namespace, first, credential);
    if gateway.account_configured {
        let message = format!("ServiceAccount {namespace}/{first}: {denial}");
        return Some(GatewayDoubt { kind: DoubtKind::CredentialDenied, message, cure });
    }
    let key = role.as_str();
    let message = format!(
        "ServiceAccount {namespace}/{}, which the {key} gateway is taken to have: {denial}",
        accounts.join(" or ")
    );
    let cure = format!("{cure}; if the gateway's pods have another account, set {key}.serviceAccount");
    Some(GatewayDoubt { kind: DoubtKind::CredentialDoubtful, message, cure })
}

/// Asks about the accounts that a gateway may have. An account that is only assumed counts if it is there.
pub async fn ask_gateway(client: &Client, gateway: &OwnGateway) -> Result<AccountAnswer, ReviewError> {
    let namespace = gateway.namespace.as_str();
    let mut accounts = Vec::new();
    for account in possible_accounts(gateway) {
        if gateway.account_configured || has_account(client, namespace, &account).await? {
            let may_list = may_list_secrets(client, namespace, &account).await?;
            accounts.push((account, may_list));
        }
    }
    Ok(judge_accounts(accounts))
}

/// Asks about each gateway once. `before` counts where the API server is away.
async fn ask_all(client: &Client, gateways: &[(GatewayRole, OwnGateway)], before: &AccountAnswers) -> AccountAnswers {
    let asked = gateways.iter().map(|(role, gateway)| async {
        let answer = match ask_gateway(client, gateway).await {
            Ok(answer) => answer,
            Err(ReviewError::Refused(why)) => AccountAnswer::Unknown(why),
            Err(ReviewError::Away(why)) => before.get(role).cloned().unwrap_or(AccountAnswer::Unknown(why)),
        };
        (*role, answer)
    });
    let answers: AccountAnswers = join_all(asked).await.into_iter().collect();
    for (role, answer) in &answers {
        if let AccountAnswer::Unknown(why) = answer
            && before.get(role) != Some(answer)
        {
            let gateway = role.as_str();
            tracing::warn!(gateway, %why, "it is not known whether the gateway's account may read the Secret that it shows");
        }
    }
    answers
}

/// Asks for the first time. Returns nothing if the API server takes too long.
pub async fn ask_first(client: &Client, gateways: &[(GatewayRole, OwnGateway)]) -> AccountAnswers {
    timeout(FIRST_ANSWER, ask_all(client, gateways, &AccountAnswers::new())).await.unwrap_or_default()
}

/// Asks again and again until `stop`.
pub async fn keep_asking(
    client: Client,
    gateways: Vec<(GatewayRole, OwnGateway)>,
    news: watch::Sender<AccountAnswers>,
    stop: CancellationToken,
) {
    let mut answers = news.borrow().clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause_after(&answers)) => {}
        }
        answers = tokio::select! {
            () = stop.cancelled() => return,
            answers = ask_all(&client, &gateways, &answers) => answers,
        };
        news.send_if_modified(|told| {
            let changed = *told != answers;
            told.clone_from(&answers);
            changed
        });
    }
}

fn pause_after(answers: &AccountAnswers) -> Duration {
    if answers.is_empty() {
        return Duration::ZERO;
    }
    let is_well = answers.values().all(|answer| *answer == AccountAnswer::Readable);
    if is_well { ASK_AGAIN_LATER } else { ASK_AGAIN_SOON }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn gateway(more: &str) -> OwnGateway {
        let config = Config::parse(&format!("cluster: harbor\ningress: {{{more}}}\n"), "test", Path::new(".")).unwrap();
        config.ingress
    }

    fn doubt(more: &str) -> GatewayDoubt {
        let gateway = gateway(more);
        build_account_doubt(GatewayRole::Ingress, &gateway, &possible_accounts(&gateway), "wharf-identity").unwrap()
    }

    #[test]
    fn an_account_that_is_configured_is_certain_and_one_that_is_assumed_is_not() {
        let configured = doubt("serviceAccount: door, namespace: edge");
        assert_eq!(configured.kind, DoubtKind::CredentialDenied);
        let line = configured.to_string();
        for part in [
            "ServiceAccount edge/door: it may not list Secrets in edge, so istiod keeps the Secret wharf-identity",
            "kubectl -n edge create role door-sds --verb=get,watch,list --resource=secrets",
            "kubectl -n edge create rolebinding door-sds --role=door-sds --serviceaccount=edge:door",
        ] {
            assert!(line.contains(part), "{line}");
        }
        let same = doubt("serviceAccount: istio-ingressgateway");
        assert_eq!(same.kind, DoubtKind::CredentialDenied, "also if the configuration says what is assumed");
        let assumed = doubt("");
        assert_eq!(assumed.kind, DoubtKind::CredentialDoubtful);
        let line = assumed.to_string();
        assert!(line.contains("istio-ingressgateway or istio-ingressgateway-service-account"), "{line}");
        assert!(line.contains("set ingress.serviceAccount"), "{line}");
    }

    #[test]
    fn a_gateway_reads_the_secret_if_one_of_its_possible_accounts_may_and_nothing_is_claimed_without_an_account() {
        let judge = |accounts: &[(&str, bool)]| {
            judge_accounts(accounts.iter().map(|(name, may)| ((*name).to_owned(), *may)).collect())
        };
        assert_eq!(judge(&[]), AccountAnswer::NoAccount);
        assert_eq!(judge(&[("door", true)]), AccountAnswer::Readable);
        assert_eq!(judge(&[("door", false), ("door-service-account", true)]), AccountAnswer::Readable);
        assert_eq!(judge(&[("door", false)]), AccountAnswer::Denied(vec!["door".to_owned()]));
    }

    #[test]
    fn a_gateway_that_is_refused_or_not_known_is_asked_about_soon() {
        let answers = |answer: AccountAnswer| {
            AccountAnswers::from([(GatewayRole::Ingress, AccountAnswer::Readable), (GatewayRole::Egress, answer)])
        };
        assert_eq!(pause_after(&answers(AccountAnswer::Readable)), ASK_AGAIN_LATER);
        for answer in [
            AccountAnswer::Denied(vec!["door".into()]),
            AccountAnswer::NoAccount,
            AccountAnswer::Unknown("no right".into()),
        ] {
            assert_eq!(pause_after(&answers(answer)), ASK_AGAIN_SOON);
        }
        assert_eq!(pause_after(&AccountAnswers::new()), Duration::ZERO, "nothing was answered yet");
    }
}
