//! The way back: devices return to their earlier version, those that sleep when they wake.

use types::Version;

use super::tally::Standing;
use super::{DeviceView, REPEAT_S, Rollout, State, Step, Survey};

impl Rollout {
    /// Returns the requests to return that are due, and ends the rollback when every device that can be reached is back.
    pub(super) fn roll_back(&mut self, survey: &Survey<'_>, now: u64) -> Vec<Step> {
        let version = self.parts.spec.version;
        let is_wanted_again = survey.is_superseded
            || matches!(self.parts.state, State::RolledBack { .. }) && survey.current >= Some(version);
        if is_wanted_again {
            return self.rolled_back(0, 0, now);
        }
        // Before any device is asked: it must not be offered the version again.
        let revert = self.parts.base.filter(|_base| survey.current == Some(version));
        let mut steps: Vec<Step> = revert.map(|to| Step::Revert { to }).into_iter().collect();
        let (mut left, mut stuck) = (0_u64, 0_u64);
        for device in survey.devices.iter().filter(|device| self.must_return(device, now)) {
            let to = self.target(device);
            let (true, Some(to)) = (device.speaks, to) else {
                stuck += 1;
                continue;
            };
            if !device.subject.is_online {
                continue;
            }
            left += 1;
            let is_due = self.told.get(device.id).is_none_or(|told| now.saturating_sub(*told) >= REPEAT_S);
            if is_due {
                steps.push(Step::Return { device: device.id.clone(), to });
            }
        }
        for step in &steps {
            if let Step::Return { device, .. } = step {
                self.told.insert(device.clone(), now);
            }
        }
        // A hub that dies now must begin with the earlier version again: the end is stored once that is current.
        if revert.is_none() {
            steps.extend(self.rolled_back(left, stuck, now));
        }
        steps
    }

    fn rolled_back(&mut self, left: u64, stuck: u64, now: u64) -> Vec<Step> {
        let State::RollingBack { since_unix_s, reason } = &self.parts.state else { return Vec::new() };
        let is_overdue = now.saturating_sub(*since_unix_s) > self.parts.spec.silent_s;
        if left > 0 && !is_overdue {
            return Vec::new();
        }
        let reason = reason.clone();
        self.parts.state = State::RolledBack { at_unix_s: now, reason };
        let mut evidence = Vec::new();
        if left > 0 {
            evidence.push(format!("{left} connected devices were asked and have not returned"));
        }
        if stuck > 0 {
            evidence.push(format!("{stuck} devices cannot return: old agents, or no earlier version"));
        }
        let text = "every device that could be reached has returned; others return when they connect".to_owned();
        self.decide(now, "rolled-back", text, evidence);
        Vec::new()
    }

    /// Returns whether a device serves or installs the version and is not meant to.
    #[must_use]
    pub fn must_return(&self, device: &DeviceView<'_>, now: u64) -> bool {
        let version = self.parts.spec.version;
        let is_rolling_back = matches!(self.parts.state, State::RollingBack { .. } | State::RolledBack { .. });
        if !is_rolling_back || device.subject.is_revoked || device.pinned == Some(version) {
            return false;
        }
        let Some(status) = device.status else { return false };
        let serves = status.active.as_ref().is_some_and(|active| active.version == version);
        match self.parts.members.get(device.id) {
            Some(member) => {
                serves
                    || self.standing(member, Some(device), now) == Standing::Working && self.has_begun(member, device)
            }
            // It got the version after the rollout was complete.
            None => serves && self.parts.spec.cohort.includes(&device.subject),
        }
    }

    /// Returns the version that a device returns to: the current one of before, else its own previous one.
    #[must_use]
    pub fn target(&self, device: &DeviceView<'_>) -> Option<Version> {
        let is_earlier = |version: &Version| *version < self.parts.spec.version;
        let previous = device.status.and_then(|status| status.previous.as_ref()).map(|previous| previous.version);
        let before = self.parts.members.get(device.id).and_then(|member| member.before);
        before.or(self.parts.base).or(previous).filter(is_earlier)
    }
}
