//! Messages between devices and the hub, in the types of the cores.

use std::time::Duration;

use edge_core::renewal::Validity;
use edge_core::route::HubFailure;
use edge_core::slots::Slots;
use edge_core::update::Report;
use edge_core::uplink::Rejection;
use hub_core::authorise::Presented;
use hub_core::tokens::Claim;
use types::{Digest, PolicyMode, Version};

/// Number of a connection; every dial creates a new one.
pub type Connection = u64;

/// Messages from a device.
#[derive(Debug, Clone)]
pub enum Up {
    /// Redeems a token; needs no connection.
    Enrol {
        /// Digest of the token's secret.
        secret: Digest,
        /// Claim of the device.
        claim: Claim,
    },
    /// Connects with a certificate.
    Connect(Presented),
    /// Lists the versions that serve on the device.
    Hello(Slots),
    /// Requests the trust metadata.
    Metadata,
    /// Requests a part of a version's files.
    Blob {
        /// Version of the model.
        version: Version,
        /// Number of the part.
        part: u32,
    },
    /// Reports the progress of an update.
    Report {
        /// Number of the entry in the device's outbox.
        entry: u64,
        /// Content of the report.
        report: Report,
    },
    /// Requests the next certificate.
    Renew {
        /// Digest of the new key.
        key: Digest,
    },
    /// Requests an inference.
    Infer {
        /// Number of the request on this connection.
        request: u64,
        /// Policy of the request, not on the real wire: the simulation checks the result against it.
        policy: PolicyMode,
        /// Remaining time of the deadline.
        left: Duration,
    },
    /// Cancels an inference.
    Cancel {
        /// Number of the request.
        request: u64,
    },
}

/// Messages from the hub.
#[derive(Debug, Clone)]
pub enum Down {
    /// The hub enrolled the device.
    Enrolled(Validity),
    /// The hub refused the token.
    NotEnrolled,
    /// The hub accepted the connection.
    Connected,
    /// The hub refused the connection, or closed a live one, permanently.
    Rejected(Rejection),
    /// The hub does not (or no longer) know the connection.
    Closed,
    /// Response to `Hello`.
    Welcome {
        /// Hub's clock in milliseconds.
        hub_unix_ms: u64,
        /// Versions to install.
        offers: Vec<Version>,
    },
    /// Announces a new version.
    Offer(Version),
    /// Trust metadata of the hub.
    Metadata,
    /// A part of a version's files.
    Blob {
        /// Version of the model.
        version: Version,
        /// Number of the part.
        part: u32,
    },
    /// The hub has stored the report.
    Accepted {
        /// Number of the entry in the device's outbox.
        entry: u64,
    },
    /// The next certificate of the device.
    Renewed {
        /// Digest of its key.
        key: Digest,
        /// Validity of the certificate.
        validity: Validity,
    },
    /// A successful inference.
    Answered {
        /// Number of the request.
        request: u64,
    },
    /// An inference that failed.
    NotAnswered {
        /// Number of the request.
        request: u64,
        /// Reason of the failure.
        why: HubFailure,
    },
}
