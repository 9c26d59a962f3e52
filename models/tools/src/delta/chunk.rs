//! Codes the chunks of an array in the form that takes fewest bytes.

use bundle::delta::element::{self, KINDS, Kind};
use bundle::delta::entropy::{FREQUENCY_BITS, FREQUENCY_SUM, STATE_MIN, STATES, SYMBOLS, Table};
use bundle::delta::token::{self, Split};
use bundle::delta::{CHUNK_ELEMENTS, DeltaError, Form, wire};

/// Level of zstd for chunks, which is tried beside the entropy coder and seldom wins: integers with repetitions.
const LEVEL: i32 = 3;

/// Share of the chunk that the entropy coder must leave for zstd to be tried, in per cent.
const TRIED_PERCENT: usize = 40;

/// Bytes of an array by which its type is judged.
const SAMPLE_BYTES: usize = 64 * 1024;

/// Counts of tokens and the extra bits that follow them.
struct Counts {
    tokens: [u32; SYMBOLS],
    extra_bits: u64,
}

impl Counts {
    fn of(splits: &[Split]) -> Self {
        let mut counts = Self { tokens: [0; SYMBOLS], extra_bits: 0 };
        for split in splits {
            if let Some(count) = counts.tokens.get_mut(usize::from(split.token)) {
                *count += 1;
            }
            counts.extra_bits += u64::from(split.bits);
        }
        counts
    }

    /// Returns the bytes of these tokens under a table, or `None` if it lacks one of them.
    fn bytes(&self, table: &Table) -> Option<usize> {
        let mut bits = 0.0;
        for (count, frequency) in self.tokens.iter().zip(table.frequencies()) {
            match (*count, *frequency) {
                (0, _) => {}
                (_, 0) => return None,
                (count, frequency) => {
                    bits += f64::from(count) * (FREQUENCY_SUM as f64 / f64::from(frequency)).log2();
                }
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a chunk has at most 2^16 tokens of 12 bits"
        )]
        let token_bytes = (bits / 8.0).ceil() as usize;
        Some(token_bytes + usize::try_from(self.extra_bits.div_ceil(8)).ok()? + 4 * STATES)
    }

    /// Returns the table that is best for these tokens.
    fn table(&self) -> Result<Table, DeltaError> {
        let total: u64 = self.tokens.iter().map(|count| u64::from(*count)).sum();
        let sum = FREQUENCY_SUM as u64;
        let scaled = |count: u32| match u64::from(count) {
            0 => 0,
            count => (count * sum / total.max(1)).clamp(1, sum),
        };
        let mut frequencies = self.tokens.map(scaled);
        // Rounding and the least frequency of one are settled with the most frequent token; it has most to give.
        loop {
            let now: u64 = frequencies.iter().sum();
            let Some(largest) = frequencies.iter_mut().max() else { break };
            match now.cmp(&sum) {
                std::cmp::Ordering::Equal => break,
                std::cmp::Ordering::Less => *largest += sum - now,
                std::cmp::Ordering::Greater => *largest -= (now - sum).min(*largest / 2).max(1),
            }
        }
        Table::new(frequencies.map(|frequency| u16::try_from(frequency).unwrap_or(u16::MAX)))
    }
}

/// Tokens of a chunk in one coding, with the best table for them.
struct Coding {
    form: [Form; 2],
    shift: u8,
    splits: Vec<Split>,
}

/// Coder of chunks; remembers the last tables.
#[derive(Default)]
pub(super) struct Encoder {
    tables: [Option<Table>; 2 * KINDS],
}

impl Encoder {
    /// Appends all chunks of an array.
    pub(super) fn array(
        &mut self,
        kind: Kind,
        base: Option<&[u8]>,
        new: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), DeltaError> {
        let step = CHUNK_ELEMENTS * kind.bits() as usize / 8;
        let mut bases = base.map(|base| base.chunks(step));
        for chunk in new.chunks(step) {
            let base = bases.as_mut().and_then(Iterator::next);
            self.chunk(kind, base, chunk, out)?;
        }
        Ok(())
    }

    fn chunk(&mut self, kind: Kind, base: Option<&[u8]>, new: &[u8], out: &mut Vec<u8>) -> Result<(), DeltaError> {
        if base == Some(new) {
            out.push(Form::Same as u8);
            return Ok(());
        }
        let mut best = vec![Form::Stored as u8];
        best.extend_from_slice(new);
        let mut table_of_best = None;
        let codings = base.map(|base| difference(kind, base, new)).into_iter().chain([value(kind, new)]);
        for coding in codings {
            let is_value = usize::from(coding.form[0] == Form::Value);
            let slot = 2 * (kind as usize) + is_value;
            let counts = Counts::of(&coding.splits);
            let own = counts.table()?;
            let mut written = Vec::new();
            own.write(&mut written);
            let own_bytes = counts.bytes(&own).map(|bytes| bytes + written.len());
            let last = self.tables.get(slot).and_then(Option::as_ref);
            let last_bytes = last.and_then(|table| counts.bytes(table));
            let again = last.filter(|_| last_bytes.is_some_and(|last| own_bytes.is_none_or(|own| last <= own)));
            let estimate = if again.is_some() { last_bytes } else { own_bytes };
            // The estimate is within a few bytes; a chunk that is clearly larger is not coded.
            if estimate.is_none_or(|bytes| bytes > best.len() + 16) {
                continue;
            }
            let [with_table, without] = coding.form;
            let mut coded = Vec::new();
            coded.extend([if again.is_some() { without } else { with_table } as u8, coding.shift]);
            if again.is_none() {
                coded.extend_from_slice(&written);
            }
            encode(again.unwrap_or(&own), &coding.splits, &mut coded);
            if coded.len() < best.len() {
                table_of_best = again.is_none().then_some((slot, own));
                best = coded;
            }
        }
        if best.len() * 100 > new.len() * TRIED_PERCENT {
            let compressed = zstd::bulk::compress(new, LEVEL)?;
            if compressed.len() + 4 < best.len() {
                best = vec![Form::Compressed as u8];
                wire::put_varint(&mut best, compressed.len() as u64);
                best.extend_from_slice(&compressed);
                table_of_best = None;
            }
        }
        if let Some((slot, table)) = table_of_best
            && let Some(last) = self.tables.get_mut(slot)
        {
            *last = Some(table);
        }
        out.extend_from_slice(&best);
        Ok(())
    }
}

fn elements(kind: Kind, bytes: &[u8]) -> Vec<u64> {
    let mut all = Vec::with_capacity(bytes.len() * 8 / kind.bits() as usize);
    kind.read(bytes, |element| all.push(element));
    all
}

/// Returns the lowest bits that are zero in all numbers, at most one less than the width.
fn shift(kind: Kind, all: impl Iterator<Item = u64>) -> u8 {
    let or = all.fold(0, |or, number| or | number);
    u8::try_from(or.trailing_zeros().min(kind.bits() - 1)).unwrap_or(0)
}

fn difference(kind: Kind, base: &[u8], new: &[u8]) -> Coding {
    let bases = elements(kind, base);
    let differences: Vec<i64> =
        elements(kind, new).into_iter().zip(bases).map(|(new, base)| kind.difference(new, base)).collect();
    let shift = shift(kind, differences.iter().map(|difference| difference.cast_unsigned()));
    let splits = differences.into_iter().map(|difference| token::split(element::zigzag(difference >> shift))).collect();
    Coding { form: [Form::Difference, Form::DifferenceAgain], shift, splits }
}

fn value(kind: Kind, new: &[u8]) -> Coding {
    let values = elements(kind, new);
    let form = [Form::Value, Form::ValueAgain];
    if !kind.is_float() {
        let values: Vec<i64> = values.into_iter().map(|value| kind.signed(value)).collect();
        let shift = shift(kind, values.iter().map(|value| value.cast_unsigned()));
        let splits = values.into_iter().map(|value| token::split(element::zigzag(value >> shift))).collect();
        return Coding { form, shift, splits };
    }
    // Only bits of the magnitude can be left off, and the sign stays.
    let magnitude = kind.mask() >> 1;
    let shift =
        shift(kind, values.iter().map(|value| value & magnitude)).min(u8::try_from(kind.bits() - 2).unwrap_or(0));
    let width = kind.bits() - u32::from(shift);
    let splits = values
        .into_iter()
        .map(|value| token::split_float(element::float_code(kind, value, u32::from(shift)), width))
        .collect();
    Coding { form, shift, splits }
}

/// Appends words and extra bits of a chunk.
fn encode(table: &Table, splits: &[Split], out: &mut Vec<u8>) {
    let mut starts = [0_u32; SYMBOLS];
    let mut next = 0;
    for (start, frequency) in starts.iter_mut().zip(table.frequencies()) {
        *start = next;
        next += u32::from(*frequency);
    }
    let mut states = [STATE_MIN; STATES];
    // Written from the last to the first.
    let mut words: Vec<u16> = Vec::with_capacity(splits.len());
    for (index, split) in splits.iter().enumerate().rev() {
        let symbol = usize::from(split.token);
        let (Some(start), Some(frequency)) = (starts.get(symbol), table.frequencies().get(symbol)) else { continue };
        let frequency = u32::from(*frequency);
        let Some(state) = states.get_mut(index % STATES) else { continue };
        // A state of this size or more would leave 32 bits.
        if u64::from(*state) >= u64::from(frequency) << 20 {
            let [low, high, ..] = state.to_le_bytes();
            words.push(u16::from_le_bytes([low, high]));
            *state >>= 16;
        }
        *state = ((*state / frequency) << FREQUENCY_BITS) + *state % frequency + *start;
    }
    let count = words.len() + 2 * STATES;
    wire::put_varint(out, count as u64);
    for state in states {
        out.extend_from_slice(&state.to_le_bytes());
    }
    for word in words.iter().rev() {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let extra = extra_bits(splits);
    wire::put_varint(out, extra.len() as u64);
    out.extend_from_slice(&extra);
}

fn extra_bits(splits: &[Split]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pending = 0_u128;
    let mut count = 0;
    for split in splits.iter().filter(|split| split.bits > 0) {
        pending |= u128::from(split.extra) << count;
        count += split.bits;
        while count >= 8 {
            let [low, ..] = pending.to_le_bytes();
            bytes.push(low);
            pending >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        let [low, ..] = pending.to_le_bytes();
        bytes.push(low);
    }
    bytes
}

/// Returns the kind by which an array is coded: bytes that are pairs of four-bit numbers, as `MatMulNBits` stores them, are coded
/// as such if that is smaller.
pub(super) fn best_kind(kind: Kind, base: Option<&[u8]>, new: &[u8]) -> Kind {
    if kind != Kind::Byte {
        return kind;
    }
    let sample = |bytes: &[u8]| bytes.get(..bytes.len().min(SAMPLE_BYTES)).unwrap_or_default().to_vec();
    let (base, new) = (base.map(sample), sample(new));
    let cost = |kind| {
        let codings = base.as_deref().map(|base| difference(kind, base, &new)).into_iter().chain([value(kind, &new)]);
        let bytes = codings.filter_map(|coding| {
            let counts = Counts::of(&coding.splits);
            counts.bytes(&counts.table().ok()?)
        });
        bytes.min().unwrap_or(usize::MAX)
    };
    // Bytes are decoded twice as fast.
    if cost(Kind::Nibble) * 20 < cost(Kind::Byte) * 19 { Kind::Nibble } else { Kind::Byte }
}
