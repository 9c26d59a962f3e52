//! Range-ANS coding of tokens with four interleaved states, and the bits that follow tokens.
//!
//! Symbol `i` is coded by state `i % 4`. A state is at least 2^16 and below 2^32; words have 16 bits. Frequencies sum to 2^12.
//! The coder works backwards from the last symbol, so that the decoder works forwards.

use std::io::Read;

use super::DeltaError;
use super::wire;

/// Bits of a frequency: all frequencies of a table sum to 2^12.
pub const FREQUENCY_BITS: u32 = 12;

/// Sum of all frequencies of a table.
pub const FREQUENCY_SUM: usize = 1 << FREQUENCY_BITS;

/// Smallest value of a state between two symbols; all states begin with it, in the coder.
pub const STATE_MIN: u32 = 1 << 16;

/// Number of interleaved states.
pub const STATES: usize = 4;

/// Words that the states take before the first symbol.
pub const STATE_WORDS: usize = 2 * STATES;

/// Number of different tokens.
pub const SYMBOLS: usize = 256;

/// Frequencies of tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    /// Frequency of each symbol.
    frequencies: [u16; SYMBOLS],
    /// For each value of the lowest bits of a state: symbol, frequency less one, and offset into the symbol's range, in 8, 12 and 12 bits.
    slots: Vec<u32>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.frequencies.iter().enumerate().filter(|(_, frequency)| **frequency > 0)).finish()
    }
}

impl Table {
    /// Creates a table of frequencies that sum to [`FREQUENCY_SUM`].
    ///
    /// # Errors
    /// They have another sum.
    pub fn new(frequencies: [u16; SYMBOLS]) -> Result<Self, DeltaError> {
        let sum: usize = frequencies.iter().map(|frequency| usize::from(*frequency)).sum();
        if sum != FREQUENCY_SUM {
            return Err(DeltaError::Malformed("frequencies do not sum to 4096"));
        }
        let mut slots = Vec::with_capacity(FREQUENCY_SUM);
        for (symbol, frequency) in (0_u32..).zip(frequencies) {
            let frequency = u32::from(frequency);
            slots.extend((0..frequency).map(|offset| symbol | (frequency - 1) << 8 | offset << (8 + FREQUENCY_BITS)));
        }
        Ok(Self { frequencies, slots })
    }

    /// Returns the frequencies of all symbols.
    #[must_use]
    pub const fn frequencies(&self) -> &[u16; SYMBOLS] {
        &self.frequencies
    }

    /// Reads a table.
    pub(super) fn read(input: &mut impl Read) -> Result<Self, DeltaError> {
        let count = wire::varint_to(input, SYMBOLS - 1, "a table has more than 256 symbols")? + 1;
        let mut frequencies = [0; SYMBOLS];
        let mut symbols = frequencies.iter_mut();
        for _ in 0..count {
            let gap = wire::varint_to(input, SYMBOLS - 1, "a symbol is larger than 255")?;
            let frequency = wire::varint_to(input, FREQUENCY_SUM, "a frequency is larger than 4096")?;
            let slot = symbols.nth(gap).ok_or(DeltaError::Malformed("a symbol is larger than 255"))?;
            *slot =
                u16::try_from(frequency).map_err(|_wide| DeltaError::Malformed("a frequency is larger than 4096"))?;
        }
        Self::new(frequencies)
    }

    /// Appends the table.
    pub fn write(&self, out: &mut Vec<u8>) {
        let used = || self.frequencies.iter().enumerate().filter(|(_, frequency)| **frequency > 0);
        wire::put_varint(out, used().count().saturating_sub(1) as u64);
        let mut next = 0;
        for (symbol, frequency) in used() {
            wire::put_varint(out, (symbol - next) as u64);
            wire::put_varint(out, u64::from(*frequency));
            next = symbol + 1;
        }
    }
}

/// Decoder of one chunk.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    slots: &'a [u32; FREQUENCY_SUM],
    states: [u32; STATES],
    words: std::slice::Iter<'a, [u8; 2]>,
}

const MASK: u32 = (1 << FREQUENCY_BITS) - 1;

impl<'a> Decoder<'a> {
    /// Begins with the states, which are the first eight words.
    pub(super) fn new(table: &'a Table, words: &'a [u8]) -> Result<Self, DeltaError> {
        let slots =
            table.slots.as_slice().try_into().map_err(|_length| DeltaError::Malformed("a table is cut short"))?;
        let mut words = words.as_chunks().0.iter();
        let mut states = [0; STATES];
        for state in &mut states {
            let (Some(low), Some(high)) = (words.next(), words.next()) else { return Err(wire::CUT_SHORT) };
            *state = u32::from(u16::from_le_bytes(*low)) | u32::from(u16::from_le_bytes(*high)) << 16;
        }
        Ok(Self { slots, states, words })
    }

    /// Decodes the next four symbols; in a chunk whose length is no multiple of four the last call decodes more than there are.
    #[inline]
    pub(super) fn four(&mut self, count: usize, mut each: impl FnMut(u8)) -> Result<(), DeltaError> {
        for state in self.states.iter_mut().take(count) {
            let slot = self.slots[(*state & MASK) as usize];
            let [symbol, ..] = slot.to_le_bytes();
            let frequency = ((slot >> 8) & MASK) + 1;
            // A state below 2^32 has at most 20 bits above the frequency bits; with one frequency of 4096 it is unchanged.
            *state = frequency.wrapping_mul(*state >> FREQUENCY_BITS).wrapping_add(slot >> (8 + FREQUENCY_BITS));
            if *state < STATE_MIN {
                let word = self.words.next().ok_or(wire::CUT_SHORT)?;
                *state = *state << 16 | u32::from(u16::from_le_bytes(*word));
            }
            each(symbol);
        }
        Ok(())
    }

    /// Checks that all words are used and that the states are those with which the coder began.
    pub(super) fn finish(&mut self) -> Result<(), DeltaError> {
        if self.words.next().is_none() && self.states == [STATE_MIN; STATES] {
            Ok(())
        } else {
            Err(DeltaError::Malformed("a chunk does not end where its tokens end"))
        }
    }
}

/// Reader of extra bits, lowest bit first.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// Bits that one read of eight bytes gives at any position.
const BITS_AT_ONCE: u32 = 56;

impl<'a> Bits<'a> {
    /// Reads `bytes`, of which the last eight are padding.
    pub(super) const fn new(padded: &'a [u8]) -> Self {
        Self { bytes: padded, position: 0 }
    }

    /// Bytes of padding behind the bits, so that eight bytes can be read at any of them.
    pub(super) const PADDING: [u8; 8] = [0; 8];

    #[inline]
    pub(super) fn take(&mut self, count: u32) -> Result<u64, DeltaError> {
        if count > BITS_AT_ONCE {
            let low = self.some(BITS_AT_ONCE)?;
            return Ok(low | self.some(count - BITS_AT_ONCE)? << BITS_AT_ONCE);
        }
        self.some(count)
    }

    #[inline]
    fn some(&mut self, count: u32) -> Result<u64, DeltaError> {
        let eight = self.bytes.get(self.position / 8..).and_then(<[u8]>::first_chunk).ok_or(wire::CUT_SHORT)?;
        let bits = u64::from_le_bytes(*eight) >> (self.position % 8);
        self.position += count as usize;
        Ok(bits & !(u64::MAX << count))
    }

    /// Checks that all bits but the padding of the last byte are used.
    pub(super) fn finish(&self) -> Result<(), DeltaError> {
        if self.position.div_ceil(8) + Self::PADDING.len() == self.bytes.len() {
            Ok(())
        } else {
            Err(DeltaError::Malformed("a chunk has another number of extra bits"))
        }
    }
}
