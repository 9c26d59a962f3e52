//! Everything that is done to a model, on any bytes: for the fuzz target (`tests/fuzz`) and for tests on spoilt models.

use std::collections::HashMap;

use bytes::Bytes;

use crate::check::check;
use crate::fold::{FoldLimits, fold};
use crate::infer::infer;
use crate::inspect::{inspect, page};
use crate::limits::ReadLimits;
use crate::model::Model;
use crate::opset::upgrade;
use crate::rewrite::{
    constants_to_initializers, fold_batch_norms, merge_duplicates, remove_dead, remove_pass_through, sort, tidy,
};

/// Small enough for many runs a second.
const LIMITS: ReadLimits = ReadLimits {
    sparse_bytes: 1 << 20,
    file_bytes: 64 << 20,
    external_bytes: 0,
    decoded_bytes: 64 << 20,
    nodes: 20_000,
    tensors: 20_000,
    depth: 8,
};

/// Reads, checks, infers, rewrites one thing at a time and all together, converts, inspects, writes, and reads again.
///
/// # Errors
/// What broke a promise: a model that was written cannot be read, or is another one.
pub fn exercise(bytes: Bytes) -> Result<(), String> {
    let Ok(model) = Model::from_bytes_within(bytes, &LIMITS) else { return Ok(()) };
    let _verdict = check(&model);
    let _types = infer(&model, &HashMap::new());
    let opset = model.opset("").unwrap_or(1);
    let limits = FoldLimits { result_bytes: 1 << 16, total_bytes: 1 << 24 };
    // Each by itself, on nodes in any order.
    let mut graph = model.graph.clone();
    constants_to_initializers(&mut graph);
    fold(&mut graph, opset, &limits);
    remove_pass_through(&mut graph, opset);
    fold_batch_norms(&mut graph, opset);
    merge_duplicates(&mut graph);
    remove_dead(&mut graph);
    let _order = sort(&mut graph);
    written(&Model { graph, rest: model.rest.clone() })?;
    if let Ok((tidied, _done)) = tidy(&model, &limits) {
        written(&tidied)?;
    }
    if let Ok(newer) = upgrade(&model, 17) {
        written(&newer)?;
    }
    page("model", &inspect(&model, &HashMap::new(), Vec::new())).map_err(|error| error.to_string())?;
    written(&model)
}

fn written(model: &Model) -> Result<(), String> {
    let Ok(bytes) = model.to_bytes() else { return Ok(()) };
    let again = Model::from_bytes(bytes.into()).map_err(|error| format!("it cannot be read again: {error}"))?;
    // Not by `==`: what is no number is not equal to itself.
    let same = again.to_bytes().ok() == model.to_bytes().ok();
    if same { Ok(()) } else { Err("another model was read again".to_owned()) }
}
