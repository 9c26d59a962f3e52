//! The messages of the ONNX format, generated from `proto/onnx.proto`.

#![expect(
    missing_docs,
    clippy::all,
    reason = "generated: the meaning of each field is in the ONNX specification (docs/IR.md of the onnx project)"
)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
