//! Reasons for a request without an answer, with sentences for its client.

use std::fmt;

use types::{ErrorCode, Reason};

/// Reason of the device for having no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalFailure {
    /// No version of the model is active here.
    NoModel,
    /// The session's queue is full.
    Busy,
    /// The engine failed, or its worker stopped.
    Failed,
    /// The request ended the engine's process, which is started again.
    Crashed,
    /// The request is not run, because it ended the engine's process before.
    Quarantined,
    /// The run did not end in time.
    TooLate,
    /// The tensors do not fit the model: no place would take them.
    BadInput,
    /// The operators of the model cannot compute this input (an index out of range, sizes that do not fit each other).
    Refused,
}

impl LocalFailure {
    /// Returns the reason in a receipt when the hub answered instead.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::NoModel => Reason::NoLocalModel,
            Self::Busy => Reason::DeviceBusy,
            Self::Failed | Self::Crashed | Self::Quarantined | Self::TooLate | Self::BadInput | Self::Refused => {
                Reason::DeviceFailed
            }
        }
    }

    const fn clause(self) -> &'static str {
        match self {
            Self::NoModel => "the device has no active version of the model",
            Self::Busy => "the device's queue is full",
            Self::Failed => "the device's engine failed",
            Self::Crashed => "running this request ended the device's engine, which was started again",
            Self::Quarantined => "this request was not run on the device: it ended the engine before",
            Self::TooLate => "the device did not answer in time",
            Self::BadInput => "the input does not fit the model",
            Self::Refused => "the device's model cannot compute this input",
        }
    }

    const fn code(self) -> ErrorCode {
        match self {
            Self::NoModel => ErrorCode::UnknownModel,
            Self::Busy => ErrorCode::DeviceBusy,
            Self::Failed | Self::Crashed | Self::Quarantined => ErrorCode::DeviceFailed,
            Self::TooLate => ErrorCode::DeadlineExceeded,
            Self::BadInput | Self::Refused => ErrorCode::BadInput,
        }
    }
}

/// Reason of the hub for having no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HubFailure {
    /// No connection, or it broke.
    Unreachable,
    /// It would not answer, or did not, within the time left.
    TooLate,
    /// Its queue is full.
    Busy,
    /// It does not serve this model or version.
    UnknownModel,
    /// The tensors do not fit the model.
    BadInput,
    /// It does not serve this device.
    NotAuthorised,
    /// It failed by itself.
    Failed,
    /// The policy keeps the input on the device. Never reported by a shell.
    Forbidden,
    /// A privacy class, a condition or a budget of the policy keeps the input on the device, for this reason.
    Withheld(Reason),
    /// Its recent latency is longer than the time left. Never reported by a shell.
    PredictedLate,
}

impl HubFailure {
    /// Returns the failure for a reason of the policy.
    #[must_use]
    pub const fn of_policy(reason: Reason) -> Self {
        match reason {
            Reason::Policy => Self::Forbidden,
            other => Self::Withheld(other),
        }
    }

    /// Returns whether the hub may take the same request later without a change of the request: it is away, or a condition or
    /// budget of the policy is closed for the moment.
    #[must_use]
    pub const fn passes(self) -> bool {
        match self {
            Self::Unreachable => true,
            Self::Withheld(reason) => matches!(
                reason,
                Reason::MeteredLink
                    | Reason::BatteryLow
                    | Reason::OutsideHours
                    | Reason::BytesSpent
                    | Reason::CallsSpent
                    | Reason::EscalationsSpent
            ),
            Self::TooLate
            | Self::Busy
            | Self::UnknownModel
            | Self::BadInput
            | Self::NotAuthorised
            | Self::Failed
            | Self::Forbidden
            | Self::PredictedLate => false,
        }
    }

    /// Returns the reason in a receipt when the device answered instead.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Unreachable => Reason::HubUnreachable,
            Self::TooLate => Reason::HubTooLate,
            Self::Busy | Self::UnknownModel | Self::BadInput | Self::NotAuthorised | Self::Failed => Reason::HubFailed,
            Self::Forbidden => Reason::Policy,
            Self::Withheld(reason) => reason,
            Self::PredictedLate => Reason::HubPredictedLate,
        }
    }

    const fn clause(self) -> &'static str {
        match self {
            Self::Unreachable => "the hub cannot be reached",
            Self::TooLate => "the hub did not answer in time",
            Self::Busy => "the hub's queue is full",
            Self::UnknownModel => "the hub does not serve the model",
            Self::BadInput => "the input does not fit the model",
            Self::NotAuthorised => "the hub does not serve this device",
            Self::Failed => "the hub failed",
            Self::Forbidden => "the policy keeps the input on the device",
            Self::Withheld(reason) => reason.sentence(),
            Self::PredictedLate => Reason::HubPredictedLate.sentence(),
        }
    }

    const fn code(self) -> ErrorCode {
        match self {
            Self::Unreachable => ErrorCode::HubUnreachable,
            Self::TooLate => ErrorCode::DeadlineExceeded,
            Self::Busy => ErrorCode::HubBusy,
            Self::UnknownModel => ErrorCode::UnknownModel,
            Self::BadInput => ErrorCode::BadInput,
            Self::NotAuthorised => ErrorCode::NotAuthorised,
            Self::Failed => ErrorCode::HubFailed,
            // The request asks for the hub with an input that its policy does not send: another request may succeed.
            Self::Forbidden => ErrorCode::BadInput,
            Self::Withheld(Reason::NeverLeaves | Reason::NoConsent | Reason::NoTag) => ErrorCode::BadInput,
            // Another link, another hour or another day may let it through.
            Self::Withheld(_) => ErrorCode::HubBusy,
            Self::PredictedLate => ErrorCode::DeadlineExceeded,
        }
    }
}

/// Reason for a request without an answer; prints both places where both failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the failure, of which the server makes a status, and metrics a label.
    pub code: ErrorCode,
    /// Failure of the device, where it was tried.
    pub device: Option<LocalFailure>,
    /// Failure of the hub, where it was asked.
    pub hub: Option<HubFailure>,
}

impl Failure {
    /// Names the kind after what may still change: a missing model matters only when the other place lacks it too.
    pub(crate) fn of(device: Option<LocalFailure>, hub: Option<HubFailure>) -> Self {
        let code = match (device, hub) {
            (None, None) => ErrorCode::DeadlineExceeded,
            // A hub that is away, or fails too, does not make the request a better one.
            (Some(LocalFailure::BadInput | LocalFailure::Refused), _) => ErrorCode::BadInput,
            (Some(device), None | Some(HubFailure::UnknownModel | HubFailure::Forbidden | HubFailure::Withheld(_))) => {
                device.code()
            }
            (_, Some(hub)) => hub.code(),
        };
        Self { code, device, hub }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.device, self.hub) {
            (None, None) => f.write_str("the deadline had passed before the request was routed"),
            (Some(device), None) => f.write_str(device.clause()),
            (None, Some(hub)) => f.write_str(hub.clause()),
            (Some(device), Some(hub)) => write!(f, "{}, and {}", device.clause(), hub.clause()),
        }
    }
}

impl std::error::Error for Failure {}
