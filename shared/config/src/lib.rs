//! Reads a TOML config file and reports all its mistakes at once.
//!
//! Each daemon defines its own config types with `serde` (defaults for every field, `deny_unknown_fields`) and their
//! [`Validate`]; [`load`] or [`parse`] gives either a value that is right in every respect, or [`ConfigErrors`]: one
//! line per mistake with file, field and line number: syntax, unknown fields with the name that was probably meant,
//! wrong types, missing fields, and what [`Validate`] objects to. Durations are text ([`duration`]).
//!
//! Deliberately absent: environment overrides and layered files. One file says how a daemon runs.

mod document;
pub mod duration;
mod edit;
mod mistakes;
pub mod option_duration;
mod place;
mod read;
mod suggest;

pub use edit::set_field;
pub use mistakes::{ConfigErrors, LoadError, Mistake, Mistakes, Validate};
pub use place::installed_file;
pub use read::{CONFIG_BYTES_MAX, load, parse};
pub use suggest::nearest;
