//! Regular work: signatures are renewed, remains of failed pushes removed, warnings logged, progress proven.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use store::Store;
use tokio::time::MissedTickBehavior;

use super::progress::{PROOF_EVERY, stuck};
use service::stop::Stop;

use crate::app::counters::Counters;
use crate::app::operators::Operators;
use crate::app::registry::Registry;
use crate::app::registry::orphans::ORPHAN_AGE;
use crate::clock;
use crate::storage::queued::QueuedAnswers;
use crate::workers::Workers;

/// Interval between checks whether the signed metadata needs renewal, which lives for days, and between removals of old
/// counters.
const SIGNING_CHECK: Duration = Duration::from_secs(3600);

/// Interval between log lines about trust and tokens that the operator must renew.
const NOTICE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Job that does the regular work of the hub.
#[derive(Debug)]
pub struct Upkeep {
    /// Registry with signed metadata and files.
    pub registry: Arc<Registry>,
    /// Operators, for tokens that end soon.
    pub operators: Arc<Operators>,
    /// Loaded versions, whose runs must come back.
    pub workers: Arc<Workers>,
    /// Counters of devices, of which old ones are removed.
    pub counters: Arc<Counters>,
    /// Store, which must answer.
    pub store: Arc<dyn Store>,
    /// Answers to queued requests, of which old ones are removed.
    pub queued_answers: Arc<QueuedAnswers>,
}

impl Upkeep {
    /// Works until the hub stops.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn run(self, stop: Stop) {
        let mut signing = tokio::time::interval(SIGNING_CHECK);
        let mut notices = tokio::time::interval(NOTICE_EVERY);
        let mut is_first = true;
        let watchdog = telemetry::service::watchdog_period();
        let mut proof = tokio::time::interval(watchdog.unwrap_or(PROOF_EVERY));
        proof.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.now.cancelled() => return,
                _ = signing.tick() => {
                    self.renew(is_first).await;
                    is_first = false;
                    self.queued_answers.sweep(SystemTime::now()).await;
                    if let Err(error) = self.counters.sweep(clock::unix_s()).await {
                        tracing::warn!(error = telemetry::chain(&error), "old counters of devices were not removed");
                    }
                }
                _ = notices.tick() => self.notice().await,
                _ = proof.tick() => {
                    let proving = stuck(&self.workers, self.store.as_ref());
                    match stop.now.run_until_cancelled(proving).await {
                        Some(None) => telemetry::service::alive(),
                        Some(Some(reason)) => tracing::error!(reason, "no progress: the watchdog is not fed"),
                        None => return,
                    }
                },
            }
        }
    }

    /// Signs the metadata again where that is due. A failure is in the hub's warnings, which are logged daily.
    async fn renew(&self, is_first: bool) {
        let renewed = match self.registry.renew_metadata(Timestamp::now()).await {
            // The clock of a machine that has just booted may not be set yet.
            Ok(false) if !is_first => self.registry.shorten_metadata(Timestamp::now()).await,
            renewed => renewed,
        };
        match renewed {
            Ok(true) => tracing::info!("signed metadata renewed"),
            Ok(false) => {}
            Err(error) => tracing::debug!(error = telemetry::chain(&error), "metadata was not signed again"),
        }
    }

    /// Removes remains of failed pushes and logs warnings.
    async fn notice(&self) {
        if let Err(error) = self.registry.remove_orphans(ORPHAN_AGE).await {
            tracing::warn!(error = telemetry::chain(&error), "files of failed pushes were not removed");
        }
        for warning in self.registry.trust_warnings(Timestamp::now()).into_iter().chain(self.registry.damage()) {
            tracing::warn!("{warning}");
        }
        if let Err(error) = self.operators.remove_superseded(clock::unix_ms()).await {
            tracing::warn!(error = telemetry::chain(&error), "expired operator tokens were not removed");
        }
        match self.operators.warnings(clock::unix_ms()).await {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(error) => tracing::warn!(error = telemetry::chain(&error), "operator tokens were not checked"),
        }
    }
}
