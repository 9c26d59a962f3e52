//! Rewrites that change how a graph says something, never what it says.
//!
//! Each takes a graph whose nodes are in order and gives how many things it changed. Values that the graph hands out keep
//! their names. None of them looks into subgraphs, but all respect what subgraphs take from outside.

mod batch_norm;
mod constants;
mod dead;
mod duplicates;
mod pass_through;
mod replace;
mod single;
mod sort;

use serde::Serialize;

use crate::fold::{self, FoldLimits};
use crate::model::Model;

pub use batch_norm::fold_batch_norms;
pub(crate) use constants::constant;
pub use constants::constants_to_initializers;
pub use dead::remove_dead;
pub use duplicates::merge_duplicates;
pub use pass_through::remove_pass_through;
pub(crate) use replace::{Inner, replace_uses};
pub use single::to_single;
pub use sort::{Cycle, sort};

/// What [`tidy`] did, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Tidied {
    /// Constants that were nodes and became initializers.
    pub constants: usize,
    /// Nodes that passed their input through.
    pub pass_through: usize,
    /// Nodes computed once and for all.
    pub folded: usize,
    /// Normalizations folded into the weights before them.
    pub batch_norms: usize,
    /// Initializers that were copies of others.
    pub duplicates: usize,
    /// Nodes and initializers that led nowhere.
    pub dead: usize,
}

/// Every rewrite that keeps a model's answers, in the order in which they help each other.
///
/// Answers stay the same to the bit, but for folded normalizations, which round differently (about 1e-6 of the largest).
///
/// # Errors
/// [`Cycle`] when the nodes have no order.
pub fn tidy(model: &Model, limits: &FoldLimits) -> Result<(Model, Tidied), Cycle> {
    let mut model = model.clone();
    sort(&mut model.graph)?;
    let opset = model.opset("").unwrap_or(1);
    let graph = &mut model.graph;
    let mut done = Tidied {
        constants: constants_to_initializers(graph),
        pass_through: remove_pass_through(graph, opset),
        ..Tidied::default()
    };
    done.dead = remove_dead(graph);
    done.folded = fold::fold(graph, opset, limits);
    done.batch_norms = fold_batch_norms(graph, opset);
    done.duplicates = merge_duplicates(graph);
    done.dead += remove_dead(graph);
    Ok((model, done))
}
