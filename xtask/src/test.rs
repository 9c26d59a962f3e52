//! Runs every test of the workspace and ends with one line that counts them all.
//!
//! Prepares the requirements of the tests first: ONNX Runtime, Python environments, the two daemons.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use testkit::binaries::{BINARIES_ENV, ONNXRUNTIME_ENV, workspace};
use testkit::tools::{
    COMPRESS_CORPUS_ENV, COMPRESS_FIELD_ENV, COMPRESS_PYTHON_ENV, FAKETIME_ENV, LONG_ENV, PYTHON_ENV, faketime,
};

use crate::package::target_folder;
use crate::setup;
use crate::vulkan;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains one of these texts.
    filters: Vec<String>,
    /// Only the tests of this package; may be given several times.
    #[arg(long, short, value_name = "PACKAGE")]
    package: Vec<String>,
    /// Also run the tests that take minutes: endurance, memory checkers, years of simulated time.
    #[arg(long)]
    long: bool,
}

/// Totals of all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: u64,
}

impl Tally {
    /// Evaluates one line of cargo's output.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        } else if line.trim_start().starts_with("skipped:") {
            self.skipped += 1;
        }
    }
}

/// Returns the number before `word` in `ok. 12 passed; 0 failed; 1 ignored; …`.
fn count(counts: &str, word: &str) -> u64 {
    let words: Vec<&str> = counts.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair.last() == Some(&word));
    pair.and_then(|pair| pair.first()?.parse().ok()).unwrap_or(0)
}

/// Runs the verb to its end.
#[expect(clippy::print_stdout, reason = "the tests' lines and their count are this command's result")]
pub(crate) fn run(args: &Args) -> Result<()> {
    let library = setup::onnxruntime(setup::Arch::host()?)?;
    let tools = tools();
    if let Err(error) = setup::conformance_cases(&workspace()) {
        eprintln!("some tests will be skipped: {error:#}");
    }
    fetch_sources();
    build_daemons()?;
    let mut tally = Tally::default();
    let mut success = true;
    // One filter per run: libtest accepts several, but doc tests and cargo's own option handle them differently.
    let filters: Vec<Option<&String>> =
        if args.filters.is_empty() { vec![None] } else { args.filters.iter().map(Some).collect() };
    for filter in filters {
        let mut cargo = cargo();
        cargo.args(["test", "--no-fail-fast"]);
        if args.package.is_empty() {
            cargo.arg("--workspace");
        }
        for package in &args.package {
            cargo.args(["--package", package]);
        }
        cargo.args(filter);
        // `--nocapture` would mix the lines of concurrent tests; `--show-output` prints the `skipped:` lines.
        cargo.args(["--", "--show-output"]);
        cargo.env(ONNXRUNTIME_ENV, &library).env(BINARIES_ENV, target_folder("dev")).envs(tools.clone());
        if args.long {
            cargo.env(LONG_ENV, "1");
            match setup::compress_field(&workspace()) {
                Ok(folder) => {
                    cargo.env(COMPRESS_FIELD_ENV, folder);
                }
                Err(error) => eprintln!("some tests will be skipped: {error:#}"),
            }
        }
        success &= follow(cargo, &mut tally)?;
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped + tally.ignored);
    ensure!(success && tally.failed == 0, "tests failed");
    if tally.passed == 0 {
        bail!("no test has such a name");
    }
    Ok(())
}

/// Returns the requirements of some tests, by the variables that name them. Prints those that are not available; their
/// tests are skipped.
fn tools() -> Vec<(&'static str, PathBuf)> {
    let python = setup::python_tools("tests", &setup::TEST_TOOLS).map(|python| (PYTHON_ENV, python));
    let faketime = faketime(Path::new("/")).map_or_else(unpacked_faketime, Ok).map(|library| (FAKETIME_ENV, library));
    let missing = |error: anyhow::Error| eprintln!("some tests will be skipped: {error:#}");
    // Found by its path, not by a variable.
    vulkan::driver().unwrap_or_else(missing);
    let mut tools: Vec<_> = [python, faketime].into_iter().filter_map(|tool| tool.map_err(missing).ok()).collect();
    match setup::compress_corpus(&workspace()) {
        Ok((python, corpus)) => tools.extend([(COMPRESS_PYTHON_ENV, python), (COMPRESS_CORPUS_ENV, corpus)]),
        Err(error) => missing(error),
    }
    tools
}

fn unpacked_faketime() -> Result<PathBuf> {
    let root = setup::debian_package("libfaketime")?;
    faketime(&root).context("the Debian package libfaketime contains no library for this machine")
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Fetches the sources of every dependency on every platform: a build fetches those of this platform, but the rules of
/// `deny.toml` check all. Without network the test of those rules reports the missing ones.
fn fetch_sources() {
    match cargo().args(["fetch", "--locked", "--quiet"]).status() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("cargo fetch ended with {status}: the rules of deny.toml may not be checked"),
        Err(error) => eprintln!("run cargo fetch: {error}"),
    }
}

fn build_daemons() -> Result<()> {
    let status = cargo().args(["build", "--package", "edge-agent", "--package", "cloud-hub"]).status();
    ensure!(status.context("run cargo build")?.success(), "the daemons do not build");
    Ok(())
}

/// Runs the tests, printing and counting each line as it arrives. Returns whether cargo succeeded.
#[expect(clippy::print_stdout, reason = "passes on what cargo prints")]
fn follow(mut cargo: Command, tally: &mut Tally) -> Result<bool> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("run cargo test")?;
    let output = child.stdout.take().context("cargo's output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read cargo's output")?;
        tally.read(&line);
        println!("{line}");
    }
    Ok(child.wait().context("wait for cargo test")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_test_binaries() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "skipped: no loop devices here",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tally.read(line);
        }
        assert_eq!(tally, Tally { passed: 15, failed: 2, ignored: 1, skipped: 1 });
    }
}
