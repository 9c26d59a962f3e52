//! A simulated device: a shell around `edge_core`, with a disk that survives its restarts.

mod requests;
mod updates;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use edge_core::outbox::{Entry, Outbox};
use edge_core::renewal::{self, ClockSkew, Renewal, Validity};
use edge_core::route;
use edge_core::slots::Slots;
use edge_core::update::orders::Orders;
use edge_core::update::probation::Probation;
use edge_core::update::{
    self, Failure, FailureKind, LastEnd, OfferKind, OnDisk, Report, Settings, Updater, before_load, resume,
};
use edge_core::uplink::{self, State as UplinkState, Uplink};
use hub_core::authorise::Presented;
use hub_core::tokens::Claim;
use types::{DeviceId, Digest, Version};

use crate::env::{Env, Fault, Happening, IDLE, name};
use crate::scenario::MODEL;
use crate::wire::{Connection, Down, Up};

/// Timeout of requests other than inferences.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);

/// Interval at which the renewal is polled.
const RENEWAL_TICK: Duration = Duration::from_secs(60);

/// Maximum number of waiting reports; the simulation never reaches it.
const OUTBOX: usize = 100;

/// A timer or job of a device.
#[derive(Debug, Clone)]
pub enum Alarm {
    /// Wake-up time of a core.
    Wake,
    /// Timeout of an enrolment.
    Enrol,
    /// Time to poll the renewal.
    Renewal,
    /// Timeout of a renewal with this key.
    NotRenewed(Digest),
    /// Timeout of a report.
    NotAccepted(u64),
    /// End of a job of an update.
    Job(u64, Result<(), FailureKind>),
    /// Arrival of a request from an application.
    Request,
    /// End of a run on the device.
    Local(u64, route::Event),
    /// The hedge delay of a request is over.
    Hedge(u64),
    /// Timeout of a request to the hub.
    TooLate(u64),
}

/// State that survives the agent.
#[derive(Debug)]
pub struct Disk {
    keys: u64,
    key: Digest,
    /// Certificate, once enrolled.
    pub certificate: Option<Validity>,
    /// Pointers to the installed versions.
    pub slots: Slots,
    /// Versions whose files are complete.
    pub complete: BTreeSet<Version>,
    partial: BTreeSet<Version>,
    failed: BTreeMap<Version, Failure>,
    orders: Orders,
    probation: Option<Probation>,
    outbox: BTreeMap<u64, Entry<Report>>,
}

/// State that does not survive the agent.
struct Agent {
    uplink: Uplink,
    connection: Option<Connection>,
    updater: Updater,
    renewal: Option<Renewal>,
    asked_key: Option<Digest>,
    skew: ClockSkew,
    outbox: Outbox<Report>,
    job: Option<updates::Job>,
    jobs: u64,
    served: Option<Version>,
    requests: BTreeMap<u64, requests::Pending>,
    requests_made: u64,
    wakes: BTreeSet<Instant>,
}

/// A simulated device.
pub struct Device {
    /// Index of the device in the simulation.
    pub at: usize,
    /// Name of the device.
    pub id: DeviceId,
    /// Number of starts of its agent.
    pub boot: u64,
    /// Whether its agent runs.
    pub up: bool,
    /// Digest of its join token.
    pub token: Digest,
    /// Whether the hub has refused its token.
    pub turned_away: bool,
    /// State that survives the agent.
    pub disk: Disk,
    skew_s: i64,
    ever_active: bool,
    agent: Agent,
}

impl Device {
    /// Creates a device that is not enrolled, with a clock that may be days off.
    pub fn new(env: &mut Env, at: usize, id: DeviceId, token: Digest) -> Self {
        let day = 86_400_i64;
        let skew_s = rand::Rng::random_range(&mut env.random, -2 * day..=2 * day);
        let disk = Disk {
            keys: 0,
            key: key_of(&id, 0),
            certificate: None,
            slots: Slots::default(),
            complete: BTreeSet::new(),
            partial: BTreeSet::new(),
            failed: BTreeMap::new(),
            orders: Orders::default(),
            probation: None,
            outbox: BTreeMap::new(),
        };
        let (agent, _) = Agent::start(&disk, 0);
        Self { at, id, boot: 0, up: false, token, turned_away: false, disk, skew_s, ever_active: false, agent }
    }

    /// Returns the version that serves here.
    #[must_use]
    pub fn serves(&self) -> Option<Version> {
        self.agent.served
    }

    /// Returns whether the hub has welcomed the device.
    #[must_use]
    pub fn is_online(&self) -> bool {
        matches!(self.agent.uplink.state(), UplinkState::Online { .. })
    }

    /// Describes the state of the device, for a broken promise.
    #[must_use]
    pub fn describe(&self) -> String {
        let agent = &self.agent;
        format!(
            "{}: {}, update {:?}, {:?}, {} reports wait, failed {:?}",
            self.id,
            agent.uplink.state().name(),
            agent.updater.state(),
            self.disk.slots,
            agent.outbox.len(),
            self.disk.failed
        )
    }

    /// Returns whether an update is in progress.
    #[must_use]
    pub fn is_updating(&self) -> bool {
        self.agent.job.is_some()
    }

    /// Returns the number of waiting reports.
    #[must_use]
    pub fn reports_waiting(&self) -> usize {
        self.agent.outbox.len()
    }

    /// Starts the agent from its disk.
    pub fn start(&mut self, env: &mut Env) {
        self.up = true;
        let (agent, steps) = Agent::start(&self.disk, env.draw());
        self.agent = agent;
        self.obey_all(env, steps);
        self.agent.served = self.disk.slots.active_version();
        self.check(env);
        self.later(env, RENEWAL_TICK, Alarm::Renewal);
        let first = env.time(Duration::ZERO, env.scenario.request_every);
        self.later(env, first, Alarm::Request);
        match self.disk.certificate {
            Some(_) => self.uplink(env, uplink::Event::Start),
            None => self.enrol(env),
        }
        self.set_wakes(env);
    }

    /// Ends the agent, as a kill or a power cut does.
    pub fn kill(&mut self, env: &mut Env) {
        env.watch.counts.killed += 1;
        env.watch.counts.killed_updating += u64::from(self.is_updating());
        self.cut_off_job(env);
        self.up = false;
        self.boot += 1;
        self.hub_will_notice(env);
        self.agent.connection = None;
    }

    /// Handles the loss of the connection.
    pub fn lost(&mut self, env: &mut Env) {
        self.hub_will_notice(env);
        match self.agent.uplink.state() {
            UplinkState::Greeting { .. } | UplinkState::Online { .. } => self.uplink(env, uplink::Event::Lost),
            UplinkState::Dialing { .. } => self.uplink(env, uplink::Event::Failed { retry_after: None }),
            UplinkState::Stopped | UplinkState::BackingOff { .. } | UplinkState::Rejected { .. } => {}
        }
        self.set_wakes(env);
    }

    /// Returns the connection in use.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        self.agent.connection
    }

    /// Handles a timer or job of this run of the agent.
    pub fn alarm(&mut self, env: &mut Env, alarm: Alarm) {
        match alarm {
            Alarm::Wake => {
                self.agent.wakes.remove(&env.now());
                self.uplink(env, uplink::Event::Tick);
                self.update(env, update::Event::Tick);
            }
            Alarm::Enrol => self.enrol(env),
            Alarm::Renewal => {
                self.later(env, RENEWAL_TICK, Alarm::Renewal);
                if self.is_online() {
                    self.renew(env, renewal::Event::Tick);
                }
            }
            Alarm::NotRenewed(key) if self.agent.asked_key == Some(key) => self.renew(env, renewal::Event::Failed),
            Alarm::NotRenewed(_) => {}
            Alarm::NotAccepted(entry) if self.disk.outbox.contains_key(&entry) => {
                self.agent.outbox.not_delivered();
                self.send_report(env);
            }
            Alarm::NotAccepted(_) => {}
            Alarm::Job(number, result) => self.job_done(env, number, result),
            Alarm::Request => self.request(env),
            Alarm::Local(request, event) => self.route(env, request, event),
            Alarm::TooLate(request) => self.too_late(env, request),
            Alarm::Hedge(request) => self.route(env, request, route::Event::Tick),
        }
        self.check(env);
        self.set_wakes(env);
    }

    /// Handles a message from the hub.
    pub fn hear(&mut self, env: &mut Env, connection: Connection, message: Down) {
        match message {
            Down::Enrolled(validity) if self.disk.certificate.is_none() => {
                self.disk.certificate = Some(validity);
                self.agent.renewal = Some(Renewal::new(validity, env.draw()));
                self.uplink(env, uplink::Event::Start);
            }
            Down::NotEnrolled => self.turned_away = self.disk.certificate.is_none(),
            message if self.agent.connection == Some(connection) => self.hear_hub(env, message),
            _of_an_earlier_connection => {}
        }
        self.check(env);
        self.set_wakes(env);
    }

    fn hear_hub(&mut self, env: &mut Env, message: Down) {
        match message {
            Down::Connected => self.uplink(env, uplink::Event::Connected),
            Down::Rejected(why) => self.uplink(env, uplink::Event::Rejected(why)),
            Down::Closed => self.lost(env),
            Down::Welcome { hub_unix_ms, offers } => self.welcomed(env, hub_unix_ms, offers),
            Down::Offer(version) => self.offered(env, version),
            Down::Metadata => self.metadata_came(env),
            Down::Blob { version, part } => self.part_came(env, version, part),
            Down::Accepted { entry } => {
                self.agent.outbox.acknowledged(edge_core::outbox::EntryId(entry));
                self.disk.outbox.remove(&entry);
                self.send_report(env);
            }
            Down::Renewed { key, validity } if self.agent.asked_key == Some(key) => {
                (self.disk.key, self.disk.certificate) = (key, Some(validity));
                self.renew(env, renewal::Event::Renewed(validity));
            }
            Down::Renewed { .. } | Down::Enrolled(_) | Down::NotEnrolled => {}
            Down::Answered { request } => self.route(env, request, route::Event::HubAnswered),
            Down::NotAnswered { request, why } => self.route(env, request, route::Event::HubFailed(why)),
        }
    }

    fn enrol(&mut self, env: &mut Env) {
        if self.disk.certificate.is_some() || self.turned_away {
            return;
        }
        let claim = Claim { device: self.id.clone(), key: self.disk.key };
        env.send_up(self.at, 0, Up::Enrol { secret: self.token, claim });
        let again = env.millis(5_000, 30_000);
        self.later(env, again, Alarm::Enrol);
    }

    fn uplink(&mut self, env: &mut Env, event: uplink::Event) {
        match self.agent.uplink.handle(event, env.now(), env.draw()) {
            Ok(steps) => steps.into_iter().for_each(|step| self.uplink_step(env, step)),
            Err(refused) => env.expect(false, || refused.to_string()),
        }
    }

    fn uplink_step(&mut self, env: &mut Env, step: uplink::Step) {
        match step {
            uplink::Step::Dial { .. } => {
                self.offline(env);
                let connection = env.dial();
                self.agent.connection = Some(connection);
                let not_after_unix_s = self.disk.certificate.map_or(0, |held| held.not_after);
                let presented = Presented { id: self.id.clone(), key: self.disk.key, not_after_unix_s };
                env.send_up(self.at, connection, Up::Connect(presented));
            }
            uplink::Step::Greet => self.say(env, Up::Hello(self.disk.slots.clone())),
            uplink::Step::Wait { .. } | uplink::Step::Reject { .. } | uplink::Step::Close => self.offline(env),
            uplink::Step::GoOnline => {}
        }
    }

    fn welcomed(&mut self, env: &mut Env, hub_unix_ms: u64, offers: Vec<Version>) {
        self.uplink(env, uplink::Event::Welcomed);
        self.agent.skew = ClockSkew::measured(self.own_unix_s(env) * 1000, hub_unix_ms);
        self.update(env, update::Event::HubOnline);
        for version in offers {
            self.offered(env, version);
        }
        self.renew(env, renewal::Event::Online);
        self.send_report(env);
    }

    /// Informs every part that waits for the hub of the loss of the connection.
    fn offline(&mut self, env: &mut Env) {
        if self.agent.connection.take().is_none() {
            return;
        }
        self.agent.outbox.not_delivered();
        self.update(env, update::Event::HubAway);
        self.job_lost_hub(env);
        if self.agent.asked_key.is_some() {
            self.renew(env, renewal::Event::Failed);
        }
        self.requests_lost_hub(env);
    }

    fn offered(&mut self, env: &mut Env, version: Version) {
        self.update(env, update::Event::Offered { version, kind: OfferKind::Fleet });
    }

    fn renew(&mut self, env: &mut Env, event: renewal::Event) {
        let now = self.agent.skew.to_hub_time(self.own_unix_s(env));
        let random = env.draw();
        let Some(renewal) = &mut self.agent.renewal else { return };
        let steps = renewal.handle(event, now, random);
        match event {
            renewal::Event::Renewed(_) | renewal::Event::Failed => self.agent.asked_key = None,
            renewal::Event::Tick | renewal::Event::Online => {}
        }
        match steps {
            Ok(steps) if steps.contains(&renewal::Step::RequestCertificate) => {
                self.disk.keys += 1;
                let key = key_of(&self.id, self.disk.keys);
                self.agent.asked_key = Some(key);
                self.say(env, Up::Renew { key });
                self.later(env, ANSWERED_WITHIN, Alarm::NotRenewed(key));
            }
            Ok(_nothing) => {}
            Err(refused) => env.expect(false, || refused.to_string()),
        }
    }

    fn send_report(&mut self, env: &mut Env) {
        if !self.is_online() {
            return;
        }
        let Some(entry) = self.agent.outbox.send().cloned() else { return };
        self.later(env, ANSWERED_WITHIN, Alarm::NotAccepted(entry.id.0));
        self.say(env, Up::Report { entry: entry.id.0, report: entry.report });
    }

    /// Returns the device's own clock, which may be wrong.
    fn own_unix_s(&self, env: &Env) -> u64 {
        env.unix_s().saturating_add_signed(self.skew_s)
    }

    fn say(&self, env: &mut Env, message: Up) {
        if let Some(connection) = self.agent.connection {
            env.send_up(self.at, connection, message);
        }
    }

    fn later(&self, env: &mut Env, delay: Duration, alarm: Alarm) {
        env.after(delay, Happening::Device(self.at, self.boot, alarm));
    }

    fn hub_will_notice(&self, env: &mut Env) {
        if let Some(connection) = self.agent.connection {
            env.after(IDLE, Happening::Fault(Fault::Silent(connection)));
        }
    }

    fn set_wakes(&mut self, env: &mut Env) {
        let timeouts = [self.agent.uplink.poll_timeout(), self.agent.updater.poll_timeout()];
        for (at, _) in timeouts.into_iter().flatten() {
            if self.agent.wakes.insert(at) {
                env.at(at, Happening::Device(self.at, self.boot, Alarm::Wake));
            }
        }
    }

    /// Checks the invariants of the device after every event.
    fn check(&mut self, env: &mut Env) {
        let slots = &self.disk.slots;
        let whole = slots.all().all(|slot| self.disk.complete.contains(&slot.version));
        env.expect(whole, || format!("a pointer names an incomplete version: {}", self.describe()));
        self.ever_active |= self.agent.served.is_some();
        let serves = !self.ever_active || self.agent.served.is_some();
        env.expect(serves, || format!("nothing serves any more: {}", self.describe()));
    }
}

impl Agent {
    fn start(disk: &Disk, random: u64) -> (Self, Vec<update::Step>) {
        let found = OnDisk {
            slots: disk.slots.clone(),
            complete: disk.complete.iter().map(|version| updates::installed(*version)).collect(),
            partial: disk.partial.iter().copied().collect(),
            listed: disk.complete.iter().copied().collect(),
            failed: disk.failed.clone(),
            orders: disk.orders.clone(),
            probation: disk.probation.clone(),
        };
        let (settings, model) = (Settings::default(), name(MODEL));
        let (found, mut steps) = before_load(&model, &settings, found, LastEnd::Orderly);
        let (updater, rest) = resume(model, settings, found);
        steps.extend(rest);
        let (outbox, _) = Outbox::restore(OUTBOX, disk.outbox.values().cloned().collect());
        #[expect(clippy::unwrap_used, reason = "an address is given")]
        let uplink = Uplink::new(vec!["hub:4433".to_owned()]).unwrap();
        let agent = Self {
            uplink,
            connection: None,
            updater,
            renewal: disk.certificate.map(|held| Renewal::new(held, random)),
            asked_key: None,
            skew: ClockSkew::default(),
            outbox,
            job: None,
            jobs: 0,
            served: None,
            requests: BTreeMap::new(),
            requests_made: 0,
            wakes: BTreeSet::new(),
        };
        (agent, steps)
    }
}

fn key_of(id: &DeviceId, number: u64) -> Digest {
    Digest::of(format!("{id} {number}").as_bytes())
}
