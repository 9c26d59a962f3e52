//! The steps of one inference: plans on the device, host nodes on the host, one of two branches.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use engine::{RunControl, RunError};

use parking_lot::FairMutex;

use crate::error::{GpuError, ModelError, OpError};
use crate::gpu::{Gpu, Patience};
use crate::ir::{Graph, Literal, Node, ValueId};
use crate::lower::Repr;
use crate::plan::{Plan, Port, Weights, per};
use crate::segments::{Cycle, Stage};
use crate::value_info::{INPUT, ValueInfo};

/// Plans kept for different input shapes. A camera has one shape, a text model a handful of padded lengths.
pub const PLANS_MAX: usize = 8;

/// Interval at which a waiting run looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// A part of the model that runs as one plan.
#[derive(Debug)]
pub(super) struct Segment {
    graph: Graph,
    /// Most recently used first, each with the infos of the inputs it is for.
    plans: VecDeque<(Vec<ValueInfo>, Plan)>,
    /// True if plans are made for the values of small integer inputs, not for their shapes alone; see
    /// [`Runner::infos`].
    by_value: bool,
}

/// Maximum elements of an integer input whose values a plan may be made for: indices, bounds of slices, shapes.
const VALUE_ELEMENTS_MAX: usize = 64;

/// One step of an inference.
#[derive(Debug)]
pub(super) enum Step {
    Device(Segment),
    Host(Node, HashMap<ValueId, Literal>),
    /// The value that decides, and what runs where it is false and where it is true.
    Branch(ValueId, [Vec<Step>; 2]),
    /// A loop, and the steps of its body.
    Cycle(Box<Cycle>, Vec<Step>),
}

/// A tensor between two steps.
#[derive(Debug, Clone)]
pub(super) struct Crossing {
    pub(super) literal: Literal,
    /// True if it follows from shapes alone, so that the next plan may be made for it.
    pub(super) known: bool,
}

/// The tensors that have been computed so far.
pub(super) type Values = HashMap<ValueId, Crossing>;

/// Reason for which an inference ended early.
pub(super) enum Stopped {
    Asked(RunError),
    Failed(ModelError),
}

impl From<ModelError> for Stopped {
    fn from(error: ModelError) -> Self {
        Self::Failed(error)
    }
}

impl From<GpuError> for Stopped {
    fn from(error: GpuError) -> Self {
        Self::Failed(error.into())
    }
}

/// State that every step runs with.
pub(super) struct Runner<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) weights: &'a mut Weights,
    /// Most bytes of device memory.
    pub(super) budget: u64,
    pub(super) control: &'a RunControl,
    /// True if branches that are not taken run too, so that their kernels are compiled.
    pub(super) warming: bool,
    /// Longest time that a request may take; a model that cannot meet it is refused while warming.
    pub(super) run_limit: Option<Duration>,
    /// Held for each turn, so that the sessions of one model take turns among themselves.
    pub(super) turns: &'a FairMutex<()>,
    /// Number of loops around the present step.
    pub(super) in_cycles: usize,
}

impl Step {
    pub(super) fn new(stage: Stage) -> Self {
        match stage {
            Stage::Device(graph) => Self::Device(Segment { graph, plans: VecDeque::new(), by_value: false }),
            Stage::Host(node, constants) => Self::Host(node, constants),
            Stage::Branch(branch) => {
                Self::Branch(branch.condition, branch.sides.map(|side| side.into_iter().map(Self::new).collect()))
            }
            Stage::Cycle(mut cycle) => {
                let stages = std::mem::take(&mut cycle.stages);
                Self::Cycle(cycle, stages.into_iter().map(Self::new).collect())
            }
        }
    }

    /// The segments of this step.
    pub(super) fn segments(&self) -> Vec<&Segment> {
        match self {
            Self::Device(segment) => vec![segment],
            Self::Host(..) => Vec::new(),
            Self::Branch(_condition, sides) => sides.iter().flatten().flat_map(Self::segments).collect(),
            Self::Cycle(_cycle, steps) => steps.iter().flat_map(Self::segments).collect(),
        }
    }
}

impl Runner<'_> {
    /// Runs steps in order: their inputs from `values`, their outputs into them.
    pub(super) fn run(&mut self, steps: &mut [Step], values: &mut Values) -> Result<(), Stopped> {
        for step in steps {
            match step {
                Step::Device(segment) => self.segment(segment, values)?,
                Step::Host(node, constants) => host_node(node, constants, values)?,
                Step::Cycle(cycle, steps) => self.cycle(cycle, steps, values)?,
                Step::Branch(condition, sides) => {
                    let decided =
                        values.get(condition).and_then(|crossing| crossing.literal.to_i64s().first().copied());
                    let taken = decided.ok_or_else(|| refused("a branch that nothing decides"))? != 0;
                    let [other, then] = sides;
                    let (taken, passed) = if taken { (then, other) } else { (other, then) };
                    if self.warming {
                        // On zeros the branch that is not meant for them may well stumble: its first request will tell.
                        match self.run(passed, &mut values.clone()) {
                            Ok(()) | Err(Stopped::Failed(ModelError::Node { .. }) | Stopped::Asked(_)) => {}
                            Err(Stopped::Failed(error)) => return Err(error.into()),
                        }
                    }
                    self.run(taken, values)?;
                }
            }
        }
        Ok(())
    }

    /// Runs one plan on the device.
    fn segment(&mut self, segment: &mut Segment, values: &mut Values) -> Result<(), Stopped> {
        let (gpu, control) = (self.gpu, self.control);
        let mut given = Vec::with_capacity(segment.graph.inputs.len());
        for id in &segment.graph.inputs {
            let name = &segment.graph.value(*id).name;
            let crossing = values.get(id).ok_or_else(|| refused(format!("no step computes the value {name:?}")))?;
            given.push(crossing.literal.clone());
        }
        let ids = segment.graph.outputs.clone();
        let infos = self.infos(segment, values)?;
        let Segment { graph, plans, .. } = segment;
        let nodes = &graph.nodes;
        let plan = plan_for(graph, plans, gpu, infos, self.weights, self.budget)?;
        if plan.launch_count() > 0 || plan.outputs.iter().any(|port| port.known().is_none()) {
            upload(gpu, graph, plan, &given)?;
            submit(gpu, plan, control, self.turns, self.run_limit.filter(|_| self.warming), self.warming)?;
            let fault = plan.fault(nodes.len()).map(|(at, fault)| at_node(&nodes[at], OpError::Fault(fault)));
            let outputs = plan.outputs.iter().map(|port| download(plan, port)).collect::<Result<Vec<_>, _>>();
            plan.readback.unmap();
            // The zeros of the warm-up are no request.
            if let Some(fault) = fault.filter(|_fault| !self.warming) {
                return Err(fault.into());
            }
            keep(values, ids, plan, outputs?);
        } else {
            let outputs = plan.outputs.iter().filter_map(Port::known).cloned().collect();
            keep(values, ids, plan, outputs);
        }
        Ok(())
    }
}

impl Runner<'_> {
    /// Returns the infos of a segment's inputs that a plan is to be made for.
    ///
    /// In a loop, a shape or a bound may hang on a value that each iteration computes: the number of the iteration, or a
    /// counter. Where a node asks for such a value, plans are made for the values of small integers.
    fn infos(&mut self, segment: &mut Segment, values: &Values) -> Result<Vec<ValueInfo>, ModelError> {
        if self.in_cycles > 0 && !segment.by_value {
            let infos = segment.infos(values)?;
            match plan_for(&segment.graph, &mut segment.plans, self.gpu, infos, self.weights, self.budget) {
                Err(ModelError::Node { source: OpError::DataDependent(_), .. }) => segment.by_value = true,
                Err(error) => return Err(error),
                Ok(_made) => {}
            }
        }
        segment.infos(values)
    }
}

impl Segment {
    /// The infos of the inputs that a plan is made for.
    fn infos(&self, values: &Values) -> Result<Vec<ValueInfo>, ModelError> {
        let info = |id| {
            let Crossing { literal, known } = values.get(id).ok_or_else(|| refused("an input that nobody gave"))?;
            let small = !literal.dtype().is_float() && literal.elements() <= VALUE_ELEMENTS_MAX;
            Ok(match *known || (self.by_value && small) {
                true => ValueInfo::known(literal.clone()),
                false => ValueInfo::new(literal.dtype(), literal.shape().to_vec()),
            })
        };
        self.graph.inputs.iter().map(info).collect()
    }

    /// The plan used last.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plans.front().map(|(_facts, plan)| plan)
    }
}

/// Finds or makes the plan for these inputs and moves it to the front.
fn plan_for<'a>(
    graph: &Graph,
    plans: &'a mut VecDeque<(Vec<ValueInfo>, Plan)>,
    gpu: &Gpu,
    infos: Vec<ValueInfo>,
    weights: &mut Weights,
    budget: u64,
) -> Result<&'a Plan, ModelError> {
    let found = plans.iter().position(|(made_for, _plan)| *made_for == infos);
    let entry = match found.and_then(|at| plans.remove(at)) {
        Some(entry) => entry,
        None => {
            plans.truncate(PLANS_MAX - 1);
            let plan = Plan::new(gpu, graph, &infos, weights, budget)?;
            (infos, plan)
        }
    };
    plans.push_front(entry);
    match plans.front() {
        Some((_facts, plan)) => Ok(plan),
        None => unreachable!("a plan was just put in front"),
    }
}

fn keep(values: &mut Values, ids: Vec<ValueId>, plan: &Plan, outputs: Vec<Literal>) {
    for ((id, port), literal) in ids.into_iter().zip(&plan.outputs).zip(outputs) {
        values.insert(id, Crossing { literal, known: port.known().is_some() });
    }
}

fn at_node(node: &Node, source: OpError) -> ModelError {
    ModelError::Node { node: node.name.clone(), operator: node.op.clone(), source }
}

/// Runs one node on the host.
fn host_node(node: &Node, constants: &HashMap<ValueId, Literal>, values: &mut Values) -> Result<(), ModelError> {
    let at_node = |source: OpError| at_node(node, source);
    let value = |id: ValueId| values.get(&id).map(|crossing| &crossing.literal).or_else(|| constants.get(&id));
    let inputs: Vec<Option<&Literal>> = node.inputs.iter().map(|id| id.and_then(value)).collect();
    let outputs = crate::inference::evaluate(node, &inputs).map_err(at_node)?;
    let outputs = outputs.ok_or_else(|| at_node(OpError::unsupported("the host does not have the operator")))?;
    for (id, literal) in node.outputs.iter().zip(outputs) {
        if let Some(id) = id {
            values.insert(*id, Crossing { literal, known: false });
        }
    }
    Ok(())
}

/// Runs a plan turn by turn. Other sessions' submissions run between two turns.
///
/// `run_limit` refuses a plan that would take longer, as soon as some of its turns have been measured.
fn submit(
    gpu: &Gpu,
    plan: &Plan,
    control: &RunControl,
    turns_of_model: &FairMutex<()>,
    run_limit: Option<Duration>,
    warming: bool,
) -> Result<(), Stopped> {
    let mut fastest = 0;
    for turn in plan.turns() {
        let commands = plan.record(gpu, &turn);
        let turn_of_model = turns_of_model.lock();
        let first_launches = plan.first_launches(&turn);
        let under_way = gpu.submission_with(first_launches);
        let (on_device, begun) = (gpu.turn(), Instant::now());
        let patience = Patience::new(plan.patience_of(&turn), first_launches, begun);
        let submission = gpu.submit([commands]);
        if plan.is_last(&turn) {
            plan.readback.map_async(wgpu::MapMode::Read, .., |_result| {});
        }
        let behind = || gpu.is_behind_others(&under_way, warming);
        let stopped = wait(gpu, &submission, patience, behind, control)?;
        drop((under_way, turn_of_model));
        // Beside others a turn also waits for theirs: that says nothing of its own length.
        let took = Some(begun.elapsed()).filter(|_| first_launches == 0 && on_device.is_alone());
        drop(on_device);
        plan.note_turn(&turn, took);
        if let Some(stopped) = stopped {
            if plan.is_last(&turn) {
                plan.readback.unmap();
            }
            return Err(Stopped::Asked(stopped));
        }
        if control.cancel.is_cancelled() && !plan.is_last(&turn) {
            return Err(Stopped::Asked(RunError::Cancelled));
        }
        if let Some(took) = took {
            fastest = fastest.max(per(plan.work_of(&turn), took, Duration::from_secs(1)));
        }
        if let Some(limit) = run_limit.filter(|_| fastest > 0 && !plan.is_last(&turn)) {
            check_limit(plan.work, fastest, limit)?;
        }
    }
    Ok(())
}

/// Refuses work that takes longer than `limit` even at the speed of the fastest turn.
fn check_limit(work: u64, per_second: u64, limit: Duration) -> Result<(), ModelError> {
    let seconds = work / per_second.max(1);
    if seconds > limit.as_secs() { Err(ModelError::TooSlow { work, per_second, seconds, limit }) } else { Ok(()) }
}

/// Waits for the submission; `Some` when the caller stopped wanting the answer first.
///
/// The device cannot be stopped: the wait goes on until it is done either way, so that its memory is free again. That
/// is short, since long kernels are split and one submission is one turn of a plan.
fn wait(
    gpu: &Gpu,
    submission: &wgpu::SubmissionIndex,
    mut patience: Patience,
    behind_others: impl Fn() -> bool,
    control: &RunControl,
) -> Result<Option<RunError>, GpuError> {
    let mut stopped = None;
    while !gpu.wait(submission.clone(), LOOK)? {
        if control.cancel.is_cancelled() {
            stopped = Some(RunError::Cancelled);
        }
        if patience.is_over(Instant::now(), behind_others()) {
            gpu.give_up("it did not finish a run in time");
        }
        gpu.check()?;
    }
    if control.deadline.is_some_and(|deadline| Instant::now() > deadline) {
        stopped = stopped.or(Some(RunError::Deadline));
    }
    Ok(stopped)
}

/// Writes the inputs into the plan's upload buffer.
fn upload(gpu: &Gpu, graph: &Graph, plan: &Plan, given: &[Literal]) -> Result<(), ModelError> {
    let unmapped = || refused("the upload buffer could not be mapped");
    plan.upload.map_async(wgpu::MapMode::Write, .., |_result| {});
    // Nothing uses the buffer between runs, so this maps at once.
    gpu.poll(wgpu::PollType::Poll).map_err(|_timeout| unmapped())?;
    let written = (|| {
        for ((port, literal), &id) in plan.inputs.iter().zip(given).zip(&graph.inputs) {
            if port.known().is_some() {
                continue;
            }
            let bytes = crate::lower::device_bytes(literal).map_err(|source| ModelError::Node {
                node: graph.value(id).name.clone(),
                operator: INPUT.into(),
                source,
            })?;
            let filled = bytes.len().next_multiple_of(4);
            if filled > 0 {
                let end = port.staging + u64::try_from(filled).unwrap_or(u64::MAX);
                let mut view = plan.upload.get_mapped_range_mut(port.staging..end).map_err(|_error| unmapped())?;
                view.slice(..bytes.len()).copy_from_slice(&bytes);
                view.slice(bytes.len()..).fill(0);
            }
        }
        Ok(())
    })();
    plan.upload.unmap();
    written
}

/// Reads one output from the plan's readback buffer.
fn download(plan: &Plan, port: &Port) -> Result<Literal, ModelError> {
    if let Some(literal) = port.known() {
        return Ok(literal.clone());
    }
    let words = Repr::of(port.info.dtype).words(port.info.elements());
    if words == 0 {
        return Ok(Literal::from_f64s(port.info.dtype, port.info.shape.clone(), &[]));
    }
    let end = port.staging + u64::try_from(words).unwrap_or(u64::MAX) * 4;
    let view = plan.readback.get_mapped_range(port.staging..end).map_err(|error| refused(error.to_string()))?;
    Ok(crate::lower::from_words(&port.info, &view))
}

pub(super) fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Gpu(GpuError::Refused(why.into()))
}
