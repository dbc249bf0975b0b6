//! The CustomResourceDefinitions, made from the types as Kubernetes wants them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;

use super::{ClusterPeering, RemoteServiceBinding, ServiceExpositionPolicy, columns};

/// The definitions of Wharf's own kinds.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    let mut all = [ServiceExpositionPolicy::crd(), RemoteServiceBinding::crd(), ClusterPeering::crd()];
    for crd in &mut all {
        let columns = columns::columns_of_kind(&crd.spec.names.kind);
        for version in &mut crd.spec.versions {
            version.additional_printer_columns = Some(columns.clone());
            if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                rework_schema(schema);
            }
        }
    }
    all
}

fn rework_schema(schema: &mut JSONSchemaProps) {
    schema.title = None;
    change_each_schema(schema, &mut tidy_schema);
    // The agent writes no nulls, so a status needs none.
    if let Some(status) = schema.properties.as_mut().and_then(|p| p.get_mut("status")) {
        change_each_schema(status, &mut |s| s.nullable = None);
    }
}

fn tidy_schema(schema: &mut JSONSchemaProps) {
    // Null means that a field is absent, also in a list. Where there is a default it gives way to that; and among the
    // values of an enumeration the API server does not find it, but it drops it before it looks, most of the time.
    if schema.default.is_some() || schema.enum_.is_some() {
        schema.nullable = None;
    }
    if let Some(text) = &mut schema.description {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

/// Changes a schema and all within it.
fn change_each_schema(schema: &mut JSONSchemaProps, change: &mut impl FnMut(&mut JSONSchemaProps)) {
    change(schema);
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        change_each_schema(property, change);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => change_each_schema(items, change),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(|s| change_each_schema(s, change)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every schema with its path.
    fn all() -> Vec<(String, JSONSchemaProps)> {
        fn walk(path: &str, schema: &JSONSchemaProps, found: &mut Vec<(String, JSONSchemaProps)>) {
            found.push((path.to_owned(), schema.clone()));
            for (name, property) in schema.properties.iter().flatten() {
                walk(&format!("{path}.{name}"), property, found);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                walk(&format!("{path}[]"), items, found);
            }
        }
        let mut found = Vec::new();
        for crd in definitions() {
            let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            walk(&crd.spec.names.kind, &schema, &mut found);
        }
        found
    }

    #[test]
    fn every_field_is_described() {
        let scalar_of_a_list =
            |path: &str, s: &JSONSchemaProps| path.ends_with("[]") && s.type_.as_deref() == Some("string");
        for (path, schema) in all().into_iter().filter(|(path, s)| !scalar_of_a_list(path, s)) {
            let text = schema.description.unwrap_or_default();
            assert!(text.ends_with(['.', '`']), "{path}: {text:?}");
            assert!(!text.contains("Auto-generated"), "{path}: {text}");
        }
    }

    #[test]
    fn every_list_says_how_writers_share_it_and_every_text_and_list_of_a_spec_how_long_it_may_be() {
        for (path, schema) in all() {
            let kind = schema.type_.as_deref();
            assert!(kind != Some("array") || schema.x_kubernetes_list_type.is_some(), "{path}");
            if path.contains(".spec") && schema.enum_.is_none() {
                assert!(kind != Some("array") || schema.max_items.is_some(), "{path}");
                assert!(kind != Some("string") || schema.max_length.is_some(), "{path}");
            }
        }
    }

    #[test]
    fn a_rule_has_a_sentence_and_a_number_a_format_that_kubernetes_knows() {
        for (path, schema) in all() {
            for rule in schema.x_kubernetes_validations.iter().flatten() {
                assert!(rule.message_expression.is_some() || rule.message.is_some(), "{path}: {}", rule.rule);
            }
            assert!(matches!(schema.format.as_deref(), None | Some("int32" | "int64" | "date-time")), "{path}");
        }
    }
}
