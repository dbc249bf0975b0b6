//! What should be, by pure functions of what is written now, and of who holds which name by the objects that are there: no
//! other history, no network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use wharf::agent::view::{AgentView, PolicyView, ProblemView};
use wharf::api::{
    BindingStatus, Condition, ConditionStatus, MANAGED_BY, OWNER, Object, RemoteServiceBinding,
    ServiceExpositionPolicy, ServiceStatus,
};
use wharf::config::Config;
use wharf::model::{ClusterFacts, ClusterName, ConnectionMode, Exposition, ExpositionKey, Host, NameAnswers, SpiffeId};
use wharf::store::{Input, InputKey, manifest};
use wharf::translate::{
    Inventory, LocalName, MissingExposition, NameClaims, PassthroughHosts, PolicyTranslation, PortMemory, Source,
    SourceOutcome, SplitBinding, WantedService, bind_local_name, expose_policy, shared_egress, split_binding,
    validate_exposition,
};

use crate::support::{Cluster, cluster::parse};

/// What there is.
pub struct Seen {
    objects: BTreeMap<String, Value>,
    view: AgentView,
}

impl Seen {
    pub fn of(cluster: &Cluster) -> Option<Seen> {
        Some(Seen { objects: cluster.objects(), view: cluster.status()? })
    }
}

/// What is written in a cluster's folder, and what follows from it there.
struct Inputs {
    facts: ClusterFacts,
    policies: BTreeMap<InputKey, Arc<ServiceExpositionPolicy>>,
    bindings: BTreeMap<InputKey, Arc<RemoteServiceBinding>>,
    inventory: Inventory,
    /// Who holds which host: the owners of the Gateways and Services that are there.
    held: Vec<(String, Host)>,
    names: BTreeSet<Host>,
    /// What the statuses of its bindings tell of their services, by the file of each.
    told: BTreeMap<String, Vec<ServiceStatus>>,
    /// The ports that exposed hosts themselves mean, as the statuses of its policies tell.
    ports_of_hosts: Vec<(ExpositionKey, u16)>,
}

/// What a donor offers, to whom.
type Offers = BTreeMap<ClusterName, BTreeMap<ExpositionKey, Arc<Exposition>>>;

/// What is told of an entry of a policy.
#[derive(Debug, PartialEq)]
struct Entry {
    host: String,
    offered_to: BTreeSet<String>,
    bound_by: BTreeSet<String>,
}

/// What a cluster should hold.
#[derive(Default)]
struct Expected {
    objects: BTreeMap<String, Value>,
    policies: BTreeMap<String, Vec<Entry>>,
    /// For each binding, of each service: the reason.
    bindings: BTreeMap<String, Vec<String>>,
    /// The bindings that make themselves, with what is in them.
    self_made: BTreeMap<String, BTreeSet<String>>,
}

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.starts_with('.') || name == "istio" {
            continue;
        }
        if path.is_dir() {
            manifests(&path, found);
        } else if name.ends_with(".yaml") {
            found.push(path);
        }
    }
}

impl Inputs {
    fn read(cluster: &Cluster, seen: &Seen) -> Inputs {
        let config = Config::load(&cluster.config).expect("a configuration");
        let identity = SpiffeId::of_cluster(&config.cluster);
        let mut facts = config.cluster_facts(identity);
        let (mut policies, mut bindings, mut inventory) = (BTreeMap::new(), BTreeMap::new(), Inventory::default());
        let mut files = Vec::new();
        manifests(&cluster.store, &mut files);
        files.sort();
        let mut known = BTreeSet::new();
        for document in files.iter().flat_map(|f| manifest::read_manifest("", &fs::read(f).unwrap_or_default())) {
            let Ok(document) = document else { continue };
            let key = document.input.key();
            if !known.insert(key.clone()) {
                continue; // the first counts
            }
            match document.input {
                Input::Policy(policy) => drop(policies.insert(key, policy)),
                Input::Binding(binding) => drop(bindings.insert(key, binding)),
                Input::Object(object) => inventory.set_object(object),
                Input::Peering(peering) => {
                    let name: ClusterName = peering.metadata.name.as_ref().unwrap().parse().expect("a name");
                    let peer = peering.spec.to_peer(name.clone()).expect("a peer");
                    facts.peers.insert(name, peer);
                }
            }
        }
        let (mut held, mut names) = (Vec::new(), BTreeSet::new());
        for object in seen.objects.values() {
            let owner = object["metadata"]["labels"][OWNER].as_str().unwrap_or_default();
            let servers = object["spec"]["servers"].as_array().into_iter().flatten();
            let hosts = servers.flat_map(|s| s["hosts"].as_array().unwrap()).map(|h| h.as_str().unwrap());
            held.extend(hosts.filter_map(|h| Some((owner.to_owned(), h.strip_prefix("./")?.parse().ok()?))));
            if object["kind"] == "Service" {
                let name = |of: &str| object["metadata"][of].as_str().unwrap().parse().unwrap();
                names.insert(Host::of_service(&name("name"), &name("namespace")));
            }
        }
        let folder = cluster.store.join(".wharf/status/remoteservicebinding");
        let statuses = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let told = statuses.filter_map(|path| {
            let status = parse(&fs::read_to_string(&path).ok()?)["status"].take();
            let services = serde_json::from_value::<BindingStatus>(status).ok()?.services;
            Some((path.file_stem()?.to_string_lossy().into_owned(), services))
        });
        let told = told.collect();
        let folder = cluster.store.join(".wharf/status/serviceexpositionpolicy");
        let statuses = fs::read_dir(folder).into_iter().flatten().flatten();
        let texts = statuses.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let mut ports_of_hosts = Vec::new();
        for policy in texts.map(|text| parse(&text)) {
            let namespace = policy["metadata"]["namespace"].as_str().unwrap_or_default();
            for entry in policy["status"]["exposed"].as_array().into_iter().flatten() {
                let name = entry["name"].as_str().and_then(|name| name.parse().ok());
                if let (Some(port), Some(name)) = (entry["hostPort"].as_u64(), name) {
                    let key = ExpositionKey { namespace: namespace.parse().unwrap(), name };
                    ports_of_hosts.push((key, port as u16));
                }
            }
        }
        Inputs { facts, policies, bindings, inventory, held, names, told, ports_of_hosts }
    }

    fn exposed(&self) -> BTreeMap<&InputKey, PolicyTranslation> {
        let mut claims = NameClaims::default();
        self.policies.values().for_each(|policy| drop(claims.insert_policy(policy)));
        claims.restore_holders(self.held.iter().map(|(owner, host)| (owner.as_str(), host)));
        self.ports_of_hosts.iter().for_each(|(key, port)| claims.record_port_of_host(key, *port));
        let one = |policy: &Arc<ServiceExpositionPolicy>| expose_policy(policy, &self.inventory, &claims, &self.facts);
        self.policies.iter().map(|(key, policy)| (key, one(policy))).collect()
    }

    /// What is remembered of the service that stands in this place among those of its binding.
    fn memory(&self, wanted: &WantedService, place: usize) -> PortMemory {
        let of = &wanted.binding;
        let services = self.told.get(&format!("{}.{}", of.namespace, of.name));
        services.and_then(|s| s.get(place)).map(PortMemory::from_status).unwrap_or_default()
    }

    /// Whether this cluster lets another one consume.
    fn permits(&self, other: &ClusterName) -> bool {
        self.facts.peers.get(other).is_some_and(|p| p.consume)
    }
}

struct Everything {
    inputs: BTreeMap<ClusterName, Inputs>,
    offers: BTreeMap<ClusterName, Offers>,
}

impl Everything {
    fn read(clusters: &[Cluster], seen: &[Seen]) -> Everything {
        let inputs = clusters.iter().zip(seen).map(|(cluster, seen)| Inputs::read(cluster, seen));
        let inputs: BTreeMap<_, _> = inputs.map(|i| (i.facts.cluster.clone(), i)).collect();
        let offers = inputs.iter().map(|(name, inputs)| {
            let mut offers = Offers::new();
            for offer in inputs.exposed().into_values().flat_map(|e| e.offers) {
                for (to, exposition) in offer.to {
                    offers.entry(to).or_default().insert(offer.key.clone(), exposition);
                }
            }
            (name.clone(), offers)
        });
        Everything { offers: offers.collect(), inputs }
    }

    /// What `donor` offers to `acceptor`, if they talk.
    fn offered(
        &self,
        donor: &ClusterName,
        acceptor: &Inputs,
    ) -> Result<BTreeMap<ExpositionKey, Arc<Exposition>>, MissingExposition> {
        let entry =
            acceptor.facts.peers.get(donor).filter(|p| p.endpoint.is_some()).ok_or(MissingExposition::PeerUnknown)?;
        let there = self.inputs.get(&entry.name).ok_or(MissingExposition::PeerUnknown)?;
        if !there.permits(&acceptor.facts.cluster) {
            return Err(MissingExposition::NotPermitted("it may not consume".into()));
        }
        Ok(self.offers[donor].get(&acceptor.facts.cluster).cloned().unwrap_or_default())
    }

    fn source(&self, wanted: &Arc<WantedService>, place: usize, acceptor: &Inputs) -> Source {
        let found = self.offered(&wanted.cluster, acceptor).and_then(|offers| {
            let exposition = offers.get(&wanted.exposed).ok_or(MissingExposition::NotExposed)?;
            match validate_exposition(&wanted.cluster, exposition, &acceptor.facts, NameAnswers::NotAsked) {
                Ok(()) => Ok(exposition.clone()),
                Err(why) => Err(MissingExposition::Rejected(why.to_string())),
            }
        });
        let version = found.as_ref().map(|e| e.version()).unwrap_or_default();
        Source { version, memory: acceptor.memory(wanted, place), ..Source::new(wanted.clone(), found) }
    }

    /// All that an acceptor's bindings come to.
    fn bound(&self, acceptor: &Inputs) -> (Vec<Object>, Vec<SourceOutcome>) {
        let splits: Vec<SplitBinding> = acceptor.bindings.values().map(|b| split_binding(b)).collect();
        let mut locals: BTreeMap<LocalName, Vec<Source>> = BTreeMap::new();
        for (place, entry) in splits.iter().flat_map(|split| split.entries.iter().enumerate()) {
            let Ok(wanted) = &entry.wanted else { continue };
            locals.entry(wanted.local.clone()).or_default().push(self.source(wanted, place, acceptor));
        }
        let mut passthroughs = PassthroughHosts::default();
        let hosts = |local: &LocalName| {
            let owner = local.owner_label();
            acceptor.held.iter().filter(move |(o, _)| *o == owner).map(|(_, host)| host.clone()).collect::<Vec<_>>()
        };
        passthroughs.restore_holders(locals.keys().flat_map(|l| hosts(l).into_iter().map(|host| (l.clone(), host))));
        locals.iter().for_each(|(local, sources)| drop(passthroughs.update_sources(local, sources)));
        // All donors have been heard: what is remembered counts only for what is wanted.
        locals.keys().for_each(|local| drop(passthroughs.forget_remembered(local)));
        let (mut objects, mut outcomes, mut shared) = (Vec::new(), Vec::new(), false);
        for (local, sources) in &locals {
            let standing = acceptor.names.contains(&local.host());
            let bound = bind_local_name(local, sources, &acceptor.inventory, &passthroughs, &acceptor.facts, standing);
            objects.extend(bound.objects);
            outcomes.extend(bound.outcomes);
            shared |= bound.shared;
        }
        if shared {
            objects.extend(shared_egress(&acceptor.inventory, &acceptor.facts));
        }
        (objects, outcomes)
    }
}

/// The name of an object's file, as docs/reference says.
fn file(object: &Object) -> String {
    let key = object.key();
    format!("{}_{}_{}.yaml", key.kind.as_str().to_ascii_lowercase(), key.namespace, key.name)
}

fn named(key: &InputKey) -> String {
    match key {
        InputKey::Policy(key) | InputKey::Binding(key) => key.to_string(),
        other => other.to_string(),
    }
}

fn is_self_made(binding: &RemoteServiceBinding) -> bool {
    binding.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == "wharf")
}

fn expected(all: &Everything, cluster: &Inputs, outcomes: &BTreeMap<ClusterName, Vec<SourceOutcome>>) -> Expected {
    let mut expected = Expected::default();
    let mut add = |object: &Object| {
        let before = expected.objects.insert(file(object), parse(&manifest::to_yaml(object)));
        assert!(before.is_none(), "two owners make {}", object.key());
    };
    let me = &cluster.facts.cluster;
    let exposed = cluster.exposed();
    exposed.values().flat_map(|e| &e.objects).for_each(&mut add);
    all.bound(cluster).0.iter().for_each(&mut add);
    for (key, exposed) in &exposed {
        let entry = |e: &wharf::translate::EntryOutcome| {
            let offer = exposed.offers.iter().find(|o| e.problem.is_none() && o.key.name.as_str() == e.status.name);
            let to: BTreeSet<_> = offer.into_iter().flat_map(|o| o.to.keys()).map(ToString::to_string).collect();
            let binds = |by: &ClusterName, key: &ExpositionKey| {
                let uses =
                    |o: &SourceOutcome| o.wanted.cluster == *me && o.wanted.exposed == *key && o.problem.is_none();
                outcomes[by].iter().any(uses)
            };
            let by =
                offer.into_iter().flat_map(|o| o.to.keys().filter(|c| outcomes.contains_key(*c) && binds(c, &o.key)));
            Entry { host: e.status.host.clone(), offered_to: to, bound_by: by.map(ToString::to_string).collect() }
        };
        expected.policies.insert(named(key), exposed.entries.iter().map(entry).collect());
    }
    for (key, binding) in &cluster.bindings {
        let mut found: BTreeMap<(usize, usize), String> = BTreeMap::new();
        for outcome in &outcomes[me] {
            let of = &outcome.wanted.binding;
            if format!("{}/{}", of.namespace, of.name) == named(key) {
                let problem = outcome.problem.as_ref().or(outcome.lacking.as_ref()).or(outcome.contest.as_ref());
                let reason = problem.map_or("Bound".into(), |p| p.reason.to_string());
                found.insert((outcome.wanted.remote, outcome.wanted.service), reason);
            }
        }
        let reason = |e: &wharf::translate::SourceEntry| match &e.wanted {
            Ok(_) => found.get(&(e.remote, e.service)).cloned().unwrap_or_default(),
            Err(problem) => problem.reason.to_string(),
        };
        expected.bindings.insert(named(key), split_binding(binding).entries.iter().map(reason).collect());
    }
    for peer in cluster.facts.peers.values().filter(|p| p.connection_mode != ConnectionMode::None) {
        let offered = all.offered(&peer.name, cluster).unwrap_or_default();
        let is_fit =
            |e: &&Arc<Exposition>| validate_exposition(&peer.name, e, &cluster.facts, NameAnswers::NotAsked).is_ok();
        let fit = offered.values().filter(is_fit);
        let keys: BTreeSet<_> = fit.map(|e| e.key.to_string()).collect();
        let namespace = peer.namespace.as_ref().map_or("default", |n| n.as_str());
        if !keys.is_empty() {
            expected.self_made.insert(format!("{namespace}/{}-services", peer.name), keys);
        }
    }
    expected
}

/// How what there is differs from what there should be; empty if it does not.
pub fn difference(clusters: &[Cluster], seen: &[Seen]) -> String {
    let all = Everything::read(clusters, seen);
    let outcomes: BTreeMap<_, _> = all.inputs.iter().map(|(name, i)| (name.clone(), all.bound(i).1)).collect();
    let mut text = String::new();
    for (cluster, seen) in clusters.iter().zip(seen) {
        let inputs = &all.inputs[&cluster.name.parse::<ClusterName>().unwrap()];
        let expected = expected(&all, inputs, &outcomes);
        let mut lines = String::new();
        compare("object", &expected.objects, &seen.objects, &mut lines);
        let dials = |by: &Inputs| by.facts.peers.get(&inputs.facts.cluster).is_some_and(|p| p.endpoint.is_some());
        let subscribes = |by: &str| all.inputs.get(&by.parse::<ClusterName>().unwrap()).is_some_and(dials);
        lost_ports(seen, &mut lines);
        compare("policy", &expected.policies, &policies_of(&seen.view, subscribes), &mut lines);
        compare("binding", &expected.bindings, &bindings_of(&seen.view), &mut lines);
        compare("self-made binding", &expected.self_made, &self_made(inputs), &mut lines);
        // What cannot be read, or is there twice, is a problem of the inputs.
        let of_agent = |p: &&ProblemView| !p.place.contains(".yaml");
        let exposes = |p: &&PolicyView| p.status.exposed.iter().any(|e| e.reason == "Exposed");
        for policy in seen.view.policies.iter().filter(exposes) {
            let lacking = |c: &&Condition| c.type_ == "Programmed" && c.status != ConditionStatus::True;
            for condition in policy.status.conditions.iter().filter(lacking) {
                let _ = writeln!(lines, "  policy {} is not programmed: {}", policy.name, condition.message);
            }
        }
        for problem in seen.view.problems.iter().filter(of_agent) {
            let _ = writeln!(lines, "  problem: {}: {}", problem.place, problem.message);
        }
        if !lines.is_empty() {
            let _ = write!(text, "{}:\n{lines}", cluster.name);
        }
    }
    text
}

/// Ports that a binding's status remembers, and that its local name has not: the name belongs to the binding, whatever donors
/// do. Names that somebody else has are left out.
fn lost_ports(seen: &Seen, lines: &mut String) {
    let services = seen.objects.values().filter(|object| object["kind"] == "Service");
    let host = |of: &Value| {
        let m = &of["metadata"];
        format!("{}.{}.svc.cluster.local", m["name"].as_str().unwrap(), m["namespace"].as_str().unwrap())
    };
    let ports = |of: &Value| -> BTreeSet<u64> {
        of["spec"]["ports"].as_array().into_iter().flatten().filter_map(|p| p["port"].as_u64()).collect()
    };
    let there: BTreeMap<String, BTreeSet<u64>> = services.map(|s| (host(s), ports(s))).collect();
    for row in seen.view.bindings.iter().flat_map(|b| &b.status.services).filter(|row| row.reason != "NameConflict") {
        // A port that lost a conflict is remembered, but the name is another's.
        for port in row.ports.iter().filter(|port| port.reason != "NameConflict") {
            if !there.get(&row.local_host).is_some_and(|ports| ports.contains(&u64::from(port.local_port))) {
                let why = format!("the row says {:?}, the port {:?}: {}", row.reason, port.reason, row.message);
                let _ = writeln!(lines, "  {} has lost its port {}; {why}", row.local_host, port.local_port);
            }
        }
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<String, T>,
    seen: &BTreeMap<String, T>,
    lines: &mut String,
) {
    let names: BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
    for name in names {
        let _ = match (expected.get(name), seen.get(name)) {
            (Some(e), Some(s)) if e == s => Ok(()),
            (Some(e), Some(s)) => writeln!(lines, "  {what} {name}\n    should be {e:?}\n    is        {s:?}"),
            (Some(_), None) => writeln!(lines, "  {what} {name} is missing"),
            (None, Some(s)) => writeln!(lines, "  {what} {name} should not be there: {s:?}"),
            (None, None) => Ok(()),
        };
    }
}

/// `subscribes`: whoever dials this cluster no more cannot say what became of what it bound, and is left out.
fn policies_of(view: &AgentView, subscribes: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<Entry>> {
    let policy = |p: &PolicyView| {
        let entry = |e: &wharf::api::ExposedStatus| {
            let by = e.bound_by.iter().filter(|by| subscribes(by));
            let offered_to = e.offered_to.iter().cloned().collect();
            Entry { host: e.host.clone(), offered_to, bound_by: by.cloned().collect() }
        };
        (format!("{}/{}", p.namespace, p.name), p.status.exposed.iter().map(entry).collect())
    };
    view.policies.iter().map(policy).collect()
}

fn bindings_of(view: &AgentView) -> BTreeMap<String, Vec<String>> {
    let binding = |b: &wharf::agent::view::BindingView| {
        let reasons = b.status.services.iter().map(|s| s.reason.clone()).collect();
        (format!("{}/{}", b.namespace, b.name), reasons)
    };
    view.bindings.iter().map(binding).collect()
}

/// The bindings in the folder that made themselves, with what is in them.
fn self_made(inputs: &Inputs) -> BTreeMap<String, BTreeSet<String>> {
    let ours = inputs.bindings.iter().filter(|(_, binding)| is_self_made(binding));
    let one = |(key, binding): (&InputKey, &Arc<RemoteServiceBinding>)| {
        let services = binding.spec.remote.iter().flat_map(|r| &r.services);
        let exposed = services.map(|s| format!("{}/{}", s.namespace.as_deref().unwrap_or("?"), s.name));
        (named(key), exposed.collect())
    };
    ours.map(one).collect()
}
