//! Structured logs. Text for people by default, JSON for collectors.
//!
//! A log names files, objects and peers by their own names, which others choose: no value of a field begins a line,
//! adds a field or moves the cursor.

mod counted_log;
mod libraries;

pub use counted_log::CountedLog;

use std::fmt::{self, Debug};
use std::io;

use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::model::text::{escape_json, printable, quote_text};
use libraries::LibraryLines;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Name of the variable that chooses what is logged.
const VARIABLE: &str = "WHARF_LOG";
const DEFAULT_FILTER: &str = "info";

/// Starts logging to stderr. `WHARF_LOG` (as in `info,wharf::peering=debug`) chooses what is logged; default `info`.
pub fn init_logging(format: LogFormat) {
    let wanted = std::env::var_os(VARIABLE).filter(|text| !text.is_empty());
    let (filter, fault) = match wanted.map(|text| parse_filter(&text.to_string_lossy())) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(fault)) => (EnvFilter::new(DEFAULT_FILTER), Some(fault)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    // A second call (tests) finds a subscriber in place, and that is fine.
    let _ = match format {
        LogFormat::Text => text_log(filter, colours, io::stderr).try_init(),
        LogFormat::Json => json_log(filter, io::stderr).try_init(),
    };
    if let Some(fault) = fault {
        tracing::warn!(reason = %fault, "{VARIABLE} cannot be used, so {DEFAULT_FILTER} is logged");
    }
}

/// Parses what is to be logged. A single word that is no level would be taken for a module, and silence all others.
fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    let expected = "expected off, error, warn, info, debug or trace, or modules with one of these, as in info,wharf::peering=debug";
    // Brackets, in which there may be commas, select spans.
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty() && !text.contains('['));
    for part in parts {
        let is_module = part.contains('=') || part.contains("::") || part == "wharf";
        if !is_module && part.parse::<LevelFilter>().is_err() {
            return Err(format!("{}: {expected}", quote_text(part)));
        }
    }
    EnvFilter::builder().parse(text).map_err(|_| format!("{}: {expected}", quote_text(text)))
}

fn text_log<W>(filter: EnvFilter, colours: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // An error of the log would be written to stderr, which panics when that is what is full.
    let builder = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_ansi(colours);
    builder.fmt_fields(PrintableFields).with_writer(writer).finish().with(LibraryLines::new())
}

fn json_log<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter);
    builder.json().flatten_event(true).with_writer(VisibleJson(writer)).finish().with(LibraryLines::new())
}

/// Fields as `name=value` (logfmt): a value that could be taken for more than one word is quoted.
struct PrintableFields;

impl<'w> FormatFields<'w> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = FieldLine { writer, empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct FieldLine<'w> {
    writer: Writer<'w>,
    empty: bool,
    result: fmt::Result,
}

impl FieldLine<'_> {
    fn write_field(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.empty) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return self.writer.write_str(&printable(value));
        }
        if self.writer.has_ansi_escapes() {
            write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
        } else {
            write!(self.writer, "{name}=")?;
        }
        if value.is_empty() || value.contains([' ', '=', '"']) {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(self.writer, "\"{}\"", printable(&value))
        } else {
            self.writer.write_str(&printable(value))
        }
    }
}

impl Visit for FieldLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write_field(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Writes JSON in which every character is visible. The log passes whole lines.
struct VisibleJson<M>(M);

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for VisibleJson<M> {
    type Writer = VisibleJsonWriter<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        VisibleJsonWriter(self.0.make_writer())
    }
}

struct VisibleJsonWriter<W>(W);

impl<W: io::Write> io::Write for VisibleJsonWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(escape_json(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::model::text::is_visible;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of what `tell` tells.
    fn logged(format: LogFormat, tell: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = {
            let log = log.clone();
            move || log.clone()
        };
        let filter = EnvFilter::new("info");
        match format {
            LogFormat::Text => tracing::subscriber::with_default(text_log(filter, false, writer), tell),
            LogFormat::Json => tracing::subscriber::with_default(json_log(filter, writer), tell),
        }
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_filter_that_cannot_be_read_or_would_silence_everything_is_refused_with_what_is_expected() {
        for good in ["debug", "INFO", "off", "wharf", "warn,wharf::audit=info", "info,h2=error"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "warning", "info,debugg", "wharf=deb", "info,wharf::peering=verbose"] {
            let fault = parse_filter(bad).map(|filter| filter.to_string()).unwrap_err();
            assert!(fault.contains("expected off, error, warn, info"), "{bad}: {fault}");
        }
    }

    #[test]
    fn a_value_begins_no_line_and_adds_no_field() {
        let place = "a.yaml\n2026-01-01T00:00:00Z  INFO forged: all is well peer=cluster1";
        let text =
            logged(LogFormat::Text, || tracing::warn!(%place, reason = "\u{1b}[2J\u{202e}", n = 3, "unreadable"));
        let fields = "unreadable place=\"a.yaml\\n2026-01-01T00:00:00Z  INFO forged: all is well peer=cluster1\" \
                      reason=\\u{1b}[2J\\u{202e} n=3\n";
        assert!(text.ends_with(fields), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_quoted_value_ends_at_its_own_quote() {
        let why = r#"no \" peer="cluster1""#;
        let text = logged(LogFormat::Text, || tracing::warn!(%why, "refused"));
        assert!(text.ends_with("refused why=\"no \\\\\\\" peer=\\\"cluster1\\\"\"\n"), "{text}");
    }

    #[test]
    fn a_library_that_is_made_to_warn_again_and_again_adds_one_line_a_second_and_silences_nobody() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, || {
                for _ in 0..1000 {
                    tracing::warn!(target: "h2::proto::streams::recv", "recv_reset");
                    tracing::warn!(target: "hyper::proto", "another");
                    tracing::info!("of the agent");
                }
            });
            let lines = |of: &str| log.lines().filter(|line| line.contains(of)).count();
            assert_eq!(lines("of the agent"), 1000);
            // The thousand lines above may take more than a second.
            assert!(lines("recv_reset") < 100 && lines("recv_reset") > 0, "{}", lines("recv_reset"));
            assert!(lines("another") < 100 && lines("another") > 0, "{}", lines("another"));
        }
    }

    proptest! {
        #[test]
        fn every_event_is_one_visible_line_in_both_formats(value in any::<String>(), message in any::<String>()) {
            for format in [LogFormat::Text, LogFormat::Json] {
                let log = logged(format, || tracing::info!(%value, debug = ?value, text = value, "{message}"));
                prop_assert!(log.trim_end_matches('\n').chars().all(is_visible), "{log:?}");
                prop_assert_eq!(log.matches('\n').count(), 1);
                if format == LogFormat::Json {
                    let read: serde_json::Value = serde_json::from_str(&log).unwrap();
                    prop_assert_eq!(read["value"].as_str(), Some(value.as_str()));
                }
            }
        }
    }
}
