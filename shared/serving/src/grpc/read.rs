//! A gRPC request as tensors: raw contents share the memory of the message, typed contents are converted.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use types::limits::{RANK_MAX, TENSOR_NAME_BYTES_MAX};
use types::{DType, NamedTensor, Tensor, TensorError};

use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::inference::{InferParameter, InferTensorContents, ModelInferRequest};
use crate::codec::request::{RuleTexts, check_deadline, read_deadline, read_id, read_policy, read_rules};
use crate::codec::{CodecError, InferCall, Wanted, WantedOutput, shorten};

/// Parameters of a message, by name.
type Parameters = HashMap<String, InferParameter>;

/// Makes a call of a message; `timeout` is the deadline of the gRPC call.
///
/// # Errors
/// [`CodecError`], a sentence for the author of the client.
pub(super) fn call(request: ModelInferRequest, timeout: Option<Duration>) -> Result<InferCall, CodecError> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = request;
    if belongs_to_a_sequence(&parameters) {
        return Err(CodecError::Sequence);
    }
    let own = read_deadline(number(&parameters, "deadline_ms")?, number(&parameters, "timeout")?)?;
    // Longer than any inference may take is the same as none: gRPC clients send years for "no deadline".
    let timeout = timeout.filter(|timeout| check_deadline(*timeout).is_ok());
    Ok(InferCall {
        id: read_id(Some(id))?,
        policy: read_policy(text(&parameters, "policy")?)?,
        deadline: [own, timeout].into_iter().flatten().min(),
        rules: read_rules(RuleTexts {
            hedge_after_ms: number(&parameters, "hedge_after_ms")?,
            privacy: text(&parameters, "privacy")?,
            consent: flag(&parameters, "consent")?,
            tags: text(&parameters, "tags")?,
            offline: text(&parameters, "offline")?,
            amend: text(&parameters, "amend")?,
            amend_url: text(&parameters, "amend_url")?,
            queue_priority: text(&parameters, "queue_priority")?,
        })?,
        inputs: tensors(inputs, raw_input_contents)?,
        wanted: Wanted { outputs: wanted(outputs)?, binary_by_default: true },
    })
}

fn belongs_to_a_sequence(parameters: &Parameters) -> bool {
    let is_set = |name: &str| match parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) {
        Some(ParameterChoice::Int64Param(number)) => *number != 0,
        Some(ParameterChoice::Uint64Param(number)) => *number != 0,
        Some(ParameterChoice::StringParam(text)) => !text.is_empty(),
        Some(ParameterChoice::BoolParam(set)) => *set,
        Some(ParameterChoice::DoubleParam(number)) => *number != 0.0,
        None => false,
    };
    ["sequence_id", "sequence_start", "sequence_end"].into_iter().any(is_set)
}

/// Returns a parameter that is a whole number of 0 or more.
fn number(parameters: &Parameters, name: &'static str) -> Result<Option<u64>, CodecError> {
    let problem = || CodecError::Parameter { name, problem: "give a whole number of 0 or more".to_owned() };
    match parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) {
        None => Ok(None),
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(*number).map(Some).map_err(|_negative| problem()),
        Some(ParameterChoice::Uint64Param(number)) => Ok(Some(*number)),
        Some(ParameterChoice::BoolParam(_) | ParameterChoice::StringParam(_) | ParameterChoice::DoubleParam(_)) => {
            Err(problem())
        }
    }
}

fn text<'a>(parameters: &'a Parameters, name: &'static str) -> Result<Option<&'a str>, CodecError> {
    match parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) {
        None => Ok(None),
        Some(ParameterChoice::StringParam(text)) => Ok(Some(text)),
        Some(_) => Err(CodecError::Parameter { name, problem: "give a text".to_owned() }),
    }
}

fn flag(parameters: &Parameters, name: &'static str) -> Result<Option<bool>, CodecError> {
    match parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) {
        None => Ok(None),
        Some(ParameterChoice::BoolParam(set)) => Ok(Some(*set)),
        Some(_) => Err(CodecError::Parameter { name, problem: "give true or false".to_owned() }),
    }
}

/// Returns whether a parameter of the request is true.
pub(super) fn is_true(parameters: &Parameters, name: &str) -> bool {
    let choice = parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(choice, Some(ParameterChoice::BoolParam(true)))
}

fn refuse_shared_memory(parameters: &Parameters) -> Result<(), CodecError> {
    if parameters.contains_key("shared_memory_region") {
        return Err(CodecError::Unsupported { what: "shared memory regions", instead: "send tensors in the request" });
    }
    Ok(())
}

fn wanted(outputs: Vec<InferRequestedOutputTensor>) -> Result<Vec<WantedOutput>, CodecError> {
    let mut wanted: Vec<WantedOutput> = Vec::with_capacity(outputs.len());
    for output in outputs {
        if output.name.len() > TENSOR_NAME_BYTES_MAX {
            return Err(CodecError::NameTooLong(output.name.len()));
        }
        refuse_shared_memory(&output.parameters)?;
        if wanted.iter().any(|earlier| earlier.name == output.name) {
            return Err(CodecError::OutputTwice(shorten(&output.name)));
        }
        let classes = number(&output.parameters, "classification")?.unwrap_or(0);
        let classes = usize::try_from(classes).unwrap_or(usize::MAX);
        wanted.push(WantedOutput { name: output.name, binary: true, classes });
    }
    Ok(wanted)
}

fn tensors(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<NamedTensor>, CodecError> {
    if raw.is_empty() {
        return inputs.into_iter().map(|input| tensor(input, None)).collect();
    }
    if raw.len() != inputs.len() {
        let problem = format!("{} entries for {} inputs: send one for each input", raw.len(), inputs.len());
        return Err(CodecError::RawContents { problem });
    }
    inputs.into_iter().zip(raw).map(|(input, raw)| tensor(input, Some(raw))).collect()
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<NamedTensor, CodecError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    if name.len() > TENSOR_NAME_BYTES_MAX {
        return Err(CodecError::NameTooLong(name.len()));
    }
    refuse_shared_memory(&parameters)?;
    let bad = |source| CodecError::Tensor { name: shorten(&name), source };
    let dtype: DType = datatype.parse().map_err(bad)?;
    if shape.len() > RANK_MAX {
        return Err(bad(TensorError::Rank(shape.len())));
    }
    let sizes = shape.iter().map(|&size| {
        let problem = || {
            let problem = format!("shape of tensor {:?}: {size} is no size: give 0 or more", shorten(&name));
            CodecError::Parameter { name: "shape", problem }
        };
        usize::try_from(size).map_err(|_negative| problem())
    });
    let shape = sizes.collect::<Result<Vec<_>, _>>()?;
    let data = match (contents, raw) {
        (Some(contents), Some(raw)) if !raw.is_empty() || contents != InferTensorContents::default() => {
            return Err(CodecError::DataSource { name: shorten(&name), given: "both" });
        }
        (_, Some(raw)) => raw,
        (contents, None) => typed(&name, dtype, contents.unwrap_or_default())?.into(),
    };
    let tensor = Tensor::new(dtype, shape, data).map_err(bad)?;
    Ok(NamedTensor { name, tensor })
}

/// Makes the bytes of a tensor of typed contents.
fn typed(name: &str, dtype: DType, contents: InferTensorContents) -> Result<Vec<u8>, CodecError> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let over = |value: i128| {
        let problem = format!("tensor {:?}: {value} does not fit {dtype}", shorten(name));
        CodecError::Parameter { name: "contents", problem }
    };
    macro_rules! narrow {
        ($values:ident, $int:ty) => {{
            let mut bytes = Vec::with_capacity($values.len() * std::mem::size_of::<$int>());
            for value in $values {
                let narrow = <$int>::try_from(value).map_err(|_over| over(value.into()))?;
                bytes.extend_from_slice(&narrow.to_le_bytes());
            }
            bytes
        }};
    }
    macro_rules! wide {
        ($values:ident) => {
            $values.into_iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match dtype {
        DType::Bool => bool_contents.into_iter().map(u8::from).collect(),
        DType::I8 => narrow!(int_contents, i8),
        DType::I16 => narrow!(int_contents, i16),
        DType::I32 => wide!(int_contents),
        DType::I64 => wide!(int64_contents),
        DType::U8 => narrow!(uint_contents, u8),
        DType::U16 => narrow!(uint_contents, u16),
        DType::U32 => wide!(uint_contents),
        DType::U64 => wide!(uint64_contents),
        DType::F32 => wide!(fp32_contents),
        DType::F64 => wide!(fp64_contents),
        DType::F16 | DType::Bf16 => {
            let problem = format!("tensor {:?}: {dtype} has no typed contents: send it raw", shorten(name));
            return Err(CodecError::RawContents { problem });
        }
        DType::Bytes => {
            let mut bytes = Vec::with_capacity(bytes_contents.iter().map(|element| element.len() + 4).sum());
            for element in bytes_contents {
                let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(&element);
            }
            bytes
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(datatype: &str, shape: Vec<i64>, contents: InferTensorContents) -> ModelInferRequest {
        let input = InferInputTensor {
            name: "x".into(),
            datatype: datatype.into(),
            shape,
            contents: Some(contents),
            ..Default::default()
        };
        ModelInferRequest { inputs: vec![input], ..Default::default() }
    }

    #[test]
    fn typed_contents_of_every_datatype_become_the_same_bytes_as_raw_ones() {
        let none = InferTensorContents::default;
        let cases = [
            ("BOOL", InferTensorContents { bool_contents: vec![true, false], ..none() }, vec![1, 0]),
            ("INT8", InferTensorContents { int_contents: vec![-1, 127], ..none() }, vec![255, 127]),
            ("INT16", InferTensorContents { int_contents: vec![-2, 3], ..none() }, vec![254, 255, 3, 0]),
            ("UINT8", InferTensorContents { uint_contents: vec![255, 1], ..none() }, vec![255, 1]),
            ("UINT16", InferTensorContents { uint_contents: vec![258, 1], ..none() }, vec![2, 1, 1, 0]),
            ("FP32", InferTensorContents { fp32_contents: vec![1.0, 0.0], ..none() }, vec![0, 0, 128, 63, 0, 0, 0, 0]),
            (
                "BYTES",
                InferTensorContents { bytes_contents: vec![vec![9], vec![]], ..none() },
                vec![1, 0, 0, 0, 9, 0, 0, 0, 0],
            ),
        ];
        for (datatype, contents, bytes) in cases {
            let call = call(request(datatype, vec![2], contents), None).unwrap();
            assert_eq!(call.inputs[0].tensor.data(), &bytes, "{datatype}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        let ints = |value| InferTensorContents { int_contents: vec![value], ..Default::default() };
        let told = |request| call(request, None).unwrap_err().to_string();
        assert!(told(request("INT8", vec![1], ints(200))).contains("200 does not fit INT8"));
        assert!(told(request("FP16", vec![1], ints(1))).contains("send it raw"));
        assert!(told(request("INT32", vec![-1], ints(1))).contains("-1 is no size"));
        assert!(told(request("INT32", vec![1; 99], ints(1))).contains("tensor"));
        let mut both = request("INT32", vec![1], ints(1));
        both.raw_input_contents = vec![Bytes::from_static(&[1, 0, 0, 0])];
        assert!(told(both.clone()).contains("both"));
        both.raw_input_contents.push(Bytes::new());
        assert!(told(both).contains("2 entries for 1 inputs"));
    }

    #[test]
    fn the_rules_of_a_request_for_its_policy_are_read() {
        let with = |name: &str, choice: ParameterChoice| {
            let mut request = ModelInferRequest::default();
            request.parameters.insert(name.into(), InferParameter { parameter_choice: Some(choice) });
            call(request, None).map(|call| call.rules)
        };
        let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
        assert_eq!(with("consent", ParameterChoice::BoolParam(true)).unwrap().consent, Some(true));
        assert_eq!(with("tags", text("a,b")).unwrap().tags, ["a", "b"]);
        assert!(with("privacy", text("never-leaves")).unwrap().privacy.is_some());
        assert!(with("amend", text("stream")).unwrap().amend.is_some());
        // What is not understood is refused, and never counts as left out.
        for (name, choice) in [
            ("consent", text("yes")),
            ("privacy", text("secret")),
            ("privacy", ParameterChoice::BoolParam(true)),
            ("offline", text("later")),
            ("amend", text("mail")),
            ("queue_priority", text("urgent")),
            ("hedge_after_ms", ParameterChoice::Int64Param(-1)),
        ] {
            assert!(with(name, choice).is_err(), "{name}");
        }
    }

    #[test]
    fn the_shorter_of_both_deadlines_counts_and_a_deadline_of_years_is_none() {
        let deadline = |own: Option<i64>, grpc: Option<Duration>| {
            let contents = InferTensorContents { int_contents: vec![1], ..Default::default() };
            let mut request = request("INT32", vec![1], contents);
            if let Some(milliseconds) = own {
                let choice = Some(ParameterChoice::Int64Param(milliseconds));
                request.parameters.insert("deadline_ms".into(), InferParameter { parameter_choice: choice });
            }
            call(request, grpc).unwrap().deadline
        };
        let ms = Duration::from_millis;
        assert_eq!(deadline(Some(50), Some(ms(20))), Some(ms(20)));
        assert_eq!(deadline(Some(50), Some(Duration::MAX)), Some(ms(50)));
        assert_eq!(deadline(None, Some(Duration::from_secs(100 * 365 * 86_400))), None);
    }
}
