//! One node on a device: the bench on which the tests of this file put an operator.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use engine::{RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::ir::{Attribute, Attributes, ElementType, Graph, Literal, Node, Value};
use engine_wgpu::session::WgpuSession;
use engine_wgpu::{BUDGET_BYTES, ModelError, WgpuEngine};
use types::{Dim, NamedTensor, Tensor};

/// Random numbers with a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() as usize) % limit
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Numbers from -1 to 1.
    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.below(2_000_001) as f32 - 1.0e6) / 1.0e6).collect()
    }

    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Operand {
        Operand::Input(Literal::from_f32s(shape.to_vec(), &self.floats(shape.iter().product())))
    }
}

/// An operand of a node under test.
#[derive(Debug, Clone)]
pub(crate) enum Operand {
    /// Comes with the request.
    Input(Literal),
    /// Lies in the model.
    Constant(Literal),
    /// Left out.
    None,
}

impl Operand {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self::Input(Literal::from_f32s(shape.to_vec(), values))
    }

    /// The same tensor as a constant of the model.
    pub(crate) fn constant(self) -> Self {
        match self {
            Self::Input(literal) | Self::Constant(literal) => Self::Constant(literal),
            Self::None => Self::None,
        }
    }

    /// Its numbers; none when left out.
    pub(crate) fn values(&self) -> Vec<f64> {
        match self {
            Self::Input(literal) | Self::Constant(literal) => literal.to_f64s(),
            Self::None => Vec::new(),
        }
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        match self {
            Self::Input(literal) | Self::Constant(literal) => literal.shape().to_vec(),
            Self::None => Vec::new(),
        }
    }
}

/// Which kernels to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// What this adapter gets by itself.
    Own,
    /// Those for real GPUs.
    WorkgroupTiles,
}

pub(crate) const BOTH: [Kernels; 2] = [Kernels::Own, Kernels::WorkgroupTiles];

static TILES: LazyLock<Option<Mutex<WgpuEngine>>> = LazyLock::new(|| {
    let choice = AdapterChoice { allow_software: true, workgroup_tiles: Some(true), ..AdapterChoice::for_tests() };
    WgpuEngine::open(&choice, BUDGET_BYTES, None).ok().map(Mutex::new)
});

/// A device, or `None` on a machine without any adapter.
pub(crate) fn engine(kernels: Kernels) -> Option<MutexGuard<'static, WgpuEngine>> {
    match kernels {
        Kernels::Own => crate::support::engine(),
        Kernels::WorkgroupTiles => TILES.as_ref().map(|engine| engine.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// A node under test.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) domain: &'static str,
    pub(crate) op: &'static str,
    pub(crate) opset: i64,
    pub(crate) attributes: Attributes,
    /// Element type of each output; `None` for one that is not asked for.
    pub(crate) outputs: Vec<Option<ElementType>>,
}

impl Bench {
    pub(crate) fn new(op: &'static str) -> Self {
        let outputs = vec![Some(ElementType::F32)];
        Self { domain: "", op, opset: 23, attributes: Attributes::default(), outputs }
    }

    pub(crate) fn domain(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    pub(crate) fn outputs(self, outputs: &[Option<ElementType>]) -> Self {
        Self { outputs: outputs.to_vec(), ..self }
    }

    pub(crate) fn int(mut self, name: &str, value: i64) -> Self {
        self.attributes.insert(name, Attribute::Int(value));
        self
    }

    pub(crate) fn float(mut self, name: &str, value: f32) -> Self {
        self.attributes.insert(name, Attribute::Float(value));
        self
    }

    pub(crate) fn text(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name, Attribute::Text(value.into()));
        self
    }

    pub(crate) fn ints(mut self, name: &str, values: &[usize]) -> Self {
        self.attributes.insert(name, Attribute::Ints(values.iter().map(|&value| value as i64).collect()));
        self
    }

    pub(crate) fn graph(&self, operands: &[Operand]) -> (Graph, Vec<NamedTensor>) {
        let mut graph = Graph::default();
        let mut given = Vec::new();
        let mut inputs = Vec::new();
        for (at, operand) in operands.iter().enumerate() {
            let name = format!("in{at}");
            inputs.push(match operand {
                Operand::None => None,
                Operand::Constant(literal) => Some(graph.add_constant(&name, literal.clone())),
                Operand::Input(literal) => {
                    let dims = literal.shape().iter().map(|&size| Dim::Fixed(size)).collect();
                    let declared = Some((literal.dtype(), Some(dims)));
                    let id = graph.add_value(Value { name: name.clone(), declared });
                    graph.inputs.push(id);
                    let dtype = literal.dtype().to_request().unwrap();
                    let tensor = Tensor::new(dtype, literal.shape().to_vec(), literal.bytes().clone()).unwrap();
                    given.push(NamedTensor { name, tensor });
                    Some(id)
                }
            });
        }
        let mut outputs = Vec::new();
        for (at, dtype) in self.outputs.iter().enumerate() {
            outputs.push(dtype.map(|dtype| {
                let id = graph.add_value(Value { name: format!("out{at}"), declared: Some((dtype, None)) });
                graph.outputs.push(id);
                id
            }));
        }
        graph.nodes.push(Node {
            name: "under test".into(),
            domain: self.domain.into(),
            op: self.op.into(),
            opset: self.opset,
            inputs,
            outputs,
            attributes: self.attributes.clone(),
        });
        (graph, given)
    }

    /// Runs the node; gives its outputs, or why it was refused.
    pub(crate) fn try_run(&self, engine: &WgpuEngine, operands: &[Operand]) -> Result<Vec<Literal>, ModelError> {
        let (graph, given) = self.graph(operands);
        let mut session = WgpuSession::new(engine.gpu().clone(), &graph, BUDGET_BYTES, None)?;
        let answer = session.run(&given, &[], &RunControl::default()).unwrap();
        let literal = |named: NamedTensor| {
            let dtype = ElementType::from_request(named.tensor.dtype()).unwrap();
            Literal::new(dtype, named.tensor.shape().to_vec(), named.tensor.data().clone()).unwrap()
        };
        Ok(answer.into_iter().map(literal).collect())
    }

    /// Runs the node; gives its outputs.
    pub(crate) fn run(&self, engine: &WgpuEngine, operands: &[Operand]) -> Vec<Literal> {
        self.try_run(engine, operands).unwrap_or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{self:?}: {error}: {cause:?}")
        })
    }
}

/// A sum of products as a reference computes it: the sum, and the sum of absolute values that scales its error.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) value: f64,
    pub(crate) size: f64,
    pub(crate) terms: usize,
}

impl Sum {
    pub(crate) fn add(&mut self, a: f64, b: f64) {
        self.value += a * b;
        self.size += (a * b).abs();
        self.terms += 1;
    }
}

/// Checks results against reference sums: each within 4 eps sqrt(K) of the sum of absolute products.
pub(crate) fn assert_sums(what: &dyn std::fmt::Debug, found: &Literal, wanted: &[Sum]) {
    let values = found.to_f64s();
    assert_eq!(values.len(), wanted.len(), "{what:?}");
    for (at, (value, sum)) in values.iter().zip(wanted).enumerate() {
        let allowed = 4.0 * f64::from(f32::EPSILON) * (sum.terms as f64).sqrt().max(1.0) * sum.size + 1e-12;
        assert!(
            (value - sum.value).abs() <= allowed,
            "{what:?}: element {at} of {:?} is {value}, not {} ± {allowed}",
            found.shape(),
            sum.value
        );
    }
}

/// Checks values within an absolute and relative tolerance.
pub(crate) fn assert_close(what: &dyn std::fmt::Debug, found: &Literal, wanted: &[f64], tolerance: f64) {
    let values = found.to_f64s();
    assert_eq!(values.len(), wanted.len(), "{what:?}: {:?}", found.shape());
    for (at, (value, want)) in values.iter().zip(wanted).enumerate() {
        let close = (value - want).abs() <= tolerance * (1.0 + want.abs())
            || (value.is_nan() && want.is_nan())
            || value == want;
        assert!(close, "{what:?}: element {at} of {:?} is {value}, not {want}", found.shape());
    }
}
