//! Results of the demo: the figures, the claims that are checked against them, and their output.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use testkit::load::Summary;

/// All figures of one run; written by `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// One row for each policy, with version 1.
    pub(super) policies: Vec<PolicyRow>,
    /// Figures of the outage of the hub.
    pub(super) outage: Outage,
    /// Figures of the digits that were turned.
    pub(super) drift: Drift,
    /// Figures of the update to version 2 under load.
    pub(super) update: Update,
    /// Figures of the rollout of wrong answers.
    pub(super) rollout: Rollout,
    /// Report of each device on the tampered version.
    pub(super) tampered: Vec<String>,
    /// Claims about the product, with the result of this run.
    pub(super) claims: Vec<Claim>,
}

/// Figures of the test digits with one policy.
#[derive(Debug, Serialize)]
pub(super) struct PolicyRow {
    pub(super) policy: String,
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) accuracy: f64,
    /// Share of the responses that came from the hub.
    pub(super) from_hub: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// Tensor bytes that the devices sent to the hub.
    pub(super) bytes_sent: u64,
    /// Share of the requests that the device answered otherwise than the full model, over the digits that did not
    /// calibrate the threshold.
    pub(super) kept_and_different: f64,
    /// Certified limit of that share; `None` where nothing is promised.
    pub(super) alpha: Option<f64>,
}

impl PolicyRow {
    pub(super) fn new(policy: &str, summary: &Summary, bytes_sent: u64) -> Self {
        Self {
            policy: policy.to_owned(),
            requests: summary.requests,
            failed: summary.failed,
            accuracy: summary.accuracy,
            from_hub: summary.from_hub,
            p50_us: micros(summary.p50),
            p99_us: micros(summary.p99),
            bytes_sent,
            kept_and_different: 0.0,
            alpha: None,
        }
    }
}

/// Figures of the outage of the hub.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outage {
    pub(super) answered_locally: usize,
    pub(super) failed: usize,
    /// Time until `only-hub` reported its error, in microseconds.
    pub(super) only_hub_refused_after_us: u64,
    /// Error text of `only-hub`.
    pub(super) only_hub_error: String,
    /// Answers of the hub that followed later.
    pub(super) amended: usize,
    /// Of these, the answers that differ from the device's.
    pub(super) corrected: usize,
    /// Time from the restart of the hub until both devices were connected, in milliseconds.
    pub(super) reconnected_after_ms: u64,
}

/// Figures of the digits that were turned.
#[derive(Debug, Default, Serialize)]
pub(super) struct Drift {
    /// Requests before the change, without an alarm.
    pub(super) calm: usize,
    /// Requests from the change to the alarm.
    pub(super) alarm_after: usize,
    /// Requests of those during the alarm that went to the hub.
    pub(super) deferred: usize,
    /// Requests that fitted again until the alarm ended.
    pub(super) ended_after: usize,
}

/// Figures of the update to version 2.
#[derive(Debug, Default, Serialize)]
pub(super) struct Update {
    pub(super) accuracy_before: f64,
    pub(super) accuracy_after: f64,
    /// Number of requests sent while the devices fetched the version and switched.
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) p99_us: u64,
    /// Bytes of model files that the devices received.
    pub(super) bytes_fetched: u64,
    /// Bytes of model files that deltas made.
    pub(super) bytes_saved: u64,
    /// Time from the start of the rollout until the last device served the version, in milliseconds.
    pub(super) took_ms: u64,
}

/// Figures of the rollout with wrong answers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Rollout {
    /// State at its end.
    pub(super) state: String,
    /// Number of devices that served the version.
    pub(super) devices_exposed: u64,
    /// Time from its start until every device served the version before, in milliseconds.
    pub(super) took_ms: u64,
    /// Explanation by the hub.
    pub(super) explained: String,
}

/// One claim of the demo about the product.
#[derive(Debug, Serialize)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) holds: bool,
}

impl Figures {
    /// Records whether a claim holds.
    pub(super) fn claim(&mut self, holds: bool, text: impl Into<String>) {
        self.claims.push(Claim { text: text.into(), holds });
    }

    /// Whether all claims hold.
    pub(super) fn hold(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// Formats the policies as a table, indented like the other output.
    pub(super) fn policy_table(&self) -> String {
        let lines =
            self.policies_side_by_side().lines().map(|line| format!("  {}", line.trim_end())).collect::<Vec<_>>();
        let rule = "─".repeat(lines.iter().map(|line| line.chars().count()).max().unwrap_or(3).saturating_sub(3));
        let (head, rows) = lines.split_at(1.min(lines.len()));
        format!("{}\n   {rule}\n{}\n", head.concat(), rows.join("\n"))
    }

    fn policies_side_by_side(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "policy",
            "accuracy",
            "answered by hub",
            "p50",
            "p99",
            "sent to hub",
            "kept, differs",
            "at most",
        ]);
        for row in &self.policies {
            table.add_row([
                row.policy.clone(),
                percent(row.accuracy),
                percent(row.from_hub),
                time(row.p50_us),
                time(row.p99_us),
                bytes(row.bytes_sent),
                percent(row.kept_and_different),
                row.alpha.map_or("-".to_owned(), percent),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Returns microseconds, as JSON and tables contain them.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns milliseconds, as JSON and sentences contain them.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a share as `97.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Formats a time as `0.42 ms` or `12 ms`: two significant digits are the accuracy of such a run.
pub(super) fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        _ => format!("{} ms", us / 1000),
    }
}

/// Formats a size as `0`, `812 B`, `3.1 kB` or `6.3 MB`.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0 => "0".to_owned(),
        1..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{}.{} kB", count / 1_000, count % 1_000 / 100),
        _ => format!("{}.{} MB", count / 1_000_000, count % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(percent(0.97349), "97.3 %");
        assert_eq!((time(420), time(9_990), time(12_345)), ("0.42 ms".into(), "9.99 ms".into(), "12 ms".into()));
        assert_eq!((bytes(0), bytes(812), bytes(6_272_000)), ("0".into(), "812 B".into(), "6.2 MB".into()));
    }

    #[test]
    fn one_claim_that_does_not_hold_fails_the_run() {
        let mut figures = Figures::default();
        figures.claim(true, "yes");
        assert!(figures.hold());
        figures.claim(false, "no");
        assert!(!figures.hold());
    }
}
