//! Loads at the start of the hub that ended badly: the file `loads.json` of the state folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::storage::values::Attempt;

/// Number of this form of the file.
pub const SCHEMA: u32 = 1;

/// Content of the file. Later fields need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartLoads {
    /// Number of this form.
    pub schema: u32,
    /// Loads that ended badly, by `<model>/<version>`.
    pub loads: BTreeMap<String, StartLoad>,
}

/// Load of one version that ended badly. Later fields need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartLoad {
    /// Digest of the model file and version of the runtime.
    #[serde(default)]
    pub of: String,
    /// Ends of the hub during a load.
    #[serde(default)]
    pub hub_ends: u32,
    /// Whether a load was begun and has not ended.
    #[serde(default)]
    pub under_way: bool,
    /// Boot in which it was begun.
    #[serde(default)]
    pub boot: String,
    /// Reason why the version does not answer.
    #[serde(default)]
    pub problem: Option<String>,
}

impl From<StartLoad> for Attempt {
    fn from(StartLoad { of, hub_ends, under_way, boot, problem }: StartLoad) -> Self {
        Self { of, hub_ends, under_way, boot, problem }
    }
}

impl From<Attempt> for StartLoad {
    fn from(Attempt { of, hub_ends, under_way, boot, problem }: Attempt) -> Self {
        Self { of, hub_ends, under_way, boot, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_for_ever() {
        let stored = r#"{"schema":1,"loads":{"digits/2":{"of":"sha256:00 1.32","hub_ends":1,"under_way":true,"boot":"b","problem":null}}}"#;
        let read: StartLoads = serde_json::from_str(stored).unwrap();
        assert_eq!((read.loads["digits/2"].hub_ends, read.loads["digits/2"].under_way), (1, true));
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
        assert!(serde_json::from_str::<StartLoads>(r#"{"schema":1,"loads":{"digits/2":{}},"later":1}"#).is_ok());
    }
}
