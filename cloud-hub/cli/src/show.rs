//! Reading and printing of values on a command line.

use std::time::Duration;

use types::Digest;

use hub_api::{FiguresView, FormView, ReportView, RunningView};

/// Reads a duration like `90s`, `10m`, `1h` or `7d`.
///
/// # Errors
/// When it is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_not| format!("{text:?} is not a duration like 10m or 1h"))?;
    Duration::try_from(signed).map_err(|_negative| format!("{text:?} is negative"))
}

/// Returns a variant in one cell: `2 int8-qdq`.
#[must_use]
pub fn form(form: Option<&FormView>) -> String {
    form.map_or_else(|| "-".to_owned(), |form| format!("{} {}", form.version, form.variant))
}

/// Returns the session of a model in one cell: `ort on CPUExecutionProvider`.
#[must_use]
pub fn running(running: Option<&RunningView>) -> String {
    running.map_or_else(|| "-".to_owned(), |running| format!("{} on {}", running.engine, running.provider))
}

/// Returns a report in one cell: `2 verifying: retrying (…)`.
#[must_use]
pub fn report(report: Option<&ReportView>) -> String {
    report.map_or_else(
        || "-".to_owned(),
        |report| {
            let detail = if report.detail.is_empty() { String::new() } else { format!(" ({})", report.detail) };
            format!("{} {}: {}{detail}", report.version, report.stage, report.outcome)
        },
    )
}

/// Bytes of a mebibyte.
const MIB: f64 = 1024.0 * 1024.0;

/// Returns the figures of versions as a table.
#[must_use]
pub fn figures(figures: &[FiguresView]) -> String {
    let optional =
        |value: Option<f64>, unit: &str| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} {unit}"));
    let rows = figures.iter().map(|view| {
        let latency = |value| optional(value, "ms");
        [
            view.version.to_string(),
            view.devices.to_string(),
            view.kept.to_string(),
            view.deferred.to_string(),
            view.failed.to_string(),
            view.crashed.to_string(),
            if view.audited == 0 { "-".to_owned() } else { format!("{} of {}", view.agreed, view.audited) },
            if view.shadowed == 0 { "-".to_owned() } else { format!("{} of {}", view.shadow_agreed, view.shadowed) },
            latency(view.p50_ms_max),
            latency(view.p95_ms_max),
            optional(view.memory_bytes_max.map(|bytes| bytes as f64 / MIB), "MiB"),
        ]
    });
    let header = [
        "version",
        "devices",
        "kept",
        "deferred",
        "failed",
        "crashed",
        "audits agree",
        "shadow agrees",
        "p50 up to",
        "p95 up to",
        "memory",
    ];
    console::render_table(header, rows)
}

/// Returns the first digits of a digest: enough for eyes.
#[must_use]
pub fn short(digest: &Digest) -> String {
    digest.to_hex().chars().take(12).collect()
}

/// Returns `yes` or `no`.
#[must_use]
pub fn yes(value: bool) -> String {
    (if value { "yes" } else { "no" }).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1h").is_err() && parse_duration("soon").is_err());
    }
}
