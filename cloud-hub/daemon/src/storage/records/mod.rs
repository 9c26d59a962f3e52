//! The forms in which the hub stores values: one module per schema.
//!
//! What is written here is read by later versions. A field that is added has a default; a shape that older versions would
//! misread gets a new module, and the old one stays readable.

pub mod v1;

use store::aside::Check;
use store::{Record, StateSchema};

/// Schema of the state folder. It rises when an older hub would misread the folder.
pub const STATE_SCHEMA: StateSchema = StateSchema { known: 1, version: env!("CARGO_PKG_VERSION") };

/// The tables of the store.
pub const TABLES: [Check; 15] = [
    Check::of::<v1::Device>(),
    Check::of::<v1::DeviceState>(),
    Check::of::<v1::JoinToken>(),
    Check::of::<v1::Operator>(),
    Check::of::<v1::ModelVersion>(),
    Check::of::<v1::CurrentVersion>(),
    Check::of::<v1::AuditEvent>(),
    Check::of::<v1::AuditLink>(),
    Check::of::<v1::CounterCell>(),
    Check::of::<v1::Measurement>(),
    Check::of::<v1::Rollout>(),
    Check::of::<v1::RolloutMember>(),
    Check::of::<v1::Pin>(),
    Check::of::<v1::Assignment>(),
    Check::of::<v1::Calibration>(),
];

/// Returns what follows when a record of a table is not readable, as the end of a sentence with what to do.
#[must_use]
pub fn consequence(table: &str) -> &'static str {
    match table {
        v1::Device::TABLE => {
            "; the device of that name is refused: `cloud-hub device readmit` takes it up again, or it enrols anew"
        }
        v1::JoinToken::TABLE => "; nobody can join with it: make another one with `cloud-hub token create`",
        v1::Operator::TABLE => {
            "; the token of that operator is refused: make another one with `cloud-hub operator create`"
        }
        v1::CurrentVersion::TABLE => {
            "; devices are offered no version of the model: choose one with `cloud-hub model offer <model> <version>`"
        }
        v1::DeviceState::TABLE => "; the device tells it again when it connects",
        v1::AuditEvent::TABLE | v1::AuditLink::TABLE => "; `cloud-hub audit --verify` names the gap",
        v1::CounterCell::TABLE => "; the counts of that hour are missing from gates and figures",
        v1::Measurement::TABLE => "; the device measures again with the next version",
        v1::ModelVersion::TABLE => "; it was made again from what is signed",
        v1::Rollout::TABLE => {
            "; its devices keep what they have and are offered the current version: create another one with `cloud-hub rollout create`"
        }
        v1::RolloutMember::TABLE => "; the device does not take part in that rollout until it is admitted again",
        v1::Pin::TABLE => "; the hub offers the device other versions again: `cloud-hub device pin` sets the pin anew",
        v1::Assignment::TABLE => "; devices that have the model keep it: `cloud-hub model assign` assigns it anew",
        v1::Calibration::TABLE => {
            "; the author's threshold is in force on that group until audits break its promise again"
        }
        _ => "",
    }
}
