//! Life of one request in the outbox.

use super::{ENDED_KEPT_S, Entry};
use crate::Refused;

/// State of a request in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being written; nobody was told that it is taken.
    Storing,
    /// It is stored and waits for the hub.
    Waiting,
    /// It was sent to the hub.
    InFlight,
    /// The hub's answer is stored and waits for the application.
    Answered {
        /// Bytes of the answer on the disk.
        bytes: u64,
    },
    /// It is over; only the id and the end are remembered.
    Ended(End),
}

/// End of a request without a stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Request or answer became too old.
    Expired,
    /// Request or answer gave way to another one, because the outbox was full.
    Displaced,
    /// The owner of the device removed it.
    Dropped,
    /// The hub or the policy refused it for good.
    Failed,
}

impl End {
    /// Every end.
    pub const ALL: [Self; 4] = [Self::Expired, Self::Displaced, Self::Dropped, Self::Failed];

    /// Returns the name in responses, records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Displaced => "displaced",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// Something that happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is durable.
    Stored,
    /// It could not be stored.
    NotStored,
    /// The hub did not take it, and may take it later.
    SentBack,
    /// The hub's answer is durable.
    Answered {
        /// Bytes of the answer on the disk.
        bytes: u64,
    },
    /// It is refused for good.
    Failed,
    /// The owner removes it.
    Dropped,
}

impl Event {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::NotStored => "not stored",
            Self::SentBack => "sent back",
            Self::Answered { .. } => "answered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl State {
    /// Returns the name in responses, records and errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Storing => "storing",
            Self::Waiting => "waiting",
            Self::InFlight => "in-flight",
            Self::Answered { .. } => "answered",
            Self::Ended(end) => end.as_str(),
        }
    }

    /// Returns the state after a restart of the agent: whatever was at the hub waits again.
    pub(super) const fn after_restart(self) -> Self {
        match self {
            Self::Storing | Self::InFlight | Self::Waiting => Self::Waiting,
            Self::Answered { bytes } => Self::Answered { bytes },
            Self::Ended(end) => Self::Ended(end),
        }
    }

    /// Returns the state after an event; `None` if the entry is gone.
    pub(super) fn after(self, event: Event) -> Result<Option<Self>, Refused> {
        match (self, event) {
            (Self::Storing, Event::Stored) => Ok(Some(Self::Waiting)),
            // Nobody was told, so nothing is left to remember.
            (Self::Storing, Event::NotStored) => Ok(None),
            (Self::InFlight, Event::SentBack) => Ok(Some(Self::Waiting)),
            (Self::InFlight, Event::Answered { bytes }) => Ok(Some(Self::Answered { bytes })),
            // The policy may have been tightened while it waited, or its file be damaged.
            (Self::Waiting | Self::InFlight, Event::Failed) => Ok(Some(Self::Ended(End::Failed))),
            // An answer that comes after this is refused below.
            (Self::Waiting | Self::InFlight | Self::Answered { .. }, Event::Dropped) => {
                Ok(Some(Self::Ended(End::Dropped)))
            }
            // A stored answer that turns out unreadable is as good as none.
            (Self::Answered { .. }, Event::Failed) => Ok(Some(Self::Ended(End::Failed))),
            (Self::Storing, Event::SentBack | Event::Answered { .. } | Event::Failed | Event::Dropped)
            | (Self::Waiting, Event::Stored | Event::NotStored | Event::SentBack | Event::Answered { .. })
            | (Self::InFlight, Event::Stored | Event::NotStored)
            | (Self::Answered { .. }, Event::Stored | Event::NotStored | Event::SentBack | Event::Answered { .. })
            | (
                Self::Ended(_),
                Event::Stored
                | Event::NotStored
                | Event::SentBack
                | Event::Answered { .. }
                | Event::Failed
                | Event::Dropped,
            ) => Err(Refused { machine: "request outbox", state: self.as_str(), event: event.name() }),
        }
    }
}

impl Entry {
    /// Returns the time at which something is due, in seconds of the age clock; `None` while the hub or the disk has it.
    pub(super) fn due_s(&self) -> Option<u64> {
        match self.state {
            State::Waiting | State::Answered { .. } => Some(self.request.expires_s),
            State::Ended(_) => Some(self.changed_s.saturating_add(ENDED_KEPT_S)),
            State::Storing | State::InFlight => None,
        }
    }
}
