//! The forms in which the agent stores values: one module per schema.
//!
//! What is written here is read by later versions. A field that is added has a default; a shape that older versions would
//! misread gets a new module, and the old one stays readable.

pub mod v1;

use store::StateSchema;
use store::aside::Check;

/// Schema of the state folder. It rises when an older agent would misread the folder.
pub const STATE_SCHEMA: StateSchema = StateSchema { known: 1, version: env!("CARGO_PKG_VERSION") };

/// The tables of the store.
pub const TABLES: [Check; 12] = [
    Check::of::<v1::WaitingReport>(),
    Check::of::<v1::FailedVersion>(),
    Check::of::<v1::LoadAttempt>(),
    Check::of::<v1::StandingOrders>(),
    Check::of::<v1::OnProbation>(),
    Check::of::<v1::AssignedModels>(),
    Check::of::<v1::ChosenForm>(),
    Check::of::<v1::CounterPeriod>(),
    Check::of::<v1::BudgetUsage>(),
    Check::of::<v1::HubThresholds>(),
    Check::of::<v1::OutboxRequest>(),
    Check::of::<v1::OutboxClock>(),
];
