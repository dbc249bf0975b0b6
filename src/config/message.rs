//! Parses the text of a configuration into its keys. Errors are in a person's words: place, key, what was found, what
//! was expected, and the similar name.

use serde_json::Value;

use super::Raw;
use crate::model::text::humane;

/// Likeness (Jaro-Winkler) below which two names are no misspelling of each other.
const NEAR: f64 = 0.8;
/// Most known names that an error lists.
const LISTED: usize = 12;

/// Reads the keys. The error begins with the line and the key.
pub(super) fn read(text: &str) -> Result<Raw, String> {
    match serde_saphyr::from_str::<Raw>(text) {
        Ok(raw) => Ok(raw),
        Err(e) => read_again(text, &e),
    }
}

/// Parses the text as data first: a key without a value, as templates leave it, counts as absent, and an error knows
/// its key.
fn read_again(text: &str, first: &serde_saphyr::Error) -> Result<Raw, String> {
    let mut value: Value = serde_saphyr::from_str(text).map_err(|_| super::yaml_error(first))?;
    if !value.is_object() {
        return Err("expected keys with values, such as `cluster: NAME`".to_owned());
    }
    let empty = drop_empty(&mut value);
    serde_path_to_error::deserialize(&value).map_err(|e| {
        let (path, message) = (e.path().to_string(), e.inner().to_string());
        let (key, message) = explain(&path, &message, &empty);
        match line_of(text, &key) {
            Some(line) => format!("line {line}: {key}: {message}"),
            None if key.is_empty() => message,
            None => format!("{key}: {message}"),
        }
    })
}

/// Removes keys without a value. Returns those of the top level.
fn drop_empty(value: &mut Value) -> Vec<String> {
    let mut empty = Vec::new();
    match value {
        Value::Object(map) => {
            empty = map.iter().filter(|(_, v)| v.is_null()).map(|(key, _)| key.clone()).collect();
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(|v| drop(drop_empty(v)));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| drop(drop_empty(v))),
        _ => {}
    }
    empty
}

/// Returns the key that is meant, and what is wrong with it.
fn explain(path: &str, message: &str, empty: &[String]) -> (String, String) {
    let path = path.trim_matches('.');
    let quoted = |prefix: &str| message.strip_prefix(prefix).and_then(|m| m.split('`').next());
    if let Some(name) = quoted("missing field `") {
        let key = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let state = if empty.contains(&key) { "it has no value" } else { "missing" };
        let expected = if name == "cluster" { "the name of this cluster" } else { "a value" };
        return (key, format!("{state}; expected {expected}"));
    }
    if let Some(name) = quoted("unknown field `") {
        let known = names_after(message);
        return (path.to_owned(), format!("there is no such key{}", near(name, &known)));
    }
    if let Some(name) = quoted("unknown variant `") {
        let known = names_after(message);
        let all = known.join(", ");
        return (
            path.to_owned(),
            format!("{name:?} is no value of this key; expected one of {all}{}", near_only(name, &known)),
        );
    }
    if message.contains("did not match any variant of untagged enum OneOrMany") {
        return (path.to_owned(), "expected a text, or a list of texts".to_owned());
    }
    (path.to_owned(), humane(message))
}

/// Returns the names that an error of serde lists, without the spellings of the original.
fn names_after(message: &str) -> Vec<&str> {
    let list = message.split_once("expected ").map_or("", |(_, list)| list);
    let names = list.split('`').skip(1).step_by(2);
    names.filter(|name| !name.starts_with(char::is_uppercase)).collect()
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= NEAR).then_some(best)
}

fn near_only(name: &str, known: &[&str]) -> String {
    nearest(name, known).map(|best| format!("; is {best} meant?")).unwrap_or_default()
}

fn near(name: &str, known: &[&str]) -> String {
    if let Some(best) = nearest(name, known) {
        return format!("; is {best} meant?");
    }
    let listed: Vec<_> = known.iter().copied().take(LISTED).collect();
    let more = if known.len() > LISTED { ", … (the reference of the configuration has all)" } else { "" };
    format!("; the keys here are {}{more}", listed.join(", "))
}

/// Returns the line of the key with this path, as far as its words can be found.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, index) = match part.split_once('[') {
            Some((key, index)) => (key, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        at += lines[at..].iter().position(|line| has_key(line, key))?;
        if let Some(index) = index.filter(|_| !lines[at].contains('[')) {
            let items = lines.iter().enumerate().skip(at + 1).filter(|(_, line)| line.trim_start().starts_with("- "));
            at = items.map(|(i, _)| i).nth(index).unwrap_or(at);
        }
    }
    (at < lines.len() && !path.is_empty()).then_some(at + 1)
}

fn has_key(line: &str, key: &str) -> bool {
    line.match_indices(key).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
        before.is_none_or(|c| " -{,\"'".contains(c)) && after.starts_with(':')
    })
}
