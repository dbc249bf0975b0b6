//! Writes the objects that all bindings of HTTP services share at the egress gateway: before the first local name that
//! needs them, and without what the last one needed only after it was written without.

use std::collections::BTreeSet;

use super::Engine;
use super::owners::{OwnerPurpose, local_owner, shared_owner};
use crate::agent::donor::WriteState;
use crate::store::Store;
use crate::translate::{self, LocalName};

/// The local names that use the shared objects.
#[derive(Default)]
pub(super) struct SharedUse {
    /// The shared objects are to be evaluated again.
    stale: bool,
    users: BTreeSet<LocalName>,
    /// Names that used them before. Callers may still be led to them until these names are written.
    former: BTreeSet<LocalName>,
}

/// The consequence of a change for the shared objects.
#[derive(Debug, PartialEq, Eq)]
enum UseChange {
    Nothing,
    /// The first name needs them.
    Begins,
}

impl SharedUse {
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    fn is_used(&self) -> bool {
        !self.users.is_empty()
    }

    fn set(&mut self, name: &LocalName, uses: bool) -> UseChange {
        if uses {
            let begins = self.users.is_empty();
            self.users.insert(name.clone());
            return if begins { UseChange::Begins } else { UseChange::Nothing };
        }
        if self.users.remove(name) {
            self.former.insert(name.clone());
            self.stale |= self.users.is_empty();
        }
        UseChange::Nothing
    }

    /// Returns whether nothing uses the shared objects any more except names that are still being written.
    fn is_being_left(&mut self, is_being_written: impl Fn(&LocalName) -> bool) -> bool {
        self.former.retain(is_being_written);
        self.users.is_empty() && !self.former.is_empty()
    }
}

impl<S: Store> Engine<S> {
    /// Keeps the shared objects for a name that is held, if they exist: its objects may use them. A name that no donor
    /// served before this process needs none.
    pub(super) fn share_held(&mut self, name: &LocalName, shared: bool) {
        self.share(name, shared || self.owners.is_inherited(&shared_owner()) || self.shared.is_used());
    }

    /// Notes whether a name uses the shared objects.
    pub(super) fn share(&mut self, name: &LocalName, shared: bool) {
        if self.shared.set(name, shared) == UseChange::Nothing {
            return;
        }
        self.apply_write_state(&OwnerPurpose::Shared, WriteState::Pending);
        if self.owners.is_inherited(&shared_owner()) {
            self.owners.assign(shared_owner(), OwnerPurpose::Shared);
            self.shared.mark_stale();
        } else {
            self.want_shared();
        }
    }

    /// Evaluates the shared objects if they are stale, no local name is, and none prevents it.
    pub(super) fn reconcile_shared(&mut self) {
        // A name that needs the shared objects may be among the waiting ones.
        if !self.shared.stale || !self.acceptor.is_clean() || self.shared_must_wait() {
            return;
        }
        if self.shared.is_being_left(|name| self.acceptor.is_being_written(name)) {
            return;
        }
        self.shared.stale = false;
        self.want_shared();
    }

    /// Returns whether the shared objects must wait for names. Those from before this process exist, whatever version
    /// of Wharf wrote them, and names may be of that version as well: a listener with fewer routes than before is
    /// written after the names that use the old routes.
    fn shared_must_wait(&self) -> bool {
        let old =
            |name: &LocalName| self.owners.is_inherited(&local_owner(name)) || self.acceptor.is_being_written(name);
        self.owners.is_inherited(&shared_owner()) && self.shared.users.iter().any(old)
    }

    fn want_shared(&mut self) {
        let needed = self.shared.is_used() || (self.holds_locals() && self.owners.has_objects(&shared_owner()));
        let objects = if needed { translate::shared_egress(&self.inventory, &self.facts) } else { Vec::new() };
        self.want_objects(shared_owner(), OwnerPurpose::Shared, objects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> LocalName {
        LocalName { namespace: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    #[test]
    fn shared_objects_are_needed_from_the_first_name_to_the_last() {
        let mut shared = SharedUse::default();
        assert_eq!(shared.set(&name("till"), true), UseChange::Begins);
        assert_eq!(shared.set(&name("cart"), true), UseChange::Nothing);
        assert_eq!(shared.set(&name("till"), true), UseChange::Nothing);
        shared.set(&name("till"), false);
        assert!(shared.is_used() && !shared.stale);
        shared.set(&name("cart"), false);
        assert!(!shared.is_used() && shared.stale);
        assert_eq!(shared.set(&name("cart"), true), UseChange::Begins);
    }

    #[test]
    fn shared_objects_stay_until_the_names_that_used_them_are_written_without() {
        let mut shared = SharedUse::default();
        shared.set(&name("till"), true);
        assert!(!shared.is_being_left(|_| true), "a name uses them");
        shared.set(&name("till"), false);
        assert!(shared.is_being_left(|_| true));
        assert!(!shared.is_being_left(|_| false));
        assert!(!shared.is_being_left(|_| true), "it is written once");
    }

    #[test]
    fn a_name_that_never_used_them_leaves_nothing_behind() {
        let mut shared = SharedUse::default();
        shared.set(&name("till"), false);
        assert!(!shared.stale && !shared.is_being_left(|_| true));
    }
}
