//! Errors of a command: the kind of failure (its exit code), the error with its causes, and advice for the user.
//!
//! Created by the verbs; `main` calls [`report`] once.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Result of a command as an exit code, for scripts and service managers.
///
/// The numbers are part of the command line's contract: they never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// 0: the command succeeded.
    Ok,
    /// 1: the command failed with an error that has no other number.
    Failed,
    /// 2: the command line is wrong (clap uses the same number).
    Usage,
    /// 3: a config file or an input file is wrong.
    Config,
    /// 4: the requested object does not exist.
    NotFound,
    /// 5: refused: token, certificate, signature or permission.
    Refused,
    /// 6: the hub or the agent cannot be reached.
    Unavailable,
    /// 7: a conflict: port in use, state folder in use, object already exists.
    Conflict,
    /// 8: storage failed: disk full, or a file cannot be read or written.
    Storage,
    /// 9: ONNX Runtime is missing or incompatible.
    Runtime,
    /// 10: the daemon ended because its store made no progress; the service manager restarts it.
    Stalled,
}

impl ExitKind {
    /// All kinds, for help texts and documentation.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::NotFound,
        Self::Refused,
        Self::Unavailable,
        Self::Conflict,
        Self::Storage,
        Self::Runtime,
        Self::Stalled,
    ];

    /// Returns the process exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::NotFound => 4,
            Self::Refused => 5,
            Self::Unavailable => 6,
            Self::Conflict => 7,
            Self::Storage => 8,
            Self::Runtime => 9,
            Self::Stalled => 10,
        }
    }

    /// Returns one line for `--help`, like `wrong config or input file`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "failed",
            Self::Usage => "wrong command line",
            Self::Config => "wrong config or input file",
            Self::NotFound => "does not exist",
            Self::Refused => "refused: token, certificate, signature or permission",
            Self::Unavailable => "hub or agent is unreachable",
            Self::Conflict => "conflict: port in use, state folder in use, already exists",
            Self::Storage => "storage failed: disk full, unreadable or unwritable file",
            Self::Runtime => "ONNX Runtime is missing or incompatible",
            Self::Stalled => "the store made no progress: its disk does not respond",
        }
    }

    /// Returns the table of exit codes for a command's `after_long_help`.
    #[must_use]
    pub fn help_table() -> String {
        let rows = Self::ALL.iter().map(|kind| format!("  {:<2} {}\n", kind.code(), kind.meaning()));
        format!("Exit codes:\n{}", rows.collect::<String>())
    }
}

impl From<ExitKind> for ExitCode {
    fn from(kind: ExitKind) -> Self {
        Self::from(kind.code())
    }
}

/// Error that ended a command.
///
/// Does not implement [`Error`], so that `?` can convert every error into one (of kind [`ExitKind::Failed`]); set the
/// kind with [`OrExit::or_exit`].
pub struct CliError {
    /// Kind of failure, which determines the exit code.
    pub kind: ExitKind,
    /// The failed operation, with its causes as sources.
    pub source: Box<dyn Error + Send + Sync>,
    /// Advice for the user, as an instruction: ``start the agent: `edge-agent run` ``.
    pub hint: Option<String>,
}

impl CliError {
    /// Creates an error of a kind from an error (typed or `anyhow`) or from a sentence.
    pub fn new(kind: ExitKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into(), hint: None }
    }

    /// Adds advice for the user.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes the text that [`report`] prints.
    ///
    /// # Errors
    /// Fails if the writer fails.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "error: {}", indented(&self.source.to_string()))?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            writeln!(out, "  caused by: {}", indented(&error.to_string()))?;
            cause = error.source();
        }
        match &self.hint {
            Some(hint) => writeln!(out, "  try: {}", indented(hint)),
            None => Ok(()),
        }
    }
}

/// Escapes a text from a peer or a file for a terminal; keeps line breaks and indents the lines.
fn indented(text: &str) -> String {
    text.lines().map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n    ")
}

impl fmt::Debug for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CliError")
            .field("kind", &self.kind)
            .field("chain", &telemetry::chain(self.source.as_ref()))
            .field("hint", &self.hint)
            .finish()
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::new(ExitKind::Failed, error)
    }
}

/// Converts the error of a result into a [`CliError`].
pub trait OrExit<T> {
    /// Converts the error into a [`CliError`] of this kind.
    ///
    /// # Errors
    /// Returns the converted error of the result.
    fn or_exit(self, kind: ExitKind) -> Result<T, CliError>;

    /// Converts the error into a [`CliError`] of this kind, with advice for the user.
    ///
    /// # Errors
    /// Returns the converted error of the result.
    fn or_exit_try(self, kind: ExitKind, hint: &str) -> Result<T, CliError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrExit<T> for Result<T, E> {
    fn or_exit(self, kind: ExitKind) -> Result<T, CliError> {
        self.map_err(|error| CliError::new(kind, error))
    }

    fn or_exit_try(self, kind: ExitKind, hint: &str) -> Result<T, CliError> {
        self.map_err(|error| CliError::new(kind, error).hint(hint))
    }
}

/// Prints one warning to standard error, for a result that needs the user's attention.
pub fn warn(text: &str) {
    // With a closed standard error there is no one to warn.
    drop(writeln!(std::io::stderr().lock(), "warning: {}", indented(text)));
}

/// Prints the error, its causes and its advice to standard error, and returns the exit code.
#[must_use]
pub fn report(error: &CliError) -> ExitCode {
    // With a closed standard error only the exit code remains.
    drop(error.write_to(&mut std::io::stderr().lock()));
    error.kind.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(error: &CliError) -> String {
        let mut out = Vec::new();
        error.write_to(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);
    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as &(dyn Error + 'static))
        }
    }

    #[test]
    fn an_error_prints_its_causes_and_the_way_out() {
        let cause = Layer("connection refused", None);
        let error = CliError::new(ExitKind::Unavailable, Layer("ask the agent", Some(Box::new(cause))));
        let error = error.hint("start it: `edge-agent run`");
        assert_eq!(
            printed(&error),
            "error: ask the agent\n  caused by: connection refused\n  try: start it: `edge-agent run`\n"
        );
    }

    #[test]
    fn a_hostile_message_cannot_steer_the_terminal() {
        let error = CliError::new(ExitKind::Refused, "hub says \u{1b}[2Jgone\r\nsecond line");
        let text = printed(&error);
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
        assert!(text.contains("\n    second line"), "{text:?}");
    }

    #[test]
    fn every_kind_has_its_own_exit_code() {
        let codes: std::collections::BTreeSet<u8> = ExitKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ExitKind::ALL.len());
        assert!(ExitKind::help_table().contains("  7  conflict"));
    }

    #[test]
    fn a_question_mark_gives_the_general_failure() {
        fn fails() -> Result<(), CliError> {
            Err(Layer("open x", None))?;
            Ok(())
        }
        assert_eq!(fails().unwrap_err().kind, ExitKind::Failed);
    }
}
