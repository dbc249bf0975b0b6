//! Checks the peers: each has an identity of its own, and those that are dialled answer.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::{CheckArea, Finding, certificates, clock};
use crate::model::{ClusterName, Peer, SpiffeId, TlsMode, TrustDomain};
use crate::peering::client::ProbeAnswer;

/// This cluster, as far as it concerns its peers.
pub struct OwnCluster<'a> {
    pub cluster: Option<&'a ClusterName>,
    /// Identity of its certificate, if that can be seen.
    pub identity: Option<&'a SpiffeId>,
    pub trust_domain: &'a TrustDomain,
    /// The TLS modes in use here: of the configuration, and of policies.
    pub modes: &'a [TlsMode],
}

/// The result of dialling a peer.
pub enum DialResult {
    /// The peer has no endpoint: it dials this cluster.
    NotDialled,
    /// There was no identity to dial with.
    NotTried(String),
    Answered(Box<ProbeAnswer>),
    /// Nobody answers, as seen from this machine.
    Unreachable(String),
    /// Somebody answered, and refused the call or was refused.
    Refused(String),
}

/// A peer, with the observed state of its connection.
pub struct PeerFacts {
    pub peer: Peer,
    pub reach: DialResult,
    /// The agent's report on its connection, with the reason if it has none.
    pub connected: Option<Result<(), String>>,
}

pub fn judge_peers(own: &OwnCluster<'_>, peers: &[PeerFacts], now: OffsetDateTime) -> Vec<Finding> {
    let mut findings = judge_identities(own, peers);
    findings.extend(trust_domains(own, peers));
    findings.extend(peers.iter().flat_map(|facts| judge_reach(own, facts, now)));
    if peers.is_empty() {
        findings.push(
            Finding::warning(CheckArea::Peers, "peers", "there are none: nothing is offered, and nobody is asked")
                .with_cure("add a ClusterPeering for each cluster to dial (endpoint) or to let in (consume: true)"),
        );
    }
    findings
}

/// Reports peers that share an identity: both are refused until each has its own.
fn judge_identities(own: &OwnCluster<'_>, peers: &[PeerFacts]) -> Vec<Finding> {
    let mut by_identity: BTreeMap<&SpiffeId, Vec<&str>> = BTreeMap::new();
    for PeerFacts { peer, .. } in peers {
        by_identity.entry(&peer.identity).or_default().push(peer.name.as_str());
    }
    let mut findings = Vec::new();
    for (identity, names) in by_identity {
        if names.len() > 1 {
            let message = format!("{} have one identity, {identity}: all of them are refused", names.join(" and "));
            findings.push(
                Finding::error(CheckArea::Peers, names.join(", "), message)
                    .with_cure("give each cluster a certificate of its own, and correct `identity` in their entries"),
            );
        }
        if own.identity == Some(identity) {
            let message = format!("its identity, {identity}, is this cluster's own");
            findings.push(
                Finding::error(CheckArea::Peers, names.join(", "), message)
                    .with_cure("correct `identity` in its entry"),
            );
        }
    }
    findings
}

/// Reports shared trust domains: modes in which the mesh's certificates decide tell clusters apart by them.
fn trust_domains(own: &OwnCluster<'_>, peers: &[PeerFacts]) -> Option<Finding> {
    let mut by_domain: BTreeMap<&TrustDomain, Vec<&str>> = BTreeMap::new();
    for PeerFacts { peer, .. } in peers {
        by_domain.entry(&peer.trust_domain).or_default().push(peer.name.as_str());
    }
    by_domain.entry(own.trust_domain).or_default().push("this cluster");
    let shared: Vec<_> = by_domain.iter().filter(|(_, names)| names.len() > 1).collect();
    if peers.is_empty() {
        return None;
    }
    if shared.is_empty() {
        return Some(Finding::ok(CheckArea::Peers, "trust domains", "each cluster has one of its own"));
    }
    let told: Vec<_> = shared.iter().map(|(domain, names)| format!("{domain}: {}", names.join(", "))).collect();
    let told = told.join("; ");
    let by_workload: Vec<_> = own.modes.iter().filter(|m| **m != TlsMode::Cluster).map(ToString::to_string).collect();
    if by_workload.is_empty() {
        let message =
            format!("some are shared ({told}), and nobody minds: mode Cluster looks at the clusters' certificates");
        return Some(Finding::ok(CheckArea::Peers, "trust domains", message));
    }
    let modes = by_workload.join(" and ");
    let message = format!(
        "some are shared ({told}): in mode {modes} these clusters cannot be told apart, and who admits one admits all"
    );
    Some(Finding::warning(CheckArea::Peers, "trust domains", message).with_cure(
        "give each mesh a trust domain of its own and say so in the peers' entries (trustDomain), or use mode Cluster",
    ))
}

fn judge_reach(own: &OwnCluster<'_>, facts: &PeerFacts, now: OffsetDateTime) -> Vec<Finding> {
    let name = facts.peer.name.as_str();
    let endpoint = facts.peer.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    match &facts.reach {
        DialResult::NotDialled if facts.peer.consume => {
            vec![Finding::ok(
                CheckArea::Peers,
                name,
                "it is let in, and not dialled: whether it comes is its own affair",
            )]
        }
        DialResult::NotDialled => {
            let finding = Finding::warning(CheckArea::Peers, name, "it is neither dialled nor let in");
            vec![finding.with_cure("give it an endpoint to use what it offers, consume: true to offer something to it")]
        }
        DialResult::NotTried(why) => {
            vec![Finding::unchecked(CheckArea::Peers, name, format!("{endpoint} was not dialled: {why}"))]
        }
        DialResult::Refused(why) => vec![Finding::error(CheckArea::Peers, name, why)],
        // Another machine than the agent's may have no way to a peer.
        DialResult::Unreachable(why) if facts.connected == Some(Ok(())) => {
            vec![Finding::unchecked(
                CheckArea::Peers,
                name,
                format!("the agent is connected to it; from this machine {why}"),
            )]
        }
        DialResult::Unreachable(why) => {
            let finding = Finding::error(CheckArea::Peers, name, format!("from this machine: {why}"));
            vec![match &facts.connected {
                Some(Err(agent)) => finding.with_cure(format!("the agent says: {agent}")),
                _ => finding,
            }]
        }
        DialResult::Answered(probe) => judge_answer(own, facts, probe, now),
    }
}

fn judge_answer(own: &OwnCluster<'_>, facts: &PeerFacts, probe: &ProbeAnswer, now: OffsetDateTime) -> Vec<Finding> {
    let (peer, answer) = (&facts.peer, &probe.answer);
    let name = peer.name.as_str();
    let mut findings = vec![Finding::ok(
        CheckArea::Peers,
        name,
        format!(
            "it answers as {}; protocol {}, {} expositions offered to us",
            peer.identity, answer.protocol_version, answer.offered
        ),
    )];
    if let Some(Err(why)) = &facts.connected {
        findings.push(Finding::error(
            CheckArea::Peers,
            name,
            format!("it answers here, but the agent is not connected: {why}"),
        ));
    }
    if !answer.may_consume {
        findings.push(Finding::warning(CheckArea::Peers, name, "it does not let this cluster consume").with_cure(
            "its operator sets consume: true in the entry for this cluster, or take the endpoint out of its entry here",
        ));
    }
    if own.cluster.is_some_and(|cluster| answer.peer != cluster.as_str()) {
        let message = format!("it calls this cluster {:?}: policies there have to name it so", answer.peer);
        findings.push(Finding::warning(CheckArea::Peers, name, message).with_cure("name clusters the same everywhere"));
    }
    let shown = &probe.certificate;
    let life =
        certificates::judge_lifetime(CheckArea::Peers, name, "its certificate", shown.not_before, shown.not_after, now);
    findings.push(life.with_cure("its operator has a new one issued in time"));
    let read = probe.date.as_deref().and_then(clock::http_date);
    findings.push(match read {
        Some(said) => clock::judge_clock(
            CheckArea::Peers,
            name,
            &clock::ClockReading { asked: probe.asked, answered: probe.answered, said },
        ),
        None => Finding::unchecked(CheckArea::Peers, name, "its clock: its answer has no date"),
    });
    findings
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::check::Severity;
    use crate::identity::PeerCertificate;
    use crate::peering::pb;

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
    }

    fn peer(name: &str) -> PeerFacts {
        let mut peer = Peer::with_name(name.parse().unwrap());
        peer.consume = true;
        PeerFacts { peer, reach: DialResult::NotDialled, connected: None }
    }

    fn answer(change: impl FnOnce(&mut ProbeAnswer)) -> PeerFacts {
        let mut facts = peer("west");
        facts.peer.endpoint = "west.example:7443".parse().ok();
        let certificate = PeerCertificate {
            spiffe_id: facts.peer.identity.clone(),
            not_before: now() - Duration::days(80),
            not_after: now() + Duration::days(80),
            serial: "01".into(),
        };
        let answer = pb::GetPeerResponse {
            cluster: "west".into(),
            peer: "east".into(),
            may_consume: true,
            protocol_version: 1,
            ..pb::GetPeerResponse::default()
        };
        let date = now().format(&time::format_description::well_known::Rfc2822).unwrap();
        let mut probe = ProbeAnswer { answer, certificate, asked: now(), answered: now(), date: Some(date) };
        change(&mut probe);
        facts.reach = DialResult::Answered(Box::new(probe));
        facts
    }

    fn judged(modes: &[TlsMode], peers: &[PeerFacts]) -> Vec<(Severity, String)> {
        let (cluster, trust_domain) = ("east".parse().unwrap(), "cluster.local".parse().unwrap());
        let identity = SpiffeId::of_cluster(&cluster);
        let own = OwnCluster { cluster: Some(&cluster), identity: Some(&identity), trust_domain: &trust_domain, modes };
        judge_peers(&own, peers, now()).into_iter().map(|f| (f.severity, f.message)).collect()
    }

    fn bad(peers: &[PeerFacts]) -> Vec<(Severity, String)> {
        judged(&[TlsMode::Cluster], peers).into_iter().filter(|(s, _)| *s != Severity::Ok).collect()
    }

    #[test]
    fn a_peer_that_answers_as_it_should_has_nothing_to_complain_about() {
        assert_eq!(bad(&[answer(|_| {})]), []);
    }

    #[test]
    fn what_a_peer_thinks_of_this_cluster_is_told() {
        let refused = bad(&[answer(|p| p.answer.may_consume = false)]);
        assert!(refused.len() == 1 && refused[0].1.contains("consume"), "{refused:?}");
        let named = bad(&[answer(|p| p.answer.peer = "orient".into())]);
        assert!(named.len() == 1 && named[0].1.contains("orient"), "{named:?}");
        let clock = bad(&[answer(|p| p.date = Some("Sun, 06 Nov 1994 08:49:37 GMT".into()))]);
        assert!(clock.len() == 1 && clock[0].0 == Severity::Error, "{clock:?}");
        let ending = bad(&[answer(|p| p.certificate.not_after = now() + Duration::days(2))]);
        assert!(ending.len() == 1 && ending[0].0 == Severity::Error, "{ending:?}");
    }

    #[test]
    fn a_peer_that_only_this_machine_does_not_reach_is_no_error() {
        let with = |connected| {
            let reach = DialResult::Unreachable("connection refused".into());
            let facts = bad(&[PeerFacts { reach, connected, ..answer(|_| {}) }]);
            assert_eq!(facts.len(), 1);
            facts[0].0
        };
        assert_eq!(with(Some(Ok(()))), Severity::Unchecked);
        assert_eq!(with(Some(Err("refused".into()))), Severity::Error);
        assert_eq!(with(None), Severity::Error);
        let refused = bad(&[PeerFacts { reach: DialResult::Refused("it is somebody else".into()), ..answer(|_| {}) }]);
        assert_eq!(refused[0].0, Severity::Error);
    }

    #[test]
    fn one_identity_for_two_clusters_is_an_error() {
        let mut twin = peer("north");
        twin.peer.identity = peer("west").peer.identity;
        let told = bad(&[peer("west"), twin]);
        assert!(
            told.len() == 1 && told[0].1.contains("north and west") | told[0].1.contains("west and north"),
            "{told:?}"
        );
        let mut own = peer("west");
        own.peer.identity = "spiffe://wharf/cluster/east".parse().unwrap();
        assert!(bad(&[own])[0].1.contains("this cluster's own"));
    }

    #[test]
    fn a_shared_trust_domain_matters_only_where_the_mesh_decides() {
        let mut west = peer("west");
        west.peer.trust_domain = "cluster.local".parse().unwrap();
        let peers = [west, peer("north")];
        let severity =
            |modes: &[TlsMode]| judged(modes, &peers).into_iter().find(|f| f.1.contains("shared")).unwrap().0;
        assert_eq!(severity(&[TlsMode::Cluster]), Severity::Ok);
        assert_eq!(severity(&[TlsMode::Cluster, TlsMode::Workload]), Severity::Warning);
        assert!(judged(&[TlsMode::Workload], &[peer("west")]).iter().all(|f| f.0 == Severity::Ok));
    }

    #[test]
    fn nobody_to_talk_to_is_told() {
        assert_eq!(bad(&[])[0].0, Severity::Warning);
        let mut idle = peer("west");
        idle.peer.consume = false;
        assert_eq!(bad(&[idle])[0].0, Severity::Warning);
    }
}
