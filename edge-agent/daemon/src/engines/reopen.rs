//! Opens engines again whose device was lost, after a pause that grows from loss to loss.
//!
//! Run by [`crate::agent`] beside the updaters; those take their models back when [`Engines::returns`] says so. A GPU is
//! lost under load, by a driver that resets it, or when the machine wakes up: minutes later it works again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use types::EngineName;

use super::Engines;

/// Pause before an engine is opened again after its first loss.
///
/// A driver takes seconds to reset a GPU; a model that wedged it meanwhile runs elsewhere.
pub const PAUSE_MIN: Duration = Duration::from_secs(30);

/// Longest pause: what is lost again and again is not worth a load of every model more than once an hour.
pub const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Factor by which the pause grows when an engine is lost again, or does not open.
const GROWTH: u32 = 2;

/// Time that an engine must last for its next loss to count as the first.
const SOUND_AFTER: Duration = Duration::from_secs(3600);

/// Interval between looks at the engines. A look reads one flag of each.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Environment variable by which a test sets the first pause in milliseconds. Read in builds with debug assertions alone.
#[cfg(debug_assertions)]
pub const PAUSE_VARIABLE: &str = "SANDERLING_GPU_REOPEN_MS";

/// Plan for one engine.
#[derive(Debug, Default)]
struct Plan {
    /// Pause before the next attempt; `None` before the first loss.
    pause: Option<Duration>,
    /// Time of the next attempt, while the engine is lost.
    due: Option<Instant>,
    /// Time at which it was opened again last.
    opened: Option<Instant>,
}

impl Plan {
    /// Decides whether the engine is to be opened now.
    fn look(&mut self, is_lost: bool, first: Duration, now: Instant) -> bool {
        if !is_lost {
            self.due = None;
            return false;
        }
        match self.due {
            Some(due) => now >= due,
            None => {
                let sound = self.opened.is_none_or(|opened| now.saturating_duration_since(opened) >= SOUND_AFTER);
                if sound {
                    self.pause = None;
                }
                self.wait(first, now);
                false
            }
        }
    }

    /// Notes the result of an attempt.
    fn tried(&mut self, is_open: bool, first: Duration, now: Instant) {
        if is_open {
            self.opened = Some(now);
            self.due = None;
        } else {
            self.wait(first, now);
        }
    }

    fn wait(&mut self, first: Duration, now: Instant) {
        let pause = self.pause.map_or(first, |pause| pause.saturating_mul(GROWTH)).min(PAUSE_MAX);
        self.pause = Some(pause);
        self.due = now.checked_add(pause);
    }
}

/// Returns the pause after a first loss.
fn first_pause() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(given) = std::env::var(PAUSE_VARIABLE).ok().and_then(|given| given.parse().ok()) {
        return Duration::from_millis(given);
    }
    PAUSE_MIN
}

/// Opens lost engines again until `stop` is cancelled.
pub async fn run(engines: Arc<Engines>, stop: CancellationToken) {
    let first = first_pause();
    let mut plans: Vec<(EngineName, Plan)> = engines.names().into_iter().map(|name| (name, Plan::default())).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL.min(first)) => {}
        }
        for (name, plan) in &mut plans {
            let name = *name;
            let is_due = plan.look(engines.lost(name).is_some(), first, Instant::now());
            if !is_due {
                continue;
            }
            let opener = Arc::clone(&engines);
            // Drivers take their time. An engine that does not open is none of the agent's faults: it goes on with the others.
            let opened = tokio::task::spawn_blocking(move || opener.open_again(name)).await;
            let result = opened.unwrap_or_else(|_panic| Err("a driver broke off while it was opened".to_owned()));
            telemetry::metrics::engine_reopened(name.as_str(), if result.is_ok() { "opened" } else { "failed" });
            plan.tried(result.is_ok(), first, Instant::now());
            match result {
                Ok(()) => tracing::info!(engine = %name, "an engine whose device was lost is open again"),
                Err(error) => {
                    tracing::warn!(engine = %name, error, pause = ?plan.pause, "a lost engine does not open: tried again later");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(plan: &mut Plan, start: Instant, lasts: Duration) -> Duration {
        assert!(!plan.look(true, PAUSE_MIN, start), "an engine is not opened at once");
        let pause = plan.pause.unwrap();
        assert!(!plan.look(true, PAUSE_MIN, start + pause - Duration::from_millis(1)));
        assert!(plan.look(true, PAUSE_MIN, start + pause));
        plan.tried(true, PAUSE_MIN, start + pause);
        assert!(!plan.look(false, PAUSE_MIN, start + pause + lasts));
        pause
    }

    #[test]
    fn the_pause_grows_from_loss_to_loss_and_begins_anew_after_a_sound_hour() {
        let mut plan = Plan::default();
        let mut now = Instant::now();
        let mut seen = Vec::new();
        for _loss in 0..9 {
            let pause = pauses(&mut plan, now, Duration::ZERO);
            seen.push(pause.as_secs());
            now += pause + Duration::from_secs(60);
        }
        assert_eq!(seen, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(pauses(&mut plan, now + SOUND_AFTER, Duration::ZERO), PAUSE_MIN);
    }

    #[test]
    fn an_engine_that_does_not_open_is_tried_again_after_twice_the_pause() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert!(!plan.look(true, PAUSE_MIN, now));
        assert!(plan.look(true, PAUSE_MIN, now + PAUSE_MIN));
        plan.tried(false, PAUSE_MIN, now + PAUSE_MIN);
        assert!(!plan.look(true, PAUSE_MIN, now + PAUSE_MIN * 3 - Duration::from_millis(1)));
        assert!(plan.look(true, PAUSE_MIN, now + PAUSE_MIN * 3));
    }
}
