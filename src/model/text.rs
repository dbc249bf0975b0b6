//! Cleans the text of others for people.
//!
//! Names of files, values of fields, messages of peers: a tenant or a peer chooses them, and a terminal, a log or a
//! table shows them. Characters that a reader does not see, or that a terminal obeys, are written as escapes
//! (`\u{202e}`), so that no text can move the cursor, turn the line around, hide a part of itself or begin a line of
//! its own (CWE-117, CWE-150; Unicode TR36, "Bidirectional Text Spoofing").

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that Unicode counts among letters and symbols, and that show nothing: the fillers of Hangul, the blank of
/// Braille.
const BLANK: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Characters of a message.
const MAX_MESSAGE: usize = 4000;

/// Returns whether a reader sees this character as itself. Controls (C0, DEL, C1), formats (bidirectional, zero width,
/// soft hyphen, tags), separators of lines and paragraphs, blanks other than the common one, combining marks that stand
/// alone, private and unassigned characters are not visible.
pub fn is_visible(c: char) -> bool {
    match c {
        ' ' | '"' | '\'' | '\\' => true,
        c if c.is_ascii() => c.is_ascii_graphic(),
        // The standard library escapes the characters that Unicode calls other or separator, and marks.
        c => !BLANK.contains(&c) && c.escape_debug().len() == 1,
    }
}

/// Returns one line of text in which every character is visible.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_visible(c) => out.push(c),
            c => out.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(out)
}

/// Returns several lines in which every character is visible: a newline stays one.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c == '\n' || is_visible(c)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(printable).collect::<Vec<_>>().join("\n"))
}

/// Returns the part of a message that people read. An error that quotes what it does not understand is as long as its
/// quote.
pub fn shorten_message(message: String) -> String {
    match cut(&message, MAX_MESSAGE) {
        Cow::Borrowed(_) => message,
        Cow::Owned(short) => short,
    }
}

/// Returns the beginning of a text: at most this many characters, and a mark if there are more.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// Quotes the words of others in a sentence of Wharf's. There is no other double quote between the quotes, so that they
/// end where they seem to end.
pub fn quote_text(text: &str) -> String {
    format!("\"{}\"", printable(text).replace('"', "'"))
}

/// Returns a JSON document in which every character is visible. It is the same document: outside of its texts JSON has
/// visible characters and newlines only, and inside a `\u202e` is the character (RFC 8259, section 7).
pub fn escape_json(document: &str) -> Cow<'_, str> {
    if document.chars().all(|c| c == '\n' || is_visible(c)) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 64);
    for c in document.chars() {
        if c == '\n' || is_visible(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}"); // writing to a String does not fail
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What must never reach a terminal, by its ranges in Unicode: written down here a second time on purpose.
    fn is_hostile(c: char) -> bool {
        c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}' | '\u{fe00}'..='\u{fe0f}' | '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{3000}'
                | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}')
    }

    #[test]
    fn no_character_of_unicode_passes_that_a_reader_does_not_see() {
        let passed: Vec<_> = ('\0'..=char::MAX).filter(|c| is_visible(*c) && is_hostile(*c)).collect();
        assert_eq!(passed, []);
        for letter in "aZ09 ~äñ中あ한ש🚀✓│…".chars() {
            assert!(is_visible(letter), "{letter}");
        }
    }

    #[test]
    fn hostile_characters_are_written_as_what_they_are() {
        assert_eq!(printable("a\u{202e}b\u{1b}[31m\u{9b}\n\t\u{7f}"), "a\\u{202e}b\\u{1b}[31m\\u{9b}\\n\\t\\u{7f}");
        assert_eq!(printable_lines("a\nb\r\u{2028}"), "a\nb\\r\\u{2028}");
        assert_eq!(quote_text("no\"; rejected by cluster2: \"yes"), "\"no'; rejected by cluster2: 'yes\"");
        assert!(matches!(printable("plain ünïcode"), Cow::Borrowed(_)));
        assert_eq!(shorten_message("ü".repeat(MAX_MESSAGE + 1)), "ü".repeat(MAX_MESSAGE) + "…");
        assert_eq!(shorten_message("short".into()), "short");
    }

    proptest! {
        #[test]
        fn every_text_becomes_one_visible_line_and_stays_it(text in any::<String>()) {
            let shown = printable(&text);
            prop_assert!(shown.chars().all(is_visible), "{shown:?}");
            prop_assert_eq!(printable(&shown), shown.as_ref());
            prop_assert!(!quote_text(&text)[1..].trim_end_matches('"').contains('"'));
        }

        #[test]
        fn a_json_document_stays_the_same_document(texts in proptest::collection::vec(any::<String>(), 0..5)) {
            let document = serde_json::to_string_pretty(&texts).unwrap();
            let escaped = escape_json(&document);
            prop_assert!(escaped.chars().all(|c| c == '\n' || is_visible(c)), "{escaped:?}");
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), texts);
        }
    }
}
