//! Loads of versions that were begun and not survived: written before a load, removed once the version is proven.
//!
//! A version that ends its engine host twice is given up for good on that engine. Where engines run inside the agent, all
//! that is left of such a load is that it was begun and never ended; then two of those count. A power cut looks the same
//! but for the boot in between, so a cut counts less than an end of the agent alone.

use std::time::Duration;

use bundle::{Bundle, Verified};
use edge_core::update::{Failure, FailureKind};
use engine::{HostDeath, Isolation};
use service::clock;
use store::{StoreError, Table};
use types::{Digest, EngineName};

use super::trouble;
use crate::records::v1::LoadAttempt;

/// Ends of the engine host by one version on one engine until it is given up.
const HOST_DEATHS_MAX: u32 = 2;

/// Ends of the agent during a load until the version is given up, where engines run inside the agent.
const AGENT_ENDS_MAX: u32 = 2;

/// The same where engines run in child processes: the model is then hardly the reason, but an agent that ends at every
/// start is worse than a version that is given up.
const AGENT_ENDS_ISOLATED_MAX: u32 = 5;

/// Restarts of the machine during a load until the version is given up. Power is lost by itself; a driver that takes the
/// machine down does it every time.
const MACHINE_ENDS_MAX: u32 = 5;

/// Time after which earlier attempts do not count any more: a version that killed nothing for a day is not what killed.
const ATTEMPT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Purpose of a load. Each is counted apart, because the loads of a version are forgotten once it has answered its golden
/// inputs, and the others come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To serve.
    Load,
    /// To be measured against another variant of the same version.
    Form,
    /// To answer live requests in the shadow of the version that serves.
    Shadow,
}

/// Loads of one version on one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Digest of the model file: another file of the same number begins anew.
    pub(crate) digest: Digest,
    /// Ends of the engine host.
    pub(crate) host_deaths: u32,
    /// Ends of the agent while the machine went on.
    pub(crate) agent_ends: u32,
    /// Ends of the machine.
    pub(crate) machine_ends: u32,
    /// Whether a load was begun and has not ended.
    pub(crate) under_way: bool,
    /// Boot in which it was begun.
    pub(crate) boot: String,
    /// Cause of the last end of the engine host.
    pub(crate) cause: Option<String>,
    /// Time of the last change, in milliseconds since 1970.
    pub(crate) at_unix_ms: u64,
}

impl Attempt {
    /// Notes that a load begins; what was begun before and never ended is counted.
    fn begun(before: Option<Self>, digest: Digest, boot: &str, now_unix_ms: u64) -> Self {
        let life = u64::try_from(ATTEMPT_LIFE.as_millis()).unwrap_or(u64::MAX);
        let is_valid = |attempt: &Self| {
            // A clock that was set back makes it younger, not older.
            attempt.digest == digest && now_unix_ms.saturating_sub(attempt.at_unix_ms) < life
        };
        let mut attempt = before.filter(is_valid).unwrap_or_else(|| Self {
            digest,
            host_deaths: 0,
            agent_ends: 0,
            machine_ends: 0,
            under_way: false,
            boot: String::new(),
            cause: None,
            at_unix_ms: 0,
        });
        if attempt.under_way && attempt.boot == boot {
            attempt.agent_ends = attempt.agent_ends.saturating_add(1);
        } else if attempt.under_way {
            attempt.machine_ends = attempt.machine_ends.saturating_add(1);
        }
        Self { under_way: true, boot: boot.to_owned(), at_unix_ms: now_unix_ms, ..attempt }
    }

    /// Returns the reason if the version is given up.
    fn verdict(&self, isolation: Isolation) -> Option<String> {
        let agent_ends_max = match isolation {
            Isolation::Process => AGENT_ENDS_ISOLATED_MAX,
            Isolation::None => AGENT_ENDS_MAX,
        };
        let Self { host_deaths, agent_ends, machine_ends, .. } = self;
        if *host_deaths >= HOST_DEATHS_MAX {
            let cause = self.cause.as_deref().unwrap_or("the cause is not known");
            return Some(format!("it ended the engine host {host_deaths} times; {cause}"));
        }
        if *agent_ends >= agent_ends_max {
            return Some(format!("the agent ended {agent_ends} times while it was loaded or tried"));
        }
        (*machine_ends >= MACHINE_ENDS_MAX)
            .then(|| format!("the machine went down {machine_ends} times while it was loaded or tried"))
    }
}

/// The attempts of one model's versions. Blocks: only for threads that may.
#[derive(Debug, Clone)]
pub struct Attempts {
    table: Table<LoadAttempt>,
    isolation: Isolation,
    boot: String,
    runtime: tokio::runtime::Handle,
}

impl Attempts {
    /// Creates the attempts of this device. Must be called inside of the runtime.
    #[must_use]
    pub fn new(table: Table<LoadAttempt>, isolation: Isolation) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { table, isolation, boot: boot.trim().to_owned(), runtime: tokio::runtime::Handle::current() }
    }

    /// Writes down that a version is about to be loaded or tried on an engine.
    ///
    /// # Errors
    /// When it is given up there, with the reason; or when it cannot be written down.
    pub(super) fn begin(&self, bundle: &Bundle<Verified>, engine: EngineName, purpose: Purpose) -> Result<(), Failure> {
        let key = key(bundle, engine, purpose);
        let before = self.runtime.block_on(self.table.get(&key)).unwrap_or_else(|error| {
            tracing::warn!(error = telemetry::chain(&error), "earlier attempts do not read: they do not count");
            None
        });
        let attempt = Attempt::begun(before, bundle.variant().file.digest, &self.boot, clock::unix_ms());
        if let Some(why) = attempt.verdict(self.isolation) {
            // Remembered with the failed versions from now on; an operator's retry begins anew.
            self.forget(&key);
            return Err(trouble::because(FailureKind::EngineCrashed, why));
        }
        let written = self.runtime.block_on(self.table.put(&key, &attempt));
        written.map_err(|error| trouble::failure(FailureKind::Storage, &error))
    }

    /// Writes down that the engine host ended; returns whether the version is given up on that engine.
    pub(super) fn died(
        &self,
        bundle: &Bundle<Verified>,
        engine: EngineName,
        purpose: Purpose,
        death: HostDeath,
    ) -> Result<(), Failure> {
        let key = key(bundle, engine, purpose);
        let mut deaths = 0;
        let noted = self.runtime.block_on(self.table.update(&key, |before| {
            let digest = bundle.variant().file.digest;
            let begun = before.unwrap_or_else(|| Attempt::begun(None, digest, &self.boot, clock::unix_ms()));
            deaths = begun.host_deaths.saturating_add(1);
            let cause = Some(death.to_string());
            Ok::<_, StoreError>(Some(Attempt { host_deaths: deaths, under_way: false, cause, ..begun }))
        }));
        if let Err(error) = noted {
            tracing::warn!(error = telemetry::chain(&error), "the end of an engine host is not written down");
        }
        if deaths < HOST_DEATHS_MAX {
            return Ok(());
        }
        self.forget(&key);
        let why = format!("it ended the engine host {deaths} times; {death}");
        Err(trouble::because(FailureKind::EngineCrashed, why))
    }

    /// Forgets the attempts of a version that is proven, or that was refused without harm.
    pub(super) fn survived(&self, bundle: &Bundle<Verified>, engine: EngineName, purpose: Purpose) {
        self.forget(&key(bundle, engine, purpose));
    }

    fn forget(&self, key: &str) {
        if let Err(error) = self.runtime.block_on(self.table.delete(key)) {
            tracing::warn!(error = telemetry::chain(&error), "an attempt that is over stays written down");
        }
    }

    /// Notes that the agent ends in good order: what is under way has harmed nothing.
    pub async fn settle(&self) {
        let all = self.table.list().await.map(|listing| listing.records).unwrap_or_default();
        for (key, attempt) in all.into_iter().filter(|(_, attempt)| attempt.under_way) {
            if let Err(error) = self.table.put(&key, &Attempt { under_way: false, ..attempt }).await {
                tracing::warn!(error = telemetry::chain(&error), "a load that is cut off counts as a failed one");
            }
        }
    }
}

fn key(bundle: &Bundle<Verified>, engine: EngineName, purpose: Purpose) -> String {
    let load = format!("{}/{}/{engine}", bundle.manifest().model, bundle.manifest().version);
    match purpose {
        Purpose::Load => load,
        Purpose::Form => format!("{load}/form/{}", bundle.variant().name),
        Purpose::Shadow => format!("{load}/shadow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn begun(times: u32, boot: impl Fn(u32) -> String) -> Attempt {
        let mut attempt = None;
        for time in 0..times {
            attempt = Some(Attempt::begun(attempt, Digest::of(b"model"), &boot(time), NOW));
        }
        attempt.unwrap()
    }

    #[test]
    fn a_version_that_ended_the_agent_twice_is_given_up_where_nothing_protects_it() {
        let same_boot = |_time| "boot".to_owned();
        assert_eq!(begun(2, same_boot).verdict(Isolation::None), None, "one end may be an accident");
        assert!(begun(3, same_boot).verdict(Isolation::None).is_some());
        assert_eq!(begun(3, same_boot).verdict(Isolation::Process), None, "the model was in another process");
        assert!(begun(6, same_boot).verdict(Isolation::Process).is_some());
    }

    #[test]
    fn power_cuts_do_not_reject_a_good_version() {
        let each_its_own = |time: u32| format!("boot-{time}");
        assert_eq!(begun(5, each_its_own).verdict(Isolation::None), None);
        assert!(begun(6, each_its_own).verdict(Isolation::None).is_some(), "a version that takes the machine down");
    }

    #[test]
    fn attempts_age_and_belong_to_one_file() {
        let old = Attempt { host_deaths: 1, ..begun(1, |_time| "boot".to_owned()) };
        let same = Attempt::begun(Some(old.clone()), Digest::of(b"model"), "boot", NOW + 1);
        assert_eq!((same.host_deaths, same.agent_ends), (1, 1));
        let later = NOW + 24 * 3600 * 1000;
        assert_eq!(Attempt::begun(Some(old.clone()), Digest::of(b"model"), "boot", later).host_deaths, 0);
        assert_eq!(Attempt::begun(Some(old), Digest::of(b"other"), "boot", NOW).host_deaths, 0);
    }
}
