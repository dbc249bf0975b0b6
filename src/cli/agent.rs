//! `wharf agent`: runs this cluster's agent.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::telemetry::{self, LogFormat};

/// Run this cluster's agent
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  wharf agent --config cluster1.yaml\n\nSIGTERM and SIGINT drain the peers' streams and exit 0. Peers that are added to, changed in or removed from the file take effect at once; other keys need a restart. WHARF_LOG chooses what is logged, as in WHARF_LOG=info,wharf::peering=debug."
)]
pub struct AgentArgs {
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The form of log lines on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    telemetry::init_logging(args.log_format);
    // A panic is a mistake in Wharf, and the state that it leaves is unknown. The process aborts: after a restart the
    // agent finds the last good state in the store, while a missing task would go unnoticed.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    // The wire has a thread of its own, so that peers that keep it busy take nothing from the state, the store and the
    // probes, except the share of the processor that the scheduler gives to any thread.
    let state = build_runtime("wharf-state", 2)?;
    let wire = build_runtime("wharf-wire", 1)?;
    let result = state.block_on(crate::agent::run(&args.config, wire.handle().clone()));
    wire.shutdown_timeout(Duration::from_secs(1)); // all tasks on it have ended
    result?;
    Ok(ExitCode::SUCCESS)
}

fn build_runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).max_blocking_threads(4).thread_name(name).enable_all();
    builder.build().context("the runtime cannot start")
}
