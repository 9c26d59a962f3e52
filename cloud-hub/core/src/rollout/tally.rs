//! How the members of a rollout fare: one word for each, and their numbers.

use types::{DeviceId, Version};

use super::{DeviceView, Member, Rollout, Scope};
use crate::fleet::{self, Outcome};

/// Maximum share of a rollout's devices that may fail or fall silent in thousandths, where no gate says otherwise: 10 %.
pub const FAILED_PER_MILLE_MAX: u64 = 100;

/// State of the rollout's version on one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It serves.
    Active,
    /// The device works on it.
    Working,
    /// The device has it offered for a long time and has not begun, or tries again without success.
    Idle,
    /// The device is away and had not begun or not ended when it left.
    Away {
        /// Since when, in seconds of the Unix clock.
        since_unix_s: u64,
    },
    /// The device has given it up or gone back.
    Failed {
        /// Reason in the device's words.
        reason: String,
    },
    /// The device began and was not heard of for too long.
    Silent {
        /// Since when, in seconds of the Unix clock.
        since_unix_s: u64,
    },
    /// The device failed before the evidence that counts.
    Excused,
    /// The device is not part of the fleet any more, does not follow the model, is pinned or has a later version.
    Gone,
}

/// Numbers of members by [`Standing`], and of devices that are still to be admitted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Devices of the cohort that can take part, members included.
    pub cohort: u64,
    /// Devices that were admitted.
    pub admitted: u64,
    /// On these the version serves.
    pub active: u64,
    /// These work on it.
    pub working: u64,
    /// These have not begun.
    pub idle: u64,
    /// These are away.
    pub away: u64,
    /// These have failed.
    pub failed: u64,
    /// These fell silent.
    pub silent: u64,
    /// These failed before the evidence that counts.
    pub excused: u64,
    /// Devices of the waves so far that are connected and wait for their admission.
    pub waiting: u64,
    /// Devices of the waves so far that are not connected.
    pub asleep: u64,
    /// Members of the latest wave.
    pub wave_members: u64,
    /// Of these, the ones that have ended: active or failed.
    pub wave_ended: u64,
    /// Devices that the latest wave adds and that are not connected.
    pub wave_asleep: u64,
    /// Failures in words: device and reason, a few of them.
    pub failures: Vec<String>,
}

/// Number of failures that a tally names.
const FAILURES_NAMED: usize = 8;

impl Tally {
    /// Returns whether too many members have failed or fallen silent, by the rule that holds without a gate.
    #[must_use]
    pub fn is_breach(&self) -> bool {
        let harmed = self.failed.saturating_add(self.silent);
        let reached = harmed.saturating_add(self.active).saturating_add(self.working).saturating_add(self.idle);
        harmed > 0 && harmed.saturating_mul(1000) > reached.saturating_mul(FAILED_PER_MILLE_MAX)
    }

    /// Returns whether every member has failed or fallen silent that was reached.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        let is_harmed = self.failed.saturating_add(self.silent) > 0;
        is_harmed && self.active == 0 && self.working == 0 && self.idle == 0
    }

    /// Returns the numbers in words, for decisions and for operators.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("{} of {} devices of the cohort admitted", self.admitted, self.cohort)];
        for (number, text) in [
            (self.active, "serve the version"),
            (self.failed, "have given it up or gone back"),
            (self.silent, "began and fell silent"),
            (self.working, "work on it"),
            (self.idle, "were offered it and have not begun"),
            (self.away, "are away (pending)"),
            (self.excused, "failed before the last resume or retry"),
            (self.waiting, "are connected and wait for their admission"),
            (self.asleep, "of these waves are not connected (pending)"),
        ] {
            if number > 0 {
                words.push(format!("{number} {text}"));
            }
        }
        words.extend(self.failures.iter().cloned());
        words
    }
}

impl Rollout {
    /// Returns how the version fares on a member.
    #[must_use]
    pub fn standing(&self, member: &Member, device: Option<&DeviceView<'_>>, now: u64) -> Standing {
        let version = self.parts.spec.version;
        let Some(device) = device.filter(|device| !device.subject.is_revoked) else { return Standing::Gone };
        let Some(status) = device.status else { return Standing::Gone };
        match status.active.as_ref().map(|active| active.version) {
            Some(active) if active == version => return Standing::Active,
            Some(active) if active > version => return Standing::Gone,
            Some(_) | None => {}
        }
        if device.pinned.is_some_and(|pinned| pinned != version) {
            return Standing::Gone;
        }
        let silent_s = self.parts.spec.silent_s;
        let progress = self.progress(member, status);
        let heard = progress.map_or(member.admitted_unix_s, |progress| progress.at_unix_s).max(device.since_unix_s);
        let is_overdue = now.saturating_sub(heard) > silent_s;
        match progress.map(|progress| (&progress.outcome, progress.at_unix_s)) {
            Some((Outcome::Rejected(_) | Outcome::RolledBack(_), at)) if at <= self.parts.evidence_unix_s => {
                Standing::Excused
            }
            Some((Outcome::Rejected(reason) | Outcome::RolledBack(reason), _at)) => {
                Standing::Failed { reason: reason.clone() }
            }
            Some((Outcome::Superseded { .. }, _at)) => Standing::Gone,
            // A device that began and was not heard of since is evidence of its own kind.
            Some((Outcome::Started | Outcome::Retrying(_), _at))
                if is_overdue && heard <= self.parts.evidence_unix_s =>
            {
                Standing::Excused
            }
            Some((Outcome::Started | Outcome::Retrying(_), _at)) if is_overdue => {
                Standing::Silent { since_unix_s: heard }
            }
            _ if !device.subject.is_online => Standing::Away { since_unix_s: device.since_unix_s },
            None if is_overdue => Standing::Idle,
            // A device that tries again and again, as with a full disk, must not keep a wave open for ever.
            Some((Outcome::Retrying(_), _)) if now.saturating_sub(member.admitted_unix_s) > silent_s => Standing::Idle,
            Some((Outcome::Started | Outcome::Retrying(_) | Outcome::Active(()), _)) | None => Standing::Working,
        }
    }

    /// Returns what a device said of the version since it was admitted, and since the last retry.
    fn progress<'d>(&self, member: &Member, status: &'d fleet::Model) -> Option<&'d fleet::Progress> {
        let is_forgotten =
            |at| at < member.admitted_unix_s || self.parts.retried_unix_s.is_some_and(|retried| at <= retried);
        status.progress(self.parts.spec.version).filter(|progress| !is_forgotten(progress.at_unix_s))
    }

    /// Returns whether a member has said anything of the version since it was offered.
    pub(super) fn has_begun(&self, member: &Member, device: &DeviceView<'_>) -> bool {
        device.status.is_some_and(|status| self.progress(member, status).is_some())
    }

    /// Counts the members by how the version fares, and the devices that the waves up to `wave` still have to admit.
    #[must_use]
    pub fn tally(&self, devices: &[DeviceView<'_>], wave: Option<usize>, now: u64) -> Tally {
        let mut tally = Tally { admitted: number(self.parts.members.len()), ..Tally::default() };
        let eligible = self.eligible(devices);
        tally.cohort = number(eligible.len());
        for (id, member) in &self.parts.members {
            let device = devices.binary_search_by(|device| device.id.cmp(id)).ok().and_then(|at| devices.get(at));
            let standing = self.standing(member, device, now);
            tally.add(id, &standing, Some(member.wave) == wave);
        }
        if let Some(wave) = wave {
            for (target, device) in self.targets(&eligible, wave, now) {
                if self.parts.members.contains_key(device.id) {
                    continue;
                }
                match device.subject.is_online {
                    true => tally.waiting += 1,
                    false => tally.asleep += 1,
                }
                tally.wave_asleep += u64::from(target == wave && !device.subject.is_online);
            }
        }
        tally
    }

    /// Returns whether the rate of a wave has released every device of the cohort; true for waves without a rate.
    pub(super) fn is_released(&self, wave: usize, cohort: u64, now: u64) -> bool {
        match self.parts.spec.waves.get(wave).map(|wave| &wave.scope) {
            Some(rate @ Scope::Rate { .. }) => {
                let earlier = self.parts.members.values().filter(|member| member.wave < wave).count();
                let left = cohort.saturating_sub(number(earlier));
                rate.quota(left, self.elapsed_s(now)).is_some_and(|quota| quota >= left)
            }
            Some(Scope::Count(_) | Scope::Share(_) | Scope::Label { .. }) | None => true,
        }
    }
}

impl Tally {
    fn add(&mut self, id: &DeviceId, standing: &Standing, is_of_wave: bool) {
        let (count, has_ended) = match standing {
            Standing::Active => (&mut self.active, true),
            Standing::Working => (&mut self.working, false),
            Standing::Idle => (&mut self.idle, false),
            Standing::Away { .. } => (&mut self.away, false),
            Standing::Excused => (&mut self.excused, true),
            Standing::Silent { .. } => (&mut self.silent, true),
            Standing::Failed { .. } => (&mut self.failed, true),
            // It neither helps nor hinders.
            Standing::Gone => return,
        };
        *count += 1;
        self.wave_members += u64::from(is_of_wave);
        self.wave_ended += u64::from(is_of_wave && has_ended);
        let failure = match standing {
            Standing::Failed { reason } => format!("{id}: {reason}"),
            Standing::Silent { .. } => format!("{id}: began and was not heard of since"),
            Standing::Active
            | Standing::Working
            | Standing::Idle
            | Standing::Away { .. }
            | Standing::Excused
            | Standing::Gone => return,
        };
        if self.failures.len() < FAILURES_NAMED {
            self.failures.push(failure);
        }
    }
}

impl Standing {
    /// Returns the name in the API and in tables.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Working => "working",
            Self::Idle => "not-begun",
            Self::Away { .. } => "pending",
            Self::Failed { .. } => "failed",
            Self::Silent { .. } => "silent",
            Self::Excused => "excused",
            Self::Gone => "gone",
        }
    }
}

/// Returns a length as a number.
pub(super) fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Returns whether a device can still get the version: what serves is not above it.
pub(super) fn is_below(device: &DeviceView<'_>, version: Version) -> bool {
    let active = device.status.and_then(|status| status.active.as_ref());
    active.is_none_or(|active| active.version <= version)
}
