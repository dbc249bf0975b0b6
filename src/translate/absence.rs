//! The reason why the inventory does not have an object: there is none, it may be in what cannot be read, or it is
//! Wharf's own. Problems say "there is no ..." only of the first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::api::{Kind, MANAGED_BY, ObjectKey};
use crate::model::text::shorten_message;

use super::inventory::Inventory;
use super::problem::{Problem, ProblemReason};

/// The objects that may be in one place although it cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnreadObjects {
    /// The reason why it cannot be read.
    pub reason: String,
    pub named: BTreeSet<ObjectKey>,
    /// Kinds whose objects may be there, in one namespace or (None) in all.
    pub kinds: BTreeSet<(Kind, Option<String>)>,
}

/// Stands for the key of an object of Wharf's.
pub type OwnMark = u64;

pub fn own_mark(key: &ObjectKey) -> OwnMark {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Knowledge about objects that the inventory does not have.
#[derive(Debug, Clone, Default)]
pub(super) struct InventoryGaps {
    places: BTreeMap<Arc<str>, UnreadObjects>,
    by_name: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
    /// The places where any object of some kind may be.
    wide: BTreeSet<Arc<str>>,
    /// Objects of the store that say that they are Wharf's.
    labelled: BTreeSet<ObjectKey>,
    /// Objects that Wharf wants to be there, by owner.
    own_by_owner: HashMap<Arc<str>, Box<[OwnMark]>>,
    own: HashMap<OwnMark, u32>,
}

/// The reason why an object is not in the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AbsenceReason<'a> {
    Missing,
    /// It is there, and cannot be read.
    Unread(&'a str, &'a UnreadObjects),
    /// It may be there.
    Unknown(&'a str, &'a UnreadObjects),
    Own,
}

impl InventoryGaps {
    pub fn record_labelled(&mut self, key: ObjectKey) {
        self.labelled.insert(key);
    }

    pub fn forget_labelled(&mut self, key: &ObjectKey) {
        self.labelled.remove(key);
    }

    fn record_unread(&mut self, place: &str, unread: Option<UnreadObjects>) -> bool {
        let unread = unread.filter(|u| !u.named.is_empty() || !u.kinds.is_empty());
        if self.places.get(place) == unread.as_ref() {
            return false;
        }
        if let Some(old) = self.places.remove(place) {
            self.wide.remove(place);
            for key in old.named {
                if let Some(places) = self.by_name.get_mut(&key) {
                    places.remove(place);
                    if places.is_empty() {
                        self.by_name.remove(&key);
                    }
                }
            }
        }
        if let Some(new) = unread {
            let place: Arc<str> = place.into();
            for key in &new.named {
                self.by_name.entry(key.clone()).or_default().insert(place.clone());
            }
            if !new.kinds.is_empty() {
                self.wide.insert(place.clone());
            }
            self.places.insert(place, new);
        }
        true
    }

    fn find_place(&self, place: Option<&Arc<str>>) -> Option<(&str, &UnreadObjects)> {
        self.places.get_key_value(place?).map(|(place, unread)| (&**place, unread))
    }

    /// A place where any object of a kind may be, in this namespace too.
    fn find_wide_place(&self, kind: Kind, namespace: &str) -> Option<(&str, &UnreadObjects)> {
        let hides = |unread: &UnreadObjects| {
            unread.kinds.iter().any(|(k, of)| *k == kind && of.as_deref().is_none_or(|of| of == namespace))
        };
        self.wide.iter().filter_map(|place| self.find_place(Some(place))).find(|(_, unread)| hides(unread))
    }

    fn absence_reason(&self, key: &ObjectKey) -> AbsenceReason<'_> {
        if let Some((place, unread)) = self.find_place(self.by_name.get(key).and_then(BTreeSet::first)) {
            return AbsenceReason::Unread(place, unread);
        }
        if self.labelled.contains(key) || self.own.contains_key(&own_mark(key)) {
            return AbsenceReason::Own;
        }
        match self.find_wide_place(key.kind, &key.namespace) {
            Some((place, unread)) => AbsenceReason::Unknown(place, unread),
            None => AbsenceReason::Missing,
        }
    }
}

/// Returns the reason why an object cannot be read, without the parts that the sentence before it has already.
fn unread_reason(key: &ObjectKey, place: &str, unread: &UnreadObjects) -> String {
    let name = key.to_string();
    let reason = unread.reason.strip_prefix(&format!("{name}: ")).unwrap_or(&unread.reason);
    let reason = shorten_message(reason.to_owned());
    if place == name { reason } else { format!("{place}: {reason}") }
}

impl Inventory {
    /// Records the objects that may be in a place that cannot be read. None: the place hides nothing any more. Returns
    /// whether something changed.
    pub fn record_unread(&mut self, place: &str, unread: Option<UnreadObjects>) -> bool {
        self.gaps.record_unread(place, unread)
    }

    /// Sets the objects that an owner has. Returns those that it did not have before, or has no longer.
    pub fn record_own<'a>(&mut self, owner: &Arc<str>, keys: impl Iterator<Item = &'a ObjectKey>) -> BTreeSet<OwnMark> {
        let gaps = &mut self.gaps;
        let now: BTreeSet<OwnMark> = keys.filter(|key| key.kind.is_named_by_policies()).map(own_mark).collect();
        let before: BTreeSet<OwnMark> = match now.is_empty() {
            true => gaps.own_by_owner.remove(owner),
            false => gaps.own_by_owner.insert(owner.clone(), now.iter().copied().collect()),
        }
        .into_iter()
        .flatten()
        .collect();
        for gone in before.difference(&now) {
            if let Some(count) = gaps.own.get_mut(gone) {
                *count -= 1;
                if *count == 0 {
                    gaps.own.remove(gone);
                }
            }
        }
        for new in now.difference(&before) {
            *gaps.own.entry(*new).or_default() += 1;
        }
        before.symmetric_difference(&now).copied().collect()
    }

    /// Builds the problem of an entry that names an object that is not here. `cure` is for an object that does not
    /// exist.
    pub(super) fn build_absence_problem(
        &self,
        kind: Kind,
        (namespace, name): (&str, &str),
        (reason, field): (ProblemReason, &str),
        cure: impl FnOnce() -> String,
    ) -> Problem {
        let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let object = format!("{kind} {name} in the namespace {namespace}");
        let problem = match self.gaps.absence_reason(&key) {
            AbsenceReason::Missing => Problem::new(reason, field, format!("there is no {object}")).cure(cure()),
            AbsenceReason::Unread(place, unread) => {
                let why = unread_reason(&key, place, unread);
                Problem::new(ProblemReason::Unreadable, field, format!("the {object} cannot be read: {why}"))
                    .cure("correct it")
            }
            AbsenceReason::Unknown(place, unread) => {
                let why = unread_reason(&key, place, unread);
                let message = format!("it is not known whether there is a {object}, since something cannot be read: {why}");
                Problem::new(ProblemReason::Unreadable, field, message).cure("correct that")
            }
            AbsenceReason::Own => Problem::new(
                ProblemReason::Unsupported,
                field,
                format!("the {object} is Wharf's own, and what comes from another cluster is not exposed again"),
            )
            .cure(format!(
                "expose it in the cluster where it runs; an object of somebody else must not have the label {MANAGED_BY}: wharf"
            )),
        };
        Problem { lacks: Some(own_mark(&key)), ..problem }
    }

    /// Returns the reason why it is not known if there is an object that the inventory does not have. None: there is
    /// none.
    pub fn doubt_absence(&self, kind: Kind, namespace: &str, name: &str) -> Option<String> {
        let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        match self.gaps.absence_reason(&key) {
            AbsenceReason::Missing => None,
            AbsenceReason::Unread(place, unread) => {
                Some(format!("it cannot be read: {}", unread_reason(&key, place, unread)))
            }
            AbsenceReason::Unknown(place, unread) => {
                let why = unread_reason(&key, place, unread);
                Some(format!("it is not known whether there is one, since something cannot be read: {why}"))
            }
            AbsenceReason::Own => Some(format!("it is Wharf's own, or has the label {MANAGED_BY}: wharf")),
        }
    }

    /// Finds a DestinationRule of these namespaces that cannot be read and is not known from before. Only one of `own`
    /// is named: a status does not show what other namespaces have.
    pub(super) fn unread_rule(&self, own: &str, others: &[&str]) -> Option<String> {
        let namespaces = std::iter::once(own).chain(others.iter().copied());
        namespaces.into_iter().find_map(|namespace| {
            let (key, place, unread) = match self.named_rule(namespace) {
                Some((key, place, unread)) => (Some(key), place, unread),
                None => {
                    let (place, unread) = self.gaps.find_wide_place(Kind::DestinationRule, namespace)?;
                    (None, place, unread)
                }
            };
            Some(match key {
                Some(key) if namespace == own => {
                    format!("the {key} cannot be read: {}", unread_reason(key, place, unread))
                }
                Some(_) => format!("a DestinationRule of the namespace {namespace} cannot be read"),
                None => format!(
                    "a DestinationRule may be in what cannot be read: {place}: {}",
                    shorten_message(unread.reason.clone())
                ),
            })
        })
    }

    fn named_rule(&self, namespace: &str) -> Option<(&ObjectKey, &str, &UnreadObjects)> {
        let kind = Kind::DestinationRule;
        let from = ObjectKey { kind, namespace: namespace.to_owned(), name: String::new() };
        let named = self.gaps.by_name.range(from..);
        let mut named = named.take_while(|(key, _)| key.kind == kind && key.namespace == namespace);
        named.find_map(|(key, places)| {
            let (place, unread) = self.gaps.find_place(places.first())?;
            self.rule_is_absent(&key.namespace, &key.name).then_some((key, place, unread))
        })
    }
}
