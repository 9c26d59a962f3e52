//! The client side of the protocol: writes requests and reads responses, for `edge-agent infer` and for tests.
//!
//! Tensors travel as binary data in both directions.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use types::limits::{RANK_MAX, TENSORS_MAX};
use types::policy::{Offline, PrivacyClass, RequestRules};
use types::{DType, NamedTensor, PolicyMode, RequestId, Tensor};

use super::{BinaryPart, CodecError, bounded_list, shorten, split_body};

/// Options of a request beside its inputs.
#[derive(Debug, Clone, Default)]
pub struct RequestOptions {
    /// Id of the request; the server makes one where it is `None`.
    pub id: Option<RequestId>,
    /// The policy for this request alone.
    pub policy: Option<PolicyMode>,
    /// Milliseconds until the response is of no use.
    pub deadline_ms: Option<u64>,
    /// Further rules of the policy for this request alone.
    pub rules: RequestRules,
}

/// Body of a request.
#[derive(Debug, Clone)]
pub struct EncodedRequest {
    /// Bytes of JSON at the start, for the header [`super::HEADER_LENGTH`].
    pub header_length: usize,
    /// Bytes of the whole body.
    pub body: Bytes,
}

/// Writes a request for all outputs.
///
/// # Errors
/// [`CodecError::Json`] should a name not be writable.
pub fn encode_request(inputs: &[NamedTensor], options: &RequestOptions) -> Result<EncodedRequest, CodecError> {
    let described = inputs.iter().map(|input| Described {
        name: &input.name,
        shape: input.tensor.shape(),
        datatype: input.tensor.dtype().as_str(),
        parameters: Size { binary_data_size: input.tensor.data().len() },
    });
    let rules = &options.rules;
    let json = RequestJson {
        id: options.id.as_ref().map(RequestId::as_str),
        parameters: RequestParameters {
            binary_data_output: true,
            policy: options.policy.map(PolicyMode::as_str),
            deadline_ms: options.deadline_ms,
            hedge_after_ms: rules.hedge_after.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            privacy: rules.privacy.map(PrivacyClass::as_str),
            consent: rules.consent,
            tags: (!rules.tags.is_empty()).then(|| rules.tags.join(",")),
            offline: rules.offline.map(Offline::as_str),
        },
        inputs: described.collect(),
    };
    let json = serde_json::to_vec(&json).map_err(json_error)?;
    let mut body = BytesMut::from(json.as_slice());
    inputs.iter().for_each(|input| body.put_slice(input.tensor.data()));
    Ok(EncodedRequest { header_length: json.len(), body: body.freeze() })
}

#[derive(Serialize)]
struct RequestJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    parameters: RequestParameters,
    inputs: Vec<Described<'a>>,
}

#[derive(Serialize)]
struct RequestParameters {
    binary_data_output: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline: Option<&'static str>,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    shape: &'a [usize],
    datatype: &'static str,
    parameters: Size,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}

/// A response as a client sees it.
#[derive(Debug)]
pub struct DecodedResponse {
    /// The JSON part without the tensors' data: model, version, id and the receipt in `parameters`.
    pub json: serde_json::Value,
    /// Outputs in the order of the response.
    pub outputs: Vec<NamedTensor>,
}

/// Reads a response in which every output is binary.
///
/// # Errors
/// [`CodecError`] when the body is not such a response.
pub fn decode_response(header_length: Option<&str>, body: &Bytes) -> Result<DecodedResponse, CodecError> {
    let (json, binary) = split_body(header_length, body)?;
    let mut binary = BinaryPart { rest: binary.unwrap_or_default() };
    let response: ResponseJson = serde_json::from_slice(&json).map_err(json_error)?;
    let outputs = response.outputs.into_iter().map(|output| {
        let dtype: DType = output.datatype.parse().map_err(|source| tensor_error(&output.name, source))?;
        let size = output.parameters.map(|parameters| parameters.binary_data_size);
        let size =
            size.ok_or_else(|| CodecError::DataSource { name: shorten(&output.name), given: "no binary data" })?;
        let data = binary.take(&output.name, size)?;
        let tensor = Tensor::new(dtype, output.shape, data).map_err(|source| tensor_error(&output.name, source))?;
        Ok(NamedTensor { name: output.name, tensor })
    });
    let outputs = outputs.collect::<Result<_, CodecError>>()?;
    Ok(DecodedResponse { json: serde_json::from_slice(&json).map_err(json_error)?, outputs })
}

fn json_error(error: serde_json::Error) -> CodecError {
    CodecError::Json(error.into())
}

fn tensor_error(name: &str, source: types::TensorError) -> CodecError {
    CodecError::Tensor { name: shorten(name), source }
}

#[derive(Deserialize)]
struct ResponseJson {
    #[serde(deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    outputs: Vec<OutputJson>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    datatype: String,
    #[serde(deserialize_with = "bounded_list::<_, _, RANK_MAX>")]
    shape: Vec<usize>,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Deserialize)]
struct OutputParameters {
    binary_data_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::InferCall;

    #[test]
    fn the_server_reads_what_the_client_writes() {
        let tensor = Tensor::from_f32(vec![2], &[1.0, f32::NAN]).unwrap();
        let inputs = [NamedTensor { name: "x".into(), tensor }];
        let rules = RequestRules {
            hedge_after: Some(std::time::Duration::from_millis(7)),
            privacy: Some(PrivacyClass::Personal),
            consent: Some(true),
            tags: vec!["a".to_owned(), "b".to_owned()],
            offline: Some(Offline::Fail),
            ..RequestRules::default()
        };
        let options =
            RequestOptions { id: None, policy: Some(PolicyMode::OnlyHub), deadline_ms: Some(5), rules: rules.clone() };
        let encoded = encode_request(&inputs, &options).unwrap();
        let call = InferCall::parse(Some(&encoded.header_length.to_string()), &encoded.body, &|_bytes| true).unwrap();
        assert_eq!(call.inputs, inputs);
        assert_eq!((call.policy, call.rules), (Some(PolicyMode::OnlyHub), rules));
        assert!(call.wanted.binary_by_default);
    }
}
