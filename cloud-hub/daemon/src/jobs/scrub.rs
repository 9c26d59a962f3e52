//! Regular checks of the published files against their digests.

use std::sync::Arc;
use std::time::Duration;

use service::stop::Stop;

use crate::app::offers::Offers;
use crate::app::registry::Registry;

/// Checks of the published files.
#[derive(Debug)]
pub struct Scrub {
    /// Registry with the files.
    pub registry: Arc<Registry>,
    /// Offers, for versions whose files are whole again.
    pub offers: Offers,
    /// Interval between checks; zero switches them off.
    pub every: Duration,
}

impl Scrub {
    /// Checks until the hub stops.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn run(self, stop: Stop) {
        while !self.every.is_zero() {
            let Some(mended) = stop.now.run_until_cancelled(self.registry.scrub()).await else { return };
            self.offers.offer_mended(&self.registry, &mended);
            if stop.now.run_until_cancelled(tokio::time::sleep(self.every)).await.is_none() {
                return;
            }
        }
        stop.now.cancelled().await;
    }
}
