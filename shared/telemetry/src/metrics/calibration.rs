//! Metrics of thresholds in the field: their states on devices and at the hub, and alarms of drift.

use metrics::{Unit, describe_gauge, gauge};

/// Number of devices that report an alarm of drift, by `model` (on the hub).
pub const DEVICES_DRIFTING: &str = "sanderling_devices_drifting";
/// Number of watches over thresholds in the field, by `state` (`author`, `refitted`, `withdrawn`; on the hub).
pub const CALIBRATIONS: &str = "sanderling_calibrations";
/// Whether the threshold in force is the one of a `state`, by `model` and `state` (`author`, `refitted`, `withdrawn`): 1 or 0.
pub const THRESHOLD_STATE: &str = "sanderling_threshold_state";

pub(super) fn describe() {
    describe_gauge!(DEVICES_DRIFTING, Unit::Count, "Devices that report an alarm of drift.");
    describe_gauge!(CALIBRATIONS, Unit::Count, "Watches over thresholds in the field, by the state of the threshold.");
    describe_gauge!(THRESHOLD_STATE, Unit::Count, "Whether the threshold in force is of that state.");
}

/// Sets the number of devices that report an alarm of drift (on the hub).
pub fn devices_drifting(model: &str, count: u32) {
    gauge!(DEVICES_DRIFTING, "model" => model.to_owned()).set(f64::from(count));
}

/// Sets the number of watches over thresholds in a state (on the hub).
pub fn calibrations(state: &'static str, count: u32) {
    gauge!(CALIBRATIONS, "state" => state).set(f64::from(count));
}

/// Sets whether the threshold in force on a device is of a state.
pub fn threshold_state(model: &str, state: &'static str, is_so: bool) {
    gauge!(THRESHOLD_STATE, "model" => model.to_owned(), "state" => state).set(f64::from(u8::from(is_so)));
}
