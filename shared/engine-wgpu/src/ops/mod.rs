//! The operators: for each a rule that infers its outputs' infos and one that lowers it to dispatches.
//!
//! One file per family; each lists its [`Rule`]s, [`registry`] joins the lists. `ops.toml` is the public face of the same list (operator × opset range ×
//! element types × notes): a test holds the two together. Fed by [`crate::value_info`] and [`crate::lower`].

mod attention;
pub(crate) mod chain;
mod classical;
mod conv;
mod conv_transpose;
mod einsum;
mod elementwise;
mod epilogue;
mod gelu;
mod generate;
mod host_node;
mod legacy;
mod matmul;
mod movement;
mod nbits;
mod norm;
mod pool;
mod product;
mod quantized;
mod reduce;
pub(crate) mod registry;
mod resize;
mod rnn;
mod rotary;
pub(crate) mod rule;
mod sample;
mod signal;
mod skip_norm;
pub(crate) mod table;
pub(crate) mod top;
mod window;

pub use registry::{infer, lower, rule, rules};
pub use rule::{Evaluate, Infer, Rule, Run};
