//! The parts that the device server works with.

use std::sync::Arc;

use service::stop::Stop;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use types::DeviceId;

use crate::app::calibrations::Calibrations;
use crate::app::counters::Counters;
use crate::app::deltas::Deltas;
use crate::app::fleet::Fleet;
use crate::app::issuer::Issuer;
use crate::app::registry::Registry;
use crate::app::rollouts::Rollouts;
use crate::app::tokens::Tokens;
use crate::servers::guard::budget::Budget;
use crate::servers::guard::places::Places;
use crate::storage::queued::QueuedAnswers;
use crate::workers::Workers;

/// Maximum number of files that are read and sent at once; each holds one piece of 256 KiB.
const ARTIFACT_TURNS: usize = 256;

/// Parts that serve devices.
#[derive(Debug)]
pub struct Services {
    /// Issuer of device certificates.
    pub issuer: Arc<Issuer>,
    /// Join tokens, for enrolment.
    pub tokens: Arc<Tokens>,
    /// Devices and their connections.
    pub fleet: Arc<Fleet>,
    /// Counters and measurements of devices.
    pub counters: Arc<Counters>,
    /// Thresholds that are kept valid in the field.
    pub calibrations: Arc<Calibrations>,
    /// Registry of versions and files.
    pub registry: Arc<Registry>,
    /// Deltas between the files of versions.
    pub deltas: Arc<Deltas>,
    /// Rollouts, which decide about offers.
    pub rollouts: Arc<Rollouts>,
    /// Versions that the hub has loaded.
    pub workers: Arc<Workers>,
    /// Answers to queued requests that devices have not stored yet.
    pub queued_answers: Arc<QueuedAnswers>,
    /// Limits that devices share.
    pub limits: DeviceLimits,
    /// Tracker of the requests in progress.
    pub in_flight: TaskTracker,
    /// Signals of the end.
    pub stop: Stop,
}

/// Limits that devices share.
#[derive(Debug)]
pub struct DeviceLimits {
    /// Bytes held for requests and responses, shared by device.
    pub request_memory: Arc<Budget<DeviceId>>,
    /// Handshakes in progress, shared by address.
    pub handshakes: Arc<Places>,
    /// Permits to send a part of a file.
    pub artifact_turns: Semaphore,
    /// Maximum number of concurrent requests of one device.
    pub requests_per_device_max: usize,
}

impl DeviceLimits {
    /// Creates limits with a budget of bytes for requests.
    #[must_use]
    pub fn new(request_bytes_max: u64, handshakes: Arc<Places>, requests_per_device_max: usize) -> Self {
        let artifact_turns = Semaphore::new(ARTIFACT_TURNS);
        Self { request_memory: Budget::new(request_bytes_max), handshakes, artifact_turns, requests_per_device_max }
    }
}
