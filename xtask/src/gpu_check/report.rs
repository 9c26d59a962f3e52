//! Report of a check, as JSON for programs and Markdown for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::suite::text;

/// Number of lines of output that a report keeps of a failed program.
const LINES_KEPT: usize = 60;

/// Reason for which tests of NaN may fail by OpenGL.
const NAN_BY_GL: &str =
    "OpenGL need not keep NaN (GLSL ES 3.20, section 4.7.1), and Mesa's llvmpipe does not: use Vulkan";

/// Tests that a driver fails for a reason that is known: back-end, test binary, test, reason.
const KNOWN: [(&str, &str, &str, &str); 2] = [
    ("gl", "math", "functions_agree_with_double_precision_over_their_range_and_at_its_edges", NAN_BY_GL),
    ("gl", "math", "not_a_number_wins_in_maxima_and_reductions", NAN_BY_GL),
];

/// Results of one run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Commit and kind of the build.
    pub(super) build: String,
    pub(super) seconds: f64,
    pub(super) adapters: Vec<Adapter>,
}

/// One adapter and the results of its tests.
#[derive(Debug, Serialize)]
pub(super) struct Adapter {
    /// Adapter as the engine describes it.
    pub(super) adapter: Value,
    pub(super) tests: Vec<Test>,
    pub(super) bench: Bench,
}

/// Result of one test binary.
#[derive(Debug, Serialize)]
pub(super) struct Test {
    name: String,
    passed: usize,
    failed: Vec<String>,
    /// Tests that failed by a known fault of the driver; they do not count as failed.
    known: Vec<String>,
    /// Lines with the reasons of skipped tests.
    skipped: Vec<String>,
    ran: Ran,
}

/// Benchmarks of an adapter.
#[derive(Debug, Default, Serialize)]
pub(super) struct Bench {
    pub(super) kernels: Ran,
    pub(super) networks: Ran,
    /// Rows of `bench wgpu`, as its `--json` writes them.
    pub(super) rows: Value,
}

/// Result of running a program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ran {
    Ended { code: Option<i32>, seconds: f64, output: String },
    OutOfTime { seconds: f64, output: String },
    NotRun { why: String },
}

impl Default for Ran {
    fn default() -> Self {
        Self::NotRun { why: "it was not started".to_owned() }
    }
}

impl Ran {
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Ended { code: Some(0), seconds, .. } => format!("ok in {seconds:.1} s"),
            Self::Ended { code: Some(code), seconds, .. } => format!("exit {code} after {seconds:.1} s"),
            Self::Ended { code: None, seconds, .. } => format!("ended by a signal after {seconds:.1} s"),
            Self::OutOfTime { seconds, .. } => format!("stopped after {seconds:.1} s"),
            Self::NotRun { why } => format!("not run: {why}"),
        }
    }

    fn output(&self) -> &str {
        match self {
            Self::Ended { output, .. } | Self::OutOfTime { output, .. } => output,
            Self::NotRun { .. } => "",
        }
    }

    fn is_well(&self) -> bool {
        matches!(self, Self::Ended { code: Some(0), .. })
    }

    /// Returns the last lines of the output.
    fn tail(&self) -> String {
        let lines: Vec<&str> = self.output().lines().collect();
        lines[lines.len().saturating_sub(LINES_KEPT)..].join("\n")
    }
}

impl Test {
    /// Parses the output of the test harness.
    pub(super) fn new(name: String, ran: Ran) -> Self {
        let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
        for line in ran.output().lines() {
            if let Some((test, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
                match result {
                    "ok" => passed += 1,
                    "FAILED" => failed.push(test.to_owned()),
                    _ => {}
                }
            } else if line.contains("skipped: ") {
                skipped.push(line.trim().to_owned());
            }
        }
        // A binary that crashed in a driver prints no result.
        let broke_off = matches!(ran, Ran::Ended { .. }) && !ran.is_well() && failed.is_empty();
        if broke_off {
            failed.push("(the binary broke off)".to_owned());
        }
        Self { name, passed, failed, known: Vec::new(), skipped, ran }
    }

    /// Takes the known faults of this adapter's driver from the failures.
    pub(super) fn without_known(mut self, adapter: &Value) -> Self {
        let back_end = text(adapter, "back_end");
        let is_known = |test: &String| {
            KNOWN.iter().any(|(known, binary, name, _why)| (*known, *binary, *name) == (back_end, &*self.name, &**test))
        };
        (self.known, self.failed) = std::mem::take(&mut self.failed).into_iter().partition(is_known);
        self
    }
}

impl Adapter {
    pub(super) fn failed(&self) -> usize {
        self.tests.iter().map(|test| test.failed.len()).sum()
    }
}

impl Report {
    /// Writes `report.json` and `report.md`.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("write the report as JSON")?;
        fs::write(folder.join("report.json"), json).context("write report.json")?;
        fs::write(folder.join("report.md"), self.markdown()).context("write report.md")
    }

    fn markdown(&self) -> String {
        let mut page =
            format!("# wgpu engine on this machine\n\nBuild: {}. Time: {:.0} s.\n", self.build, self.seconds);
        for adapter in &self.adapters {
            adapter.write(&mut page);
        }
        page
    }
}

impl Adapter {
    fn write(&self, page: &mut String) {
        let about = &self.adapter;
        let _infallible = write!(
            page,
            "\n## {} ({}, {})\n\nDriver: {}. {} tests passed, {} failed.\n\n| tests | passed | failed | result |\n|---|---:|---:|---|\n",
            text(about, "name"),
            text(about, "back_end"),
            text(about, "kind"),
            text(about, "driver"),
            self.tests.iter().map(|test| test.passed).sum::<usize>(),
            self.failed(),
        );
        for Test { name, passed, failed, ran, .. } in &self.tests {
            let _infallible = writeln!(page, "| {name} | {passed} | {} | {} |", failed.len(), ran.summary());
        }
        let skipped: Vec<&String> = self.tests.iter().flat_map(|test| &test.skipped).collect();
        if !skipped.is_empty() {
            page.push_str("\nLeft out:\n");
            skipped.iter().for_each(|line| page.push_str(&format!("- {line}\n")));
        }
        let known: Vec<&String> = self.tests.iter().flat_map(|test| &test.known).collect();
        if !known.is_empty() {
            page.push_str("\nFailed by known faults of the driver, and not counted:\n");
            for (_back_end, _binary, name, why) in
                KNOWN.iter().filter(|(_, _, name, _)| known.iter().any(|test| test == name))
            {
                page.push_str(&format!("- {name}: {why}\n"));
            }
        }
        for test in self.tests.iter().filter(|test| !test.failed.is_empty()) {
            page.push_str(&format!(
                "\n### {} failed: {}\n\n```\n{}\n```\n",
                test.name,
                test.failed.join(", "),
                test.ran.tail()
            ));
        }
        for (name, ran) in [("Kernels", &self.bench.kernels), ("Networks", &self.bench.networks)] {
            page.push_str(&format!("\n### {name}: {}\n\n```\n{}\n```\n", ran.summary(), ran.tail()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, output: &str) -> Ran {
        Ran::Ended { code: Some(code), seconds: 1.0, output: output.to_owned() }
    }

    #[test]
    fn results_are_read_from_what_the_harness_prints() {
        let output = "running 3 tests\ntest a::one ... ok\ntest two ... FAILED\ntest three ... ignored\n\n---- one stdout ----\nskipped: no cases\n";
        let test = Test::new("math".into(), ended(101, output));
        assert_eq!(
            (test.passed, test.failed, test.skipped),
            (1, vec!["two".to_owned()], vec!["skipped: no cases".to_owned()])
        );
    }

    #[test]
    fn a_binary_that_a_driver_brings_down_counts_as_failed() {
        let signal = Ran::Ended { code: None, seconds: 1.0, output: "running 3 tests\n".into() };
        assert_eq!(Test::new("math".into(), signal).failed.len(), 1);
        let late = Ran::OutOfTime { seconds: 9.0, output: String::new() };
        assert!(Test::new("math".into(), late).failed.is_empty(), "the time of the check is not the test's fault");
    }

    #[test]
    fn known_faults_of_a_driver_are_named_and_do_not_count() {
        let output = "test not_a_number_wins_in_maxima_and_reductions ... FAILED\ntest sums ... FAILED\n";
        let on = |back_end: &str| {
            let adapter =
                serde_json::json!({"name": "Some GPU", "back_end": back_end, "kind": "discrete", "driver": "1"});
            let tests = vec![Test::new("math".into(), ended(101, output)).without_known(&adapter)];
            Adapter { adapter, tests, bench: Bench::default() }
        };
        assert_eq!((on("gl").failed(), on("vulkan").failed()), (1, 2));
        let report = Report { adapters: vec![on("gl")], ..Report::default() };
        assert!(
            report.markdown().contains("- not_a_number_wins_in_maxima_and_reductions: OpenGL"),
            "{}",
            report.markdown()
        );
        assert!(report.markdown().contains("math failed: sums"));
    }

    #[test]
    fn the_page_names_adapter_driver_and_failures() {
        let adapter =
            serde_json::json!({"name": "Some GPU", "back_end": "vulkan", "kind": "discrete", "driver": "550"});
        let tests = vec![Test::new("math".into(), ended(101, "test sums ... FAILED\n"))];
        let report =
            Report { adapters: vec![Adapter { adapter, tests, bench: Bench::default() }], ..Report::default() };
        let page = report.markdown();
        for part in ["Some GPU", "Driver: 550", "| math | 0 | 1 |", "math failed: sums", "not run"] {
            assert!(page.contains(part), "{part:?} is missing:\n{page}");
        }
    }
}
