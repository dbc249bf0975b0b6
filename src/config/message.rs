//! Parses the text of a configuration into its keys. Errors are in a person's words: place, key, what was found, what
//! was expected, and the similar name.

use serde_json::Value;

use super::RawConfig;
use crate::model::mistake::{FieldMistake, FieldWords};
use crate::model::text::quote_text;

pub(super) const WORDS: FieldWords =
    FieldWords { noun: "key", reference: "the reference of the configuration", meaning };

fn meaning(key: &str) -> &'static str {
    match key {
        "cluster" => "the name of this cluster",
        "name" => "the name of the peer",
        _ => "a value",
    }
}

/// Reads the keys. The error begins with the line and the key.
pub(super) fn read_config(text: &str) -> Result<RawConfig, String> {
    match serde_saphyr::from_str::<RawConfig>(text) {
        Ok(raw) => Ok(raw),
        Err(_) => read_again(text),
    }
}

/// Parses the text as data first: a key without a value, as templates leave it, counts as absent, and an error knows
/// its key.
fn read_again(text: &str) -> Result<RawConfig, String> {
    let written: Value = serde_saphyr::from_str(text).map_err(|e| super::yaml_error(&e))?;
    if !written.is_object() {
        return Err("expected keys with values, such as `cluster: NAME`".to_owned());
    }
    if let (Some(_), Some(kind)) = (written.get("apiVersion"), written.get("kind").and_then(Value::as_str)) {
        let kind = quote_text(kind);
        return Err(format!(
            "it is an object of the kind {kind}, and no configuration, which begins with `cluster: NAME`"
        ));
    }
    let mut value = written.clone();
    drop_empty(&mut value);
    serde_path_to_error::deserialize(&value).map_err(|e| {
        let mistake = FieldMistake::explain(&e, &written, &WORDS);
        match line_of(text, &mistake.path) {
            Some(line) => format!("line {line}: {mistake}"),
            None => mistake.to_string(),
        }
    })
}

/// Removes keys without a value.
fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_empty);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
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
