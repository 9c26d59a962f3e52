//! The trees that attributes describe, in one form for the three operators that have them.

use std::collections::HashMap;

use crate::error::OpError;
use crate::ir::{Attribute, Node};
use crate::ops::classical::{floats, index, ints};

/// Maximum number of nodes of all trees together: 80 MiB on the device.
const NODES_MAX: usize = 4 << 20;

/// Aggregation of the leaves of all trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// Comparison of a branch, by the numbers of `TreeEnsemble`.
pub(super) const BRANCHES: [&str; 6] =
    ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

/// Number of the equality among them.
pub(super) const EQUAL: u32 = 4;

/// A node of a tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TreeNode {
    Branch {
        mode: u32,
        feature: usize,
        limit: f32,
        missing: bool,
        yes: usize,
        no: usize,
    },
    /// Column and weight of each answer.
    Leaf(Vec<(usize, f32)>),
}

/// All trees of a node of the model.
#[derive(Debug)]
pub(super) struct Forest {
    pub(super) nodes: Vec<TreeNode>,
    /// Node at which each tree begins.
    pub(super) roots: Vec<usize>,
    pub(super) columns: usize,
    pub(super) aggregate: Aggregate,
    /// Base values: none, one for all columns, or one for each.
    pub(super) base: Vec<f32>,
}

/// Numbers of a list that must be as long as the list of nodes; the default where it is left out.
fn at<T: Copy>(name: &str, list: &[T], position: usize, nodes: usize, default: Option<T>) -> Result<T, OpError> {
    match (list.is_empty(), default) {
        (true, Some(default)) => Ok(default),
        _ if list.len() != nodes => {
            Err(OpError::invalid(format!("{name} holds {} numbers for {nodes} nodes", list.len())))
        }
        _ => Ok(list[position]),
    }
}

/// Numbers in the attribute `NAME`, or in the tensor `NAME_as_tensor`.
fn numbers(node: &Node, name: &str) -> Result<Vec<f32>, OpError> {
    match node.attributes.find(&format!("{name}_as_tensor")) {
        Some(Attribute::Tensor(literal)) => Ok(literal.to_f32s()),
        _ => Ok(floats(node, name)?.to_vec()),
    }
}

impl Forest {
    /// Reads a `TreeEnsembleRegressor`.
    pub(super) fn of_targets(node: &Node) -> Result<Self, OpError> {
        let columns = index("n_targets", node.attributes.int("n_targets", 1)?)?;
        Self::of_lists(node, "target", columns)
    }

    /// Reads a `TreeEnsembleClassifier` of so many classes.
    pub(super) fn of_classes(node: &Node, classes: usize) -> Result<Self, OpError> {
        let forest = Self::of_lists(node, "class", classes)?;
        if forest.aggregate != Aggregate::Sum {
            return Err(OpError::invalid("a classifier adds its trees up"));
        }
        Ok(forest)
    }

    fn of_lists(node: &Node, kind: &str, columns: usize) -> Result<Self, OpError> {
        let (trees, ids) = (ints(node, "nodes_treeids")?, ints(node, "nodes_nodeids")?);
        let count = trees.len();
        if count == 0 || ids.len() != count || count > NODES_MAX {
            return Err(OpError::invalid(format!("{count} nodes_treeids and {} nodes_nodeids", ids.len())));
        }
        let modes = match node.attributes.find("nodes_modes") {
            Some(Attribute::Texts(modes)) if modes.len() == count => modes,
            _ => return Err(OpError::invalid("nodes_modes are not one for each node")),
        };
        let mut places = HashMap::with_capacity(count);
        let mut roots = Vec::new();
        for (place, key) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
            if place == 0 || trees[place - 1] != key.0 {
                roots.push(place);
            }
            if places.insert(key, place).is_some() {
                return Err(OpError::invalid(format!("tree {} has node {} twice", key.0, key.1)));
            }
        }
        let mut leaves = Leaves::read(node, kind, columns)?;
        let (features, limits) = (ints(node, "nodes_featureids")?, numbers(node, "nodes_values")?);
        let (yes, no) = (ints(node, "nodes_truenodeids")?, ints(node, "nodes_falsenodeids")?);
        let missing = ints(node, "nodes_missing_value_tracks_true")?;
        let mut nodes = Vec::with_capacity(count);
        for place in 0..count {
            let key = (trees[place], ids[place]);
            if modes[place] == "LEAF" {
                nodes.push(TreeNode::Leaf(leaves.take(key)));
                continue;
            }
            let mode = BRANCHES.iter().position(|mode| *mode == modes[place]);
            let mode = mode.ok_or_else(|| OpError::unsupported(format!("the mode {:?} of a node", modes[place])))?;
            let child = |name: &str, list: &[i64]| {
                let id = at(name, list, place, count, None)?;
                let found = places.get(&(key.0, id)).copied();
                found.ok_or_else(|| OpError::invalid(format!("tree {} has no node {id}", key.0)))
            };
            nodes.push(TreeNode::Branch {
                mode: u32::try_from(mode).unwrap_or(0),
                feature: index("nodes_featureids", at("nodes_featureids", features, place, count, None)?)?,
                limit: at("nodes_values", &limits, place, count, None)?,
                missing: at("nodes_missing_value_tracks_true", missing, place, count, Some(0))? != 0,
                yes: child("nodes_truenodeids", yes)?,
                no: child("nodes_falsenodeids", no)?,
            });
        }
        let aggregate = match node.attributes.text("aggregate_function", "SUM")? {
            "SUM" => Aggregate::Sum,
            "AVERAGE" => Aggregate::Average,
            "MIN" => Aggregate::Min,
            "MAX" => Aggregate::Max,
            other => return Err(OpError::invalid(format!("the aggregate {other:?}"))),
        };
        let base = numbers(node, "base_values")?;
        if !base.is_empty() && base.len() != columns && base.len() != 1 && base.len() != 2 {
            return Err(OpError::invalid(format!("{} base values for {columns} columns", base.len())));
        }
        Ok(Self { nodes, roots, columns, aggregate, base })
    }

    /// Reads a `TreeEnsemble`.
    pub(super) fn of_ensemble(node: &Node) -> Result<Self, OpError> {
        let tensor = |name: &str| match node.attributes.find(name) {
            Some(Attribute::Tensor(literal)) => Ok(literal),
            _ => Err(OpError::invalid(format!("attribute {name:?} should be a tensor"))),
        };
        let (modes, limits) = (tensor("nodes_modes")?.to_i64s(), tensor("nodes_splits")?.to_f32s());
        let count = modes.len();
        if count > NODES_MAX {
            return Err(OpError::unsupported(format!("{count} nodes")));
        }
        let columns = index("n_targets", node.attributes.int("n_targets", 1)?)?;
        let (leaf_targets, leaf_weights) = (ints(node, "leaf_targetids")?, tensor("leaf_weights")?.to_f32s());
        if leaf_targets.len() != leaf_weights.len() {
            return Err(OpError::invalid("leaf_targetids and leaf_weights differ in length"));
        }
        let mut leaf = Vec::with_capacity(leaf_targets.len());
        for (&target, &weight) in leaf_targets.iter().zip(&leaf_weights) {
            leaf.push((index("leaf_targetids", target)?, weight));
        }
        let features = ints(node, "nodes_featureids")?;
        let missing = ints(node, "nodes_missing_value_tracks_true")?;
        let sides = [("nodes_truenodeids", "nodes_trueleafs"), ("nodes_falsenodeids", "nodes_falseleafs")];
        let mut sets = Sets::of(node);
        let mut nodes: Vec<TreeNode> = Vec::with_capacity(count + leaf.len());
        let mut more = Vec::new();
        // Branches first, then leaves, then what sets are written out to.
        let first_more = count + leaf.len();
        for (place, &mode) in modes.iter().enumerate() {
            let mut children = [0; 2];
            for (child, (name, leafs)) in children.iter_mut().zip(sides) {
                let to = index(name, at(name, ints(node, name)?, place, count, None)?)?;
                let is_leaf = at(leafs, ints(node, leafs)?, place, count, Some(0))? != 0;
                let limit = if is_leaf { leaf.len() } else { count };
                if to >= limit {
                    return Err(OpError::invalid(format!("{to} in {name}")));
                }
                *child = if is_leaf { count + to } else { to };
            }
            let feature = index("nodes_featureids", at("nodes_featureids", features, place, count, None)?)?;
            let missing = at("nodes_missing_value_tracks_true", missing, place, count, Some(0))? != 0;
            let [yes, no] = children;
            let branch = |mode: u32, limit: f32, no: usize| TreeNode::Branch { mode, feature, limit, missing, yes, no };
            let limit = at("nodes_splits", &limits, place, count, None)?;
            match u32::try_from(mode) {
                Ok(known) if (known as usize) < BRANCHES.len() => nodes.push(branch(known, limit, no)),
                // Membership of a set: equal to one of its numbers.
                Ok(6) => {
                    let set = sets.next()?;
                    let (first, rest) = set.split_first().ok_or_else(|| OpError::invalid("a set without numbers"))?;
                    let mut to = no;
                    for &value in rest {
                        more.push(branch(EQUAL, value, to));
                        to = first_more + more.len() - 1;
                    }
                    nodes.push(branch(EQUAL, *first, to));
                }
                _ => return Err(OpError::invalid(format!("the mode {mode} of a node"))),
            }
        }
        nodes.extend(leaf.into_iter().map(|one| TreeNode::Leaf(vec![one])));
        nodes.extend(more);
        let mut roots = Vec::new();
        for &root in ints(node, "tree_roots")? {
            roots.push(index("tree_roots", root)?);
        }
        let aggregate = match node.attributes.int("aggregate_function", 1)? {
            0 => Aggregate::Average,
            1 => Aggregate::Sum,
            2 => Aggregate::Min,
            3 => Aggregate::Max,
            other => return Err(OpError::invalid(format!("the aggregate {other}"))),
        };
        Ok(Self { nodes, roots, columns, aggregate, base: Vec::new() })
    }

    /// Checks features, columns and roots against the input.
    pub(super) fn check(&self, features: usize) -> Result<(), OpError> {
        for node in &self.nodes {
            match node {
                TreeNode::Branch { feature, .. } if *feature >= features => {
                    return Err(OpError::invalid(format!("a tree looks at feature {feature} of {features}")));
                }
                TreeNode::Leaf(answers) if answers.iter().any(|(column, _weight)| *column >= self.columns) => {
                    return Err(OpError::invalid(format!("a leaf answers for a column over {}", self.columns)));
                }
                TreeNode::Branch { .. } | TreeNode::Leaf(_) => {}
            }
        }
        let inside = self.roots.iter().all(|&root| root < self.nodes.len());
        if inside && self.columns > 0 { Ok(()) } else { Err(OpError::invalid("a tree begins nowhere")) }
    }

    fn answers(&self) -> impl Iterator<Item = &(usize, f32)> {
        self.nodes.iter().flat_map(|node| match node {
            TreeNode::Leaf(answers) => answers.as_slice(),
            TreeNode::Branch { .. } => &[],
        })
    }

    /// Number of different columns that leaves answer for; more than one counts as two.
    pub(super) fn leaf_columns(&self) -> usize {
        let mut columns = self.answers().map(|(column, _weight)| column);
        match columns.next() {
            None => 0,
            Some(first) => 1 + usize::from(columns.any(|column| column != first)),
        }
    }

    /// Returns whether no weight is negative.
    pub(super) fn all_positive(&self) -> bool {
        self.answers().all(|(_column, weight)| *weight >= 0.0)
    }
}

/// Weights of leaves by tree and node.
struct Leaves(HashMap<(i64, i64), Vec<(usize, f32)>>);

impl Leaves {
    fn read(node: &Node, kind: &str, columns: usize) -> Result<Self, OpError> {
        let list = |name: &str| ints(node, &format!("{kind}_{name}"));
        let (trees, nodes, ids) = (list("treeids")?, list("nodeids")?, list("ids")?);
        let weights = numbers(node, &format!("{kind}_weights"))?;
        if trees.len() != ids.len() || nodes.len() != ids.len() || weights.len() != ids.len() {
            return Err(OpError::invalid(format!("the lists {kind}_* differ in length")));
        }
        let mut leaves: HashMap<(i64, i64), Vec<(usize, f32)>> = HashMap::new();
        for at in 0..ids.len() {
            let column = index(&format!("{kind}_ids"), ids[at])?;
            if column >= columns {
                return Err(OpError::invalid(format!("{column} in {kind}_ids for {columns} columns")));
            }
            leaves.entry((trees[at], nodes[at])).or_default().push((column, weights[at]));
        }
        Ok(Self(leaves))
    }

    fn take(&mut self, key: (i64, i64)) -> Vec<(usize, f32)> {
        self.0.remove(&key).unwrap_or_default()
    }
}

/// Sets of numbers, which NaN separates.
struct Sets(std::vec::IntoIter<f32>);

impl Sets {
    fn of(node: &Node) -> Self {
        let values = match node.attributes.find("membership_values") {
            Some(Attribute::Tensor(literal)) => literal.to_f32s(),
            _ => Vec::new(),
        };
        Self(values.into_iter())
    }

    fn next(&mut self) -> Result<Vec<f32>, OpError> {
        let set: Vec<f32> = self.0.by_ref().take_while(|value| !value.is_nan()).collect();
        if set.is_empty() { Err(OpError::invalid("membership_values hold too few sets")) } else { Ok(set) }
    }
}
