//! Translates acceptors' outcomes between the types of the wire and those of the store, for the replicas of an agent.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::{ClusterName, ExpositionKey};
use crate::peering::Subscribers;
use crate::peering::convert::{ExpositionOutcome, OutcomeState};
use crate::peering::subscribers::SubscriberReport;
use crate::store::{AcceptorOutcome, AcceptorReport, ReplicaReport, format_rfc3339};

/// Builds the report of the outcomes that acceptors sent to this replica, for the replica that leads.
pub fn build_report(subscribers: &Subscribers) -> ReplicaReport {
    let said = |outcome: ExpositionOutcome| match outcome.state {
        OutcomeState::Bound => Some(AcceptorOutcome::Bound),
        OutcomeState::Rejected => Some(AcceptorOutcome::Rejected { reason: outcome.reason, message: outcome.message }),
        OutcomeState::Offered => None,
    };
    let heard = |here: SubscriberReport| AcceptorReport {
        subscriptions: here.subscriptions,
        certificate_expires: here.certificate_expires.map(format_rfc3339),
        shown: here.shown,
        outcomes: here.said.into_iter().filter_map(|(key, o)| Some((key.to_string(), said(o)?))).collect(),
    };
    ReplicaReport {
        clusters: subscribers.own_reports().into_iter().map(|(cluster, here)| (cluster, heard(here))).collect(),
    }
}

/// Reads another replica's report.
pub fn read_report(report: ReplicaReport) -> BTreeMap<ClusterName, SubscriberReport> {
    let said = |said: AcceptorOutcome| match said {
        AcceptorOutcome::Bound => ExpositionOutcome::bound(),
        AcceptorOutcome::Rejected { reason, message } => ExpositionOutcome::rejected(reason, message),
    };
    let key = |text: &str| {
        let (namespace, name) = text.split_once('/')?;
        Some(ExpositionKey { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
    };
    let here = |heard: AcceptorReport| SubscriberReport {
        subscriptions: heard.subscriptions,
        certificate_expires: heard.certificate_expires.and_then(|t| OffsetDateTime::parse(&t, &Rfc3339).ok()),
        shown: heard.shown,
        said: heard.outcomes.into_iter().filter_map(|(k, s)| Some((key(&k)?, said(s)))).collect(),
    };
    report.clusters.into_iter().map(|(cluster, heard)| (cluster, here(heard))).collect()
}
