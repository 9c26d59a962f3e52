//! Element types of arrays, as whole numbers whose differences are small when values are near to each other.
//!
//! The code of an integer is the integer. The bits of a float are ordered as its value is: for a positive float the sign bit is
//! set, for a negative one all bits are inverted, so that neighbours differ by one. Differences wrap around at the width of the type and
//! are zigzag coded: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4.

/// Type of the elements of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Integers of one byte, signed or not.
    Byte = 0,
    /// Two integers of four bits in each byte, the low half first.
    Nibble = 1,
    /// Integers of two bytes.
    Int16 = 2,
    /// Floats of two bytes: f16 and bf16.
    Float16 = 3,
    /// Integers of four bytes.
    Int32 = 4,
    /// `f32`.
    Float32 = 5,
    /// Integers of eight bytes.
    Int64 = 6,
    /// `f64`.
    Float64 = 7,
}

/// Number of kinds.
pub const KINDS: usize = 8;

impl Kind {
    /// Returns the kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Byte,
            1 => Self::Nibble,
            2 => Self::Int16,
            3 => Self::Float16,
            4 => Self::Int32,
            5 => Self::Float32,
            6 => Self::Int64,
            7 => Self::Float64,
            _ => return None,
        })
    }

    /// Returns the bits of one element.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Nibble => 4,
            Self::Byte => 8,
            Self::Int16 | Self::Float16 => 16,
            Self::Int32 | Self::Float32 => 32,
            Self::Int64 | Self::Float64 => 64,
        }
    }

    /// Returns whether elements are floats.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::Float32 | Self::Float64)
    }

    /// Returns the bytes of this many elements, or `None` if they end inside a byte or are too many.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let bits = elements.checked_mul(u64::from(self.bits()))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Calls `each` with every element of `bytes` as an unsigned integer.
    pub fn read(self, bytes: &[u8], mut each: impl FnMut(u64)) {
        match self {
            Self::Byte => bytes.iter().for_each(|byte| each(u64::from(*byte))),
            Self::Nibble => bytes.iter().for_each(|byte| {
                each(u64::from(byte & 15));
                each(u64::from(byte >> 4));
            }),
            Self::Int16 | Self::Float16 => {
                bytes.as_chunks().0.iter().for_each(|two| each(u64::from(u16::from_le_bytes(*two))));
            }
            Self::Int32 | Self::Float32 => {
                bytes.as_chunks().0.iter().for_each(|four| each(u64::from(u32::from_le_bytes(*four))));
            }
            Self::Int64 | Self::Float64 => {
                bytes.as_chunks().0.iter().for_each(|eight| each(u64::from_le_bytes(*eight)));
            }
        }
    }

    /// Appends elements to `out`; of each the lowest bits are taken.
    pub fn write(self, elements: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
        let mut elements = elements;
        match self {
            Self::Byte => out.extend(elements.map(|element| element.to_le_bytes()[0])),
            Self::Nibble => {
                while let Some(low) = elements.next() {
                    let high = elements.next().unwrap_or(0);
                    out.push(((low & 15) | (high << 4)).to_le_bytes()[0]);
                }
            }
            Self::Int16 | Self::Float16 => extend::<2>(elements, out),
            Self::Int32 | Self::Float32 => extend::<4>(elements, out),
            Self::Int64 | Self::Float64 => extend::<8>(elements, out),
        }
    }

    /// Returns the bits of an element so that their order is that of the values.
    #[must_use]
    pub const fn ordered(self, element: u64) -> u64 {
        let sign = 1 << (self.bits() - 1);
        match (self.is_float(), element & sign) {
            (false, _) => element,
            (true, 0) => element | sign,
            (true, _) => !element & self.mask(),
        }
    }

    /// Inverse of [`Kind::ordered`].
    #[must_use]
    pub const fn unordered(self, ordered: u64) -> u64 {
        let sign = 1 << (self.bits() - 1);
        match (self.is_float(), ordered & sign) {
            (false, _) => ordered,
            (true, 0) => !ordered & self.mask(),
            (true, _) => ordered ^ sign,
        }
    }

    /// Returns all bits of one element set.
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// Returns the difference between two elements as a signed integer.
    #[must_use]
    pub const fn difference(self, new: u64, base: u64) -> i64 {
        self.signed(self.ordered(new).wrapping_sub(self.ordered(base)))
    }

    /// Returns the element whose difference to `base` this is.
    #[must_use]
    pub const fn add(self, base: u64, difference: i64) -> u64 {
        self.unordered(self.ordered(base).wrapping_add(difference.cast_unsigned()) & self.mask())
    }

    /// Returns the lowest bits of `number` as a signed integer of this width.
    #[must_use]
    pub const fn signed(self, number: u64) -> i64 {
        let unused = 64 - self.bits();
        (number << unused).cast_signed() >> unused
    }
}

fn extend<const N: usize>(elements: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    for element in elements {
        let bytes = element.to_le_bytes();
        out.extend(bytes.first_chunk::<N>().into_iter().flatten());
    }
}

/// Returns the zigzag code of a signed integer.
#[must_use]
pub const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// Inverse of [`zigzag`].
#[must_use]
pub const fn unzigzag(code: u64) -> i64 {
    (code >> 1).cast_signed() ^ -((code & 1).cast_signed())
}

/// Returns the code of a float: its magnitude without the `shift` lowest bits, then its sign.
#[must_use]
pub const fn float_code(kind: Kind, element: u64, shift: u32) -> u64 {
    let sign = element >> (kind.bits() - 1);
    let magnitude = element & (kind.mask() >> 1);
    (magnitude >> shift) << 1 | sign
}

/// Inverse of [`float_code`].
#[must_use]
pub const fn float_element(kind: Kind, code: u64, shift: u32) -> u64 {
    ((code & 1) << (kind.bits() - 1)) | (((code >> 1) << shift) & (kind.mask() >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; KINDS] =
        [Kind::Byte, Kind::Nibble, Kind::Int16, Kind::Float16, Kind::Int32, Kind::Float32, Kind::Int64, Kind::Float64];

    fn samples(kind: Kind) -> Vec<u64> {
        let edges = (0..kind.bits()).flat_map(|bit| [1_u64 << bit, (1 << bit) - 1, kind.mask() ^ (1 << bit)]);
        edges.chain([kind.mask()]).map(|element| element & kind.mask()).collect()
    }

    #[test]
    fn every_pair_of_elements_comes_back_from_its_difference() {
        for kind in ALL {
            for new in samples(kind) {
                for base in samples(kind) {
                    let difference = unzigzag(zigzag(kind.difference(new, base)));
                    assert_eq!(kind.add(base, difference), new, "{kind:?} {new:x} {base:x}");
                }
                assert_eq!(float_element(kind, float_code(kind, new, 0), 0), new, "{kind:?} {new:x}");
            }
        }
    }

    #[test]
    fn neighbouring_floats_differ_by_one() {
        for (low, high) in
            [(1.0_f32, 1.0_f32.next_up()), (-1.0, (-1.0_f32).next_up()), (-0.0, 0.0), (0.0, f32::from_bits(1))]
        {
            assert_eq!(Kind::Float32.difference(high.to_bits().into(), low.to_bits().into()), 1, "{low} {high}");
        }
    }

    #[test]
    fn arrays_come_back_from_their_elements() {
        let bytes: Vec<u8> = (0..=255).cycle().take(512).collect();
        for kind in ALL {
            let mut elements = Vec::new();
            kind.read(&bytes, |element| elements.push(element));
            let mut again = Vec::new();
            kind.write(elements.into_iter(), &mut again);
            assert_eq!(again, bytes, "{kind:?}");
        }
    }
}
