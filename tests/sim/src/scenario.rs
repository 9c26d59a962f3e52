//! Parameters of a simulation: its size, its duration, and its faults.

use std::time::Duration;

use types::{PolicyMode, Version};

/// Name of the model that all devices follow.
pub const MODEL: &str = "digits";

/// Fault of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// The version has no fault.
    Good,
    /// The version is offered but not signed.
    Unsigned,
    /// A file differs from the signed one.
    Tampered,
    /// The version loads, but its outputs differ from the golden ones.
    WrongAnswers,
}

/// Parameters of one simulation.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of devices with a token of their own.
    pub devices: usize,
    /// Number of devices with a copy of another device's token.
    pub thieves: usize,
    /// Duration of the period with faults.
    pub chaos: Duration,
    /// Duration of the following period without faults, so that everything unfinished can end.
    ///
    /// Longer than the longest back-off of an update (15 minutes) and everything that follows it.
    pub quiet: Duration,
    /// Chance that a message is lost, each time it is sent.
    pub loss: f64,
    /// Minimum delay between a device and the hub; the maximum is ten times that.
    pub latency: Duration,
    /// Mean time between two faults, anywhere.
    pub fault_every: Duration,
    /// Mean time between two requests of one device.
    pub request_every: Duration,
    /// Chance that a job of an update or a run of the engine fails.
    pub trouble: f64,
    /// Versions that are published, in this order; the last one has no fault.
    pub versions: Vec<Quality>,
    /// Number of devices that are revoked.
    pub revoked: usize,
    /// Lifetime of a certificate in seconds.
    pub certificate_s: u64,
}

impl Scenario {
    /// Returns a small fleet in an hour with many faults.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            devices: 24,
            thieves: 4,
            chaos: Duration::from_secs(3600),
            quiet: Duration::from_secs(1500),
            loss: 0.05,
            latency: Duration::from_millis(10),
            fault_every: Duration::from_secs(20),
            request_every: Duration::from_secs(40),
            trouble: 0.1,
            versions: vec![
                Quality::Good,
                Quality::Tampered,
                Quality::Good,
                Quality::WrongAnswers,
                Quality::Unsigned,
                Quality::Good,
            ],
            revoked: 3,
            certificate_s: 3600,
        }
    }

    /// Returns hundreds of devices that lose their hub together, several times.
    #[must_use]
    pub fn large(seed: u64) -> Self {
        Self {
            devices: 400,
            thieves: 20,
            revoked: 20,
            fault_every: Duration::from_secs(5),
            request_every: Duration::from_secs(120),
            ..Self::small(seed)
        }
    }

    /// Returns the fault of a version; `None` if it was not published.
    #[must_use]
    pub fn quality(&self, version: Version) -> Option<Quality> {
        let at = usize::try_from(version.number().checked_sub(1)?).ok()?;
        self.versions.get(at).copied()
    }

    /// Returns the last version.
    #[must_use]
    pub fn last_version(&self) -> Option<Version> {
        Version::new(u64::try_from(self.versions.len()).ok()?)
    }
}

/// Policies of the requests, chosen at random.
pub const POLICIES: [PolicyMode; 6] = PolicyMode::ALL;
