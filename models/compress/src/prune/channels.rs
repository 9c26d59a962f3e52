//! Takes whole channels out of a model, so that it computes less.
//!
//! A channel is followed from the convolution or product that makes it, through everything that keeps channels apart, to
//! the ones that sum over it. Channels that meet (in a residual sum, in a depthwise convolution) go together or not at
//! all; channels that reach an output, or an operator that is not known to keep channels apart, stay.

mod follow;
mod importance;
mod lanes;
mod reconstruct;
mod rewrite;

use serde::{Deserialize, Serialize};

use crate::Selection;

pub use rewrite::prune;

/// Which norm of a channel's weights says how much it matters, when there are no examples that say it better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Sum of magnitudes.
    L1,
    /// Root of the sum of squares.
    L2,
}

/// What makes up for the channels that are gone. All but `None` need [`crate::Grams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compensation {
    /// Nothing.
    None,
    /// The mean of what they contributed goes into the bias of whoever took them.
    Bias,
    /// Weights and bias of whoever took them are fitted anew: least squares on the examples.
    Weights,
}

/// Options of the pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The part of channels that goes, of every group of channels that can: 0 to 1. At least one of a group stays.
    pub fraction: f32,
    /// Method that compares channels without examples.
    pub norm: Norm,
    /// Method that compensates for them.
    pub compensation: Compensation,
    /// The nodes whose channels may go.
    pub selection: Selection,
}

impl Default for Options {
    /// Half of the channels, by L2, weights fitted anew.
    fn default() -> Self {
        Self { fraction: 0.5, norm: Norm::L2, compensation: Compensation::Weights, selection: Selection::default() }
    }
}
