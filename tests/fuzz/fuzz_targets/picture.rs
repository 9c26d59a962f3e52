//! Fuzz target: picture files. A picture becomes a tensor of the size that was asked for, or an error.
#![no_main]

use types::preprocess::{InputRule, PictureRule};
use types::{DType, Dim, TensorSpec};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let shape = [Dim::Fixed(1), Dim::Fixed(3), Dim::Fixed(16), Dim::Fixed(16)];
    let input = TensorSpec { name: "image".to_owned(), dtype: DType::F32, shape: Some(shape.to_vec()) };
    let rule = InputRule::Picture(PictureRule::default());
    if let Ok(made) = preprocess::tensor(data, &rule, &input) {
        assert_eq!(made.tensor.shape(), [1, 3, 16, 16]);
    }
});
