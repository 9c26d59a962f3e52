//! The proof of progress: the watchdog of the service manager is fed only while the store and the engine make progress.
//!
//! A hub whose store hangs ends by itself (see [`crate::hub::RunError::Stalled`]); one whose engine hangs is ended by the
//! service manager, because nothing in this process can stop a run that does not come back.

use std::time::{Duration, Instant};

use store::Store;

use crate::workers::Workers;

/// Interval of the proof where the service manager keeps no watchdog: a store that hangs is then noticed all the same.
pub(super) const PROOF_EVERY: Duration = Duration::from_secs(20);

/// Time over its run limit after which a run counts as lost: stopping it takes one node of the model.
const OVERDUE_MAX: Duration = Duration::from_secs(60);

/// Returns the reason if the hub makes no progress; `None` while it does.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn stuck(workers: &Workers, store: &dyn Store) -> Option<String> {
    let now = Instant::now();
    if let Some(pool) = workers.all().iter().find(|pool| pool.overdue(now) > OVERDUE_MAX) {
        return Some(format!("a run of {}/{} does not come back", pool.model(), pool.version()));
    }
    store.probe().await.err().filter(store::StoreError::is_stalled).map(|error| error.to_string())
}
