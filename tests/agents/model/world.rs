//! Three clusters, the network between them, and what was done to both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use rand::rngs::StdRng;

use super::reference::{self, Seen};
use super::texts;
use crate::support::proxy::{Link, Proxy};
use crate::support::{Cluster, Site};

pub const NAMES: [&str; 3] = ["red", "green", "blue"];

/// What each agent is configured with besides its peers: styles and modes that meet each other.
const SETTINGS: [&str; 3] = [
    "trustDomain: red\ningress: {address: 192.0.2.1}\npassthrough: {trustSidecars: true}\n",
    "trustDomain: green\ningress: {address: [192.0.2.2, 198.51.100.2], locality: north/a}\ntls: Workload\npassthrough: {trustSidecars: true}\n",
    "trustDomain: blue\ningress: {address: gateway.blue.example}\nstyle: DIRECT_INGRESS\n",
];

/// A peer entry of one cluster for another; none: it is no peer.
#[derive(Clone)]
pub struct Entry {
    pub dialled: bool,
    pub consume: bool,
    pub mode: &'static str,
    pub namespace: &'static str,
    pub gateway: bool,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry { dialled: true, consume: true, mode: "none", namespace: "", gateway: false }
    }
}

pub struct World {
    pub site: Site,
    pub clusters: Vec<Cluster>,
    /// From which cluster to which.
    pub links: BTreeMap<(usize, usize), Proxy>,
    pub entries: BTreeMap<(usize, usize), Entry>,
    /// Files that hold nothing that can be read, or something that is in Wharf's way; all of them go when all is healed.
    pub litter: BTreeSet<(usize, String)>,
    pub history: Vec<String>,
}

impl World {
    /// Three clusters that have Services, and expose and bind some of them.
    pub fn new(rng: &mut StdRng) -> World {
        let site = Site::new();
        let clusters: Vec<_> = NAMES.iter().map(|name| site.cluster(name)).collect();
        let pairs = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let links = pairs.clone().map(|(from, to)| ((from, to), Proxy::new(site.address(), clusters[to].peering)));
        let links = links.collect();
        let entries = pairs.map(|pair| (pair, Entry::default())).collect();
        let mut world = World { site, clusters, links, entries, litter: BTreeSet::new(), history: Vec::new() };
        for (i, me) in NAMES.into_iter().enumerate() {
            world.configure(i);
            let cluster = &mut world.clusters[i];
            for (n, name) in texts::SERVICES.iter().enumerate() {
                cluster.write(&format!("service-{n}.yaml"), texts::service(rng, name));
                cluster.write(&format!("rule-{n}.yaml"), texts::rule(rng, name));
            }
            cluster.write("routes.yaml", texts::routes(rng));
            for n in 0..3 {
                let (policy, binding) = (format!("p{n}"), format!("b{n}"));
                cluster.write(&format!("policies/{policy}.yaml"), texts::policy(rng, &policy));
                cluster.write(&format!("{binding}.yaml"), texts::binding(rng, me, &binding));
            }
            cluster.start();
        }
        world
    }

    /// Writes a cluster's configuration as its entries say.
    pub fn configure(&self, of: usize) {
        let peers = self.entries.iter().filter(|((from, _), _)| *from == of).map(|((_, to), entry)| {
            let Entry { dialled, consume, mode, namespace, gateway } = entry;
            let mut text = format!("{{name: {}, consume: {consume}, connectionMode: {mode}", NAMES[*to]);
            // Nothing answers for names here, and so they are allowed as they are.
            text += &format!(", trustDomain: {0}, allowedGatewayNames: [{0}.example]", NAMES[*to]);
            if *dialled {
                text += &format!(", endpoint: \"{}\"", self.links[&(of, *to)].address);
            }
            if !namespace.is_empty() {
                text += &format!(", namespace: {namespace}");
            }
            if *gateway {
                text += ", gateway: [\"203.0.113.9:443\"]";
            }
            text + "}"
        });
        self.clusters[of].configure(SETTINGS[of], &peers.collect::<Vec<_>>());
    }

    /// Lets what was done be half done when the next thing comes.
    pub fn pause(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    /// Everything runs, everything is connected, and nothing is broken.
    pub fn heal(&mut self) {
        for (of, file) in std::mem::take(&mut self.litter) {
            let _ = fs::remove_file(self.clusters[of].store.join(file)); // it may have been cleared away already
        }
        self.links.values().for_each(|link| link.set(Link::Up));
        for cluster in self.clusters.iter_mut().filter(|c| !c.runs()) {
            cluster.start();
        }
        let ready = |c: &Cluster| c.get("/readyz").is_some_and(|(code, _)| code == 200);
        self.site.until("all run", || self.clusters.iter().all(ready).then_some(()));
        // Who waits before dialling again does so at once with a new certificate, instead of up to half a minute later.
        NAMES.iter().for_each(|name| self.site.renew(name, &[]));
        self.history.push("all is healed".into());
    }

    /// Waits until all clusters are as the reference says, and makes sure that they stay so.
    pub fn settles(&self) -> Result<(), String> {
        let mut last = String::new();
        let same = self.site.try_until(Duration::from_secs(60), || {
            last = self.difference();
            last.is_empty().then_some(())
        });
        if same.is_none() {
            return Err(last);
        }
        let written = || self.clusters.iter().map(Cluster::snapshot).collect::<Vec<_>>();
        let before = written();
        let changed = self.site.try_until(Duration::from_millis(400), || (written() != before).then_some(()));
        match changed {
            Some(()) => Err(format!("it did not stay so:\n{}", self.difference())),
            None => Ok(()),
        }
    }

    /// How what there is differs from what there should be; empty if it does not.
    fn difference(&self) -> String {
        let seen: Option<Vec<Seen>> = self.clusters.iter().map(Seen::of).collect();
        match seen {
            Some(seen) => reference::difference(&self.clusters, &seen),
            None => "an agent does not answer".into(),
        }
    }
}
