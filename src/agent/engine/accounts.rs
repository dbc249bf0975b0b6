//! Handles answers about the gateways' service accounts.

use super::Engine;
use crate::agent::accounts::{AccountAnswer, AccountAnswers, build_account_doubt};
use crate::agent::istiod::metrics_text::GatewayRole;
use crate::model::GatewayDoubt;
use crate::store::Store;

impl<S: Store> Engine<S> {
    /// Takes in whether the gateways' accounts may read the Secret. A gateway keeps the certificate that it has, so nothing
    /// is withdrawn.
    pub(super) fn handle_accounts(&mut self, answers: &AccountAnswers) {
        for (role, answer) in answers {
            let doubt = match answer {
                AccountAnswer::Denied(accounts) => {
                    build_account_doubt(*role, self.gateway_of(*role), accounts, self.facts.credential.as_str())
                }
                AccountAnswer::Readable | AccountAnswer::NoAccount | AccountAnswer::Unknown(_) => None,
            };
            self.doubt_credential(*role, doubt);
        }
    }

    fn doubt_credential(&mut self, role: GatewayRole, doubt: Option<GatewayDoubt>) {
        let doubts = &mut self.facts.doubts;
        let known = match role {
            GatewayRole::Ingress => &mut doubts.ingress_credential,
            GatewayRole::Egress => &mut doubts.egress_credential,
        };
        if *known == doubt {
            return;
        }
        match &doubt {
            Some(doubt) => {
                tracing::warn!(reason = doubt.kind.reason(), "a gateway does not get the certificate: {doubt}")
            }
            None => tracing::info!(gateway = role.as_str(), "the gateway's account may read the Secret that it shows"),
        }
        *known = doubt;
        self.mark_gateway_users(role);
    }
}
