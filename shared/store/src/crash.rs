//! Named writes at which a test ends the process, as a power cut would: no destructor runs and nothing more is written.
//!
//! Used by [`crate::SledStore`]'s writer. `SANDERLING_STORE_CRASH=after:2:rollout/,current/` aborts the process after its
//! second write that changes a key with one of these beginnings; with `before` in place of `after` the write is not made.
//! Builds without debug assertions (the shipped ones) do not read the variable.

use crate::map::Changes;

/// Environment variable that names the write at which the process ends. Read in builds with debug assertions only.
pub const CRASH_VARIABLE: &str = "SANDERLING_STORE_CRASH";

/// Side of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Nothing of the write is on the disk.
    Before,
    /// The write is on the disk, and nobody knows yet.
    After,
}

/// Counter of the writes that a test has named.
#[derive(Debug, Default)]
pub(crate) struct Crash {
    order: Option<Order>,
    seen: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Order {
    side: Side,
    number: u64,
    beginnings: Vec<String>,
}

impl Crash {
    /// Reads the variable.
    #[cfg(debug_assertions)]
    pub(crate) fn from_environment() -> Self {
        Self { order: std::env::var(CRASH_VARIABLE).ok().as_deref().and_then(parse), seen: 0 }
    }

    /// Returns a counter without an order: release builds have no such variable.
    #[cfg(not(debug_assertions))]
    pub(crate) fn from_environment() -> Self {
        Self::default()
    }

    /// Ends the process if this is the named side of the named write. Each write is counted on its first side.
    pub(crate) fn at(&mut self, side: Side, changes: &Changes) {
        if self.is_due(side, changes) {
            std::process::abort();
        }
    }

    fn is_due(&mut self, side: Side, changes: &Changes) -> bool {
        let Some(order) = &self.order else { return false };
        let is_named = |key: &[u8]| order.beginnings.iter().any(|beginning| key.starts_with(beginning.as_bytes()));
        if !changes.keys().any(|key| is_named(key)) {
            return false;
        }
        if side == Side::Before {
            self.seen = self.seen.saturating_add(1);
        }
        side == order.side && self.seen == order.number
    }
}

#[cfg(any(debug_assertions, test))]
fn parse(text: &str) -> Option<Order> {
    let mut fields = text.splitn(3, ':');
    let side = match fields.next()? {
        "before" => Side::Before,
        "after" => Side::After,
        _ => return None,
    };
    let number = fields.next()?.parse().ok()?;
    let beginnings = fields.next()?.split(',').map(str::to_owned).collect();
    Some(Order { side, number, beginnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_side_of_the_named_write_is_found() {
        let changes = |key: &str| Changes::from([(bytes::Bytes::from(key.to_owned().into_bytes()), None)]);
        let due = |order: &str| {
            let mut crash = Crash { order: parse(order), seen: 0 };
            let mut due = Vec::new();
            for key in ["rollout/1", "device/x", "current/digits", "rollout/1"] {
                for side in [Side::Before, Side::After] {
                    if crash.is_due(side, &changes(key)) {
                        due.push((key, side));
                    }
                }
            }
            due
        };
        assert_eq!(due("after:2:rollout/,current/"), [("current/digits", Side::After)]);
        assert_eq!(due("before:2:rollout/"), [("rollout/1", Side::Before)]);
        assert_eq!(due("after:3:current/"), []);
        for wrong in ["", "after", "after:x:rollout/", "later:1:rollout/"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
