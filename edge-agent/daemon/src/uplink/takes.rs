//! Optional requests that the hub takes, as it said in its last greeting.
//!
//! Written by the uplink at each greeting, read by [`super::Link`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::v1::feature;

/// Optional requests that the hub takes. Cheap to clone; clones share their content.
#[derive(Debug, Clone, Default)]
pub struct Takes {
    deltas: Arc<AtomicBool>,
    queued: Arc<AtomicBool>,
}

impl Takes {
    /// Reads the features of a hub's greeting.
    pub fn greeted(&self, features: &[String]) {
        self.deltas.store(feature::has(features, feature::DELTAS), Ordering::Relaxed);
        self.queued.store(feature::has(features, feature::QUEUED_REQUESTS), Ordering::Relaxed);
    }

    /// Returns whether the hub runs a queued request once for its id.
    #[must_use]
    pub fn queued(&self) -> bool {
        self.queued.load(Ordering::Relaxed)
    }

    /// Returns whether the hub makes deltas between files.
    #[must_use]
    pub fn deltas(&self) -> bool {
        self.deltas.load(Ordering::Relaxed)
    }
}
