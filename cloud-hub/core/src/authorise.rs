//! Decides what a connection may do, from its certificate and the device's record.
//!
//! Fed by the gateway for *every* connection, a resumed one too: resumption skips the TLS library's look at the client
//! certificate, so expiry and revocation are judged here and nowhere else. Who a device is comes from its certificate
//! alone, never from what it says.

use types::{DeviceId, Digest};

use crate::labels::Labels;

/// Record of a device. Times are seconds of the Unix clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Name of the device.
    pub id: DeviceId,
    /// Digest of the public key it uses.
    pub key: Digest,
    /// Digest of the key of its latest renewal, until it is seen: a device may lose power before it has stored that one.
    pub next_key: Option<Digest>,
    /// Time of its enrolment.
    pub enrolled_unix_s: u64,
    /// Standing: served or revoked.
    pub standing: Standing,
    /// Labels that operators gave it.
    pub labels: Labels,
}

/// Standing of a device: served or revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The device is served.
    Good,
    /// It is not, whatever certificate it shows.
    Revoked {
        /// Since when, in seconds of the Unix clock.
        at_unix_s: u64,
        /// Reason in the operator's words.
        why: String,
    },
}

/// Identity that a connection presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The name in its certificate.
    pub id: DeviceId,
    /// Digest of its public key.
    pub key: Digest,
    /// Last second of its certificate.
    pub not_after_unix_s: u64,
}

/// Admission of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Admitted {
    /// Key of the record that it presents.
    pub key: ShownKey,
    /// Service that the connection gets.
    pub service: Service,
}

/// Key of the record that a connection presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShownKey {
    /// The key that is known.
    Known,
    /// The renewed key for the first time: store [`DeviceRecord::promoted`], then serve. The old key is refused from
    /// then on.
    Renewed,
}

/// Service that a connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Every request is served.
    All,
    /// Only the renewal of the certificate, which has expired.
    RenewalOnly,
}

/// Default time after its end in which a certificate can still be renewed, in seconds: 90 days.
///
/// A hub that was down for a month, or a device that lay in a warehouse for a season, must not need a person at each
/// device. The record decides all that time: a revoked device stays out.
pub const RENEWAL_GRACE_S: u64 = 90 * 86_400;

/// Returns the last second in which a certificate can be renewed.
#[must_use]
pub fn renewable_until(not_after_unix_s: u64, grace_s: u64) -> u64 {
    not_after_unix_s.saturating_add(grace_s)
}

/// Refusal of a connection. The gateway closes it with the matching code and says nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// No record: never enrolled here, or deleted.
    #[error("the device is not enrolled here: enrol it with a new token")]
    Unknown,
    /// Revoked by an operator.
    #[error("the device is revoked: enrol it again with a new token if that was a mistake")]
    Revoked,
    /// The name is known, the key is not: a restored backup, a cloned disk or an older certificate.
    #[error("the device shows a key that is not its own: enrol it again with a new token")]
    WrongKey,
    /// The certificate is over for longer than the grace.
    #[error("the device's certificate expired too long ago to be renewed: enrol it again with a new token")]
    Expired,
}

/// Judges a connection. For `grace_s` seconds after its end a certificate is good for its own renewal.
///
/// # Errors
/// Why it is not served. A revoked device hears that first, whatever else is wrong with it.
pub fn authorise(
    record: Option<&DeviceRecord>,
    presented: &Presented,
    grace_s: u64,
    now_unix_s: u64,
) -> Result<Admitted, Refused> {
    let record = record.filter(|record| record.id == presented.id).ok_or(Refused::Unknown)?;
    match record.standing {
        Standing::Revoked { .. } => return Err(Refused::Revoked),
        Standing::Good => {}
    }
    let key = if record.key == presented.key {
        ShownKey::Known
    } else if record.next_key == Some(presented.key) {
        ShownKey::Renewed
    } else {
        return Err(Refused::WrongKey);
    };
    let service = if now_unix_s <= presented.not_after_unix_s {
        Service::All
    } else if now_unix_s <= renewable_until(presented.not_after_unix_s, grace_s) {
        Service::RenewalOnly
    } else {
        return Err(Refused::Expired);
    };
    Ok(Admitted { key, service })
}

impl DeviceRecord {
    /// A device that has just been let in.
    #[must_use]
    pub fn enrolled(id: DeviceId, key: Digest, now_unix_s: u64) -> Self {
        Self {
            id,
            key,
            next_key: None,
            enrolled_unix_s: now_unix_s,
            standing: Standing::Good,
            labels: Labels::default(),
        }
    }

    /// The record with other labels.
    #[must_use]
    pub fn labelled(&self, labels: Labels) -> Self {
        Self { labels, ..self.clone() }
    }

    /// The record with a renewed key; store it before the certificate is sent. An unseen earlier one is given up.
    #[must_use]
    pub fn renewing(&self, key: Digest) -> Self {
        Self { next_key: Some(key).filter(|key| *key != self.key), ..self.clone() }
    }

    /// The record with a key that was renewed after the backup from which the record comes.
    #[must_use]
    pub fn adopting(&self, key: Digest) -> Self {
        Self { key, next_key: None, ..self.clone() }
    }

    /// The record after its renewed key was seen.
    #[must_use]
    pub fn promoted(&self) -> Self {
        Self { key: self.next_key.unwrap_or(self.key), next_key: None, ..self.clone() }
    }

    /// The record of a device that is not served any more. Revoking twice keeps the first time and words.
    #[must_use]
    pub fn revoked(&self, why: &str, now_unix_s: u64) -> Self {
        let standing = match &self.standing {
            Standing::Good => Standing::Revoked { at_unix_s: now_unix_s, why: why.to_owned() },
            standing @ Standing::Revoked { .. } => standing.clone(),
        };
        Self { standing, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn record() -> DeviceRecord {
        DeviceRecord::enrolled("pi-7".parse().unwrap(), key("first"), 100)
    }

    const GRACE_S: u64 = 100;

    /// Judges with a grace of 100 s.
    fn authorise(record: Option<&DeviceRecord>, presented: &Presented, now_unix_s: u64) -> Result<Admitted, Refused> {
        super::authorise(record, presented, GRACE_S, now_unix_s)
    }

    const KNOWN: Admitted = Admitted { key: ShownKey::Known, service: Service::All };
    const RENEWED: Admitted = Admitted { key: ShownKey::Renewed, service: Service::All };

    fn shows(id: &str, name: &str) -> Presented {
        Presented { id: id.parse().unwrap(), key: key(name), not_after_unix_s: 1000 }
    }

    #[test]
    fn only_the_key_on_record_is_served() {
        let record = record();
        assert_eq!(authorise(Some(&record), &shows("pi-7", "first"), 1000), Ok(KNOWN));
        assert_eq!(authorise(Some(&record), &shows("pi-7", "other"), 500), Err(Refused::WrongKey));
        assert_eq!(authorise(Some(&record), &shows("pi-8", "first"), 500), Err(Refused::Unknown));
        assert_eq!(authorise(None, &shows("pi-7", "first"), 500), Err(Refused::Unknown));
    }

    #[test]
    fn a_revoked_device_is_refused_whatever_it_shows() {
        let revoked = record().renewing(key("second")).revoked("stolen", 200);
        for name in ["first", "second", "third"] {
            assert_eq!(authorise(Some(&revoked), &shows("pi-7", name), 2000), Err(Refused::Revoked));
        }
        assert_eq!(revoked.revoked("again", 300), revoked);
    }

    #[test]
    fn an_expired_certificate_is_good_for_its_renewal_until_the_grace_is_over() {
        let presented = shows("pi-7", "first");
        let renewal = Admitted { key: ShownKey::Known, service: Service::RenewalOnly };
        assert_eq!(authorise(Some(&record()), &presented, 1000), Ok(KNOWN));
        assert_eq!(authorise(Some(&record()), &presented, 1001), Ok(renewal));
        assert_eq!(authorise(Some(&record()), &presented, 1100), Ok(renewal));
        assert_eq!(authorise(Some(&record()), &presented, 1101), Err(Refused::Expired));
        assert_eq!(super::authorise(Some(&record()), &presented, 0, 1001), Err(Refused::Expired), "without a grace");
        let endless = super::authorise(Some(&record()), &presented, u64::MAX, u64::MAX);
        assert_eq!(endless, Ok(renewal), "no overflow");
    }

    #[test]
    fn the_grace_helps_neither_a_revoked_device_nor_another_key() {
        let revoked = record().revoked("stolen", 200);
        assert_eq!(authorise(Some(&revoked), &shows("pi-7", "first"), 1050), Err(Refused::Revoked));
        assert_eq!(authorise(Some(&record()), &shows("pi-7", "other"), 1050), Err(Refused::WrongKey));
        assert_eq!(authorise(None, &shows("pi-7", "first"), 1050), Err(Refused::Unknown));
    }

    #[test]
    fn a_device_that_slept_right_after_a_renewal_renews_with_the_key_that_was_never_seen() {
        let renewing = record().renewing(key("second"));
        let admitted = authorise(Some(&renewing), &shows("pi-7", "second"), 1050);
        assert_eq!(admitted, Ok(Admitted { key: ShownKey::Renewed, service: Service::RenewalOnly }));
        // Its key is on record before the next one is given out: a lost answer leaves it able to ask again.
        let again = renewing.promoted().renewing(key("third"));
        assert!(authorise(Some(&again), &shows("pi-7", "second"), 1050).is_ok());
    }

    #[test]
    fn the_old_key_works_until_the_new_one_was_seen_and_never_after() {
        let renewing = record().renewing(key("second"));
        assert_eq!(authorise(Some(&renewing), &shows("pi-7", "first"), 500), Ok(KNOWN));
        assert_eq!(authorise(Some(&renewing), &shows("pi-7", "second"), 500), Ok(RENEWED));
        let promoted = renewing.promoted();
        assert_eq!(authorise(Some(&promoted), &shows("pi-7", "second"), 500), Ok(KNOWN));
        assert_eq!(authorise(Some(&promoted), &shows("pi-7", "first"), 500), Err(Refused::WrongKey));
    }

    #[test]
    fn of_two_renewals_in_a_row_the_later_counts() {
        let renewing = record().renewing(key("second")).renewing(key("third"));
        assert_eq!(authorise(Some(&renewing), &shows("pi-7", "second"), 500), Err(Refused::WrongKey));
        assert_eq!(authorise(Some(&renewing), &shows("pi-7", "third"), 500), Ok(RENEWED));
        assert_eq!(record().renewing(key("first")).next_key, None, "the same key again is no renewal");
    }
}
