//! Holds objects whose policy or binding cannot be read: they stay as they are, and what they expose is not withdrawn,
//! until the input can be read or is known to be gone.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::owners::{OwnerPurpose, policy_owner};
use super::{Engine, GRACE};
use crate::agent::blind::{BlindSpots, unread_objects};
use crate::agent::donor::WriteState;
use crate::model::{ClusterName, ExpositionKey, Host};
use crate::store::{HeldNames, HiddenInputs, InputKey, InputKind, NamedKey, Owner, Store};
use crate::translate::LocalName;

/// Name of the place in problems about held objects.
const PLACE: &str = "held objects";
/// Most owners that the problem names.
const NAMED: usize = 5;

/// Returns whether an owner is a policy. Owners are `policy.<namespace>.<name>` or `binding.<namespace>.<name>` (see
/// `translate::names`).
fn is_policy_owner(owner: &Owner) -> bool {
    owner.0.starts_with("policy.")
}

/// The places that cannot be read, and the objects that are held because of them.
#[derive(Default)]
pub(super) struct UnreadState {
    /// Inputs that cannot be read, and may want objects.
    pub(super) blind: BlindSpots,
    /// The names that owners held at the start, while something cannot be read.
    holdings: Option<HeldNames>,
    /// Owners whose objects are held as they are, with the place that cannot be read.
    kept: BTreeMap<Owner, String>,
    /// Reports of missing objects are older than the list of unreadable places.
    gaps_stale: bool,
    /// The board and the problem are older than `kept`.
    kept_stale: bool,
    /// Time of the next review of all held objects.
    review_due: Option<Instant>,
}

impl UnreadState {
    pub(super) fn next_review(&self) -> Option<Instant> {
        self.review_due
    }

    /// Keeps the names of the start as long as something cannot be read.
    pub(super) fn keep_holdings(&mut self, holdings: HeldNames) {
        self.holdings = (!self.blind.is_empty()).then_some(holdings);
    }
}

impl<S: Store> Engine<S> {
    /// Notes the inputs that a problem of the store hides from now on, or that it hides none.
    pub(super) fn note_hidden(&mut self, place: &str, reason: &str, hidden: HiddenInputs) {
        let unread = unread_objects(reason, &hidden);
        self.unread.gaps_stale |= self.inventory.record_unread(place, Some(unread));
        let news = self.unread.blind.note_hidden(place, reason, hidden);
        self.unread.gaps_stale |= news;
        if news && self.synced {
            // News of inputs that can be read now may still be on their way.
            self.unread.review_due = Some(Instant::now() + GRACE);
        }
    }

    /// Updates reports of missing objects from the list of unreadable places.
    pub(super) fn update_gaps(&mut self) {
        if !std::mem::take(&mut self.unread.gaps_stale) {
            return;
        }
        self.donor.touch_lacking();
        self.update_ingress_addresses();
        self.update_egress_doubt();
        let hidden = self.unread.blind.hidden_peers();
        if hidden != self.facts.hidden_peers {
            self.facts.hidden_peers = hidden;
            for cluster in self
                .acceptor
                .named_clusters()
                .filter(|c| !self.facts.peers.contains_key(c))
                .cloned()
                .collect::<BTreeSet<_>>()
            {
                self.acceptor.touch_peer(&cluster);
            }
        }
    }

    /// Returns the place that may hide the policy or binding of an owner's objects.
    pub(super) fn place_hiding_owner(&self, owner: &Owner) -> Option<String> {
        if self.unread.blind.is_empty() {
            return None;
        }
        if is_policy_owner(owner) {
            let is_its = |key: &InputKey| matches!(key, InputKey::Policy(key) if policy_owner(key) == *owner);
            return self.unread.blind.find_place(InputKind::Policy, is_its).map(str::to_owned);
        }
        if !owner.0.starts_with("binding.") {
            return None;
        }
        match self.unread.holdings.as_ref().and_then(|h| h.bindings.get(owner)) {
            Some(bindings) => self.unread_of(bindings),
            None => self.unread.blind.find_place(InputKind::Binding, |_| true).map(str::to_owned),
        }
    }

    /// Returns the place of one of these bindings that cannot be read.
    fn unread_of(&self, bindings: &BTreeSet<NamedKey>) -> Option<String> {
        let unknown = bindings.iter().filter(|binding| self.acceptor.get(binding).is_none());
        let place = |binding: &NamedKey| {
            let key = InputKey::Binding(binding.clone());
            self.unread.blind.find_place(InputKind::Binding, |hidden| *hidden == key)
        };
        unknown.into_iter().find_map(place).map(str::to_owned)
    }

    /// Returns the place that hides the sources of a local name, if its objects are from before this process.
    pub(super) fn local_is_unknown(&self, name: &LocalName, owner: &Owner) -> Option<String> {
        if self.unread.blind.is_empty() || !self.owners.is_inherited(owner) {
            return None;
        }
        let bindings = self.unread.holdings.as_ref().and_then(|h| h.bindings.get(owner));
        let others = bindings.and_then(|bindings| self.unread_of(bindings));
        others.or_else(|| {
            let clusters = self.acceptor.clusters_of(name);
            let unknown = clusters.iter().filter(|cluster| !self.facts.peers.contains_key(*cluster));
            unknown.into_iter().find_map(|cluster| self.unread.blind.place_of_peer(cluster.as_str())).map(str::to_owned)
        })
    }

    /// Leaves an owner's objects as they are.
    pub(super) fn hold_objects(&mut self, owner: Owner, place: String) {
        if self.unread.kept.get(&owner) != Some(&place) {
            tracing::warn!(owner = %owner.0, %place, "holding objects whose policy or binding cannot be read");
            self.unread.kept.insert(owner, place);
            self.unread.kept_stale = true;
        }
    }

    /// Ends the hold on an owner's objects, which are now as wanted.
    pub(super) fn release_objects(&mut self, owner: &Owner, write: &WriteState) {
        if matches!(write, WriteState::Done | WriteState::Conflict(_)) && self.unread.kept.remove(owner).is_some() {
            self.unread.kept_stale = true;
        }
    }

    /// Reviews all held objects after a change of what can be read.
    pub(super) fn review_kept(&mut self) {
        self.unread.review_due = None;
        for owner in self.unread.kept.keys().cloned().collect::<Vec<_>>() {
            match self.owners.purpose(&owner).cloned() {
                Some(OwnerPurpose::Policy(key)) if self.donor.touch_policy(&key) => continue,
                Some(OwnerPurpose::Local(name)) if self.acceptor.touch_local(&name) => continue,
                _ => {}
            }
            match self.place_hiding_owner(&owner) {
                Some(place) => self.hold_objects(owner, place),
                None => {
                    self.unread.kept.remove(&owner);
                    self.unread.kept_stale = true;
                    tracing::info!(owner = %owner.0, "deleting objects whose policy or binding is gone");
                    self.write_objects(owner, Vec::new());
                }
            }
        }
        self.memory.recall_at(Instant::now()); // the memory of a peer that was hidden
        self.announce_peers();
        self.shared.mark_stale();
        if self.unread.blind.is_empty() && self.unread.kept.is_empty() {
            self.unread.holdings = None;
        }
    }

    /// Returns whether objects of local names are held. They may use those that all bindings share.
    pub(super) fn holds_locals(&self) -> bool {
        self.unread.kept.keys().any(|owner| !is_policy_owner(owner))
    }

    /// Updates the board, the claims and the problem from the held objects.
    pub(super) fn apply_kept(&mut self) {
        if !std::mem::take(&mut self.unread.kept_stale) {
            return;
        }
        let mut names: BTreeMap<ExpositionKey, Owner> = BTreeMap::new();
        for owner in self.unread.kept.keys().filter(|owner| is_policy_owner(owner)) {
            let hosts = self.unread.holdings.as_ref().and_then(|h| h.gateways.get(owner));
            let keys = hosts.into_iter().flatten().filter_map(exposed_as);
            names.extend(keys.map(|key| (key, owner.clone())));
        }
        self.board.keep_expositions(names.keys().cloned().collect());
        self.donor.reserve_names(names);
        let problem = self.unread.kept.first_key_value().map(|(_, place)| {
            let owners: Vec<_> = self.unread.kept.keys().take(NAMED).map(|owner| &*owner.0).collect();
            let more = match self.unread.kept.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "the objects of {}{more} stay as they are, since what they come from may be in what cannot be read ({place}); \
                 correct that, or remove it if it is not needed",
                owners.join(", ")
            )
        });
        self.note_problem(PLACE, problem);
    }

    /// Returns whether an unknown peer may be in a place that cannot be read.
    pub(super) fn may_be_peer(&self, cluster: &ClusterName) -> bool {
        !self.facts.peers.contains_key(cluster) && self.unread.blind.place_of_peer(cluster.as_str()).is_some()
    }
}

/// Returns the exposition of a host at the ingress gateway: `[p<port>.]<name>.<namespace>.svc.cluster.local`.
fn exposed_as(host: &Host) -> Option<ExpositionKey> {
    let labels: Vec<_> = host.as_str().strip_suffix(".svc.cluster.local")?.split('.').collect();
    let (name, namespace) = match labels[..] {
        [name, namespace] => (name, namespace),
        [port, name, namespace] if port.strip_prefix('p').is_some_and(|n| n.parse::<u16>().is_ok()) => {
            (name, namespace)
        }
        _ => return None,
    };
    Some(ExpositionKey { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
}
