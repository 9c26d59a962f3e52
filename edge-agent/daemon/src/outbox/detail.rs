//! What is known of a request in the outbox beside what the core decides with.

use edge_core::request_outbox::{Entry, State};
use types::policy::{PrivacyClass, RequestRules};
use types::{Amend, Amendment, Digest, ModelName, PolicyMode, Reason, RequestId, Version};

/// Path of the agent's HTTP server under which requests are asked for by their id.
pub(super) const REQUESTS_PATH: &str = "/sanderling/v1/requests";

/// Entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// State and order of the request.
    pub entry: Entry,
    /// The rest.
    pub detail: Detail,
}

/// Entry at one moment.
pub type View = StoredEntry;

/// Request in the outbox: what it asks for, under which rules, and how its answer is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// Id of the request.
    pub id: RequestId,
    /// Model that must answer.
    pub model: ModelName,
    /// Version that must answer; `None` for the hub's current one.
    pub version: Option<Version>,
    /// Mode of its policy.
    pub mode: PolicyMode,
    /// Privacy class in force when it was taken; it may only be tightened since.
    pub class: PrivacyClass,
    /// Consent that the request gave or withdrew.
    pub consent: Option<bool>,
    /// Tags of the request.
    pub tags: Vec<String>,
    /// Reason for asking the hub.
    pub reason: Reason,
    /// Wanted outputs; all where empty.
    pub outputs: Vec<String>,
    /// Delivery of the answer.
    pub amend: Amend,
    /// Time at which it was taken, in seconds since 1970.
    pub accepted_unix_s: u64,
    /// Time at which it is given up by the clock of that moment, in seconds since 1970.
    pub expires_unix_s: u64,
    /// Salted digest of the inputs.
    pub input: Digest,
    /// Bytes of the inputs.
    pub input_bytes: u64,
    /// Bytes of input that were sent to the hub so far.
    pub hub_bytes: u64,
    /// Whether the callback has taken the end.
    pub notified: bool,
    /// Fault that ended the request, for its client.
    pub fault: Option<String>,
    /// Failures of the hub on this request since the start of the agent.
    pub failures: u32,
}

impl Detail {
    /// Returns whether inputs and answer are encrypted on the disk.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.class != PrivacyClass::Public
    }

    /// Returns whether the answer is posted to an address of the application.
    #[must_use]
    pub const fn has_callback(&self) -> bool {
        matches!(self.amend, Amend::Callback(_))
    }

    /// Returns the rules of the request for its policy at the time of sending.
    #[must_use]
    pub fn rules(&self) -> RequestRules {
        RequestRules {
            privacy: Some(self.class),
            consent: self.consent,
            tags: self.tags.clone(),
            ..RequestRules::default()
        }
    }

    /// Returns where the answer can be had.
    #[must_use]
    pub fn amendment(&self) -> Amendment {
        let events = if self.amend == Amend::Stream { "/events" } else { "" };
        let path = format!("{REQUESTS_PATH}/{}{events}", escape(self.id.as_str()));
        Amendment { request_id: self.id.clone(), path, expires_unix_s: self.expires_unix_s }
    }
}

impl View {
    /// Returns the sentence for a client about a request that has ended without an answer; `None` while it has not.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        let State::Ended(end) = self.entry.state else { return None };
        let fault = self.detail.fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
        Some(match end {
            edge_core::request_outbox::End::Expired => "the request or its answer became too old".to_owned(),
            edge_core::request_outbox::End::Displaced => {
                "the request or its answer gave way to another one, because the outbox was full".to_owned()
            }
            edge_core::request_outbox::End::Dropped => "the owner of the device removed the request".to_owned(),
            edge_core::request_outbox::End::Failed => format!("the hub does not answer the request{fault}"),
        })
    }
}

/// Escapes an id as one segment of a path.
fn escape(id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    id.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        assert_eq!(escape("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(escape("../a?b%#\"/"), "..%2Fa%3Fb%25%23%22%2F");
    }
}
