//! Output and exit codes of the command lines.
//!
//! The verbs of `edge-agent`, `cloud-hub` and `xtask` print their results through [`output`] and their progress through
//! [`progress`]; `main` passes the error that ended the command to [`report`], which prints it and returns the exit
//! code of its [`ExitKind`]. Results go to standard output, everything else to standard error, so that output can be
//! piped.
//!
//! Deliberately absent: colours (pipes, logs and screen readers get the same text) and prompts.

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
