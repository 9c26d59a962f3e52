//! The report as text for people.

use std::time::Duration;

use crate::change::Decision;
use crate::report::{Figures, Outcome, Report, Wrong};

/// Maximum number of groups of changed decisions that are shown; JSON has all of them.
const GROUPS_SHOWN: usize = 12;

/// Sample size below which a replay says little.
const FEW_REQUESTS: u64 = 100;

impl Outcome {
    /// Returns the outcome as text. `time` writes a time in milliseconds since 1970.
    #[must_use]
    pub fn text(&self, time: &dyn Fn(u64) -> String) -> String {
        let mut lines: Vec<String> = self.models.iter().flat_map(|report| report.lines(time)).collect();
        if self.models.is_empty() {
            lines.push("no request of a model is recorded".to_owned());
        }
        if self.unreadable > 0 {
            lines.push(format!("note: {} records are left out: only a later version can read them", self.unreadable));
        }
        lines.join("\n")
    }
}

impl Report {
    /// Returns the report as lines of text. `time` writes a time in milliseconds since 1970.
    fn lines(&self, time: &dyn Fn(u64) -> String) -> Vec<String> {
        let mut lines = vec![if self.requests == 0 {
            format!("model {}: no request can be compared", self.model)
        } else {
            let (first, last) = (time(self.first_unix_ms), time(self.last_unix_ms));
            format!("model {}: {} requests from {first} to {last}", self.model, self.requests)
        }];
        if self.requests > 0 {
            lines.extend(self.table());
            lines.extend(self.groups());
        }
        lines.extend(self.notes());
        lines
    }

    fn table(&self) -> Vec<String> {
        let (old, new, n) = (&self.recorded, &self.new, self.requests);
        let row = |name: &str, of: &dyn Fn(&Figures) -> String| format!("  {name:<34} {:>22} {:>22}", of(old), of(new));
        let share = |count: u64| format!("{count} ({})", percent(count, n));
        let mut lines = vec![
            format!("  {:<34} {:>22} {:>22}", "", "recorded", "new policy"),
            row("answered by the device", &|figures| share(figures.device)),
            row("answered by the hub", &|figures| share(figures.hub)),
            row("without an answer", &|figures| share(figures.failed)),
            row("sent to the hub", &|figures| share(figures.sent)),
            row("deferred, device not sure", &|figures| share(figures.deferred)),
            row("bytes to the hub", &|figures| figures.hub_bytes.to_string()),
            row("audits", &|figures| figures.audits.to_string()),
            row("95th percentile of the time", &p95),
            row("kept but wrong, expected", &|figures| expected(&figures.wrong)),
            row("kept but wrong, bound", &|figures| bound(figures)),
        ];
        let points = 100.0 * (new.share_deferred - old.share_deferred);
        lines.push(format!("  share deferred {points:+.1} percentage points, {}", bytes(old.hub_bytes, new.hub_bytes)));
        lines
    }

    fn groups(&self) -> Vec<String> {
        let share = percent(self.changed, self.requests);
        let mut lines = vec![format!("{} decisions change their place or send another input ({share})", self.changed)];
        let name = |decision: &Decision| match decision.place.as_str() {
            "none" => format!("no answer ({})", decision.reason),
            place => format!("{place} ({})", decision.reason),
        };
        for change in self.changes.iter().take(GROUPS_SHOWN) {
            let examples: Vec<String> = change.examples.iter().map(ToString::to_string).collect();
            let (from, to) = (name(&change.from), name(&change.to));
            lines.push(format!("  {:>6}  {from} -> {to}, like {}", change.count, examples.join(", ")));
        }
        if self.changes.len() > GROUPS_SHOWN {
            lines.push(format!("  and {} more kinds of change, with --json", self.changes.len() - GROUPS_SHOWN));
        }
        lines
    }

    fn notes(&self) -> Vec<String> {
        let lacking = &self.lacking;
        let counted = [
            (
                self.open,
                "requests are left out: the new policy looks at the score of the device's answer, and the device did not run",
            ),
            (self.withdrawn, "requests are left out: the client withdrew them, or a fault of the agent ended them"),
            (self.cached, "requests are left out: an earlier answer was given again"),
            (
                lacking.moment,
                "records are of an earlier agent: they lack the parameters of the request, consent, battery, local time, \
                 queues and latencies",
            ),
            (lacking.link_cost, "records do not say whether the link was metered: it counts as metered"),
            (lacking.later, "records have a policy that only a later version reads: that layer is left out"),
            (
                self.recorded.wrong.unknown,
                "recorded answers of the device have no calibrated score: they are not in the expected share",
            ),
            (self.new.wrong.unknown, "answers of the device under the new policy have no calibrated score"),
            (self.new.unknown_times, "requests have no known time under the new policy: the place was not measured"),
        ];
        let mut lines: Vec<String> = counted
            .into_iter()
            .filter(|(count, _text)| *count > 0)
            .map(|(count, text)| format!("note: {count} {text}"))
            .collect();
        if self.requests > 0 {
            lines.push(format!(
                "check: with the policy of then, the router decides {} of {} requests as they were recorded",
                self.reproduced, self.requests
            ));
        }
        if (1..FEW_REQUESTS).contains(&self.requests) {
            lines.push(format!("note: {} requests are few; shares of so few are rough", self.requests));
        }
        lines
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of requests, far below 2^52")]
fn percent(count: u64, of: u64) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.1} %", count as f64 / of as f64 * 100.0) }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a log, as a rounded share")]
fn bytes(old: u64, new: u64) -> String {
    if old == 0 {
        return format!("{new} bytes to the hub instead of none");
    }
    format!("bytes to the hub {:+.1} %", (new as f64 / old as f64 - 1.0) * 100.0)
}

fn p95(figures: &Figures) -> String {
    figures.p95_us.map_or_else(
        || "unknown".to_owned(),
        |us| format!("{:.2} ms", Duration::from_micros(us).as_secs_f64() * 1000.0),
    )
}

fn expected(wrong: &Wrong) -> String {
    wrong.expected_share.map_or_else(|| "unknown".to_owned(), |share| format!("{:.2} %", share * 100.0))
}

fn bound(figures: &Figures) -> String {
    match (figures.wrong.bound, figures.wrong.uncovered) {
        (Some(bound), _) => format!("{:.2} % at {:.0} %", bound.alpha * 100.0, bound.confidence * 100.0),
        (None, 0) => "nothing is kept".to_owned(),
        (None, uncovered) => format!("none, {uncovered} uncovered"),
    }
}
