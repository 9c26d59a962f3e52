//! Tests of pictures: the numbers of Pillow and NumPy, bit for bit where decoders agree, and a named error for every bad file.
//!
//! `golden/make.py` writes the pictures and what they must become.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use preprocess::{PictureError, tensor};
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use types::preprocess::{Filter, Fit, InputRule, PictureRule};
use types::{DType, Dim, TensorSpec};

/// Maximum difference of a sample of a JPEG or a lossy WebP between two decoders, and maximum mean difference.
const LOSSY_DIFFERENCE: (u8, f64) = (12, 0.6);

#[derive(Debug, Deserialize)]
struct Case {
    file: String,
    input: Input,
    rule: InputRule,
    shape: Vec<usize>,
    sha256: String,
}

#[derive(Debug, Deserialize)]
struct Input {
    datatype: DType,
    shape: Vec<Option<usize>>,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap()
}

fn spec(dtype: DType, shape: &[Option<usize>]) -> TensorSpec {
    let shape = shape.iter().map(|dim| dim.map_or(Dim::Any, Dim::Fixed)).collect();
    TensorSpec { name: "image".to_owned(), dtype, shape: Some(shape) }
}

fn samples() -> TensorSpec {
    spec(DType::U8, &[None, None, Some(3)])
}

fn plain() -> InputRule {
    InputRule::Picture(PictureRule::default())
}

#[test]
fn pictures_become_the_numbers_of_pillow_and_numpy_bit_for_bit() {
    let cases: Vec<Case> = serde_json::from_slice(&read("cases.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let input = spec(case.input.datatype, &case.input.shape);
        assert!(case.rule.mistakes(&input).is_empty(), "{case:?}: {:?}", case.rule.mistakes(&input));
        let made = tensor(&read(&case.file), &case.rule, &input).unwrap().tensor;
        assert_eq!(made.shape(), case.shape, "{case:?}");
        if hex::encode(Sha256::digest(made.data())) != case.sha256 {
            wrong.push(format!("{} {:?} {:?}", case.file, case.input.shape, case.rule));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
}

#[test]
fn lossy_pictures_differ_from_pillow_by_rounding_steps_only() {
    for name in ["plain.jpg", "progressive.jpg", "grey.jpg", "full-colour.jpg", "cmyk.jpg", "lossy.webp"] {
        let made = tensor(&read(name), &plain(), &samples()).unwrap().tensor;
        let wanted = read(&format!("{name}.rgb"));
        assert_eq!(made.data().len(), wanted.len(), "{name}");
        let differences = made.data().iter().zip(&wanted).map(|(made, wanted)| made.abs_diff(*wanted));
        let (most, sum) = differences.fold((0, 0.0), |(most, sum), one| (one.max(most), sum + f64::from(one)));
        let mean = sum / wanted.len() as f64;
        eprintln!("{name}: at most {most}, {mean:.3} on average");
        assert!(
            most <= LOSSY_DIFFERENCE.0 && mean <= LOSSY_DIFFERENCE.1,
            "{name}: at most {most}, {mean:.3} on average"
        );
    }
}

fn error(file: &[u8]) -> String {
    let error = tensor(file, &plain(), &samples()).unwrap_err();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn files_that_are_no_picture_are_named() {
    for (file, word) in [
        (&b""[..], "is empty"),
        (b"GIF89a....", "a GIF"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"{\"image\": 1}", "JSON"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"II*\0\x08\0\0\0", "a TIFF"),
        (b"version https://git-lfs", "of an unknown kind"),
    ] {
        let told = error(file);
        assert!(told.contains(word), "{told}");
    }
    assert!(error(&read("animated.webp")).contains("animation"));
    assert!(error(&read("bomb.png")).contains("50000 x 50000 pixels is over the limit"));
}

#[test]
fn a_picture_that_is_cut_off_or_changed_is_an_error_or_a_picture_and_never_a_panic() {
    for name in ["noise.png", "noise.webp", "lossy.webp", "plain.jpg", "progressive.jpg", "noise.bmp", "palette.png"] {
        let file = read(name);
        for length in (0..file.len()).step_by(7) {
            drop(tensor(&file[..length], &plain(), &samples()));
        }
        let half = tensor(&file[..file.len() / 2], &plain(), &samples());
        // A JPEG decoder fills what is missing with grey.
        assert!(half.is_err() || name.ends_with(".jpg"), "{name} was read although its second half is missing");
    }
}

#[test]
fn an_input_that_takes_no_picture_and_a_tensor_over_the_limit_are_refused() {
    let file = read("noise.png");
    let flat = tensor(&file, &plain(), &spec(DType::F32, &[None, Some(784)]));
    assert!(matches!(flat, Err(PictureError::Input(_))), "{flat:?}");
    let rule = InputRule::Picture(PictureRule { size: Some([8_192, 8_192]), ..PictureRule::default() });
    let large = tensor(&file, &rule, &spec(DType::F64, &[None, None, Some(3)]));
    assert!(matches!(large, Err(PictureError::LargeTensor { .. })), "{large:?}");
}

/// Returns a PNG file of black pixels, which takes few bytes whatever its size.
fn black(columns: u32, rows: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, columns, rows);
    encoder.set_color(png::ColorType::Grayscale);
    let samples = vec![0; usize::try_from(columns * rows).unwrap()];
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    file
}

#[test]
fn a_picture_with_a_long_side_takes_no_more_memory_than_any_other() {
    let square = spec(DType::U8, &[Some(224), Some(224), Some(3)]);
    for (columns, rows) in [(70_000, 1), (1, 70_000)] {
        let told = tensor(&black(columns, rows), &plain(), &square);
        assert!(matches!(told, Err(PictureError::LargePicture { .. })), "{told:?}");
    }
    for (columns, rows) in [(60_000, 1), (1, 60_000)] {
        let file = black(columns, rows);
        let wide = InputRule::Picture(PictureRule { size: Some([16, 8_192]), ..PictureRule::default() });
        let told = tensor(&file, &wide, &samples());
        assert_eq!(matches!(told, Err(PictureError::Narrow { .. })), rows > columns, "all rows with the new columns");
        for (fit, fits) in
            [(Fit::Stretch, true), (Fit::Contain, true), (Fit::ContainTopLeft, true), (Fit::Cover, false)]
        {
            let rule = InputRule::Picture(PictureRule { fit, filter: Filter::Lanczos, ..PictureRule::default() });
            match tensor(&file, &rule, &square) {
                Ok(made) => assert!(fits && made.tensor.shape() == [224, 224, 3], "{fit:?}"),
                Err(error) => assert!(!fits && matches!(error, PictureError::Narrow { .. }), "{fit:?}: {error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        which in 0_usize..8,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        rows in 1_usize..40,
        columns in 1_usize..40,
    ) {
        let names =
            ["noise.png", "noise.webp", "lossy.webp", "plain.jpg", "progressive.jpg", "noise.bmp", "cmyk.jpg", "turned-6.png"];
        let mut file = read(names[which]);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let input = spec(DType::F32, &[Some(1), Some(3), Some(rows), Some(columns)]);
        if let Ok(made) = tensor(&file, &plain(), &input) {
            prop_assert_eq!(made.tensor.shape(), [1, 3, rows, columns]);
        }
    }
}
