//! Who is online, who follows what, who is offered what, and how each version fares on each device.
//!
//! Fed by the gateway (connections, greetings, reports) and the admin API (publishing, revoking); answers with offers
//! to send and connections to close. What a device says of itself is kept under the name in its certificate and is
//! believed for display and for what to offer, never for what it may do. The shell stores a [`Device`] when a greeting
//! or report has changed it, and restores it when it starts.

mod clones;
mod device;

use std::collections::BTreeMap;

use types::{DeviceId, ModelName, VariantName, Version};

pub use clones::{Cloned, LOGGED_EVERY_S, RETURNS_TOLD, RETURNS_WITHIN_S, SHOWN_FOR_S, Sighting};
pub use device::{
    CAUSE_BYTES_MAX, Device, DriftAlarm, EngineOfDevice, Follows, Greeting, Installed, MODELS_MAX, Machine, Model,
    Outcome, Presence, Progress, Report, Running, VERSIONS_MAX,
};

/// Names a live connection; the gateway gives each a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A version to be offered to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Name of the model.
    pub model: ModelName,
    /// Number of the version.
    pub version: Version,
}

/// An offer and where to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Device that gets the offer.
    pub device: DeviceId,
    /// Connection that the offer is sent over.
    pub connection: ConnectionId,
    /// Offer that is sent.
    pub offer: Offer,
}

/// A connection spoke that is not (or no longer) the device's connection: close it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection of {0} was replaced by a newer one")]
pub struct Replaced(pub DeviceId);

/// Returns the spread of a version over the devices that follow its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spread {
    /// Devices that follow the model.
    pub followers: u64,
    /// Of these: it serves.
    pub active: u64,
    /// It was taken up.
    pub started: u64,
    /// It has failed and will be tried again.
    pub retrying: u64,
    /// It has failed for good.
    pub rejected: u64,
    /// It was not taken, because a newer version serves.
    pub superseded: u64,
    /// It served before, and the device went back.
    pub rolled_back: u64,
    /// Nothing was heard of it.
    pub silent: u64,
}

/// All devices that were ever heard of.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    devices: BTreeMap<DeviceId, Device>,
    connections: BTreeMap<DeviceId, ConnectionId>,
    processes: BTreeMap<DeviceId, clones::Processes>,
}

impl Fleet {
    /// Puts back what was stored of a device.
    pub fn restore(&mut self, id: DeviceId, device: Device) {
        self.devices.insert(id, device);
    }

    /// An authorised connection. Returns the device's earlier one, to be closed: a device has one, and the newest is
    /// the one it uses (after a network change, or on a disk that was cloned).
    pub fn connected(&mut self, id: &DeviceId, connection: ConnectionId, now_unix_s: u64) -> Option<ConnectionId> {
        self.devices.entry(id.clone()).or_default().presence = Presence::Online { since_unix_s: now_unix_s };
        self.connections.insert(id.clone(), connection).filter(|earlier| *earlier != connection)
    }

    /// A device's greeting. Returns what it is to be offered: of each model it follows, the current version where that
    /// is above the active one and was not given up there.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn greeted(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        greeting: Greeting,
        current: impl Fn(&ModelName) -> Option<Version>,
    ) -> Result<Vec<Offer>, Replaced> {
        let device = self.speaking(id, connection)?;
        device.greet(greeting);
        let wanted = device.models().filter_map(|(model, status)| {
            let version = current(model).filter(|version| status.wants(*version))?;
            Some(Offer { model: model.clone(), version })
        });
        Ok(wanted.collect())
    }

    /// Notes which process of an agent greets over a connection. Returns the clone to log, if two machines turn out to
    /// share the identity and that was not logged lately; [`Device::cloned`] keeps it.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn sighted(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        sighting: Sighting,
        now_unix_s: u64,
    ) -> Result<Option<Cloned>, Replaced> {
        self.speaking(id, connection)?;
        let revealed = self.processes.entry(id.clone()).or_default().greeted(sighting, now_unix_s);
        let Some(revealed) = revealed else { return Ok(None) };
        let device = self.speaking(id, connection)?;
        let earlier = device.cloned.take().filter(|cloned| cloned.is_shown(now_unix_s));
        let first_unix_s = earlier.map_or(now_unix_s, |cloned| cloned.first_unix_s);
        let cloned = Cloned { addresses: revealed.addresses, first_unix_s, last_unix_s: now_unix_s };
        device.cloned = Some(cloned.clone());
        Ok(Some(cloned).filter(|_cloned| revealed.log))
    }

    /// Forgets that two machines shared an identity: the device has a new one.
    pub fn forget_clone(&mut self, id: &DeviceId) {
        self.processes.remove(id);
        if let Some(device) = self.devices.get_mut(id) {
            device.cloned = None;
        }
    }

    /// A device's report. It may come twice, and late.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn reported(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        report: Report,
        now_unix_s: u64,
    ) -> Result<(), Replaced> {
        self.speaking(id, connection)?.report(report, now_unix_s);
        Ok(())
    }

    /// Takes what runs on a device, in place of what it said before.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn runs(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        running: Vec<(ModelName, Running)>,
    ) -> Result<(), Replaced> {
        self.speaking(id, connection)?.runs(running);
        Ok(())
    }

    /// Takes the alarms of drift of a device, in place of what it said before.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn drifts(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        alarms: Vec<(ModelName, DriftAlarm)>,
    ) -> Result<(), Replaced> {
        self.speaking(id, connection)?.drifts(alarms);
        Ok(())
    }

    /// Returns the number of devices that serve a version and report an alarm of drift about it.
    #[must_use]
    pub fn drifting(&self, model: &ModelName, version: Version) -> usize {
        let alarm = |device: &Device| device.model(model).and_then(Model::drift_of_active);
        self.devices.values().filter_map(alarm).filter(|alarm| alarm.version == version).count()
    }

    /// Returns the number of devices with an alarm of drift, by model.
    #[must_use]
    pub fn alarmed(&self) -> BTreeMap<ModelName, usize> {
        let mut alarmed = BTreeMap::new();
        for (name, _model) in
            self.devices.values().flat_map(Device::models).filter(|(_name, model)| model.drift_of_active().is_some())
        {
            *alarmed.entry(name.clone()).or_default() += 1;
        }
        alarmed
    }

    /// A device fetches the manifest of a version. Store the device before the manifest is served: from then on it may
    /// have the version, whatever becomes of its reports.
    ///
    /// # Errors
    /// [`Replaced`].
    pub fn takes(
        &mut self,
        id: &DeviceId,
        connection: ConnectionId,
        model: &ModelName,
        version: Version,
        now_unix_s: u64,
    ) -> Result<(), Replaced> {
        self.speaking(id, connection)?.takes(model, version, now_unix_s);
        Ok(())
    }

    /// The devices that have a version, or may have it, by name.
    #[must_use]
    pub fn holders(&self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        let holds = |device: &Device| device.model(model).is_some_and(|status| status.may_have(version));
        self.devices.iter().filter(|(_id, device)| holds(device)).map(|(id, _device)| id.clone()).collect()
    }

    /// Returns the variants of a model that devices hold, with the number of devices: active or previous, as they said last.
    #[must_use]
    pub fn held(&self, model: &ModelName) -> BTreeMap<(Version, VariantName), u64> {
        let mut held = BTreeMap::new();
        for status in self.devices.values().filter_map(|device| device.model(model)) {
            for installed in status.active.iter().chain(&status.previous) {
                *held.entry((installed.version, installed.variant.clone())).or_default() += 1;
            }
        }
        held
    }

    /// Returns the devices that hold a version or are installing it, by name. Those that had it once are not among them.
    #[must_use]
    pub fn keepers(&self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        let keeps = |device: &Device| device.model(model).is_some_and(|status| status.keeps(version));
        self.devices.iter().filter(|(_id, device)| keeps(device)).map(|(id, _device)| id.clone()).collect()
    }

    /// A version was withdrawn. Returns the devices of which something changed, to be stored.
    pub fn withdrawn(&mut self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        let changed =
            self.devices.iter_mut().filter_map(|(id, device)| device.forget(model, version).then(|| id.clone()));
        changed.collect()
    }

    /// A connection is gone. That of one that was replaced changes nothing.
    pub fn disconnected(&mut self, id: &DeviceId, connection: ConnectionId, now_unix_s: u64) {
        if self.connections.get(id) != Some(&connection) {
            return;
        }
        self.connections.remove(id);
        if let Some(device) = self.devices.get_mut(id) {
            device.presence = Presence::Away { since_unix_s: now_unix_s };
        }
    }

    /// A version became current. Returns whom to tell: who is online, follows the model and wants it. The others
    /// hear of it at their greeting.
    #[must_use]
    pub fn publish(&self, model: &ModelName, version: Version) -> Vec<Recipient> {
        self.recipients(model, version, |status| status.wants(version))
    }

    /// An operator wants a version to be tried again where it was given up. Returns whom to tell; the next greeting
    /// of the others offers it as well.
    pub fn retry(&mut self, model: &ModelName, version: Version) -> Vec<Recipient> {
        for device in self.devices.values_mut() {
            device.forget_refusal(model, version);
        }
        self.publish(model, version)
    }

    /// Offers a version to one device, also if it had given it up. Returns whom to tell; `None` while it is away.
    pub fn offer_again(&mut self, id: &DeviceId, model: &ModelName, version: Version) -> Option<Recipient> {
        let device = self.devices.get_mut(id)?;
        device.forget_refusal(model, version);
        let connection = *self.connections.get(id)?;
        let wants = device.model(model).is_some_and(|status| status.wants(version));
        let offer = Offer { model: model.clone(), version };
        wants.then(|| Recipient { device: id.clone(), connection, offer })
    }

    /// A device was revoked. Returns its connection, to be closed at once.
    pub fn revoked(&mut self, id: &DeviceId, now_unix_s: u64) -> Option<ConnectionId> {
        let connection = self.connections.get(id).copied()?;
        self.disconnected(id, connection, now_unix_s);
        Some(connection)
    }

    /// Returns one device by its name.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Every device, by name.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// The live connection of a device.
    #[must_use]
    pub fn connection(&self, id: &DeviceId) -> Option<ConnectionId> {
        self.connections.get(id).copied()
    }

    /// Returns the number of connected devices.
    #[must_use]
    pub fn online(&self) -> usize {
        self.connections.len()
    }

    /// Returns the spread of a version over the devices that follow its model.
    #[must_use]
    pub fn spread(&self, model: &ModelName, version: Version) -> Spread {
        let mut spread = Spread::default();
        for status in self.devices.values().filter_map(|device| device.model(model)) {
            spread.followers += 1;
            let active = status.active.as_ref().is_some_and(|active| active.version == version);
            let count = match status.progress(version).map(|progress| &progress.outcome) {
                _ if active => &mut spread.active,
                None | Some(Outcome::Active(())) => &mut spread.silent,
                Some(Outcome::Started) => &mut spread.started,
                Some(Outcome::Retrying(_)) => &mut spread.retrying,
                Some(Outcome::Rejected(_)) => &mut spread.rejected,
                Some(Outcome::Superseded { .. }) => &mut spread.superseded,
                Some(Outcome::RolledBack(_)) => &mut spread.rolled_back,
            };
            *count += 1;
        }
        spread
    }

    fn speaking(&mut self, id: &DeviceId, connection: ConnectionId) -> Result<&mut Device, Replaced> {
        let replaced = || Replaced(id.clone());
        if self.connections.get(id) != Some(&connection) {
            return Err(replaced());
        }
        self.devices.get_mut(id).ok_or_else(replaced)
    }

    fn recipients(&self, model: &ModelName, version: Version, wants: impl Fn(&Model) -> bool) -> Vec<Recipient> {
        let offer = Offer { model: model.clone(), version };
        let wanting = self
            .connections
            .iter()
            .filter(|(id, _)| self.devices.get(id).and_then(|device| device.model(model)).is_some_and(&wants));
        let tell = |(device, connection): (&DeviceId, &ConnectionId)| Recipient {
            device: device.clone(),
            connection: *connection,
            offer: offer.clone(),
        };
        wanting.map(tell).collect()
    }
}
