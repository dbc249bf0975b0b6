//! Wharf's own DestinationRules for the providers of what is exposed.
//!
//! They live in the gateway's namespace and are seen there only, so the owner's are never edited. But a rule in a
//! proxy's own namespace hides all others for that host (Istio, "Destination Rule: lookup path"), so everything that
//! the owner's rules say is carried, field by field ([`carry`]): whoever else uses this gateway goes on finding the
//! owner's subsets. Rules of which a field cannot be carried keep the entry from being exposed.

use std::collections::BTreeMap;

use crate::api::Object;
use crate::api::istio::{
    DestinationRule, DestinationRuleSpec, DestinationRuleSubsets as Subset,
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyTls as Tls,
    DestinationRuleTrafficPolicyTlsMode as ClientTlsMode,
};
use crate::model::{Host, Label};

use super::carry::limits::MAX_SUBSETS;
use super::carry::{self, AtField, CarryBudget, FieldRefusal};
use super::expose::Resolved;
use super::inventory::OwnersRule;
use super::names;
use super::problem::{Problem, Reason, listed};
use super::vouch;

/// The rules that one exposition needs, gathered while its routes are made.
pub(super) struct Rules<'a> {
    e: &'a Resolved<'a>,
    /// How much the exposition has brought to the gateway.
    pub budget: CarryBudget,
    /// Provider → the subsets that are made for this exposition, by name.
    needed: BTreeMap<Label, BTreeMap<String, Subset>>,
}

impl<'a> Rules<'a> {
    pub fn new(e: &'a Resolved<'a>) -> Rules<'a> {
        Rules { e, budget: CarryBudget::default(), needed: BTreeMap::new() }
    }

    /// Asks for the owner's subset under a name of Wharf's, and returns that. What no rule defines is refused: it would
    /// stand for all pods.
    pub fn subset(&mut self, service: &Label, subset: &str) -> Result<String, Problem> {
        let owners = self.e.inventory.rule(service, &self.e.key.namespace);
        let carried = self.carried(&owners, service, self.defined(&owners, service, subset)?)?;
        if let Some(object) = self.e.inventory.service(self.e.key.namespace.as_str(), service.as_str()) {
            vouch::check_subset(service.as_str(), object)?;
        }
        let name = names::object("wharf", &[self.e.key.name.as_str(), subset]);
        self.needed.entry(service.clone()).or_default().insert(name.clone(), Subset { name: name.clone(), ..carried });
        Ok(name)
    }

    /// Asks for the provider's pods (or those of a subset) without the mesh's TLS, for what passes through: the gateway
    /// must not wrap what is TLS already.
    pub fn without_tls(&mut self, subset: Option<&str>) -> Result<String, Problem> {
        let owners = self.e.inventory.rule(&self.e.service, &self.e.key.namespace);
        let alias = self.e.key.name.as_str();
        let (name, own) = match subset {
            None => (names::object("notls", &[alias]), Subset::default()),
            Some(subset) => {
                let found = self.defined(&owners, &self.e.service, subset)?;
                (names::object("notls", &[alias, subset]), self.carried(&owners, &self.e.service, found)?)
            }
        };
        let policy = carry::carry_traffic_policy(owners.traffic_policy).at("trafficPolicy");
        let policy = policy.map_err(|refusal| self.unsupported(&owners, &self.e.service, refusal))?;
        let untied = untie(own.traffic_policy.unwrap_or_default(), policy);
        let made = Subset { name: name.clone(), labels: own.labels, traffic_policy: Some(untied) };
        self.needed.entry(self.e.service.clone()).or_default().insert(name.clone(), made);
        Ok(name)
    }

    pub fn into_objects(mut self) -> Result<Vec<Object>, Problem> {
        let needed = std::mem::take(&mut self.needed);
        let mut objects = Vec::with_capacity(needed.len());
        for (service, subsets) in needed {
            let owners = self.e.inventory.rule(&service, &self.e.key.namespace);
            let spec = self.rule_spec(&owners, &service, subsets);
            let spec = spec.map_err(|refusal| self.unsupported(&owners, &service, refusal))?;
            let (alias, namespace) = (self.e.key.name.as_str(), self.e.key.namespace.as_str());
            let name = if service == self.e.service {
                names::object("ingressgateway-dest-rule", &[alias, namespace])
            } else {
                names::object("ingressgateway-dest-rule", &[alias, namespace, service.as_str()])
            };
            let metadata = self.e.marks.meta(self.e.facts.ingress.namespace.as_str(), name);
            objects.push(Object::from(DestinationRule { metadata, spec }));
        }
        Ok(objects)
    }

    /// The rule for one Service: the subsets that were asked for, and all that the owner's rules say.
    fn rule_spec(
        &mut self,
        owners: &OwnersRule<'_>,
        service: &Label,
        made: BTreeMap<String, Subset>,
    ) -> Result<DestinationRuleSpec, FieldRefusal> {
        if owners.subsets.len() > MAX_SUBSETS {
            return Err(FieldRefusal::new(format!("there are more than {MAX_SUBSETS}")).below("subsets"));
        }
        let theirs = owners.subsets.iter().filter(|s| !made.contains_key(&s.name));
        let carried = theirs.map(|s| carry::carry_subset(s).at_key("subsets", &s.name));
        let carried = carried.collect::<Result<Vec<Subset>, FieldRefusal>>()?;
        let spec = DestinationRuleSpec {
            host: Host::of_service(service, &self.e.key.namespace).to_string(),
            export_to: Some(vec![".".to_owned()]),
            traffic_policy: carry::carry_traffic_policy(owners.traffic_policy).at("trafficPolicy")?,
            subsets: Some(made.into_values().chain(carried).collect()),
            workload_selector: None,
        };
        self.budget.add_bytes(&spec)?;
        Ok(spec)
    }

    fn carried(&self, owners: &OwnersRule<'_>, service: &Label, subset: &Subset) -> Result<Subset, Problem> {
        let carried = carry::carry_subset(subset).at_key("subsets", &subset.name);
        carried.map_err(|refusal| self.unsupported(owners, service, refusal))
    }

    fn defined<'b>(&self, owners: &OwnersRule<'b>, service: &Label, subset: &str) -> Result<&'b Subset, Problem> {
        owners.subset(subset).ok_or_else(|| {
            let message = format!("{subset:?} is not a subset of {service}");
            let problem = Problem::new(Reason::SubsetNotFound, self.field(), message);
            if owners.names.is_empty() {
                return problem.cure(format!("there is no DestinationRule for {service} in its namespace"));
            }
            let defined = listed(owners.subsets.iter().map(|s| s.name.as_str()));
            problem.cure(format!("the DestinationRule {} defines: {defined}", owners.names.join(", ")))
        })
    }

    fn unsupported(&self, owners: &OwnersRule<'_>, service: &Label, refusal: FieldRefusal) -> Problem {
        let object = format!("the DestinationRule {} of {service}", owners.names.join(", "));
        refusal.into_problem(Reason::Unsupported, self.field(), &object)
    }

    /// The field of the entry that needs the owner's rules.
    fn field(&self) -> &'static str {
        match (&self.e.entry.subset, &self.e.entry.virtual_service) {
            (Some(_), _) => "subset",
            (None, Some(_)) => "virtualService",
            (None, None) => "tls",
        }
    }
}

/// Switches TLS off, also where the owner sets it for single ports.
fn untie(mut policy: TrafficPolicy, owners: Option<TrafficPolicy>) -> TrafficPolicy {
    let off = || Some(Tls { mode: Some(ClientTlsMode::Disable), ..Tls::default() });
    policy.tls = off();
    let theirs = owners.and_then(|o| o.port_level_settings);
    policy.port_level_settings = policy.port_level_settings.or(theirs).filter(|s| !s.is_empty());
    for port in policy.port_level_settings.iter_mut().flatten() {
        port.tls = off();
    }
    policy
}
