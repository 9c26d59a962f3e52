//! Section `[cache]` of `agent.toml`: limits of the answers that are kept to be given again.

use std::time::Duration;

use config::{Mistakes, Validate};
use serde::{Deserialize, Serialize};

/// Default maximum size of all cached answers in bytes: about 30,000 answers of a classifier.
const BYTES_MAX_DEFAULT: u64 = 32 * 1024 * 1024;

/// Minimum of `bytes_max`: some hundred small answers.
const BYTES_LEAST: u64 = 1024 * 1024;

/// Maximum of `bytes_max`: a part of a small device's memory.
const BYTES_MOST: u64 = 4 * 1024 * 1024 * 1024;

/// Default maximum age of an answer: what a camera sees again within minutes, and not what changes by the day.
const AGE_DEFAULT: Duration = Duration::from_secs(600);

/// Maximum of `max_age`: a day, so that an answer never outlives the log lines that explain it by long.
const AGE_MOST: Duration = Duration::from_secs(24 * 3600);

/// Section `[cache]` of the file. Read for models with `models.<name>.cache`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheTable {
    /// Maximum bytes of all cached answers, in memory. Default 33554432 (32 MiB), 1 MiB to 4 GiB.
    pub bytes_max: u64,
    /// Maximum age of an answer that is given again. Default `10m`, at most `24h`.
    #[serde(with = "config::duration")]
    pub max_age: Duration,
}

impl Default for CacheTable {
    fn default() -> Self {
        Self { bytes_max: BYTES_MAX_DEFAULT, max_age: AGE_DEFAULT }
    }
}

impl Validate for CacheTable {
    fn validate(&self, mistakes: &mut Mistakes) {
        if !(BYTES_LEAST..=BYTES_MOST).contains(&self.bytes_max) {
            mistakes.add("cache.bytes_max", format!("use {BYTES_LEAST} to {BYTES_MOST}"));
        }
        if self.max_age.is_zero() || self.max_age > AGE_MOST {
            mistakes.add("cache.max_age", "use more than zero and at most 24h");
        }
    }
}
