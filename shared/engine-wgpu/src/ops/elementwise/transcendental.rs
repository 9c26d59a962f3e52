//! Exponentials, logarithms, trigonometry and the error function, on floats.

use super::host::map_float;
use super::{same_float, unary};
use crate::error::OpError;
use crate::ir::Node;
use crate::lower::Lowering;
use crate::ops::rule::Rule;

/// The operators of this room.
pub(in crate::ops) const RULES: &[Rule] = &[
    Rule::device("Exp", same_float, |n, cx| plain(n, cx, "exp(x)")).with_host(|_n, i| map_float(i, f64::exp)),
    Rule::device("Log", same_float, |n, cx| plain(n, cx, "select(log(x), quiet_nan(), x < 0.0)"))
        .with_host(|_n, i| map_float(i, f64::ln)),
    Rule::device("Sin", same_float, |n, cx| plain(n, cx, "wave(x, 0)")).with_host(|_n, i| map_float(i, f64::sin)),
    Rule::device("Cos", same_float, |n, cx| plain(n, cx, "wave(x, 1)")).with_host(|_n, i| map_float(i, f64::cos)),
    Rule::device("Tan", same_float, |n, cx| plain(n, cx, "wave(x, 0) / wave(x, 1)"))
        .with_host(|_n, i| map_float(i, f64::tan)),
    Rule::device("Asin", same_float, |n, cx| plain(n, cx, "asin_of(x)")).with_host(|_n, i| map_float(i, f64::asin)),
    Rule::device("Acos", same_float, |n, cx| plain(n, cx, "acos_of(x)")).with_host(|_n, i| map_float(i, f64::acos)),
    Rule::device("Atan", same_float, |n, cx| plain(n, cx, "atan_of(x)")).with_host(|_n, i| map_float(i, f64::atan)),
    Rule::device("Sinh", same_float, |n, cx| plain(n, cx, "sinh_of(x)")).with_host(|_n, i| map_float(i, f64::sinh)),
    Rule::device("Cosh", same_float, |n, cx| plain(n, cx, "cosh_of(x)")).with_host(|_n, i| map_float(i, f64::cosh)),
    Rule::device("Tanh", same_float, |n, cx| plain(n, cx, "tanh_of(x)")).with_host(|_n, i| map_float(i, f64::tanh)),
    Rule::device("Asinh", same_float, |n, cx| plain(n, cx, "asinh_of(x)")).with_host(|_n, i| map_float(i, f64::asinh)),
    Rule::device("Acosh", same_float, |n, cx| plain(n, cx, "acosh_of(x)")).with_host(|_n, i| map_float(i, f64::acosh)),
    Rule::device("Atanh", same_float, |n, cx| plain(n, cx, "atanh_of(x)")).with_host(|_n, i| map_float(i, f64::atanh)),
    Rule::device("Erf", same_float, |n, cx| plain(n, cx, "erf_of(x)")),
];

fn plain(node: &Node, cx: &mut Lowering<'_>, expression: &str) -> Result<(), OpError> {
    unary(node, cx, |_class| expression.to_owned())
}
