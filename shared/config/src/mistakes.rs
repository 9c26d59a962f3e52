//! Mistakes in a config file, and the trait by which config types report them.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Checks what types do not express: ranges, and fields that depend on each other.
pub trait Validate {
    /// Adds every mistake that it finds; paths are as in the file, like `server.http`.
    fn validate(&self, errors: &mut Mistakes);

    /// Returns TOML values that fields of this config accept and that [`crate::parse`] does not try by default, like
    /// the names of an enum: one for each such type without a default. They allow the parser to continue after a wrong
    /// value.
    #[must_use]
    fn placeholders() -> &'static [&'static str]
    where
        Self: Sized,
    {
        &[]
    }
}

/// One mistake in a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the field, like `hub.addresses[1]`; empty for the file as a whole.
    pub path: String,
    /// Line of the field, from 1; `None` if the field is not in the file.
    pub line: Option<usize>,
    /// Description of the fault and of a correct value.
    pub problem: String,
}

/// Collects mistakes while a config is validated.
#[derive(Debug, Default)]
pub struct Mistakes {
    prefix: String,
    found: Vec<Mistake>,
}

impl Mistakes {
    /// Adds a mistake of a field, named relative to the current table.
    pub fn add(&mut self, path: impl AsRef<str>, problem: impl Into<String>) {
        let path = joined(&self.prefix, path.as_ref());
        self.found.push(Mistake { path, line: None, problem: problem.into() });
    }

    /// Adds a mistake unless the condition `holds`.
    pub fn require(&mut self, holds: bool, path: impl AsRef<str>, problem: impl Into<String>) {
        if !holds {
            self.add(path, problem);
        }
    }

    /// Validates a nested table; the paths of its mistakes begin with the name of the table.
    pub fn within(&mut self, table: impl AsRef<str>, part: &impl Validate) {
        let before = self.prefix.clone();
        self.prefix = joined(&before, table.as_ref());
        part.validate(self);
        self.prefix = before;
    }

    pub(crate) fn into_found(self) -> Vec<Mistake> {
        self.found
    }
}

fn joined(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// All mistakes of a config file.
///
/// Prints one line per mistake: `agent.toml: server.http (line 3): invalid type: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Path of the file, as given by the user.
    pub origin: PathBuf,
    /// Mistakes in the order of their lines; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.mistakes.iter().enumerate() {
            let line_break = if number > 0 { "\n" } else { "" };
            write!(f, "{line_break}{}: ", self.origin.display())?;
            match (mistake.path.as_str(), mistake.line) {
                ("", None) => {}
                ("", Some(line)) => write!(f, "line {line}: ")?,
                (path, None) => write!(f, "{path}: ")?,
                (path, Some(line)) => write!(f, "{path} (line {line}): ")?,
            }
            f.write_str(&mistake.problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Error: a config file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read config file {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file exceeds [`crate::CONFIG_BYTES_MAX`].
    #[error("read config file {}: it has more than {max} bytes, so it is not a config file", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Maximum size in bytes.
        max: u64,
    },
    /// The file contains mistakes.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

impl LoadError {
    /// Whether the file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
