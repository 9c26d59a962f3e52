//! Admission of devices: the eligible ones in the order of the draw, the part of them that the waves so far reach, and the
//! reason for each device in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use types::{DeviceId, Version};

use super::tally::{is_below, number};
use super::{ADMISSIONS_MAX, CONTROL_MAX, DeviceView, Member, Rollout, Scope, Standing, State, draw};

/// Answer to the question whether a device takes part in a rollout, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The device takes part in the rollout.
    Admitted {
        /// Wave that admitted it, from 0.
        wave: usize,
    },
    /// The device does not follow the model.
    NotFollowing,
    /// The cohort does not include it.
    Outside,
    /// An operator has pinned another version on it.
    Pinned(Version),
    /// It serves a later version.
    Later(Version),
    /// It belongs to the cohort and waits for its wave.
    Waiting {
        /// Position in the draw in hundredths of a percent.
        position: u64,
        /// Whether it is connected; a device is admitted only then.
        is_online: bool,
    },
    /// The rollout admits no further device.
    Closed {
        /// State of the rollout.
        state: &'static str,
    },
}

impl Admission {
    /// Returns whether the device takes part.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        matches!(self, Self::Admitted { .. })
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted { wave } => write!(f, "takes part since wave {}", wave + 1),
            Self::NotFollowing => f.write_str("does not follow the model"),
            Self::Outside => f.write_str("does not belong to the cohort"),
            Self::Pinned(version) => write!(f, "is pinned to version {version}, which precedes a rollout"),
            Self::Later(version) => write!(f, "serves the later version {version}"),
            Self::Waiting { position, is_online } => {
                let (whole, part) = (position / 100, position % 100);
                write!(f, "waits for its wave: it is drawn at {whole}.{part:02} % of the cohort")?;
                if *is_online { Ok(()) } else { f.write_str(", and is not connected") }
            }
            Self::Closed { state } => write!(f, "is not admitted: the rollout is {state}"),
        }
    }
}

impl Rollout {
    /// Returns whether a device takes part, and why or why not.
    #[must_use]
    pub fn admits(&self, device: &DeviceView<'_>) -> Admission {
        let spec = &self.parts.spec;
        if let Some(member) = self.parts.members.get(device.id) {
            return Admission::Admitted { wave: member.wave };
        }
        if device.status.is_none() {
            return Admission::NotFollowing;
        }
        if !spec.cohort.includes(&device.subject) {
            return Admission::Outside;
        }
        if let Some(pinned) = device.pinned.filter(|pinned| *pinned != spec.version) {
            return Admission::Pinned(pinned);
        }
        match device.status.and_then(|status| status.active.as_ref()) {
            Some(active) if active.version > spec.version => return Admission::Later(active.version),
            Some(_) | None => {}
        }
        match &self.parts.state {
            State::Scheduled { .. } | State::Running(_) | State::Approval { .. } => {
                let position = draw::position(self.parts.id, device.id) / (u64::MAX / 10_000);
                Admission::Waiting { position, is_online: device.subject.is_online }
            }
            State::Paused(_)
            | State::Promoting { .. }
            | State::Completed { .. }
            | State::Aborted { .. }
            | State::RollingBack { .. }
            | State::RolledBack { .. } => Admission::Closed { state: self.parts.state.as_str() },
        }
    }

    /// Returns the version that a device is to be offered because of this rollout, if it decides over the device.
    #[must_use]
    pub fn offers(&self, device: &DeviceView<'_>) -> Option<Version> {
        let takes_part = match self.parts.state {
            State::Running(_) | State::Approval { .. } | State::Promoting { .. } => self.admits(device).is_admitted(),
            // Devices that slept through every wave, and those that join the cohort later.
            State::Completed { .. } => {
                self.admits(device).is_admitted() || self.parts.spec.cohort.includes(&device.subject)
            }
            State::Scheduled { .. }
            | State::Paused(_)
            | State::Aborted { .. }
            | State::RollingBack { .. }
            | State::RolledBack { .. } => false,
        };
        takes_part.then_some(self.parts.spec.version)
    }

    /// Returns the devices that can take part, members included, in the order of the draw.
    pub(super) fn eligible<'d, 'v>(&self, devices: &'d [DeviceView<'v>]) -> Vec<&'d DeviceView<'v>> {
        let spec = &self.parts.spec;
        let is_eligible = |device: &&DeviceView<'_>| {
            let is_free = device.pinned.is_none_or(|pinned| pinned == spec.version);
            device.status.is_some()
                && !device.subject.is_revoked
                && (self.parts.members.contains_key(device.id)
                    || (is_free && is_below(device, spec.version) && spec.cohort.includes(&device.subject)))
        };
        let mut eligible: Vec<_> = devices.iter().filter(is_eligible).collect();
        eligible.sort_by_cached_key(|device| draw::position(self.parts.id, device.id));
        eligible
    }

    /// Returns the devices that the waves up to `wave` reach, each with the first wave that does, in the order of the draw.
    pub(super) fn targets<'d, 'v>(
        &self,
        eligible: &[&'d DeviceView<'v>],
        wave: usize,
        now: u64,
    ) -> Vec<(usize, &'d DeviceView<'v>)> {
        let mut first: BTreeMap<&DeviceId, usize> =
            self.parts.members.iter().map(|(id, member)| (id, member.wave)).collect();
        for (number, one) in self.parts.spec.waves.iter().enumerate().take(wave.saturating_add(1)) {
            let elapsed_s = if number == wave { self.elapsed_s(now) } else { u64::MAX };
            for device in Self::reached(&one.scope, number, eligible, &first, elapsed_s) {
                first.entry(device).or_insert(number);
            }
        }
        eligible.iter().filter_map(|device| Some((*first.get(device.id)?, *device))).collect()
    }

    /// Returns the devices that one wave reaches. `taken` are those of the waves before and the members.
    fn reached<'d>(
        scope: &Scope,
        wave: usize,
        eligible: &[&'d DeviceView<'_>],
        taken: &BTreeMap<&DeviceId, usize>,
        elapsed_s: u64,
    ) -> Vec<&'d DeviceId> {
        if let Scope::Label { key, value } = scope {
            let has = |device: &&&DeviceView<'_>| device.subject.labels.value(key) == Some(value.as_str());
            return eligible.iter().filter(has).map(|device| device.id).collect();
        }
        let Some(quota) = scope.quota(number(eligible.len()), elapsed_s) else { return Vec::new() };
        let quota = usize::try_from(quota).unwrap_or(usize::MAX);
        match scope {
            Scope::Share(_) => eligible.iter().take(quota).map(|device| device.id).collect(),
            // A few devices are chosen among those that can answer now.
            Scope::Count(_) | Scope::Rate { .. } => {
                let is_free = |device: &&&DeviceView<'_>| !taken.contains_key(device.id);
                let awake = eligible.iter().filter(is_free).filter(|device| device.subject.is_online);
                let counted = match scope {
                    // A rate counts from the beginning of its wave.
                    Scope::Rate { .. } => taken.values().filter(|taken| **taken == wave).count(),
                    Scope::Count(_) | Scope::Share(_) | Scope::Label { .. } => taken.len(),
                };
                awake.take(quota.saturating_sub(counted)).map(|device| device.id).collect()
            }
            Scope::Label { .. } => Vec::new(),
        }
    }

    /// Admits the connected devices that the waves up to `wave` reach, within the limits.
    pub(super) fn admit(&mut self, devices: &[DeviceView<'_>], wave: usize, now: u64) {
        let eligible = self.eligible(devices);
        let mut budget = self.site_budget(devices, now);
        let mut admitted = Vec::new();
        for (number, device) in self.targets(&eligible, wave, now) {
            if self.changed.len().saturating_add(admitted.len()) >= ADMISSIONS_MAX {
                break;
            }
            if !device.subject.is_online || self.parts.members.contains_key(device.id) || !budget.takes(device) {
                continue;
            }
            let before = device.status.and_then(|status| status.active.as_ref()).map(|active| active.version);
            let before = before.filter(|before| *before != self.parts.spec.version);
            let member = Member { wave: number, admitted_unix_s: now, before };
            admitted.push((device.id.clone(), member));
        }
        for (device, member) in admitted {
            self.changed.insert(device.clone());
            self.parts.members.insert(device, member);
        }
    }

    /// Returns the control devices: those of the cohort that do not take part and come last in the draw, as many as a gate
    /// compares with the devices that take part. They are measured over the same time.
    #[must_use]
    pub fn control(&self, devices: &[DeviceView<'_>]) -> BTreeSet<DeviceId> {
        let eligible = self.eligible(devices);
        let wanted = crate::evidence::controls_of(self.parts.members.len(), eligible.len()).clamp(1, CONTROL_MAX);
        let outside = eligible
            .iter()
            .rev()
            .filter(|device| device.subject.is_online && !self.parts.members.contains_key(device.id));
        outside.take(wanted).map(|device| device.id.clone()).collect()
    }

    /// Returns the time for which the running wave has run, in seconds.
    pub(super) fn elapsed_s(&self, now: u64) -> u64 {
        match &self.parts.state {
            State::Running(running) => now.saturating_sub(running.since_unix_s),
            State::Paused(paused) => paused.at_unix_s.saturating_sub(paused.running.since_unix_s),
            State::Scheduled { .. } => 0,
            State::Approval { .. }
            | State::Promoting { .. }
            | State::Completed { .. }
            | State::Aborted { .. }
            | State::RollingBack { .. }
            | State::RolledBack { .. } => u64::MAX,
        }
    }

    fn site_budget<'d>(&'d self, devices: &'d [DeviceView<'_>], now: u64) -> SiteBudget<'d> {
        let Some(limit) = &self.parts.spec.max_per_site else { return SiteBudget::default() };
        let mut busy: BTreeMap<Option<&str>, u32> = BTreeMap::new();
        for device in devices {
            let Some(member) = self.parts.members.get(device.id) else { continue };
            // A device that left while it was at work may be at work still.
            let is_busy = match self.standing(member, Some(device), now) {
                Standing::Working | Standing::Away { .. } => true,
                Standing::Active
                | Standing::Idle
                | Standing::Failed { .. }
                | Standing::Silent { .. }
                | Standing::Excused
                | Standing::Gone => false,
            };
            if is_busy {
                let count = busy.entry(device.subject.labels.value(&limit.label)).or_default();
                *count = count.saturating_add(1);
            }
        }
        SiteBudget { limit: Some((limit.label.as_str(), limit.devices)), busy }
    }
}

/// Devices at work by the value of a label, with their limit.
#[derive(Default)]
struct SiteBudget<'a> {
    limit: Option<(&'a str, u32)>,
    busy: BTreeMap<Option<&'a str>, u32>,
}

impl<'a> SiteBudget<'a> {
    /// Takes a place for a device; returns whether there was one.
    fn takes(&mut self, device: &DeviceView<'a>) -> bool {
        let Some((label, limit)) = self.limit else { return true };
        let busy = self.busy.entry(device.subject.labels.value(label)).or_default();
        let has_room = *busy < limit;
        *busy = busy.saturating_add(u32::from(has_room));
        has_room
    }
}
