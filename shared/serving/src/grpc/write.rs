//! A response as a gRPC message: raw contents, and the receipt in the parameters.

use std::collections::HashMap;

use types::{Calibration, InferenceResponse, Receipt};

use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_response::InferOutputTensor;
use super::inference::{InferParameter, ModelInferResponse};

/// Makes the message of a response.
pub(super) fn response(response: InferenceResponse) -> ModelInferResponse {
    let InferenceResponse { outputs, receipt } = response;
    let described = outputs.iter().map(|output| InferOutputTensor {
        name: output.name.clone(),
        datatype: output.tensor.dtype().as_str().to_owned(),
        shape: output.tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
        parameters: HashMap::new(),
        contents: None,
    });
    ModelInferResponse {
        model_name: receipt.model.to_string(),
        model_version: receipt.version.to_string(),
        id: receipt.request_id.to_string(),
        parameters: parameters(&receipt),
        outputs: described.collect(),
        raw_output_contents: outputs.iter().map(|output| output.tensor.data().clone()).collect(),
    }
}

/// Makes a parameter of text.
fn text(value: impl Into<String>) -> ParameterChoice {
    ParameterChoice::StringParam(value.into())
}

/// Returns the receipt as the parameters of a response; the same names as over HTTP.
fn parameters(receipt: &Receipt) -> HashMap<String, InferParameter> {
    let micros =
        |time: std::time::Duration| ParameterChoice::Int64Param(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let timings = &receipt.timings;
    let always = [
        ("place", text(receipt.place.as_str())),
        ("reason", text(receipt.reason.as_str())),
        ("policy", text(receipt.policy.as_str())),
        ("variant", text(receipt.variant.as_str())),
        ("model_digest", text(receipt.digest.to_string())),
        ("engine", text(receipt.engine.as_str())),
        ("provider", text(receipt.provider.as_str())),
        ("queue_us", micros(timings.queue)),
        ("compute_us", micros(timings.compute)),
        ("network_us", micros(timings.network)),
        ("hub_us", micros(timings.hub)),
        ("total_us", micros(timings.total)),
        ("hub_bytes", ParameterChoice::Int64Param(i64::try_from(receipt.hub_bytes).unwrap_or(i64::MAX))),
        ("final", ParameterChoice::BoolParam(receipt.is_final)),
    ];
    let bound = receipt.calibration.and_then(Calibration::bound);
    let scores = [
        ("score", receipt.score),
        ("threshold", receipt.threshold),
        ("alpha", bound.map(|(alpha, _)| alpha)),
        ("confidence", bound.map(|(_, confidence)| confidence)),
    ];
    let calibration = receipt.calibration.map(|calibration| ("calibration", text(calibration.as_str())));
    let scores = scores.into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| value.is_finite())?;
        Some((name, ParameterChoice::DoubleParam(value.into())))
    });
    let later = receipt.amendment.as_ref().map(|later| {
        let expiry = i64::try_from(later.expires_unix_s).unwrap_or(i64::MAX);
        [("amendment", text(later.path.as_str())), ("amendment_expires_unix_s", ParameterChoice::Int64Param(expiry))]
    });
    let provisional = (!receipt.is_final).then_some(("provisional", ParameterChoice::BoolParam(true)));
    let named = always.into_iter().chain(calibration).chain(scores);
    let named = named.chain(provisional).chain(later.into_iter().flatten());
    named.map(|(name, choice)| (name.to_owned(), InferParameter { parameter_choice: Some(choice) })).collect()
}
