//! The clusters, and the callers inside them, that may consume an entry.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::Exposed;
use crate::model::{Client, ClusterFacts, ClusterName, Label, ObjectName, Peer};

use super::problem::{Problem, ProblemReason, join_list};

/// More would not fit into what an exposition may carry.
pub(super) const MAX_CLIENTS: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct PermittedConsumer {
    pub peer: Peer,
    /// The only callers inside it; empty: all.
    pub clients: Vec<Client>,
}

impl PermittedConsumer {
    /// Returns the callers' principals in Istio's form: `<trust domain>/ns/<namespace>/sa/<service account>`, by prefix
    /// where any will do.
    fn principals(&self) -> Vec<String> {
        let domain = &self.peer.trust_domain;
        if self.clients.is_empty() {
            return vec![format!("{domain}/*")];
        }
        client_principals(domain.as_str(), &self.clients)
    }
}

pub(super) fn client_principals(trust_domain: &str, clients: &[Client]) -> Vec<String> {
    let one = |c: &Client| match &c.service_account {
        Some(account) => format!("{trust_domain}/ns/{}/sa/{account}", c.namespace),
        None => format!("{trust_domain}/ns/{}/*", c.namespace),
    };
    clients.iter().map(one).collect()
}

#[derive(Debug, Clone, Default)]
pub(super) struct PermittedConsumers {
    pub by_cluster: BTreeMap<ClusterName, PermittedConsumer>,
    pub notes: Vec<String>,
}

impl PermittedConsumers {
    /// The identities of the clusters' certificates, sorted. Never empty.
    pub fn identities(&self) -> Vec<String> {
        let set: BTreeSet<String> = self.by_cluster.values().map(|c| c.peer.identity.to_string()).collect();
        set.into_iter().collect()
    }

    /// The principals of the callers' workloads, sorted. Never empty.
    pub fn principals(&self) -> Vec<String> {
        let set: BTreeSet<String> = self.by_cluster.values().flat_map(PermittedConsumer::principals).collect();
        set.into_iter().collect()
    }

    /// Returns notes on clusters that a permission by trust domain cannot tell apart.
    pub fn shared_trust_domains(&self, facts: &ClusterFacts) -> Vec<String> {
        let mut by_domain: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        by_domain.entry(facts.trust_domain.as_str()).or_default().insert("this cluster");
        for peer in facts.peers.values().chain(self.by_cluster.values().map(|c| &c.peer)) {
            by_domain.entry(peer.trust_domain.as_str()).or_default().insert(peer.name.as_str());
        }
        let permitted: BTreeSet<&str> = self.by_cluster.values().map(|c| c.peer.trust_domain.as_str()).collect();
        let shared = by_domain.into_iter().filter(|(domain, who)| permitted.contains(domain) && who.len() > 1);
        shared
            .map(|(domain, who)| {
                let who = who.into_iter().collect::<Vec<_>>().join(", ");
                format!("{who} share the trust domain {domain}, and this TLS mode cannot tell them apart: each may enter if one may")
            })
            .collect()
    }
}

/// Resolves an entry's `clusters` and `clients` against the trusted peers.
pub(super) fn resolve_consumers(entry: &Exposed, facts: &ClusterFacts) -> Result<PermittedConsumers, Problem> {
    let mut consumers = PermittedConsumers::default();
    if entry.clusters.is_empty() {
        for peer in
            facts.peers.keys().filter(|name| **name != facts.cluster).filter_map(|name| facts.find_consumer(name))
        {
            consumers.by_cluster.insert(peer.name.clone(), PermittedConsumer { peer, clients: Vec::new() });
        }
        consumers.notes.push("no clusters are named: it is for every peer, also those to come".to_owned());
        consumers
            .notes
            .extend(facts.revoked.iter().map(|name| format!("{}: it is offered nothing", why_not(name, facts))));
        if facts.trust_any {
            let note = "every cluster is trusted, but only those that the configuration names can be let in: list others in clusters";
            consumers.notes.push(note.to_owned());
        }
    }
    for (i, name) in entry.clusters.iter().enumerate() {
        let field = format!("clusters[{i}]");
        let name: ClusterName =
            name.parse().map_err(|e| Problem::new(ProblemReason::Invalid, &field, format!("{e}")))?;
        match facts.find_consumer(&name).filter(|_| name != facts.cluster) {
            Some(peer) => {
                consumers.by_cluster.insert(name, PermittedConsumer { peer, clients: Vec::new() });
            }
            None => consumers.notes.push(format!("{}: it is offered nothing", why_not(&name, facts))),
        }
    }
    resolve_clients(entry, &mut consumers)?;
    if consumers.by_cluster.is_empty() {
        return Err(no_consumer_problem(entry, facts));
    }
    Ok(consumers)
}

fn resolve_clients(entry: &Exposed, consumers: &mut PermittedConsumers) -> Result<(), Problem> {
    if entry.clients.is_empty() {
        return Ok(());
    }
    for (i, client) in entry.clients.iter().enumerate() {
        let bad = |field: &str, message: String| {
            Problem::new(ProblemReason::Invalid, format!("clients[{i}].{field}"), message)
        };
        let cluster: ClusterName = client.cluster.parse().map_err(|e| bad("cluster", format!("{e}")))?;
        let namespace: Label = client.namespace.parse().map_err(|e| bad("namespace", format!("{e}")))?;
        let service_account = match client.service_account.as_deref() {
            None => None,
            Some(name) => Some(name.parse::<ObjectName>().map_err(|e| bad("serviceAccount", format!("{e}")))?),
        };
        if !entry.clusters.is_empty() && !entry.clusters.contains(&client.cluster) {
            let message = format!("{cluster} is not one of the clusters that may consume");
            return Err(bad("cluster", message).cure("add it to clusters, or leave the client out"));
        }
        match consumers.by_cluster.get_mut(&cluster) {
            Some(consumer) => consumer.clients.push(Client { namespace, service_account }),
            None if entry.clusters.is_empty() => {
                consumers.notes.push(format!("{cluster} is not a peer that may consume: its clients get nothing"));
            }
            None => {} // said of its cluster already
        }
    }
    // A cluster without a named client has none: a list narrows.
    let without: Vec<&str> =
        consumers.by_cluster.iter().filter(|(_, c)| c.clients.is_empty()).map(|(name, _)| name.as_str()).collect();
    if without.len() == consumers.by_cluster.len() && !without.is_empty() {
        let there = join_list(entry.clients.iter().map(|c| c.cluster.as_str()));
        let message = format!("none of the clients is in a cluster that may consume: they are in {there}");
        let cure = format!("name clients of {}, or leave the list out", join_list(without));
        return Err(Problem::new(ProblemReason::NoConsumers, "clients", message).cure(cure));
    }
    if !without.is_empty() && !entry.clusters.is_empty() {
        let note =
            format!("{} may consume, but none of the clients is there: it is offered nothing", without.join(", "));
        consumers.notes.push(note);
    }
    consumers.by_cluster.retain(|_, c| !c.clients.is_empty());
    for (name, consumer) in &mut consumers.by_cluster {
        consumer.clients.sort();
        consumer.clients.dedup();
        if consumer.clients.len() > MAX_CLIENTS {
            let message = format!(
                "{} clients of {name} are more than the {MAX_CLIENTS} that can be told",
                consumer.clients.len()
            );
            return Err(Problem::new(ProblemReason::Unsupported, "clients", message)
                .cure("name namespaces without service accounts"));
        }
    }
    Ok(())
}

fn why_not(name: &ClusterName, facts: &ClusterFacts) -> String {
    if facts.revoked.contains(name) {
        return format!("the certificate that {name} showed last is revoked");
    }
    match facts.hidden_peers.explain_doubt(name).filter(|_| !facts.peers.contains_key(name)) {
        Some(unknown) => unknown,
        None if *name == facts.cluster => format!("{name} is this cluster itself"),
        None => format!("{name} is not a peer that may consume"),
    }
}

fn no_consumer_problem(entry: &Exposed, facts: &ClusterFacts) -> Problem {
    if let Some(unknown) = unread_consumer(entry, facts) {
        return Problem::new(ProblemReason::Unreadable, "clusters", unknown).cure("correct that");
    }
    let cure = "ask the cluster's operator for a peer that may consume, or correct the names";
    let mut message = if entry.clusters.is_empty() {
        "there is no peer that may consume".to_owned()
    } else {
        format!("none of {} is a peer that may consume", entry.clusters.join(", "))
    };
    if entry.clusters.iter().any(|name| name == facts.cluster.as_str()) {
        message = format!("{message}; {} is this cluster itself", facts.cluster);
    }
    let named = |name: &&ClusterName| entry.clusters.is_empty() || entry.clusters.iter().any(|c| c == name.as_str());
    for name in facts.revoked.iter().filter(named) {
        message = format!("{message}; {}", why_not(name, facts));
    }
    Problem::new(ProblemReason::NoConsumers, "clusters", message).cure(cure)
}

/// Returns the reason why it is not known if somebody may consume, where nobody else may.
fn unread_consumer(entry: &Exposed, facts: &ClusterFacts) -> Option<String> {
    if entry.clusters.is_empty() {
        let hidden = &facts.hidden_peers;
        let why = hidden.any.as_ref().or_else(|| hidden.named.values().next())?;
        return Some(format!("it is not known whether a peer may consume, since something cannot be read: {why}"));
    }
    let named = entry.clusters.iter().filter_map(|name| name.parse::<ClusterName>().ok());
    named.filter(|name| !facts.peers.contains_key(name)).find_map(|name| facts.hidden_peers.explain_doubt(&name))
}
