//! Sorts errors into the kinds of failure that `edge_core::update` understands: may pass, or never will.

use std::io;

use bundle::VerifyError;
use bundle::fetch::FetchError;
use bundle::trust::TrustError;
use edge_core::update::{Failure, FailureKind};
use engine::{InferError, LoadError, RunError};
use protocol::v1::RefusalCode;
use store::files::FileError;

use crate::uplink::LinkError;

/// A failure of this kind, with the error's chain for people.
pub(super) fn failure(kind: FailureKind, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { kind, detail: telemetry::chain(error) }
}

/// A failure of this kind, in words.
pub(super) fn because(kind: FailureKind, detail: impl Into<String>) -> Failure {
    Failure { kind, detail: detail.into() }
}

/// The job was told to stop.
pub(super) fn superseded() -> Failure {
    because(FailureKind::Superseded, "a newer version was offered")
}

/// A part of the job was cut off by the end of the agent.
pub(super) fn interrupted() -> Failure {
    because(FailureKind::Interrupted, "the agent is stopping")
}

pub(super) fn of_io(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FailureKind::DiskFull
        }
        io::ErrorKind::OutOfMemory => FailureKind::NoRoom,
        _ => FailureKind::Storage,
    }
}

pub(super) fn of_file(error: &FileError) -> Failure {
    failure(if error.is_disk_full() { FailureKind::DiskFull } else { FailureKind::Storage }, error)
}

pub(super) fn of_link(error: &LinkError) -> Failure {
    let kind = match error {
        _ if error.is_away() => FailureKind::HubAway,
        LinkError::Refused(refusal)
            if matches!(refusal.code, RefusalCode::Busy | RefusalCode::ShuttingDown | RefusalCode::Internal) =>
        {
            FailureKind::HubBusy
        }
        LinkError::Away | LinkError::TooLate | LinkError::Exchange(_) | LinkError::Refused(_) | LinkError::OffTopic => {
            FailureKind::Interrupted
        }
    };
    failure(kind, error)
}

/// `is_online` tells a hub that went away from one that answered badly.
pub(super) fn of_trust(error: &TrustError, is_online: bool) -> Failure {
    let kind = match error {
        TrustError::Source { .. } if !is_online => FailureKind::HubAway,
        TrustError::Source { .. } | TrustError::ManyRoots | TrustError::Incomplete | TrustError::Interrupted => {
            FailureKind::Interrupted
        }
        TrustError::Expired { .. } | TrustError::Rollback { .. } => FailureKind::TrustStale,
        TrustError::NotListed { .. } => FailureKind::NotSigned,
        TrustError::Storage { source, .. } => of_io(source),
        TrustError::OtherRoot(_) | TrustError::NoRoot(_) => FailureKind::Storage,
        TrustError::BadRoot(_)
        | TrustError::TooLarge { .. }
        | TrustError::Signatures { .. }
        | TrustError::Refused(_) => FailureKind::TrustRefused,
    };
    failure(kind, error)
}

pub(super) fn of_fetch(error: &FetchError) -> Failure {
    let kind = match error {
        FetchError::WrongChunk { .. } | FetchError::TooLong { .. } | FetchError::WrongFile(_) => FailureKind::Tampered,
        FetchError::Incomplete { .. } => FailureKind::Interrupted,
        FetchError::Damaged(_) => FailureKind::Damaged,
        FetchError::Io { source, .. } => of_io(source),
    };
    failure(kind, error)
}

/// Sorts what is wrong with a manifest that the hub has just sent.
pub(super) fn of_manifest(error: &VerifyError) -> Failure {
    match error {
        VerifyError::WrongManifest { .. } | VerifyError::WrongFile { .. } => failure(FailureKind::Tampered, error),
        VerifyError::Trust(_)
        | VerifyError::Manifest(_)
        | VerifyError::Golden(_)
        | VerifyError::UnknownVariant { .. }
        | VerifyError::Io { .. } => of_verify(error),
    }
}

/// Sorts what is wrong with files on this disk. Every byte of them was the signed one when it arrived, so a difference
/// is damage that another fetch mends, never tampering.
pub(super) fn of_verify(error: &VerifyError) -> Failure {
    let kind = match error {
        VerifyError::Trust(error) => of_trust(error, true).kind,
        VerifyError::WrongManifest { .. } | VerifyError::WrongFile { .. } => FailureKind::Damaged,
        VerifyError::Manifest(_) | VerifyError::Golden(_) => FailureKind::BadManifest,
        VerifyError::UnknownVariant { .. } => FailureKind::NoVariant,
        VerifyError::Io { source, .. } => of_io(source),
    };
    failure(kind, error)
}

pub(super) fn of_load(error: &LoadError) -> Failure {
    let kind = match error {
        LoadError::Died(_) => FailureKind::EngineCrashed,
        // The child process cannot be had now: memory, descriptors.
        LoadError::Host(_) => FailureKind::NoRoom,
        LoadError::Refused(_) | LoadError::Unsupported { .. } | LoadError::Provider { .. } | LoadError::Failed(_) => {
            FailureKind::ModelRefused
        }
    };
    failure(kind, error)
}

pub(super) fn of_golden_run(error: &InferError) -> Failure {
    let kind = match error {
        InferError::Failed(RunError::Died(_) | RunError::Condemned(_) | RunError::Quarantined { .. }) => {
            FailureKind::EngineCrashed
        }
        _ if error.is_lost() => FailureKind::EngineLost,
        InferError::Busy { .. } | InferError::Stopped | InferError::Cancelled => FailureKind::NoRoom,
        InferError::Deadline | InferError::Mismatch(_) | InferError::Failed(_) => FailureKind::GoldenMismatch,
    };
    failure(kind, error)
}
