//! One case as `tools/case_file.py` wrote it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use bytes::Bytes;
use engine_wgpu::ir::{ElementType, Literal};
use rten_onnx::onnx::{DataType, GraphProto, ModelProto, TensorProto};
use types::{NamedTensor, Tensor};

/// A tensor of a case; `None` in place of a value that is no tensor (a sequence, text, an optional) or of a type this
/// engine has no name for.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) value: Option<Literal>,
}

/// A case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: Vec<u8>,
    pub(crate) inputs: Vec<Named>,
    pub(crate) outputs: Vec<Named>,
    pub(crate) measure: Measure,
}

/// When an answer counts as the one asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Measure {
    /// Each element within these; integers exactly.
    Close { rtol: f64, atol: f64 },
    /// At most `units` off, on at most this share of the elements.
    Lsb { units: f64, share: f64 },
    /// The outputs point the same way, and this share of the rows has the same largest element.
    Cosine { least: f64, top1: f64 },
}

/// Which of its inputs a case has in the model instead of in the request.
///
/// ONNX's cases hand everything in as an input: shapes, axes, zero points, 4-bit weights. Real models have those as constants,
/// and this engine plans with them; so a case that needs them earlier is tried again with more of its inputs in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Every input comes with the request.
    AsIs,
    /// Integer inputs after the first are constants.
    Integers,
    /// All inputs after the first are constants.
    FirstOnly,
    /// All inputs are constants: the model is computed while it loads.
    Folded,
}

impl Form {
    pub(crate) const ALL: [Self; 4] = [Self::AsIs, Self::Integers, Self::FirstOnly, Self::Folded];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Integers => "integers-in-model",
            Self::FirstOnly => "first-in-request",
            Self::Folded => "all-in-model",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == text)
    }

    fn freezes(self, at: usize, value: &Literal) -> bool {
        match self {
            Self::AsIs => false,
            Self::Integers => at > 0 && !value.dtype().is_float(),
            Self::FirstOnly => at > 0,
            Self::Folded => true,
        }
    }
}

/// The cache of `cargo xtask setup`.
pub(crate) fn cache() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")))
        .unwrap_or_default()
}

impl Case {
    /// Reads a case's folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let index = fs::read_to_string(folder.join("case.tsv")).unwrap();
        let data = Bytes::from(fs::read(folder.join("data.bin")).unwrap());
        let model = fs::read(folder.join("model.onnx")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut case = Self {
            name,
            model,
            inputs: Vec::new(),
            outputs: Vec::new(),
            measure: Measure::Close { rtol: 1e-3, atol: 1e-7 },
        };
        for line in index.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["measure", kind, a, b] => case.measure = measure(kind, a.parse().unwrap(), b.parse().unwrap()),
                ["input", ref tensor @ ..] => case.inputs.push(named(tensor, &data)),
                ["output", ref tensor @ ..] => case.outputs.push(named(tensor, &data)),
                _ => panic!("{}: {line:?}", case.name),
            }
        }
        case
    }

    /// Why no engine of numeric tensors can run it, if so.
    pub(crate) fn beyond_tensors(&self) -> Option<String> {
        let strange = self.inputs.iter().chain(&self.outputs).find(|named| named.value.is_none());
        strange.map(|named| format!("{:?} is no tensor of a type that requests carry", named.name))
    }

    /// The model with some inputs in it, and the inputs that remain; `None` when that is the same as the form before.
    pub(crate) fn formed(&self, form: Form) -> Option<(Vec<u8>, Vec<NamedTensor>)> {
        let (mut frozen, mut given) = (Vec::new(), Vec::new());
        for (at, named) in self.inputs.iter().enumerate() {
            let literal = named.value.as_ref()?;
            if form.freezes(at, literal) || (form != Form::AsIs && literal.dtype().to_request().is_none()) {
                frozen.push((&named.name, literal));
            } else {
                given.push(NamedTensor { name: named.name.clone(), tensor: request(literal)? });
            }
        }
        if form == Form::AsIs {
            return Some((self.model.clone(), given));
        }
        if frozen.is_empty() {
            return None;
        }
        let mut model = ModelProto::parse_buf(&self.model).ok()?;
        let graph: &mut GraphProto = model.graph.as_mut()?;
        graph.initializer.extend(frozen.into_iter().map(|(name, literal)| initializer(name, literal)));
        Some((model.write_buf().ok()?, given))
    }

    /// The operators of its model, each once, in order.
    pub(crate) fn operators(&self) -> Vec<String> {
        let Ok(model) = ModelProto::parse_buf(&self.model) else { return Vec::new() };
        let nodes = model.graph.map(|graph| graph.node).unwrap_or_default();
        let mut operators: Vec<String> = Vec::new();
        for operator in nodes.into_iter().filter_map(|node| node.op_type) {
            if !operators.contains(&operator) {
                operators.push(operator);
            }
        }
        operators
    }
}

fn measure(kind: &str, a: f64, b: f64) -> Measure {
    match kind {
        "close" => Measure::Close { rtol: a, atol: b },
        "lsb" => Measure::Lsb { units: a, share: b },
        "cosine" => Measure::Cosine { least: a, top1: b },
        other => panic!("no measure is called {other:?}"),
    }
}

fn named(fields: &[&str], data: &Bytes) -> Named {
    let &[name, number, dims, offset, length] = fields else { panic!("{fields:?}") };
    let dims = dims.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().unwrap()).collect();
    let (offset, length): (usize, usize) = (offset.parse().unwrap(), length.parse().unwrap());
    let dtype = ElementType::from_onnx(number.parse().unwrap());
    let value = dtype.and_then(|dtype| Literal::new(dtype, dims, data.slice(offset..offset + length)));
    Named { name: name.to_owned(), value }
}

fn request(literal: &Literal) -> Option<Tensor> {
    Tensor::new(literal.dtype().to_request()?, literal.shape().to_vec(), literal.bytes().clone()).ok()
}

fn initializer(name: &str, literal: &Literal) -> TensorProto {
    TensorProto {
        dims: literal.shape().iter().map(|&size| size as i64).collect(),
        data_type: Some(DataType(onnx_number(literal.dtype()))),
        raw_data: Some(literal.bytes().to_vec().into()),
        name: Some(name.to_owned()),
        ..TensorProto::default()
    }
}

fn onnx_number(dtype: ElementType) -> i32 {
    (1..=22).find(|&number| ElementType::from_onnx(number) == Some(dtype)).unwrap()
}
