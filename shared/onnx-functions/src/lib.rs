//! Inlines the model-local functions of an ONNX file (`ModelProto.functions`): each call becomes the nodes of the function's body.
//!
//! Works on the bytes of the file, so that `engine-wgpu` and `onnx-graph`, which parse models with different libraries, share one
//! implementation. Fed with the bytes of a model; returns the bytes of an equal model without functions. Follows the rules of
//! `onnx.proto` (ONNX 1.23): values of a body get names of their own at each call, attributes are passed by reference, and
//! an input that the call leaves out is left out in the body.

mod call;
mod message;
mod opsets;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

pub use message::Malformed;

use call::{Function, Inliner, Operator};
use message::{Fields, Value, Writer};

/// Bounds of an expansion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of nodes after inlining, with those of subgraphs. Default 200,000: the largest exports have about 50,000.
    pub nodes: usize,
    /// Maximum bytes that inlining may add to twice the file. Default 256 MiB: constants in the body of a function are repeated
    /// at each call.
    pub added_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: 200_000, added_bytes: 256 << 20 }
    }
}

/// Deepest chain of functions that call each other. Exporters make two or three levels.
pub const CALL_DEPTH_MAX: usize = 32;

/// Deepest nesting of graphs in attributes, counted through calls. Engines refuse more than 8 in a file.
pub const GRAPH_DEPTH_MAX: usize = 16;

/// Reason why the functions of a model are not inlined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InlineError {
    /// The bytes are not a readable model.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A function calls itself, directly or through others.
    #[error("function {function:?} of the model calls itself")]
    Recursion {
        /// Name of the function.
        function: String,
    },
    /// Functions call each other too deeply.
    #[error("functions of the model call each other more than {CALL_DEPTH_MAX} levels deep")]
    CallDepth,
    /// Graphs are nested too deeply once functions are inlined.
    #[error("graphs of the model are nested deeper than {GRAPH_DEPTH_MAX} once its functions are inlined")]
    GraphDepth,
    /// The model gets too many nodes.
    #[error("the model has more than {limit} nodes once its functions are inlined")]
    Nodes {
        /// The limit in nodes, see [`Limits::nodes`].
        limit: usize,
    },
    /// The model gets too large.
    #[error("inlining the functions of the model adds more than {limit} bytes to it")]
    Bytes {
        /// The limit in bytes, see [`Limits::added_bytes`].
        limit: usize,
    },
    /// Two functions have the same domain, name and overload.
    #[error("the model defines function {function:?} twice")]
    Twice {
        /// Name of the function.
        function: String,
    },
    /// A call has more inputs or outputs than its function.
    #[error("node {node:?} passes {given} {what} to function {function:?}, which has {known}")]
    Arity {
        /// Name of the node.
        node: String,
        /// Name of the function.
        function: String,
        /// `inputs` or `outputs`.
        what: &'static str,
        /// Number that the call passes.
        given: usize,
        /// Number that the function declares.
        known: usize,
    },
    /// The body of a function was written for another operator set, in which one of its operators means something else.
    #[error(
        "function {function:?} uses {operator:?} of operator set {own} of domain {domain:?}, the model imports {model}: convert the \
         model to one version"
    )]
    Opset {
        /// Name of the function.
        function: String,
        /// Operator that changed between the versions.
        operator: String,
        /// Domain of the operator.
        domain: String,
        /// Version that the function imports.
        own: i64,
        /// Version that the model imports.
        model: i64,
    },
}

/// Numbers of the fields of `ModelProto`.
mod model {
    pub(crate) const GRAPH: u64 = 7;
    pub(crate) const OPSET_IMPORT: u64 = 8;
    pub(crate) const FUNCTION: u64 = 25;
}

/// Returns the model with every call of a model-local function replaced by its body; `None` when the model has no functions.
///
/// # Errors
/// [`InlineError`] when a function cannot be inlined, or the result passes `limits`.
pub fn inlined(file: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>, InlineError> {
    let mut functions: BTreeMap<Operator<'_>, Function<'_>> = BTreeMap::new();
    let mut imports = BTreeMap::new();
    let mut graphs = 0;
    let mut fields = Fields::of(file);
    while let Some((number, value)) = fields.next()? {
        match number {
            model::FUNCTION => {
                let (operator, function) = Function::read(value.bytes()?)?;
                if functions.insert(operator, function).is_some() {
                    return Err(InlineError::Twice { function: message::text(operator.name) });
                }
            }
            model::OPSET_IMPORT => {
                let (domain, version) = opsets::import(value.bytes()?)?;
                imports.insert(domain, version);
            }
            model::GRAPH => graphs += 1,
            _ => {}
        }
    }
    if functions.is_empty() {
        return Ok(None);
    }
    if graphs != 1 {
        return Err(Malformed("it has no graph, or more than one").into());
    }
    let mut taken = HashSet::new();
    let mut inliner = Inliner::new(&functions, limits, file.len(), imports);
    let mut written = Writer::default();
    let mut fields = Fields::of(file);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (model::FUNCTION | model::OPSET_IMPORT, _) => {}
            (model::GRAPH, Value::Bytes(graph)) => {
                scope::names_of(graph, 0, &mut taken)?;
                inliner.reserve(std::mem::take(&mut taken));
                let graph = inliner.main_graph(graph)?;
                written.bytes(number, &graph);
            }
            (_, value) => written.value(number, &value),
        }
    }
    for (domain, version) in inliner.imports() {
        written.bytes(model::OPSET_IMPORT, &opsets::written(domain, *version));
    }
    Ok(Some(written.into_bytes()))
}
