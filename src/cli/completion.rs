//! `wharf completion`: prints a shell's completions of the command line.

use std::process::ExitCode;

use clap_complete::Shell;

use super::output::print;

/// Print the completions of a shell
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  wharf completion bash > /etc/bash_completion.d/wharf\n  wharf completion zsh > \"${fpath[1]}/_wharf\"\n  wharf completion fish > ~/.config/fish/completions/wharf.fish"
)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionArgs, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "wharf", &mut script);
    print(&String::from_utf8_lossy(&script).replace('\t', "    "))?;
    Ok(ExitCode::SUCCESS)
}
