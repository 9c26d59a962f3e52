//! Checks whether devices with the wgpu engine can run a model file. The hub runs nothing on a GPU itself.
//!
//! Asked by the registry before a version is published, and by `cloud-hub model check`; the engine's own check answers,
//! which needs no GPU.

use bytes::Bytes;

/// Seconds that a request may take on a device by default (`engine.run_limit` of the agent).
#[cfg(feature = "wgpu")]
const RUN_SECONDS_MAX: u64 = 30;

/// Returns the reason in one line if the wgpu engine cannot run a file that was pre-checked; `None` when it can.
///
/// Takes as long as the model is large: call it on a blocking thread.
#[cfg(feature = "wgpu")]
#[must_use]
pub fn problem(model: &Bytes) -> Option<String> {
    match engine_wgpu::check::check(model) {
        Ok(report) if report.can_run() && report.seconds_least() > RUN_SECONDS_MAX => Some(format!(
            "one inference is {} operations, which takes any device {} s or longer",
            report.work,
            report.seconds_least()
        )),
        Ok(report) if report.can_run() => None,
        Ok(report) => Some(report.unsupported.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        Err(error) => Some(telemetry::chain(&error)),
    }
}

/// This build does not know the engine: devices find out.
#[cfg(not(feature = "wgpu"))]
#[must_use]
pub fn problem(_model: &Bytes) -> Option<String> {
    None
}
