//! Processes in which engines run, as configurations choose them and as `status`, `doctor` and the hub's API show them.

use serde::{Deserialize, Serialize};

/// Place of engines, by the names of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// In child processes: native code that fails ends a child and not the daemon.
    #[default]
    Process,
    /// Inside the daemon: saves a copy and a switch of processes for each run, and lets native code end the daemon.
    None,
}

impl Isolation {
    /// Returns the name in config files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::None => "none",
        }
    }
}

/// Host process, as `status` and `doctor` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Number of the process while it runs.
    pub pid: Option<u32>,
    /// Whether proven sessions share it; otherwise it belongs to one model.
    pub shared: bool,
    /// Names of the sessions in it, as the daemon gave them.
    pub sessions: Vec<String>,
    /// Number of times it was started again after its end.
    pub restarts: u64,
    /// Cause of its last end.
    pub last_death: Option<String>,
    /// Maximum bytes of memory that it may use now; `None` while it starts.
    pub memory_max_bytes: Option<u64>,
}
