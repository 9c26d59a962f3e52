//! Requests as clients send them, and every way to get one wrong.

use super::*;

fn parse(bytes: &'static [u8]) -> Result<InferCall, CodecError> {
    InferCall::parse(None, &Bytes::from_static(bytes), &|_bytes| true)
}

fn golden(bytes: &'static [u8], json_length: &str) -> InferCall {
    InferCall::parse(Some(json_length), &Bytes::from_static(bytes), &|_bytes| true).unwrap()
}

fn message(bytes: &'static [u8]) -> String {
    telemetry::chain(&parse(bytes).unwrap_err())
}

#[test]
fn tritonclients_default_request_is_read() {
    let call = golden(include_bytes!("../../../tests/golden/binary_default.bin"), "139");
    let expected = Tensor::from_f32(vec![1, 3], &[0.0, 0.5, 1.0]).unwrap();
    assert_eq!(call.inputs, [NamedTensor { name: "image".into(), tensor: expected }]);
    assert!(call.wanted.binary_by_default && call.wanted.outputs.is_empty() && call.id.is_none());
}

#[test]
fn tritonclients_choice_of_outputs_is_read() {
    let call = golden(include_bytes!("../../../tests/golden/binary_with_outputs.bin"), "226");
    let output = |name: &str, binary| WantedOutput { name: name.into(), binary, classes: 0 };
    assert_eq!(call.wanted.outputs, [output("logits", true), output("scores", false)]);
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
    let cases: [(&'static [u8], &str); 20] = [
        (b"", "JSON"),
        (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#, "neither"),
        (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP8","data":[1]}]}"#, "FP8"),
        (br#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#, "needs 8 bytes, 4 were given"),
        (br#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[256]}]}"#, "256 does not fit UINT8"),
        (br#"{"inputs":[{"name":"x","shape":[-1],"datatype":"UINT8","data":[1]}]}"#, "-1"),
        (
            br#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}]}"#,
            "0 are left",
        ),
        (br#"{"inputs":[],"parameters":{"policy":"cloud"}}"#, "only-hub"),
        (br#"{"inputs":[],"parameters":{"deadline_ms":0}}"#, "24 hours"),
        (br#"{"inputs":[],"parameters":{"hedge_after_ms":86400001}}"#, "24 hours"),
        (br#"{"inputs":[],"parameters":{"privacy":"secret"}}"#, "never-leaves"),
        (br#"{"inputs":[],"parameters":{"offline":"later"}}"#, "use answer, fail or queue"),
        (br#"{"inputs":[],"parameters":{"amend":"mail"}}"#, "\"poll\", \"stream\" or \"callback\""),
        (br#"{"inputs":[],"parameters":{"amend":"callback"}}"#, "amend_url"),
        (br#"{"inputs":[],"parameters":{"amend":"callback","amend_url":"http://10.0.0.1/"}}"#, "this machine"),
        (br#"{"inputs":[],"parameters":{"amend":"poll","amend_url":"http://127.0.0.1/"}}"#, "only"),
        (br#"{"inputs":[],"parameters":{"queue_priority":"urgent"}}"#, "low, normal or high"),
        (br#"{"inputs":[],"parameters":{"tags":"a,b c"}}"#, "is no tag"),
        (br#"{"inputs":[],"parameters":{"tags":"a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s"}}"#, "over the limit of 16"),
        (br#"{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}"#, "twice"),
    ];
    for (body, expected) in cases {
        assert!(message(body).contains(expected), "{} lacks {expected:?}", message(body));
    }
}

#[test]
fn a_length_header_that_lies_is_refused() {
    for length in ["999", "-1", "", "x", "99999999999999999999999"] {
        assert!(
            InferCall::parse(Some(length), &Bytes::from_static(b"{\"inputs\":[]}"), &|_bytes| true).is_err(),
            "{length:?}"
        );
    }
    assert!(matches!(
        InferCall::parse(Some("13"), &Bytes::from_static(b"{\"inputs\":[]}\0"), &|_bytes| true),
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
    assert!(InferCall::parse(None, &Bytes::from(nested), &|_bytes| true).is_err());
    let entry = r#"{"name":"x","shape":[],"datatype":"UINT8","data":1}"#;
    let many = format!(r#"{{"inputs":[{}]}}"#, vec![entry; TENSORS_MAX + 1].join(","));
    assert!(InferCall::parse(None, &Bytes::from(many), &|_bytes| true).is_err());
}

proptest::proptest! {
    #[test]
    fn no_body_makes_the_parser_panic(
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        length in proptest::option::of(0_usize..400),
    ) {
        let length = length.map(|length| length.to_string());
        let _outcome = InferCall::parse(length.as_deref(), &Bytes::from(body.clone()), &|_bytes| true);
        let data = [&[0, 0, 40][..], &body].concat();
        for data in [&data[..], &body] {
            proptest::prop_assert_eq!(crate::codec::fuzz_request(data), Ok(()));
        }
    }
}

#[test]
fn the_rules_of_a_request_for_its_policy_are_read() {
    let call = parse(
        br#"{"inputs":[],"parameters":{"hedge_after_ms":0,"privacy":"personal","consent":true,"tags":" a, b,","offline":"fail"}}"#,
    );
    let rules = call.unwrap().rules;
    assert_eq!((rules.hedge_after, rules.consent), (Some(Duration::ZERO), Some(true)));
    assert_eq!((rules.privacy, rules.offline), (Some(PrivacyClass::Personal), Some(Offline::Fail)));
    assert_eq!(rules.tags, ["a", "b"]);
    assert_eq!(parse(br#"{"inputs":[]}"#).unwrap().rules, RequestRules::default());
}

#[test]
fn null_means_the_same_as_leaving_a_field_out() {
    let with = parse(
        br#"{"id":null,"model_name":"m","parameters":null,"outputs":null,
            "inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[7],"parameters":null}]}"#,
    );
    let without = parse(br#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[7]}]}"#);
    assert_eq!(with.unwrap(), without.unwrap());
    let inputs = br#"{"inputs":null}"#;
    assert!(message(inputs).contains("JSON"), "{}", message(inputs));
}

#[test]
fn only_a_real_sequence_is_refused() {
    for none in ["0", "\"\"", "null", "0, \"sequence_start\": false, \"sequence_end\": null"] {
        let body = format!(r#"{{"inputs":[],"parameters":{{"sequence_id":{none}}}}}"#);
        assert!(InferCall::parse(None, &Bytes::from(body), &|_bytes| true).is_ok(), "{none}");
    }
    for one in ["1", "-1", "\"s\"", "0, \"sequence_start\": true", "null, \"sequence_end\": true"] {
        let body = format!(r#"{{"inputs":[],"parameters":{{"sequence_id":{one}}}}}"#);
        let refused = InferCall::parse(None, &Bytes::from(body), &|_bytes| true);
        assert!(matches!(refused, Err(CodecError::Sequence)), "{one}: {refused:?}");
    }
}

#[test]
fn an_error_is_never_as_long_as_the_request() {
    let long = "a".repeat(1 << 20);
    let quotes = "\\\"".repeat(1 << 18);
    for body in [
        format!(r#"{{"inputs":"{long}"}}"#),
        format!(r#"{{"inputs":[],"id":"{long}"}}"#),
        format!(r#"{{"inputs":[],"parameters":"{quotes}"}}"#),
        format!(r#"{{"inputs":[],"parameters":{{"policy":"{long}"}}}}"#),
        format!(r#"{{"inputs":[],"parameters":{{"deadline_ms":"{long}"}}}}"#),
        format!(r#"{{"inputs":[{{"name":"{long}","shape":[1],"datatype":"FP32","data":[1]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"x","shape":"{long}","datatype":"FP32","data":[1]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"{long}","data":[1]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":["{long}"]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{{"{long}":1}}}}]}}"#),
        format!(r#"{{"inputs":[],"outputs":[{{"name":"{long}"}},{{"name":"{long}"}}]}}"#),
        format!(r#"{{"inputs":[],"outputs":[{{"name":"x","parameters":{{"binary_data":"{long}"}}}}]}}"#),
    ] {
        let error = InferCall::parse(None, &Bytes::from(body), &|_bytes| true).unwrap_err();
        let text = telemetry::chain(&error);
        assert!(text.len() < 600, "{} bytes: {}", text.len(), &text[..200]);
    }
}
