//! The simulated hub: a shell around `hub_core`, with a store that survives its restarts.

mod inference;

use std::collections::BTreeMap;

use edge_core::renewal::Validity;
use edge_core::slots::Slots;
use edge_core::update;
use edge_core::uplink::Rejection;
use hub_core::admission::{Admission, JobId};
use hub_core::authorise::{Admitted, DeviceRecord, Presented, Refused, ShownKey, Standing, authorise};
use hub_core::fleet::{ConnectionId, Device, Fleet, Follows, Greeting, Installed, Machine, Report};
use hub_core::registry::{Change, Publish, Registry, VersionRecord};
use hub_core::tokens::{Claim, Redeemed, TokenRecord, redeem};
use types::{DeviceId, Digest, ModelName, Version};

use crate::env::{Env, name};
use crate::scenario::MODEL;
use crate::wire::{Connection, Down, Up};

pub use inference::HubAlarm;

/// Chance that a connection breaks between the record of a renewal and its response.
const ANSWER_LOST: f64 = 0.1;

/// Seconds for which an expired certificate may still be renewed: none, so that a late renewal is visible.
const NO_GRACE: u64 = 0;

/// State that survives the hub.
#[derive(Debug, Default)]
pub struct Store {
    /// Join tokens by the digest of their secret.
    pub tokens: BTreeMap<Digest, TokenRecord>,
    /// Enrolled devices.
    pub records: BTreeMap<DeviceId, DeviceRecord>,
    devices: BTreeMap<DeviceId, Device>,
    versions: Vec<VersionRecord>,
    current: Option<Version>,
}

/// The simulated hub.
pub struct Hub {
    /// Number of starts of the hub.
    pub boot: u64,
    /// Whether the hub runs.
    pub up: bool,
    /// State that survives the hub.
    pub store: Store,
    /// Online devices and the state of versions.
    pub fleet: Fleet,
    registry: Registry,
    admission: Admission,
    jobs: BTreeMap<JobId, (usize, Connection, u64)>,
    /// Device of each live connection.
    connections: BTreeMap<Connection, (usize, DeviceId)>,
}

impl Hub {
    /// Creates a running hub with these tokens.
    #[must_use]
    pub fn new(tokens: Vec<TokenRecord>) -> Self {
        let tokens = tokens.into_iter().map(|token| (token.secret, token)).collect();
        Self {
            boot: 0,
            up: true,
            store: Store { tokens, ..Store::default() },
            fleet: Fleet::default(),
            registry: Registry::default(),
            admission: Admission::new(inference::LIMITS),
            jobs: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    /// Kills the hub. Returns the devices whose connections end with it.
    pub fn kill(&mut self, env: &mut Env) -> Vec<(usize, Connection)> {
        env.watch.counts.hub_killed += 1;
        self.up = false;
        self.boot += 1;
        self.fleet = Fleet::default();
        self.registry = Registry::default();
        self.admission = Admission::new(inference::LIMITS);
        self.jobs.clear();
        std::mem::take(&mut self.connections).into_iter().map(|(connection, (at, _))| (at, connection)).collect()
    }

    /// Starts the hub again from its store.
    pub fn start(&mut self) {
        self.up = true;
        self.registry.restore(name(MODEL), self.store.versions.clone(), self.store.current);
        for (id, device) in &self.store.devices {
            self.fleet.restore(id.clone(), device.clone());
        }
    }

    /// Publishes the next version, as the operator does.
    pub fn publish(&mut self, env: &mut Env) {
        let model: ModelName = name(MODEL);
        let number = u64::try_from(self.store.versions.len()).unwrap_or(u64::MAX).saturating_add(1);
        let Some(version) = Version::new(number) else { return };
        let manifest = Digest::of(&number.to_le_bytes());
        let record = VersionRecord { version, manifest, published_unix_s: env.unix_s(), held: false, released: false };
        let change = self.registry.publish(&model, record.clone(), Publish::Offer);
        env.expect(change == Ok(Change::Current(version)), || format!("version {version} was refused: {change:?}"));
        self.store.versions.push(record);
        self.store.current = Some(version);
        for recipient in self.fleet.publish(&model, version) {
            if let Some((at, _)) = self.connections.get(&recipient.connection.0) {
                self.say(env, *at, recipient.connection.0, Down::Offer(recipient.offer.version));
            }
        }
    }

    /// Revokes a device, as the operator does.
    pub fn revoke(&mut self, env: &mut Env, id: &DeviceId) {
        let Some(record) = self.store.records.get_mut(id) else { return };
        *record = record.revoked("stolen", env.unix_s());
        if let Some(ConnectionId(connection)) = self.fleet.revoked(id, env.unix_s()) {
            let at = self.connections.get(&connection).map(|(at, _)| *at);
            self.drop_connection(env, connection);
            if let Some(at) = at {
                env.send_down(at, connection, Down::Rejected(Rejection::Revoked));
            }
        }
    }

    /// Drops a connection that was silent for too long or whose device closed it.
    pub fn drop_connection(&mut self, env: &mut Env, connection: Connection) {
        if let Some((_, id)) = self.connections.remove(&connection) {
            self.fleet.disconnected(&id, ConnectionId(connection), env.unix_s());
            self.cancel_all(connection);
        }
    }

    /// Returns the connections of a device.
    #[must_use]
    pub fn connections_of(&self, at: usize) -> Vec<Connection> {
        self.connections.iter().filter(|(_, (owner, _))| *owner == at).map(|(connection, _)| *connection).collect()
    }

    /// Handles a message from a device.
    pub fn hear(&mut self, env: &mut Env, at: usize, connection: Connection, message: Up) {
        match message {
            Up::Enrol { secret, claim } => self.enrol(env, at, connection, secret, &claim),
            Up::Connect(presented) => self.connect(env, at, connection, &presented),
            Up::Hello(_)
            | Up::Metadata
            | Up::Blob { .. }
            | Up::Report { .. }
            | Up::Renew { .. }
            | Up::Infer { .. }
            | Up::Cancel { .. } => match self.connections.get(&connection) {
                Some((_, id)) => {
                    let id = id.clone();
                    self.serve(env, at, connection, &id, message);
                }
                // A QUIC endpoint responds to an unknown connection with a stateless reset.
                None => env.send_down(at, connection, Down::Closed),
            },
        }
    }

    fn enrol(&mut self, env: &mut Env, at: usize, connection: Connection, secret: Digest, claim: &Claim) {
        let stored = self.store.tokens.get(&secret);
        let enrolled = match redeem(stored, claim, env.unix_s()) {
            Ok(Redeemed::First(used)) => {
                env.watch.counts.enrolled += 1;
                self.store.tokens.insert(secret, used);
                let record = DeviceRecord::enrolled(claim.device.clone(), claim.key, env.unix_s());
                let before = self.store.records.insert(claim.device.clone(), record);
                env.expect(before.is_none(), || format!("{} was enrolled twice", claim.device));
                true
            }
            Ok(Redeemed::Again(_)) => true,
            Err(_) => {
                env.watch.counts.tokens_refused += 1;
                false
            }
        };
        let answer = if enrolled { Down::Enrolled(validity(env)) } else { Down::NotEnrolled };
        env.send_down(at, connection, answer);
    }

    fn connect(&mut self, env: &mut Env, at: usize, connection: Connection, presented: &Presented) {
        let record = self.store.records.get(&presented.id);
        let answer = match authorise(record, presented, NO_GRACE, env.unix_s()) {
            Ok(admitted) => {
                self.let_in(env, at, connection, &presented.id, admitted);
                Down::Connected
            }
            Err(Refused::Revoked) => {
                env.watch.counts.revoked_refused += 1;
                Down::Rejected(Rejection::Revoked)
            }
            Err(Refused::Unknown | Refused::WrongKey) => Down::Rejected(Rejection::NotAuthorised),
            Err(Refused::Expired) => Down::Rejected(Rejection::CertificateExpired),
        };
        env.send_down(at, connection, answer);
    }

    fn let_in(&mut self, env: &mut Env, at: usize, connection: Connection, id: &DeviceId, admitted: Admitted) {
        match (admitted.key, self.store.records.get_mut(id)) {
            (ShownKey::Renewed, Some(record)) => *record = record.promoted(),
            (ShownKey::Known | ShownKey::Renewed, _) => {}
        }
        if let Some(ConnectionId(earlier)) = self.fleet.connected(id, ConnectionId(connection), env.unix_s()) {
            self.connections.remove(&earlier);
            self.cancel_all(earlier);
            env.send_down(at, earlier, Down::Closed);
        }
        self.connections.insert(connection, (at, id.clone()));
    }

    /// Serves an authorised connection.
    fn serve(&mut self, env: &mut Env, at: usize, connection: Connection, id: &DeviceId, message: Up) {
        match message {
            Up::Hello(slots) => self.greet(env, at, connection, id, slots),
            Up::Metadata => self.say(env, at, connection, Down::Metadata),
            Up::Blob { version, part } => self.say(env, at, connection, Down::Blob { version, part }),
            Up::Report { entry, report } => {
                let kept = self.fleet.reported(id, ConnectionId(connection), reported(report), env.unix_s());
                env.expect(kept.is_ok(), || format!("a report of {id} came over a replaced connection"));
                self.keep(id);
                env.watch.counts.reports += 1;
                self.say(env, at, connection, Down::Accepted { entry });
            }
            Up::Renew { key } => {
                if let Some(record) = self.store.records.get_mut(id) {
                    *record = record.renewing(key);
                }
                env.watch.counts.renewed += 1;
                if env.chaos && env.chance(ANSWER_LOST) {
                    // The record is stored but the device receives no response: its old key must still be valid.
                    self.drop_connection(env, connection);
                    return env.send_down(at, connection, Down::Closed);
                }
                let validity = validity(env);
                self.say(env, at, connection, Down::Renewed { key, validity });
            }
            Up::Infer { request, policy, left } => {
                env.expect(policy.may_leave_device(), || format!("an only-device input of {id} left the device"));
                self.infer(env, (at, connection, request), id, left);
            }
            Up::Cancel { request } => self.cancel(connection, request),
            // These need no connection and are served before this point.
            Up::Enrol { .. } | Up::Connect(_) => {}
        }
    }

    fn greet(&mut self, env: &mut Env, at: usize, connection: Connection, id: &DeviceId, slots: Slots) {
        env.watch.counts.greeted += 1;
        let model = name(MODEL);
        let follows =
            Follows { model, active: slots.active.map(here), previous: slots.previous.into_iter().next().map(here) };
        let greeting =
            Greeting { agent_version: "0.1.0".to_owned(), machine: Machine::default(), models: vec![follows] };
        let registry = &self.registry;
        let offers = self.fleet.greeted(id, ConnectionId(connection), greeting, |model| registry.current(model));
        self.keep(id);
        let offers = offers.map(|offers| offers.into_iter().map(|offer| offer.version).collect()).unwrap_or_default();
        self.say(env, at, connection, Down::Welcome { hub_unix_ms: env.unix_s() * 1000, offers });
    }

    /// Sends a message to a served device; no such message may reach a revoked one.
    fn say(&self, env: &mut Env, at: usize, connection: Connection, message: Down) {
        if let Some((_, id)) = self.connections.get(&connection) {
            let good = self.store.records.get(id).is_some_and(|record| record.standing == Standing::Good);
            env.expect(good, || format!("{id} is revoked and was told {message:?}"));
        }
        env.send_down(at, connection, message);
    }

    fn keep(&mut self, id: &DeviceId) {
        if let Some(device) = self.fleet.device(id) {
            self.store.devices.insert(id.clone(), device.clone());
        }
    }
}

fn validity(env: &Env) -> Validity {
    Validity { not_before: env.unix_s(), not_after: env.unix_s() + env.scenario.certificate_s }
}

fn here(installed: edge_core::slots::Installed) -> Installed {
    Installed { version: installed.version, variant: installed.variant, digest: installed.digest }
}

/// Converts a device's report to the hub's type, as the two daemons do through `protocol`.
fn reported(report: update::Report) -> Report {
    let update::Report { model, version, stage, outcome } = report;
    let installed = match &outcome {
        update::Outcome::Active(serves) => Some(here(serves.clone())),
        _ => None,
    };
    let outcome = outcome.map(|_installed| (), |failure| failure.to_string());
    let variant = installed.as_ref().map(|installed| installed.variant.clone());
    Report { model, version, variant, stage, outcome, installed }
}
