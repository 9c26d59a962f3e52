//! A deterministic engine for the tests of other crates: no library, no model file, no time but what it is told.
//!
//! It keeps what [`Session`] promises (mismatches, deadline, cancellation) and computes by [`FakeEngine`]'s rule.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use types::{DType, Dim, EngineName, NamedTensor, Signature, Tensor, TensorSpec};

use crate::session::{Engine, EngineDescription, LoadError, LoadOptions, ModelBytes, RunControl, RunError, Session};

/// Answers every request by adding `bias` to each element of the `FP32[batch,width]` input `x`, as output `y`.
///
/// The bias is the model: its bytes are the bias as text, so that two "versions" give different answers. A model whose
/// bytes are not a number fails to load.
#[derive(Debug, Clone)]
pub struct FakeEngine {
    width: usize,
    takes: Duration,
    gate: Option<Gate>,
}

impl FakeEngine {
    /// Makes an engine whose models take rows of `width` numbers and answer at once.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self { width, takes: Duration::ZERO, gate: None }
    }

    /// Makes every run take this long, or until it is cancelled or its deadline passes.
    #[must_use]
    pub fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    /// Makes every run wait at the gate until it is opened.
    #[must_use]
    pub fn gated(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> EngineName {
        EngineName::Fake
    }

    fn describe(&self) -> EngineDescription {
        EngineDescription {
            engine: EngineName::Fake,
            version: "0".to_owned(),
            library: None,
            providers: vec!["FakeExecutionProvider".to_owned()],
        }
    }

    fn load(&self, model: ModelBytes, _options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        let text = std::str::from_utf8(model.as_slice()).map_err(|error| LoadError::Failed(error.into()))?;
        let bias = text.trim().parse().map_err(|error: std::num::ParseFloatError| LoadError::Failed(error.into()))?;
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: Some(vec![Dim::Symbol("batch".to_owned()), Dim::Fixed(self.width)]),
        };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
        Ok(Box::new(FakeSession { signature, bias, engine: self.clone() }))
    }
}

#[derive(Debug)]
struct FakeSession {
    signature: Signature,
    bias: f32,
    engine: FakeEngine,
}

impl Session for FakeSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "FakeExecutionProvider"
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        self.signature.check_inputs(inputs)?;
        self.signature.check_outputs(outputs.iter().map(String::as_str))?;
        if let Some(gate) = &self.engine.gate {
            gate.wait(control)?;
        }
        wait_until(Instant::now() + self.engine.takes, control)?;
        let failed = |error: types::TensorError| RunError::Failed(error.into());
        let Some(input) = inputs.first() else { return Ok(Vec::new()) };
        let values: Vec<f32> = input.tensor.to_f32().map_err(failed)?.iter().map(|x| x + self.bias).collect();
        let tensor = Tensor::from_f32(input.tensor.shape().to_vec(), &values).map_err(failed)?;
        Ok(vec![NamedTensor { name: "y".to_owned(), tensor }])
    }
}

/// Interval at which a waiting run checks its cancel flag.
const LOOK: Duration = Duration::from_millis(1);

fn wait_until(end: Instant, control: &RunControl) -> Result<(), RunError> {
    loop {
        check(control)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

fn check(control: &RunControl) -> Result<(), RunError> {
    if control.cancel.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    if control.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Err(RunError::Deadline);
    }
    Ok(())
}

/// Holds runs back until a test lets them go, and tells the test that one has arrived.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    /// Lets every run through, now and later.
    pub fn open(&self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        self.0.1.notify_all();
    }

    /// Blocks until this many runs have arrived since the gate was made.
    pub fn wait_for_arrivals(&self, runs: usize) {
        let state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = self.0.1.wait_while(state, |state| state.arrived < runs);
        drop(arrived.unwrap_or_else(PoisonError::into_inner));
    }

    fn wait(&self, control: &RunControl) -> Result<(), RunError> {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.arrived += 1;
        self.0.1.notify_all();
        while !state.open {
            check(control)?;
            state = self.0.1.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}
