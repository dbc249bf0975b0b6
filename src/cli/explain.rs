//! `wharf explain`: explains a condition or a reason from the reference pages, which the binary contains.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::output::print;
use crate::model::mistake::suggest_name;

/// The pages that explain conditions and reasons, with the kind of object that has them.
const PAGES: [ReferencePage; 4] = [
    ReferencePage {
        kind: "ServiceExpositionPolicy",
        path: "docs/reference/policy.md",
        text: include_str!("../../docs/reference/policy.md"),
    },
    ReferencePage {
        kind: "RemoteServiceBinding",
        path: "docs/reference/binding.md",
        text: include_str!("../../docs/reference/binding.md"),
    },
    ReferencePage {
        kind: "ClusterPeering",
        path: "docs/reference/peering.md",
        text: include_str!("../../docs/reference/peering.md"),
    },
    ReferencePage {
        kind: "ServiceExpositionPolicy, RemoteServiceBinding",
        path: "docs/reference/errors.md",
        text: include_str!("../../docs/reference/errors.md"),
    },
];

/// Explain a condition or a reason of a status
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wharf explain                 # the names of all\n  wharf explain NotExposed\n  wharf explain GatewayUsable"
)]
pub struct ExplainArgs {
    /// The type of a condition, or a reason; upper or lower case. Without it the names of all are printed
    name: Option<String>,
}

struct ReferencePage {
    kind: &'static str,
    path: &'static str,
    text: &'static str,
}

/// One row of a table that explains conditions or reasons.
#[derive(Debug)]
struct Explanation {
    kind: &'static str,
    /// The names that the row explains: a condition's type, a reason, or both.
    names: Vec<String>,
    /// The columns after the names, with their headings.
    columns: Vec<(String, String)>,
    /// The page, and the anchor of the section.
    source: String,
}

pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let all: Vec<Explanation> = PAGES.iter().flat_map(read_page).collect();
    let Some(name) = args.name else {
        print(&list_names(&all))?;
        return Ok(ExitCode::SUCCESS);
    };
    let found: Vec<_> = all.iter().filter(|e| e.names.iter().any(|n| n.eq_ignore_ascii_case(&name))).collect();
    if found.is_empty() {
        let names: Vec<_> = all.iter().flat_map(|e| &e.names).map(String::as_str).collect();
        let near = suggest_name(&name, &names);
        anyhow::bail!("there is no condition or reason {name:?}{near}; `wharf explain` lists them");
    }
    let text: Vec<_> = found.into_iter().map(Explanation::render).collect();
    print(&text.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the names of all conditions and reasons, by kind.
fn list_names(all: &[Explanation]) -> String {
    let mut text = String::new();
    for page in &PAGES {
        let mut names: Vec<_> = all.iter().filter(|e| e.kind == page.kind).flat_map(|e| &e.names).collect();
        names.sort();
        names.dedup();
        let _ = writeln!(text, "{}", page.kind);
        for name in names {
            let _ = writeln!(text, "  {name}");
        }
    }
    text
}

impl Explanation {
    fn render(&self) -> String {
        let mut text = format!("{} of {}\n", self.names.join(", "), self.kind);
        for (heading, cell) in &self.columns {
            let _ = writeln!(text, "  {heading}: {cell}");
        }
        let _ = writeln!(text, "  see {}", self.source);
        text
    }
}

/// Reads the tables whose first column is headed by `type`, `reason` or `condition`.
fn read_page(page: &ReferencePage) -> Vec<Explanation> {
    let mut found = Vec::new();
    let (mut anchor, mut headings, mut condition) = (String::new(), Vec::new(), Vec::new());
    for line in page.text.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            anchor = anchor_of(heading.trim_start_matches('#').trim());
        }
        let Some(cells) = split_row(line) else {
            headings.clear();
            continue;
        };
        if headings.is_empty() {
            headings = cells;
            condition.clear();
            continue;
        }
        let first = headings[0].split_whitespace().next().unwrap_or_default();
        if !matches!(first, "type" | "reason" | "condition") || cells.len() != headings.len() {
            continue;
        }
        // A row without a type is about that of the row before.
        let own = code_names(&cells[0]);
        if !own.is_empty() {
            condition = own.clone();
        }
        let named_by = if headings.get(1).is_some_and(|h| h == "reason") { 2 } else { 1 };
        let mut names = if named_by == 2 { code_names(&cells[1]) } else { own };
        if names.is_empty() {
            continue; // the line below the headings
        }
        if named_by == 2 {
            names.extend(condition.iter().cloned());
        }
        let columns = headings[named_by..].iter().zip(&cells[named_by..]).filter(|(_, cell)| !cell.is_empty());
        let columns = columns.map(|(heading, cell)| (heading.clone(), without_links(cell))).collect();
        let source = format!("{}#{anchor}", page.path);
        found.push(Explanation { kind: page.kind, names, columns, source });
    }
    found
}

/// Splits a row of a Markdown table; `None` for any other line. A `|` in a cell is written `\|`.
fn split_row(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?.replace("\\|", "\0");
    Some(inner.split('|').map(|cell| cell.trim().replace('\0', "|")).collect())
}

/// Returns the names in CamelCase that stand as code in a cell; `True`, `False` and `Unknown` are none.
fn code_names(cell: &str) -> Vec<String> {
    let code = cell.split('`').skip(1).step_by(2);
    let named =
        code.filter(|c| c.starts_with(|c: char| c.is_ascii_uppercase()) && c.chars().all(char::is_alphanumeric));
    named.filter(|c| !matches!(*c, "True" | "False" | "Unknown")).map(str::to_owned).collect()
}

/// Returns the anchor that a Markdown viewer gives a heading.
fn anchor_of(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Leaves the text of Markdown links, without their targets.
fn without_links(cell: &str) -> String {
    let (mut text, mut rest) = (String::new(), cell);
    while let Some((before, after)) = rest.split_once('[') {
        let Some((label, (_, tail))) = after.split_once("](").and_then(|(label, t)| Some((label, t.split_once(')')?)))
        else {
            break;
        };
        text.push_str(before);
        text.push_str(label);
        rest = tail;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::ProblemReason;

    fn explained() -> Vec<String> {
        PAGES.iter().flat_map(read_page).flat_map(|e| e.names).collect()
    }

    #[test]
    fn every_reason_of_a_problem_is_explained() {
        let names = explained();
        let missing: Vec<_> =
            ProblemReason::ALL.iter().map(|r| r.as_str()).filter(|r| !names.iter().any(|n| n == r)).collect();
        assert!(missing.is_empty(), "{missing:?} stand in no table of docs/reference");
    }

    #[test]
    fn a_reason_is_explained_with_its_cure_and_its_source() {
        let all = read_page(&PAGES[1]);
        let found = all.iter().find(|e| e.names == ["NotPermitted"]).unwrap().render();
        assert!(found.contains("what to do: ask the donor's operator to set `consume: true`"), "{found}");
        assert!(found.contains("see docs/reference/binding.md#reasons"), "{found}");
    }

    #[test]
    fn a_row_without_a_type_belongs_to_the_condition_above() {
        let text = "## Here and there\n| type | reason | meaning |\n|---|---|---|\n| `Up` | `Fine` (true) | all [is](x.md) \\| well |\n| | `Away` | no |\n\n| type | other |\n";
        let page = ReferencePage { kind: "Lamp", path: "lamp.md", text };
        let read: Vec<_> = read_page(&page).iter().map(Explanation::render).collect();
        assert_eq!(
            read,
            [
                "Fine, Up of Lamp\n  meaning: all is | well\n  see lamp.md#here-and-there\n",
                "Away, Up of Lamp\n  meaning: no\n  see lamp.md#here-and-there\n"
            ]
        );
    }
}
