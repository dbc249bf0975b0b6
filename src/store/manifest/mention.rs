//! Guesses the kinds that a text that cannot be read may hold.

use std::collections::BTreeSet;

use crate::api::{GROUP, Kind};
use crate::store::InputKind;

/// Returns the kinds of inputs that a text names.
pub(super) fn mentioned_kinds(text: &str) -> BTreeSet<InputKind> {
    let mut found = BTreeSet::new();
    let own = [
        ("ServiceExpositionPolicy", InputKind::Policy),
        ("RemoteServiceBinding", InputKind::Binding),
        ("ClusterPeering", InputKind::Peering),
    ];
    found.extend(own.iter().filter(|(name, _)| text.contains(name)).map(|(_, kind)| *kind));
    if found.is_empty() && text.contains(&format!("{GROUP}/v")) {
        found.extend(own.map(|(_, kind)| kind)); // one of them, misspelt
    }
    if !object_kinds(text).is_empty() {
        found.insert(InputKind::Object);
    }
    found
}

/// Returns the kinds of others' objects that a text names; all of Istio's, if it names none of them but their group.
pub(super) fn object_kinds(text: &str) -> BTreeSet<Kind> {
    let of_istio = [Kind::VirtualService, Kind::DestinationRule, Kind::ServiceEntry, Kind::Gateway];
    let mut found: BTreeSet<Kind> = of_istio.into_iter().filter(|kind| text.contains(kind.as_str())).collect();
    if found.is_empty() && text.contains("networking.istio.io/") {
        found.extend(of_istio);
    }
    if names_a_service(text) {
        found.insert(Kind::Service);
    }
    found
}

/// Returns whether a text has `kind: Service`, in YAML or JSON.
fn names_a_service(text: &str) -> bool {
    text.split("kind").skip(1).any(|rest| {
        let value = rest.trim_start_matches(['"', '\'', ' ', '\t', ':']);
        let after = value.strip_prefix("Service").filter(|_| value.len() < rest.len());
        after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

/// Returns whether a text is a template, as those of a Helm chart are: it becomes YAML elsewhere.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{") && text.contains("}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_text_is_taken_for_the_kinds_that_it_names() {
        let of = |text: &str| mentioned_kinds(text).into_iter().collect::<Vec<_>>();
        assert_eq!(of("kind: ServiceExpositionPolicy\nspec: {"), [InputKind::Policy]);
        assert_eq!(of("apiVersion: v1\nkind: Service\nspec: ["), [InputKind::Object]);
        assert_eq!(of("{\"kind\":\"Service\",\"spec\":"), [InputKind::Object]);
        assert_eq!(of("apiVersion: multicluster.istio.io/v1alpha1\nkind: ServiceExpositon"), InputKind::ALL[..3]);
        for other in ["kind: ServiceAccount", "kind: Deployment\nmetadata: [", "a service: kind", ""] {
            assert_eq!(of(other), [], "{other}");
        }
    }
}
