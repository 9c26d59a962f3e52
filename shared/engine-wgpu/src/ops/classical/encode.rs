//! Encoding of categories that are numbers: LabelEncoder and OneHotEncoder.

use super::{DOMAIN, bits, floats, ints, no_text, weights, words};
use crate::error::OpError;
use crate::ir::{Attribute, ElementType, Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, Repr, element_groups};
use crate::ops::elementwise::math;
use crate::ops::rule::Rule;
use crate::value_info::{Inputs, ValueInfo};

/// The operators of this file.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("LabelEncoder", infer_label, lower_label).in_domain(DOMAIN),
    Rule::device("OneHotEncoder", infer_one_hot, lower_one_hot).in_domain(DOMAIN),
];

/// Halvings of a search: as many as a 32-bit index has bits.
const HALVINGS: usize = 32;

/// Numbers as a node holds them.
#[derive(Debug, Clone, PartialEq)]
enum Numbers {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Integers(values) => values.len(),
        }
    }

    fn words(&self, what: &str) -> Result<Vec<u32>, OpError> {
        match self {
            Self::Floats(values) => Ok(bits(values)),
            Self::Integers(values) => words(what, values),
        }
    }

    fn of(literal: &Literal) -> Self {
        match literal.dtype().is_float() {
            true => Self::Floats(literal.to_f32s()),
            false => Self::Integers(literal.to_i64s()),
        }
    }
}

/// A mapping from numbers to numbers.
#[derive(Debug)]
struct Mapping {
    keys: Numbers,
    values: Numbers,
    default: Numbers,
    /// Element type of the result.
    dtype: ElementType,
}

/// The attribute `NAME_floats`, `NAME_int64s` or `NAME_tensor`, whichever is given.
fn numbers(node: &Node, name: &str) -> Result<Option<(Numbers, ElementType)>, OpError> {
    no_text(node, &[&format!("{name}_strings")])?;
    let (list_f, list_i) = (floats(node, &format!("{name}_floats"))?, ints(node, &format!("{name}_int64s"))?);
    Ok(match node.attributes.find(&format!("{name}_tensor")) {
        Some(Attribute::Tensor(literal)) => Some((Numbers::of(literal), literal.dtype())),
        _ if !list_f.is_empty() => Some((Numbers::Floats(list_f.to_vec()), ElementType::F32)),
        _ if !list_i.is_empty() => Some((Numbers::Integers(list_i.to_vec()), ElementType::I64)),
        _ => None,
    })
}

fn mapping(node: &Node) -> Result<Mapping, OpError> {
    no_text(node, &["classes_strings"])?;
    let missing = |name: &str| OpError::unsupported(format!("it has no {name} that are numbers"));
    let (keys, _key_type) = numbers(node, "keys")?.ok_or_else(|| missing("keys"))?;
    let (values, dtype) = numbers(node, "values")?.ok_or_else(|| missing("values"))?;
    if keys.len() != values.len() {
        return Err(OpError::invalid(format!("{} keys for {} values", keys.len(), values.len())));
    }
    let default = match node.attributes.find("default_tensor") {
        Some(Attribute::Tensor(literal)) if literal.elements() == 1 => Numbers::of(literal),
        _ if dtype.is_float() => Numbers::Floats(vec![node.attributes.float("default_float", -0.0)?]),
        _ => Numbers::Integers(vec![node.attributes.int("default_int64", -1)?]),
    };
    let fits = matches!(
        (&values, &default),
        (Numbers::Floats(_), Numbers::Floats(_)) | (Numbers::Integers(_), Numbers::Integers(_))
    );
    if fits {
        Ok(Mapping { keys, values, default, dtype })
    } else {
        Err(OpError::invalid("its default is no such value"))
    }
}

fn infer_label(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let x = inputs.at(0)?;
    let mapping = mapping(node)?;
    let fits = matches!(mapping.keys, Numbers::Floats(_)) == x.dtype.is_float();
    if !fits {
        return Err(OpError::invalid(format!("its keys are no {}", x.dtype)));
    }
    Ok(vec![ValueInfo::new(mapping.dtype, x.shape.clone())])
}

/// A mapping as the kernel searches it.
#[derive(Debug)]
struct Sorted {
    /// Words of the keys, in rising order of what they stand for.
    keys: Vec<u32>,
    /// Words of the values in the order of their keys.
    values: Vec<u32>,
    /// Word of the value of NaN, where that is a key.
    nan: Option<u32>,
}

impl Mapping {
    /// Sorts the keys. Of equal ones the first counts.
    fn sorted(&self) -> Result<Sorted, OpError> {
        let values = self.values.words("values")?;
        let mut nan = None;
        let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(values.len());
        match &self.keys {
            Numbers::Floats(keys) => {
                let mut places: Vec<usize> = (0..keys.len()).filter(|&at| !keys[at].is_nan()).collect();
                nan = keys.iter().position(|key| key.is_nan()).map(|at| values[at]);
                // Both zeros are one key.
                let key = |at: usize| if keys[at] == 0.0 { 0.0 } else { keys[at] };
                places.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
                pairs.extend(places.into_iter().map(|at| (key(at).to_bits(), values[at])));
            }
            Numbers::Integers(keys) => {
                let words = words("keys", keys)?;
                let mut places: Vec<usize> = (0..keys.len()).collect();
                places.sort_by_key(|&at| keys[at]);
                pairs.extend(places.into_iter().map(|at| (words[at], values[at])));
            }
        }
        pairs.dedup_by_key(|(key, _value)| *key);
        let (keys, values) = pairs.into_iter().unzip();
        Ok(Sorted { keys, values, nan })
    }
}

fn lower_label(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let mapping = mapping(node)?;
    let Sorted { keys, values, nan } = mapping.sorted()?;
    // Before operator set 4 ONNX Runtime finds NaN under no key.
    let nan = nan.filter(|_value| node.opset >= 4);
    let default = mapping.default.words("its default")?.first().copied().unwrap_or(0);
    let numbers = Params::sizes([("elements", y.elements()), ("keys", keys.len())])?;
    let numbers = numbers.word("missing", default).word("nan", nan.unwrap_or(default));
    let (keys, values) = (weights(cx, node, "keys", keys)?, weights(cx, node, "values", values)?);
    let (one, key) = (y.repr.unpacked(), x.repr.unpacked());
    let is_nan = if key == Repr::F32 { "if (is_nan(v)) { return value_of(param.nan); }" } else { "" };
    // The last key that is not above the value.
    let text = format!(
        "fn value_of(word: u32) -> {result} {{ return bitcast<{result}>(word); }}
fn element(i: u32) -> {result} {{
    let v = load_x(i);
    {is_nan}
    var low = 0u; var high = param.keys;
    for (var round = 0u; round < {HALVINGS}u; round++) {{
        if (low < high) {{
            let middle = low + (high - low) / 2u;
            if (load_keys(middle) <= v) {{ low = middle + 1u; }} else {{ high = middle; }}
        }}
    }}
    if (low == 0u || load_keys(low - 1u) != v) {{ return value_of(param.missing); }}
    return load_values(low - 1u);
}}",
        result = one.wgsl()
    );
    let kernel = KernelBuilder::new("label_encoder")
        .read("x", x.repr)
        .read("keys", key)
        .read("values", one)
        .text(&math::needed_by(&text))
        .text(&text)
        .element(y.repr);
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64 * HALVINGS as u64);
    cx.dispatch(kernel, vec![x.arg, keys, values, y.arg], numbers, groups, work);
    Ok(())
}

fn categories(node: &Node) -> Result<&[i64], OpError> {
    no_text(node, &["cats_strings"])?;
    let categories = ints(node, "cats_int64s")?;
    if categories.is_empty() {
        return Err(OpError::invalid("it has no categories"));
    }
    if !node.attributes.flag("zeros", true)? {
        return Err(OpError::unsupported(
            "an unknown category is to be an error (zeros = 0): export the encoder with handle_unknown=\"ignore\"",
        ));
    }
    Ok(categories)
}

fn infer_one_hot(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    let mut shape = inputs.at(0)?.shape.clone();
    shape.push(categories(node)?.len());
    Ok(vec![ValueInfo::new(ElementType::F32, shape)])
}

fn lower_one_hot(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let (x, y) = (cx.input(node, 0)?, cx.output(node, 0)?);
    let categories = words("cats_int64s", categories(node)?)?;
    let numbers = Params::sizes([("elements", y.elements()), ("categories", categories.len())])?;
    let categories = weights(cx, node, "categories", categories)?;
    // Floats are cut off towards zero, as ONNX Runtime does.
    let text = "fn element(i: u32) -> f32 {
    return select(0.0, 1.0, i32(load_x(i / param.categories)) == load_categories(i % param.categories));
}";
    let kernel = KernelBuilder::new("one_hot_encoder")
        .read("x", x.repr)
        .read("categories", Repr::I32)
        .text(text)
        .element(y.repr);
    let (groups, work) = (element_groups(y.elements(), y.repr), y.elements() as u64);
    cx.dispatch(kernel, vec![x.arg, categories, y.arg], numbers, groups, work);
    Ok(())
}
