//! Inputs that may exist although the store cannot read them. Their objects are held as they are until the inputs can
//! be read or are known to be gone, because nobody knows what they ask for.

use std::collections::BTreeMap;

use crate::api::ServiceExpositionPolicy;
use crate::model::text::shorten_message;
use crate::model::{ClusterFacts, ClusterName, HiddenPeers, Peer};
use crate::peering::UnreadPeers;
use crate::store::{HiddenInputs, InputKey, InputKind};
use crate::translate::{self, PolicyTranslation, Problem, UnreadObjects};

/// Returns the objects that an unreadable place hides, with the reason.
pub fn unread_objects(reason: &str, hidden: &HiddenInputs) -> UnreadObjects {
    let object = |key: &InputKey| if let InputKey::Object(key) = key { Some(key.clone()) } else { None };
    UnreadObjects {
        reason: reason.to_owned(),
        named: hidden.keys.iter().filter_map(object).collect(),
        kinds: hidden.object_kinds(),
    }
}

#[derive(Default)]
pub struct BlindSpots {
    /// Hidden inputs, by the place of the problem.
    places: BTreeMap<String, HiddenInputs>,
    /// Reasons of the places that may hide a peer.
    reasons: BTreeMap<String, String>,
}

type KnownPeers = BTreeMap<ClusterName, Peer>;

impl BlindSpots {
    /// Notes the inputs that a problem hides, or that it hides none any more. Returns whether that is new.
    pub fn note_hidden(&mut self, place: &str, reason: &str, hidden: HiddenInputs) -> bool {
        let hides_peers = hidden.kinds.contains(&InputKind::Peering)
            || hidden.keys.iter().any(|key| key.kind() == InputKind::Peering);
        match hides_peers {
            true => drop(self.reasons.insert(place.to_owned(), shorten_message(reason.to_owned()))),
            false => drop(self.reasons.remove(place)),
        }
        if hidden.is_empty() {
            return self.places.remove(place).is_some();
        }
        let before = self.places.insert(place.to_owned(), hidden);
        before.as_ref() != self.places.get(place)
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the first place that may hide an object of this kind for which `fits` holds.
    pub fn find_place(&self, kind: InputKind, fits: impl Fn(&InputKey) -> bool) -> Option<&str> {
        let hides = |h: &HiddenInputs| h.kinds.contains(&kind) || h.keys.iter().any(|k| k.kind() == kind && fits(k));
        self.places.iter().find(|(_, hidden)| hides(hidden)).map(|(place, _)| place.as_str())
    }

    /// Returns the place that may hide a peer that is not known.
    pub fn place_of_peer(&self, name: &str) -> Option<&str> {
        self.find_place(InputKind::Peering, |key| *key == InputKey::Peering(name.to_owned()))
    }

    /// Returns the peers that may exist unseen. None if there can be none.
    pub fn unread_peers(&self) -> Option<UnreadPeers> {
        self.find_place(InputKind::Peering, |_| true)?;
        let hidden = self.places.values();
        let any = hidden.clone().any(|h| h.kinds.contains(&InputKind::Peering));
        let name = |key: &InputKey| if let InputKey::Peering(name) = key { name.parse().ok() } else { None };
        Some(UnreadPeers { any, names: hidden.flat_map(|h| h.keys.iter().filter_map(name)).collect() })
    }

    /// Returns the hidden peers, in the form of statuses.
    pub fn hidden_peers(&self) -> HiddenPeers {
        let mut hidden = HiddenPeers::default();
        for (place, reason) in &self.reasons {
            let why = format!("{place}: {reason}");
            let inputs = self.places.get(place);
            for key in inputs.into_iter().flat_map(|inputs| &inputs.keys) {
                if let InputKey::Peering(name) = key {
                    hidden.named.entry(name.clone()).or_insert_with(|| why.clone());
                }
            }
            if inputs.is_some_and(|inputs| inputs.kinds.contains(&InputKind::Peering)) {
                hidden.any.get_or_insert(why);
            }
        }
        hidden
    }

    /// Returns the reason why the result of a policy is uncertain, if it evaluates to this.
    pub fn policy_needs(
        &self,
        policy: &ServiceExpositionPolicy,
        exposed: &PolicyTranslation,
        facts: &ClusterFacts,
    ) -> Option<&str> {
        if self.is_empty() {
            return None;
        }
        self.objects_needed(policy, exposed, facts).or_else(|| self.consumers_needed(policy, &facts.peers))
    }

    fn objects_needed(
        &self,
        policy: &ServiceExpositionPolicy,
        exposed: &PolicyTranslation,
        facts: &ClusterFacts,
    ) -> Option<&str> {
        let touches =
            |key: &InputKey| matches!(key, InputKey::Object(o) if translate::policy_touches(policy, o, facts));
        let by_name = |h: &HiddenInputs| h.keys.iter().any(touches);
        let named = self.places.iter().find(|(_, hidden)| by_name(hidden)).map(|(place, _)| place.as_str());
        let lacking = || exposed.entries.iter().filter_map(|e| e.problem.as_ref()).any(Problem::is_lack);
        named.or_else(|| self.find_place(InputKind::Object, |_| false).filter(|_| lacking()))
    }

    /// Returns the place that may hide consumers among unknown peers.
    fn consumers_needed(&self, policy: &ServiceExpositionPolicy, peers: &KnownPeers) -> Option<&str> {
        let is_known = |name: &str| name.parse::<ClusterName>().is_ok_and(|name| peers.contains_key(&name));
        let unknown = |key: &InputKey| matches!(key, InputKey::Peering(name) if !is_known(name));
        policy.spec.exposed.iter().find_map(|entry| match entry.clusters.as_slice() {
            [] => self.find_place(InputKind::Peering, unknown),
            named => named.iter().filter(|name| !is_known(name)).find_map(|name| self.place_of_peer(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NamedKey;

    fn policy(name: &str) -> InputKey {
        InputKey::Policy(NamedKey { namespace: "shop".into(), name: name.into() })
    }

    #[test]
    fn a_place_hides_what_it_names_and_all_of_the_kinds_that_it_names() {
        let mut blind = BlindSpots::default();
        assert!(blind.note_hidden("a.yaml", "torn", HiddenInputs::of_key(policy("a"))));
        assert!(!blind.note_hidden("a.yaml", "torn", HiddenInputs::of_key(policy("a"))), "no news");
        let find = |blind: &BlindSpots, key: InputKey| blind.find_place(key.kind(), |k| *k == key).map(str::to_owned);
        assert_eq!(find(&blind, policy("a")).as_deref(), Some("a.yaml"));
        assert_eq!(find(&blind, policy("b")), None);
        assert_eq!(blind.place_of_peer("north"), None);
        blind.note_hidden("b.yaml", "torn", HiddenInputs::anything());
        assert_eq!(find(&blind, policy("b")).as_deref(), Some("b.yaml"));
        assert_eq!(blind.place_of_peer("north"), Some("b.yaml"));
        assert!(
            blind.note_hidden("b.yaml", "torn", HiddenInputs::default())
                && blind.note_hidden("a.yaml", "torn", HiddenInputs::default())
        );
        assert!(blind.is_empty());
    }
}
