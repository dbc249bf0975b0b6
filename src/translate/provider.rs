//! Wharf's own DestinationRules for the providers of what is exposed.
//!
//! They live in the gateway's namespace and are seen there only, so the owner's are never edited. But a rule in a
//! proxy's own namespace hides all others for that host (Istio, "Destination Rule: lookup path"), so everything that
//! the owner's rules say is copied: whoever else uses this gateway goes on finding the owner's subsets.

use std::collections::BTreeMap;

use crate::api::Object;
use crate::api::istio::{
    DestinationRule, DestinationRuleSpec, DestinationRuleSubsets as Subset,
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyTls as Tls,
    DestinationRuleTrafficPolicyTlsMode as ClientTlsMode,
};
use crate::model::{Host, Label};

use super::expose::Resolved;
use super::inventory::OwnersRule;
use super::names;
use super::problem::{Problem, Reason, listed};

/// The rules that one exposition needs, gathered while its routes are made.
pub(super) struct Rules<'a> {
    e: &'a Resolved<'a>,
    /// Provider → the subsets that are made for this exposition, by name.
    needed: BTreeMap<Label, BTreeMap<String, Subset>>,
}

impl<'a> Rules<'a> {
    pub fn new(e: &'a Resolved<'a>) -> Rules<'a> {
        Rules { e, needed: BTreeMap::new() }
    }

    /// Asks for a copy of the owner's subset; returns its name. What no rule defines is refused: it would stand for all pods.
    pub fn subset(&mut self, service: &Label, subset: &str) -> Result<String, Problem> {
        let owners = self.e.inventory.rule(service, &self.e.key.namespace);
        let copy = defined(&owners, service, subset)?.clone();
        let name = names::object("wharf", &[self.e.key.name.as_str(), subset]);
        self.needed.entry(service.clone()).or_default().insert(name.clone(), Subset { name: name.clone(), ..copy });
        Ok(name)
    }

    /// Asks for the provider's pods (or those of a subset) without the mesh's TLS, for what passes through: the gateway
    /// must not wrap what is TLS already.
    pub fn without_tls(&mut self, subset: Option<&str>) -> Result<String, Problem> {
        let owners = self.e.inventory.rule(&self.e.service, &self.e.key.namespace);
        let alias = self.e.key.name.as_str();
        let (name, copy) = match subset {
            None => (names::object("notls", &[alias]), Subset::default()),
            Some(subset) => {
                let copy = defined(&owners, &self.e.service, subset).map_err(|p| p.below("subset"))?.clone();
                (names::object("notls", &[alias, subset]), copy)
            }
        };
        let policy = untie(copy.traffic_policy.unwrap_or_default(), owners.traffic_policy);
        let made = Subset { name: name.clone(), labels: copy.labels, traffic_policy: Some(policy) };
        self.needed.entry(self.e.service.clone()).or_default().insert(name.clone(), made);
        Ok(name)
    }

    pub fn into_objects(self) -> Vec<Object> {
        let Rules { e, needed } = self;
        let rule = |(service, subsets): (Label, BTreeMap<String, Subset>)| {
            let owners = e.inventory.rule(&service, &e.key.namespace);
            let theirs = owners.subsets.iter().filter(|s| !subsets.contains_key(&s.name)).map(|s| (*s).clone());
            let (alias, namespace) = (e.key.name.as_str(), e.key.namespace.as_str());
            let name = if service == e.service {
                names::object("ingressgateway-dest-rule", &[alias, namespace])
            } else {
                names::object("ingressgateway-dest-rule", &[alias, namespace, service.as_str()])
            };
            let spec = DestinationRuleSpec {
                host: Host::of_service(&service, &e.key.namespace).to_string(),
                export_to: Some(vec![".".to_owned()]),
                traffic_policy: owners.traffic_policy.cloned(),
                subsets: Some(subsets.values().cloned().chain(theirs).collect()),
                workload_selector: None,
            };
            Object::from(DestinationRule { metadata: e.marks.meta(e.facts.ingress.namespace.as_str(), name), spec })
        };
        needed.into_iter().map(rule).collect()
    }
}

fn defined<'a>(owners: &OwnersRule<'a>, service: &Label, subset: &str) -> Result<&'a Subset, Problem> {
    owners.subset(subset).ok_or_else(|| {
        let problem = Problem::new(Reason::SubsetNotFound, "", format!("{subset:?} is not a subset of {service}"));
        if owners.names.is_empty() {
            return problem.cure(format!("there is no DestinationRule for {service} in its namespace"));
        }
        let defined = listed(owners.subsets.iter().map(|s| s.name.as_str()));
        problem.cure(format!("the DestinationRule {} defines: {defined}", owners.names.join(", ")))
    })
}

/// Switches TLS off, also where the owner sets it for single ports.
fn untie(mut policy: TrafficPolicy, owners: Option<&TrafficPolicy>) -> TrafficPolicy {
    let off = || Some(Tls { mode: Some(ClientTlsMode::Disable), ..Tls::default() });
    policy.tls = off();
    let theirs = owners.and_then(|o| o.port_level_settings.clone());
    policy.port_level_settings = policy.port_level_settings.or(theirs).filter(|s| !s.is_empty());
    for port in policy.port_level_settings.iter_mut().flatten() {
        port.tls = off();
    }
    policy
}
