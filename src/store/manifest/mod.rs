//! Objects as text: a stream of YAML (or JSON) documents in, objects out, and objects to YAML.
//!
//! Each document stands alone: one that is bad is an error of its own, and the others of the file count. Reading is
//! strict where silence would be dangerous: a misspelt `clusters` would open a service to every peer, a field of a
//! VirtualService that is not known here would be cut from the behaviour that its owner relies on.

mod decode;
mod emit;
mod mention;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{HiddenInputs, Input, InputKey, InputKind};
use crate::api::{GROUP, Kind, VERSION};
use crate::model::text::shorten_message;

pub use emit::to_yaml;

/// The namespace of objects that name none, as kubectl has it.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A hash of content: equal digests are equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_sha256(&Sha256::digest(bytes).into())
    }

    /// Takes half of the hash: enough for content that is not chosen to collide.
    pub fn from_sha256(hash: &[u8; 32]) -> Digest {
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Digest(half)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One object of a stream.
#[derive(Debug, Clone)]
pub struct Document {
    /// The line where it starts, counted from 1.
    pub line: usize,
    pub input: Input,
    /// Digest of everything in the document but its layout and comments.
    pub digest: Digest,
}

/// The reason why a document, or a whole file, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    pub file: String,
    /// The line where the document starts, or of the mistake in it, if that is known; 0: the file as a whole.
    pub line: usize,
    /// The object by the document's own words, as far as they can be read: `ServiceExpositionPolicy default/reviews`.
    pub object: Option<String>,
    /// The object that the document would be.
    pub key: Option<InputKey>,
    /// The kinds of objects that its text names, if it is not known which object it would be.
    pub mentions: BTreeSet<InputKind>,
    /// The kinds of others' objects that its text names.
    pub mentioned_objects: BTreeSet<Kind>,
    /// It looks like nothing that Wharf reads: a list of patches, or a template of another's object.
    pub foreign: bool,
    pub reason: ManifestFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    #[error("it is not text in UTF-8 (byte {0}): Wharf reads YAML and JSON")]
    NotText(usize),
    #[error("{0}")]
    Syntax(String),
    #[error("expected an object with apiVersion and kind, found {0}")]
    NotAnObject(&'static str),
    #[error("{0}: missing; every object has it")]
    Missing(&'static str),
    #[error("apiVersion: {found:?} is not what this kind has: expected {GROUP}/{VERSION}")]
    ApiVersion { found: String },
    #[error("kind: {GROUP} has no {found:?}, expected ServiceExpositionPolicy, RemoteServiceBinding or ClusterPeering")]
    Kind { found: String },
    /// A field whose value is not what it should be; `path` may be empty.
    #[error("{path}{}{message}", if path.is_empty() { "" } else { ": " })]
    Field { path: String, message: String },
}

impl ManifestError {
    /// Returns `file:line`, or the file.
    pub fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        }
    }

    /// Returns the objects that the document may be.
    pub fn hidden_inputs(&self) -> HiddenInputs {
        match (&self.key, self.mentions.is_empty()) {
            (Some(key), _) => HiddenInputs::of_key(key.clone()),
            (None, true) => HiddenInputs::anything(),
            (None, false) => HiddenInputs {
                kinds: self.mentions.clone(),
                objects: self.mentioned_objects.iter().map(|kind| (*kind, None)).collect(),
                ..HiddenInputs::default()
            },
        }
    }

    /// Returns the message without the place.
    pub fn message(&self) -> String {
        shorten_message(match &self.object {
            Some(object) => format!("{object}: {}", self.reason),
            None => self.reason.to_string(),
        })
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.message())
    }
}

impl std::error::Error for ManifestError {}

/// Reads all objects that matter to Wharf of a YAML stream. `file` is its name in errors. Lists are taken apart;
/// objects of other kinds are passed over.
pub fn read_manifest(file: &str, bytes: &[u8]) -> Vec<Result<Document, ManifestError>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let text = String::from_utf8_lossy(bytes);
            return vec![Err(unreadable_error(file, 0, ManifestFault::NotText(e.valid_up_to()), &text, false))];
        }
    };
    let mut found = Vec::new();
    for chunk in stream::split_documents(text) {
        match stream::parse_document(&chunk) {
            Ok(value) => decode::decode_objects(file, chunk.line, value, chunk.text, &mut found),
            Err((line, reason)) => {
                let mentions = mention::mentioned_kinds(chunk.text);
                let foreign =
                    mention::is_template(chunk.text) && mentions.iter().all(|kind| *kind == InputKind::Object);
                found.push(Err(unreadable_error(file, line, reason, chunk.text, foreign)));
            }
        }
    }
    found
}

fn unreadable_error(file: &str, line: usize, reason: ManifestFault, text: &str, foreign: bool) -> ManifestError {
    let (mentions, mentioned_objects) = (mention::mentioned_kinds(text), mention::object_kinds(text));
    ManifestError { file: file.to_owned(), line, object: None, key: None, mentions, mentioned_objects, foreign, reason }
}

/// Reads one object that is JSON already. `place` is its name in errors. None: it is of no kind that matters.
pub fn read_value(place: &str, value: serde_json::Value) -> Option<Result<Document, ManifestError>> {
    let mut found = Vec::new();
    decode::decode_objects(place, 0, value, "", &mut found);
    found.pop()
}

/// Returns whether there is nothing in a stream but comments and empty documents.
pub fn is_blank(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| stream::split_documents(text).is_empty())
}
