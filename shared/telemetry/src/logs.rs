//! Log of a daemon or a command: one line per event on standard error, as text or as JSON.
//!
//! Receives the events of `tracing`. Text is for a terminal, JSON for a collector; in both, control characters in
//! values are escaped, so that one event is one line and no value controls a terminal.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use tracing_subscriber::fmt::{Layer, MakeWriter};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::escape::{Escaping, is_unsafe};

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Text for people: time, level, spans, message and fields.
    Text,
    /// One JSON object per line, for collectors.
    Json,
    /// Text when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
}

/// Settings of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Format of a line. Default `auto`.
    pub format: LogFormat,
    /// Filter in the syntax of `RUST_LOG`: `info`, or `warn,transport=debug`. Default `info`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".into() }
    }
}

impl LogConfig {
    /// Checks the syntax of the filter, so that a config check finds a mistake before the start.
    ///
    /// # Errors
    /// Returns [`InitError::Filter`] for invalid syntax.
    pub fn check(&self) -> Result<(), InitError> {
        parse_filter(&self.filter).map(drop)
    }
}

/// Error: logging could not start or could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is not in the syntax of `RUST_LOG`.
    #[error("read log filter {filter:?}: write it like `info` or `warn,transport=debug`")]
    Filter {
        /// The filter as given.
        filter: String,
        /// Error of the filter's parser.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was already started in this process.
    #[error("start logging: it is already started in this process")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The filter can no longer be changed.
    #[error("change the log filter")]
    Reload(#[source] reload::Error),
}

/// Handle of the log; changes the filter. `main` keeps it as long as the process logs.
#[derive(Debug, Clone)]
pub struct Guard {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Guard {
    /// Replaces the filter for all later events.
    ///
    /// # Errors
    /// Returns [`InitError::Filter`] for invalid syntax; the old filter remains.
    pub fn set_filter(&self, filter: &str) -> Result<(), InitError> {
        self.filter.reload(parse_filter(filter)?).map_err(InitError::Reload)
    }
}

/// Starts logging for this process, and logs a panic as one line before the process unwinds.
///
/// # Errors
/// Fails if the filter is invalid or logging was started before.
pub fn init(config: LogConfig) -> Result<Guard, InitError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&config.filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let is_terminal = io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    if json {
        registry.with(json_layer(StandardError::now())).try_init().map_err(InitError::Twice)?;
    } else {
        registry.with(text_layer(StandardError::now())).try_init().map_err(InitError::Twice)?;
    }
    log_panics();
    Ok(Guard { filter: handle })
}

/// Standard error as it was when logging began, because [`crate::without_noise`] temporarily redirects that of the
/// process.
#[derive(Clone)]
struct StandardError(Arc<Mutex<Option<File>>>);

impl StandardError {
    fn now() -> Self {
        let own = io::stderr().as_fd().try_clone_to_owned();
        Self(Arc::new(Mutex::new(own.ok().map(File::from))))
    }
}

impl MakeWriter<'_> for StandardError {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for StandardError {
    /// Writes and never fails: a closed terminal or a full disk must not end the daemon.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Written under the lock with one call: one event is one line.
        drop(file.as_mut().map(|file| file.write_all(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Type of the registry with the filter layer, on which both formats build.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn parse_filter(text: &str) -> Result<EnvFilter, InitError> {
    EnvFilter::from_str(text).map_err(|source| InitError::Filter { filter: text.to_owned(), source })
}

fn text_layer<W>(writer: W) -> impl tracing_subscriber::Layer<Filtered> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Without colours: the escaping cannot distinguish intended escape sequences from injected ones.
    Layer::new().with_ansi(false).fmt_fields(escaped_fields()).with_writer(writer)
}

fn json_layer<W>(writer: W) -> impl tracing_subscriber::Layer<Filtered> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = Layer::new().json().flatten_event(false).with_current_span(false).with_span_list(true);
    layer.with_ansi(false).with_writer(JsonWriter(writer))
}

/// Formats fields as `name=value` pairs with escaped values, the message without its name.
fn escaped_fields() -> impl for<'writer> FormatFields<'writer> + Clone + Send + Sync + 'static {
    use tracing_subscriber::field::MakeExt;
    debug_fn(|writer, field, value| match field.name() {
        "message" => write!(Escaping(writer), "{value:?}"),
        name => {
            write!(writer, "{name}=")?;
            write!(Escaping(writer), "{value:?}")
        }
    })
    .delimited(" ")
}

/// Creates the writers of JSON lines.
struct JsonWriter<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for JsonWriter<W> {
    type Writer = JsonLine<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        JsonLine(self.0.make_writer())
    }
}

/// Escapes the characters that JSON permits but terminals interpret: serde_json escapes the controls below U+0020,
/// terminals also act on U+007F to U+009F and on the text-direction overrides. All of them can only occur inside a JSON
/// string.
struct JsonLine<W>(W);

impl<W: Write> Write for JsonLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        if text.contains(|c| c != '\n' && is_unsafe(c)) {
            let mut safe = String::with_capacity(text.len() + 16);
            for c in text.chars() {
                if c != '\n' && is_unsafe(c) {
                    // Every such character is in the basic plane: four hex digits suffice.
                    write!(safe, "\\u{:04x}", u32::from(c)).map_err(io::Error::other)?;
                } else {
                    safe.push(c);
                }
            }
            self.0.write_all(safe.as_bytes())?;
        } else {
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Logs a panic, which is a defect, with its location, and with the stack if `RUST_BACKTRACE` requests it.
///
/// Replaces Rust's own message, so that standard error contains log lines only.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let stack = Backtrace::capture();
        let stack = (stack.status() == BacktraceStatus::Captured).then(|| stack.to_string());
        tracing::error!(place, panic = panic.payload_as_str().unwrap_or("not a text"), stack, "panicked");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    const HOSTILE: &str = "digits\u{1b}[2J\u{9b}31m\nERROR forged line\r\u{202e}\u{7f}";

    fn log_hostile_values() {
        let span = tracing::info_span!("device", id = HOSTILE);
        let _entered = span.enter();
        tracing::info!(model = HOSTILE, shown = %HOSTILE, bytes = 12, "offered {HOSTILE}");
    }

    fn filtered() -> Filtered {
        tracing_subscriber::registry().with(reload::Layer::new(EnvFilter::new("info")).0)
    }

    fn assert_one_clean_line(text: &str) {
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.ends_with('\n'));
        assert!(!text.trim_end_matches('\n').contains(is_unsafe), "{text:?}");
    }

    #[test]
    fn a_hostile_value_stays_on_its_text_line() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = filtered().with(text_layer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log_hostile_values);
        assert_one_clean_line(&captured.text());
        assert!(captured.text().contains("bytes=12"), "{}", captured.text());
        assert!(captured.text().contains("INFO device{id="), "{}", captured.text());
    }

    #[test]
    fn a_hostile_value_stays_inside_its_json_string() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = filtered().with(json_layer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log_hostile_values);
        assert_one_clean_line(&captured.text());
        let line: serde_json::Value = serde_json::from_str(&captured.text()).unwrap();
        assert_eq!(line["fields"]["model"], HOSTILE);
        assert_eq!(line["spans"][0]["id"], HOSTILE);
        assert_eq!(line["fields"]["bytes"], 12);
    }

    #[test]
    fn a_wrong_filter_is_refused_with_an_example() {
        let config = LogConfig { filter: "transport=loud".into(), ..LogConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("`info`"));
        LogConfig { filter: "warn,transport=debug".into(), ..config }.check().unwrap();
    }
}
