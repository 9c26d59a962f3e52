//! How much a channel matters, and which ones go.

use std::collections::{BTreeMap, BTreeSet};

use onnx_graph::{Attributes, Graph, Values};

use super::follow::{Followed, Part};
use super::lanes::Channel;
use super::{Norm, Options};
use crate::CompressError;
use crate::constants::Constants;
use crate::gram::Grams;

/// Scores of channels by their roots.
type Scores = BTreeMap<Channel, f64>;

/// The channels that stay: one answer for each, joined ones the same.
pub(super) fn kept(
    graph: &Graph,
    constants: Constants<'_>,
    followed: &Followed,
    options: &Options,
    grams: &Grams,
) -> Result<Vec<bool>, CompressError> {
    let mut makers: BTreeMap<Channel, BTreeSet<usize>> = BTreeMap::new();
    let (mut scores, mut measured, mut spared) = (Scores::new(), Scores::new(), BTreeSet::new());
    for (&at, part) in sorted(followed) {
        let node = &graph.nodes[at];
        let (Part::Conv { outputs, .. } | Part::Product { outputs, .. }) = part else {
            by_gamma(node, part, constants, followed, &mut scores)?;
            continue;
        };
        for &channel in outputs {
            makers.entry(followed.channels.root(channel)).or_default().insert(at);
        }
        if !options.selection.takes(node) {
            spared.extend(outputs.iter().map(|&channel| followed.channels.root(channel)));
        }
        let weight = node.input_at(1).and_then(|name| constants.tensor(name));
        let Some(weight) = weight else { continue };
        let values = weight.floats()?;
        let rows_first = !matches!(part, Part::Product { linear, .. } if !linear.transposed);
        let matrix = Weight { rows: outputs.len(), rows_first, values: &values };
        add(&mut scores, followed, outputs, &matrix.norms(options.norm));
        measure(node, part, followed, &matrix, grams, &mut measured);
    }
    let mut families: BTreeMap<&BTreeSet<usize>, Vec<Channel>> = BTreeMap::new();
    for (&root, makers) in &makers {
        if followed.channels.reason(root).is_none() && !spared.contains(&root) {
            families.entry(makers).or_default().push(root);
        }
    }
    let mut gone = BTreeSet::new();
    for mut family in families.into_values() {
        let count = part_of(family.len(), options.fraction);
        // What examples say is used only when they say it of all.
        let by = if family.iter().all(|root| measured.contains_key(root)) { &measured } else { &scores };
        let score = |root: &Channel| by.get(root).copied().unwrap_or(0.0);
        family.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.cmp(b)));
        gone.extend(family.into_iter().take(count));
    }
    Ok((0..followed.channels.len()).map(|channel| !gone.contains(&followed.channels.root(channel))).collect())
}

fn sorted(followed: &Followed) -> impl Iterator<Item = (&usize, &Part)> {
    let parts: BTreeMap<&usize, &Part> = followed.parts.iter().collect();
    parts.into_iter()
}

/// Returns the number of channels of a family that go; at least one stays.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count, between 0 and it"
)]
fn part_of(count: usize, fraction: f32) -> usize {
    ((count as f64 * f64::from(fraction)) as usize).min(count.saturating_sub(1))
}

/// A weight seen as a matrix with one row per output.
struct Weight<'a> {
    rows: usize,
    rows_first: bool,
    values: &'a [f32],
}

impl Weight<'_> {
    fn columns(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        let place = if self.rows_first { row * self.columns() + column } else { column * self.rows + row };
        f64::from(self.values[place])
    }

    fn norms(&self, norm: Norm) -> Vec<f64> {
        let row = |row| (0..self.columns()).map(move |column| self.at(row, column));
        let of_row = |at| match norm {
            Norm::L1 => row(at).map(f64::abs).sum::<f64>(),
            Norm::L2 => row(at).map(|value| value * value).sum::<f64>().sqrt(),
        };
        (0..self.rows).map(of_row).collect()
    }
}

/// Adds a node's scores, measured against their mean: nodes of a residual sum are to have one voice each.
fn add(scores: &mut Scores, followed: &Followed, channels: &[Channel], values: &[f64]) {
    #[expect(clippy::cast_precision_loss, reason = "a count of channels")]
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    for (&channel, value) in channels.iter().zip(values) {
        *scores.entry(followed.channels.root(channel)).or_default() += value / mean.max(f64::MIN_POSITIVE);
    }
}

/// A batch normalisation multiplies its channels by gamma, and so their importance.
fn by_gamma(
    node: &onnx_graph::proto::NodeProto,
    part: &Part,
    constants: Constants<'_>,
    followed: &Followed,
    scores: &mut Scores,
) -> Result<(), CompressError> {
    let Part::Constants { channels, .. } = part else { return Ok(()) };
    let gamma = node.input_at(1).filter(|_name| node.is("BatchNormalization")).and_then(|name| constants.tensor(name));
    let Some(gamma) = gamma else { return Ok(()) };
    for (&channel, gamma) in channels.iter().zip(gamma.floats()?) {
        if let Some(score) = scores.get_mut(&followed.channels.root(channel)) {
            *score *= f64::from(gamma.abs());
        }
    }
    Ok(())
}

/// Returns what a channel contributes to its consumer on the examples: the sum over its inputs of x²·w².
fn measure(
    node: &onnx_graph::proto::NodeProto,
    part: &Part,
    followed: &Followed,
    weight: &Weight<'_>,
    grams: &Grams,
    measured: &mut Scores,
) {
    let (inputs, repeat) = match part {
        Part::Conv { inputs: Some(inputs), .. } if node.attr_int("group").unwrap_or(1) == 1 => {
            (inputs, weight.columns() / inputs.len().max(1))
        }
        Part::Product { inputs: Some((inputs, repeat)), .. } => (inputs, *repeat),
        Part::Conv { .. } | Part::Product { .. } | Part::Constants { .. } => return,
    };
    let Some(gram) = grams.of_node(node).filter(|gram| gram.products.side == weight.columns()) else { return };
    let squares: Vec<f64> = gram.products.diagonal().collect();
    let of_column = |column: usize| {
        let weights: f64 = (0..weight.rows).map(|row| weight.at(row, column)).map(|value| value * value).sum();
        weights * squares[column]
    };
    let values: Vec<f64> = (0..inputs.len()).map(|at| (at * repeat..(at + 1) * repeat).map(of_column).sum()).collect();
    add(measured, followed, inputs, &values);
}
