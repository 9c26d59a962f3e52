//! Why a model was not compressed.

use onnx_graph::{TensorError, WriteError};

/// Reason why a pass gave no model.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// A weight could not be read.
    #[error("read a weight")]
    Weight(#[from] TensorError),
    /// The model made is none that can be written as one file.
    #[error("write the model made")]
    Write(#[from] WriteError),
    /// The engine did not load or run the model.
    #[error("run the model to see its values: {what}")]
    Run {
        /// Action that failed, as a verb phrase.
        what: &'static str,
        /// Cause, as the engine reports it.
        #[source]
        source: engine::Cause,
    },
    /// The pass has no place in this model.
    #[error("{pass} changes nothing in this model: {reason}")]
    Nothing {
        /// Name of the pass.
        pass: &'static str,
        /// Reason, and what to do.
        reason: String,
    },
    /// The examples do not fit the model, or are too few.
    #[error("the examples cannot be used: {reason}")]
    Examples {
        /// Problem of the examples, and what to do.
        reason: String,
    },
    /// The model's own answers cannot be compared.
    #[error("no form can be held against this model: {reason}")]
    Answers {
        /// Output, example and count.
        reason: String,
    },
    /// The user's judge gave no number.
    #[error("the command of --measure gave no number: {reason}")]
    Command {
        /// Exit status or error of the command, and its last output.
        reason: String,
    },
    /// An option that makes no sense.
    #[error("option {option} cannot be {value}: {reason}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// The value given.
        value: String,
        /// Values that it may be, in one clause.
        reason: String,
    },
}
