//! The messages of major version 1.
//!
//! Each side opens streams and asks: a device with [`DeviceRequest`], answered by [`HubResponse`]; the hub with
//! [`HubRequest`], answered by [`DeviceResponse`]; a machine without a certificate with [`EnrolRequest`], answered by
//! [`EnrolResponse`]. The parts are in [`hello`], [`infer`] and [`update`], the refusals in [`refusal`], optional parts of
//! a greeting in [`feature`].
//!
//! Enums here are append-only and structs are closed; see the crate's own page.

pub mod enrol;
pub mod feature;
pub mod hello;
pub mod infer;
pub mod refusal;
pub mod update;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use enrol::{EnrolRequest, EnrolResponse, Enrolled};
pub use hello::{ActiveVariant, EngineInfo, Hello, ModelState, Welcome};
pub use infer::{BodyError, InferRequest, InferResponse, TensorHeader, join_body, split_body};
pub use refusal::{Refusal, RefusalCode};
pub use update::{BlobRange, BlobSlice, Offer, UpdateOutcome, UpdateReport};

use crate::frame::{Message, bounded_codec};

/// Most bytes of a message that may carry tensor headers.
///
/// 256 tensors (`types::limits::TENSORS_MAX`) and as many wanted outputs with names of 512 bytes take 256 KiB, their
/// shapes another 36 KiB.
pub const INFER_MESSAGE_BYTES_MAX: usize = 512 * 1024;

/// Most bytes of a message that carries nothing large; it is also what a peer can make us hold before we know it.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of an [`EnrolResponse`], which carries a TUF root: tough's limit for one is 1 MiB, ours are a few KiB.
pub const ENROL_RESPONSE_BYTES_MAX: usize = 512 * 1024;

/// Most bytes of one TUF metadata file: tough's limit for targets is 10 MiB; 8 MiB lists about 30,000 versions.
pub const METADATA_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Longest certificate signing request in bytes; one for P-256 takes about 250.
pub const CSR_BYTES_MAX: usize = 4096;

/// Most certificates in a chain: device, and the CA with room for two between.
pub const CHAIN_CERTIFICATES_MAX: usize = 4;

/// Longest free text (a cause, a reason, a version of software) in bytes: a line that a person reads.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Most features that a `Hello` or `Welcome` may name.
pub const FEATURES_MAX: usize = 64;

/// What a device asks of its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceRequest {
    /// The first request on each connection: who speaks and what runs there.
    Hello(Hello),
    /// Answer this in the device's place. The tensors' bytes follow as body.
    Infer(InferRequest),
    /// Give a TUF metadata file.
    Metadata {
        /// Its name, like `timestamp.json` or `3.root.json`.
        name: String,
        /// Most bytes the device will take; a longer file is refused as [`RefusalCode::TooLarge`].
        bytes_max: u64,
    },
    /// Give a part of a file of a bundle.
    Blob(BlobRange),
    /// How an update goes; the hub answers [`HubResponse::Accepted`].
    Report(UpdateReport),
    /// Give a new certificate for a new key over this live connection.
    Renew {
        /// PKCS #10 request in DER, at most [`CSR_BYTES_MAX`] bytes; only its public key is used.
        csr_der: Bytes,
    },
}

impl Message for DeviceRequest {
    const KIND: u16 = 0x0101;
    const NAME: &'static str = "device request";
    const BYTES_MAX: usize = INFER_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn body_length(&self) -> u64 {
        match self {
            Self::Infer(request) => infer::length(&request.tensors),
            Self::Hello(_) | Self::Metadata { .. } | Self::Blob(_) | Self::Report(_) | Self::Renew { .. } => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Infer(request) => request.check(),
            Self::Metadata { name, bytes_max } => {
                check_metadata_name(name)?;
                at_most("bytes_max", *bytes_max, METADATA_BYTES_MAX)
            }
            Self::Blob(range) => range.check(),
            Self::Report(report) => report.check(),
            Self::Renew { csr_der } => count("csr_der", csr_der.len(), CSR_BYTES_MAX),
        }
    }
}

/// What a hub answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubResponse {
    /// To `Hello`: the device is known and may go on.
    Welcome(Welcome),
    /// To `Infer`. The tensors' bytes follow as body.
    Infer(InferResponse),
    /// To `Metadata`. The file follows as body.
    Metadata {
        /// Its length in bytes, or `None` when there is no such file.
        length: Option<u64>,
    },
    /// To `Blob`. The bytes follow as body.
    Blob(BlobSlice),
    /// To `Report`: noted.
    Accepted,
    /// To `Renew`.
    Renewed {
        /// Certificates in DER, the device's own first, the CA last.
        chain_der: Vec<Bytes>,
    },
    /// To anything: not done, and why.
    Refused(Refusal),
}

impl Message for HubResponse {
    const KIND: u16 = 0x0102;
    const NAME: &'static str = "hub response";
    const BYTES_MAX: usize = INFER_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn body_length(&self) -> u64 {
        match self {
            Self::Infer(response) => infer::length(&response.tensors),
            Self::Metadata { length } => length.unwrap_or(0),
            Self::Blob(slice) => slice.length,
            Self::Welcome(_) | Self::Accepted | Self::Renewed { .. } | Self::Refused(_) => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Welcome(welcome) => welcome.check(),
            Self::Infer(response) => response.check(),
            Self::Metadata { length } => at_most("length", length.unwrap_or(0), METADATA_BYTES_MAX),
            Self::Blob(slice) => slice.check(),
            Self::Accepted => Ok(()),
            Self::Renewed { chain_der } => count("chain_der", chain_der.len(), CHAIN_CERTIFICATES_MAX),
            Self::Refused(refusal) => refusal.check(),
        }
    }
}

/// What a hub asks of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubRequest {
    /// A version of a model that the device follows is there to be fetched.
    Offer(Offer),
    /// The hub is about to close this connection.
    Goodbye {
        /// Why, for the log.
        reason: String,
        /// How long to stay away, in milliseconds; `None` leaves it to the device's own back-off.
        retry_after_ms: Option<u32>,
    },
}

impl Message for HubRequest {
    const KIND: u16 = 0x0103;
    const NAME: &'static str = "hub request";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Offer(_) => Ok(()),
            Self::Goodbye { reason, .. } => text("reason", reason),
        }
    }
}

/// What a device answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceResponse {
    /// Noted; what comes of it is told by reports.
    Accepted,
    /// Not taken, and why.
    Refused(Refusal),
}

impl Message for DeviceResponse {
    const KIND: u16 = 0x0104;
    const NAME: &'static str = "device response";
    const BYTES_MAX: usize = SMALL_MESSAGE_BYTES_MAX;
    bounded_codec!();

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Accepted => Ok(()),
            Self::Refused(refusal) => refusal.check(),
        }
    }
}

/// Refuses a count or length over its limit.
fn count(field: &str, given: usize, max: usize) -> Result<(), String> {
    if given <= max { Ok(()) } else { Err(format!("{field} has {given}, at most {max} are allowed")) }
}

/// Refuses a number over its limit.
fn at_most(field: &str, given: u64, max: u64) -> Result<(), String> {
    if given <= max { Ok(()) } else { Err(format!("{field} is {given}, at most {max} is allowed")) }
}

/// Refuses a free text that no person would read to its end.
fn text(field: &str, given: &str) -> Result<(), String> {
    count(field, given.len(), TEXT_BYTES_MAX)
}

/// Cuts a text to what a message may carry, at a character boundary.
#[must_use]
pub fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// Longest name of a metadata file in bytes; `18446744073709551615.timestamp.json` takes 35.
const METADATA_NAME_BYTES_MAX: usize = 64;

/// Refuses a metadata name that could be anything but a file in the hub's own metadata folder.
fn check_metadata_name(name: &str) -> Result<(), String> {
    let lawful = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    let plain = name.bytes().all(lawful) && !name.starts_with('.') && !name.contains("..") && name.ends_with(".json");
    if plain && name.len() <= METADATA_NAME_BYTES_MAX {
        Ok(())
    } else {
        Err("name is not that of a metadata file".to_owned())
    }
}
