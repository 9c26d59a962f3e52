//! The verbs of operators: each state and verb is one arm.

use super::state::{Cause, Running, State, Verb};
use super::{Refused, Rollout};

impl Rollout {
    pub(super) fn verb(&mut self, verb: Verb, by: &str, reason: &str, now: u64) -> Result<(), Refused> {
        let words = |default: &str| match reason.trim() {
            "" => default.to_owned(),
            reason => reason.to_owned(),
        };
        match (self.parts.state.clone(), verb) {
            (State::Running(running), Verb::Pause) => {
                self.pause(running, format!("{by}: {}", words("paused")), Cause::Operator, Vec::new(), now);
            }
            // The wave that has passed is under way again after the pause, and passes again.
            (State::Approval { wave, since_unix_s }, Verb::Pause) => {
                let running = Running { wave, since_unix_s, settled_unix_s: Some(since_unix_s) };
                self.pause(running, format!("{by}: {}", words("paused")), Cause::Operator, Vec::new(), now);
            }
            (State::Paused(paused), Verb::Resume) => {
                // What broke the gate is known: only what comes from now on is judged.
                if paused.cause == Cause::Breach {
                    self.parts.evidence_unix_s = now;
                }
                self.offered.clear();
                self.resume(paused.running, paused.at_unix_s, paused.cause, now);
                self.decide(now, "resumed", format!("{by}: {}", words("resumed")), Vec::new());
            }
            (State::Approval { wave, .. }, Verb::Approve) => {
                self.decide(now, "approved", format!("{by}: {}", words("approved")), Vec::new());
                self.begin_wave(wave + 1, now);
            }
            (
                State::Running(Running { wave, .. })
                | State::Approval { wave, .. }
                | State::Paused(super::Paused { running: Running { wave, .. }, .. }),
                Verb::Skip,
            ) => {
                let text = format!("{by} ended wave {} without its evidence: {}", wave + 1, words("skipped"));
                self.decide(now, "skipped", text, Vec::new());
                self.parts.evidence_unix_s = now;
                match wave + 1 < self.parts.spec.waves.len() {
                    true => self.begin_wave(wave + 1, now),
                    false => self.pass(wave, Vec::new(), now),
                }
            }
            (State::Running(running), Verb::Retry) => self.retry(running, running.since_unix_s, by, now),
            (State::Paused(paused), Verb::Retry) => self.retry(paused.running, paused.at_unix_s, by, now),
            (State::Approval { wave, since_unix_s }, Verb::Retry) => {
                let running = Running { wave, since_unix_s, settled_unix_s: None };
                self.retry(running, since_unix_s, by, now);
            }
            (State::Scheduled { .. } | State::Running(_) | State::Approval { .. } | State::Paused(_), Verb::Abort) => {
                let reason = format!("{by}: {}", words("aborted"));
                self.decide(now, "aborted", reason.clone(), Vec::new());
                self.parts.state = State::Aborted { at_unix_s: now, reason };
            }
            (
                State::Running(_)
                | State::Approval { .. }
                | State::Paused(_)
                | State::Promoting { .. }
                | State::Completed { .. }
                | State::Aborted { .. },
                Verb::RollBack,
            ) => {
                let reason = format!("{by}: {}", words("rolled back"));
                self.decide(now, "rolling-back", reason.clone(), Vec::new());
                self.parts.state = State::RollingBack { since_unix_s: now, reason };
            }
            (_, verb) => return Err(self.refuse(verb)),
        }
        Ok(())
    }

    /// Begins the wave of before again; the pause does not count as its time.
    fn resume(&mut self, running: Running, paused_unix_s: u64, cause: Cause, now: u64) {
        let paused_s = now.saturating_sub(paused_unix_s);
        let running = match cause {
            Cause::Operator | Cause::Breach => Running {
                wave: running.wave,
                since_unix_s: running.since_unix_s.saturating_add(paused_s),
                settled_unix_s: running.settled_unix_s.map(|settled| settled.saturating_add(paused_s)),
            },
            // It would be impatient again at once.
            Cause::Patience => Running { since_unix_s: now, settled_unix_s: None, ..running },
        };
        self.parts.state = State::Running(running);
    }

    /// Forgets what failed so far: the members that have not the version are offered it again.
    fn retry(&mut self, running: Running, since_unix_s: u64, by: &str, now: u64) {
        self.parts.evidence_unix_s = now;
        self.resume(running, since_unix_s, Cause::Patience, now);
        self.parts.retried_unix_s = Some(now);
        self.offered.clear();
        self.decide(now, "retried", format!("{by} offers the version again where it failed"), Vec::new());
    }

    fn refuse(&self, verb: Verb) -> Refused {
        let possible = match verb {
            Verb::Pause => "running or waiting for approval",
            Verb::Resume => "paused",
            Verb::Abort => "scheduled, running, waiting for approval or paused",
            Verb::Approve => "waiting for approval",
            Verb::Skip | Verb::Retry => "running, waiting for approval or paused",
            Verb::RollBack => "running, waiting for approval, paused, completed or aborted",
        };
        Refused { id: self.parts.id, state: self.parts.state.as_str(), verb, possible }
    }
}
