//! One simulation from start to end: its participants, the times of faults, and the checks at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hub_core::authorise::Standing;
use hub_core::tokens::mint;
use rand::Rng;
use types::Digest;

use crate::device::Device;
use crate::env::{Env, Fault, Happening, IDLE, name};
use crate::hub::Hub;
use crate::scenario::{MODEL, Scenario};
use crate::watch::Watch;
use crate::wire::Up;

/// Delay before an operator retries an operation for which the hub was down.
const OPERATOR_PATIENCE: Duration = Duration::from_secs(10);

/// Chance that a device loses power during an update.
const UNLUCKY: f64 = 0.25;

/// Approximate duration of an undisturbed update.
const UPDATE_TAKES: Duration = Duration::from_secs(12);

/// Delay before a message is retried that found the network disconnected.
const CUT_RETRY: Duration = Duration::from_secs(1);

struct World {
    env: Env,
    hub: Hub,
    devices: Vec<Device>,
}

/// Runs a scenario and returns its results.
#[must_use]
pub fn run(scenario: Scenario) -> Watch {
    let end = scenario.chaos + scenario.quiet;
    let mut world = World::new(scenario);
    while let Some(happening) = world.env.next(end) {
        world.happen(happening);
    }
    world.judge();
    world.env.watch
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut env = Env::new(scenario);
        let secret = |at: usize| Digest::of(format!("secret {at}").as_bytes());
        let tokens = (0..env.scenario.devices).filter_map(|at| mint(secret(at), None, 3600, env.unix_s()).ok());
        let hub = Hub::new(tokens.collect());
        let (own, all) = (env.scenario.devices, env.scenario.devices + env.scenario.thieves);
        let mut devices = Vec::with_capacity(all);
        for at in 0..all {
            let id = name(&if at < own { format!("device-{at}") } else { format!("thief-{at}") });
            let device = Device::new(&mut env, at, id, secret(at % own));
            devices.push(device);
            let start = env.millis(0, 20_000);
            env.after(start, Happening::Fault(Fault::Start(at)));
        }
        let mut world = Self { env, hub, devices };
        world.set_the_stage();
        world
    }

    fn set_the_stage(&mut self) {
        let chaos = self.env.scenario.chaos;
        let versions = u32::try_from(self.env.scenario.versions.len()).unwrap_or(u32::MAX);
        for at in 0..versions {
            self.env.after(chaos * (2 * at + 1) / (2 * versions), Happening::Fault(Fault::Publish));
        }
        for at in 0..self.env.scenario.revoked {
            let when = self.env.time(chaos / 4, chaos);
            self.env.after(when, Happening::Fault(Fault::Revoke(at)));
        }
        self.env.after(Duration::ZERO, Happening::Fault(Fault::Next));
        self.env.after(chaos, Happening::Fault(Fault::Quiet));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Up(at, ..) | Happening::Down(at, ..) if self.env.is_cut(at) => {
                self.env.after(CUT_RETRY, happening);
            }
            // The peer of this handshake no longer exists.
            Happening::Up(at, connection, Up::Connect(_)) if self.devices[at].connection() != Some(connection) => {}
            Happening::Up(at, connection, message) if self.hub.up => {
                self.hub.hear(&mut self.env, at, connection, message);
            }
            Happening::Down(at, connection, message) if self.devices[at].up => {
                self.devices[at].hear(&mut self.env, connection, message);
            }
            Happening::Device(at, boot, alarm) if self.devices[at].up && self.devices[at].boot == boot => {
                self.devices[at].alarm(&mut self.env, alarm);
            }
            Happening::Hub(boot, alarm) if self.hub.up && self.hub.boot == boot => {
                self.hub.alarm(&mut self.env, alarm);
            }
            // The receiver, or the owner of the timer, no longer exists.
            Happening::Up(..) | Happening::Down(..) | Happening::Device(..) | Happening::Hub(..) => {}
            Happening::Fault(fault) => self.fault(fault),
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Next => self.next_fault(),
            Fault::Cut(at) => self.cut(at),
            Fault::Idle(at, cut) if self.env.is_cut_since(at, cut) => {
                if self.devices[at].up && self.devices[at].connection().is_some() {
                    self.devices[at].lost(&mut self.env);
                }
                for connection in self.hub.connections_of(at) {
                    self.hub.drop_connection(&mut self.env, connection);
                }
            }
            Fault::Idle(..) => {}
            Fault::Silent(connection) => self.hub.drop_connection(&mut self.env, connection),
            Fault::Heal(at, cut) if self.env.is_cut_since(at, cut) => self.env.heal(at),
            Fault::Heal(..) => {}
            Fault::Start(at) if !self.devices[at].up => self.devices[at].start(&mut self.env),
            Fault::Start(_) => {}
            Fault::HubStart if !self.hub.up => self.hub.start(),
            Fault::HubStart => {}
            Fault::Publish | Fault::Revoke(_) if !self.hub.up => {
                self.env.after(OPERATOR_PATIENCE, Happening::Fault(fault));
            }
            Fault::Publish => self.publish(),
            Fault::Kill(at) if self.devices[at].up => self.kill(at),
            Fault::Kill(_) => {}
            Fault::Revoke(at) => self.hub.revoke(&mut self.env, &self.devices[at].id),
            Fault::Quiet => self.quiet(),
        }
    }

    /// Publishes a version, and chooses the devices that will lose power during the update.
    fn publish(&mut self) {
        self.hub.publish(&mut self.env);
        for at in 0..self.devices.len() {
            if self.env.chance(UNLUCKY) {
                let when = self.env.time(Duration::ZERO, UPDATE_TAKES);
                self.env.after(when, Happening::Fault(Fault::Kill(at)));
            }
        }
    }

    fn next_fault(&mut self) {
        if !self.env.chaos {
            return;
        }
        let every = self.env.scenario.fault_every;
        let next = self.env.time(Duration::ZERO, every * 2);
        self.env.after(next, Happening::Fault(Fault::Next));
        let at = self.env.random.random_range(0..self.devices.len());
        match self.env.random.random_range(0..100_u32) {
            0..=34 => self.cut(at),
            35..=36 => (0..self.devices.len()).step_by(2).for_each(|at| self.cut(at)),
            37..=74 if self.devices[at].up => self.kill(at),
            75..=94 if self.devices[at].up => self.devices[at].lost(&mut self.env),
            95..=99 if self.hub.up => self.kill_hub(),
            _ => {}
        }
    }

    fn cut(&mut self, at: usize) {
        if self.env.is_cut(at) {
            return;
        }
        self.env.watch.counts.partitions += 1;
        let cut = self.env.cut(at);
        let lasts = self.env.millis(1_000, 300_000);
        self.env.after(lasts, Happening::Fault(Fault::Heal(at, cut)));
        self.env.after(IDLE, Happening::Fault(Fault::Idle(at, cut)));
    }

    fn kill(&mut self, at: usize) {
        self.devices[at].kill(&mut self.env);
        let back = self.env.millis(500, 120_000);
        self.env.after(back, Happening::Fault(Fault::Start(at)));
    }

    fn kill_hub(&mut self) {
        for (at, connection) in self.hub.kill(&mut self.env) {
            let noticed = self.env.time(Duration::ZERO, IDLE);
            self.env.after(noticed, Happening::Down(at, connection, crate::wire::Down::Closed));
        }
        let back = self.env.millis(1_000, 60_000);
        self.env.after(back, Happening::Fault(Fault::HubStart));
    }

    /// Ends all faults.
    fn quiet(&mut self) {
        self.env.chaos = false;
        if !self.hub.up {
            self.hub.start();
        }
        for at in 0..self.devices.len() {
            self.env.heal(at);
            self.fault(Fault::Start(at));
        }
    }

    /// Checks the promises at the end, when everything unfinished had time to end.
    fn judge(&mut self) {
        let last = self.env.scenario.last_version();
        let mut by_token: BTreeMap<Digest, usize> = BTreeMap::new();
        let mut followers = 0;
        for device in &self.devices {
            let env = &mut self.env;
            let enrolled = device.disk.certificate.is_some();
            *by_token.entry(device.token).or_default() += usize::from(enrolled);
            env.expect(enrolled != device.turned_away, || format!("neither in nor out: {}", device.describe()));
            let Some(record) = self.hub.store.records.get(&device.id).filter(|_| enrolled) else { continue };
            if record.standing != Standing::Good {
                let out = !device.is_online() && self.hub.fleet.connection(&device.id).is_none();
                env.expect(out, || format!("revoked and online: {}", device.describe()));
                continue;
            }
            followers += 1;
            env.expect(device.is_online(), || format!("not online: {}", device.describe()));
            env.expect(device.serves() == last, || format!("not converged: {}", device.describe()));
            let kept = 1 + edge_core::slots::KEEP_DEFAULT;
            env.expect(device.disk.complete.len() <= kept, || format!("files left over: {}", device.describe()));
            env.expect(device.reports_waiting() == 0, || format!("reports wait: {}", device.describe()));
            let known = self.hub.fleet.device(&device.id).and_then(|seen| seen.model(&name(MODEL)));
            let active = known.and_then(|model| model.active.as_ref()).map(|active| active.version);
            env.expect(active == last, || format!("the hub thinks {active:?} serves: {}", device.describe()));
        }
        let one_each = by_token.values().all(|enrolled| *enrolled == 1);
        self.env.expect(one_each, || format!("a token let in more or less than one: {by_token:?}"));
        self.env.expect(followers > 0, || "nobody was left to converge".to_owned());
    }
}
