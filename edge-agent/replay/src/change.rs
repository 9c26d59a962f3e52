//! Decisions that differ between two policies, grouped by place and reason.

use std::collections::BTreeMap;

use serde::Serialize;
use types::RequestId;

use crate::walk::Answer;

/// Maximum number of request ids that are named for a group of changed decisions.
pub const EXAMPLES_MAX: usize = 5;

/// Place and reason of one decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Decision {
    /// `device`, `hub`, or `none` for a request without an answer.
    pub place: String,
    /// Code of the reason, or of the error.
    pub reason: String,
}

/// Decisions that change in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Recorded decision.
    pub from: Decision,
    /// Decision under the new policy.
    pub to: Decision,
    /// Number of requests.
    pub count: u64,
    /// Ids of the first such requests, for `edge-agent policy explain`.
    pub examples: Vec<RequestId>,
}

/// Changed decisions so far.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<(Decision, Decision), (u64, Vec<RequestId>)>);

impl Decision {
    pub(crate) fn new(place: &str, reason: &str) -> Self {
        Self { place: place.to_owned(), reason: reason.to_owned() }
    }
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::By(place, reason) => Self::new(place.as_str(), reason.as_str()),
            Answer::Failed(code) => Self::new("none", code.as_str()),
        }
    }
}

impl Changes {
    pub(crate) fn add(&mut self, from: Decision, to: Decision, request: &RequestId) {
        let (count, examples) = self.0.entry((from, to)).or_default();
        *count = count.saturating_add(1);
        if examples.len() < EXAMPLES_MAX {
            examples.push(request.clone());
        }
    }

    /// Returns the groups: those with another place first, and the largest of each kind first.
    pub(crate) fn into_groups(self) -> Vec<Change> {
        let group = |((from, to), (count, examples))| Change { from, to, count, examples };
        let mut groups: Vec<Change> = self.0.into_iter().map(group).collect();
        groups.sort_by_key(|group| (group.from.place == group.to.place, std::cmp::Reverse(group.count)));
        groups
    }
}
