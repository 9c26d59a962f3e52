//! The records of rollouts: orders with their state, members, pins, assigned models.

use std::collections::BTreeMap;

use hub_core::rollout::{self as core, Cohort, Decision, Member, OnBreach, Parts, SiteLimit, Spec, State, wave};
use serde::{Deserialize, Serialize};
use store::Record;
use types::{ModelName, Version};

use crate::storage::values::{AssignmentRecord, PinRecord};

/// A rollout, under its number with leading zeros. Its members are records of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rollout {
    id: u64,
    model: ModelName,
    version: Version,
    cohort: String,
    waves: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
    #[serde(default)]
    approve: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_unix_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_per_site: Option<MaxPerSite>,
    on_breach: String,
    patience_s: u64,
    silent_s: u64,
    state: RolloutState,
    created_unix_s: u64,
    created_by: String,
    #[serde(default)]
    base: Option<Version>,
    evidence_unix_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retried_unix_s: Option<u64>,
    #[serde(default)]
    decisions: Vec<StoredDecision>,
}

/// Limit of devices that are updated at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MaxPerSite {
    label: String,
    devices: u32,
}

/// State of a rollout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RolloutState {
    Scheduled { start_unix_s: u64 },
    Running(Wave),
    Approval { wave: usize, since_unix_s: u64 },
    Paused { running: Wave, at_unix_s: u64, reason: String, cause: String },
    Promoting { since_unix_s: u64 },
    Completed { at_unix_s: u64 },
    Aborted { at_unix_s: u64, reason: String },
    RollingBack { since_unix_s: u64, reason: String },
    RolledBack { at_unix_s: u64, reason: String },
}

/// A wave that is under way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Wave {
    wave: usize,
    since_unix_s: u64,
    #[serde(default)]
    settled_unix_s: Option<u64>,
}

/// Decision of a rollout with its evidence.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredDecision {
    at_unix_s: u64,
    what: String,
    reason: String,
    #[serde(default)]
    evidence: Vec<String>,
}

/// A device that takes part in a rollout, under `<number>/<device>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutMember {
    wave: usize,
    admitted_unix_s: u64,
    #[serde(default)]
    before: Option<Version>,
}

/// A version that an operator keeps on a device, under `<device>/<model>`. Without a version, the end of a pin that the
/// device has not heard of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pin {
    version: Option<Version>,
    at_unix_s: u64,
    by: String,
}

/// Filter of an assignment that has ended. An empty text is no filter.
const NOBODY: &str = "";

/// Devices that follow a model because the hub says so, under the name of the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    filter: String,
    at_unix_s: u64,
    by: String,
}

impl From<core::Running> for Wave {
    fn from(running: core::Running) -> Self {
        let core::Running { wave, since_unix_s, settled_unix_s } = running;
        Self { wave, since_unix_s, settled_unix_s }
    }
}

impl From<Wave> for core::Running {
    fn from(wave: Wave) -> Self {
        let Wave { wave, since_unix_s, settled_unix_s } = wave;
        Self { wave, since_unix_s, settled_unix_s }
    }
}

impl From<State> for RolloutState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled { start_unix_s } => Self::Scheduled { start_unix_s },
            State::Running(running) => Self::Running(running.into()),
            State::Approval { wave, since_unix_s } => Self::Approval { wave, since_unix_s },
            State::Paused(core::Paused { running, at_unix_s, reason, cause }) => {
                Self::Paused { running: running.into(), at_unix_s, reason, cause: cause.as_str().to_owned() }
            }
            State::Promoting { since_unix_s } => Self::Promoting { since_unix_s },
            State::Completed { at_unix_s } => Self::Completed { at_unix_s },
            State::Aborted { at_unix_s, reason } => Self::Aborted { at_unix_s, reason },
            State::RollingBack { since_unix_s, reason } => Self::RollingBack { since_unix_s, reason },
            State::RolledBack { at_unix_s, reason } => Self::RolledBack { at_unix_s, reason },
        }
    }
}

impl RolloutState {
    fn into_state(self, waves: usize) -> Result<State, String> {
        let within = |wave: usize| match wave < waves {
            true => Ok(wave),
            false => Err(format!("wave {wave} of {waves} is under way")),
        };
        Ok(match self {
            Self::Scheduled { start_unix_s } => State::Scheduled { start_unix_s },
            Self::Running(wave) => {
                within(wave.wave)?;
                State::Running(wave.into())
            }
            // An approval is between two waves.
            Self::Approval { wave, since_unix_s } => {
                within(wave.saturating_add(1))?;
                State::Approval { wave, since_unix_s }
            }
            Self::Paused { running, at_unix_s, reason, cause } => {
                within(running.wave)?;
                let cause = core::Cause::named(&cause).ok_or_else(|| format!("{cause:?} is no cause of a pause"))?;
                State::Paused(core::Paused { running: running.into(), at_unix_s, reason, cause })
            }
            Self::Promoting { since_unix_s } => State::Promoting { since_unix_s },
            Self::Completed { at_unix_s } => State::Completed { at_unix_s },
            Self::Aborted { at_unix_s, reason } => State::Aborted { at_unix_s, reason },
            Self::RollingBack { since_unix_s, reason } => State::RollingBack { since_unix_s, reason },
            Self::RolledBack { at_unix_s, reason } => State::RolledBack { at_unix_s, reason },
        })
    }
}

impl Record for Rollout {
    type Value = Parts;
    const TABLE: &'static str = "rollout";

    fn from_value(value: &Parts) -> Self {
        let Parts { id, spec, state, created_unix_s, created_by, base, evidence_unix_s, retried_unix_s, .. } =
            value.clone();
        let Spec { model, version, cohort, waves, gate, approve, start_unix_s, max_per_site, .. } = spec;
        let Spec { on_breach, patience_s, silent_s, .. } = value.spec;
        let decisions = value.decisions.iter().cloned().map(|decision| {
            let Decision { at_unix_s, what, reason, evidence } = decision;
            StoredDecision { at_unix_s, what, reason, evidence }
        });
        Self {
            id: id.0,
            model,
            version,
            cohort: cohort.to_string(),
            waves: waves.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            gate,
            approve,
            start_unix_s,
            max_per_site: max_per_site.map(|SiteLimit { label, devices }| MaxPerSite { label, devices }),
            on_breach: on_breach.as_str().to_owned(),
            patience_s,
            silent_s,
            state: state.into(),
            created_unix_s,
            created_by,
            base,
            evidence_unix_s,
            retried_unix_s,
            decisions: decisions.collect(),
        }
    }

    fn into_value(self) -> Result<Parts, String> {
        let Self { id, model, version, cohort, waves, gate, approve, start_unix_s, max_per_site, .. } = self;
        let waves = wave::parse(&waves).map_err(|error| error.to_string())?;
        let on_breach = self.on_breach;
        let spec = Spec {
            model,
            version,
            cohort: Cohort::parse(&cohort).map_err(|error| error.to_string())?,
            gate,
            approve,
            start_unix_s,
            max_per_site: max_per_site.map(|MaxPerSite { label, devices }| SiteLimit { label, devices }),
            on_breach: OnBreach::named(&on_breach).ok_or_else(|| format!("{on_breach:?} is no reaction"))?,
            patience_s: self.patience_s,
            silent_s: self.silent_s,
            waves,
        };
        spec.check().map_err(|mistakes| mistakes.first().map(ToString::to_string).unwrap_or_default())?;
        let decisions = self.decisions.into_iter().take(core::DECISIONS_MAX).map(|decision| {
            let StoredDecision { at_unix_s, what, reason, evidence } = decision;
            Decision { at_unix_s, what, reason, evidence }
        });
        Ok(Parts {
            id: core::RolloutId(id),
            state: self.state.into_state(spec.waves.len())?,
            spec,
            created_unix_s: self.created_unix_s,
            created_by: self.created_by,
            base: self.base,
            evidence_unix_s: self.evidence_unix_s,
            retried_unix_s: self.retried_unix_s,
            members: BTreeMap::new(),
            decisions: decisions.collect(),
        })
    }
}

impl Record for RolloutMember {
    type Value = Member;
    const TABLE: &'static str = "rollout-member";

    fn from_value(value: &Member) -> Self {
        let Member { wave, admitted_unix_s, before } = *value;
        Self { wave, admitted_unix_s, before }
    }

    fn into_value(self) -> Result<Member, String> {
        let Self { wave, admitted_unix_s, before } = self;
        Ok(Member { wave, admitted_unix_s, before })
    }
}

impl Record for Pin {
    type Value = PinRecord;
    const TABLE: &'static str = "pin";

    fn from_value(value: &PinRecord) -> Self {
        let PinRecord { version, at_unix_s, by } = value.clone();
        Self { version, at_unix_s, by }
    }

    fn into_value(self) -> Result<PinRecord, String> {
        let Self { version, at_unix_s, by } = self;
        Ok(PinRecord { version, at_unix_s, by })
    }
}

impl Record for Assignment {
    type Value = AssignmentRecord;
    const TABLE: &'static str = "assignment";

    fn from_value(value: &AssignmentRecord) -> Self {
        let AssignmentRecord { cohort, at_unix_s, by } = value.clone();
        let filter = cohort.map_or_else(|| NOBODY.to_owned(), |cohort| cohort.to_string());
        Self { filter, at_unix_s, by }
    }

    fn into_value(self) -> Result<AssignmentRecord, String> {
        let Self { filter, at_unix_s, by } = self;
        let cohort = match filter.as_str() {
            NOBODY => None,
            filter => Some(Cohort::parse(filter).map_err(|error| error.to_string())?),
        };
        Ok(AssignmentRecord { cohort, at_unix_s, by })
    }
}
