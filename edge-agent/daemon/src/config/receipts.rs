//! Section `[receipts]` of `agent.toml`: the log of receipts.

use std::time::Duration;

use config::{Mistakes, Validate};
use serde::{Deserialize, Serialize};

use crate::receipts::Settings;
use crate::receipts::writer::Limits;
use crate::state::Folder;

/// Default maximum size of the log in bytes: about 70,000 requests of 950 bytes.
const BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// Minimum of `bytes_max`: some hundred requests.
const BYTES_LEAST: u64 = 256 * 1024;

/// Default time for which records are kept: three months, so that a quarter can be accounted for.
const KEEP_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Minimum of `keep`: files are removed whole, and a new one begins each hour at most.
const KEEP_LEAST: Duration = Duration::from_secs(3600);

/// Section `[receipts]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReceiptsTable {
    /// Whether receipts are recorded in `<state_dir>/receipts`. Default true.
    pub enabled: bool,
    /// Maximum size of the log in bytes; the oldest records are removed. Default 67108864 (64 MiB), at least 262144.
    pub bytes_max: u64,
    /// Time for which records are kept, by the clock of the device. Default `90d`, at least `1h`.
    #[serde(with = "config::duration")]
    pub keep: Duration,
    /// Record of answers: `none` (the default), or `digest` for a salted SHA-256 of them. Content is never recorded.
    pub answers: RecordedAnswers,
}

/// Record of answers in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedAnswers {
    /// Nothing of the answer is recorded.
    #[default]
    None,
    /// Size and salted digest are recorded.
    Digest,
}

impl Default for ReceiptsTable {
    fn default() -> Self {
        Self { enabled: true, bytes_max: BYTES_MAX_DEFAULT, keep: KEEP_DEFAULT, answers: RecordedAnswers::None }
    }
}

impl ReceiptsTable {
    /// Returns the settings of the log in a state folder; `None` where it is off.
    #[must_use]
    pub fn settings(&self, folder: &Folder) -> Option<Settings> {
        self.enabled.then(|| Settings {
            folder: folder.receipts(),
            key: folder.input_key(),
            limits: Limits { bytes_max: self.bytes_max, keep: self.keep },
            records_answers: self.answers == RecordedAnswers::Digest,
        })
    }
}

impl Validate for ReceiptsTable {
    fn validate(&self, mistakes: &mut Mistakes) {
        if self.bytes_max < BYTES_LEAST {
            mistakes.add("receipts.bytes_max", format!("use at least {BYTES_LEAST}"));
        }
        if self.keep < KEEP_LEAST {
            mistakes.add("receipts.keep", "use at least 1h");
        }
    }
}
