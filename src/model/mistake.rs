//! Errors of Serde in a person's words: the field, what was found, what was expected, and the near name.
//!
//! The configuration, manifests and the files of the tools are read alike, so their errors are told alike.

use serde_json::Value;
use serde_path_to_error::{Error, Path, Segment};

use super::text::{cut, quote_text};

/// Names below this likeness are no misspelling of each other (Jaro-Winkler).
const NEAR: f64 = 0.8;
/// Known names that are listed.
const LISTED: usize = 12;
/// Characters of a value that are shown.
const SHOWN: usize = 80;

/// Words of a document for its fields.
pub struct FieldWords {
    /// Name of one: a key, a field.
    pub noun: &'static str,
    /// Page that lists all of them.
    pub reference: &'static str,
    /// Returns what a missing field should be.
    pub meaning: fn(&str) -> &'static str,
}

impl FieldWords {
    /// Words for objects, and for the files that the tools read.
    pub const OF_OBJECTS: FieldWords =
        FieldWords { noun: "field", reference: "the reference", meaning: FieldWords::meaning_in_objects };

    fn meaning_in_objects(name: &str) -> &'static str {
        match name {
            "spec" | "metadata" => "a mapping",
            "exposed" | "remote" | "services" => "a list",
            "name" | "cluster" | "namespace" => "a name",
            "port" => "a port",
            _ => "a value",
        }
    }
}

/// Mistake in one field of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMistake {
    /// Path of the field, as in `spec.exposed[0].port`; empty: the document itself.
    pub path: String,
    pub message: String,
}

impl FieldMistake {
    /// Returns the mistake behind an error of reading `document`.
    pub fn explain(error: &Error<serde_json::Error>, document: &Value, words: &FieldWords) -> FieldMistake {
        let path = written(error.path());
        let said = error.inner().to_string();
        let found = value_at(document, error.path());
        if let Some(name) = named(&said, "missing field `") {
            let place = found.unwrap_or(document);
            return FieldMistake::missing(&path, name, place.get(name).is_some(), words);
        }
        if said.starts_with("unknown field `") {
            // The path of an unknown field ends in the field.
            let (name, owner) = last_name(error.path());
            return FieldMistake::unknown(&owner, &name, &names_after(&said), words);
        }
        if let Some(name) = named(&said, "duplicate field `") {
            let message = format!("it is there twice, remove one of the two (another spelling of {name} is the same)");
            return FieldMistake { path: joined(&path, name), message };
        }
        let message = if let Some(name) = named(&said, "unknown variant `") {
            let name = found.and_then(Value::as_str).unwrap_or(name);
            let known = names_after(&said);
            let expected = if known.len() == 1 { "expected" } else { "expected one of" };
            let (noun, all, near) = (words.noun, known.join(", "), suggest_name(name, &known));
            format!("{} is no value of this {noun}{near}; {expected} {all}", shown(name))
        } else if let Some((_, kind)) = said.split_once("did not match any variant of untagged enum ") {
            let found = found.map(describe).unwrap_or_else(|| "something else".to_owned());
            format!("found {found}, expected {}", either(kind))
        } else {
            mismatch(&said)
        };
        FieldMistake { path, message }
    }

    /// Makes the mistake of a required field that is absent, or has no value (`is_empty`).
    fn missing(owner: &str, name: &str, is_empty: bool, words: &FieldWords) -> FieldMistake {
        let state = if is_empty { "it has no value" } else { "missing" };
        FieldMistake { path: joined(owner, name), message: format!("{state}; expected {}", (words.meaning)(name)) }
    }

    /// Makes the mistake of a field that its owner does not have.
    pub fn unknown(owner: &str, name: &str, known: &[&str], words: &FieldWords) -> FieldMistake {
        let (noun, near) = (words.noun, suggest_name(name, known));
        let listed: Vec<_> = known.iter().copied().take(LISTED).collect();
        let more = match known.len() > LISTED {
            true => format!(", … ({} has all)", words.reference),
            false => String::new(),
        };
        let message = match listed.is_empty() {
            true => format!("there is no such {noun}; there is none here"),
            false => format!("there is no such {noun}{near}; the {noun}s here are {}{more}", listed.join(", ")),
        };
        FieldMistake { path: joined(owner, &cut(name, SHOWN)), message }
    }
}

impl std::fmt::Display for FieldMistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Describes a value in a few words.
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(text) => format!("the text {}", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

fn shown(text: &str) -> String {
    quote_text(&cut(text, SHOWN))
}

fn joined(owner: &str, name: &str) -> String {
    if owner.is_empty() { name.to_owned() } else { format!("{owner}.{name}") }
}

/// Returns a path as people write it; empty: the document itself.
fn written(path: &Path) -> String {
    path.to_string().trim_matches('.').to_owned()
}

/// Returns the last name of a path, and the path of its owner.
fn last_name(path: &Path) -> (String, String) {
    let whole = written(path);
    match path.iter().next_back() {
        Some(Segment::Map { key }) => {
            let owner = whole.strip_suffix(key.as_str()).unwrap_or_default().trim_end_matches('.');
            (key.clone(), owner.to_owned())
        }
        _ => (String::new(), whole),
    }
}

fn value_at<'a>(document: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(document, |value, segment| match segment {
        Segment::Map { key } => value.get(key),
        Segment::Seq { index } => value.get(index),
        Segment::Enum { .. } | Segment::Unknown => Some(value),
    })
}

/// Returns the name at the beginning of a message.
fn named<'a>(said: &'a str, prefix: &str) -> Option<&'a str> {
    said.strip_prefix(prefix)?.split('`').next()
}

/// Returns the names that an error of Serde lists at its end. The spellings of the original, which begin with an upper-case
/// letter, are left out where there are others.
fn names_after(said: &str) -> Vec<&str> {
    let list = said.rsplit_once(", expected ").map_or("", |(_, list)| list);
    let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let is_of_today = |name: &&str| !name.starts_with(char::is_uppercase);
    match names.iter().any(is_of_today) {
        true => names.into_iter().filter(is_of_today).collect(),
        false => names,
    }
}

/// Asks for the known name that is like this one: ` (is X meant?)`, or nothing if none is.
pub fn suggest_name(name: &str, known: &[&str]) -> String {
    let name = cut(name, SHOWN).to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&name, &other.to_lowercase());
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|best| likeness(best) >= NEAR) {
        Some(best) => format!(" (is {best} meant?)"),
        None => String::new(),
    }
}

/// Names a type of several forms.
fn either(kind: &str) -> &'static str {
    match kind {
        "PortRef" => "the number (from 1 to 65535) or the name of a port",
        "OneOrMany" => "a text, or a list of texts",
        _ => "another form",
    }
}

/// Explains the YAML library's sentence, where it needs that.
pub fn syntax_hint(said: &str) -> &'static str {
    if said.contains("found a tab") || said.contains("tabs disallowed") {
        return " (YAML is indented with spaces, not with tabs)";
    }
    if said.contains("while parsing a block ") {
        return " (the line is indented otherwise than those beside it)";
    }
    if said.contains("mapping values are not allowed") {
        return " (the line is indented further than the one above it, or a text with `: ` in it needs quotes)";
    }
    ""
}

/// Rewrites the error of a value with another type or out of range. Other sentences stay as they are.
fn mismatch(said: &str) -> String {
    // A list in the place of a mapping is read by the order of its fields, and is too short.
    if let Some((_, expected)) = said.strip_prefix("invalid length ").and_then(|rest| rest.split_once(", expected ")) {
        return format!("found a list, expected {}", wanted(expected));
    }
    let rest = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "));
    match rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("found {}, expected {}", given(found), wanted(expected)),
        None => said.to_owned(),
    }
}

/// Translates Serde's word for a value that was found.
fn given(found: &str) -> String {
    let inner = |prefix: &str| found.strip_prefix(prefix)?.strip_suffix('`');
    if let Some(number) = inner("integer `").or_else(|| inner("floating point `")) {
        return format!("the number {number}");
    }
    if let Some(truth) = inner("boolean `") {
        return truth.to_owned();
    }
    if let Some(text) = found.strip_prefix("string ") {
        let text = text.trim_matches('"');
        return format!("the text {}", shown(text));
    }
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "null" | "unit value" => "nothing".to_owned(),
        other => other.to_owned(),
    }
}

/// Translates Serde's word for what a type expects.
fn wanted(expected: &str) -> String {
    let words = match expected {
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a string" | "string or map" | "map with a single key" | "variant identifier" | "field identifier" => "a text",
        "a boolean" => "true or false",
        "usize" | "u64" | "i64" => "a whole number",
        "u8" => "a number from 0 to 255",
        "u16" => "a number from 0 to 65535",
        "u32" => "a number from 0 to 4294967295",
        "i32" => "a number from -2147483648 to 2147483647",
        "f32" | "f64" => "a number",
        "IntOrString" => "a number or a text",
        _ if expected.starts_with("struct ") || expected.starts_with("tuple struct ") => "a mapping",
        // The API server's types have readers that name them.
        _ if expected.starts_with(char::is_uppercase) && expected.chars().all(char::is_alphanumeric) => "a mapping",
        _ if expected.starts_with("enum ") => "a text",
        other => other,
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code)]
    struct Sample {
        name: String,
        #[serde(default)]
        port: Option<u16>,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default, alias = "Open")]
        open: bool,
    }

    #[derive(Debug, Deserialize)]
    enum Mode {
        Cluster,
        Workload,
    }

    const WORDS: FieldWords = FieldWords { noun: "key", reference: "the reference", meaning: |_| "a value" };

    fn mistake(document: Value) -> String {
        let error = serde_path_to_error::deserialize::<_, Vec<Sample>>(&document).expect_err("a mistake");
        FieldMistake::explain(&error, &document, &WORDS).to_string()
    }

    #[test]
    fn each_kind_of_mistake_names_the_field_the_value_and_the_cure() {
        for (document, told) in [
            (
                json!([{"name": "a"}, {"nme": "b"}]),
                "[1].nme: there is no such key (is name meant?); the keys here are name, port, mode, open",
            ),
            (
                json!([{"name": "a", "zzz": 1}]),
                "[0].zzz: there is no such key; the keys here are name, port, mode, open",
            ),
            (json!([{"port": 1}]), "[0].name: missing; expected a value"),
            (
                json!([{"name": "a", "port": 70000}]),
                "[0].port: found the number 70000, expected a number from 0 to 65535",
            ),
            (
                json!([{"name": "a", "port": "http"}]),
                "[0].port: found the text \"http\", expected a number from 0 to 65535",
            ),
            (
                json!([{"name": "a", "mode": "cluster"}]),
                "[0].mode: \"cluster\" is no value of this key (is Cluster meant?); expected one of Cluster, Workload",
            ),
            (json!([{"name": "a", "open": "true"}]), "[0].open: found the text \"true\", expected true or false"),
            (json!([{"name": "a", "open": true, "Open": true}]), "[0].open: it is there twice"),
            (json!([{"name": null}]), "[0].name: found nothing, expected a text"),
            (json!({"a": 1}), "found a mapping, expected a list"),
            (json!([[]]), "[0]: found a list, expected a mapping"),
        ] {
            let said = mistake(document);
            assert!(said.starts_with(told), "{said}");
        }
    }

    /// A document may hold the very words of an error.
    #[test]
    fn words_of_errors_in_a_document_do_not_change_the_sentence() {
        let strange = "a`, expected one of `b";
        let told = mistake(json!([{"name": "a", strange: 1}]));
        assert!(told.ends_with("there is no such key; the keys here are name, port, mode, open"), "{told}");
        let told = mistake(json!([{"name": "a", "port": "x, expected u8"}]));
        assert_eq!(told, "[0].port: found the text \"x, expected u8\", expected a number from 0 to 65535");
        let told = mistake(json!([{"name": "a", "mode": strange}]));
        assert!(told.contains("is no value of this key; expected one of Cluster, Workload"), "{told}");
        assert!(mistake(json!([{"name": "a", "port": "x".repeat(5000)}])).len() < 300);
    }
}
