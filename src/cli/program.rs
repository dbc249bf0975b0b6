//! The name of this process: `wharf`, or `kubectl wharf`, which kubectl finds as `kubectl-wharf` on the PATH.

use std::ffi::OsStr;
use std::path::Path;

use clap::Command;

/// The command that users of the plugin type.
const PLUGIN: &str = "kubectl wharf";
/// Texts in front of an example in a help text, at the beginning of a line or within it.
const BEFORE: [&str; 4] = ["  ", "| ", "`", "&& "];

/// Returns whether kubectl, or a person in its place, started this process as its plugin. For kubectl, `kubectl_wharf`
/// is the same name, as with every dash.
pub fn is_plugin(argv0: Option<&OsStr>) -> bool {
    let name = argv0.map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    matches!(name.map(|n| n.strip_suffix(".exe").unwrap_or(n)), Some("kubectl-wharf" | "kubectl_wharf"))
}

/// Returns the command that calls this process again, as the user typed it. A relative path leads nowhere from another
/// folder, so that `absolute` takes its place there.
pub fn as_called(argv0: Option<&OsStr>, absolute: Option<&Path>) -> String {
    if is_plugin(argv0) {
        return PLUGIN.to_owned();
    }
    let called = argv0.map(Path::new).unwrap_or(Path::new("wharf"));
    let by_name = called.components().count() == 1;
    let path = if by_name { called } else { absolute.unwrap_or(called) };
    path.display().to_string()
}

/// Adapts the help of a command to the plugin: usage and examples are what its user types.
pub fn as_plugin(command: Command) -> Command {
    adapt_help(command).bin_name(PLUGIN)
}

fn adapt_help(command: Command) -> Command {
    let command = match command.get_after_help().map(ToString::to_string) {
        Some(help) => command.after_help(adapt_text(&help)),
        None => command,
    };
    command.mut_subcommands(adapt_help)
}

fn adapt_text(help: &str) -> String {
    BEFORE
        .iter()
        .fold(help.to_owned(), |text, before| text.replace(&format!("{before}wharf "), &format!("{before}{PLUGIN} ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_says_who_called() {
        for plugin in ["kubectl-wharf", "/usr/local/bin/kubectl-wharf", "./kubectl_wharf"] {
            assert!(is_plugin(Some(OsStr::new(plugin))), "{plugin}");
        }
        for other in [None, Some("wharf"), Some("/opt/kubectl-wharf/wharf"), Some("kubectl")] {
            assert!(!is_plugin(other.map(OsStr::new)), "{other:?}");
        }
    }

    #[test]
    fn a_hint_names_the_program_as_it_was_called() {
        let called = |argv0: &str, absolute: Option<&str>| as_called(Some(OsStr::new(argv0)), absolute.map(Path::new));
        assert_eq!(called("wharf", Some("/usr/bin/wharf")), "wharf");
        assert_eq!(called("target/release/wharf", None), "target/release/wharf");
        assert_eq!(called("target/release/wharf", Some("/src/target/release/wharf")), "/src/target/release/wharf");
        assert_eq!(called("/bin/kubectl-wharf", None), "kubectl wharf");
    }

    #[test]
    fn examples_are_what_the_plugins_user_types_and_the_rest_stays() {
        let help = "Example:\n  wharf ca init && wharf ca show a.crt\n  wharf crds | wharf x\n\n`wharf status`; WHARF_LOG, a wharf agent";
        let told = "Example:\n  kubectl wharf ca init && kubectl wharf ca show a.crt\n  kubectl wharf crds | kubectl wharf x\n\n\
                    `kubectl wharf status`; WHARF_LOG, a wharf agent";
        assert_eq!(adapt_text(help), told);
    }
}
