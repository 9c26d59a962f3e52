//! Records of the log of receipts, one JSON object each.
//!
//! Words of closed sets (reasons, modes, failures) are stored as text, so that an older program shows the words of a newer one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use types::{Digest, ModelName, RequestId, VariantName, Version};

use super::MomentRecord;

/// Word of a closed set, like `low-confidence`.
pub type Word = Cow<'static, str>;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Time in milliseconds since 1970, by the clock of the device.
    pub at_unix_ms: u64,
    /// Number of records that were lost since the record before: the queue was full, or the disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing: u64,
    /// Event that is recorded.
    pub event: LogEvent,
}

/// Event of the log. A reader of this version cannot read events that a later version adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEvent {
    /// The agent began to write to the log.
    Started(StartedRecord),
    /// The agent closed the log. Without it before a start, the agent was killed.
    Stopped,
    /// A request was answered, failed or was withdrawn.
    Request(Box<RequestRecord>),
    /// An answer that the device kept was sent to the hub for comparison.
    Audit(AuditRecord),
    /// A request that waited was sent to the hub, or has failed.
    Amendment(Box<AmendmentRecord>),
}

/// Start of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartedRecord {
    /// Version of the agent.
    pub agent: String,
    /// Whether the run before closed the log.
    pub clean: bool,
    /// Bytes of an incomplete record that were cut from the end of the log.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut_bytes: u64,
    /// Damage of earlier records that was found at this start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Input or output of a request, without its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentRecord {
    /// Size of all tensors in bytes.
    pub bytes: u64,
    /// SHA-256 over the key of the device and the tensors; `None` if it was not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Routing rules of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Mode, like `cascade`.
    pub mode: Word,
    /// Privacy class: `public`, `personal` or `never-leaves`.
    pub class: Word,
    /// Time left at the start of the route in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_us: Option<u64>,
    /// Hedge delay in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge_us: Option<u64>,
    /// Maximum bytes of input that may be sent to the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_bytes_max: Option<u64>,
}

/// Version and engine that could answer, or that answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormRecord {
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
    /// Engine, like `ort`.
    pub engine: Word,
    /// Execution provider or adapter.
    pub provider: String,
}

/// Guarantee of the device's variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRecord {
    /// `certified`, `uncertified` or `not-calibrated`.
    pub state: Word,
    /// Minimum score at which the device keeps its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Upper bound of the share of requests that are kept and answered otherwise than by the full model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Confidence of the bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
}

/// Work of the device on a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// `answered`, `failed` or `cancelled`.
    pub outcome: Word,
    /// Kind of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Word>,
    /// Confidence of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Share of the calibration's answers with a score like this one that differ from the full model's, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differs: Option<f32>,
    /// Time in the queue of the session in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queue_us: u64,
    /// Time in the engine in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compute_us: u64,
    /// Time from the order to run to the end of the work in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub took_us: u64,
}

/// Work of the hub on a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubRecord {
    /// Reason for asking the hub.
    pub reason: Word,
    /// `answered`, `failed` or `cancelled`.
    pub outcome: Word,
    /// Kind of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Word>,
    /// Time that the hub was given in microseconds.
    pub wait_us: u64,
    /// Time from asking the hub to the end of its work in microseconds.
    pub took_us: u64,
    /// Time in the hub's queue in microseconds, where it answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queue_us: u64,
    /// Time in the hub's engine in microseconds, where it answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compute_us: u64,
}

/// End of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndRecord {
    /// The client got an answer.
    Answered {
        /// `device` or `hub`.
        place: Word,
        /// Reason for the place.
        reason: Word,
        /// Whether no later answer replaces it.
        #[serde(rename = "final")]
        is_final: bool,
        /// Version and engine that answered.
        form: FormRecord,
        /// Answer, if `receipts.answers` asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<ContentRecord>,
    },
    /// The client got an error.
    Failed {
        /// Code of the error, like `hub-unreachable`.
        code: Word,
        /// Failure of the device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<Word>,
        /// Failure of the hub.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<Word>,
    },
    /// The client went away before the answer.
    Cancelled,
}

/// Request, the decision on it and its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Version that the request asked for; `None` for the one that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Input of the request.
    pub input: ContentRecord,
    /// Routing rules in force.
    pub policy: PolicyRecord,
    /// Smoothed round trip of the connection to the hub in microseconds; `None` while it was away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_us: Option<u64>,
    /// Version and engine of the device; `None` where no version was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<FormRecord>,
    /// Guarantee of the device's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationRecord>,
    /// Recent time of the device from queue to answer in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_us: Option<u64>,
    /// Work of the device, where it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRecord>,
    /// Work of the hub, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubRecord>,
    /// Bytes of input that were handed to the connection to the hub.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hub_bytes: u64,
    /// End of the request.
    pub end: EndRecord,
    /// Time from the arrival of the whole request to its end in microseconds.
    pub total_us: u64,
    /// State of everything that decided the place; `None` in records of earlier agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Box<MomentRecord>>,
}

/// Request that was sent to the hub a second time, to compare the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Privacy class: `public` or `personal`.
    pub class: Word,
    /// Input of the request.
    pub input: ContentRecord,
    /// Bytes of input that were handed to the connection to the hub.
    pub hub_bytes: u64,
    /// Whether both answers agree; `None` if they were not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
}

/// Request of the outbox that was sent to the hub, or that has failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AmendmentRecord {
    /// Id of the request.
    pub request: RequestId,
    /// Name of the model.
    pub model: ModelName,
    /// Privacy class: `public` or `personal`.
    pub class: Word,
    /// Reason for asking the hub.
    pub reason: Word,
    /// Input of the request.
    pub input: ContentRecord,
    /// Bytes of input that were handed to the connection to the hub this time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hub_bytes: u64,
    /// `answered`, `sent-back` (it goes on waiting) or `failed`.
    pub outcome: Word,
    /// Version and engine that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<FormRecord>,
    /// Time in the outbox so far in seconds.
    pub waited_s: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4";

    fn form(variant: &str, provider: &str) -> FormRecord {
        FormRecord {
            version: Version::new(3).unwrap(),
            variant: variant.parse().unwrap(),
            digest: DIGEST.parse().unwrap(),
            engine: "ort".into(),
            provider: provider.into(),
        }
    }

    fn deferred(end: EndRecord) -> LogEvent {
        LogEvent::Request(Box::new(RequestRecord {
            request: "r-1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            version: Some(Version::new(3).unwrap()),
            input: ContentRecord { bytes: 3136, digest: Some(DIGEST.parse().unwrap()) },
            policy: PolicyRecord {
                mode: "cascade".into(),
                class: "shared".into(),
                deadline_us: Some(2_000_000),
                hedge_us: Some(200_000),
                hub_bytes_max: Some(4096),
            },
            link_us: Some(350),
            form: Some(form("int8-qdq", "CPUExecutionProvider")),
            calibration: Some(CalibrationRecord {
                state: "certified".into(),
                threshold: Some(0.875),
                alpha: Some(0.015625),
                confidence: Some(0.95),
            }),
            expected_us: Some(900),
            device: Some(DeviceRecord {
                outcome: "answered".into(),
                failure: None,
                score: Some(0.5),
                differs: None,
                queue_us: 10,
                compute_us: 800,
                took_us: 900,
            }),
            hub: Some(HubRecord {
                reason: "low-confidence".into(),
                outcome: "failed".into(),
                failure: Some("busy".into()),
                wait_us: 1_998_000,
                took_us: 4000,
                queue_us: 7,
                compute_us: 8,
            }),
            hub_bytes: 3136,
            end,
            total_us: 5000,
            moment: None,
        }))
    }

    fn deferred_json(end: &str) -> String {
        [
            r#"{"request":{"request":"r-1","model":"digits","version":3,"input":{"bytes":3136,"digest":"DIGEST"},"#,
            r#""policy":{"mode":"cascade","class":"shared","deadline_us":2000000,"hedge_us":200000,"hub_bytes_max":4096},"#,
            r#""link_us":350,"form":{"version":3,"variant":"int8-qdq","digest":"DIGEST","engine":"ort","#,
            r#""provider":"CPUExecutionProvider"},"calibration":{"state":"certified","threshold":0.875,"alpha":0.015625,"#,
            r#""confidence":0.95},"expected_us":900,"device":{"outcome":"answered","score":0.5,"queue_us":10,"compute_us":800,"#,
            r#""took_us":900},"hub":{"reason":"low-confidence","outcome":"failed","failure":"busy","wait_us":1998000,"#,
            r#""took_us":4000,"queue_us":7,"compute_us":8},"hub_bytes":3136,"end":"#,
            end,
            r#","total_us":5000}}"#,
        ]
        .concat()
        .replace("DIGEST", DIGEST)
    }

    #[test]
    fn records_of_every_event_read_back_for_ever() {
        let output = Some(ContentRecord { bytes: 40, digest: Some(DIGEST.parse().unwrap()) });
        let answered = EndRecord::Answered {
            place: "device".into(),
            reason: "hub-failed".into(),
            is_final: true,
            form: form("int8-qdq", "CPUExecutionProvider"),
            output,
        };
        let answered_json = r#"{"answered":{"place":"device","reason":"hub-failed","final":true,"form":{"version":3,"variant":"int8-qdq","digest":"DIGEST","engine":"ort","provider":"CPUExecutionProvider"},"output":{"bytes":40,"digest":"DIGEST"}}}"#;
        let failed =
            EndRecord::Failed { code: "hub-busy".into(), device: Some("busy".into()), hub: Some("busy".into()) };
        let failed_json = r#"{"failed":{"code":"hub-busy","device":"busy","hub":"busy"}}"#;
        let started = StartedRecord {
            agent: "0.1.0".into(),
            clean: false,
            cut_bytes: 7,
            damage: Some("record 5 was replaced".into()),
        };
        let audit = AuditRecord {
            request: "r-1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            class: "shared".into(),
            input: ContentRecord { bytes: 3136, digest: None },
            hub_bytes: 3136,
            agrees: Some(true),
        };
        let amendment = AmendmentRecord {
            request: "r-1".parse().unwrap(),
            model: "digits".parse().unwrap(),
            class: "personal".into(),
            reason: "low-confidence".into(),
            input: ContentRecord { bytes: 3136, digest: None },
            hub_bytes: 3136,
            outcome: "answered".into(),
            form: Some(form("fp32", "CPUExecutionProvider")),
            waited_s: 90,
        };
        let amendment_json = concat!(
            r#"{"amendment":{"request":"r-1","model":"digits","class":"personal","reason":"low-confidence","#,
            r#""input":{"bytes":3136},"hub_bytes":3136,"outcome":"answered","form":{"version":3,"variant":"fp32","#,
            r#""digest":"DIGEST","engine":"ort","provider":"CPUExecutionProvider"},"waited_s":90}}"#,
        );
        let samples = [
            (LogEvent::Amendment(Box::new(amendment)), amendment_json.replace("DIGEST", DIGEST)),
            (
                LogEvent::Started(started),
                r#"{"started":{"agent":"0.1.0","clean":false,"cut_bytes":7,"damage":"record 5 was replaced"}}"#.to_owned(),
            ),
            (LogEvent::Stopped, r#""stopped""#.to_owned()),
            (deferred(answered), deferred_json(answered_json)),
            (deferred(failed), deferred_json(failed_json)),
            (deferred(EndRecord::Cancelled), deferred_json(r#""cancelled""#)),
            (
                LogEvent::Audit(audit),
                r#"{"audit":{"request":"r-1","model":"digits","class":"shared","input":{"bytes":3136},"hub_bytes":3136,"agrees":true}}"#
                    .to_owned(),
            ),
        ];
        for (event, json) in samples {
            let golden = format!(r#"{{"at_unix_ms":1800000000000,"missing":2,"event":{json}}}"#);
            let record = LogRecord { at_unix_ms: 1_800_000_000_000, missing: 2, event };
            assert_eq!(serde_json::to_string(&record).unwrap(), golden);
            assert_eq!(serde_json::from_str::<LogRecord>(&golden).unwrap(), record);
            // Fields of a later version are ignored.
            let later = golden.replacen('{', r#"{"later":1,"#, 1);
            assert_eq!(serde_json::from_str::<LogRecord>(&later).unwrap(), record);
        }
    }
}
