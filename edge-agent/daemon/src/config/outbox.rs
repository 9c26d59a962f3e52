//! Section `[outbox]` of `agent.toml`: requests that wait for the hub.

use std::time::Duration;

use ::config::{Mistakes, Validate};
use edge_core::request_outbox::Limits;
use serde::{Deserialize, Serialize};

use crate::outbox::Settings;
use crate::state::Folder;

/// Default maximum size of the waiting requests: 20,000 pictures of 3 kB each, and little of any disk.
const BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

/// Minimum of `bytes_max`: some requests.
const BYTES_LEAST: u64 = 64 * 1024;

/// Default maximum number of waiting requests. Each takes about 1 kB of memory beside its file.
const ENTRIES_MAX_DEFAULT: usize = 10_000;

/// Largest `entries_max`: their records take half of the store.
const ENTRIES_MOST: usize = 50_000;

/// Default age at which a request or an answer is given up.
const EXPIRE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Largest `expire_after`: the hub keeps answers that no device has fetched a day longer.
const EXPIRE_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Smallest `expire_after`: ages are looked at every ten seconds.
const EXPIRE_LEAST: Duration = Duration::from_secs(1);

/// Default number of requests at the hub at once: enough to hide the round trip, few beside live requests.
const IN_FLIGHT_DEFAULT: usize = 4;

/// Largest `in_flight_max`: the number of requests of one device that a hub takes by default.
const IN_FLIGHT_MOST: usize = 64;

/// Section `[outbox]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxTable {
    /// Maximum bytes on the disk of requests that wait; and of answers that are stored. Default 67108864 (64 MiB), at least
    /// 65536.
    pub bytes_max: u64,
    /// Maximum number of requests that wait; and of answers that are stored. Default 10000, 1 to 50000.
    pub entries_max: usize,
    /// Time after which a request that waits, or its answer, is given up. Default `7d`, `1s` to `30d`.
    #[serde(with = "::config::duration")]
    pub expire_after: Duration,
    /// Maximum number of requests of the outbox that are at the hub at once. Default 4, 1 to 64.
    pub in_flight_max: usize,
}

impl Default for OutboxTable {
    fn default() -> Self {
        Self {
            bytes_max: BYTES_MAX_DEFAULT,
            entries_max: ENTRIES_MAX_DEFAULT,
            expire_after: EXPIRE_DEFAULT,
            in_flight_max: IN_FLIGHT_DEFAULT,
        }
    }
}

impl OutboxTable {
    /// Returns the settings of the outbox in a state folder.
    #[must_use]
    pub fn settings(&self, folder: &Folder) -> Settings {
        let Self { bytes_max, entries_max, expire_after, in_flight_max } = *self;
        let limits = Limits { bytes_max, entries_max, in_flight_max };
        Settings { limits, expire_after, folder: folder.outbox(), key: folder.outbox_key() }
    }
}

impl Validate for OutboxTable {
    fn validate(&self, mistakes: &mut Mistakes) {
        if self.bytes_max < BYTES_LEAST {
            mistakes.add("outbox.bytes_max", format!("use at least {BYTES_LEAST}"));
        }
        if !(1..=ENTRIES_MOST).contains(&self.entries_max) {
            mistakes.add("outbox.entries_max", format!("use 1 to {ENTRIES_MOST}"));
        }
        if !(EXPIRE_LEAST..=EXPIRE_MOST).contains(&self.expire_after) {
            mistakes.add("outbox.expire_after", "use 1s to 30d");
        }
        if !(1..=IN_FLIGHT_MOST).contains(&self.in_flight_max) {
            mistakes.add("outbox.in_flight_max", format!("use 1 to {IN_FLIGHT_MOST}"));
        }
    }
}
