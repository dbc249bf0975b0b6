//! Two clusters, a donor and an acceptor, with the agents of both.

use std::time::Duration;

use serde_json::Value;

use super::objects::{binding, policy, rights, service};
use super::{Account, Agent, Cluster, Pki, wait};

/// How long a state that is said to stay is looked at.
const WHILE: Duration = Duration::from_secs(2);

/// One of the two.
pub struct Side {
    pub cluster: Cluster,
    pub agent: Agent,
    pub account: Account,
}

pub struct Pair {
    pub donor: Side,
    pub acceptor: Side,
    pub pki: Pki,
    /// What is exposed and bound now, in `default`.
    services: Vec<String>,
    /// What was bound, and is exposed no more: the local name stays.
    withdrawn: Vec<String>,
}

impl Side {
    async fn new(cluster: Cluster, pki: &Pki, name: &str) -> Side {
        let account = cluster.account("wharf-system", "wharf").await;
        cluster.allow(&account, &rights()).await;
        cluster.make_namespace("istio-system").await;
        let agent = Agent::new(&cluster, pki, name, &format!("{name}-0")).with_account(&account);
        Side { cluster, agent, account }
    }

    /// Whether the agent says that something is wrong whose place or message contains this.
    pub fn complains(&self, of: &str) -> bool {
        let problems = self.agent.status().map(|view| view.problems).unwrap_or_default();
        problems.iter().any(|p| p.place.contains(of) || p.message.contains(of))
    }

    /// Waits until the agent says that nothing is wrong.
    pub async fn content(&self) {
        wait::until_or_show("an agent without problems", || async {
            let view = self.agent.status().ok_or("it does not answer")?;
            if view.problems.is_empty() { Ok(()) } else { Err(format!("{:#?}", view.problems)) }
        })
        .await;
    }

    /// Makes sure that a start of the agent changes nothing of what is there.
    pub async fn as_from_a_fresh_start(&mut self) {
        let before = self.cluster.written().await;
        self.agent.stop();
        self.agent.started().await;
        // A status that is written shows that it leads, and has begun.
        let marker = policy("default", "marker", &[]);
        self.cluster.apply(&marker).await;
        let judged = || async { self.cluster.get(&marker).await?["status"]["conditions"].get(0).cloned() };
        wait::until_or_show("the status of a policy", || async {
            judged().await.ok_or_else(|| format!("{:#?}", self.agent.status().map(|view| view.problems)))
        })
        .await;
        wait::stays("what was there", WHILE, || async { self.cluster.written().await == before }).await;
        self.cluster.delete(&marker).await;
    }
}

impl Pair {
    /// Both agents run, each with the rights of its service account; these services are exposed and bound.
    pub async fn new(services: &[&str]) -> Pair {
        let [donor, acceptor] = Cluster::several().await;
        let pki = Pki::new();
        let mut donor = Side::new(donor, &pki, "donor").await;
        let mut acceptor = Side::new(acceptor, &pki, "acceptor").await;
        donor.agent.configure("", &[acceptor.agent.as_consumer()]);
        acceptor.agent.configure("", &[donor.agent.as_donor()]);
        futures::join!(donor.agent.started(), acceptor.agent.started());
        let mut pair = Pair { donor, acceptor, pki, services: Vec::new(), withdrawn: Vec::new() };
        for name in services {
            pair.expose(name).await;
            pair.bind(name).await;
        }
        pair.in_step().await;
        pair
    }

    pub async fn expose(&mut self, name: &str) {
        self.donor.cluster.apply(&service("default", name)).await;
        self.donor.cluster.apply(&policy("default", name, &["acceptor"])).await;
        self.services.push(name.to_owned());
        self.withdrawn.retain(|other| other != name);
    }

    pub async fn bind(&self, name: &str) {
        self.acceptor.cluster.apply(&binding("default", name, "donor")).await;
    }

    pub async fn withdraw(&mut self, name: &str) {
        self.donor.cluster.delete(&policy("default", name, &[])).await;
        self.services.retain(|other| other != name);
        self.withdrawn.push(name.to_owned());
    }

    /// Fails unless exactly what is exposed has its objects, on both sides, and what is withdrawn only its name.
    async fn holds(&self) -> Result<(), String> {
        let names = self.services.iter().chain(&self.withdrawn);
        let mut expected: Vec<_> = names.map(|name| format!("default/{name}")).collect();
        expected.sort();
        let bound = self.acceptor.cluster.written_names("Service").await;
        let bound: Vec<_> = bound.into_iter().filter(|name| name.starts_with("default/")).collect();
        let gateways = self.donor.cluster.written_names("Gateway").await;
        let ways = self.acceptor.cluster.written_names("ServiceEntry").await;
        let exposed = self.services.len();
        if bound == expected && ways.len() == exposed && gateways.len() == exposed {
            Ok(())
        } else {
            Err(format!(
                "{exposed} of {expected:?} exposed; Services {bound:?}, ServiceEntries {ways:?}, Gateways {gateways:?}"
            ))
        }
    }

    /// Waits until it has.
    pub async fn in_step(&self) {
        wait::until_or_show("all that is exposed, and nothing else", || self.holds()).await;
    }

    /// Waits until it has, no agent complains, and a start would change nothing.
    pub async fn recovers(&mut self) {
        self.in_step().await;
        self.donor.content().await;
        self.acceptor.content().await;
        assert!(self.donor.agent.runs() && self.acceptor.agent.runs(), "an agent ended");
        futures::join!(self.donor.as_from_a_fresh_start(), self.acceptor.as_from_a_fresh_start());
        assert_eq!(self.holds().await, Ok(()));
    }

    /// What both agents wrote, without who wrote it when.
    pub async fn contents(&self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        for side in [&self.donor, &self.acceptor] {
            all.extend(side.cluster.written().await.into_iter().map(|(key, written)| (key, written.content)));
        }
        all
    }
}
