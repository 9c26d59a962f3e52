//! Updater task of a device, which executes the steps of [`edge_core::update`].

use std::time::Duration;

use edge_core::outbox::Gone;
use edge_core::slots::Installed;
use edge_core::update::measure::Comparison;
use edge_core::update::{Event, Failure, FailureKind, Report, ShadowTally, Step};
use types::{Digest, Version};

use super::{ANSWERED_WITHIN, Alarm, Device};
use crate::env::{Env, name};
use crate::scenario::Quality;
use crate::wire::Up;

/// Number of parts of a version's files.
const PARTS: u32 = 4;

/// Transient failures of jobs while faults happen.
const TROUBLES: [FailureKind; 5] = [
    FailureKind::Interrupted,
    FailureKind::DiskFull,
    FailureKind::Storage,
    FailureKind::TrustStale,
    FailureKind::NoRoom,
];

/// Chance that the active version's file is damaged in a power cut.
const ROT: f64 = 0.1;

/// The running job.
#[derive(Debug)]
pub(super) struct Job {
    number: u64,
    step: Step,
    part: u32,
}

/// Returns the record of an installed version.
pub(super) fn installed(version: Version) -> Installed {
    Installed { version, variant: name("int8"), digest: Digest::of(&version.number().to_le_bytes()) }
}

impl Device {
    pub(super) fn update(&mut self, env: &mut Env, event: Event) {
        match self.agent.updater.handle(event, env.now(), env.draw()) {
            Ok(steps) => self.obey_all(env, steps),
            Err(refused) => env.expect(false, || refused.to_string()),
        }
    }

    pub(super) fn obey_all(&mut self, env: &mut Env, steps: Vec<Step>) {
        for step in steps {
            self.obey(env, step);
        }
    }

    fn obey(&mut self, env: &mut Env, step: Step) {
        match step {
            Step::Recall { .. }
            | Step::RefreshTrust { .. }
            | Step::Fetch { .. }
            | Step::Verify { .. }
            | Step::Load { .. }
            | Step::CheckGolden { .. }
            | Step::Measure { .. }
            | Step::Shadow { .. }
            | Step::Switch { .. } => self.begin(env, step),
            Step::Abandon { .. } => self.end_soon(env, FailureKind::Superseded),
            Step::Remove { version } => {
                let needed = self.disk.slots.names(version) || self.agent.served == Some(version);
                env.expect(!needed, || format!("version {version} is removed and needed: {}", self.describe()));
                self.disk.complete.remove(&version);
                self.disk.partial.remove(&version);
            }
            Step::Repair { slots } => self.disk.slots = slots,
            Step::Remember { version, failure } => {
                env.watch.counts.given_up += 1;
                let good = env.scenario.quality(version) == Some(Quality::Good);
                env.expect(!good, || format!("good version {version} was given up: {failure}"));
                self.disk.failed.insert(version, failure);
            }
            Step::Forget { version } => {
                self.disk.failed.remove(&version);
            }
            Step::KeepOrders { orders } => self.disk.orders = orders,
            Step::KeepProbation { probation } => self.disk.probation = probation,
            Step::Report(report) => self.report(env, report),
            Step::Unload { .. } | Step::WaitUntil(_) => {}
        }
    }

    fn begin(&mut self, env: &mut Env, step: Step) {
        env.expect(self.agent.job.is_none(), || format!("two jobs at once: {step:?} and {:?}", self.agent.job));
        self.agent.jobs += 1;
        let number = self.agent.jobs;
        let time = match &step {
            Step::RefreshTrust { .. } => {
                self.say(env, Up::Metadata);
                None
            }
            // Parts that an earlier run has fetched are not fetched again.
            Step::Fetch { version } if self.disk.complete.contains(version) => Some(env.millis(1, 10)),
            Step::Fetch { version } => {
                self.disk.partial.insert(*version);
                self.say(env, Up::Blob { version: *version, part: 0 });
                None
            }
            Step::Verify { .. } | Step::CheckGolden { .. } => Some(env.millis(50, 2000)),
            Step::Load { .. } | Step::Measure { .. } | Step::Shadow { .. } => Some(env.millis(100, 5000)),
            _recall_or_switch => Some(env.millis(5, 50)),
        };
        self.agent.job = Some(Job { number, step, part: 0 });
        match time {
            Some(time) => self.later(env, time, Alarm::Job(number, Ok(()))),
            None => self.later(env, ANSWERED_WITHIN, Alarm::Job(number, Err(FailureKind::Interrupted))),
        }
    }

    pub(super) fn metadata_came(&mut self, env: &mut Env) {
        if let Some(Job { number, step: Step::RefreshTrust { .. }, .. }) = self.agent.job {
            self.job_done(env, number, Ok(()));
        }
    }

    pub(super) fn part_came(&mut self, env: &mut Env, version: Version, part: u32) {
        let Some(job) = &mut self.agent.job else { return };
        if job.step != (Step::Fetch { version }) || job.part != part {
            return;
        }
        job.part += 1;
        let (number, part) = (job.number, job.part);
        if part == PARTS {
            self.job_done(env, number, Ok(()));
        } else {
            self.say(env, Up::Blob { version, part });
        }
    }

    pub(super) fn job_done(&mut self, env: &mut Env, number: u64, result: Result<(), FailureKind>) {
        // A late result of a job that ended otherwise before.
        let Some(job) = self.agent.job.take_if(|job| job.number == number) else { return };
        match result.and_then(|()| self.outcome(env, &job.step)) {
            Ok(event) => self.update(env, event),
            Err(kind) => self.update(env, Event::Failed(Failure { kind, detail: "as the play wants".to_owned() })),
        }
    }

    /// Returns the result of a job that ran to its end.
    fn outcome(&mut self, env: &mut Env, step: &Step) -> Result<Event, FailureKind> {
        if env.chaos && env.chance(env.scenario.trouble) {
            let at = rand::Rng::random_range(&mut env.random, 0..TROUBLES.len());
            return Err(TROUBLES[at]);
        }
        let quality = |version: Version| env.scenario.quality(version);
        match step {
            Step::RefreshTrust { version } => match quality(*version) {
                Some(Quality::Unsigned) | None => Err(FailureKind::NotSigned),
                Some(_) => Ok(Event::Trusted),
            },
            Step::Fetch { .. } => Ok(Event::Fetched),
            Step::Verify { version } => match quality(*version) {
                Some(Quality::Tampered) => Err(FailureKind::Tampered),
                Some(_) | None => {
                    self.disk.partial.remove(version);
                    self.disk.complete.insert(*version);
                    Ok(Event::Verified(installed(*version)))
                }
            },
            Step::Recall { version } if self.disk.complete.contains(version) => {
                Ok(Event::Verified(installed(*version)))
            }
            Step::Recall { .. } => Err(FailureKind::Damaged),
            Step::Load { .. } => Ok(Event::Loaded),
            Step::Measure { .. } => Ok(Event::Measured(Comparison::default())),
            Step::Shadow { .. } => Ok(Event::Shadowed(ShadowTally::default())),
            Step::CheckGolden { installed } => match quality(installed.version) {
                Some(Quality::WrongAnswers) => Err(FailureKind::GoldenMismatch),
                Some(_) | None => Ok(Event::GoldenMatched),
            },
            Step::Switch { installed, slots, probation } => {
                let good = quality(installed.version) == Some(Quality::Good);
                let older = Some(installed.version) <= self.agent.served;
                env.watch.counts.switched += 1;
                self.disk.probation = probation.clone().or(self.disk.probation.take());
                self.disk.slots = slots.clone();
                self.agent.served = Some(installed.version);
                env.expect(good, || format!("{} serves a bad version: {:?}", self.id, self.agent.served));
                env.expect(!older, || format!("{} went back to {}", self.id, installed.version));
                Ok(Event::Switched)
            }
            other => {
                env.expect(false, || format!("{other:?} is no job"));
                Err(FailureKind::Interrupted)
            }
        }
    }

    /// Cuts the power: the pointer of a running switch may or may not be on the disk.
    pub(super) fn cut_off_job(&mut self, env: &mut Env) {
        if let Some(Job { step: Step::Switch { slots, .. }, .. }) = &self.agent.job
            && env.chance(0.5)
        {
            self.disk.slots = slots.clone();
        }
        // Sometimes the file that was in use is damaged; one of two always survives.
        if let (Some(active), Some(_)) = (&self.disk.slots.active, self.disk.slots.previous.first())
            && env.chance(ROT)
        {
            env.watch.counts.damaged += 1;
            self.disk.complete.remove(&active.version);
        }
    }

    pub(super) fn job_lost_hub(&mut self, env: &mut Env) {
        if let Some(Job { step: Step::RefreshTrust { .. } | Step::Fetch { .. }, .. }) = &self.agent.job {
            self.end_soon(env, FailureKind::HubAway);
        }
    }

    fn end_soon(&mut self, env: &mut Env, kind: FailureKind) {
        if let Some(Job { number, .. }) = self.agent.job {
            let soon = env.time(Duration::ZERO, Duration::from_secs(3));
            self.later(env, soon, Alarm::Job(number, Err(kind)));
        }
    }

    fn report(&mut self, env: &mut Env, report: Report) {
        let subject = format!("{}/{}", report.model, report.version);
        let pushed = self.agent.outbox.push(subject.clone(), report.clone());
        let entry = edge_core::outbox::Entry { id: pushed.id, subject, report };
        self.disk.outbox.insert(pushed.id.0, entry);
        if let Some((gone, why)) = pushed.gone {
            env.expect(why == Gone::Replaced, || "a report was dropped".to_owned());
            self.disk.outbox.remove(&gone.0);
        }
        self.send_report(env);
    }
}
