//! Requests of the outbox, and the clock of their age.

use edge_core::request_outbox::{End, Entry, Request, State};
use serde::{Deserialize, Serialize};
use store::Record;
use types::policy::PrivacyClass;
use types::{Amend, Digest, ModelName, PolicyMode, QueuePriority, Reason, RequestId, Version};

use crate::outbox::{Detail, StoredEntry};

/// Request in the outbox, under its number. Its inputs and its answer are files beside the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboxRequest {
    number: u64,
    id: RequestId,
    model: ModelName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    priority: String,
    state: String,
    bytes: u64,
    #[serde(default)]
    answer_bytes: u64,
    /// Reading of the age clock at the last change, and at the end of the time of waiting.
    changed_s: u64,
    expires_s: u64,
    accepted_unix_s: u64,
    expires_unix_s: u64,
    mode: String,
    class: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consent: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    reason: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<String>,
    amend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<String>,
    #[serde(default)]
    notified: bool,
    input: Digest,
    input_bytes: u64,
    #[serde(default)]
    hub_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl Record for OutboxRequest {
    type Value = StoredEntry;
    const TABLE: &'static str = "outbox-requests";

    fn from_value(value: &StoredEntry) -> Self {
        let StoredEntry { entry, detail } = value.clone();
        let Request { id, model, priority, bytes, expires_s } = entry.request;
        let answer_bytes = match entry.state {
            State::Answered { bytes } => bytes,
            State::Storing | State::Waiting | State::InFlight | State::Ended(_) => 0,
        };
        let state = match entry.state {
            // What is at the hub waits again after a restart.
            State::Storing | State::InFlight => State::Waiting,
            other => other,
        };
        let callback = match &detail.amend {
            Amend::Callback(callback) => Some(callback.to_string()),
            Amend::Poll | Amend::Stream => None,
        };
        Self {
            number: entry.number,
            id,
            model,
            version: detail.version,
            priority: priority.as_str().to_owned(),
            state: state.as_str().to_owned(),
            bytes,
            answer_bytes,
            changed_s: entry.changed_s,
            expires_s,
            accepted_unix_s: detail.accepted_unix_s,
            expires_unix_s: detail.expires_unix_s,
            mode: detail.mode.as_str().to_owned(),
            class: detail.class.as_str().to_owned(),
            consent: detail.consent,
            tags: detail.tags,
            reason: detail.reason.as_str().to_owned(),
            outputs: detail.outputs,
            amend: detail.amend.as_str().to_owned(),
            callback,
            notified: detail.notified,
            input: detail.input,
            input_bytes: detail.input_bytes,
            hub_bytes: detail.hub_bytes,
            fault: detail.fault,
        }
    }

    fn into_value(self) -> Result<StoredEntry, String> {
        let state = match self.state.as_str() {
            "waiting" => State::Waiting,
            "answered" => State::Answered { bytes: self.answer_bytes },
            other => {
                let end = End::ALL.into_iter().find(|end| end.as_str() == other);
                State::Ended(end.ok_or_else(|| format!("no state is called {other:?}"))?)
            }
        };
        let priority: QueuePriority = self.priority.parse().map_err(|error| format!("{error}"))?;
        let mode: PolicyMode = self.mode.parse().map_err(|error| format!("{error}"))?;
        let class: PrivacyClass = self.class.parse().map_err(|error| format!("{error}"))?;
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == self.reason);
        let reason = reason.ok_or_else(|| format!("no reason is called {:?}", self.reason))?;
        let amend = Amend::read(Some(&self.amend), self.callback.as_deref()).map_err(|error| error.to_string())?;
        let amend = amend.unwrap_or(Amend::Poll);
        let request = Request {
            id: self.id.clone(),
            model: self.model.clone(),
            priority,
            bytes: self.bytes,
            expires_s: self.expires_s,
        };
        let detail = Detail {
            id: self.id,
            model: self.model,
            version: self.version,
            mode,
            class,
            consent: self.consent,
            tags: self.tags,
            reason,
            outputs: self.outputs,
            amend,
            accepted_unix_s: self.accepted_unix_s,
            expires_unix_s: self.expires_unix_s,
            input: self.input,
            input_bytes: self.input_bytes,
            hub_bytes: self.hub_bytes,
            notified: self.notified,
            fault: self.fault,
            failures: 0,
        };
        Ok(StoredEntry { entry: Entry { number: self.number, request, state, changed_s: self.changed_s }, detail })
    }
}

/// Reading of the age clock and of the wall clock at one moment, under [`CLOCK_KEY`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OutboxClock {
    age_s: u64,
    unix_s: u64,
}

/// Key of the only [`OutboxClock`].
pub const CLOCK_KEY: &str = "clock";

impl Record for OutboxClock {
    type Value = (u64, u64);
    const TABLE: &'static str = "outbox-clock";

    fn from_value(&(age_s, unix_s): &(u64, u64)) -> Self {
        Self { age_s, unix_s }
    }

    fn into_value(self) -> Result<(u64, u64), String> {
        Ok((self.age_s, self.unix_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4";

    #[test]
    fn the_record_of_a_request_reads_back_for_ever() {
        let golden = [
            r#"{"number":7,"id":"r-1","model":"digits","version":3,"priority":"high","state":"answered","bytes":3200,"#,
            r#""answer_bytes":120,"changed_s":50,"expires_s":604800,"accepted_unix_s":1800000000,"expires_unix_s":1800604800,"#,
            r#""mode":"cascade","class":"personal","consent":true,"tags":["urgent"],"reason":"low-confidence","#,
            r#""outputs":["logits"],"amend":"callback","callback":"http://127.0.0.1:9000/a","notified":true,"#,
            r#""input":"DIGEST","input_bytes":3136,"hub_bytes":3136,"fault":null}"#,
        ]
        .concat()
        .replace("DIGEST", DIGEST);
        let record: OutboxRequest = serde_json::from_str(&golden).unwrap();
        let value = record.into_value().unwrap();
        assert_eq!(value.entry.state, State::Answered { bytes: 120 });
        assert_eq!((value.detail.class, value.entry.request.priority), (PrivacyClass::Personal, QueuePriority::High));
        let again = OutboxRequest::from_value(&value);
        assert_eq!(serde_json::to_string(&again).unwrap(), golden.replace(r#","fault":null"#, ""));
        for end in End::ALL {
            let ended =
                StoredEntry { entry: Entry { state: State::Ended(end), ..value.entry.clone() }, ..value.clone() };
            assert_eq!(OutboxRequest::from_value(&ended).into_value().unwrap().entry.state, State::Ended(end));
        }
        for (from, to) in [
            ("cascade", "x"),
            ("personal", "x"),
            ("low-confidence", "x"),
            ("answered", "x"),
            ("high", "x"),
            ("127.0.0.1:9000", "10.0.0.1:1"),
        ] {
            let wrong: OutboxRequest = serde_json::from_str(&golden.replace(from, to)).unwrap();
            assert!(wrong.into_value().is_err(), "{from}");
        }
    }
}
