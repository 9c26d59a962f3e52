//! Decisions of a rollout, kept with their evidence so that they can be explained later.

use std::collections::VecDeque;

/// Maximum number of decisions that are kept of a rollout; the oldest but the creation go first.
pub const DECISIONS_MAX: usize = 60;

/// Maximum number of pieces of evidence of one decision.
pub const EVIDENCE_MAX: usize = 10;

/// Maximum length of a piece of evidence in bytes.
pub const EVIDENCE_BYTES_MAX: usize = 160;

/// Maximum length of a reason in bytes. A record with the maximum of everything stays below the limit of the store.
pub const REASON_BYTES_MAX: usize = 300;

/// Decision of a rollout, as it is stored and explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Time in seconds of the Unix clock.
    pub at_unix_s: u64,
    /// Kind of the decision, like `wave-passed`.
    pub what: String,
    /// Reason of the decision in words.
    pub reason: String,
    /// Evidence in words, one figure each.
    pub evidence: Vec<String>,
}

impl Decision {
    /// Creates a decision; texts that are too long are cut.
    pub(super) fn new(at_unix_s: u64, what: &str, reason: String, evidence: Vec<String>) -> Self {
        let evidence = evidence.into_iter().take(EVIDENCE_MAX).map(|text| cut(text, EVIDENCE_BYTES_MAX)).collect();
        Self { at_unix_s, what: what.to_owned(), reason: cut(reason, REASON_BYTES_MAX), evidence }
    }
}

/// Adds a decision within the limit.
pub(super) fn push(decisions: &mut VecDeque<Decision>, decision: Decision) {
    decisions.push_back(decision);
    while decisions.len() > DECISIONS_MAX {
        // The first one says who created the rollout.
        decisions.remove(1);
    }
}

/// Cuts a text that is too long at a character.
pub(super) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}
