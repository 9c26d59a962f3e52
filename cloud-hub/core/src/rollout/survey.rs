//! One look at the fleet: begins what is due, admits devices, judges the wave and moves to the next one.

use super::state::{Cause, Paused, Running, State};
use super::wave::duration;
use super::{Cohort, Judged, OFFER_AGAIN_S, OnBreach, Rollout, Standing, Step, Survey, Tally, Verdict};

/// Minimum share of the devices that a wave adds which must have ended before the next one begins: half, rounded down. The
/// others sleep and follow when they wake.
const ENDED_DIVISOR: u64 = 2;

/// Interval in seconds in which a rate releases devices.
const RATE_EVERY_S: u64 = 3;

/// Consequence of a look at a running wave.
enum Judgement {
    /// The wave needs time or evidence.
    Wait,
    /// The next wave may begin.
    Pass(Vec<String>),
    /// The version does harm.
    Breach(String, Vec<String>),
    /// There was not enough evidence in time.
    Impatient(String, Vec<String>),
}

impl Rollout {
    pub(super) fn survey(&mut self, survey: &Survey<'_>, now: u64) -> Vec<Step> {
        self.begin(now);
        let mut steps = Vec::new();
        // Each turn ends a wave, or is the last one.
        for _turn in 0..=self.parts.spec.waves.len() {
            let State::Running(running) = self.parts.state else { break };
            self.admit(survey.devices, running.wave, now);
            let tally = self.tally(survey.devices, Some(running.wave), now);
            let running = self.settle(running, &tally, now);
            match self.judge(&running, &tally, survey.judged, now) {
                Judgement::Wait => break,
                Judgement::Pass(evidence) => self.pass(running.wave, evidence, now),
                Judgement::Breach(reason, evidence) => self.breach(running, reason, evidence, now),
                Judgement::Impatient(reason, evidence) => {
                    self.pause(running, reason, Cause::Patience, evidence, now);
                }
            }
        }
        match &self.parts.state {
            State::Running(_) | State::Approval { .. } => steps.extend(self.due_offers(survey, now)),
            State::Promoting { .. } => steps.push(Step::MakeCurrent),
            State::RollingBack { .. } | State::RolledBack { .. } => steps.extend(self.roll_back(survey, now)),
            State::Scheduled { .. } | State::Paused(_) | State::Completed { .. } | State::Aborted { .. } => {}
        }
        steps.extend(self.audits(survey, now));
        steps
    }

    /// Returns the next time at which a survey is due whatever happens in the fleet, and its reason.
    #[must_use]
    pub fn poll_timeout(&self, now: u64) -> Option<(u64, &'static str)> {
        let spec = &self.parts.spec;
        match &self.parts.state {
            State::Scheduled { start_unix_s } => Some((*start_unix_s, "start")),
            State::Running(running) => {
                let wave = spec.waves.get(running.wave)?;
                let soak = running.settled_unix_s.map(|settled| (settled.saturating_add(wave.soak_s), "soak"));
                let patience = (running.since_unix_s.saturating_add(spec.patience_s), "patience");
                let silent = (now.saturating_add(spec.silent_s), "silent devices");
                let rate = matches!(wave.scope, super::Scope::Rate { .. })
                    .then_some((now.saturating_add(RATE_EVERY_S), "rate"));
                // What is over already waits for the fleet, not for time.
                let times = soak.into_iter().chain([patience, silent]).chain(rate).filter(|(at, _reason)| *at > now);
                times.min()
            }
            State::Promoting { .. } => Some((now.saturating_add(super::REPEAT_S), "current version")),
            State::RollingBack { .. } => Some((now.saturating_add(super::REPEAT_S), "return of devices")),
            State::Approval { .. }
            | State::Paused(_)
            | State::Completed { .. }
            | State::Aborted { .. }
            | State::RolledBack { .. } => None,
        }
    }

    /// Returns the offers to connected members that have not begun. They are repeated, because each of them may be lost.
    fn due_offers(&mut self, survey: &Survey<'_>, now: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        for device in survey.devices.iter().filter(|device| device.subject.is_online) {
            let Some(member) = self.parts.members.get(device.id) else { continue };
            let is_due = self.offered.get(device.id).is_none_or(|told| now.saturating_sub(*told) >= OFFER_AGAIN_S);
            let waits = match self.standing(member, Some(device), now) {
                Standing::Working | Standing::Idle => !self.has_begun(member, device),
                Standing::Active
                | Standing::Away { .. }
                | Standing::Failed { .. }
                | Standing::Silent { .. }
                | Standing::Excused
                | Standing::Gone => false,
            };
            if is_due && waits {
                steps.push(Step::Offer { device: device.id.clone() });
            }
        }
        for step in &steps {
            if let Step::Offer { device } = step {
                self.offered.insert(device.clone(), now);
            }
        }
        steps
    }

    fn begin(&mut self, now: u64) {
        let State::Scheduled { start_unix_s } = self.parts.state else { return };
        if now < start_unix_s {
            return;
        }
        self.parts.state = State::Running(Running { wave: 0, since_unix_s: now, settled_unix_s: None });
        // What happens in this second counts.
        self.parts.evidence_unix_s = now.saturating_sub(1);
        let reason = format!("wave 1 ({}) begins", self.wave_text(0));
        self.decide(now, "wave-begun", reason, Vec::new());
    }

    /// Notes when every device of the wave that is awake has ended.
    fn settle(&mut self, running: Running, tally: &Tally, now: u64) -> Running {
        let is_open = tally.waiting > 0 || tally.working > 0 || !self.is_released(running.wave, tally.cohort, now);
        let added = tally.wave_members.saturating_add(tally.wave_asleep);
        let has_evidence = tally.cohort == 0 || tally.active > 0;
        let is_settled = !is_open && has_evidence && tally.wave_ended >= added / ENDED_DIVISOR;
        let settled_unix_s = match (is_settled, running.settled_unix_s) {
            // A device that joins later does not begin the soak anew.
            (_, Some(settled)) => Some(settled),
            (true, None) => Some(now),
            (false, None) => None,
        };
        let running = Running { settled_unix_s, ..running };
        self.parts.state = State::Running(running);
        running
    }

    fn judge(&self, running: &Running, tally: &Tally, judged: Option<&Judged>, now: u64) -> Judgement {
        let mut evidence = tally.words();
        evidence.splice(0..0, judged.into_iter().flat_map(|judged| judged.reasons.iter().cloned()));
        let gate = judged.map(|judged| judged.verdict);
        match gate {
            Some(Verdict::Breaks) => {
                // The first reason is that of the decision, and the others are its evidence.
                let reason = judged.and_then(|judged| judged.reasons.first().cloned());
                evidence.drain(..usize::from(reason.is_some()));
                return Judgement::Breach(reason.unwrap_or_else(|| "the gate is broken".to_owned()), evidence);
            }
            None if tally.is_breach() => {
                let reason = format!(
                    "{} of {} admitted devices gave version {} up, went back or fell silent",
                    tally.failed.saturating_add(tally.silent),
                    tally.admitted,
                    self.parts.spec.version
                );
                return Judgement::Breach(reason, evidence);
            }
            // A gate needs devices that serve the version, and none will.
            Some(_) if tally.is_hopeless() => {
                let reason = format!("no admitted device took version {}", self.parts.spec.version);
                return Judgement::Breach(reason, evidence);
            }
            Some(Verdict::Passes | Verdict::Holds) | None => {}
        }
        let soak_s = self.parts.spec.waves.get(running.wave).map_or(0, |wave| wave.soak_s);
        let has_soaked = running.settled_unix_s.is_some_and(|settled| now >= settled.saturating_add(soak_s));
        if has_soaked && gate != Some(Verdict::Holds) {
            return Judgement::Pass(evidence);
        }
        let patience_s = self.parts.spec.patience_s;
        let begun = running.settled_unix_s.map_or(running.since_unix_s, |settled| settled.saturating_add(soak_s));
        if now.saturating_sub(begun.max(running.since_unix_s)) < patience_s || begun > now {
            return Judgement::Wait;
        }
        let missing = match gate {
            Some(Verdict::Holds) if running.settled_unix_s.is_some() => "the gate has not enough evidence",
            _ if tally.active == 0 => "no device of this wave serves the version",
            _ => "too few devices of this wave have ended",
        };
        let reason = format!("{missing} after {}", duration(patience_s));
        Judgement::Impatient(reason, evidence)
    }

    pub(super) fn pass(&mut self, wave: usize, evidence: Vec<String>, now: u64) {
        let text = self.wave_text(wave);
        self.decide(now, "wave-passed", format!("wave {} ({text}) has passed", wave + 1), evidence);
        if wave + 1 < self.parts.spec.waves.len() {
            if self.parts.spec.approve {
                self.parts.state = State::Approval { wave, since_unix_s: now };
                let reason = format!("wave {} ({}) waits for an operator", wave + 2, self.wave_text(wave + 1));
                self.decide(now, "waiting-for-approval", reason, Vec::new());
            } else {
                self.begin_wave(wave + 1, now);
            }
            return;
        }
        match self.parts.spec.cohort {
            Cohort::All => self.parts.state = State::Promoting { since_unix_s: now },
            // The others are not asked: the version is current for the cohort only.
            Cohort::Filter { .. } => {
                self.parts.state = State::Completed { at_unix_s: now };
                let reason = format!("the cohort has version {}", self.parts.spec.version);
                self.decide(now, "completed", reason, Vec::new());
            }
        }
    }

    pub(super) fn begin_wave(&mut self, wave: usize, now: u64) {
        self.parts.state = State::Running(Running { wave, since_unix_s: now, settled_unix_s: None });
        let reason = format!("wave {} ({}) begins", wave + 1, self.wave_text(wave));
        self.decide(now, "wave-begun", reason, Vec::new());
    }

    fn breach(&mut self, running: Running, reason: String, evidence: Vec<String>, now: u64) {
        match self.parts.spec.on_breach {
            OnBreach::Pause => self.pause(running, reason, Cause::Breach, evidence, now),
            OnBreach::RollBack => {
                self.decide(now, "rolling-back", reason.clone(), evidence);
                self.parts.state = State::RollingBack { since_unix_s: now, reason };
            }
        }
    }

    pub(super) fn pause(&mut self, running: Running, reason: String, cause: Cause, evidence: Vec<String>, now: u64) {
        self.decide(now, "paused", reason.clone(), evidence);
        self.parts.state = State::Paused(Paused { running, at_unix_s: now, reason, cause });
    }

    /// Returns the text of a wave.
    pub(super) fn wave_text(&self, wave: usize) -> String {
        self.parts.spec.waves.get(wave).map(ToString::to_string).unwrap_or_default()
    }

    /// Asks canary and control devices to audit the share that the gate wants, and ends that with the rollout.
    fn audits(&mut self, survey: &Survey<'_>, now: u64) -> Vec<Step> {
        let wanted = survey.judged.map_or(0, |judged| judged.audit_per_mille);
        let is_measuring = match self.parts.state {
            State::Running(_) | State::Approval { .. } | State::Paused(_) => wanted > 0,
            State::Scheduled { .. }
            | State::Promoting { .. }
            | State::Completed { .. }
            | State::Aborted { .. }
            | State::RollingBack { .. }
            | State::RolledBack { .. } => false,
        };
        if !is_measuring && self.audited.is_empty() {
            return Vec::new();
        }
        let control = if is_measuring { self.control(survey.devices) } else { std::collections::BTreeSet::new() };
        let mut steps = Vec::new();
        for device in survey.devices.iter().filter(|device| device.speaks && device.subject.is_online) {
            let takes_part = self.parts.members.contains_key(device.id) || control.contains(device.id);
            let active = device.status.and_then(|status| status.active.as_ref()).map(|active| active.version);
            let Some(version) = active else { continue };
            let per_mille = if is_measuring && takes_part { wanted } else { 0 };
            let told = self.audited.get(device.id).copied();
            let is_due = match told {
                None => per_mille > 0,
                // A canary device that has switched since is asked for its new version.
                Some((told, _at)) if told != (version, per_mille) => true,
                Some((_told, at)) => per_mille > 0 && now.saturating_sub(at) >= 10 * super::REPEAT_S,
            };
            if !is_due {
                continue;
            }
            if per_mille > 0 {
                self.audited.insert(device.id.clone(), ((version, per_mille), now));
            } else {
                self.audited.remove(device.id);
            }
            steps.push(Step::Audit { device: device.id.clone(), version, per_mille });
        }
        steps
    }
}
