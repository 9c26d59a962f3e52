//! Devices: their records on disk, their live connections, what they follow and how updates fare there.
//!
//! [`hub_core::authorise`] judges who may be here, [`hub_core::fleet`] who is told what; here are the store and the
//! connections that both decide about. Every connection passes [`Fleet::admit`] before anything is served on it.

mod admission;
pub mod calibrating;
mod cloned;
mod labels;
mod list;
pub mod notices;
mod readmission;
mod subject;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::audit::Change;
use hub_core::authorise::{self, DeviceRecord, Standing};
use hub_core::filter::FilterError;
use hub_core::fleet::{self as core, ConnectionId, Greeting, Presence, Recipient, Replaced, Report};
use hub_core::labels::LabelError;
use store::{Store, StoreError, Table};
use tokio::sync::Notify;
use transport::{CloseCode, Connection};
use types::{DeviceId, Digest, ModelName, VariantName, Version};

use crate::api::{DeviceView, ModelDeviceView, UnknownDevice};
use crate::app::operators::Caller;
use crate::clock;
use crate::records::v1;
use crate::storage::audit::AuditLog;
use crate::storage::values::StoredState;

pub use admission::{Admitted, Entry, NotAdmitted};

/// The table of device records; [`crate::app::tokens`] enters devices into it.
#[must_use]
pub fn device_table(store: Arc<dyn Store>) -> Table<v1::Device> {
    Table::new(store)
}

/// Error of a call about a device.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// No device has the name.
    #[error("no device is called {0}")]
    Unknown(DeviceId),
    /// A device without a record that is to be readmitted has not connected.
    #[error("no unknown device called {0} has connected since the hub was started")]
    NotSeen(DeviceId),
    /// A device that is to be readmitted has a record.
    #[error("{0} is on record already")]
    Exists(DeviceId),
    /// A label is not allowed.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// The filter of a list is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The store cannot be used.
    #[error("use the record of a device")]
    Store(#[from] StoreError),
}

/// Devices with their records and connections.
#[derive(Debug)]
pub struct Fleet {
    records: Table<v1::Device>,
    states: Table<v1::DeviceState>,
    audit: AuditLog,
    inner: Mutex<Inner>,
    connections: AtomicU64,
    /// Notified when a device connects, leaves, reports or gets other labels.
    changes: Notify,
    /// Whether this hub was restored from a backup: keys that were renewed since are then taken from certificates.
    is_restored: bool,
    /// Seconds after its end in which a certificate can be renewed.
    grace_s: u64,
}

#[derive(Debug, Default)]
struct Inner {
    fleet: core::Fleet,
    live: HashMap<ConnectionId, Connection>,
    unknown: crate::app::fleet::readmission::UnknownDevices,
    certificates: HashMap<DeviceId, u64>,
    /// Connections whose agents take the requests of rollouts.
    speaking: HashSet<ConnectionId>,
    /// Connections whose agents take thresholds.
    calibrating: HashSet<ConnectionId>,
    /// Pins of operators, for display; [`crate::app::rollouts`] stores them.
    pins: BTreeMap<(DeviceId, ModelName), Version>,
    /// Devices that have greeted since [`Fleet::take_greeted`].
    greeted: HashSet<DeviceId>,
}

impl Fleet {
    /// The devices in a store. For `grace_s` seconds after its end a certificate can be renewed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, is_restored: bool, grace_s: u64) -> Result<Self, StoreError> {
        let states: Table<v1::DeviceState> = Table::new(Arc::clone(&store));
        let mut inner = Inner::default();
        for (name, mut state) in states.list().await?.records {
            let Ok(id) = name.parse::<DeviceId>() else { continue };
            // Nobody is connected to a hub that has just started.
            if let Presence::Online { since_unix_s } = state.device.presence {
                state.device.presence = Presence::Away { since_unix_s };
            }
            inner.certificates.extend(state.certificate_until_unix_s.map(|until| (id.clone(), until)));
            inner.fleet.restore(id, state.device);
        }
        let audit = AuditLog::new(Arc::clone(&store));
        let (records, connections) = (device_table(store), AtomicU64::new(0));
        let (inner, changes) = (Mutex::new(inner), Notify::new());
        Ok(Self { records, states, audit, inner, connections, changes, is_restored, grace_s })
    }

    /// Notes what a device runs; `speaks` says whether its agent takes the requests of rollouts.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub async fn greeted(&self, admitted: &Admitted, greeting: Greeting, speaks: bool) -> Result<(), Replaced> {
        {
            let mut inner = self.inner();
            // Rollouts decide about the offers.
            inner.fleet.greeted(&admitted.device, admitted.id, greeting, |_model| None)?;
            if speaks {
                inner.speaking.insert(admitted.id);
            }
            inner.greeted.insert(admitted.device.clone());
        }
        self.keep(&admitted.device).await;
        Ok(())
    }

    /// Takes the pins of all devices, for display.
    pub fn note_pins(&self, pins: BTreeMap<(DeviceId, ModelName), Version>) {
        self.inner().pins = pins;
    }

    /// Returns the devices that have greeted since the last call.
    pub fn take_greeted(&self) -> HashSet<DeviceId> {
        std::mem::take(&mut self.inner().greeted)
    }

    /// Notifies the rollouts that the fleet has changed.
    pub fn note_change(&self) {
        self.changes.notify_one();
    }

    /// Waits until the fleet has changed since the last call.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Returns the connection of a device whose agent takes the requests of rollouts.
    #[must_use]
    pub fn speaking(&self, device: &DeviceId) -> Option<Connection> {
        let inner = self.inner();
        let id = inner.fleet.connection(device).filter(|id| inner.speaking.contains(id))?;
        inner.live.get(&id).cloned()
    }

    /// Returns the offers of a version to these devices, also to those that had given it up.
    #[must_use]
    pub fn offers_to(&self, devices: &[DeviceId], model: &ModelName, version: Version) -> Vec<(Recipient, Connection)> {
        let mut inner = self.inner();
        let recipients: Vec<Recipient> =
            devices.iter().filter_map(|device| inner.fleet.offer_again(device, model, version)).collect();
        let live = |recipient: Recipient| Some((inner.live.get(&recipient.connection)?.clone(), recipient));
        recipients.into_iter().filter_map(live).map(|(connection, recipient)| (recipient, connection)).collect()
    }

    /// Notes how an update fares; progress on the way is kept in memory only.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub async fn reported(&self, admitted: &Admitted, report: Report) -> Result<(), Replaced> {
        let is_passing = report.outcome == core::Outcome::Started;
        self.inner().fleet.reported(&admitted.device, admitted.id, report, clock::unix_s())?;
        self.note_change();
        if !is_passing {
            self.keep(&admitted.device).await;
        }
        Ok(())
    }

    /// Notes what runs on a device.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub async fn runs(&self, admitted: &Admitted, running: Vec<(ModelName, core::Running)>) -> Result<(), Replaced> {
        self.inner().fleet.runs(&admitted.device, admitted.id, running)?;
        self.keep(&admitted.device).await;
        Ok(())
    }

    /// Notes the alarms of drift of a device.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub async fn drifts(
        &self,
        admitted: &Admitted,
        alarms: Vec<(ModelName, core::DriftAlarm)>,
    ) -> Result<(), Replaced> {
        self.inner().fleet.drifts(&admitted.device, admitted.id, alarms)?;
        self.keep(&admitted.device).await;
        Ok(())
    }

    /// Notes durably that a device fetches the manifest of a version: one that a device may have is never withdrawn.
    ///
    /// # Errors
    /// When the connection was replaced by a newer one.
    pub async fn takes(&self, admitted: &Admitted, model: &ModelName, version: Version) -> Result<(), Replaced> {
        self.inner().fleet.takes(&admitted.device, admitted.id, model, version, clock::unix_s())?;
        // Reports of an update under way are kept in memory only, this is not.
        self.keep(&admitted.device).await;
        Ok(())
    }

    /// The devices that have a version, or may have it, by name.
    #[must_use]
    pub fn holders(&self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        self.inner().fleet.holders(model, version)
    }

    /// Returns the variants of a model that devices hold, with the number of devices.
    #[must_use]
    pub fn held(&self, model: &ModelName) -> BTreeMap<(Version, VariantName), u64> {
        self.inner().fleet.held(model)
    }

    /// Returns the devices that hold a version or are installing it, by name.
    #[must_use]
    pub fn keepers(&self, model: &ModelName, version: Version) -> Vec<DeviceId> {
        self.inner().fleet.keepers(model, version)
    }

    /// A version was withdrawn: what devices said of its number is about other content.
    pub async fn withdrawn(&self, model: &ModelName, version: Version) {
        let changed = self.inner().fleet.withdrawn(model, version);
        for device in changed {
            self.keep(&device).await;
        }
    }

    /// Enters a renewed key into a device's record, before its certificate is sent.
    ///
    /// # Errors
    /// When the device is not served any more, or the store fails.
    pub async fn renewing(&self, device: &DeviceId, key: Digest, until_unix_s: u64) -> Result<(), NotAdmitted> {
        self.records
            .update(device.as_str(), |record| match record {
                None => Err(NotAdmitted::Refused(authorise::Refused::Unknown)),
                Some(DeviceRecord { standing: Standing::Revoked { .. }, .. }) => {
                    Err(NotAdmitted::Refused(authorise::Refused::Revoked))
                }
                Some(record) => Ok(Some(record.renewing(key))),
            })
            .await?;
        self.certified(device, until_unix_s).await;
        Ok(())
    }

    /// A device has enrolled anew: whatever is connected under its name has the key of before.
    pub fn enrolled(&self, device: &DeviceId) {
        let live = {
            let mut inner = self.inner();
            let id = inner.fleet.revoked(device, clock::unix_s());
            inner.fleet.forget_clone(device);
            count_connected(&inner);
            id.and_then(|id| inner.live.get(&id).cloned())
        };
        if let Some(connection) = live {
            connection.close(CloseCode::NotAuthorised, "this device was enrolled anew");
        }
    }

    /// Notes until when a device's newest certificate is good; for display.
    pub async fn certified(&self, device: &DeviceId, until_unix_s: u64) {
        self.inner().certificates.insert(device.clone(), until_unix_s);
        self.keep(device).await;
    }

    /// Writes down what a device said of itself. A failure costs the display after a restart, so it is only logged.
    pub async fn keep(&self, device: &DeviceId) {
        let state = {
            let inner = self.inner();
            let certificate_until_unix_s = inner.certificates.get(device).copied();
            StoredState { device: inner.fleet.device(device).cloned().unwrap_or_default(), certificate_until_unix_s }
        };
        if let Err(error) = self.states.put(device.as_str(), &state).await {
            tracing::warn!(%device, error = telemetry::chain(&error), "state of a device was not written");
        }
    }

    /// Shuts a device out: its record first, then its live connection.
    ///
    /// A hub that was restored from a backup has no record of a device that was enrolled and revoked after the backup: it
    /// then makes one, so that the device is never readmitted. So does any hub for a device that showed its certificate.
    ///
    /// # Errors
    /// When there is no such device, or the store fails; then nothing was changed.
    pub async fn revoke(&self, by: &Caller, device: &DeviceId, reason: &str) -> Result<DeviceView, FleetError> {
        let now = clock::unix_s();
        let shown = self.inner().unknown.key_of(device);
        // Whatever key it shows, a revoked device is told so before its key is looked at.
        let lost = shown.or_else(|| self.is_restored.then(|| Digest::of(b"")));
        let revoke = |record: Option<&DeviceRecord>| {
            let before = record.map(standing);
            let lost = lost.map(|key| DeviceRecord::enrolled(device.clone(), key, now));
            let record = record.cloned().or(lost).ok_or_else(|| FleetError::Unknown(device.clone()))?;
            let revoked = record.revoked(reason, now);
            let after = Some(standing(&revoked));
            let change = Change::new(clock::unix_ms(), &by.name, "device.revoke", device.as_str());
            Ok::<_, FleetError>((revoked, change.states(before, after)))
        };
        self.audit.update(&self.records, device.as_str(), revoke).await?;
        self.inner().unknown.forget(device);
        let live = {
            let mut inner = self.inner();
            let id = inner.fleet.revoked(device, now);
            count_connected(&inner);
            id.and_then(|id| inner.live.get(&id).cloned())
        };
        if let Some(connection) = live {
            connection.close(CloseCode::Revoked, "this device was revoked");
        }
        self.keep(device).await;
        self.show(device).await
    }

    /// Returns one device by its name.
    ///
    /// # Errors
    /// When there is no such device, or the store fails.
    pub async fn show(&self, device: &DeviceId) -> Result<DeviceView, FleetError> {
        let record = self.records.get(device.as_str()).await?;
        let record = record.ok_or_else(|| FleetError::Unknown(device.clone()))?;
        Ok(self.inner().view(&record, self.grace_s))
    }

    /// Returns the number of devices on record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count(&self) -> Result<usize, StoreError> {
        self.records.count().await
    }

    /// The devices that follow a model, by name.
    #[must_use]
    pub fn followers(&self, model: &ModelName) -> Vec<ModelDeviceView> {
        let inner = self.inner();
        let followers = inner.fleet.devices().filter_map(|(id, device)| {
            let status = device.model(model)?;
            Some(ModelDeviceView {
                device: id.clone(),
                connected: inner.fleet.connection(id).is_some(),
                active: status.active.as_ref().map(view::form),
                running: view::running(status),
                report: view::report(status),
            })
        });
        followers.collect()
    }

    /// Whom to tell of a version that became current; with `again` also those that had given it up.
    #[must_use]
    pub fn to_tell(&self, model: &ModelName, version: Version, again: bool) -> Vec<(Recipient, Connection)> {
        let mut inner = self.inner();
        let recipients = if again { inner.fleet.retry(model, version) } else { inner.fleet.publish(model, version) };
        let live = |recipient: Recipient| Some((inner.live.get(&recipient.connection)?.clone(), recipient));
        recipients.into_iter().filter_map(live).map(|(connection, recipient)| (recipient, connection)).collect()
    }

    /// Returns every live connection.
    #[must_use]
    pub fn live(&self) -> Vec<Connection> {
        self.inner().live.values().cloned().collect()
    }

    /// Returns the number of connected devices.
    #[must_use]
    pub fn online(&self) -> usize {
        self.inner().fleet.online()
    }

    /// Devices without a record that tried to connect, by name.
    #[must_use]
    pub fn unknown(&self) -> Vec<UnknownDevice> {
        self.inner().unknown.list()
    }

    /// Lets a device in that has no record and showed a certificate of this hub's CA: one that was enrolled after the
    /// backup from which this hub was restored.
    ///
    /// # Errors
    /// When it did not connect since the start, is on record, or the store fails; then nothing was changed.
    pub async fn readmit(&self, by: &Caller, device: &DeviceId) -> Result<DeviceView, FleetError> {
        let seen = self.inner().unknown.key_of(device).ok_or_else(|| FleetError::NotSeen(device.clone()))?;
        let readmit = |record: Option<&DeviceRecord>| match record {
            Some(_) => Err(FleetError::Exists(device.clone())),
            None => {
                let record = DeviceRecord::enrolled(device.clone(), seen, clock::unix_s());
                let change = Change::new(clock::unix_ms(), &by.name, "device.readmit", device.as_str());
                let change = change.states(None, Some(standing(&record)));
                Ok((record, change))
            }
        };
        self.audit.update(&self.records, device.as_str(), readmit).await?;
        self.inner().unknown.forget(device);
        self.show(device).await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the state of a device for the audit log.
pub(crate) fn standing(record: &DeviceRecord) -> String {
    match &record.standing {
        Standing::Good => "enrolled".to_owned(),
        Standing::Revoked { why, .. } if why.is_empty() => "revoked".to_owned(),
        Standing::Revoked { why, .. } => format!("revoked: {why}"),
    }
}

fn count_connected(inner: &Inner) {
    telemetry::metrics::devices_connected(u32::try_from(inner.fleet.online()).unwrap_or(u32::MAX));
}
