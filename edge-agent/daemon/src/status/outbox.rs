//! Figures of the outbox in the status.

use edge_core::request_outbox::Figures;
use serde::{Deserialize, Serialize};
use service::units;

use crate::outbox::Outbox;

/// Requests that wait for the hub, and their answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Requests that wait or are at the hub.
    pub requests: usize,
    /// Bytes of these requests on the disk.
    pub bytes: u64,
    /// Requests of these that are at the hub.
    pub in_flight: usize,
    /// Age of the oldest of them in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_age_s: Option<u64>,
    /// Answers that are stored for their applications.
    pub answers: usize,
    /// Bytes of these answers on the disk.
    pub answer_bytes: u64,
}

impl OutboxStatus {
    /// Returns the figures of this moment.
    #[must_use]
    pub fn of(outbox: &Outbox) -> Self {
        let (Figures { requests, request_bytes, in_flight, answers, answer_bytes }, oldest_age_s) = outbox.figures();
        Self { requests, bytes: request_bytes, in_flight, oldest_age_s, answers, answer_bytes }
    }

    /// Returns a line for people; `None` if the outbox is empty.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let Self { requests, bytes, in_flight, oldest_age_s, answers, answer_bytes } = self;
        if *requests == 0 && *answers == 0 {
            return None;
        }
        let oldest = oldest_age_s.map_or_else(String::new, |age| format!(", the oldest for {age} s"));
        Some(format!(
            "outbox: {requests} requests wait for the hub ({}, {in_flight} at the hub{oldest}), {answers} answers are stored \
             ({})",
            units::bytes(*bytes),
            units::bytes(*answer_bytes)
        ))
    }
}
