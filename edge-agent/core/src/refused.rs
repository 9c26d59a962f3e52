//! How a state machine of this crate says no to an event that makes no sense.

/// An event came that the machine cannot have caused; the machine is as it was before.
///
/// This is a mistake in the shell (or an echo of a job it failed to cancel): log it and go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{machine}: event \"{event}\" makes no sense in state \"{state}\"")]
pub struct Refused {
    /// The machine that refuses.
    pub machine: &'static str,
    /// The state it is in.
    pub state: &'static str,
    /// The event that was given.
    pub event: &'static str,
}
