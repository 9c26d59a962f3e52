//! The parser against a second reading of the same request: a tree of JSON values, walked by the protocol's text.
//!
//! The parser makes tensors while it reads and never holds a tree; here the slow and obvious way says what it must accept,
//! and what every accepted tensor must hold.

use proptest::prelude::*;
use serde_json::Value;
use types::limits::RANK_MAX;
use types::{DType, NamedTensor, Tensor};

use super::{Bytes, InferCall};

/// Reads a request the obvious way; `None` where it must be refused.
fn oracle(text: &str) -> Option<(Vec<NamedTensor>, Vec<String>)> {
    let request: Value = serde_json::from_str(text).ok()?;
    let request = request.as_object()?;
    match request.get("id") {
        None | Some(Value::Null) => {}
        Some(Value::String(id)) if id.is_empty() || id.parse::<types::RequestId>().is_ok() => {}
        Some(_) => return None,
    }
    match request.get("parameters") {
        None | Some(Value::Null) => {}
        Some(Value::Object(parameters)) => {
            let unset = [Value::Null, Value::from(0), Value::from(""), Value::from(false), Value::from(0.0)];
            parameters.get("sequence_id").is_none_or(|id| unset.contains(id)).then_some(())?;
            for flag in ["sequence_start", "sequence_end"] {
                parameters
                    .get(flag)
                    .is_none_or(|flag| [Value::Null, Value::from(false)].contains(flag))
                    .then_some(())?;
            }
        }
        // What PHP writes for an object without fields.
        Some(Value::Array(fields)) if fields.is_empty() => {}
        Some(_) => return None,
    }
    let inputs = request.get("inputs")?.as_array()?.iter().map(input).collect::<Option<_>>()?;
    let outputs = match request.get("outputs") {
        None | Some(Value::Null) => Vec::new(),
        Some(outputs) => {
            let name = |output: &Value| Some(output.as_object()?.get("name")?.as_str()?.to_owned());
            outputs.as_array()?.iter().map(name).collect::<Option<Vec<_>>>()?
        }
    };
    Some((inputs, outputs))
}

fn input(input: &Value) -> Option<NamedTensor> {
    let input = input.as_object()?;
    let dtype: DType = input.get("datatype")?.as_str()?.parse().ok()?;
    let size = |size: &Value| usize::try_from(size.as_u64()?).ok();
    let shape: Vec<usize> = input.get("shape")?.as_array()?.iter().map(size).collect::<Option<_>>()?;
    input.get("parameters").is_none_or(Value::is_null).then_some(())?;
    let mut bytes = Vec::new();
    elements(dtype, input.get("data").filter(|data| !data.is_null())?, 0, &mut bytes)?;
    let tensor = Tensor::new(dtype, shape, bytes.into()).ok()?;
    Some(NamedTensor { name: input.get("name")?.as_str()?.to_owned(), tensor })
}

fn elements(dtype: DType, value: &Value, depth: usize, bytes: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Array(_) if depth == RANK_MAX => None,
        Value::Array(list) => list.iter().try_for_each(|value| elements(dtype, value, depth + 1, bytes).ok_or(())).ok(),
        Value::Bool(value) if dtype == DType::Bool => {
            bytes.push(u8::from(*value));
            Some(())
        }
        Value::String(text) if dtype == DType::Bytes => {
            bytes.extend(u32::try_from(text.len()).ok()?.to_le_bytes());
            bytes.extend(text.as_bytes());
            Some(())
        }
        Value::Number(number) => {
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            bytes.extend(match whole {
                Some(whole) => of_integer(dtype, whole)?,
                None => of_float(dtype, number.as_f64()?)?,
            });
            Some(())
        }
        Value::Null | Value::Object(_) | Value::Bool(_) | Value::String(_) => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a JSON number given for a float rounds to the nearest")]
fn of_integer(dtype: DType, value: i128) -> Option<Vec<u8>> {
    let bytes = |width: usize, least: i128, most: i128| {
        (least..=most).contains(&value).then(|| value.to_le_bytes().into_iter().take(width).collect())
    };
    match dtype {
        DType::Bool => bytes(1, 0, 1),
        DType::U8 => bytes(1, 0, u8::MAX.into()),
        DType::U16 => bytes(2, 0, u16::MAX.into()),
        DType::U32 => bytes(4, 0, u32::MAX.into()),
        DType::U64 => bytes(8, 0, u64::MAX.into()),
        DType::I8 => bytes(1, i8::MIN.into(), i8::MAX.into()),
        DType::I16 => bytes(2, i16::MIN.into(), i16::MAX.into()),
        DType::I32 => bytes(4, i32::MIN.into(), i32::MAX.into()),
        DType::I64 => bytes(8, i64::MIN.into(), i64::MAX.into()),
        DType::F32 => Some((value as f32).to_le_bytes().to_vec()),
        DType::F64 => Some((value as f64).to_le_bytes().to_vec()),
        DType::F16 | DType::Bf16 | DType::Bytes => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a JSON number given for FP32 rounds to the nearest")]
fn of_float(dtype: DType, value: f64) -> Option<Vec<u8>> {
    match dtype {
        DType::F32 => Some((value as f32).to_le_bytes().to_vec()),
        DType::F64 => Some(value.to_le_bytes().to_vec()),
        _ => None,
    }
}

/// One element, in every syntax that JSON has for it, and some that it has not.
fn element() -> impl Strategy<Value = String> {
    let odd = [
        "0",
        "-0",
        "1",
        "255",
        "256",
        "-1",
        "-128",
        "-129",
        "65536",
        "4294967296",
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "1e3",
        "1E+3",
        "1.0",
        "0.1",
        "1e-400",
        "1e38",
        "1e39",
        "1e400",
        "16777217",
        "3.4028236e38",
        "01",
        "+1",
        ".5",
        "1.",
        "NaN",
        "Infinity",
        "0x1",
        "true",
        "false",
        "null",
        "{}",
        "\"\"",
        "\"1\"",
        "\"é\\u00e9\\n\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\u0000\"",
    ];
    prop_oneof![
        4 => any::<i32>().prop_map(|value| value.to_string()),
        3 => any::<f64>().prop_filter("JSON has no such number", |value| value.is_finite()).prop_map(|value| value.to_string()),
        3 => (0_u8..3).prop_map(|value| value.to_string()),
        3 => proptest::sample::select(odd.to_vec()).prop_map(str::to_owned),
        2 => "[a-zé]{0,5}".prop_map(|text| format!("{text:?}")),
        1 => any::<bool>().prop_map(|value| value.to_string()),
    ]
}

/// Elements, flat or nested in any way.
fn data() -> impl Strategy<Value = String> {
    element().prop_recursive(4, 24, 5, |inner| {
        proptest::collection::vec(inner, 0..5).prop_map(|list| format!("[{}]", list.join(", ")))
    })
}

/// A field that may be left out, or be one of these.
fn field(name: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = String> {
    let present = proptest::sample::select(values.to_vec()).prop_map(move |value| format!("\"{name}\": {value}, "));
    prop_oneof![1 => Just(String::new()), 1 => present]
}

fn request() -> impl Strategy<Value = String> {
    let dtype = proptest::sample::select(DType::ALL.to_vec());
    let shape = proptest::collection::vec(0_usize..4, 0..3);
    let id = field("id", &["null", "\"\"", "\"r-1\"", "7", "[]"]);
    let parameters = field(
        "parameters",
        &[
            "null",
            "{}",
            "[]",
            r#"{"sequence_id": 0, "sequence_start": false, "sequence_end": false}"#,
            r#"{"sequence_id": "", "priority": 0, "unknown": {"a": [1]}}"#,
            r#"{"sequence_id": 5, "sequence_start": true}"#,
            r#"{"sequence_id": "abc"}"#,
            r#"{"sequence_id": null, "policy": null, "deadline_ms": null, "timeout": null, "binary_data_output": null}"#,
        ],
    );
    let outputs =
        field("outputs", &["null", "[]", r#"[{"name": "y"}]"#, r#"[{"name": "y", "parameters": null}]"#, "{}", "[1]"]);
    let one = field("parameters", &["null", "3"]);
    // Whether the shape is that of the elements is up to chance; a vector of all of them is common.
    (dtype, shape, data(), id, parameters, outputs, one, any::<bool>()).prop_map(
        |(dtype, shape, data, id, parameters, outputs, one, fits)| {
            let mut bytes = Vec::new();
            let count = serde_json::from_str(&data).ok().and_then(|value| elements(DType::F64, &value, 0, &mut bytes));
            let shape = if fits && count.is_some() { vec![bytes.len() / 8] } else { shape };
            format!(
                r#"{{{id}{parameters}{outputs}"inputs": [{{"data": {data}, {one}"name": "x", "datatype": "{dtype}", "shape": {shape:?}}}]}}"#
            )
        },
    )
}

fn parsed(text: &str) -> Option<(Vec<NamedTensor>, Vec<String>)> {
    let call = InferCall::parse(None, &Bytes::from(text.to_owned()), &|_bytes| true).ok()?;
    let names = call.wanted.names();
    Some((call.inputs, names))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_parser_accepts_what_a_tree_of_values_says_and_nothing_else(text in request()) {
        prop_assert_eq!(parsed(&text), oracle(&text), "{}", text);
    }

    #[test]
    fn one_changed_byte_is_read_as_the_tree_reads_it(text in request(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // Where the change breaks UTF-8 there is no text to compare; it must not be accepted either.
        match String::from_utf8(bytes) {
            // A key that is there twice is refused by the parser and overwritten in a tree.
            Ok(text) => if let Some(parsed) = parsed(&text) { prop_assert_eq!(Some(parsed), oracle(&text), "{}", text) },
            Err(error) => {
                let call = InferCall::parse(None, &Bytes::from(error.into_bytes()), &|_bytes| true);
                prop_assert!(call.is_err());
            }
        }
    }

    #[test]
    fn a_parser_without_room_stops_before_it_keeps_more(text in request(), room in 0_usize..4) {
        let left = std::cell::Cell::new(room * 64 * 1024);
        let take = |bytes: usize| left.get().checked_sub(bytes).map(|rest| left.set(rest)).is_some();
        let outcome = InferCall::parse(None, &Bytes::from(text.clone()), &take);
        // Every element here fits the first step.
        prop_assert!(room == 0 || outcome.ok().map(|call| call.inputs) == oracle(&text).map(|(inputs, _)| inputs));
    }
}
