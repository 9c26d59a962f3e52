//! What a graph is cut into: lists of stages, some of which hold lists of their own.

use std::collections::HashMap;

use crate::ir::{ElementType, Graph, Literal, Node, ValueId};

/// Maximum number of iterations of one loop in one run.
///
/// An iteration costs at least one way to the device and back, some 100 us; longer loops belong on another engine.
pub const ITERATIONS_MAX: usize = 100_000;

/// A loop that the host runs. Values are those of the whole graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Cycle {
    /// Name of the node.
    pub name: String,
    /// Operator of the node.
    pub operator: String,
    /// Maximum number of iterations, where the node gives it.
    pub count: Option<ValueId>,
    /// Condition before the first iteration, where the node gives it.
    pub condition: Option<ValueId>,
    /// Number of the iteration, as the body reads it.
    pub number: Option<ValueId>,
    /// Condition, as the body reads it.
    pub condition_inside: Option<ValueId>,
    /// Condition, as the body computes it for the next iteration.
    pub condition_next: Option<ValueId>,
    /// Values that each iteration takes from the one before.
    pub carried: Vec<Carried>,
    /// Tensors of which each iteration takes one slice.
    pub scanned: Vec<Scanned>,
    /// Tensors of which each iteration makes one slice.
    pub stacked: Vec<Stacked>,
    /// Constants among the values above.
    pub constants: HashMap<ValueId, Literal>,
    /// Stages of the body.
    pub stages: Vec<Stage>,
}

/// A value that goes from iteration to iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Carried {
    /// Value before the first iteration.
    pub initial: ValueId,
    /// Value as the body reads it.
    pub inside: ValueId,
    /// Value that the body computes for the next iteration.
    pub next: ValueId,
    /// Output of the node, where it is wanted.
    pub last: Option<ValueId>,
}

/// A tensor that a `Scan` goes along.
#[derive(Debug, Clone, PartialEq)]
pub struct Scanned {
    /// The tensor that is read.
    pub whole: ValueId,
    /// Slice as the body reads it.
    pub inside: ValueId,
    /// Axis, counted from the end where negative.
    pub axis: i64,
    /// True if the last slice comes first.
    pub reversed: bool,
}

/// A tensor that is put together from one slice of each iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Stacked {
    /// Slice that the body computes.
    pub slice: ValueId,
    /// Output of the node, where it is wanted.
    pub whole: Option<ValueId>,
    /// Axis of the output, counted from the end where negative.
    pub axis: i64,
    /// True if the last slice comes first.
    pub reversed: bool,
    /// Element type and shape of a slice as the file declares them, open sizes as 0: for an output of no iterations.
    pub declared: Option<(ElementType, Vec<usize>)>,
}

/// One step of an inference.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// A part of the graph that runs on the device as one plan. It has the value numbers of the whole.
    Device(Graph),
    /// One node on the host, and the constants that it reads.
    Host(Node, HashMap<ValueId, Literal>),
    /// One of two lists of stages.
    Branch(Branch),
    /// A list of stages that runs more than once.
    Cycle(Box<Cycle>),
}

/// An `If` whose condition only the run tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Name of the node.
    pub name: String,
    /// The value that decides.
    pub condition: ValueId,
    /// Stages that run where the condition is false, and where it is true.
    pub sides: [Vec<Stage>; 2],
}
