//! All output of the command line. Nothing else in this crate writes to standard output or standard error, so that no
//! text of others gets there unchanged.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::model::text::{escape_json, is_visible, printable, printable_lines};
use crate::store::manifest;

/// Prints to stdout. Unlike with `println!`, a closed pipe is an error and not a panic. Callers make each part
/// printable before ([`printable`]), as only they know where a line ends; this function catches what they missed.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(printable_lines(text).as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The emphasis of a line on a terminal.
#[derive(Debug, Clone, Copy)]
pub enum LineStyle {
    Title,
    Seen,
}

/// Prints a line, in colour if a terminal shows it and the user did not switch colour off (no-color.org).
pub fn print_styled(style: LineStyle, line: &str) -> anyhow::Result<()> {
    let code = match style {
        LineStyle::Title => "1",
        LineStyle::Seen => "32",
    };
    let line = printable(line);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || std::env::var_os("TERM").is_some_and(|term| term == "dumb")
        || !std::io::stdout().is_terminal();
    let text = if plain { format!("{line}\n") } else { format!("\u{1b}[{code}m{line}\u{1b}[0m\n") };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints whole lines to stderr. Callers make their parts printable. A failed write is ignored: there is no other place
/// to report it.
pub fn print_to_stderr(lines: &str) {
    let _ = std::io::stderr().lock().write_all(printable_lines(lines).as_bytes());
}

/// Prints one line to stderr.
pub fn print_note(line: &str) {
    print_to_stderr(&format!("{}\n", printable(line)));
}

/// Formats a value as a JSON document.
pub fn to_json(value: &impl Serialize) -> anyhow::Result<String> {
    let document = serde_json::to_string_pretty(value)? + "\n";
    Ok(escape_json(&document).into_owned())
}

/// Formats a value as a YAML document. A plain scalar of YAML cannot show an invisible character; JSON can, and JSON is
/// YAML too (YAML 1.2.2, section 1.2).
pub fn to_yaml(value: &impl Serialize) -> String {
    visible_yaml(manifest::to_yaml(value), value).unwrap_or_default()
}

/// Returns the YAML document of a value, or the value as JSON if the document holds invisible characters.
pub fn visible_yaml(document: String, value: &impl Serialize) -> anyhow::Result<String> {
    if document.chars().all(|c| c == '\n' || is_visible(c)) { Ok(document) } else { to_json(value) }
}

/// Formats columns like kubectl: upper-case heads, three blanks between columns. A cell stays in its column and row,
/// whatever it holds.
pub fn format_table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| format_cell(text)).collect()).collect();
    let mut widths: Vec<usize> = heads.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let mut out = line(heads.to_vec());
    for row in &rows {
        out += &line(row.iter().map(String::as_str).collect());
    }
    out
}

/// Formats a cell. An empty text becomes a dash. Of several blanks in a row all but the first are escaped, because they
/// would look like the next column.
fn format_cell(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut after_blank = true;
    for c in printable(text).chars() {
        match c {
            ' ' if after_blank => out.push_str("\\u{20}"),
            c => out.push(c),
        }
        after_blank = c == ' ';
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_empty_cells_are_dashes() {
        let rows = [vec!["a".to_owned(), String::new()], vec!["longer".into(), "x".into()]];
        assert_eq!(format_table(&["NAME", "B"], &rows), "NAME     B\na        -\nlonger   x\n");
    }

    #[test]
    fn a_cell_forges_neither_a_row_nor_a_column_nor_a_colour() {
        let rows = [vec!["a\nforged   row   here".to_owned(), "\u{1b}[31mred\u{202e}".into()]];
        let shown = format_table(&["NAME", "B"], &rows);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        let columns: Vec<_> = shown.lines().nth(1).unwrap().split("   ").collect();
        assert_eq!(columns, ["a\\nforged \\u{20}\\u{20}row \\u{20}\\u{20}here", "\\u{1b}[31mred\\u{202e}"]);
    }

    proptest! {
        #[test]
        fn a_row_is_one_line_of_visible_characters_with_its_columns(
            rows in proptest::collection::vec(proptest::collection::vec(any::<String>(), 3), 0..6),
        ) {
            let shown = format_table(&["A", "B", "C"], &rows);
            prop_assert_eq!(shown.split('\n').count(), rows.len() + 2, "{:?}", shown);
            prop_assert!(shown.chars().all(|c| c == '\n' || is_visible(c)), "{:?}", shown);
            for line in shown.lines() {
                let columns = line.split("   ").filter(|c| !c.is_empty() && *c != " " && *c != "  ");
                prop_assert!(columns.count() <= 3, "{:?}", line);
            }
        }

        #[test]
        fn a_document_is_visible_and_the_same_value(texts in proptest::collection::vec(any::<String>(), 0..5)) {
            for document in [to_yaml(&texts), to_json(&texts).unwrap()] {
                prop_assert!(document.chars().all(|c| c == '\n' || is_visible(c)), "{:?}", document);
                prop_assert_eq!(&serde_saphyr::from_str::<Vec<String>>(&document).unwrap(), &texts);
            }
        }
    }
}
