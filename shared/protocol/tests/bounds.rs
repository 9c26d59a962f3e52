//! Tests with hostile bytes: limits are checked before memory is allocated, and nothing panics.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[path = "golden/bytes.rs"]
mod golden_bytes;

use bytes::Bytes;
use golden_bytes as gold;
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::v1::{
    BodyError, DeviceRequest, EnrolRequest, HubRequest, HubResponse, InferRequest, Refusal, RefusalCode,
    TEXT_BYTES_MAX, TensorHeader, join_body, split_body,
};
use protocol::{DecodeError, EncodeError, FrameHeader, JoinSecret, Message, decode, encode, fuzz_decode};
use types::limits::{RANK_MAX, TENSOR_BYTES_MAX, TENSORS_MAX};
use types::{DType, NamedTensor, Reason, Tensor};

fn infer(tensors: Vec<TensorHeader>) -> DeviceRequest {
    DeviceRequest::Infer(InferRequest {
        request_id: "r".parse().unwrap(),
        model: "m".parse().unwrap(),
        version: None,
        reason: Reason::Policy,
        deadline_left_ms: None,
        traceparent: None,
        outputs: vec![],
        tensors,
    })
}

fn header(bytes: u64) -> TensorHeader {
    TensorHeader { name: "x".to_owned(), dtype: DType::U8, shape: vec![bytes], bytes }
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_read() {
    let header = FrameHeader { length: u32::MAX, kind: HubRequest::KIND };
    assert!(matches!(header.expect::<HubRequest>(), Err(DecodeError::TooLarge { .. })));
    let most = u32::try_from(HubRequest::BYTES_MAX).unwrap();
    assert_eq!(FrameHeader { length: most, kind: HubRequest::KIND }.expect::<HubRequest>(), Ok(HubRequest::BYTES_MAX));
    assert!(FrameHeader { length: most + 1, kind: HubRequest::KIND }.expect::<HubRequest>().is_err());
}

#[test]
fn nine_bytes_that_claim_a_terabyte_are_refused() {
    // Goodbye, then a text of 2^40 bytes: without a limit this aborts the process.
    let mut bytes = vec![1, 253];
    bytes.extend_from_slice(&(1_u64 << 40).to_le_bytes());
    assert!(matches!(decode::<HubRequest>(HubRequest::KIND, &bytes), Err(DecodeError::Malformed { .. })));
}

#[test]
fn a_list_that_claims_more_elements_than_bytes_is_refused() {
    // Renewed with 2^60 certificates.
    let mut bytes = vec![5, 253];
    bytes.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    assert!(matches!(decode::<HubResponse>(HubResponse::KIND, &bytes), Err(DecodeError::Malformed { .. })));
}

#[test]
fn bytes_after_the_message_are_refused() {
    let mut bytes = encode(&HubResponse::Accepted).unwrap().split_off(6);
    bytes.push(0);
    let refused = decode::<HubResponse>(HubResponse::KIND, &bytes);
    assert_eq!(refused, Err(DecodeError::Trailing { message: "hub response", left: 1 }));
}

#[test]
fn an_unknown_variant_or_code_is_refused() {
    assert!(decode::<HubResponse>(HubResponse::KIND, &[99]).is_err());
    let frame = encode(&infer(vec![header(1)])).unwrap();
    let at = frame.len() - 4;
    assert_eq!(frame[at], 2, "the code of UINT8");
    let mut broken = frame;
    broken[at] = 200;
    let refused = decode::<DeviceRequest>(DeviceRequest::KIND, &broken[6..]).unwrap_err();
    assert!(refused.to_string().contains("element type 200 is not known"), "{refused}");
}

#[test]
fn a_name_that_could_leave_its_folder_does_not_pass_the_codec() {
    let frame = encode(&DeviceRequest::Metadata { name: "1.root.json".to_owned(), bytes_max: 1 }).unwrap();
    let text = String::from_utf8_lossy(&frame).into_owned();
    let at = text.find("1.root.json").unwrap();
    let mut broken = frame;
    broken[at..at + 3].copy_from_slice(b"../");
    assert!(decode::<DeviceRequest>(DeviceRequest::KIND, &broken[6..]).is_err());
    for name in ["", ".json", "a/b.json", "..json", "x", "/etc/passwd", "ROOT.json", "a\0.json"] {
        let sent = encode(&DeviceRequest::Metadata { name: name.to_owned(), bytes_max: 1 });
        assert!(matches!(sent, Err(EncodeError::Invalid { .. })), "{name:?} was taken");
    }
}

#[test]
fn what_the_other_side_would_refuse_is_not_sent() {
    let many = vec![header(0); TENSORS_MAX + 1];
    assert!(matches!(encode(&infer(many)), Err(EncodeError::Invalid { .. })));
    let too_much = u64::try_from(TENSOR_BYTES_MAX).unwrap() + 1;
    assert!(encode(&infer(vec![header(too_much)])).is_err());
    assert!(encode(&infer(vec![header(u64::MAX), header(u64::MAX)])).is_err(), "the sum does not wrap");
    let deep = TensorHeader { shape: vec![1; RANK_MAX + 1], ..header(1) };
    assert!(encode(&infer(vec![deep])).is_err());
    let long = HubRequest::Goodbye { reason: "x".repeat(TEXT_BYTES_MAX + 1), retry_after_ms: None };
    assert!(encode(&long).is_err());
    let large = EnrolRequest {
        secret: JoinSecret::from_bytes([0; 32]),
        csr_der: Bytes::from(vec![0; 5000]),
        agent_version: String::new(),
    };
    assert!(encode(&large).is_err());
}

#[test]
fn the_largest_lawful_request_fits_its_frame() {
    let name = "n".repeat(types::limits::TENSOR_NAME_BYTES_MAX);
    let full = TensorHeader { name: name.clone(), dtype: DType::U8, shape: vec![1 << 40; RANK_MAX], bytes: 1 };
    let DeviceRequest::Infer(mut request) = infer(vec![full; TENSORS_MAX]) else { unreachable!() };
    request.outputs = vec![name; TENSORS_MAX];
    assert!(encode(&DeviceRequest::Infer(request)).is_ok());
}

#[test]
fn a_long_refusal_is_cut_at_a_character() {
    let refusal = Refusal::new(RefusalCode::Internal, "é".repeat(TEXT_BYTES_MAX));
    assert_eq!(refusal.message.len(), TEXT_BYTES_MAX);
    let odd = Refusal::new(RefusalCode::Internal, format!("a{}", "é".repeat(TEXT_BYTES_MAX)));
    assert_eq!(odd.message.len(), TEXT_BYTES_MAX - 1);
}

#[test]
fn tensors_come_back_as_they_went_without_a_copy() {
    let tensors = vec![
        NamedTensor { name: "image".to_owned(), tensor: Tensor::from_f32(vec![1, 2], &[0.5, -1.0]).unwrap() },
        NamedTensor { name: "empty".to_owned(), tensor: Tensor::new(DType::I64, vec![0], Bytes::new()).unwrap() },
        NamedTensor { name: "words".to_owned(), tensor: Tensor::from_elements(vec![2], &["a", "bc"]).unwrap() },
    ];
    let (headers, parts) = join_body(&tensors);
    let body = Bytes::from(parts.concat());
    let back = split_body(&headers, &body).unwrap();
    assert_eq!(back, tensors);
    assert_eq!(back[0].tensor.data().as_ptr(), body.as_ptr(), "the body was copied");
}

#[test]
fn a_body_that_is_not_what_the_headers_say_is_refused() {
    let body = Bytes::from_static(&[1, 2, 3]);
    assert!(split_body(&[header(3)], &body).is_ok());
    assert!(matches!(split_body(&[header(2)], &body), Err(BodyError::Length { .. })));
    assert!(matches!(split_body(&[header(3), header(1)], &body), Err(BodyError::Length { .. })));
    assert!(matches!(split_body(&[header(u64::MAX)], &body), Err(BodyError::Length { .. })));
    let lying = TensorHeader { shape: vec![2, 2], ..header(3) };
    assert!(matches!(split_body(&[lying], &body), Err(BodyError::Tensor { .. })));
    let vast = TensorHeader { shape: vec![u64::MAX, u64::MAX], ..header(3) };
    assert!(split_body(&[vast], &body).is_err());
    let not_bool = TensorHeader { dtype: DType::Bool, ..header(3) };
    assert!(split_body(&[not_bool], &body).is_err());
}

/// Returns every golden frame, as a start for mutations.
fn seeds() -> Vec<Vec<u8>> {
    gold::FRAMES.iter().map(|frame| gold::bytes(frame)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_the_codec(data in vec(any::<u8>(), 0..2048)) {
        prop_assert_eq!(fuzz_decode(&data), Ok(()));
    }

    #[test]
    fn no_change_to_a_lawful_frame_breaks_the_codec(
        pick in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        tail in vec(any::<u8>(), 0..16),
    ) {
        let seeds = seeds();
        let mut data = pick.get(&seeds).clone();
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        data.truncate(cut.index(data.len() + 1));
        data.extend(tail);
        prop_assert_eq!(fuzz_decode(&data), Ok(()));
    }

    #[test]
    fn no_text_breaks_the_token(text in "(sandjoin1_)?[A-Za-z0-9_-]{0,300}") {
        prop_assert_eq!(fuzz_decode(text.as_bytes()), Ok(()));
    }

    #[test]
    fn any_split_of_any_body_is_refused_or_whole(
        sizes in vec((0_u64..40, 0_u64..40), 0..6),
        body in vec(any::<u8>(), 0..200),
    ) {
        let headers: Vec<_> = sizes.iter().map(|&(shape, bytes)| TensorHeader { shape: vec![shape], ..header(bytes) }).collect();
        let body = Bytes::from(body);
        if let Ok(tensors) = split_body(&headers, &body) {
            let (again, parts) = join_body(&tensors);
            prop_assert_eq!(again, headers);
            prop_assert_eq!(Bytes::from(parts.concat()), body);
        }
    }
}
