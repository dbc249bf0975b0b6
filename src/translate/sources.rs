//! Splits a binding by the local names that it feeds.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::api::{CONNECTION, Kind, MANAGED_BY, ObjectKey, PortRef, RemoteService, RemoteServiceBinding};
use crate::model::{ClusterName, Exposition, ExpositionKey, Host, Label, check_service_name};

use super::claims::ObjectAge;
use super::memory::PortMemory;
use super::names;
use super::ports::MAX_PORTS;
use super::problem::{Problem, ProblemReason};

/// `<namespace>/<name>` of a binding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for BindingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A name that callers of this cluster use. Several bindings and several clusters may feed one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalName {
    pub namespace: Label,
    pub name: Label,
}

impl LocalName {
    pub fn host(&self) -> Host {
        Host::of_service(&self.name, &self.namespace)
    }

    /// The Service that makes the name resolve.
    pub fn service_key(&self) -> ObjectKey {
        ObjectKey { kind: Kind::Service, namespace: self.namespace.to_string(), name: self.name.to_string() }
    }

    /// The owner label of its objects.
    pub fn owner_label(&self) -> String {
        names::local_owner(self.namespace.as_str(), self.name.as_str())
    }
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One service of `spec.remote[]` of a binding, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedService {
    pub binding: BindingName,
    /// Place in the binding: `spec.remote[remote].services[service]`.
    pub remote: usize,
    pub service: usize,
    pub local: LocalName,
    pub cluster: ClusterName,
    pub exposed: ExpositionKey,
    pub ports: WantedPorts,
    pub weight: Option<u32>,
    pub priority: u32,
    /// The binding says itself that the local name has other services behind it: by a weight, or a priority.
    pub shares: bool,
    /// Wharf made the binding, and its ports are those that are offered: none stays without a donor beside others.
    pub self_made: bool,
    /// Age of the binding.
    pub(super) age: ObjectAge,
}

/// The ports of an exposition that are wanted, and their local ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WantedPorts {
    /// All of them, under the donor's numbers.
    #[default]
    AsExposed,
    /// `port`: the local port of a service with one port, or one of several.
    Single(u16),
    Listed(Vec<WantedPort>),
}

impl WantedPorts {
    /// Keeps of a memory what fits these ports: the status that it comes from may be older than the spec.
    pub fn recall_memory(&self, memory: PortMemory) -> PortMemory {
        memory.forget_meaning(|port| self.may_mean(port.local, port.exposed))
    }

    /// Returns whether a local port may have been asked for to lead to this port of the donor. A name may be that of
    /// any port.
    fn may_mean(&self, local: u16, exposed: u16) -> bool {
        match self {
            WantedPorts::AsExposed => local == exposed,
            WantedPorts::Single(single) => local == *single,
            WantedPorts::Listed(list) => list.iter().any(|wanted| {
                let named = !matches!(wanted.port, PortRef::Number(number) if number != exposed);
                named && wanted.local.unwrap_or(exposed) == local
            }),
        }
    }
}

/// One of `ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPort {
    pub port: PortRef,
    pub local: Option<u16>,
}

impl WantedService {
    pub fn path(&self) -> String {
        format!("spec.remote[{}].services[{}]", self.remote, self.service)
    }

    /// Returns the place among all bindings.
    pub(super) fn place(&self) -> (&str, &str, usize, usize) {
        (&self.binding.namespace, &self.binding.name, self.remote, self.service)
    }
}

/// The reason why there is no exposition for a wanted service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingExposition {
    /// The donor is in step with us and offers nothing of that name (or not to us).
    NotExposed,
    /// This cluster knows no such peer, or does not watch it.
    PeerUnknown,
    /// It has not been reached since it was asked for; the text is the reason.
    PeerUnreachable(String),
    /// It refuses to talk to this cluster; the text is its answer.
    NotPermitted(String),
    /// It sent something that is not acceptable.
    Rejected(String),
}

/// A wanted service, the exposition that the donor offers for it, and the memory of it.
#[derive(Debug, Clone)]
pub struct Source {
    pub wanted: Arc<WantedService>,
    pub exposition: Result<Arc<Exposition>, MissingExposition>,
    /// The version of the exposition, as the donor names it.
    pub version: String,
    pub memory: PortMemory,
}

impl Source {
    /// Makes a source without a memory.
    pub fn new(wanted: Arc<WantedService>, exposition: Result<Arc<Exposition>, MissingExposition>) -> Source {
        Source { wanted, exposition, version: String::new(), memory: PortMemory::default() }
    }
}

/// One service of a binding: the parsed request, or its problem.
#[derive(Debug, Clone)]
pub struct SourceEntry {
    pub remote: usize,
    pub service: usize,
    pub wanted: Result<Arc<WantedService>, Problem>,
}

/// A binding, taken apart.
#[derive(Debug, Clone, Default)]
pub struct SplitBinding {
    /// True for an offer on the table: nothing is configured until somebody makes it live.
    pub potential: bool,
    /// In the order of the binding; empty if it is not in force.
    pub entries: Vec<SourceEntry>,
    /// Problems of the binding as a whole, or of the clusters in it.
    pub problems: Vec<Problem>,
}

impl SplitBinding {
    pub fn wanted(&self) -> impl Iterator<Item = &Arc<WantedService>> {
        self.entries.iter().filter_map(|e| e.wanted.as_ref().ok())
    }
}

/// Splits a binding into its sources. Each fails alone.
pub fn split_binding(binding: &RemoteServiceBinding) -> SplitBinding {
    let mut split = SplitBinding::default();
    let name = BindingName {
        namespace: binding.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: binding.metadata.name.clone().unwrap_or_default(),
    };
    match binding.metadata.labels.as_ref().and_then(|l| l.get(CONNECTION)).map(String::as_str) {
        None | Some("" | "live") => {}
        Some("potential") => {
            split.potential = true;
            return split;
        }
        Some(other) => {
            let message = format!("{other:?} is neither live nor potential");
            let field = format!("metadata.labels[{CONNECTION}]");
            split
                .problems
                .push(Problem::new(ProblemReason::Invalid, field, message).cure("nothing is configured until it is"));
            return split;
        }
    }
    let namespace: Label = match name.namespace.parse() {
        Ok(namespace) => namespace,
        Err(e) => {
            split.problems.push(Problem::new(ProblemReason::Invalid, "metadata.namespace", format!("{e}")));
            return split;
        }
    };
    if binding.spec.remote.is_empty() {
        let problem = Problem::new(ProblemReason::Invalid, "spec.remote", "it is empty, so that nothing is bound");
        split.problems.push(problem.cure("name at least one cluster"));
    }
    let age = ObjectAge::from_metadata(&binding.metadata);
    let manager = binding.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    let self_made = manager.is_some_and(|manager| manager == "wharf");
    for (remote, from) in binding.spec.remote.iter().enumerate() {
        let path = format!("spec.remote[{remote}]");
        let cluster = from.cluster.parse::<ClusterName>();
        if let Err(e) = &cluster {
            split.problems.push(Problem::new(ProblemReason::Invalid, format!("{path}.cluster"), format!("{e}")));
        } else if from.services.is_empty() {
            let field = format!("{path}.services");
            let problem = Problem::new(ProblemReason::Invalid, field, "it is empty, so that nothing is bound");
            split.problems.push(problem.cure("name at least one service"));
        }
        for (service, asked) in from.services.iter().enumerate() {
            let wanted = match &cluster {
                Ok(cluster) => parse_wanted(asked, cluster, &name, &namespace, (remote, service), &age, self_made)
                    .map(Arc::new)
                    .map_err(|p| p.below(&format!("{path}.services[{service}]"))),
                Err(e) => Err(Problem::new(ProblemReason::Invalid, format!("{path}.cluster"), format!("{e}"))),
            };
            split.entries.push(SourceEntry { remote, service, wanted });
        }
    }
    split
}

fn parse_wanted(
    asked: &RemoteService,
    cluster: &ClusterName,
    binding: &BindingName,
    here: &Label,
    (remote, service): (usize, usize),
    age: &ObjectAge,
    self_made: bool,
) -> Result<WantedService, Problem> {
    let label = |field: &str, s: &str| -> Result<Label, Problem> {
        s.parse().map_err(|e| Problem::new(ProblemReason::Invalid, field, format!("{e}")))
    };
    let name = label("name", &asked.name)?;
    let namespace = asked.namespace.as_deref().map(|ns| label("namespace", ns)).transpose()?;
    let alias = asked.alias.as_deref().map(|alias| label("alias", alias)).transpose()?;
    let field = if alias.is_some() { "alias" } else { "name" };
    check_service_name(alias.as_ref().unwrap_or(&name)).map_err(|e| {
        let problem = Problem::new(ProblemReason::Invalid, field, format!("{e}: no Service can have that name here"));
        problem.cure("give it an alias that begins with a letter")
    })?;
    Ok(WantedService {
        binding: binding.clone(),
        remote,
        service,
        local: LocalName { namespace: here.clone(), name: alias.unwrap_or_else(|| name.clone()) },
        cluster: cluster.clone(),
        exposed: ExpositionKey { namespace: namespace.unwrap_or_else(|| here.clone()), name },
        ports: wanted_ports(asked)?,
        weight: asked.weight,
        priority: asked.priority.unwrap_or(0),
        shares: asked.weight.is_some() || asked.priority.is_some(),
        self_made,
        age: age.clone(),
    })
}

fn wanted_ports(asked: &RemoteService) -> Result<WantedPorts, Problem> {
    let invalid = |message: String| Problem::new(ProblemReason::Invalid, "ports", message);
    let single = asked.port.filter(|p| *p != 0);
    if asked.ports.is_empty() {
        return Ok(single.map_or(WantedPorts::AsExposed, WantedPorts::Single));
    }
    if single.is_some() {
        return Err(invalid("port and ports exclude each other".to_owned()).cure("keep one of them"));
    }
    if asked.ports.len() > MAX_PORTS {
        let message = format!("there are {}, more than the {MAX_PORTS} that one name can have", asked.ports.len());
        return Err(invalid(message));
    }
    let mut locals = BTreeSet::new();
    let mut listed = Vec::with_capacity(asked.ports.len());
    for (i, port) in asked.ports.iter().enumerate() {
        if port.port == PortRef::Number(0) {
            return Err(Problem::new(ProblemReason::Invalid, format!("ports[{i}].port"), "0 is not a port"));
        }
        let local = port.local_port.filter(|p| *p != 0);
        if let Some(local) = local.filter(|local| !locals.insert(*local)) {
            let message = format!("two of them have the local port {local}");
            return Err(invalid(message).cure("give each a local port of its own"));
        }
        listed.push(WantedPort { port: port.port.clone(), local });
    }
    Ok(WantedPorts::Listed(listed))
}
