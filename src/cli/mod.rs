//! The command line: one file per command. Reads arguments, calls, prints, and decides nothing.
//!
//! Exit codes: 0 done, 1 it failed or found something wrong, 2 wrong usage.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::model::text::printable_lines;

mod access;
mod agent;
pub mod ca;
mod check;
mod completion;
mod crds;
mod demo;
mod explain;
mod import;
mod inspect;
mod man;
mod output;
mod pages;
mod program;
mod translate;

/// Share single services between independent Istio clusters.
#[derive(Parser)]
#[command(name = "wharf", version, propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Begin with `wharf demo`: three clusters on this machine, nothing else needed.")]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    Agent(agent::AgentArgs),
    Demo(demo::DemoArgs),
    Translate(translate::TranslateArgs),
    Import(import::ImportArgs),
    Ca(ca::CaArgs),
    Status(inspect::StatusArgs),
    Offers(inspect::OffersArgs),
    Peers(inspect::PeersArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Crds(crds::CrdsArgs),
    Completion(completion::CompletionArgs),
    Man(man::ManArgs),
    Version(VersionArgs),
}

/// Print the version
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf version")]
struct VersionArgs {}

/// Exit code of wrong usage, the same as clap's.
const USAGE: u8 = 2;

fn parse_args() -> Cli {
    let command = Cli::command();
    let plugin = program::is_plugin(std::env::args_os().next().as_deref());
    let mut command = if plugin { program::as_plugin(command) } else { command };
    let matches = command.try_get_matches_from_mut(std::env::args_os()).unwrap_or_else(|e| refuse_usage(&e));
    Cli::from_arg_matches(&matches).unwrap_or_else(|e| refuse_usage(&e.format(&mut command)))
}

/// Prints a usage error, and ends the process. An argument may be the name of a file that somebody else chose (`wharf
/// translate -f *`), so the text is made printable.
fn refuse_usage(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    if !error.use_stderr() || printable_lines(&text) == text {
        error.exit();
    }
    output::print_to_stderr(&text);
    std::process::exit(error.exit_code())
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match parse_args().command {
        CliCommand::Agent(args) => agent::run(args),
        CliCommand::Demo(args) => demo::run(args),
        CliCommand::Translate(args) => translate::run(args),
        CliCommand::Import(args) => import::run(args),
        CliCommand::Ca(args) => ca::run(args),
        CliCommand::Status(args) => inspect::run_status(args),
        CliCommand::Offers(args) => inspect::run_offers(args),
        CliCommand::Peers(args) => inspect::run_peers(args),
        CliCommand::Check(args) => check::run(args),
        CliCommand::Explain(args) => explain::run(args),
        CliCommand::Crds(args) => crds::run(args),
        CliCommand::Completion(args) => completion::run(&args, Cli::command()),
        CliCommand::Man(args) => man::run(&args, Cli::command()),
        CliCommand::Version(VersionArgs {}) => print_version(),
    };
    result.unwrap_or_else(|e| {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS; // `wharf … | head` is no failure
        }
        output::print_note(&format!("error: {}", join_causes(e.chain())));
        ExitCode::FAILURE
    })
}

fn print_version() -> anyhow::Result<ExitCode> {
    output::print(&format!("wharf {}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(ExitCode::SUCCESS)
}

/// Joins an error and its causes in one line. Many errors repeat their cause, so a repeated text appears once.
fn join_causes<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut told = String::new();
    for text in chain.map(ToString::to_string) {
        if told.is_empty() {
            told = text;
        } else if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
    }
    told
}

/// Builds the single-threaded runtime of the commands that send requests.
fn build_client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn a_cause_that_its_error_repeats_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("listen: {source}")]
        struct Listen {
            source: std::io::Error,
        }
        let error = anyhow::Error::from(Listen { source: std::io::Error::other("in use") }).context("the agent");
        assert_eq!(super::join_causes(error.chain()), "the agent: listen: in use");
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} says what it does");
                if sub.get_subcommands().next().is_none() {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains(&path), "{path} --help shows an example, not: {help}");
                }
                check(sub, &path);
            }
        }
        let cli = super::Cli::command();
        cli.clone().debug_assert();
        check(&cli, "wharf");
    }

    /// Help is wrapped where it is read. A line that ends by itself stays short, and a paragraph is one line.
    #[test]
    fn help_fits_a_terminal_of_80_columns_also_as_the_plugins() {
        fn check(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for paragraph in help.split("\n\n") {
                let lines: Vec<&str> = paragraph.lines().collect();
                let is_example = paragraph.starts_with("Example");
                assert!(is_example || lines.len() == 1, "{path}: it ends a line by itself: {paragraph}");
                for line in lines.iter().filter(|_| is_example) {
                    assert!(line.len() <= 80, "{path}: an example is broken: {line}");
                }
            }
            command.get_subcommands().for_each(|sub| check(sub, &format!("{path} {}", sub.get_name())));
        }
        check(&super::Cli::command(), "wharf");
        check(&super::program::as_plugin(super::Cli::command()), "kubectl wharf");
    }

    #[test]
    fn help_of_peers_shows_no_option_of_namespaces() {
        let mut cli = super::Cli::command();
        cli.build();
        let mut help = |path: &[&str]| {
            let command = path.iter().fold(&mut cli, |c, name| c.find_subcommand_mut(name).unwrap());
            command.render_long_help().to_string()
        };
        for path in [&["peers"][..], &["peers", "delete"]] {
            let text = help(path);
            assert!(!text.contains("--namespace") && !text.contains("--all-namespaces"), "{path:?}: {text}");
        }
        assert!(help(&["status"]).contains("--namespace") && help(&["offers"]).contains("of the donors"));
    }
}
