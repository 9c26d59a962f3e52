//! Background work of the hub: renewal of signatures, checks of files, notices in the log, proof of progress.

pub mod calibrations;
pub mod progress;
pub mod rollouts;
pub mod scrub;
pub mod upkeep;
