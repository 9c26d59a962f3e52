//! Messages of an enrolment: a machine exchanges a join token's secret and a public key for an identity.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::DeviceId;

use super::{
    CHAIN_CERTIFICATES_MAX, CSR_BYTES_MAX, ENROL_RESPONSE_BYTES_MAX, Refusal, SMALL_MESSAGE_BYTES_MAX, count, text,
};
use crate::frame::{Message, bounded_codec};
use crate::token::JoinSecret;

/// Request to enrol; the only request that is served without a client certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Secret of the join token.
    pub secret: JoinSecret,
    /// PKCS #10 request in DER; only its public key is used, the hub chooses the identity.
    pub csr_der: Bytes,
    /// Version of the agent's software.
    pub agent_version: String,
}

impl fmt::Debug for EnrolRequest {
    /// Prints all fields except the secret and the bytes of the certificate request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest").field("agent_version", &self.agent_version).finish_non_exhaustive()
    }
}

impl Message for EnrolRequest {
    const KIND: u16 = 0x0110;
    const NAME: &'static str = "enrol request";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        count("csr_der", self.csr_der.len(), CSR_BYTES_MAX)?;
        text("agent_version", &self.agent_version)
    }
}

/// Response to an [`EnrolRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolResponse {
    /// The machine is now a device.
    Enrolled(Enrolled),
    /// The hub refused the enrolment.
    Refused(Refusal),
}

/// Identity and trust anchors of a new device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Name of the device, as in its certificate.
    pub device: DeviceId,
    /// Certificates in DER, the device's own first, the CA last.
    pub chain_der: Vec<Bytes>,
    /// CA certificate in DER. The device must compare its SHA-256 with the join token before it stores it.
    pub ca_der: Bytes,
    /// TUF root metadata, byte for byte, from which all trust in models starts.
    pub root_json: Bytes,
}

impl Message for EnrolResponse {
    const KIND: u16 = 0x0111;
    const NAME: &'static str = "enrol response";
    const BYTES_MAX: usize = ENROL_RESPONSE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Enrolled(enrolled) => count("chain_der", enrolled.chain_der.len(), CHAIN_CERTIFICATES_MAX),
            Self::Refused(refusal) => refusal.check(),
        }
    }
}
