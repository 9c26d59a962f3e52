//! Operators that bring a tensor to mean zero, variance one or length one.

pub(super) mod batch;
pub(super) mod local;
pub(super) mod rows;
