//! Sends devices the thresholds that are kept valid in the field, when they have changed or a device has connected.

use std::sync::Arc;
use std::time::Duration;

use service::stop::Stop;

use crate::app::calibrations::Calibrations;

/// Time between two looks at the connected devices, unless a threshold changes before: greetings and updates come without a notice.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Number of looks between two removals of watches that nothing needs.
const SWEEP_EVERY: u32 = 1_800;

/// Sends thresholds until the hub stops.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped: devices hear of their thresholds at the next look.
pub async fn run(calibrations: Arc<Calibrations>, stop: Stop) {
    let mut looks = 0_u32;
    while !stop.now.is_cancelled() {
        if let Err(error) = calibrations.send().await {
            tracing::error!(error = telemetry::chain(&error), "thresholds were not sent to devices");
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(SWEEP_EVERY)
            && let Err(error) = calibrations.sweep().await
        {
            tracing::error!(error = telemetry::chain(&error), "watches of old versions were not removed");
        }
        tokio::select! {
            () = stop.now.cancelled() => return,
            () = calibrations.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
