//! Shares of what all clients have in common: memory, places, calls. The decisions are [`hub_core::shares`],
//! [`hub_core::intake`] and [`hub_core::logins`]; here they are held under a lock and given back when a guard is dropped.
//!
//! Used by [`crate::gateway`], [`crate::admin`] and [`crate::servers::metrics`].

pub mod budget;
pub mod places;
pub mod tcp;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a decision; one that panicked in a test half way is still consistent, because each changes it in one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
