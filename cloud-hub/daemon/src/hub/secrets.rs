//! The hub's CA and its QUIC keys, as they lie in the state folder.
//!
//! Fed by the start of the hub. The CA's certificate is renewed here years before its end; the QUIC keys are made at the
//! first start. Neither ever keeps a hub from starting because of a date or a full disk.

use std::time::SystemTime;

use store::files::{self, Mode};
use transport::endpoint_keys::ENDPOINT_KEYS_BYTES;
use transport::{Ca, CertificateError, EndpointKeys};

use super::StartError;
use crate::storage::folder::Folder;

/// Largest PEM file of the CA, in bytes.
const PEM_BYTES_MAX: u64 = 64 * 1024;

/// First line of the file with the QUIC keys; the digit is the version of its format. The keys follow in hexadecimal.
const QUIC_KEYS_HEADER: &str = "sanderling quic keys 1";

/// Largest file with QUIC keys, in bytes; one takes about 150.
const QUIC_KEYS_BYTES_MAX: u64 = 4096;

/// Reads the CA, and renews its certificate when that ends in a few years.
pub(super) fn load_ca(folder: &Folder, warnings: &mut Vec<String>) -> Result<Ca, StartError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let certificate = text(files::read_bounded(&folder.ca_certificate(), PEM_BYTES_MAX)?);
    let key = text(files::read_secret(&folder.ca_key(), PEM_BYTES_MAX)?);
    let ca = Ca::load(&certificate, &key)?;
    let now = SystemTime::now();
    if now < ca.begins() {
        warnings.push(
            "this machine's clock is before the day on which this hub was made: set it, for example with NTP"
                .to_owned(),
        );
    }
    if !ca.is_renewal_due(now) {
        return Ok(ca);
    }
    let renewed = ca.renewed(now)?;
    match files::write_atomic(&folder.ca_certificate(), renewed.cert_pem().as_bytes(), Mode::Shared) {
        Ok(()) => {
            tracing::info!(ca = %renewed.fingerprint(), "the CA's certificate was renewed for the same key");
            Ok(renewed)
        }
        Err(error) => {
            warnings.push(format!("the CA's certificate was not renewed: {}", telemetry::chain(&error)));
            Ok(ca)
        }
    }
}

/// Reads the QUIC keys; makes them at the first start, and anew when the file is damaged.
///
/// Without the keys of before, devices notice a restart of the hub later; that is never a reason not to start.
pub(super) fn quic_keys(folder: &Folder, warnings: &mut Vec<String>) -> Result<EndpointKeys, CertificateError> {
    let path = folder.quic_keys();
    match files::read_secret(&path, QUIC_KEYS_BYTES_MAX) {
        Ok(bytes) => match parse(&bytes) {
            Some(keys) => return Ok(keys),
            None => warnings.push(format!("{} was damaged: new keys were made", path.display())),
        },
        Err(error) if error.is_not_found() => {}
        Err(error) => warnings.push(format!("new QUIC keys are used: {}", telemetry::chain(&error))),
    }
    let keys = EndpointKeys::generate()?;
    let text = format!("{QUIC_KEYS_HEADER}\n{}\n", hex::encode(keys.as_bytes()));
    if let Err(error) = files::write_atomic(&path, text.as_bytes(), Mode::Private) {
        let cause = telemetry::chain(&error);
        warnings.push(format!("QUIC keys were not stored ({cause}): devices notice the next restart of the hub late"));
    }
    Ok(keys)
}

fn parse(bytes: &[u8]) -> Option<EndpointKeys> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let header = lines.next()? == QUIC_KEYS_HEADER;
    let mut keys = [0; ENDPOINT_KEYS_BYTES];
    hex::decode_to_slice(lines.next()?, &mut keys).ok()?;
    EndpointKeys::from_bytes(&keys).filter(|_keys| header && lines.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn quic_keys_are_made_once_for_the_owner_alone_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        let (folder, mut warnings) = (Folder::new(root.path()), Vec::new());
        let first = quic_keys(&folder, &mut warnings).unwrap();
        let again = quic_keys(&folder, &mut warnings).unwrap();
        assert_eq!(first.as_bytes(), again.as_bytes());
        assert!(warnings.is_empty(), "{warnings:?}");
        let mode = std::fs::metadata(folder.quic_keys()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn damaged_quic_keys_are_replaced_with_a_warning() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let whole = format!("{QUIC_KEYS_HEADER}\n{}\n", "ab".repeat(ENDPOINT_KEYS_BYTES));
        assert!(parse(whole.as_bytes()).is_some());
        let damaged = ["", "x", &whole[..40], &whole.replace("keys 1", "keys 2"), &format!("{whole}more\n")];
        for text in damaged {
            std::fs::write(folder.quic_keys(), text).unwrap();
            let mut warnings = Vec::new();
            let made = quic_keys(&folder, &mut warnings).unwrap();
            assert_eq!(warnings.len(), 1, "{text:?}: {warnings:?}");
            assert_eq!(quic_keys(&folder, &mut warnings).unwrap().as_bytes(), made.as_bytes());
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_a_warning_and_not_the_start() {
        let (folder, mut warnings) = (Folder::new(std::path::Path::new("/proc/nowhere")), Vec::new());
        assert!(quic_keys(&folder, &mut warnings).is_ok());
        assert!(warnings[0].contains("not stored"), "{warnings:?}");
    }
}
