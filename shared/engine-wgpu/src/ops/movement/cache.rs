//! TensorScatter: new keys or values written into a cache of a fixed length, for each batch from a place of its own.

use crate::error::OpError;
use crate::fault::Fault;
use crate::host::rearrange;
use crate::ir::{Literal, Node};
use crate::lower::{KernelBuilder, Lowering, Params, element_groups};
use crate::ops::movement::{given, on_host, product, same_type};
use crate::ops::rule::Rule;
use crate::shape::axis;
use crate::value_info::{Inputs, Range, ValueInfo};

/// The operators of this family.
pub(crate) const RULES: &[Rule] = &[Rule::device("TensorScatter", infer, lower).with_host(evaluate)];

/// Division of the cache into batches and places.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Elements of one batch.
    batch: usize,
    /// Places in the cache, and in the update.
    places: [usize; 2],
    /// Elements of one place.
    inner: usize,
    /// True if writing goes on at the front when the end is reached.
    circular: bool,
}

fn form(node: &Node, inputs: Inputs<'_>) -> Result<Form, OpError> {
    let (cache, update) = (inputs.at(0)?, inputs.at(1)?);
    same_type(cache.dtype, update.dtype)?;
    let at = axis(node.attributes.int("axis", -2)?, cache.rank())?;
    let fits = |d: usize| match d == at {
        true => update.shape[d] <= cache.shape[d],
        false => update.shape[d] == cache.shape[d],
    };
    if at == 0 || update.rank() != cache.rank() || !(0..cache.rank()).all(fits) {
        return Err(OpError::invalid(format!("an update of {:?} for a cache of {:?}", update.shape, cache.shape)));
    }
    if inputs.optional(2).is_some_and(|starts| starts.shape != cache.shape[..1] || starts.dtype.is_float()) {
        return Err(OpError::invalid("its write indices are not one integer for each batch"));
    }
    let circular = match node.attributes.text("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(OpError::invalid(format!("mode {other:?}"))),
    };
    let (places, inner) = ([cache.shape[at], update.shape[at]], product(&cache.shape[at + 1..])?);
    Ok(Form { batch: product(&cache.shape[1..])?, places, inner, circular })
}

fn infer(node: &Node, inputs: Inputs<'_>) -> Result<Vec<ValueInfo>, OpError> {
    form(node, inputs)?;
    let cache = inputs.at(0)?;
    Ok(vec![ValueInfo::new(cache.dtype, cache.shape.clone())])
}

fn lower(node: &Node, cx: &mut Lowering<'_>) -> Result<(), OpError> {
    let infos = cx.input_infos(node);
    let form = form(node, Inputs(&infos))?;
    let (cache, update, y) = (cx.input(node, 0)?, cx.input(node, 1)?, cx.output(node, 0)?);
    let starts = cx.optional_input(node, 2)?;
    let mut kernel = KernelBuilder::new("tensor_scatter").read("cache", cache.repr).read("update", update.repr);
    let mut args = vec![cache.arg, update.arg];
    let (mut start, mut check) = ("0", String::new());
    if let Some(starts) = starts {
        kernel = kernel.read("starts", starts.repr);
        args.push(starts.arg);
        start = "i32(load_starts(i / param.batch))";
        let last = i64::try_from(form.places[0].saturating_sub(form.places[1])).unwrap_or(i64::MAX);
        // A circular cache has no end; a place in front of it has no meaning.
        let lawful = if form.circular { Range::new(0, i64::MAX) } else { Range::new(0, last) };
        if !cx.input_range(node, 2).within(lawful) {
            let beyond = if form.circular { "" } else { " || start > i32(param.places) - i32(param.update_places)" };
            check = format!("let start = {start}; if (start < 0{beyond}) {{ {} }}", Fault::Index.report());
        }
    }
    let wrapped = if form.circular { "k = k - places * (k / places); k = select(k, k + places, k < 0);" } else { "" };
    let text = format!(
        "fn element(i: u32) -> {} {{
    let inner = param.inner; let places = i32(param.places);
    {check}
    var k = i32((i / inner) % param.places) - {start};
    {wrapped}
    if (k < 0 || k >= i32(param.update_places)) {{ return load_cache(i); }}
    return load_update((i / (inner * param.places) * param.update_places + u32(k)) * inner + i % inner);
}}",
        y.repr.wgsl()
    );
    args.push(y.arg);
    let elements = y.elements();
    let numbers = Params::sizes([
        ("elements", elements),
        ("batch", form.batch),
        ("places", form.places[0]),
        ("update_places", form.places[1]),
        ("inner", form.inner),
    ])?;
    let groups = element_groups(elements, y.repr);
    cx.dispatch(kernel.text(&text).element(y.repr), args, numbers, groups, elements as u64);
    Ok(())
}

fn evaluate(node: &Node, inputs: &[Option<&Literal>]) -> Result<Vec<Literal>, OpError> {
    let Form { batch, places: [long, short], inner, circular } = on_host(inputs, |inputs| form(node, inputs))?;
    let (cache, update) = (given(inputs, 0)?, given(inputs, 1)?);
    let starts = inputs.get(2).copied().flatten().map(Literal::to_i64s);
    let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let y = rearrange(cache.dtype(), cache.shape().to_vec(), &[cache, update], |flat| {
        let start = starts.as_ref().and_then(|starts| starts.get(flat / batch)).copied().unwrap_or(0);
        let k = signed((flat / inner) % long).saturating_sub(start);
        let k = if circular { k.rem_euclid(signed(long)) } else { k };
        let k = usize::try_from(k).ok().filter(|&k| k < short);
        Ok(Some(k.map_or((0, flat), |k| (1, (flat / (inner * long) * short + k) * inner + flat % inner))))
    })?;
    Ok(vec![y])
}
