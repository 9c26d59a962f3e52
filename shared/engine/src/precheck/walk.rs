//! Walks a `ModelProto`: counts, and refuses where [`super::check`] says so.

use std::collections::BTreeMap;

use super::budget::{Budget, CONSTANTS, element_bytes};
use super::functions::{Operator, Uses, expanded_nodes};
use super::wire::{Fields, Value, WRONG_KIND, varint};
use super::{DOMAINS, ModelFacts, ModelLimits, OPERATORS_REFUSED, Refusal};

/// Deepest `TypeProto` (a sequence of maps of …); the standard needs 3.
const TYPE_DEPTH_MAX: usize = 8;

/// Elements that one byte of a tensor's message can stand for at most: ONNX packs four 2-bit integers into a byte.
const ELEMENTS_PER_BYTE_MAX: u64 = 4;

/// Most elements of a sparse tensor written out densely; 64 Mi elements are 256 MiB of `f32`.
const DENSE_ELEMENTS_MAX: u64 = 64 * 1024 * 1024;

/// Reads a whole model.
pub(super) fn model(file: &[u8], limits: &ModelLimits) -> Result<ModelFacts, Refusal> {
    let budget = Budget::new(file.len(), limits);
    let mut walk = Walk { limits, budget, nodes: 0, tensors: 0, deepest: 0 };
    let mut main: Option<Uses<'_>> = None;
    let mut functions = BTreeMap::new();
    let mut opset = None;
    let mut fields = Fields::of(file);
    while let Some((number, value)) = fields.next()? {
        match number {
            7 => {
                let graph = value.bytes()?;
                let mut uses = Uses::new();
                walk.graph(graph, 0, &mut uses)?;
                served_by_tensors(graph)?;
                // A parser would merge the two into one graph that nobody has checked.
                if main.replace(uses).is_some() {
                    return Err(Refusal::Unreadable { what: "it has two graphs" });
                }
            }
            8 => {
                walk.budget.field(&value)?;
                opset = default_opset(value.bytes()?)?.or(opset);
            }
            // Graphs for training are never run, but they are parsed with the rest.
            20 => walk.training(value.bytes()?)?,
            25 => {
                let (operator, uses) = walk.function(value.bytes()?)?;
                if functions.insert(operator, uses).is_some() {
                    return Err(Refusal::Unreadable { what: "it defines one function twice" });
                }
            }
            _ => walk.budget.field(&value)?,
        }
    }
    let main = main.ok_or(Refusal::Unreadable { what: "it has no graph" })?;
    for uses in functions.values().chain([&main]) {
        known_operators(uses, &functions)?;
    }
    let nodes = expanded_nodes(&main, &functions, limits.nodes)?;
    Ok(ModelFacts { opset, nodes, tensors: walk.tensors, depth: walk.deepest, operators: operators(&main, &functions) })
}

struct Walk<'l> {
    limits: &'l ModelLimits,
    budget: Budget,
    nodes: usize,
    tensors: usize,
    deepest: usize,
}

impl Walk<'_> {
    /// Checks a `GraphProto` and counts its operators. `depth` is 0 for the main graph.
    fn graph<'a>(&mut self, graph: &'a [u8], depth: usize, uses: &mut Uses<'a>) -> Result<(), Refusal> {
        if depth > self.limits.depth {
            return Err(Refusal::Depth { what: "graphs", limit: self.limits.depth });
        }
        self.deepest = self.deepest.max(depth);
        let mut fields = Fields::of(graph);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.node(value.bytes()?, depth, uses)?,
                5 => self.tensor(value.bytes()?)?,
                11..=13 => {
                    self.budget.value(&value)?;
                    value_info(value.bytes()?)?;
                }
                14 => self.budget.value(&value)?,
                15 => self.sparse_tensor(value.bytes()?)?,
                _ => self.budget.field(&value)?,
            }
        }
        Ok(())
    }

    /// Checks and counts a `NodeProto`.
    fn node<'a>(&mut self, node: &'a [u8], depth: usize, uses: &mut Uses<'a>) -> Result<(), Refusal> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(Refusal::Nodes { limit: self.limits.nodes });
        }
        self.budget.node()?;
        let mut operator = Operator { domain: b"", name: b"", overload: b"" };
        let mut fields = Fields::of(node);
        while let Some((number, value)) = fields.next()? {
            match number {
                5 => self.attribute(value.bytes()?, depth, uses)?,
                4 | 7 | 8 => {
                    self.budget.field(&value)?;
                    let text = value.bytes()?;
                    match number {
                        4 => operator.name = text,
                        7 => operator.domain = plain_domain(text),
                        _ => operator.overload = text,
                    }
                }
                _ => self.budget.field(&value)?,
            }
        }
        *uses.entry(operator).or_default() += 1;
        Ok(())
    }

    /// Checks an `AttributeProto` with its tensors and graphs.
    fn attribute<'a>(&mut self, attribute: &'a [u8], depth: usize, uses: &mut Uses<'a>) -> Result<(), Refusal> {
        self.budget.attribute()?;
        let mut single = 0;
        let mut fields = Fields::of(attribute);
        while let Some((number, value)) = fields.next()? {
            // A parser would merge two of these into one that nobody has checked.
            single += usize::from(matches!(number, 5 | 6 | 14 | 22));
            match number {
                5 | 10 => self.tensor(value.bytes()?)?,
                6 | 11 => self.graph(value.bytes()?, depth + 1, uses)?,
                14 | 15 => {
                    self.budget.value(&value)?;
                    type_proto(value.bytes()?, 0)?;
                }
                22 | 23 => self.sparse_tensor(value.bytes()?)?,
                7 => self.budget.numbers(&value, 1)?,
                8 => self.budget.numbers(&value, 8)?,
                4 | 9 => self.budget.bytes(&value)?,
                _ => self.budget.field(&value)?,
            }
        }
        if single > 1 { Err(Refusal::Unreadable { what: "an attribute has two values" }) } else { Ok(()) }
    }

    /// Checks a `FunctionProto` and returns its operator and the operators in its body.
    fn function<'a>(&mut self, function: &'a [u8]) -> Result<(Operator<'a>, Uses<'a>), Refusal> {
        let mut operator = Operator { domain: b"", name: b"", overload: b"" };
        let mut uses = Uses::new();
        let mut fields = Fields::of(function);
        while let Some((number, value)) = fields.next()? {
            match number {
                7 => self.node(value.bytes()?, 0, &mut uses)?,
                11 => self.attribute(value.bytes()?, 0, &mut uses)?,
                12 => {
                    self.budget.value(&value)?;
                    value_info(value.bytes()?)?;
                }
                1 | 10 | 13 => {
                    self.budget.field(&value)?;
                    let text = value.bytes()?;
                    match number {
                        1 => operator.name = text,
                        10 => operator.domain = plain_domain(text),
                        _ => operator.overload = text,
                    }
                }
                _ => self.budget.field(&value)?,
            }
        }
        Ok((operator, uses))
    }

    /// Checks the graphs of a `TrainingInfoProto`.
    fn training(&mut self, training: &[u8]) -> Result<(), Refusal> {
        let mut fields = Fields::of(training);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 | 2 => self.graph(value.bytes()?, 0, &mut Uses::new())?,
                _ => self.budget.field(&value)?,
            }
        }
        Ok(())
    }

    /// Checks and counts a `TensorProto`.
    fn tensor(&mut self, tensor: &[u8]) -> Result<(), Refusal> {
        self.tensors += 1;
        if self.tensors > self.limits.tensors {
            return Err(Refusal::Tensors { limit: self.limits.tensors });
        }
        let mut name: &[u8] = b"";
        let (mut external, mut elements) = (false, Some(1));
        let mut fields = Fields::of(tensor);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => elements = times_dims(elements, value)?,
                // Numbers of 8 and 16 bits stand in a list of 32, and a varint of one byte becomes 8.
                4 | 10 => self.budget.numbers(&value, 1)?,
                5 => self.budget.numbers(&value, 4)?,
                7 | 11 => self.budget.numbers(&value, 8)?,
                6 => self.budget.bytes(&value)?,
                8 => {
                    self.budget.field(&value)?;
                    name = value.bytes()?;
                }
                12 | 16 => self.budget.field(&value)?,
                13 => external = true,
                // DEFAULT is 0, EXTERNAL is 1; whatever else may come is not inside the file either.
                14 => external |= value.varint()? != 0,
                _ => {}
            }
        }
        if external {
            return Err(Refusal::ExternalData { tensor: shown(name) });
        }
        let most = u64::try_from(tensor.len()).ok().and_then(|bytes| bytes.checked_mul(ELEMENTS_PER_BYTE_MAX));
        match (elements, most) {
            (Some(elements), Some(most)) if elements <= most => Ok(()),
            _ => Err(Refusal::TensorSize { tensor: shown(name) }),
        }
    }

    /// `SparseTensorProto`: two tensors, and the shape they become. Engines write it out in full.
    fn sparse_tensor(&mut self, sparse: &[u8]) -> Result<(), Refusal> {
        let mut elements = Some(1);
        let mut size = 1;
        let mut fields = Fields::of(sparse);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => {
                    let values = value.bytes()?;
                    size = element_bytes(element(values)?);
                    self.tensor(values)?;
                }
                2 => self.tensor(value.bytes()?)?,
                3 => elements = times_dims(elements, value)?,
                _ => self.budget.field(&value)?,
            }
        }
        match elements.filter(|&elements| elements <= DENSE_ELEMENTS_MAX) {
            Some(elements) => self.budget.charge(elements.saturating_mul(size), CONSTANTS),
            None => Err(Refusal::TensorSize { tensor: "(sparse)".to_owned() }),
        }
    }
}

/// `TensorProto`: the number of its element type, 0 where it has none.
fn element(tensor: &[u8]) -> Result<u64, Refusal> {
    let mut element = 0;
    let mut fields = Fields::of(tensor);
    while let Some((number, value)) = fields.next()? {
        if number == 2 {
            element = value.varint()?;
        }
    }
    Ok(element)
}

/// Multiplies by one dimension or a packed list of them; `None` once the product is over 64 bits or a size is negative.
fn times_dims(product: Option<u64>, value: Value<'_>) -> Result<Option<u64>, Refusal> {
    let times = |product: Option<u64>, dim: u64| {
        let dim = Some(dim).filter(|&dim| i64::try_from(dim).is_ok());
        product?.checked_mul(dim?)
    };
    match value {
        Value::Varint(dim) => Ok(times(product, dim)),
        Value::Bytes(mut packed) => {
            let mut product = product;
            while !packed.is_empty() {
                product = times(product, varint(&mut packed)?);
            }
            Ok(product)
        }
        Value::Fixed => Err(WRONG_KIND),
    }
}

/// `ValueInfoProto`: only its type is of interest.
fn value_info(info: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields::of(info);
    while let Some((number, value)) = fields.next()? {
        if number == 2 {
            type_proto(value.bytes()?, 0)?;
        }
    }
    Ok(())
}

/// `TypeProto`: refuses deep nesting, says nothing else.
fn type_proto(proto: &[u8], depth: usize) -> Result<(), Refusal> {
    if depth > TYPE_DEPTH_MAX {
        return Err(Refusal::Depth { what: "types", limit: TYPE_DEPTH_MAX });
    }
    let mut fields = Fields::of(proto);
    while let Some((number, value)) = fields.next()? {
        // Sequence and optional hold their element in field 1, map its values in field 2.
        let inner = match number {
            4 | 9 => 1,
            5 => 2,
            _ => continue,
        };
        let mut nested = Fields::of(value.bytes()?);
        while let Some((number, value)) = nested.next()? {
            if number == inner {
                type_proto(value.bytes()?, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Refuses a main graph whose inputs or outputs are declared as anything but tensors.
fn served_by_tensors(graph: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields::of(graph);
    while let Some((number, value)) = fields.next()? {
        let kind = match number {
            11 => "input",
            12 => "output",
            _ => continue,
        };
        let (mut name, mut tensor): (&[u8], bool) = (b"", true);
        let mut info = Fields::of(value.bytes()?);
        while let Some((number, value)) = info.next()? {
            match number {
                1 => name = value.bytes()?,
                2 => tensor &= is_tensor(value.bytes()?)?,
                _ => {}
            }
        }
        if !tensor {
            return Err(Refusal::NotTensor { kind, name: shown(name) });
        }
    }
    Ok(())
}

/// Says whether a `TypeProto` is a dense tensor or leaves it open.
fn is_tensor(proto: &[u8]) -> Result<bool, Refusal> {
    let mut fields = Fields::of(proto);
    while let Some((number, _value)) = fields.next()? {
        // 6 is the denotation, a remark beside the type.
        if !matches!(number, 1 | 6) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `OperatorSetIdProto`: the version, if it is of the default domain.
fn default_opset(import: &[u8]) -> Result<Option<u64>, Refusal> {
    let (mut domain, mut version): (&[u8], u64) = (b"", 0);
    let mut fields = Fields::of(import);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => domain = plain_domain(value.bytes()?),
            2 => version = value.varint()?,
            _ => {}
        }
    }
    Ok(domain.is_empty().then_some(version))
}

/// The default domain has two names.
fn plain_domain(domain: &[u8]) -> &[u8] {
    if domain == b"ai.onnx" { b"" } else { domain }
}

fn known_operators<'a>(uses: &Uses<'a>, functions: &BTreeMap<Operator<'a>, Uses<'a>>) -> Result<(), Refusal> {
    for operator in uses.keys() {
        let (domain, name) = (operator.domain, operator.name);
        if OPERATORS_REFUSED.iter().any(|(d, n)| d.as_bytes() == domain && n.as_bytes() == name) {
            return Err(Refusal::Operator { domain: shown(domain), operator: shown(name) });
        }
        if !functions.contains_key(operator) && !DOMAINS.iter().any(|known| known.as_bytes() == domain) {
            return Err(Refusal::Domain { domain: shown(domain), operator: shown(name) });
        }
    }
    Ok(())
}

fn operators<'a>(main: &Uses<'a>, functions: &BTreeMap<Operator<'a>, Uses<'a>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (operator, times) in functions.values().chain([main]).flatten() {
        let (domain, name) = (shown(operator.domain), shown(operator.name));
        let full = if domain.is_empty() { name } else { format!("{domain}.{name}") };
        *counts.entry(full).or_default() += times;
    }
    counts
}

/// A name for an error message: cut, because a hostile one must not fill the log.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..80).unwrap_or(name)).into_owned()
}
