//! Deltas bring back the new file byte for byte, are small for the changes that training makes, and are refused when they are hostile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bytes are taken from the low ends of numbers"
)]

use std::io::Cursor;

use bundle::delta::element::Kind;
use bundle::delta::{ARRAYS_MAX, DeltaError, Expected, Header, Segment, apply, wire};
use model_tools::delta::{Form, make};
use proptest::prelude::*;
use types::Digest;

/// Field of a protocol-buffers message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 127 {
        out.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// Tensor with `raw_data`.
struct Tensor {
    name: &'static str,
    data_type: u8,
    bytes: Vec<u8>,
}

/// Model that has nothing but these initializers and a name.
fn model(title: &str, tensors: &[Tensor]) -> Vec<u8> {
    let mut graph = Vec::new();
    for Tensor { name, data_type, bytes } in tensors {
        let tensor = [vec![2 << 3, *data_type], field(8, name.as_bytes()), field(9, bytes)].concat();
        graph.extend(field(5, &tensor));
    }
    graph.extend(field(2, title.as_bytes()));
    [vec![1 << 3, 10], field(7, &graph)].concat()
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Repeatable numbers without a pattern, by splitmix64 (S. Vigna, <https://prng.di.unimi.it/splitmix64.c>).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Nearly normal number with this deviation: the sum of twelve even ones.
    fn normal(&mut self, deviation: f32) -> f32 {
        let sum: f32 = (0..12).map(|_| (self.next() >> 40) as f32 / (1_u64 << 24) as f32).sum();
        (sum - 6.0) * deviation
    }
}

fn expected(new: &[u8]) -> Expected {
    Expected { digest: Digest::of(new), bytes: new.len() as u64 }
}

fn applied(base: &[u8], delta: &[u8], new: &[u8]) -> Result<Vec<u8>, DeltaError> {
    let mut out = Vec::new();
    apply(&mut Cursor::new(base), &mut &*delta, &mut out, &expected(new))?;
    Ok(out)
}

/// Makes a delta, checks that it brings back `new`, and returns its size in per cent of `new` with its form.
fn percent(base: &[u8], new: &[u8]) -> (f64, Form) {
    let delta = make(base, new).unwrap();
    assert!(applied(base, &delta.bytes, new).unwrap() == new);
    (100.0 * delta.bytes.len() as f64 / new.len() as f64, delta.form)
}

const FLOAT: u8 = 1;
const INT8: u8 = 3;

#[test]
fn small_changes_of_all_weights_cost_their_entropy() {
    let mut numbers = Numbers(1);
    let old: Vec<f32> = (0..300_000).map(|_| numbers.normal(0.04)).collect();
    let new: Vec<f32> = old.iter().map(|value| value + numbers.normal(0.0005)).collect();
    let float =
        |values: &[f32]| model("m", &[Tensor { name: "w", data_type: FLOAT, bytes: floats(values.iter().copied()) }]);
    let (size, form) = percent(&float(&old), &float(&new));
    // A relative change of about an eightieth leaves the sign, the exponent and six bits of the mantissa alone.
    assert!(size < 68.0 && form == Form::Arrays, "{size} {form:?}");

    let levels = |values: &[f32]| values.iter().map(|value| (value * 1000.0).round() as i8 as u8).collect::<Vec<u8>>();
    let int8 = |values: &[f32]| model("m", &[Tensor { name: "w", data_type: INT8, bytes: levels(values) }]);
    let (size, _) = percent(&int8(&old), &int8(&new));
    // Entropy of the differences, in bits of eight.
    let mut counts = std::collections::HashMap::new();
    for (new, old) in levels(&new).iter().zip(levels(&old)) {
        *counts.entry(new.wrapping_sub(old)).or_insert(0.0) += 1.0;
    }
    let entropy: f64 = counts.values().map(|count: &f64| -count / 300_000.0 * (count / 300_000.0).log2()).sum();
    assert!(size < 100.0 * entropy / 8.0 * 1.02 + 0.1, "{size} % for {entropy} bits");
}

#[test]
fn few_changed_weights_cost_little_more_than_where_they_are_and_what_they_are() {
    let mut numbers = Numbers(2);
    let count = 400_000;
    let old: Vec<f32> = (0..count).map(|_| numbers.normal(0.04)).collect();
    let mut new = old.clone();
    let mut changed = 0.0;
    for value in &mut new {
        if numbers.next() % 1000 < 15 {
            *value = numbers.normal(0.04);
            changed += 1.0;
        }
    }
    let float =
        |values: &[f32]| model("m", &[Tensor { name: "w", data_type: FLOAT, bytes: floats(values.iter().copied()) }]);
    let (size, _) = percent(&float(&old), &float(&new));
    let share: f64 = changed / f64::from(count);
    // log2 of the number of subsets, by Stirling, and 32 bits for each new value.
    let positions = -share * share.log2() - (1.0 - share) * (1.0 - share).log2();
    let bound = (positions + share * 32.0) / 32.0 * 100.0;
    assert!(size <= 1.1 * bound, "{size} % where {bound} % are needed");
}

#[test]
fn renamed_and_reordered_tensors_cost_nothing() {
    let mut numbers = Numbers(3);
    let mut random = || (0..40_000).map(|_| numbers.next() as u8).collect::<Vec<u8>>();
    let (first, second) = (random(), random());
    let tensor = |name, data_type, bytes: &[u8]| Tensor { name, data_type, bytes: bytes.to_vec() };
    let old = model("m", &[tensor("a", FLOAT, &first), tensor("b", INT8, &second)]);
    let new = model("m", &[tensor("q", INT8, &second), tensor("p", FLOAT, &first), tensor("b", INT8, &second)]);
    let (size, _) = percent(&old, &new);
    assert!(size < 0.4, "{size}");
}

#[test]
fn a_file_without_a_base_is_no_larger_than_compressed_alone() {
    let mut numbers = Numbers(4);
    let new =
        model("m", &[Tensor { name: "w", data_type: FLOAT, bytes: floats((0..50_000).map(|_| numbers.normal(1.0))) }]);
    let alone = zstd::bulk::compress(&new, 19).unwrap().len();
    for base in [Vec::new(), b"no model".to_vec(), model("other", &[])] {
        let delta = make(&base, &new).unwrap();
        assert!(delta.bytes.len() <= alone + 200, "{} {alone}", delta.bytes.len());
        assert_eq!(applied(&base, &delta.bytes, &new).unwrap(), new);
    }
}

#[test]
fn a_wrong_base_and_a_wrong_result_are_told_apart() {
    let old = model("m", &[Tensor { name: "w", data_type: INT8, bytes: (0..200).collect() }]);
    let new = model("n", &[Tensor { name: "w", data_type: INT8, bytes: (1..201).collect() }]);
    let delta = make(&old, &new).unwrap().bytes;
    assert!(matches!(applied(&new, &delta, &new), Err(DeltaError::WrongBase { .. })));
    let longer = [old.clone(), vec![0]].concat();
    assert!(matches!(applied(&longer, &delta, &new), Err(DeltaError::WrongBase { .. })));
    assert!(matches!(applied(&old, &delta, &old), Err(DeltaError::WrongResult { .. })));
    let mut later = delta.clone();
    later[4] = 2;
    assert!(matches!(applied(&old, &later, &new), Err(DeltaError::Format { found: 2 })));
    let longer = [delta, vec![0]].concat();
    assert!(matches!(applied(&old, &longer, &new), Err(DeltaError::Malformed(_))));
}

#[test]
fn deltas_of_the_first_release_are_read() {
    // Made by format 1 from a ramp of 400 bytes and the ramp plus its index modulo 3.
    let old = model("golden", &[Tensor { name: "w", data_type: INT8, bytes: (0..400_u16).map(|i| i as u8).collect() }]);
    let new = model(
        "gilded",
        &[Tensor { name: "w", data_type: INT8, bytes: (0..400_u16).map(|i| (i + i % 3) as u8).collect() }],
    );
    let golden = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/delta-1.bin"));
    if std::env::var_os("SANDERLING_BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).unwrap();
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/delta-1.bin"),
            make(&old, &new).unwrap().bytes,
        )
        .unwrap();
        return;
    }
    assert_eq!(applied(&old, &golden.unwrap(), &new).unwrap(), new);
}

#[test]
fn a_header_with_more_arrays_than_any_model_is_refused_before_it_takes_memory() {
    let base = vec![7; 4096];
    let segment = Segment { literal: 0, kind: Kind::Byte, base: None, elements: 0 };
    let mut header = Header {
        base_digest: Digest::of(&base),
        base_bytes: 4096,
        new_digest: Digest::of(b""),
        new_bytes: 0,
        dictionary: Vec::new(),
        segments: vec![segment; ARRAYS_MAX],
    };
    let mut delta = Vec::new();
    header.write(&mut delta).unwrap();
    assert_eq!(applied(&base, &delta, b"").unwrap(), b"");
    header.segments.push(segment);
    assert!(header.write(&mut Vec::new()).is_err());

    // The same by hand: four bytes in the file for each array would be fifty in memory.
    let mut raw = [base_digest_and_sizes(&base).as_slice(), &[0]].concat();
    wire::put_varint(&mut raw, 500_000);
    raw.extend([0, 0, 0, 0].repeat(500_000));
    let compressed = zstd::bulk::compress(&raw, 3).unwrap();
    let lengths = [compressed.len() as u32, raw.len() as u32].map(u32::to_le_bytes).concat();
    let hostile = [b"SNDD\x01".as_slice(), &lengths, &compressed].concat();
    let refused = applied(&base, &hostile, b"").unwrap_err();
    assert!(refused.to_string().contains("arrays"), "{refused}");
}

fn base_digest_and_sizes(base: &[u8]) -> Vec<u8> {
    let mut raw = Digest::of(base).as_bytes().to_vec();
    wire::put_varint(&mut raw, base.len() as u64);
    raw.extend(Digest::of(b"").as_bytes());
    wire::put_varint(&mut raw, 0);
    raw
}

fn files() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let tensor = (0_u8..24, prop::collection::vec(any::<u8>(), 0..600));
    let change = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40);
    (prop::collection::vec(tensor, 0..4), change, any::<bool>()).prop_map(|(tensors, changes, is_reversed)| {
        let names = ["a", "b", "c", "d"];
        let build = |tensors: &[(u8, Vec<u8>)]| {
            let tensors = tensors.iter().zip(names).map(|((data_type, bytes), name)| Tensor {
                name,
                data_type: *data_type,
                bytes: bytes.clone(),
            });
            model("m", &tensors.collect::<Vec<_>>())
        };
        let old = build(&tensors);
        let mut changed = tensors;
        if is_reversed {
            changed.reverse();
        }
        for (index, byte) in changes {
            if let Some((_, bytes)) = changed.iter_mut().find(|(_, bytes)| !bytes.is_empty()) {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
        }
        (old, build(&changed))
    })
}

proptest! {
    // Each case compresses at the highest level.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_pair_of_models_comes_back((old, new) in files()) {
        let delta = make(&old, &new).unwrap();
        prop_assert_eq!(applied(&old, &delta.bytes, &new).unwrap(), new);
    }

    #[test]
    fn every_pair_of_texts_comes_back(old in prop::collection::vec(any::<u8>(), 0..2000), new in prop::collection::vec(any::<u8>(), 0..2000)) {
        let delta = make(&old, &new).unwrap();
        prop_assert_eq!(applied(&old, &delta.bytes, &new).unwrap(), new);
    }

    /// Nothing that a thief of the hub writes makes another file than the signed one, or stops the agent.
    #[test]
    fn a_damaged_delta_is_refused_or_brings_back_the_same_file(
        (old, new) in files(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut delta = make(&old, &new).unwrap().bytes;
        for (at, byte) in damage {
            let at = at.index(delta.len());
            delta[at] = byte;
        }
        if let Ok(out) = applied(&old, &delta, &new) {
            prop_assert_eq!(&out, &new);
        }
        delta.truncate(cut.index(delta.len()));
        prop_assert!(applied(&old, &delta, &new).is_err());
    }

    #[test]
    fn any_body_behind_a_good_header_is_refused(body in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert_eq!(bundle::delta::fuzz_body(&body), Ok(()));
    }

    /// The checksums of zstd hide the coder from damage to whole deltas; here only the body behind the header is hostile.
    #[test]
    fn a_hostile_body_is_refused((old, new) in files(), body in prop::collection::vec(any::<u8>(), 0..400)) {
        let made = make(&old, &new).unwrap().bytes;
        let header = 13 + u32::from_le_bytes(made[5..9].try_into().unwrap()) as usize;
        let hostile = [&made[..header], &body].concat();
        if let Ok(out) = applied(&old, &hostile, &new) {
            prop_assert_eq!(&out, &new);
        }
    }
}
