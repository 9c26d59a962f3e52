//! Whether a model is well formed: every value made once and before it is used, weights as large as they say, operators
//! known in the versions that the model imports.
//!
//! It asks what `onnx.checker` asks, where that matters to whoever rewrites graphs; attributes are not held against schemas.

mod operators;

use std::collections::{HashMap, HashSet};

use crate::graph::Graph;
use crate::model::{Model, plain};
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::rewrite::sort;
use crate::tensor::{ElementType, TensorError, Values};
use crate::uses::subgraphs;

/// Newest version of the default operator set that is known here (ONNX 1.23); what is newer may mean anything.
const OPSET_MAX: i64 = 28;

/// First problem found in a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Two values of one name.
    #[error("value {value:?} is made twice")]
    MadeTwice {
        /// The value.
        value: String,
    },
    /// A value that nobody makes, or that is made later.
    #[error("node {node:?} takes {value:?}, which nothing before it makes")]
    NotMade {
        /// Name of the node.
        node: String,
        /// The value.
        value: String,
    },
    /// Nodes in a circle.
    #[error(transparent)]
    Cycle(#[from] crate::rewrite::Cycle),
    /// An output that nobody makes.
    #[error("nothing makes the output {value:?}")]
    OutputNotMade {
        /// Name of the output.
        value: String,
    },
    /// An input or output without a name.
    #[error("a graph has {what} without a name")]
    Nameless {
        /// Kind of the thing that repeats.
        what: &'static str,
    },
    /// A weight whose bytes are not as many as its dimensions say.
    #[error("an initializer is broken")]
    Weight(#[from] TensorError),
    /// A domain that the model does not import, or imports twice.
    #[error("the model imports the operators of domain {domain:?} {times} times: node {node:?} needs it once")]
    Import {
        /// The domain.
        domain: String,
        /// Number of times that it occurs.
        times: usize,
        /// A node of that domain.
        node: String,
    },
    /// An operator set newer than what is known.
    #[error("the model imports operator set {version}: versions 1 to {OPSET_MAX} are known")]
    Version {
        /// The version.
        version: i64,
    },
    /// An operator that the imported set does not have.
    #[error("node {node:?} is of the operator {operator:?}, which operator set {version} does not have")]
    Operator {
        /// Name of the node.
        node: String,
        /// Name of the operator.
        operator: String,
        /// Version of the operator set that is imported.
        version: i64,
    },
    /// Too few or too many inputs or outputs, or a needed one left out.
    #[error("node {node:?} has {found} {what}: {operator} has {least} to {most}")]
    Arity {
        /// Name of the node.
        node: String,
        /// Name of its operator.
        operator: String,
        /// `inputs` or `outputs`.
        what: &'static str,
        /// Number that it has.
        found: usize,
        /// Number that it must have.
        least: usize,
        /// Number that it may have.
        most: usize,
    },
    /// Two attributes of one name, or one without.
    #[error("node {node:?} has attribute {attribute:?} twice, or one without a name")]
    Attribute {
        /// Name of the node.
        node: String,
        /// Name of the attribute.
        attribute: String,
    },
    /// A function whose body is broken.
    #[error("function {function:?} is broken")]
    Function {
        /// Name of the function.
        function: String,
        /// Problem, in one sentence.
        #[source]
        source: Box<Malformed>,
    },
}

/// Checks the whole model.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(model: &Model) -> Result<(), Malformed> {
    let functions: HashSet<_> =
        model.rest.functions.iter().map(|function| (plain(function.domain()), function.name())).collect();
    let main = Checker { imports: imports(&model.rest.opset_import), functions: &functions };
    main.versions()?;
    main.top(&model.graph)?;
    for function in &model.rest.functions {
        let broken = |source| Malformed::Function { function: function.name().to_owned(), source: Box::new(source) };
        let checker = Checker { imports: imports(&function.opset_import), functions: &functions };
        checker.function(function).map_err(broken)?;
    }
    Ok(())
}

/// Version of each domain, and how often it is imported.
type Imports<'model> = HashMap<&'model str, (i64, usize)>;

fn imports(ids: &[OperatorSetIdProto]) -> Imports<'_> {
    let mut imports = Imports::new();
    for id in ids {
        let entry = imports.entry(plain(id.domain())).or_insert((id.version(), 0));
        entry.1 += 1;
    }
    imports
}

struct Checker<'model> {
    imports: Imports<'model>,
    functions: &'model HashSet<(&'model str, &'model str)>,
}

/// The values that can be seen, and which of them the present graph made.
#[derive(Default)]
struct Scope<'around, 'model> {
    around: Option<&'around Scope<'around, 'model>>,
    own: HashSet<&'model str>,
}

impl<'model> Scope<'_, 'model> {
    fn make(&mut self, value: &'model str) -> Result<(), Malformed> {
        if self.own.insert(value) { Ok(()) } else { Err(Malformed::MadeTwice { value: value.to_owned() }) }
    }

    fn sees(&self, value: &str) -> bool {
        self.own.contains(value) || self.around.is_some_and(|around| around.sees(value))
    }
}

impl Checker<'_> {
    fn versions(&self) -> Result<(), Malformed> {
        match self.imports.get("") {
            Some(&(version, _)) if !(1..=OPSET_MAX).contains(&version) => Err(Malformed::Version { version }),
            _ => Ok(()),
        }
    }

    fn top(&self, graph: &Graph) -> Result<(), Malformed> {
        let mut scope = Scope::default();
        for (name, tensor) in &graph.initializers {
            weight(tensor)?;
            scope.make(named(name, "an initializer")?)?;
        }
        for sparse in &graph.rest.sparse_initializer {
            scope.make(sparse.values.as_ref().map_or("", TensorProto::name))?;
        }
        for input in &graph.inputs {
            scope.make(named(input.name(), "an input")?)?;
        }
        let result = graph.nodes.iter().try_for_each(|node| self.node(node, &mut scope));
        if let Err(Malformed::NotMade { .. }) = &result {
            // A circle is told as one; what is only out of order is told as it was met.
            sort(&mut Graph { nodes: graph.nodes.clone(), ..Graph::default() })?;
        }
        result?;
        outputs(graph.outputs.iter().map(|output| output.name()), &scope)
    }

    fn inner<'model>(&self, graph: &'model GraphProto, around: &Scope<'_, 'model>) -> Result<(), Malformed> {
        let mut scope = Scope { around: Some(around), own: HashSet::new() };
        for tensor in &graph.initializer {
            weight(tensor)?;
            scope.make(named(tensor.name(), "an initializer")?)?;
        }
        // Before version 4 of the format initializers had to be inputs too.
        for input in
            graph.input.iter().map(|input| input.name()).filter(|name| !scope.own.contains(name)).collect::<Vec<_>>()
        {
            scope.make(named(input, "an input")?)?;
        }
        graph.node.iter().try_for_each(|node| self.node(node, &mut scope))?;
        outputs(graph.output.iter().map(|output| output.name()), &scope)
    }

    fn function(&self, function: &FunctionProto) -> Result<(), Malformed> {
        self.versions()?;
        let mut scope = Scope::default();
        function.input.iter().try_for_each(|input| scope.make(named(input, "an input")?))?;
        function.node.iter().try_for_each(|node| self.node(node, &mut scope))?;
        outputs(function.output.iter().map(String::as_str), &scope)
    }

    fn node<'model>(&self, node: &'model NodeProto, scope: &mut Scope<'_, 'model>) -> Result<(), Malformed> {
        for value in node.input.iter().filter(|name| !name.is_empty()) {
            if !scope.sees(value) {
                return Err(Malformed::NotMade { node: told(node), value: value.clone() });
            }
        }
        self.operator(node)?;
        let mut names = HashSet::new();
        for attribute in &node.attribute {
            if attribute.name().is_empty() || !names.insert(attribute.name()) {
                return Err(Malformed::Attribute { node: told(node), attribute: attribute.name().to_owned() });
            }
        }
        subgraphs(node).try_for_each(|graph| self.inner(graph, scope))?;
        node.output.iter().filter(|name| !name.is_empty()).try_for_each(|output| scope.make(output))
    }

    fn operator(&self, node: &NodeProto) -> Result<(), Malformed> {
        let domain = plain(node.domain());
        let (version, times) = self.imports.get(domain).copied().unwrap_or((0, 0));
        let is_local = self.functions.contains(&(domain, node.op_type()));
        if times != 1 && !(is_local && times == 0) {
            return Err(Malformed::Import { domain: domain.to_owned(), times, node: told(node) });
        }
        if !domain.is_empty() || is_local {
            return Ok(());
        }
        let unknown = || Malformed::Operator { node: told(node), operator: node.op_type().to_owned(), version };
        let operator = operators::known(node.op_type()).filter(|known| known.since <= version).ok_or_else(unknown)?;
        let arity = |what, found, (least, most)| {
            let operator = node.op_type().to_owned();
            Err(Malformed::Arity { node: told(node), operator, what, found, least, most })
        };
        let given = node.input.iter().filter(|name| !name.is_empty()).count();
        // What must be there stands first, and may not be left out; but for the first version of `Scan`.
        let is_whole =
            node.op_type() == "Scan" || node.input.iter().take(operator.inputs.0).all(|name| !name.is_empty());
        if node.input.len() < operator.inputs.0 || node.input.len() > operator.inputs.1 || !is_whole {
            return arity("inputs", given, operator.inputs);
        }
        if node.output.len() < operator.outputs.0 || node.output.len() > operator.outputs.1 {
            return arity("outputs", node.output.len(), operator.outputs);
        }
        Ok(())
    }
}

/// The node as people know it: by its name, else by what it makes.
fn told(node: &NodeProto) -> String {
    let name = if node.name().is_empty() { node.output.first().map_or("", String::as_str) } else { node.name() };
    name.to_owned()
}

fn named<'name>(name: &'name str, what: &'static str) -> Result<&'name str, Malformed> {
    if name.is_empty() { Err(Malformed::Nameless { what }) } else { Ok(name) }
}

fn outputs<'name>(mut names: impl Iterator<Item = &'name str>, scope: &Scope<'_, '_>) -> Result<(), Malformed> {
    names.try_for_each(|name| {
        let name = named(name, "an output")?;
        if scope.sees(name) { Ok(()) } else { Err(Malformed::OutputNotMade { value: name.to_owned() }) }
    })
}

fn weight(tensor: &TensorProto) -> Result<(), Malformed> {
    if tensor.data_location() == DataLocation::External {
        tensor.shape()?;
        return Ok(());
    }
    if tensor.element_type() != ElementType::String {
        // Lists are unpacked only to be counted; weights of size are raw.
        return tensor.raw().map(|_raw| ()).map_err(Into::into);
    }
    let wanted: usize = tensor.shape()?.iter().product();
    let found = tensor.string_data.len();
    let name = || tensor.name().to_owned();
    if found == wanted { Ok(()) } else { Err(TensorError::Length { name: name(), found, wanted }.into()) }
}
