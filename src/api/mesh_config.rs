//! Istio's `MeshConfig`, as istiod reads it from a ConfigMap (istio.io/docs/reference/config/istio.mesh.v1alpha1).
//!
//! Its text is somebody else's: what is too large, or no such configuration, is an error, and nothing of it is kept.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Deserializer};

use crate::model::MeshSettings;
use crate::model::text::shorten_message;

/// The key of the ConfigMap that holds the text.
const KEY: &str = "mesh";
/// Istio's default (`MeshConfig.trustDomain`).
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// The API server's own limit of a ConfigMap.
const MAX_BYTES: usize = 1 << 20;
/// Trust domains that are kept, and how long one may be (SPIFFE ID, 2.1).
const MAX_DOMAINS: usize = 1024;
const MAX_DOMAIN_BYTES: usize = 255;

/// The fields that Wharf looks at. Istiod takes them in the form of JSON and by their names in protobuf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfig {
    #[serde(alias = "trust_domain")]
    pub trust_domain: Option<String>,
    #[serde(default, alias = "trust_domain_aliases", deserialize_with = "null_is_none")]
    pub trust_domain_aliases: Vec<String>,
    #[serde(default, alias = "ca_certificates", deserialize_with = "null_is_none")]
    pub ca_certificates: Vec<MeshRoot>,
    #[serde(default, alias = "default_config", deserialize_with = "null_is_none")]
    pub default_config: ProxyConfig,
    #[serde(alias = "root_namespace")]
    pub root_namespace: Option<String>,
    #[serde(alias = "default_service_export_to")]
    pub default_service_export_to: Option<Vec<String>>,
    #[serde(alias = "default_destination_rule_export_to")]
    pub default_destination_rule_export_to: Option<Vec<String>>,
    #[serde(alias = "service_entry_visibility")]
    pub service_entry_visibility: Option<EntryVisibility>,
}

/// The part of `MeshConfig.CertificateData` that says whose workloads a further root is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRoot {
    #[serde(default, alias = "trust_domains", deserialize_with = "null_is_none")]
    pub trust_domains: Vec<String>,
}

/// The fields of `ServiceEntryVisibility` that are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryVisibility {
    #[serde(alias = "default_visibility")]
    pub default_visibility: Option<String>,
    #[serde(default, alias = "apply_to_sidecars")]
    pub apply_to_sidecars: bool,
}

impl EntryVisibility {
    /// Returns whether a ServiceEntry is hidden from sidecars of other namespaces.
    pub fn hides(&self) -> bool {
        self.apply_to_sidecars && matches!(self.default_visibility.as_deref(), Some("NONE" | "NAMESPACE"))
    }
}

/// The fields of Istio's `ProxyConfig` that are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfig {
    #[serde(alias = "drain_duration")]
    pub drain_duration: Option<String>,
}

/// Reason why a `MeshConfig` cannot be read. It reads after its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshConfigError {
    #[error("its key {KEY} has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("its key {KEY} is not what Istio reads: {0}")]
    Syntax(String),
    #[error(
        "its key {KEY} names more than {MAX_DOMAINS} trust domains, or one of more than {MAX_DOMAIN_BYTES} characters"
    )]
    TooManyDomains,
}

/// Protobuf's JSON: null is the default of a field.
fn null_is_none<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl MeshConfig {
    /// Returns whether a ConfigMap holds one.
    pub fn is_in(map: &ConfigMap) -> bool {
        map.data.as_ref().is_some_and(|data| data.contains_key(KEY))
    }

    /// Reads it from its ConfigMap. Without the key it is all defaults.
    pub fn read(map: &ConfigMap) -> Result<MeshConfig, MeshConfigError> {
        let text = map.data.as_ref().and_then(|data| data.get(KEY)).map_or("", String::as_str);
        if text.len() > MAX_BYTES {
            return Err(MeshConfigError::TooLarge);
        }
        let text = if text.trim().is_empty() { "{}" } else { text };
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: 48, max_aliases: 1_000, max_anchors: 1_000, max_merge_keys: 1_000 },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 50_000, max_replay_stack_depth: 16 },
            with_snippet: false,
        };
        let read: Result<MeshConfig, _> = serde_saphyr::from_str_with_options(text, options);
        read.map_err(|e| MeshConfigError::Syntax(shorten_message(e.to_string())))
    }

    /// Returns whether it names no more trust domains than are kept.
    fn is_within_limits(&self) -> bool {
        let of_roots = self.ca_certificates.iter().map(|root| root.trust_domains.len()).sum::<usize>();
        let fits = |domain: &String| domain.len() <= MAX_DOMAIN_BYTES;
        let roots = self.ca_certificates.iter().flat_map(|root| &root.trust_domains);
        let mut named = self.trust_domain_aliases.iter().chain(roots).chain(&self.trust_domain);
        self.trust_domain_aliases.len() + of_roots <= MAX_DOMAINS && named.all(fits)
    }

    pub fn trust_domain(&self) -> &str {
        self.trust_domain.as_deref().filter(|domain| !domain.is_empty()).unwrap_or(DEFAULT_TRUST_DOMAIN)
    }

    /// Keeps the settings that decide about calls from other clusters. `place` is the ConfigMap, for people.
    pub fn settings(&self, place: &str) -> Result<MeshSettings, MeshConfigError> {
        if !self.is_within_limits() {
            return Err(MeshConfigError::TooManyDomains);
        }
        let of_roots = self.ca_certificates.iter().flat_map(|root| &root.trust_domains);
        let others: BTreeSet<String> = self.trust_domain_aliases.iter().chain(of_roots).cloned().collect();
        Ok(MeshSettings {
            place: place.to_owned(),
            trust_domain: self.trust_domain().to_owned(),
            others,
            root_namespace: self.root_namespace.clone().filter(|n| !n.is_empty() && n.len() <= MAX_DOMAIN_BYTES),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn map(text: &str) -> ConfigMap {
        let data = BTreeMap::from([(KEY.to_owned(), text.to_owned())]);
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    fn settings(text: &str) -> Result<MeshSettings, MeshConfigError> {
        MeshConfig::read(&map(text))?.settings("ConfigMap istio-system/istio")
    }

    #[test]
    fn a_mesh_takes_its_own_trust_domain_its_aliases_and_those_of_its_further_roots() {
        let accepts = |text: &str| settings(text).unwrap().accepts(&"isle.example".parse().unwrap());
        for text in [
            "trustDomain: isle.example",
            "trustDomainAliases: [reef.example, isle.example]",
            "trust_domain_aliases: [isle.example]",
            "caCertificates: [{pem: x, trustDomains: [reef.example]}, {pem: y, trustDomains: [isle.example]}]",
            "ca_certificates: [{pem: y, trust_domains: [isle.example]}]",
            "{\"trustDomainAliases\": [\"isle.example\"]}",
        ] {
            assert!(accepts(text), "{text}");
        }
        for text in [
            "",
            "trustDomain: ''",
            "trustDomainAliases: null",
            "trustDomainAliases: ['*', '*.example', Isle.example, isle.example.org]",
            "caCertificates: [{pem: x}, {pem: y, trustDomains: null}]",
            "defaultConfig: {trustDomainAliases: [isle.example]}",
        ] {
            assert!(!accepts(text), "{text}");
        }
    }

    #[test]
    fn only_what_decides_about_calls_is_kept() {
        let kept = settings("trustDomain: reef\nrootNamespace: mesh\naccessLogFile: /dev/stdout\n").unwrap();
        assert_eq!((kept.trust_domain.as_str(), kept.root_namespace.as_deref()), ("reef", Some("mesh")));
        assert!(kept.others.is_empty());
        assert_eq!(settings("").unwrap().trust_domain, "cluster.local");
    }

    #[test]
    fn what_is_hostile_is_an_error_and_costs_nothing() {
        let many: Vec<String> = (0..=MAX_DOMAINS).map(|i| format!("d{i}.example")).collect();
        let long = "a".repeat(MAX_DOMAIN_BYTES + 1);
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n\
                    c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n\
                    trustDomainAliases: [*d, *d, *d, *d, *d, *d, *d, *d, *d]\n";
        for text in [
            "[",
            "- a list",
            "trustDomainAliases: isle.example",
            "trustDomain: {}",
            "trustDomain: a\ntrust_domain: b\n",
            bomb,
            &format!("trustDomainAliases: [{}]", many.join(", ")),
            &format!("trustDomain: {long}"),
            &format!("caCertificates: [{{trustDomains: [{long}]}}]"),
            &format!("trustDomain: a\n# {}\n", "x".repeat(MAX_BYTES)),
            &format!("a: {}", "[".repeat(100_000)),
        ] {
            let error = settings(text).expect_err(&text[..text.len().min(60)]);
            assert!(error.to_string().len() < 2_000, "{error}");
        }
    }
}
