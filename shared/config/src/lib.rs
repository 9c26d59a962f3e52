//! Reads a TOML config file and reports all its mistakes at once.
//!
//! Each daemon defines its own config types with `serde` (defaults for every field, `deny_unknown_fields`) and their
//! [`Validate`]; [`load`] or [`parse`] returns either a valid value, or [`ConfigErrors`]: one line per mistake with
//! file, field and line number: syntax, unknown fields with the most similar known name, wrong types, missing fields,
//! and the results of [`Validate`]. Durations are text ([`duration`]).
//!
//! Deliberately absent: environment overrides and layered files. One file contains the whole configuration of a daemon.

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
