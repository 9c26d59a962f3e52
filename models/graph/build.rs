//! Makes Rust types of `proto/onnx.proto`, without a protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // A weight's bytes stay a slice of the file's.
        .bytes([".onnx.TensorProto.raw_data", ".onnx.AttributeProto.s", ".onnx.AttributeProto.strings"])
        // Rare, and larger than the rest of an attribute together.
        .boxed(".onnx.AttributeProto.t")
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .boxed(".onnx.AttributeProto.tp")
        .compile_fds(descriptors)?;
    Ok(())
}
