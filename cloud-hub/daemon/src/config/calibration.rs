//! Section `[calibration]` of `hub.toml`: thresholds that are kept valid in the field.

use config::Mistakes;
use hub_core::labels;
use serde::{Deserialize, Serialize};
use types::share::Share;

/// Default of `audit_share` in thousandths: one request in a hundred, about as many bytes as deferrals of a good model.
const AUDIT_SHARE_DEFAULT: f64 = 0.01;

/// Config section `[calibration]`: audits that keep the promises of thresholds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationTable {
    /// Label by whose values devices are divided into groups, each with a threshold of its own. Default none: all devices are one group.
    ///
    /// Devices without the label are a group, too. Choose groups whose inputs are alike, like `site`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Share of the requests of calibrated variants that devices audit, 0 to 1. Default 0.01; 0 audits none.
    ///
    /// Devices audit at most what their owners allow (`updates.audit_share_max`).
    pub audit_share: Share,
}

impl Default for CalibrationTable {
    fn default() -> Self {
        Self { group_by: None, audit_share: Share::of(AUDIT_SHARE_DEFAULT).unwrap_or_default() }
    }
}

impl CalibrationTable {
    pub(super) fn validate(&self, mistakes: &mut Mistakes) {
        if let Some(label) = &self.group_by
            && !labels::is_key(label)
        {
            mistakes.add("calibration.group_by", format!("{label:?} is no key of a label, like site"));
        }
    }
}
