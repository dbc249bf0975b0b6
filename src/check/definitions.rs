//! Checks the definitions that the API server has: Wharf's own kinds, in this version, and Istio's that Wharf writes.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{CheckArea, Finding, LookResult, UnseenReason};
use crate::api::{GROUP, Kind, VERSION};
use crate::model::NewerField;

const INSTALL: &str = "wharf crds | kubectl apply --server-side -f -";

/// Compares one of Wharf's definitions with the one that this program would install.
pub fn judge_own(wanted: &CustomResourceDefinition, found: &LookResult<CustomResourceDefinition>) -> Finding {
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let found = match found {
        Err(why) => return Finding::unseen(CheckArea::Definitions, name, why),
        Ok(None) => return Finding::error(CheckArea::Definitions, name, "it is not installed").with_cure(INSTALL),
        Ok(Some(found)) => found,
    };
    let version = found.spec.versions.iter().find(|v| v.name == VERSION);
    if !version.is_some_and(|v| v.served) {
        let message = format!("it does not serve {VERSION}, which this version of Wharf speaks");
        return Finding::error(CheckArea::Definitions, name, message).with_cure(INSTALL);
    }
    if let Some(why) = not_established(found) {
        let cure = format!("kubectl describe crd {name}: another definition may have its names");
        return Finding::error(CheckArea::Definitions, name, format!("the API server does not serve it: {why}"))
            .with_cure(cure);
    }
    let differs = list_differences(wanted, found);
    if differs.is_empty() {
        return Finding::ok(CheckArea::Definitions, name, "it is there, and of this version");
    }
    let message = format!("it is of another version of Wharf than this program: its {} differ", differs.join(" and "));
    let cure = format!("if this program is as new as the agent: {INSTALL}");
    Finding::warning(CheckArea::Definitions, name, message).with_cure(cure)
}

fn not_established(found: &CustomResourceDefinition) -> Option<String> {
    let conditions = found.status.as_ref().and_then(|s| s.conditions.as_ref())?;
    let bad = |type_: &str| conditions.iter().find(|c| c.type_ == type_ && c.status != "True");
    let condition = bad("NamesAccepted").or_else(|| bad("Established"))?;
    Some(condition.message.clone().unwrap_or_else(|| condition.type_.clone()))
}

/// Lists the differences between two definitions that users would notice.
fn list_differences(wanted: &CustomResourceDefinition, found: &CustomResourceDefinition) -> Vec<&'static str> {
    let version = |crd: &CustomResourceDefinition, field: &str| {
        let version = crd.spec.versions.iter().find(|v| v.name == VERSION);
        strip_defaults(version.and_then(|v| serde_json::to_value(v).ok()).map_or(Value::Null, |mut v| v[field].take()))
    };
    let names = |crd: &CustomResourceDefinition| {
        let set = |names: &Option<Vec<String>>| names.iter().flatten().cloned().collect::<BTreeSet<_>>();
        (set(&crd.spec.names.short_names), set(&crd.spec.names.categories), crd.spec.scope.clone())
    };
    let differs = |field: &str| version(wanted, field) != version(found, field);
    let mut told = Vec::new();
    told.extend(differs("schema").then_some("fields"));
    told.extend(differs("additionalPrinterColumns").then_some("columns"));
    told.extend(differs("subresources").then_some("subresources"));
    told.extend((names(wanted) != names(found)).then_some("names"));
    told
}

/// Removes what has no meaning: null, and the default priority of columns.
fn strip_defaults(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, v)| !(v.is_null() || key == "priority" && *v == 0));
            Value::Object(kept.map(|(key, v)| (key, strip_defaults(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(strip_defaults).collect()),
        other => other,
    }
}

/// Checks the kinds of Wharf that the API server serves, for those who may not read definitions.
pub fn judge_served(kinds: &LookResult<Vec<String>>) -> Finding {
    let object = format!("{GROUP}/{VERSION}");
    match kinds {
        Err(why) => Finding::unseen(CheckArea::Definitions, object, why),
        Ok(kinds) => {
            let missing = missing_kinds(&["ServiceExpositionPolicy", "RemoteServiceBinding", "ClusterPeering"], kinds);
            if missing.is_empty() {
                Finding::unchecked(CheckArea::Definitions, object, "its kinds are served; of which version is not seen")
                    .with_cure("ask as somebody who may read CustomResourceDefinitions")
            } else {
                Finding::error(CheckArea::Definitions, object, format!("not installed: {}", missing.join(", ")))
                    .with_cure(INSTALL)
            }
        }
    }
}

/// Lists Istio's groups that Wharf writes to, in the versions that it uses, with their kinds.
pub fn istio_groups() -> Vec<(String, Vec<&'static str>)> {
    let mut groups: Vec<(String, Vec<&'static str>)> = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|k| !k.group().is_empty()) {
        let group = format!("{}/{}", kind.group(), kind.version());
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, kinds)) => kinds.push(kind.as_str()),
            None => groups.push((group, vec![kind.as_str()])),
        }
    }
    groups
}

/// Checks what the API server serves of one of Istio's groups in one version.
pub fn judge_istio(group: &str, wanted: &[&str], served: &LookResult<Vec<String>>) -> Finding {
    let object = group.to_owned();
    match served {
        Err(why @ UnseenReason::Forbidden(_)) => Finding::unseen(CheckArea::Definitions, object, why),
        Err(why) => Finding::unchecked(CheckArea::Definitions, object, why),
        Ok(kinds) => {
            let missing = missing_kinds(wanted, kinds);
            if missing.is_empty() {
                return Finding::ok(CheckArea::Definitions, object, format!("served: {}", wanted.join(", ")));
            }
            Finding::error(CheckArea::Definitions, object, format!("not served: {}", missing.join(", ")))
                .with_cure("install Istio 1.22 or newer, or its definitions alone (the chart istio/base)")
        }
    }
}

/// Reports the fields that the agent leaves out because the installed definitions of Istio do not declare them.
pub fn judge_absent_fields(absent: &Result<BTreeSet<NewerField>, String>) -> Finding {
    let object = "fields of Istio's kinds";
    match absent {
        Err(why) => Finding::unchecked(CheckArea::Definitions, object, why.clone()),
        Ok(absent) if absent.is_empty() => {
            Finding::ok(CheckArea::Definitions, object, "every field that Wharf writes is declared")
        }
        Ok(absent) => {
            let told: Vec<String> = absent.iter().map(ToString::to_string).collect();
            let newest = absent.iter().map(|f| f.first_version()).max().unwrap_or_default();
            Finding::warning(CheckArea::Definitions, object, told.join("; "))
                .with_cure(format!("the agent leaves it out; Istio {newest} or newer has it"))
        }
    }
}

fn missing_kinds<'a>(wanted: &[&'a str], served: &Option<Vec<String>>) -> Vec<&'a str> {
    wanted.iter().filter(|kind| !served.iter().flatten().any(|s| s == *kind)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1;

    fn policy() -> CustomResourceDefinition {
        crate::api::definitions().into_iter().find(|crd| crd.spec.names.kind == "ServiceExpositionPolicy").unwrap()
    }

    fn judged(change: impl FnOnce(&mut CustomResourceDefinition)) -> Finding {
        let wanted = policy();
        let mut found = wanted.clone();
        let condition = |type_: &str| v1::CustomResourceDefinitionCondition {
            type_: type_.into(),
            status: "True".into(),
            ..Default::default()
        };
        let conditions = vec![condition("NamesAccepted"), condition("Established")];
        found.status = Some(v1::CustomResourceDefinitionStatus { conditions: Some(conditions), ..Default::default() });
        change(&mut found);
        judge_own(&wanted, &Ok(Some(found)))
    }

    #[test]
    fn the_definition_of_this_program_is_found_good_and_another_is_told() {
        assert_eq!(judged(|_| {}).severity, Severity::Ok);
        let renamed = judged(|crd| crd.spec.names.short_names = Some(vec!["policy".into()]));
        assert_eq!(renamed.severity, Severity::Warning);
        assert!(renamed.message.contains("names"), "{renamed:?}");
        let schema = judged(|crd| {
            let schema = crd.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
            schema.properties.as_mut().unwrap().remove("status");
        });
        assert!(schema.message.contains("fields") && !schema.message.contains("names"), "{schema:?}");
    }

    #[test]
    fn a_definition_that_is_missing_not_served_or_not_accepted_is_an_error() {
        let wanted = policy();
        assert_eq!(judge_own(&wanted, &Ok(None)).severity, Severity::Error);
        assert_eq!(judged(|crd| crd.spec.versions[0].served = false).severity, Severity::Error);
        let clash = judged(|crd| {
            let conditions = crd.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].status = "False".into();
            conditions[0].message = Some("\"sep\" is already in use".into());
        });
        assert!(clash.severity == Severity::Error && clash.message.contains("already in use"), "{clash:?}");
        let unseen = judge_own(&wanted, &Err(UnseenReason::Forbidden("no".into())));
        assert_eq!(unseen.severity, Severity::Unchecked);
    }

    #[test]
    fn istio_is_asked_for_every_kind_that_is_written() {
        let groups = istio_groups();
        assert_eq!(groups.iter().map(|(_, kinds)| kinds.len()).sum::<usize>(), Kind::ALL.len() - 1);
        let all = |kinds: &[&str]| Ok(Some(kinds.iter().map(|k| (*k).to_owned()).collect()));
        let (group, kinds) = &groups[0];
        assert_eq!(judge_istio(group, kinds, &all(kinds)).severity, Severity::Ok);
        let some = judge_istio(group, kinds, &all(&kinds[1..]));
        assert!(some.severity == Severity::Error && some.message.contains(kinds[0]), "{some:?}");
        assert_eq!(judge_istio(group, kinds, &Ok(None)).severity, Severity::Error);
    }

    #[test]
    fn a_field_that_the_agent_has_to_leave_out_is_a_warning_with_what_it_costs() {
        assert_eq!(judge_absent_fields(&Ok(BTreeSet::new())).severity, Severity::Ok);
        assert_eq!(judge_absent_fields(&Err("no answer".into())).severity, Severity::Unchecked);
        let older = judge_absent_fields(&Ok(BTreeSet::from([NewerField::Http2KeepAlive])));
        assert_eq!(older.severity, Severity::Warning);
        assert!(older.message.contains("http2KeepAlive") && older.message.contains("freezes"), "{older:?}");
    }

    #[test]
    fn kinds_that_are_served_without_a_look_at_the_definition_are_not_called_good() {
        let kinds = ["ServiceExpositionPolicy", "RemoteServiceBinding", "ClusterPeering"].map(str::to_owned);
        assert_eq!(judge_served(&Ok(Some(kinds.into()))).severity, Severity::Unchecked);
        assert_eq!(judge_served(&Ok(None)).severity, Severity::Error);
    }
}
