//! Golden bytes of every message of every kind, unchanged since its first release.
//!
//! A test that fails here means that an agent in the field would no longer be understood. Do not change the bytes: add
//! a variant at the end of the enum, or a new kind, and its own golden bytes.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[path = "golden/bytes.rs"]
mod golden_bytes;

use bytes::Bytes;
use golden_bytes as gold;
use protocol::v1::{
    ActiveVariant, Assigned, Audit, AuditScores, BlobRange, BlobSlice, DeltaFile, DeltaRequest, DeviceRequest,
    DeviceResponse, DriftAlarm, EngineInfo, EnrolRequest, EnrolResponse, Enrolled, Evidence, Hello, HubRequest,
    HubResponse, InferRequest, InferResponse, Measurement, ModelCounters, ModelState, Offer, Pin, Refusal, RefusalCode,
    Return, RunningModel, ScoreBin, TensorHeader, ThresholdOrder, Thresholds, UpdateOutcome, UpdateReport,
    VariantFigures, VariantThreshold, Welcome,
};
use protocol::{DecodeError, FrameHeader, JoinSecret, JoinToken, Message, decode, encode};
use types::update::Stage;
use types::{DType, Digest, EngineName, Reason, Version};

/// A token in its first released form.
const JOIN_TOKEN: &str = "sandjoin1_ARRodWIuZXhhbXBsZS5vcmc6NDQzMw5odWIuc2FuZGVybGluZ-Xl5eXl5eXl5eXl5eXl5eXl5eXl\
    5eXl5eXl5eXl5eXl9vb29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb8ANJJa7Fe9o8";

/// Compares one message with its bytes, in both directions.
fn golden<M: Message + PartialEq + std::fmt::Debug>(name: &str, message: &M, expected: &str) {
    let frame = encode(message).unwrap();
    assert_eq!(hex::encode(&frame), hex::encode(gold::bytes(expected)), "{name} is written differently");
    let (header, body) = frame.split_first_chunk().unwrap();
    let read: M = decode(FrameHeader::parse(*header).kind, body).unwrap();
    assert_eq!(&read, message, "{name} is read differently");
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn active(number: u64) -> ActiveVariant {
    ActiveVariant { version: version(number), variant: "int8-qdq".parse().unwrap(), digest: digest(0xa1) }
}

fn tensor(name: &str, dtype: DType, shape: &[u64], bytes: u64) -> TensorHeader {
    TensorHeader { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

fn refusal() -> Refusal {
    Refusal { code: RefusalCode::Busy, message: "the queue is full".to_owned(), retry_after_ms: Some(250) }
}

fn report(outcome: UpdateOutcome) -> DeviceRequest {
    DeviceRequest::Report(UpdateReport {
        model: "digits".parse().unwrap(),
        version: version(2),
        variant: Some("int8-qdq".parse().unwrap()),
        stage: Stage::Fetching,
        outcome,
    })
}

#[test]
fn device_requests_keep_their_bytes() {
    let hello = Hello {
        agent_version: "0.1.0".to_owned(),
        features: vec!["resume".to_owned()],
        device_now_unix_ms: 1_800_000_000_123,
        models: vec![
            ModelState { model: "digits".parse().unwrap(), active: Some(active(2)), previous: None },
            ModelState { model: "ocr".parse().unwrap(), active: None, previous: None },
        ],
        engines: vec![EngineInfo {
            name: EngineName::Ort,
            version: "1.32.0".to_owned(),
            providers: vec!["CPUExecutionProvider".to_owned()],
        }],
    };
    golden("Hello", &DeviceRequest::Hello(hello), gold::HELLO);
    let infer = InferRequest {
        request_id: "r-1".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: Some(version(3)),
        reason: Reason::LowConfidence,
        deadline_left_ms: Some(1500),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        outputs: vec!["logits".to_owned()],
        tensors: vec![tensor("image", DType::F32, &[1, 1, 28, 28], 3136), tensor("mask", DType::Bool, &[1], 1)],
    };
    golden("Infer", &DeviceRequest::Infer(infer), gold::INFER);
    let queued = InferRequest {
        request_id: "r-1".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: None,
        reason: Reason::Policy,
        deadline_left_ms: None,
        traceparent: None,
        outputs: Vec::new(),
        tensors: vec![tensor("x", DType::F32, &[1], 4)],
    };
    golden("Queued", &DeviceRequest::Queued(queued), gold::QUEUED);
    let settled = vec!["r-1".parse().unwrap(), "r-2".parse().unwrap()];
    golden("Settled", &DeviceRequest::Settled(settled), gold::SETTLED);
    let metadata = DeviceRequest::Metadata { name: "3.root.json".to_owned(), bytes_max: 524_288 };
    golden("Metadata", &metadata, gold::METADATA);
    let blob = BlobRange { digest: digest(0xb2), offset: 1_048_576, length: 1_048_576 };
    golden("Blob", &DeviceRequest::Blob(blob), gold::BLOB);
    golden("Report started", &report(UpdateOutcome::Started), gold::REPORT_STARTED);
    golden("Report succeeded", &report(UpdateOutcome::Active(())), gold::REPORT_SUCCEEDED);
    let refused = UpdateOutcome::Rejected("older".to_owned());
    golden("Report refused", &report(refused), gold::REPORT_REFUSED);
    let failed = UpdateOutcome::Retrying("disk full".to_owned());
    golden("Report failed", &report(failed), gold::REPORT_FAILED);
    let superseded = UpdateOutcome::Superseded { by: version(3) };
    golden("Report superseded", &report(superseded), gold::REPORT_SUPERSEDED);
    let rolled_back = UpdateOutcome::RolledBack("slow".to_owned());
    golden("Report rolled back", &report(rolled_back), gold::REPORT_ROLLED_BACK);
    let renew = DeviceRequest::Renew { csr_der: Bytes::from_static(&[0x30, 0x01, 0x02]) };
    golden("Renew", &renew, gold::RENEW);
    let running = RunningModel {
        model: "digits".parse().unwrap(),
        version: version(2),
        engine: EngineName::Wgpu,
        provider: "vulkan".to_owned(),
    };
    golden("Running", &DeviceRequest::Running(vec![running]), gold::RUNNING);
}

fn figures(number: u64) -> VariantFigures {
    VariantFigures {
        version: version(number),
        variant: "int8-qdq".parse().unwrap(),
        engine: EngineName::Ort,
        p50_us: 900,
        p95_us: 1400,
        memory_bytes: Some(3_000_000),
        compared: 16,
        agreed: 15,
        refused: (number == 3).then(|| "slow".to_owned()),
    }
}

#[test]
fn the_requests_of_a_device_in_a_rollout_keep_their_bytes() {
    let counters = ModelCounters {
        model: "digits".parse().unwrap(),
        version: version(2),
        sequence: 7,
        from_unix_s: 1_800_000_000,
        seconds: 60,
        kept: 90,
        deferred: 10,
        failed: 1,
        crashed: 0,
        audited: 5,
        agreed: 4,
        shadowed: 3,
        shadow_agreed: 2,
        latency: vec![0, 0, 99, 1],
        memory_bytes: None,
    };
    golden("Counters", &DeviceRequest::Counters(vec![counters]), gold::COUNTERS);
    let measurement = Measurement {
        model: "digits".parse().unwrap(),
        version: version(3),
        variants: vec![figures(3)],
        active: Some(figures(2)),
    };
    golden("Measured", &DeviceRequest::Measured(measurement), gold::MEASURED);
    let delta = DeltaRequest { bases: vec![digest(1), digest(2)], target: digest(3) };
    golden("Delta", &DeviceRequest::Delta(delta), gold::DELTA);
    golden("Delta file", &HubResponse::Delta(Some(DeltaFile { digest: digest(4), bytes: 900 })), gold::DELTA_FILE);
    golden("No delta", &HubResponse::Delta(None), gold::NO_DELTA);
}

#[test]
fn the_requests_of_a_hub_in_a_rollout_keep_their_bytes() {
    let digits = || "digits".parse().unwrap();
    let back = Return { model: digits(), from: version(3), to: version(2), reason: "slow".to_owned() };
    golden("Return", &HubRequest::Return(back), gold::RETURN);
    golden("Pin", &HubRequest::Pin(Pin { model: digits(), version: Some(version(2)) }), gold::PIN);
    let audit = Audit { model: digits(), version: version(2), share_per_mille: 50 };
    golden("Audit", &HubRequest::Audit(audit), gold::AUDIT);
    golden("Assigned", &HubRequest::Assigned(Assigned { models: vec![digits()] }), gold::ASSIGNED);
}

#[test]
fn the_messages_that_keep_thresholds_valid_keep_their_bytes() {
    let (model, variant) = (|| "digits".parse().unwrap(), || "int8-qdq".parse().unwrap());
    let bins = vec![
        ScoreBin { threshold_bits: Some(0.875_f32.to_bits()), agreed: 300, differing: 1 },
        ScoreBin { threshold_bits: None, agreed: 7, differing: 9 },
    ];
    let scores = AuditScores { model: model(), version: version(3), variant: variant(), bins };
    let evidence = Evidence { counters: Vec::new(), scores: vec![scores] };
    golden("Evidence", &DeviceRequest::Evidence(evidence), gold::EVIDENCE);
    let alarm = DriftAlarm { model: model(), version: version(3), is_less_sure: true, since_unix_s: 1_800_000_000 };
    golden("Drift", &DeviceRequest::Drift(vec![alarm]), gold::DRIFT);
    let order = |threshold| VariantThreshold {
        model: model(),
        version: version(3),
        variant: variant(),
        digest: digest(5),
        share_per_mille: 10,
        changes: 2,
        threshold,
    };
    let at_least = ThresholdOrder::AtLeast { bits: 0.875_f32.to_bits() };
    let variants = vec![order(ThresholdOrder::Author), order(ThresholdOrder::Nothing), order(at_least)];
    golden("Thresholds", &HubRequest::Thresholds(Thresholds { variants }), gold::THRESHOLDS);
}

#[test]
fn a_report_with_bytes_of_progress_is_read_as_started() {
    let frame = gold::bytes(gold::REPORT_RUNNING);
    let (header, body) = frame.split_first_chunk().unwrap();
    let read: DeviceRequest = decode(FrameHeader::parse(*header).kind, body).unwrap();
    assert_eq!(read, report(UpdateOutcome::Started));
}

#[test]
fn hub_responses_keep_their_bytes() {
    let welcome = Welcome {
        hub_version: "0.1.0".to_owned(),
        features: vec![],
        hub_now_unix_ms: 1_800_000_000_456,
        offers: vec![Offer { model: "digits".parse().unwrap(), version: version(3) }],
        certificate_lifetime_s: 604_800,
    };
    golden("Welcome", &HubResponse::Welcome(welcome), gold::WELCOME);
    let infer = InferResponse {
        version: version(3),
        variant: "fp32".parse().unwrap(),
        digest: digest(0xc3),
        engine: EngineName::Ort,
        provider: "CPUExecutionProvider".to_owned(),
        queue_us: 120,
        compute_us: 70_000,
        tensors: vec![tensor("logits", DType::F32, &[1, 10], 40)],
    };
    golden("Infer response", &HubResponse::Infer(infer), gold::INFER_RESPONSE);
    golden("Metadata found", &HubResponse::Metadata { length: Some(4096) }, gold::METADATA_FOUND);
    golden("Metadata absent", &HubResponse::Metadata { length: None }, gold::METADATA_ABSENT);
    golden("Blob slice", &HubResponse::Blob(BlobSlice { total: 2_000_000, length: 951_424 }), gold::BLOB_SLICE);
    golden("Accepted", &HubResponse::Accepted, gold::ACCEPTED);
    let chain_der = vec![Bytes::from_static(&[0x30, 0x01]), Bytes::from_static(&[0x30, 0x02])];
    golden("Renewed", &HubResponse::Renewed { chain_der }, gold::RENEWED);
    golden("Refused", &HubResponse::Refused(refusal()), gold::REFUSED);
}

#[test]
fn the_hubs_own_requests_keep_their_bytes() {
    let offer = Offer { model: "digits".parse().unwrap(), version: version(300) };
    golden("Offer", &HubRequest::Offer(offer), gold::OFFER);
    let goodbye = HubRequest::Goodbye { reason: "restart".to_owned(), retry_after_ms: Some(2000) };
    golden("Goodbye", &goodbye, gold::GOODBYE);
    golden("Device accepted", &DeviceResponse::Accepted, gold::DEVICE_ACCEPTED);
    golden("Device refused", &DeviceResponse::Refused(refusal()), gold::DEVICE_REFUSED);
}

#[test]
fn enrolment_keeps_its_bytes() {
    let request = EnrolRequest {
        secret: JoinSecret::from_bytes([0xd4; 32]),
        csr_der: Bytes::from_static(&[0x30, 0x01, 0x02]),
        agent_version: "0.1.0".to_owned(),
    };
    golden("Enrol", &request, gold::ENROL);
    let enrolled = Enrolled {
        device: "camera-7".parse().unwrap(),
        chain_der: vec![Bytes::from_static(&[0x30, 0x01])],
        ca_der: Bytes::from_static(&[0x30, 0x02]),
        root_json: Bytes::from_static(b"{}"),
    };
    golden("Enrolled", &EnrolResponse::Enrolled(enrolled), gold::ENROLLED);
    golden("Enrol refused", &EnrolResponse::Refused(refusal()), gold::ENROL_REFUSED);
}

#[test]
fn a_join_token_keeps_its_text() {
    let token = JoinToken {
        hub: vec!["hub.example.org:4433".to_owned()],
        server_name: "hub.sanderling".to_owned(),
        ca: digest(0xe5),
        secret: JoinSecret::from_bytes([0xf6; 32]),
        expires_unix_s: 1_800_000_000,
    };
    assert_eq!(token.to_string(), JOIN_TOKEN);
    assert_eq!(JOIN_TOKEN.parse(), Ok(token));
}

#[test]
fn every_refusal_keeps_its_number() {
    for (number, code) in (0_u8..).zip(RefusalCode::ALL) {
        let frame = encode(&DeviceResponse::Refused(Refusal::new(code, ""))).unwrap();
        assert_eq!(frame[6..8], [1, number], "{code} has another number");
    }
}

#[test]
fn every_stage_keeps_its_number() {
    // In the order of their release; `Stage::ALL` is in the order of an update.
    let released = [
        Stage::Offered,
        Stage::Refreshing,
        Stage::Fetching,
        Stage::Verifying,
        Stage::Loading,
        Stage::Checking,
        Stage::Switching,
        Stage::Active,
        Stage::Measuring,
        Stage::Shadowing,
    ];
    assert_eq!(released.len(), Stage::ALL.len());
    for (number, stage) in (0_u8..).zip(released) {
        let report = UpdateReport {
            model: "m".parse().unwrap(),
            version: version(1),
            variant: None,
            stage,
            outcome: UpdateOutcome::Active(()),
        };
        let frame = encode(&DeviceRequest::Report(report)).unwrap();
        assert_eq!(frame[6..], [4, 1, b'm', 1, 0, number, 1], "{stage} has another number");
    }
}

#[test]
fn a_message_of_another_major_version_is_called_that() {
    let frame = encode(&HubResponse::Accepted).unwrap();
    let refused = decode::<HubResponse>(0x0202, &frame[6..]).unwrap_err();
    assert!(refused.is_version_mismatch(), "{refused}");
    let refused = decode::<HubResponse>(DeviceRequest::KIND, &frame[6..]).unwrap_err();
    assert!(matches!(refused, DecodeError::WrongKind { .. }) && !refused.is_version_mismatch());
}

#[test]
fn every_golden_frame_is_lawful_for_the_fuzzer_too() {
    for frame in gold::FRAMES {
        assert_eq!(protocol::fuzz_decode(&gold::bytes(frame)), Ok(()), "{frame}");
    }
}
