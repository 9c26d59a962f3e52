//! Classical machine learning: the operators of domain `ai.onnx.ml` that take and give numbers.
//!
//! Their coefficients are attributes; each becomes a read-only weight of the session. Semantics are those of ONNX Runtime, which
//! differ from the text of the standard where a classifier has two classes (see [`scores`]). Text, maps and sequences are refused.

pub(super) mod encode;
pub(super) mod linear;
pub(super) mod prepare;
pub(super) mod scores;
pub(super) mod support;
pub(super) mod trees;

use crate::error::OpError;
use crate::ir::{Attribute, Node};
use crate::lower::{Arg, Lowering};
use crate::value_info::{Inputs, ValueInfo};

/// Domain of these operators.
const DOMAIN: &str = "ai.onnx.ml";

/// Rows and features of a first input: a vector is one row.
fn table(x: &ValueInfo) -> Result<[usize; 2], OpError> {
    match x.shape[..] {
        [features] => Ok([1, features]),
        [rows, features] => Ok([rows, features]),
        _ => Err(OpError::unsupported(format!("an input of shape {:?}: only rows of features are known", x.shape))),
    }
}

/// Rows and features of the first input of a node.
fn table_of(inputs: Inputs<'_>) -> Result<[usize; 2], OpError> {
    table(inputs.at(0)?)
}

/// Returns a list of numbers; empty where the attribute is left out.
fn floats<'a>(node: &'a Node, name: &str) -> Result<&'a [f32], OpError> {
    Ok(node.attributes.floats(name)?.unwrap_or_default())
}

/// Returns a list of integers; empty where the attribute is left out.
fn ints<'a>(node: &'a Node, name: &str) -> Result<&'a [i64], OpError> {
    Ok(node.attributes.ints(name)?.unwrap_or_default())
}

/// Fails where an attribute holds text.
fn no_text(node: &Node, names: &[&str]) -> Result<(), OpError> {
    for name in names {
        match node.attributes.find(name) {
            Some(Attribute::Texts(texts)) if texts.is_empty() => {}
            Some(Attribute::Texts(_)) => {
                return Err(OpError::unsupported(format!(
                    "{name} are text, which no request carries: train the model with integer labels"
                )));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Uploads numbers that a node keeps in its attributes, once for a session.
fn weights(cx: &mut Lowering<'_>, node: &Node, name: &str, words: Vec<u32>) -> Result<Arg, OpError> {
    let output = node.outputs.iter().flatten().next().ok_or_else(|| OpError::invalid("nobody wants its outputs"))?;
    // A binding must not be empty.
    let words = if words.is_empty() { vec![0] } else { words };
    cx.packed_weight(*output, name, || Ok(words))
}

/// The bits of numbers, for [`weights`].
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Integers as the device holds them.
///
/// # Errors
/// [`OpError::Unsupported`] when one does not fit 32 bits.
fn words(what: &str, numbers: &[i64]) -> Result<Vec<u32>, OpError> {
    let word = |&number: &i64| {
        let narrow = i32::try_from(number).map(i32::cast_unsigned);
        narrow.map_err(|_wide| OpError::unsupported(format!("{number} in {what} is outside 32 bits")))
    };
    numbers.iter().map(word).collect()
}

/// A number from an attribute as an index.
fn index(what: &str, number: i64) -> Result<usize, OpError> {
    usize::try_from(number).map_err(|_negative| OpError::invalid(format!("{number} in {what}")))
}
