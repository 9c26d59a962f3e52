//! Named places where a test may kill the agent.
//!
//! A power cut can come after any write; the tests of updates prove that by ending the process after each of them.
//! `SANDERLING_CRASH_AT=<name>` aborts the process at that place, as a power cut would: no destructor runs, nothing is
//! flushed. In builds without debug assertions (what is shipped) the variable is not even read.

/// A place where the agent may be killed. The names are what `SANDERLING_CRASH_AT` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// The trust metadata was refreshed and stored.
    TrustStored,
    /// The manifest lies in the version's folder-to-be.
    ManifestStored,
    /// The first chunk of a file, or the first part of a delta, was stored; the file is not complete.
    ChunkStored,
    /// Every file is there, complete and durable, still in `incoming`.
    FilesStored,
    /// The version's folder is in its place under `models`; no slot points to it.
    VersionStored,
    /// The version is loaded and answered its golden inputs; the old one still serves.
    GoldenChecked,
    /// The measured choice among the forms of a version is stored; its folder is still that of the first variant.
    ChoiceStored,
    /// The folder of the version is that of the chosen variant; files of the others are still there.
    ChoicePinned,
    /// Orders of owner or hub are stored; nothing was done for them.
    OrdersStored,
    /// The probation of the new version is stored; the slot pointer still names the old one.
    ProbationStored,
    /// The slot pointer names the new version; the old one still serves in memory.
    SlotStored,
    /// The new version serves; nothing was reported or cleaned up.
    Switched,
    /// The report is in the outbox; the hub has not seen it.
    ReportStored,
    /// Versions that no slot names were removed.
    Collected,
    /// A renewed certificate and its key lie beside those in use.
    RenewalStored,
    /// The key of an enrolment is stored; the hub was not asked.
    EnrolKeyStored,
    /// The hub's answer to an enrolment is there; nothing of it is stored.
    EnrolAnswered,
    /// The trust root of an enrolment is stored; key and certificate are not in use.
    EnrolTrustStored,
    /// Key and certificate of an enrolment are in use; its pending key is still there.
    EnrolIdentityStored,
}

impl CrashPoint {
    /// Every place, in the order an update, a renewal and an enrolment pass them.
    pub const ALL: [Self; 19] = [
        Self::TrustStored,
        Self::ManifestStored,
        Self::ChunkStored,
        Self::FilesStored,
        Self::VersionStored,
        Self::GoldenChecked,
        Self::ChoiceStored,
        Self::ChoicePinned,
        Self::OrdersStored,
        Self::ProbationStored,
        Self::SlotStored,
        Self::Switched,
        Self::ReportStored,
        Self::Collected,
        Self::RenewalStored,
        Self::EnrolKeyStored,
        Self::EnrolAnswered,
        Self::EnrolTrustStored,
        Self::EnrolIdentityStored,
    ];

    /// The name in `SANDERLING_CRASH_AT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrustStored => "trust-stored",
            Self::ManifestStored => "manifest-stored",
            Self::ChunkStored => "chunk-stored",
            Self::FilesStored => "files-stored",
            Self::VersionStored => "version-stored",
            Self::GoldenChecked => "golden-checked",
            Self::ChoiceStored => "choice-stored",
            Self::ChoicePinned => "choice-pinned",
            Self::OrdersStored => "orders-stored",
            Self::ProbationStored => "probation-stored",
            Self::SlotStored => "slot-stored",
            Self::Switched => "switched",
            Self::ReportStored => "report-stored",
            Self::Collected => "collected",
            Self::RenewalStored => "renewal-stored",
            Self::EnrolKeyStored => "enrol-key-stored",
            Self::EnrolAnswered => "enrol-answered",
            Self::EnrolTrustStored => "enrol-trust-stored",
            Self::EnrolIdentityStored => "enrol-identity-stored",
        }
    }
}

/// The variable that names the place.
pub const CRASH_VARIABLE: &str = "SANDERLING_CRASH_AT";

/// Aborts the process when a test asked for it at this place.
#[cfg(debug_assertions)]
pub fn crash_at(point: CrashPoint) {
    if std::env::var_os(CRASH_VARIABLE).is_some_and(|wanted| wanted == point.as_str()) {
        std::process::abort();
    }
}

/// Does nothing: shipped builds cannot be told to crash.
#[cfg(not(debug_assertions))]
pub fn crash_at(_point: CrashPoint) {}
