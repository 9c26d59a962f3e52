//! Turns nodes into dispatches: which kernel, which buffers, which numbers, how many workgroups.
//!
//! Fed by [`crate::plan`] with a graph and its [`Facts`]; each operator's rule (see [`crate::ops`]) speaks to a
//! [`Lowering`]. Knows no device object: a dispatch is data, made into pipelines and bind groups by [`crate::gpu`].
//!
//! # How values lie on the device
//! See [`Repr`]. Row-major always; one buffer range per value; 4-byte words throughout.

mod kernel;

use std::collections::HashMap;
use std::sync::Arc;

pub use kernel::{KernelBuilder, KernelSource, THREADS, element_groups, linear_groups};

use crate::error::OpError;
use crate::facts::{Fact, Facts};
use crate::gpu::PARAMS_MAX;
use crate::ir::{ElementType, Graph, Node, ValueId};

/// How the elements of a value lie in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repr {
    /// One `f32` a word: every floating-point type (`f64` rounds, halves widen).
    F32,
    /// One `i32` a word: `int64` (range-checked where it enters), `int32`, `int16`, `bool` as 0 or 1.
    I32,
    /// One `u32` a word: `uint64` (range-checked), `uint32`, `uint16`.
    U32,
    /// Four signed bytes a word, the first in the low byte, the last word padded with zeros.
    I8x4,
    /// Four unsigned bytes a word, likewise.
    U8x4,
}

impl Repr {
    /// How values of an element type lie on the device; 4-bit weights never lie there as themselves.
    #[must_use]
    pub const fn of(dtype: ElementType) -> Self {
        match dtype {
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => Self::F32,
            ElementType::Bool | ElementType::I16 | ElementType::I32 | ElementType::I64 => Self::I32,
            ElementType::U16 | ElementType::U32 | ElementType::U64 => Self::U32,
            ElementType::I8 | ElementType::I4 => Self::I8x4,
            ElementType::U8 | ElementType::U4 => Self::U8x4,
        }
    }

    /// Elements in one 4-byte word.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => 1,
            Self::I8x4 | Self::U8x4 => 4,
        }
    }

    /// Words that so many elements take.
    #[must_use]
    pub const fn words(self, elements: usize) -> usize {
        elements.div_ceil(self.per_word())
    }

    /// The WGSL type of one element once it is loaded.
    #[must_use]
    pub const fn wgsl(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::I32 | Self::I8x4 => "i32",
            Self::U32 | Self::U8x4 => "u32",
        }
    }
}

/// Space that lives only inside one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScratchId(pub usize);

/// A weight in the form a kernel wants it, made once per session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightId(pub usize);

/// What stands at one binding of a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arg {
    /// A value of the graph in the activation arena.
    Value(ValueId),
    /// Scratch space in the activation arena.
    Scratch(ScratchId),
    /// A read-only weight of the session.
    Weight(WeightId),
    /// A read-only value that is known at the shapes of this plan only.
    Known(WeightId),
}

/// Most threads in one dimension of a dispatch, in workgroups (WebGPU's default limit).
pub const GROUPS_MAX: u32 = 65_535;

/// One kernel launch, as data.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The kernel; equal text means one pipeline.
    pub kernel: Arc<KernelSource>,
    /// What stands at its storage bindings, in the kernel's order.
    pub args: Vec<Arg>,
    /// The numbers in its uniform slot.
    pub params: Vec<u32>,
    /// Workgroups in each dimension.
    pub groups: [u32; 3],
    /// Rough work in elementary operations, from which a dispatch over 50 ms is foreseen and split.
    pub work: u64,
    /// The node it is for.
    pub node: usize,
}

/// What of the device the choice of kernels depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A real GPU: tiles in workgroup memory pay. On a software adapter register tiles alone are faster (measured 3x).
    pub workgroup_tiles: bool,
    /// The device has integer dot products in hardware (`dot4I8Packed` beats unpacking to `f32`).
    pub integer_dot: bool,
    /// Most invocations in one workgroup.
    pub invocations_max: u32,
}

/// Weights by what they are made from, so that two nodes (and two plans) share them.
#[derive(Debug, Default)]
pub struct WeightPool {
    by_key: HashMap<(ValueId, String), WeightId>,
    /// The words of each weight, in order of [`WeightId`]; taken out by the upload.
    pub words: Vec<Vec<u32>>,
}

impl WeightPool {
    /// The weight made from a constant by the packing of that name; `pack` runs only the first time.
    ///
    /// # Errors
    /// What `pack` refuses.
    pub fn intern(
        &mut self,
        from: ValueId,
        packing: &str,
        pack: impl FnOnce() -> Result<Vec<u32>, OpError>,
    ) -> Result<WeightId, OpError> {
        let key = (from, packing.to_owned());
        if let Some(&id) = self.by_key.get(&key) {
            return Ok(id);
        }
        let id = WeightId(self.words.len());
        self.words.push(pack()?);
        self.by_key.insert(key, id);
        Ok(id)
    }
}

/// What one node is lowered into.
#[derive(Debug)]
pub struct Lowering<'a> {
    graph: &'a Graph,
    facts: &'a Facts,
    /// What kernels may count on.
    pub tuning: Tuning,
    weights: &'a mut WeightPool,
    known: &'a mut WeightPool,
    node: usize,
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
        facts: &'a Facts,
        tuning: Tuning,
        weights: &'a mut WeightPool,
        known: &'a mut WeightPool,
    ) -> Self {
        Self {
            graph,
            facts,
            tuning,
            weights,
            known,
            node: 0,
            dispatches: Vec::new(),
            scratch: Vec::new(),
            aliases: HashMap::new(),
        }
    }

    /// Lowers the node at this position, unless all it computes is known already.
    ///
    /// # Errors
    /// What the operator's rule refuses.
    pub fn node(&mut self, at: usize) -> Result<(), OpError> {
        self.node = at;
        let node = &self.graph.nodes[at];
        if node.outputs.iter().flatten().all(|&id| self.facts.of(id).known.is_some()) {
            return Ok(());
        }
        let first = self.dispatches.len();
        crate::ops::lower(node, self)?;
        if self.dispatches[first..].iter().any(|dispatch| dispatch.params.len() > PARAMS_MAX) {
            return Err(OpError::unsupported("its tensors have more dimensions than a kernel's params describe"));
        }
        Ok(())
    }

    /// The fact of a value.
    #[must_use]
    pub fn fact(&self, id: ValueId) -> &'a Fact {
        self.facts.of(id)
    }

    /// The inputs of a node as facts.
    #[must_use]
    pub fn input_facts(&self, node: &Node) -> Vec<Option<&'a Fact>> {
        node.inputs.iter().map(|id| id.map(|id| self.facts.of(id))).collect()
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
        let fact = self.facts.of(id);
        let repr = Repr::of(fact.dtype);
        let arg = match &fact.known {
            None => Arg::Value(self.root(id)),
            Some(literal) => {
                let words = || crate::host::to_words(literal);
                if self.graph.constants.contains_key(&id) {
                    Arg::Weight(self.weights.intern(id, &format!("{repr:?}"), words)?)
                } else {
                    Arg::Known(self.known.intern(id, "", words)?)
                }
            }
        };
        Ok(Operand { arg, repr, shape: fact.shape.clone() })
    }

    /// The constant of the session that this value is; `None` for values known at the shapes of one plan only.
    #[must_use]
    pub fn constant(&self, id: ValueId) -> Option<&'a crate::ir::Literal> {
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
        let fact = self.facts.of(id);
        Operand { arg: Arg::Value(id), repr: Repr::of(fact.dtype), shape: fact.shape.clone() }
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
        if self.facts.of(root).known.is_none() {
            self.aliases.insert(output, root);
            return Ok(());
        }
        let x = self.operand(root)?;
        let elements = self.facts.of(output).elements();
        let count = u32::try_from(elements).map_err(|_wide| OpError::TooLarge(x.shape.clone()))?;
        let kernel = KernelBuilder::new("copy")
            .read("x", x.repr)
            .text(&format!("fn element(i: u32) -> {} {{ return load_x(i); }}", x.repr.wgsl()))
            .element(x.repr);
        let groups = element_groups(elements, x.repr);
        self.dispatch(kernel, vec![x.arg, Arg::Value(output)], vec![count], groups, u64::from(count));
        Ok(())
    }

    /// The value whose memory this one uses.
    #[must_use]
    pub fn root(&self, id: ValueId) -> ValueId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    /// Adds a launch.
    pub fn dispatch(&mut self, kernel: KernelSource, args: Vec<Arg>, params: Vec<u32>, groups: [u32; 3], work: u64) {
        let node = self.node;
        self.dispatches.push(Dispatch { kernel: Arc::new(kernel), args, params, groups, work, node });
    }
}

/// A tensor that a kernel reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operand {
    /// Where it is.
    pub arg: Arg,
    /// How it lies there.
    pub repr: Repr,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Operand {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
