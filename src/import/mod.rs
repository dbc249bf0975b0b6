//! Other ways between clusters, read as the policies and bindings that replace them. Pure: objects in, objects and notes
//! out.
//!
//! Two ways are known. [`import_service_entries`] reads ServiceEntries that somebody wrote by hand in the acceptor, and
//! [`import_shared_services`] the Services that two clusters of one multi-primary mesh have under one name. Both end in
//! [`ImportResult`]: a policy for each donor's service, a binding for each local name, and what a person has to know.
//!
//! Nothing is guessed in silence. A value that is not in the objects is taken where the objects make it likely, with a
//! note that names the field; where they do not, it is an error of that object alone, and the others are read.

mod draft;
mod entries;
mod judge;
mod lost;
mod nearby;
mod peers;
mod shared;
mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::api::{Object, ObjectKey, RemoteServiceBinding, ServiceExpositionPolicy};
use crate::model::text::shorten_message;
use crate::model::{ClusterFacts, ClusterName};
use crate::translate::Inventory;

pub use entries::import_service_entries;
pub use peers::{PeerBook, PeerHint};
pub use shared::import_shared_services;

/// Most notes of one run, and most errors.
const MAX_NOTES: usize = 2000;

/// The import that a person asks for.
#[derive(Debug)]
pub struct ImportRequest<'a> {
    /// The acceptor. Policies let in nobody else.
    pub acceptor: &'a ClusterName,
    pub peers: PeerBook,
    /// The only namespace whose objects are read as sources; none: all.
    pub namespace: Option<String>,
    /// The only services, by the names that they have here or at the donor; none: all.
    pub services: BTreeSet<String>,
    /// The acceptor, as translation needs it.
    pub facts: &'a ClusterFacts,
}

impl ImportRequest<'_> {
    fn wants_namespace(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }

    fn wants_service(&self, names: &[&str]) -> bool {
        self.services.is_empty() || names.iter().any(|name| self.services.contains(*name))
    }
}

/// The objects of one cluster.
#[derive(Debug, Default)]
pub struct ClusterObjects {
    objects: Vec<Arc<Object>>,
    inventory: Inventory,
}

impl ClusterObjects {
    pub fn add_object(&mut self, object: Arc<Object>) {
        self.inventory.set_object(object.clone());
        if object.owner().is_none() {
            self.objects.push(object);
        }
    }

    /// Sorts the objects, so that the order in which they were read changes nothing.
    fn sorted(&self) -> Vec<&Object> {
        let mut objects: Vec<&Object> = self.objects.iter().map(|o| &**o).collect();
        objects.sort_by_cached_key(|o| o.key());
        objects
    }
}

/// The objects of a donor.
#[derive(Debug)]
pub struct DonorObjects {
    pub name: ClusterName,
    pub objects: ClusterObjects,
}

/// The objects that replace what was read, and what a person has to know.
#[derive(Debug, Default)]
pub struct ImportResult {
    /// Each with the donor that it is for.
    pub policies: Vec<(ClusterName, ServiceExpositionPolicy)>,
    pub bindings: Vec<RemoteServiceBinding>,
    pub notes: ImportNotes,
}

/// A sentence about one object that was read, or about the run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImportNote {
    /// Something that was asked for is missing in the output.
    pub is_error: bool,
    /// The object and the field.
    pub place: String,
    pub message: String,
}

#[derive(Debug, Default)]
pub struct ImportNotes {
    list: Vec<ImportNote>,
    known: HashSet<ImportNote>,
    errors: usize,
    left_out: usize,
    failed: bool,
}

impl ImportNotes {
    pub fn add_error(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.failed = true;
        self.add(true, place.into(), message.into());
    }

    pub fn add_note(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.add(false, place.into(), message.into());
    }

    fn add(&mut self, is_error: bool, place: String, message: String) {
        // However many notes there are, no error is lost among them.
        let of_kind = if is_error { self.errors } else { self.list.len() - self.errors };
        if of_kind >= MAX_NOTES {
            self.left_out += 1;
            return;
        }
        let note = ImportNote { is_error, place, message: shorten_message(message) };
        if self.known.insert(note.clone()) {
            self.errors += usize::from(is_error);
            self.list.push(note);
        }
    }

    /// Returns whether something that was asked for is missing in the output.
    pub fn has_errors(&self) -> bool {
        self.failed
    }

    /// Returns the notes, and how many more there were.
    pub fn list(&self) -> (&[ImportNote], usize) {
        (&self.list, self.left_out)
    }
}

/// Names a field of an object.
fn place(key: &ObjectKey, field: &str) -> String {
    format!("{key}: {field}")
}
