//! Moves rollouts forward: looks at the fleet when it has changed, and when time decides.

use std::sync::Arc;
use std::time::Duration;

use service::stop::Stop;
use tokio::time::Instant;

use crate::app::fleet::Fleet;
use crate::app::rollouts::Rollouts;
use crate::clock;

/// Minimum pause between two looks: reports that come together are looked at together.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Maximum pause between two looks after a change.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Multiple of the duration of a look by which the next one waits, so that a large fleet costs at most a tenth of a core.
const PAUSE_FACTOR: u32 = 10;

/// Maximum time between two looks: labels and clocks change without a notice.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Job that moves rollouts forward.
#[derive(Debug)]
pub struct MoveRollouts {
    /// Rollouts, pins and assigned models.
    pub rollouts: Arc<Rollouts>,
    /// Devices, whose changes wake the job.
    pub fleet: Arc<Fleet>,
}

impl MoveRollouts {
    /// Works until the hub stops.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the next look does what this one did not.
    pub async fn run(self, stop: Stop) {
        loop {
            let begun = Instant::now();
            let Some(evaluated) = stop.now.run_until_cancelled(self.rollouts.evaluate()).await else { return };
            let pause = begun.elapsed().saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX);
            if stop.now.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            if evaluated.is_moving {
                continue;
            }
            let due = evaluated.next_unix_s.map(|at| Duration::from_secs(at.saturating_sub(clock::unix_s())));
            tokio::select! {
                () = stop.now.cancelled() => return,
                () = self.fleet.changed() => {}
                () = tokio::time::sleep(due.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)) => {}
            }
        }
    }
}
