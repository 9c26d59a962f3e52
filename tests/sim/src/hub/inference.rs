//! Inference on the hub: its queue and its workers.

use std::time::Duration;

use edge_core::route::HubFailure;
use hub_core::admission::{Cancelled, JobId, Limits, Next, NotAdmitted, Priority, Request};
use types::{Caller, DeviceId};

use super::Hub;
use crate::env::{Env, Happening};
use crate::wire::{Connection, Down};

/// Few sessions and a short queue, so that simulations reach the limits.
pub(super) const LIMITS: Limits =
    Limits { running: 2, queued: 8, queued_bytes: 1 << 20, queued_per_device: 4, share: 2 };

/// A timer or job of the hub.
#[derive(Debug, Clone, Copy)]
pub enum HubAlarm {
    /// End of a job of a worker.
    Worked(JobId, Duration),
    /// Deadline of a queued request.
    Queue,
}

impl Hub {
    /// Handles a timer or job of this run of the hub.
    pub fn alarm(&mut self, env: &mut Env, alarm: HubAlarm) {
        match alarm {
            HubAlarm::Worked(job, took) => {
                let finished = self.admission.finish(job, took);
                env.expect(finished.is_ok(), || format!("a worker finished what it did not run: {finished:?}"));
                if let Some((at, connection, request)) = self.jobs.remove(&job)
                    && self.connections.contains_key(&connection)
                {
                    self.say(env, at, connection, Down::Answered { request });
                }
            }
            HubAlarm::Queue => {}
        }
        self.pump(env);
    }

    pub(super) fn infer(&mut self, env: &mut Env, origin: (usize, Connection, u64), id: &DeviceId, left: Duration) {
        let (at, connection, request) = origin;
        let asked = Request {
            caller: Caller::Device(id.clone()),
            priority: Priority::Interactive,
            deadline: Some(env.now() + left),
            bytes: 1000,
        };
        match self.admission.submit(asked, env.now()) {
            Ok(job) => {
                self.jobs.insert(job, origin);
            }
            Err(why) => {
                env.watch.counts.busy += 1;
                let why = match why {
                    NotAdmitted::Busy { .. } | NotAdmitted::DeviceBusy { .. } => HubFailure::Busy,
                    NotAdmitted::Expired => HubFailure::TooLate,
                };
                self.say(env, at, connection, Down::NotAnswered { request, why });
            }
        }
        self.pump(env);
        if let Some((deadline, _)) = self.admission.poll_timeout() {
            env.at(deadline, Happening::Hub(self.boot, HubAlarm::Queue));
        }
    }

    pub(super) fn cancel(&mut self, connection: Connection, request: u64) {
        let of_request =
            |(_, origin): &(&JobId, &(usize, Connection, u64))| origin.1 == connection && origin.2 == request;
        if let Some(job) = self.jobs.iter().find(of_request).map(|(job, _)| *job) {
            self.cancel_job(job);
        }
    }

    pub(super) fn cancel_all(&mut self, connection: Connection) {
        let of_connection = self.jobs.iter().filter(|(_, origin)| origin.1 == connection);
        let jobs: Vec<JobId> = of_connection.map(|(job, _)| *job).collect();
        for job in jobs {
            self.cancel_job(job);
        }
    }

    fn cancel_job(&mut self, job: JobId) {
        match self.admission.cancel(job) {
            // Its response is no longer needed; the worker still reports its end.
            Cancelled::Queued | Cancelled::Running | Cancelled::Unknown => self.jobs.remove(&job),
        };
    }

    fn pump(&mut self, env: &mut Env) {
        loop {
            match self.admission.next(env.now()) {
                Next::Idle => return,
                Next::Run(job, request) => {
                    let fresh = request.deadline.is_none_or(|deadline| deadline > env.now());
                    env.expect(fresh, || "an expired job runs".to_owned());
                    let took = env.millis(5, 400);
                    env.after(took, Happening::Hub(self.boot, HubAlarm::Worked(job, took)));
                }
                Next::Expired(job, _) => {
                    if let Some((at, connection, request)) = self.jobs.remove(&job) {
                        let why = HubFailure::TooLate;
                        self.say(env, at, connection, Down::NotAnswered { request, why });
                    }
                }
            }
            env.expect(self.admission.running() <= LIMITS.running, || "too many jobs run".to_owned());
        }
    }
}
