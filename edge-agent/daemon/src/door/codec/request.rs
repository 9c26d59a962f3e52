//! A request for an inference, from the bytes of its body.
//!
//! Fed by the door; yields tensors and wishes, checked for form and limits. Holding them against a model's signature
//! comes later, where the model is known.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use types::{DType, NamedTensor, PolicyMode, RequestId, Tensor, TensorError};

use super::{BinaryPart, CodecError, bounded_list, elements, shorten, split_body};

/// Longest deadline that a request may ask for.
///
/// A day: longer than any inference, and far from where adding it to a clock would overflow.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// One output that the request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOutput {
    /// Its name in the model.
    pub name: String,
    /// Whether its elements shall come as binary data.
    pub binary: bool,
}

/// A well-formed request for an inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferCall {
    /// What the client calls this request.
    pub id: Option<RequestId>,
    /// The policy for this request alone; the model's own where `None`.
    pub policy: Option<PolicyMode>,
    /// How long the client waits, counted from the arrival of the whole request.
    pub deadline: Option<Duration>,
    /// The inputs, in the order of the request.
    pub inputs: Vec<NamedTensor>,
    /// The wanted outputs; all of the model's where empty.
    pub outputs: Vec<WantedOutput>,
    /// Whether outputs that the request does not name come as binary data.
    pub binary_by_default: bool,
}

impl InferCall {
    /// Reads a request: `header_length` is the header [`super::HEADER_LENGTH`], where there was one.
    ///
    /// Binary tensors share the memory of `body`.
    ///
    /// # Errors
    /// [`CodecError`], a sentence for whoever wrote the client.
    pub fn parse(header_length: Option<&str>, body: &Bytes) -> Result<Self, CodecError> {
        let (json, binary) = split_body(header_length, body)?;
        let request: RequestJson<'_> = serde_json::from_slice(&json).map_err(CodecError::Json)?;
        let parameters = request.parameters.unwrap_or_default();
        if parameters.sequence_id.is_some() {
            return Err(CodecError::Unsupported { what: "sequences", instead: "send each request by itself" });
        }
        let binary_by_default = parameters.binary_data_output.unwrap_or(false);
        Ok(Self {
            id: read_id(request.id)?,
            policy: read_policy(parameters.policy.as_deref())?,
            deadline: read_deadline(parameters.deadline_ms, parameters.timeout)?,
            inputs: read_inputs(request.inputs, binary)?,
            outputs: read_outputs(request.outputs, binary_by_default)?,
            binary_by_default,
        })
    }

    /// The names of the wanted outputs; empty when all are wanted.
    #[must_use]
    pub fn output_names(&self) -> Vec<String> {
        self.outputs.iter().map(|output| output.name.clone()).collect()
    }
}

/// The JSON of a request. Unknown fields and parameters are passed over, as the protocol asks of servers.
#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Option<RequestParameters>,
    #[serde(borrow, deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    inputs: Vec<InputJson<'a>>,
    #[serde(default, deserialize_with = "bounded_list::<_, _, TENSORS_MAX>")]
    outputs: Vec<OutputJson>,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    #[serde(default)]
    policy: Option<String>,
    /// Milliseconds.
    #[serde(default)]
    deadline_ms: Option<u64>,
    /// Microseconds: Triton's name for the same wish; zero means none.
    #[serde(default)]
    timeout: Option<u64>,
    #[serde(default)]
    binary_data_output: Option<bool>,
    #[serde(default)]
    sequence_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    #[serde(deserialize_with = "bounded_list::<_, _, RANK_MAX>")]
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
    #[serde(default)]
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<IgnoredAny>,
    #[serde(default)]
    shared_memory_region: Option<IgnoredAny>,
}

fn read_id(id: Option<String>) -> Result<Option<RequestId>, CodecError> {
    // tritonclient and others send an empty id for "none".
    id.filter(|id| !id.is_empty()).map(|id| id.parse().map_err(CodecError::Id)).transpose()
}

fn read_policy(policy: Option<&str>) -> Result<Option<PolicyMode>, CodecError> {
    let bad =
        |error: types::policy::UnknownPolicy| CodecError::Parameter { name: "policy", problem: error.to_string() };
    policy.map(|text| text.parse().map_err(bad)).transpose()
}

fn read_deadline(deadline_ms: Option<u64>, timeout_us: Option<u64>) -> Result<Option<Duration>, CodecError> {
    let (name, deadline) = match (deadline_ms, timeout_us.filter(|&timeout| timeout > 0)) {
        (Some(milliseconds), _) => ("deadline_ms", Duration::from_millis(milliseconds)),
        (None, Some(microseconds)) => ("timeout", Duration::from_micros(microseconds)),
        (None, None) => return Ok(None),
    };
    check_deadline(deadline).map(Some).map_err(|problem| CodecError::Parameter { name, problem })
}

/// Holds a wished deadline against its limits.
///
/// # Errors
/// A sentence when it is zero or longer than a day.
pub fn check_deadline(deadline: Duration) -> Result<Duration, String> {
    if deadline.is_zero() || deadline > DEADLINE_MAX {
        return Err("give more than zero and at most 24 hours".to_owned());
    }
    Ok(deadline)
}

fn read_inputs(inputs: Vec<InputJson<'_>>, binary: Option<Bytes>) -> Result<Vec<NamedTensor>, CodecError> {
    let mut binary = BinaryPart { rest: binary.unwrap_or_default() };
    let tensors = inputs.into_iter().map(|input| read_input(input, &mut binary)).collect::<Result<_, _>>()?;
    binary.finish()?;
    Ok(tensors)
}

fn read_input(input: InputJson<'_>, binary: &mut BinaryPart) -> Result<NamedTensor, CodecError> {
    if input.name.len() > TENSOR_NAME_BYTES_MAX {
        return Err(CodecError::NameTooLong(input.name.len()));
    }
    let parameters = input.parameters.unwrap_or_default();
    if parameters.shared_memory_region.is_some() {
        return Err(NO_SHARED_MEMORY);
    }
    let bad = |source| CodecError::Tensor { name: shorten(&input.name), source };
    let dtype: DType = input.datatype.parse().map_err(bad)?;
    let shape = input.shape.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_over| bad(TensorError::TooLarge { dtype, shape: vec![usize::MAX] }))?;
    let data = match (input.data, parameters.binary_data_size) {
        (Some(text), None) => elements::read(dtype, text)
            .map_err(|source| CodecError::Elements { name: shorten(&input.name), dtype, source })?
            .into(),
        (None, Some(size)) if size > TENSOR_BYTES_MAX => return Err(bad(TensorError::TooLarge { dtype, shape })),
        (None, Some(size)) => binary.take(&input.name, size)?,
        (Some(_), Some(_)) => return Err(CodecError::DataSource { name: shorten(&input.name), given: "both" }),
        (None, None) => return Err(CodecError::DataSource { name: shorten(&input.name), given: "neither" }),
    };
    let tensor = Tensor::new(dtype, shape, data).map_err(bad)?;
    Ok(NamedTensor { name: input.name, tensor })
}

/// A path into this process's memory from a request is how other servers were broken into.
const NO_SHARED_MEMORY: CodecError =
    CodecError::Unsupported { what: "shared memory regions", instead: "send tensors in the body" };

fn read_outputs(outputs: Vec<OutputJson>, binary_by_default: bool) -> Result<Vec<WantedOutput>, CodecError> {
    let mut wanted: Vec<WantedOutput> = Vec::with_capacity(outputs.len());
    for output in outputs {
        let parameters = output.parameters.unwrap_or_default();
        if output.name.len() > TENSOR_NAME_BYTES_MAX {
            return Err(CodecError::NameTooLong(output.name.len()));
        }
        if parameters.shared_memory_region.is_some() {
            return Err(NO_SHARED_MEMORY);
        }
        if parameters.classification.is_some() {
            return Err(CodecError::Unsupported {
                what: "classification outputs",
                instead: "ask for the tensor and take its largest elements",
            });
        }
        if wanted.iter().any(|earlier| earlier.name == output.name) {
            return Err(CodecError::OutputTwice(shorten(&output.name)));
        }
        wanted.push(WantedOutput { name: output.name, binary: parameters.binary_data.unwrap_or(binary_by_default) });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &'static [u8]) -> Result<InferCall, CodecError> {
        InferCall::parse(None, &Bytes::from_static(bytes))
    }

    fn golden(bytes: &'static [u8], json_length: &str) -> InferCall {
        InferCall::parse(Some(json_length), &Bytes::from_static(bytes)).unwrap()
    }

    fn message(bytes: &'static [u8]) -> String {
        telemetry::chain(&parse(bytes).unwrap_err())
    }

    #[test]
    fn tritonclients_default_request_is_read() {
        let call = golden(include_bytes!("../../../tests/golden/binary_default.bin"), "139");
        let expected = Tensor::from_f32(vec![1, 3], &[0.0, 0.5, 1.0]).unwrap();
        assert_eq!(call.inputs, [NamedTensor { name: "image".into(), tensor: expected }]);
        assert!(call.binary_by_default && call.outputs.is_empty() && call.id.is_none());
    }

    #[test]
    fn tritonclients_choice_of_outputs_is_read() {
        let call = golden(include_bytes!("../../../tests/golden/binary_with_outputs.bin"), "226");
        let output = |name: &str, binary| WantedOutput { name: name.into(), binary };
        assert_eq!(call.outputs, [output("logits", true), output("scores", false)]);
        assert_eq!(call.id.unwrap().as_str(), "r-1");
    }

    #[test]
    fn tritonclients_json_request_with_our_parameters_is_read() {
        let call = parse(include_bytes!("../../../tests/golden/json_flat.bin")).unwrap();
        assert_eq!(call.inputs[0].tensor, Tensor::from_f32(vec![1, 3], &[0.0, 0.5, 1.0]).unwrap());
        assert_eq!(call.policy, Some(PolicyMode::OnlyDevice));
        assert_eq!(call.deadline, Some(Duration::from_millis(250)));
    }

    #[test]
    fn tritonclients_strings_booleans_and_integers_are_read() {
        let call = golden(include_bytes!("../../../tests/golden/mixed_bytes_bool.bin"), "314");
        assert_eq!(call.inputs[0].tensor, Tensor::from_elements(vec![3], &["a", "", "épée"]).unwrap());
        assert_eq!(call.inputs[1].tensor, Tensor::new(DType::Bool, vec![2], Bytes::from_static(&[1, 0])).unwrap());
        assert_eq!(call.inputs[2].tensor.data()[8..], (-2_i64).to_le_bytes());
        assert_eq!(call.deadline, Some(Duration::from_micros(5000)), "Triton's timeout is in microseconds");
        let strings = parse(include_bytes!("../../../tests/golden/json_bytes.bin")).unwrap();
        assert_eq!(strings.inputs[0].tensor, Tensor::from_elements(vec![2], &["a", "é"]).unwrap());
    }

    #[test]
    fn halves_come_as_binary_only() {
        let call = golden(include_bytes!("../../../tests/golden/half.bin"), "132");
        assert_eq!(call.inputs[0].tensor.to_f32().unwrap(), [1.0, -2.0]);
        let json = br#"{"inputs":[{"name":"h","shape":[1],"datatype":"FP16","data":[1.0]}]}"#;
        assert!(message(json).contains("binary data only"), "{}", message(json));
    }

    #[test]
    fn nested_data_reads_like_flat_data() {
        let nested = parse(br#"{"inputs":[{"data":[[1,2],[3,4]],"name":"x","shape":[2,2],"datatype":"INT8"}]}"#);
        assert_eq!(nested.unwrap().inputs[0].tensor.data().as_ref(), [1, 2, 3, 4]);
    }

    #[test]
    fn every_fault_of_a_request_has_its_sentence() {
        let cases: [(&'static [u8], &str); 10] = [
            (b"", "JSON"),
            (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#, "neither"),
            (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP8","data":[1]}]}"#, "FP8"),
            (br#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#, "takes 8 bytes, 4 were given"),
            (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[256]}]}"#, "256 does not fit UINT8"),
            (br#"{"inputs":[{"name":"x","shape":[-1],"datatype":"UINT8","data":[1]}]}"#, "-1"),
            (
                br#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}]}"#,
                "0 are left",
            ),
            (br#"{"inputs":[],"parameters":{"policy":"cloud"}}"#, "only-hub"),
            (br#"{"inputs":[],"parameters":{"deadline_ms":0}}"#, "24 hours"),
            (br#"{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}"#, "twice"),
        ];
        for (body, expected) in cases {
            assert!(message(body).contains(expected), "{} lacks {expected:?}", message(body));
        }
    }

    #[test]
    fn a_length_header_that_lies_is_refused() {
        for length in ["999", "-1", "", "x", "99999999999999999999999"] {
            assert!(InferCall::parse(Some(length), &Bytes::from_static(b"{\"inputs\":[]}")).is_err(), "{length:?}");
        }
        assert!(matches!(
            InferCall::parse(Some("13"), &Bytes::from_static(b"{\"inputs\":[]}\0")),
            Err(CodecError::BinaryLeft(1))
        ));
    }

    #[test]
    fn deep_nesting_and_many_tiny_entries_are_refused() {
        let nested = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"UINT8","data":{}1{}}}]}}"#,
            "[".repeat(100),
            "]".repeat(100)
        );
        assert!(InferCall::parse(None, &Bytes::from(nested)).is_err());
        let entry = r#"{"name":"x","shape":[],"datatype":"UINT8","data":1}"#;
        let many = format!(r#"{{"inputs":[{}]}}"#, vec![entry; TENSORS_MAX + 1].join(","));
        assert!(InferCall::parse(None, &Bytes::from(many)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            length in proptest::option::of(0_usize..400),
        ) {
            let length = length.map(|length| length.to_string());
            let _outcome = InferCall::parse(length.as_deref(), &Bytes::from(body));
        }
    }
}
