//! Events, steps and reports of an update.

use std::fmt;
use std::time::{Duration, Instant};

use types::update::Stage;
use types::{ModelName, Version};

use super::measure::Comparison;
use super::orders::{Orders, OwnerOrder};
use super::probation::{ERROR_SHARE_DEFAULT, Probation, Sample};
use crate::slots::{Installed, Slots};

/// Kind of a failure of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// There is no greeted connection: waits for one, without counting.
    HubAway,
    /// The exchange broke off or was too slow.
    Interrupted,
    /// The hub would not serve it now.
    HubBusy,
    /// No space is left on the disk.
    DiskFull,
    /// Another I/O error of the state folder.
    Storage,
    /// The trust metadata has expired, or the hub is behind what this device has already seen.
    TrustStale,
    /// The session worker or its memory could not be had now.
    NoRoom,
    /// The trust metadata is not signed as it must be, or would take the device back.
    TrustRefused,
    /// The version is not among the signed ones.
    NotSigned,
    /// A file or chunk that the hub sent is not what was signed.
    Tampered,
    /// The manifest is malformed, or over a limit.
    BadManifest,
    /// No variant of the version runs on this device.
    NoVariant,
    /// The engine refuses the model.
    ModelRefused,
    /// The model does not answer its golden inputs as it must.
    GoldenMismatch,
    /// Files on this device's disk are missing or damaged: of an installed version, or of one that was fetched.
    Damaged,
    /// The job was stopped because of [`Step::Abandon`].
    Superseded,
    /// The device under the engine (a GPU) is gone.
    EngineLost,
    /// The version ended the engine host, or the agent, each time that it was loaded or tried.
    EngineCrashed,
    /// A setting or an order of the owner, or a pin of the hub, puts the version off.
    Postponed,
    /// The hub or the owner took the version back.
    Returned,
    /// The version is slower, takes more memory, fails or disagrees more often than the limits of this device allow.
    Unfit,
}

impl FailureKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 21] = [
        Self::HubAway,
        Self::Interrupted,
        Self::HubBusy,
        Self::DiskFull,
        Self::Storage,
        Self::TrustStale,
        Self::NoRoom,
        Self::TrustRefused,
        Self::NotSigned,
        Self::Tampered,
        Self::BadManifest,
        Self::NoVariant,
        Self::ModelRefused,
        Self::GoldenMismatch,
        Self::Damaged,
        Self::Superseded,
        Self::EngineLost,
        Self::EngineCrashed,
        Self::Postponed,
        Self::Returned,
        Self::Unfit,
    ];

    /// Returns the kind of a code.
    #[must_use]
    pub fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == code)
    }

    /// The code in reports, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HubAway => "hub_away",
            Self::Interrupted => "interrupted",
            Self::HubBusy => "hub_busy",
            Self::DiskFull => "disk_full",
            Self::Storage => "storage",
            Self::TrustStale => "trust_stale",
            Self::NoRoom => "no_room",
            Self::TrustRefused => "trust_refused",
            Self::NotSigned => "not_signed",
            Self::Tampered => "tampered",
            Self::BadManifest => "bad_manifest",
            Self::NoVariant => "no_variant",
            Self::ModelRefused => "model_refused",
            Self::GoldenMismatch => "golden_mismatch",
            Self::Damaged => "damaged",
            Self::Superseded => "superseded",
            Self::EngineLost => "engine_lost",
            Self::EngineCrashed => "engine_crashed",
            Self::Postponed => "postponed",
            Self::Returned => "returned",
            Self::Unfit => "unfit",
        }
    }

    /// Whether trying the same version again may succeed.
    ///
    /// What is not is remembered, and the version left alone until an operator asks for it again or its second chance
    /// comes.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::HubAway
            | Self::Interrupted
            | Self::HubBusy
            | Self::DiskFull
            | Self::Storage
            | Self::TrustStale
            | Self::NoRoom
            | Self::Damaged
            | Self::Superseded
            | Self::EngineLost
            | Self::Postponed => true,
            Self::TrustRefused
            | Self::NotSigned
            | Self::Tampered
            | Self::BadManifest
            | Self::NoVariant
            | Self::ModelRefused
            | Self::GoldenMismatch
            | Self::EngineCrashed
            | Self::Returned
            | Self::Unfit => false,
        }
    }
}

impl FailureKind {
    /// Whether a version that was given up for this reason is tried again within [`super::SECOND_CHANCE`].
    ///
    /// These are mended at the hub, under the same version number: a damaged file, a list of versions that is behind.
    #[must_use]
    pub const fn has_second_chance(self) -> bool {
        matches!(self, Self::Tampered | Self::NotSigned)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Failure of a job of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the failure.
    pub kind: FailureKind,
    /// The error chain, for people. Keep it short: it travels to the hub.
    pub detail: String,
}

impl Failure {
    /// Shortens the detail to [`super::DETAIL_BYTES_MAX`].
    pub(super) fn shorten(&mut self) {
        self.detail.truncate(self.detail.floor_char_boundary(super::DETAIL_BYTES_MAX));
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.detail)
    }
}

/// Origin of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OfferKind {
    /// The hub, as it tells every follower: a version that failed here for good is left alone.
    Fleet,
    /// An operator, for this device: a version that failed here is tried once more.
    Retry,
}

/// Input of the updater's state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A version is to be taken.
    Offered {
        /// Version that the event or step is about.
        version: Version,
        /// Origin of the offer.
        kind: OfferKind,
    },
    /// The hub has greeted this device.
    HubOnline,
    /// The owner of the device gives an order; the shell has checked it with [`super::Updater::check_order`].
    Ordered(OwnerOrder),
    /// The hub keeps the device at a version, or ends that with `None`.
    Pinned(Option<Version>),
    /// The hub asks for the return to an earlier version.
    Return {
        /// Version to leave.
        from: Version,
        /// Version to serve again.
        to: Version,
        /// Reason for the report.
        reason: String,
    },
    /// A setting of the owner puts updates off from now on; `None` when they may begin.
    Postponed(Option<Postponed>),
    /// Behaviour of the version on probation since the last such event.
    Observed(Sample),
    /// Median duration of a run of the active version, for the comparison on probation.
    Baseline(Option<Duration>),
    /// The connection is gone. A job that needs it ends by itself, with [`FailureKind::HubAway`].
    HubAway,
    /// [`Step::RefreshTrust`] is done: the version is signed, its manifest lies on the disk and a variant was chosen.
    Trusted,
    /// [`Step::Fetch`] is done: every file is there.
    Fetched,
    /// [`Step::Verify`] or [`Step::Recall`] is done: every file is what was signed, and synced.
    Verified(Installed),
    /// [`Step::Load`] is done: the session is ready, beside the active one, and gets no traffic.
    Loaded,
    /// [`Step::CheckGolden`] ended well.
    GoldenMatched,
    /// [`Step::Measure`] is done.
    Measured(Comparison),
    /// [`Step::Shadow`] is done.
    Shadowed(ShadowTally),
    /// [`Step::Switch`] is done: the pointer is on the disk and new requests go to the new session.
    Switched,
    /// The job under way failed; what it had made in memory is released.
    Failed(Failure),
    /// The time of [`super::Updater::poll_timeout`] has come. Harmless at any other time.
    Tick,
}

impl Event {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Offered { .. } => "offered",
            Self::Ordered(_) => "ordered",
            Self::Pinned(_) => "pinned",
            Self::Return { .. } => "return",
            Self::Postponed(_) => "postponed",
            Self::Observed(_) => "observed",
            Self::Baseline(_) => "baseline",
            Self::Measured(_) => "measured",
            Self::Shadowed(_) => "shadowed",
            Self::HubOnline => "hub online",
            Self::HubAway => "hub away",
            Self::Trusted => "trusted",
            Self::Fetched => "fetched",
            Self::Verified(_) => "verified",
            Self::Loaded => "loaded",
            Self::GoldenMatched => "golden matched",
            Self::Switched => "switched",
            Self::Failed(_) => "failed",
            Self::Tick => "tick",
        }
    }
}

/// Reason for which no update begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postponed {
    /// Time at which updates may begin, or at which that is checked again.
    pub until: Instant,
    /// Setting that forbids them, for the report.
    pub reason: String,
}

/// Answers of a candidate in the shadow of the active version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowTally {
    /// Answers that were compared.
    pub compared: u64,
    /// Of these, the answers that agreed.
    pub agreed: u64,
    /// Runs of the candidate that failed where the active version answered.
    pub failed: u64,
}

impl ShadowTally {
    /// Returns the reason for which the candidate must not serve; `None` if it may, or if nothing was compared.
    #[must_use]
    pub fn judge(&self, agreement: f64) -> Option<String> {
        let Self { compared, agreed, failed } = *self;
        #[expect(clippy::cast_precision_loss, reason = "counts of requests, far below 2^53")]
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let runs = compared.saturating_add(failed);
        if share(failed, runs) > ERROR_SHARE_DEFAULT {
            return Some(format!("in the shadow of the version that serves {failed} of {runs} runs failed"));
        }
        (compared > 0 && share(agreed, compared) < agreement).then(|| {
            format!(
                "in the shadow {agreed} of {compared} answers agreed with the version that serves, a share of {agreement} \
                 is required"
            )
        })
    }
}

/// What the shell must do. The jobs (the steps up to `Switch`): at most one is under way, and each ends with one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Job: prove a version that is kept on the disk: its manifest is the one that the trusted metadata lists, its files
    /// are whole. Needs no hub. Ends with [`Event::Verified`].
    Recall {
        /// Version that the event or step is about.
        version: Version,
    },
    /// Job: refresh the trust metadata, fetch the signed manifest, choose a variant. Ends with [`Event::Trusted`].
    RefreshTrust {
        /// Version that the event or step is about.
        version: Version,
    },
    /// Job: fetch what is missing of the files. What is there already is held against the signed digests first, and
    /// fetched again where it differs: rot on this disk must not look like tampering, which is never tried again. Ends
    /// with [`Event::Fetched`].
    Fetch {
        /// Version that the event or step is about.
        version: Version,
    },
    /// Job: hash every file against the signed manifest and sync it. Ends with [`Event::Verified`].
    Verify {
        /// Version that the event or step is about.
        version: Version,
    },
    /// Job: load it beside the active one. Ends with [`Event::Loaded`].
    Load {
        /// Version and variant to load.
        installed: Installed,
    },
    /// Job: run its golden inputs and compare. Ends with [`Event::GoldenMatched`].
    CheckGolden {
        /// Version whose session answers the golden inputs.
        installed: Installed,
    },
    /// Job: measure the loaded candidate beside the active version: golden inputs and a short benchmark, in every variant and
    /// on every engine that is to be compared; choose the best of these and store the choice. Ends with [`Event::Measured`].
    Measure {
        /// Version to measure.
        installed: Installed,
    },
    /// Job: have the candidate answer a share of the live requests too, and compare. Ends with [`Event::Shadowed`].
    Shadow {
        /// Version that answers in the shadow.
        installed: Installed,
    },
    /// Job: store the probation, write the pointers in one atomic step, then lead new requests to the new session, then let the old one
    /// finish what it holds. Ends with [`Event::Switched`] as soon as new requests go to the new session.
    Switch {
        /// Slots from now on.
        installed: Installed,
        /// The pointers to write.
        slots: Slots,
        /// Probation of the version, to be stored before the pointers; `None` for none.
        probation: Option<Probation>,
    },
    /// Stop the job under way; it ends with [`Event::Failed`] and [`FailureKind::Superseded`], or as it would have.
    Abandon {
        /// Version whose job is cancelled.
        version: Version,
    },
    /// Release the session that was loaded beside the active one; its files stay.
    Unload {
        /// Version whose session is dropped.
        version: Version,
    },
    /// Delete the files of a version, complete or not, and release its session where one is loaded. What is not
    /// there needs no deleting: it may be said twice, and a crash in between does no harm.
    Remove {
        /// The version; never one that a slot names.
        version: Version,
    },
    /// Write repaired pointers (after a restart), before anything is served. No event follows.
    Repair {
        /// The pointers to write.
        slots: Slots,
    },
    /// Put it into the outbox.
    Report(Report),
    /// Keep the failure with the version, durably, so that a restart remembers it. No event follows.
    Remember {
        /// Version that the event or step is about.
        version: Version,
        /// Failure for which the version is left alone.
        failure: Failure,
    },
    /// Drop what was kept by [`Step::Remember`]. No event follows.
    Forget {
        /// Version that the event or step is about.
        version: Version,
    },
    /// Store the orders before anything that they cause. No event follows.
    KeepOrders {
        /// Orders from now on.
        orders: Orders,
    },
    /// Store the state of the probation, or remove it. No event follows.
    KeepProbation {
        /// Probation of the version that serves; `None` when it is over.
        probation: Option<Probation>,
    },
    /// Nothing is to be done before then.
    WaitUntil(Instant),
}

/// Report to the hub on a version on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the model.
    pub model: ModelName,
    /// Version that the event or step is about.
    pub version: Version,
    /// Stage that the update has reached.
    pub stage: Stage,
    /// State of the update at this stage.
    pub outcome: Outcome,
}

/// State of a version on this device.
pub type Outcome = types::update::Outcome<Installed, Failure>;
