//! What devices and the hub say to each other, in the words of the cores.

use std::time::Duration;

use edge_core::renewal::Validity;
use edge_core::route::HubFailure;
use edge_core::slots::Slots;
use edge_core::update::Report;
use edge_core::uplink::Bar;
use hub_core::authorise::Presented;
use hub_core::tokens::Claim;
use types::{Digest, PolicyMode, Version};

/// Names a connection; every dial makes a new one.
pub type Connection = u64;

/// A device speaks.
#[derive(Debug, Clone)]
pub enum Up {
    /// Redeem a token; needs no connection.
    Enrol {
        /// Digest of the token's secret.
        secret: Digest,
        /// Who wants in.
        claim: Claim,
    },
    /// The handshake.
    Connect(Presented),
    /// The greeting: what serves here.
    Hello(Slots),
    /// The trust metadata, please.
    Metadata,
    /// A part of a version's files, please.
    Blob {
        /// The version.
        version: Version,
        /// Which part.
        part: u32,
    },
    /// How an update goes.
    Report {
        /// Names the entry in the device's outbox.
        entry: u64,
        /// What it says.
        report: Report,
    },
    /// The next certificate, please.
    Renew {
        /// Digest of the new key.
        key: Digest,
    },
    /// An inference.
    Infer {
        /// Names the request on this connection.
        request: u64,
        /// Not on the real wire: what the watch holds it against.
        policy: PolicyMode,
        /// Time left.
        left: Duration,
    },
    /// The answer is not wanted any more.
    Cancel {
        /// The request.
        request: u64,
    },
}

/// The hub speaks.
#[derive(Debug, Clone)]
pub enum Down {
    /// The token let the device in.
    Enrolled(Validity),
    /// It did not.
    NotEnrolled,
    /// The handshake is done.
    Connected,
    /// It is refused, or a live connection is closed, for good.
    Barred(Bar),
    /// The connection is not (or no longer) known here.
    Closed,
    /// The greeting.
    Welcome {
        /// The hub's clock in milliseconds.
        hub_unix_ms: u64,
        /// What to take.
        offers: Vec<Version>,
    },
    /// A version was published.
    Offer(Version),
    /// The trust metadata.
    Metadata,
    /// A part of a version's files.
    Blob {
        /// The version.
        version: Version,
        /// Which part.
        part: u32,
    },
    /// The report is kept.
    Accepted {
        /// Names the entry in the device's outbox.
        entry: u64,
    },
    /// The next certificate.
    Renewed {
        /// Digest of its key.
        key: Digest,
        /// Its life.
        validity: Validity,
    },
    /// An answer.
    Answered {
        /// The request.
        request: u64,
    },
    /// None.
    NotAnswered {
        /// The request.
        request: u64,
        /// Why.
        why: HubFailure,
    },
}
