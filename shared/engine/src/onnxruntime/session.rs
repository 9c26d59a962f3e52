//! One loaded model of ONNX Runtime.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ort::session::{Session as OrtInner, SessionInputValue};
use ort::value::DynValue;
use types::{NamedTensor, Signature};

use super::raw::Stoppable;
use super::{refusal, value};
use crate::session::{RunControl, RunError, Session};
use crate::watchdog::Watchdog;

/// A session, what it takes and gives, and who stops it.
pub(super) struct OrtSession {
    inner: OrtInner,
    signature: Signature,
    provider: String,
    watchdog: Arc<Watchdog>,
}

impl OrtSession {
    pub(super) fn new(inner: OrtInner, signature: Signature, provider: String, watchdog: Arc<Watchdog>) -> Self {
        Self { inner, signature, provider, watchdog }
    }
}

impl std::fmt::Debug for OrtSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrtSession").field("provider", &self.provider).finish_non_exhaustive()
    }
}

impl Session for OrtSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        &self.provider
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        self.signature.check_inputs(inputs)?;
        self.signature.check_outputs(outputs.iter().map(String::as_str))?;
        // Owned here until the outputs are copied: an output may be the memory of an input.
        let values: Vec<DynValue> = inputs.iter().map(value::input).collect::<Result<_, RunError>>()?;
        let views: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = inputs
            .iter()
            .zip(&values)
            .map(|(input, value)| (Cow::Borrowed(input.name.as_str()), SessionInputValue::from(value)))
            .collect();
        let wanted: Vec<&str> = if outputs.is_empty() {
            self.signature.outputs.iter().map(|spec| spec.name.as_str()).collect()
        } else {
            outputs.iter().map(String::as_str).collect()
        };
        let once: BTreeSet<&str> = wanted.iter().copied().collect();
        let run = Arc::new(Stoppable::new(once).map_err(|error| RunError::Failed(error.into()))?);
        let stopped = Arc::clone(&run);
        let stop: Arc<dyn Fn() + Send + Sync> = Arc::new(move || stopped.terminate());
        let _cancel = control.cancel.on_cancel(Arc::clone(&stop));
        let _deadline = control.deadline.map(|deadline| self.watchdog.arm(deadline, stop));
        // ort panics where an output that the graph promises is missing after a run.
        let inner = &mut self.inner;
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let given = inner.run_with_options(views, run.options()).map_err(|error| why(error, control))?;
            let mut left = value::OUTPUT_BYTES_MAX;
            let copy = |name: &&str| {
                let missing = || RunError::Failed(format!("the run gave no output {name:?}").into());
                value::output(name, given.get(name).ok_or_else(missing)?, &mut left)
            };
            wanted.iter().map(copy).collect()
        }));
        drop(values);
        answer.unwrap_or_else(|_panic| Err(RunError::Failed("the run did not give what the graph promises".into())))
    }
}

/// Tells a run that was stopped from one that failed.
fn why(error: ort::Error, control: &RunControl) -> RunError {
    if control.cancel.is_cancelled() {
        RunError::Cancelled
    } else if control.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        RunError::Deadline
    } else if let Some(problem) = refusal::of_run(error.code(), error.message()) {
        RunError::Refused(problem)
    } else {
        RunError::Failed(error.into())
    }
}
