//! The life of one rollout: it brings a version of a model to a cohort in waves, and takes it back if it behaves badly.
//!
//! Fed by the shell with the state of the fleet ([`Event::Survey`]) and the verbs of operators; answers with what the shell
//! must do ([`Step`]). The shell stores the rollout and its changed members before it carries out a step, so that a hub that
//! was killed anywhere goes on with [`Rollout::restored`]. A device takes part ([`Member`]) from the moment that it is
//! admitted, which happens only while it is connected: one that sleeps is pending and never counts as failed.
//!
//! Precedence over what a device is offered: its pin, then the newest rollout that it takes part in, then the current
//! version of the model.

mod admission;
mod assignment;
pub mod cohort;
mod decision;
pub mod draw;
mod rollback;
pub mod spec;
pub mod state;
mod survey;
mod tally;
mod verbs;
pub mod wave;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;

use types::{DeviceId, Version};

use crate::filter::Subject;
use crate::fleet;

pub use admission::Admission;
pub use cohort::Cohort;
pub use decision::{DECISIONS_MAX, Decision, EVIDENCE_BYTES_MAX, EVIDENCE_MAX, REASON_BYTES_MAX};
pub use spec::{OnBreach, SiteLimit, Spec, SpecError};
pub use state::{Cause, Paused, Running, State, Verb};
pub use tally::{FAILED_PER_MILLE_MAX, Standing, Tally};
pub use wave::{Scope, Wave, WaveError};

/// Maximum number of devices that one survey admits: they are stored in one batch with the rollout. The next survey
/// follows at once.
pub const ADMISSIONS_MAX: usize = 500;

/// Time in seconds after which a request to a device is repeated as long as the device does not do it.
pub const REPEAT_S: u64 = 60;

/// Time in seconds after which an offer is repeated to a connected device that has not begun: a device may have restarted
/// its update, or the message was lost.
pub const OFFER_AGAIN_S: u64 = 600;

/// Maximum number of control devices: as many measure each difference that matters.
pub const CONTROL_MAX: usize = 1_000;

/// Number of a rollout, from 1; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutId(pub u64);

/// Device that takes part in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Wave that admitted it, from 0.
    pub wave: usize,
    /// Time of its admission in seconds of the Unix clock.
    pub admitted_unix_s: u64,
    /// Version that served on it before.
    pub before: Option<Version>,
}

/// One device as a rollout sees it.
#[derive(Debug, Clone, Copy)]
pub struct DeviceView<'a> {
    /// Name of the device.
    pub id: &'a DeviceId,
    /// Facts that filters ask for.
    pub subject: Subject<'a>,
    /// Its state of the rollout's model; `None` while it does not follow the model.
    pub status: Option<&'a fleet::Model>,
    /// Version that an operator has pinned on it.
    pub pinned: Option<Version>,
    /// Whether it knows the requests of rollouts, like the request to return.
    pub speaks: bool,
    /// Time of its last connection or disconnection in seconds of the Unix clock; 0 if there was none.
    pub since_unix_s: u64,
}

/// The fleet at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Survey<'a> {
    /// Every device of the hub, by name.
    pub devices: &'a [DeviceView<'a>],
    /// Current version of the model.
    pub current: Option<Version>,
    /// Whether a later rollout of the model has the same version or a higher one.
    pub is_superseded: bool,
    /// Judgement of the gate over the evidence so far; `None` without a gate.
    pub judged: Option<&'a Judged>,
}

/// Judgement of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Verdict of the gate.
    pub verdict: Verdict,
    /// Reasons in words, the most important one first.
    pub reasons: Vec<String>,
    /// Share of kept answers in thousandths that canary and control devices send for comparison; 0 for none.
    pub audit_per_mille: u16,
}

/// Verdict of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next wave may begin.
    Passes,
    /// More evidence is needed.
    Holds,
    /// The version is worse than the gate allows.
    Breaks,
}

/// News for a rollout.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The fleet at one moment: after each change of it, at each time that [`Rollout::poll_timeout`] names, and after each verb.
    Survey(&'a Survey<'a>),
    /// Verb of an operator.
    Verb {
        /// Verb that the operator used.
        verb: Verb,
        /// Name of the operator.
        by: &'a str,
        /// Reason in the operator's words; may be empty.
        reason: &'a str,
    },
    /// The version is the current one now, after [`Step::MakeCurrent`].
    Promoted,
}

/// Task of the shell, after the rollout is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Forget that a device has given the version up before, then offer it.
    Offer {
        /// Name of the device.
        device: DeviceId,
    },
    /// Ask a device to return from the version.
    Return {
        /// Name of the device.
        device: DeviceId,
        /// Version to serve again.
        to: Version,
    },
    /// Ask a device to audit a share of its answers; 0 ends that.
    Audit {
        /// Name of the device.
        device: DeviceId,
        /// Version whose answers are audited.
        version: Version,
        /// Share of the kept answers in thousandths.
        per_mille: u16,
    },
    /// Make the version the current one, then send [`Event::Promoted`].
    MakeCurrent,
    /// Make an earlier version the current one again.
    Revert {
        /// Version that becomes current again.
        to: Version,
    },
}

/// Refusal of a verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rollout {id} is {state}: {verb} is possible while it is {possible}")]
pub struct Refused {
    /// Number of the rollout.
    pub id: RolloutId,
    /// State of the rollout.
    pub state: &'static str,
    /// Verb that was refused.
    pub verb: Verb,
    /// States in which the verb is possible.
    pub possible: &'static str,
}

/// Everything of a rollout that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Number of the rollout.
    pub id: RolloutId,
    /// Order of the operator.
    pub spec: Spec,
    /// State of the rollout.
    pub state: State,
    /// Time of its creation in seconds of the Unix clock.
    pub created_unix_s: u64,
    /// Name of the operator who created it.
    pub created_by: String,
    /// Current version of the model at its creation: devices return to it.
    pub base: Option<Version>,
    /// Time after which evidence counts: the start, or the last time that an operator resumed after a breach.
    pub evidence_unix_s: u64,
    /// Time of the last retry: what devices said up to then is forgotten.
    pub retried_unix_s: Option<u64>,
    /// Devices that take part.
    pub members: BTreeMap<DeviceId, Member>,
    /// Latest decisions, oldest first.
    pub decisions: VecDeque<Decision>,
}

/// Rollout with what it remembers since the hub's start.
#[derive(Debug, Clone)]
pub struct Rollout {
    parts: Parts,
    /// Members that changed since they were stored.
    changed: BTreeSet<DeviceId>,
    /// Time of the last offer, by device. Not stored: a hub that was restarted offers again.
    offered: BTreeMap<DeviceId, u64>,
    /// Time of the last request to return, by device. Not stored: a hub that was restarted asks again.
    told: BTreeMap<DeviceId, u64>,
    /// Version and share of the last request to audit, and its time, by device. Not stored.
    audited: BTreeMap<DeviceId, ((Version, u16), u64)>,
}

impl Rollout {
    /// Creates a rollout that begins with the first survey at or after its start.
    #[must_use]
    pub fn new(id: RolloutId, spec: Spec, base: Option<Version>, by: &str, now_unix_s: u64) -> Self {
        let start_unix_s = spec.start_unix_s.unwrap_or(now_unix_s);
        let waves = spec.waves.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let created = format!("{by} created it: {} {} to {} in waves {waves}", spec.model, spec.version, spec.cohort);
        let mut rollout = Self::restored(Parts {
            id,
            spec,
            state: State::Scheduled { start_unix_s },
            created_unix_s: now_unix_s,
            created_by: by.to_owned(),
            base,
            evidence_unix_s: now_unix_s,
            retried_unix_s: None,
            members: BTreeMap::new(),
            decisions: VecDeque::new(),
        });
        rollout.decide(now_unix_s, "created", created, Vec::new());
        rollout
    }

    /// Puts back what was stored.
    #[must_use]
    pub fn restored(parts: Parts) -> Self {
        let (changed, offered, told) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { parts, changed, offered, told, audited: BTreeMap::new() }
    }

    /// Takes news and returns the tasks of the shell. Store the rollout and its changed members, then carry out the steps.
    ///
    /// # Errors
    /// [`Refused`] for a verb that the state does not allow; nothing has changed.
    pub fn handle(&mut self, event: Event<'_>, now_unix_s: u64) -> Result<Vec<Step>, Refused> {
        match event {
            Event::Survey(survey) => Ok(self.survey(survey, now_unix_s)),
            Event::Verb { verb, by, reason } => {
                self.verb(verb, by, reason, now_unix_s)?;
                Ok(Vec::new())
            }
            Event::Promoted => {
                self.promoted(now_unix_s);
                Ok(Vec::new())
            }
        }
    }

    /// Returns what is stored of the rollout.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns the number of the rollout.
    #[must_use]
    pub fn id(&self) -> RolloutId {
        self.parts.id
    }

    /// Returns the order of the operator.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.parts.spec
    }

    /// Returns the state that the rollout is in.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.parts.state
    }

    /// Returns the members that changed since the last call: to be stored with the rollout.
    pub fn take_changed(&mut self) -> Vec<DeviceId> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// Marks members as changed again whose storage failed.
    pub fn keep_changed(&mut self, devices: Vec<DeviceId>) {
        self.changed.extend(devices);
    }

    /// Forgets what a device was asked over an earlier connection, so that it is asked again.
    pub fn reconnected(&mut self, device: &DeviceId) {
        self.offered.remove(device);
        self.told.remove(device);
        self.audited.remove(device);
    }

    /// Returns whether devices may fetch the version because of this rollout.
    #[must_use]
    pub fn releases(&self) -> bool {
        !matches!(self.parts.state, State::Scheduled { .. })
    }

    fn promoted(&mut self, now: u64) {
        if let State::Promoting { .. } = self.parts.state {
            self.parts.state = State::Completed { at_unix_s: now };
            let version = self.parts.spec.version;
            self.decide(now, "completed", format!("version {version} is the current one"), Vec::new());
        }
    }

    fn decide(&mut self, now: u64, what: &'static str, reason: String, evidence: Vec<String>) {
        decision::push(&mut self.parts.decisions, Decision::new(now, what, reason, evidence));
    }
}

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RolloutId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number > 0);
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no number of a rollout: `cloud-hub rollout list` shows them"))
    }
}
