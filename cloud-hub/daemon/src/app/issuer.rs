//! Certificates: the hub's own and those of devices, signed by the hub's CA.

use std::time::Duration;

use transport::{Ca, CertificateError, Identity};
use types::DeviceId;

use crate::clock;
use crate::config::HubConfig;

/// Life of the hub's own certificate. A new one is made at each start and when a third of it is over.
const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Time before its end from which the hub's own certificate is replaced: two thirds of its life.
const CERTIFICATE_RENEWAL_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// Issuer of certificates for devices and for the hub's own servers.
#[derive(Debug)]
pub struct Issuer {
    /// CA of the hub.
    pub ca: Ca,
    /// Names of the hub in its own certificate.
    names: Vec<String>,
    /// Life of a device's certificate.
    pub device_lifetime: Duration,
}

impl Issuer {
    /// Creates the issuer of a hub with this config.
    #[must_use]
    pub fn new(ca: Ca, config: &HubConfig) -> Self {
        Self { ca, names: server_names(config), device_lifetime: config.gateway.certificate_lifetime }
    }

    /// Issues the certificate of a device for its signing request.
    ///
    /// # Errors
    /// When the request is malformed.
    pub fn device(&self, csr_der: &[u8], device: &DeviceId) -> Result<transport::ca::Issued, CertificateError> {
        self.ca.issue_device(csr_der, device, clock::validity(&self.ca, self.device_lifetime))
    }

    /// Issues a certificate for the hub itself.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn server(&self) -> Result<Identity, CertificateError> {
        self.ca.issue_server(&self.names, clock::validity(&self.ca, SERVER_CERTIFICATE_LIFETIME))
    }
}

/// Returns whether a certificate of the hub is to be replaced now.
#[must_use]
pub fn is_due(identity: &Identity) -> bool {
    let until = u64::try_from(identity.not_after_unix_s()).unwrap_or(0);
    clock::unix_s().saturating_add(CERTIFICATE_RENEWAL_BEFORE.as_secs()) > until
}

/// Returns the configured names, then those that every machine has.
fn server_names(config: &HubConfig) -> Vec<String> {
    let mut names = config.hub.names.clone();
    for own in ["localhost", "127.0.0.1", "::1"] {
        if !names.iter().any(|name| name == own) {
            names.push(own.to_owned());
        }
    }
    names
}
