//! Translates acceptors' outcomes between the types of the wire and those of the store, for the replicas of an agent.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::{ClusterName, ExpositionKey};
use crate::peering::Subscribers;
use crate::peering::convert::{Outcome, OutcomeState};
use crate::peering::subscribers::Here;
use crate::store::{Heard, Report, Said, rfc3339};

/// Builds the report of the outcomes that acceptors sent to this replica, for the replica that leads.
pub fn report(subscribers: &Subscribers) -> Report {
    let said = |outcome: Outcome| match outcome.state {
        OutcomeState::Bound => Some(Said::Bound),
        OutcomeState::Rejected => Some(Said::Rejected { reason: outcome.reason, message: outcome.message }),
        OutcomeState::Offered => None,
    };
    let heard = |here: Here| Heard {
        subscriptions: here.subscriptions,
        certificate_expires: here.certificate_expires.map(rfc3339),
        shown: here.shown,
        outcomes: here.said.into_iter().filter_map(|(key, o)| Some((key.to_string(), said(o)?))).collect(),
    };
    Report { clusters: subscribers.here().into_iter().map(|(cluster, here)| (cluster, heard(here))).collect() }
}

/// Reads another replica's report.
pub fn clusters(report: Report) -> BTreeMap<ClusterName, Here> {
    let said = |said: Said| match said {
        Said::Bound => Outcome::bound(),
        Said::Rejected { reason, message } => Outcome::rejected(reason, message),
    };
    let key = |text: &str| {
        let (namespace, name) = text.split_once('/')?;
        Some(ExpositionKey { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
    };
    let here = |heard: Heard| Here {
        subscriptions: heard.subscriptions,
        certificate_expires: heard.certificate_expires.and_then(|t| OffsetDateTime::parse(&t, &Rfc3339).ok()),
        shown: heard.shown,
        said: heard.outcomes.into_iter().filter_map(|(k, s)| Some((key(&k)?, said(s)))).collect(),
    };
    report.clusters.into_iter().map(|(cluster, heard)| (cluster, here(heard))).collect()
}
