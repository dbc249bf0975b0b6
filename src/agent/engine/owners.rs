//! Keeps which owners have objects in the store, and what the objects of each owner are for.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;

use super::drain_due;
use crate::store::{NamedKey, Owner};
use crate::translate::{self, LocalName};

/// The part of the agent's work that an owner's objects belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OwnerPurpose {
    Policy(NamedKey),
    Local(LocalName),
    /// The objects that all bindings share at the egress gateway.
    Shared,
}

/// Knowledge about the owners of objects. An owner is added by a write, or because the store has objects of it at
/// the start.
#[derive(Default)]
pub(super) struct OwnerBook {
    /// Owners that have objects.
    present: HashSet<Owner>,
    /// Owners whose objects were written by a former process, and not since.
    inherited: HashSet<Owner>,
    purposes: HashMap<Owner, OwnerPurpose>,
    /// Owners that have objects without a purpose, and the ends of their grace periods.
    orphans: BTreeMap<Owner, Instant>,
}

impl OwnerBook {
    /// Takes over the owners of all objects that the store has.
    pub(super) fn inherit(&mut self, owners: Vec<Owner>) {
        self.present = owners.iter().cloned().collect();
        self.inherited = owners.into_iter().collect();
    }

    /// Adds owners of objects that the store still has, though their removal had begun.
    pub(super) fn recover(&mut self, owners: Vec<Owner>) {
        self.present.extend(owners);
    }

    pub(super) fn has_objects(&self, owner: &Owner) -> bool {
        self.present.contains(owner)
    }

    /// Returns whether the owner's objects are as a former process wrote them.
    pub(super) fn is_inherited(&self, owner: &Owner) -> bool {
        self.inherited.contains(owner)
    }

    pub(super) fn purpose(&self, owner: &Owner) -> Option<&OwnerPurpose> {
        self.purposes.get(owner)
    }

    pub(super) fn assign(&mut self, owner: Owner, purpose: OwnerPurpose) {
        self.purposes.insert(owner, purpose);
    }

    /// Returns whether the store may have anything of an owner: objects, or a write that is in progress.
    pub(super) fn is_known(&self, owner: &Owner) -> bool {
        self.present.contains(owner) || self.purposes.contains_key(owner)
    }

    /// Notes a write that has begun: it leaves objects, or removes them all.
    pub(super) fn begin_write(&mut self, owner: &Owner, leaves_objects: bool) {
        self.inherited.remove(owner);
        if leaves_objects {
            self.present.insert(owner.clone());
        } else {
            self.present.remove(owner);
        }
    }

    /// Notes a write that has failed: some objects may exist.
    pub(super) fn fail_write(&mut self, owner: &Owner) {
        self.present.insert(owner.clone());
    }

    /// Notes a write that has ended. Nothing is kept of an owner without objects.
    pub(super) fn end_write(&mut self, owner: &Owner) {
        if !self.present.contains(owner) {
            self.purposes.remove(owner);
        }
    }

    /// Returns the owners that have objects, and are not wanted.
    pub(super) fn unwanted(&self, wanted: &HashSet<Owner>) -> Vec<Owner> {
        self.present.difference(wanted).cloned().collect()
    }

    /// Starts the grace period of an owner without a purpose, if it has none yet.
    pub(super) fn await_purpose(&mut self, owner: Owner, end: Instant) {
        self.orphans.entry(owner).or_insert(end);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.orphans.values().min().copied()
    }

    /// Removes the owners whose grace period is over, and returns them.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Owner> {
        drain_due(&mut self.orphans, now)
    }
}

pub(super) fn policy_owner(key: &NamedKey) -> Owner {
    Owner(translate::names::policy_owner(&key.namespace, &key.name).into())
}

pub(super) fn local_owner(name: &LocalName) -> Owner {
    Owner(name.owner_label().into())
}

pub(super) fn shared_owner() -> Owner {
    Owner(translate::names::SHARED_OWNER.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn owner(name: &str) -> Owner {
        policy_owner(&NamedKey { namespace: "shop".into(), name: name.into() })
    }

    fn purpose(name: &str) -> OwnerPurpose {
        OwnerPurpose::Policy(NamedKey { namespace: "shop".into(), name: name.into() })
    }

    #[test]
    fn objects_of_a_former_process_are_inherited_until_they_are_written() {
        let mut book = OwnerBook::default();
        book.inherit(vec![owner("till"), owner("cart")]);
        assert!(book.is_inherited(&owner("till")) && book.has_objects(&owner("till")));
        book.begin_write(&owner("till"), true);
        assert!(!book.is_inherited(&owner("till")) && book.has_objects(&owner("till")));
        assert_eq!(book.unwanted(&HashSet::from([owner("till")])), [owner("cart")]);
    }

    #[test]
    fn nothing_is_kept_of_an_owner_whose_objects_were_removed() {
        let mut book = OwnerBook::default();
        assert!(!book.is_known(&owner("till")));
        book.assign(owner("till"), purpose("till"));
        book.begin_write(&owner("till"), true);
        book.end_write(&owner("till"));
        assert_eq!(book.purpose(&owner("till")), Some(&purpose("till")));
        book.begin_write(&owner("till"), false);
        assert!(book.is_known(&owner("till")), "the removal is in progress");
        book.end_write(&owner("till"));
        assert!(!book.is_known(&owner("till")));
    }

    #[test]
    fn a_removal_that_failed_leaves_objects() {
        let mut book = OwnerBook::default();
        book.assign(owner("till"), purpose("till"));
        book.begin_write(&owner("till"), false);
        book.fail_write(&owner("till"));
        book.end_write(&owner("till"));
        assert!(book.has_objects(&owner("till")) && book.purpose(&owner("till")).is_some());
    }

    #[test]
    fn a_removal_that_had_to_wait_is_known_again_once_the_store_shows_its_objects() {
        let mut book = OwnerBook::default();
        book.assign(owner("till"), purpose("till"));
        book.begin_write(&owner("till"), true);
        book.begin_write(&owner("till"), false);
        assert_eq!(book.unwanted(&HashSet::new()), []);
        book.recover(vec![owner("till")]);
        assert_eq!(book.unwanted(&HashSet::new()), [owner("till")]);
        assert!(!book.is_inherited(&owner("till")), "this process wrote them");
    }

    #[test]
    fn an_orphan_is_due_once_and_only_after_its_grace_period() {
        let (mut book, start, second) = (OwnerBook::default(), Instant::now(), Duration::from_secs(1));
        book.await_purpose(owner("till"), start + second);
        book.await_purpose(owner("till"), start + 2 * second);
        assert_eq!(book.next_due(), Some(start + second), "a second event does not prolong it");
        assert_eq!(book.take_due(start + second / 2), []);
        assert_eq!(book.take_due(start + second), [owner("till")]);
        assert_eq!((book.next_due(), book.take_due(start + 2 * second)), (None, vec![]));
    }
}
