//! What the demo measured: the figures, the claims they are held against, and how both are printed.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use testkit::load::Summary;

/// Everything measured in one run; written by `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figures {
    /// One row for each policy, with version 1.
    pub(super) policies: Vec<PolicyRow>,
    /// The hub gone and back.
    pub(super) outage: Outage,
    /// Version 2 under load.
    pub(super) update: Update,
    /// What each device said of the tampered version.
    pub(super) tampered: Vec<String>,
    /// What this run shows, and whether it did.
    pub(super) claims: Vec<Claim>,
}

/// The test digits through one policy.
#[derive(Debug, Serialize)]
pub(super) struct PolicyRow {
    pub(super) policy: String,
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) accuracy: f64,
    /// Share of the answers that the hub gave.
    pub(super) from_hub: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// Tensor bytes that left the devices.
    pub(super) bytes_sent: u64,
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
        }
    }
}

/// What happened while the hub was away.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outage {
    pub(super) answered_locally: usize,
    pub(super) failed: usize,
    /// How long `only-hub` took to say that it cannot.
    pub(super) only_hub_refused_after_us: u64,
    /// What it said.
    pub(super) only_hub_error: String,
    /// From the hub's door open again to both devices connected.
    pub(super) reconnected_after_ms: u64,
}

/// What happened while version 2 came.
#[derive(Debug, Default, Serialize)]
pub(super) struct Update {
    pub(super) accuracy_before: f64,
    pub(super) accuracy_after: f64,
    /// Requests sent while the version travelled and the devices switched.
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) p99_us: u64,
    /// Bytes of model files that reached the devices.
    pub(super) bytes_fetched: u64,
    /// From the push to the last device serving it.
    pub(super) took_ms: u64,
}

/// One thing that the demo says of the product.
#[derive(Debug, Serialize)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) holds: bool,
}

impl Figures {
    /// Notes whether something held.
    pub(super) fn claim(&mut self, holds: bool, text: impl Into<String>) {
        self.claims.push(Claim { text: text.into(), holds });
    }

    /// Whether all of it held.
    pub(super) fn hold(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// The policies as a table, indented like everything else.
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
        table.set_header(["policy", "accuracy", "answered by hub", "p50", "p99", "sent to hub", "failed"]);
        for row in &self.policies {
            table.add_row([
                row.policy.clone(),
                percent(row.accuracy),
                percent(row.from_hub),
                time(row.p50_us),
                time(row.p99_us),
                bytes(row.bytes_sent),
                row.failed.to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Microseconds, as JSON and tables take them.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds, as JSON and sentences take them.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `97.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `0.42 ms` or `12 ms`: two significant digits are what a run like this can tell.
pub(super) fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        _ => format!("{} ms", us / 1000),
    }
}

/// `0`, `812 B`, `3.1 kB` or `6.3 MB`.
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
