//! Waits for a daemon of this machine that was started a moment ago.
//!
//! `cloud-hub serve &` and the next line of a script must fit together: the daemon takes its folder within moments and
//! its port some time later, because it loads its models first.

use std::time::{Duration, Instant};

use crate::progress;

/// Longest wait for a sign of the daemon: a process that a shell has started by now has taken its folder after this.
const SIGN_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for a daemon that is starting: it loads models, on a slow disk for minutes.
const START_WITHIN: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time after which the wait is shown.
const QUIET_FOR: Duration = Duration::from_millis(500);

/// Waits until `is_up`, as long as the daemon may be starting: for [`SIGN_WITHIN`] in any case, and as long as
/// `is_starting`. Returns whether it is up; the caller's own attempt tells the error if it is not.
pub fn until_up(what: &str, mut is_up: impl FnMut() -> bool, is_starting: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    let mut shown = None;
    let is_up = loop {
        if is_up() {
            break true;
        }
        let waited = began.elapsed();
        let waits_on = waited < SIGN_WITHIN || (waited < START_WITHIN && is_starting());
        if !waits_on {
            break false;
        }
        if shown.is_none() && waited >= QUIET_FOR {
            shown = Some(progress::spinner(format!("waiting for {what} to start")));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if let Some(shown) = shown {
        shown.done("");
    }
    is_up
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_daemon_that_is_up_costs_no_wait_and_one_that_comes_up_is_waited_for() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            looks.get() >= 3
        };
        assert!(until_up("the hub", look, || false));
        assert_eq!(looks.get(), 3);
    }
}
