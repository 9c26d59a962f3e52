//! How the floats of a constant lie on the device: float16 stays two halves a word, everything else is one `f32` a word.
//!
//! Every adapter understands WGSL's `unpack2x16float`, and an `f32` holds each half exactly: halves cost an adapter half the
//! memory and change no bit of an answer. Asked by [`super::Lowering::dispatch`] for constants that a kernel reads one by one,
//! and by the operators that pack constants for kernels of their own addressing.

use half::f16;

use crate::ir::{ElementType, Literal};

/// Words that a packed constant is filled up to: four floats of either kind are whole vectors then.
const FILL_WORDS: usize = 4;

/// Layout of the floats of a constant in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floats {
    /// One `f32` a word.
    Singles,
    /// Two float16 a word, the first in the low half.
    Halves,
}

impl Floats {
    /// Returns the layout of this constant on the device.
    #[must_use]
    pub fn of(literal: &Literal) -> Self {
        if literal.dtype() == ElementType::F16 { Self::Halves } else { Self::Singles }
    }

    /// Floats in one 4-byte word.
    #[must_use]
    pub const fn per_word(self) -> usize {
        match self {
            Self::Singles => 1,
            Self::Halves => 2,
        }
    }

    /// The words of these floats, zeros up to a whole vector behind them. Floats that are no halves are rounded to them.
    #[must_use]
    pub fn pack(self, values: impl Iterator<Item = f32>) -> Vec<u32> {
        let mut words: Vec<u32> = match self {
            Self::Singles => values.map(f32::to_bits).collect(),
            Self::Halves => {
                let halves: Vec<u16> = values.map(|value| f16::from_f32(value).to_bits()).collect();
                let word = |pair: &[u16]| u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 16;
                halves.chunks(2).map(word).collect()
            }
        };
        words.resize(words.len().next_multiple_of(FILL_WORDS), 0);
        words
    }

    /// The WGSL type of a binding that is read four floats at a time.
    #[must_use]
    pub const fn fours(self) -> &'static str {
        match self {
            Self::Singles => "array<vec4<f32>>",
            Self::Halves => "array<vec2<u32>>",
        }
    }

    /// The WGSL of a `vec4<f32>` from an element of such a binding; halves need [`UNPACK_FOUR`] in the text.
    #[must_use]
    pub fn four(self, element: &str) -> String {
        match self {
            Self::Singles => element.to_owned(),
            Self::Halves => format!("unpack_four({element})"),
        }
    }
}

/// WGSL of `fn unpack_four`: four floats of two words of halves.
pub const UNPACK_FOUR: &str = "fn unpack_four(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_packed_as_it_is() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let words = Floats::Halves.pack(halves.iter().map(|half| half.to_f32()));
        let packed = words.iter().flat_map(|&word| word.to_le_bytes()).collect::<Vec<_>>();
        for (half, lane) in halves.iter().zip(packed.as_chunks::<2>().0) {
            let found = f16::from_le_bytes(*lane);
            assert!(found.to_bits() == half.to_bits() || (found.is_nan() && half.is_nan()), "{half:?} is {found:?}");
        }
    }

    #[test]
    fn packed_floats_end_at_a_whole_vector() {
        for count in 0..20_u16 {
            for floats in [Floats::Singles, Floats::Halves] {
                let words = floats.pack((0..count).map(f32::from));
                let needed = usize::from(count).div_ceil(floats.per_word());
                assert!(words.len() >= needed && words.len() < needed + FILL_WORDS, "{floats:?} {count}");
                assert!(words.len().is_multiple_of(FILL_WORDS));
            }
        }
    }
}
