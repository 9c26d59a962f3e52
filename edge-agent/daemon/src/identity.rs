//! Who this device is: key, certificates and hub, as enrolment left them and renewals replaced them.
//!
//! `identity/` holds `device.key`, `device.crt` (leaf first, CA last), `ca.crt` and `hub.json`. Key and certificate must
//! change together and are two files, so a new pair is first laid beside (`device.key.next`, then `device.crt.next`): once
//! the second one is there the change will happen, now or when the agent starts again ([`finish_replacement`]). The key
//! of an enrolment that is under way is in [`pending`].

pub mod pending;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};
use transport::{CertificateError, DeviceKey, Identity, certificate_der, certificate_pem};
use types::DeviceId;

use crate::crash::{CrashPoint, crash_at};

/// Keys and chains take a few kilobytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

const KEY: &str = "device.key";
const CERTIFICATE: &str = "device.crt";
const CA: &str = "ca.crt";
const HUB: &str = "hub.json";
const KEY_NEXT: &str = "device.key.next";
const CERTIFICATE_NEXT: &str = "device.crt.next";

/// Facts of the hub that the device stores at its enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRecord {
    /// Name of this device.
    pub device: DeviceId,
    /// Addresses of the hub at the enrolment, as `host:port`.
    pub addresses: Vec<String>,
    /// The name in the hub's certificate, whatever address it is reached by.
    pub server_name: String,
}

/// Everything that makes this machine a device of its hub.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Key and certificates of the device.
    pub identity: Identity,
    /// The CA that the hub's certificate must come from.
    pub ca_der: Bytes,
    /// Facts of the hub.
    pub hub: HubRecord,
}

/// Error of reading or writing the identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file does not read or write.
    #[error("keep the identity of this device")]
    File(#[from] FileError),
    /// A file is not what it should be.
    #[error("read {}", path.display())]
    Damaged {
        /// File that was read or written.
        path: PathBuf,
        /// Problem with the file.
        #[source]
        source: CertificateError,
    },
    /// `hub.json` or `enrolling.json` is not what it should be.
    #[error("read {}", path.display())]
    HubRecord {
        /// File that was read or written.
        path: PathBuf,
        /// Problem with the file.
        #[source]
        source: serde_json::Error,
    },
    /// A PEM file is not text.
    #[error("read {}: it is not text", path.display())]
    NotText {
        /// File that was read or written.
        path: PathBuf,
    },
}

impl IdentityError {
    /// Returns whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::File(error) if error.is_disk_full())
    }
}

/// Reads the identity; `None` when this machine was never enrolled. Changes nothing.
///
/// # Errors
/// When a file is there and is not what it should be.
pub fn read(folder: &Path) -> Result<Option<Enrolment>, IdentityError> {
    // Written last at enrolment: without it there is no device yet.
    if !folder.join(CERTIFICATE).exists() {
        return Ok(None);
    }
    let hub_path = folder.join(HUB);
    let hub = files::read_bounded(&hub_path, FILE_BYTES_MAX)?;
    let hub = serde_json::from_slice(&hub).map_err(|source| IdentityError::HubRecord { path: hub_path, source })?;
    let ca_path = folder.join(CA);
    let ca_der = certificate_der(&text(&ca_path)?).map_err(damaged(&ca_path))?;
    let certificate_path = folder.join(CERTIFICATE);
    let identity = Identity::from_pem(&text(&certificate_path)?, &secret(&folder.join(KEY))?);
    let identity = identity.map_err(damaged(&certificate_path))?;
    Ok(Some(Enrolment { identity, ca_der, hub }))
}

/// Writes what enrolment brought. The certificate comes last: with it the machine is a device.
///
/// # Errors
/// When the disk refuses; the machine is then not enrolled, or enrolled as before.
pub fn store(folder: &Path, key: &DeviceKey, enrolment: &Enrolment) -> Result<(), IdentityError> {
    let ca_path = folder.join(CA);
    let ca = certificate_pem(&enrolment.ca_der).map_err(damaged(&ca_path))?;
    files::write_atomic(&ca_path, ca.as_bytes(), Mode::Shared)?;
    let hub_path = folder.join(HUB);
    let hub = serde_json::to_vec_pretty(&enrolment.hub)
        .map_err(|source| IdentityError::HubRecord { path: hub_path.clone(), source })?;
    files::write_atomic(&hub_path, &hub, Mode::Shared)?;
    replace(folder, key, &enrolment.identity)
}

/// Replaces key and certificate as one, whatever happens in between.
///
/// # Errors
/// When the disk refuses; the old pair is then still in use.
pub fn replace(folder: &Path, key: &DeviceKey, identity: &Identity) -> Result<(), IdentityError> {
    files::write_atomic(&folder.join(KEY_NEXT), key.to_pem().as_bytes(), Mode::Private)?;
    files::write_atomic(&folder.join(CERTIFICATE_NEXT), identity.chain_pem().as_bytes(), Mode::Shared)?;
    crash_at(CrashPoint::RenewalStored);
    finish_replacement(folder)
}

/// Finishes a replacement that was cut off. Call it under the lock, before [`read`].
///
/// # Errors
/// When the disk refuses.
pub fn finish_replacement(folder: &Path) -> Result<(), IdentityError> {
    if folder.join(CERTIFICATE_NEXT).exists() {
        // A cut between the two renames leaves the key in its place and the certificate beside.
        if folder.join(KEY_NEXT).exists() {
            rename(folder, KEY_NEXT, KEY)?;
        }
        rename(folder, CERTIFICATE_NEXT, CERTIFICATE)?;
    }
    // Without its certificate a new key is of no use.
    files::remove_file(&folder.join(KEY_NEXT))?;
    Ok(())
}

fn rename(folder: &Path, from: &str, to: &str) -> Result<(), FileError> {
    let path = folder.join(to);
    std::fs::rename(folder.join(from), &path).map_err(|source| FileError::Io {
        attempt: "replace file",
        path,
        source,
    })?;
    files::sync_dir(folder)
}

fn text(path: &Path) -> Result<String, IdentityError> {
    let bytes = files::read_bounded(path, FILE_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_not_text| IdentityError::NotText { path: path.to_owned() })
}

/// A key: refused when others can read or write it.
fn secret(path: &Path) -> Result<String, IdentityError> {
    let bytes = files::read_secret(path, FILE_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_not_text| IdentityError::NotText { path: path.to_owned() })
}

fn damaged(path: &Path) -> impl FnOnce(CertificateError) -> IdentityError + use<> {
    let path = path.to_owned();
    move |source| IdentityError::Damaged { path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use transport::{Ca, Validity};

    fn enrolled(ca: &Ca) -> (DeviceKey, Enrolment) {
        let key = DeviceKey::generate().unwrap();
        let device: DeviceId = "cam-1".parse().unwrap();
        let issued = ca.issue_device(&key.csr_der().unwrap(), &device, Validity::from_now(Duration::from_secs(60)));
        let identity = key.identity(&issued.unwrap().chain_der).unwrap();
        let hub = HubRecord { device, addresses: vec!["hub:4433".into()], server_name: "hub".into() };
        (key, Enrolment { identity, ca_der: ca.cert_der(), hub })
    }

    #[test]
    fn an_identity_reads_back_as_it_was_stored() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let (key, enrolment) = enrolled(&Ca::create("test").unwrap());
        store(folder.path(), &key, &enrolment).unwrap();
        let back = read(folder.path()).unwrap().unwrap();
        assert_eq!(back.hub, enrolment.hub);
        assert_eq!(back.ca_der, enrolment.ca_der);
        assert_eq!(back.identity.key_digest(), key.digest());
    }

    #[test]
    fn a_renewal_cut_at_any_step_leaves_the_old_pair_or_the_new() {
        let ca = Ca::create("test").unwrap();
        let (old_key, old) = enrolled(&ca);
        let (new_key, new) = enrolled(&ca);
        for steps in 0..=4 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            store(path, &old_key, &old).unwrap();
            if steps >= 1 {
                files::write_atomic(&path.join(KEY_NEXT), new_key.to_pem().as_bytes(), Mode::Private).unwrap();
            }
            if steps >= 2 {
                let chain = new.identity.chain_pem();
                files::write_atomic(&path.join(CERTIFICATE_NEXT), chain.as_bytes(), Mode::Shared).unwrap();
            }
            if steps >= 3 {
                rename(path, KEY_NEXT, KEY).unwrap();
            }
            if steps >= 4 {
                rename(path, CERTIFICATE_NEXT, CERTIFICATE).unwrap();
            }
            finish_replacement(path).unwrap();
            let expected = if steps >= 2 { new_key.digest() } else { old_key.digest() };
            assert_eq!(read(path).unwrap().unwrap().identity.key_digest(), expected, "cut after {steps} steps");
            assert!(!path.join(KEY_NEXT).exists() && !path.join(CERTIFICATE_NEXT).exists());
        }
    }
}
