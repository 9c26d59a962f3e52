//! A launch as data: kernel, arguments, numbers, workgroups, effort; and what of the device its making depends on.

use std::sync::Arc;

use super::kernel::{KernelSource, THREADS};
use super::weights::WeightId;
use crate::ir::ValueId;

/// Space that lives only inside one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScratchId(pub usize);

/// Argument at one binding of a dispatch.
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
    /// The word in which kernels report faults.
    Fault,
}

/// One kernel launch, as data.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The kernel; equal text means one pipeline.
    pub kernel: Arc<KernelSource>,
    /// Arguments at its storage bindings, in the kernel's order.
    pub args: Vec<Arg>,
    /// The numbers in its uniform slot.
    pub params: Vec<u32>,
    /// Workgroups in each dimension.
    pub groups: [u32; 3],
    /// Cost of the launch.
    pub effort: Effort,
    /// Which part of its output it writes, where that is larger than a binding may be; see [`part_words`].
    pub part: u32,
    /// The node it is for.
    pub node: usize,
}

/// Cost of a launch, as far as it can be told beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rough work in elementary operations, from which a dispatch over 50 ms is foreseen and split.
    pub work: u64,
    /// Most rounds that all loops over data make in one thread together (in one call of `element`), so that a driver which
    /// ends them early is not trusted with more.
    pub rounds: u64,
}

impl Effort {
    /// The effort of a kernel whose threads loop over data.
    #[must_use]
    pub fn looping(work: u64, rounds: usize) -> Self {
        // A loop over nothing is a loop still.
        Self { work, rounds: u64::try_from(rounds.max(1)).unwrap_or(u64::MAX) }
    }
}

/// The effort of a kernel without loops over data.
impl From<u64> for Effort {
    fn from(work: u64) -> Self {
        Self { work, rounds: 0 }
    }
}

/// Most rounds of all loops together in one thread on a software adapter.
///
/// Mesa's llvmpipe ends every loop without a word once a thread has made 65,535 rounds, whichever loops they were in
/// (`LP_MAX_TGSI_LOOP_ITERATIONS` in `gallivm`; measured with Mesa 22.3.6: nesting does not help). The rest is for loops that the
/// text itself bounds.
pub const SOFTWARE_ROUNDS_MAX: u64 = 65_000;

/// Properties of the device that the choice of kernels depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A real GPU: tiles in workgroup memory pay. On a software adapter register tiles alone are faster (measured 3x).
    pub workgroup_tiles: bool,
    /// A software adapter whose subgroups are eight threads: a workgroup of eight is one vector, and its threads share what they
    /// load. Loads are what takes the time there, being made one thread after the other.
    pub vector_of_eight: bool,
    /// The device has integer dot products in hardware (`dot4I8Packed` beats unpacking to `f32`).
    pub integer_dot: bool,
    /// Most invocations in one workgroup.
    pub invocations_max: u32,
    /// Most rounds of all loops of one thread; see [`SOFTWARE_ROUNDS_MAX`].
    pub rounds_max: u64,
    /// Words of one part of what is larger than one binding may be; see [`part_words`].
    pub part_words: u64,
}

/// Longest row that one vector of a software adapter walks: its loops over one stay far below [`SOFTWARE_ROUNDS_MAX`].
const VECTOR_ROW_MAX: usize = 64 * 1024;

/// Threads of such a vector.
const VECTOR_THREADS: u32 = 8;

impl Tuning {
    /// Threads of a workgroup that walks along a row of so many elements together.
    ///
    /// A real GPU needs a wave. A software adapter runs a workgroup's vectors one after the other from barrier to barrier:
    /// one vector alone was twice as fast over rows of 384, four times over rows of 128.
    #[must_use]
    pub fn row_threads(self, length: usize) -> u32 {
        if self.workgroup_tiles || length > VECTOR_ROW_MAX { THREADS } else { VECTOR_THREADS }
    }
}
