//! Wharf's objects in the cluster, by owner, and the objects that it must not touch: digests, not the objects.
//!
//! Holds no I/O. The watches report objects to it ([`KubeLedger::record_seen`], [`KubeLedger::record_gone`]), and the writer its writes; it
//! plans the steps to an owner's wish ([`KubeLedger::plan_writes`]). A late event of a watch is known by its resource version,
//! which Kubernetes promises to grow (KEP-5504, "Comparable Resource Version").

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::content;
use crate::api::{Kind, Object, ObjectKey};
use crate::model::Host;
use crate::store::manifest::Digest;
use crate::store::{HeldNames, HeldPort, Owner};

/// An object as a watch or an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedObject {
    /// None: it is another owner's. Empty: it is Wharf's, and the label that names its owner was taken away.
    pub owner: Option<Owner>,
    pub uid: Box<str>,
    pub version: u64,
    pub content: Digest,
    /// The hosts of a Gateway.
    pub hosts: Box<[Host]>,
    /// The bindings that a Service comes from.
    pub provenance: Box<str>,
    /// The ports of a Service.
    pub ports: Box<[HeldPort]>,
}

struct LedgerEntry {
    owner: Owner,
    uid: Box<str>,
    version: u64,
    content: Digest,
    hosts: Box<[Host]>,
    provenance: Box<str>,
    ports: Box<[HeldPort]>,
    /// Digests of the object that this process wrote last, and of the result: an API server may drop a field that its
    /// definitions do not know, and that must not be written for ever.
    wrote: Option<(Digest, Digest)>,
    /// This process deletes it; the watch has not reported it yet.
    leaving: bool,
}

#[derive(Default)]
pub struct KubeLedger {
    ours: HashMap<Arc<ObjectKey>, LedgerEntry>,
    owners: BTreeMap<Owner, BTreeSet<Arc<ObjectKey>>>,
    theirs: HashSet<ObjectKey>,
    /// The owners that wanted an object of another owner.
    refused: HashMap<ObjectKey, BTreeSet<Owner>>,
    /// Objects that are being written now: the echo of a write is no change.
    writing: HashMap<ObjectKey, Digest>,
}

/// The steps to an owner's wish, in stages: a guard comes before what it guards.
#[derive(Default)]
pub struct WritePlan {
    pub writes: Vec<PlannedWrite>,
    pub removals: Vec<PlannedRemoval>,
    pub unchanged: usize,
    pub conflicts: Vec<ObjectKey>,
}

pub struct PlannedWrite {
    pub key: ObjectKey,
    pub stage: u8,
    pub value: Value,
    pub wanted: Digest,
    /// The version that is written over. None: there is no such object.
    pub over: Option<u64>,
}

pub struct PlannedRemoval {
    pub key: ObjectKey,
    pub uid: Box<str>,
    pub version: u64,
}

impl WritePlan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.removals.is_empty()
    }
}

/// The stage of the names by which things are called.
pub const NAMES: u8 = 4;

/// Returns the stage of a write. Objects of a lower stage are there before those of a higher one: permissions,
/// endpoints, the settings of the way, the routes at a gateway, and last the names by which things are called.
fn write_stage(object: &Object) -> u8 {
    match object.kind() {
        Kind::AuthorizationPolicy | Kind::EnvoyFilter => 0,
        Kind::ServiceEntry | Kind::Gateway => 1,
        Kind::DestinationRule => 2,
        Kind::VirtualService if !object.is_for_mesh() => 3,
        Kind::VirtualService | Kind::Service => NAMES,
    }
}

/// Returns the stage of a removal. Objects go the other way round. A VirtualService that goes may have been for the
/// mesh or not: all routes go with the names.
pub fn removal_stage(kind: Kind) -> u8 {
    match kind {
        Kind::AuthorizationPolicy | Kind::EnvoyFilter => 0,
        Kind::ServiceEntry | Kind::Gateway => 1,
        Kind::DestinationRule => 2,
        Kind::VirtualService | Kind::Service => 3,
    }
}

impl KubeLedger {
    pub fn owners(&self) -> Vec<Owner> {
        self.owners.keys().filter(|o| !o.0.is_empty()).cloned().collect()
    }

    /// Returns the names that owners hold.
    pub fn held_names(&self) -> HeldNames {
        let mut holdings = HeldNames::default();
        for (key, entry) in self.ours.iter().filter(|(_, e)| !e.leaving) {
            holdings.add_object(&entry.owner, key, entry.hosts.iter().cloned());
            if key.kind == Kind::Service {
                holdings.add_provenance(&entry.owner, &entry.provenance);
                holdings.note_ports(&entry.owner, entry.ports.iter().cloned());
            }
        }
        holdings
    }

    /// Records the state of an object. Returns the owners who have to look again.
    pub fn record_seen(&mut self, key: &ObjectKey, mut seen: ObservedObject) -> BTreeSet<Owner> {
        let known = self.ours.get(key);
        if let Some(e) = known.filter(|e| e.uid == seen.uid && seen.owner.as_ref().is_some_and(|o| o.0.is_empty())) {
            seen.owner = Some(e.owner.clone());
        }
        if known.is_some_and(|e| seen.version < e.version) {
            return BTreeSet::new(); // from before what is known
        }
        let Some(owner) = seen.owner.clone() else {
            let lost = self.strike_object(key);
            self.theirs.insert(key.clone());
            return lost.into_iter().collect();
        };
        let echo = self.writing.get(key).is_some_and(|wanted| *wanted == seen.content);
        let same = |e: &LedgerEntry| e.owner == owner && e.content == seen.content && e.uid == seen.uid;
        let news = !echo && !known.is_some_and(same);
        let before = known.filter(|_| news).map(|e| e.owner.clone());
        let wrote = known.and_then(|e| e.wrote);
        let mut touched = self.free_name(key);
        touched.extend(before);
        touched.extend(news.then_some(owner));
        self.enter_object(key, seen, wrote);
        touched
    }

    /// Records that an object is gone, as of this version. Returns the owners who have to look again.
    pub fn record_gone(&mut self, key: &ObjectKey, version: u64) -> BTreeSet<Owner> {
        let mut touched = self.free_name(key);
        match self.ours.get(key) {
            Some(e) if version < e.version => {} // it was made again since
            Some(e) if e.leaving => drop(self.strike_object(key)),
            Some(_) => touched.extend(self.strike_object(key)),
            None => {}
        }
        touched
    }

    /// Returns the known keys of a kind, whoever owns them.
    pub fn of_kind(&self, kind: Kind, within: impl Fn(&str) -> bool) -> HashSet<ObjectKey> {
        let all = self.ours.keys().map(|k| &**k).chain(&self.theirs);
        all.filter(|k| k.kind == kind && within(&k.namespace)).cloned().collect()
    }

    /// Records that no other owner has a name any more. Returns the owners that waited for it.
    fn free_name(&mut self, key: &ObjectKey) -> BTreeSet<Owner> {
        self.theirs.remove(key);
        self.refused.remove(key).unwrap_or_default()
    }

    fn enter_object(&mut self, key: &ObjectKey, seen: ObservedObject, wrote: Option<(Digest, Digest)>) {
        let Some(owner) = seen.owner else { return };
        let before = self.strike_object(key);
        let key = Arc::new(key.clone());
        let ObservedObject { uid, version, content, hosts, provenance, ports, .. } = seen;
        // A new owner's wish is another one.
        let wrote = wrote.filter(|_| before.as_ref() == Some(&owner));
        let entry = LedgerEntry {
            owner: owner.clone(),
            uid,
            version,
            content,
            hosts,
            provenance,
            ports,
            wrote,
            leaving: false,
        };
        self.ours.insert(key.clone(), entry);
        self.owners.entry(owner).or_default().insert(key);
    }

    /// Removes an object that is not Wharf's any more. Returns its owner.
    fn strike_object(&mut self, key: &ObjectKey) -> Option<Owner> {
        let entry = self.ours.remove(key)?;
        if let Some(keys) = self.owners.get_mut(&entry.owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.owners.remove(&entry.owner);
            }
        }
        Some(entry.owner)
    }

    /// Plans the steps that make `owner` own exactly `objects`.
    pub fn plan_writes(&mut self, owner: &Owner, objects: Vec<Object>) -> WritePlan {
        let mut plan = WritePlan::default();
        let mut wanted = HashSet::new();
        for waiting in self.refused.values_mut() {
            waiting.remove(owner);
        }
        self.refused.retain(|_, waiting| !waiting.is_empty());
        for mut object in objects {
            object.set_owner_labels(&owner.0);
            let key = object.key();
            wanted.insert(key.clone());
            let stage = write_stage(&object);
            let (value, digest) = content::wanted_digest(&object);
            let over = match self.ours.get(&key) {
                Some(e) if e.owner != *owner && !e.owner.0.is_empty() && !e.leaving => {
                    plan.conflicts.push(key);
                    continue;
                }
                Some(e) if !e.leaving => {
                    if e.content == digest || e.wrote == Some((digest, e.content)) {
                        plan.unchanged += 1;
                        continue;
                    }
                    Some(e.version)
                }
                _ if self.theirs.contains(&key) => {
                    plan.conflicts.push(key);
                    continue;
                }
                _ => None,
            };
            plan.writes.push(PlannedWrite { key, stage, value, wanted: digest, over });
        }
        for key in &plan.conflicts {
            self.refused.entry(key.clone()).or_default().insert(owner.clone());
        }
        let owned = self.owners.get(owner).into_iter().flatten().filter(|k| !wanted.contains(&***k));
        for key in owned {
            let Some(e) = self.ours.get(key).filter(|e| !e.leaving) else { continue };
            plan.removals.push(PlannedRemoval { key: (**key).clone(), uid: e.uid.clone(), version: e.version });
        }
        plan.writes.sort_by_key(|w| w.stage);
        plan.removals.sort_by_key(|r| std::cmp::Reverse(removal_stage(r.key.kind)));
        plan
    }

    /// Records that a write of this object is under way.
    pub fn begin_write(&mut self, key: &ObjectKey, wanted: Digest) {
        self.writing.insert(key.clone(), wanted);
    }

    /// Records that no write of this object is under way any more.
    pub fn end_write(&mut self, key: &ObjectKey) {
        self.writing.remove(key);
    }

    /// Records the end of a write; `came` is the object as it was answered, if it was.
    pub fn finish_write(&mut self, key: &ObjectKey, wanted: Digest, came: Option<ObservedObject>) {
        self.writing.remove(key);
        let Some(came) = came else { return };
        if self.ours.get(key).is_some_and(|e| e.version > came.version) {
            return; // somebody has changed it since, and the watch was quicker
        }
        self.theirs.remove(key);
        let wrote = (wanted, came.content);
        self.enter_object(key, came, None);
        if let Some(e) = self.ours.get_mut(key) {
            e.wrote = Some(wrote);
        }
    }

    /// Records that this process deletes an object, or did not succeed in that.
    pub fn set_leaving(&mut self, removal: &PlannedRemoval, leaving: bool) {
        if let Some(e) = self.ours.get_mut(&removal.key)
            && e.uid == removal.uid
        {
            e.leaving = leaving;
        }
    }

    /// Records that an object turned out to be another owner's.
    pub fn record_foreign(&mut self, key: &ObjectKey, owner: &Owner) {
        self.strike_object(key);
        self.theirs.insert(key.clone());
        self.refused.entry(key.clone()).or_default().insert(owner.clone());
    }
}
