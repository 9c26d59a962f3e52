//! Waiting for a condition: never a sleep that hopes, always a question asked again until it is answered.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test waits for something that takes a second at most on an idle machine.
///
/// Sixty times that: test machines have two cores and run several builds beside us.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two questions: short against every wait, long enough not to keep a core busy.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks until the answer is `Some`, at most `limit` long.
///
/// # Errors
/// At once when the question itself fails; after `limit` with `what` in the text.
pub fn until_within<T>(what: &str, limit: Duration, mut question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain until {what}", limit.as_secs());
        }
        sleep(PAUSE);
    }
}

/// [`until_within`] with [`PATIENCE`].
///
/// # Errors
/// As [`until_within`].
pub fn until<T>(what: &str, question: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(what, PATIENCE, question)
}

/// Waits until the condition holds. An error of the condition counts as "not yet" and is told at the end.
///
/// # Errors
/// When it did not hold within [`PATIENCE`].
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
