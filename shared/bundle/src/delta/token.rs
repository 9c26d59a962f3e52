//! Splits whole numbers into a token, which is entropy coded, and extra bits, which are stored as they are.
//!
//! Differences between two trainings are small numbers with a smooth distribution: small ones have a token each, larger
//! ones share a token with the numbers of the same length and the same two bits after the leading one. This is the hybrid
//! unsigned integer of JPEG XL (ISO/IEC 18181-1, annex C.3.3) with 16 direct tokens and two bits.

/// Numbers below this are their own token.
const DIRECT: u64 = DIRECT_TOKENS as u64;

/// Number of tokens without extra bits.
const DIRECT_TOKENS: u32 = 16;

/// Bit length of [`DIRECT`], the first number without a token of its own.
const DIRECT_LENGTH: u32 = 5;

/// Bits after the leading one that are part of the token.
const KEPT_BITS: u32 = 2;

/// Bits of the token of a float: its exponent in f32.
pub const FLOAT_TOKEN_BITS: u32 = 8;

/// Number in two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Entropy coded part.
    pub token: u8,
    /// Number of extra bits, 61 at most.
    pub bits: u32,
    /// Extra bits.
    pub extra: u64,
}

/// Splits a number.
#[must_use]
pub const fn split(number: u64) -> Split {
    if number < DIRECT {
        return Split { token: number.to_le_bytes()[0], bits: 0, extra: 0 };
    }
    let length = 64 - number.leading_zeros();
    let bits = length - 1 - KEPT_BITS;
    let kept = (number >> bits) & ((1 << KEPT_BITS) - 1);
    let token = DIRECT + ((length - DIRECT_LENGTH) as u64) * (1 << KEPT_BITS) + kept;
    Split { token: token.to_le_bytes()[0], bits, extra: number & ((1 << bits) - 1) }
}

/// Returns the number without its extra bits, and how many extra bits it has.
#[must_use]
pub const fn join(token: u8) -> (u64, u32) {
    let token = token as u32;
    if (token as u64) < DIRECT {
        return (token as u64, 0);
    }
    let above = token - DIRECT_TOKENS;
    let bits = (above >> KEPT_BITS) + DIRECT_LENGTH - 1 - KEPT_BITS;
    let kept = above & ((1 << KEPT_BITS) - 1);
    ((((1 << KEPT_BITS) | kept) as u64) << bits, bits)
}

/// Splits the code of a float of `width` bits: its first eight bits are the token.
#[must_use]
pub const fn split_float(code: u64, width: u32) -> Split {
    let bits = float_extra_bits(width);
    Split { token: (code >> bits).to_le_bytes()[0], bits, extra: code & ((1 << bits) - 1) }
}

/// Number of extra bits of a float whose code has `width` bits.
#[must_use]
pub const fn float_extra_bits(width: u32) -> u32 {
    width.saturating_sub(FLOAT_TOKEN_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) | 1, u64::MAX >> bit]);
        for number in edges.chain(0..5_000) {
            let Split { token, bits, extra } = split(number);
            assert_eq!(join(token), (number - extra, bits), "{number}");
        }
    }
}
