//! A stream of YAML documents, taken apart and parsed one by one.

use serde_json::Value;
use serde_saphyr::{Options, UserMessageFormatter, options};

use super::ManifestFault;
use crate::model::mistake::syntax_hint;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The text of one document.
pub(super) struct StreamChunk<'a> {
    /// Its text, with the `---` that begins it.
    pub text: &'a str,
    /// The line of the stream that `text` begins at.
    first: usize,
    /// The line of the first content.
    pub line: usize,
}

/// Splits a stream at its markers. YAML allows `---` and `...` at the start of a line in no scalar of any style (YAML
/// 1.2.2, rule 206, c-forbidden), so this needs no parser, and a document that is not YAML ends where the next one
/// begins. A document of nothing but comments and directives is left out. Each document may begin with a byte order
/// mark (rule 202, l-document-prefix), as in a stream that was joined of files.
pub(super) fn split_documents(text: &str) -> Vec<StreamChunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut first, mut content) = (0, 1, None);
    let mut offset = 0;
    for (number, whole) in text.split_inclusive('\n').enumerate().map(|(i, line)| (i + 1, line)) {
        let line = whole.trim_start_matches(BYTE_ORDER_MARK);
        let mark = whole.len() - line.len();
        if mark > 0 && (content.is_none() || is_marker(line, "---")) {
            chunks.extend(content.take().map(|line| StreamChunk { text: &text[start..offset], first, line }));
            (start, first) = (offset + mark, number);
            offset += mark;
        } else if mark > 0 {
            offset += whole.len();
            continue; // in a document it is text
        }
        if is_marker(line, "---") || is_marker(line, "...") {
            chunks.extend(content.take().map(|line| StreamChunk { text: &text[start..offset], first, line }));
            (start, first) = (offset, number);
            if line.starts_with("...") {
                (start, first) = (offset + line.len(), number + 1);
            } else if has_content(&line[3..]) {
                content = Some(number);
            }
        } else if content.is_none() && has_content(line) && !line.starts_with('%') {
            content = Some(number);
        }
        offset += line.len();
    }
    chunks.extend(content.map(|line| StreamChunk { text: &text[start..], first, line }));
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

/// Parses one document; an error comes with its line in the stream.
pub(super) fn parse_document(chunk: &StreamChunk<'_>) -> Result<Value, (usize, ManifestFault)> {
    serde_saphyr::from_str_with_options(chunk.text, parser_limits()).map_err(|e: serde_saphyr::Error| {
        let line = e.location().map_or(chunk.line, |l| chunk.first + (l.line() as usize).saturating_sub(1));
        (line, ManifestFault::Syntax(parser_message(&e)))
    })
}

/// Returns the limits of the parser. Objects are small; a large text is an attack or a mistake. The library's own
/// limits on depth, nodes and events fit; aliases are held shorter, since people write few of them into an object.
fn parser_limits() -> Options {
    options! {
        budget: serde_saphyr::budget! { max_depth: 48, max_aliases: 1_000, max_anchors: 1_000, max_merge_keys: 1_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 50_000, max_replay_stack_depth: 16 },
        with_snippet: false,
    }
}

/// Returns the parser's message without the place in the chunk, which is not the place in the file.
fn parser_message(e: &serde_saphyr::Error) -> String {
    let text = e.render_with_formatter(&UserMessageFormatter);
    let text = text.lines().next().unwrap_or_default();
    let text = match text.find(" at line ").or_else(|| text.find(" (line ")) {
        Some(end) => &text[..end],
        None => text,
    };
    // The option that the library names is one of this program's code.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    format!("not valid YAML: {}{}", text.trim_start_matches("error: "), syntax_hint(text))
}
