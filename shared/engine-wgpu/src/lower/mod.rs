//! Turns nodes into dispatches: which kernel, which buffers, which numbers, how many workgroups.
//!
//! Fed by [`crate::plan`] with a graph and its [`ValueInfos`]; each operator's rule (see [`crate::ops`]) speaks to a
//! [`Lowering`]. Knows no device object: a dispatch is data, made into pipelines and bind groups by [`crate::gpu`].
//!
//! # How values lie on the device
//! See [`Repr`]. Row-major always; one buffer range per value; 4-byte words throughout.

mod dispatch;
mod fault;
mod floats;
mod kernel;
mod params;
mod repr;
mod steps;
mod weights;
mod words;

use std::collections::HashMap;
use std::sync::Arc;

pub use dispatch::{Arg, Dispatch, Effort, SOFTWARE_ROUNDS_MAX, ScratchId, Tuning};
pub use floats::{Floats, UNPACK_FOUR};
pub use kernel::{
    Access, Binding, GROUPS_MAX, KernelBuilder, KernelSource, THREADS, element_groups, linear_groups, part_words,
};
pub use params::{PARAM_BYTES, PARAM_WORDS, PARAMS_MAX, Params};
pub use repr::Repr;
pub use steps::{nested_steps, steps};
pub use weights::{WeightId, WeightPool};
pub use words::{device_bytes, from_words, pack_bytes, to_words};

use crate::error::OpError;
use crate::ir::{Graph, Literal, Node, ValueId};
use crate::value_info::{Range, Ranges, ValueInfo, ValueInfos};

/// Dispatches, scratch space and aliases of the nodes that are lowered.
#[derive(Debug)]
pub struct Lowering<'a> {
    graph: &'a Graph,
    infos: &'a ValueInfos,
    /// Properties of the device that kernels may count on.
    pub tuning: Tuning,
    weights: &'a mut WeightPool,
    known: &'a mut WeightPool,
    ranges: Ranges,
    node: usize,
    /// First kernel of the node whose text and numbers do not fit together.
    mismatch: Option<OpError>,
    /// Dispatches so far, in order.
    pub dispatches: Vec<Dispatch>,
    /// Words of each scratch space and the node it lives in.
    pub scratch: Vec<(usize, usize)>,
    /// Values that are other values' memory under another shape.
    pub aliases: HashMap<ValueId, ValueId>,
}

impl<'a> Lowering<'a> {
    /// Starts with nothing lowered.
    ///
    /// `weights` live as long as the session, `known` values as long as the plan.
    pub fn new(
        graph: &'a Graph,
        infos: &'a ValueInfos,
        tuning: Tuning,
        weights: &'a mut WeightPool,
        known: &'a mut WeightPool,
    ) -> Self {
        Self {
            graph,
            infos,
            tuning,
            weights,
            known,
            ranges: Ranges::of(graph, infos),
            node: 0,
            mismatch: None,
            dispatches: Vec::new(),
            scratch: Vec::new(),
            aliases: HashMap::new(),
        }
    }

    /// Lowers the node at this position by its operator's rule, unless all it computes is known already.
    ///
    /// # Errors
    /// What the operator's rule refuses.
    pub fn node(
        &mut self,
        at: usize,
        rule: impl FnOnce(&Node, &mut Self) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        self.node = at;
        let node = &self.graph.nodes[at];
        if node.outputs.iter().flatten().all(|&id| self.infos.of(id).known.is_some()) {
            return Ok(());
        }
        let first = self.dispatches.len();
        rule(node, self)?;
        if let Some(mismatch) = self.mismatch.take() {
            return Err(mismatch);
        }
        self.dispatches[first..].iter().try_for_each(|dispatch| self.check(dispatch))
    }

    fn check(&self, dispatch: &Dispatch) -> Result<(), OpError> {
        let Dispatch { kernel, params, effort, .. } = dispatch;
        if params.len() > PARAMS_MAX {
            return Err(OpError::unsupported("its tensors have more dimensions than a kernel's params describe"));
        }
        debug_assert!(
            effort.rounds > 0 || !kernel.loops_over_data(),
            "{} loops unseen:\n{}",
            kernel.label,
            kernel.body
        );
        if effort.rounds > self.tuning.rounds_max {
            return Err(OpError::unsupported(format!(
                "a thread would loop {} times, and this adapter's driver ends loops after {}: use the engine ort",
                effort.rounds, self.tuning.rounds_max
            )));
        }
        Ok(())
    }

    /// The info of a value.
    #[must_use]
    pub fn info(&self, id: ValueId) -> &'a ValueInfo {
        self.infos.of(id)
    }

    /// Returns the range of a value of integers: what its kernel need not look for.
    #[must_use]
    pub fn range(&self, id: ValueId) -> Range {
        self.ranges.range(id, self.infos.of(id))
    }

    /// Returns the range of an input of integers; every 64-bit integer where the input is not given.
    #[must_use]
    pub fn input_range(&self, node: &Node, at: usize) -> Range {
        node.input(at).map_or(Range::new(i64::MIN, i64::MAX), |id| self.range(id))
    }

    /// The inputs of a node as infos.
    #[must_use]
    pub fn input_infos(&self, node: &Node) -> Vec<Option<&'a ValueInfo>> {
        node.inputs.iter().map(|id| id.map(|id| self.infos.of(id))).collect()
    }

    /// The input at this place as something a kernel can read: known values are uploaded as weights.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when the input is missing.
    pub fn input(&mut self, node: &Node, at: usize) -> Result<Operand, OpError> {
        let id = node.input(at).ok_or_else(|| OpError::invalid(format!("input {at} is missing")))?;
        self.operand(id)
    }

    /// The input at this place, if it is given.
    ///
    /// # Errors
    /// When its value does not fit the device (an `int64` over 32 bits).
    pub fn optional_input(&mut self, node: &Node, at: usize) -> Result<Option<Operand>, OpError> {
        node.input(at).map(|id| self.operand(id)).transpose()
    }

    /// A value as something a kernel can read.
    ///
    /// # Errors
    /// When its known value does not fit the device.
    pub fn operand(&mut self, id: ValueId) -> Result<Operand, OpError> {
        let info = self.infos.of(id);
        let repr = Repr::of(info.dtype);
        let arg = match &info.known {
            None => Arg::Value(self.root(id)),
            Some(literal) => {
                if self.graph.constants.contains_key(&id) {
                    Arg::Weight(self.weights.intern_plain(id, literal)?)
                } else {
                    Arg::Known(self.known.intern_plain(id, literal)?)
                }
            }
        };
        Ok(Operand { arg, repr, shape: info.shape.clone() })
    }

    /// The constant of the session that this value is; `None` for values known at the shapes of one plan only.
    #[must_use]
    pub fn constant(&self, id: ValueId) -> Option<&'a Literal> {
        self.graph.constants.get(&id)
    }

    /// Words that a rule computed from the shapes of this plan, like interpolation weights of the output `id`.
    ///
    /// # Errors
    /// What `make` refuses.
    pub fn table(
        &mut self,
        id: ValueId,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u32>, OpError>,
    ) -> Result<Arg, OpError> {
        self.known.intern(id, name, make).map(Arg::Known)
    }

    /// A constant repacked for one kernel; `pack` runs once per session.
    ///
    /// # Errors
    /// What `pack` refuses.
    pub fn packed_weight(
        &mut self,
        id: ValueId,
        packing: &str,
        pack: impl FnOnce() -> Result<Vec<u32>, OpError>,
    ) -> Result<Arg, OpError> {
        self.weights.intern(id, packing, pack).map(Arg::Weight)
    }

    /// The output at this place as something a kernel can write.
    ///
    /// # Errors
    /// [`OpError::Invalid`] when nobody wants the output.
    pub fn output(&self, node: &Node, at: usize) -> Result<Operand, OpError> {
        let id = node.output(at).ok_or_else(|| OpError::invalid(format!("output {at} is missing")))?;
        Ok(self.place(id))
    }

    /// A value of this node as something a kernel can write.
    #[must_use]
    pub fn place(&self, id: ValueId) -> Operand {
        let info = self.infos.of(id);
        Operand { arg: Arg::Value(id), repr: Repr::of(info.dtype), shape: info.shape.clone() }
    }

    /// Space for so many words that lives while this node runs.
    pub fn scratch(&mut self, words: usize) -> Arg {
        self.scratch.push((words, self.node));
        Arg::Scratch(ScratchId(self.scratch.len() - 1))
    }

    /// Declares that an output is an input's memory under another shape: no dispatch at all.
    ///
    /// An input that is known has no place in the arena that an output could share, and is copied.
    ///
    /// # Errors
    /// When the known value does not fit the device.
    pub fn alias(&mut self, output: ValueId, input: ValueId) -> Result<(), OpError> {
        let root = self.root(input);
        if self.infos.of(root).known.is_none() {
            self.aliases.insert(output, root);
            return Ok(());
        }
        let x = self.operand(root)?;
        let elements = self.infos.of(output).elements();
        let kernel = KernelBuilder::new("copy")
            .read("x", x.repr)
            .text(&format!("fn element(i: u32) -> {} {{ return load_x(i); }}", x.repr.wgsl()))
            .element(x.repr);
        let groups = element_groups(elements, x.repr);
        let numbers = Params::sizes([("elements", elements)])?;
        self.dispatch(kernel, vec![x.arg, Arg::Value(output)], numbers, groups, elements as u64);
        Ok(())
    }

    /// The value whose memory this one uses.
    #[must_use]
    pub fn root(&self, id: ValueId) -> ValueId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    /// Adds a launch. `effort` is the work alone where no loop goes over data.
    ///
    /// Constants of float16 that the kernel reads one by one are bound as halves, see [`Floats`].
    pub fn dispatch(
        &mut self,
        mut kernel: KernelSource,
        mut args: Vec<Arg>,
        mut params: Params,
        groups: [u32; 3],
        effort: impl Into<Effort>,
    ) {
        let mut effort = effort.into();
        for (binding, arg) in kernel.bindings.iter_mut().zip(&mut args) {
            if let (Access::Elements(Repr::F32), Arg::Weight(id)) = (binding.access, *arg)
                && let Some(halves) = self.weights.halves(id)
            {
                (binding.access, *arg) = (Access::Halves, Arg::Weight(halves));
            }
        }
        // A thread makes every element of its word.
        let lanes = kernel.output.map_or(1, Repr::per_word);
        effort.rounds = effort.rounds.saturating_mul(u64::try_from(lanes).unwrap_or(1));
        let node = self.node;
        fault::bind(&mut kernel, &mut args, &mut params, node, self.graph.nodes.len());
        match params.resolve(&kernel.body) {
            Ok(body) => kernel.body = body,
            Err(source) => {
                let error = OpError::Kernel { kernel: kernel.label, source };
                self.mismatch.get_or_insert(error);
                return;
            }
        }
        let params = params.into_words();
        self.dispatches.push(Dispatch { kernel: Arc::new(kernel), args, params, groups, effort, part: 0, node });
    }
}

/// A tensor that a kernel reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// Argument that holds it.
    pub arg: Arg,
    /// Layout of its elements.
    pub repr: Repr,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
}

impl Operand {
    /// Number of elements of the tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
