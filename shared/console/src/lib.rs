//! What both command lines print, and how they end.
//!
//! Verbs of `edge-agent`, `cloud-hub` and `xtask` hand their results to [`output`] and their waits to [`progress`];
//! `main` hands the error that ended the run to [`report`], which prints it and gives the exit code of its
//! [`ExitKind`]. Results go to standard output, everything else to standard error, so that output can be piped.
//!
//! Deliberately absent: colours (a pipe, a log and a screen reader get the same text) and prompts.

pub mod doctor;
mod error;
mod output;
pub mod port;
mod progress;
mod starting;

pub use error::{CliError, ExitKind, OrExit, report, warn};
pub use output::{Output, completions, print_json, print_line, render_table, table};
pub use progress::{Progress, progress_bytes, progress_count, spinner};
pub use starting::until_up;
