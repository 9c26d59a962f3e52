//! Makes one delta, in a child process with a low priority, a limit of memory and a limit of time unless the files are small.
//!
//! [`make`] runs in the hub, [`work`] in the child behind the hidden verb `make-delta`. A delta is applied once before it is
//! reported.

use std::fs::{self, File};
use std::io::{self, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bundle::delta::{DeltaError, Expected};
use model_tools::delta;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use types::Digest;

/// Path of the running program for the kernel: right also when its file was replaced by an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Name of the hidden verb.
pub const VERB: &str = "make-delta";

/// Maximum time for one delta: the highest level of zstd takes a second for each megabyte, once for each of three forms.
const MAKE_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Bytes of memory for the program itself and for zstd at its highest level, beside what grows with the files.
pub(super) const OWN_BYTES: u64 = 512 << 20;

/// Nice value of the child: requests come first on a busy machine, and a delta still gets a quarter of a core.
const NICENESS: i32 = 5;

/// Maximum length of both files together for which no process is started: making takes less than a second of one core.
const HERE_BYTES_MAX: u64 = 512 << 10;

/// Maximum bytes of a report or of an error that are read from the child.
const REPORT_BYTES_MAX: u64 = 4096;

/// Files of one delta.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// File that devices have; `None` for the compressed new file.
    pub(super) base: Option<(PathBuf, Digest)>,
    /// New file.
    pub(super) target: (PathBuf, Digest),
    /// Path for the delta.
    pub(super) out: PathBuf,
    /// Maximum memory of the child in bytes.
    pub(super) memory_max_bytes: u64,
    /// Length of both files together in bytes.
    pub(super) bytes: u64,
}

/// Report of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    /// Digest of the delta.
    pub(super) digest: Digest,
    /// Length of the delta in bytes.
    pub(super) bytes: u64,
}

/// Error of making a delta.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("run a child process that makes a delta")]
    Spawn(#[source] io::Error),
    #[error("the delta was not made within {} s", MAKE_WITHIN.as_secs())]
    TooLate,
    #[error("the child process ended with {status}: {error}")]
    Ended { status: ExitStatus, error: String },
    #[error("the child process reported nothing that can be read")]
    Report(#[source] serde_json::Error),
    #[error(transparent)]
    Here(#[from] WorkError),
    #[error("a thread that makes a delta was lost")]
    Lost(#[source] tokio::task::JoinError),
}

/// Returns an upper bound of the memory that a delta between files of these lengths takes: both files, the dictionary, and the
/// new file compressed in three forms.
pub(super) const fn memory_bytes(base: u64, target: u64) -> u64 {
    OWN_BYTES.saturating_add(base.saturating_mul(2)).saturating_add(target.saturating_mul(4))
}

/// Makes a delta: between small files on a thread, else in a child process.
///
/// # Errors
/// When the work fails, or the child is killed for its memory or takes too long; then the caller removes what it wrote.
///
/// # Cancel safety
/// Dropping the future kills the child.
pub(super) async fn make(order: &Order) -> Result<Made, MakeError> {
    if order.bytes > HERE_BYTES_MAX {
        return make_in_child(order).await;
    }
    let Order { base, target, out, .. } = order.clone();
    let made = tokio::task::spawn_blocking(move || produce(base.as_ref(), &target, &out)).await;
    Ok(made.map_err(MakeError::Lost)??)
}

async fn make_in_child(order: &Order) -> Result<Made, MakeError> {
    let mut command = tokio::process::Command::new(THIS_PROGRAM);
    command.arg(VERB).arg("--out").arg(&order.out).arg("--memory-max-bytes").arg(order.memory_max_bytes.to_string());
    command.arg("--target").arg(&order.target.0).arg("--target-digest").arg(order.target.1.to_string());
    if let Some((path, digest)) = &order.base {
        command.arg("--base").arg(path).arg("--base-digest").arg(digest.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(MakeError::Spawn)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (report, failed) = tokio::join!(read(stdout), read(stderr));
        Ok::<_, io::Error>((child.wait().await?, report, failed))
    };
    let done = tokio::time::timeout(MAKE_WITHIN, work).await.map_err(|_elapsed| MakeError::TooLate)?;
    let (status, report, failed) = done.map_err(MakeError::Spawn)?;
    if !status.success() {
        let error = telemetry::escape_control(String::from_utf8_lossy(&failed).trim()).into_owned();
        return Err(MakeError::Ended { status, error });
    }
    serde_json::from_slice(&report).map_err(MakeError::Report)
}

/// Reads the begin of an output of the child, and drops the rest.
async fn read(output: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut output) = output else { return Vec::new() };
    let mut bytes = Vec::new();
    // What cannot be read is missing from the report, which then does not parse.
    let _begin = (&mut output).take(REPORT_BYTES_MAX).read_to_end(&mut bytes).await;
    let _rest = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    bytes
}

/// Error of the child process.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A file cannot be read or written.
    #[error("use file {path:?}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// A file on the hub's disk is damaged.
    #[error("file {path:?} hashes to {found} instead of {expected}: it is damaged on this disk")]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Digest that was published.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
    },
    /// The delta was not made, or does not make the new file.
    #[error("make a delta")]
    Delta(#[from] DeltaError),
    /// A limit was not set.
    #[error("limit the memory of this process")]
    Limit(#[source] io::Error),
}

/// Work of a child process.
#[derive(Debug, Clone)]
pub struct Work {
    /// File that devices have, with its digest.
    pub base: Option<(PathBuf, Digest)>,
    /// New file, with its digest.
    pub target: (PathBuf, Digest),
    /// Path for the delta.
    pub out: PathBuf,
    /// Maximum memory of this process in bytes.
    pub memory_max_bytes: u64,
}

/// Makes a delta in this process and checks it. Returns the report for the hub, in JSON.
///
/// # Errors
/// When a file is damaged or cannot be used, or memory does not suffice.
pub fn work(work: &Work) -> Result<String, WorkError> {
    // A hub that was killed must not leave a child at work.
    let _set = set_parent_process_death_signal(Some(Signal::KILL));
    // A priority that stays as it was makes requests slower, not wrong.
    let _nice = nice(NICENESS);
    let limit = Rlimit { current: Some(work.memory_max_bytes), ..getrlimit(Resource::As) };
    setrlimit(Resource::As, limit).map_err(|error| WorkError::Limit(error.into()))?;
    let report = produce(work.base.as_ref(), &work.target, &work.out)?;
    // A digest and a number always serialise.
    Ok(serde_json::to_string(&report).unwrap_or_default())
}

/// Makes a delta, checks that it makes the new file, and stores it.
fn produce(base: Option<&(PathBuf, Digest)>, target: &(PathBuf, Digest), out: &Path) -> Result<Made, WorkError> {
    let base = match base {
        Some((path, digest)) => read_file(path, *digest)?,
        None => Vec::new(),
    };
    let new = read_file(&target.0, target.1)?;
    let made = delta::make(&base, &new)?;
    let expected = Expected { digest: target.1, bytes: u64::try_from(new.len()).unwrap_or(u64::MAX) };
    bundle::delta::apply(&mut Cursor::new(&base), &mut made.bytes.as_slice(), &mut io::sink(), &expected)?;
    let failed = |source| WorkError::File { path: out.to_owned(), source };
    let mut file = File::create(out).map_err(failed)?;
    file.write_all(&made.bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(Made { digest: Digest::of(&made.bytes), bytes: u64::try_from(made.bytes.len()).unwrap_or(u64::MAX) })
}

fn read_file(path: &Path, expected: Digest) -> Result<Vec<u8>, WorkError> {
    let bytes = fs::read(path).map_err(|source| WorkError::File { path: path.to_owned(), source })?;
    let found = Digest::of(&bytes);
    match found == expected {
        true => Ok(bytes),
        false => Err(WorkError::Damaged { path: path.to_owned(), expected, found }),
    }
}
