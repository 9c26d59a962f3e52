//! Sizes for what a model leaves open, so that `check` and the warm-up see as much of it as a request would.
//!
//! A model may refuse some sizes and take others: a `Reshape` to `[4, 6]` takes one batch only. Several guesses are tried and the
//! one under which most nodes can be inferred is kept. What each of them refuses, and what no sizes of the node's own inputs
//! would mend, is an error of the model.

use std::collections::BTreeMap;

use types::Dim;

use crate::error::OpError;
use crate::ir::{Graph, Literal, Node, ValueId};
use crate::segments::decided;
use crate::value_info::{DataDependent, Inputs, ValueInfo, ValueInfos};

/// Guesses that are tried at most; the first is that every open size is 1.
const GUESSES_MAX: usize = 40;

/// Nodes that all guesses together look at, so that a hostile file of very many nodes is guessed at once or twice only.
const NODES_LOOKED_AT_MAX: usize = 1_000_000;

/// Refusing nodes whose own sizes are varied; more of them say no more about a model.
const PROBED_MAX: usize = 64;

/// Sizes that are tried first, in order: small ones, then common lengths and edges of images.
const SIZES: [usize; 16] = [1, 2, 3, 4, 5, 6, 8, 10, 16, 32, 64, 128, 224, 512, 1024, 4096];

/// Largest number of a model that is tried as a size.
const SIZE_MAX: usize = 16 * 1024;

/// Most elements of a constant whose numbers are tried as sizes.
const NUMBERS_MAX: usize = 16;

/// Sizes of one guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// Open first dimensions.
    first: usize,
    /// Other open dimensions.
    other: usize,
}

/// A model under one guess.
#[derive(Debug)]
pub(crate) struct Guess {
    /// The inputs; `None` where no shape is declared.
    pub(crate) inputs: Vec<Option<ValueInfo>>,
    /// The graph with each `If` that the guess decides in place, and both sides of the others.
    pub(crate) graph: Graph,
    /// ValueInfos of each value under this guess.
    pub(crate) infos: ValueInfos,
    /// Positions of the nodes that refuse their inputs, and why.
    pub(crate) refused: BTreeMap<usize, OpError>,
    /// Positions of those among them that refuse whatever the open sizes are.
    pub(crate) surely: Vec<usize>,
}

impl Guess {
    fn of(graph: &Graph, sizes: Sizes) -> Self {
        let inputs = inputs(graph, sizes);
        let graph = decided(graph, &inputs);
        let (infos, refused) = ValueInfos::infer_leniently(&graph, &inputs, DataDependent::Assumed);
        Self { inputs, graph, infos, refused: refused.into_iter().collect(), surely: Vec::new() }
    }

    /// The position of a node of another guess.
    pub(crate) fn position(&self, node: &Node) -> Option<usize> {
        self.graph.nodes.iter().position(|twin| twin.op == node.op && twin.outputs == node.outputs)
    }

    /// Returns whether everything that a node reads and makes is known.
    pub(crate) fn knows(&self, node: &Node) -> bool {
        node.inputs.iter().chain(&node.outputs).flatten().all(|&id| self.infos.find(id).is_some())
    }

    /// Nodes whose outputs are not known.
    fn unknown(&self) -> usize {
        let known = |node: &&Node| node.outputs.iter().flatten().all(|&id| self.infos.find(id).is_some());
        self.graph.nodes.len() - self.graph.nodes.iter().filter(known).count()
    }
}

/// Returns the guess under which most of the model can be inferred.
pub(crate) fn best(graph: &Graph) -> Guess {
    let mut best = Guess::of(graph, Sizes { first: 1, other: 1 });
    if best.refused.is_empty() {
        return best;
    }
    let open = is_open(graph);
    let mut others = Vec::new();
    if open {
        for sizes in guesses(graph).into_iter().skip(1) {
            let guess = Guess::of(graph, sizes);
            let better = guess.unknown() < best.unknown();
            others.push(if better { std::mem::replace(&mut best, guess) } else { guess });
            // Sizes too large to be held leave nodes unknown and refuse nothing.
            if better && best.refused.is_empty() {
                return best;
            }
        }
    }
    let refused = best.refused.iter().take(PROBED_MAX);
    best.surely =
        refused.filter(|(at, error)| is_sure(&best, **at, error, &others, open)).map(|(&at, _why)| at).collect();
    best
}

/// Returns a few guesses other than a given one, for a second look at what it refuses.
pub(crate) fn others(graph: &Graph, than: &Guess) -> Vec<Guess> {
    let guesses = guesses(graph).into_iter().filter(|sizes| sizes.first == 1);
    guesses.take(OTHERS).map(|sizes| Guess::of(graph, sizes)).filter(|guess| guess.inputs != than.inputs).collect()
}

/// Guesses of a second look.
const OTHERS: usize = 12;

/// Returns whether a model leaves any size of its inputs open.
pub(crate) fn is_open(graph: &Graph) -> bool {
    !graph.inputs.iter().all(|&id| match &graph.value(id).declared {
        Some((_dtype, Some(dims))) => dims.iter().all(|dim| matches!(dim, Dim::Fixed(_))),
        Some((_, None)) | None => false,
    })
}

fn inputs(graph: &Graph, sizes: Sizes) -> Vec<Option<ValueInfo>> {
    let info = |&id: &ValueId| {
        let (dtype, dims) = graph.value(id).declared.as_ref()?;
        let dims = dims.as_ref()?.iter().enumerate();
        Some(ValueInfo::new(*dtype, dims.map(|(axis, dim)| size(dim, axis, sizes)).collect()))
    };
    graph.inputs.iter().map(info).collect()
}

fn size(dim: &Dim, axis: usize, sizes: Sizes) -> usize {
    let open = if axis == 0 { sizes.first } else { sizes.other };
    match dim {
        Dim::Fixed(size) => *size,
        Dim::Any => open,
        // Exporters write sums of other symbols, like "past + length" or "n + 1".
        Dim::Symbol(name) => {
            let terms = name.split('+').map(|term| term.trim().parse().unwrap_or(open));
            terms.fold(0, usize::saturating_add).min(SIZE_MAX)
        }
    }
}

/// The guesses in order: sizes that are often right, then the numbers of the model.
fn guesses(graph: &Graph) -> Vec<Sizes> {
    let mut sizes = SIZES.to_vec();
    let mut own: Vec<usize> = Vec::new();
    for literal in graph.constants.values() {
        if !literal.dtype().is_float() && literal.elements() <= NUMBERS_MAX {
            own.extend(literal.to_i64s().into_iter().filter_map(|number| usize::try_from(number).ok()));
        }
        own.extend(literal.shape());
    }
    own.retain(|&size| size > 1 && size <= SIZE_MAX);
    own.sort_unstable();
    own.dedup();
    sizes.extend(own);
    let mut guesses = Vec::new();
    for other in sizes {
        for first in [1, other] {
            let guess = Sizes { first, other };
            if !guesses.contains(&guess) {
                guesses.push(guess);
            }
        }
    }
    guesses.truncate(GUESSES_MAX.min(NODES_LOOKED_AT_MAX / graph.nodes.len().max(1) + 1));
    guesses
}

/// Returns whether a refusal holds whatever the open sizes are.
fn is_sure(guess: &Guess, at: usize, error: &OpError, others: &[Guess], open: bool) -> bool {
    let node = &guess.graph.nodes[at];
    match error {
        OpError::Attribute(_)
        | OpError::Unsupported(_)
        | OpError::DataDependent(_)
        | OpError::Fault(_)
        | OpError::Kernel { .. } => return true,
        OpError::Invalid(_) | OpError::TooLarge(_) if !open => return true,
        OpError::TooLarge(_) => return false,
        OpError::Invalid(_) => {}
    }
    // Some sizes fit every Reshape.
    if node.is("Reshape") {
        return false;
    }
    let Some(first) = infos_of(guess, node) else { return false };
    let seen: Vec<Vec<ValueInfo>> = others.iter().filter_map(|other| infos_of(other, twin(other, node)?)).collect();
    let ranks = |infos: &[ValueInfo]| infos.iter().map(ValueInfo::rank).collect::<Vec<_>>();
    if seen.is_empty() || seen.iter().any(|other| ranks(other) != ranks(&first)) {
        return false;
    }
    !fits_some_sizes(node, &first, &seen)
}

/// The same node under another guess.
fn twin<'a>(other: &'a Guess, node: &Node) -> Option<&'a Node> {
    other.position(node).map(|at| &other.graph.nodes[at])
}

/// The infos of a node's given inputs, if all are known.
fn infos_of(guess: &Guess, node: &Node) -> Option<Vec<ValueInfo>> {
    node.inputs.iter().flatten().map(|&id| guess.infos.find(id).cloned()).collect()
}

/// Returns whether a node takes some sizes in the place of those that differ between guesses.
fn fits_some_sizes(node: &Node, first: &[ValueInfo], seen: &[Vec<ValueInfo>]) -> bool {
    let varies = |input: usize, d: usize| seen.iter().any(|other| other[input].shape[d] != first[input].shape[d]);
    let opens: Vec<Vec<usize>> =
        (0..first.len()).map(|input| (0..first[input].rank()).filter(|&d| varies(input, d)).collect()).collect();
    let mut sizes = SIZES.to_vec();
    sizes.extend(first.iter().flat_map(|info| info.shape.iter().copied()));
    sizes.sort_unstable();
    sizes.dedup();
    let fits = |size_of: &dyn Fn(usize, usize) -> usize| {
        let mut infos = first.to_vec();
        for ((input, info), open) in infos.iter_mut().enumerate().zip(&opens) {
            if !open.is_empty() {
                open.iter().for_each(|&d| info.shape[d] = size_of(input, d));
                info.known = None;
            }
        }
        infers(node, &infos)
    };
    let varied: Vec<(usize, usize)> =
        opens.iter().enumerate().flat_map(|(input, open)| open.iter().map(move |&d| (input, d))).collect();
    // All open sizes alike; those of one input unlike the others; one alone unlike the others.
    sizes.iter().any(|&one| {
        let with = |is_other: &dyn Fn(usize, usize) -> bool| {
            sizes.iter().any(|&other| fits(&|input, d| if is_other(input, d) { other } else { one }))
        };
        fits(&|_input, _d| one)
            || varied
                .iter()
                .any(|&(alone, at)| with(&|input, _d| input == alone) || with(&|input, d| (input, d) == (alone, at)))
    })
}

fn infers(node: &Node, infos: &[ValueInfo]) -> bool {
    let mut given = infos.iter();
    let inputs: Vec<Option<&ValueInfo>> = node.inputs.iter().map(|id| id.and_then(|_given| given.next())).collect();
    match crate::ops::infer(node, Inputs(&inputs)) {
        // What a changed size makes unknown may be known at a request.
        Ok(_) | Err(OpError::DataDependent(_)) => {}
        Err(_) => return false,
    }
    let literals: Option<Vec<Option<&Literal>>> =
        inputs.iter().map(|info| info.map_or(Some(None), |info| info.known.as_ref().map(Some))).collect();
    literals.is_none_or(|literals| crate::inference::evaluate(node, &literals).is_ok())
}
