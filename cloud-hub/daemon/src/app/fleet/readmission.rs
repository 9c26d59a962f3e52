//! Devices that show a certificate of this hub's CA and have no record: after a restore these are the ones that were
//! enrolled later than the backup. Kept in memory by [`crate::app::fleet::Fleet`] until an operator readmits them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hub_core::authorise::Presented;
use types::{DeviceId, Digest};

use crate::api::UnknownDevice;

/// Most devices that are remembered; the one that was seen longest ago goes first.
///
/// Only certificates of this CA get here, so a fleet can be larger, but nobody can fill this from outside.
const UNKNOWN_MAX: usize = 10_000;

/// The devices without a record that tried to connect since the start.
#[derive(Debug, Default)]
pub(crate) struct UnknownDevices(BTreeMap<DeviceId, UnknownDevice>);

impl UnknownDevices {
    /// Notes a device that was refused because it has no record.
    pub(crate) fn note(&mut self, presented: &Presented, address: SocketAddr, now_unix_ms: u64) {
        // A certificate that is over lets nobody in, readmitted or not.
        if presented.not_after_unix_s.saturating_mul(1000) < now_unix_ms {
            return;
        }
        let (device, key) = (presented.id.clone(), presented.key);
        let seen =
            UnknownDevice { device: device.clone(), key, address: address.to_string(), seen_unix_ms: now_unix_ms };
        self.0.insert(device, seen);
        if self.0.len() > UNKNOWN_MAX {
            let oldest = self.0.values().min_by_key(|seen| seen.seen_unix_ms).map(|seen| seen.device.clone());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
    }

    /// Returns them by name.
    pub(crate) fn list(&self) -> Vec<UnknownDevice> {
        self.0.values().cloned().collect()
    }

    /// The key that a device showed last.
    pub(crate) fn key_of(&self, device: &DeviceId) -> Option<Digest> {
        self.0.get(device).map(|seen| seen.key)
    }

    /// Forgets a device that is on record now.
    pub(crate) fn forget(&mut self, device: &DeviceId) {
        self.0.remove(device);
    }
}
