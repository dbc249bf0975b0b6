//! The inputs that people wrote, file by file: the objects that each file holds, the one of them that is in force, and
//! the problems. Pure bookkeeping; it keeps digests, never text.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::ObjectKey;
use crate::store::manifest::{Digest, Document, ManifestError};
use crate::store::{Change, HiddenInputs, Input, InputKey};

/// Other files that are read again, to report it, when another file comes to count for an object.
const TOLD_OF_OTHERS: usize = 8;

/// The effect of a change of a file.
pub(super) enum InputEffect {
    Tell(Change),
    /// An owner other than Wharf has this object, or has it no longer.
    Taken(ObjectKey),
    Released(ObjectKey),
    /// Objects of this file count in another way now: read it again.
    Reread(Arc<Path>),
}

/// The parsed content of a file.
pub(super) struct FileContent<'a> {
    pub(super) path: &'a Path,
    pub(super) digest: Digest,
    pub(super) documents: Vec<Result<Document, ManifestError>>,
    /// The objects that it held when it was read last, also by an earlier process; None if that is not known.
    pub(super) held_before: Option<&'a BTreeSet<InputKey>>,
}

/// A problem at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileProblem {
    pub(super) message: String,
    /// The inputs that may be there because of it.
    pub(super) hidden: HiddenInputs,
}

/// Says whether an object that is not in a file any more stays in force, since it may be back in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithdrawalPatience {
    Yes,
    No,
}

#[derive(Default)]
pub(super) struct InputFiles {
    files: BTreeMap<Arc<Path>, InputFile>,
    holders: HashMap<InputKey, ObjectHolders>,
}

/// One file.
#[derive(Default)]
struct InputFile {
    /// Digest of its text; None if it is to be read whatever is in it.
    digest: Option<Digest>,
    /// The objects that it holds, or held when its documents were last good.
    objects: HashMap<InputKey, Digest>,
    /// Its problems, by place.
    problems: BTreeMap<String, FileProblem>,
    /// It could not be read at all.
    unreadable: bool,
}

/// The files that hold one object. The first by name counts, so that the order of events does not.
#[derive(Default)]
struct ObjectHolders {
    files: BTreeSet<Arc<Path>>,
    told: Option<Digest>,
}

impl InputFiles {
    /// Returns whether a file of this text is unchanged.
    pub(super) fn is_known(&self, path: &Path, digest: Digest) -> bool {
        self.files.get(path).is_some_and(|f| f.digest == Some(digest))
    }

    pub(super) fn is_unreadable(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|f| f.unreadable)
    }

    pub(super) fn holds_input(&self, key: &InputKey) -> bool {
        self.holders.contains_key(key)
    }

    /// Returns whether an object may be in a file that cannot be read.
    pub(super) fn may_hide(&self, key: &InputKey) -> bool {
        self.files.values().flat_map(|f| f.problems.values()).any(|trouble| trouble.hidden.may_hold(key))
    }

    pub(super) fn has_problems(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|f| !f.problems.is_empty())
    }

    /// Returns the objects that a file holds, and those that it held and may still hold.
    pub(super) fn kept_of(&self, path: &Path) -> BTreeSet<InputKey> {
        let Some(source) = self.files.get(path) else { return BTreeSet::new() };
        let hidden = source.problems.values().flat_map(|trouble| &trouble.hidden.keys);
        source.objects.keys().chain(hidden).cloned().collect()
    }

    /// Returns the file of this name, and those in the folder of this name.
    pub(super) fn files_under(&self, path: &Path) -> Vec<Arc<Path>> {
        if path.as_os_str().is_empty() {
            return self.files.keys().cloned().collect();
        }
        let from = (Bound::Included(path), Bound::Unbounded);
        let range = self.files.range::<Path, _>(from).map(|(p, _)| p);
        range.take_while(|p| p.starts_with(path)).cloned().collect()
    }

    /// Makes the next read of a file count as changed.
    pub(super) fn forget_digest(&mut self, path: &Path) {
        if let Some(source) = self.files.get_mut(path) {
            source.digest = None;
        }
    }

    /// Makes everything be read and reported again.
    pub(super) fn forget_digests(&mut self) {
        self.files.values_mut().for_each(|f| f.digest = None);
        let nothing = Digest::of(&[]); // which no document is
        self.holders.values_mut().for_each(|h| h.told = h.told.map(|_| nothing));
    }

    /// Records the new content of a file. `missing` are files that are gone, though nothing was withdrawn yet: an
    /// object that moved from one of them is in the other now. Returns also whether something is to be withdrawn when
    /// the patience ends.
    pub(super) fn update_file(
        &mut self,
        place: impl Fn(&Path) -> String,
        FileContent { path, digest, documents, held_before }: FileContent<'_>,
        patience: WithdrawalPatience,
        missing: &BTreeSet<PathBuf>,
    ) -> (Vec<InputEffect>, bool) {
        let path: Arc<Path> = path.into();
        let mut effects = Vec::new();
        let mut shrunken = false;
        let old = self.files.get_mut(&path).map(|source| std::mem::take(&mut source.objects));
        let never_ours = old.as_ref().is_none_or(HashMap::is_empty) && held_before.is_none_or(BTreeSet::is_empty);
        let documents = documents.into_iter().filter(|d| !never_ours || !d.as_ref().is_err_and(is_foreign));
        let SiftedDocuments { good, failing, mut problems } = sift_documents(&place(&path), documents, held_before);
        let mut objects: HashMap<InputKey, Digest> = good.iter().map(|d| (d.input.key(), d.digest)).collect();
        for (key, digest) in old.unwrap_or_default() {
            match objects.entry(key) {
                Entry::Occupied(_) => {}
                Entry::Vacant(gone) if failing.may_be(gone.key()) => drop(gone.insert(digest)), // last known good
                Entry::Vacant(gone) if patience == WithdrawalPatience::Yes => {
                    gone.insert(digest);
                    shrunken = true;
                }
                Entry::Vacant(gone) => self.drop_holder(&gone.into_key(), &path, &mut effects),
            }
        }
        for Document { line, input, digest } in good {
            let key = input.key();
            if let Some(winner) = self.hold_input(&key, &path, missing, &mut effects) {
                let message = format!(
                    "{key} is in {} too, and that one counts; remove one of them. Objects count as they stand: render patches and overlays first",
                    place(&winner)
                );
                add_problem(&mut problems, format!("{}:{line}", place(&path)), message);
            } else if let Some(holder) = self.holders.get_mut(&key)
                && holder.told != Some(digest)
            {
                holder.told = Some(digest);
                if is_reported(&key) {
                    effects.push(InputEffect::Tell(Change::Set(key, input)));
                }
            }
        }
        let source = self.files.entry(path).or_default();
        source.objects = objects;
        source.digest = (!shrunken).then_some(digest);
        source.unreadable = false;
        source.set_problems(problems, &mut effects);
        (effects, shrunken)
    }

    /// Enters a file among those that hold an object; returns the one that counts, if it is another.
    fn hold_input(
        &mut self,
        key: &InputKey,
        path: &Arc<Path>,
        missing: &BTreeSet<PathBuf>,
        effects: &mut Vec<InputEffect>,
    ) -> Option<Arc<Path>> {
        let holder = self.holders.entry(key.clone()).or_insert_with(|| {
            if let InputKey::Object(object) = key {
                effects.push(InputEffect::Taken(object.clone()));
            }
            ObjectHolders::default()
        });
        let before = holder.files.first().cloned();
        let moved: Vec<_> = holder.files.iter().filter(|f| *f != path && missing.contains(&***f)).cloned().collect();
        for file in moved {
            holder.files.remove(&file);
            if let Some(source) = self.files.get_mut(&file) {
                source.digest = None; // should it come back, it is to be read anew
                source.objects.remove(key);
            }
        }
        holder.files.insert(path.clone());
        if holder.files.first() != before.as_ref() {
            let others = holder.files.iter().filter(|f| *f != path).take(TOLD_OF_OTHERS);
            effects.extend(others.cloned().map(InputEffect::Reread));
        }
        holder.files.first().filter(|first| *first != path).cloned()
    }

    fn drop_holder(&mut self, key: &InputKey, path: &Path, effects: &mut Vec<InputEffect>) {
        let Some(holder) = self.holders.get_mut(key) else { return };
        let counted = holder.files.first().is_some_and(|first| **first == *path);
        holder.files.remove(path);
        if !holder.files.is_empty() {
            let others = holder.files.iter().take(if counted { TOLD_OF_OTHERS } else { 0 });
            effects.extend(others.cloned().map(InputEffect::Reread));
            return;
        }
        let told = holder.told.is_some();
        self.holders.remove(key);
        if let InputKey::Object(object) = key {
            effects.push(InputEffect::Released(object.clone()));
        }
        if told && is_reported(key) {
            effects.push(InputEffect::Tell(Change::Gone(key.clone())));
        }
    }

    /// Records that a file cannot be read: its objects stay in force.
    pub(super) fn record_unreadable(&mut self, place: String, path: &Path, trouble: FileProblem) -> Vec<InputEffect> {
        let mut effects = Vec::new();
        let source = self.files.entry(path.into()).or_default();
        source.digest = None;
        source.unreadable = true;
        source.set_problems(BTreeMap::from([(place, trouble)]), &mut effects);
        effects
    }

    /// Removes a file that is gone, with its objects.
    pub(super) fn remove_file(&mut self, path: &Path) -> Vec<InputEffect> {
        let mut effects = Vec::new();
        if let Some(mut source) = self.files.remove(path) {
            source.set_problems(BTreeMap::new(), &mut effects);
            for key in source.objects.into_keys() {
                self.drop_holder(&key, path, &mut effects);
            }
        }
        effects
    }
}

impl InputFile {
    /// Reports new problems, and those that are solved.
    fn set_problems(&mut self, problems: BTreeMap<String, FileProblem>, effects: &mut Vec<InputEffect>) {
        let gone = self.problems.keys().filter(|place| !problems.contains_key(*place));
        effects.extend(gone.map(|place| InputEffect::Tell(Change::Solved { place: place.clone() })));
        for (place, trouble) in problems.iter().filter(|(place, trouble)| self.problems.get(*place) != Some(trouble)) {
            let FileProblem { message, hidden } = trouble.clone();
            effects.push(InputEffect::Tell(Change::Problem { place: place.clone(), message, hidden }));
        }
        self.problems = problems;
    }
}

/// The documents of a file.
#[derive(Default)]
struct SiftedDocuments {
    good: Vec<Document>,
    failing: FailingObjects,
    problems: BTreeMap<String, FileProblem>,
}

/// Returns whether a document was never meant for Wharf. It is no problem, unless it took the place of something that
/// was.
fn is_foreign(e: &ManifestError) -> bool {
    if e.foreign {
        tracing::debug!(place = %e.place(), reason = %e.reason, "skipping a document that is no object");
    }
    e.foreign
}

/// Returns the objects that an unreadable document may be, of a file that held these before.
fn hidden_by(e: &ManifestError, held_before: Option<&BTreeSet<InputKey>>) -> HiddenInputs {
    let (None, Some(before)) = (&e.key, held_before) else { return e.hidden_inputs() };
    let known: BTreeSet<_> = before.iter().map(InputKey::kind).collect();
    let kinds = e.mentions.difference(&known).copied().collect();
    HiddenInputs { keys: before.clone(), kinds, ..e.hidden_inputs() }
}

fn sift_documents(
    file: &str,
    documents: impl Iterator<Item = Result<Document, ManifestError>>,
    held_before: Option<&BTreeSet<InputKey>>,
) -> SiftedDocuments {
    let mut sifted = SiftedDocuments::default();
    let mut lines: HashMap<InputKey, usize> = HashMap::new();
    for document in documents {
        match document {
            Err(e) => {
                sifted.failing.add_failure(&e);
                add_problem(&mut sifted.problems, e.place(), e.message());
                sifted.problems.entry(e.place()).or_default().hidden.extend(hidden_by(&e, held_before));
            }
            // A copy of an object that Wharf made is not an input.
            Ok(Document { input: Input::Object(object), .. }) if object.owner().is_some() => {}
            Ok(document) => match lines.entry(document.input.key()) {
                Entry::Occupied(first) => {
                    let message =
                        format!("{} is in this file twice; the one in line {} counts", first.key(), first.get());
                    add_problem(&mut sifted.problems, format!("{file}:{}", document.line), message);
                }
                Entry::Vacant(new) => {
                    new.insert(document.line);
                    sifted.good.push(document);
                }
            },
        }
    }
    for key in sifted.good.iter().map(|d| d.input.key()) {
        for trouble in sifted.problems.values_mut() {
            trouble.hidden.keys.remove(&key);
        }
    }
    sifted
}

/// Adds a problem to those of one place, which may have several, as in a list on one line.
fn add_problem(problems: &mut BTreeMap<String, FileProblem>, place: String, message: String) {
    const LONGEST: usize = 4096; // a file of 16 MiB can have a great many
    let text = &mut problems.entry(place).or_default().message;
    if text.is_empty() {
        *text = message;
    } else if text.len() < LONGEST && !text.contains(&message) {
        text.push_str("; ");
        text.push_str(&message);
    }
}

/// The objects that a file's bad documents may be.
#[derive(Default)]
struct FailingObjects {
    keys: HashSet<InputKey>,
    any: bool,
}

impl FailingObjects {
    fn add_failure(&mut self, e: &ManifestError) {
        match &e.key {
            Some(key) => drop(self.keys.insert(key.clone())),
            None => self.any = true,
        }
    }

    fn may_be(&self, key: &InputKey) -> bool {
        self.any || self.keys.contains(key)
    }
}

/// Returns whether an object is reported: translation reads only some of Istio's.
fn is_reported(key: &InputKey) -> bool {
    match key {
        InputKey::Object(object) => object.kind.is_read_by_translation(),
        _ => true,
    }
}
