//! Calls about thresholds that are kept valid in the field.

use std::sync::Arc;

use super::Refused;
use super::call::Call;
use crate::api::endpoints::{ListCalibrations, ResetCalibration, ShowCalibration};
use crate::api::{CalibrationList, CalibrationResetDone, ErrorCode};
use crate::app::calibrations::{CalibrationError, Calibrations};

/// Answers `GET /calibrations`: lists the watches of all models.
pub(super) async fn list(
    calibrations: Arc<Calibrations>,
    _call: Call<ListCalibrations>,
) -> Result<CalibrationList, Refused> {
    Ok(calibrations.list())
}

/// Answers `GET /calibrations/{model}`.
pub(super) async fn show(
    calibrations: Arc<Calibrations>,
    call: Call<ShowCalibration>,
) -> Result<CalibrationList, Refused> {
    calibrations.show(&call.id).map_err(|error| refuse(&error))
}

/// Answers `POST /calibrations/{model}/reset`.
pub(super) async fn reset(
    calibrations: Arc<Calibrations>,
    call: Call<ResetCalibration>,
) -> Result<CalibrationResetDone, Refused> {
    calibrations.reset(&call.by, &call.id, &call.body).await.map_err(|error| refuse(&error))
}

fn refuse(error: &CalibrationError) -> Refused {
    match error {
        CalibrationError::UnknownModel(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub model list")
        }
        CalibrationError::Nothing(_) => {
            Refused::new(ErrorCode::NotFound, error.to_string()).hint("see all of them: cloud-hub calibration list")
        }
        CalibrationError::Store(cause) => Refused::storage(cause),
    }
}
