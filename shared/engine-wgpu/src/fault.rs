//! Faults: reasons for which a run has no answer that only its data show, like an index out of range.
//!
//! Reported by kernels (see [`crate::lower`]) and by the host; the run fails with [`crate::OpError::Fault`].

use std::fmt;

/// A reason for which a run has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An index points outside its dimension.
    Index,
    /// A 64-bit integer does not fit the 32 bits that the device computes with.
    Overflow,
    /// An integer is divided by zero.
    ZeroDivisor,
    /// A sequence length is outside its dimension.
    Length,
    /// An integer is raised to a power that is no whole number.
    FractionalPower,
}

/// Every fault, in the order of their codes.
pub(crate) const ALL: [Fault; 5] =
    [Fault::Index, Fault::Overflow, Fault::ZeroDivisor, Fault::Length, Fault::FractionalPower];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "an index of the request is out of range",
            Self::Overflow => "a 64-bit integer is outside the 32 bits that the wgpu engine computes with",
            Self::ZeroDivisor => "an integer is divided by zero",
            Self::Length => "a sequence length of the request is out of range",
            Self::FractionalPower => "an integer is raised to a power that is no whole number",
        })
    }
}
