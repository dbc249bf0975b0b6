//! Wharf's own DestinationRules for the providers of what is exposed.
//!
//! They live in the gateway's namespace and are seen there only, so the owner's are never edited. But a rule in a
//! proxy's own namespace hides all others for that host (Istio, "Destination Rule: lookup path"), so everything that
//! the gateway found before ([`OwnersRule`]) is carried, field by field ([`carry`]): whoever else uses this gateway
//! goes on finding it. Rules of which a field cannot be carried keep the entry from being exposed.

use std::collections::BTreeMap;

use crate::api::Object;
use crate::api::istio::{
    DestinationRule, DestinationRuleSpec, DestinationRuleSubsets as Subset,
    DestinationRuleTrafficPolicy as TrafficPolicy, DestinationRuleTrafficPolicyPortLevelSettings as PortSettings,
    DestinationRuleTrafficPolicyTls as Tls, DestinationRuleTrafficPolicyTlsMode as ClientTlsMode,
};
use crate::model::{Host, Label};

use super::carry::limits::MAX_SUBSETS;
use super::carry::{self, AtField, CarryBudget, FieldRefusal};
use super::expose::ResolvedEntry;
use super::names;
use super::owners::{OwnersRule, RuleClient};
use super::problem::{Problem, ProblemReason, join_list};
use super::vouch;
use super::{HERE, export_list};

/// The rules that one exposition needs, gathered while its routes are made.
pub(super) struct ProviderRules<'a> {
    e: &'a ResolvedEntry<'a>,
    /// Sums of what the exposition has brought to the gateway.
    pub budget: CarryBudget,
    /// Provider → the subsets that are made for this exposition, by name.
    needed: BTreeMap<Label, BTreeMap<String, Subset>>,
    /// Facts about the rules that people should know.
    notes: Vec<String>,
}

impl<'a> ProviderRules<'a> {
    pub fn new(e: &'a ResolvedEntry<'a>) -> ProviderRules<'a> {
        ProviderRules { e, budget: CarryBudget::default(), needed: BTreeMap::new(), notes: Vec::new() }
    }

    /// Asks for the owner's subset under a name of Wharf's, and returns that name. A subset that no rule defines is
    /// refused: it would stand for all pods.
    pub fn request_subset(&mut self, service: &Label, subset: &str) -> Result<String, Problem> {
        let carried = self.find_defined(service, subset)?;
        if let Some(object) = self.e.inventory.service(self.e.key.namespace.as_str(), service.as_str()) {
            vouch::check_subset(service.as_str(), object)?;
        }
        let name = names::build_name("wharf", &[self.e.key.name.as_str(), subset]);
        self.needed.entry(service.clone()).or_default().insert(name.clone(), Subset { name: name.clone(), ..carried });
        Ok(name)
    }

    /// Asks for the provider's pods (or those of a subset) without the mesh's TLS, for what passes through: the gateway
    /// must not wrap what is TLS already.
    pub fn without_tls(&mut self, subset: Option<&str>) -> Result<String, Problem> {
        let owners = self.seen_by_gateway(&self.e.service);
        let alias = self.e.key.name.as_str();
        let (name, own) = match subset {
            None => (names::build_name("notls", &[alias]), Subset::default()),
            Some(subset) => (names::build_name("notls", &[alias, subset]), self.find_defined(&self.e.service, subset)?),
        };
        let policy = carry::carry_traffic_policy(owners.traffic_policy).at("trafficPolicy");
        let policy = policy.map_err(|refusal| self.unsupported_problem(&owners, &self.e.service, refusal))?;
        let untied = disable_tls(own.traffic_policy.unwrap_or_default(), policy);
        let made = Subset { name: name.clone(), labels: own.labels, traffic_policy: Some(untied) };
        self.needed.entry(self.e.service.clone()).or_default().insert(name.clone(), made);
        Ok(name)
    }

    /// Returns the rules, and the notes on them.
    pub fn into_objects(mut self) -> Result<(Vec<Object>, Vec<String>), Problem> {
        let needed = std::mem::take(&mut self.needed);
        if let Some(unread) = self.unread_rule().filter(|_| !needed.is_empty()) {
            self.notes.push(format!("{unread}; if it is for {}, its settings are not carried", self.e.service));
        }
        let mut objects = Vec::with_capacity(needed.len());
        for (service, subsets) in needed {
            let owners = self.seen_by_gateway(&service);
            let spec = self.rule_spec(&owners, &service, subsets);
            let spec = spec.map_err(|refusal| self.unsupported_problem(&owners, &service, refusal))?;
            let (alias, namespace) = (self.e.key.name.as_str(), self.e.key.namespace.as_str());
            let name = if service == self.e.service {
                names::build_name("ingressgateway-dest-rule", &[alias, namespace])
            } else {
                names::build_name("ingressgateway-dest-rule", &[alias, namespace, service.as_str()])
            };
            let metadata = self.e.marks.build_metadata(self.e.facts.ingress.namespace.as_str(), name);
            objects.push(Object::from(DestinationRule { metadata, spec }));
            if owners.stays_apart {
                self.notes.push(format!(
                    "a DestinationRule for {service} beside the gateway is exported otherwise than Wharf's, or has a workloadSelector: Istio lets one of the two hold, so calls may fail; ask the cluster's operator to give it exportTo: [\".\"] and no selector"
                ));
            }
        }
        Ok((objects, self.notes))
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
            export_to: Some(export_list(HERE)),
            traffic_policy: carry::carry_traffic_policy(owners.traffic_policy).at("trafficPolicy")?,
            subsets: Some(made.into_values().chain(carried).collect()),
            workload_selector: None,
        };
        self.budget.add_bytes(&spec)?;
        Ok(spec)
    }

    /// The rules that the gateway finds for a Service while there is none of Wharf's.
    fn seen_by_gateway(&self, service: &Label) -> OwnersRule<'a> {
        self.seen_from(service, &self.e.facts.ingress.namespace)
    }

    fn seen_from(&self, service: &Label, namespace: &Label) -> OwnersRule<'a> {
        let client = RuleClient { namespace, root: &self.e.facts.root_namespace };
        OwnersRule::find_for_client(self.e.inventory, service, &self.e.key.namespace, client)
    }

    /// Finds a subset as it is defined for the gateway; or, since the policy is of the owner's, for callers in the
    /// owner's namespace, with all that the rule says that they see.
    fn find_defined(&self, service: &Label, subset: &str) -> Result<Subset, Problem> {
        let owners = self.seen_by_gateway(service);
        if let Some(found) = owners.find_subset(subset) {
            return self.carry_subset(&owners, service, found);
        }
        let at_home = self.seen_from(service, &self.e.key.namespace);
        let Some(found) = at_home.find_subset(subset) else {
            return Err(self.undefined_problem(&owners, &at_home, service, subset));
        };
        let carried = self.carry_subset(&at_home, service, found)?;
        let policy = carry::carry_traffic_policy(at_home.traffic_policy).at("trafficPolicy");
        let policy = policy.map_err(|refusal| self.unsupported_problem(&at_home, service, refusal))?;
        Ok(Subset { traffic_policy: overlay_policy(policy, carried.traffic_policy), ..carried })
    }

    fn carry_subset(&self, owners: &OwnersRule<'_>, service: &Label, subset: &Subset) -> Result<Subset, Problem> {
        let carried = carry::carry_subset(subset).at_key("subsets", &subset.name);
        carried.map_err(|refusal| self.unsupported_problem(owners, service, refusal))
    }

    fn undefined_problem(
        &self,
        owners: &OwnersRule<'_>,
        at_home: &OwnersRule<'_>,
        service: &Label,
        subset: &str,
    ) -> Problem {
        if let Some(unread) = self.unread_rule() {
            let message = format!("it is not known whether {subset:?} is a subset of {service}: {unread}");
            return Problem::new(ProblemReason::Unreadable, self.problem_field(), message).cure("correct that");
        }
        let problem = Problem::new(
            ProblemReason::SubsetNotFound,
            self.problem_field(),
            format!("{subset:?} is not a subset of {service}"),
        );
        let rules = if owners.names.is_empty() { at_home } else { owners };
        if rules.names.is_empty() {
            return problem.cure(format!(
                "no DestinationRule for {service} is seen by the gateway; give one the host {service} or {}, and let its exportTo have the namespace {}",
                Host::of_service(service, &self.e.key.namespace),
                self.e.facts.ingress.namespace
            ));
        }
        let defined = join_list(rules.subsets.iter().map(|s| s.name.as_str()));
        problem.cure(format!("the DestinationRule {} defines: {defined}", rules.names.join(", ")))
    }

    /// The rules that may be for what is exposed, and cannot be read.
    fn unread_rule(&self) -> Option<String> {
        let facts = self.e.facts;
        let others = [facts.ingress.namespace.as_str(), facts.root_namespace.as_str()];
        self.e.inventory.unread_rule(self.e.key.namespace.as_str(), &others)
    }

    fn unsupported_problem(&self, owners: &OwnersRule<'_>, service: &Label, refusal: FieldRefusal) -> Problem {
        let object = format!("the DestinationRule {} of {service}", owners.names.join(", "));
        refusal.into_problem(ProblemReason::Unsupported, self.problem_field(), &object)
    }

    /// The field of the entry that needs the owner's rules.
    fn problem_field(&self) -> &'static str {
        match (&self.e.entry.subset, &self.e.entry.virtual_service) {
            (Some(_), _) => "subset",
            (None, Some(_)) => "virtualService",
            (None, None) => "tls",
        }
    }
}

/// Puts the fields of one policy over those of another, as Istio lays a subset's over its rule's (istiod,
/// `MergeSubsetTrafficPolicy`).
fn overlay_policy(below: Option<TrafficPolicy>, above: Option<TrafficPolicy>) -> Option<TrafficPolicy> {
    let (Some(below), Some(above)) = (below.clone(), above.clone()) else { return above.or(below) };
    let port_level_settings = overlay_ports(below.port_level_settings, &above);
    Some(TrafficPolicy {
        connection_pool: above.connection_pool.or(below.connection_pool),
        load_balancer: above.load_balancer.or(below.load_balancer),
        outlier_detection: above.outlier_detection.or(below.outlier_detection),
        port_level_settings,
        proxy_protocol: above.proxy_protocol.or(below.proxy_protocol),
        retry_budget: above.retry_budget.or(below.retry_budget),
        tls: above.tls.or(below.tls),
        tunnel: above.tunnel.or(below.tunnel),
    })
}

/// Settings of a rule for single ports hold for a subset too, with the subset's own fields over it, unless the subset
/// has settings for the port: these replace all (`GetPortLevelTrafficPolicy`, which takes the first of a port).
fn overlay_ports(below: Option<Vec<PortSettings>>, above: &TrafficPolicy) -> Option<Vec<PortSettings>> {
    let mut all = above.port_level_settings.clone().unwrap_or_default();
    for rules in below.into_iter().flatten() {
        if all.iter().any(|one| one.port == rules.port) {
            continue;
        }
        all.push(PortSettings {
            connection_pool: above.connection_pool.clone().or(rules.connection_pool),
            load_balancer: above.load_balancer.clone().or(rules.load_balancer),
            outlier_detection: above.outlier_detection.clone().or(rules.outlier_detection),
            port: rules.port,
            tls: above.tls.clone().or(rules.tls),
        });
    }
    (!all.is_empty()).then_some(all)
}

/// Switches TLS off, also where the owner sets it for single ports.
fn disable_tls(mut policy: TrafficPolicy, owners: Option<TrafficPolicy>) -> TrafficPolicy {
    let off = || Some(Tls { mode: Some(ClientTlsMode::Disable), ..Tls::default() });
    policy.tls = off();
    policy.port_level_settings = overlay_ports(owners.and_then(|o| o.port_level_settings), &policy);
    for port in policy.port_level_settings.iter_mut().flatten() {
        port.tls = off();
    }
    policy
}
