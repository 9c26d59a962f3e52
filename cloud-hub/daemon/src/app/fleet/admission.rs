//! Admission of connections: a connection is judged by the record of its device before anything is served on it.
//!
//! Fed by [`crate::servers::gateway`] with the certificate that a device has shown; [`hub_core::authorise`] decides. While a
//! [`Admitted`] is held, the device counts as connected.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hub_core::authorise::{self, Presented, Service, ShownKey};
use hub_core::fleet::ConnectionId;
use store::StoreError;
use transport::{CloseCode, Connection};
use types::DeviceId;

use super::{Fleet, count_connected};
use crate::clock;

/// Refusal of a connection.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// By the device's record.
    #[error(transparent)]
    Refused(#[from] authorise::Refused),
    /// The store cannot be used.
    #[error("look up a device")]
    Store(#[from] StoreError),
}

impl NotAdmitted {
    /// Returns the code that the peer gets.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Refused(authorise::Refused::Revoked) => CloseCode::Revoked,
            Self::Refused(authorise::Refused::Expired) => CloseCode::CertificateExpired,
            Self::Refused(authorise::Refused::Unknown | authorise::Refused::WrongKey) => CloseCode::NotAuthorised,
            Self::Store(_) => CloseCode::Busy,
        }
    }

    /// Returns the label in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(authorise::Refused::Revoked) => "revoked",
            Self::Refused(authorise::Refused::Expired) => "certificate-expired",
            Self::Refused(authorise::Refused::Unknown) => "unknown-device",
            Self::Refused(authorise::Refused::WrongKey) => "wrong-key",
            Self::Store(_) => "storage",
        }
    }
}

/// Service for an admitted device.
#[derive(Debug)]
pub enum Entry {
    /// Everything, as long as the guard is held.
    Admitted(Admitted),
    /// The renewal of its certificate, which has expired, and nothing else.
    RenewalOnly,
}

/// Guard of an admitted device: as long as it is held, the device counts as connected.
#[derive(Debug)]
pub struct Admitted {
    /// Name of the device.
    pub device: DeviceId,
    /// Number of the connection.
    pub id: ConnectionId,
    /// The last second of its certificate.
    pub not_after_unix_s: u64,
    fleet: Arc<Fleet>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inner = self.fleet.inner();
        inner.live.remove(&self.id);
        inner.speaking.remove(&self.id);
        inner.calibrating.remove(&self.id);
        inner.fleet.disconnected(&self.device, self.id, clock::unix_s());
        count_connected(&inner);
        drop(inner);
        self.fleet.note_change();
    }
}

impl Fleet {
    /// Judges a connection by the device's record, and seats the device unless its certificate has expired. An older
    /// connection of a device that is seated is closed.
    ///
    /// # Errors
    /// When it may not be here; the caller closes the connection with [`NotAdmitted::close_code`].
    ///
    /// # Cancel safety
    /// The device is seated or not.
    pub async fn admit(self: &Arc<Self>, connection: &Connection, presented: &Presented) -> Result<Entry, NotAdmitted> {
        match self.judge(presented).await {
            Ok(Service::All) => {}
            Ok(Service::RenewalOnly) => return Ok(Entry::RenewalOnly),
            Err(refused) => {
                if matches!(refused, NotAdmitted::Refused(authorise::Refused::Unknown)) {
                    self.inner().unknown.note(presented, connection.remote_addr(), clock::unix_ms());
                }
                return Err(refused);
            }
        }
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let not_after_unix_s = presented.not_after_unix_s;
        let admitted = Admitted { device: presented.id.clone(), id, not_after_unix_s, fleet: Arc::clone(self) };
        let earlier = {
            let mut inner = self.inner();
            inner.live.insert(id, connection.clone());
            inner.certificates.insert(presented.id.clone(), not_after_unix_s);
            let earlier = inner.fleet.connected(&presented.id, id, clock::unix_s());
            count_connected(&inner);
            earlier.and_then(|earlier| inner.live.get(&earlier).cloned())
        };
        if let Some(earlier) = earlier {
            earlier.close(CloseCode::Replaced, "this device has connected anew");
        }
        // Revoked between the first look and the admission: the revocation did not find this connection to close it.
        match self.judge(presented).await? {
            Service::All => Ok(Entry::Admitted(admitted)),
            Service::RenewalOnly => Ok(Entry::RenewalOnly),
        }
    }

    /// Looks a connection up in its device's record; a renewed key that is seen for the first time is written down.
    async fn judge(&self, presented: &Presented) -> Result<Service, NotAdmitted> {
        loop {
            let entry = self.records.entry(presented.id.as_str()).await?;
            let record = entry.as_ref().map(|entry| &entry.value);
            let judged = authorise::authorise(record, presented, self.grace_s, clock::unix_s());
            if let (Err(authorise::Refused::WrongKey), Some(record)) = (&judged, record)
                && self.was_renewed_since_the_backup(presented)
            {
                tracing::warn!(device = %presented.id, "a key that was renewed after the backup is taken for this device's own");
                match self.records.put_if(presented.id.as_str(), entry.as_ref(), &record.adopting(presented.key)).await
                {
                    Ok(()) => continue,
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let admitted = judged?;
            match admitted.key {
                ShownKey::Known => return Ok(admitted.service),
                ShownKey::Renewed => {
                    let Some(record) = record else { return Err(authorise::Refused::Unknown.into()) };
                    match self.records.put_if(presented.id.as_str(), entry.as_ref(), &record.promoted()).await {
                        Ok(()) => return Ok(admitted.service),
                        // Somebody else changed the record: judge the new one.
                        Err(error) if error.is_conflict() => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// Returns whether a certificate with a key that is not on record was issued after the backup from which this hub was
    /// restored: it ends later than the newest one on record. This hub's CA has signed it for this name; a record from
    /// before a backup cannot know it.
    fn was_renewed_since_the_backup(&self, presented: &Presented) -> bool {
        let known = self.inner().certificates.get(&presented.id).copied();
        let is_newer = known.is_some_and(|known| presented.not_after_unix_s > known);
        self.is_restored
            && is_newer
            && authorise::renewable_until(presented.not_after_unix_s, self.grace_s) >= clock::unix_s()
    }
}
