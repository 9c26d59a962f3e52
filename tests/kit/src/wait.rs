//! Waiting for a condition by polling, never by a fixed sleep.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Timeout of conditions that take a second at most on an idle machine.
///
/// Sixty times that: test machines have two cores and run several builds at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Interval between two polls: short compared with every wait, long enough not to occupy a core.
const PAUSE: Duration = Duration::from_millis(25);

/// Polls until the result is `Some`, at most for `limit`.
///
/// # Errors
/// Fails at once if the poll itself fails; after `limit` with `what` in the text.
pub fn until_within<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("timed out after {} s waiting until {what}", limit.as_secs());
        }
        sleep(PAUSE);
    }
}

/// Polls as [`until_within`] does, with the timeout [`PATIENCE`].
///
/// # Errors
/// As [`until_within`].
pub fn until<T>(what: &str, question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(what, PATIENCE, question)
}

/// Waits until the condition holds. An error of the condition counts as "not yet" and is reported at the end.
///
/// # Errors
/// Fails when it did not hold within [`PATIENCE`].
pub fn until_true(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut last = None;
    let done = until(what, || match condition() {
        Ok(true) => Ok(Some(())),
        Ok(false) => Ok(None),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    match (done, last) {
        (Ok(()), _) => Ok(()),
        (Err(late), Some(last)) => Err(last.context(late)),
        (Err(late), None) => Err(late),
    }
}
