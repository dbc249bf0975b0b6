//! `wharf man`: writes the manual pages of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

/// Write the manual pages, one for each command
#[derive(clap::Args)]
#[command(after_help = "Example:\n  wharf man /usr/local/share/man/man1 && man wharf-status")]
pub struct ManArgs {
    /// The folder of the pages; it is made if it is not there
    folder: PathBuf,
}

pub fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // A page for `wharf help help` would say nothing.
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
