//! Checks Istio's defaults, and others' objects, that keep callers from Wharf's: the mesh's defaults of `exportTo`,
//! DestinationRules for the egress gateway, Sidecars that do not import it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use serde::Deserialize;

use super::{CheckArea, Finding, LookResult};
use crate::api::{EXPORT_TO, MeshConfig};
use crate::config::Config;
use crate::model::{OwnGateway, Style};
use crate::translate::{ForeignRule, compare_root_namespace};

/// The parts of a Sidecar that matter to these checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarScope {
    pub namespace: String,
    pub name: String,
    /// Imported hosts, as `<namespace>/<host>`. Empty: everything is imported.
    pub imports: Vec<String>,
}

impl SidecarScope {
    /// Reads an object of Istio's kind Sidecar.
    pub fn from_spec(namespace: &str, name: &str, spec: &serde_json::Value) -> SidecarScope {
        #[derive(Default, Deserialize)]
        struct SidecarListener {
            #[serde(default)]
            hosts: Vec<String>,
        }
        let egress: Vec<SidecarListener> = serde_json::from_value(spec["egress"].clone()).unwrap_or_default();
        let imports = egress.into_iter().flat_map(|l| l.hosts).collect();
        SidecarScope { namespace: namespace.to_owned(), name: name.to_owned(), imports }
    }

    fn imports_host(&self, namespace: &str, host: &str) -> bool {
        let covers = |import: &String| {
            let Some((of, pattern)) = import.split_once('/') else { return false };
            let of_namespace = match of {
                "*" => true,
                "." => self.namespace == namespace,
                of => of == namespace,
            };
            of_namespace
                && match pattern.strip_prefix('*') {
                    Some(end) => host.ends_with(end),
                    None => pattern == host,
                }
        };
        self.imports.is_empty() || self.imports.iter().any(covers)
    }
}

/// Reports defaults of the mesh that hide Wharf's objects or take their place.
pub fn judge_defaults(
    place: &str,
    config: &Config,
    mesh: &LookResult<MeshConfig>,
    egress: Option<&Service>,
    rules: &[ForeignRule],
) -> Vec<Finding> {
    let Ok(Some(mesh)) = mesh else { return Vec::new() };
    let mut findings = Vec::new();
    let settings = mesh.settings(place).ok();
    if let Some(problem) = settings.and_then(|kept| compare_root_namespace(&kept, &config.root_namespace)) {
        findings.push(Finding::error(CheckArea::Mesh, place, problem.message).with_cure(problem.cure));
    }
    let is_private =
        |to: &Option<Vec<String>>| to.as_ref().is_some_and(|t| !t.is_empty() && !t.iter().any(|e| e == "*"));
    if config.style == Style::EgressIngress {
        let OwnGateway { namespace, service, .. } = &config.egress;
        let annotated = egress.and_then(|s| s.metadata.annotations.as_ref()?.get(EXPORT_TO));
        if is_private(&mesh.default_service_export_to) && egress.is_some() && annotated.is_none() {
            let message = "defaultServiceExportTo hides the egress gateway's Service: callers of other namespaces do not find it, and their calls fail";
            let cure = format!("annotate it: kubectl annotate service -n {namespace} {service} {EXPORT_TO}='*'");
            findings.push(
                Finding::error(CheckArea::Mesh, format!("Service {namespace}/{service}"), message).with_cure(cure),
            );
        }
        let by_default = rules.iter().find(|r| r.namespace == namespace.as_str() && r.is_by_default());
        if let Some(rule) = by_default.filter(|_| is_private(&mesh.default_destination_rule_export_to)) {
            let message = "it has no exportTo, and defaultDestinationRuleExportTo hides it; Wharf's rules for the egress gateway, which Istio merges with it, have none either: calls of other namespaces fail";
            findings.push(
                Finding::error(CheckArea::Mesh, rule.to_string(), message).with_cure("give it exportTo: [\"*\"]"),
            );
        }
    } else if mesh.service_entry_visibility.as_ref().is_some_and(|v| v.hides()) {
        let message = "serviceEntryVisibility hides ServiceEntries from other namespaces: bound services may be called from the namespace of their binding only";
        findings.push(
            Finding::warning(CheckArea::Mesh, place, message)
                .with_cure("let a policy there make those of the bindings' namespaces PUBLIC"),
        );
    }
    findings
}

/// Reports DestinationRules that take the place of Wharf's for the egress gateway.
pub fn judge_rules(config: &Config, rules: &[ForeignRule]) -> Vec<Finding> {
    let gateway = &config.egress.namespace;
    let in_front = rules.iter().filter(|r| r.is_in_front(gateway, &config.root_namespace));
    let one = |rule: &ForeignRule| {
        let message = format!(
            "it covers the egress gateway (host {}), and takes the place of Wharf's rule there: calls of bound services from the namespace {} fail",
            rule.host, rule.namespace
        );
        Finding::warning(CheckArea::Mesh, rule.to_string(), message)
            .with_cure(format!("narrow its host, or move it to {gateway}, where Istio merges both"))
    };
    in_front.map(one).collect()
}

/// Reports Sidecars that hide the egress gateway from their callers.
pub fn judge_sidecars(config: &Config, seen: &LookResult<Vec<SidecarScope>>) -> Vec<Finding> {
    let all = match seen {
        Err(why) => return vec![Finding::unseen(CheckArea::Mesh, "Sidecars", why)],
        Ok(all) => all.iter().flatten(),
    };
    let (namespace, host) = (config.egress.namespace.as_str(), config.egress.host());
    let hiding: BTreeSet<(&str, &str)> = all
        .filter(|s| !s.imports_host(namespace, host.as_str()))
        .map(|s| (s.namespace.as_str(), s.name.as_str()))
        .collect();
    let one = |(of, name): (&str, &str)| {
        let whose = if of == config.root_namespace.as_str() {
            "of namespaces without a Sidecar of their own".to_owned()
        } else {
            format!("of the namespace {of}")
        };
        let message = format!("it does not import the egress gateway: callers {whose} do not reach bound services");
        Finding::warning(CheckArea::Mesh, format!("Sidecar {of}/{name}"), message).with_cure(format!(
            "add {namespace}/{host} to spec.egress[].hosts, and the namespaces of the bindings, such as ./*"
        ))
    };
    hiding.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Kind, Object};
    use crate::check::Severity;
    use crate::translate::Inventory;

    fn config(style: &str) -> Config {
        let text = format!("{{cluster: isle, style: {style}, store: {{dir: /tmp}}}}");
        Config::parse(&text, "config.yaml", std::path::Path::new("/")).unwrap()
    }

    fn mesh(value: serde_json::Value) -> LookResult<MeshConfig> {
        Ok(Some(serde_json::from_value(value).unwrap()))
    }

    fn rules_for(host: &str, namespace: &str, export_to: serde_json::Value) -> Vec<ForeignRule> {
        let mut inventory = Inventory::default();
        let value =
            json!({"metadata": {"name": "old", "namespace": namespace}, "spec": {"host": host, "exportTo": export_to}});
        inventory.set_object(std::sync::Arc::new(Object::from_json(Kind::DestinationRule, &value).unwrap()));
        inventory.rules_over(&config("EGRESS_INGRESS").egress.host()).into_iter().collect()
    }

    fn told(findings: &[Finding]) -> Vec<(Severity, &str)> {
        findings.iter().map(|f| (f.severity, f.object.as_str())).collect()
    }

    #[test]
    fn defaults_of_the_mesh_that_hide_what_callers_need_are_told() {
        let egress = config("EGRESS_INGRESS");
        let mut service = Service::default();
        let of = |mesh_value, service: &Service, rules: &[ForeignRule]| {
            judge_defaults("ConfigMap istio-system/istio", &egress, &mesh(mesh_value), Some(service), rules)
        };
        assert!(of(json!({}), &service, &[]).is_empty());
        assert!(
            of(json!({"rootNamespace": "istio-system", "defaultServiceExportTo": ["*"]}), &service, &[]).is_empty()
        );
        let root = of(json!({"rootNamespace": "mesh"}), &service, &[]);
        assert_eq!(told(&root), [(Severity::Error, "ConfigMap istio-system/istio")]);
        assert_eq!(root[0].cure, "set istiod.rootNamespace: mesh");
        let hidden = json!({"defaultServiceExportTo": ["."]});
        assert_eq!(
            told(&of(hidden.clone(), &service, &[])),
            [(Severity::Error, "Service istio-system/istio-egressgateway")]
        );
        service.metadata.annotations.get_or_insert_default().insert(EXPORT_TO.to_owned(), "*".to_owned());
        assert!(of(hidden, &service, &[]).is_empty());
        let private = json!({"defaultDestinationRuleExportTo": ["."]});
        let host = "istio-egressgateway.istio-system.svc.cluster.local";
        let by_default = rules_for(host, "istio-system", json!([]));
        assert_eq!(
            told(&of(private.clone(), &service, &by_default)),
            [(Severity::Error, "DestinationRule istio-system/old")]
        );
        assert!(of(private, &service, &rules_for(host, "istio-system", json!(["*"]))).is_empty());
        let entries = json!({"serviceEntryVisibility": {"defaultVisibility": "NAMESPACE", "applyToSidecars": true}});
        assert!(of(entries.clone(), &service, &[]).is_empty(), "no caller needs one");
        let direct = judge_defaults("x", &config("DIRECT_INGRESS"), &mesh(entries), None, &[]);
        assert_eq!(told(&direct), [(Severity::Warning, "x")]);
    }

    #[test]
    fn rules_that_hide_wharfs_from_callers_are_told() {
        let egress = config("EGRESS_INGRESS");
        for (host, namespace, export_to, count) in [
            ("istio-egressgateway.istio-system.svc.cluster.local", "office", json!([]), 1),
            ("*.local", "office", json!(["."]), 1),
            ("*", "office", json!(["lab"]), 0),
            ("*.local", "istio-system", json!([]), 0),
            ("till", "office", json!([]), 0),
        ] {
            assert_eq!(
                judge_rules(&egress, &rules_for(host, namespace, export_to)).len(),
                count,
                "{host} in {namespace}"
            );
        }
    }

    #[test]
    fn a_sidecar_that_does_not_import_the_egress_gateway_is_told() {
        let egress = config("EGRESS_INGRESS");
        for (spec, hides) in [
            (json!({}), false),
            (json!({"egress": [{"hosts": ["./*"]}]}), true),
            (json!({"egress": [{"hosts": ["./*", "istio-system/*"]}]}), false),
            (json!({"egress": [{"hosts": ["./*"]}, {"hosts": ["*/*.istio-system.svc.cluster.local"]}]}), false),
            (json!({"egress": [{"hosts": ["istio-system/istiod.istio-system.svc.cluster.local"]}]}), true),
            (json!({"egress": [{"hosts": ["~/*"]}]}), true),
        ] {
            let seen = Ok(Some(vec![SidecarScope::from_spec("office", "narrow", &spec)]));
            assert_eq!(
                told(&judge_sidecars(&egress, &seen)) == [(Severity::Warning, "Sidecar office/narrow")],
                hides,
                "{spec}"
            );
        }
        assert!(judge_sidecars(&egress, &Ok(None)).is_empty(), "the kind is not there");
    }
}
