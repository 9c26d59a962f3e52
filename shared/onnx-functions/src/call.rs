//! Calls of functions, and their replacement by the function's body.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::message::{Fields, Malformed, Writer, text};
use crate::opsets::{Imports, adopt, import, plain};
use crate::scope::{INFO_NAME, SPARSE_VALUES, Scope, TENSOR_NAME, attribute, field, graph, node};
use crate::{CALL_DEPTH_MAX, GRAPH_DEPTH_MAX, InlineError, Limits};

/// Domain, name and overload of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Operator<'a> {
    pub(crate) domain: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) overload: &'a [u8],
}

/// Domain and name of an operator.
type Used<'a> = (&'a [u8], &'a [u8]);

/// Name and `AttributeProto` of an attribute.
type Attribute = (Vec<u8>, Vec<u8>);

/// A model-local function as it was read.
#[derive(Debug, Default)]
pub(crate) struct Function<'a> {
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
    /// Attributes with a default, as `AttributeProto`.
    defaults: Vec<&'a [u8]>,
    nodes: Vec<&'a [u8]>,
    imports: Imports<'a>,
}

impl<'a> Function<'a> {
    /// Reads name and body of a `FunctionProto`.
    pub(crate) fn read(message: &'a [u8]) -> Result<(Operator<'a>, Self), Malformed> {
        let mut function = Self::default();
        let mut operator = Operator { domain: b"", name: b"", overload: b"" };
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => operator.name = value.bytes()?,
                4 => function.inputs.push(value.bytes()?),
                5 => function.outputs.push(value.bytes()?),
                7 => function.nodes.push(value.bytes()?),
                9 => {
                    let (domain, version) = import(value.bytes()?)?;
                    function.imports.insert(domain, version);
                }
                10 => operator.domain = plain(value.bytes()?),
                11 => function.defaults.push(value.bytes()?),
                13 => operator.overload = value.bytes()?,
                // Names of attributes without a default, texts, types of values and metadata.
                _ => {}
            }
        }
        Ok((operator, function))
    }

    /// Returns domain and name of each operator in the body, with those in subgraphs.
    fn operators(&self) -> Result<Vec<Used<'a>>, InlineError> {
        let mut found = Vec::new();
        self.nodes.iter().try_for_each(|node| operators_of(node, 0, &mut found))?;
        Ok(found)
    }
}

fn operators_of<'a>(message: &'a [u8], depth: usize, found: &mut Vec<Used<'a>>) -> Result<(), InlineError> {
    if depth > GRAPH_DEPTH_MAX {
        return Err(InlineError::GraphDepth);
    }
    found.push((plain(field(message, node::DOMAIN)?), field(message, node::OP_TYPE)?));
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if number != node::ATTRIBUTE {
            continue;
        }
        let mut inner = Fields::of(value.bytes()?);
        while let Some((number, value)) = inner.next()? {
            if !matches!(number, attribute::GRAPH | attribute::GRAPHS) {
                continue;
            }
            let mut fields = Fields::of(value.bytes()?);
            while let Some((number, value)) = fields.next()? {
                if number == graph::NODE {
                    operators_of(value.bytes()?, depth + 1, found)?;
                }
            }
        }
    }
    Ok(())
}

/// A node whose names and attribute references were resolved.
#[derive(Debug, Default)]
struct Node {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    name: Vec<u8>,
    attributes: Vec<Attribute>,
    /// All other fields of the message.
    rest: Writer,
}

/// Inlines calls, and counts what that makes.
pub(crate) struct Inliner<'f, 'a> {
    functions: &'f BTreeMap<Operator<'a>, Function<'a>>,
    limits: &'f Limits,
    /// Maximum bytes of what is written: the file twice, because it is measured while it is put together, and the limit.
    bytes_max: usize,
    imports: Imports<'a>,
    taken: HashSet<Vec<u8>>,
    calls: usize,
    nodes: usize,
    /// Bytes of names, attributes and nodes that were made so far.
    made: usize,
    callers: Vec<Operator<'a>>,
    adopted: HashSet<Operator<'a>>,
}

impl<'f, 'a> Inliner<'f, 'a> {
    pub(crate) fn new(
        functions: &'f BTreeMap<Operator<'a>, Function<'a>>,
        limits: &'f Limits,
        file_bytes: usize,
        imports: Imports<'a>,
    ) -> Self {
        Self {
            functions,
            limits,
            bytes_max: file_bytes.saturating_mul(2).saturating_add(limits.added_bytes),
            imports,
            taken: HashSet::new(),
            calls: 0,
            nodes: 0,
            made: 0,
            callers: Vec::new(),
            adopted: HashSet::new(),
        }
    }

    /// Marks names as used.
    pub(crate) fn reserve(&mut self, names: HashSet<Vec<u8>>) {
        self.taken = names;
    }

    /// Returns what the inlined model imports.
    pub(crate) fn imports(&self) -> &Imports<'a> {
        &self.imports
    }

    /// Rewrites the main graph.
    pub(crate) fn main_graph(&mut self, message: &'a [u8]) -> Result<Vec<u8>, InlineError> {
        self.graph(message, &mut Scope::default(), 0)
    }

    /// Rewrites a graph of the model, or a subgraph in the body of a function.
    fn graph(&mut self, message: &'a [u8], scope: &mut Scope<'a>, depth: usize) -> Result<Vec<u8>, InlineError> {
        if depth > GRAPH_DEPTH_MAX {
            return Err(InlineError::GraphDepth);
        }
        let mut written = Writer::default();
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                graph::NODE => self.node(value.bytes()?, scope, depth, &mut written)?,
                _ if scope.is_main() => written.value(number, &value),
                graph::INITIALIZER => written.bytes(number, &self.renamed(value.bytes()?, TENSOR_NAME, scope)?),
                graph::INPUT | graph::OUTPUT | graph::VALUE_INFO => {
                    written.bytes(number, &self.renamed(value.bytes()?, INFO_NAME, scope)?);
                }
                graph::SPARSE_INITIALIZER => {
                    let mut sparse = Writer::default();
                    let mut inner = Fields::of(value.bytes()?);
                    while let Some((number, value)) = inner.next()? {
                        match number {
                            SPARSE_VALUES => sparse.bytes(number, &self.renamed(value.bytes()?, TENSOR_NAME, scope)?),
                            _ => sparse.value(number, &value),
                        }
                    }
                    written.bytes(number, &sparse.into_bytes());
                }
                // Hints for tools, by names that no longer fit.
                graph::QUANTIZATION => {}
                _ => written.value(number, &value),
            }
            self.check_bytes(written.len())?;
        }
        Ok(written.into_bytes())
    }

    fn check_bytes(&self, more: usize) -> Result<(), InlineError> {
        let fits = self.made.saturating_add(more) <= self.bytes_max;
        if fits { Ok(()) } else { Err(InlineError::Bytes { limit: self.limits.added_bytes }) }
    }

    /// Copies a message whose field `name` holds the name of a value.
    fn renamed(&mut self, message: &'a [u8], name: u64, scope: &mut Scope<'a>) -> Result<Vec<u8>, Malformed> {
        let mut written = Writer::default();
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number == name {
                true => written.bytes(number, &scope.value(value.bytes()?, &mut self.taken)),
                false => written.value(number, &value),
            }
        }
        Ok(written.into_bytes())
    }

    /// Writes a node, or the body of the function that it calls.
    fn node(
        &mut self,
        message: &'a [u8],
        scope: &mut Scope<'a>,
        depth: usize,
        written: &mut Writer,
    ) -> Result<(), InlineError> {
        let operator = Operator {
            domain: plain(field(message, node::DOMAIN)?),
            name: field(message, node::OP_TYPE)?,
            overload: field(message, node::OVERLOAD)?,
        };
        let function = self.functions.get(&operator);
        let resolved = self.resolved(message, scope, depth)?;
        match function {
            Some(function) => self.call(operator, function, resolved, depth, written),
            None => self.write(resolved, written),
        }
    }

    fn write(&mut self, resolved: Node, written: &mut Writer) -> Result<(), InlineError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(InlineError::Nodes { limit: self.limits.nodes });
        }
        let mut out = Writer::default();
        for (number, names) in [(node::INPUT, &resolved.inputs), (node::OUTPUT, &resolved.outputs)] {
            names.iter().for_each(|name| out.bytes(number, name));
        }
        out.bytes(node::NAME, &resolved.name);
        for (_name, attribute) in &resolved.attributes {
            out.bytes(node::ATTRIBUTE, attribute);
        }
        let mut bytes = out.into_bytes();
        bytes.extend(resolved.rest.into_bytes());
        self.made = self.made.saturating_add(bytes.len());
        written.bytes(graph::NODE, &bytes);
        self.check_bytes(0)
    }

    /// Reads a node in its scope: names become those outside, references to attributes become the attributes.
    fn resolved(&mut self, message: &'a [u8], scope: &mut Scope<'a>, depth: usize) -> Result<Node, InlineError> {
        let mut resolved = Node::default();
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                node::INPUT => resolved.inputs.push(scope.value(value.bytes()?, &mut self.taken)),
                node::OUTPUT => resolved.outputs.push(scope.value(value.bytes()?, &mut self.taken)),
                node::NAME => resolved.name = [&scope.prefix, value.bytes()?].concat(),
                node::ATTRIBUTE => resolved.attributes.extend(self.attribute(value.bytes()?, scope, depth)?),
                _ => resolved.rest.value(number, &value),
            }
        }
        Ok(resolved)
    }

    /// Returns name and message of an attribute; `None` when it refers to one that the call leaves out.
    fn attribute(
        &mut self,
        message: &'a [u8],
        scope: &mut Scope<'a>,
        depth: usize,
    ) -> Result<Option<Attribute>, InlineError> {
        let name = field(message, attribute::NAME)?.to_vec();
        let reference = field(message, attribute::REFERENCE)?;
        if !reference.is_empty() && !scope.is_main() {
            let Some(given) = scope.attributes.get(reference) else { return Ok(None) };
            let mut written = Writer::default();
            let mut fields = Fields::of(given);
            while let Some((number, value)) = fields.next()? {
                if number != attribute::NAME {
                    written.value(number, &value);
                }
            }
            written.bytes(attribute::NAME, &name);
            return Ok(Some((name, written.into_bytes())));
        }
        let mut written = Writer::default();
        let mut fields = Fields::of(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                attribute::GRAPH | attribute::GRAPHS => {
                    written.bytes(number, &self.graph(value.bytes()?, scope, depth + 1)?);
                }
                _ => written.value(number, &value),
            }
        }
        Ok(Some((name, written.into_bytes())))
    }

    /// Writes the body of a function in the place of a call.
    fn call(
        &mut self,
        operator: Operator<'a>,
        function: &'f Function<'a>,
        call: Node,
        depth: usize,
        written: &mut Writer,
    ) -> Result<(), InlineError> {
        if self.callers.contains(&operator) {
            return Err(InlineError::Recursion { function: text(operator.name) });
        }
        if self.callers.len() >= CALL_DEPTH_MAX {
            return Err(InlineError::CallDepth);
        }
        let arity = |what, given, known| InlineError::Arity {
            node: text(&call.name),
            function: text(operator.name),
            what,
            given,
            known,
        };
        if call.inputs.len() > function.inputs.len() {
            return Err(arity("inputs", call.inputs.len(), function.inputs.len()));
        }
        if call.outputs.len() > function.outputs.len() {
            return Err(arity("outputs", call.outputs.len(), function.outputs.len()));
        }
        if self.adopted.insert(operator) {
            adopt(&mut self.imports, operator.name, &function.imports, &function.operators()?)?;
        }
        let mut scope = self.scope(operator, function, &call)?;
        let handed_on = self.bind_outputs(function, &call, &mut scope);
        self.callers.push(operator);
        for message in &function.nodes {
            self.node(message, &mut scope, depth, written)?;
        }
        self.callers.pop();
        for (from, to) in handed_on {
            let name = [&scope.prefix, to.as_slice()].concat();
            let mut rest = Writer::default();
            rest.bytes(node::OP_TYPE, b"Identity");
            self.write(Node { inputs: vec![from], outputs: vec![to], name, attributes: Vec::new(), rest }, written)?;
        }
        Ok(())
    }

    /// Returns what the names of the inputs and the attributes stand for at this call.
    fn scope(
        &mut self,
        operator: Operator<'a>,
        function: &'f Function<'a>,
        call: &Node,
    ) -> Result<Scope<'a>, InlineError> {
        /// Bytes of a function's name that the names of its values begin with.
        const PREFIX_BYTES_MAX: usize = 40;
        self.calls += 1;
        let name: String = text(operator.name).chars().filter(char::is_ascii_graphic).take(PREFIX_BYTES_MAX).collect();
        let prefix = format!("{name}_{}/", self.calls).into_bytes();
        let mut attributes: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for default in &function.defaults {
            attributes.insert(field(default, attribute::NAME)?.to_vec(), default.to_vec());
        }
        attributes.extend(call.attributes.iter().cloned());
        self.made = self.made.saturating_add(attributes.values().map(Vec::len).sum());
        self.check_bytes(0)?;
        let mut values = HashMap::new();
        for (at, &input) in function.inputs.iter().enumerate() {
            values.insert(input, call.inputs.get(at).cloned().unwrap_or_default());
        }
        Ok(Scope { prefix, values, attributes })
    }

    /// Gives the outputs of a body the names that the call has for them.
    ///
    /// Returns pairs of names for `Identity` nodes: an output that is also an input, or is listed twice, keeps its first name.
    fn bind_outputs(
        &mut self,
        function: &'f Function<'a>,
        call: &Node,
        scope: &mut Scope<'a>,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut handed_on = Vec::new();
        for (&name, wanted) in function.outputs.iter().zip(&call.outputs) {
            if wanted.is_empty() {
                continue;
            }
            match scope.values.get(name) {
                Some(bound) => handed_on.push((bound.clone(), wanted.clone())),
                None => drop(scope.values.insert(name, wanted.clone())),
            }
        }
        handed_on
    }
}
