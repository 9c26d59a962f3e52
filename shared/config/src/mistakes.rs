//! What is wrong with a config file, and the trait by which its types say so.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Checks what types cannot: ranges, and fields that must fit each other.
pub trait Validate {
    /// Adds every mistake it finds; paths are as in the file, like `door.http`.
    fn validate(&self, errors: &mut Mistakes);

    /// Returns values, as TOML, that fields of this config take and that are none of the usual ones, like the names of an
    /// enum: one for each such type that has no default. They let the reading go on after a wrong one.
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
    /// The field, like `hub.addresses[1]`; empty for the file as a whole.
    pub path: String,
    /// Line in the file, from 1, where the field is in the file.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Collects mistakes while a config is validated.
#[derive(Debug, Default)]
pub struct Mistakes {
    prefix: String,
    found: Vec<Mistake>,
}

impl Mistakes {
    /// Adds a mistake of a field, named from where this collector stands.
    pub fn add(&mut self, path: impl AsRef<str>, problem: impl Into<String>) {
        let path = joined(&self.prefix, path.as_ref());
        self.found.push(Mistake { path, line: None, problem: problem.into() });
    }

    /// Adds a mistake unless the condition holds.
    pub fn require(&mut self, holds: bool, path: impl AsRef<str>, problem: impl Into<String>) {
        if !holds {
            self.add(path, problem);
        }
    }

    /// Validates a table inside: its mistakes are named from there.
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

/// Everything that is wrong with a config file.
///
/// Prints one line per mistake: `agent.toml: door.http (line 3): invalid type: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file, as it was named.
    pub origin: PathBuf,
    /// The mistakes in the order of their lines; never empty.
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

/// Why a config file gave no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("read config file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is larger than a config file can sensibly be.
    #[error("read config file {}: it is larger than {max} bytes, so it is something else", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// It holds mistakes.
    #[error(transparent)]
    Wrong(#[from] ConfigErrors),
}

impl LoadError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
