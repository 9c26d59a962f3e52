//! A loaded model on a device, as an [`engine::Session`].
//!
//! Fed by the session's worker thread with one request at a time. Runs the model's [`crate::segments`] one after the other.
//! Keeps a plan for each set of input shapes it has met lately, and fails for good once its device is gone, so that the
//! daemon can fail over.

mod cycle;
mod run;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{Cause, RunControl, RunError};
use parking_lot::FairMutex;
use run::{Crossing, Runner, Step, Stopped, Values, refused};
use serde::Serialize;
use types::{Dim, NamedTensor, Signature, Tensor, TensorSpec};

use crate::check::best;
use crate::error::{ModelError, OpError};
use crate::gpu::Gpu;
use crate::ir::{ElementType, Graph, Literal, ValueId};
use crate::plan::Weights;
use crate::segments::{HostNode, cut, describe};
use crate::value_info::{INPUT, ValueInfo, ValueInfos};

pub use crate::segments::ITERATIONS_MAX;
pub use run::PLANS_MAX;

/// Most elements of all inputs together for which a model is warmed up at sizes that are a guess.
///
/// A picture of 512 by 512 is below; with more, a load could take minutes for sizes that no request has.
const GUESSED_ELEMENTS_MAX: usize = 1 << 20;

/// Description of a session, for `status` and logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionDescription {
    /// Parts of the model that run on the device, each in one submission.
    pub segments: usize,
    /// Operators that run on the host between them, because the shape of their output depends on the data.
    pub host_nodes: Vec<HostNode>,
    /// Kernel launches of the plans used last.
    pub launches: usize,
    /// Bytes of activations of the plans used last.
    pub arena_bytes: u64,
    /// Bytes of weights on the device.
    pub weight_bytes: u64,
}

/// A model on a device.
#[derive(Debug)]
pub struct WgpuSession {
    gpu: Arc<Gpu>,
    steps: Vec<Step>,
    host_nodes: Vec<HostNode>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    /// Outputs that are constants of the model.
    constants: HashMap<ValueId, Literal>,
    signature: Signature,
    weights: Weights,
    budget: u64,
    run_limit: Option<Duration>,
    /// Held for each turn on the device; all sessions of a model have the same one.
    turns: Arc<FairMutex<()>>,
}

impl WgpuSession {
    /// Lets the session share the turns of its model; see [`Gpu::turns_of`].
    pub(crate) fn sharing(self, turns: Arc<FairMutex<()>>) -> Self {
        Self { turns, ..self }
    }

    /// Puts a checked and rewritten graph on the device, and runs it once on zeros so that drivers have compiled every
    /// kernel before the model is called ready.
    ///
    /// `budget` is the most bytes of device memory for weights and one plan's activations, `run_limit` the longest time
    /// that a request may take.
    ///
    /// # Errors
    /// When the graph cannot run at its declared shapes (open sizes guessed as `check` does), or not within `run_limit`.
    pub fn new(gpu: Arc<Gpu>, graph: &Graph, budget: u64, run_limit: Option<Duration>) -> Result<Self, ModelError> {
        let signature = signature(graph)?;
        let device = Arc::clone(&gpu);
        let _loading = device.loading();
        let constant = |id: &ValueId| graph.constants.get(id).map(|literal| (*id, literal.clone()));
        let mut session = Self {
            gpu,
            steps: cut(graph).into_iter().map(Step::new).collect(),
            host_nodes: describe(graph),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
            constants: graph.outputs.iter().filter_map(constant).collect(),
            signature,
            weights: Weights::default(),
            budget,
            run_limit,
            turns: Arc::default(),
        };
        let scalar = |id| {
            ValueInfo::new(
                graph.value(id).declared.as_ref().map_or(ElementType::F32, |declared| declared.0),
                Vec::new(),
            )
        };
        let guess = best(graph);
        // Sizes above the least are a guess: a request may be smaller and fit the budget.
        let least = guess.inputs == ValueInfos::declared_inputs(graph);
        let infos: Vec<ValueInfo> =
            guess.inputs.into_iter().zip(&graph.inputs).map(|(info, &id)| info.unwrap_or_else(|| scalar(id))).collect();
        let of = |info: &ValueInfo| info.shape.iter().copied().fold(1, usize::saturating_mul);
        let elements = infos.iter().map(of).fold(0, usize::saturating_add);
        if least || elements <= GUESSED_ELEMENTS_MAX {
            match session.warm_up(&infos) {
                Err(ModelError::OverBudget { .. } | ModelError::TooSlow { .. }) if !least => {}
                done => done?,
            }
        }
        Ok(session)
    }

    fn warm_up(&mut self, infos: &[ValueInfo]) -> Result<(), ModelError> {
        let symbolic =
            self.signature.inputs.iter().any(|spec| {
                spec.shape.as_ref().is_none_or(|dims| dims.iter().any(|dim| !matches!(dim, Dim::Fixed(_))))
            });
        let mut zeros = Vec::with_capacity(infos.len());
        for (info, &id) in infos.iter().zip(&self.inputs) {
            let needed = info.shape.iter().try_fold(4_u64, |bytes, &size| bytes.checked_mul(size as u64));
            let needed = needed.unwrap_or(u64::MAX);
            if needed > self.budget {
                return Err(ModelError::OverBudget { needed, budget: self.budget });
            }
            let literal = Literal::from_i64s(info.dtype, info.shape.clone(), &[]);
            zeros.push((id, Crossing { literal, known: false }));
        }
        match self.execute(zeros.into_iter().collect(), &RunControl::default(), true) {
            Ok(_answer) => Ok(()),
            // A model may be lawful at the shapes of requests and not at 1, or find nothing in zeros and stumble over it:
            // its first request makes the plans that are missing.
            Err(Stopped::Failed(ModelError::Node {
                source: OpError::Invalid(_) | OpError::Attribute(_) | OpError::TooLarge(_),
                ..
            })) if symbolic || !self.host_nodes.is_empty() => Ok(()),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::Asked(_nobody_did)) => Ok(()),
        }
    }

    /// Kernel launches and bytes of activations of the plans used last.
    #[must_use]
    pub fn plan_summary(&self) -> Option<(usize, u64)> {
        let description = self.describe();
        let planned = self.segments().any(|segment| segment.plan().is_some());
        planned.then_some((description.launches, description.arena_bytes))
    }

    /// Returns a description of the session.
    #[must_use]
    pub fn describe(&self) -> SessionDescription {
        let (mut count, mut launches, mut arena_bytes) = (0, 0, 0);
        for segment in self.segments() {
            count += 1;
            if let Some(plan) = segment.plan() {
                launches += plan.launch_count();
                arena_bytes += plan.arena_bytes;
            }
        }
        let (host_nodes, weight_bytes) = (self.host_nodes.clone(), self.weights.bytes);
        SessionDescription { segments: count, host_nodes, launches, arena_bytes, weight_bytes }
    }

    fn segments(&self) -> impl Iterator<Item = &run::Segment> {
        self.steps.iter().flat_map(Step::segments)
    }

    /// Runs the plans used last again on the inputs they were given, without reading an answer, and says how long that took:
    /// the time of the kernels alone, for benches.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn rerun(&mut self) -> Result<Duration, ModelError> {
        let begin = Instant::now();
        for plan in self.segments().filter_map(run::Segment::plan) {
            let whole = plan.whole();
            let submission = self.gpu.submit([plan.record(&self.gpu, &whole)]);
            if !self.gpu.wait(submission, plan.patience_of(&whole))? {
                self.gpu.give_up("it did not finish a run in time");
                self.gpu.check()?;
            }
        }
        Ok(begin.elapsed())
    }

    /// As [`WgpuSession::rerun`], but gives each kernel's label and time by the device's own clock, in order; `None` where the
    /// adapter has no such clock.
    ///
    /// # Errors
    /// When the device is gone or refuses the queries.
    pub fn kernel_times(&mut self) -> Result<Option<Vec<(&'static str, Duration)>>, ModelError> {
        let mut all = Vec::new();
        for plan in self.segments().filter_map(run::Segment::plan).filter(|plan| plan.launch_count() > 0) {
            let Some(times) = plan.kernel_times(&self.gpu)? else { return Ok(None) };
            all.extend(times);
        }
        Ok(Some(all))
    }

    /// Runs every step; gives the outputs in the graph's order.
    fn execute(&mut self, mut values: Values, control: &RunControl, warming: bool) -> Result<Vec<Literal>, Stopped> {
        let (gpu, weights) = (&self.gpu, &mut self.weights);
        let (budget, run_limit, turns) = (self.budget, self.run_limit, self.turns.as_ref());
        let mut runner = Runner { gpu, weights, budget, control, warming, run_limit, turns, in_cycles: 0 };
        runner.run(&mut self.steps, &mut values)?;
        let output = |id: &ValueId| {
            let crossing = values.get(id).map(|crossing| &crossing.literal);
            let missing = || ModelError::Malformed("an output that nothing computes".into());
            Ok(crossing.or_else(|| self.constants.get(id)).ok_or_else(missing)?.clone())
        };
        self.outputs.iter().map(output).collect()
    }

    fn answer(&mut self, inputs: &[NamedTensor], control: &RunControl) -> Result<Vec<Tensor>, RunError> {
        self.gpu.check().map_err(|error| failed(error.into()))?;
        let mut values = HashMap::with_capacity(inputs.len());
        for (spec, &id) in self.signature.inputs.iter().zip(&self.inputs) {
            // `check_inputs` has seen each exactly once.
            let Some(input) = inputs.iter().find(|input| input.name == spec.name) else { continue };
            let dtype = ElementType::from_request(input.tensor.dtype()).unwrap_or(ElementType::U8);
            let literal = Literal::new(dtype, input.tensor.shape().to_vec(), input.tensor.data().clone());
            let literal = literal.ok_or_else(|| failed(refused("an input whose bytes and shape disagree")))?;
            values.insert(id, Crossing { literal, known: false });
        }
        let outputs = self.execute(values, control, false).map_err(|stopped| match stopped {
            Stopped::Asked(error) => error,
            Stopped::Failed(error) => failed(error),
        })?;
        outputs.iter().map(to_tensor).collect::<Result<_, _>>().map_err(failed)
    }
}

impl engine::Session for WgpuSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        &self.gpu.report().name
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        self.signature.check_inputs(inputs)?;
        // Kernels are fused by which symbols are equal.
        self.signature.check_symbols(inputs)?;
        self.signature.check_outputs(outputs.iter().map(String::as_str))?;
        let tensors = self.answer(inputs, control)?;
        let names = self.signature.outputs.iter().map(|spec| spec.name.clone());
        let mut all: Vec<NamedTensor> = names.zip(tensors).map(|(name, tensor)| NamedTensor { name, tensor }).collect();
        if outputs.is_empty() {
            return Ok(all);
        }
        let mut take = |name: &String| all.iter().position(|output| output.name == *name).map(|at| all[at].clone());
        let wanted = outputs.iter().filter_map(&mut take).collect();
        all.clear();
        Ok(wanted)
    }
}

fn failed(error: ModelError) -> RunError {
    match &error {
        // No session of this device answers again: the daemon takes the model elsewhere.
        ModelError::Gpu(gone) if gone.is_lost() => RunError::Lost(Cause::from(error)),
        // The plan of a loaded model fails only at the sizes and values of this request.
        ModelError::Node {
            node,
            operator,
            source: source @ (OpError::Invalid(_) | OpError::TooLarge(_) | OpError::Fault(_)),
        } => RunError::Refused(match operator.as_str() {
            INPUT => format!("input {node:?}: {source}"),
            _ => format!("operator {operator} of node {node:?}: {source}"),
        }),
        ModelError::OverBudget { .. } | ModelError::TooSlow { .. } => RunError::Refused(error.to_string()),
        ModelError::Malformed(_) | ModelError::Unsupported(_) | ModelError::Node { .. } | ModelError::Gpu(_) => {
            RunError::Failed(Cause::from(error))
        }
    }
}

fn to_tensor(literal: &Literal) -> Result<Tensor, ModelError> {
    let dtype = literal.dtype().to_request().ok_or_else(|| refused("an output of 4-bit integers"))?;
    let bytes = Bytes::clone(literal.bytes());
    Tensor::new(dtype, literal.shape().to_vec(), bytes).map_err(|error| refused(error.to_string()))
}

/// Returns the inputs and outputs of the graph as requests see them.
fn signature(graph: &Graph) -> Result<Signature, ModelError> {
    let spec = |id| {
        let value = graph.value(id);
        let declared = value.declared.clone();
        let (dtype, shape) = declared.ok_or_else(|| {
            ModelError::Malformed(format!("{:?} is declared without an element type this engine knows", value.name))
        })?;
        let dtype =
            dtype.to_request().ok_or_else(|| ModelError::Malformed(format!("{:?} is a 4-bit tensor", value.name)))?;
        Ok(TensorSpec { name: value.name.clone(), dtype, shape })
    };
    Ok(Signature {
        inputs: graph.inputs.iter().copied().map(spec).collect::<Result<_, ModelError>>()?,
        outputs: graph.outputs.iter().copied().map(spec).collect::<Result<_, ModelError>>()?,
    })
}
