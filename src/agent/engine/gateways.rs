//! Handles reports of gateways that refuse what istiod sends them.

use std::collections::BTreeMap;

use super::Engine;
use crate::agent::istiod::GatewayWatch;
use crate::agent::istiod::metrics_text::GatewayRole;
use crate::agent::istiod::refusals::ConfigRefusal;
use crate::agent::istiod::tell::{describe_refusal, gateway_place, set_gateway_condition};
use crate::agent::metrics::GatewayLabel;
use crate::api::Condition;
use crate::model::{OwnGateway, Style};
use crate::store::{InputKey, Store, current_timestamp};

/// The last reported refusals.
#[derive(Debug, Default)]
pub struct ReportedRefusals {
    pub watch: GatewayWatch,
    /// The refusals with their descriptions, and the times of their last change.
    by_role: BTreeMap<GatewayRole, ((ConfigRefusal, String), String)>,
}

impl ReportedRefusals {
    /// Adds or removes the conditions of a gateway. Until istiod answers, conditions of a former process stay.
    pub fn apply_condition(&self, role: GatewayRole, conditions: &mut Vec<Condition>, generation: Option<i64>) {
        if self.watch.refusals.is_none() {
            return;
        }
        let told = self.by_role.get(&role);
        let since = told.map_or("", |(_, since)| since.as_str());
        set_gateway_condition(conditions, told.map(|(refusal, _)| refusal), since, generation);
    }
}

impl<S: Store> Engine<S> {
    pub(super) fn gateway_of(&self, role: GatewayRole) -> &OwnGateway {
        match role {
            GatewayRole::Ingress => &self.facts.ingress,
            GatewayRole::Egress => &self.facts.egress,
        }
    }

    /// Takes in istiod's report on the gateways. A change concerns every policy or every binding.
    pub(super) fn handle_gateways(&mut self, watch: GatewayWatch) {
        let first = self.gateways.watch.refusals.is_none() && watch.refusals.is_some();
        for role in GatewayRole::ALL {
            let refusal = watch.refusals.as_ref().and_then(|r| r.of_gateway(role)).cloned();
            let before = self.gateways.by_role.get(&role).map(|((refusal, _), _)| refusal);
            if before != refusal.as_ref() {
                self.report_refusal(role, refusal);
                self.mark_gateway_users(role);
            } else if first {
                self.mark_gateway_users(role); // the report of a former process may be outdated
            }
        }
        self.metrics.istiod_answers.set((watch.asked && watch.unanswered.is_none()).into());
        self.gateways.watch = watch;
    }

    fn report_refusal(&mut self, role: GatewayRole, refusal: Option<ConfigRefusal>) {
        let gateway = self.gateway_of(role);
        let at = gateway_place(role, gateway);
        let label = GatewayLabel { gateway: role.as_str().to_owned() };
        self.metrics.gateway_rejects.get_or_create(&label).set(refusal.is_some().into());
        match refusal {
            None => {
                tracing::info!(gateway = %at, "the gateway accepts its configuration again");
                self.gateways.by_role.remove(&role);
                self.note_problem(&at, None);
            }
            Some(refusal) => {
                let message = describe_refusal(role, gateway, &refusal);
                tracing::warn!(gateway = %at, %message, "a gateway refuses its configuration");
                self.note_problem(&at, Some(message.clone()));
                self.gateways.by_role.insert(role, ((refusal, message), current_timestamp()));
            }
        }
    }

    pub(super) fn mark_gateway_users(&mut self, role: GatewayRole) {
        let keys: Vec<_> = match role {
            GatewayRole::Ingress => self.donor.policy_keys().cloned().map(InputKey::Policy).collect(),
            GatewayRole::Egress => self.acceptor.binding_keys().cloned().map(InputKey::Binding).collect(),
        };
        keys.into_iter().for_each(|key| self.mark_status(key));
    }

    /// Returns whether this cluster's calls go through its egress gateway.
    pub(in crate::agent) fn calls_by_egress(&self) -> bool {
        self.facts.style == Style::EgressIngress
    }
}
