//! A response to an inference request, as the bytes of its body.
//!
//! Fed by [`crate::http`] with tensors and their receipt; the receipt is in the response's `parameters`.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use types::{Calibration, InferenceResponse, NamedTensor, Receipt};

use super::{CodecError, Wanted, elements, shorten};

/// Body of a response, in parts: the JSON, and the binary tensors as the engine has made them.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Bytes of JSON at the start, for the header [`super::HEADER_LENGTH`]; `None` when all is JSON.
    pub header_length: Option<usize>,
    /// Parts of the body, in order.
    pub parts: VecDeque<Bytes>,
}

impl Encoded {
    /// Returns the bytes of the whole body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// Writes a response with each output as the request wants it. Binary tensors are not copied.
///
/// # Errors
/// [`CodecError::NotInJson`] when an output was asked for as JSON and JSON cannot say it.
pub fn encode_response(wanted: &Wanted, response: InferenceResponse) -> Result<Encoded, CodecError> {
    let outputs = response.outputs.iter().map(|output| describe(wanted, output)).collect::<Result<Vec<_>, _>>()?;
    let json = ResponseJson {
        model_name: response.receipt.model.as_str(),
        model_version: response.receipt.version.to_string(),
        id: response.receipt.request_id.as_str(),
        parameters: ReceiptJson::new(&response.receipt),
        outputs: &outputs,
    };
    let json = serde_json::to_vec(&json).map_err(|error| CodecError::Json(error.into()))?;
    if outputs.iter().all(|output| output.data.is_some()) {
        return Ok(Encoded { header_length: None, parts: [json.into()].into() });
    }
    let header_length = Some(json.len());
    let binary = response.outputs.iter().zip(&outputs).filter(|(_, described)| described.data.is_none());
    let parts = std::iter::once(Bytes::from(json)).chain(binary.map(|(output, _)| output.tensor.data().clone()));
    Ok(Encoded { header_length, parts: parts.filter(|part| !part.is_empty()).collect() })
}

fn describe<'a>(wanted: &Wanted, output: &'a NamedTensor) -> Result<OutputJson<'a>, CodecError> {
    let binary = wanted.is_binary(&output.name);
    let dtype = output.tensor.dtype();
    if !binary && let Some(problem) = elements::why_not_in_json(&output.tensor) {
        return Err(CodecError::NotInJson { name: shorten(&output.name), dtype, problem });
    }
    Ok(OutputJson {
        name: &output.name,
        datatype: dtype.as_str(),
        shape: output.tensor.shape(),
        parameters: binary.then(|| BinaryJson { binary_data_size: output.tensor.data().len() }),
        data: (!binary).then_some(elements::Data(&output.tensor)),
    })
}

#[derive(Serialize)]
struct ResponseJson<'a> {
    model_name: &'a str,
    model_version: String,
    id: &'a str,
    parameters: ReceiptJson<'a>,
    outputs: &'a [OutputJson<'a>],
}

#[derive(Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<elements::Data<'a>>,
}

#[derive(Serialize)]
struct BinaryJson {
    binary_data_size: usize,
}

/// A receipt as the flat parameters that the protocol allows (text, numbers, booleans).
#[derive(Serialize)]
struct ReceiptJson<'a> {
    place: &'static str,
    reason: &'static str,
    policy: &'static str,
    variant: &'a str,
    model_digest: String,
    engine: &'static str,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    queue_us: u64,
    compute_us: u64,
    network_us: u64,
    hub_us: u64,
    total_us: u64,
    hub_bytes: u64,
    r#final: bool,
    /// True, or absent for a final answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    provisional: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment_expires_unix_s: Option<u64>,
}

impl<'a> ReceiptJson<'a> {
    fn new(receipt: &'a Receipt) -> Self {
        let bound = receipt.calibration.and_then(Calibration::bound);
        Self {
            place: receipt.place.as_str(),
            reason: receipt.reason.as_str(),
            policy: receipt.policy.as_str(),
            variant: receipt.variant.as_str(),
            model_digest: receipt.digest.to_string(),
            engine: receipt.engine.as_str(),
            provider: &receipt.provider,
            score: receipt.score.filter(|score| score.is_finite()),
            threshold: receipt.threshold.filter(|threshold| threshold.is_finite()),
            calibration: receipt.calibration.map(Calibration::as_str),
            alpha: bound.map(|(alpha, _)| alpha).filter(|alpha| alpha.is_finite()),
            confidence: bound.map(|(_, confidence)| confidence).filter(|confidence| confidence.is_finite()),
            queue_us: micros(receipt.timings.queue),
            compute_us: micros(receipt.timings.compute),
            network_us: micros(receipt.timings.network),
            hub_us: micros(receipt.timings.hub),
            total_us: micros(receipt.timings.total),
            hub_bytes: receipt.hub_bytes,
            r#final: receipt.is_final,
            provisional: (!receipt.is_final).then_some(true),
            amendment: receipt.amendment.as_ref().map(|later| later.path.as_str()),
            amendment_expires_unix_s: receipt.amendment.as_ref().map(|later| later.expires_unix_s),
        }
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::codec::WantedOutput;
    use types::{DType, Digest, EngineName, Place, PolicyMode, Reason, Tensor, Timings, Version};

    fn answer(outputs: Vec<NamedTensor>) -> InferenceResponse {
        let receipt = Receipt {
            request_id: "r-1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            version: Version::new(2).unwrap(),
            variant: "int8-qdq".parse().unwrap(),
            digest: Digest::of(b""),
            engine: EngineName::Ort,
            provider: "CPUExecutionProvider".into(),
            place: Place::Device,
            reason: Reason::Confident,
            policy: PolicyMode::Cascade,
            score: Some(0.5),
            threshold: None,
            calibration: Some(Calibration::Certified { alpha: 0.02, confidence: 0.95 }),
            hub_bytes: 3136,
            is_final: true,
            amendment: None,
            timings: Timings { total: Duration::from_micros(7), ..Timings::default() },
        };
        InferenceResponse { outputs, receipt }
    }

    fn output(name: &str, tensor: Tensor) -> NamedTensor {
        NamedTensor { name: name.into(), tensor }
    }

    fn wanted(binary_by_default: bool, outputs: Vec<WantedOutput>) -> Wanted {
        Wanted { outputs, binary_by_default }
    }

    #[test]
    fn an_answer_in_json_says_where_it_came_from() {
        let tensor = Tensor::from_f32(vec![1, 2], &[0.1, -2.0]).unwrap();
        let encoded = encode_response(&wanted(false, vec![]), answer(vec![output("logits", tensor)])).unwrap();
        let text = std::str::from_utf8(&encoded.parts[0]).unwrap();
        let expected = concat!(
            r#"{"model_name":"digits","model_version":"2","id":"r-1","parameters":{"place":"device","reason":"confident","#,
            r#""policy":"cascade","variant":"int8-qdq","#,
            r#""model_digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
            r#""engine":"ort","provider":"CPUExecutionProvider","score":0.5,"calibration":"certified","alpha":0.02,"#,
            r#""confidence":0.95,"queue_us":0,"compute_us":0,"network_us":0,"hub_us":0,"total_us":7,"hub_bytes":3136,"#,
            r#""final":true},"outputs":[{"name":"logits","datatype":"FP32","shape":[1,2],"data":[0.1,-2.0]}]}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(encoded.header_length, None);
    }

    #[test]
    fn each_output_comes_the_way_it_was_asked_for() {
        let outputs = vec![
            WantedOutput { name: "a".into(), binary: true, classes: 0 },
            WantedOutput { name: "b".into(), binary: false, classes: 0 },
        ];
        let tensor = |value: u8| Tensor::new(DType::U8, vec![1], Bytes::from(vec![value])).unwrap();
        let encoded =
            encode_response(&wanted(false, outputs), answer(vec![output("a", tensor(7)), output("b", tensor(8))]));
        let encoded = encoded.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&encoded.parts[0]).unwrap();
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 1);
        assert_eq!(json["outputs"][1]["data"], serde_json::json!([8]));
        assert_eq!(
            (encoded.header_length, encoded.bytes()),
            (Some(encoded.parts[0].len()), encoded.parts[0].len() + 1)
        );
        assert_eq!(encoded.parts[1], [7].as_slice());
    }

    #[test]
    fn what_json_cannot_say_is_refused_with_advice() {
        let not_a_number = Tensor::from_f32(vec![1], &[f32::NAN]).unwrap();
        let half = Tensor::new(DType::F16, vec![1], Bytes::from_static(&[0, 0])).unwrap();
        let blob = Tensor::from_elements(vec![1], &[&[0xff_u8][..]]).unwrap();
        for tensor in [not_a_number, half, blob] {
            let answer = answer(vec![output("x", tensor)]);
            let error = encode_response(&wanted(false, vec![]), answer.clone()).unwrap_err();
            assert!(error.to_string().ends_with("use binary data for it"), "{error}");
            assert!(encode_response(&wanted(true, vec![]), answer).is_ok());
        }
    }
}
