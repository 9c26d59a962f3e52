//! Result of a replay.

use serde::Serialize;
use types::ModelName;

use crate::change::Change;

/// Effect of a new policy on the recorded requests of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: ModelName,
    /// Requests that are compared.
    pub requests: u64,
    /// Time of the first one in milliseconds since 1970.
    pub first_unix_ms: u64,
    /// Time of the last one in milliseconds since 1970.
    pub last_unix_ms: u64,
    /// Figures as they were recorded.
    pub recorded: Figures,
    /// Figures under the new policy.
    pub new: Figures,
    /// Requests that another place answers, or whose input is sent where it was not, or the reverse.
    pub changed: u64,
    /// Groups of requests whose place or reason changes: those with another place first, the largest of each kind first.
    pub changes: Vec<Change>,
    /// Requests that cannot be compared: the new policy looks at the device's score, and the device did not run.
    pub open: u64,
    /// Requests that are not compared because the client withdrew them, or a fault of the program ended them.
    pub withdrawn: u64,
    /// Requests that are not compared because an earlier answer was given again.
    pub cached: u64,
    /// Compared requests that the router decides as they were recorded, with the policy of then.
    pub reproduced: u64,
    /// Gaps of the records.
    pub lacking: Lacking,
}

/// Effect of a new policy on the recorded requests of all replayed models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Effect on each model.
    pub models: Vec<Report>,
    /// Records that this version cannot read; they are left out.
    pub unreadable: u64,
}

/// Figures of one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that the device answered.
    pub device: u64,
    /// Requests that the hub answered.
    pub hub: u64,
    /// Requests without an answer.
    pub failed: u64,
    /// Requests whose input was sent to the hub.
    pub sent: u64,
    /// Requests whose input was sent because the device's answer was not sure.
    pub deferred: u64,
    /// Share of the requests that were deferred, 0 to 1.
    pub share_deferred: f64,
    /// Audits that were sent to the hub.
    pub audits: u64,
    /// Bytes of input that were sent to the hub, audits included.
    pub hub_bytes: u64,
    /// 95th percentile of the time of a request in microseconds; `None` if no time is known.
    pub p95_us: Option<u64>,
    /// Requests whose time is not known, because no time of the hub or of the device was measured.
    pub unknown_times: u64,
    /// Answers that the device kept and that differ from the full model's.
    pub wrong: Wrong,
}

/// Answers that the device kept and that the full model would give otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wrong {
    /// Expected share of all requests, 0 to 1, by the calibration; `None` where no kept answer has a calibrated score.
    pub expected_share: Option<f64>,
    /// Kept answers without a calibrated score; they are not part of the expected share.
    pub unknown: u64,
    /// Bound that the calibration states; `None` where an answer was kept that it does not cover.
    pub bound: Option<Bound>,
    /// Kept answers that no bound covers: below the threshold, without a score, or of a version without a bound.
    pub uncovered: u64,
}

/// Bound of the share of requests that are kept and answered otherwise than by the full model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// Upper bound of the share, 0 to 1.
    pub alpha: f32,
    /// Confidence of the bound, 0 to 1.
    pub confidence: f32,
}

/// Compared records that do not say all that a replay asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Lacking {
    /// Records of an earlier agent: parameters of the request, layers of the policy, battery, local time, queue and latencies
    /// of then are missing.
    pub moment: u64,
    /// Records that do not say whether the link was metered, where the new policy asks for it. It counts as metered.
    pub link_cost: u64,
    /// Records with a layer or a mode that only a later version reads; it is left out.
    pub later: u64,
}
