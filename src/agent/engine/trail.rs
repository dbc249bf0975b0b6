//! Writes the engine's part of the audit trail. Only the leading replica does.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::Engine;
use crate::agent::acceptor::OfferVerdict;
use crate::agent::audit::{AuditEvent, AuditLine, AuditSide, event_of_outcome, event_of_verdict};
use crate::api::changed_by;
use crate::model::{ClusterName, ExpositionKey};
use crate::store::{NamedKey, Store};

/// The versions in which each cluster is offered an exposition.
pub type OfferedVersions = BTreeMap<ClusterName, Arc<str>>;

impl<S: Store> Engine<S> {
    /// Records changes of an offer: clusters that get it newly or in another version, and clusters that get it no
    /// longer.
    pub(super) fn audit_offers(
        &mut self,
        policy: &NamedKey,
        exposition: &ExpositionKey,
        before: &OfferedVersions,
        after: &OfferedVersions,
    ) {
        if !self.leading || before == after {
            return;
        }
        let object = format!("ServiceExpositionPolicy {policy}");
        let by = self.donor.get(policy).and_then(|p| changed_by(&p.metadata)).unwrap_or_default().to_owned();
        let now = Instant::now();
        let line = |event, peer, version| AuditLine {
            event,
            side: AuditSide::Donor,
            peer,
            exposition,
            version,
            object: &object,
            reason: "",
            by: &by,
        };
        if before.is_empty()
            && let Some(version) = after.values().next()
        {
            self.audit.write_line(line(AuditEvent::Exposed, None, version), now);
        }
        for (peer, version) in after.iter().filter(|(peer, version)| before.get(*peer) != Some(*version)) {
            self.audit.write_line(line(AuditEvent::Offered, Some(peer), version), now);
        }
        for (peer, version) in before.iter().filter(|(peer, _)| !after.contains_key(*peer)) {
            self.audit.write_line(line(AuditEvent::Withdrawn, Some(peer), version), now);
            self.audit.forget_exposition(AuditSide::Donor, peer, exposition);
        }
    }

    /// Records the entries of a policy whose names somebody else holds.
    pub(super) fn audit_policy_conflicts(&mut self, key: &NamedKey) {
        if !self.leading {
            return;
        }
        let object = format!("ServiceExpositionPolicy {key}");
        let by = self.donor.get(key).and_then(|p| changed_by(&p.metadata)).unwrap_or_default().to_owned();
        for (exposition, contested) in self.donor.contested_names(key) {
            let line = AuditLine {
                event: AuditEvent::Conflict,
                side: AuditSide::Donor,
                peer: None,
                exposition: &exposition,
                version: "",
                object: &object,
                reason: "",
                by: &by,
            };
            self.audit.write_conflict(line, contested, Instant::now());
        }
    }

    /// Records the bindings of an exposition whose local names somebody else holds, although another binding uses it.
    fn audit_binding_conflicts(&mut self, peer: &ClusterName, exposition: &ExpositionKey, version: &str) {
        for (key, contested) in self.acceptor.contested_bindings(peer, exposition) {
            let by = self.acceptor.get(&key).and_then(|b| changed_by(&b.metadata)).unwrap_or_default().to_owned();
            let line = AuditLine {
                event: AuditEvent::Conflict,
                side: AuditSide::Acceptor,
                peer: Some(peer),
                exposition,
                version,
                object: &format!("RemoteServiceBinding {key}"),
                reason: "",
                by: &by,
            };
            self.audit.write_conflict(line, contested, Instant::now());
        }
    }

    /// Records an acceptor's outcome of an exposition.
    pub(super) fn audit_outcome(&mut self, peer: &ClusterName, exposition: &ExpositionKey) {
        let Some(outcome) = self.subscribers.outcome_at(peer, exposition).filter(|_| self.leading) else { return };
        let Some(version) = self.board.offered_version(peer, exposition) else { return };
        let policy = self.donor.policy_of(exposition);
        let object = policy.map(|p| format!("ServiceExpositionPolicy {p}")).unwrap_or_default();
        let (event, reason) = event_of_outcome(&outcome);
        let peer = Some(peer);
        let line = AuditLine {
            event,
            side: AuditSide::Donor,
            peer,
            exposition,
            version: &version,
            object: &object,
            reason,
            by: "",
        };
        self.audit.write_use(line, Instant::now());
    }

    /// Records an exposition that a donor offers to this cluster, or does not offer any more.
    pub(super) fn audit_heard(
        &mut self,
        event: AuditEvent,
        peer: &ClusterName,
        exposition: &ExpositionKey,
        version: &str,
    ) {
        if event == AuditEvent::Withdrawn {
            self.audit.forget_exposition(AuditSide::Acceptor, peer, exposition);
        }
        let object = self.names_of_users(peer, exposition);
        let peer = Some(peer);
        let line = AuditLine {
            event,
            side: AuditSide::Acceptor,
            peer,
            exposition,
            version,
            object: &object,
            reason: "",
            by: "",
        };
        self.audit.write_line(line, Instant::now());
    }

    /// Names the bindings of an exposition.
    fn names_of_users(&self, peer: &ClusterName, exposition: &ExpositionKey) -> String {
        let users = self.acceptor.used_by(peer, exposition);
        let users: Vec<_> = users.iter().map(|key| format!("RemoteServiceBinding {key}")).collect();
        users.join(",")
    }

    /// Records this cluster's verdict on an exposition.
    pub(super) fn audit_verdict(&mut self, peer: &ClusterName, exposition: &ExpositionKey, verdict: &OfferVerdict) {
        if !self.leading {
            return;
        }
        let version = self.acceptor.offers.get(peer).and_then(|o| o.get(exposition)).map(|o| o.version.to_string());
        let version = version.unwrap_or_default();
        let users = self.acceptor.used_by(peer, exposition);
        let managers = users.iter().filter_map(|key| changed_by(&self.acceptor.get(key)?.metadata));
        let by = managers.collect::<Vec<_>>().join(",");
        let (event, reason) = event_of_verdict(verdict);
        let object = self.names_of_users(peer, exposition);
        let line = AuditLine {
            event,
            side: AuditSide::Acceptor,
            peer: Some(peer),
            exposition,
            version: &version,
            object: &object,
            reason,
            by: &by,
        };
        self.audit.write_use(line, Instant::now());
        if event == AuditEvent::Bound {
            self.audit_binding_conflicts(peer, exposition, &version);
        }
    }
}
