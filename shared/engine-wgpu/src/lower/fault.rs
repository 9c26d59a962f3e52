//! Faults: reasons for which a run has no answer that only a kernel can see, like an index out of range.
//!
//! The text of a kernel calls `report_fault(KIND)`. [`super::Lowering::dispatch`] then binds the flag of the plan, one word that is
//! zeroed at the start of each run. The word keeps the fault of the earliest node; [`crate::plan`] reads it with the outputs, and the
//! run fails with [`crate::OpError::Fault`]. A kernel that cannot have a fault (see [`super::Lowering::range`]) does not call it and costs
//! nothing.

use super::dispatch::Arg;
use super::kernel::{Access, Binding, KernelSource};
use super::params::Params;
use crate::fault::{ALL, Fault};

/// Bits of a flag word that hold the kind; those above it hold the node.
const KIND_BITS: u32 = 4;

/// The name of the WGSL function that kernels call.
const REPORT: &str = "report_fault(";

impl Fault {
    /// Returns the WGSL statement that reports this fault.
    #[must_use]
    pub fn report(self) -> String {
        format!("{REPORT}{}u);", self.code())
    }

    fn code(self) -> u32 {
        // The list is short: positions fit.
        ALL.iter().position(|&fault| fault == self).and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// Reads a flag word: the position of the earliest node with a fault, and that fault; `None` for zero.
    pub(crate) fn of_flag(word: u32, nodes: usize) -> Option<(usize, Self)> {
        let kind = usize::try_from(word & ((1 << KIND_BITS) - 1)).ok()?.checked_sub(1)?;
        let from_end = usize::try_from(word >> KIND_BITS).ok()?;
        Some((nodes.checked_sub(from_end)?, *ALL.get(kind)?))
    }
}

/// The part of a flag word that stands for a node; larger for earlier nodes, so that the maximum is the earliest.
fn node_word(node: usize, nodes: usize) -> u32 {
    u32::try_from(nodes.saturating_sub(node)).unwrap_or(u32::MAX >> KIND_BITS) << KIND_BITS
}

/// Binds the flag to a kernel that reports faults: before its last binding, which is the output.
pub(super) fn bind(kernel: &mut KernelSource, args: &mut Vec<Arg>, params: &mut Params, node: usize, nodes: usize) {
    if !kernel.body.contains(REPORT) {
        return;
    }
    *params = std::mem::take(params).word("fault_node", node_word(node, nodes));
    kernel.body.push_str("fn report_fault(kind: u32) { atomicMax(&fault_flag[0], param.fault_node + kind); }\n");
    let flag = Binding { name: "fault_flag".to_owned(), access: Access::Raw("array<atomic<u32>>") };
    let last = kernel.bindings.len().saturating_sub(1);
    kernel.bindings.insert(last, flag);
    args.insert(last.min(args.len()), Arg::Fault);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_names_the_earliest_node_and_its_fault() {
        for (node, nodes) in [(0, 1), (3, 4), (7, 100_000), (99_999, 100_000)] {
            for fault in ALL {
                let word = node_word(node, nodes) + fault.code();
                assert_eq!(Fault::of_flag(word, nodes), Some((node, fault)));
                assert!(node == 0 || node_word(node - 1, nodes) > word, "an earlier node wins whatever its fault");
            }
        }
        assert_eq!(Fault::of_flag(0, 5), None);
    }
}
