//! What is played: how many, how long, and how badly things go.

use std::time::Duration;

use types::{PolicyMode, Version};

/// The model that everybody follows.
pub const MODEL: &str = "digits";

/// What is wrong with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// Nothing.
    Good,
    /// It is offered and not among the signed ones.
    Unsigned,
    /// A file is not what was signed.
    Tampered,
    /// It loads, and does not answer its golden inputs as it must.
    WrongAnswers,
}

/// One play.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many devices hold a token of their own.
    pub devices: usize,
    /// How many hold a copy of somebody else's token.
    pub thieves: usize,
    /// Faults happen until then.
    pub chaos: Duration,
    /// Then everything works for as long, so that whatever is unfinished can end.
    ///
    /// Longer than the longest back-off of an update (15 minutes) and everything that follows it.
    pub quiet: Duration,
    /// Chance that a message has to be sent again, each time it is sent.
    pub loss: f64,
    /// Shortest way between a device and the hub; the longest is ten times that.
    pub latency: Duration,
    /// Mean time between two faults, anywhere.
    pub fault_every: Duration,
    /// Mean time between two requests of one device.
    pub request_every: Duration,
    /// Chance that a job of an update or a run of the engine fails.
    pub trouble: f64,
    /// The versions that are published, in this order; the last is good.
    pub versions: Vec<Quality>,
    /// How many devices are revoked.
    pub revoked: usize,
    /// Life of a certificate in seconds.
    pub certificate_s: u64,
}

impl Scenario {
    /// A small fleet in a bad hour.
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

    /// Hundreds of devices that lose their hub together, more than once.
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

    /// What is wrong with a version; nothing is known of one that was not published.
    #[must_use]
    pub fn quality(&self, version: Version) -> Option<Quality> {
        let at = usize::try_from(version.number().checked_sub(1)?).ok()?;
        self.versions.get(at).copied()
    }

    /// The last version.
    #[must_use]
    pub fn last_version(&self) -> Option<Version> {
        Version::new(u64::try_from(self.versions.len()).ok()?)
    }
}

/// The policies that requests come with, in turn by chance.
pub const POLICIES: [PolicyMode; 5] = PolicyMode::ALL;
