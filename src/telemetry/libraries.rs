//! Limits the log lines of libraries: a peer that sends odd frames decides how often HTTP/2 warns of them.

use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::CountedLog;

/// Parts of libraries that have a line of their own.
const MAX_TARGETS: usize = 64;

/// Lets one line a second through of each part of a library, except details, which somebody asked for.
pub struct LibraryLines(CountedLog<&'static str>);

impl LibraryLines {
    pub fn new() -> LibraryLines {
        LibraryLines(CountedLog::new(Duration::from_secs(1), MAX_TARGETS))
    }
}

impl<S: Subscriber> Layer<S> for LibraryLines {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let line = event.metadata();
        let of_agent = line.target() == "wharf" || line.target().starts_with("wharf::");
        of_agent || *line.level() > Level::INFO || self.0.admit_line(line.target(), Instant::now()).is_some()
    }
}
