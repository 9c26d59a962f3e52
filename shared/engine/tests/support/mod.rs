//! Writes small ONNX models and finds the runtime, for the tests of this crate.
#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests may do what tests may")]

pub(crate) mod model;

use std::path::{Path, PathBuf};

use engine::{LibrarySearch, OrtEngine};
use types::{DType, NamedTensor, Tensor};

/// Opens ONNX Runtime, or says why the test is skipped. `cargo xtask test` sees to it that it is there.
pub(crate) fn runtime() -> Option<OrtEngine> {
    let developer = engine::library::developer_library().filter(|library| library.is_file());
    let named = std::env::var_os(engine::library::LIBRARY_VARIABLE).map(PathBuf::from);
    match OrtEngine::open(&LibrarySearch { configured: named.or(developer) }) {
        Ok(engine) => Some(engine),
        Err(engine::OpenError::NotFound(why)) => {
            println!("skipped: {why}");
            None
        }
        Err(error) => panic!("ONNX Runtime is there and does not open: {error:?}"),
    }
}

/// A file of the digits model in the catalogue.
pub(crate) fn digits(file: &str) -> Vec<u8> {
    let catalog = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/catalog/digits");
    std::fs::read(catalog.join(file)).unwrap()
}

/// A named tensor of these `f32`.
pub(crate) fn floats(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }
}

/// A named tensor of these bytes.
pub(crate) fn raw(name: &str, dtype: DType, shape: &[usize], data: &[u8]) -> NamedTensor {
    NamedTensor { name: name.into(), tensor: Tensor::new(dtype, shape.to_vec(), data.to_vec().into()).unwrap() }
}
