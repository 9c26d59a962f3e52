//! Observation of the version on probation: what it did since the last look.

use std::sync::Arc;
use std::time::Duration;

use edge_core::update::probation::Sample;
use types::Version;

use crate::models::Serving;
use crate::vitals::Reading;

/// Interval at which a version on probation is looked at: a bad one serves at most this much longer than it must.
const OBSERVED_EVERY: Duration = Duration::from_secs(1);

/// Observer of one model's version on probation.
#[derive(Debug, Default)]
pub(super) struct Observer {
    last: Option<(Arc<Serving>, Reading)>,
}

impl Observer {
    /// Returns what a version did since the last call; nothing while it does not serve.
    pub(super) fn sample(&mut self, version: Version, serving: Option<Arc<Serving>>) -> Sample {
        let Some(serving) = serving.filter(|serving| serving.installed.version == version) else {
            self.last = None;
            return Sample::default();
        };
        let now = serving.vitals.read();
        // Another session of the same version, on another engine, counts from its beginning.
        let known = self.last.as_ref().filter(|(last, _reading)| Arc::ptr_eq(last, &serving));
        let before = known.map_or_else(Reading::default, |(_last, reading)| *reading);
        let sample = Sample {
            answers: now.answers.saturating_sub(before.answers),
            failures: now.failures.saturating_sub(before.failures),
            deaths: now.deaths.saturating_sub(before.deaths),
            condemned: serving.session.condemned(),
            median: serving.vitals.median(),
        };
        self.last = Some((serving, now));
        sample
    }

    /// Forgets the session, so that it can be freed.
    pub(super) fn end(&mut self) {
        self.last = None;
    }
}

/// Waits until the version on probation is to be looked at; forever without one.
pub(super) async fn due(is_on_probation: bool) {
    match is_on_probation {
        true => tokio::time::sleep(OBSERVED_EVERY).await,
        false => std::future::pending().await,
    }
}
