//! Takes weights out of a model: single ones ([`magnitude`]), which only a compressor of files sees, or whole channels
//! ([`channels`]), which makes the computation smaller.

pub mod channels;
pub mod magnitude;
