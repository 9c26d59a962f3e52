//! Trees as the words that a kernel walks along.

use super::forest::{Forest, TreeNode};
use crate::error::OpError;

/// Words of a node: mode and flags, feature, bits of the limit, node where the comparison holds, node where not. Of a leaf the last
/// two are the range of its answers.
pub(super) const NODE_WORDS: usize = 5;

/// Flag of a leaf among the modes.
const LEAF: u32 = 8;

/// Flag of a branch that is true for a missing value.
const MISSING: u32 = 16;

/// Trees of a node of the model, ready for the device.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) roots: Vec<u32>,
    pub(super) nodes: Vec<u32>,
    /// Column and bits of the weight of each answer.
    pub(super) leaves: Vec<u32>,
    /// Maximum number of branches on the way to a leaf.
    pub(super) depth: usize,
    /// Maximum number of answers of a leaf.
    pub(super) leaf_weights_max: usize,
}

impl Packed {
    /// Packs trees.
    ///
    /// # Errors
    /// When a tree is none: a node leads back to itself.
    pub(super) fn of(forest: &Forest) -> Result<Self, OpError> {
        let word = |value: usize| u32::try_from(value).map_err(|_wide| OpError::TooLarge(vec![value]));
        let mut nodes = Vec::with_capacity(forest.nodes.len() * NODE_WORDS);
        let (mut leaves, mut leaf_weights_max) = (Vec::new(), 0);
        for node in &forest.nodes {
            match node {
                TreeNode::Branch { mode, feature, limit, missing, yes, no } => {
                    let flags = mode | if *missing { MISSING } else { 0 };
                    nodes.extend([flags, word(*feature)?, limit.to_bits(), word(*yes)?, word(*no)?]);
                }
                TreeNode::Leaf(answers) => {
                    let first = word(leaves.len() / 2)?;
                    for (column, weight) in answers {
                        leaves.extend([word(*column)?, weight.to_bits()]);
                    }
                    leaf_weights_max = leaf_weights_max.max(answers.len());
                    nodes.extend([LEAF, 0, 0, first, word(leaves.len() / 2)?]);
                }
            }
        }
        let roots = forest.roots.iter().map(|&root| word(root)).collect::<Result<_, _>>()?;
        Ok(Self { roots, nodes, leaves, depth: depth(forest)?, leaf_weights_max })
    }
}

/// State of a node while depths are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Unknown,
    /// On the way from the root: to come back to it is a circle.
    Under,
    Known(usize),
}

/// Maximum number of branches from any root to a leaf.
fn depth(forest: &Forest) -> Result<usize, OpError> {
    let mut depths = vec![Depth::Unknown; forest.nodes.len()];
    let mut deepest = 0;
    for &root in &forest.roots {
        let mut waiting = vec![root];
        while let Some(&at) = waiting.last() {
            let TreeNode::Branch { yes, no, .. } = &forest.nodes[at] else {
                depths[at] = Depth::Known(0);
                waiting.pop();
                continue;
            };
            let children = [depths[*yes], depths[*no]];
            match (depths[at], children) {
                (Depth::Known(_), _) => drop(waiting.pop()),
                (_, [Depth::Known(yes), Depth::Known(no)]) => {
                    depths[at] = Depth::Known(yes.max(no) + 1);
                    waiting.pop();
                }
                (Depth::Under, children) if children.contains(&Depth::Under) => {
                    return Err(OpError::invalid("a node of a tree leads back to itself"));
                }
                (Depth::Unknown | Depth::Under, _) => {
                    depths[at] = Depth::Under;
                    let open = [*yes, *no].into_iter().filter(|&child| !matches!(depths[child], Depth::Known(_)));
                    let open: Vec<usize> = open.collect();
                    if open.iter().any(|&child| depths[child] == Depth::Under) {
                        return Err(OpError::invalid("a node of a tree leads back to itself"));
                    }
                    waiting.extend(open);
                }
            }
        }
        if let Some(Depth::Known(depth)) = depths.get(root) {
            deepest = deepest.max(*depth);
        }
    }
    Ok(deepest)
}
