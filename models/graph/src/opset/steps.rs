//! What each version of the operator set changed.

use super::Converter;
use crate::attribute::Attributes;
use crate::proto::{AttributeProto, NodeProto, TensorProto};
use crate::tensor::{ElementType, Values};

/// The nodes that a node of the version before becomes in `version`, or why there are none.
type Converted = Result<Vec<NodeProto>, &'static str>;

/// Reductions that take their axes as input since version 18.
const REDUCTIONS: [&str; 9] = [
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
];

pub(super) fn step(converter: &mut Converter<'_>, node: NodeProto, version: i64) -> Converted {
    let operator = node.op_type().to_owned();
    match (version, operator.as_str()) {
        (9, "BatchNormalization") => batch_norm_9(node),
        (9, "Upsample") => upsample_9(converter, node),
        (9, "Scan") => Err("its first version had a batch axis"),
        (10, "Dropout") => dropout_10(converter, node),
        (10, "Upsample") => Ok(vec![renamed(node, "Resize")]),
        (10, "Slice") => lists_to_inputs(converter, node, &["starts", "ends", "axes"]),
        (10, "TopK") => top_k_10(converter, node),
        (11, "Clip") => clip_11(converter, node),
        (11, "Pad") => pad_11(converter, node),
        (11, "Resize") => resize_11(converter, node),
        (11, "Scatter") => Ok(vec![renamed(node, "ScatterElements")]),
        (12, "Dropout") => dropout_12(converter, node),
        (13, "Softmax" | "LogSoftmax" | "Hardmax") => softmax_13(converter, node),
        (13, "Squeeze" | "Unsqueeze" | "ReduceSum") => lists_to_inputs(converter, node, &["axes"]),
        (13, "Split") => lists_to_inputs(converter, node, &["split"]),
        (13, "Resize") => Ok(vec![resize_13(converter, node)]),
        (14, "BatchNormalization") => batch_norm_14(node),
        (16, "RoiAlign") => {
            Ok(vec![node.with(AttributeProto::text("coordinate_transformation_mode", "output_half_pixel"))])
        }
        (18, "Split") => Ok(vec![split_18(node)]),
        (18, operator) if REDUCTIONS.contains(&operator) => lists_to_inputs(converter, node, &["axes"]),
        (20, "GridSample") => Ok(vec![grid_sample_20(node)]),
        (20, "DFT") => Err("its axis became an input in another place"),
        (21, "GroupNormalization") => Err("its scale and bias became larger"),
        _ => Ok(vec![node]),
    }
}

fn renamed(mut node: NodeProto, operator: &str) -> NodeProto {
    node.op_type = Some(operator.to_owned());
    node
}

fn without(node: &mut NodeProto, attribute: &str) {
    node.attribute.retain(|found| found.name() != attribute);
}

/// Each list that is an attribute becomes the next input; one left out is left out.
fn lists_to_inputs(converter: &mut Converter<'_>, mut node: NodeProto, names: &[&str]) -> Converted {
    let wanted = node.output.first().cloned().unwrap_or_default();
    for (place, name) in names.iter().enumerate() {
        let Some(list) = node.attr_ints(name).map(<[i64]>::to_vec) else { continue };
        let input =
            converter.constant(&format!("{wanted}_{name}"), |made| TensorProto::of_int64(made, &[list.len()], &list));
        set_input(&mut node, place + 1, input);
        without(&mut node, name);
    }
    Ok(vec![node])
}

fn set_input(node: &mut NodeProto, place: usize, name: String) {
    if node.input.len() <= place {
        node.input.resize(place + 1, String::new());
    }
    if let Some(input) = node.input.get_mut(place) {
        *input = name;
    }
}

/// A number in the element type of the node's first input; `None` when that type is not known.
fn number_like_input(converter: &mut Converter<'_>, node: &NodeProto, name: &str, value: f32) -> Option<String> {
    let element = converter.types.element(node.input_at(0)?);
    let raw = match element {
        ElementType::Float => value.to_le_bytes().to_vec(),
        ElementType::Double => f64::from(value).to_le_bytes().to_vec(),
        ElementType::Float16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        _ => return None,
    };
    let wanted = format!("{}_{name}", node.output.first().map_or("", String::as_str));
    Some(converter.constant(&wanted, |made| TensorProto::of_raw(made, element, &[], raw)))
}

fn batch_norm_9(mut node: NodeProto) -> Converted {
    if node.attr_int("spatial").unwrap_or(1) != 1 {
        return Err("it normalizes each place separately");
    }
    without(&mut node, "spatial");
    Ok(vec![node])
}

fn batch_norm_14(mut node: NodeProto) -> Converted {
    if node.output.iter().skip(1).any(|output| !output.is_empty()) {
        return Err("its further outputs are of training");
    }
    node.output.truncate(1);
    Ok(vec![node])
}

fn upsample_9(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    let scales = node.attr("scales").map(|scales| scales.floats.clone()).ok_or("it has no scales")?;
    let wanted = format!("{}_scales", node.output.first().map_or("", String::as_str));
    let input = converter.constant(&wanted, |made| TensorProto::of_floats(made, &[scales.len()], &scales));
    set_input(&mut node, 1, input);
    without(&mut node, "scales");
    Ok(vec![node])
}

fn mask_is_used(converter: &Converter<'_>, node: &NodeProto) -> bool {
    node.output.get(1).is_some_and(|mask| {
        !mask.is_empty() && (converter.uses.is_output(mask) || !converter.uses.consumers(mask).is_empty())
    })
}

fn dropout_10(converter: &Converter<'_>, mut node: NodeProto) -> Converted {
    if mask_is_used(converter, &node) {
        return Err("its mask became a truth value");
    }
    node.output.truncate(1);
    Ok(vec![node])
}

fn dropout_12(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    if let Some(ratio) = node.attr_float("ratio") {
        let wanted = format!("{}_ratio", node.output.first().map_or("", String::as_str));
        let input = converter.constant(&wanted, |made| TensorProto::of_floats(made, &[], &[ratio]));
        set_input(&mut node, 1, input);
        without(&mut node, "ratio");
    }
    Ok(vec![node])
}

fn top_k_10(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    let count = node.attr_int("k").ok_or("it has no count")?;
    let wanted = format!("{}_k", node.output.first().map_or("", String::as_str));
    let input = converter.constant(&wanted, |made| TensorProto::of_int64(made, &[1], &[count]));
    set_input(&mut node, 1, input);
    without(&mut node, "k");
    Ok(vec![node])
}

fn clip_11(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    for (place, name) in [(1, "min"), (2, "max")] {
        let Some(bound) = node.attr_float(name) else { continue };
        let input = number_like_input(converter, &node, name, bound).ok_or("the type of its input is not known")?;
        set_input(&mut node, place, input);
        without(&mut node, name);
    }
    Ok(vec![node])
}

fn pad_11(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    let value = node.attr_float("value").unwrap_or(0.0);
    let mut made = lists_to_inputs(converter, std::mem::take(&mut node), &["pads"])?;
    if let (Some(node), true) = (made.first_mut(), value != 0.0) {
        let input = number_like_input(converter, node, "value", value).ok_or("the type of its input is not known")?;
        set_input(node, 2, input);
    }
    made.iter_mut().for_each(|node| without(node, "value"));
    Ok(made)
}

/// Version 10 computed places without the half pixel, and rounded up where it made smaller.
fn resize_11(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    let scales = node.input_at(1).ok_or("it has no scales")?.to_owned();
    let is_nearest = node.attr_str("mode").unwrap_or("nearest") == "nearest";
    if is_nearest {
        let known = converter.known(&scales).and_then(|scales| scales.floats().ok());
        if !known.is_some_and(|scales| scales.iter().all(|&scale| scale >= 1.0)) {
            return Err("its scales are not known to enlarge");
        }
        node.set(AttributeProto::text("nearest_mode", "floor"));
    }
    node.set(AttributeProto::text("coordinate_transformation_mode", "asymmetric"));
    let wanted = format!("{}_roi", node.output.first().map_or("", String::as_str));
    let roi = converter.constant(&wanted, |made| TensorProto::of_floats(made, &[0], &[]));
    set_input(&mut node, 1, roi);
    set_input(&mut node, 2, scales);
    Ok(vec![node])
}

/// Returns what had to be an empty tensor may be left out, and some runtimes want that.
fn resize_13(converter: &Converter<'_>, mut node: NodeProto) -> NodeProto {
    for place in [1, 2] {
        let is_empty =
            node.input_at(place).and_then(|name| converter.known(name)).is_some_and(|tensor| tensor.dims == [0]);
        if is_empty {
            set_input(&mut node, place, String::new());
        }
    }
    node
}

/// Until version 12 everything from the axis on was one row; since then only the axis is.
fn softmax_13(converter: &mut Converter<'_>, mut node: NodeProto) -> Converted {
    let axis = node.attr_int("axis").unwrap_or(1);
    let input = node.input_at(0).ok_or("it has no input")?.to_owned();
    let output = node.output.first().cloned().ok_or("it has no output")?;
    let rank = converter.types.shape(&input).and_then(|shape| i64::try_from(shape.len()).ok());
    node.set(AttributeProto::int("axis", -1));
    if axis == -1 || rank.is_some_and(|rank| axis == rank - 1) {
        return Ok(vec![node]);
    }
    let mut fresh = |what: &str| converter.names.fresh(&format!("{output}_{what}"));
    let (shape, rows, made) = (fresh("shape"), fresh("rows"), fresh("made"));
    let name = node.name().to_owned();
    let part = |what: &str| if name.is_empty() { String::new() } else { format!("{name}_{what}") };
    let before = [
        NodeProto::new("Shape", &part("shape"), &[&input], &[&shape]),
        NodeProto::new("Flatten", &part("flatten"), &[&input], &[&rows]).with(AttributeProto::int("axis", axis)),
    ];
    let after = NodeProto::new("Reshape", &part("reshape"), &[&made, &shape], &[&output]);
    node.input = vec![rows];
    node.output = vec![made];
    Ok(before.into_iter().chain([node, after]).collect())
}

fn split_18(node: NodeProto) -> NodeProto {
    if node.input_at(1).is_some() {
        return node;
    }
    let parts = i64::try_from(node.output.len()).unwrap_or(i64::MAX);
    node.with(AttributeProto::int("num_outputs", parts))
}

fn grid_sample_20(node: NodeProto) -> NodeProto {
    let mode = match node.attr_str("mode") {
        None | Some("bilinear") => "linear",
        Some("bicubic") => "cubic",
        Some(_) => return node,
    };
    node.with(AttributeProto::text("mode", mode))
}
